"""Initialization: hidden units derived from the network itself, and the readout that fits best.

Hidden units are half-planes of stimuli, given by linearizations of the network (`hidden_units.py`). Jumps of the steady
state lie elsewhere; if these boundaries are given, most hidden units are initialized there. Finding the readout is then
a linear problem.
"""

from __future__ import annotations

from collections.abc import Iterable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from rnn2ff._checks import check_array, check_at_least, check_positive, check_stimuli, fail
from rnn2ff.approximators import Refined, TwoLayer, predict
from rnn2ff.networks import RecurrentNetwork, as_samples, batch_rates, best_sweep, has_rectified_rates
from rnn2ff.training.boundaries import Boundaries, Planes
from rnn2ff.training.hidden_units import hidden_layers, make_template

_NUM_SWEEP_SAMPLES = 2048  # steady states whose mean Jacobian makes a sweep; mean slopes take the first 512
_AT_BOUNDARIES = 0.95  # largest share of hidden units at boundaries
_STRENGTHS = (2.0, 5.0, 10.0, 20.0, 50.0)  # of silencing weights that are tried, in deviations of the rates
_WELL_AHEAD, _MOST_ACTIVE = 0.2, 0.01  # distance ahead of a boundary, in deviations; share of samples active there
_MOST_PRODUCTS = 5e10  # of a readout whose outputs are fitted one by one
_RIDGE = 1e-6  # of a readout's weights, as a share of the mean square of the hidden units
# The same where outputs are fitted one by one, each to the few samples at which nothing silences it. The error of 16
# partitions (a = 1.1) after 1,500 steps was 42 % with the ridge above and 34 % with 1e-5 or 1e-4, other things equal.
_RIDGE_OF_FEW = 3e-5
_CHUNK = 4096  # samples whose hidden activity is held at once


def initialize_two_layer(
    network: RecurrentNetwork,
    states: Float[Array, "batch state"],
    stimuli: Float[Array, "batch stimulus"],
    width: int,
    *,
    bypass: bool = False,
    num_rounds: int = 20,
    boundaries: Boundaries | None = None,
    key: PRNGKeyArray,
) -> TwoLayer:
    """Two layers from stimuli to rates, made from a network and some of its steady states, and not yet trained.

    Args:
        network: the network.
        states: steady states, one per row.
        stimuli: their stimuli.
        width: hidden units.
        bypass: whether there are linear weights from the stimulus to the output.
        num_rounds: as for `fit_readout`; 0 is as good if training follows.
        boundaries: from `find_boundaries`, where the steady state jumps.
        key: a PRNG key, to choose the steady states and units from which hidden units are derived.

    Raises:
        ValueError: if the states and stimuli do not fit the network or each other, or `width` is below 1.
    """
    check_at_least("width", width, 1)
    states, stimuli = as_samples(network, states, stimuli)
    edges = _edges(boundaries, width)
    is_rectified = has_rectified_rates(network)
    template = make_template(network, width, network.rate_size, is_rectified=is_rectified, bypass=bypass, key=key)
    candidates = hidden_layers(network, states, stimuli, template, edges, key)
    rates = batch_rates(network, states)
    if edges is not None and is_rectified:
        return _silenced(candidates[0], edges, stimuli, rates)
    return _best_fitted(candidates, _chunks(stimuli, rates), num_rounds)


def initialize_refined(
    network: RecurrentNetwork,
    states: Float[Array, "batch state"],
    stimuli: Float[Array, "batch stimulus"],
    width: int,
    *,
    num_sweeps: int,
    key: PRNGKeyArray,
) -> Refined:
    """Two layers followed by sweeps; the two layers are fitted to the points at which the sweeps come to rest.

    Args:
        network: the network.
        states: steady states, one per row.
        stimuli: their stimuli.
        width: hidden units, 0 for sweeps alone.
        num_sweeps: sweeps after the pass.
        key: a PRNG key.

    Raises:
        ValueError: if the states and stimuli do not fit the network or each other, the network allows no sweep,
            `width` is below 0, or `num_sweeps` is below 1.
    """
    states, stimuli = as_samples(network, states, stimuli)
    template = make_template(network, width, network.state_size, is_rectified=False, bypass=False, key=key)
    candidates = hidden_layers(network, states, stimuli, template, None, key)
    sweep = best_sweep(network, *(np.asarray(array)[:_NUM_SWEEP_SAMPLES] for array in (states, stimuli)))
    points, starts = _points_and_starts(network, sweep, states, stimuli)
    two_layer = _best_fitted(candidates, _chunks(stimuli, np.asarray(points) - np.asarray(starts)), 0)
    return Refined(two_layer, network, sweep, num_sweeps=num_sweeps)


