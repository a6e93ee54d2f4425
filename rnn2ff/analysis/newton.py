"""Many Newton searches at once: damped (Levenberg-Marquardt) far from a zero, plain near it.

A search minimizes `|F|^2` by steps `-(J' J + c I)^-1 J' F`, where c falls with `|F|`, so that convergence is quadratic
at the end, and rises where a step fails. Searches share a fixed number of lanes: one that ends makes room for the next,
so that one program serves any number of searches, and a slow search does not delay the others.

F is dimensionless: the velocity times the time scales of the units, which are recomputed at each turn if a network
declares none. J is exact wherever it is finite; elsewhere, as for a norm at 0, it is replaced by difference quotients.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from rnn2ff.compiling import compiled, in_batches
from rnn2ff.networks import RateNetwork, RecurrentNetwork, residual, time_scales, to_state

LANES = 64  # searches that share a program
LARGEST_DENSE = 1024  # units: a Jacobian takes 8 MB in float64, one for each lane 0.5 GB
_STEPS_PER_TURN = 6  # between two looks at which searches have ended; decides the speed alone
_STUCK = 1e6  # damping at which steps vanish: a minimum of the speed that is not a zero
_SLOW = 0.8  # factor by which |F| falls in a turn, above which a search counts as slow
_NUM_POLISHES = 3  # each squares the relative error, so that two suffice from 1e-5


class Searched(NamedTuple):
    """Where searches ended, one per row."""

    points: Float[np.ndarray, "start state"]  # the last ones
    is_zero: Bool[np.ndarray, " start"]  # whether the search ended at a zero
    # Whether it ended at a minimum of `|F|` that is not a zero, or progressed too slowly.
    is_stuck: Bool[np.ndarray, " start"]


class Polished(NamedTuple):
    """Fixed points, accurate to rounding, one per row."""

    states: Float[np.ndarray, "point state"]  # the fixed points
    residuals: Float[np.ndarray, " point"]  # `residual` there
    jacobians: Float[np.ndarray, "point state state"]  # of the velocity, per unit of time
    steps: Float[np.ndarray, " point"]  # the largest entry of a further Newton step


def _excess(network: RecurrentNetwork, stimulus: Float[Array, " stimulus"]) -> Callable[[Array], Array]:
    """The function F whose zeros are sought, in the coordinates of the search; `_scales` make it dimensionless."""
    if isinstance(network, RateNetwork):
        return lambda point: network.params.total_input(network.nonlinearity(point), stimulus) - point
    return lambda state: network.velocity(state, stimulus)


def _scales(
    network: RecurrentNetwork, stimulus: Float[Array, " stimulus"], points: Float[Array, "point state"]
) -> Float[Array, "point state"]:
    """What makes `_excess` dimensionless: 1 where it is a total input, else the time scales."""
    if isinstance(network, RateNetwork):
        return jnp.ones_like(points)
    return jax.vmap(lambda state: time_scales(network, state, stimulus))(points)


def finite_jacobians(
    function: Callable[[Array], Array], points: Float[Array, "point state"]
) -> Float[Array, "point state state"]:
    """The Jacobians of a function at many points; entries that are not finite are replaced by difference quotients.

    Central quotients, with a step of the cube root of the precision. They are only computed where an entry needs them.
    """
    exact = jax.vmap(jax.jacfwd(function))(points)
    is_exact = jnp.isfinite(exact)

    def quotients(point):
        size = jnp.cbrt(jnp.finfo(point.dtype).eps) * (1 + jnp.max(jnp.abs(point)))
        steps = size * jnp.eye(point.size, dtype=point.dtype)
        return jax.vmap(lambda step: function(point + step) - function(point - step), out_axes=1)(steps) / (2 * size)

    # Where the point itself is not finite, the search has diverged.
    is_needed = jnp.any(~is_exact.all(axis=(1, 2)) & jnp.isfinite(points).all(axis=1))
    return jax.lax.cond(is_needed, lambda: jnp.where(is_exact, exact, jax.vmap(quotients)(points)), lambda: exact)


def by_lanes(
    program: Callable[..., PyTree[Array]],
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    rows: Float[np.ndarray, "row state"],
    *options: object,
) -> PyTree[np.ndarray]:
    """Run a program on a fixed number of rows at a time (`in_batches`); every result has as many rows."""

    def run(constants, rows, *options):
        return program(*constants, rows, *options)

    return in_batches(run, (network, stimulus), (rows.astype(network.dtype),), LANES, *options)


def map_rows(
    function: Callable[[RecurrentNetwork, Array, Array], Array],
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    rows: Float[np.ndarray, "row state"],
) -> Float[np.ndarray, "row state"]:
    """A function of one sample, `(network, row, stimulus) -> row`, for every row, by `by_lanes`."""
    return by_lanes(_mapped, network, stimulus, rows, function)


@compiled
def _mapped(network, stimulus, rows, function):
    return jax.vmap(lambda row: function(network, row, stimulus))(rows)


def search(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    points: Float[np.ndarray, "start state"],
    *,
    tolerance: float,
    max_steps: int,
    box: tuple[float, float] | None = None,
) -> Searched:
    """Search for a zero from every start.

    A zero has `max |F| / (1 + max |x|)` below the tolerance. A search that leaves the box, the smallest and the largest
    coordinate, by more than its width fails.
    """
    num_starts, size = points.shape
    ends = np.array(points)
    is_zero, is_stuck = np.zeros((2, num_starts), bool)
    waiting = list(range(num_starts))[::-1]
    low, high = (-np.inf, np.inf) if box is None else (2 * box[0] - box[1], 2 * box[1] - box[0])
    limit = np.asarray(tolerance, network.dtype)  # an array, so that another value needs no compilation
    row_of = np.full(LANES, -1)  # the search that each lane works on; -1 for none
    positions, dampings = np.zeros((LANES, size), network.dtype), np.ones(LANES, network.dtype)
    num_steps, is_done = np.zeros(LANES, np.int32), np.ones(LANES, bool)
    while waiting or (row_of >= 0).any():
        for lane in np.flatnonzero(row_of < 0)[: len(waiting)]:
            row_of[lane] = row = waiting.pop()
            positions[lane], dampings[lane], num_steps[lane], is_done[lane] = points[row], 1, 0, False
        positions, dampings, num_steps, is_done, is_at_zero, is_slow = map(
            np.array, _take_turn(network, stimulus, positions, dampings, num_steps, is_done, limit, max_steps)
        )
        is_outside = ~((positions > low) & (positions < high)).all(axis=1)
        is_done |= is_slow | is_outside
        lanes = np.flatnonzero(is_done & (row_of >= 0))
        rows = row_of[lanes]
        ends[rows], is_zero[rows] = positions[lanes], is_at_zero[lanes] & ~is_outside[lanes]
        is_stuck[rows] = ~is_at_zero[lanes] & ((dampings[lanes] > _STUCK) | is_slow[lanes])
        row_of[lanes] = -1
    return Searched(ends, is_zero, is_stuck)


@compiled
def _take_turn(network, stimulus, points, dampings, num_steps, is_done, tolerance, max_steps):
    """A few steps of every search that is not finished."""
    excess = _excess(network, stimulus)
    scales = _scales(network, stimulus, points)
    is_fresh = num_steps == 0

    def evaluate(points):
        return scales * jax.vmap(excess)(points)

    def is_small(points, values):
        return jnp.max(jnp.abs(values), axis=1) < tolerance * (1 + jnp.max(jnp.abs(points), axis=1))

    def newton_step(point, value, damping, matrix):
        square = matrix.T @ matrix
        shift = damping * jnp.linalg.norm(value) / jnp.sqrt(point.size) * jnp.trace(square) / point.size
        shift = shift + jnp.finfo(point.dtype).eps * jnp.trace(square)
        # Not positive definite within rounding: NaN, which counts as a failed step.
        factor = jsl.cho_factor(square + shift * jnp.eye(point.size, dtype=point.dtype))
        return point - jsl.cho_solve(factor, matrix.T @ value)

    def step(carry):
        count, points, values, dampings, num_steps, is_done = carry
        matrices = scales[:, :, None] * finite_jacobians(excess, points)
        new_points = jax.vmap(newton_step)(points, values, dampings, matrices)
        new_values = evaluate(new_points)
        is_better = jnp.sum(new_values**2, axis=1) < jnp.sum(values**2, axis=1)  # False if NaN
        is_taken = (is_better & ~is_done)[:, None]
        points, values = jnp.where(is_taken, new_points, points), jnp.where(is_taken, new_values, values)
        changed = jnp.where(is_better, dampings * 0.2, dampings * 4).clip(1e-8)
        dampings = jnp.where(is_done, dampings, changed)
        num_steps = jnp.where(is_done, num_steps, num_steps + 1)
        is_over = is_small(points, values) | (dampings > _STUCK) | (num_steps >= max_steps)
        return count + 1, points, values, dampings, num_steps, is_done | is_over | ~jnp.isfinite(values).all(axis=1)

    values = evaluate(points)
    before = jnp.linalg.norm(values, axis=1)
    _, points, values, dampings, num_steps, is_done = jax.lax.while_loop(
        lambda carry: (carry[0] < _STEPS_PER_TURN) & ~carry[-1].all(),
        step,
        (0, points, values, dampings, num_steps, is_done | is_small(points, values)),
    )
    is_slow = ~(jnp.linalg.norm(values, axis=1) < _SLOW * before) & ~is_fresh
    return points, dampings, num_steps, is_done, is_small(points, values), is_slow


def polish(
    network: RecurrentNetwork, stimulus: Float[Array, " stimulus"], points: Float[np.ndarray, "point state"]
) -> Polished:
    """Plain Newton steps as long as they reduce the residual, for points close to a zero; at least one."""
    return Polished(*by_lanes(_polish, network, stimulus, points))


@compiled
def _polish(network, stimulus, points):
    excess = _excess(network, stimulus)
    scales = _scales(network, stimulus, points)

    def sizes(values):
        return jnp.max(jnp.abs(scales * values), axis=1)

    def step(_, carry):
        points, values = carry
        # Where it is not finite, the search has already converged as far as difference quotients allow.
        matrices = jax.vmap(jax.jacfwd(excess))(points)
        new_points = points - jnp.linalg.solve(matrices, values[..., None])[..., 0]
        new_values = jax.vmap(excess)(new_points)
        is_better = (sizes(new_values) < sizes(values))[:, None]
        return jnp.where(is_better, new_points, points), jnp.where(is_better, new_values, values)

    points, _ = jax.lax.fori_loop(0, _NUM_POLISHES, step, (points, jax.vmap(excess)(points)))
    states = jax.vmap(lambda point: to_state(network, point))(points)
    jacobians = finite_jacobians(lambda state: network.velocity(state, stimulus), states)
    speeds = jax.vmap(lambda state: network.velocity(state, stimulus))(states)
    steps = jnp.linalg.solve(jacobians, speeds[..., None])
    residuals = jax.vmap(lambda state: residual(network, state, stimulus))(states)
    return states, residuals, jacobians, jnp.max(jnp.abs(steps), axis=(1, 2))
