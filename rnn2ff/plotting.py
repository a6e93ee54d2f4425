"""Figures, drawn from plain arrays and records. Needs the extra `plot`, and never JAX."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from rnn2ff._checks import require_extra
from rnn2ff.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

COLUMN_WIDTH, PAGE_WIDTH = 3.5, 7.2  # inches, of a two-column page
_MOST_DOTS = 3000  # of a scatter plot 2.5 inches wide, in which more would only cover each other

# The palette of Okabe and Ito, distinguishable for all kinds of color vision.
COLORS = {
    "recurrent": "#0072B2",
    "feed-forward": "#D55E00",
    "trivial": "#999999",
    "sweeps": "#009E73",
    "other": "#CC79A7",
}
_UNIT_COLORS = (*COLORS.values(), "#56B4E9", "#E69F00", "#000000")  # with the rest of the palette; yellow is too pale

_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.hashsalt": "rnn2ff",
}


def house_style(draw: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Make a function draw in the house style, and leave matplotlib's own settings as they are.

    Raises:
        ModuleNotFoundError: when the function is called, if matplotlib is not installed, naming the extra.
    """

    @functools.wraps(draw)
    def styled(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        require_extra("plot", "matplotlib")
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@house_style
def new_figure(
    num_columns: int = 1,
    *,
    num_rows: int = 1,
    width: float = PAGE_WIDTH,
    height: float = 2.3,
    width_ratios: Sequence[float] | None = None,
) -> "tuple[Figure, list[Axes]]":
    """A figure with its axes side by side, row by row; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, width_ratios=width_ratios)
    return figure, list(axes.ravel())


@house_style
def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure in the format its name ends with, whole or not at all."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # the same figure gives the same bytes
    with replacing(path) as temporary:
        figure.savefig(temporary, metadata=dates.get(temporary.suffix))


@house_style
def to_svg(figure: "Figure") -> bytes:
    """A figure as SVG, for example to embed in a page; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


@house_style
def plot_rates(axes: "Axes", target: ArrayLike, predicted: ArrayLike, *, nrmse: float) -> None:
    """Predicted against steady rates, one dot per entry (at most 3000, at random), with the line where they agree.

    Args:
        axes: where to draw.
        target: steady rates, any shape.
        predicted: predicted rates, of the same shape.
        nrmse: of all test samples, for the caption.
    """
    target, predicted = np.ravel(target), np.ravel(predicted)
    low, top = min(0.0, target.min(), predicted.min()), max(0.0, target.max(), predicted.max())
    margin = 0.03 * (top - low or 1.0)
    limits = (low - margin, top + margin)
    axes.plot([low, top], [low, top], color="black", linewidth=0.6, zorder=3)
    shown = np.sort(np.random.default_rng(0).permutation(target.size)[:_MOST_DOTS])
    axes.scatter(
        target[shown], predicted[shown], s=3, color=COLORS["feed-forward"], alpha=0.25, linewidths=0, rasterized=True
    )
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel="steady rate, recurrent", ylabel="rate, feed-forward", title=f"error {100 * nrmse:.1f} % (NRMSE)")


@house_style
def plot_learning(
    axes: "Axes", training: Mapping[str, object], *, variance: float, test_nrmse: float | None = None
) -> None:
    """The course of a training: NRMSE on the held-out part against optimizer steps.

    Args:
        axes: where to draw.
        training: `steps` and `validation_errors`, as in a report.
        variance: of the steady rates about per-unit means; turns errors into NRMSE.
        test_nrmse: on the test stimuli, drawn as a dashed line.
    """
    from matplotlib.ticker import LogLocator

    nrmse = 100 * np.sqrt(np.asarray(training["validation_errors"]) / variance)
    axes.plot(np.asarray(training["steps"]), nrmse, color=COLORS["feed-forward"], marker="o", markersize=2)
    axes.set(xlabel="optimizer steps", ylabel="error on held-out pairs (NRMSE, %)")
    if test_nrmse is not None:
        axes.axhline(100 * test_nrmse, color="black", linewidth=0.6, linestyle="--")
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "top", "fontsize": 7}
        axes.annotate(f"test {100 * test_nrmse:.3g} %", (0, 100 * test_nrmse), (2, -2), **place)
    if nrmse.max() < 10 * nrmse.min():  # a logarithmic axis would have one number on it
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


@house_style
def plot_tails(axes: "Axes", errors: Mapping[str, ArrayLike]) -> None:
    """The share of units, or of stimuli, with an error above each size: how bad the worst are.

    Args:
        axes: where to draw.
        errors: errors by the name of what they refer to, such as NRMSE of units; non-finite ones are left out.
    """
    for (name, values), color in zip(errors.items(), (COLORS["recurrent"], COLORS["feed-forward"], COLORS["sweeps"])):
        values = np.sort(np.asarray(values, float)[np.isfinite(values)])
        above = 1 - np.arange(len(values)) / max(len(values), 1)
        axes.step(100 * values, 100 * above, where="post", color=color, label=f"{name} (n = {len(values)})")
    axes.axhline(5, color="black", linewidth=0.6, linestyle="--")
    axes.annotate("5 %", (0, 5), (2, 2), ("axes fraction", "data"), textcoords="offset points", fontsize=7)
    axes.set(xlabel="error at least (NRMSE, %)", ylabel="share (%)", ylim=(0, 102))
    axes.set_xlim(left=0)
    axes.legend()


