"""All fixed points of a network for one stimulus, stable or not, with an audit of completeness.

Searches start at random states, at states that the dynamics visit, and between the fixed points found so far, in
rounds, until a round finds nothing new. The dynamics are followed over growing windows of time, in units of the
network's own time scales, so that the unit of time does not matter.

The list of a small threshold-linear network is complete, since every support is tried. Other lists are audited by the
index theorem: where it holds, the signs of `det(-J)` sum to +1 over all fixed points, and a list with another sum is
incomplete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Bool, Complex, Float, Int, PRNGKeyArray

from rnn2ff._checks import (
    check_array,
    check_at_least,
    check_key,
    check_on_host,
    check_stimulus,
    check_tolerance,
    fail,
    shape_of,
)
from rnn2ff.analysis.dynamics import follow
from rnn2ff.analysis.index import Audit, audit_indices, known_box
from rnn2ff.analysis.linearization import modes
from rnn2ff.analysis.multistart import MultistartSearch
from rnn2ff.analysis.newton import LANES, LARGEST_DENSE
from rnn2ff.analysis.supports import MOST_UNITS, enumerate_fixed_points
from rnn2ff.networks import RateNetwork, RecurrentNetwork, blas_threads, in_precision, is_threshold_linear
from rnn2ff.plotting import COLUMN_WIDTH, new_figure, plot_in_principal_components
from rnn2ff.records import readable
from rnn2ff.steady_state import neutral_growth, proved_rate

if TYPE_CHECKING:
    from rnn2ff.plotting import Figure

_MOST_SHOWN = 8  # stable points of a list that is printed


@readable
class FixedPoints(NamedTuple):
    """The fixed points of a network for one stimulus; arrays on the host, one row per point, stable ones first.

    A network and the map `x+ = x + tau dx/dt` share their fixed points, but not their stability. `is_stable` is that of
    the dynamics in time, `is_stable_map` that of the map. Tau are the time constants or, where a network declares none,
    the `time_scales` at the fixed point. For a network that is a map, such as a cell from PyTorch, both refer to the
    cell itself, as do the basins.

    Attributes:
        states: the fixed points.
        residuals: `max |tau dx/dt| / (1 + max |x|)`, recomputed on `states`.
        eigenvalues: of the velocity's Jacobian, per unit of time, rightmost first; for a map as in `Linearization`.
        is_stable: whether perturbations decay, or at least do not grow.
        spectral_radii: of `I + tau J`, the Jacobian of the map.
        is_stable_map: whether no spectral radius is above 1.
        indices: the sign of `det(-J)`; 0 where J is singular, or points of opposite sign are too close to separate.
        audit: whether the list is complete, as an `Audit`.
        explanation: the audit in words.
        starts: the states at which searches and dynamics were started.
        reached_by_newton: the row of the fixed point that the search from each start converged to; -1 for none.
        reached_by_dynamics: the row of the fixed point that the dynamics reached from each start; -1 for none.
        failures: numbers of failed searches by reason, those of later rounds included.
    """

    states: Float[np.ndarray, "point state"]
    residuals: Float[np.ndarray, " point"]
    eigenvalues: Complex[np.ndarray, "point state"]
    is_stable: Bool[np.ndarray, " point"]
    spectral_radii: Float[np.ndarray, " point"]
    is_stable_map: Bool[np.ndarray, " point"]
    indices: Int[np.ndarray, " point"]
    audit: Audit
    explanation: str
    starts: Float[np.ndarray, "start state"]
    reached_by_newton: Int[np.ndarray, " start"]
    reached_by_dynamics: Int[np.ndarray, " start"]
    failures: dict[str, int]

    def _describe(self) -> tuple[str, dict[str, object]]:
        stable, basins = int(self.is_stable.sum()), self.basin_counts
        lines = {"stable, unstable": f"{stable}, {len(self.states) - stable}", self.audit.name: self.explanation}
        for i in np.flatnonzero(self.is_stable)[:_MOST_SHOWN]:
            lines[f"point {i}, stable"] = f"reached from {basins[i]} of {len(self.starts)} starts"
        if stable > _MOST_SHOWN:
            lines["..."] = f"{stable - _MOST_SHOWN} more stable ones"
        count, size = self.states.shape
        return f"{count} fixed {'point' if count == 1 else 'points'} of {size} units", lines

    def plot(self) -> "Figure":
        """The fixed points in the plane in which they spread most; full dots are stable.

        Raises:
            ValueError: if there are none.
            ModuleNotFoundError: if matplotlib is not installed, naming the extra.
        """
        if not len(self.states):
            raise fail("states", "are none", "a fixed point to draw", "an empty list")
        figure, (axes,) = new_figure(width=COLUMN_WIDTH, height=2.8)
        plot_in_principal_components(axes, self.states, self.is_stable)
        return figure

    @property
    def index_sum(self) -> int:
        """The sum of the indices."""
        return int(self.indices.sum())

    @property
    def newton_counts(self) -> Int[np.ndarray, " point"]:
        """How many starts led a search to each fixed point."""
        return _counts(self.reached_by_newton, len(self.states))

    @property
    def basin_counts(self) -> Int[np.ndarray, " point"]:
        """How many starts led the dynamics to each fixed point: the size of its basin, by sampling."""
        return _counts(self.reached_by_dynamics, len(self.states))


def find_fixed_points(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    *,
    num_starts: int = 256,
    starts: Float[ArrayLike, "start state"] | None = None,
    box: tuple[float, float] | None = None,
    enumerate_supports: bool | None = None,
    tolerance: float | None = None,
    key: PRNGKeyArray,
) -> FixedPoints:
    """Find the fixed points of a network for one stimulus, and audit whether the list is complete.

    Runs on the host. Needs Jacobians: meant for networks of up to a few hundred units, and at most 1024.

    Args:
        network: any network; sparse weights are made dense.
        stimulus: a constant stimulus.
        num_starts: number of random starts.
        starts: additional states to start from, such as those that a trained cell visits, one per row.
        box: the smallest and the largest value of every unit. Random starts are drawn from it, uniformly; searches
            start at 0 (if inside), at its corners and on its low edges as well. Fixed points outside are discarded, and
            if the velocity points inward on all faces, the indices inside must sum to +1. By default -1 to 1 for a GRU,
            and none for others.
        enumerate_supports: whether to try all supports of a threshold-linear network, which gives the complete list; by
            default up to 16 units.
        tolerance: the residual below which a state counts as at rest; by default the dtype's.
        key: a PRNG key.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, the tolerance is below what the dtype can reach, the
            box is empty, the network is too large, or `enumerate_supports` is not possible.

    References:
        Sussillo and Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
        networks, Neural Computation 25, 2013.
        Morrison, Degeratu, Itskov and Curto, arXiv 1605.04463 (the indices of threshold-linear networks).
        Shampine and Reichelt, The MATLAB ODE suite, SIAM Journal on Scientific Computing 18, 1997 (the integrators
        `ode23` and, where the dynamics are stiff, `ode23s`).

    Example:
        The fixed points of two populations, and whether the list is complete:

            points = rnn2ff.find_fixed_points(rnn2ff.wilson_cowan(), jnp.zeros(2), key=jr.key(0))
            print(points.states, points.is_stable, points.explanation)
    """
    check_on_host("find_fixed_points", "use `solve_steady_state`", network, stimulus)
    check_key(key)
    tolerance = check_tolerance(tolerance, network.dtype)
    check_at_least("num_starts", num_starts, 1)
    check_stimulus(stimulus, network.stimulus_size)
    size = network.state_size
    if size > LARGEST_DENSE:
        raise fail("network", "is too large for its Jacobians", f"at most {LARGEST_DENSE} units", size)
    extra = np.zeros((0, size)) if starts is None else starts
    check_array("starts", extra, (*shape_of("starts", extra)[:1], size))
    if box is not None:
        check_array("box", box, (2,))
    if box is not None and not box[0] < box[1]:
        raise fail("box", "is empty", "two finite numbers, the smaller first", box)
    is_small = is_threshold_linear(network) and size <= MOST_UNITS
    if enumerate_supports and not is_small:
        expected = f"a threshold-linear network of at most {MOST_UNITS} units"
        raise fail("enumerate_supports", "is not possible", expected, f"{network.vector_field} of {size} units")
    is_complete = is_small if enumerate_supports is None else enumerate_supports
    if isinstance(network, RateNetwork):
        network = eqx.tree_at(lambda network: network.params.recurrent_weights, network, network.dense_weights)
    stimulus, extra = in_precision("stimulus", stimulus, network.dtype), in_precision("starts", extra, network.dtype)
    with blas_threads(size):
        return _find(network, stimulus, num_starts, extra, box, is_complete, tolerance, key)


def _find(network, stimulus, num_starts, given, box, is_complete, tolerance, key) -> FixedPoints:
    search = MultistartSearch(network, stimulus, tolerance, known_box(network) if box is None else box, key)
    given = np.asarray(given)
    (drawn, drawn_points), low = search.draw(num_starts, "starts"), search.draw_low(min(num_starts, LANES))
    starts = np.concatenate([given, drawn])
    followed = follow(network, stimulus, np.concatenate([starts, low]))
    points = np.concatenate([search.to_points(given), drawn_points]) if len(given) else drawn_points
    newton_ends = search.search_from(points)
    search.search(np.concatenate([low, followed.visited]))
    arrived = search.search_near(followed.ends)
    num_degenerate = 0
    if is_complete:
        listed = enumerate_fixed_points(network, np.asarray(stimulus))
        search.add(listed.states.astype(network.dtype))
        num_degenerate = listed.num_degenerate
    else:
        search.search_on(num_starts)
    is_stiff = followed.is_stiff[: len(starts)]
    return _report(search, starts, newton_ends, arrived[: len(starts)], is_stiff, num_degenerate, is_complete)


def _report(
    search: MultistartSearch, starts, newton_ends, arrived, is_stiff, num_degenerate, is_complete
) -> FixedPoints:
    network, neutral = search.network, neutral_growth(search.network.dtype)
    scales = search.time_scales().astype(np.float64)
    eigenvalues, radii = modes(network, np.asarray(search.jacobians, np.float64), scales)
    is_stable_map = radii < 1 + neutral
    is_stable = is_stable_map if network.is_map else eigenvalues[:, 0].real * scales.max(axis=1) < neutral
    order = np.lexsort((*np.round(search.states.T[::-1], 6), ~is_stable))
    search.states, search.residuals, search.jacobians, search.is_several = (
        values[order] for values in (search.states, search.residuals, search.jacobians, search.is_several)
    )
    is_stable, indices = is_stable[order], search.indices()
    reached_by_dynamics = search.match(arrived)
    # An implicit method may stop at a fixed point that is unstable for the dynamics.
    rows = np.flatnonzero(is_stiff & (reached_by_dynamics >= 0))
    reached_by_dynamics[rows[~is_stable[reached_by_dynamics[rows]]]] = -1
    audit, explanation = audit_indices(
        indices,
        num_degenerate,
        size=network.state_size,
        is_complete=is_complete,
        has_one=proved_rate(network) > 0,
        theorem=search.theorem,
    )
    return FixedPoints(
        states=search.states,
        residuals=np.asarray(search.residuals),
        eigenvalues=eigenvalues[order],
        is_stable=is_stable,
        spectral_radii=radii[order],
        is_stable_map=is_stable_map[order],
        indices=indices,
        audit=audit,
        explanation=explanation,
        starts=starts,
        reached_by_newton=search.match(newton_ends),
        reached_by_dynamics=reached_by_dynamics,
        failures=search.failures,
    )


def _counts(reached: np.ndarray, number: int) -> np.ndarray:
    return np.bincount(reached[reached >= 0], minlength=number)
