"""Programs for the device at hand: their options, their precision, batches of one size, and where they are kept."""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jaxtyping import PyTree

from rnn2ff.records import processor_features

# XLA times some fifty Triton kernels for each shape of a product in full precision. On an H100 the engine's first call
# took 36 s with them and 8 s without, and the calls after it 15 and 20 ms (65,536 samples of 128 units).
_OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}}
_OUTSIDE = get_opaque_trace_state()
_LARGEST_CACHE = 2**30  # bytes
_KEPT_SECONDS = 0.1  # of compilation; what takes less is not kept


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


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder, for the processes that follow; the library never does."""
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return  # the user has chosen
    folder = _program_folder()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _KEPT_SECONDS)


def environment_that_keeps_programs() -> dict[str, str]:
    """The same for processes that are started from this one: what to add to their environment."""
    folder = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else _program_folder()
    if folder is None:
        return {}
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(_KEPT_SECONDS),
    }


def _program_folder() -> Path | None:
    """A folder for this processor, since a home may be shared by machines that cannot run each other's programs."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "rnn2ff" / hashlib.sha256(processor_features().encode()).hexdigest()[:12]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder)
    except OSError:  # a home that cannot be written to
        return None
    return folder


def _prune(folder: Path) -> None:
    """Make room for new programs: those that were not read for longest go."""
    files = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.stat().st_atime)
    sizes = [file.stat().st_size for file in files]
    surplus = sum(sizes) - _LARGEST_CACHE
    for file, size in zip(files, sizes):
        if surplus <= 0:
            break
        file.unlink(missing_ok=True)
        surplus -= size
