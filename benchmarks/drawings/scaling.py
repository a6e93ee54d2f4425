"""The figure of `scaling`."""

from typing import TYPE_CHECKING

from rnn2ff.plotting import COLORS, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = {
    "GEMM pair": ("products of the pass", "trivial", "--"),
    "pass": ("pass", "feed-forward", "-"),
    "Anderson": ("Anderson", "third", "-"),
    "solve_steady_states, plan reused": ("plan reused", "fourth", "-"),
    "Tsit5": ("rollout, Tsit5", "recurrent", "-"),
}
_LABELS = {
    "units": "units N",
    "hidden units": "hidden units H",
    "batch": "stimuli in a batch",
    "distance to instability": "1 - spectral radius",
}


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
            values, times = [value for value, _ in points], [each[0] for _, each in points]
            text = f"{shown}, {slopes[name]['exponent']:.2f}" if name in slopes else shown
            axis.plot(values, times, style, marker="o", markersize=2.5, color=COLORS[color], label=text)
            lower, upper = ([each[i] for _, each in points] for i in (1, 2))
            axis.fill_between(values, lower, upper, color=COLORS[color], alpha=0.2, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="microseconds a stimulus")
        ticks = sorted({row["value"] for row in chosen})
        if len(ticks) > 6:
            ticks = ticks[::2]
        axis.set_xticks(ticks, [f"{each:g}" for each in ticks])
        axis.minorticks_off()
        low, top = axis.get_ylim()
        axis.set_ylim(low, top * (top / low) ** 0.45)  # room for the legend
        axis.legend(loc="upper left", ncols=2, handlelength=1.5, columnspacing=1, borderaxespad=0)
    return figure
