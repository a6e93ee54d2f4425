"""What training minimizes, in squared units of rate, means over samples and units.

A loss is a function `(approximator, stimuli, rates) -> error`. Where data are few, the directional derivatives of the
steady rates by the stimulus, which cost a linear solve each, tell more than the rates alone.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from rnn2ff._checks import check_key, check_shape, check_stimuli
from rnn2ff.approximators import Trainable
from rnn2ff.networks import RecurrentNetwork

Loss = Callable[[Trainable, Float[Array, "batch stimulus"], Float[Array, "batch rate"]], Scalar]


def mean_squared_error(
    approximator: Trainable, stimuli: Float[Array, "batch stimulus"], rates: Float[Array, "batch rate"]
) -> Scalar:
    """Mean squared error over all samples and units, in squared units of rate."""
    return jnp.mean((jax.vmap(approximator)(stimuli) - rates) ** 2)


def rate_error(
    approximator: Trainable, stimuli: Float[Array, "batch stimulus"], rates: Float[Array, "batch rate"]
) -> Scalar:
    """The mean squared error, with a way back for an output that is silent whenever it should be active.

    The derivative of a rectified output vanishes below zero, so a unit that is silent for all stimuli would stay so.
    For a unit that no sample finds active where its target is, the error therefore goes on below zero as steeply as it
    ends there: enough to wake the unit, and no more the deeper it sleeps. For all others it is the error itself: where
    a competition is decided, an output has to fall far below zero on one side of a boundary, and whoever is a little
    off there pays for the rate, and not for the depth.
    """
    if not approximator.is_rectified:
        return mean_squared_error(approximator, stimuli, rates)
    output = jax.vmap(approximator.linear_output)(stimuli)
    is_missed = (rates > 0) & (output < 0)
    is_silent = ~jnp.any((rates > 0) & (output > 0), axis=0)[None]
    errors = (jax.nn.relu(output) - rates) ** 2
    return jnp.mean(jnp.where(is_missed & is_silent, rates**2 - 2 * rates * output, errors))


class Tangents(eqx.Module):
    """Derivatives of steady rates along one direction of the stimulus for each sample; made by `steady_tangents`.

    Attributes:
        directions: of the stimulus, one a row, of the size of the stimuli's own variation.
        derivatives: of the rates along them.
    """

    directions: Float[Array, "batch stimulus"]
    derivatives: Float[Array, "batch rate"]


def steady_tangents(
    network: RecurrentNetwork,
    states: Float[Array, "batch state"],
    stimuli: Float[Array, "batch stimulus"],
    *,
    key: PRNGKeyArray,
) -> Tangents:
    """The implicit derivative of the steady rates, along a random direction for each sample.

    Args:
        network: the network.
        states: steady states, one a row.
        stimuli: their stimuli.
        key: a PRNG key: the directions, Gaussian with each channel's deviation over the stimuli.

    Raises:
        ValueError: if the states and stimuli do not fit the network or each other.
    """
    check_key(key)
    check_stimuli(stimuli, network.stimulus_size)
    check_shape("states", states, (len(stimuli), network.state_size))
    directions = stimuli.std(axis=0)[None] * jr.normal(key, stimuli.shape, stimuli.dtype)
    return Tangents(directions, _derivatives(network, states, stimuli, directions))


@eqx.filter_jit
def _derivatives(network, states, stimuli, directions):
    def derivative(state, stimulus, direction):
        # 0 = f(x, u): the Jacobian by the state, times dx, is minus the derivative by the stimulus, times du.
        pushed = jax.jvp(lambda stimulus: network.velocity(state, stimulus), (stimulus,), (direction,))[1]
        change = jnp.linalg.solve(jax.jacfwd(network.velocity)(state, stimulus), -pushed)
        return jax.jvp(network.rates, (state,), (change,))[1]

    return jax.vmap(derivative)(states, stimuli, directions)


def tangent_error(approximator: Trainable, stimuli: Float[Array, "batch stimulus"], tangents: Tangents) -> Scalar:
    """Mean squared error of the derivatives along the directions, in squared units of rate."""

    def derivative(stimulus, direction):
        return jax.jvp(approximator, (stimulus,), (direction,))[1]

    return jnp.mean((jax.vmap(derivative)(stimuli, tangents.directions) - tangents.derivatives) ** 2)
