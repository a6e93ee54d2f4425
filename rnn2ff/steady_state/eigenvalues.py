"""Eigenvalues of Jacobians, on the host: all of them, the leading ones, or those of active units alone.

A silent unit of a threshold-linear network only decays, so the block of the active units holds all other eigenvalues,
and with half of the units active it is an eighth of the work.
"""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import has_sparse_weights
from rnn2ff.networks.threshold_linear import is_threshold_linear
from rnn2ff.spectra import leading_eigenvalues
from rnn2ff.steady_state.active_set import active_blocks, total_inputs

LARGEST_DENSE = 1024  # units; beyond, only the leading eigenvalues are sought, by a Krylov method


@eqx.filter_jit
def jacobian(
    network: RecurrentNetwork, state: Float[ArrayLike, " state"], stimulus: Float[ArrayLike, " stimulus"]
) -> Float[Array, "state state"]:
    """The Jacobian of the velocity, over time."""
    return jax.jacfwd(network.velocity)(jnp.asarray(state), jnp.asarray(stimulus))


@eqx.filter_jit
def _push(network, state, stimulus, vector):
    return jax.jvp(lambda state: network.velocity(state, stimulus), (state,), (vector,))[1]


def eigenvalues_by_krylov(
    network: RecurrentNetwork,
    state: Float[ArrayLike, " state"],
    stimulus: Float[ArrayLike, " stimulus"],
    count: int = 1,
    tolerance: float = 1e-4,
) -> Complex[np.ndarray, " found"]:
    """The rightmost eigenvalues of the Jacobian, from its products with vectors; those that were found."""
    state, stimulus = (jnp.asarray(each, network.dtype) for each in (state, stimulus))

    def push(vector: np.ndarray) -> np.ndarray:
        return np.asarray(_push(network, state, stimulus, jnp.asarray(vector, network.dtype)))

    return leading_eigenvalues(push, network.state_size, network.dtype, count=count, tolerance=tolerance)


def _rightmost_by_krylov(network, state, stimulus) -> float:
    found = eigenvalues_by_krylov(network, state, stimulus)
    return float(found[0].real) if len(found) else np.inf  # not proved stable


def rightmost_eigenvalues(
    network: RecurrentNetwork,
    states: Float[np.ndarray, "batch state"],
    stimuli: Float[np.ndarray, "batch stimulus"],
) -> Float[np.ndarray, " batch"]:
    """The largest real part of the eigenvalues of each Jacobian, over time; on the host, in float64."""
    if has_blocks(network):
        return _rightmost_of_blocks(network, states, stimuli)
    if network.state_size <= LARGEST_DENSE:
        return np.array(
            [
                np.linalg.eigvals(np.asarray(jacobian(network, state, stimulus), np.float64)).real.max()
                for state, stimulus in zip(states, stimuli)
            ]
        )
    return np.array([_rightmost_by_krylov(network, state, stimulus) for state, stimulus in zip(states, stimuli)])


def active_jacobians(
    network: RecurrentNetwork,
    states: Float[np.ndarray, "batch state"],
    stimuli: Float[np.ndarray, "batch stimulus"],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The Jacobians of the active units of a network that `has_blocks`, those of about one size together.

    Yields:
        rows of the batch, and the Jacobians of their active blocks, over time.
    """
    weights = np.asarray(network.params.recurrent_weights, np.float64)
    taus = np.asarray(network.params.time_constants, np.float64)
    # Read from the total input: silent units may still be on their way to zero.
    points = total_inputs(network, np.maximum(states, 0), stimuli)
    for rows, units, is_unit, blocks in active_blocks(weights, points > 0):
        yield rows, -blocks / np.where(is_unit, taus[units], taus.max())[:, :, None]


def _rightmost_of_blocks(network, states, stimuli) -> np.ndarray:
    rightmost = np.full(len(states), -1 / float(np.max(np.asarray(network.params.time_constants))))
    for rows, jacobians in active_jacobians(network, states, stimuli):
        rightmost[rows] = np.maximum(rightmost[rows], np.linalg.eigvals(jacobians).real.max(axis=1))
    return rightmost


def has_blocks(network: RecurrentNetwork) -> bool:
    """Whether Jacobians can be looked at on the active units alone."""
    return is_threshold_linear(network) and not has_sparse_weights(network)