@house_style
def plot_trajectory(
    axes: "Axes", times: ArrayLike, rates: ArrayLike, *, steady_rates: ArrayLike | None = None, most_units: int = 8
) -> None:
    """Rates, or states, of a network on their way to rest, one line per unit, labeled at its end.

    Args:
        axes: where to draw.
        times: as from `rnn2ff.simulate`.
        rates: one row per time.
        steady_rates: where they should end, one per unit; drawn as dots at the end.
        most_units: how many are drawn in color and labeled: those that change most. Others are gray.
    """
    times, rates = np.asarray(times, float), np.asarray(rates, float)
    by_size = np.argsort(-np.ptp(rates, axis=0), kind="stable")
    for place, unit in list(enumerate(by_size))[::-1]:
        is_named = place < most_units
        color = _UNIT_COLORS[place % len(_UNIT_COLORS)] if is_named else "#cccccc"
        axes.plot(times, rates[:, unit], color=color, linewidth=1.2 if is_named else 0.5, zorder=2 + is_named)
        if is_named:
            axes.annotate(f"{unit}", (times[-1], rates[-1, unit]), (5, 0), textcoords="offset points", va="center")
        if steady_rates is not None:
            axes.plot(times[-1], np.asarray(steady_rates)[unit], "o", color=color, markersize=3, zorder=4)
    axes.set(xlabel="time", ylabel="rate", xlim=(times[0], times[-1] + 0.02 * np.ptp(times)))


@house_style
def plot_phase_plane(
    axes: "Axes",
    first: ArrayLike,
    second: ArrayLike,
    velocities: ArrayLike,
    *,
    states: ArrayLike = (),
    is_stable: ArrayLike = (),
    trajectories: Sequence[ArrayLike] = (),
    num_arrows: int = 13,
) -> None:
    """The phase plane of a network of two units: flow, nullclines, fixed points, and trajectories.

    Args:
        axes: where to draw.
        first: values of the first unit, evenly spaced.
        second: values of the second unit.
        velocities: shape (second, first, 2), the velocity on this grid; a fine grid gives smooth nullclines.
        states: fixed points, one per row.
        is_stable: whether each is stable.
        trajectories: each with one state per row, in the order of time.
        num_arrows: along each axis; all have the same length and show only the direction.
    """
    first, second, velocities = (np.asarray(array) for array in (first, second, velocities))
    columns, rows = (np.linspace(0, len(grid) - 1, num_arrows + 2)[1:-1].astype(int) for grid in (first, second))
    arrows = velocities[np.ix_(rows, columns)]
    # Of one length on paper: the axes may have different units.
    arrows = arrows / np.array([np.ptp(first), np.ptp(second)])
    arrows = arrows / np.maximum(np.linalg.norm(arrows, axis=-1, keepdims=True), np.finfo(float).tiny)
    axes.quiver(
        first[columns], second[rows], *np.moveaxis(arrows, -1, 0), color="#bbbbbb", pivot="mid", scale=26, width=0.004
    )
    for trajectory in trajectories:
        axes.plot(*np.asarray(trajectory).T, color="black", linewidth=0.7, zorder=2)
    for unit, color in enumerate((COLORS["recurrent"], COLORS["feed-forward"])):
        axes.contour(first, second, velocities[..., unit], [0.0], colors=[color], linewidths=1.4, zorder=3)
        axes.plot([], [], color=color, label=f"unit {unit + 1} at rest")
    _plot_fixed_points(axes, np.asarray(states).reshape(-1, 2), is_stable)
    axes.set(xlim=(first[0], first[-1]), ylim=(second[0], second[-1]), xlabel="unit 1", ylabel="unit 2")


@house_style
def plot_in_principal_components(
    axes: "Axes", states: ArrayLike, is_stable: ArrayLike, *, trajectories: Sequence[ArrayLike] = ()
) -> None:
    """Fixed points of a large network in the plane in which they, and its trajectories, spread most.

    Args:
        axes: where to draw.
        states: fixed points, one per row.
        is_stable: whether each is stable.
        trajectories: each with one state per row, in the order of time.
    """
    states = np.asarray(states, float)
    everything = np.concatenate([states, *(np.asarray(motion, float) for motion in trajectories)])
    mean = everything.mean(axis=0)
    _, sizes, directions = np.linalg.svd(everything - mean, full_matrices=False)
    if len(directions) < 2:  # a single point spreads nowhere
        directions = np.concatenate([directions, np.zeros((2 - len(directions), states.shape[1]))])
        sizes = np.append(sizes, 0.0)
    shares = 100 * sizes[:2] ** 2 / max(float((sizes**2).sum()), np.finfo(float).tiny)
    for trajectory in trajectories:
        axes.plot(*((np.asarray(trajectory) - mean) @ directions[:2].T).T, color="#999999", linewidth=0.6, zorder=1)
    _plot_fixed_points(axes, (states - mean) @ directions[:2].T, is_stable)
    axes.set(xlabel=f"component 1 ({shares[0]:.0f} %)", ylabel=f"component 2 ({shares[1]:.0f} %)")


def _plot_fixed_points(axes: "Axes", points: np.ndarray, is_stable: ArrayLike) -> None:
    """Filled dots are stable, hollow ones are not."""
    is_stable = np.asarray(is_stable, bool).reshape(len(points))
    for chosen, face, label in [(is_stable, "black", "stable"), (~is_stable, "white", "unstable")]:
        if chosen.any():
            axes.scatter(
                *points[chosen].T, s=24, facecolor=face, edgecolor="black", linewidths=1, label=label, zorder=5
            )
