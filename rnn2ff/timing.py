"""Timing of compiled functions: interleaved rounds, medians with quartiles."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np


class Seconds(NamedTuple):
    """Seconds a call, over the rounds.

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
    """Time functions in turns, so that a machine that slows down slows all of them.

    Each is called once before, which compiles it, and then in every round as often as fills `round_seconds`.

    Args:
        functions: each takes nothing and returns arrays, which are waited for.
        num_rounds: how many turns.
        round_seconds: about how long one turn of one function takes.
    """
    num_calls = {}
    for name, function in functions.items():
        jax.block_until_ready(function())
        num_calls[name] = max(1, int(round_seconds / max(_seconds(function, 1), 1e-7)))
    taken = {name: [] for name in functions}
    for _ in range(num_rounds):
        for name, function in functions.items():
            taken[name].append(_seconds(function, num_calls[name]))
    return {
        name: Seconds(*(float(np.quantile(values, q)) for q in (0.5, 0.25, 0.75))) for name, values in taken.items()
    }


def _seconds(function: Callable[[], object], num_calls: int) -> float:
    start = time.perf_counter()
    for _ in range(num_calls):
        result = function()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / num_calls
