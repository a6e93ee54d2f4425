"""Networks that users bring: trained cells, files of weights, connectomes.

A cell is a map `h -> h'`, one step a time. What a step adds, `cell(h, u) - h`, is the velocity of its network, which is
marked as a map (`is_map`): states are found and judged as the cell, step by step, moves them. In continuous time the
same velocity has the same fixed points, but not their stability: the map multiplies perturbations by its Jacobian A,
the flow makes them decay at the rates of `A - I`. A fixed point that the map keeps (eigenvalues of A within the unit
circle) is stable in the flow as well, but not the other way round: an eigenvalue of -2 is fast decay for the flow, and
growing overshoot for the map. Whoever wants the flow asks for it (`in_continuous_time`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from jaxtyping import Array, ArrayLike, Float, PyTree

from rnn2ff._checks import check_at_least, check_finite, check_shape, fail
from rnn2ff.files import read_array, read_tensors
from rnn2ff.networks.base import RecurrentNetwork, state_is_rate
from rnn2ff.networks.rate import Nonlinearity, RateForm, RateNetwork, StateForm, rate_network

# One step of a cell: `(params, state, stimulus) -> state`, pure, for one sample.
Cell = Callable[[PyTree, Float[Array, " state"], Float[Array, " stimulus"]], Float[Array, " state"]]


@dataclasses.dataclass(frozen=True)
class DiscreteMap:
    """The vector field `cell(h, u) - h`, in units of the state over one step.

    Attributes:
        cell: one step.
    """

    cell: Cell

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
    """A trained cell as a network: its fixed points are states that the cell keeps, for a constant stimulus.

    A steady state is one that the cell comes to, step by step, and returns to after small perturbations; the unit of
    time is one step. `in_continuous_time` makes it the flow `dh/dt = cell(h, u) - h` instead.

    For a Flax module, `cell = lambda params, h, u: module.apply(params, h, u)[0]`, where the new carry comes first. Its
    kernels may stay as they are.

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
    check_at_least("state_size", state_size, 1)
    check_at_least("stimulus_size", stimulus_size, 1)
    floats = [leaf for leaf in jax.tree.leaves(params) if eqx.is_inexact_array(leaf)]
    dtype = jnp.result_type(*floats) if floats else jnp.result_type(float)
    state, stimulus = (jax.ShapeDtypeStruct((size,), dtype) for size in (state_size, stimulus_size))
    try:
        new = eqx.filter_eval_shape(cell, params, state, stimulus)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        problem = f"failed for a state of {state_size} entries and a stimulus of {stimulus_size}"
        raise fail("cell", problem, "a new state", repr(error)) from error
    # Looked at before the state is subtracted, which would spread a smaller shape.
    if not isinstance(new, jax.ShapeDtypeStruct) or new.shape != state.shape or new.dtype != state.dtype:
        received = f"{jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), new)}"
        raise fail("cell", "does not return a state", f"({state.shape}, {state.dtype.name!r})", received)
    return RecurrentNetwork(
        DiscreteMap(cell),
        params,
        state_size=state_size,
        stimulus_size=stimulus_size,
        rate_function=rate_function,
        is_map=True,
    )


class GRUParams(eqx.Module):
    """Parameters of a gated recurrent unit, gates stacked in the order reset, update, new.

    Attributes:
        recurrent_weights: shape (3 state, state).
        stimulus_weights: shape (3 state, stimulus).
        recurrent_bias: added to the recurrent input; for the new gate, inside the reset.
        stimulus_bias: added to the input from the stimulus.
    """

    recurrent_weights: Float[Array, "gates state"]
    stimulus_weights: Float[Array, "gates stimulus"]
    recurrent_bias: Float[Array, " gates"]
    stimulus_bias: Float[Array, " gates"]


def gru_cell(
    params: GRUParams, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
) -> Float[Array, " state"]:
    """One step of a gated recurrent unit, as PyTorch and cuDNN define it."""
    recurrent = jnp.split(params.recurrent_weights @ state + params.recurrent_bias, 3)
    driven = jnp.split(params.stimulus_weights @ stimulus + params.stimulus_bias, 3)
    reset, update = (jax.nn.sigmoid(recurrent[gate] + driven[gate]) for gate in (0, 1))
    new = jnp.tanh(driven[2] + reset * recurrent[2])
    return (1 - update) * new + update * state


