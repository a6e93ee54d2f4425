"""How does the cost grow with the network, the hidden layer, the batch, and the distance to instability?

Along each axis everything else is constant, and all points are timed in turns. Exponents are slopes of log(time for one
stimulus) against log(value), with 95 % intervals. For the two-layer pass the floor is measured beside it: its two
matrix products alone, the bytes it has to move divided by the bandwidth of the device, and its operations divided by
the rate of a large product.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.parts import contenders, method
from benchmarks.parts.contenders import TOLERANCE, Contender
from benchmarks.parts.problems import Problem, make_problem, residuals64
from benchmarks.parts.scaling_tables import describe
from experiments._script import run_script
from rnn2ff.approximators import TwoLayer
from rnn2ff.networks import threshold_linear
from rnn2ff.records import num_threads
from rnn2ff.steady_state import Plan, plan_steady_states

_NUM_PLANNED = 512  # stimuli that a plan is made from
_STEP_SHARE = 0.1  # tolerance of a rollout's steps, as a share of the residual at which it stops
_DISTANCE = "distance to instability"
_FITTED = 4  # values that an exponent is fitted to: the largest, or the smallest distances
_COPIED = 2**24  # numbers that are read and written for the bandwidth
_SQUARE = 1024  # rows of the large product


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the weights and the stimuli."""
    state_size: int = 128
    """Number of units, where it does not vary."""
    width: int = 4
    """Hidden units, in multiples of the number of units, where it does not vary."""
    batch_size: int = 256
    """Stimuli in a batch, where it does not vary."""
    sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Numbers of units."""
    widths: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Hidden units, in multiples of the number of units."""
    batches: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096, 16384)
    """Stimuli in a batch."""
    planned: bool = True
    """Whether the entry point with a plan takes part."""
    largest_solved_batch: int = 1024
    """The largest batch for rollouts and solvers."""
    radii: tuple[float, ...] = (0.5, 0.8, 0.9, 0.97, 0.99, 0.997)
    """Spectral radii of non-negative weights; at 1 the network is unstable."""
    num_rounds: int = 15
    """Timed turns of each call; slow calls get fewer, at least 3."""
    budget_seconds: float = 1.0
    """Time for the turns of one call; calls that take longer get fewer turns."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        few = {"sizes": (8, 16), "widths": (1, 4), "batches": (1, 16), "radii": (0.5, 0.9)}
        return dataclasses.replace(self, state_size=16, batch_size=16, **few, num_rounds=3, budget_seconds=0.1)


class _Point(NamedTuple):
    """One thing to time at one value of an axis."""

    call: Callable[[], object]
    row: dict


def run(config: Config) -> Iterator[dict]:
    """One row per method and value of each axis, one per exponent, and one for the device."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    device = _measure_device(config)
    yield device
    for axis, points in [
        ("units", _along_units(config)),
        ("hidden units", _along_widths(config)),
        ("batch", _along_batches(config)),
        (_DISTANCE, _along_radii(config)),
    ]:
        rows = _time(axis, points, device, config)
        yield from rows
        yield from _exponents(axis, rows)
        jax.clear_caches()


# --- the axes ---------------------------------------------------------------------------------------------------------


def _along_units(config: Config) -> Iterator[_Point]:
    for size in config.sizes:
        problem = make_problem("gauss09", size, config.batch_size, seed=config.seed)
        yield from _forward(problem, config.width * size, size, config)
        yield from _solved(problem, size, config)


def _along_widths(config: Config) -> Iterator[_Point]:
    problem = make_problem("gauss09", config.state_size, config.batch_size, seed=config.seed)
    for multiple in config.widths:
        width = multiple * config.state_size
        yield from _forward(problem, width, width, config)


def _along_batches(config: Config) -> Iterator[_Point]:
    problem = make_problem("gauss09", config.state_size, max(config.batches), seed=config.seed)
    plan = None
    for batch_size in config.batches:
        taken = problem.take(batch_size)
        yield from _forward(taken, config.width * config.state_size, batch_size, config)
        if batch_size <= config.largest_solved_batch:
            plan = plan or (_plan(problem, config) if config.planned else None)
            yield from _solved(taken, batch_size, config, plan)


