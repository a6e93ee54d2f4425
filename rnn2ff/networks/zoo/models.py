"""Published rate models: Wilson-Cowan, Wong-Wang, Hopfield, and random smooth networks.

All but `wong_wang` and the refractory `wilson_cowan` are rate networks.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, ScalarLike

from rnn2ff._checks import (
    check_finite,
    check_key,
    check_numbers,
    check_positive,
    check_positive_numbers,
    check_shape,
    check_sizes,
    fail,
    is_known,
    shape_of,
)
from rnn2ff.networks.base import RecurrentNetwork, as_array
from rnn2ff.networks.nonlinearities import Nonlinearity, ShiftedLogistic, Tanh
from rnn2ff.networks.rate import RateForm, RateNetwork, RateParams, StateForm, rate_network
from rnn2ff.networks.threshold_linear import gaussian_weights
from rnn2ff.networks.weights import check_two_populations


@dataclasses.dataclass(frozen=True)
class RefractoryForm:
    """The vector field `(-r + (1 - rho r) phi(W r + B u + b)) / tau`; the state is the rate."""

    nonlinearity: Nonlinearity  # phi
    refractory: float  # rho, the share of active units that are refractory

    def __call__(
        self, params: RateParams, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
    ) -> Float[Array, " state"]:
        drive = (1 - self.refractory * state) * self.nonlinearity(params.total_input(state, stimulus))
        return (drive - state) / params.time_constants


def wilson_cowan(
    *,
    weights: ArrayLike = np.array([[9.0, -4.0], [13.0, -11.0]]),
    gains: tuple[float, float] = (1.2, 1.0),
    thresholds: tuple[float, float] = (2.8, 4.0),
    time_constants: tuple[float, float] = (1.0, 2.0),
    refractory: float = 0.0,
) -> RecurrentNetwork:
    """The excitatory and the inhibitory population of Wilson and Cowan: the shares of active units.

    `tau r' = -r + (1 - rho r) F(W r + u)` with `F(x) = 1 / (1 + exp(-a (x - theta))) - 1 / (1 + exp(a theta))`. Without
    a stimulus the defaults have two stable states, one of them at 0, and a saddle between them.

    Args:
        weights: from column to row, excitatory first.
        gains: a of each population.
        thresholds: theta of each population.
        time_constants: of each population, in any unit of time.
        refractory: rho. 0 leaves the factor out, as is common; 1 includes it, with the constant that Wilson and Cowan
            call k set to 1.

    Raises:
        ValueError: if a gain or a time constant is not positive, `refractory` is negative, or the weights do not have
            the signs of one excitatory and one inhibitory population.

    References:
        Wilson and Cowan, Excitatory and inhibitory interactions in localized populations of model neurons, Biophysical
        Journal 12, 1972. The defaults are those of Neuromatch Academy, tutorial W2D4.
    """
    check_two_populations(weights)
    for name, values in [("gains", gains), ("thresholds", thresholds), ("time_constants", time_constants)]:
        check_shape(name, values, (2,))
    check_positive("gains", gains)
    check_finite("thresholds", thresholds)
    check_numbers(refractory=refractory)
    if refractory < 0:
        raise fail("refractory", "is negative", "at least 0", refractory)
    response = ShiftedLogistic(tuple(gains), tuple(thresholds))
    network = rate_network(RateForm(response), as_array(weights), time_constants=np.asarray(time_constants))
    if refractory == 0:
        return network
    return RecurrentNetwork(RefractoryForm(response, refractory), network.params, state_size=2, stimulus_size=2)


class WongWangParams(eqx.Module):
    """Parameters of `wong_wang`, with their published values and units."""

    time_constants: Float[Array, ""]  # of the NMDA gating variables, s
    saturation: Float[Array, ""]  # gamma, dimensionless
    slope: Float[Array, ""]  # a of the f-I curve, Hz/nA
    threshold: Float[Array, ""]  # b, Hz
    curvature: Float[Array, ""]  # d, s
    self_coupling: Float[Array, ""]  # from a population to itself, nA
    cross_coupling: Float[Array, ""]  # inhibition between the populations, nA
    background: Float[Array, ""]  # I_0, nA
    input_coupling: Float[Array, ""]  # J_ext, nA/Hz


def wong_wang(
    *,
    time_constant: float = 0.1,
    saturation: float = 0.641,
    slope: float = 270.0,
    threshold: float = 108.0,
    curvature: float = 0.154,
    self_coupling: float = 0.2609,
    cross_coupling: float = 0.0497,
    background: float = 0.3255,
    input_coupling: float = 5.2e-4,
) -> RecurrentNetwork:
    """The two-variable decision model of Wong and Wang, without noise.

    `S_i' = -S_i / tau + (1 - S_i) gamma H(I_i)`, `H(I) = (a I - b) / (1 - exp(-d (a I - b)))`,
    `I_i = J_self S_i - J_cross S_j + I_0 + J_ext u_i`. The state is the gating S of the two populations, between 0 and
    1, and so are the rates; the stimulus is the rate of the input to each, in Hz (`motion_stimulus`). With balanced
    input there are two decision states and a saddle, and the initial state decides; 0 is on the separatrix.

    Args:
        time_constant: tau, s.
        saturation: gamma.
        slope: a, Hz/nA.
        threshold: b, Hz.
        curvature: d, s.
        self_coupling: J_self, nA.
        cross_coupling: J_cross, nA.
        background: I_0, nA.
        input_coupling: J_ext, nA/Hz.

    Raises:
        ValueError: if the time constant, the slope or the curvature is not positive, or a value is not finite.

    References:
        Wong and Wang, A recurrent network mechanism of time integration in perceptual decisions, Journal of
        Neuroscience 26, 2006.
    """
    values = dict(
        time_constants=time_constant,
        saturation=saturation,
        slope=slope,
        threshold=threshold,
        curvature=curvature,
        self_coupling=self_coupling,
        cross_coupling=cross_coupling,
        background=background,
        input_coupling=input_coupling,
    )
    check_numbers(**values)
    check_positive_numbers(time_constant=time_constant, slope=slope, curvature=curvature)
    params = WongWangParams(**{name: as_array(value) for name, value in values.items()})
    return RecurrentNetwork(_wong_wang, params, state_size=2, stimulus_size=2)


def motion_stimulus(coherence: ScalarLike, *, rate: ScalarLike = 30.0) -> Float[Array, "2"]:
    """Random dots for `wong_wang`: `rate (1 + c)` Hz to the first population, `rate (1 - c)` to the second.

    Args:
        coherence: c, from -1 to 1; above 0 the dots move in the first population's preferred direction.
        rate: of the input without coherent motion, in Hz.
    """
    return rate * jnp.stack([1 + jnp.asarray(coherence, float), 1 - jnp.asarray(coherence, float)])


def _wong_wang(params: WongWangParams, state: Float[Array, "2"], stimulus: Float[Array, "2"]) -> Float[Array, "2"]:
    current = (
        params.self_coupling * state
        - params.cross_coupling * state[::-1]
        + params.background
        + params.input_coupling * stimulus
    )
    excess = params.curvature * (params.slope * current - params.threshold)
    firing_rate = _smooth_ramp(excess) / params.curvature
    return -state / params.time_constants + (1 - state) * params.saturation * firing_rate


def _smooth_ramp(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """`x / (1 - exp(-x))`: 1 at 0, where the formula is 0/0; values and derivatives exact to rounding."""
    is_small = jnp.abs(x) < 0.3
    # Each branch gets only valid arguments: derivatives of the branch that `where` discards would still be NaN.
    small, large = jnp.where(is_small, x, 0.0), jnp.where(is_small, 1.0, x)
    square = small**2
    series = [1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160]  # Bernoulli numbers over factorials
    around_zero = 1 + small / 2
    for order, coefficient in enumerate(series, start=1):
        around_zero = around_zero + coefficient * square**order
    size = jnp.abs(large)
    away = jax.nn.relu(large) - size * jnp.exp(-size) / jnp.expm1(-size)  # never overflows
    return jnp.where(is_small, around_zero, away)


def hopfield(patterns: ArrayLike, *, gain: float = 4.0, time_constant: float = 1.0) -> RateNetwork:
    """The continuous Hopfield network, `tau x' = -x + W tanh(gain x) + u`, with stored patterns.

    Hebbian weights without self-connections: `W_ij = (1/N) sum_p xi_pi xi_pj`, `W_ii = 0`. They are symmetric, so the
    dynamics always come to rest. Its steady states are memories: P orthogonal patterns are recalled as `x = s xi` with
    `s = (1 - P/N) tanh(gain s)`. Without a stimulus the state 0 is a fixed point too: give a cue as the stimulus, or as
    the initial state.

    Args:
        patterns: one per row, of -1 and 1. About .14 N random ones can be recalled.
        gain: of each unit; above `1 / (1 - P/N)` memories outlast their cue.
        time_constant: of all units, in any unit of time.

    Raises:
        ValueError: if a pattern has other values than -1 and 1, or the gain is not positive.

    References:
        Hopfield, Neurons with graded response have collective computational properties like those of two-state
        neurons, PNAS 81, 1984.
    """
    shape = shape_of("patterns", patterns)
    if len(shape) != 2 or 0 in shape:
        raise fail("patterns", "has the wrong shape", "(patterns, units): one row per pattern", shape)
    check_finite("patterns", patterns)
    check_positive_numbers(gain=gain)
    if is_known(patterns) and (np.abs(np.asarray(patterns)) != 1).any():
        raise fail("patterns", "has other values", "-1 and 1", sorted(set(np.ravel(patterns).tolist()))[:5])
    # Known ones on the host, where nothing is compiled.
    patterns = np.asarray(patterns, jax.dtypes.canonicalize_dtype(float)) if is_known(patterns) else as_array(patterns)
    num_units = patterns.shape[1]
    weights = (patterns.T @ patterns) * (1 - np.eye(num_units, dtype=patterns.dtype)) / num_units
    return rate_network(StateForm(Tanh(gain)), weights, time_constants=time_constant)


def random_rate_network(
    state_size: int, *, nonlinearity: Nonlinearity = jnp.tanh, gain: float = 0.8, key: PRNGKeyArray
) -> RateNetwork:
    """A network in the state form, `x' = -x + W phi(x) + u`, with Gaussian weights of deviation `gain / sqrt(N)`.

    Args:
        state_size: number of units, N.
        nonlinearity: phi: `jnp.tanh`, `jax.nn.sigmoid`, or any other, unit by unit.
        gain: dimensionless. Without a stimulus a tanh network comes to rest below 1, and is chaotic above. The logistic
            function is four times less steep, and allows four times the gain.
        key: a PRNG key.

    Raises:
        ValueError: if `gain` is not positive, or there is no unit.

    References:
        Sompolinsky, Crisanti and Sommers, Chaos in random neural networks, Physical Review Letters 61, 1988.
    """
    check_sizes(state_size=state_size)
    check_positive_numbers(gain=gain)
    check_key(key)
    return rate_network(StateForm(nonlinearity), gaussian_weights(state_size, gain / state_size**0.5, key))
