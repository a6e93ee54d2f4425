"""The figure of `rollout_vs_forward`."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.drawings._axes import lettered
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INTEGRATORS = {"Tsit5": ("-", "left"), "Heun": ("--", "right"), "Kvaerno5": (":", "right")}
_PLANNED = "solve_steady_states, plan reused"
_SOLVERS = {
    "Rollout": ("v", "right"),
    "Anderson": ("^", "left"),
    "RootFind": ("<", "over"),
    "ActiveSet": (">", "below"),
    _PLANNED: ("*", "beneath"),
}
# Where a name stands beside its point: the shift, in points, and the alignments.
_SIDES = {
    "right": ((5, 0), {"ha": "left", "va": "center"}),
    "left": ((-5, 0), {"ha": "right", "va": "center"}),
    "above": ((0, 9), {"ha": "left", "va": "center"}),
    "over": ((0, 4), {"ha": "center", "va": "bottom"}),
    "beneath": ((6, -4), {"ha": "right", "va": "top"}),
    "below": ((0, -5), {"ha": "center", "va": "top"}),
}
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
    figure, axes = new_figure(columns, num_rows=2, height=5.6)
    for axis, size in zip(axes, sizes):
        chosen = [row for row in rows if row["state_size"] == size and row["batch_size"] == batch]
        _plane(axis, chosen, first=axis is axes[0])
        axis.set_title(f"{size} units, batches of {batch}")
    for axis in axes[len(sizes) : columns]:
        axis.set_axis_off()
    _latencies(axes[columns], [row for row in rows if row["kind"] == "latency"])
    _shares(axes[columns + 1], [row for row in rows if row["kind"] == "pass" and "gemm_share" in row])
    _break_even(axes[columns + 2], [row for row in rows if row["kind"] == "break-even" and row["queries"]])
    for axis in axes[columns + 3 :]:
        axis.set_axis_off()
    note = (
        "a-c: medians with quartiles; open circles: larger steps; crosses: onnxruntime. "
        "e: above 1, tiles are faster than one product."
    )
    lettered(figure, [axis for axis in axes if axis.axison], note)
    return figure


def _plane(axis: "Axes", rows: list[dict], *, first: bool) -> None:
    """Error against time, each kind named beside its points."""

    def points(chosen: list[dict], name: str = "", index: int = 0, at: str = "right", **style: object) -> None:
        chosen = sorted(chosen, key=lambda row: row["microseconds"][0])
        if not chosen:
            return
        times, low, high = np.transpose([row["microseconds"] for row in chosen])
        errors = np.maximum(_EXACT, [100 * row["nrmse"] for row in chosen])
        bars = np.maximum(0, [times - low, high - times])  # as bars they are no larger than markers where all is quiet
        style = {"markersize": 3, "elinewidth": 0.8, **style}
        axis.errorbar(times, errors, xerr=bars, **style)
        shift, sides = _SIDES[at]
        place = (times[min(index, len(chosen) - 1)], errors[min(index, len(chosen) - 1)])
        axis.annotate(name, place, shift, textcoords="offset points", fontsize=6.5, color=style["color"], **sides)

    blue, green, orange = COLORS["recurrent"], COLORS["sweeps"], COLORS["feed-forward"]
    for name, (style, at) in _INTEGRATORS.items():
        chosen = [row for row in rows if row["kind"] == "rollout" and row["method"] == name]
        # Rollouts whose step tolerance is not a tenth of their own are drawn apart.
        rest = [row for row in chosen if row["step_tolerance"] > 0.11 * row["tolerance"]]
        points(rest, linestyle="", marker="o", markerfacecolor="white", color=blue)
        usual = [row for row in chosen if row not in rest]
        points(usual, name, 1, at, linestyle=style, marker="o", color=blue)
    for name, (marker, at) in _SOLVERS.items():
        chosen = [row for row in rows if row["kind"] == "solver" and row["method"] == name]
        points(chosen, name.split(", ")[-1], 0, at, linestyle="", marker=marker, markersize=5, color=green)
    passes = [row for row in rows if row["kind"] == "pass"]
    trained = [row for row in passes if row["is_trained"]]
    points([row for row in trained if not row["num_sweeps"]], "two layers", 0, "above", marker="s", color=orange)
    swept = [row for row in trained if row["num_sweeps"]]
    points(swept, "with\nsweeps", len(swept) - 1, "below", marker="D", color=orange, linestyle="--")
    runtimes = [row for row in rows if row["kind"] == "runtime" and row["is_trained"]]
    points(runtimes, linestyle="", marker="x", markersize=5, color=COLORS["other"])
    untrained = [row["microseconds"][0] for row in passes if not row["is_trained"]]
    if untrained:
        axis.axvspan(min(untrained), max(untrained), color=orange, alpha=0.2, linewidth=0)
        middle = np.sqrt(min(untrained) * max(untrained))
        text = "passes, untrained"
        axis.text(middle, 0.2, text, color=orange, fontsize=7, rotation=90, ha="center", va="center")
    axis.set(xscale="log", yscale="log", xlabel="microseconds a stimulus", ylabel="error (NRMSE, %)")
    low, high = axis.get_xlim()
    axis.set_xlim(low / 4, high * 20)  # room for names
    axis.set_ylim(axis.get_ylim()[0] / 5, axis.get_ylim()[1] * 2)  # room for the names
    from matplotlib.ticker import LogLocator, NullLocator

    axis.yaxis.set_major_locator(LogLocator(numticks=12))
    axis.yaxis.set_minor_locator(NullLocator())
    if first:
        gray = {"color": COLORS["trivial"]}
        arrow = {"arrowstyle": "->", **gray}
        axis.annotate(
            "better", (0.02, 0.02), (0.06, 0.13), xycoords="axes fraction", fontsize=6.5, arrowprops=arrow, **gray
        )


def _latencies(axis: "Axes", rows: list[dict]) -> None:
    """From p50 to p99, over stimuli that differ and over copies of one; of the size in the middle."""
    if not rows:
        return axis.set_axis_off()
    sizes = sorted({row["state_size"] for row in rows})
    size = sizes[len(sizes) // 2]
    rows = [row for row in rows if row["state_size"] == size]
    place = np.arange(len(rows))[::-1]
    kinds = [(0.14, "", "black", "different stimuli"), (-0.14, "repeated_", COLORS["trivial"], "one, repeated")]
    for shift, prefix, color, label in kinds:
        low, high = ([row[f"{prefix}{name}"] for row in rows] for name in ("median", "tail"))
        axis.hlines(place + shift, low, high, color=color, linewidth=2.5, label=label)
        axis.plot(low, place + shift, "o", markersize=3, color=color)
    axis.set_yticks(place, [_short(row) for row in rows])
    axis.set_ylim(-0.6, len(rows) + 0.4)
    axis.set(xscale="log", xlabel="microseconds a call, p50 to p99", title=f"one stimulus a call, {size} units")
    axis.legend(loc="upper right", borderaxespad=0)


def _short(row: dict) -> str:
    if row["of"] == "pass":
        return f"pass, {row['num_sweeps']} sweeps" if row["num_sweeps"] else "pass"
    return {"rollout": "rollout", "solver": "plan reused"}.get(row["of"], row["method"].replace("onnxruntime", "onnx"))


def _of_sizes(rows: list[dict]) -> dict[int, tuple]:
    """A shade for each size of network; the colors are those of methods."""
    from matplotlib import colormaps

    sizes = sorted({row["state_size"] for row in rows})
    return dict(zip(sizes, colormaps["cividis"](np.linspace(0, 0.85, len(sizes)))))


def _shares(axis: "Axes", rows: list[dict]) -> None:
    """The time of the two products alone over that of the pass; above 1, the pass in tiles is faster."""
    for size, color in _of_sizes(rows).items():
        points = {}
        for row in rows:
            if row["state_size"] == size and row["width"] == 4 * size:
                points[row["batch_size"]] = row["gemm_share"]
        axis.plot(*zip(*sorted(points.items())), marker="o", markersize=3, color=color, label=f"{size} units")
    axis.axhline(1, color="black", linewidth=0.6)
    batches = sorted({row["batch_size"] for row in rows})
    axis.set_xscale("log")
    axis.set_xticks(batches, [str(batch) for batch in batches])
    axis.minorticks_off()
    axis.set(xlabel="stimuli in a batch", ylabel="products alone / pass", title="share of the matrix products")
    axis.set_ylim(bottom=0)
    axis.legend(loc="best")


def _break_even(axis: "Axes", rows: list[dict]) -> None:
    """Queries after which a pass has paid for its training, against its error."""
    if not rows:
        return axis.set_axis_off()
    sizes = sorted({row["state_size"] for row in rows})
    for size, color in _of_sizes(rows).items():
        for has_sweeps, marker in [(False, "s"), (True, "D")]:
            chosen = [row for row in rows if row["state_size"] == size and bool(row["num_sweeps"]) == has_sweeps]
            label = f"{size} units, {'with sweeps' if has_sweeps else 'two layers'}"
            points = [(100 * row["nrmse"], row["queries"]) for row in chosen]
            if points:
                axis.plot(*zip(*points), marker, markersize=3.5, color=color, label=label)
            for (error, queries), row in zip(points, chosen) if size == sizes[-1] else ():
                text = str(row["num_sweeps"] or row["width"])
                axis.annotate(text, (error, queries), (3, 3), textcoords="offset points", fontsize=6)
    axis.set(xscale="log", yscale="log", xlabel="error (NRMSE, %)", ylabel="queries")
    low, top = axis.get_ylim()
    axis.set_ylim(low / 2, top * 12)  # room for the legend
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.yaxis.set_minor_formatter("")
    axis.set_title("break-even, by sweeps or width")
    axis.legend(loc="best")
