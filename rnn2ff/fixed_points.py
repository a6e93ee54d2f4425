"""All fixed points of a network for one stimulus, stable or not, with an audit of whether some are missing.

Searches start at random states, at states that the dynamics visit, and between the fixed points found so far, in
rounds, until a round finds nothing new. A small threshold-linear network's list is complete, since every support is
tried. For the others the index theorem audits it: where it holds, the signs of `det(-J)` sum to +1 over all fixed
points, and a list with another sum has missed some.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Complex, Float, Int, PRNGKeyArray

from rnn2ff._checks import check_at_least, check_finite, check_shape, check_stimulus, check_tolerance, fail
from rnn2ff.audit import Audit, audit_indices, box_theorem, index_signs, index_theorem, known_box
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import is_rate_network
from rnn2ff.networks.threshold_linear import is_threshold_linear
from rnn2ff.newton import polish, search, to_point, to_state, velocities
from rnn2ff.spectra import sort_eigenvalues
from rnn2ff.steady_state.attraction import NEUTRAL
from rnn2ff.steady_state.follow import FIRST_STEP, advance
from rnn2ff.steady_state.padding import padded
from rnn2ff.supports import MOST_UNITS, enumerate_fixed_points

_CHUNKS = (6, 6, 12, 24, 48, 96, 192, 384, 768)  # steps of time; after each, states count as visited
_MOST_ROUNDS = 6
_MOST_STEPS = 120  # of one search
_CLOSE = 1e-3  # relative; the longest Newton step at a fixed point
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
    the dynamics in time, `is_stable_map` that of the map: for a `discrete_map`, or a cell from PyTorch, the map is the
    cell itself.

    Attributes:
        states: the fixed points.
        residuals: `max |tau dx/dt| / (1 + max |x|)`, recomputed on `states`.
        eigenvalues: of each Jacobian of the velocity, over time, the rightmost first.
        is_stable: whether perturbations die out, or at least do not grow.
        spectral_radii: of `I + tau J`, the Jacobian of the map.
        is_stable_map: whether no spectral radius is above 1.
        indices: the sign of `det(-J)`; 0 where it has none.
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

    Runs on the host. Needs Jacobians: for networks of up to some hundred units.

    Args:
        network: any network.
        stimulus: a constant stimulus.
        num_starts: number of random starts.
        starts: states to start from as well, such as those of a trained cell at work, one a row.
        box: the smallest and the largest value of every unit. Random starts are drawn from it, fixed points outside
            are left out, and if the velocity points into it all around, the indices inside must sum to +1. By default
            -1 to 1 for a GRU, and none for others.
        enumerate_supports: whether to try all supports of a threshold-linear network, which gives the complete list; by
            default up to 16 units.
        tolerance: the largest residual that counts as rest; by default the dtype's.
        key: a PRNG key.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, the tolerance is below what the dtype can reach, the
            box is empty, or supports are to be tried of a network that has none or too many.

    References:
        Sussillo and Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
        networks, Neural Computation 25, 2013.
        Morrison, Degeratu, Itskov and Curto, arXiv 1605.04463 (the indices of threshold-linear networks).
    """
    tolerance = check_tolerance(tolerance, network.dtype)
    check_at_least("num_starts", num_starts, 1)
    check_stimulus(stimulus, network.stimulus_size)
    size = network.state_size
    given = np.zeros((0, size)) if starts is None else np.asarray(starts)
    check_shape("starts", given, (len(given), size))
    check_finite("starts", given)
    if box is not None and not (np.isfinite(box).all() and box[0] < box[1]):
        raise fail("box", "holds no state", "two finite numbers, the smaller first", box)
    is_small = is_threshold_linear(network) and size <= MOST_UNITS
    if enumerate_supports and not is_small:
        expected = f"a threshold-linear network of at most {MOST_UNITS} units"
        raise fail("enumerate_supports", "cannot be done", expected, f"{network.vector_field} of {size} units")
    stimulus = jnp.asarray(stimulus, network.dtype)
    hunt = _Hunt(network, stimulus, tolerance, known_box(network) if box is None else box, key)

    given, drawn = given.astype(network.dtype), hunt.draw(num_starts, "starts")
    starts = np.concatenate([given, np.asarray(_to_states(network, stimulus, drawn))])
    visited, arrived, is_at_rest = _follow(network, stimulus, starts)
    newton_ends = hunt.search_from(np.concatenate([_to_points(network, stimulus, given), drawn]))
    hunt.search(np.concatenate([visited, arrived[is_at_rest]]))
    num_degenerate = 0
    is_complete = is_small if enumerate_supports is None else enumerate_supports
    if is_complete:
        listed = enumerate_fixed_points(network, np.asarray(stimulus))
        hunt.add(listed.states.astype(network.dtype))
        num_degenerate = listed.num_degenerate
    else:
        hunt.search_on(num_starts)
    return hunt.report(starts, newton_ends, arrived, num_degenerate, is_complete)


