"""Sparse weights in rows of one length, `(W r)_i = sum_k values[k, i] r[columns[k, i]]`, for products with batches.

JAX multiplies a `BCOO` matrix by a batch through a scatter of every entry. Here the samples of a unit are contiguous,
and each iteration adds a few entries of every row: on two cores 140 times as fast (10,000 units, 100 entries per row,
64 samples). A row with more entries than most is split, and its parts are summed at the end, so that hubs cost little.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO, JAXSparse
from jaxtyping import Array, Float, Int

from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import RateNetwork

_ENTRIES = 8  # of a row, added per iteration: 5 ms for the product above, and 14 ms with one entry
_TILE = 64  # samples multiplied together on a CPU; with 1,024, each takes 4 times as long


@jax.tree_util.register_pytree_node_class
class PaddedRows(JAXSparse):
    """A sparse matrix in rows of one length, with zeros at their ends; made by `pad_rows`.

    Implements what a search for steady states needs: products and their forward-mode derivatives.

    Attributes:
        data: the values; entry (k, row) is the k-th of the row.
        columns: their columns.
        owners: the row of the matrix that each row is a part of; None if no row is split.
        shape: of the matrix.
    """

    def __init__(
        self,
        data: Float[Array, "entry row"],
        columns: Int[Array, "entry row"],
        owners: Int[Array, " row"] | None,
        *,
        shape: tuple[int, int],
    ):
        self.data, self.columns, self.owners, self.shape = data, columns, owners, shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def nse(self) -> int:
        """Entries, the zeros at the ends of rows included."""
        return self.data.size

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (self.data, self.columns, self.owners), self.shape

    @classmethod
    def tree_unflatten(cls, shape: tuple, arrays: tuple) -> "PaddedRows":
        return cls(*arrays, shape=shape)

    def transpose(self, axes: object = None) -> BCOO:
        return self._as_bcoo().transpose(axes)

    def todense(self) -> Array:
        return self._as_bcoo().todense()

    def _as_bcoo(self) -> BCOO:
        owners = jnp.arange(self.data.shape[1], dtype=self.columns.dtype) if self.owners is None else self.owners
        rows = jnp.broadcast_to(owners[None], self.data.shape)
        return BCOO((self.data.ravel(), jnp.stack([rows.ravel(), self.columns.ravel()], axis=1)), shape=self.shape)

    def __matmul__(self, rates: Float[Array, " column"]) -> Float[Array, " row"]:
        """`W r` for one sample; under `vmap`, for a whole batch at once."""
        return _product(self.shape[0], self.data, self.columns, self.owners, rates)


def pad_rows(weights: BCOO) -> PaddedRows:
    """The same matrix in rows of one length, made on the host; duplicate entries are summed."""
    data, indices, (num_rows, num_columns) = np.asarray(weights.data), np.asarray(weights.indices), weights.shape
    is_inside = (indices < np.array(weights.shape)).all(axis=1)  # `BCOO` pads with indices out of range
    data, indices = data[is_inside], indices[is_inside]
    order = np.argsort(indices[:, 0], kind="stable")
    data, rows, columns = data[order], indices[order, 0], indices[order, 1]
    counts = np.bincount(rows, minlength=num_rows)
    # The length with the fewest entries in total, if each row costs another `_ENTRIES`.
    quantiles = np.quantile(np.maximum(counts, 1), np.linspace(0, 1, 17))
    lengths = np.unique(np.ceil(quantiles / _ENTRIES).astype(int) * _ENTRIES)
    length = min(lengths, key=lambda candidate: (candidate + _ENTRIES) * np.maximum(1, -(-counts // candidate)).sum())
    num_parts = np.maximum(1, -(-counts // length))
    first_part = np.cumsum(num_parts) - num_parts
    position = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = np.zeros((length, num_parts.sum()), data.dtype)
    where = np.zeros(padded.shape, np.int32)
    place = position % length, first_part[rows] + position // length
    padded[place], where[place] = data, columns
    owners = None if (num_parts == 1).all() else np.repeat(np.arange(num_rows, dtype=np.int32), num_parts)
    return PaddedRows(*jax.device_put((padded, where, owners)), shape=(num_rows, num_columns))


def with_padded_rows(network: RecurrentNetwork) -> RecurrentNetwork:
    """The same network, with any sparse weights in a form that multiplies batches fast; for searches, on the host."""
    if not isinstance(network, RateNetwork) or not isinstance(network.weights, BCOO):
        return network
    return eqx.tree_at(lambda tree: tree.params.recurrent_weights, network, pad_rows(network.weights))


def _product(num_rows: int, values, columns, owners, rates):
    """A product that is linear in the values and in the rates, so that its derivatives are such products too."""

    @jax.custom_jvp
    def product(values, rates):
        return _multiply(num_rows, values, columns, owners, rates)

    def tangent(primals, tangents):
        (values, rates), changes = primals, tangents
        terms = [product(changes[0], rates)] if not isinstance(changes[0], jax.custom_derivatives.SymbolicZero) else []
        if not isinstance(changes[1], jax.custom_derivatives.SymbolicZero):
            terms.append(product(values, changes[1]))
        out = product(values, rates)
        return out, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(out)

    product.defjvp(tangent, symbolic_zeros=True)
    return product(values, rates)


def _multiply(num_rows: int, values, columns, owners, rates):
    # Passed as arguments, not captured from outside: inside a loop, captured variables belong to another trace.
    arguments = values, columns, () if owners is None else (owners,)

    def add_parts(parts, owners):
        """Rows of the matrix from their parts."""
        if not owners:
            return parts
        rows = jnp.zeros((num_rows, *parts.shape[1:]), parts.dtype)
        return rows.at[owners[0]].add(parts, indices_are_sorted=True)

    def multiply_one(values, columns, owners, rates):
        return add_parts(jnp.sum(values * rates[columns], axis=0), owners)

    one = jax.custom_batching.custom_vmap(multiply_one)

    @one.def_vmap
    def many(axis_size, in_batched, values, columns, owners, rates):
        if jax.tree.leaves(in_batched) != [False, False, *(False for _ in owners), True]:
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(in_batched))
            return jax.vmap(multiply_one, axes)(values, columns, owners, rates), True
        turns = tuple(array.reshape(-1, _ENTRIES, array.shape[1]) for array in (values, columns))

        def multiply(by_unit):
            def add(total, turn):
                entries = [v[:, None] * by_unit[c] for v, c in zip(*turn)]
                return total + sum(entries[1:], entries[0]), None

            start = jnp.zeros((values.shape[1], by_unit.shape[1]), values.dtype)
            return add_parts(jax.lax.scan(add, start, turns)[0], owners)

        if jax.default_backend() == "cpu" and axis_size > _TILE and axis_size % _TILE == 0:
            tiles = rates.reshape(-1, _TILE, rates.shape[1])
            products = jax.lax.map(lambda tile: multiply(tile.T).T, tiles)
            return products.reshape(axis_size, num_rows), True
        return multiply(rates.T).T, True

    return one(*arguments, rates)
