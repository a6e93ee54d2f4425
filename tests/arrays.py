"""Arrays made and compared on the host: for most of what `jnp` does JAX compiles a program for each shape.

A program takes some 20 ms, and the tests made 4,400 of them, which took a seventh of their time.
"""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jax.experimental.sparse import BCOO


def floats(values):
    """Values as an array of JAX, in the default precision."""
    return jax.device_put(np.array(values, jax.dtypes.canonicalize_dtype(float)))


def normal(key, shape):
    """Gaussian numbers of the default precision, with the same digits in either."""
    generator = np.random.default_rng(np.asarray(jr.key_data(key)))
    return floats(generator.standard_normal(shape, np.float32))


def in_single(tree):
    """The same tree in single precision."""
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf, np.float32)), tree)


def sparse_weights(dense, num_entries=None):
    """The nonzero entries of a matrix, and entries outside of it up to a number."""
    dense = np.asarray(dense)
    rows, columns = np.nonzero(dense)
    data, indices = dense[rows, columns], np.stack([rows, columns], axis=1).astype(np.int32)
    if num_entries is not None:
        more = num_entries - len(data)
        data = np.concatenate([data, np.zeros(more, data.dtype)])
        indices = np.concatenate([indices, np.full((more, 2), dense.shape, np.int32)])
    return BCOO(jax.device_put((data, indices)), shape=dense.shape, indices_sorted=True, unique_indices=True)


def equal(one, other):
    """Whether two trees have the same dtypes, shapes and values."""
    return bool(eqx.tree_equal(*jax.device_get((one, other))))