def fit_readout(
    two_layer: TwoLayer,
    batches: Iterable[tuple[Float[ArrayLike, "_ stimulus"], Float[ArrayLike, "_ rate"]]],
    *,
    ridge: float = _RIDGE,
    num_rounds: int = 20,
) -> TwoLayer:
    """The readout that fits targets best in the least-squares sense, the hidden layer staying as it is.

    The normal equations are summed in float64, batch by batch, so the data are never all in memory at once. For a
    rectified output a target of zero is met by any output of at most zero: the fit is repeated, each time with the
    negative part of the previous output as the target there.

    Args:
        two_layer: whose hidden layer to use.
        batches: stimuli and targets; iterated several times if the output is rectified.
        ridge: of the weights, as a share of the mean square of the hidden units.
        num_rounds: how often the fit is repeated, if the output is rectified.

    Raises:
        ValueError: if there is no batch, one does not fit the two layers, `ridge` is not positive, or `num_rounds` is
            below 0.
    """
    check_positive("ridge", ridge)
    check_at_least("num_rounds", num_rounds, 0)
    num_rounds = num_rounds if two_layer.is_rectified else 0
    if num_rounds and iter(batches) is batches:
        raise fail(
            "batches", "can be iterated only once", "a list, or another iterable that can be repeated", "an iterator"
        )
    width = two_layer.width + 1 + (0 if two_layer.bypass_weights is None else two_layer.stimulus_size)
    gram, moments, count = np.zeros((width, width)), np.zeros((width, two_layer.rate_size)), 0
    for stimuli, targets in batches:
        check_stimuli(stimuli, two_layer.stimulus_size)
        check_array("targets", targets, (len(stimuli), two_layer.rate_size))
        features = _features(two_layer, stimuli)
        gram += features.T @ features
        moments += features.T @ np.asarray(targets, np.float64)
        count += len(features)
    if count == 0:
        raise fail("batches", "are empty", "at least one pair", "none")
    inverse = np.linalg.inv(gram + ridge * np.trace(gram) / width * np.eye(width))
    before = coefficients = inverse @ moments
    for i in range(num_rounds):
        ahead = coefficients + i / (i + 3) * (coefficients - before)  # Nesterov's momentum: far fewer rounds
        moments = np.zeros_like(moments)
        for stimuli, targets in batches:
            features, targets = _features(two_layer, stimuli), np.asarray(targets, np.float64)
            moments += features.T @ np.where(targets > 0, targets, np.minimum(features @ ahead, 0))
        before, coefficients = coefficients, inverse @ moments
    return _with_readout(two_layer, coefficients)


def _best_fitted(made: list[TwoLayer], batches: list[tuple[np.ndarray, np.ndarray]], num_rounds: int) -> TwoLayer:
    """The one of several hidden layers whose best readout has the smallest error."""
    fitted = [fit_readout(two_layer, batches, num_rounds=num_rounds) for two_layer in made]
    return fitted[0] if len(fitted) == 1 else min(fitted, key=lambda two_layer: _error(two_layer, batches))


def _error(two_layer: TwoLayer, batches: list[tuple[np.ndarray, np.ndarray]]) -> float:
    squares = (np.sum((np.asarray(predict(two_layer, stimuli)) - targets) ** 2) for stimuli, targets in batches)
    return float(sum(squares))


def _features(two_layer: TwoLayer, stimuli: Float[ArrayLike, "batch stimulus"]) -> Float[np.ndarray, "batch feature"]:
    """The features of the linear readout: hidden units, one, and the stimulus if there is a bypass."""
    stimuli = np.asarray(stimuli, np.float64)
    hidden = stimuli @ np.asarray(two_layer.hidden_weights, np.float64).T + np.asarray(two_layer.hidden_bias)
    bypass = [] if two_layer.bypass_weights is None else [stimuli]
    return np.concatenate([np.maximum(hidden, 0), np.ones((len(stimuli), 1)), *bypass], axis=1)


