"""What `honest_failures` prints: its marks, a table by family, and the wrong answers."""

from collections.abc import Iterator

from benchmarks.parts.honest_answers import ENGINE
from benchmarks.parts.honest_cases import COMPETITION, MISLEADING
from benchmarks.parts.honest_verdicts import AT_REST, BASIN, FALSE, MISSED, SADDLE, UNCALLED
from experiments._script import table


def _summary(rows: list[dict]) -> dict:
    """Counts over rows."""
    kinds: dict[str, int] = {}
    for row in rows:
        for kind, counts in row["confusion"].items():
            kinds[kind] = kinds.get(kind, 0) + sum(counts.values())
    wrong = [violation["what"] for row in rows for violation in row["violations"]]
    return {
        "kinds": kinds,
        "moving": sum(kinds.get(kind, 0) for kind in ("oscillating", "diverging")),
        "at rest": sum(kinds.get(kind, 0) for kind in AT_REST),
        **{what: wrong.count(what) for what in (FALSE, SADDLE, MISSED, BASIN, UNCALLED)},
        "num_periodic": sum(row["num_periodic"] for row in rows),
        "num_right_period": sum(row["num_right_period"] for row in rows),
        "num_rounded": sum(row.get("num_rounded", 0) for row in rows),
    }


def marks(rows: list[dict]) -> Iterator[dict]:
    """For each dtype and mode: the required and the measured value, and whether the mark is met."""
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        of_this = [row for row in rows if row["dtype"] == dtype]
        summary = _summary(of_this)
        plain = _summary([row for row in of_this if row["family"] not in MISLEADING])

        def mark(what, required, received, is_met, dtype=dtype):
            return {"dtype": dtype, "what": what, "mark": required, "received": received, "is_met": bool(is_met)}

        def percent(count, total):
            return f"{100 * count / total:.2f} % ({count} of {total})" if total else "none to judge"

        steady, oscillating = (summary["kinds"].get(kind, 0) for kind in ("steady", "oscillating"))
        yield mark(
            "never at rest, called converged", "0", f"{summary[FALSE]} of {summary['moving']}", summary[FALSE] == 0
        )
        yield mark("unstable points called converged", "0", f"{summary[SADDLE]} of {summary['at rest']}",
                   summary[SADDLE] == 0)  # fmt: skip
        yield mark("converged elsewhere than the dynamics", "0", percent(summary[BASIN], steady), summary[BASIN] == 0)
        # Of all families: where a saddle delays the dynamics, a state that is never reached is undecided as well.
        yield mark("truly stable, left undecided", "<= 1 %", percent(summary[MISSED], steady),
                   summary[MISSED] <= 0.01 * steady)  # fmt: skip
        if ENGINE in dtype:  # which neither decides every sample nor tells how undecided ones move
            continue
        missed, steady = plain[MISSED], plain["kinds"].get("steady", 0)
        yield mark("steady states not found, where no saddle misleads", "<= .1 %", percent(missed, steady),
                   missed <= 1e-3 * steady)  # fmt: skip
        called, right = oscillating - summary[UNCALLED] - _false_cycles(rows, dtype), summary["num_right_period"]
        yield mark("limit cycles and chaos called oscillating", ">= 99 %", percent(called, oscillating),
                   called >= 0.99 * oscillating)  # fmt: skip
        yield mark("periods within 2 %, of limit cycles", "(>= 99 %)", percent(right, summary["num_periodic"]),
                   right >= 0.99 * summary["num_periodic"])  # fmt: skip


def _false_cycles(rows: list[dict], dtype: str) -> int:
    return sum(row["confusion"].get("oscillating", {}).get("converged", 0) for row in rows if row["dtype"] == dtype)


def describe(rows: list[dict]) -> str:
    """A table by family, the marks, and the wrong answers."""
    shown = ("steady", "late", "tie", "unstable", "oscillating", "diverging", "slow")
    header = ["family", "dtype", "samples", *shown, "false", "saddle", "missed", "elsewhere", "uncalled"]
    header += ["right periods", "other end of a tie"]
    lines = []
    for row in rows:
        summary = _summary([row])
        kinds = [summary["kinds"].get(kind, 0) for kind in shown]
        wrong = [summary[what] for what in (FALSE, SADDLE, MISSED, BASIN, UNCALLED)]
        periods = f"{row['num_right_period']} of {row['num_periodic']}"
        lines.append([row["family"], row["dtype"], row["num_samples"], *kinds, *wrong, periods, summary["num_rounded"]])
    judged = [[f"{mark['dtype']}: {mark['what']}", mark["mark"], mark["received"],
               "met" if mark["is_met"] else "NOT MET"] for mark in marks(rows)]  # fmt: skip
    parts = [table(header, lines), table(["mark", "required", "measured", ""], judged), _list_violations(rows)]
    return "\n\n".join(parts)


def summarize(rows: list[dict]) -> str:
    """The table that the README shows."""
    judged = list(marks(rows))
    ways = list(dict.fromkeys(mark["dtype"] for mark in judged))
    whats = list(dict.fromkeys(mark["what"] for mark in judged))
    received = {(mark["what"], mark["dtype"]): mark["received"] for mark in judged}
    return table(["", *ways], [[what, *(received.get((what, way), "-") for way in ways)] for what in whats])


def _list_violations(rows: list[dict], num_shown: int = 40) -> str:
    violations = [violation for row in rows for violation in row["violations"]]
    if not violations:
        return "No wrong answers."
    order = [FALSE, SADDLE, BASIN, MISSED, "another period", UNCALLED]
    violations.sort(key=lambda violation: order.index(violation["what"]))
    lines = [
        [
            violation["what"],
            violation["family"],
            violation["seed"],
            violation["sample"],
            violation["dtype"],
            violation["truth"],
            violation["status"],
        ]
        + ["-" if violation[name] is None else f"{violation[name]:.2g}" for name in ("error", "residual", "leading")]
        for violation in violations[:num_shown]
    ]
    header = ["wrong answer", "family", "seed", "sample", "dtype", "truth", "status", "error", "residual", "leading"]
    more = len(violations) - num_shown
    rest = f"\n\n{more} more are in the record." if more > 0 else ""
    again = "python -m benchmarks.honest_failures --families FAMILY --seed SEED --num-networks 1"
    amounts = {"num-competing" if violation["family"] == COMPETITION else "num-stimuli": violation["num_stimuli"]
               for violation in violations}  # fmt: skip
    again += "".join(f" --{name} {amount}" for name, amount in amounts.items())
    return f"Make one again: `{again}`\n\n{table(header, lines)}{rest}"
