"""The identity of networks in files: a hash of the equations, by name, and of the parameters."""

import dataclasses
import hashlib

import jax
import numpy as np
from jax.experimental.sparse import JAXSparse

from rnn2ff._checks import check_on_host
from rnn2ff.networks.base import RecurrentNetwork


def network_hash(network: RecurrentNetwork) -> str:
    """The same for the same network in any process, in either precision, with dense or sparse weights.

    Functions are identified by their names and, if they are dataclasses such as `PowerLaw`, by their fields: two
    lambdas have the same name, and are not distinguished. Parameters are compared in float32.
    """
    check_on_host("network_hash", "use what was computed outside", network)
    digest = hashlib.sha256(f"{name_of(network.vector_field)} {name_of(network.rate_function)}".encode())
    digest.update(f"{network.state_size} {network.stimulus_size}{' map' if network.is_map else ''}".encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(network.params, is_leaf=_is_sparse):
        array = np.asarray(leaf.todense() if _is_sparse(leaf) else leaf, np.float32)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array + np.float32(0)).tobytes())  # -0 becomes 0
    return digest.hexdigest()


def _is_sparse(leaf: object) -> bool:
    return isinstance(leaf, JAXSparse)


def name_of(thing: object) -> str:
    """A function's name, or a dataclass with those of its fields, as `StateForm(relu)`; the same in every process."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = ", ".join(name_of(getattr(thing, field.name)) for field in dataclasses.fields(thing))
        return f"{type(thing).__qualname__}({fields})"
    return getattr(thing, "__qualname__", repr(thing))
