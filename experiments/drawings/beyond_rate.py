"""The figure of networks beyond the threshold-linear ones."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.drawings._axes import lettered, lined_up, plot_percentages
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONVERGED = 0  # the status of a sample with a steady state
_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.3, -0.28), "handlelength": 0.8, "handletextpad": 0.3}


@house_style
def draw(record: dict) -> "Figure":
    """Errors by network; statuses along a line through the oscillations and in the plane; what is detected."""
    rows = record["rows"]
    figure, axes = new_figure(4, height=2.9, width_ratios=[0.8, 1.2, 1.25, 1])
    places = np.arange(len(rows))[::-1]
    names = [row["network"] for row in rows]
    for offset, name, label, color in (
        (0.12, "nrmse", "two layers", COLORS["feed-forward"]),
        (-0.12, "nrmse_with_sweeps", "with sweeps", COLORS["sweeps"]),
    ):
        plot_percentages(axes[0], places + offset, [row[name] for row in rows], color)
        axes[0].plot([], [], "o", markersize=4, color=color, label=label)
    axes[0].legend(**_BELOW)
    lined_up(axes[0], places, names)
    axes[0].set(xlabel="error (NRMSE, %)", xlim=(0, None), title="where there is\na steady state")

    plane = next((row["plane"] for row in rows if row["plane"] is not None), None)
    if plane is not None:
        _draw_line(axes[1], plane["line"])
        _draw_plane(figure, axes[2], plane)

    lost = [row for row in rows if any(row["share_lost"])]
    places = np.arange(len(lost))[::-1]
    for offset, name, label, color in (
        (0.15, "lost_flagged_by_residual", "flagged by\nthe residual", COLORS["other"]),
        (-0.15, "lost_served_as_steady", "served as steady by\npredict_or_solve", COLORS["recurrent"]),
    ):
        plot_percentages(axes[3], places + offset, [row[name] for row in lost], color)
        axes[3].plot([], [], "o", markersize=4, color=color, label=label)
    lined_up(axes[3], places, [row["network"].replace(" ", "\n") for row in lost])
    axes[3].set(xlabel="stimuli (%)", xlim=(-3, 103), ylim=(-0.5, len(lost) - 0.5))
    axes[3].set(title="where there is\nno steady state")
    axes[3].legend(**_BELOW)
    lettered(figure, axes[:4], f"Means and 95 % intervals over {len(rows[0]['nrmse'])} seeds.")
    return figure


def _draw_line(axis: "Axes", line: dict) -> None:
    """The range of the excitatory rate late on the trajectory, and what the approximator says."""
    places = np.asarray(line["excitatory"])
    is_steady = np.asarray(line["status"]) == _CONVERGED
    axis.fill_between(places, line["lowest"], line["highest"], color=COLORS["recurrent"], alpha=0.25, linewidth=0)
    axis.plot([], [], color=COLORS["recurrent"], alpha=0.25, linewidth=6, label="oscillation")
    axis.plot(places, np.where(is_steady, line["mean"], np.nan), color=COLORS["recurrent"], label="steady rate")
    axis.plot(places, np.where(is_steady, np.nan, line["mean"]), ":", color=COLORS["recurrent"], label="mean over time")
    axis.plot(places, line["predicted"], color=COLORS["feed-forward"], label="feed-forward")
    axis.set(xlabel="excitatory stimulus", ylabel="excitatory rate", ylim=(-0.05, 1.6))
    axis.set_title(f"oscillator, inhibitory\nstimulus {line['inhibitory']:g}")
    axis.legend(loc="upper left", ncols=1, borderaxespad=0, labelspacing=0.2)


def _draw_plane(figure: "Figure", axis: "Axes", plane: dict) -> None:
    """The residual of the predictions, and the region without a steady state."""
    from matplotlib.colors import LogNorm

    residual = np.maximum(plane["residual"], 1e-4)
    image = axis.pcolormesh(
        plane["excitatory"], plane["inhibitory"], residual, cmap="Greys", norm=LogNorm(), rasterized=True
    )
    figure.colorbar(image, ax=axis, label="residual of the prediction")
    is_lost = (np.asarray(plane["status"]) != _CONVERGED).astype(float)
    if 0 < is_lost.mean() < 1:
        axis.contour(plane["excitatory"], plane["inhibitory"], is_lost, [0.5], colors=[COLORS["recurrent"]])
    axis.axhline(plane["line"]["inhibitory"], color="black", linewidth=0.6, linestyle=":")
    axis.set(
        xlabel="excitatory stimulus", ylabel="inhibitory stimulus", title="oscillator: no steady\nstate within the line"
    )
