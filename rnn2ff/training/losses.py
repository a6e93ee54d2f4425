"""Losses, in squared units of rate; means over samples and units.

A loss is a function `(approximator, stimuli, rates) -> error`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from rnn2ff.approximators import Approximator

Loss = Callable[[Approximator, Float[Array, "batch stimulus"], Float[Array, "batch rate"]], Scalar]


def mean_squared_error(
    approximator: Approximator, stimuli: Float[Array, "batch stimulus"], rates: Float[Array, "batch rate"]
) -> Scalar:
    """Mean squared error over all samples and units, in squared units of rate."""
    return jnp.mean((jax.vmap(approximator)(stimuli) - rates) ** 2)


def rate_error(
    approximator: Approximator, stimuli: Float[Array, "batch stimulus"], rates: Float[Array, "batch rate"]
) -> Scalar:
    """The mean squared error, with a gradient for outputs that are silent whenever they should be active.

    The derivative of a rectified output vanishes below zero, so a unit that is silent for all stimuli would stay so.
    For a unit that is active for no sample with a positive target, the error is therefore extended linearly below zero.
    For all others it is the squared error itself: at the boundary of a competition an output has to fall far below
    zero, and a small shift of the boundary should cost the rate, and not the depth of the output.
    """
    if not approximator.is_rectified:
        return mean_squared_error(approximator, stimuli, rates)
    output = jax.vmap(approximator.linear_output)(stimuli)
    is_missed = (rates > 0) & (output < 0)
    is_silent = ~jnp.any((rates > 0) & (output > 0), axis=0)[None]
    errors = (jax.nn.relu(output) - rates) ** 2
    return jnp.mean(jnp.where(is_missed & is_silent, rates**2 - 2 * rates * output, errors))
