"""Marks of a benchmark: the required and the measured value, and whether the mark is met."""

from collections.abc import Sequence

from experiments._script import table

_VERDICTS = {True: "met", False: "NOT MET", None: "no mark"}


def marks_table(found: Sequence[dict]) -> str:
    """Marks as a table; values without a mark are shown as such.

    Args:
        found: each with `what`, `mark`, `received` and `is_met`; its origin (`benchmark`, `problem`, `target`,
            `state_size`, `batch_size`); and, for a mark that is a number, its `bound`, by default "at least".
    """
    lines = [[_what(mark), _required(mark), _shown(mark["received"]), _VERDICTS[mark["is_met"]]] for mark in found]
    return table(["mark", "required", "measured", ""], lines)


def _what(mark: dict) -> str:
    where = [str(mark[name]) for name in ("benchmark", "problem", "target") if name in mark]
    where += [f"{symbol} = {mark[name]}" for symbol, name in (("N", "state_size"), ("B", "batch_size")) if name in mark]
    return ": ".join([*[", ".join(where)] * bool(where), mark["what"]])


def _required(mark: dict) -> str:
    required = mark["mark"]
    is_number = isinstance(required, int | float)
    return f"{mark.get('bound', 'at least')} {_shown(required)}" if is_number else _shown(required)


def _shown(value: float | str | None) -> str:
    if isinstance(value, int | float):
        return f"{value:.3g}"
    return "-" if value is None else value
