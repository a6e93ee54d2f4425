"""Thousands of batches in one process: by how much memory grows, and how many programs are compiled."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.random as jr
import numpy as np

import rnn2ff
from rnn2ff.data import stream_steady_states

_LARGEST_GROWTH = 1.02
_WARM_SHARE = 0.2  # of the batches, after which memory must not grow, and no program may compile
_SIZE = 8


def _stream() -> Iterator[object]:
    network = rnn2ff.random_threshold_linear(_SIZE, key=jr.key(0))
    yield from stream_steady_states(network, lambda key: jr.normal(key, (_SIZE,)), batch_size=16, key=jr.key(1))


def _solve() -> Iterator[object]:
    """Fresh stimuli in calls of the entry point, with a plan, as a service makes them."""
    network, rng = rnn2ff.random_threshold_linear(_SIZE, key=jr.key(0)), np.random.default_rng(0)
    plan = rnn2ff.plan_steady_states(network, rng.normal(size=(64, _SIZE)).astype(np.float32))
    while True:
        stimuli = rng.normal(size=(16, _SIZE)).astype(np.float32)
        yield rnn2ff.solve_steady_states(network, stimuli, solver=plan).state


def _serve() -> Iterator[object]:
    """Answers with a certificate."""
    network, rng = rnn2ff.random_threshold_linear(_SIZE, key=jr.key(0)), np.random.default_rng(0)
    layers = rnn2ff.TwoLayer(_SIZE, 16, _SIZE, key=jr.key(2))
    certifier = rnn2ff.make_certifier(network)
    plan = rnn2ff.plan_steady_states(network, rng.normal(size=(64, _SIZE)).astype(np.float32))
    while True:
        stimuli = rng.normal(size=(16, _SIZE)).astype(np.float32)
        answers = rnn2ff.predict_or_solve(network, layers, stimuli, tolerance=0.1, certifier=certifier, plan=plan)
        yield answers.rates


LOOPS: dict[str, Callable[[], Iterator[object]]] = {"stream": _stream, "solve": _solve, "serve": _serve}


class _Programs:
    """Counts compiled programs."""

    def __init__(self):
        self.number = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration: float, **more: object) -> None:
        del duration, more
        self.number += event.endswith("backend_compile_duration")


def _memory() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def attack(num_batches: int, names: tuple[str, ...] = tuple(LOOPS)) -> Iterator[dict]:
    """Run each loop, and compare memory and compiled programs after a warm-up with those at its end."""
    programs = _Programs()
    for name in names:
        warm = max(1, round(_WARM_SHARE * num_batches))
        for number, batch in zip(range(1, num_batches + 1), LOOPS[name]()):
            jax.block_until_ready(jax.tree.leaves(batch))
            if number == warm:
                before = (_memory(), programs.number)
        after = (_memory(), programs.number)
        growth, num_compiled = after[0] / before[0], after[1] - before[1]
        faults = [f"memory grew by a factor of {growth:.3f}"] * (growth > _LARGEST_GROWTH)
        faults += [f"{num_compiled} programs compiled after the first {warm}"] * (num_compiled > 0)
        yield {"what": name, "counts": {"batches": num_batches}, "faults": faults, "growth": growth}
