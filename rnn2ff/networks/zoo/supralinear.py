"""The stabilized supralinear network: a ring of orientations, and a pair of populations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from rnn2ff._checks import check_positive_numbers, check_shape, check_sizes, is_known
from rnn2ff.networks.base import as_array
from rnn2ff.networks.nonlinearities import PowerLaw
from rnn2ff.networks.rate import RateForm, RateNetwork, StateForm, rate_network
from rnn2ff.networks.weights import check_two_populations

_HALF_TURN = 180.0  # degrees after which an orientation repeats


def stabilized_supralinear(
    num_units: int = 180,
    *,
    weights: ArrayLike = np.array([[0.044, -0.023], [0.042, -0.018]]),
    width: float = 32.0,
    nonlinearity: PowerLaw = PowerLaw(0.04, 2.0),
    time_constants: tuple[float, float] = (20.0, 10.0),
    form: type[RateForm] | type[StateForm] = RateForm,
) -> RateNetwork:
    """The stabilized supralinear network, a ring of excitatory and inhibitory units for 180 degrees of orientation.

    `tau r' = -r + k [W r + u]_+^n`, with `W_ij = w exp(-d_ij^2 / (2 width^2))` for orientations at distance d. Weak
    stimuli add up supralinearly, strong ones sublinearly, as inhibition takes over. The state lists the excitatory
    units by orientation, then the inhibitory ones; the stimulus has one channel per orientation, which drives both.
    Unit i prefers `180 i / num_units` degrees.

    Iterating `r <- k [W r + u]_+^n` diverges for strong stimuli, although the dynamics are stable there.

    Args:
        num_units: units in each population.
        weights: w by population, for 180 units; they are scaled by `180 / num_units`.
        width: standard deviation of the connections, in degrees.
        nonlinearity: the power law, from the input (mV) to the rate (Hz).
        time_constants: of the excitatory and the inhibitory units, in ms.
        form: `RateForm` (as published) or `StateForm`; they share their steady rates.

    Raises:
        ValueError: if there is no unit, a value is not positive, or the weights do not have the signs of one
            excitatory and one inhibitory population.

    References:
        Rubin, Van Hooser and Miller, The stabilized supralinear network: a unifying circuit motif underlying
        multi-input integration in sensory cortex, Neuron 85, 2015.
    """
    check_positive_numbers(width=width)
    check_two_populations(weights)
    check_shape("time_constants", time_constants, (2,))
    positions = np.asarray(_orientations(num_units))
    profile = np.exp(-(_orientation_distance(positions[:, None], positions) ** 2) / (2 * width**2))
    xp = np if is_known(weights) else jnp  # on the host, where nothing is compiled
    return rate_network(
        form(nonlinearity),
        xp.kron(xp.asarray(weights, float), xp.asarray(profile * (180 / num_units), float)),
        stimulus_weights=np.tile(np.eye(num_units), (2, 1)),
        time_constants=np.repeat(time_constants, num_units),
    )


def grating_stimulus(
    orientation: ScalarLike, num_units: int = 180, *, contrast: ScalarLike = 10.0, width: ScalarLike = 30.0
) -> Float[Array, "{num_units}"]:
    """A grating for `stabilized_supralinear`, `contrast exp(-d^2 / (2 width^2))`; angles in degrees.

    Gratings add: the stimulus of a plaid is the sum of two.
    """
    return _gaussian_stimulus(_orientations(num_units), orientation, contrast, width)


def stabilized_supralinear_pair(
    *,
    weights: ArrayLike = np.array([[1.25, -0.65], [1.2, -0.5]]),
    nonlinearity: PowerLaw = PowerLaw(0.3, 2.0),
    time_constants: tuple[float, float] = (20.0, 10.0),
    form: type[RateForm] | type[StateForm] = RateForm,
) -> RateNetwork:
    """The stabilized supralinear network of one excitatory and one inhibitory population.

    Args:
        weights: from column to row, excitatory first.
        nonlinearity: the power law, from the input (mV) to the rate (Hz).
        time_constants: of the two, in ms.
        form: `RateForm`, or `StateForm`, where the state is a voltage above threshold; they share their steady rates.

    Raises:
        ValueError: if a time constant is not positive, or the weights do not have the signs of one excitatory and
            one inhibitory population.

    References:
        Ahmadian, Rubin and Miller, Analysis of the stabilized supralinear network, Neural Computation 25, 2013.
        Hennequin, Ahmadian, Rubin, Lengyel and Miller, The dynamical regime of sensory cortex: stable dynamics around
        a single stimulus-tuned attractor account for patterns of noise variability, Neuron 98, 2018 (the defaults).
    """
    check_two_populations(weights)
    check_shape("time_constants", time_constants, (2,))
    return rate_network(form(nonlinearity), as_array(weights), time_constants=np.asarray(time_constants))


@jax.jit  # otherwise each operation is a program
def _gaussian_stimulus(orientations, orientation, contrast, width):
    distance = _orientation_distance(orientations, orientation)
    return contrast * jnp.exp(-(distance**2) / (2 * width**2))


def _orientations(num_units: int) -> Float[Array, "{num_units}"]:
    check_sizes(num_units=num_units)
    return jax.device_put(np.arange(num_units, dtype=jax.dtypes.canonicalize_dtype(float)) * (_HALF_TURN / num_units))


def _orientation_distance(one: ArrayLike, other: ArrayLike) -> Array | np.ndarray:
    """In degrees, at most a quarter turn."""
    return abs((one - other + _HALF_TURN / 2) % _HALF_TURN - _HALF_TURN / 2)
