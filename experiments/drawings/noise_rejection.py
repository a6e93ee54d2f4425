"""The figure of the noise rejection."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._forms import FORMS
from experiments._seeds import spread
from experiments.drawings._axes import lettered
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = dict(zip(("recurrent", *FORMS), (COLORS[name] for name in ("recurrent", "feed-forward", "sweeps"))))
_TITLES = {"ring": "ring", "relation": "relation A + B = C", "competition": "competition, noisy losers"}


def is_trained(row: dict) -> np.ndarray:
    """Which sizes of the noise are within the range of the training."""
    return np.array(row["noises"]) <= 1.001 * row["trained_noise"]


@house_style
def draw(record: dict) -> "Figure":
    """Noise left in the rates against noise in the stimuli, for each network."""
    rows = record["rows"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = new_figure(len(tasks), height=3.0)
    for axis, name in zip(axes, tasks):
        chosen = [row for row in rows if row["task"] == name]
        noise_in = np.mean([row["noise_in"] for row in chosen], axis=0)
        axis.axvspan(noise_in[0] - 3, noise_in[is_trained(chosen[0])][-1], color="#eeeeee", linewidth=0)
        axis.plot(noise_in, noise_in, color=COLORS["trivial"], label="nothing rejected")
        for network, color in _COLORS.items():
            values = np.array(
                [spread(over_seeds) for over_seeds in np.transpose([row["noise_out"][network] for row in chosen])]
            )
            # The recurrent network as open circles above the others, which mostly coincide with it.
            style = {"markersize": 5, "markerfacecolor": "none", "zorder": 3} if network == "recurrent" else {}
            style = {"markersize": 2.5, **style}
            axis.plot(noise_in, values[:, 0], color=color, marker="o", label=network, **style)
            axis.fill_between(noise_in, values[:, 1], values[:, 2], color=color, alpha=0.2, linewidth=0)
        floors = {form: np.mean([row["floor"][form] for row in chosen]) for form in FORMS}
        for form, floor in floors.items():
            axis.axhline(floor, color=_COLORS[form], linewidth=0.7, linestyle=":", label=f"{form}, no noise")
        axis.set(xlabel="noise / signal, stimuli (dB)", title=_TITLES[name])
        # Noise far below the floors is negligible.
        axis.set(xlim=(noise_in[0] - 3, noise_in[-1] + 1), ylim=(min(floors.values()) - 5, noise_in[-1] + 3))
    axes[0].set(ylabel="noise / signal, rates (dB)")
    axes[0].fill([], [], facecolor="#eeeeee", edgecolor="#999999", linewidth=0.5, label="trained on")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=-(-len(handles) // 2))
    seeds = sum(row["task"] == tasks[0] for row in rows)
    note = f"Means and 95 % intervals over {seeds} seeds; where one leaves the panel, some seeds have no noise left."
    lettered(figure, axes, note)
    return figure
