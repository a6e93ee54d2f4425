"""Threshold-linear networks, `tau dx/dt = -x + W [x]_+ + B u + b`, and their rate form."""

from __future__ import annotations

import functools
from zlib import crc32

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.experimental.sparse import BCOO, BCSR
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from rnn2ff._checks import check_key, check_positive_numbers, check_sizes, fail, is_known
from rnn2ff.compiling import evaluated_now
from rnn2ff.networks.base import RecurrentNetwork, batch_rates
from rnn2ff.networks.rate import RateForm, RateNetwork, StateForm, rate_network

STATE_FORM = StateForm(jax.nn.relu)
RATE_FORM = RateForm(jax.nn.relu)


def is_threshold_linear(network: RecurrentNetwork) -> bool:
    """Whether the network is threshold-linear, so that the exact methods for piecewise linear networks apply."""
    return isinstance(network, RateNetwork) and network.nonlinearity is jax.nn.relu


def has_rectified_rates(network: RecurrentNetwork) -> bool:
    """Whether the rates are rectified total inputs, of all units or of some, and not those of another rate function."""
    if not is_threshold_linear(network) or not all(map(is_known, jax.tree.leaves(network.params))):
        return False
    totals = np.arange(1, network.state_size + 1, dtype=network.dtype)
    with evaluated_now():  # also inside a program, if the network is known
        states = np.stack([totals, -totals if network.vector_field == STATE_FORM else 0 * totals])
        positive, negative = np.asarray(batch_rates(network, states))
    return bool((positive > 0).all() and (negative == 0).all())


def threshold_linear(
    recurrent_weights: ArrayLike | BCOO | BCSR,
    *,
    stimulus_weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    time_constants: ArrayLike = 1.0,
) -> RateNetwork:
    """A network in the state form, `tau dx/dt = -x + W [x]_+ + B u + b`; its rates are `[x]_+`.

    Args:
        recurrent_weights: W, square, from column to row; its dtype is the network's. Dense, `BCOO` or `BCSR`.
        stimulus_weights: B, shape (state, stimulus). By default the stimulus drives each unit directly.
        bias: b, a constant input to each unit, by default 0.
        time_constants: tau, positive, one for all units or one for each, in any unit of time.

    Raises:
        ValueError: if W is not square or not finite, the shapes do not fit, or a time constant is not positive.

    Example:
        Two units that inhibit each other:

            network = rnn2ff.threshold_linear(np.array([[0.2, -0.5], [-0.3, 0.1]]))
            rates = rnn2ff.solve_steady_state(network, jnp.array([1.0, 0.5])).rates(network)
    """
    return rate_network(
        STATE_FORM, recurrent_weights, stimulus_weights=stimulus_weights, bias=bias, time_constants=time_constants
    )


def threshold_linear_rate(
    recurrent_weights: ArrayLike | BCOO | BCSR,
    *,
    stimulus_weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    time_constants: ArrayLike = 1.0,
) -> RateNetwork:
    """A network in the rate form, `tau dr/dt = -r + [W r + B u + b]_+`; its state is its rates.

    Args and errors are those of `threshold_linear`.
    """
    return rate_network(
        RATE_FORM, recurrent_weights, stimulus_weights=stimulus_weights, bias=bias, time_constants=time_constants
    )


def random_threshold_linear(
    state_size: int, *, gain: float = 0.8, connection_probability: float = 1.0, key: PRNGKeyArray
) -> RateNetwork:
    """A network in the state form with Gaussian weights of mean 0 and standard deviation `gain / sqrt(state_size)`.

    Args:
        state_size: number of units.
        gain: dimensionless; the linear network is stable below 1, a rectified one up to about sqrt(2).
        connection_probability: p, the probability that a weight is nonzero. Weights are scaled by `1 / sqrt(p)`, which
            keeps the gain.
        key: a PRNG key.

    Raises:
        ValueError: if `gain` is not positive, `connection_probability` is not above 0 and at most 1, or there is no
            unit.

    References:
        Sompolinsky, Crisanti and Sommers, Chaos in random neural networks, Physical Review Letters 61, 1988.
    """
    check_sizes(state_size=state_size)
    check_positive_numbers(gain=gain)
    check_key(key)
    _check_probability(connection_probability)
    deviation = gain / (connection_probability * state_size) ** 0.5
    return threshold_linear(gaussian_weights(state_size, deviation, key, connection_probability))


