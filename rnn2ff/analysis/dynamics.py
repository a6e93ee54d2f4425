"""Where the dynamics lead from many states: over growing windows of time, in the network's own time scales.

Explicit steps (Bogacki and Shampine) and, where the dynamics are stiff, implicit ones (`ode23s` of Shampine and
Reichelt), with step sizes chosen for each sample; a map takes its own steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnn2ff.analysis.newton import by_lanes, finite_jacobians
from rnn2ff.compiling import compiled
from rnn2ff.networks import RecurrentNetwork, residual, time_scales

_WINDOWS = (1, 2, 3, 6, 12, 24, 48, 96, 192, 384)  # of time, in the longest time scale; after each, states are recorded
_LONG_WINDOW = 24  # a sample that rests at both ends of such a window is done: within it, the dynamics leave a saddle
_REST = 1e-4  # the residual of a state at rest; from there Newton's method leads to the fixed point
_SETTLED = 1e-3  # the residual of a state that counts as at rest at the end of all windows
_STEP_TOLERANCE = 1e-5  # local error, relative to 1 + max |x|; where stability limits the steps, residuals stay below
_FIRST_STEP = 0.05  # of each window, in the shortest time scale
_EXPLICIT_STEPS, _IMPLICIT_STEPS = 8192, 512  # of a window at most; dynamics that need more explicit ones are stiff
MOST_SCALES_APART = 1e6  # the longest time scale counts as at most this many of the shortest
_LARGEST_STATE = 1e8  # times 1 + max |u| + max |start|; beyond, the dynamics diverge


class Followed(NamedTuple):
    """Where the dynamics lead."""

    visited: Float[np.ndarray, "visited state"]  # states along the trajectories, one for each start
    # The state that each start leads to, NaN where the dynamics do not come to rest.
    ends: Float[np.ndarray, "start state"]
    # Whether an implicit method was needed, which may come to rest where the dynamics do not.
    is_stiff: Bool[np.ndarray, " start"]


class _Advanced(NamedTuple):
    """Samples after a window of time."""

    states: Float[Array, "lane state"]  # the last states
    residuals: Float[Array, " lane"]  # there
    is_finished: Bool[Array, " lane"]  # whether the steps sufficed for the window


def follow(network: RecurrentNetwork, stimulus: Array, starts: np.ndarray) -> Followed:
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
    visited = np.stack(history)[rows % len(history), rows]  # one for each start, early or late
    ends = np.where(is_settled[:, None], states, np.nan)
    return Followed(visited[np.isfinite(visited).all(axis=1)], ends, is_stiff)


@compiled
def _advance(network, stimulus, states, duration, take_step, max_steps):
    """Follow the dynamics for a time, in each sample's longest time scale, with local errors within the tolerance."""
    scales = jax.vmap(lambda state: time_scales(network, state, stimulus))(states)
    shortest = jnp.min(scales, axis=1)
    ends = duration * jnp.minimum(jnp.max(scales, axis=1), MOST_SCALES_APART * shortest)

    def velocity(state):
        return network.velocity(state, stimulus)

    def up_to_end(times, steps):
        return jnp.minimum(steps, ends - times)

    def is_moving(times, steps):
        return times + up_to_end(times, steps) > times  # False where the step is below rounding

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
    residuals = jax.vmap(lambda state: residual(network, state, stimulus))(states)
    return _Advanced(states, residuals, times >= ends)


@compiled
def _iterate(network, stimulus, states, num_steps):
    """Iterate a map."""
    move = jax.vmap(lambda state: state + network.velocity(state, stimulus))
    states = jax.lax.fori_loop(0, num_steps, lambda _, states: move(states), states)
    residuals = jax.vmap(lambda state: residual(network, state, stimulus))(states)
    return _Advanced(states, residuals, jnp.ones_like(residuals, bool))


def _explicit_step(velocity, states, slopes, steps):
    """A step of the method of Bogacki and Shampine: new states, their velocities, and the local errors."""
    second = jax.vmap(velocity)(states + steps / 2 * slopes)
    third = jax.vmap(velocity)(states + 3 / 4 * steps * second)
    new_states = states + steps / 9 * (2 * slopes + 3 * second + 4 * third)
    new_slopes = jax.vmap(velocity)(new_states)
    return new_states, new_slopes, steps / 72 * (-5 * slopes + 6 * second + 8 * third - 9 * new_slopes)


def _implicit_step(velocity, states, slopes, steps):
    """The same for stiff dynamics, by `ode23s` of Shampine and Reichelt: one linear solve per step, no iteration."""
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
