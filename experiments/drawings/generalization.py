"""The figure of the generalization to other distributions of stimuli."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._seeds import spread
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@house_style
def draw(record: dict) -> "Figure":
    """For each distribution the error and the share of bad answers that are flagged; residual against error."""
    rows = record["rows"]
    names = list(dict.fromkeys(row["distribution"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = new_figure(3, height=2.9, width_ratios=[1, 1, 1.1])
    colors = dict(zip(tasks, (COLORS["recurrent"], COLORS["feed-forward"])))
    places = np.arange(len(names))[::-1]
    for offset, task in zip((0.15, -0.15), tasks):
        chosen = {row["distribution"]: row for row in rows if row["task"] == task}
        _dots(axes[0], places + offset, [chosen[name]["nrmse"] for name in names], colors[task], task)
        _dots(axes[1], places + offset, [chosen[name]["share_bad"] for name in names], colors[task], None, hollow=True)
        _dots(axes[1], places + offset, [chosen[name]["share_caught"] for name in names], colors[task], None)
    axes[0].set_yticks(places, names)
    axes[0].set(xlabel="error (NRMSE, %)", xlim=(0, None), title="error")
    axes[0].legend(loc="lower right", borderaxespad=0, handletextpad=0.1)
    axes[1].set_yticks(places, [])
    axes[1].set(xlabel="answers (%)", xlim=(-3, 103), title="bad answers, and those flagged")
    for face, label in (("white", "bad, of all"), ("black", "flagged,\nof the bad")):
        axes[1].plot([], [], "o", markersize=4, color="black", markerfacecolor=face, label=label)
    axes[1].legend(loc="upper right", borderaxespad=0, handletextpad=0.1)
    for axis in axes[:2]:
        axis.grid(axis="y", color="#eeeeee", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0)

    shown = [names[0], *(name for name in names if name.startswith(("scaled by 2", "shifted by 2", "adversarial")))]
    palette = ["#000000", *COLORS.values()]
    for name, color in zip(shown, palette):
        row = next(row for row in rows if row["task"] == tasks[0] and row["distribution"] == name)
        axes[2].plot(*row["points"], "o", markersize=2, color=color, alpha=0.8, markeredgewidth=0, label=name)
    axes[2].set(xscale="log", yscale="log", title=f"single answers, {tasks[0]}")
    axes[2].set(xlabel="residual (rms, units of rate)", ylabel="error (rms, units of rate)")
    axes[2].legend(handletextpad=0.1, borderaxespad=0, loc="upper left")
    return figure


def _dots(axis: "Axes", places, values, color: str, label: str | None, *, hollow: bool = False) -> None:
    """Means over seeds, in percent, with the 95 % interval of the mean."""
    for place, each in zip(places, values):
        found = [value for value in each if value is not None]
        if not found:
            continue
        mean, low, high = spread(100 * np.asarray(found))
        axis.plot([max(low, 0), high], [place, place], color=color, linewidth=1)
        face = "white" if hollow else color
        axis.plot(mean, place, "o", markersize=4, color=color, markerfacecolor=face, label=label)
        label = None
