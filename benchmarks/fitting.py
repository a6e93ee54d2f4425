"""How well do feed-forward networks approximate recurrent ones, and how fast are they trained?

Two layers alone and few or no hidden units with sweeps at equal cost, which are the first rows of every table, wider
layers and more sweeps, and the alternatives a user might choose, on the targets of `benchmarks/parts/targets.py`, in
float32. All approximators of this library are trained as `distill` trains them. Every error is on 2,000 fresh stimuli
that were solved in float64 to a residual of 1e-9. Rows are saved as they are computed: an interrupted or partial run
resumes.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from benchmarks.parts import fitting_baselines as baselines
from benchmarks.parts.fitting_judging import Data, judged, judged_rates
from benchmarks.parts.fitting_kept import KeptRows
from benchmarks.parts.fitting_marks import (
    DISTILLED,
    EQUAL_COST,
    FEATURES,
    LINEAR,
    METHODS,
    MLP,
    NEIGHBORS,
    PLAIN_ADAM,
    STARTS,
    SWEEPS,
    TOLERANCE,
    TWO_LAYER,
    UNTRAINED,
    WIDE,
    describe,
)
from benchmarks.parts.fitting_marks import marks as marks
from benchmarks.parts.problems import in_float64
from benchmarks.parts.targets import NAMES, Target, make_target
from experiments._script import run_script
from rnn2ff.approximators import TwoLayer, predict
from rnn2ff.data import key_for, sample_stimuli, solve_pairs
from rnn2ff.records import timed
from rnn2ff.steady_state import Rollout, solve_steady_states
from rnn2ff.training import Trainer, TrainingRun, accuracy, distill, further_pairs, train

_WIDE_TARGETS = ("random09",)
_LONG_TARGETS = ("large09", "relation")  # for the first seed alone, and without sweeps after layers of 4 N
_DISTILLED_TARGETS = ("random05", "soft", "hard", "ring", "ssn")
_ONCE = (*SWEEPS.values(), STARTS, PLAIN_ADAM, MLP, FEATURES, LINEAR, NEIGHBORS, DISTILLED)  # for the first seed alone
_SHORTER = (250, 500, 1_000, 2_000, 4_000, 10_000)  # steps, one of which may reach the error of plain Adam
_BASELINES = {
    MLP: baselines.perceptron,
    FEATURES: baselines.random_features,
    LINEAR: baselines.linear_map,
    NEIGHBORS: baselines.nearest_neighbors,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """The first seed: of the weights, where they are random, of the data and of the training."""
    num_seeds: int = 3
    """Number of seeds, in sequence; slow methods, baselines, and `distill` run only for the first one."""
    targets: tuple[str, ...] = NAMES
    """Names of the targets."""
    methods: tuple[str, ...] = METHODS
    """Names of the methods."""
    num_steps: int = 10_000
    """Optimizer steps of two layers alone."""
    num_sweep_steps: int = 5_000
    """Optimizer steps of two layers with 4 sweeps, and again from there with 8."""
    num_starts: int = 20
    """Short trainings of two layers, to see whether output units die."""
    num_start_steps: int = 300
    """Optimizer steps of each of these trainings."""
    num_adam_steps: int = 20_000
    """Optimizer steps of plain Adam."""
    num_test_samples: int = 2_000
    """Fresh stimuli."""
    num_verified: int = 20_000
    """Fresh stimuli, solved by the rollout, on which the result of `distill` is verified."""
    largest_num_samples: int = 20_000
    """The most stimuli of a target to train on."""
    fresh: bool = False
    """Discard the rows that an earlier run has saved in build/fitting."""
    keep: bool = True
    """Save rows as soon as they are computed."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            num_seeds=1,
            targets=("random05",),
            methods=tuple(method for method in METHODS if method != DISTILLED),
            num_steps=40,
            num_sweep_steps=40,
            num_starts=2,
            num_start_steps=40,
            num_adam_steps=40,
            num_test_samples=64,
            num_verified=64,
            largest_num_samples=600,
            keep=False,
        )


