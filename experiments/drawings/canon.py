"""The figure of the published networks."""

from typing import TYPE_CHECKING

import numpy as np

from experiments.drawings._axes import lettered
from rnn2ff.plotting import COLORS, house_style, new_figure, plot_phase_plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@house_style
def draw(record: dict) -> "Figure":
    """A panel for each family of published networks that shows its behavior."""
    drawings = {row["family"]: row["drawing"] for row in record["rows"]}
    figure, axes = new_figure(3, num_rows=2, height=4.6)
    colors = list(COLORS.values())

    shown = drawings["combinatorial threshold-linear"]
    trace = np.asarray(shown["trace"])
    times = np.arange(len(trace)) * shown["step"]
    for unit, color in zip(trace.T, (colors[0], colors[1], colors[3])):
        axes[0].plot(times, unit, color=color)
    axes[0].set(xlabel="time (time constants)", ylabel="rate", title="three units in a cycle", ylim=(0, None))

    shown = drawings["stabilized supralinear ring"]
    angles = np.arange(180)
    for rates, contrast, color in zip(shown["excitatory"], shown["contrasts"], (colors[2], colors[0], colors[1])):
        axes[1].plot(angles, rates, color=color, label=f"contrast {contrast:g}")
    axes[1].set(xlabel="preferred orientation (degrees)", ylabel="excitatory rate (Hz)", xticks=[0, 45, 90, 135, 180])
    axes[1].set(title="stabilized supralinear ring")
    axes[1].legend()

    for axis, family, names in [
        (axes[2], "Wilson and Cowan", ("excitatory", "inhibitory")),
        (axes[3], "Wong and Wang", ("gating 1", "gating 2")),
    ]:
        shown = drawings[family]
        plot_phase_plane(
            axis,
            shown["grid"],
            shown["grid"],
            shown["velocities"],
            states=shown["states"],
            is_stable=shown["is_stable"],
            trajectories=shown["trajectories"],
        )
        axis.set(xlabel=names[0], ylabel=names[1], title=family)

    for (tuned, rates), color in zip(drawings["ring attractor"].items(), (colors[0], colors[1])):
        angles = np.arange(len(rates)) * 180 / len(rates) - 90
        axes[4].plot(angles, np.roll(rates, len(rates) // 2), color=color, label=f"$J_2$ = {tuned}")
    axes[4].set(xlabel="preferred orientation (degrees)", ylabel="rate / peak", xticks=[-90, -45, 0, 45, 90])
    axes[4].set(title="bumps of the ring attractor")
    axes[4].legend(loc="upper right")

    quantities = [quantity for row in record["rows"] for quantity in row["quantities"]]
    _draw_numbers(
        axes[5], [quantity["published"] for quantity in quantities], [quantity["received"] for quantity in quantities]
    )

    handles, labels = axes[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    lettered(figure, axes)
    return figure


def _draw_numbers(axis: "Axes", published: list[float], here: list[float]) -> None:
    """Every published number against the one computed here, with the line where they agree."""
    ends = [min(published), max(published)]
    axis.plot(ends, ends, color="black", linewidth=0.6)
    axis.plot(published, here, "o", markersize=3.5, color=COLORS["recurrent"], markerfacecolor="none")
    for scale in (axis.set_xscale, axis.set_yscale):
        scale("symlog", linthresh=0.1, linscale=0.5)
    ticks = [-4, -1, -0.1, 0, 0.1, 1, 10, 45]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45)
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set(xlabel="published", ylabel="here", title=f"all {len(published)} numbers")
