"""The figure of the random networks."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._forms import TWO_LAYERS, WITH_SWEEPS
from experiments._seeds import spread
from experiments.drawings._axes import lettered, plain_logarithmic
from rnn2ff.plotting import house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TARGETS = (0.05, 0.01)  # NRMSE
USUAL_COST = 8.0  # products of a pass over N^2, of two layers of 4 N hidden units
_STYLES = {TWO_LAYERS: "-", WITH_SWEEPS: "--"}
_SMALLEST = 0.01  # percent; smaller errors are drawn there


def errors_at(row: dict, form: str, cost: float = USUAL_COST) -> list[float]:
    """The errors of all seeds at that cost."""
    return row[form]["nrmse"][row["costs"].index(cost)]


def needed(row: dict, form: str, target: float) -> int | None:
    """The index of the first cost that was tried whose mean error is at most the target; None if there is none."""
    return next((i for i, errors in enumerate(row[form]["nrmse"]) if spread(errors).mean <= target), None)


@house_style
def draw(record: dict) -> "Figure":
    """The error against the cost; against the gain, the error, the cost needed, and the share without steady state."""
    from matplotlib import colormaps

    rows, config = record["rows"], record["config"]
    gains, sizes = config["gains"], config["sizes"]
    colors = dict(zip(sizes, colormaps["viridis_r"](np.linspace(0.15, 1, len(sizes)))))
    number = max(4, len(gains))
    figure, axes = new_figure(number, num_rows=2, height=4.2)
    for axis, gain in zip(axes, gains):
        axis.set(xscale="log", yscale="log", title=f"gain {gain:g}", xlabel="products / $N^2$")
        for row in (candidate for candidate in rows if candidate["gain"] == gain):
            for form, style in _STYLES.items():
                _line(axis, row["costs"], row[form]["nrmse"], colors[row["size"]], style)
        for target in TARGETS:
            axis.axhline(100 * target, color="black", linewidth=0.6, linestyle=":")
        plain_logarithmic(axis.xaxis)
        plain_logarithmic(axis.yaxis, (1,))
    axes[0].set_ylabel("error (NRMSE, %)")

    error, *costs, lost = axes[number : number + 4]
    error.set(ylabel="error (NRMSE, %)", yscale="log", title=f"{USUAL_COST:g} $N^2$ products")
    for size, color in colors.items():
        chosen = sorted((row for row in rows if row["size"] == size), key=lambda row: row["gain"])
        places = [row["gain"] for row in chosen]
        for form, style in _STYLES.items():
            _line(error, places, [errors_at(row, form) for row in chosen], color, style)
            for axis, target in zip(costs, TARGETS):
                _draw_needed(axis, chosen, form, target, color)
        _line(lost, places, [row["share_lost"] for row in chosen], color, "-")
    plain_logarithmic(error.yaxis, (1,))
    for axis, target in zip(costs, TARGETS):
        axis.set(ylabel="products / $N^2$", yscale="log", title=f"needed for {target:.0%}")
        axis.set_ylim(0.8 * min(config["costs"]), 1.5 * max(config["costs"]))
        plain_logarithmic(axis.yaxis)
    lost.set(ylabel="% of stimuli", title="no steady state")
    for axis in axes[number : number + 4]:
        axis.set(xlabel="gain", xticks=gains)
    lost.set_ylim(-3, 103)
    for axis in (*axes[: len(gains)], error):
        axis.set_ylim(0.8 * _SMALLEST, 100)
    for axis in axes[number + 4 :] + axes[len(gains) : number]:
        axis.set_visible(False)

    handles = [axes[0].plot([], [], color=color, label=f"N = {size}")[0] for size, color in colors.items()]
    handles += [axes[0].plot([], [], color="black", linestyle=style, label=form)[0] for form, style in _STYLES.items()]
    handles += axes[0].plot([], [], "^", color="black", markersize=4, label="more than any that was tried")
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    shown = [axis for axis in axes if axis.get_visible()]
    bands = f"bands: 95 % interval of the mean of {config['num_seeds']} networks"
    lettered(figure, shown, f"{bands}; dotted: 5 and 1 %; errors below {_SMALLEST:g} % are drawn there")
    return figure


def _draw_needed(axis: "Axes", rows: list[dict], form: str, target: float, color) -> None:
    """The least cost whose mean error is small enough, by gain; a triangle at the largest cost where none is."""
    indices = [needed(row, form, target) for row in rows]
    costs = [np.nan if i is None else row["costs"][i] for i, row in zip(indices, rows)]
    axis.plot([row["gain"] for row in rows], costs, _STYLES[form], color=color, marker="o", markersize=2.5)
    missed = [row for i, row in zip(indices, rows) if i is None]
    face = color if form == TWO_LAYERS else "white"
    axis.plot(
        [row["gain"] for row in missed],
        [row["costs"][-1] for row in missed],
        "^",
        color=color,
        markersize=4,
        markerfacecolor=face,
    )


def _line(axis: "Axes", places, values, color, style: str) -> None:
    """Means over seeds, in percent, with the 95 % interval of the mean; an error below the smallest is drawn there."""
    means = np.array([spread(100 * np.asarray(over_seeds)) for over_seeds in values])
    if axis.get_yscale() == "log":
        means = np.maximum(means, _SMALLEST)
    axis.plot(places, means[:, 0], style, color=color, marker="o", markersize=2.5)
    axis.fill_between(places, means[:, 1], means[:, 2], color=color, alpha=0.15, linewidth=0)
