"""Trained cells of other libraries, from their weights; none of the libraries is needed.

All are converted to the cells of `rnn2ff.networks.cells`; layouts of weights and orders of gates differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from rnn2ff._checks import fail
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.cells import gated_network, rnn_network
from rnn2ff.networks.nonlinearities import Nonlinearity

# Gates of Flax by the names of their layers, of a GRU and an LSTM, in the order of the cells here.
_FLAX_GATES = (("r", "z", "n"), ("i", "f", "g", "o"))
# Where each gate of the cells here is in a kernel of Keras, by the number of gates.
_KERAS_GATES = {3: (1, 0, 2), 4: (0, 1, 2, 3)}


def from_equinox(cell: object) -> RecurrentNetwork:
    """`eqx.nn.GRUCell` or `eqx.nn.LSTMCell` as a network, a map; as in `from_torch`, its rates are h.

    Args:
        cell: the module.

    Raises:
        ValueError: if it is another module, or a weight is not finite.

    Example:
        The fixed points of a trained cell without a stimulus:

            network = rnn2ff.from_equinox(model.cell)
            found = rnn2ff.find_fixed_points(network, jnp.zeros(network.stimulus_size), key=jr.key(0))
    """
    names = ("weight_hh", "weight_ih")
    if not all(hasattr(cell, name) for name in names):
        raise fail("cell", "is of an unknown kind", "an eqx.nn.GRUCell or eqx.nn.LSTMCell", type(cell).__name__)
    recurrent, driven = (np.asarray(getattr(cell, name)) for name in names)
    bias = getattr(cell, "bias", None)
    bias = np.zeros(len(recurrent), recurrent.dtype) if bias is None else np.asarray(bias)
    recurrent_bias = np.zeros_like(bias)
    if getattr(cell, "bias_n", None) is not None:  # of the new gate of a GRU, multiplied by the reset gate
        recurrent_bias[2 * recurrent.shape[1] :] = np.asarray(cell.bias_n)
    return gated_network(recurrent, driven, recurrent_bias, bias)


def from_flax(
    params: Mapping[str, Mapping[str, ArrayLike]], *, nonlinearity: Nonlinearity = jnp.tanh
) -> RecurrentNetwork:
    """A cell of `flax.linen` as a network, a map: `GRUCell`, `LSTMCell`, `OptimizedLSTMCell` or `SimpleCell`.

    Args:
        params: of the cell: `variables["params"]`, or the part of it that belongs to the cell. Layers with a `kernel`
            and perhaps a `bias`, under the names that Flax gives them.
        nonlinearity: of a `SimpleCell`, which cannot be inferred from its weights.

    Returns:
        the network; as in `from_torch`, its rates are h.

    Raises:
        ValueError: if the names are not those of such a cell, or a weight is not finite.

    Example:
        A cell inside a larger module:

            network = rnn2ff.from_flax(variables["params"]["GRUCell_0"])
    """
    if set(params) == {"i", "h"}:
        (recurrent, recurrent_bias), (driven, driven_bias) = _flax_layer(params, "h"), _flax_layer(params, "i")
        return rnn_network(recurrent, driven, recurrent_bias + driven_bias, nonlinearity)
    for gates in _FLAX_GATES:
        if set(params) == {f"{end}{gate}" for end in "hi" for gate in gates}:
            recurrent, driven = ([_flax_layer(params, f"{end}{gate}") for gate in gates] for end in "hi")
            stacked = [
                np.concatenate([layer[part] for layer in layers]) for part in (0, 1) for layers in (recurrent, driven)
            ]
            return gated_network(*stacked)
    names = " or ".join(str([f"{end}{gate}" for end in "hi" for gate in gates]) for gates in _FLAX_GATES)
    raise fail("params", "are those of an unknown cell", f"['h', 'i'] or {names}", sorted(params))


def from_keras(weights: Sequence[ArrayLike], *, nonlinearity: Nonlinearity = jnp.tanh) -> RecurrentNetwork:
    """A layer of Keras as a network, a map: `SimpleRNN`, `GRU` or `LSTM`, with the activations of Keras by default.

    Args:
        weights: `layer.get_weights()`: the kernel, the recurrent kernel and perhaps the bias.
        nonlinearity: of a `SimpleRNN`, which cannot be inferred from its weights.

    Returns:
        the network; as in `from_torch`, its rates are h.

    Raises:
        ValueError: if the shapes are not those of such a layer, a weight is not finite, or it is a GRU that was made
            with `reset_after=False`.

    Example:
        A layer of a model:

            network = rnn2ff.from_keras(model.get_layer("gru").get_weights())
    """
    if len(weights) not in (2, 3):
        raise fail("weights", "are not those of a recurrent layer", "two kernels and perhaps a bias", len(weights))
    driven, recurrent = (np.asarray(kernel).T for kernel in weights[:2])
    num_gates = recurrent.shape[0] // max(1, recurrent.shape[1]) if recurrent.ndim == 2 else 0
    if num_gates not in (1, 3, 4) or recurrent.shape[0] != num_gates * recurrent.shape[1]:
        expected = "a recurrent kernel of shape (units, units), (units, 3 units) or (units, 4 units)"
        raise fail("weights", "are not those of a recurrent layer", expected, recurrent.T.shape)
    bias = np.asarray(weights[2]) if len(weights) == 3 else np.zeros(len(recurrent), recurrent.dtype)
    if num_gates == 1:
        return rnn_network(recurrent, driven, bias, nonlinearity)
    if num_gates == 3 and len(weights) == 3 and bias.ndim == 1:
        raise fail(
            "weights", "are those of a GRU with `reset_after=False`", "one that resets after its kernel", "a bias"
        )
    driven_bias, recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    order = _KERAS_GATES[num_gates]
    arrays = (recurrent, driven, recurrent_bias, driven_bias)
    return gated_network(*(np.concatenate([np.split(array, num_gates)[gate] for gate in order]) for array in arrays))


def _flax_layer(params: Mapping[str, Mapping[str, ArrayLike]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The matrix of a layer, from column to row, and its bias."""
    if "kernel" not in params[name]:
        raise fail("params", f"lack the kernel of {name!r}", "a dense layer", sorted(params[name]))
    kernel = np.asarray(params[name]["kernel"]).T
    bias = params[name].get("bias")
    return kernel, np.zeros(len(kernel), kernel.dtype) if bias is None else np.asarray(bias)
