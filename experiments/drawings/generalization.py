"""The figure of the generalization to other distributions of stimuli."""

from typing import TYPE_CHECKING

import numpy as np

from experiments._forms import FORMS
from experiments._seeds import spread
from experiments.drawings._axes import lettered, lined_up, plain_logarithmic, plot_percentages
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORM_COLORS = dict(zip(FORMS, (COLORS["feed-forward"], COLORS["sweeps"])))
_USUAL = 0.95  # share of the answers as trained that are neither bad nor flagged
_FEWEST_BAD = 0.02  # share of bad answers below which it is not shown how many of them are flagged


@house_style
def draw(record: dict) -> "Figure":
    """For each distribution and form the error, and which bad predictions are flagged; residual against error."""
    rows = record["rows"]
    names = list(dict.fromkeys(row["distribution"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = new_figure(3, num_rows=len(tasks), height=0.5 + 2.5 * len(tasks), width_ratios=[1, 1, 1.1])
    places = np.arange(len(names))[::-1]
    for task, (errors, shares, points) in zip(tasks, zip(*[iter(axes)] * 3)):
        chosen = {row["distribution"]: row for row in rows if row["task"] == task}
        for offset, (form, color) in zip((0.17, -0.17), _FORM_COLORS.items()):
            results = [chosen[name][form] for name in names]
            is_shown = [spread(result["share_bad"]).mean > _FEWEST_BAD for result in results]
            plot_percentages(errors, places + offset, [result["nrmse"] for result in results], color)
            plot_percentages(shares, places + offset, [result["share_bad"] for result in results], color, hollow=True)
            caught = [result["share_caught"] if shown else [] for result, shown in zip(results, is_shown)]
            plot_percentages(shares, places + offset, caught, color)
            for place, result, shown in zip(places + offset, results, is_shown):
                by_step = [share for share in result["share_caught_by_step"] if shown and share is not None]
                shares.plot(100 * np.mean(by_step or [np.nan]), place, "d", color=color, markersize=3)
        lined_up(errors, places, names)
        lined_up(shares, places, [""] * len(names))
        errors.set(xlabel="error (NRMSE, %)", xlim=(0, None), title=f"{task}: error")
        shares.set(xlabel="share (%)", xlim=(-3, 103), title="bad answers")
        _draw_answers(points, chosen, names)
    handles = [axes[0].plot([], [], "o", markersize=4, color=c, label=form)[0] for form, c in _FORM_COLORS.items()]
    marks = [("o", "white", "bad, of all answers"), ("o", "black", "of the bad ones flagged by the residual")]
    for mark, face, label in (*marks, ("d", "black", "... by a step of Newton")):
        handles += axes[1].plot([], [], mark, markersize=4, color="black", markerfacecolor=face, label=label)
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), handletextpad=0.1)
    seeds = len(rows[0][FORMS[0]]["nrmse"])
    note = f"Means and 95 % intervals over {seeds} seeds. Dashed, for each form: what 5 % exceed as trained."
    lettered(figure, axes, note)
    return figure


def _draw_answers(axis: "Axes", chosen: dict[str, dict], names: list[str]) -> None:
    """Residual and error of single answers: dots of two layers, crosses with sweeps."""
    from matplotlib import colormaps

    shown = [names[0], *(name for name in names if name.startswith(("scaled by 2", "shifted by 2", "adversarial")))]
    palette = colormaps["magma"](np.linspace(0, 0.85, len(shown)))  # not those of the networks
    for name, color in zip(shown, palette):
        for form, mark in zip(FORMS, ("o", "x")):
            label = name if mark == "o" else None
            axis.plot(*chosen[name][form]["points"], mark, markersize=2.2, color=color, alpha=0.8, label=label)
    for form in FORMS:  # what is flagged is to the right of its line, what is bad above
        for guide, values in zip((axis.axvline, axis.axhline), chosen[names[0]][form]["points"]):
            guide(np.quantile(values, _USUAL), color=_FORM_COLORS[form], linewidth=0.8, linestyle="--")
    axis.set(xscale="log", yscale="log", title="single answers (with sweeps: x)")
    axis.set(xlabel="residual (rms, units of rate)", ylabel="error (rms, units of rate)")
    plain_logarithmic(axis.xaxis, (1,))
    plain_logarithmic(axis.yaxis, (1,))
    legend = axis.legend(handletextpad=0.1, borderaxespad=0, loc="lower right", labelspacing=0.2)
    axis.set_ylim(axis.get_ylim()[0] / 20)  # room for it
    legend.set_frame_on(True)  # covers the dashed lines
    legend.get_frame().set(edgecolor="none", alpha=1)
