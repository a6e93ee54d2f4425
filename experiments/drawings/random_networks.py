"""The figure of the random networks."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._seeds import spread
from experiments.drawings._axes import lettered, plain_logarithmic
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TARGET = 0.05  # NRMSE


def errors_at(row: dict, factor: float) -> list[float] | None:
    """The errors of all seeds at that width, in units of the recurrent units; None if it was not tried."""
    return row["nrmse"][row["widths"].index(factor)] if factor in row["widths"] else None


def widths_needed(row: dict) -> list[float] | str:
    """The width at which the error is `TARGET` for each seed, in units of the recurrent units; words where none is."""
    widths, errors = np.log(row["widths"]), np.log(np.maximum(row["nrmse"], 1e-9))
    needed = []
    for each in errors.T:
        below = np.flatnonzero(each <= np.log(TARGET))
        if len(below) == 0:
            return f"> {row['widths'][-1]:g} N"
        first = below[0]
        if first == 0:
            return f"<= {row['widths'][0]:g} N"
        part = (each[first - 1] - np.log(TARGET)) / (each[first - 1] - each[first])
        needed.append(np.exp(widths[first - 1] + part * (widths[first] - widths[first - 1])))
    return needed


@house_style
def draw(record: dict) -> "Figure":
    """The error against gain, width, size and samples, and the share of stimuli without a steady state."""
    config, rows = record["config"], record["rows"]
    figure, axes = new_figure(3, num_rows=2, height=4.4)
    colors = [COLORS[name] for name in ("recurrent", "feed-forward", "third", "fourth")]
    standard = [row for row in rows if row["num_samples"] == config["num_samples"]]
    grid = {(row["size"], row["gain"]): row for row in standard}
    gains, sizes = config["gains"], config["sizes"]
    factor = config["more_gains_width"]

    for size, color in zip(config["more_gains_sizes"], colors):
        shown = sorted((row["gain"], row) for row in grid.values() if row["size"] == size and errors_at(row, factor))
        _line(axes[0], [g for g, _ in shown], [errors_at(row, factor) for _, row in shown], color, f"{size} units")
        _seeds(axes[5], [g for g, _ in shown], [row["share_lost"] for _, row in shown], color, f"{size} units")
    axes[0].set(xlabel="gain of the weights", ylabel="error (NRMSE, %)", title=f"width {factor:g} N", ylim=(0, None))
    axes[0].axhline(100 * TARGET, color="black", linewidth=0.6, linestyle=":")
    axes[5].set(xlabel="gain of the weights", ylabel="stimuli (%)", title="without a steady state")

    for axis, gain in ((axes[1], gains[len(gains) // 2]), (axes[2], gains[-1])):
        for size, color in zip(sizes, _shades(len(sizes))):
            _line(axis, grid[size, gain]["widths"], grid[size, gain]["nrmse"], color, f"{size} units")
        _logarithmic(axis, config["widths"])
        axis.set(xlabel="hidden units / recurrent units", ylabel="error (NRMSE, %)", title=f"gain {gain:g}")
        axis.axhline(100 * TARGET, color="black", linewidth=0.6, linestyle=":")
    axes[1].legend(loc="upper right", borderaxespad=0)

    for gain, color in zip(gains, colors):
        shown = [(size, errors_at(grid[size, gain], 1.0)) for size in sizes]
        shown = [(size, errors) for size, errors in shown if errors]
        _line(axes[3], [size for size, _ in shown], [errors for _, errors in shown], color, f"gain {gain:g}")
        found = [row for row in rows if row["gain"] == gain and row["size"] == config["samples_size"]]
        found = {row["num_samples"]: errors_at(row, factor) for row in found if errors_at(row, factor)}
        _line(axes[4], sorted(found), [found[each] for each in sorted(found)], color, f"gain {gain:g}")
    _logarithmic(axes[3], sizes)
    axes[3].set(xlabel="recurrent units", ylabel="error (NRMSE, %)", title="width N")
    _logarithmic(axes[4], sorted({*config["numbers_of_samples"], config["num_samples"]}))
    axes[4].set(xlabel="solved samples", ylabel="error (NRMSE, %)")
    axes[4].set(title=f"{config['samples_size']} units, width {factor:g} N")
    for axis in (axes[0], axes[5]):
        axis.legend(loc="upper left", borderaxespad=0)
    axes[3].set_ylim(None, 3 * axes[3].get_ylim()[1])  # room for the legend
    axes[3].legend(loc="upper left", borderaxespad=0)
    seeds = len(rows[0]["share_lost"])
    widths = "networks of more than 32 units were trained at fewer widths"
    note = f"Means and 95 % intervals over {seeds} seeds; dots in f: each seed; dotted: an error of 5 %; {widths}."
    lettered(figure, axes, note)
    return figure


def _line(axis: "Axes", places, values, color, label: str) -> None:
    """Means over seeds, in percent, with the 95 % interval of the mean; nothing if there are none."""
    if not len(places):
        return
    means = np.array([spread(100 * np.asarray(each)) for each in values]).reshape(-1, 3)
    axis.plot(places, means[:, 0], color=color, marker="o", markersize=2.5, label=label)
    axis.fill_between(places, np.maximum(means[:, 1], 0), means[:, 2], color=color, alpha=0.2, linewidth=0)


def _seeds(axis: "Axes", places, values, color, label: str) -> None:
    """Means over seeds, in percent, and a dot for each seed."""
    means = [100 * np.mean(each) for each in values]
    axis.plot(places, means, color=color, label=label)
    for place, each in zip(places, values):
        axis.plot([place] * len(each), 100 * np.asarray(each), "o", markersize=2.5, color=color, alpha=0.6, mew=0)


def _logarithmic(axis: "Axes", ticks) -> None:
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(ticks, [f"{each:g}" for each in ticks])
    axis.minorticks_off()
    plain_logarithmic(axis.yaxis)


def _shades(number: int):
    """From light to dark, told apart in gray as well."""
    from matplotlib import colormaps

    return colormaps["viridis_r"](np.linspace(0.1, 1, number))
