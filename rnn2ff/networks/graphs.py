"""Networks from graphs and connectomes."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import scipy.sparse
from jax.experimental.sparse import BCOO
from jaxtyping import ArrayLike

from rnn2ff._checks import check_finite, check_numbers, fail
from rnn2ff.networks.rate import RateForm, RateNetwork, StateForm, as_floats, rate_network
from rnn2ff.networks.weights import check_signs


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
        signs: of the units, 1 for excitatory and -1 for inhibitory ones (Dale's law): all outgoing connections of a
            unit have its sign, and the connectome holds non-negative strengths. By default weights are kept.
        scale: a factor for all weights, such as the input per synapse.
        weight: the attribute of an edge that holds its weight; edges without it have the weight 1.
        is_symmetric: whether to require each connection in both directions with the same weight, as for gap junctions,
            or for theorems on symmetric networks to hold.
        time_constants: positive, one for all units or one for each.
        form: `StateForm(phi)` or `RateForm(phi)`.

    Raises:
        ValueError: if the connectome is neither, is empty or not finite, is not symmetric where it must be, or holds
            negative strengths although signs are given; or if a sign is not 1 or -1.
    """
    check_numbers(scale=scale)
    matrix = graph_matrix(connectome, weight) if is_graph(connectome) else connectome
    is_sparse = hasattr(matrix, "tocoo")
    if not is_sparse and matrix is connectome:
        raise fail("connectome", "is of an unknown kind", "a networkx graph or a scipy sparse matrix", type(connectome))
    if len(matrix.shape) != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise fail("connectome", "is not a square matrix", "shape (units, units)", f"shape {matrix.shape}")
    entries = scipy.sparse.csr_array(matrix).tocoo()  # duplicate entries are summed
    rows, columns = (np.asarray(indices, np.int32) for indices in entries.coords)
    values = np.asarray(entries.data, float)
    check_finite("connectome", values)
    if is_symmetric:
        _check_symmetric(scipy.sparse.csr_array((values, (rows, columns)), shape=matrix.shape))
    if signs is not None:
        signs = check_signs(signs, columns, values, matrix.shape[0])
        values = values * signs[columns]
    weights = scipy.sparse.coo_array((values * scale, (rows, columns)), shape=matrix.shape)
    if not is_sparse:
        return rate_network(form, weights.toarray(), time_constants=time_constants)
    indices = jax.device_put(np.stack([rows, columns], axis=1))
    weights = BCOO((as_floats(weights.data), indices), shape=weights.shape)
    return rate_network(form, weights, time_constants=time_constants)


def is_graph(thing: object) -> bool:
    """Whether something is a graph of networkx, which need not be installed."""
    return all(hasattr(thing, name) for name in ("nodes", "edges", "is_directed"))


def graph_matrix(graph: object, weight: str) -> np.ndarray:
    """Weights from the unit of the column to that of the row; parallel edges are added up."""
    import networkx

    return networkx.to_numpy_array(graph, weight=weight).T


def _check_symmetric(matrix: scipy.sparse.csr_array) -> None:
    back = scipy.sparse.csr_array(matrix.T)
    excess = (abs(matrix - back) - 1e-6 * abs(matrix).minimum(abs(back))).tocoo()
    if (excess.data > 0).any():
        row, column = (int(indices[np.argmax(excess.data)]) for indices in excess.coords)
        received = f"{matrix[row, column]:g} from unit {column} to unit {row}, and {matrix[column, row]:g} back"
        raise fail("connectome", "is not symmetric", "the same weight both ways", received)
