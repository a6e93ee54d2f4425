"""The figure of the information transformation."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._forms import FORMS
from experiments.drawings._axes import lettered, plot_means
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETWORKS = ("recurrent", *FORMS)
_COLORS = {"computed": COLORS["trivial"], "recurrent": COLORS["recurrent"]}
_COLORS |= dict(zip(FORMS, (COLORS["feed-forward"], COLORS["sweeps"])))


def noises(rows: list[dict]) -> list[float]:
    """The deviations of noise that were tried."""
    return sorted({result["noise"] for result in rows[0]["inference"]})


def errors(rows: list[dict], kind: str, name: str, noise: float) -> tuple[list[float], list[float]]:
    """Medians and 95th percentiles of each seed, in degrees, means over the three rings.

    Args:
        rows: of the record.
        kind: `degrees` from the right angle, or `between` a form and the recurrent network.
        name: of a network, or `computed`.
        noise: its deviation.
    """
    quantiles = [[result[kind][name] for result in row["inference"] if result["noise"] == noise] for row in rows]
    return tuple(np.mean(quantiles, axis=1).T.tolist())


@house_style
def draw(record: dict) -> "Figure":
    """An inference, the errors of angles by noise, and what is made of conflicts."""
    rows, config = record["rows"], record["config"]
    figure, axes = new_figure(2, num_rows=2, height=4.7)
    _draw_example(axes[0], rows[0]["example"])

    for axis, kind, names, title in [
        (axes[1], "degrees", ("computed", *NETWORKS), "with sweeps, as right as the recurrent"),
        (axes[2], "between", FORMS, "with sweeps, nearly the same angle"),
    ]:
        label_y = f"from the {'right one' if kind == 'degrees' else 'recurrent'} (degrees)"
        _mark_trained(axis, config["largest_noise"], "trained on" if "computed" in names else None)
        for name in names:
            color, label = _COLORS[name], "computed from the cues" if name == "computed" else name
            medians, tails = zip(*(errors(rows, kind, name, noise) for noise in noises(rows)))
            plot_means(axis, noises(rows), medians, color, label)
            plot_means(axis, noises(rows), tails, color, style="--")
        axis.plot([], [], color="black", linestyle="--", label="95th percentile")
        axis.set(xlabel="noise (deviation / height of a bump)", ylabel=label_y, title=title)
        axis.set(ylim=(0, None), xlim=(0, None))
        axis.legend(loc="upper left")

    conflicts = [result["conflict"] for result in rows[0]["conflict"]]
    _mark_trained(axes[3], config["largest_conflict"])
    axes[3].plot(conflicts, np.array(conflicts) / 3, color=COLORS["trivial"], label="a third of the conflict")
    for name in NETWORKS:
        pulls = np.array([[result["pull"][name] for result in row["conflict"]] for row in rows])  # (seed, conflict, 3)
        plot_means(axes[3], conflicts, pulls[:, :, 0].T, _COLORS[name], name)
        for end in (1, 2):
            axes[3].plot(conflicts, pulls[:, :, end].mean(axis=0), color=_COLORS[name], linewidth=0.7, linestyle="--")
    axes[3].plot([], [], color="black", linewidth=0.7, linestyle="--", label="5th, 95th percentile")
    axes[3].set(xlabel="conflict of the cues (degrees)", ylabel="pull to the others (degrees)")
    axes[3].set(title="conflicting cues pull alike in all", xlim=(0, None), ylim=(None, 1.15 * conflicts[-1] / 3))
    axes[3].legend(loc="upper left")
    lettered(figure, axes, f"Means and 95 % intervals over {len(rows)} seeds; a percentile is that of single samples.")
    return figure


def _draw_example(axis: "Axes", example: dict) -> None:
    """Three rings side by side, the last without a stimulus."""
    stimulus, *rates = (np.reshape(example[name], (3, -1)) for name in ("stimulus", *NETWORKS))
    num_units = stimulus.shape[1]
    for ring in range(3):
        place = np.arange(num_units) + ring * (num_units + 1)
        first = ring == 0
        axis.bar(place, stimulus[ring], color="#cccccc", width=0.9, label="stimulus" if first else None)
        for kind, network, mark in zip(NETWORKS, rates, ("o", "x", "+")):
            label = kind if first else None
            axis.plot(place, network[ring], mark, markersize=3.5, color=_COLORS[kind], label=label)
    centers = (num_units - 1) / 2 + np.arange(3) * (num_units + 1)
    axis.set_xticks(centers, ["ring A", "ring B", "ring C, no stimulus"])
    axis.tick_params(axis="x", length=0)
    highest = max(values.max() for values in (stimulus, *rates))
    axis.set(ylabel="stimulus, rate", title="C is inferred from A and B", ylim=(None, 1.3 * highest))
    axis.legend(loc="upper right", ncols=3, handletextpad=0.2, columnspacing=1)


def _mark_trained(axis: "Axes", largest: float, label: str | None = None) -> None:
    """Shade what was trained on; an edge makes it visible in a legend that lies on it."""
    axis.axvspan(0, largest, color="#eeeeee", linewidth=0)
    axis.fill([], [], facecolor="#eeeeee", edgecolor="#999999", linewidth=0.5, label=label)
