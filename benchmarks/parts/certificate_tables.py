"""The tables of `certificates`, computed from its rows."""

from benchmarks.parts.certificate_marks import marks
from benchmarks.parts.extended_precision import POLISHED
from benchmarks.parts.marks import marks_table
from experiments._script import table


def describe(rows: list[dict]) -> str:
    """Tables of what was verified, of the bounds and of the answers, and of the marks."""
    verified, bounds, served = (
        [row for row in rows if row["what"] == kind] for kind in ("verified", "bounds", "served")
    )

    def pair(values):
        return "-" if values is None else f"{values[0]:.3g}, {values[1]:.3g}"

    names = ("predictions", "certified", "violations", "exact", "wrongly_exact")
    tables = [
        table(
            ["network, precision", *(name.replace("_", " ") for name in names), "seconds"],
            [
                [f"{row['target']}, {row['precision']}", *(f"{row[name]:,}" for name in names), f"{row['seconds']:.0f}"]
                for row in verified
            ],
        ),
        table(
            [
                "network, approximator", "NRMSE", "bound everywhere / error (50, 95 %)", "best bound / error",
                "estimate / error", "bounded", "exact", "exact after a step",
            ],
            [
                [
                    f"{row['target']}, {row['approximator']} ({row['width']}, {row['num_sweeps']} sweeps)",
                    f"{100 * row['nrmse']:.2g} %",
                    pair(row["everywhere_over_error"]),
                    pair(row["bound_over_error"]),
                    pair(row["estimate_over_error"]),
                    *_percents(row, "share_bounded", "share_exact", "share_exact_after_step"),
                ]
                for row in bounds
            ],
        ),
        table(
            [
                "network, approximator, tolerance", "pass", "refined", "solved", "proved within", "truly within",
                "flagged", "us an answer", "us a pass", "us a certified pass", "us a solve", "times faster",
                "steps cold, warm",
            ],
            [
                [
                    f"{row['target']}, {row['approximator']}, {row['tolerance']:g}",
                    *(f"{100 * share:.1f} %" for share in row["shares"].values()),
                    *_percents(row, "share_proved_within", "share_truly_within", "share_flagged"),
                    f"{row['microseconds'][0]:.2f}",
                    f"{row['pass_microseconds']:.2f}",
                    f"{row['certified_pass_microseconds']:.2f}",
                    f"{row['solver_microseconds'][0]:.2f}",
                    f"{row['ratio_to_solver']:.2f}",
                    f"{row['cold_steps']:.1f}, " + ("-" if row["warm_steps"] is None else f"{row['warm_steps']:.1f}"),
                ]
                for row in served
            ],
        ),
    ]  # fmt: skip
    left_out = {row["target"]: row["left_out"] for row in rows if row["what"] == "stimuli" and row["left_out"]}
    note = f"Stimuli left out, as no steady state was found to {POLISHED:g}: {left_out or 'none'}."
    return "\n\n".join([*tables, note, marks_table(marks(rows))])


def _percents(row: dict, *names: str) -> list[str]:
    return [f"{100 * row[name]:.1f} %" for name in names]
