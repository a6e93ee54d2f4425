"""Odd arguments: arrays and scalars of unexpected types, shapes, dtypes and sizes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse


def _with_entry(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        changed = np.array(array, np.result_type(array, np.float32))
        changed.flat[:1] = value
        return changed

    return change


ODD_ARRAYS: dict[str, Callable[[np.ndarray], object]] = {
    "float16": lambda array: array.astype(np.float16),
    "float64": lambda array: array.astype(np.float64),
    "longdouble": lambda array: array.astype(np.longdouble),
    "int8": lambda array: array.astype(np.int8),
    "uint64": lambda array: np.abs(array).astype(np.uint64),
    "bool": lambda array: array > 0,
    "complex": lambda array: array + 1j,
    "real complex": lambda array: array + 0j,
    "text": lambda array: array.astype(str),
    "object": lambda array: array.astype(object),
    "NaN": _with_entry(np.nan),
    "infinite": _with_entry(np.inf),
    "1e30": lambda array: array * np.float32(1e30),
    "1e-30": lambda array: array * np.float32(1e-30),
    "1e300": lambda array: array.astype(float) * 1e300,
    "subnormal": lambda array: array * np.float32(1e-42),
    "zero": lambda array: array * 0,
    "no rows": lambda array: array[:0],
    "no columns": lambda array: array[..., :0],
    "one row": lambda array: array[:1],
    "Fortran order": np.asfortranarray,
    "strided": lambda array: np.repeat(array, 2, axis=0)[::2],
    "reversed": lambda array: array[::-1],
    "read-only": lambda array: np.broadcast_to(array[..., :1], array.shape),
    "other byte order": lambda array: array.astype(array.dtype.newbyteorder()),
    "masked": lambda array: np.ma.masked_array(array, np.zeros(array.shape, bool)),
    "nested lists": lambda array: array.tolist(),
    "ragged lists": lambda array: [[1.0, 2.0], [3.0]],
    "JAX": jnp.asarray,
    "sparse": lambda array: scipy.sparse.csr_array(np.atleast_2d(array)),
    "another axis": lambda array: array[None],
    "transposed": lambda array: array.T,
    "a scalar": lambda array: array.flat[0] if array.size else 0.0,
    "more columns": lambda array: np.concatenate([array, array], axis=-1),
    "None": lambda array: None,
    "a word": lambda array: "weights",
    "a dict": lambda array: {"W": array},
}
_ODD_SCALARS: dict[str, object] = {
    "-1": -1, "0": 0, "2": 2, "0.5": 0.5, "1e-30": 1e-30, "1e30": 1e30, "-0.0": -0.0, "NaN": float("nan"),
    "infinite": float("inf"), "text": "3", "None": None, "True": True, "int64": np.int64(3), "float16": np.float16(2),
    "int8": np.int8(3), "complex": 1 + 1j, "array": np.ones(2), "0-d": np.array(3), "list": [3], "object": object(),
}  # fmt: skip


def odd(value: object, rng: np.random.Generator) -> tuple[str, object]:
    """An odd replacement of a value, and its name."""
    if isinstance(value, np.ndarray | jax.Array) and not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        name = str(rng.choice(list(ODD_ARRAYS)))
        return name, ODD_ARRAYS[name](np.asarray(value))
    name = str(rng.choice(list(_ODD_SCALARS)))
    return name, _ODD_SCALARS[name]
