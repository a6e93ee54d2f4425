"""Does a prediction take the same time for every stimulus?

Recurrent networks with non-negative weights, scaled to a chosen distance to instability (1 minus the spectral radius of
the weights), are solved for single stimuli by a rollout of the dynamics and by Anderson acceleration, and two-layer
networks of four times as many hidden units predict by one pass. Steps, operations and seconds are compared over
stimuli, sizes and distances. The weights of the two layers are random, as the cost of a pass does not depend on them;
how large the errors of such networks are is the question of the other experiments.

Operations are those of products and sums as the compiler counts them. It counts the body of a loop once, so those of a
search are the steps it took, times the evaluations of the velocity (or sweeps, which cost as much) in a step, times the
operations of one evaluation. What a step costs besides, for its error estimate or its combination, is left out.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from experiments._script import run_script, table
from experiments._seeds import growth_exponent, spread, with_interval
from experiments.drawings import time_complexity as drawing
from experiments.drawings.time_complexity import METHODS
from rnn2ff.approximators import TwoLayer
from rnn2ff.data import gaussian_stimuli, key_for, sample_stimuli
from rnn2ff.networks import RecurrentNetwork, residual, split_sweep, threshold_linear
from rnn2ff.records import timed
from rnn2ff.steady_state import AbstractSteadyStateSolver, Anderson, Rollout

CLAIM = "A pass takes the same operations for every stimulus, where the time to a steady state varies and grows."

_TOLERANCE = 1e-5
_MAX_STEPS = 8192
_EVALUATIONS = {
    "rollout": 6,
    "solver": 1,
}  # of the velocity in a step: the last stage of a step is the next one's first
_SPREAD_OF_WEIGHTS = 1.0  # of their logarithms
_NUM_BINS = 40


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; distances are 1 minus the spectral radius, dimensionless."""

    seed: int = 0
    num_seeds: int = 5
    sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    distances: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01, 0.003)
    size: int = 64
    distance: float = 0.03
    width: float = 4.0
    num_stimuli: int = 200

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(self, num_seeds=2, sizes=(4, 8), distances=(0.3, 0.03), size=8, num_stimuli=20)


def run(config: Config) -> Iterator[dict]:
    """One row per size, at the standard distance; then one per distance, at the standard size."""
    cells = [(size, config.distance) for size in config.sizes]
    cells += [(config.size, candidate) for candidate in config.distances if (config.size, candidate) not in cells]
    for size, distance in cells:
        results = [_measure(size, distance, index, config) for index in range(config.num_seeds)]
        yield {
            "size": size,
            "distance": distance,
            **{name: [result[name] for result in results] for name in results[0] if name != "histogram"},
            "histogram": results[0]["histogram"],
        }


def _measure(size: int, distance: float, index: int, config: Config) -> dict:
    key = jr.fold_in(key_for(jr.key(config.seed), f"network of {size}"), index)
    network = _network(size, distance, key)
    approximator = TwoLayer(size, round(config.width * size), size, key=key_for(key, "approximator"))
    stimuli = list(sample_stimuli(gaussian_stimuli(size), config.num_stimuli, key=key_for(key, "stimuli")))
    accelerated = Anderson(sweep=split_sweep(network))  # made once, as for a batch
    calls = {
        "rollout": lambda stimulus: _search(network, Rollout(), stimulus),
        "solver": lambda stimulus: _search(network, accelerated, stimulus),
        "pass": lambda stimulus: _answer(approximator, stimulus),
    }
    compile_seconds = {name: timed(functools.partial(call, stimuli[0])).seconds for name, call in calls.items()}
    over_stimuli, answers = _time_in_turns(calls, stimuli)
    over_repeats, _ = _time_in_turns(calls, stimuli[:1] * len(stimuli))
    steps = {name: np.array([int(answer.num_steps) for answer in answers[name]]) for name in _EVALUATIONS}
    one_evaluation = _operations(_velocity, network, stimuli[0])
    operations = {name: steps[name] * _EVALUATIONS[name] * one_evaluation for name in _EVALUATIONS}
    operations["pass"] = np.full(len(stimuli), _operations(_answer, approximator, stimuli[0]))
    residuals = {name: max(float(answer.residual) for answer in answers[name]) for name in _EVALUATIONS}
    return {
        "steps": {name: _quantiles(values) for name, values in steps.items()},
        "operations": {name: _quantiles(values) for name, values in operations.items()},
        "seconds_over_stimuli": {name: _quantiles(values) for name, values in over_stimuli.items()},
        "seconds_over_repeats": {name: _quantiles(values) for name, values in over_repeats.items()},
        "compile_seconds": compile_seconds,
        "largest_residual": residuals,
        "histogram": _histogram(steps),
    }


def _network(size: int, distance: float, key: Array) -> RecurrentNetwork:
    """Lognormal weights at that distance to instability; no part of a non-negative network is closer than the whole."""
    weights = np.exp(_SPREAD_OF_WEIGHTS * np.asarray(jr.normal(key_for(key, "weights"), (size, size)), np.float64))
    radius = np.abs(np.linalg.eigvals(weights)).max()
    return threshold_linear(jnp.asarray((1 - distance) / radius * weights, float))


class _Found(NamedTuple):
    """The end of a search."""

    state: Array
    num_steps: Array
    residual: Array


@eqx.filter_jit
def _search(network: RecurrentNetwork, solver: AbstractSteadyStateSolver, stimulus: Array) -> _Found:
    start = jnp.zeros(network.state_size, network.dtype)
    candidate = solver.search(network, stimulus, start, tolerance=_TOLERANCE, max_steps=_MAX_STEPS)
    return _Found(candidate.state, candidate.num_steps, residual(network, candidate.state, stimulus))