def run(config: Config) -> list[dict]:
    """One row per target, seed and method."""
    kept = KeptRows(config)
    for seed in range(config.seed, config.seed + config.num_seeds):
        for name in config.targets:
            missing = [method for method in _methods(name, seed, config) if not kept.has(name, seed, method)]
            if not missing:
                continue
            target = make_target(name, seed)
            data = _data(target, seed, config)
            for row in _rows(target, data, missing, seed, config):
                if kept.has(name, seed, row["method"]):
                    continue  # recomputed only because a training with more sweeps starts from it
                kept.add({"target": name, "seed": seed, **row})
                print(_line(kept.rows[-1]), flush=True)
    return kept.rows


def _methods(target: str, seed: int, config: Config) -> list[str]:
    """The methods that are run for a target and seed."""
    limits = {WIDE: _WIDE_TARGETS, DISTILLED: _DISTILLED_TARGETS}
    is_long = target in _LONG_TARGETS
    return [
        method
        for method in METHODS
        if method in config.methods
        and target in limits.get(method, (target,))
        and not (is_long and method in SWEEPS.values())
        and (seed == config.seed or not (is_long or method in _ONCE))
    ]


def _data(target: Target, seed: int, config: Config) -> Data:
    key = jr.key(seed)
    num_samples = min(target.num_samples, config.largest_num_samples)
    started = time.perf_counter()
    pairs = solve_pairs(
        target.network, sample_stimuli(target.sample_stimulus, num_samples, key=key_for(key, "training stimuli"))
    )
    seconds = time.perf_counter() - started
    stimuli = sample_stimuli(target.sample_stimulus, config.num_test_samples, key=key_for(key, "test stimuli"))
    with jax.enable_x64(True):
        test = solve_pairs(in_float64(target.network), np.asarray(stimuli, np.float64))
        test_stimuli, test_rates = np.asarray(test.stimuli, np.float32), np.asarray(test.rates)
    further = further_pairs(target.network, target.sample_stimulus)
    trainer = Trainer(target.network, pairs, num_steps=config.num_steps, further=further, key=key)
    num_without = num_samples - len(pairs) + len(stimuli) - len(test)
    return Data(trainer, jnp.asarray(test_stimuli), test_rates, seconds, num_without)


# --- the methods ------------------------------------------------------------------------------------------------------


def _rows(target: Target, data: Data, methods: list[str], seed: int, config: Config):
    """The rows of the selected methods, in the order of `METHODS`."""
    trainer, width = data.trainer, 4 * target.unit_width
    if TWO_LAYER in methods or EQUAL_COST in methods:
        for method, trained in zip((TWO_LAYER, EQUAL_COST), trainer.best_of_its_cost(width)):
            if method in methods:
                yield judged(method, target, data, trained)
    if UNTRAINED in methods:
        num_products = width * (target.network.stimulus_size + target.network.rate_size)
        sweeps, seconds = timed(lambda: baselines.untrained_sweeps(trainer, num_products))
        if sweeps is not None:
            row = judged_rates(UNTRAINED, target, data, predict(sweeps, data.test_stimuli))
            about = {"num_sweeps": sweeps.num_sweeps, "num_products": sweeps.num_products}
            yield {**row, **about, "seconds": seconds}
    if WIDE in methods:
        yield judged(WIDE, target, data, trainer.two_layer(2 * width))
    if STARTS in methods:
        yield _judged_starts(target, data, width, config)
    trainer.num_steps = config.num_sweep_steps
    swept, seconds = None, 0.0
    for num_sweeps, method in SWEEPS.items():
        if any(name in methods for name in SWEEPS.values()):
            swept = trainer.refined(width, num_sweeps, swept and swept.approximator)
            seconds += swept.attempt.seconds  # the longer starts from the shorter
            yield judged(method, target, data, swept, seconds=seconds)
    if PLAIN_ADAM in methods:
        jax.clear_caches()
        first, warm = (_plain_adam(target, data, width, seed, config) for _ in range(2))
        row = judged_rates(PLAIN_ADAM, target, data, predict(first.run.approximator, data.test_stimuli))
        error = float(jnp.nanmin(first.run.validation_errors))
        yield {**row, "width": width, "seconds": first.seconds, **_sooner(trainer, width, error, first, warm)}
    arrays = [np.asarray(array) for array in (trainer.kept.stimuli, trainer.kept.rates, data.test_stimuli)]
    for method, fit in _BASELINES.items():
        if method in methods:
            started = time.perf_counter()
            rates = fit(*arrays, width)
            row = judged_rates(method, target, data, rates)
            yield {**row, "seconds": time.perf_counter() - started}
    if DISTILLED in methods:
        yield _distilled(target, seed, config)


