"""The figure of the competition."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from experiments._seeds import spread
from rnn2ff.plotting import COLORS, house_style, new_figure, plot_rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@house_style
def draw(record: dict) -> "Figure":
    """Rates, winners by margin and a digit; then winners, active partitions and gain from 2 to 16 partitions."""
    random, digits, *grid = record["rows"]
    figure, axes = new_figure(3, num_rows=2, height=4.6)
    points = random["points"]
    plot_rates(axes[0], points["steady"], points["predicted"], nrmse=spread(random["nrmse"]).mean)
    _draw_margins(axes[1], random["competition"])
    _draw_digit(axes[2], digits["example"])
    for axis, name, title in [
        (axes[3], "agreement", "same winner"),
        (axes[4], "set_agreement", "same active partitions"),
    ]:
        _draw_grid(axis, grid, name)
        axis.set(xlabel="partitions", ylabel="same in both networks (%)", title=title, ylim=(None, 101))
    axes[4].plot([], [], color="black", linestyle=":", linewidth=1, label="dotted: largest stimulus alone")
    _draw_gain(axes[5], grid)
    handles, labels = axes[4].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(handles), columnspacing=1.2)
    return figure


def _draw_margins(axis: "Axes", judged: list[dict]) -> None:
    names = [
        f"{low:g}-{high:g}" if high is not None else f"> {low:g}" for low, high in pairwise(judged[0]["margin_edges"])
    ]
    for name, field, label in [
        ("feed-forward", "agreement_by_margin", "feed-forward"),
        ("trivial", "trivial_agreement_by_margin", "largest stimulus"),
    ]:
        shares = np.array([each[field] for each in judged], float).T  # NaN in empty bins
        _line(axis, np.arange(len(names)), shares, COLORS[name], label)
    axis.set_xticks(np.arange(len(names)), names, rotation=45, ha="right")
    axis.set(xlabel="margin of the stimulus", ylabel="same winner (%)", title="winners, by margin", ylim=(None, 101))
    axis.legend(loc="lower right", borderaxespad=0)


def _draw_digit(axis: "Axes", example: dict) -> None:
    classes = np.arange(len(example["drive"]))
    axis.bar(classes, example["drive"], color="#cccccc", width=0.9, label="stimulus")
    for name, mark in (("recurrent", "o"), ("feed-forward", "x")):
        axis.plot(classes, example[name], mark, markersize=4, color=COLORS[name], label=name)
    axis.set(xlabel="class", ylabel="mean over the partition", xticks=classes, title=f"a digit {example['label']}")
    axis.set(ylim=(None, 1.35 * max(example["drive"])))
    axis.legend(loc="upper right", ncols=2, handletextpad=0.2, columnspacing=1)


def _draw_grid(axis: "Axes", grid: list[dict], name: str) -> None:
    """From soft in blue to hard in yellow; dotted what the largest stimulus alone would say."""
    from matplotlib import colormaps

    strengths = sorted({row["self_excitation"] for row in grid})
    for strength, color in zip(strengths, colormaps["cividis"](np.linspace(0, 0.9, len(strengths)))):
        rows = [row for row in grid if row["self_excitation"] == strength]
        places = [row["num_partitions"] for row in rows]
        _line(axis, places, [row[name] for row in rows], color, f"self-excitation {strength:g}")
        trivial = [100 * spread(row[f"trivial_{name}"]).mean for row in rows]
        axis.plot(places, trivial, color=color, linestyle=":", linewidth=1)
    axis.set_xscale("log")
    partitions = sorted({row["num_partitions"] for row in grid})
    axis.set_xticks(partitions, map(str, partitions))
    axis.minorticks_off()


def _draw_gain(axis: "Axes", grid: list[dict]) -> None:
    soft = [row for row in grid if row["gain_recurrent"][0] is not None]
    exact = np.array([2, 1.3 / (1 - max(row["self_excitation"] for row in soft))])
    axis.plot(exact, exact, color="black", linewidth=0.6, label="as it should be")
    marks = ("o", "s", "^", "D", "v")
    partitions = sorted({row["num_partitions"] for row in soft})
    for i, (number, mark) in enumerate(zip(partitions, marks)):
        rows = [row for row in soft if row["num_partitions"] == number]
        for field, name in (("gain_recurrent", "recurrent"), ("gain_feedforward", "feed-forward")):
            found = np.array([spread(row[field]) for row in rows])
            places = np.array([1 / (1 - row["self_excitation"]) for row in rows]) * (1 + 0.04 * (i - 1.5))
            axis.errorbar(
                places,
                found[:, 0],
                np.abs(found[:, 1:].T - found[:, 0]),
                fmt=mark,
                markersize=3,
                linewidth=0.8,
                color=COLORS[name],
                label=name if i == 0 else None,
            )
        axis.plot([], [], mark, markersize=3, color="#666666", label=f"{number} partitions")
    axis.set(xlabel="gain 1 / (1 - a)", ylabel="gain found", title="gain of contrast, two active")
    ticks = (1, 2, 5, 10, 20)
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(ticks, map(str, ticks))
    axis.set_yticks(ticks, map(str, ticks))
    axis.minorticks_off()
    axis.set(xlim=(exact[0], exact[1]), ylim=(None, 4 * exact[1]))  # room for the legend
    axis.legend(loc="upper left", borderaxespad=0, ncols=2, columnspacing=1, handletextpad=0.4)


def _line(axis: "Axes", places, values, color, label: str) -> None:
    """Means over seeds, in percent, with the 95 % interval of the mean."""
    found = 100 * np.array([spread(each) for each in values])
    axis.plot(places, found[:, 0], color=color, marker="o", markersize=2.5, label=label)
    axis.fill_between(places, found[:, 1], np.minimum(found[:, 2], 100), color=color, alpha=0.2, linewidth=0)