def _along_radii(config: Config) -> Iterator[_Point]:
    start = make_problem("pstiff99", config.state_size, config.batch_size, seed=config.seed)
    radius_now = np.abs(np.linalg.eigvals(start.weights.astype(float))).max()
    for radius in config.radii:
        weights = jnp.asarray(start.weights * (radius / radius_now), jnp.float32)
        problem = start._replace(network=threshold_linear(weights))
        distance = round(1 - radius, 12)
        yield from _forward(problem, config.width * config.state_size, distance, config)
        yield from _solved(problem, distance, config)


# --- what is timed ----------------------------------------------------------------------------------------------------


def _forward(problem: Problem, width: int, value: float, config: Config) -> Iterator[_Point]:
    """Two layers with random weights, and their products alone."""
    size, stimuli = problem.network.state_size, problem.stimuli
    approximator = TwoLayer(problem.network.stimulus_size, width, size, key=jr.key(config.seed))
    for contender in (contenders.forward_pass(approximator, {}), contenders.products(stimuli.shape[1], width, size)):
        compiled, put, row = _compiled(contender, stimuli)
        if contender.kind == "pass":
            row["difference"] = _difference(approximator, stimuli, np.asarray(compiled(put)))
        yield _Point(functools.partial(compiled, put), row | _place(problem, value, len(put)) | {"width": width})


def _solved(problem: Problem, value: float, config: Config, plan: Plan | None = None) -> Iterator[_Point]:
    """A rollout, Anderson acceleration, and the entry point with a plan."""
    network, stimuli = problem.network, problem.stimuli
    rollouts = contenders.rollouts(network, ("Tsit5",), (TOLERANCE,), (_STEP_SHARE,))
    for contender in (*rollouts, *contenders.solvers(network, ("Anderson",))):
        compiled, put, row = _compiled(contender, stimuli)
        call = functools.partial(compiled, put)
        yield _Point(call, row | _place(problem, value, len(put)) | _solution(problem, call()))
    if not config.planned:
        return
    solve = contenders.solve_by_plan(network, plan or _plan(problem, config))
    call = functools.partial(solve, stimuli)
    row = {"method": contenders.PLANNED, "kind": "solver", "num_devices": 1} | _place(problem, value, len(stimuli))
    yield _Point(call, row | _solution(problem, call()))


def _plan(problem: Problem, config: Config) -> Plan:
    rng = np.random.default_rng([config.seed, 1])  # other stimuli than those that are timed
    others = rng.normal(size=(_NUM_PLANNED, problem.stimuli.shape[1])).astype(np.float32)
    return plan_steady_states(problem.network, others, tolerance=TOLERANCE)


class _Compiled(NamedTuple):
    """A compiled call."""

    call: Callable[[jax.Array], object]
    stimuli: jax.Array  # on the devices
    row: dict  # of the record, which the measurement completes


def _compiled(contender: Contender, stimuli: np.ndarray) -> _Compiled:
    put, num_devices = method.put_on_devices(stimuli[: contender.largest_batch])
    compiled = contender.compile(put, num_devices)
    row = {"method": contender.name, "kind": contender.kind, "num_devices": num_devices, **compiled.about}
    return _Compiled(functools.partial(compiled.call, *contender.arguments), put, row)


def _place(problem: Problem, value: float, num_samples: int) -> dict:
    size, batch_size = problem.network.state_size, len(problem.stimuli)
    return {"value": value, "state_size": size, "batch_size": batch_size, "num_samples": num_samples}


def _solution(problem: Problem, output: tuple) -> dict:
    states, num_steps = (np.asarray(array) for array in output)
    residuals = residuals64(problem.network, problem.stimuli[: len(states)], states)
    return {
        "share_converged": float((residuals < TOLERANCE).mean()),
        "num_steps": [int(quantile) for quantile in np.quantile(num_steps, [0, 0.5, 1])],
    }


