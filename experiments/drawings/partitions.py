"""The figure of the partitions."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._forms import FORMS
from experiments.drawings._axes import lettered, plot_means
from rnn2ff.plotting import house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@house_style
def draw(record: dict) -> "Figure":
    """Winners and active sets beside the trivial guess, the error and the gain, for two layers and with sweeps."""
    from matplotlib import colormaps

    rows = record["rows"]
    figure, axes = new_figure(4, num_rows=2, height=3.9)
    strengths = sorted({row["self_excitation"] for row in rows})
    colors = dict(zip(strengths, colormaps["cividis"](np.linspace(0, 0.9, len(strengths)))))
    for i, form in enumerate(FORMS):
        panels = axes[4 * i : 4 * i + 4]
        for strength, color in colors.items():
            chosen = [row for row in rows if row["self_excitation"] == strength]
            places = [row["num_partitions"] for row in chosen]
            for axis, name in ((panels[0], "agreement"), (panels[1], "set_agreement")):
                differences = [np.subtract(row[form][name], row[f"trivial_{name}"]) for row in chosen]
                plot_means(axis, places, 100 * np.array(differences), color)
            nrmses = 100 * np.array([row[form]["nrmse"] for row in chosen])
            plot_means(panels[2], places, nrmses, color, f"a = {strength:g}")
            if strength < 1:
                gains = 100 * (1 - strength) * np.array([row[form]["gain"] for row in chosen])
                plot_means(panels[3], places, gains, color)
        for axis in panels[:2]:
            axis.axhline(0, color="black", linewidth=0.6)
        panels[3].axhline(100, color="black", linewidth=0.6)
        panels[0].set_ylabel(f"{form}\n\npoints beyond guess")
        panels[1].set_ylabel("points beyond guess")
        panels[2].set(ylim=(0, None))
        panels[2].set_ylabel("NRMSE (%)")
        panels[3].set(ylim=(0, 115))
        panels[3].set_ylabel("% of 1 / (1 - a)")
    titles = ("winner", "active partitions", "error of the rates", "gain of contrast")
    for axis, title in zip(axes, titles):
        axis.set_title(title)
    partitions = sorted({row["num_partitions"] for row in rows})
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xticks(partitions, map(str, partitions))
        axis.minorticks_off()
    for axis in axes[4:]:
        axis.set_xlabel("partitions")
    for top, bottom in zip(axes[:4], axes[4:]):  # the same scale, so that the two rows compare
        limits = [*top.get_ylim(), *bottom.get_ylim()]
        for axis in (top, bottom):
            axis.set_ylim(min(limits), max(limits))
    handles, labels = axes[2].get_legend_handles_labels()
    number = len(rows[0]["share_lost"])
    title = f"self-excitation, soft to hard; means and 95 % intervals over {number} seeds"
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), title=title)
    lettered(figure, axes)
    return figure