def from_torch(
    weights: Mapping[str, ArrayLike] | str | Path,
    *,
    layer: int = 0,
    prefix: str = "",
    nonlinearity: Nonlinearity = jnp.tanh,
) -> RecurrentNetwork:
    """A layer of `torch.nn.RNN` or `torch.nn.GRU`, from its weights; PyTorch is not needed.

    An RNN becomes a rate network with the velocity `-h + phi(W_hh h + W_ih u + b_ih + b_hh)`, so that all methods for
    these apply (with `nonlinearity=jax.nn.relu` the exact ones); a GRU gets the velocity `-h + GRU(h, u)`. Both are
    maps (`is_map`): a steady state is one that the cell comes to, step by step, and one that alternates has none. The
    unit of time is one step. `in_continuous_time` makes it the flow `dh/dt = velocity` instead.

    Args:
        weights: a state dict, `{name: np.asarray(value) for name, value in module.state_dict().items()}`, or the path
            of a safetensors file.
        layer: which layer; the stimulus of a layer above the first is the state of the one below it.
        prefix: what stands before `weight_hh_l0` in the names, as in `"encoder.rnn."`.
        nonlinearity: of an RNN, which its weights do not tell: `jnp.tanh` or `jax.nn.relu`.

    Raises:
        ValueError: if weights are missing (the names that are there are listed), do not fit together, or are those of
            another kind of cell, such as an LSTM.

    Example:
        A module of PyTorch, and the fixed points of its cell without a stimulus:

            weights = {name: np.asarray(value) for name, value in module.state_dict().items()}
            points = rnn2ff.find_fixed_points(rnn2ff.from_torch(weights), jnp.zeros(module.input_size), key=jr.key(0))
    """
    check_at_least("layer", layer, 0)
    arrays = read_tensors(weights, "weights") if isinstance(weights, str | Path) else weights

    def find(name: str, default: np.ndarray | None = None) -> np.ndarray:
        full = f"{prefix}{name}_l{layer}"
        if full in arrays:
            check_finite(full, arrays[full])
            return np.asarray(arrays[full])
        if default is not None:
            return default
        raise fail("weights", f"lack {full!r}", "the weights of a torch.nn.RNN or GRU", ", ".join(arrays) or "none")

    recurrent, driven = find("weight_hh"), find("weight_ih")
    if recurrent.ndim != 2 or driven.ndim != 2 or 0 in recurrent.shape or 0 in driven.shape:
        raise fail("weights", "are no matrices", "two axes", f"{recurrent.shape} and {driven.shape}")
    num_rows, state_size = recurrent.shape
    if num_rows not in (state_size, 3 * state_size):
        expected = (
            f"weight_hh of shape ({state_size}, {state_size}) for an RNN or ({3 * state_size}, {state_size}) for a GRU"
        )
        raise fail("weights", "are those of another cell", expected, recurrent.shape)
    check_shape("weight_ih", driven, (num_rows, driven.shape[1]))
    nothing = np.zeros(num_rows, recurrent.dtype)
    biases = find("bias_hh", nothing), find("bias_ih", nothing)
    for name, bias in zip(("bias_hh", "bias_ih"), biases):
        check_shape(name, bias, (num_rows,))
    if num_rows == state_size:
        return rate_network(
            RateForm(nonlinearity),
            jnp.asarray(recurrent),
            stimulus_weights=driven,
            bias=biases[0] + biases[1],
            is_map=True,
        )
    params = GRUParams(*(jnp.asarray(each) for each in (recurrent, driven, *biases)))
    return discrete_map(gru_cell, params, state_size=state_size, stimulus_size=driven.shape[1])


def from_files(
    recurrent_weights: str | Path,
    *,
    stimulus_weights: str | Path | None = None,
    bias: str | Path | None = None,
    time_constants: str | Path | float = 1.0,
    form: StateForm | RateForm = StateForm(jax.nn.relu),
) -> RateNetwork:
    """A rate network from files of arrays: `.npy`, `.npz`, `.csv` or MATLAB `.mat`.

    Args:
        recurrent_weights: W, from column to row. Where a file holds several arrays, as in `network.mat:W`.
        stimulus_weights: B, shape (state, stimulus); by default the stimulus drives each unit directly.
        bias: b, one a unit.
        time_constants: one a unit, or a number for all.
        form: `StateForm(phi)` or `RateForm(phi)`.

    Raises:
        ValueError: if a file cannot be read, or the arrays do not make a network.
    """
    weights = read_array(recurrent_weights, "recurrent_weights")

    def read(path: str | Path | None, name: str) -> np.ndarray | None:
        return None if path is None else read_array(path, name)

    bias_array = read(bias, "bias")
    if isinstance(time_constants, str | Path):
        time_constants = np.ravel(read_array(time_constants, "time_constants"))
    return rate_network(
        form,
        jnp.asarray(weights, float),
        stimulus_weights=read(stimulus_weights, "stimulus_weights"),
        bias=None if bias_array is None else np.ravel(bias_array),  # MATLAB and CSV know no vectors
        time_constants=time_constants,
    )


