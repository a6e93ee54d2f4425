"""Certificates of batches, on the host, in chunks of a fixed size, so that a new batch size needs no compilation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float

from rnn2ff._checks import check_on_host, check_shape, check_stimuli, fail
from rnn2ff.approximators import Approximator, Refined
from rnn2ff.certificates.bounds import certify, unit_bounds
from rnn2ff.certificates.certificate import Certificate
from rnn2ff.certificates.constants import Certifier, make_certifier
from rnn2ff.certificates.refinement import as_prediction
from rnn2ff.compiling import compiled
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state import Layout, chunks_of, in_tiles, on_each_device, placed_on


def predict_all_units(
    network: RecurrentNetwork, approximator: Approximator, stimuli: Float[ArrayLike, "batch stimulus"]
) -> Float[np.ndarray, "batch state"]:
    """Predict the rates of all units for a batch, as certificates need them; runs on the host.

    Args:
        network: the network.
        approximator: an approximator of its rates.
        stimuli: one per row.

    Returns:
        the rates of all units; for a network without weights, the states.

    Raises:
        ValueError: if the stimuli do not fit or are not finite, or the approximator predicts the rates of only
            some units.
    """
    check_on_host("predict_all_units", "use `jax.vmap(approximator)`", network, approximator, stimuli)
    check_stimuli(stimuli, network.stimulus_size)
    check_predicts_all_units(network, approximator)
    return in_chunks(predict_all, (network, approximator), np.asarray(stimuli, network.dtype))


def certify_predictions(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    predictions: Float[ArrayLike, "batch state"],
    certifier: Certifier | None = None,
) -> Certificate:
    """Certify a batch of predictions, on the host; like `certify`, with a leading axis.

    Args:
        network: the network.
        stimuli: one per row.
        predictions: from `predict_all_units`, or from another source.
        certifier: from `make_certifier`; by default made for this call.

    Raises:
        ValueError: if the shapes do not fit, or a stimulus is not finite.

    Example:
        Bounds on the errors of an approximator:

            predictions = rnn2ff.predict_all_units(network, approximator, stimuli)
            bounds = rnn2ff.certify_predictions(network, stimuli, predictions).error_bound
    """
    check_on_host("certify_predictions", "use `jax.vmap` of `certify`", network, stimuli, predictions, certifier)
    check_stimuli(stimuli, network.stimulus_size)
    check_shape("predictions", predictions, (len(stimuli), network.state_size))
    certifier = make_certifier(network) if certifier is None else certifier
    stimuli, predictions = (np.asarray(array, network.dtype) for array in (stimuli, predictions))
    return in_chunks(certify, (network, certifier), stimuli, predictions)


def bound_units(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    predictions: Float[ArrayLike, "batch state"],
    error_bounds: Float[ArrayLike, " batch"],
    certifier: Certifier | None = None,
) -> Float[np.ndarray, "batch state"]:
    """Bounds on the errors of single rates, for a batch, on the host; infinite where nothing is proved.

    Args:
        network: the network.
        stimuli: one per row.
        predictions: the rates of all units.
        error_bounds: for all rates of each sample together, from `certify_predictions`.
        certifier: from `make_certifier`; by default made for this call.

    Raises:
        ValueError: if the shapes do not fit, or a stimulus is not finite.
    """
    check_on_host("bound_units", "compute them outside", network, stimuli, predictions, error_bounds, certifier)
    check_stimuli(stimuli, network.stimulus_size)
    check_shape("predictions", predictions, (len(stimuli), network.state_size))
    check_shape("error_bounds", error_bounds, (len(stimuli),))
    certifier = make_certifier(network) if certifier is None else certifier
    stimuli, predictions, bounds = (np.asarray(array, network.dtype) for array in (stimuli, predictions, error_bounds))
    return in_chunks(unit_bounds, (network, certifier), stimuli, predictions, bounds)


def check_predicts_all_units(network: RecurrentNetwork, approximator: Approximator) -> None:
    if not isinstance(approximator, Refined) and approximator.rate_size != network.state_size:
        expected = f"an approximator of the rates of all {network.state_size} units"
        raise fail("approximator", "predicts the rates of some units only", expected, f"{approximator.rate_size}")


def predict_all(network, stimulus, approximator):
    if isinstance(approximator, Refined):
        return as_prediction(network, approximator.state(stimulus))
    return approximator(stimulus)


def in_chunks(function, constants, *arrays: np.ndarray, mesh: Mesh | None = None):
    """Apply a function of one sample, `(network, *row, *others)`, to every row; the constants are all but the row."""
    return call_in_chunks(_map_rows, (function, constants), *arrays, mesh=mesh)


def _map_rows(function, constants, *arrays_and_layout):
    network, *others = constants
    *arrays, num_rows, layout = arrays_and_layout
    return map_tiles(lambda *row: function(network, *row, *others), arrays, num_rows, layout)


def map_tiles(function, arrays: Sequence[Array], num_rows, layout: Layout):
    """Apply a function of one sample to the first `num_rows` rows of arrays, tile after tile; the others give zeros."""

    def work(rows, arrays):
        return jax.vmap(function)(*arrays)

    rows = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(work, None, arrays))
    return in_tiles(work, rows, arrays, layout.wide_tile or layout.tiles[0], num_rows)


def call_in_chunks(function, constants, *arrays: np.ndarray, mesh: Mesh | None = None):
    """Call a program on a batch, in chunks of a fixed size; each device of a mesh has one chunk at a time."""
    constants, parts = placed_on(mesh, constants), []
    for chunk in chunks_of(len(arrays[0]), max(math.prod(array.shape[1:]) for array in arrays), mesh):
        placed = tuple(chunk.place(array[chunk.rows]) for array in arrays)
        parts.append(chunk.take(_call(function, constants, placed, chunk.num_rows, chunk.layout, mesh)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@compiled
def _call(function, constants, arrays, num_rows, layout, mesh):
    def call(constants, rows):
        arrays, num_rows = rows
        return function(*constants, *arrays, num_rows[0], layout)

    return on_each_device(call, mesh)(constants, (arrays, num_rows))
