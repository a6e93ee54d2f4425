"""The identity of networks in files: a hash of the equations, by name, and of the parameters."""

import dataclasses
import hashlib
from collections.abc import Iterator

import jax
import numpy as np
import scipy.sparse
from jax.experimental.sparse import BCOO, JAXSparse

from rnn2ff._checks import check_on_host
from rnn2ff.networks.base import RecurrentNetwork

_BLOCK_ROWS = 1024  # rows of a sparse matrix that are made dense at a time


def network_hash(network: RecurrentNetwork) -> str:
    """A hash that is the same in every process, in either precision, and for dense and sparse weights.

    Functions are identified by their names and, if they are dataclasses such as `PowerLaw`, by their fields: two
    lambdas have the same name, and are not distinguished. Parameters are compared in float32.
    """
    check_on_host("network_hash", "use what was computed outside", network)
    digest = hashlib.sha256(f"{name_of(network.vector_field)} {name_of(network.rate_function)}".encode())
    digest.update(f"{network.state_size} {network.stimulus_size}{' map' if network.is_map else ''}".encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(network.params, is_leaf=_is_sparse):
        blocks = _in_blocks(leaf) if _is_sparse(leaf) else [np.asarray(leaf, np.float32)]
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape if _is_sparse(leaf) else np.shape(leaf)}".encode())
        for array in blocks:
            digest.update(np.ascontiguousarray(array + np.float32(0)).tobytes())  # -0 becomes 0
    return digest.hexdigest()


def _in_blocks(weights: BCOO) -> Iterator[np.ndarray]:
    """The rows of the dense matrix, a few at a time: the whole matrix may not fit in memory."""
    indices = np.asarray(weights.indices)
    is_inside = (indices < np.array(weights.shape)).all(axis=1)  # `BCOO` pads with indices out of range
    entries = (np.asarray(weights.data, np.float32)[is_inside], indices[is_inside].T)
    rows = scipy.sparse.coo_array(entries, weights.shape).tocsr()
    for start in range(0, weights.shape[0], _BLOCK_ROWS):
        yield rows[start : start + _BLOCK_ROWS].toarray()


def _is_sparse(leaf: object) -> bool:
    return isinstance(leaf, JAXSparse)


def name_of(thing: object) -> str:
    """The name of a function, or of a dataclass and its fields, as `StateForm(relu)`; the same in every process."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = ", ".join(name_of(getattr(thing, field.name)) for field in dataclasses.fields(thing))
        return f"{type(thing).__qualname__}({fields})"
    return getattr(thing, "__qualname__", repr(thing))
