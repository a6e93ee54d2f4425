"""The figure of the noise rejection."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._seeds import spread
from experiments.drawings._axes import lettered
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORKS = ("recurrent", "feed-forward")
_TITLES = {"ring": "ring", "relation": "relation A + B = C", "competition": "competition, noisy losers"}


def is_trained(row: dict) -> np.ndarray:
    """Which sizes of the noise are within the range of the training."""
    return np.array(row["noises"]) <= 1.001 * row["trained_noise"]


@house_style
def draw(record: dict) -> "Figure":
    """Noise left in the rates against noise in the stimuli, for each network."""
    rows = record["rows"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = new_figure(len(tasks), height=2.5)
    for axis, name in zip(axes, tasks):
        found = [row for row in rows if row["task"] == name]
        noise_in = np.mean([row["noise_in"] for row in found], axis=0)
        axis.axvspan(noise_in[0] - 3, noise_in[is_trained(found[0])][-1], color="#eeeeee", linewidth=0)
        axis.plot(noise_in, noise_in, color=COLORS["trivial"], label="nothing rejected")
        for network in NETWORKS[::-1]:
            style = {"markersize": 4.5, "markerfacecolor": "none", "linewidth": 0.8} if network == "recurrent" else {}
            style = {"marker": "o", "markersize": 2.5, **style}
            values = np.array([spread(each) for each in np.transpose([row["noise_out"][network] for row in found])])
            axis.plot(noise_in, values[:, 0], color=COLORS[network], label=network, **style)
            axis.fill_between(noise_in, values[:, 1], values[:, 2], color=COLORS[network], alpha=0.2, linewidth=0)
        floor = np.mean([row["floor"] for row in found])
        axis.axhline(floor, color=COLORS["feed-forward"], linewidth=0.7, linestyle=":", label="feed-forward, no noise")
        axis.set(xlabel="noise / signal, stimuli (dB)", title=_TITLES[name])
        # What is far below the floor is no noise to speak of.
        axis.set(xlim=(noise_in[0] - 3, noise_in[-1] + 1), ylim=(floor - 5, noise_in[-1] + 3))
        left = np.mean([row["noise_out"]["recurrent"] for row in found], axis=0)[0]
        if left < floor - 5:
            place = {"fontsize": 7, "ha": "left", "va": "bottom", "color": COLORS["recurrent"]}
            axis.annotate("recurrent: no noise left", (noise_in[1], floor - 4.5), **place)
    axes[0].set(ylabel="noise / signal, rates (dB)")
    axes[0].fill([], [], facecolor="#eeeeee", edgecolor="#999999", linewidth=0.5, label="trained on")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
    lettered(figure, axes, f"Means and 95 % intervals over {len(found)} seeds.")
    return figure
