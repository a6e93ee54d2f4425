"""All fixed points of a network for one stimulus, stable or not, with an audit of whether some are missing.

Searches start at random states, at states that the dynamics visit, and between the fixed points found so far, in
rounds, until a round finds nothing new. The dynamics are followed over growing windows of time, in units of the
network's own time scales, so that the unit of time does not matter.

A small threshold-linear network's list is complete, since every support is tried. For the others the index theorem
audits it: where it holds, the signs of `det(-J)` sum to +1 over all fixed points, and a list with another sum has
missed some.
"""

from typing import TYPE_CHECKING, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Int, PRNGKeyArray

from rnn2ff._checks import (
    check_at_least,
    check_finite,
    check_key,
    check_on_host,
    check_shape,
    check_stimulus,
    check_tolerance,
    fail,
)
from rnn2ff.analysis.index import Audit, audit_indices, box_theorem, index_signs, index_theorem, known_box
from rnn2ff.analysis.newton import LANES, by_lanes, finite_jacobians, polish, search, to_point, to_state, velocities
from rnn2ff.analysis.supports import MOST_UNITS, enumerate_fixed_points
from rnn2ff.compiling import in_full_precision
from rnn2ff.files import as_html, as_text
from rnn2ff.networks import (
    RecurrentNetwork,
    blas_threads,
    dense_weights,
    eigenvalues_of,
    has_sparse_weights,
    is_rate_network,
    is_threshold_linear,
    rates_of_map,
    time_scales,
)
from rnn2ff.networks import (
    residual as residual_of,
)
from rnn2ff.plotting import new_figure, plot_in_principal_components, plot_spectrum
from rnn2ff.steady_state import neutral_growth

if TYPE_CHECKING:
    from rnn2ff.plotting import Figure

MOST_UNITS_JACOBIANS = 1024  # a turn of searches holds several matrices for each of its 64 lanes: 0.5 GB each
_MOST_SHOWN = 8  # stable points of a list that is printed
_WINDOWS = (1, 2, 3, 6, 12, 24, 48, 96, 192, 384)  # of time, in the longest time scale; after each, states are visited
_LONG_WINDOW = 24  # what is at rest at both ends of such a window is followed no further: a saddle is left within it
_REST = 1e-4  # the residual of a state at rest; from there Newton's method leads to the fixed point
_SETTLED = 1e-3  # the residual of a state that counts as at rest at the end of all windows
_NEAR_REST = 1e-2  # relative; how far from there the fixed point may be, along a direction in which the dynamics slow
_STEP_TOLERANCE = 1e-5  # local error, relative to 1 + max |x|; where stability limits the steps, residuals stay below
_FIRST_STEP = 0.05  # of each window, in the shortest time scale
_EXPLICIT_STEPS, _IMPLICIT_STEPS = 8192, 512  # of a window at most; dynamics that need more explicit ones are stiff
_MOST_SCALES_APART = 1e6  # the longest time scale counts as so many of the shortest at most
_LARGEST_STATE = 1e8  # times 1 + max |u| + max |start|; beyond, the dynamics diverge
_MOST_ROUNDS = 6
_MOST_STEPS = 120  # of one search
_CLOSE = 1e-3  # relative; the longest Newton step at a fixed point
_ROUNDING = 64  # units of the precision: a velocity that may be none
_FAILURES = (
    "left the box or the finite numbers",
    "slow but not at rest",
    "stuck at a minimum of the speed",
    "out of steps",
)
_SMALLEST_SCALE, _LARGEST_SCALE = 0.05, 4.0  # of random starts


