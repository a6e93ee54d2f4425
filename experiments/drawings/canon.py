"""The figure of the published networks."""

from typing import TYPE_CHECKING

import numpy as np

from rnn2ff.plotting import COLORS, house_style, new_figure, plot_phase_plane

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@house_style
def draw(record: dict) -> "Figure":
    """A panel for each family of published networks that shows what it does."""
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

    shown = drawings["ring with tuned input"]
    angles = np.arange(len(shown["noisy"])) * 360 / len(shown["noisy"])
    axes[5].plot(angles, shown["noisy"], ".", markersize=3, color=colors[2], label="stimulus")
    axes[5].plot(angles, shown["noisy rates"], color=colors[1], label="rate")
    axes[5].plot(angles, shown["clean rates"], color=colors[0], label="rate without noise")
    axes[5].set(
        xlabel="preferred angle (degrees)",
        xticks=[0, 90, 180, 270, 360],
        title="a ring rejects noise",
        ylim=(None, 3.8),
    )
    axes[5].legend(handletextpad=0.4, borderaxespad=0)

    handles, labels = axes[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure
