"""Where training starts: hidden units from the network itself, and the readout that fits them best.

Hidden units are half-planes of stimuli. Those of the network are known: around each steady state the point of rest
follows the stimulus linearly, `x(u) = G u + g`, and unit i turns on where its row of that is zero. So hidden units are
rows of such maps, with either sign, beside those of the one linear map that fits best. What is left to find, the
readout, is a linear problem.
"""

from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnn2ff._checks import check_at_least, check_positive, check_shape, check_stimuli, fail
from rnn2ff.approximators import Refined, TwoLayer
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import is_rate_network, slopes
from rnn2ff.networks.threshold_linear import has_rectified_rates
from rnn2ff.sweeps import best_sweep, dense_weights

_NUM_SWEEP_SAMPLES = 2048  # steady states whose mean slopes make a sweep
_CHUNK = 4096  # samples whose hidden activity is held at once


def initialize_two_layer(
    network: RecurrentNetwork,
    states: Float[Array, "batch state"],
    stimuli: Float[Array, "batch stimulus"],
    width: int,
    *,
    bypass: bool = False,
    num_rounds: int = 20,
    key: PRNGKeyArray,
) -> TwoLayer:
    """Two layers from stimuli to rates, made from a network and some of its steady states, and not yet trained.

    Args:
        network: the network.
        states: steady states, one a row.
        stimuli: their stimuli.
        width: hidden units.
        bypass: whether there are linear weights from the stimulus to the output.
        num_rounds: as for `fit_readout`; 0 is as good where a training follows.
        key: a PRNG key: which steady states and units the hidden units are taken from.

    Raises:
        ValueError: if the states and stimuli do not fit the network or each other, or `width` is below 1.
    """
    two_layer = _from_hyperplanes(
        network, states, stimuli, width, network.rate_size, has_rectified_rates(network), bypass, key
    )
    return fit_readout(two_layer, _chunks(stimuli, jax.vmap(network.rates)(states)), num_rounds=num_rounds)


def initialize_refined(
    network: RecurrentNetwork,
    states: Float[Array, "batch state"],
    stimuli: Float[Array, "batch stimulus"],
    width: int,
    *,
    num_sweeps: int,
    key: PRNGKeyArray,
) -> Refined:
    """The same with sweeps after it: the two layers are fitted to the points where the sweeps come to rest.

    Args:
        network: the network.
        states: steady states, one a row.
        stimuli: their stimuli.
        width: hidden units.
        num_sweeps: sweeps after the pass.
        key: a PRNG key.

    Raises:
        ValueError: as for `initialize_two_layer`; or if the network cannot be swept, or `num_sweeps` is below 1.
    """
    two_layer = _from_hyperplanes(network, states, stimuli, width, network.state_size, False, False, key)
    sweep = best_sweep(network, states[:_NUM_SWEEP_SAMPLES], stimuli[:_NUM_SWEEP_SAMPLES])
    points, starts = _points_and_starts(network, sweep, states, stimuli)
    two_layer = fit_readout(two_layer, _chunks(stimuli, points - starts))
    return Refined(two_layer, network, sweep, num_sweeps=num_sweeps)


def fit_readout(
    two_layer: TwoLayer,
    batches: Iterable[tuple[Float[Array, "_ stimulus"], Float[Array, "_ rate"]]],
    *,
    ridge: float = 1e-6,
    num_rounds: int = 20,
) -> TwoLayer:
    """The readout that fits targets best in the least-squares sense, the hidden layer staying as it is.

    The normal equations are summed in float64, batch by batch, so the data are never held together. For a rectified
    output a target of zero asks only for an output of at most zero, and the fit is repeated, each time with what the
    one before gives below zero as the target there.

    Args:
        two_layer: whose hidden layer to use.
        batches: stimuli and targets; gone through several times if the output is rectified.
        ridge: of the weights, as a share of the mean square of the hidden units.
        num_rounds: how often the fit is repeated, if the output is rectified.

    Raises:
        ValueError: if there is no batch, `ridge` is not positive, or `num_rounds` is below 0.
    """
    check_positive("ridge", ridge)
    check_at_least("num_rounds", num_rounds, 0)
    num_rounds = num_rounds if two_layer.is_rectified else 0
    if num_rounds and iter(batches) is batches:
        raise fail("batches", "can be gone through only once", "a list, or another iterable that starts anew", "one")
    width = two_layer.width + 1 + (0 if two_layer.bypass_weights is None else two_layer.stimulus_size)
    gram, moments, count = np.zeros((width, width)), np.zeros((width, two_layer.rate_size)), 0
    for stimuli, targets in batches:
        features = _features(two_layer, stimuli)
        gram += features.T @ features
        moments += features.T @ np.asarray(targets, np.float64)
        count += len(features)
    if count == 0:
        raise fail("batches", "are empty", "at least one pair", "none")
    penalty = np.full(width, ridge * np.trace(gram) / width)
    inverse = np.linalg.inv(gram + np.diag(penalty))
    coefficients = inverse @ moments
    before = coefficients
    for i in range(num_rounds):
        ahead = coefficients + i / (i + 3) * (coefficients - before)  # Nesterov's momentum: far fewer rounds
        moments = np.zeros_like(moments)
        for stimuli, targets in batches:
            features, targets = _features(two_layer, stimuli), np.asarray(targets, np.float64)
            moments += features.T @ np.where(targets > 0, targets, np.minimum(features @ ahead, 0))
        before, coefficients = coefficients, inverse @ moments
    return _with_readout(two_layer, coefficients)


def _features(two_layer: TwoLayer, stimuli: Float[Array, "batch stimulus"]) -> Float[np.ndarray, "batch feature"]:
    """What the output is linear in: hidden units, one, and the stimulus where there is a bypass."""
    stimuli = np.asarray(stimuli, np.float64)
    hidden = stimuli @ np.asarray(two_layer.hidden_weights, np.float64).T + np.asarray(two_layer.hidden_bias)
    bypass = [] if two_layer.bypass_weights is None else [stimuli]
    return np.concatenate([np.maximum(hidden, 0), np.ones((len(stimuli), 1)), *bypass], axis=1)


def _with_readout(two_layer: TwoLayer, coefficients: Float[np.ndarray, "feature rate"]) -> TwoLayer:
    parts = np.split(coefficients.T, [two_layer.width, two_layer.width + 1], axis=1)
    dtype = two_layer.readout_weights.dtype
    weights, bias, bypass = (np.asarray(part, dtype) for part in parts)
    made = jnp.asarray(weights), jnp.asarray(bias[:, 0])
    two_layer = eqx.tree_at(lambda each: (each.readout_weights, each.readout_bias), two_layer, made)
    if two_layer.bypass_weights is None:
        return two_layer
    return eqx.tree_at(lambda each: each.bypass_weights, two_layer, jnp.asarray(bypass))


def _chunks(stimuli: Array, targets: Array) -> list[tuple[Array, Array]]:
    starts = range(0, len(stimuli), _CHUNK)
    return [(stimuli[start : start + _CHUNK], targets[start : start + _CHUNK]) for start in starts]


@eqx.filter_jit
def _points_and_starts(network, sweep, states, stimuli) -> tuple[Array, Array]:
    points = jax.vmap(lambda state, stimulus: sweep.from_state(network, state, stimulus))(states, stimuli)
    return points, jax.vmap(lambda stimulus: sweep.start(network, sweep.drive(network, stimulus)))(stimuli)


# --- the hidden layer -------------------------------------------------------------------------------------------------


