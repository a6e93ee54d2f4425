"""Programs for the device at hand: options of the compiler, the precision of products, and batches of one size."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jaxtyping import PyTree

# XLA times some fifty Triton kernels for each shape of a product in full precision. On an H100 the engine's first call
# took 36 s with them and 8 s without, and the calls after it 15 and 20 ms (65,536 samples of 128 units).
_OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}}
_OUTSIDE = get_opaque_trace_state()


def compiler_options() -> dict | None:
    """What XLA is told for the default device; None for nothing."""
    return _OPTIONS.get(jax.default_backend())


def jit_for_device(function: Callable) -> Callable:
    """`eqx.filter_jit` with the options for the device, where they are allowed, which is outside of other programs."""
    plain = eqx.filter_jit(function)

    @functools.cache
    def with_options(backend: str) -> Callable:
        del backend
        options = compiler_options()
        return plain if options is None else eqx.filter_jit(function, compiler_options=options)

    @functools.wraps(function)
    def run(*args, **kwargs):
        is_outside = get_opaque_trace_state() == _OUTSIDE
        return (with_options(jax.default_backend()) if is_outside else plain)(*args, **kwargs)

    return run


def in_full_precision(function: Callable) -> Callable:
    """With matrix products in the precision of the dtype; what accelerators do by default has three digits."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return run


def in_batches(
    function: Callable, constants: object, arrays: tuple[np.ndarray, ...], num_rows: int, *settings
) -> PyTree[np.ndarray]:
    """Apply a compiled function to batches of one size, so that it is compiled once, whatever the number of rows.

    Args:
        function: takes the constants, a batch of each array, and the settings; gives back arrays with as many rows.
        constants: a network, for one, given to every call.
        arrays: on the host, with one leading axis of at least one row.
        num_rows: of a batch; the last one repeats its last row.
        settings: further arguments.
    """
    size = len(arrays[0])
    parts = []
    for start in range(0, size, num_rows):
        rows = np.minimum(np.arange(start, start + num_rows), size - 1)
        parts.append(jax.device_get(function(constants, *(array[rows] for array in arrays), *settings)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size], *parts)
