"""Batches in tiles: how many rows are worked on together, and which.

A loop over a batch waits for its slowest sample. So a batch is cut into tiles, each with a loop of its own, and rows
still open when their tile ends are gathered, on the device, into dense tiles for another round. The size of a tile
depends on the device: on a processor what its cache holds, on an accelerator enough to keep it busy.
"""

import enum
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from rnn2ff._checks import fail

_CHUNK, _TILE = 1024, 64  # rows, on a processor
_WIDE_TILE = 1024  # rows of a tile for matrix products alone, there
_FILLED = 5 / 8  # of a tile; with fewer rows it is not worth running, if there is another way
_FEWEST_HALVED, _FEWEST_LONG_HALVED = 512, 256  # fewest rows of a chunk that is split for two cores
_SMALLEST_DEVICE_CHUNK, _LARGEST_DEVICE_CHUNK = 256, 2**23  # rows, and entries of their states, on an accelerator


class Layout(NamedTuple):
    """How many rows are worked on together.

    Attributes:
        tiles: rows of a tile, the largest first.
        wide_tile: rows of a tile of matrix products alone; 0 for none.
        factors_one_by_one: whether matrices of samples are factored and multiplied one after the other.
    """

    tiles: tuple[int, ...]
    wide_tile: int
    factors_one_by_one: bool