@runtime_checkable
class WeightedGraph(Protocol):
    """What is read of a networkx graph, which need not be installed."""

    def is_directed(self) -> bool:
        """Whether an edge from one node to another is not one back."""

    def edges(self, data: str, default: float) -> object:
        """Triples of source, target and weight."""

    def nodes(self) -> object:
        """Nodes in order."""


def from_connectome(
    connectome: object,
    *,
    signs: ArrayLike | Sequence[int] | None = None,
    scale: float = 1.0,
    weight: str = "weight",
    is_symmetric: bool = False,
    time_constants: ArrayLike = 1.0,
    form: StateForm | RateForm = StateForm(jax.nn.relu),
) -> RateNetwork:
    """A rate network with the connections of a graph or of a sparse matrix.

    Args:
        connectome: a networkx graph, whose edges go from source to target (the units are its nodes, in order); or a
            scipy sparse matrix in this library's orientation, where the entry in row i and column j is the connection
            from j to i. A matrix of counts "from row to column" has to be transposed. A graph becomes a dense weight
            matrix, a sparse matrix a `BCOO`.
        signs: of the units, 1 for excitatory and -1 for inhibitory ones (Dale's law): all connections that leave a unit
            have its sign, and the connectome holds strengths of at least 0. By default weights are taken as they are.
        scale: a factor for all weights, such as the input per synapse.
        weight: the attribute of an edge that holds its weight; edges without it have the weight 1.
        is_symmetric: whether each connection must be there both ways with the same weight, as for gap junctions, or
            where theorems on symmetric networks are to hold.
        time_constants: positive, one for all units or one for each.
        form: `StateForm(phi)` or `RateForm(phi)`.

    Raises:
        ValueError: if the connectome is neither, is empty or not finite, is not symmetric where it must be, or holds
            negative strengths beside signs; or if a sign is not 1 or -1.
    """
    check_finite("scale", scale)
    matrix = _graph_matrix(connectome, weight) if isinstance(connectome, WeightedGraph) else connectome
    is_sparse = hasattr(matrix, "tocoo")
    if not is_sparse and matrix is connectome:
        raise fail("connectome", "is of an unknown kind", "a networkx graph or a scipy sparse matrix", type(connectome))
    if len(matrix.shape) != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise fail("connectome", "is not a square matrix", "shape (units, units)", f"shape {matrix.shape}")
    if is_sparse:
        entries = matrix.tocsr().tocoo()  # entries of the same place are added up
        rows, columns = (np.asarray(each, np.int32) for each in (entries.row, entries.col))
        values = np.asarray(entries.data, float)
    else:
        rows, columns = np.nonzero(matrix)
        values = matrix[rows, columns]
    check_finite("connectome", values)
    if is_symmetric:
        _check_symmetric(rows, columns, values)
    if signs is not None:
        signs = np.asarray(signs)
        check_shape("signs", signs, (matrix.shape[0],))
        others = sorted(set(signs.tolist()) - {1, -1})
        if others:
            raise fail("signs", "have other values", "1 for excitatory and -1 for inhibitory units", others[:5])
        if (values < 0).any():
            unit = int(columns[np.argmax(values < 0)])
            raise fail(
                "connectome", "holds negative strengths beside signs", "at least 0", f"some that leave unit {unit}"
            )
        values = values * signs[columns]
    values = jnp.asarray(values * scale, float)
    if is_sparse:
        weights = BCOO((values, jnp.stack([jnp.asarray(rows), jnp.asarray(columns)], axis=1)), shape=matrix.shape)
    else:
        weights = jnp.zeros(matrix.shape).at[rows, columns].set(values)
    return rate_network(form, weights, time_constants=time_constants)


def _graph_matrix(graph: WeightedGraph, weight: str) -> np.ndarray:
    """Weights from the unit of the column to that of the row; parallel edges are added up."""
    position = {node: index for index, node in enumerate(graph.nodes())}
    matrix = np.zeros((len(position), len(position)))
    for source, target, value in graph.edges(data=weight, default=1.0):
        matrix[position[target], position[source]] += value
        if not graph.is_directed() and source != target:
            matrix[position[source], position[target]] += value
    return matrix


def _check_symmetric(rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
    there = {(row, column): value for row, column, value in zip(rows.tolist(), columns.tolist(), values.tolist())}
    for (row, column), value in there.items():
        back = there.get((column, row), 0.0)
        if not np.isclose(value, back, rtol=1e-6, atol=0):
            received = f"{value:g} from unit {column} to unit {row}, and {back:g} back"
            raise fail("connectome", "is not symmetric", "the same weight both ways", received)
