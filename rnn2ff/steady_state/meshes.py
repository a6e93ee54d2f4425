"""A batch in chunks of one size; each device of a mesh works on one at a time.

A program is compiled for a chunk and serves batches of all sizes. Every device works on its own rows as on a separate
batch, without communication: no loop of one device waits for the slowest sample of another.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array, Int, PyTree, Shaped

from rnn2ff._checks import fail
from rnn2ff.steady_state.tiles import Layout, chunk_size, filled, layout_for, rows_at_once

_ALIGNMENT = 64  # bytes


def check_mesh(mesh: object) -> Mesh | None:
    """The same mesh with automatic axes, if all devices are of this process; None for JAX's default device."""
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        expected = "a mesh such as `jax.make_mesh((2,), ('batch',))`"
        raise fail("mesh", "is not a mesh of devices", expected, type(mesh).__name__)
    if mesh.is_multi_process:
        expected = "devices of this process, `jax.local_devices()`; processes share the work of `store_steady_states`"
        raise fail("mesh", "has devices of other processes", expected, f"{mesh.devices.size} devices")
    return Mesh(mesh.devices, mesh.axis_names)


def placed_on(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """A tree whose arrays are on every device of a mesh, or on JAX's default device."""
    if mesh is None:  # most are there already; a `device_put` of those would take .4 ms in each call
        return jax.tree.map(lambda leaf: jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)
    arrays, others = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.device_put(arrays, NamedSharding(mesh, PartitionSpec())), others)


def placed_with(others: list, tree: PyTree) -> PyTree:
    """A tree of arrays on the device that one of the others is committed to, or on JAX's default device.

    The results of a program are committed if one of its arguments is, and JAX compiles separate programs for committed
    and uncommitted arguments.
    """
    committed = (leaf.sharding for leaf in others if isinstance(leaf, jax.Array) and leaf.committed)
    alone = (sharding for sharding in committed if isinstance(sharding, SingleDeviceSharding))
    return jax.device_put(tree, next(alone, None))


def zeros_to_share(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros on the host that JAX uses without a copy, because they begin at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def divided_over(mesh: Mesh | None, rows: PyTree) -> PyTree:
    """Arrays whose rows are divided evenly among the devices of a mesh; unchanged if there is none."""
    return rows if mesh is None else jax.device_put(rows, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))


def on_each_device(function: Callable, mesh: Mesh | None) -> Callable:
    """Let each device of a mesh call a function for its own rows.

    Args:
        function: takes constants, which all devices share, and a tree of arrays, each of which is divided among the
            devices; returns a tree of such arrays. Pure.
        mesh: the devices; if None, the function itself is returned.

    Returns:
        The same function for the rows of all devices, one device after the other.
    """
    if mesh is None:
        return function

    def run(constants, rows):
        arrays, others = eqx.partition(constants, eqx.is_array)

        def work(arrays, rows):
            return function(eqx.combine(arrays, others), rows)

        split = PartitionSpec(mesh.axis_names)
        # What the host calls is never differentiated; only then would types have to show what differs between devices.
        specs = {"in_specs": (PartitionSpec(), split), "out_specs": split}
        return jax.shard_map(work, mesh=mesh, **specs, check_vma=False)(arrays, rows)

    return run


class Chunk(NamedTuple):
    """Rows of a batch that one call of a program works on."""

    rows: slice  # which rows of the batch
    counts: Int[np.ndarray, " device"]  # how many of them each device has, before padding to `size`
    size: int  # rows per device that a program is compiled for
    layout: Layout  # their tiles
    mesh: Mesh | None  # the devices

    def place(self, array: Shaped[np.ndarray, "row ..."]) -> Shaped[Array, "filled_row ..."] | np.ndarray:
        """The rows of the chunk, padded, on the devices that work on them."""
        if self.mesh is None:
            return filled(array, self.size)
        shares = np.split(array, np.cumsum(self.counts)[:-1])
        return divided_over(self.mesh, np.concatenate([filled(share, self.size) for share in shares]))

    def zeros(self, width: int, dtype: np.dtype) -> Array | np.ndarray:
        """Rows of zeros on the devices that work on the chunk; all chunks of a batch may share them."""
        return divided_over(self.mesh, zeros_to_share((len(self.counts) * self.size, width), dtype))

    @property
    def num_rows(self) -> Int[Array | np.ndarray, " device"]:
        """How many rows of each device matter, on that device."""
        return divided_over(self.mesh, self.counts)

    def take(self, tree: PyTree) -> PyTree:
        """The results for the rows of the chunk, on the host."""

        def take(leaf):
            shares = np.split(np.asarray(leaf), len(self.counts))
            kept = [share[:count] for share, count in zip(shares, self.counts)]
            return kept[0] if len(kept) == 1 else np.concatenate(kept)

        return jax.tree.map(take, tree)


def chunks_of(
    num_rows: int, width: int, mesh: Mesh | None = None, *, is_alone: bool = True, is_long: bool = False
) -> Iterator[Chunk]:
    """A batch of rows with `width` entries in chunks, divided evenly among the devices of a mesh.

    `is_alone` and `is_long` as for `rows_at_once`.
    """
    num_devices = 1 if mesh is None else mesh.devices.size
    backend = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    size = chunk_size(backend, -(-num_rows // num_devices), width)
    layout = layout_for(backend, size)
    step = num_devices * size
    if mesh is None:
        step = rows_at_once(backend, num_rows, size, is_alone=is_alone, is_long=is_long)
    for start in range(0, num_rows, step):
        end = min(start + step, num_rows)
        counts = [len(share) for share in np.array_split(np.arange(start, end), num_devices)]
        yield Chunk(slice(start, end), np.array(counts, np.int32), size, layout, mesh)
