"""The figure of `rollout_vs_forward`."""

from typing import TYPE_CHECKING

import numpy as np

from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INTEGRATORS = {"Tsit5": "-", "Heun": "--", "Kvaerno5": ":"}
_PLANNED = "solve_steady_states, plan reused"
_SOLVERS = {"Rollout": "v", "Anderson": "^", "RootFind": "<", "ActiveSet": ">", _PLANNED: "*"}
_EXACT = 1e-5  # percent; smaller errors are drawn there


@house_style
def draw(record: dict) -> "Figure":
    """Above, error against time for each size; below, single calls, shares of the products, and break-even."""
    rows = record["rows"]
    most = max(row["num_threads"] for row in rows)
    rows = [row for row in rows if row["num_threads"] == most]
    batch = max((row["batch_size"] for row in rows if row["kind"] == "rollout"), default=None)
    sizes = sorted({row["state_size"] for row in rows if row["kind"] == "rollout"})
    columns = max(3, len(sizes))
    figure, axes = new_figure(columns, num_rows=2, height=5.4)
    for axis, size in zip(axes, sizes):
        _plane(axis, [row for row in rows if row["state_size"] == size and row["batch_size"] == batch])
        axis.set_title(f"{size} units, batches of {batch}")
    for axis in axes[len(sizes) : columns]:
        axis.set_axis_off()
    handles, labels = _shared_legend(axes[: len(sizes)])
    figure.legend(handles, labels, loc="outside upper center", ncols=5, handlelength=2)
    _latencies(axes[columns], [row for row in rows if row["kind"] == "latency"])
    _shares(axes[columns + 1], [row for row in rows if row["kind"] == "pass" and "gemm_share" in row])
    _break_even(axes[columns + 2], [row for row in rows if row["kind"] == "break-even" and row["queries"]])
    for axis in axes[columns + 3 :]:
        axis.set_axis_off()
    return figure


def _plane(axis: "Axes", rows: list[dict]) -> None:
    def line(chosen: list[dict], **style: object) -> None:
        points = sorted((row["microseconds"][0], max(_EXACT, 100 * row["nrmse"])) for row in chosen)
        if points:
            axis.plot(*zip(*points), markersize=style.pop("markersize", 3), **style)

    for name, style in _INTEGRATORS.items():
        chosen = [row for row in rows if row["kind"] == "rollout" and row["method"] == name]
        # Those with other steps than a tenth of the tolerance stand apart.
        rest = [row for row in chosen if row["step_tolerance"] > 0.11 * row["tolerance"]]
        line(rest, linestyle="", marker="o", markerfacecolor="white", color=COLORS["recurrent"])
        usual = [row for row in chosen if row not in rest]
        line(usual, linestyle=style, marker="o", color=COLORS["recurrent"], label=f"rollout, {name}")
    for name, marker in _SOLVERS.items():
        chosen = [row for row in rows if row["kind"] == "solver" and row["method"] == name]
        line(chosen, linestyle="", marker=marker, markersize=5, color=COLORS["third"], label=name.split(", ")[-1])
    passes = [row for row in rows if row["kind"] == "pass"]
    trained = [row for row in passes if row["is_trained"]]
    orange = COLORS["feed-forward"]
    line([row for row in trained if not row["num_sweeps"]], marker="s", color=orange, label="two layers, by width")
    line([row for row in trained if row["num_sweeps"]], marker="D", color=orange, linestyle="--", label="with sweeps")
    runtimes = [row for row in rows if row["kind"] == "runtime" and row["is_trained"]]
    line(runtimes, linestyle="", marker="x", markersize=5, color=COLORS["fourth"], label="onnxruntime")
    untrained = [row["microseconds"][0] for row in passes if not row["is_trained"]]
    if untrained:
        axis.axvspan(min(untrained), max(untrained), color=orange, alpha=0.2, linewidth=0)
        middle = np.sqrt(min(untrained) * max(untrained))
        text = "passes, untrained: time alone"
        axis.text(middle, 0.03, text, color=orange, fontsize=7, rotation=90, ha="center", va="center")
    axis.set(xscale="log", yscale="log", xlabel="microseconds a stimulus", ylabel="error (NRMSE, %)")
    axis.yaxis.set_major_formatter("{x:g}")


