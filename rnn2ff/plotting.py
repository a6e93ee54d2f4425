"""Figures, drawn from plain arrays and records. Needs the extra `plot`, and never JAX."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}


def new_figure(num_columns: int = 1, *, width: float = PAGE_WIDTH, height: float = 2.3) -> "tuple[Figure, list[Axes]]":
    """A figure in the house style, with its axes side by side; sizes in inches.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed, naming the extra that brings it.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        message = "Figures need matplotlib. Install the extra: pip install 'rnn2ff[plot]'"
        raise ModuleNotFoundError(message) from error
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(1, num_columns, squeeze=False)[0]
    return figure, list(axes)


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure in the format its name ends with, whole or not at all."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), replacing(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None} if temporary.suffix == ".svg" else None)


def plot_rates(axes: "Axes", target: np.ndarray, predicted: np.ndarray, *, nrmse: float) -> None:
    """Predicted against steady rates, one dot an entry, with the line where they agree.

    Args:
        axes: where to draw.
        target: steady rates, any shape.
        predicted: predicted rates, of the same shape.
        nrmse: of all test samples, for the caption.
    """
    target, predicted = np.ravel(target), np.ravel(predicted)
    top = max(target.max(), predicted.max()) * 1.05
    axes.plot([0, top], [0, top], color="black", linewidth=0.6, zorder=3)
    axes.scatter(target, predicted, s=3, color=COLORS["feed-forward"], alpha=0.25, linewidths=0, rasterized=True)
    axes.set(xlim=(-0.02 * top, top), ylim=(-0.02 * top, top), aspect="equal")
    axes.set(xlabel="steady rate, recurrent", ylabel="rate, feed-forward", title=f"error {100 * nrmse:.1f} % (NRMSE)")


def plot_learning(axes: "Axes", training: Mapping[str, list[float]], *, variance: float) -> None:
    """The course of a training: NRMSE on the held-out part against optimizer steps.

    Args:
        axes: where to draw.
        training: `steps` and `validation_errors` of a `TrainingRun`, as lists.
        variance: of the steady rates about per-unit means; turns errors into NRMSE.
    """
    nrmse = 100 * np.sqrt(np.asarray(training["validation_errors"]) / variance)
    axes.plot(training["steps"], nrmse, color=COLORS["feed-forward"], marker="o", markersize=2)
    axes.set(xlabel="optimizer steps", ylabel="error on held-out pairs (NRMSE, %)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
