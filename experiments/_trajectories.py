"""Trajectories of a network in time, and the period of a cycle."""

import jax
import jax.numpy as jnp
import numpy as np

from rnn2ff.networks import RecurrentNetwork

STEP = 0.02  # of traces, in time constants


def trace(network: RecurrentNetwork, stimulus, start, duration: float) -> np.ndarray:
    """States along a trajectory, one per row, by Runge-Kutta steps of fixed size."""
    step = STEP * float(jnp.min(network.time_constants))
    stimulus = jnp.asarray(stimulus)

    def advance(state, _):
        first = network.velocity(state, stimulus)
        second = network.velocity(state + step / 2 * first, stimulus)
        third = network.velocity(state + step / 2 * second, stimulus)
        fourth = network.velocity(state + step * third, stimulus)
        return state + step / 6 * (first + 2 * second + 2 * third + fourth), state

    return np.asarray(jax.lax.scan(advance, jnp.asarray(start, float), length=int(duration / STEP))[1])


def period(values: np.ndarray) -> float:
    """Mean time between upward crossings of the median, in the second half of a trace."""
    values = values[len(values) // 2 :]
    middle = np.median(values)
    before = np.flatnonzero((values[:-1] < middle) & (values[1:] >= middle))
    crossings = before + (middle - values[before]) / (values[before + 1] - values[before])
    return float(np.diff(crossings).mean() * STEP)