class _Hunt:
    """Fixed points found so far; arrays on the host, changed in place."""

    def __init__(self, network: RecurrentNetwork, stimulus: Array, tolerance: float, box, key: PRNGKeyArray):
        self.network, self.stimulus, self.tolerance, self.box, self.key = network, stimulus, tolerance, box, key
        size = network.state_size
        self.states = np.zeros((0, size), network.dtype)
        self.residuals = np.zeros(0)
        self.jacobians = np.zeros((0, size, size))
        self.failures = dict.fromkeys(_FAILURES, 0)
        self.theorem = box_theorem(network, stimulus, box, key) if box is not None else index_theorem(network)

    def draw(self, number: int, purpose: str) -> np.ndarray:
        """Random points, in the coordinates of the search, of many sizes; the first is 0."""
        size, dtype = self.network.state_size, self.network.dtype
        generator = np.random.default_rng(np.asarray(jr.key_data(self.key)).tolist() + list(purpose.encode()))
        if self.box is not None:
            states = generator.uniform(*self.box, (number, size)).astype(dtype)
            return np.array(_to_points(self.network, self.stimulus, states))
        scales = np.exp(generator.uniform(np.log(_SMALLEST_SCALE), np.log(_LARGEST_SCALE), (number, 1)))
        scales[0] = 0
        if is_rate_network(self.network):
            drive = np.asarray(self.network.params.feedforward_input(self.stimulus), np.float64)
            scales *= max(1.0, np.abs(drive).max())
        return (scales * generator.standard_normal((number, size))).astype(dtype)

    def search(self, states: np.ndarray) -> np.ndarray:
        """Search from states; where each search ended, NaN if at no fixed point."""
        return self.search_from(np.asarray(_to_points(self.network, self.stimulus, states)))

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
        is_outside = is_finite & ~self.is_inside(np.asarray(_to_states(self.network, self.stimulus, ends)))
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

    def is_inside(self, states: np.ndarray) -> np.ndarray:
        """Whether states are in the box, if there is one."""
        low, high = (-np.inf, np.inf) if self.box is None else self.box
        return ((states >= low) & (states <= high)).all(axis=1)

    def is_flat(self, states: np.ndarray, jacobians: np.ndarray) -> np.ndarray:
        """Whether a zero is close by although a Newton step is long: along what is nearly flat, as on an attractor."""
        if not len(states):
            return np.zeros(0, bool)
        speeds = np.asarray(velocities(self.network, self.stimulus, states), np.float64)
        rcond = 1e-10 if self.network.dtype == jnp.float64 else 1e-6
        steps = np.linalg.pinv(np.asarray(jacobians, np.float64), rcond=rcond) @ speeds[..., None]
        return np.abs(steps).max(axis=(1, 2)) < _CLOSE * (1 + np.abs(states).max(axis=1))

    def add(self, states: np.ndarray) -> None:
        """Fixed points that are known from elsewhere."""
        points = np.asarray(_to_points(self.network, self.stimulus, states))
        if len(points):
            states, residuals, jacobians, _ = polish(self.network, self.stimulus, points)
            self._keep(states, residuals, jacobians)

    def _keep(self, states: np.ndarray, residuals: np.ndarray, jacobians: np.ndarray) -> None:
        """Add those that are new; near a known one the smaller residual stays."""
        for state, residual, jacobian in zip(states, residuals, jacobians):
            near = np.flatnonzero(self.is_near(self.states, state))
            if not len(near):
                self.states = np.concatenate([self.states, state[None]])
                self.residuals = np.append(self.residuals, residual)
                self.jacobians = np.concatenate([self.jacobians, jacobian[None]])
            elif residual < self.residuals[near[0]]:
                self.states[near[0]], self.residuals[near[0]], self.jacobians[near[0]] = state, residual, jacobian

    def is_near(self, states: np.ndarray, state: np.ndarray, factor: float = 1.0) -> np.ndarray:
        """Which states are the same as one, in the scale of the states."""
        relative = 1e-6 if self.network.dtype == jnp.float64 else 1e-3
        radius = factor * (relative * np.abs(state).max() + 30 * self.tolerance)
        return np.abs(states - state).max(axis=1, initial=0) < radius

    def search_on(self, num_starts: int) -> None:
        """Search in rounds, from between the fixed points found and from fresh points, until nothing new turns up."""
        for turn in range(_MOST_ROUNDS):
            num_known = len(self.states)
            fresh = self.draw(num_starts, f"round {turn}")
            if num_known > 1:
                generator = np.random.default_rng(turn)
                points = np.asarray(_to_points(self.network, self.stimulus, self.states))
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
            kinks = np.asarray(_to_points(self.network, self.stimulus, self.states))
        return index_signs(self.jacobians, kinks=kinks, dtype=self.network.dtype)

    def report(self, starts, newton_ends, arrived, num_degenerate, is_complete) -> FixedPoints:
        network, jacobians = self.network, np.asarray(self.jacobians, np.float64)
        taus = np.broadcast_to(np.asarray(network.time_constants, np.float64), (network.state_size,))
        neutral = NEUTRAL if network.dtype == jnp.float64 else 1e-5
        eigenvalues = sort_eigenvalues(np.linalg.eigvals(jacobians))
        is_stable = eigenvalues[:, 0].real * taus.max() < neutral
        radii = np.abs(np.linalg.eigvals(np.eye(len(taus)) + taus[:, None] * jacobians)).max(axis=1)
        order = np.lexsort((*np.round(self.states.T[::-1], 6), ~is_stable))
        self.states, self.residuals, self.jacobians = (
            each[order] for each in (self.states, self.residuals, self.jacobians)
        )
        indices = self.indices()
        audit, explanation = audit_indices(
            indices, num_degenerate, size=network.state_size, is_complete=is_complete, theorem=self.theorem
        )
        return FixedPoints(
            states=self.states,
            residuals=np.asarray(self.residuals),
            eigenvalues=eigenvalues[order],
            is_stable=is_stable[order],
            spectral_radii=radii[order],
            is_stable_map=radii[order] < 1 + neutral,
            indices=indices,
            audit=audit,
            explanation=explanation,
            starts=starts,
            reached_by_newton=self.match(newton_ends, 1.0),
            reached_by_dynamics=self.match(arrived, 300.0 if network.dtype == jnp.float64 else 3.0),
            failures=self.failures,
        )

    def match(self, ends: np.ndarray, factor: float) -> np.ndarray:
        """The fixed point that each end is at, -1 for none."""
        reached = np.full(len(ends), -1)
        for row, end in enumerate(ends):
            if np.isfinite(end).all() and len(self.states):
                nearest = np.abs(self.states - end).max(axis=1).argmin()
                if self.is_near(self.states[nearest][None], end, factor)[0]:
                    reached[row] = nearest
        return reached


