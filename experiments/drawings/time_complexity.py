"""The figure of the time an answer takes."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._seeds import spread
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {"rollout": COLORS["recurrent"], "solver": COLORS["third"], "pass": COLORS["feed-forward"]}
_LABELS = {"rollout": "rollout", "solver": "Anderson acceleration", "pass": "pass"}


@house_style
def draw(record: dict) -> "Figure":
    """Steps by stimulus; operations by distance and by size; the tail of the seconds."""
    config, rows = record["config"], record["rows"]
    figure, axes = new_figure(4, height=2.4)
    by_size = [row for row in rows if row["distance"] == config["distance"]]
    by_distance = sorted((row for row in rows if row["size"] == config["size"]), key=lambda row: row["distance"])

    near, far = by_distance[0], by_distance[-1]
    for row, style in ((far, "-"), (near, ":")):
        for method in ("rollout", "solver"):
            shares = 100 * np.asarray(row["histogram"][method])
            label = f"distance {row['distance']:g}" if method == "rollout" else None
            axes[0].stairs(
                shares, row["histogram"]["edges"], color=METHODS[method], linestyle=style, label=label, linewidth=1.2
            )
    used = np.flatnonzero(
        sum(np.asarray(row["histogram"][name]) for row in (near, far) for name in ("rollout", "solver"))
    )
    edges = near["histogram"]["edges"]
    axes[0].set(xscale="log", xlim=(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 2, len(edges) - 1)]))
    axes[0].set(xlabel="steps", ylabel="stimuli (%)", title=f"{config['size']} units")
    axes[0].set(ylim=(0, 140), yticks=range(0, 101, 20))  # room for the legend
    axes[0].legend(loc="upper center", borderaxespad=0)

    _operations(axes[1], [row["distance"] for row in by_distance], by_distance)
    axes[1].invert_xaxis()
    axes[1].set(xlabel="distance to instability", ylabel="operations an answer", title=f"{config['size']} units")
    _operations(axes[2], [row["size"] for row in by_size], by_size)
    axes[2].set(xlabel="recurrent units", ylabel="operations an answer", title=f"distance {config['distance']:g}")

    places = np.arange(len(METHODS))[::-1]
    for offset, measure, hollow in ((0.14, "seconds_over_stimuli", False), (-0.14, "seconds_over_repeats", True)):
        for place, (method, color) in zip(places, METHODS.items()):
            ratios = [seed[method]["p99"] / seed[method]["p50"] for seed in near[measure]]
            mean, low, high = spread(ratios)
            axes[3].plot([max(low, 1), max(high, 1)], [place + offset] * 2, color=color, linewidth=1)
            face = "white" if hollow else color
            axes[3].plot(mean, place + offset, "o", markersize=4, color=color, markerfacecolor=face)
    for face, label in (("black", "different stimuli"), ("white", "one, repeated")):
        axes[3].plot([], [], "o", markersize=4, color="black", markerfacecolor=face, label=label)
    axes[3].set_yticks(places, ["rollout", "Anderson", "pass"])
    axes[3].set(xlabel="seconds, p99 / p50", ylim=(-1.3, len(METHODS) - 0.5))
    axes[3].set(title=f"distance {near['distance']:g}")
    axes[3].legend(loc="lower right", borderaxespad=0)
    handles = [axes[0].plot([], [], color=color, label=_LABELS[name])[0] for name, color in METHODS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _operations(axis: "Axes", places: list[float], rows: list[dict]) -> None:
    """The median stimulus, mean over seeds with its interval; a dotted line for the slowest hundredth of stimuli."""
    for method, color in METHODS.items():
        for quantile, style in (("p50", "-"), ("p99", ":")):
            values = [[seed[method][quantile] for seed in row["operations"]] for row in rows]
            mean, low, high = np.array([spread(each) for each in values]).T
            marker = {"marker": "o", "markersize": 2.5} if quantile == "p50" else {}
            axis.plot(places, mean, style, color=color, **marker)
            if quantile == "p50":
                axis.fill_between(places, np.maximum(low, mean / 10), high, color=color, alpha=0.2, linewidth=0)
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(places, [f"{each:g}" for each in places])
    axis.minorticks_off()
