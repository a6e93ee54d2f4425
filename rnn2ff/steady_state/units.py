"""Own units for tiny samples: a tolerance on residuals relative to `1 + max |x|` says nothing of states far below 1.

A threshold-linear network has no intrinsic unit of rates: if stimuli, biases and initial states are multiplied by a
number, so are its trajectories. A sample whose values are all tiny is therefore solved in a unit in which they are of
order 1. Units are powers of two, so that rescaling causes no rounding.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnn2ff.networks import RateNetwork, RecurrentNetwork, is_threshold_linear
from rnn2ff.steady_state.result import SteadyStates

_SMALLEST = 2.0**-7  # of the inputs and the start of a sample, which the usual tolerance of 1e-5 resolves to .1 %
_BLOCK = 1024  # rows that are processed together
_SMALLEST_UNIT = 2.0**-100  # in float32, numbers below 2^-126 are rounded


class OwnUnits(NamedTuple):
    """A batch in units of its own, one per row.

    Attributes:
        network: driven by the whole input to each unit, biases included.
        stimuli: these inputs.
        initial_states: where the dynamics start; None for zero.
        units: of rates, one per row; 1 if the sample is not tiny.
    """

    network: RateNetwork
    stimuli: Float[np.ndarray, "batch state"]
    initial_states: Float[np.ndarray, "batch state"] | None
    units: Float[np.ndarray, " batch"]


def in_own_units(
    network: RecurrentNetwork,
    stimuli: Float[np.ndarray, "batch stimulus"],
    initial_states: Float[np.ndarray, "batch state"] | None,
) -> OwnUnits | None:
    """The same problem with tiny samples in units of their own; None if none is tiny, or units matter."""
    if not is_threshold_linear(network) or not len(stimuli):
        return None
    params = network.params
    weights = None if params.stimulus_weights is None else np.asarray(params.stimulus_weights).T
    bias = np.asarray(params.bias)

    def inputs_of(stimuli):
        return (stimuli if weights is None else stimuli @ weights) + bias

    blocks = [slice(start, start + _BLOCK) for start in range(0, len(stimuli), _BLOCK)]  # that stay in the cache
    sizes = np.concatenate([_sizes(inputs_of(stimuli[block])) for block in blocks])
    if initial_states is not None:
        sizes = np.maximum(sizes, _sizes(initial_states))
    is_tiny = (sizes > 0) & (sizes < _SMALLEST)
    if not is_tiny.any():
        return None
    inputs = inputs_of(stimuli)
    _, exponents = np.frexp(np.where(is_tiny, np.maximum(sizes, _SMALLEST_UNIT), 1))
    units = np.where(is_tiny, np.ldexp(1.0, exponents), 1).astype(inputs.dtype)
    no_bias = jax.device_put(np.zeros(network.state_size, network.dtype))
    params = dataclasses.replace(params, stimulus_weights=None, bias=no_bias)
    driven = dataclasses.replace(network, params=params, stimulus_size=network.state_size)
    starts = None if initial_states is None else initial_states / units[:, None]
    return OwnUnits(driven, inputs / units[:, None], starts, units)


def _sizes(rows: Float[np.ndarray, "row unit"]) -> Float[np.ndarray, " row"]:
    """The largest absolute value of each row."""
    return np.maximum(rows.max(axis=1), -rows.min(axis=1))


def in_common_units(solved: SteadyStates, units: Float[np.ndarray, " batch"]) -> SteadyStates:
    """A solved batch, back in the units of its network."""
    sizes = jnp.max(jnp.abs(solved.state), axis=1)
    residual = solved.residual * units * (1 + sizes) / (1 + units * sizes)
    state, distance = solved.state * units[:, None], solved.distance * units
    return dataclasses.replace(solved, state=state, residual=residual, distance=distance)
