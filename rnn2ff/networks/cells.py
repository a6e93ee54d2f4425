"""User-supplied networks: trained cells, files of weights, connectomes.

A cell is a map `h -> h'` that advances the state by one step. The change in one step, `cell(h, u) - h`, is the velocity
of the network, which is marked as a map (`is_map`): steady states and their stability are those of the iterated cell.
In continuous time the same velocity has the same fixed points, but their stability differs: the map multiplies
perturbations by its Jacobian A, while in the flow they decay at the decay rates of `A - I`. A fixed point that is
stable for the map (eigenvalues of A within the unit circle) is stable in the flow as well, but not vice versa: an
eigenvalue of -2 is fast decay for the flow, and growing overshoot for the map. `in_continuous_time` gives the flow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from rnn2ff._checks import check_at_least, check_finite, check_shape, check_sizes, check_text, fail
from rnn2ff.files import read_array, read_tensors
from rnn2ff.networks.base import RecurrentNetwork, as_array, check_evaluates, dtype_of, shapes_and_dtypes, state_is_rate
from rnn2ff.networks.nonlinearities import Nonlinearity
from rnn2ff.networks.rate import RateForm, RateNetwork, StateForm, as_floats, rate_network
from rnn2ff.networks.weights import read_weights

# One step of a cell: `(params, state, stimulus) -> state`, pure, for one sample.
Cell = Callable[[PyTree, Float[Array, " state"], Float[Array, " stimulus"]], Float[Array, " state"]]


@dataclasses.dataclass(frozen=True)
class DiscreteMap:
    """The vector field `cell(h, u) - h`, in units of the state over one step."""

    cell: Cell  # one step

    def __call__(
        self, params: PyTree, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
    ) -> Float[Array, " state"]:
        return self.cell(params, state, stimulus) - state


def discrete_map(
    cell: Cell,
    params: PyTree,
    *,
    state_size: int,
    stimulus_size: int,
    rate_function: Callable[[PyTree, Array], Array] = state_is_rate,
) -> RecurrentNetwork:
    """A trained cell as a network: its fixed points are states that the cell maps to themselves.

    A steady state is one to which the cell converges under a constant stimulus, and returns after small perturbations;
    time is in steps. `in_continuous_time` converts it to the flow `dh/dt = cell(h, u) - h`.

    Cells of PyTorch, Flax, equinox and Keras are made by `from_torch`, `from_flax`, `from_equinox` and `from_keras`.
    For any other Flax module, `cell = lambda params, h, u: module.apply(params, h, u)[0]`: the new carry comes first.

    Args:
        cell: `(params, h, u) -> h'`, pure, for one sample.
        params: a pytree of arrays.
        state_size: entries of h.
        stimulus_size: entries of u.
        rate_function: `(params, h) -> rates`, what downstream units see; by default h.

    Raises:
        ValueError: if the cell cannot be evaluated for these sizes, or returns anything but a new state of the shape
            and dtype of the old one.
    """
    sizes = {"state_size": state_size, "stimulus_size": stimulus_size}
    check_sizes(**sizes)
    new = check_evaluates("cell", cell, params, state_size, stimulus_size, "a new state")
    # Looked at before the state is subtracted, which would spread a smaller shape.
    shape, dtype = (state_size,), dtype_of(params)
    if not isinstance(new, jax.ShapeDtypeStruct) or new.shape != shape or new.dtype != dtype:
        raise fail("cell", "does not return a state", f"({shape}, {dtype.name!r})", shapes_and_dtypes(new))
    return RecurrentNetwork(DiscreteMap(cell), params, **sizes, rate_function=rate_function, is_map=True)


class GatedParams(eqx.Module):
    """Parameters of a gated cell, gates stacked as in PyTorch: reset, update, new; or input, forget, new, output."""

    # Shape (3 state, state) of a gated recurrent unit, (4 state, state) of an LSTM.
    recurrent_weights: Float[Array, "gates hidden"]
    stimulus_weights: Float[Array, "gates stimulus"]  # shape (gates, stimulus)
    # Added to the recurrent input; for the new gate of a gated recurrent unit, before the reset gate multiplies it.
    recurrent_bias: Float[Array, " gates"]
    stimulus_bias: Float[Array, " gates"]  # added to the input from the stimulus


def gru_cell(
    params: GatedParams, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
) -> Float[Array, " state"]:
    """One step of a gated recurrent unit, as PyTorch and cuDNN define it."""
    recurrent = jnp.split(params.recurrent_weights @ state + params.recurrent_bias, 3)
    driven = jnp.split(params.stimulus_weights @ stimulus + params.stimulus_bias, 3)
    reset, update = (jax.nn.sigmoid(recurrent[gate] + driven[gate]) for gate in (0, 1))
    new = jnp.tanh(driven[2] + reset * recurrent[2])
    return (1 - update) * new + update * state


def lstm_cell(
    params: GatedParams, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
) -> Float[Array, " state"]:
    """One step of a long short-term memory, as PyTorch defines it; the state is h, then c."""
    hidden, memory = jnp.split(state, 2)
    recurrent = params.recurrent_weights @ hidden + params.recurrent_bias
    gates = jnp.split(recurrent + params.stimulus_weights @ stimulus + params.stimulus_bias, 4)
    let_in, keep, show = (jax.nn.sigmoid(gates[gate]) for gate in (0, 1, 3))
    memory = keep * memory + let_in * jnp.tanh(gates[2])
    return jnp.concatenate([show * jnp.tanh(memory), memory])


def hidden_of_lstm(params: GatedParams, state: Float[Array, " state"]) -> Float[Array, " rate"]:
    """h, which is what other layers see of the state of an LSTM."""
    return state[: len(state) // 2]


def gated_network(
    recurrent: np.ndarray, driven: np.ndarray, recurrent_bias: np.ndarray, driven_bias: np.ndarray
) -> RecurrentNetwork:
    """The map of a gated recurrent unit or, with four gates, an LSTM, made from its parameters; the rates are h."""
    names = ("recurrent weights", "stimulus weights", "recurrent bias", "stimulus bias")
    arrays = (recurrent, driven, recurrent_bias, driven_bias)
    for name, array in zip(names, arrays):
        check_finite(name, array)
    params = GatedParams(*map(as_floats, arrays))
    num_rows, size = params.recurrent_weights.shape
    stimulus_size = params.stimulus_weights.shape[1]
    if num_rows == 3 * size:
        return discrete_map(gru_cell, params, state_size=size, stimulus_size=stimulus_size)
    return discrete_map(
        lstm_cell, params, state_size=2 * size, stimulus_size=stimulus_size, rate_function=hidden_of_lstm
    )


def rnn_network(recurrent: np.ndarray, driven: np.ndarray, bias: np.ndarray, nonlinearity: Nonlinearity) -> RateNetwork:
    """The map of a simple recurrent cell, `h' = phi(W h + B u + b)`."""
    return rate_network(RateForm(nonlinearity), recurrent, stimulus_weights=driven, bias=bias, is_map=True)


def from_torch(
    weights: Mapping[str, ArrayLike] | str | Path,
    *,
    layer: int = 0,
    prefix: str = "",
    nonlinearity: Nonlinearity = jnp.tanh,
) -> RecurrentNetwork:
    """A layer of `torch.nn.RNN`, `GRU` or `LSTM`, or one of their cells, from its weights; PyTorch is not needed.

    An RNN becomes a rate network with the velocity `-h + phi(W_hh h + W_ih u + b_ih + b_hh)`, so that all methods for
    rate networks apply (with `nonlinearity=jax.nn.relu`, also the exact ones); a GRU has the velocity `-h + GRU(h, u)`.
    The state of an LSTM is h, then c; its rates are h. All are maps (`is_map`): a steady state is one to which the
    iterated cell converges; a cell that alternates has none. The unit of time is one step. `in_continuous_time`
    converts the map to the flow `dh/dt = velocity`.

    Args:
        weights: a state dict, `{name: np.asarray(value) for name, value in module.state_dict().items()}`, or the path
            of a safetensors file.
        layer: which layer; the stimulus of a layer above the first is h of the layer below. Cells such as
            `torch.nn.LSTMCell` have no layers, and the names of their weights no `_l0`.
        prefix: what precedes `weight_hh_l0` in the names, as in `"encoder.rnn."`.
        nonlinearity: of an RNN, which cannot be inferred from its weights: `jnp.tanh` or `jax.nn.relu`.

    Raises:
        ValueError: if weights are missing (the error lists the names that were found), do not fit together, or are
            those of another kind of cell, such as an LSTM with projections.

    Example:
        A module of PyTorch, and the fixed points of its cell without a stimulus:

            weights = {name: np.asarray(value) for name, value in module.state_dict().items()}
            points = rnn2ff.find_fixed_points(rnn2ff.from_torch(weights), jnp.zeros(module.input_size), key=jr.key(0))
    """
    check_at_least("layer", layer, 0)
    check_text("prefix", prefix)
    if not isinstance(weights, Mapping | str | Path):
        expected = "a state dict of arrays, or the path of a safetensors file"
        raise fail("weights", "are not the weights of a module", expected, type(weights).__name__)
    arrays = read_tensors(weights, "weights") if isinstance(weights, str | Path) else weights

    is_cell = layer == 0 and f"{prefix}weight_hh" in arrays
    suffix = "" if is_cell else f"_l{layer}"

    def find(name: str, default: np.ndarray | None = None) -> np.ndarray:
        full = f"{prefix}{name}{suffix}"
        if full in arrays:
            check_finite(full, arrays[full])
            return np.asarray(arrays[full])
        if default is not None:
            return default
        received = ", ".join(map(str, arrays)) or "none"
        raise fail("weights", f"lack {full!r}", "those of a torch.nn.RNN, GRU or LSTM", received)

    recurrent, driven = find("weight_hh"), find("weight_ih")
    if recurrent.ndim != 2 or driven.ndim != 2 or 0 in recurrent.shape or 0 in driven.shape:
        raise fail("weights", "are not matrices", "two axes", f"{recurrent.shape} and {driven.shape}")
    num_rows, state_size = recurrent.shape
    if num_rows not in (state_size, 3 * state_size, 4 * state_size):
        shapes = {"an RNN": 1, "a GRU": 3, "an LSTM": 4}
        known = ", ".join(f"({rows * state_size}, {state_size}) for {kind}" for kind, rows in shapes.items())
        raise fail("weights", "are those of another cell", f"weight_hh of shape {known}", recurrent.shape)
    check_shape("weight_ih", driven, (num_rows, driven.shape[1]))
    no_bias = np.zeros(num_rows, recurrent.dtype)
    biases = find("bias_hh", no_bias), find("bias_ih", no_bias)
    for name, bias in zip(("bias_hh", "bias_ih"), biases):
        check_shape(name, bias, (num_rows,))
    if num_rows == state_size:
        return rnn_network(recurrent, driven, biases[0] + biases[1], nonlinearity)
    return gated_network(recurrent, driven, *biases)


def from_files(
    recurrent_weights: str | Path,
    *,
    stimulus_weights: str | Path | None = None,
    bias: str | Path | None = None,
    gains: str | Path | float | None = None,
    thresholds: str | Path | float | None = None,
    time_constants: str | Path | float = 1.0,
    form: StateForm | RateForm = StateForm(jax.nn.relu),
) -> RateNetwork:
    """A rate network from files of arrays: `.npy`, `.npz`, `.csv` or MATLAB `.mat`; the weights may be a graph.

    Args:
        recurrent_weights: W, from column to row. If a file holds several arrays, name one, as in `network.mat:W`. A
            graph is given as `graph.graphml` or `edges.csv:source,target,weight` (`read_connectome`).
        stimulus_weights: B, shape (state, stimulus); by default the stimulus drives each unit directly.
        bias: b, one per unit.
        gains: as for `rate_network`; one per unit, or a number for all.
        thresholds: likewise.
        time_constants: one per unit, or a number for all.
        form: `StateForm(phi)` or `RateForm(phi)`.

    Raises:
        ValueError: if a file cannot be read, or the arrays do not make a network.
    """
    weights = read_weights(recurrent_weights, "recurrent_weights")

    stimulus = None if stimulus_weights is None else read_array(stimulus_weights, "stimulus_weights")
    units = {"bias": bias, "gains": gains, "thresholds": thresholds, "time_constants": time_constants}
    arrays = {  # MATLAB and CSV have matrices only, no vectors
        name: np.ravel(read_array(value, name)) if isinstance(value, str | Path) else value
        for name, value in units.items()
    }
    return rate_network(form, as_array(weights), stimulus_weights=stimulus, **arrays)
