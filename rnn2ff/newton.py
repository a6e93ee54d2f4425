"""Many Newton searches at once: damped (Levenberg-Marquardt) far from a zero, plain near it.

A search minimizes `|F|^2` by steps `-(J' J + c I)^-1 J' F`, where c falls with `|F|`, so that convergence is quadratic
in the end, and rises where a step fails. Searches take turns on a fixed number of lanes: one that has ended makes room
for the next, so that nothing is compiled for other sizes, and a slow search does not hold up the others.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import is_rate_network

LANES = 64
_STEPS_PER_TURN = 6
_STUCK = 1e6  # damping at which a step no longer moves: at a minimum of the speed that is no zero
_SLOW = 0.8  # |F| falls by less in a turn
_NUM_POLISHES = 3


def to_point(
    network: RecurrentNetwork, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
) -> Float[Array, " state"]:
    """The coordinates of the search: with weights the total input to each unit, else the state.

    In total inputs the silent units of a rectified network are told apart by how silent they are.
    """
    return network.params.total_input(network.rates(state), stimulus) if is_rate_network(network) else state


def to_state(network: RecurrentNetwork, point: Float[Array, " state"]) -> Float[Array, " state"]:
    """The state at a fixed point, from the coordinates of the search."""
    return network.vector_field.from_total_input(point) if is_rate_network(network) else point


def _excess(network: RecurrentNetwork, stimulus: Float[Array, " stimulus"]) -> Callable[[Array], Array]:
    """What has to vanish, dimensionless, in the coordinates of the search."""
    if is_rate_network(network):
        phi, params = network.vector_field.nonlinearity, network.params
        return lambda point: params.total_input(phi(point), stimulus) - point
    return lambda state: network.time_constants * network.velocity(state, stimulus)


def search(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    points: Float[np.ndarray, "start state"],
    *,
    tolerance: float,
    max_steps: int,
    box: tuple[float, float] | None = None,
) -> tuple[Float[np.ndarray, "start state"], Bool[np.ndarray, " start"], Bool[np.ndarray, " start"]]:
    """Search for a zero from every start.

    Args:
        network: the network.
        stimulus: the stimulus, the same for all.
        points: where to start, one a row.
        tolerance: the largest `max |F| / (1 + max |x|)` that counts as zero.
        max_steps: of each search.
        box: the smallest and the largest coordinate; a search that is its width outside is given up.

    Returns:
        where each search ended; whether at a zero; whether it was stuck: at a minimum of `|F|` that is no zero, or so
        slow that it may be called one.
    """
    num_starts, size = points.shape
    ends = np.array(points)
    is_zero, is_stuck = np.zeros((2, num_starts), bool)
    waiting = list(range(num_starts))[::-1]
    low, high = (-np.inf, np.inf) if box is None else (2 * box[0] - box[1], 2 * box[1] - box[0])
    lane_of = np.full(LANES, -1)  # which search each lane works on; -1 for none
    state = [
        np.zeros((LANES, size), network.dtype),
        np.ones(LANES, network.dtype),
        np.zeros(LANES, np.int32),
        np.full(LANES, np.inf, network.dtype),
        np.ones(LANES, bool),
    ]
    while waiting or (lane_of >= 0).any():
        for lane in np.flatnonzero(lane_of < 0)[: len(waiting)]:
            lane_of[lane] = waiting.pop()
            for array, value in zip(state, (points[lane_of[lane]], 1.0, 0, np.inf, False)):
                array[lane] = value
        before = state[3]
        *state, is_at_zero = (np.array(each) for each in _take_turn(network, stimulus, *state, tolerance, max_steps))
        is_slow = ~(state[3] < _SLOW * before) & np.isfinite(before)
        is_outside = ~((state[0] > low) & (state[0] < high)).all(axis=1)
        state[4] |= is_slow | is_outside
        lanes = np.flatnonzero(state[4] & (lane_of >= 0))
        rows = lane_of[lanes]
        ends[rows], is_zero[rows] = state[0][lanes], is_at_zero[lanes] & ~is_outside[lanes]
        is_stuck[rows] = ~is_at_zero[lanes] & ((state[1][lanes] > _STUCK) | is_slow[lanes])
        lane_of[lanes] = -1
    return ends, is_zero, is_stuck


@eqx.filter_jit
def _take_turn(network, stimulus, points, dampings, num_steps, _, is_done, tolerance, max_steps):
    excess = _excess(network, stimulus)
    tolerance = jnp.asarray(tolerance, network.dtype)

    def is_small(point, value):
        return jnp.max(jnp.abs(value)) < tolerance * (1 + jnp.max(jnp.abs(point)))

    def step(carry):
        point, value, damping, num_steps, _ = carry
        matrix = jax.jacfwd(excess)(point)
        square = matrix.T @ matrix
        shift = damping * jnp.linalg.norm(value) / jnp.sqrt(point.size) * jnp.trace(square) / point.size
        shift = shift + jnp.finfo(point.dtype).eps * jnp.trace(square)
        # Not positive definite within rounding: NaN, and so a step that fails.
        factor = jsl.cho_factor(square + shift * jnp.eye(point.size, dtype=point.dtype))
        new = point - jsl.cho_solve(factor, matrix.T @ value)
        new_value = excess(new)
        is_better = jnp.sum(new_value**2) < jnp.sum(value**2)  # False if NaN
        point, value = jnp.where(is_better, new, point), jnp.where(is_better, new_value, value)
        damping = jnp.where(is_better, damping * 0.2, damping * 4).clip(1e-8)
        num_steps = num_steps + 1
        is_done = is_small(point, value) | (damping > _STUCK) | (num_steps >= max_steps) | ~jnp.isfinite(value).all()
        return point, value, damping, num_steps, is_done

    def turn(point, damping, num_steps, is_done):
        value = excess(point)
        is_done = is_done | is_small(point, value)
        carry = (0, (point, value, damping, num_steps, is_done))
        _, carry = jax.lax.while_loop(
            lambda carry: (carry[0] < _STEPS_PER_TURN) & ~carry[1][-1],
            lambda carry: (carry[0] + 1, step(carry[1])),
            carry,
        )
        point, value, damping, num_steps, is_done = carry
        return point, damping, num_steps, jnp.linalg.norm(value), is_done, is_small(point, value)

    return jax.vmap(turn)(points, dampings, num_steps, is_done)


def polish(
    network: RecurrentNetwork, stimulus: Float[Array, " stimulus"], points: Float[np.ndarray, "point state"]
) -> tuple[
    Float[np.ndarray, "point state"],
    Float[np.ndarray, " point"],
    Float[np.ndarray, "point state state"],
    Float[np.ndarray, " point"],
]:
    """Plain Newton steps as long as they help, for points that are nearly zeros already.

    Returns:
        states; `max |tau dx/dt| / (1 + max |x|)` there; Jacobians of the velocity, over time; the largest entry of a
        further Newton step.
    """
    parts = []
    for start in range(0, len(points), LANES):
        rows = np.minimum(np.arange(start, start + LANES), len(points) - 1)
        parts.append([np.asarray(each) for each in _polish(network, stimulus, points[rows].astype(network.dtype))])
    return tuple(np.concatenate(each)[: len(points)] for each in zip(*parts))


@eqx.filter_jit
def _polish(network, stimulus, points):
    excess = _excess(network, stimulus)

    def polish_one(point):
        def step(_, carry):
            point, value = carry
            new = point - jnp.linalg.solve(jax.jacfwd(excess)(point), value)
            new_value = excess(new)
            is_better = jnp.max(jnp.abs(new_value)) < jnp.max(jnp.abs(value))
            return jnp.where(is_better, new, point), jnp.where(is_better, new_value, value)

        point, _ = jax.lax.fori_loop(0, _NUM_POLISHES, step, (point, excess(point)))
        state = to_state(network, point)
        drift = network.time_constants * network.velocity(state, stimulus)
        residual = jnp.max(jnp.abs(drift)) / (1 + jnp.max(jnp.abs(state)))
        jacobian = jax.jacfwd(network.velocity)(state, stimulus)
        step = jnp.linalg.solve(jacobian, network.velocity(state, stimulus))
        return state, residual, jacobian, jnp.max(jnp.abs(step))

    return jax.vmap(polish_one)(points)


@eqx.filter_jit
def velocities(
    network: RecurrentNetwork, stimulus: Float[Array, " stimulus"], states: Float[ArrayLike, "batch state"]
) -> Float[Array, "batch state"]:
    """dx/dt at many states, for one stimulus."""
    return jax.vmap(lambda state: network.velocity(state, stimulus))(jnp.asarray(states))
