"""Batches of a few fixed sizes, so that nothing is compiled anew for every count of stragglers."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

TILE = 256  # samples that are worked on together; what fits the caches of a core
_SIZES = (16, 64, 128, 256, 1024, 4096)
LARGEST = _SIZES[-1]


def padded(rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " padded"]:
    """The rows, and the first of them again until their number is one of the fixed sizes."""
    size = next((size for size in _SIZES if size >= len(rows)), -(-len(rows) // LARGEST) * LARGEST)
    return np.concatenate([rows, np.full(size - len(rows), rows[0])])


def in_tiles(function: Callable[..., PyTree], arrays: PyTree[Array], tile: int) -> PyTree[Array]:
    """Apply a function of whole batches tile by tile; the batch size is a multiple of the tile's, or below it."""
    size = jax.tree.leaves(arrays)[0].shape[0]
    if size <= tile:
        return function(*arrays)
    tiles = jax.tree.map(lambda array: array.reshape(-1, tile, *array.shape[1:]), arrays)
    results = jax.lax.map(lambda each: function(*each), tiles)
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), results)
