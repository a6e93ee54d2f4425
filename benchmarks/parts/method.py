"""How calls are timed: compiled separately and ahead of time, warm, in turns, and never while something compiles."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.extend.core as jex
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rnn2ff.records import Seconds, quartiles, timed

_COMPILED = "/jax/core/compile/backend_compile_duration"  # the event of a program that is compiled
_FAST = 0.1  # seconds; a call that takes less is repeated in its turn
_TURN = 0.02  # seconds of repeated calls
_REST = 0.02  # seconds between turns: threads of other programs spin for some milliseconds after their last call


class Compiled(NamedTuple):
    """A program, compiled for the shapes of its arguments.

    Attributes:
        call: takes the arguments.
        compile_seconds: tracing, lowering and compiling.
        num_operations: floating-point operations of a call as XLA counts them, those in a loop once.
        num_open_loops: loops and branches that depend on the data; 0 where every call executes the same operations.
    """

    call: Callable
    compile_seconds: float
    num_operations: float | None
    num_open_loops: int

    @property
    def about(self) -> dict:
        """The entries of a row."""
        return {name: value for name, value in self._asdict().items() if name != "call"}


def compile_ahead(function: Callable, *arguments: object) -> Compiled:
    """Compile a function for the shapes of its arguments, and check that one trace was enough."""
    once = eqx.debug.assert_max_traces(function, max_traces=1)
    started = time.perf_counter()
    traced = jax.jit(once).trace(*arguments)
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - started
    costs = compiled.cost_analysis() or {}
    return Compiled(compiled, seconds, costs.get("flops"), count_open_loops(traced.jaxpr.jaxpr))


def count_open_loops(jaxpr: jex.Jaxpr) -> int:
    """The number of loops and branches that depend on the data; branches by platform alone do not count."""
    num_open = 0
    for equation in jaxpr.eqns:
        name, options = equation.primitive.name, equation.params
        num_open += name == "while" or (name == "cond" and options.get("branches_platforms") is None)
        num_open += sum(count_open_loops(inner) for inner in jex.jaxprs_in_params(options))
    return num_open


@contextlib.contextmanager
def without_compiling() -> Iterator[None]:
    """Fail if anything is compiled: a timing would then include the compilation.

    Raises:
        RuntimeError: at the end, if something was.
    """
    compiled = []

    def note(event: str, seconds: float, **more: object) -> None:
        del more
        if event == _COMPILED:
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    if compiled:
        msg = f"Something was compiled while it was timed. Expected no compilation, got {len(compiled)}."
        raise RuntimeError(msg)


def time_in_turns(
    calls: Mapping[object, Callable[[], object]], *, num_rounds: int, budget_seconds: float, are_warm: bool = False
) -> dict[object, tuple[Seconds, int]]:
    """Time calls in turns, so that a machine that slows down slows all of them; slow calls get fewer rounds.

    Args:
        calls: by name; each takes no arguments and returns arrays, whose computation is awaited.
        num_rounds: the most turns of each call.
        budget_seconds: time for the turns of one call, of which there are at least 3.
        are_warm: whether each has been called before; otherwise each is called once first.

    Returns:
        The seconds per call, and the number of its turns.

    Raises:
        RuntimeError: if a call that is warm compiles again.
    """
    if not are_warm:
        for call in calls.values():
            timed(call)
    taken = {name: [] for name in calls}
    with without_compiling():
        warm = {name: timed(call).seconds for name, call in calls.items()}
        rounds = {name: int(np.clip(budget_seconds / warm[name], 3, num_rounds)) for name in calls}
        for turn in range(num_rounds):
            for name, call in calls.items():
                takes_part = (turn + 1) * rounds[name] // num_rounds > turn * rounds[name] // num_rounds
                if takes_part:
                    time.sleep(_REST)
                    if warm[name] < _FAST:
                        call()
                    taken[name].append(timed(call, max(1, int(_TURN / warm[name]))).seconds)
    return {name: (quartiles(seconds), len(seconds)) for name, seconds in taken.items()}


class Latencies(NamedTuple):
    """How long single calls take, in microseconds: medians over blocks of calls, which are robust to bursts of load.

    Attributes:
        median: p50 over inputs that vary.
        tail: p99 over them.
        repeated_median: p50 over copies of one input.
        repeated_tail: p99 over them.
        spread: p99 / p50 over inputs that vary, divided by p99 / p50 over copies of one; 1 where nothing depends on the
            input.
    """

    median: float
    tail: float
    repeated_median: float
    repeated_tail: float
    spread: float


def measure_latencies(
    call: Callable[[object], object], varied: Sequence[object], repeated: Sequence[object], *, num_blocks: int
) -> Latencies:
    """Latencies over inputs that vary, and over as many copies of one input, call by call in turns.

    Args:
        call: takes one input, and returns arrays, whose computation is awaited.
        varied: different inputs, one per call.
        repeated: the same values each time, in as many buffers, so that memory is no warmer.
        num_blocks: how often all inputs are used.

    Raises:
        RuntimeError: if a call that is warm compiles again.
    """

    def one(argument: object) -> float:
        return timed(functools.partial(call, argument)).seconds

    for argument in varied:  # all of them: a rare input may need another program
        one(argument)
    pairs = list(zip(varied, repeated))
    blocks = []
    with without_compiling():
        for _ in range(num_blocks):
            taken = np.empty((len(pairs), 2))
            one(repeated[0])  # the first after a pause is slow
            for i, pair in enumerate(pairs):
                for side in (i % 2, 1 - i % 2):  # neither is always the first
                    taken[i, side] = one(pair[side])
            (median, repeated_median), (tail, repeated_tail) = 1e6 * np.quantile(taken, [0.5, 0.99], axis=0)
            spread = (tail / median) / (repeated_tail / repeated_median)
            blocks.append((median, tail, repeated_median, repeated_tail, spread))
    return Latencies(*(float(value) for value in np.median(blocks, axis=0)))


def over_devices(function: Callable, num_fixed: int) -> Callable:
    """The function with its last argument, a batch, divided among all devices of the host.

    Each device loops over its own rows, so that one with quick samples does not wait for the others at every step.

    Args:
        function: takes `num_fixed` arguments that all devices get whole, and the batch.
        num_fixed: how many.
    """
    specs = (*[PartitionSpec()] * num_fixed, PartitionSpec("batch"))
    return jax.shard_map(function, mesh=_mesh(), in_specs=specs, out_specs=PartitionSpec("batch"), check_vma=False)


def put_on_devices(rows: np.ndarray) -> tuple[jax.Array, int]:
    """The rows of a batch, divided among all devices if possible, and the number of devices used."""
    count = jax.device_count()
    if count == 1 or len(rows) % count:
        return jax.device_put(rows), 1
    return jax.device_put(rows, NamedSharding(_mesh(), PartitionSpec("batch"))), count


def _mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((jax.device_count(),), ("batch",))


def keep_to_one_core() -> None:
    """Restrict this process to one core; to be called before JAX starts its threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def memory_bytes() -> int:
    """The memory of the device, in bytes."""
    statistics = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