def _difference(approximator: TwoLayer, stimuli: np.ndarray, rates: np.ndarray) -> float:
    """Largest difference from the formula in float64, relative to the largest rate."""
    subset = stimuli[:256].astype(float)
    first, second = (
        np.asarray(weights, float) for weights in (approximator.hidden_weights, approximator.readout_weights)
    )
    expected = np.maximum(np.maximum(subset @ first.T, 0) @ second.T, 0)
    return float(np.abs(rates[: len(subset)] - expected).max() / np.abs(expected).max())


# --- timing and fitting -----------------------------------------------------------------------------------------------


def _measure_device(config: Config) -> dict:
    """The bandwidth of its memory, and the rate of a large product."""
    numbers, square = jnp.zeros(_COPIED, jnp.float32), jnp.ones((_SQUARE, _SQUARE), jnp.float32)
    copy = method.compile_ahead(lambda x: x + 1, numbers).call
    multiply = method.compile_ahead(lambda x, y: x @ y, square, square).call
    calls = {"copy": lambda: copy(numbers), "multiply": lambda: multiply(square, square)}
    timed = method.time_in_turns(calls, num_rounds=config.num_rounds, budget_seconds=config.budget_seconds)
    return {
        "axis": "device",
        "kind": "device",
        "num_threads": num_threads(),
        "bytes_per_second": 2 * numbers.nbytes / timed["copy"][0].lower,  # the faster quartile: a floor is optimistic
        "operations_per_second": 2 * _SQUARE**3 / timed["multiply"][0].lower,
    }


def _time(axis: str, points: Iterator[_Point], device: dict, config: Config) -> list[dict]:
    points = list(points)
    timed = method.time_in_turns(
        {i: point.call for i, point in enumerate(points)},
        num_rounds=config.num_rounds,
        budget_seconds=config.budget_seconds,
    )
    rows = []
    for i, point in enumerate(points):
        seconds, num_rounds = timed[i]
        microseconds = [1e6 * value / point.row["num_samples"] for value in seconds]
        known = {"axis": axis, "num_threads": device["num_threads"]}
        rows.append(known | point.row | {"microseconds": microseconds, "num_rounds": num_rounds})
    products = {row["value"]: row["microseconds"][0] for row in rows if row["kind"] == "floor"}
    for row in rows:
        if row["kind"] == "pass":
            size, width, batch_size = (row[name] for name in ("state_size", "width", "batch_size"))
            num_bytes = 4 * (2 * size * width + 2 * size * batch_size)  # weights, stimuli and rates: all but the cache
            floors = {
                "products": products[row["value"]],
                "bytes": 1e6 * num_bytes / device["bytes_per_second"] / batch_size,
                "operations": 1e6 * 4 * size * width / device["operations_per_second"],
            }
            row["floors"] = {name: value / row["microseconds"][0] for name, value in floors.items()}
    return rows


def _exponents(axis: str, rows: list[dict]) -> Iterator[dict]:
    """Slopes in logarithms, with their intervals from the scatter about the line."""
    from scipy import stats

    for name in dict.fromkeys(row["method"] for row in rows):
        chosen = sorted((row["value"], row["microseconds"][0]) for row in rows if row["method"] == name)
        values, times = np.log(np.array(chosen[:_FITTED] if axis == _DISTANCE else chosen[-_FITTED:])).T
        if len(values) < 3:
            continue
        fit = stats.linregress(values, times)
        half = float(stats.t.ppf(0.975, len(values) - 2) * fit.stderr)
        yield {
            "axis": axis,
            "kind": "exponent",
            "method": name,
            "num_threads": rows[0]["num_threads"],
            "exponent": float(fit.slope),
            "interval": [float(fit.slope) - half, float(fit.slope) + half],
            "range": [float(np.exp(values[0])), float(np.exp(values[-1]))],
        }


if __name__ == "__main__":
    run_script("scaling", Config(), run, describe, folder=Path(__file__).parent)
