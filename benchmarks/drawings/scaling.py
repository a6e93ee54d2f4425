"""The figure of `scaling`."""

from typing import TYPE_CHECKING

from experiments.drawings._axes import lettered
from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = {
    "GEMM pair": ("products of the pass", "trivial", "--"),
    "pass": ("pass", "feed-forward", "-"),
    "Anderson": ("Anderson", "sweeps", "-"),
    "solve_steady_states, plan reused": ("plan reused", "other", "-"),
    "Tsit5": ("rollout, Tsit5", "recurrent", "-"),
}
_LABELS = {
    "units": "units N",
    "hidden units": "hidden units H",
    "batch": "stimuli in a batch",
    "distance to instability": "1 - spectral radius",
}
_TITLES = {
    "units": "larger networks",
    "hidden units": "wider passes",
    "batch": "larger batches",
    "distance to instability": "nearer to instability",
}
_WITH_SLOPES = ("units", "hidden units")  # where time is near a power of the size; elsewhere an exponent says nothing


@house_style
def draw(record: dict) -> "Figure":
    """Time for one stimulus along each axis, in logarithms, with quartiles and the exponents."""
    rows = record["rows"]
    figure, axes = new_figure(2, num_rows=2, height=4.6)
    for axis, (along, label) in zip(axes, _LABELS.items()):
        chosen = [row for row in rows if row["axis"] == along and "microseconds" in row]
        slopes = {row["method"]: row for row in rows if row["axis"] == along and row["kind"] == "exponent"}
        for name, (shown, color, style) in _SHOWN.items():
            points = sorted((row["value"], row["microseconds"]) for row in chosen if row["method"] == name)
            if not points:
                continue
            values, times = [value for value, _ in points], [quartiles[0] for _, quartiles in points]
            axis.plot(values, times, style, marker="o", markersize=2.5, color=COLORS[color], label=shown)
            if name in slopes and along in _WITH_SLOPES:
                low, high = slopes[name]["interval"]
                slope = f"{slopes[name]['exponent']:.1f} [{low:.1f}, {high:.1f}]"
                place = {"xytext": (5, -7 if style == "--" else 0), "textcoords": "offset points", "va": "center"}
                axis.annotate(slope, (values[-1], times[-1]), **place, fontsize=7, color=COLORS[color])
            lower, upper = ([quartiles[i] for _, quartiles in points] for i in (1, 2))
            axis.fill_between(values, lower, upper, color=COLORS[color], alpha=0.2, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="microseconds a stimulus", title=_TITLES[along])
        ticks = sorted({row["value"] for row in chosen})
        if len(ticks) > 6:
            ticks = ticks[::2]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        if along in _WITH_SLOPES:
            low, top = axis.get_xlim()
            axis.set_xlim(low, top * (top / low) ** 0.2)  # room for the slopes
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    note = "Medians, bands between quartiles. At the lines: the exponent of a fitted power law, with its 95 % interval."
    lettered(figure, axes, note)
    return figure