def layout_for(backend: str, batch_size: int) -> Layout:
    """The tiles for a device, "cpu" or any other.

    On a processor XLA splits products of 1,024 rows among its threads, nearly twice as fast on two cores if the program
    runs alone. Tiles of 64 rows stay in the cache of a core, and few rows wait for the slowest. Elsewhere the whole
    batch is one tile, and what remains is worked on in eighths.
    """
    if backend == "cpu":
        return Layout((min(_TILE, batch_size),), _WIDE_TILE if batch_size >= _WIDE_TILE else 0, True)
    eighth = max(min(batch_size, 1024), -(-batch_size // 8))
    return Layout((batch_size, eighth) if eighth < batch_size else (batch_size,), 0, False)


def chunk_size(backend: str, num_rows: int, state_size: int) -> int:
    """Rows of one call of a program that is called from the host for batches of all sizes.

    On a processor always the same, so that a batch of another size needs no compilation; padding costs nothing but
    memory. Elsewhere the next power of two.
    """
    if backend == "cpu":
        return _CHUNK
    largest = max(_SMALLEST_DEVICE_CHUNK, _LARGEST_DEVICE_CHUNK // state_size)
    return min(2 ** int(np.ceil(np.log2(max(num_rows, _SMALLEST_DEVICE_CHUNK)))), largest)


def rows_at_once(backend: str, num_rows: int, size: int, *, is_alone: bool, is_long: bool) -> int:
    """How many rows of a batch each call works on: nearly equal parts that fit a chunk of this size.

    The same for any number of cores, so that the results do not depend on it. Unless calls run one after the other
    (`is_alone`), a batch is worth halving for two threads, one of few rows only if it takes long (`is_long`).
    """
    if backend != "cpu":
        return size
    is_halved = num_rows >= (_FEWEST_LONG_HALVED if is_long else _FEWEST_HALVED)
    num_parts = max(2 if is_halved and not is_alone else 1, -(-num_rows // size))
    return _TILE * -(-num_rows // (num_parts * _TILE))


def filled(array: np.ndarray, num_rows: int) -> np.ndarray:
    """The array, padded with rows of zeros at the end."""
    if len(array) == num_rows:
        return array
    return np.concatenate([array, np.zeros((num_rows - len(array), *array.shape[1:]), array.dtype)])


def vary_like(tree: PyTree, array: Array) -> PyTree:
    """The same values, varying over the axes of a mesh that an array varies over, as `shard_map` requires in loops."""
    axes = varying_axes(array)
    if not axes:
        return tree

    def vary(leaf):
        leaf = jnp.asarray(leaf)
        missing = tuple(axes - varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def varying_axes(array: Array) -> frozenset:
    """The axes of a mesh over which the values of an array differ, inside `shard_map`."""
    kind = jax.typeof(array)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # its older name


def check_not_in_shard(name: str, instead: str, *trees: PyTree) -> None:
    """Raise if a value differs between devices of a `jax.shard_map`, where diffrax and optimistix loops cannot run."""
    if any(varying_axes(leaf) for leaf in jax.tree.leaves(trees) if isinstance(leaf, jax.Array)):
        raise fail(name, "does not run inside `jax.shard_map`", instead, "values that differ between devices")


def check_not_split(name: str, instead: str, *trees: PyTree) -> None:
    """Raise if a `vmap` maps an axis divided over a mesh with explicit axes, where loops have no unique sharding.

    The type of one sample does not show such a division. A custom `vmap` rule sees the whole batch.
    """

    @jax.custom_batching.custom_vmap
    def look(array):
        return array

    @look.def_vmap
    def refuse(axis_size, in_batched, array):
        sharding = jax.typeof(array).sharding
        if sharding.spec and sharding.spec[0] is not None and sharding.mesh.explicit_axes:
            mapped = f"a batch that is divided over {sharding.spec[0]!r}"
            raise fail(name, "does not run under `vmap` on a mesh with explicit axes", instead, mapped)
        return look(array), True

    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.core.Tracer) and jnp.issubdtype(leaf.dtype, jnp.floating):
            look(jax.lax.stop_gradient(leaf))


def packing_of(tree: PyTree) -> tuple[Callable, Callable]:
    """Functions that pack a tree of arrays like these, with one leading axis, into few arrays, and unpack it.

    The scalars of each sample become columns of two matrices, one of floats and one of 32-bit integers: to gather or
    scatter 20 arrays would be 20 kernels to compile and to call.
    """
    leaves, structure = jax.tree.flatten(tree)
    is_real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    reals = [i for i, leaf in enumerate(leaves) if leaf.ndim == 1 and is_real[i]]
    wholes = [i for i, leaf in enumerate(leaves) if leaf.ndim == 1 and not is_real[i]]

    def pack(tree):
        leaves = jax.tree.leaves(tree)
        # Unsigned integers wrap around, here and back.
        kinds = [leaves[i] for i in reals], [leaves[i].astype(jnp.int32) for i in wholes]
        return [_side_by_side(kind) for kind in kinds if kind] + [leaf for leaf in leaves if leaf.ndim > 1]

    def unpack(arrays):
        arrays = iter(arrays)
        numbers = {}
        for kind in filter(None, (reals, wholes)):
            columns = next(arrays)
            numbers |= {i: columns[:, k].astype(leaves[i].dtype) for k, i in enumerate(kind)}
        return jax.tree.unflatten(structure, [numbers[i] if i in numbers else next(arrays) for i in range(len(leaves))])

    return pack, unpack


def _side_by_side(columns: list[Array]) -> Array:
    """A matrix from its columns. XLA compiles these selections five times faster than a concatenation.

    The code that computes a column is fused into the kernel: here once, in a concatenation once for each column.
    """
    position = np.arange(len(columns))[None]
    matrix = jnp.broadcast_to(columns[0][:, None], (len(columns[0]), len(columns)))
    for k, column in enumerate(columns[1:], start=1):
        matrix = jnp.where(jnp.asarray(position == k), column[:, None], matrix)
    return matrix


def in_tiles(
    work: Callable[[PyTree, PyTree], PyTree], rows: PyTree, constants: PyTree, tile: int, num_rows: Int[Array, ""]
) -> PyTree:
    """Apply a function to tile after tile, in place, until `num_rows` are done; the rows beyond are unchanged.

    Args:
        work: takes the rows of a tile and the constants of these rows; returns the rows.
        rows: the batch, whose size is a multiple of the tile's.
        constants: what does not change, with the same leading axis.
        tile: rows worked on together.
        num_rows: how many rows matter.
    """
    batch_size = jax.tree.leaves(rows)[0].shape[0]
    if batch_size == tile:
        return work(rows, constants)

    def one_tile(carry):
        rows, begin = carry
        part, known = jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, begin, tile), (rows, constants))
        done = work(part, known)
        rows = jax.tree.map(lambda array, new: jax.lax.dynamic_update_slice_in_dim(array, new, begin, 0), rows, done)
        return rows, begin + tile

    start = vary_like((rows, jnp.zeros((), jnp.int32)), jax.tree.leaves(rows)[0])
    return jax.lax.while_loop(lambda carry: carry[1] < num_rows, one_tile, start)[0]


class Few(enum.Enum):
    """What becomes of rows that are too few to fill a tile."""

    done = enum.auto()
    done_if_alone = enum.auto()  # and otherwise left as they are, to fill a tile of the next round
    left = enum.auto()


def in_dense_tiles(
    work: Callable[[PyTree, PyTree, Bool[Array, " tile"], Bool[Array, ""]], PyTree],
    rows: PyTree,
    constants: PyTree,
    is_chosen: Bool[Array, " batch"],
    tiles: tuple[int, ...],
    *,
    kind: Int[Array, " batch"] | None = None,
    num_kinds: int = 1,
    few: Few = Few.done,
) -> PyTree:
    """Apply a function to chosen rows alone, gathered into dense tiles.

    Args:
        work: takes the rows of a tile, the constants of these rows, which of them are chosen and not padding, and
            whether rows may wait, because this is not the only tile; returns the rows.
        rows: the batch.
        constants: what does not change, with the same leading axis.
        is_chosen: which rows; if there is none, nothing is done.
        tiles: rows worked on together, at most the batch size; the largest first. Each is used as long as there are
            rows to fill most of it.
        kind: from 0 to `num_kinds`; rows of one kind share tiles where they can.
        num_kinds: how many kinds there are.
        few: what becomes of the last rows, if they are too few for the smallest tile.
    """
    batch_size = len(is_chosen)
    kind = jnp.zeros(batch_size, jnp.int32) if kind is None else kind
    count = jnp.sum(is_chosen, dtype=jnp.int32)
    # The rows that are not chosen come last, and pad the last tile. Without work, nothing is sorted: sorting the batch
    # takes as long as several steps of a tile.
    order = jax.lax.cond(
        count >= (int(_FILLED * tiles[-1]) if few == Few.left else 1),
        lambda: _order_by_kind(jnp.where(is_chosen, kind, num_kinds).astype(jnp.int32), num_kinds + 1),
        lambda: vary_like(jnp.arange(batch_size, dtype=jnp.int32), is_chosen),
    )
    may_wait = (count > tiles[-1]) | (few == Few.left)

    def one_tile(carry, tile):
        rows, begin = carry
        first = jnp.minimum(begin, batch_size - tile)
        chosen = jax.lax.dynamic_slice_in_dim(order, first, tile)
        position = first + jnp.arange(tile, dtype=jnp.int32)
        is_mine = (position >= begin) & (position < count)
        part, known = jax.tree.map(lambda array: array[chosen], (rows, constants))
        done = work(part, known, is_mine, may_wait)
        # Rows outside are not written.
        target = jnp.where(is_mine, chosen, batch_size + position)

        def put(array, new):
            return array.at[target].set(new, mode="drop", unique_indices=True, wrap_negative_indices=False)

        return jax.tree.map(put, rows, done), begin + tile

    def goes_on(carry, tile):
        _, begin = carry
        left = count - begin
        is_filled = left >= int(_FILLED * tile)
        if tile > tiles[-1] or few == Few.left:
            return is_filled
        return left > 0 if few == Few.done else is_filled | ((begin == 0) & (left > 0))

    carry = vary_like((rows, jnp.zeros((), jnp.int32)), jax.tree.leaves(rows)[0])
    for tile in tiles:
        carry = jax.lax.while_loop(functools.partial(goes_on, tile=tile), functools.partial(one_tile, tile=tile), carry)
    return carry[0]


def _order_by_kind(kind: Int[Array, " batch"], num_kinds: int) -> Int[Array, " batch"]:
    """A permutation: rows of the first kind, then of the next. `sort` is ten times faster than `argsort`."""
    batch_size = len(kind)
    if num_kinds * batch_size > jnp.iinfo(jnp.int32).max:
        return jnp.argsort(kind)
    return jnp.sort(kind * batch_size + jnp.arange(batch_size, dtype=jnp.int32)) % batch_size
