"""Chunks of a batch on all cores of a processor: several calls of one program at once, each on its own core.

XLA divides few operations of a program among threads, since most are small, so that a program alone keeps one core busy
and a half. JAX computes what one thread of Python asks for in turn; so each lane is a thread.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from rnn2ff.compiling import is_outside
from rnn2ff.networks import RateNetwork, RecurrentNetwork
from rnn2ff.records import num_threads
from rnn2ff.steady_state.meshes import Chunk


def num_lanes(network: RecurrentNetwork, mesh: Mesh | None) -> int:
    """How many calls for this network may run at once.

    Batches of factorizations in programs that run at once wait for each other for ever (`compiling.only_after`). The
    engine's own are one by one; a vector field of a user may have others.
    """
    is_alone = mesh is not None or jax.default_backend() != "cpu" or not isinstance(network, RateNetwork)
    return 1 if is_alone or not is_outside() else num_threads()


def in_lanes(
    begin: Callable[[Chunk], PyTree], chunks: Sequence[Chunk], num_at_once: int
) -> Iterator[tuple[Chunk, PyTree]]:
    """Chunks and their results, on the host, in order.

    Args:
        begin: calls a compiled function for a chunk.
        chunks: of a batch.
        num_at_once: calls at once, at most.
    """
    if not chunks:
        return
    first = begin(chunks[0])  # which compiles, once
    with ThreadPoolExecutor(max(1, min(num_at_once, len(chunks) - 1))) as pool:
        is_divided = num_at_once > 1 and len(chunks) > 1
        # Contexts such as `jax.default_matmul_precision` are of one thread; in another the program would be another.
        if is_divided and pool.submit(lambda: jax.config.values).result() == jax.config.values:
            others = pool.map(lambda chunk: chunk.take(begin(chunk)), chunks[1:])
        else:
            others = (chunk.take(begin(chunk)) for chunk in chunks[1:])
        yield chunks[0], chunks[0].take(first)
        yield from zip(chunks[1:], others)
