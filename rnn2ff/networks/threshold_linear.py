"""Threshold-linear networks, `tau dx/dt = -x + W [x]_+ + B u + b`, and their rate form."""

import jax
import jax.random as jr
from jax.experimental.sparse import BCOO
from jaxtyping import ArrayLike, PRNGKeyArray

from rnn2ff._checks import check_at_least, check_positive
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import RateForm, StateForm, rate_network

STATE_FORM = StateForm(jax.nn.relu)
RATE_FORM = RateForm(jax.nn.relu)


def is_threshold_linear(network: RecurrentNetwork) -> bool:
    """Whether the exact methods for piecewise linear networks apply."""
    return network.vector_field in (STATE_FORM, RATE_FORM)


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
    return rate_network(
        STATE_FORM,
        recurrent_weights,
        stimulus_weights=stimulus_weights,
        bias=bias,
        time_constants=time_constants,
    )


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
    return rate_network(
        RATE_FORM,
        recurrent_weights,
        stimulus_weights=stimulus_weights,
        bias=bias,
        time_constants=time_constants,
    )


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