def _from_hyperplanes(network, states, stimuli, width, rate_size, is_rectified, bypass, key) -> TwoLayer:
    check_at_least("width", width, 1)
    check_stimuli(stimuli, network.stimulus_size)
    check_shape("states", states, (len(stimuli), network.state_size))
    points = _points(network, states, stimuli)
    linear_weights, linear_bias = _best_linear_map(stimuli, points)
    generator = np.random.default_rng(np.asarray(jr.key_data(key)))  # on the host: jax.random compiles for each shape
    num_linear = min(2 * network.state_size, width // 2)
    chosen = generator.permutation(2 * network.state_size)[:num_linear]
    signs = np.where(chosen < network.state_size, 1.0, -1.0)
    units = chosen % network.state_size
    local_weights, local_bias = _local_rows(network, points, states, stimuli, width - num_linear, generator)
    weights = np.concatenate([signs[:, None] * linear_weights[units], local_weights])
    bias = np.concatenate([signs * linear_bias[units], local_bias])
    # All of size 1, so that steps of training are too; what a hidden unit loses here, the readout gains.
    sizes = np.sqrt(((np.asarray(stimuli, np.float64) @ weights.T + bias) ** 2).mean(axis=0))
    sizes = np.where(sizes > 1e-12 * sizes.max(), sizes, 1.0)
    weights, bias = weights / sizes[:, None], bias / sizes
    shapes = eqx.filter_eval_shape(
        TwoLayer, network.stimulus_size, width, rate_size, is_rectified=is_rectified, bypass=bypass, key=key
    )
    two_layer = jax.device_put(jax.tree.map(lambda leaf: np.zeros(leaf.shape, network.dtype), shapes))
    made = tuple(jnp.asarray(np.asarray(each, network.dtype)) for each in (weights, bias))
    return eqx.tree_at(lambda each: (each.hidden_weights, each.hidden_bias), two_layer, made)


@eqx.filter_jit
def _points(network, states, stimuli) -> Array:
    """Total inputs, which cross zero where a unit turns on; without weights to look at, the states."""
    if not is_rate_network(network):
        return states
    unit_rates = network.vector_field.unit_rates
    return jax.vmap(lambda state, stimulus: network.params.total_input(unit_rates(state), stimulus))(states, stimuli)


def _best_linear_map(stimuli: Array, points: Array) -> tuple[np.ndarray, np.ndarray]:
    """The affine map from stimuli to points with the least squared error."""
    stimuli, points = np.asarray(stimuli, np.float64), np.asarray(points, np.float64)
    mean_stimulus, mean_point = stimuli.mean(axis=0), points.mean(axis=0)
    weights = np.linalg.lstsq(stimuli - mean_stimulus, points - mean_point, rcond=1e-6)[0].T
    return weights, mean_point - weights @ mean_stimulus


def _local_rows(network, points, states, stimuli, num_rows, generator) -> tuple[np.ndarray, np.ndarray]:
    """One row, of either sign, of the linearization at each of `num_rows` sampled steady states."""
    samples = generator.integers(len(stimuli), size=num_rows)
    units = generator.permutation(num_rows) % network.state_size
    points, states, stimuli = (np.asarray(each)[samples] for each in (points, states, stimuli))
    rows = np.asarray(_linearized_rows(network, points, states, stimuli, units), np.float64)
    offsets = np.take_along_axis(points, units[:, None], axis=1)[:, 0]
    bias = offsets.astype(np.float64) - (rows * stimuli).sum(axis=1)
    signs = generator.choice([-1.0, 1.0], size=num_rows)
    is_usable = np.isfinite(rows).all(axis=1)  # the Jacobian of an unlucky sample may be singular
    return np.where(is_usable[:, None], signs[:, None] * rows, 0), np.where(is_usable, signs * bias, 0)


@eqx.filter_jit
def _linearized_rows(network, points, states, stimuli, units):
    """Row `unit` of d point / d stimulus at each sample."""

    def of_rate_network(point, state, stimulus, unit):
        del state
        gains = slopes(network.vector_field, point)
        matrix = jnp.eye(network.state_size, dtype=point.dtype) - dense_weights(network) * gains[None, :]
        row = jnp.linalg.solve(matrix.T, jax.nn.one_hot(unit, network.state_size, dtype=point.dtype))
        return jax.vjp(network.params.feedforward_input, stimulus)[1](row)[0]

    def of_any(point, state, stimulus, unit):
        del point
        jacobian = jax.jacfwd(network.velocity)(state, stimulus)
        row = jnp.linalg.solve(jacobian.T, jax.nn.one_hot(unit, network.state_size, dtype=state.dtype))
        return -jax.vjp(lambda stimulus: network.velocity(state, stimulus), stimulus)[1](row)[0]

    return jax.vmap(of_rate_network if is_rate_network(network) else of_any)(points, states, stimuli, units)