def _judged_starts(target: Target, data: Data, width: int, config: Config) -> dict:
    """The dead output units of many short trainings, which take the largest steps of all, and their mean error."""
    trainer = data.trainer
    key, num_steps = trainer.key, trainer.num_steps
    trainer.num_steps, started, rows = config.num_start_steps, time.perf_counter(), []
    for index in range(config.num_starts):
        trainer.key = jr.fold_in(key, index)
        rows.append(judged(STARTS, target, data, trainer.two_layer(width)))
    trainer.key, trainer.num_steps = key, num_steps
    seconds = time.perf_counter() - started
    means = {name: float(np.mean([row[name] for row in rows])) for name in ("nrmse", "worst_unit_nrmse")}
    dead = sum(row["num_dead_units"] for row in rows)
    return rows[0] | means | {"num_dead_units": dead, "seconds": seconds, "seconds_with_data": seconds + data.seconds}


class _Timed(NamedTuple):
    run: TrainingRun
    seconds: float


@functools.cache  # the same functions for the same number, so that the second training is not recompiled
def _adam(num_steps: int) -> optax.GradientTransformation:
    """Adam, with a learning rate that falls to zero along a half cosine."""
    return optax.adam(optax.cosine_decay_schedule(1e-2, num_steps))


def _plain_adam(target: Target, data: Data, width: int, seed: int, config: Config) -> _Timed:
    """The common choice: random weights, Adam, the same loss."""
    started = time.perf_counter()
    network, kept, held_out = target.network, data.trainer.kept, data.trainer.held_out
    is_rectified = target.name != "ssn"
    start = TwoLayer(network.stimulus_size, width, network.rate_size, is_rectified=is_rectified, key=jr.key(seed))
    run = train(
        start,
        kept.stimuli,
        kept.rates,
        optimizer=_adam(config.num_adam_steps),
        num_steps=config.num_adam_steps,
        validation=(held_out.stimuli, held_out.rates),
        key=jr.key(seed),
    )
    return _Timed(run, time.perf_counter() - started)


def _sooner(trainer: Trainer, width: int, error: float, first: _Timed, warm: _Timed) -> dict:
    """How many times sooner the shortest sufficient training here validates as well, compiled anew and before."""
    num_steps = trainer.num_steps
    result = {"num_steps_as_good": None, "times_sooner": None, "times_sooner_warm": None}
    for shorter in _SHORTER:
        trainer.num_steps = shorter
        jax.clear_caches()
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            run = trainer.two_layer(width).run
            seconds.append(time.perf_counter() - started)
        if float(jnp.nanmin(run.validation_errors)) <= error:
            ratios = first.seconds / seconds[0], warm.seconds / seconds[1]
            result = dict(zip(result, (shorter, *ratios)))
            break
    trainer.num_steps = num_steps
    return result


def _distilled(target: Target, seed: int, config: Config) -> dict:
    """What `distill` returns and reports, and its error on fresh stimuli that the rollout solved."""
    started = time.perf_counter()
    distillation = distill(
        target.network,
        target.sample_stimulus,
        tolerance=TOLERANCE,
        num_samples=20_000,
        num_steps=5_000,
        key=jr.key(seed),
    )
    seconds = time.perf_counter() - started
    report = distillation.report
    stimuli = sample_stimuli(target.sample_stimulus, config.num_verified, key=key_for(jr.key(seed), "verification"))
    solved = solve_steady_states(target.network, stimuli, solver=Rollout(), tolerance=1e-5)
    at_rest = solved.is_converged
    rates = jax.vmap(target.network.rates)(solved.state[at_rest])
    verified = accuracy(predict(distillation.approximator, stimuli[at_rest]), rates)
    return {
        "method": DISTILLED,
        "nrmse": verified.nrmse,
        "num_test_samples": verified.num_samples,
        "width": report.width,
        "num_sweeps": report.num_sweeps,
        "reason": report.reason,
        "error_by_margin": report.error_by_margin,
        "seconds": seconds,
    }


def _line(row: dict) -> str:
    where = f"{row['target']}, seed {row['seed']}, {row['method']}"
    return f"{where}: {100 * row['nrmse']:.4g} %, {row['seconds']:.0f} s"


if __name__ == "__main__":
    run_script("fitting", Config(), run, describe, folder=Path(__file__).parent)
