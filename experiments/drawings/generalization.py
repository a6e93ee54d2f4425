"""The figure of the generalization to other distributions of stimuli."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._seeds import spread
from experiments.drawings._axes import lettered, lined_up, plain_logarithmic, plot_percentages
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST_BAD = 0.02  # share of bad answers below which it is not shown how many of them are flagged


@house_style
def draw(record: dict) -> "Figure":
    """For each distribution the error and the share of bad answers that are flagged; residual against error."""
    rows = record["rows"]
    names = list(dict.fromkeys(row["distribution"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = new_figure(3, height=3.2, width_ratios=[1, 1, 1.1])
    colors = dict(zip(tasks, (COLORS["recurrent"], COLORS["feed-forward"])))
    places = np.arange(len(names))[::-1]
    for offset, task in zip((0.17, -0.17), tasks):
        chosen = {row["distribution"]: row for row in rows if row["task"] == task}
        color, bad = colors[task], [chosen[name]["share_bad"] for name in names]
        caught = [
            chosen[name]["share_caught"] if spread(each).mean > _FEWEST_BAD else [] for name, each in zip(names, bad)
        ]
        plot_percentages(axes[0], places + offset, [chosen[name]["nrmse"] for name in names], color)
        plot_percentages(axes[1], places + offset, bad, color, hollow=True)
        plot_percentages(axes[1], places + offset, caught, color)
    lined_up(axes[0], places, names)
    lined_up(axes[1], places, [""] * len(names))
    axes[0].set(xlabel="error (NRMSE, %)", xlim=(0, None), title="error")
    axes[1].set(xlabel="share (%)", xlim=(-3, 103), title="bad answers")

    shown = [names[0], *(name for name in names if name.startswith(("scaled by 2", "shifted by 2", "adversarial")))]
    from matplotlib import colormaps

    palette = colormaps["viridis"](np.linspace(0, 0.95, len(shown)))
    for name, color in zip(shown, palette):
        row = next(row for row in rows if row["task"] == tasks[0] and row["distribution"] == name)
        axes[2].plot(*row["points"], "o", markersize=2.2, color=color, alpha=0.8, markeredgewidth=0, label=name)
    usual = next(row for row in rows if row["task"] == tasks[0] and row["distribution"] == names[0])["points"]
    residual, error = (np.quantile(values, 0.95) for values in usual)
    axes[2].axhline(error, color="black", linewidth=0.6, linestyle="--")
    axes[2].axvline(residual, ymin=0.33, color="black", linewidth=0.6, linestyle="--")  # above the legend
    axes[2].set(xscale="log", yscale="log", title=f"single answers, {tasks[0]}")
    axes[2].set(xlabel="residual (rms, units of rate)", ylabel="error (rms, units of rate)")
    plain_logarithmic(axes[2].xaxis)
    plain_logarithmic(axes[2].yaxis)
    axes[2].set_ylim(axes[2].get_ylim()[0] / 3)  # room for the legend
    axes[2].legend(handletextpad=0.1, borderaxespad=0, loc="lower right", labelspacing=0.2)

    handles = [axes[0].plot([], [], "o", markersize=4, color=colors[task], label=task)[0] for task in tasks]
    for face, label in (("white", "bad, of all answers"), ("black", "flagged by the residual, of the bad ones")):
        handles += axes[1].plot([], [], "o", markersize=4, color="black", markerfacecolor=face, label=label)
    figure.legend(handles=handles, loc="outside upper left", ncols=4, handletextpad=0.1)
    seeds = len(rows[0]["nrmse"])
    lettered(
        figure,
        axes,
        f"Means and 95 % intervals over {seeds} seeds; dashed: 95 % of the answers as trained that are drawn.",
    )
    return figure