def _with_readout(two_layer: TwoLayer, coefficients: Float[np.ndarray, "feature rate"]) -> TwoLayer:
    parts = np.split(coefficients.T, [two_layer.width, two_layer.width + 1], axis=1)
    weights, bias, bypass = (np.asarray(part, two_layer.readout_weights.dtype) for part in parts)
    readout = jax.device_put((weights, bias[:, 0]))
    two_layer = eqx.tree_at(lambda two_layer: (two_layer.readout_weights, two_layer.readout_bias), two_layer, readout)
    if two_layer.bypass_weights is None:
        return two_layer
    return eqx.tree_at(lambda two_layer: two_layer.bypass_weights, two_layer, jax.device_put(bypass))


def _chunks(stimuli: ArrayLike, targets: ArrayLike) -> list[tuple[np.ndarray, np.ndarray]]:
    ends = range(_CHUNK, len(stimuli), _CHUNK)
    return list(zip(*(np.split(np.asarray(rows), ends) for rows in (stimuli, targets))))


@eqx.filter_jit
def _points_and_starts(network, sweep, states, stimuli) -> tuple[Array, Array]:
    points = jax.vmap(lambda state, stimulus: sweep.from_state(network, state, stimulus))(states, stimuli)
    return points, jax.vmap(lambda stimulus: sweep.start(network, sweep.drive(network, stimulus)))(stimuli)


def _edges(boundaries: Boundaries | None, width: int) -> Planes | None:
    """The boundaries at which hidden units are initialized."""
    edges = None if boundaries is None else boundaries.planes(int(_AT_BOUNDARIES * width))
    return None if edges is None or not len(edges.offsets) else edges


def _silenced(two_layer: TwoLayer, edges: Planes, stimuli: Array, rates: Array) -> TwoLayer:
    """A readout in which hidden units at boundaries silence the outputs that are silent beyond them.

    Where the steady state jumps from active to silent, the output has to fall far below zero over a short distance; so
    the hidden unit there gets a large weight. For each output, the other hidden units fit the rates where none of
    those units is active.
    """
    width, num_edges = two_layer.width, len(edges.offsets)
    first = width - num_edges  # the units at boundaries are the last
    num_groups = len(np.unique(edges.silences, axis=1).T)
    num_rows = max(4 * width, int(_MOST_PRODUCTS / (width**2 * num_groups)))
    features, rates = _features(two_layer, stimuli[:num_rows]), np.asarray(rates[:num_rows], np.float64)
    at_edges = features[:, first:width]
    # A boundary silences an output only if the samples confirm it.
    is_ahead = at_edges > _WELL_AHEAD
    share_active = is_ahead.T.astype(float) @ (rates > 0) / np.maximum(is_ahead.sum(axis=0), 1)[:, None]
    silences = edges.silences & (share_active < _MOST_ACTIVE)
    coefficients = np.zeros((features.shape[1], rates.shape[1]))
    groups, group_of = np.unique(silences, axis=1, return_inverse=True)
    for group, silenced_at in enumerate(groups.T):  # outputs that the same boundaries silence are fitted together
        outputs = np.flatnonzero(group_of.ravel() == group)
        others = np.ones(features.shape[1], bool)
        others[first:width] = ~silenced_at
        is_free = ~(at_edges[:, silenced_at] > 0).any(axis=1)
        rows = features[is_free][:, others]
        gram = rows.T @ rows
        ridge = _RIDGE_OF_FEW * np.trace(gram) / len(gram) + np.finfo(float).tiny
        moments = rows.T @ rates[np.ix_(is_free, outputs)]
        coefficients[np.ix_(others, outputs)] = np.linalg.solve(gram + ridge * np.eye(len(gram)), moments)
    linear, silencing = features @ coefficients, at_edges @ silences

    def error(strength):
        return np.mean((np.maximum(linear - strength * silencing, 0) - rates) ** 2)

    strength = min(rates.std() * np.asarray(_STRENGTHS), key=error)
    coefficients[first:width] -= strength * silences
    return _with_readout(two_layer, coefficients)
