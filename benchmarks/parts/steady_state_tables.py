"""The tables of `steady_states`, computed from its rows without JAX."""

import math

from benchmarks.parts.steady_state_marks import ENGINE_PLANNED, PLANNED, marks
from experiments._script import table


def describe(rows: list[dict]) -> str:
    """A table for each problem, size and batch, and one of the marks."""
    cells = {}
    for row in rows:
        cells.setdefault((row["problem"], row["state_size"], row["batch_size"]), []).append(row)
    parts = []
    for (problem, state_size, batch_size), group in cells.items():
        title = f"{problem}, N = {state_size}, B = {batch_size}; a GEMM of the batch: "
        parts.append(f"{title}{group[0]['gemm_microseconds']:.3f} us a sample\n\n{_table(group, batch_size)}")
    parts.append(f"Marks\n\n{_marks_table(marks(rows))}")
    return "\n\n".join(parts)


def summarize(rows: list[dict]) -> str:
    """The table that the README shows: one line a problem, with the plan made before."""
    lines = []
    for row in rows:
        if row["method"] != PLANNED:
            continue
        place = {name: row[name] for name in ("problem", "state_size", "batch_size")}
        (rollout,) = (
            candidate for candidate in rows if candidate["kind"] == "rollout" and place.items() <= candidate.items()
        )
        lines.append(
            [
                f"{row['problem']}, {row['state_size']} units, batches of {row['batch_size']}",
                f"{rollout['microseconds'][0]:.0f}",
                f"{row['microseconds'][0]:.1f}",
                f"{row['ratio_to_rollout']:.1f}",
                f"{row['ratio_to_best']:.2f}, {row['best_competitor']}",
                f"{100 * row['share_converged']:.2f} %",
                "-" if row["agreement"] is None else f"{100 * row['agreement']:.1f} %",
            ]
        )
    header = ["", "rollout, us", "ours, us", "ratio", "ratio to the best competitor", "converged", "agrees"]
    return table(header, lines)


def _table(rows: list[dict], batch_size: int) -> str:
    header = [
        "method",
        "us a solve",
        "quartiles",
        "rounds",
        "compile s",
        "converged",
        "agrees",
        "to rollout",
        "to best",
        "times the loop",
    ]
    lines = []
    for row in sorted(rows, key=lambda row: row.get("microseconds", [math.inf])[0]):
        if row["kind"] == "not run":
            reason = row.get("reason", "not installed")
            lines.append([f"{row['method']}: {reason}, not run", *"-" * (len(header) - 1)])
            continue
        few = "" if row["num_samples"] == batch_size else f" ({row['num_samples']} samples)"
        median, lower, upper = row["microseconds"]
        lines.append(
            [
                f"{'**' if row['kind'] == 'ours' else ''}{row['method']}{'**' if row['kind'] == 'ours' else ''}{few}",
                f"{median:.2f}",
                f"{lower:.2f} - {upper:.2f}",
                row["num_rounds"],
                f"{row['compile_seconds']:.1f}",
                f"{100 * row['share_converged']:.2f} %",
                "-" if row["agreement"] is None else f"{100 * row['agreement']:.1f} %",
                f"{row['ratio_to_rollout']:.1f}",
                f"{row['ratio_to_best']:.2f}",
                "-" if row.get("times_the_loop") is None else f"{row['times_the_loop']:.2f}",
            ]
        )
    notes = []
    for row in rows:
        if row["kind"] == "ours":
            counts = ", ".join(f"{count} {name}" for name, count in row["status_counts"].items() if count)
            share = row.get("gemm_share")
            floor = "" if share is None else f"; {100 * share:.0f} % of the GEMM rate"
            notes.append(f"{row['method']}: {counts}; {row['mean_steps']:.1f} steps{floor}")
        elif row["kind"] != "not run":
            chosen = ", ".join(f"{name} {value}" for name, value in row["setting"].items())
            notes.append(f"{row['method']}: {chosen}")
    return "\n".join([table(header, lines), "", *(f"* {note}" for note in notes)])


def _marks_table(found: list[dict]) -> str:
    def number(value):
        return "-" if value is None else f"{value:.4g}"

    lines = [
        [
            f"{mark['problem']} {mark['state_size']} x {mark['batch_size']}: {mark['what']}",
            f"{mark['bound']} {number(mark['mark'])}",
            number(mark["received"]),
            number(mark["without_plan"]),
            number(mark["engine"]),
            "met" if mark["is_met"] else "NOT MET",
        ]
        for mark in found
    ]
    return table(["mark", "required", "measured", "without a plan", ENGINE_PLANNED, ""], lines)