class FixedPoints(NamedTuple):
    """The fixed points of a network for one stimulus; arrays on the host, one row a fixed point, the stable ones first.

    A network and the map `x+ = x + tau dx/dt` share their fixed points, but not their stability. `is_stable` is that of
    the dynamics in time, `is_stable_map` that of the map. Tau are the time constants or, where a network declares none,
    the `time_scales` at the fixed point. Of a network that is a map, as a cell from PyTorch, both are that of the cell
    itself, and so are the basins.

    Attributes:
        states: the fixed points.
        residuals: `max |tau dx/dt| / (1 + max |x|)`, recomputed on `states`.
        eigenvalues: of each Jacobian of the velocity, over time, the rightmost first; of a map as in `Linearization`.
        is_stable: whether perturbations die out, or at least do not grow.
        spectral_radii: of `I + tau J`, the Jacobian of the map.
        is_stable_map: whether no spectral radius is above 1.
        indices: the sign of `det(-J)`; 0 where it has none, or others of another sign are too near to be told apart.
        audit: whether the list is whole, as an `Audit`.
        explanation: the audit in words.
        starts: the states at which searches and dynamics were started.
        reached_by_newton: the fixed point, as a row, that the search from each start ended at; -1 for none.
        reached_by_dynamics: the fixed point that the dynamics in time came to from each start; -1 for none.
        failures: how many of all searches (rounds from other states included) failed, by reason.
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
        return f"{len(self.states)} fixed points of {self.states.shape[1]} units", lines

    __repr__ = as_text
    _repr_html_ = as_html

    def plot(self) -> "Figure":
        """The fixed points in the plane in which they spread most, full dots stable; and all of their eigenvalues.

        Raises:
            ValueError: if there are none.
            ModuleNotFoundError: if matplotlib is not installed, naming the extra.
        """
        if not len(self.states):
            raise fail("states", "are none", "a fixed point to draw", "an empty list")
        figure, (left, right) = new_figure(2, height=2.8)
        plot_in_principal_components(left, self.states, self.is_stable)
        plot_spectrum(right, self.eigenvalues)
        return figure

    @property
    def index_sum(self) -> int:
        """Of all that were found."""
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
    """Find the fixed points of a network for one stimulus, as many as there are, and say whether some are missing.

    Runs on the host. Needs Jacobians: for networks of up to some hundred units, and at most 1024.

    Args:
        network: any network; sparse weights are filled out.
        stimulus: a constant stimulus.
        num_starts: number of random starts.
        starts: states to start from as well, such as those of a trained cell at work, one a row.
        box: the smallest and the largest value of every unit. Random starts are drawn from it, uniformly; searches
            start at 0 (if inside), at its corners and on its edges of low values as well. Fixed points outside are left
            out, and if the velocity points into it all around, the indices inside must sum to +1. By default -1 to 1
            for a GRU, and none for others.
        enumerate_supports: whether to try all supports of a threshold-linear network, which gives the complete list; by
            default up to 16 units.
        tolerance: the largest residual that counts as rest; by default the dtype's.
        key: a PRNG key.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, the tolerance is below what the dtype can reach, the
            box is empty, the network is too large, or supports are to be tried of one that has none or too many.

    References:
        Sussillo and Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
        networks, Neural Computation 25, 2013.
        Morrison, Degeratu, Itskov and Curto, arXiv 1605.04463 (the indices of threshold-linear networks).
        Shampine and Reichelt, The MATLAB ODE suite, SIAM Journal on Scientific Computing 18, 1997 (how the dynamics are
        followed: `ode23` and, where they are stiff, `ode23s`).

    Example:
        The fixed points of two populations, and whether the list is whole:

            found = rnn2ff.find_fixed_points(rnn2ff.wilson_cowan(), jnp.zeros(2), key=jr.key(0))
            print(found.states, found.is_stable, found.explanation)
    """
    check_on_host("find_fixed_points", "use `solve_steady_state`", network, stimulus)
    check_key(key)
    tolerance = check_tolerance(tolerance, network.dtype)
    check_at_least("num_starts", num_starts, 1)
    check_stimulus(stimulus, network.stimulus_size)
    size = network.state_size
    if size > MOST_UNITS_JACOBIANS:
        raise fail("network", "is too large for its Jacobians", f"at most {MOST_UNITS_JACOBIANS} units", size)
    given = np.zeros((0, size)) if starts is None else np.asarray(starts)
    check_shape("starts", given, (len(given), size))
    check_finite("starts", given)
    if box is not None and not (np.isfinite(box).all() and box[0] < box[1]):
        raise fail("box", "holds no state", "two finite numbers, the smaller first", box)
    is_small = is_threshold_linear(network) and size <= MOST_UNITS
    if enumerate_supports and not is_small:
        expected = f"a threshold-linear network of at most {MOST_UNITS} units"
        raise fail("enumerate_supports", "cannot be done", expected, f"{network.vector_field} of {size} units")
    is_complete = is_small if enumerate_supports is None else enumerate_supports
    if has_sparse_weights(network):
        weights = dense_weights(network)
        network = eqx.tree_at(lambda network: network.params.recurrent_weights, network, weights)
    stimulus = jnp.asarray(stimulus, network.dtype)
    with blas_threads(size):
        return _find(network, stimulus, num_starts, given.astype(network.dtype), box, is_complete, tolerance, key)


def _find(network, stimulus, num_starts, given, box, is_complete, tolerance, key) -> FixedPoints:
    hunt = _Hunt(network, stimulus, tolerance, known_box(network) if box is None else box, key)
    drawn, low = hunt.draw(num_starts, "starts"), hunt.draw_low(min(num_starts, LANES))
    starts = np.concatenate([given, drawn.states])
    followed = _follow(network, stimulus, np.concatenate([starts, low]))
    points = np.concatenate([hunt.to_points(given), drawn.points]) if len(given) else drawn.points
    newton_ends = hunt.search_from(points)
    hunt.search(np.concatenate([low, followed.visited]))
    arrived = hunt.search_near(followed.ends)
    num_degenerate = 0
    if is_complete:
        listed = enumerate_fixed_points(network, np.asarray(stimulus))
        hunt.add(listed.states.astype(network.dtype))
        num_degenerate = listed.num_degenerate
    else:
        hunt.search_on(num_starts)
    is_stiff = followed.is_stiff[: len(starts)]
    return hunt.report(starts, newton_ends, arrived[: len(starts)], is_stiff, num_degenerate, is_complete)


class _Starts(NamedTuple):
    """Where searches and dynamics start.

    Attributes:
        states: where the dynamics start, one a row.
        points: the same in the coordinates of the search.
    """

    states: Float[np.ndarray, "start state"]
    points: Float[np.ndarray, "start state"]


class _Followed(NamedTuple):
    """Where the dynamics lead.

    Attributes:
        visited: states on the way, one for each start.
        ends: the state that each start leads to, NaN where the dynamics do not come to rest.
        is_stiff: whether an implicit method was needed, which may come to rest where the dynamics do not.
    """

    visited: Float[np.ndarray, "visited state"]
    ends: Float[np.ndarray, "start state"]
    is_stiff: Bool[np.ndarray, " start"]


class _Hunt:
    """Fixed points found so far; arrays on the host, changed in place."""

    def __init__(self, network: RecurrentNetwork, stimulus: Array, tolerance: float, box, key: PRNGKeyArray):
        self.network, self.stimulus, self.tolerance, self.box, self.key = network, stimulus, tolerance, box, key
        size = network.state_size
        self.states = np.zeros((0, size), network.dtype)
        self.residuals = np.zeros(0)
        self.jacobians = np.zeros((0, size, size))
        self.is_several = np.zeros(0, bool)  # whether others of opposite index are too near to be told apart
        self.failures = dict.fromkeys(_FAILURES, 0)
        self.theorem = box_theorem(network, stimulus, box, key) if box is not None else index_theorem(network)

    def draw(self, number: int, purpose: str) -> _Starts:
        """Random starts: in the box, if there is one; else of many sizes, and the first is at the point 0."""
        size, dtype = self.network.state_size, self.network.dtype
        generator = self.generator(purpose)
        if self.box is not None:
            states = generator.uniform(*self.box, (number, size)).astype(dtype)
            return _Starts(states, self.to_points(states))
        scales = np.exp(generator.uniform(np.log(_SMALLEST_SCALE), np.log(_LARGEST_SCALE), (number, 1)))
        scales[0] = 0
        if is_rate_network(self.network):
            drive = np.asarray(self.network.params.feedforward_input(self.stimulus), np.float64)
            scales *= max(1.0, np.abs(drive).max())
        points = (scales * generator.standard_normal((number, size))).astype(dtype)
        return _Starts(self.to_states(points), points)

    def draw_low(self, number: int) -> np.ndarray:
        """States at the corners of the box and on its edges of low values, 0 among them; none if there is no box.

        All uniform draws from a box of many dimensions are about alike: the mean of their entries is that of the box.
        Here many units are at the lowest value, or at 0, and the others anywhere above.
        """
        size, dtype = self.network.state_size, self.network.dtype
        if self.box is None:
            return np.zeros((0, size), dtype)
        generator, (low, high) = self.generator("low"), self.box
        corners = np.repeat([[np.clip(0.0, low, high)], [low], [high]], size, axis=1)
        base = corners[generator.integers(2, size=number)]
        is_elsewhere = generator.uniform(size=(number, size)) < generator.uniform(size=(number, 1))
        elsewhere = base + (high - base) * generator.uniform(size=(number, size)) * generator.uniform(size=(number, 1))
        return np.concatenate([corners, np.where(is_elsewhere, elsewhere, base)]).astype(dtype)

    def generator(self, purpose: str) -> np.random.Generator:
        """A generator of random numbers for one purpose."""
        return np.random.default_rng(np.asarray(jr.key_data(self.key)).tolist() + list(purpose.encode()))

    def to_points(self, states: np.ndarray) -> np.ndarray:
        """The coordinates of the search of each state."""
        return by_lanes(_to_points, self.network, self.stimulus, states)

    def to_states(self, points: np.ndarray) -> np.ndarray:
        """The state of each point, at a fixed point."""
        return by_lanes(_to_states, self.network, self.stimulus, points)

    def search(self, states: np.ndarray) -> np.ndarray:
        """Search from states; where each search ended, NaN if at no fixed point."""
        return self.search_from(self.to_points(states))

    def search_from(self, points: np.ndarray) -> np.ndarray:
        """Search from points in the coordinates of the search."""
        # Far below the tolerance, since how close two ends of one fixed point are depends on it.
        aim = max(0.01 * self.tolerance, 16 * float(np.finfo(self.network.dtype).eps))
        ends, is_zero, is_stuck = search(
            self.network,
            self.stimulus,
            points,
            tolerance=aim,
            max_steps=_MOST_STEPS,
            box=None if is_rate_network(self.network) else self.box,
        )
        is_finite = np.isfinite(ends).all(axis=1)
        found, is_slow = np.full(points.shape, np.nan), np.zeros(len(points), bool)
        is_outside = is_finite & ~self.is_inside(self.to_states(ends)) if self.box else np.zeros(len(ends), bool)
        close = np.flatnonzero(is_finite & ~is_outside)
        if len(close):
            states, residuals, jacobians, steps = polish(self.network, self.stimulus, ends[close])
            is_found = (residuals < self.tolerance) & np.isfinite(jacobians).all(axis=(1, 2)) & self.is_inside(states)
            # Where the dynamics are just slow, a Newton step goes far.
            is_far = is_found & ~(steps < _CLOSE * (1 + np.abs(states).max(axis=1)))
            is_found[is_far] = self.is_flat(states[is_far], jacobians[is_far])
            is_slow[close] = is_zero[close] & ~is_found
            is_zero[close] = is_found
            found[close[is_found]] = states[is_found]
            self._keep(states[is_found], residuals[is_found], jacobians[is_found])
        is_left = ~is_finite | is_outside
        for reason, is_so in [
            (_FAILURES[0], is_left),
            (_FAILURES[1], ~is_left & is_slow),
            (_FAILURES[2], ~is_left & ~is_slow & is_stuck & ~is_zero),
            (_FAILURES[3], ~is_left & ~is_slow & ~is_stuck & ~is_zero),
        ]:
            self.failures[reason] += int(is_so.sum())
        return found

    def search_near(self, states: np.ndarray) -> np.ndarray:
        """The fixed point next to each state at which the dynamics have come to rest, else NaN.

        A state at rest may still be on its way along a direction in which the dynamics are slow; it has to be near.
        """
        found = np.full(states.shape, np.nan)
        rows = np.flatnonzero(np.isfinite(states).all(axis=1))
        if len(rows):
            ends = self.search(states[rows])
            distances = np.abs(ends - states[rows]).max(axis=1)
            is_near = distances < _NEAR_REST * (1 + np.abs(states[rows]).max(axis=1))  # False if NaN
            found[rows[is_near]] = ends[is_near]
        return found

    def is_inside(self, states: np.ndarray) -> np.ndarray:
        """Whether states are in the box, if there is one."""
        low, high = (-np.inf, np.inf) if self.box is None else self.box
        return ((states >= low) & (states <= high)).all(axis=1)

    def is_flat(self, states: np.ndarray, jacobians: np.ndarray) -> np.ndarray:
        """Whether a zero is close by although a Newton step is long: along what is nearly flat, as on an attractor.

        There nothing moves along it but by rounding; where two fixed points have met and vanished, something does.
        """
        if not len(states):
            return np.zeros(0, bool)
        speeds = by_lanes(velocities, self.network, self.stimulus, states).astype(np.float64)
        rcond = 1e-10 if self.network.dtype == jnp.float64 else 1e-6
        steps = np.linalg.pinv(np.asarray(jacobians, np.float64), rcond=rcond) @ speeds[..., None]
        sizes = 1 + np.abs(states).max(axis=1)
        left = speeds - (np.asarray(jacobians, np.float64) @ steps)[..., 0]
        scales = by_lanes(_scales, self.network, self.stimulus, states).astype(np.float64)
        is_still = np.abs(scales * left).max(axis=1) < _ROUNDING * np.finfo(self.network.dtype).eps * sizes
        return is_still & (np.abs(steps).max(axis=(1, 2)) < _CLOSE * sizes)

    def add(self, states: np.ndarray) -> None:
        """Fixed points that are known from elsewhere."""
        if len(states):
            states, residuals, jacobians, _ = polish(self.network, self.stimulus, self.to_points(states))
            is_known = np.isfinite(jacobians).all(axis=(1, 2))
            self._keep(states[is_known], residuals[is_known], jacobians[is_known])

    def _keep(self, states: np.ndarray, residuals: np.ndarray, jacobians: np.ndarray) -> None:
        """Add those that are new; near a known one the smaller residual stays."""
        from scipy.spatial import cKDTree

        if not len(states):
            return
        number = len(self.states)
        everything = np.concatenate([self.states, states])
        residuals, jacobians = np.append(self.residuals, residuals), np.concatenate([self.jacobians, jacobians])
        signs = np.linalg.slogdet(-jacobians)[0]
        is_several = np.append(self.is_several, np.zeros(len(states), bool))  # of each place, as far as there are
        kept = list(range(number))  # rows of everything
        place = {row: row for row in kept}
        # A tree, so that tens of thousands are not compared each with all.
        neighbors = cKDTree(everything).query_ball_point(states, self.radii(states), p=np.inf)
        for row, near in enumerate(neighbors, number):
            known = min((place[each] for each in near if each in place), default=None)
            if known is None:
                place[row] = len(kept)
                kept.append(row)
                continue
            is_several[known] |= signs[row] * signs[kept[known]] < 0
            if residuals[row] < residuals[kept[known]]:
                del place[kept[known]]
                place[row], kept[known] = known, row
        self.states, self.residuals, self.jacobians = everything[kept], residuals[kept], jacobians[kept]
        self.is_several = is_several[: len(kept)]

    def radii(self, states: np.ndarray) -> np.ndarray:
        """How near to each state another one is the same, in the scale of the states."""
        relative = 1e-6 if self.network.dtype == jnp.float64 else 1e-3
        return relative * np.abs(states).max(axis=1) + 30 * self.tolerance

    def search_on(self, num_starts: int) -> None:
        """Search in rounds, from between the fixed points found and from fresh points, until nothing new turns up."""
        for turn in range(_MOST_ROUNDS):
            num_known = len(self.states)
            fresh = self.draw(num_starts, f"round {turn}").points
            if num_known > 1:
                generator = np.random.default_rng(turn)
                points = self.to_points(self.states)
                one, other = generator.integers(num_known, size=(2, num_starts // 2))
                share = generator.uniform(0, 1, (num_starts // 2, 1)).astype(fresh.dtype)
                fresh[1 : 1 + len(share)] = share * points[one] + (1 - share) * points[other]
            self.search_from(fresh)
            if len(self.states) == num_known and (not self.theorem[0] or self.indices().sum() == 1):
                break

    def indices(self) -> np.ndarray:
        """Of the fixed points found so far."""
        kinks = None
        if is_threshold_linear(self.network) and len(self.states):
            kinks = self.to_points(self.states)
        # A unit that is slower than the others makes no Jacobian singular.
        scaled = self.time_scales()[:, :, None] * self.jacobians
        return np.where(self.is_several, 0, index_signs(scaled, kinks=kinks, dtype=self.network.dtype))

    def time_scales(self) -> np.ndarray:
        """Of the units at each fixed point found so far."""
        if not len(self.states):
            return np.ones_like(self.states)
        scales = by_lanes(_scales, self.network, self.stimulus, self.states)
        return np.minimum(scales, _MOST_SCALES_APART * scales.min(axis=1, keepdims=True))

    def report(self, starts, newton_ends, arrived, is_stiff, num_degenerate, is_complete) -> FixedPoints:
        network, jacobians = self.network, np.asarray(self.jacobians, np.float64)
        scales = self.time_scales().astype(np.float64)
        neutral = neutral_growth(network.dtype)
        steps = np.ones_like(scales) if network.is_map else scales
        factors = eigenvalues_of(np.eye(network.state_size) + steps[:, :, None] * jacobians)
        radii = np.abs(factors).max(axis=1)
        is_stable_map = radii < 1 + neutral
        if network.is_map:
            eigenvalues, is_stable = rates_of_map(factors), is_stable_map
        else:
            eigenvalues = eigenvalues_of(jacobians)
            is_stable = eigenvalues[:, 0].real * scales.max(axis=1) < neutral
        order = np.lexsort((*np.round(self.states.T[::-1], 6), ~is_stable))
        self.states, self.residuals, self.jacobians, self.is_several = (
            each[order] for each in (self.states, self.residuals, self.jacobians, self.is_several)
        )
        is_stable, indices = is_stable[order], self.indices()
        reached_by_dynamics = self.match(arrived)
        # An implicit method may stop at a fixed point that the dynamics leave.
        rows = np.flatnonzero(is_stiff & (reached_by_dynamics >= 0))
        reached_by_dynamics[rows[~is_stable[reached_by_dynamics[rows]]]] = -1
        audit, explanation = audit_indices(
            indices, num_degenerate, size=network.state_size, is_complete=is_complete, theorem=self.theorem
        )
        return FixedPoints(
            states=self.states,
            residuals=np.asarray(self.residuals),
            eigenvalues=eigenvalues[order],
            is_stable=is_stable,
            spectral_radii=radii[order],
            is_stable_map=is_stable_map[order],
            indices=indices,
            audit=audit,
            explanation=explanation,
            starts=starts,
            reached_by_newton=self.match(newton_ends),
            reached_by_dynamics=reached_by_dynamics,
            failures=self.failures,
        )

    def match(self, ends: np.ndarray) -> np.ndarray:
        """The fixed point that each end is at, -1 for none."""
        reached = np.full(len(ends), -1)
        for row, end in enumerate(ends):
            if np.isfinite(end).all() and len(self.states):
                nearest = np.abs(self.states - end).max(axis=1).argmin()
                if np.abs(self.states[nearest] - end).max() < self.radii(end[None])[0]:
                    reached[row] = nearest
        return reached


def _counts(reached: np.ndarray, number: int) -> np.ndarray:
    return np.bincount(reached[reached >= 0], minlength=number)


class _Advanced(NamedTuple):
    """Samples after a window of time.

    Attributes:
        states: the last states.
        residuals: there.
        is_finished: whether the steps sufficed for the window.
    """

    states: Float[Array, "lane state"]
    residuals: Float[Array, " lane"]
    is_finished: Bool[Array, " lane"]


def _follow(network: RecurrentNetwork, stimulus: Array, starts: np.ndarray) -> _Followed:
    """Follow the dynamics from every start until they rest, or for all windows of time."""
    states, num_starts = np.array(starts), len(starts)
    largest = _LARGEST_STATE * (1 + np.abs(stimulus).max() + np.abs(states).max(axis=1))
    is_open, is_stiff, is_at_rest = np.ones(num_starts, bool), np.zeros(num_starts, bool), np.zeros(num_starts, bool)
    is_settled = np.zeros(num_starts, bool)
    history = []
    for window in _WINDOWS:
        duration = np.asarray(window, network.dtype)  # an array, so that all windows share a program
        for take_step, max_steps, is_followed in (
            (_explicit_step, _EXPLICIT_STEPS, is_open & ~is_stiff),
            (_implicit_step, _IMPLICIT_STEPS, is_open & is_stiff),
        ):
            rows = np.flatnonzero(is_followed)
            if not len(rows):
                continue
            if network.is_map:
                moved = by_lanes(_iterate, network, stimulus, states[rows], np.asarray(4 * window, np.int32))
            else:
                moved = by_lanes(_advance, network, stimulus, states[rows], duration, take_step, max_steps)
            is_resting, is_kept = moved.residuals < _REST, np.abs(moved.states).max(axis=1) < largest[rows]
            is_done = is_at_rest[rows] & is_resting & (window >= _LONG_WINDOW)
            states[rows], is_at_rest[rows] = moved.states, is_resting
            is_settled[rows] = is_kept & (moved.residuals < _SETTLED)
            is_open[rows] = is_kept & ~is_done & np.isfinite(moved.residuals)
            is_stiff[rows] |= ~moved.is_finished
        history.append(states.copy())
        if not is_open.any():
            break
    rows = np.arange(num_starts)
    visited = np.stack(history)[rows % len(history), rows]  # of each start one, early or late
    ends = np.where(is_settled[:, None], states, np.nan)
    return _Followed(visited[np.isfinite(visited).all(axis=1)], ends, is_stiff)


@eqx.filter_jit
@in_full_precision
def _advance(network, stimulus, states, duration, take_step, max_steps):
    """Follow the dynamics for a time, in each sample's longest time scale, by steps that keep to the tolerance."""
    scales = _scales(network, stimulus, states)
    shortest = jnp.min(scales, axis=1)
    ends = duration * jnp.minimum(jnp.max(scales, axis=1), _MOST_SCALES_APART * shortest)

    def velocity(state):
        return network.velocity(state, stimulus)

    def up_to_end(times, steps):
        return jnp.minimum(steps, ends - times)

    def is_moving(times, steps):
        return times + up_to_end(times, steps) > times  # False where a step has become too short to be told from none

    def proceed(carry):
        count, states, slopes, times, steps = carry
        steps = up_to_end(times, steps)
        new_states, new_slopes, errors = take_step(velocity, states, slopes, steps[:, None])
        allowed = _STEP_TOLERANCE * (1 + jnp.max(jnp.abs(states), axis=1))
        error = jnp.nan_to_num(jnp.max(jnp.abs(errors), axis=1) / allowed, nan=jnp.inf)
        is_taken = error <= 1
        states = jnp.where(is_taken[:, None], new_states, states)
        slopes = jnp.where(is_taken[:, None], new_slopes, slopes)
        times = jnp.where(is_taken, times + steps, times)
        return count + 1, states, slopes, times, steps * jnp.clip(0.9 * error ** (-1 / 3), 0.2, 5.0)

    _, states, _, times, _ = jax.lax.while_loop(
        lambda carry: (carry[0] < max_steps) & is_moving(*carry[-2:]).any(),
        proceed,
        (0, states, jax.vmap(velocity)(states), jnp.zeros_like(ends), _FIRST_STEP * shortest),
    )
    residuals = jax.vmap(lambda state: residual_of(network, state, stimulus))(states)
    return _Advanced(states, residuals, times >= ends)


