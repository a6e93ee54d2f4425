"""The figure of the time a prediction takes."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._seeds import spread
from experiments.drawings._axes import lettered
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {"rollout": COLORS["recurrent"], "solver": COLORS["sweeps"], "pass": COLORS["feed-forward"]}
_LABELS = {"rollout": "rollout", "solver": "Anderson acceleration", "pass": "pass"}


@house_style
def draw(record: dict) -> "Figure":
    """How many stimuli are solved within a number of steps; operations by distance and by size."""
    config, rows = record["config"], record["rows"]
    figure, axes = new_figure(3, height=2.6)
    by_size = [row for row in rows if row["distance"] == config["distance"]]
    by_distance = sorted((row for row in rows if row["size"] == config["size"]), key=lambda row: row["distance"])

    near, far = by_distance[0], by_distance[-1]
    for row, style in ((far, "-"), (near, "--")):
        for method in ("rollout", "solver"):
            shares = 100 * np.cumsum(row["histogram"][method])
            steps = row["histogram"]["edges"][1:]
            axes[0].plot(steps, shares, color=METHODS[method], linestyle=style, drawstyle="steps-post")
    used = np.flatnonzero(
        sum(np.asarray(row["histogram"][name]) for row in (near, far) for name in ("rollout", "solver"))
    )
    edges = near["histogram"]["edges"]
    axes[0].set(xscale="log", xlim=(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 2, len(edges) - 1)]))
    axes[0].set(xlabel="steps", ylabel="stimuli solved within (%)")
    axes[0].set(title=f"{config['size']} units", ylim=(0, 102))

    _operations(axes[1], [row["distance"] for row in by_distance], by_distance)
    axes[1].invert_xaxis()
    axes[1].set(xlabel="distance to instability", ylabel="operations an answer", title=f"{config['size']} units")
    _operations(axes[2], [row["size"] for row in by_size], by_size)
    axes[2].set(xlabel="recurrent units", ylabel="operations an answer", title=f"distance {config['distance']:g}")

    for axis in axes[1:]:
        (slowest,) = (
            line for line in axis.lines if line.get_linestyle() == ":" and line.get_color() == METHODS["rollout"]
        )
        place = slowest.get_xydata()[len(slowest.get_xydata()) // 2]
        axis.annotate("slowest 1 %", place, (-4, 5), textcoords="offset points", ha="right", fontsize=7)
    handles = [axes[0].plot([], [], color=color, label=_LABELS[name])[0] for name, color in METHODS.items()]
    for row, style in ((far, "-"), (near, "--")):
        label = f"a: distance {row['distance']:g}"
        handles += axes[0].plot([], [], color="black", linestyle=style, linewidth=1, label=label)
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    seeds = len(near["operations"])
    lettered(
        figure,
        axes,
        f"Lines: the median stimulus, mean over {seeds} seeds, with its 95 % interval; dotted: the slowest 1 %.",
    )
    return figure


def _operations(axis: "Axes", places: list[float], rows: list[dict]) -> None:
    """The median stimulus, mean over seeds with its interval; a dotted line for the slowest hundredth of stimuli."""
    for method, color in METHODS.items():
        for quantile, style in (("p50", "-"), ("p99", ":")):
            values = [[seed[method][quantile] for seed in row["operations"]] for row in rows]
            mean, low, high = np.array([spread(over_seeds) for over_seeds in values]).T
            marker = {"marker": "o", "markersize": 2.5} if quantile == "p50" else {}
            axis.plot(places, mean, style, color=color, **marker)
            if quantile == "p50":
                axis.fill_between(places, np.maximum(low, mean / 10), high, color=color, alpha=0.2, linewidth=0)
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.minorticks_off()
