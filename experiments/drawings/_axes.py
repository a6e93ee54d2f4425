"""Helpers that several figures share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments._seeds import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def lettered(figure: "Figure", axes: Sequence["Axes"], note: str = "") -> None:
    """Letter the panels, and write a note at the foot of the figure: what its bands are, and over how many seeds."""
    for letter, axis in zip("abcdefgh", axes):
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
        axis.annotate(letter, (0, 1), (-24, 7), **place, fontweight="bold", ha="right")
    if note:
        figure.supxlabel(note, fontsize=7, x=0.01, ha="left")


def plain_logarithmic(axis: "Axis", multiples: Sequence[int] = (1, 2, 5)) -> None:
    """Ticks at these multiples of the powers of ten, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=multiples))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def plot_percentages(
    axes: "Axes", places: Sequence[float], values: Sequence[Sequence[float | None]], color: str, *, hollow: bool = False
) -> None:
    """Means over seeds with their 95 % intervals, side by side along the horizontal axis, each at its own height.

    Args:
        axes: where to draw.
        places: along the vertical axis.
        values: shares, one row per place and one entry per seed; None where a seed has none, and NaN is not drawn.
        color: of the dots.
        hollow: whether the dots are hollow.
    """
    for place, over_seeds in zip(places, values):
        shares = np.array([value for value in over_seeds if value is not None])
        if len(shares) == 0 or np.isnan(shares).any():
            continue
        mean, low, high = spread(100 * shares)
        axes.plot([max(low, 0), high], [place, place], color=color, linewidth=1)
        axes.plot(mean, place, "o", markersize=4, color=color, markerfacecolor="white" if hollow else color)


def plot_means(axes: "Axes", places, values, color, label: str | None = None, style: str = "-") -> None:
    """Means over seeds, one row of values per place, with the 95 % interval of the mean."""
    spreads = np.array([spread(over_seeds) for over_seeds in values])
    axes.plot(places, spreads[:, 0], style, color=color, marker="o", markersize=2.5, label=label)
    axes.fill_between(places, spreads[:, 1], spreads[:, 2], color=color, alpha=0.2, linewidth=0)


def lined_up(axes: "Axes", places: Sequence[float], names: Sequence[str]) -> None:
    """Name the places along the vertical axis, each with a line that guides the eye."""
    axes.set_yticks(places, names)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