def _counts(reached: np.ndarray, number: int) -> np.ndarray:
    return np.bincount(reached[reached >= 0], minlength=number)


def _follow(network, stimulus, starts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow the dynamics; some of the states they visit, the last states, and which of these are at rest."""
    num_starts = len(starts)
    rows = padded(np.arange(num_starts))
    states = jnp.asarray(starts[rows], network.dtype)
    steps = jnp.full(len(rows), FIRST_STEP, network.dtype)
    stimuli = jnp.broadcast_to(stimulus, (len(rows), network.stimulus_size))
    visited, rest = [], 100 * float(np.finfo(network.dtype).eps)
    for chunk, length in enumerate(_CHUNKS):
        states, steps, _, _, residuals, _ = advance(network, states, steps, stimuli, np.int32(length))
        each = np.asarray(states)[:num_starts]
        is_at_rest = np.asarray(residuals)[:num_starts] < rest
        visited.append(each[chunk % len(_CHUNKS) :: len(_CHUNKS)])  # in all, as many as there are starts
        if is_at_rest.all():
            break
    visited = np.concatenate(visited)
    is_settled = np.asarray(residuals)[:num_starts] < 1e-3
    return visited[np.isfinite(visited).all(axis=1)], np.where(is_settled[:, None], each, np.nan), is_settled


@eqx.filter_jit
def _to_points(network, stimulus, states):
    return jax.vmap(lambda state: to_point(network, state, stimulus))(states)


@eqx.filter_jit
def _to_states(network, stimulus, points):
    return jax.vmap(lambda point: to_state(network, point))(points)