@eqx.filter_jit
def _answer(approximator: TwoLayer, stimulus: Array) -> Array:
    return approximator(stimulus)


@eqx.filter_jit
def _velocity(network: RecurrentNetwork, stimulus: Array) -> Array:
    return network.velocity(stimulus, stimulus)


def _operations(function: Callable, *arguments: object) -> int:
    """Operations as the compiler counts them; a program with a loop would be miscounted, and is refused."""
    compiled = function.lower(*arguments).compile().compiled
    if " while(" in compiled.as_text():
        msg = "The program has a loop, whose body the compiler counts once. Expected one without, got one with."
        raise ValueError(msg)
    return int(compiled.cost_analysis()["flops"])


def _time_in_turns(calls: dict[str, Callable], stimuli: list[Array]) -> tuple[dict[str, np.ndarray], dict[str, list]]:
    """Seconds and results, one per stimulus: all methods take turns, so that a busy machine slows all of them."""
    seconds, answers = {name: [] for name in calls}, {name: [] for name in calls}
    for stimulus in stimuli:
        for name, call in calls.items():
            answer, taken = timed(functools.partial(call, stimulus))
            seconds[name].append(taken)
            answers[name].append(answer)
    return {name: np.array(values) for name, values in seconds.items()}, answers


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {name: float(np.quantile(values, q)) for name, q in (("p1", 0.01), ("p50", 0.5), ("p99", 0.99))}


def _histogram(steps: dict[str, np.ndarray]) -> dict[str, list]:
    """Shares of stimuli by steps, in bins of even width in logarithms."""
    edges = np.geomspace(1, _MAX_STEPS, _NUM_BINS + 1)
    shares = {name: np.histogram(counts, edges)[0] / len(counts) for name, counts in steps.items()}
    return {"edges": np.round(edges, 3), **shares}


def _values(rows: list[dict], measure: str, method: str, quantile: str = "p50") -> np.ndarray:
    """One row for each row of the record, one column for each seed."""
    return np.array([[seed[method][quantile] for seed in row[measure]] for row in rows])


def _exponents(rows: list[dict], by: str, method: str) -> str:
    """Growth exponents of the operations at the median stimulus, by the size or by one over the distance."""
    sizes = np.array([row[by] for row in rows], float)
    exponent = growth_exponent(sizes if by == "size" else 1 / sizes, _values(rows, "operations", method))
    mean, low, high = np.round(exponent, 2) + 0.0  # never -0
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _by(rows: list[dict], by: str) -> list[dict]:
    """The rows in which only this quantity varies."""
    fixed = "distance" if by == "size" else "size"
    values = [row[fixed] for row in rows]
    common = max(set(values), key=values.count)
    return sorted((row for row in rows if row[fixed] == common), key=lambda row: row[by])


def verdict(rows: list[dict]) -> str:
    """By how much operations vary with the stimulus, and how they grow."""
    row = _by(rows, "distance")[0]
    vary = {
        name: spread(_values([row], "operations", name, "p99")[0] / _values([row], "operations", name, "p1")[0]).mean
        for name in METHODS
    }
    start = "Holds" if vary["pass"] == 1 else "Does not hold"
    return (
        f"{start}: operations of a pass are the same for every stimulus and distance to instability; those of a rollout"
        f" differ {vary['rollout']:.1f}-fold between stimuli (1 to 99 % of them) at the smallest distance, and grow as"
        f" one over the distance to the power {_exponents(_by(rows, 'distance'), 'distance', 'rollout')} (the fastest"
        f" solver: {vary['solver']:.1f}-fold, {_exponents(_by(rows, 'distance'), 'distance', 'solver')})."
    )


def describe(rows: list[dict]) -> str:
    """One line per size or distance, and the growth exponents."""
    header = ["", *(f"{name}: {what}" for name in METHODS for what in ("operations, p50", "microseconds", "p99/p50"))]
    header += ["rollout steps, p1 to p99", "largest residual", "seconds to compile"]
    lines = []
    for row in rows:
        line = [f"{row['size']} units, distance {row['distance']:g}"]
        for name in METHODS:
            seconds, tail = (_values([row], "seconds_over_stimuli", name, quantile)[0] for quantile in ("p50", "p99"))
            repeats = [_values([row], "seconds_over_repeats", name, quantile)[0] for quantile in ("p50", "p99")]
            ratios = f"{np.median(tail / seconds):.1f} ({np.median(repeats[1] / repeats[0]):.1f})"
            operations = f"{spread(_values([row], 'operations', name)[0]).mean:.3g}"
            line += [operations, with_interval(seconds, ".0f", 1e6), ratios]
        low, high = (spread(_values([row], "steps", "rollout", quantile)[0]).mean for quantile in ("p1", "p99"))
        worst = max(max(seed.values()) for seed in row["largest_residual"])
        compiled = max(max(seed.values()) for seed in row["compile_seconds"])
        lines.append([*line, f"{low:.0f} to {high:.0f}", f"{worst:.1g}", f"{compiled:.1f}"])
    exponents = [
        [
            f"exponent by {'size' if by == 'size' else '1 / distance'}",
            *(cell for name in METHODS for cell in (_exponents(_by(rows, by), by, name), "", "")),
            "",
            "",
            "",
        ]
        for by in ("size", "distance")
    ]
    note = "In parentheses: over repeats of one stimulus."
    return f"{table(header, [*lines, *exponents])}\n\n{note}"


if __name__ == "__main__":
    run_script("time_complexity", Config(), run, describe, drawing.draw)
