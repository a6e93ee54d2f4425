"""The tables and the marks of `rollout_vs_forward`, computed from its rows without JAX."""

from collections.abc import Iterable, Iterator

from benchmarks.parts.marks import marks_table
from experiments._script import table

_WIDTH = 4  # hidden units of the pass with marks, in multiples of the number of units
_GEMM_MARKS = {(128, 256): 0.9, (512, 256): 0.9, (128, 4096): 0.85, (512, 4096): 0.85}  # (units, batch) -> at least
_ROLLOUT_MARKS = {128: 100, 512: 60}  # at a batch of 256
_RUNTIME_MARKS = {128: 2.0}  # times onnxruntime's time for one stimulus, at most
_SPREAD_MARK = 1.05

_PLACE = ("state_size", "batch_size", "num_threads")


def describe(rows: list[dict]) -> str:
    """A table for each size, batch and number of threads, then latencies, break-even and marks."""
    timed = [row for row in rows if row["kind"] not in ("latency", "break-even")]
    parts = [f"{_title(place)}\n\n{_plane(group)}" for place, group in _groups(timed)]
    for kind, title, make in [
        ("latency", "One stimulus a call", _latencies),
        ("break-even", "Queries after which a pass has paid for its making", _break_even),
    ]:
        chosen = [row for row in rows if row["kind"] == kind]
        if chosen:
            parts.append(f"{title}\n\n{make(chosen)}")
    judged = marks(rows)
    return "\n\n".join([*parts, f"Marks\n\n{marks_table(judged)}"] if judged else parts)


def summarize(rows: list[dict]) -> str:
    """The table that `docs/evidence.md` shows: the pass with marks and the best with sweeps, and what they replace."""
    most = max(row["num_threads"] for row in rows)
    lines = []
    for (state_size, batch_size, num_threads), group in _groups(rows):
        solved = {kind: [] for kind in ("rollout", "solver")}
        for row in group:
            if row["kind"] in solved and row["share_converged"] == 1:
                solved[row["kind"]].append((row["microseconds"][0], row["method"]))
        rollouts, solvers = solved.values()
        if num_threads < most or not rollouts or not solvers:
            continue
        (rollout, _), (solver, best) = min(rollouts), min(solvers)
        passes = [row for row in group if row["kind"] == "pass"]
        two_layers = [row for row in passes if not row["num_sweeps"] and row["width"] == _WIDTH * state_size]
        swept = sorted((row for row in passes if row["num_sweeps"]), key=lambda row: row["num_sweeps"])
        for row in (*two_layers, *swept[-1:]):
            microseconds = row["microseconds"][0]
            lines.append(
                [
                    f"{state_size} units, batches of {batch_size}: {name_of(row)}",
                    _percent(row["nrmse"]) if row["is_trained"] else "-",
                    f"{microseconds:.3g} us",
                    f"{rollout:.3g} us",
                    f"{rollout / microseconds:.0f} x",
                    f"{solver:.3g} us, {best}",
                    f"{solver / microseconds:.1f} x",
                ]
            )
    header = ["", "error (NRMSE)", "pass", "fastest rollout", "ratio", "our fastest solver", "ratio"]
    return table(header, lines)


def name_of(row: dict) -> str:
    """The name of a row: a method, and its options."""
    if "width" in row:
        units = f", H = {row['width'] / row['state_size']:g} N" if row["width"] else ""
        sweeps = f", {row['num_sweeps']} sweeps" if row["num_sweeps"] else ""
        untrained = ", untrained" if row.get("is_trained") is False else ""
        return f"{row['method']}{units}{sweeps}{untrained}"
    if "step_tolerance" in row:
        return f"{row['method']}, stops at {row['tolerance']:.0e}, steps {row['step_tolerance']:.0e}"
    return row["method"]


def _groups(rows: list[dict]) -> Iterable[tuple[tuple, list[dict]]]:
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in _PLACE), []).append(row)
    return groups.items()


def _title(place: tuple) -> str:
    state_size, batch_size, num_threads = place
    return f"N = {state_size}, B = {batch_size}, {num_threads} thread{'s' if num_threads > 1 else ''}"