@eqx.filter_jit
@in_full_precision
def _iterate(network, stimulus, states, num_steps):
    """Move by the steps of a map."""
    move = jax.vmap(lambda state: state + network.velocity(state, stimulus))
    states = jax.lax.fori_loop(0, num_steps, lambda _, states: move(states), states)
    residuals = jax.vmap(lambda state: residual_of(network, state, stimulus))(states)
    return _Advanced(states, residuals, jnp.ones_like(residuals, bool))


def _explicit_step(velocity, states, slopes, steps):
    """A step of the method of Bogacki and Shampine: new states, their velocities, and the local errors."""
    second = jax.vmap(velocity)(states + steps / 2 * slopes)
    third = jax.vmap(velocity)(states + 3 / 4 * steps * second)
    new_states = states + steps / 9 * (2 * slopes + 3 * second + 4 * third)
    new_slopes = jax.vmap(velocity)(new_states)
    return new_states, new_slopes, steps / 72 * (-5 * slopes + 6 * second + 8 * third - 9 * new_slopes)


def _implicit_step(velocity, states, slopes, steps):
    """The same for stiff dynamics, by `ode23s` of Shampine and Reichelt: one linear system a step, and no iteration."""
    matrices = steps[:, :, None] / (2 + 2**0.5) * finite_jacobians(velocity, states)
    inverses = jnp.linalg.inv(jnp.eye(states.shape[1], dtype=states.dtype)[None] - matrices)

    def solve(vectors):
        return (inverses @ vectors[:, :, None])[:, :, 0]

    first = solve(slopes)
    middle = jax.vmap(velocity)(states + steps / 2 * first)
    second = solve(middle - first) + first
    new_states = states + steps * second
    new_slopes = jax.vmap(velocity)(new_states)
    third = solve(new_slopes - (6 + 2**0.5) * (second - middle) - 2 * (first - slopes))
    return new_states, new_slopes, steps / 6 * (first - 2 * second + third)


@eqx.filter_jit
@in_full_precision
def _scales(network, stimulus, states):
    return jax.vmap(lambda state: time_scales(network, state, stimulus))(states)


@eqx.filter_jit
@in_full_precision
def _to_points(network, stimulus, states):
    return jax.vmap(lambda state: to_point(network, state, stimulus))(states)


@eqx.filter_jit
@in_full_precision
def _to_states(network, stimulus, points):
    return jax.vmap(lambda point: to_state(network, point))(points)
