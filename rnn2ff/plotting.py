"""Figures, drawn from plain arrays and records. Needs the extra `plot`, and never JAX."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from rnn2ff.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_WIDTH = 3.5  # inches, of a two-column page
PAGE_WIDTH = 7.2

# The palette of Okabe and Ito, told apart by readers of all kinds of color vision.
COLORS = {
    "recurrent": "#0072B2",
    "feed-forward": "#D55E00",
    "trivial": "#999999",
    "third": "#009E73",
    "fourth": "#CC79A7",
}

_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.hashsalt": "rnn2ff",
}


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def house_style(draw: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make a function draw in the house style, and leave matplotlib's own settings as they are.

    Raises:
        ModuleNotFoundError: when the function is called, if matplotlib is not installed, naming the extra.
    """

    @functools.wraps(draw)
    def styled(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            import matplotlib
        except ModuleNotFoundError as error:
            message = "Figures need matplotlib. Install the extra: pip install 'rnn2ff[plot]'"
            raise ModuleNotFoundError(message) from error
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@house_style
def new_figure(
    num_columns: int = 1, *, width: float = PAGE_WIDTH, height: float = 2.3, width_ratios: Sequence[float] | None = None
) -> "tuple[Figure, list[Axes]]":
    """A figure with its axes side by side; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, num_columns, squeeze=False, width_ratios=width_ratios)[0]
    return figure, list(axes)


@house_style
def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure in the format its name ends with, whole or not at all."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # the same figure gives the same bytes
    with replacing(path) as temporary:
        figure.savefig(temporary, metadata=dates.get(temporary.suffix))


@house_style
def plot_rates(axes: "Axes", target: ArrayLike, predicted: ArrayLike, *, nrmse: float) -> None:
    """Predicted against steady rates, one dot an entry, with the line where they agree.

    Args:
        axes: where to draw.
        target: steady rates, any shape.
        predicted: predicted rates, of the same shape.
        nrmse: of all test samples, for the caption.
    """
    target, predicted = np.ravel(target), np.ravel(predicted)
    low, top = min(0.0, target.min(), predicted.min()), max(0.0, target.max(), predicted.max())
    margin = 0.03 * (top - low or 1.0)
    limits = (low - margin, top + margin)
    axes.plot([low, top], [low, top], color="black", linewidth=0.6, zorder=3)
    axes.scatter(target, predicted, s=3, color=COLORS["feed-forward"], alpha=0.25, linewidths=0, rasterized=True)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel="steady rate, recurrent", ylabel="rate, feed-forward", title=f"error {100 * nrmse:.1f} % (NRMSE)")


@house_style
def plot_learning(axes: "Axes", training: Mapping[str, object], *, variance: float) -> None:
    """The course of a training: NRMSE on the held-out part against optimizer steps.

    Args:
        axes: where to draw.
        training: `steps` and `validation_errors`, as in a report.
        variance: of the steady rates about per-unit means; turns errors into NRMSE.
    """
    nrmse = 100 * np.sqrt(np.asarray(training["validation_errors"]) / variance)
    axes.plot(np.asarray(training["steps"]), nrmse, color=COLORS["feed-forward"], marker="o", markersize=2)
    axes.set(xlabel="optimizer steps", ylabel="error on held-out pairs (NRMSE, %)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
