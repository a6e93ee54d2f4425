"""Float64 unless RNN2FF_X64=0; two CPU devices; no silent promotion of dtypes or ranks.

In float64, where numbers are checked most closely, programs are compiled with the fewest optimizations; in float32, the
precision that users have, with those that cost little.
"""

import gc
import importlib.metadata
import os
import socket
import sys
import zlib
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
# With older emitters the engine compiles in 1.7 s of processor time in float64, and in 4.1 s with those of today; in
# float32 in 4.5 s in place of 7.5. Code that is not divided among threads takes a seventh less of it (three tests of
# `tests/test_batch.py`: 16.5 s in place of 19.2). Passes that move work out of loops, for the sake of fast programs,
# took a twentieth (two classes of that file: 57.2 s with them, 53.6 without). XLA does not start with a flag that it
# does not know.
if importlib.metadata.version("jaxlib").startswith(("0.9.", "0.10.")):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] += " --xla_disable_hlo_passes=" + ",".join(
        (
            "reshape-mover",
            "simplify-while-loops",
            "tree_reduction_rewriter",
            "while-loop-constant-sinking",
            "while-loop-invariant-code-motion",
        )
    )

# Three solvers and the engine compile in 5.0 s of processor time in float32 as they are shipped, in 3.5 s with these
# options, and in 1.7 s with the fewest optimizations, as in float64. A call that sets the variable keeps those shipped.
if os.environ.get("RNN2FF_X64", "1") == "0" and "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"

# Two workers of pytest are on two cores, and after a product each further thread of BLAS waits in a busy loop for more:
# four files of tests took 38.1 and 40.4 s with two threads, 35.9 and 36.2 with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", os.environ.get("RNN2FF_X64", "1"))  # for scripts as well

import jax
import jax.random as jr
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", os.environ.get("RNN2FF_X64", "1") == "1")
jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")
jax.config.update("jax_enable_compilation_cache", False)  # that of the command line: tests compile what they test
jax.config.update("jax_traceback_in_locations_limit", 0)  # where an operation was written takes a thirtieth of the time
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many objects, and few of them are garbage. Collections took 2.0 of 19.5 s of processor time for the
# tests of discontinuity, sweeps and trajectory, and 0.4 of 17.5 s so.
gc.set_threshold(200_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs_before_maps_run_out():
    """Each compiled program keeps maps of memory, of which Linux gives a process 65,530.

    A file of tests adds some ten thousand at the most, and with 30,000 a process holds 5.6 GB. To forget the programs
    of 15,000 maps took some 4 s of processor time, and what several files use was compiled again.
    """
    yield
    maps = Path("/proc/self/maps")  # of Linux
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
        gc.collect()


def pytest_collection_finish(session):
    """What is imported is never garbage."""
    del session
    gc.collect()
    gc.freeze()


@pytest.fixture
def key(request):
    """A key of the test's own, the same in every run."""
    return jr.key(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks for a socket fails."""

    def refuse(*arguments, **more):
        raise AssertionError("a socket was asked for")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture
def as_a_user():
    """Without the type checks that only the tests switch on, so that the library's own are seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rnn2ff", *map(str, arguments)])
        from rnn2ff import cli

        code = 0
        try:
            cli.main()
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return run
