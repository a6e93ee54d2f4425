"""Compiled programs: options for the device, precision, batches of one size, and the cache for later processes."""

import functools
import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Float, PyTree

from rnn2ff.records import processor_features

_DISABLED = "xla_disable_hlo_passes"
# On a GPU XLA times some fifty Triton kernels for each shape of a product in full precision: on an H100 the engine's
# first call took 36 s with them and 8 s without, and the calls after it 15 and 20 ms (65,536 samples of 128 units).
# On a CPU the engine's time goes into products, which a library computes, and its first call compiles about a hundred
# small kernels: these options save a quarter of that (7.7 -> 5.5 s on two cores), and cost no time later.
_OPTIONS = {
    "gpu": {"xla_gpu_enable_triton_gemm": False},
    "cpu": {
        "xla_backend_optimization_level": 1,
        "xla_llvm_disable_expensive_passes": True,
        _DISABLED: "tree_reduction_rewriter",
    },
}
_OUTSIDE = get_opaque_trace_state()
_LARGEST_CACHE = 2**30  # bytes
_KEPT_SECONDS = 0.1  # of compilation; programs that compile faster are not cached


def jit_for_device(
    function: Callable, jit: Callable = eqx.filter_jit, *, divides_kernels: bool = True, **settings: object
) -> Callable:
    """Compile with the options for the device; without them inside another program, where none are allowed.

    Args:
        function: the function to compile.
        jit: what compiles it.
        divides_kernels: whether a CPU divides kernels other than matrix products among its threads. Concurrent programs
            have a core each, and would wait for each other's threads: without, the engine took 25 ms instead of 34 for
            4,096 samples of 128 units on two cores, and 3.7 instead of 5.6 for 256.
        settings: further arguments of `jit`.
    """
    plain = jit(function, **settings)

    @functools.cache
    def with_options(backend: str, has_fewest: bool) -> Callable:
        options = None if has_fewest and backend == "cpu" else _OPTIONS.get(backend)
        if options is not None and backend == "cpu" and not divides_kernels:
            options = {**options, _DISABLED: f"{options[_DISABLED]},cpu-parallel-task-assigner"}
        return plain if options is None else jit(function, compiler_options=options, **settings)

    @functools.wraps(function)
    def run(*args, **kwargs):
        if not is_outside_traces():
            return plain(*args, **kwargs)
        has_fewest = bool(jax.config.values.get("jax_disable_most_optimizations"))  # ours would enable more
        return with_options(jax.default_backend(), has_fewest)(*args, **kwargs)

    return run


def is_outside_traces() -> bool:
    """Whether nothing is being traced."""
    return get_opaque_trace_state() == _OUTSIDE


def evaluated_now() -> AbstractContextManager:
    """A context in which known values are evaluated at once, also inside a program.

    Outside of programs it does nothing, as `jax.ensure_compile_time_eval` would recompile what is compiled already.
    """
    return nullcontext() if is_outside_traces() else jax.ensure_compile_time_eval()


def in_full_precision(function: Callable) -> Callable:
    """Run with matrix products in the precision of the dtype; by default, accelerators use three digits."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return run


def compiled(function: Callable) -> Callable:
    """A compiled function of trees of arrays, in full precision."""
    return jit_for_device(in_full_precision(function))


def compiled_alone(function: Callable) -> Callable:
    """As `compiled` outside of programs; part of them inside: under `vmap` on an explicit mesh JAX nests none."""
    alone, inside = compiled(function), in_full_precision(function)

    @functools.wraps(function)
    def run(*args):
        return alone(*args) if is_outside_traces() else inside(*args)

    return run


def only_after(earlier: jax.Array, later: jax.Array) -> jax.Array:
    """The later array, unchanged, for a factorization that must not begin before the earlier array is computed.

    XLA computes independent operations concurrently. jaxlib 0.10 divides a batch of LU or Cholesky factorizations among
    the threads of a processor, and waits for the parts in a thread of the same pool: with as many concurrent batches as
    threads, two on two cores, it deadlocks. XLA drops `optimization_barrier`, but not a product with zero, which may be
    NaN. Later versions are reported not to need this.
    """
    entry = earlier.reshape(-1)[0]
    return later + (0 * jnp.where(jnp.isfinite(entry), entry, 0)).astype(later.dtype)


def solve_systems(
    matrices: Float[jax.Array, "batch size size"], right: Float[jax.Array, "batch size right"], *, one_by_one: bool
) -> Float[jax.Array, "batch size right"]:
    """Solve linear systems together, or one by one, so that concurrent programs do not deadlock (`only_after`)."""
    if one_by_one:
        return jax.lax.map(lambda system: jnp.linalg.solve(*system), (matrices, right))
    return jnp.linalg.solve(matrices, right)


def in_batches(
    function: Callable, constants: object, arrays: tuple[np.ndarray, ...], num_rows: int, *settings
) -> PyTree[np.ndarray]:
    """Apply a compiled function to batches of one size, so that it is compiled once, whatever the number of rows.

    The function takes the constants, a batch of `num_rows` of each array, and the settings; it returns arrays with as
    many rows. The arrays are on the host, with at least one row; the last batch is filled up with its last row.
    """
    size = len(arrays[0])
    parts = []
    for start in range(0, size, num_rows):
        rows = np.minimum(np.arange(start, start + num_rows), size - 1)
        parts.append(jax.device_get(function(constants, *(array[rows] for array in arrays), *settings)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:size], *parts)


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder, for later processes; only the command line calls this."""
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return  # the user has chosen
    folder = _made_folder()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _KEPT_SECONDS)


def environment_that_keeps_programs() -> dict[str, str]:
    """What to add to the environment of child processes, so that they keep programs as well."""
    folder = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else _made_folder()
    if folder is None:
        return {}
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(_KEPT_SECONDS),
    }


def program_folder() -> Path:
    """A folder for this processor, since machines that share a home may be unable to run each other's programs."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rnn2ff" / hashlib.sha256(processor_features().encode()).hexdigest()[:12]


def _made_folder() -> Path | None:
    """The folder, with room for new programs; None where it cannot be made."""
    folder = program_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder)
    except OSError:  # the home is not writable
        return None
    return folder


def _prune(folder: Path) -> None:
    """Make room for new programs: delete the least recently used ones."""
    files = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.stat().st_atime)
    sizes = [file.stat().st_size for file in files]
    surplus = sum(sizes) - _LARGEST_CACHE
    for file, size in zip(files, sizes):
        if surplus <= 0:
            break
        file.unlink(missing_ok=True)
        surplus -= size