def random_excitatory_inhibitory(
    num_excitatory: int,
    num_inhibitory: int,
    *,
    gain: float = 0.8,
    balance: float = 1.5,
    connection_probability: float = 1.0,
    key: PRNGKeyArray,
) -> RateNetwork:
    """A random network of excitatory and inhibitory units (Dale's law), in the state form.

    Each unit has outgoing weights of one sign: the excitatory units come first, with non-negative columns. Their
    strengths are the absolute values of Gaussians, with one scale for each population.

    Besides the bulk of its spectrum the weight matrix has one real eigenvalue near the mean recurrent input, below 0 if
    `balance` is above 1. If a stimulus silences inhibitory units, excitation can run away; a solve reports `diverging`.

    Args:
        num_excitatory: number of excitatory units.
        num_inhibitory: number of inhibitory units.
        gain: radius of the bulk of the spectrum, dimensionless.
        balance: inhibitory over excitatory input to a unit, when all units have the same rate.
        connection_probability: the probability that a weight is nonzero.
        key: a PRNG key.

    Raises:
        ValueError: if a number of units is not at least 1, `gain` or `balance` is not positive, or
            `connection_probability` is not above 0 and at most 1.

    References:
        Rajan and Abbott, Eigenvalue spectra of random matrices for neural networks, Physical Review Letters 97, 2006.
    """
    check_sizes(num_excitatory=num_excitatory, num_inhibitory=num_inhibitory)
    check_positive_numbers(gain=gain, balance=balance)
    check_key(key)
    _check_probability(connection_probability)
    state_size = num_excitatory + num_inhibitory
    weights = gaussian_weights(state_size, 1.0, key, connection_probability)
    ratio = balance * num_excitatory / num_inhibitory  # of an inhibitory weight to an excitatory one
    # The variance of a strength is that of a half-normal variable that is 0 with probability 1 - p.
    variance = connection_probability * (1 - connection_probability * 2 / np.pi)
    scale = gain / (variance * (num_excitatory + ratio**2 * num_inhibitory)) ** 0.5
    return threshold_linear(_with_signs(weights, num_excitatory, scale, -scale * ratio))


def gaussian_weights(
    size: int, deviation: float, key: PRNGKeyArray, probability: float = 1.0
) -> Float[Array, "{size} {size}"]:
    """A square matrix of Gaussian weights of mean 0; each is nonzero with the given probability."""
    return _gaussian_weights(size, deviation, key, None if probability == 1 else probability)


# Compiled as one program each; otherwise each operation is one.


@functools.partial(jax.jit, static_argnums=1)
def _with_signs(weights, num_excitatory, excitatory_scale, inhibitory_scale):
    is_excitatory = np.arange(weights.shape[1]) < num_excitatory
    return jnp.abs(weights) * jnp.where(is_excitatory, excitatory_scale, inhibitory_scale)[None, :]


@functools.partial(jax.jit, static_argnums=0)
def _gaussian_weights(size, deviation, key, probability):
    weights = jr.normal(key, (size, size)) * deviation
    if probability is None:
        return weights
    return jnp.where(jr.bernoulli(jr.fold_in(key, crc32(b"connections")), probability, weights.shape), weights, 0.0)


def _check_probability(probability: float) -> None:
    if not 0 < probability <= 1:
        raise fail("connection_probability", "is out of range", "above 0 and at most 1", repr(probability))
