"""Follow the dynamics of a batch until they come to rest, each sample with its own step.

Adaptive Heun steps in chunks of fixed length. Between two chunks the host retires what is at rest, finishes
threshold-linear samples whose active set has been quiet for a chunk, and gathers what is left when it has halved.
"""

import itertools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from rnn2ff.networks.base import RecurrentNetwork, residual
from rnn2ff.networks.rate import StateForm, has_sparse_weights
from rnn2ff.networks.threshold_linear import is_threshold_linear
from rnn2ff.steady_state.active_set import solve_on_active_sets
from rnn2ff.steady_state.attraction import attractions
from rnn2ff.steady_state.padding import TILE, in_tiles, padded

_STEPS_PER_CHUNK, _LONGEST_CHUNK = 12, 8  # steps of the first chunks, and how many times longer they become
FIRST_STEP, _LARGEST_STEP = 0.05, 0.5  # in units of the shortest time constant
_STEP_TOLERANCE = 0.008  # local error of a step, relative to 1 + max |x|: small enough to keep to the basin
_REST = 0.1  # of the tolerance; what the dynamics alone must reach, since a slow saddle is left only slowly
_LARGEST_EXACT = 512  # active units; beyond, a linear system costs more than the dynamics


class Followed(NamedTuple):
    """The end of following a batch; arrays on the host.

    Attributes:
        states: the last states.
        is_finished: whether the state is at rest and stable.
        rates: the slowest decay rate of a finished sample, over time; otherwise NaN.
        is_exact: whether the finish was exact, on the active set.
        num_steps: steps of time.
    """

    states: Float[np.ndarray, "batch state"]
    is_finished: Bool[np.ndarray, " batch"]
    rates: Float[np.ndarray, " batch"]
    is_exact: Bool[np.ndarray, " batch"]
    num_steps: Int[np.ndarray, " batch"]


