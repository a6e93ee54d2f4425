"""The figure of the competition."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rnn2ff.plotting import COLORS, house_style, new_figure, plot_rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@house_style
def draw(record: dict) -> "Figure":
    """Steady against predicted rates, agreement by margin, and examples from a close to a clear competition."""
    random, digits = record["rows"]
    examples = digits["examples"]
    figure, axes = new_figure(2 + len(examples), height=2.1, width_ratios=[1.5, 1.5, 1, 1, 1])
    plot_rates(axes[0], random["points"]["steady"], random["points"]["predicted"], nrmse=random["nrmse"])

    judged = random["competition"]
    edges = judged["margin_edges"]
    names = [f"{low:g}-{high:g}" if high is not None else f"> {low:g}" for low, high in pairwise(edges)]
    place = np.arange(len(names))
    for name, values in [
        ("feed-forward", judged["agreement_by_margin"]),
        ("trivial", judged["trivial_agreement_by_margin"]),
    ]:
        shown = [np.nan if value is None else 100 * value for value in values]
        label = "largest stimulus" if name == "trivial" else name
        axes[1].plot(place, shown, marker="o", markersize=2.5, color=COLORS[name], label=label)
    axes[1].set_xticks(place, names, rotation=45, ha="right")
    axes[1].set(xlabel="margin of the stimulus", ylabel="same winner (%)", title="winners, by margin")
    axes[1].legend(loc="lower right", borderaxespad=0)

    for i, (axis, example) in enumerate(zip(axes[2:], examples)):
        classes = np.arange(len(example["drive"]))
        axis.bar(classes, example["drive"], color="#dddddd", width=0.9, label="stimulus")
        axis.plot(classes, example["recurrent"], "o", markersize=4, color=COLORS["recurrent"], label="recurrent")
        axis.plot(
            classes, example["feed-forward"], "x", markersize=4, color=COLORS["feed-forward"], label="feed-forward"
        )
        axis.set(xlabel="class", xticks=classes[::3], title=f"a digit {example['label']}")
        axis.set_ylim(0, 1)
        if i == 0:
            axis.set_ylabel("mean over the partition")
        else:
            axis.set_yticklabels([])
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, handletextpad=0.2)
    return figure
