"""Multistart search for fixed points: Newton searches from many states, and the distinct fixed points they found."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnn2ff.analysis.dynamics import MOST_SCALES_APART
from rnn2ff.analysis.index import box_theorem, index_signs, index_theorem
from rnn2ff.analysis.newton import map_rows, polish, search
from rnn2ff.networks import RateNetwork, RecurrentNetwork, is_threshold_linear, time_scales, to_point, to_state

_NEAR_REST = 1e-2  # relative; largest distance from a state at rest to its fixed point, along slow directions
_MOST_ROUNDS = 6  # bounds the time; rounds end earlier, once one finds nothing new
_MOST_STEPS = 120  # of one search
_CLOSE = 1e-3  # relative; the longest Newton step at a fixed point
_ROUNDING = 64  # units of the precision, below which a velocity is indistinguishable from 0
_FAILURES = (
    "left the box, or became infinite or NaN",
    "slow but not at rest",
    "stuck at a minimum of the speed",
    "out of steps",
)
_SMALLEST_SCALE, _LARGEST_SCALE = 0.05, 4.0  # of random starts


class MultistartSearch:
    """The distinct fixed points found so far; arrays on the host, updated in place."""

    def __init__(self, network: RecurrentNetwork, stimulus: Array, tolerance: float, box, key: PRNGKeyArray):
        self.network, self.stimulus, self.tolerance, self.box, self.key = network, stimulus, tolerance, box, key
        size = network.state_size
        self.states = np.zeros((0, size), network.dtype)
        self.residuals = np.zeros(0)
        self.jacobians = np.zeros((0, size, size))
        self.is_several = np.zeros(0, bool)  # whether fixed points of opposite index are too close to separate
        self.failures = dict.fromkeys(_FAILURES, 0)
        self.theorem = box_theorem(network, stimulus, box, key) if box is not None else index_theorem(network)

    def draw(
        self, number: int, purpose: str
    ) -> tuple[Float[np.ndarray, "start state"], Float[np.ndarray, "start state"]]:
        """Random starts: uniform in the box, if there is one; else over many scales, the first at the point 0.

        States at which the dynamics start, one per row, and the same in the coordinates of the search.
        """
        size, dtype = self.network.state_size, self.network.dtype
        generator = self.generator(purpose)
        if self.box is not None:
            states = generator.uniform(*self.box, (number, size)).astype(dtype)
            return states, self.to_points(states)
        scales = np.exp(generator.uniform(np.log(_SMALLEST_SCALE), np.log(_LARGEST_SCALE), (number, 1)))
        scales[0] = 0
        if isinstance(self.network, RateNetwork):
            drive = np.asarray(self.network.params.feedforward_input(self.stimulus), np.float64)
            scales *= max(1.0, np.abs(drive).max())
        points = (scales * generator.standard_normal((number, size))).astype(dtype)
        return self.to_states(points), points

    def draw_low(self, number: int) -> np.ndarray:
        """States at the corners and on the low edges of the box, 0 included; none if there is no box.

        Uniform draws from a box of many dimensions are all alike: the mean of their entries is that of the box. In
        these, many units are at the lowest value, or at 0, and the others anywhere above.
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
        """States in the coordinates of the search."""
        return map_rows(to_point, self.network, self.stimulus, states)

    def to_states(self, points: np.ndarray) -> np.ndarray:
        """The states at fixed points, from the coordinates of the search."""
        return map_rows(_state_of, self.network, self.stimulus, points)

    def search(self, states: np.ndarray) -> np.ndarray:
        """The fixed points that searches from these states converge to; NaN where a search fails."""
        return self.search_from(self.to_points(states))

    def search_from(self, points: np.ndarray) -> np.ndarray:
        """The same, from points in the coordinates of the search."""
        # Far below the tolerance, so that two searches that end at one fixed point agree closely.
        aim = max(0.01 * self.tolerance, 16 * float(np.finfo(self.network.dtype).eps))
        box = None if isinstance(self.network, RateNetwork) else self.box
        limits = {"tolerance": aim, "max_steps": _MOST_STEPS, "box": box}
        ends, is_zero, is_stuck = search(self.network, self.stimulus, points, **limits)
        is_finite = np.isfinite(ends).all(axis=1)
        reached, is_slow = np.full(points.shape, np.nan), np.zeros(len(points), bool)
        is_outside = is_finite & ~self.is_inside(self.to_states(ends)) if self.box else np.zeros(len(ends), bool)
        close = np.flatnonzero(is_finite & ~is_outside)
        if len(close):
            states, residuals, jacobians, steps = polish(self.network, self.stimulus, ends[close])
            converged = (residuals < self.tolerance) & np.isfinite(jacobians).all(axis=(1, 2)) & self.is_inside(states)
            # Where the dynamics are merely slow, the next Newton step is long.
            is_far = converged & ~(steps < _CLOSE * (1 + np.abs(states).max(axis=1)))
            converged[is_far] = self.is_flat(states[is_far], jacobians[is_far])
            is_slow[close] = is_zero[close] & ~converged
            is_zero[close] = converged
            reached[close[converged]] = states[converged]
            self._keep(states[converged], residuals[converged], jacobians[converged])
        lost, slow, stuck, unfinished = _FAILURES
        # The first that applies; none for those that converged.
        reasons = np.select([~is_finite | is_outside, is_slow, is_zero, is_stuck], [lost, slow, "", stuck], unfinished)
        for reason in _FAILURES:
            self.failures[reason] += int((reasons == reason).sum())
        return reached

    def search_near(self, states: np.ndarray) -> np.ndarray:
        """The fixed point close to each state at which the dynamics came to rest, else NaN.

        A state that counts as at rest may still drift along a slow direction, so only a nearby fixed point is its end.
        """
        reached = np.full(states.shape, np.nan)
        rows = np.flatnonzero(np.isfinite(states).all(axis=1))
        if len(rows):
            ends = self.search(states[rows])
            distances = np.abs(ends - states[rows]).max(axis=1)
            is_near = distances < _NEAR_REST * (1 + np.abs(states[rows]).max(axis=1))  # False if NaN
            reached[rows[is_near]] = ends[is_near]
        return reached

    def is_inside(self, states: np.ndarray) -> np.ndarray:
        """Whether states are in the box, if there is one."""
        low, high = (-np.inf, np.inf) if self.box is None else self.box
        return ((states >= low) & (states <= high)).all(axis=1)

    def is_flat(self, states: np.ndarray, jacobians: np.ndarray) -> np.ndarray:
        """Whether a zero is close although the Newton step is long, along a flat direction as in a line attractor.

        Along such a direction the velocity is within rounding of 0; past a saddle-node bifurcation it is not.
        """
        if not len(states):
            return np.zeros(0, bool)
        speeds = map_rows(RecurrentNetwork.velocity, self.network, self.stimulus, states).astype(np.float64)
        rcond = 1e-10 if self.network.dtype == jnp.float64 else 1e-6
        steps = np.linalg.pinv(np.asarray(jacobians, np.float64), rcond=rcond) @ speeds[..., None]
        sizes = 1 + np.abs(states).max(axis=1)
        remainder = speeds - (np.asarray(jacobians, np.float64) @ steps)[..., 0]
        scales = map_rows(time_scales, self.network, self.stimulus, states).astype(np.float64)
        is_still = np.abs(scales * remainder).max(axis=1) < _ROUNDING * np.finfo(self.network.dtype).eps * sizes
        return is_still & (np.abs(steps).max(axis=(1, 2)) < _CLOSE * sizes)

    def add(self, states: np.ndarray) -> None:
        """Add fixed points that were found by other means."""
        if len(states):
            states, residuals, jacobians, _ = polish(self.network, self.stimulus, self.to_points(states))
            is_known = np.isfinite(jacobians).all(axis=(1, 2))
            self._keep(states[is_known], residuals[is_known], jacobians[is_known])

    def _keep(self, states: np.ndarray, residuals: np.ndarray, jacobians: np.ndarray) -> None:
        """Add new fixed points; of two that are the same, keep the one with the smaller residual."""
        from scipy.spatial import cKDTree

        if not len(states):
            return
        number = len(self.states)
        all_states = np.concatenate([self.states, states])
        residuals, jacobians = np.append(self.residuals, residuals), np.concatenate([self.jacobians, jacobians])
        signs = np.linalg.slogdet(-jacobians)[0]
        is_several = np.append(self.is_several, np.zeros(len(states), bool))  # one for each distinct fixed point
        kept = list(range(number))  # rows of all_states
        place = {row: row for row in kept}
        # A tree, because comparing tens of thousands pairwise is slow.
        neighbors = cKDTree(all_states).query_ball_point(states, self.radii(states), p=np.inf)
        for row, near in enumerate(neighbors, number):
            known = min((place[neighbor] for neighbor in near if neighbor in place), default=None)
            if known is None:
                place[row] = len(kept)
                kept.append(row)
                continue
            is_several[known] |= signs[row] * signs[kept[known]] < 0
            if residuals[row] < residuals[kept[known]]:
                del place[kept[known]]
                place[row], kept[known] = known, row
        self.states, self.residuals, self.jacobians = all_states[kept], residuals[kept], jacobians[kept]
        self.is_several = is_several[: len(kept)]

    def radii(self, states: np.ndarray) -> np.ndarray:
        """The distance from each state within which another counts as the same."""
        relative = 1e-6 if self.network.dtype == jnp.float64 else 1e-3
        return relative * np.abs(states).max(axis=1) + 30 * self.tolerance

    def search_on(self, num_starts: int) -> None:
        """Search in rounds, from between known fixed points and new random points, until one finds nothing new."""
        for turn in range(_MOST_ROUNDS):
            num_known = len(self.states)
            _, fresh = self.draw(num_starts, f"round {turn}")
            if num_known > 1:
                generator = self.generator(f"between {turn}")
                points = self.to_points(self.states)
                first, second = generator.integers(num_known, size=(2, num_starts // 2))
                share = generator.uniform(0, 1, (num_starts // 2, 1)).astype(fresh.dtype)
                fresh[1 : 1 + len(share)] = share * points[first] + (1 - share) * points[second]
            self.search_from(fresh)
            if len(self.states) == num_known and (not self.theorem[0] or self.indices().sum() == 1):
                break

    def indices(self) -> np.ndarray:
        """The indices of the fixed points found so far."""
        kinks = self.to_points(self.states) if is_threshold_linear(self.network) and len(self.states) else None
        # Scaled, so that a slow unit does not make the Jacobian look singular.
        scaled = self.time_scales()[:, :, None] * self.jacobians
        return np.where(self.is_several, 0, index_signs(scaled, kinks=kinks, dtype=self.network.dtype))

    def time_scales(self) -> np.ndarray:
        """The time scales of the units at each fixed point found so far."""
        if not len(self.states):
            return np.ones_like(self.states)
        scales = map_rows(time_scales, self.network, self.stimulus, self.states)
        if self.network.has_time_constants:
            return scales
        return np.minimum(scales, MOST_SCALES_APART * scales.min(axis=1, keepdims=True))

    def match(self, ends: np.ndarray) -> np.ndarray:
        """The row of the fixed point at each end state, -1 for none."""
        reached = np.full(len(ends), -1)
        for row, end in enumerate(ends):
            if np.isfinite(end).all() and len(self.states):
                nearest = np.abs(self.states - end).max(axis=1).argmin()
                if np.abs(self.states[nearest] - end).max() < self.radii(end[None])[0]:
                    reached[row] = nearest
        return reached


def _state_of(network: RecurrentNetwork, point: Array, stimulus: Array) -> Array:
    return to_state(network, point)