def follow(
    network: RecurrentNetwork,
    stimuli: Float[np.ndarray, "batch stimulus"],
    initial_states: Float[np.ndarray, "batch state"],
    *,
    tolerance: float,
    max_steps: int,
    proof_step: float = 1.0,
    certified_rate: float = 0.0,
) -> Followed:
    """Follow the dynamics until rest, for at most `max_steps` steps.

    A threshold-linear sample is finished exactly when the fixed point on its quiet active set is consistent, stable,
    and ahead of the motion. A fixed point that is not stable is passed by.

    Args:
        network: the network.
        stimuli: one a row.
        initial_states: where the dynamics start.
        tolerance: the largest residual that counts as rest.
        max_steps: bound on the steps of time.
        proof_step: as for `attractions`.
        certified_rate: as for `attractions`.
    """
    num_samples = len(stimuli)
    states = np.array(initial_states)
    is_finished, is_exact = np.zeros((2, num_samples), bool)
    rates = np.full(num_samples, np.nan)
    num_steps = np.zeros(num_samples, int)
    has_active_sets = is_threshold_linear(network) and not has_sparse_weights(network)
    tried = np.zeros((num_samples, -(-network.state_size // 8)), np.uint8)  # the last active set that was solved

    def settle(rows: np.ndarray, at: np.ndarray, exactly: bool) -> np.ndarray:
        """Retire the samples whose state is stable; which ones were."""
        found = attractions(network, at, stimuli[rows], step=proof_step, rate=certified_rate)
        good = np.asarray(found.is_stable)
        states[rows[good]] = at[good]
        rates[rows[good]] = np.asarray(found.rate)[good]
        is_finished[rows[good]], is_exact[rows[good]] = True, exactly
        return good

    live = padded(np.arange(num_samples))
    moving = (jnp.asarray(states[live]), jnp.full(len(live), FIRST_STEP, network.dtype), jnp.asarray(stimuli[live]))
    num_steps_taken = 0
    for chunk in itertools.count():
        if num_steps_taken >= max_steps:
            break
        # Longer chunks later: what is left moves slowly, and there is little of it.
        length = _STEPS_PER_CHUNK * min(2 ** (chunk // 4), _LONGEST_CHUNK)
        num_steps_taken += length
        at, steps, is_quiet, is_active, residuals, velocities = advance(network, *moving, np.int32(length))
        moving = (at, steps, moving[2])
        residuals, is_quiet = np.asarray(residuals), np.asarray(is_quiet)
        is_first = np.zeros(len(live), bool)
        is_first[np.unique(live, return_index=True)[1]] = True  # padding repeats a sample
        is_open = is_first & ~is_finished[live]
        num_steps[live[is_open]] += length
        if has_active_sets and (is_open & is_quiet).any():
            rows = np.flatnonzero(is_open & is_quiet)
            active = np.asarray(is_active)[rows]
            keys = np.packbits(active, axis=1)
            is_new = (tried[live[rows]] != keys).any(axis=1) & (active.sum(axis=1) <= _LARGEST_EXACT)
            rows, active, keys = rows[is_new], active[is_new], keys[is_new]
            if len(rows):
                exact, is_good = solve_on_active_sets(network, stimuli[live[rows]], active)
                # Where the fixed point is not ahead, the motion still turns: ask again after the next chunk.
                with np.errstate(over="ignore", invalid="ignore"):  # of what diverges
                    is_ahead = ((exact - np.asarray(at)[rows]) * np.asarray(velocities)[rows]).sum(axis=1) > 0
                is_decided = ~is_good | is_ahead
                tried[live[rows[is_decided]]] = keys[is_decided]
                is_good &= is_ahead
                if is_good.any():
                    settle(live[rows[is_good]], exact[is_good], exactly=True)
        at_rest = np.flatnonzero(is_open & ~is_finished[live] & (residuals < _REST * tolerance))
        if len(at_rest):
            settle(live[at_rest], np.asarray(at)[at_rest], exactly=False)
        is_open &= ~is_finished[live]
        if not is_open.any():
            break
        if is_open.sum() <= len(live) // 2 and len(padded(np.flatnonzero(is_open))) < len(live):
            keep = padded(np.flatnonzero(is_open))
            live = live[keep]
            moving = tuple(jnp.asarray(np.asarray(each)[keep]) for each in moving)
    is_left = ~is_finished[live]
    states[live[is_left]] = np.asarray(moving[0])[is_left]
    return Followed(states, is_finished, rates, is_exact, num_steps)


@eqx.filter_jit
def advance(network, states, steps, stimuli, num_steps):
    """One chunk of adaptive Heun steps of a batch.

    Returns:
        new states and steps, which samples kept their active set, the sets, residuals, and velocities.
    """
    return in_tiles(lambda *tile: _advance_tile(network, *tile, num_steps), (states, steps, stimuli), TILE)


def _advance_tile(network, states, steps, stimuli, num_steps):
    velocity = jax.vmap(network.velocity)
    shortest = jnp.min(network.time_constants)

    def largest(values):
        return jnp.max(jnp.abs(values), axis=1)

    accuracy = _STEP_TOLERANCE * (1 + largest(states))  # held over a chunk: one pass over memory less in each step

    def step(_, carry):
        states, steps = carry
        seconds = (steps * shortest)[:, None]
        first = velocity(states, stimuli)
        second = velocity(states + seconds * first, stimuli)
        error = 0.5 * seconds[:, 0] * largest(second - first) / accuracy
        is_accepted = error <= 1
        states = states + jnp.where(is_accepted[:, None], 0.5 * seconds, 0) * (first + second)
        growth = jnp.clip(0.9 / jnp.sqrt(jnp.maximum(error, 1e-6)), 0.3, 2.0)
        return states, jnp.minimum(steps * growth, _LARGEST_STEP)

    before = _active(network, states, stimuli)
    states, steps = jax.lax.fori_loop(0, num_steps, step, (states, steps))
    after = _active(network, states, stimuli)
    velocities = velocity(states, stimuli)
    residuals = jax.vmap(lambda state, stimulus: residual(network, state, stimulus))(states, stimuli)
    return states, steps, jnp.all(before == after, axis=1), after, residuals, velocities


def _active(network, states, stimuli):
    """Which units are active; for a network without active sets, an empty answer."""
    if not is_threshold_linear(network):
        return jnp.zeros((len(states), 1), bool)
    if isinstance(network.vector_field, StateForm):
        return states > 0
    return jax.vmap(network.params.total_input)(states, stimuli) > 0
