"""Compare two records of a benchmark: `python -m benchmarks.compare A.json B.json`.

Rows that time the same thing are matched, and the ratio of their medians, B over A, is printed: below 1, B is faster.
The interval goes from B's lower quartile over A's upper one to B's upper over A's lower: where 1 lies outside, the
middle halves of the two sets of rounds do not overlap, and the row is marked. That is wider than the uncertainty of a
median, on purpose: rounds of one run are not independent, and two runs are never on the same quiet machine.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from experiments._script import table

# The fields that identify a row; all others are measurements.
_KNOWN_BY = (
    "axis", "value", "problem", "cell", "route", "state_size", "batch_size", "kind", "of", "method", "width",
    "num_sweeps", "is_trained", "tolerance", "step_tolerance", "num_samples", "num_threads", "num_devices",
)  # fmt: skip
_TIME = "microseconds"


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare the timings of two records."""

    before: Annotated[Path, tyro.conf.Positional]
    """The record A, to compare with."""
    after: Annotated[Path, tyro.conf.Positional]
    """The record B."""


def compare(before: dict, after: dict) -> str:
    """What differs between two runs, and the ratio for each timing that both have.

    Raises:
        ValueError: if the records are of different benchmarks, or have no timing in common.
    """
    if before["name"] != after["name"]:
        msg = f"The records are of different benchmarks. Expected {before['name']}, got {after['name']}."
        raise ValueError(msg)
    old, new = _timings(before["rows"]), _timings(after["rows"])
    shared = [key for key in old if key in new]
    if not shared:
        msg = f"The records have no timing in common. Expected some rows alike, got {len(old)} and {len(new)} others."
        raise ValueError(msg)
    lines, ratios = [], []
    for key in shared:
        ratio, interval = _ratio(old[key], new[key])
        ratios.append(ratio)
        is_apart = interval is not None and not interval[0] <= 1 <= interval[1]
        verdict = ("faster" if ratio < 1 else "slower") if is_apart else ""
        shown = "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
        lines.append(
            [_label(key), f"{_median(old[key]):.3g}", f"{_median(new[key]):.3g}", f"{ratio:.2f}", shown, verdict]
        )
    header = ["timing", "A, us", "B, us", "B / A", "interval", ""]
    mean = np.exp(np.mean(np.log(ratios)))
    left_out = f"{len(old) - len(shared)} only in A, {len(new) - len(shared)} only in B"
    summary = f"{len(shared)} timings in both, {left_out}. Geometric mean of B / A: {mean:.3f}."
    return "\n\n".join([_differences(before, after), table(header, lines), summary])


def _timings(rows: list[dict]) -> dict[tuple, float | list[float]]:
    """The time of each row that has one, by the fields that identify the row.

    Raises:
        ValueError: if two rows have the same identifying fields, so that one would hide the other.
    """
    timings = {}
    for row in rows:
        if row.get(_TIME) is None:
            continue
        key = tuple((name, row[name]) for name in _KNOWN_BY if name in row)
        if key in timings:
            msg = f"Two rows of a record are the same. Expected one with {dict(key)}, got two."
            raise ValueError(msg)
        timings[key] = row[_TIME]
    return timings


def _median(time: float | list[float]) -> float:
    return time[0] if isinstance(time, list) else time


def _ratio(old: float | list[float], new: float | list[float]) -> tuple[float, tuple[float, float] | None]:
    """The ratio of medians, and its interval where both have quartiles."""
    ratio = _median(new) / _median(old)
    if not (isinstance(old, list) and isinstance(new, list)):
        return ratio, None
    (_, old_lower, old_upper), (_, new_lower, new_upper) = old, new
    return ratio, (new_lower / old_upper, new_upper / old_lower)


def _label(key: tuple) -> str:
    return ", ".join(f"{value}" if name in ("method", "kind", "problem") else f"{name} {value}" for name, value in key)


def _differences(before: dict, after: dict) -> str:
    """The settings and the environment entries that differ."""
    lines = []
    for part in ("environment", "config"):
        old, new = before[part], after[part]
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                lines.append([f"{part}: {name}", old.get(name, "-"), new.get(name, "-")])
    return table(["what differs", "A", "B"], lines) if lines else "Same settings, same surroundings, same commit."


def main() -> None:
    """Read two records and print how they compare."""
    options = tyro.cli(Options, prog="python -m benchmarks.compare")
    records = [json.loads(path.read_text()) for path in (options.before, options.after)]
    try:
        print(compare(*records))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