def _shared_legend(axes: list["Axes"]) -> tuple[list, list]:
    found = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _latencies(axis: "Axes", rows: list[dict]) -> None:
    """From p50 to p99, over stimuli that differ and over copies of one; of the size in the middle."""
    if not rows:
        return axis.set_axis_off()
    sizes = sorted({row["state_size"] for row in rows})
    size = sizes[len(sizes) // 2]
    rows = [row for row in rows if row["state_size"] == size]
    place = np.arange(len(rows))[::-1]
    kinds = [(0.14, "", "feed-forward", "different stimuli"), (-0.14, "repeated_", "recurrent", "one, repeated")]
    for shift, prefix, color, label in kinds:
        low, high = ([row[f"{prefix}{name}"] for row in rows] for name in ("median", "tail"))
        axis.hlines(place + shift, low, high, color=COLORS[color], linewidth=2.5, label=label)
        axis.plot(low, place + shift, "o", markersize=3, color=COLORS[color])
    axis.set_yticks(place, [_short(row) for row in rows])
    axis.set_ylim(-0.6, len(rows) + 0.4)
    axis.set(xscale="log", xlabel="microseconds a call, p50 to p99", title=f"one stimulus a call, {size} units")
    axis.legend(loc="upper right", borderaxespad=0)


def _short(row: dict) -> str:
    if row["of"] == "pass":
        return f"pass, {row['num_sweeps']} sweeps" if row["num_sweeps"] else "pass"
    return {"rollout": "rollout", "solver": "plan reused"}.get(row["of"], row["method"].replace("onnxruntime", "onnx"))


def _shares(axis: "Axes", rows: list[dict]) -> None:
    """How much of a pass its two products take alone; above 1, the pass in tiles is faster than these in one."""
    colors = dict(zip(sorted({row["state_size"] for row in rows}), ("fourth", "third", "recurrent", "feed-forward")))
    for size, color in colors.items():
        points = {}
        for row in rows:
            if row["state_size"] == size and row["width"] == 4 * size:
                points[row["batch_size"]] = row["gemm_share"]
        axis.plot(*zip(*sorted(points.items())), marker="o", markersize=3, color=COLORS[color], label=f"{size} units")
    axis.axhline(1, color="black", linewidth=0.6)
    batches = sorted({row["batch_size"] for row in rows})
    axis.set_xscale("log")
    axis.set_xticks(batches, [str(each) for each in batches])
    axis.minorticks_off()
    axis.set(xlabel="stimuli in a batch", ylabel="products alone / pass", title="share of the matrix products")
    axis.set_ylim(bottom=0)
    axis.legend(loc="best")


def _break_even(axis: "Axes", rows: list[dict]) -> None:
    """Queries after which a pass has paid for its making, against its error."""
    if not rows:
        return axis.set_axis_off()
    for size, color in zip(sorted({row["state_size"] for row in rows}), ("fourth", "third", "recurrent")):
        for has_sweeps, marker in [(False, "s"), (True, "D")]:
            chosen = [row for row in rows if row["state_size"] == size and bool(row["num_sweeps"]) == has_sweeps]
            label = f"{size} units, {'with sweeps' if has_sweeps else 'two layers'}"
            points = [(100 * row["nrmse"], row["queries"]) for row in chosen]
            if points:
                axis.plot(*zip(*points), marker, markersize=3.5, color=COLORS[color], label=label)
    axis.set(xscale="log", yscale="log", xlabel="error (NRMSE, %)", ylabel="queries", title="break-even")
    low, top = axis.get_ylim()
    axis.set_ylim(low / 3, top * 100)  # room for the legend
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.yaxis.set_minor_formatter("")
    axis.legend(loc="best")