def _plane(rows: list[dict]) -> str:
    header = ["method", "us a stimulus", "quartiles", "rounds", "error (NRMSE)", "worst unit", "1 in 20 above",
              "converged", "steps", "GEMM share", "compile s"]  # fmt: skip
    lines = []
    for row in sorted(rows, key=lambda row: row.get("microseconds", [float("inf")])[0]):
        if row["kind"] == "not run":
            lines.append([f"{name_of(row)}: not run, {row['reason']}", *"-" * (len(header) - 1)])
            continue
        few = "" if row["num_samples"] == row["batch_size"] else f" ({row['num_samples']} samples)"
        median, lower, upper = row["microseconds"]
        steps = row.get("num_steps")
        lines.append(
            [
                name_of(row) + few,
                f"{median:.3g}",
                f"{lower:.3g} - {upper:.3g}",
                row["num_rounds"],
                *(_percent(row.get(name)) for name in ("nrmse", "worst_unit_nrmse", "percentile_95")),
                _percent(row.get("share_converged")),
                "-" if steps is None else f"{steps[1]} ({steps[0]} - {steps[2]})",
                _percent(row.get("gemm_share")),
                f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "-",
            ]
        )
    return table(header, lines)


def _latencies(rows: list[dict]) -> str:
    header = ["method", "N", "threads", "p50", "p99", "p50, repeats", "p99, repeats", "spread", "loops that depend"]
    lines = [
        [
            name_of(row),
            row["state_size"],
            row["num_threads"],
            *(f"{row[name]:.1f} us" for name in ("median", "tail", "repeated_median", "repeated_tail")),
            f"{row['spread']:.2f}",
            row.get("num_open_loops", "-"),
        ]
        for row in rows
    ]
    return table(header, lines)


def _break_even(rows: list[dict]) -> str:
    header = [
        "method",
        "N",
        "error (NRMSE)",
        "data s",
        "training s",
        "us",
        "fastest solver",
        "its us",
        "queries",
    ]
    lines = [
        [
            name_of(row),
            row["state_size"],
            _percent(row["nrmse"]),
            f"{row['data_seconds']:.1f}",
            f"{row['training_seconds']:.1f}",
            f"{row['pass_microseconds'][0]:.3g}",
            row["solver"],
            f"{row['solver_microseconds'][0]:.3g}",
            "never" if row["queries"] is None else f"{row['queries']:.2g}",
        ]
        for row in rows
    ]
    return table(header, lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"


# --- marks ------------------------------------------------------------------------------------------------------------


def marks(rows: list[dict]) -> list[dict]:
    """Required and measured values, and whether marks are met; with all threads, for two layers of 4 N units."""
    num_threads = max((row["num_threads"] for row in rows), default=0)
    rows = [row for row in rows if row["num_threads"] == num_threads]
    entries = []
    for (state_size, batch_size, _), group in _groups(rows):
        place = {"state_size": state_size, "batch_size": batch_size}
        entries += [place | _mark(*mark) for mark in _marks_of(state_size, batch_size, group)]
    return entries


def _mark(what: str, bound: str, mark: float | None, received: float | None) -> dict:
    is_met = None
    if mark is not None:
        is_met = received is not None and (received >= mark if bound == "at least" else received <= mark)
    return {"what": what, "bound": bound, "mark": mark, "received": received, "is_met": is_met}


def _marks_of(state_size: int, batch_size: int, rows: list[dict]) -> Iterator[tuple]:
    def times(kind: str, **wanted: object) -> list[tuple[float, dict]]:
        chosen = [row for row in rows if row["kind"] == kind and wanted.items() <= row.items()]
        return sorted(((row["microseconds"][0], row) for row in chosen), key=lambda timing: timing[0])

    passes = times("pass", width=_WIDTH * state_size, num_sweeps=0)
    if passes:
        microseconds, marked = passes[0]
        if (state_size, batch_size) in _GEMM_MARKS:
            yield "share of the GEMM pair", "at least", _GEMM_MARKS[state_size, batch_size], marked.get("gemm_share")
        runtimes = times("runtime", method="onnxruntime")
        if runtimes and batch_size == 1:
            mark = _RUNTIME_MARKS.get(state_size)
            yield "times onnxruntime's time", "at most", mark, microseconds / runtimes[0][0]
        rollouts = [timing for timing in times("rollout") if timing[1]["share_converged"] == 1]
        if rollouts:
            mark = _ROLLOUT_MARKS.get(state_size) if batch_size == 256 else None
            what = f"ratio to the fastest rollout that converges ({rollouts[0][1]['method']})"
            yield what, "at least", mark, rollouts[0][0] / microseconds
        solvers = [timing for timing in times("solver") if timing[1]["share_converged"] == 1]
        if solvers:
            what = f"ratio to our own fastest solver ({solvers[0][1]['method']})"
            yield what, "at least", None, solvers[0][0] / microseconds
    for row in rows:
        if row["kind"] == "latency" and row["of"] == "pass":
            yield f"{name_of(row)}: loops that depend on the stimulus", "at most", 0, row["num_open_loops"]
            yield f"{name_of(row)}: p99/p50 over stimuli, over that of repeats", "at most", _SPREAD_MARK, row["spread"]
