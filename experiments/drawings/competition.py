"""The figure of the competition."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from experiments._forms import TWO_LAYERS, WITH_SWEEPS
from experiments._seeds import spread
from experiments.drawings._axes import lettered
from rnn2ff.plotting import COLORS, house_style, new_figure, plot_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@house_style
def draw(record: dict) -> "Figure":
    """Predicted against steady rates, winners by margin, and a digit."""
    random, digits = record["rows"]
    figure, axes = new_figure(3, height=2.5)
    points = random["points"]
    plot_rates(axes[0], points["steady"], points["predicted"], nrmse=spread(random[TWO_LAYERS]["nrmse"]).mean)
    _draw_margins(axes[1], random)
    _draw_digit(axes[2], digits["example"])
    seeds = len(random[TWO_LAYERS]["competition"])
    lettered(figure, axes, f"Means and 95 % intervals over {seeds} seeds.")
    return figure


def _draw_margins(axis: "Axes", row: dict) -> None:
    judged = row[TWO_LAYERS]["competition"]
    names = [
        f"{low:g}-{high:g}" if high is not None else f"> {low:g}" for low, high in pairwise(judged[0]["margin_edges"])
    ]
    lines = [
        (TWO_LAYERS, "agreement_by_margin", "feed-forward", TWO_LAYERS),
        (WITH_SWEEPS, "agreement_by_margin", "sweeps", WITH_SWEEPS),
        (TWO_LAYERS, "trivial_agreement_by_margin", "trivial", "largest stimulus"),
    ]
    for form, field, color, label in lines:
        shares = np.array([result[field] for result in row[form]["competition"]], float).T  # NaN in empty bins
        _line(axis, np.arange(len(names)), shares, COLORS[color], label)
    axis.set_xticks(np.arange(len(names)), names, rotation=45, ha="right")
    axis.set(xlabel="margin of the stimulus", ylabel="same winner (%)", ylim=(None, 101))
    axis.set_title("winners, by margin")
    axis.legend(loc="lower right", borderaxespad=0)


def _draw_digit(axis: "Axes", example: dict) -> None:
    classes = np.arange(len(example["drive"]))
    axis.bar(classes, example["drive"], color="#cccccc", width=0.9, label="stimulus")
    for name, mark in (("recurrent", "o"), ("feed-forward", "x")):
        axis.plot(classes, example[name], mark, markersize=4, color=COLORS[name], label=name)
    axis.set(xlabel="class", ylabel="mean over the partition", xticks=classes, title=f"a digit {example['label']}")
    axis.set(ylim=(None, 1.35 * max(example["drive"])))
    axis.legend(loc="upper right", ncols=2, handletextpad=0.2, columnspacing=1)


def _line(axis: "Axes", places, values, color, label: str) -> None:
    """Means over seeds, in percent, with the 95 % interval of the mean."""
    spreads = 100 * np.array([spread(over_seeds) for over_seeds in values])
    axis.plot(places, spreads[:, 0], color=color, marker="o", markersize=2.5, label=label)
    low, high = np.clip(spreads[:, 1:].T, 0, 100)
    axis.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)
