"""The engine, called from the host: a batch in chunks, on all cores of a processor.

XLA divides large operations among threads, but most are small, so that one program keeps only one and a half cores
busy. JAX runs the calls of one Python thread one after the other. So chunks run in several lanes, each of which is a
thread.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from tqdm.auto import tqdm

from rnn2ff.compiling import is_outside_traces, jit_for_device
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.records import num_threads
from rnn2ff.steady_state.batch import FACTORIZATIONS, MOST_ROUNDS, Work, by_factorizations, by_products, rows_to_begin
from rnn2ff.steady_state.concurrency import may_run_concurrently
from rnn2ff.steady_state.meshes import Chunk, chunks_of, divided_over, on_each_device, placed_on, placed_with
from rnn2ff.steady_state.method import Plan
from rnn2ff.steady_state.result import in_one_piece
from rnn2ff.steady_state.rows import Known, Solved, Task
from rnn2ff.steady_state.samples import Samples
from rnn2ff.steady_state.tiles import Layout

# Held while calling a program that two lanes may need first, and would both compile. Calls return before it ends.
_ONE_AT_A_TIME = threading.Lock()


def run_in_chunks(
    samples: Samples, rows: np.ndarray, plan: Plan, starts: np.ndarray | None, max_steps: int, bar: tqdm | None = None
) -> Iterator[tuple[slice, Solved]]:
    """Run the engine in chunks of one size, on all cores; from zero if there are no starts. Yields rows and results."""
    network, mesh = samples.network, samples.mesh
    dtype = network.dtype
    is_alone = not has_lanes(network, mesh)
    settings = {"is_alone": is_alone, "is_long": not plan.starts_with_sweeps}
    chunks = list(chunks_of(len(rows), network.state_size, mesh, **settings))
    if not chunks:
        return
    limits = np.asarray(samples.tolerance, dtype), np.asarray(max_steps, np.int32)
    leaves, structure = jax.tree.flatten((network, plan))
    place = functools.partial(placed_with, leaves) if mesh is None else lambda tree: tree
    # Place what all chunks share once, and together, as each `device_put` takes .1 ms.
    numbers = divided_over(mesh, rows_to_begin(len(chunks[0].counts) * chunks[0].size, dtype))
    zeros = chunks[0].zeros(network.state_size, dtype) if starts is None else None
    limits, numbers, zeros = place((limits if mesh is None else placed_on(mesh, limits), numbers, zeros))
    constants = placed_on(mesh, leaves), limits

    def begin(chunk: Chunk) -> tuple[Known, _Static, Work]:
        stimuli = chunk.place(samples.stimuli[in_one_piece(rows[chunk.rows])])
        known = place(Known(stimuli, zeros if starts is None else chunk.place(starts[chunk.rows])))
        arrays = [*numbers, known.initial_states, known.initial_states]
        # Code for wide tiles is compiled beside that for others, a quarter of the time of a first call. In lanes it
        # gains nothing.
        layout = chunk.layout if is_alone else chunk.layout._replace(wide_tile=0)
        static = _Static(structure, layout, mesh)
        return known, static, _by_products(constants, (known, arrays), chunk.num_rows, static=static)

    def finish(chunk: Chunk, begun: tuple[Known, _Static, Work]) -> Solved:
        known, static, work = begun
        for _ in range(MOST_ROUNDS):
            is_waited_for = np.asarray(work.is_waited_for).any(axis=0)
            if not is_waited_for.any():
                break
            arrays = work.arrays
            for stage in itertools.compress(FACTORIZATIONS, is_waited_for):
                with _ONE_AT_A_TIME:
                    arrays = _by_factorizations(constants, (known, arrays), stage=stage, static=static)
            work = _by_products(constants, (known, arrays), chunk.num_rows, static=static)
        return chunk.take(work.solved)

    for chunk, solved in in_lanes(begin, finish, chunks, 1 if is_alone else num_threads()):
        yield chunk.rows, solved
        if bar is not None:
            bar.set_postfix_str("", refresh=False)
            bar.update(chunk.rows.stop - chunk.rows.start)


def run_whole(samples: Samples, rows: np.ndarray, plan: Plan, starts: np.ndarray, max_steps: int) -> Solved:
    """The same, with all results in one piece."""
    parts = [solved for _, solved in run_in_chunks(samples, rows, plan, starts, max_steps)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def has_lanes(network: RecurrentNetwork, mesh: Mesh | None) -> bool:
    """Whether calls for this network may run concurrently.

    The engine's own factorizations run one by one. A user's field that factorizes matrices runs alone.
    """
    if mesh is not None or jax.default_backend() != "cpu" or not is_outside_traces():
        return False
    return may_run_concurrently(network)


def in_lanes(
    begin: Callable[[Chunk], PyTree],
    finish: Callable[[Chunk, PyTree], PyTree],
    chunks: Sequence[Chunk],
    num_at_once: int,
) -> Iterator[tuple[Chunk, PyTree]]:
    """Chunks and their results, on the host, in order. The caller's thread is one of the lanes.

    Args:
        begin: calls a compiled function for a chunk, without waiting for it.
        finish: waits for it, and returns the result on the host.
        chunks: of a batch, at least one.
        num_at_once: the largest number of concurrent calls.
    """
    first = begin(chunks[0])  # which compiles, once
    ends = [Future() for _ in chunks]
    order = itertools.count()  # `next` of it is atomic
    config = jax.config.values

    def work_on_next() -> bool:
        """Work on the next chunk; False if none was left."""
        i = next(order)
        if i >= len(chunks):
            return False
        try:
            result = finish(chunks[i], begin(chunks[i]) if i else first)
        except BaseException as error:
            ends[i].set_exception(error)
            raise
        ends[i].set_result(result)
        return True

    def work() -> None:
        # Contexts such as `jax.default_matmul_precision` are thread-local; a lane with others would recompile.
        while jax.config.values == config and work_on_next():
            pass

    others, caller = [], threading.get_ident()
    try:
        for _ in range(min(num_at_once, len(chunks)) - 1):
            others.append(_threads(num_at_once - 1).submit(work))
        for i, chunk in enumerate(chunks):
            while not ends[i].done() and work_on_next():
                pass
            result, ends[i] = ends[i].result(), None  # do not keep the results of the whole batch
            yield chunk, result
    finally:
        order = itertools.count(len(chunks))  # after an interruption, begin no further chunk
        running = [other for other in others if not other.cancel()]
        if threading.get_ident() == caller:  # not a lane, where garbage collection may close an abandoned iterator
            wait(running)


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    """Persistent threads: starting them takes longer than solving some hundred samples."""
    return ThreadPoolExecutor(number, "rnn2ff")


class _Static(NamedTuple):
    """What a program is compiled for."""

    structure: jax.tree_util.PyTreeDef  # of the network and the plan
    layout: Layout
    mesh: Mesh | None


def _task_of(constants, static: _Static) -> Task:
    """The task, from flattened arrays: `eqx.filter_jit` would traverse their tree in every call."""
    leaves, (tolerance, max_steps) = constants
    return Task(*jax.tree.unflatten(static.structure, leaves), tolerance, max_steps, static.layout)


@functools.partial(jit_for_device, jit=jax.jit, divides_kernels=False, static_argnames=("static",))
def _by_products(constants, given, num_rows, *, static) -> Work:
    def work(constants, rows):
        given, num_rows = rows
        return by_products(_task_of(constants, static), *given, num_rows[0])

    return on_each_device(work, static.mesh)(constants, (given, num_rows))


@functools.partial(jit_for_device, jit=jax.jit, divides_kernels=False, static_argnames=("stage", "static"))
def _by_factorizations(constants, given, *, stage, static) -> list[jax.Array]:
    def work(constants, given):
        return by_factorizations(_task_of(constants, static), *given, stage)

    return on_each_device(work, static.mesh)(constants, given)
