"""Threshold-linear networks, `tau dx/dt = -x + W [x]_+ + B u + b`.

That is the state form; the rate form is `tau dr/dt = -r + [W r + B u + b]_+`. The two share their steady states:
`r* = [x*]_+` and `x* = W r* + B u + b`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.experimental.sparse import BCOO
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from rnn2ff._checks import check_at_least, check_finite, check_positive, check_shape, check_weights
from rnn2ff.networks.base import RecurrentNetwork


class ThresholdLinearParams(eqx.Module):
    """Parameters of a threshold-linear network.

    Attributes:
        recurrent_weights: W, from column to row; dense or sparse.
        stimulus_weights: B, or None where the stimulus drives each unit directly.
        bias: b, a constant input to each unit.
        time_constants: tau, in any unit of time.
    """

    recurrent_weights: Float[Array, "state state"] | BCOO
    stimulus_weights: Float[Array, "state stimulus"] | None
    bias: Float[Array, " state"]
    time_constants: Float[Array, " state"]

    def feedforward_input(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """`B u + b`, what reaches the units from outside."""
        driven = stimulus if self.stimulus_weights is None else self.stimulus_weights @ stimulus
        return driven + self.bias

    def total_input(self, rates: Float[Array, " state"], stimulus: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """`W r + B u + b`. A unit is active in a steady state exactly where this is positive."""
        return self.recurrent_weights @ rates + self.feedforward_input(stimulus)


def rectify(params: ThresholdLinearParams, state: Float[Array, " state"]) -> Float[Array, " state"]:
    """`[x]_+`, the rates of the state form."""
    del params
    return jax.nn.relu(state)


def state_form(
    params: ThresholdLinearParams, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
) -> Float[Array, " state"]:
    """`(-x + W [x]_+ + B u + b) / tau`."""
    return (params.total_input(jax.nn.relu(state), stimulus) - state) / params.time_constants


def rate_form(
    params: ThresholdLinearParams, rates: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
) -> Float[Array, " state"]:
    """`(-r + [W r + B u + b]_+) / tau`."""
    return (jax.nn.relu(params.total_input(rates, stimulus)) - rates) / params.time_constants


def is_threshold_linear(network: RecurrentNetwork) -> bool:
    """Whether the exact methods for piecewise linear networks apply."""
    return network.vector_field in (state_form, rate_form)


def threshold_linear(
    recurrent_weights: ArrayLike | BCOO,
    *,
    stimulus_weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    time_constants: ArrayLike = 1.0,
) -> RecurrentNetwork:
    """A network in the state form, `tau dx/dt = -x + W [x]_+ + B u + b`; its rates are `[x]_+`.

    Args:
        recurrent_weights: W, square, from column to row; its dtype is the network's. Dense or `BCOO`.
        stimulus_weights: B, shape (state, stimulus). By default the stimulus drives each unit directly.
        bias: b, a constant input to each unit, by default 0.
        time_constants: tau, positive, one for all units or one for each, in any unit of time.

    Raises:
        ValueError: if W is not square or not finite, the shapes do not fit, or a time constant is not positive.
    """
    params = _params(recurrent_weights, stimulus_weights, bias, time_constants)
    return RecurrentNetwork(state_form, params, rate_function=rectify, **_sizes(params))


def threshold_linear_rate(
    recurrent_weights: ArrayLike | BCOO,
    *,
    stimulus_weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    time_constants: ArrayLike = 1.0,
) -> RecurrentNetwork:
    """A network in the rate form, `tau dr/dt = -r + [W r + B u + b]_+`; its state is its rates.

    Args and errors are those of `threshold_linear`.
    """
    params = _params(recurrent_weights, stimulus_weights, bias, time_constants)
    return RecurrentNetwork(rate_form, params, **_sizes(params))


def random_threshold_linear(state_size: int, *, gain: float = 0.8, key: PRNGKeyArray) -> RecurrentNetwork:
    """A network in the state form with Gaussian weights of standard deviation `gain / sqrt(state_size)`.

    Args:
        state_size: number of units.
        gain: dimensionless; below 1 the linear network is stable, rectified ones are up to about sqrt(2).
        key: a PRNG key.

    Raises:
        ValueError: if `gain` is not positive, or there is no unit.

    References:
        Sompolinsky, Crisanti and Sommers, Chaos in random neural networks, Physical Review Letters 61, 1988.
    """
    check_at_least("state_size", state_size, 1)
    check_positive("gain", gain)
    return threshold_linear(jr.normal(key, (state_size, state_size)) * (gain / state_size**0.5))


def _sizes(params: ThresholdLinearParams) -> dict[str, int]:
    state_size = params.bias.shape[0]
    weights = params.stimulus_weights
    return {"state_size": state_size, "stimulus_size": state_size if weights is None else weights.shape[1]}


def _params(
    recurrent_weights: ArrayLike | BCOO,
    stimulus_weights: ArrayLike | None,
    bias: ArrayLike | None,
    time_constants: ArrayLike,
) -> ThresholdLinearParams:
    check_weights("recurrent_weights", recurrent_weights)
    weights = recurrent_weights if isinstance(recurrent_weights, BCOO) else _inexact(recurrent_weights)
    state_size = weights.shape[0]
    if stimulus_weights is not None:
        expected = (state_size, np.shape(stimulus_weights)[-1] if np.ndim(stimulus_weights) == 2 else -1)
        check_shape("stimulus_weights", stimulus_weights, expected)
        check_finite("stimulus_weights", stimulus_weights)
        stimulus_weights = jnp.asarray(stimulus_weights, weights.dtype)
    if bias is None:
        bias = jnp.zeros(state_size, weights.dtype)
    check_shape("bias", bias, (state_size,))
    check_finite("bias", bias)
    if np.ndim(time_constants) != 0:
        check_shape("time_constants", time_constants, (state_size,))
    check_positive("time_constants", time_constants)
    return ThresholdLinearParams(
        recurrent_weights=weights,
        stimulus_weights=stimulus_weights,
        bias=jnp.asarray(bias, weights.dtype),
        time_constants=jnp.broadcast_to(jnp.asarray(time_constants, weights.dtype), (state_size,)),
    )


def _inexact(array: ArrayLike) -> Float[Array, "..."]:
    """As a JAX array of floats; whole numbers become the default float."""
    array = jnp.asarray(array)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
