"""Timing of compiled functions: interleaved rounds, medians with quartiles."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np


class Seconds(NamedTuple):
    """Seconds per call, over the rounds.

    Attributes:
        median: half of the rounds were faster.
        lower: lower quartile.
        upper: upper quartile.
    """

    median: float
    lower: float
    upper: float


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], *, num_rounds: int = 20, round_seconds: float = 0.02
) -> dict[str, Seconds]:
    """Time functions in turns, so that all of them are affected alike when the machine slows down.

    Each is first called once, which compiles it, and then repeatedly for `round_seconds` in every round.

    Args:
        functions: without arguments; the arrays that they return are waited for.
        num_rounds: how many turns.
        round_seconds: about how long one turn of one function takes.
    """
    num_calls = {}
    for name, function in functions.items():
        jax.block_until_ready(function())
        num_calls[name] = max(1, int(round_seconds / max(timed(function).seconds, 1e-7)))
    taken = {name: [] for name in functions}
    for _ in range(num_rounds):
        for name, function in functions.items():
            taken[name].append(timed(function, num_calls[name]).seconds)
    return {name: quartiles(seconds) for name, seconds in taken.items()}


class Timed(NamedTuple):
    """A result, and how long it took.

    Attributes:
        result: of the last call.
        seconds: of one call, in the mean, until its result is there.
    """

    result: object
    seconds: float


def timed(call: Callable[[], object], num_calls: int = 1) -> Timed:
    """Call, and wait for the result."""
    started = time.perf_counter()
    for _ in range(num_calls):
        result = call()
    jax.block_until_ready(result)
    return Timed(result, (time.perf_counter() - started) / num_calls)


def quartiles(seconds: Sequence[float]) -> Seconds:
    """The median and the quartiles."""
    return Seconds(*(float(np.quantile(seconds, q)) for q in (0.5, 0.25, 0.75)))
