"""The figures, drawn from the records alone: `python -m experiments.figures` draws them all again."""

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rnn2ff.plotting import COLORS, house_style, new_figure, plot_phase_plane, plot_rates, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE = Path(__file__).parent


@house_style
def competition(record: dict) -> "Figure":
    """Steady against predicted rates, agreement by margin, and examples from a close to a clear competition."""
    random, digits = record["rows"]
    examples = digits["examples"]
    figure, axes = new_figure(2 + len(examples), height=2.1, width_ratios=[1.5, 1.5, 1, 1, 1])
    plot_rates(axes[0], random["points"]["steady"], random["points"]["predicted"], nrmse=random["nrmse"])

    judged = random["competition"]
    edges = judged["margin_edges"]
    names = [f"{low:g}-{high:g}" if high is not None else f"> {low:g}" for low, high in pairwise(edges)]
    place = np.arange(len(names))
    for name, values in [
        ("feed-forward", judged["agreement_by_margin"]),
        ("trivial", judged["trivial_agreement_by_margin"]),
    ]:
        shown = [np.nan if value is None else 100 * value for value in values]
        label = "largest stimulus" if name == "trivial" else name
        axes[1].plot(place, shown, marker="o", markersize=2.5, color=COLORS[name], label=label)
    axes[1].set_xticks(place, names, rotation=45, ha="right")
    axes[1].set(xlabel="margin of the stimulus", ylabel="same winner (%)", title="winners, by margin")
    axes[1].legend(loc="lower right", borderaxespad=0)

    for i, (axis, example) in enumerate(zip(axes[2:], examples)):
        classes = np.arange(len(example["drive"]))
        axis.bar(classes, example["drive"], color="#dddddd", width=0.9, label="stimulus")
        axis.plot(classes, example["recurrent"], "o", markersize=4, color=COLORS["recurrent"], label="recurrent")
        axis.plot(
            classes, example["feed-forward"], "x", markersize=4, color=COLORS["feed-forward"], label="feed-forward"
        )
        axis.set(xlabel="class", xticks=classes[::3], title=f"a digit {example['label']}")
        axis.set_ylim(0, 1)
        if i == 0:
            axis.set_ylabel("mean over the partition")
        else:
            axis.set_yticklabels([])
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, handletextpad=0.2)
    return figure


@house_style
def canon(record: dict) -> "Figure":
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


def main() -> None:
    """Draw every figure whose record is there."""
    for name, draw in {"competition": competition, "canon": canon}.items():
        path = _HERE / "results" / f"{name}.json"
        if path.is_file():
            figure = draw(json.loads(path.read_text()))
            for ending in ("png", "pdf"):
                save_figure(figure, _HERE / "figures" / f"{name}.{ending}")
            print(_HERE / "figures" / f"{name}.png")


if __name__ == "__main__":
    main()
