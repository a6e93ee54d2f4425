"""What happens to stimuli unlike those of the training, and would a user notice?

Two layers, and few or no hidden units with sweeps at equal cost, are trained on one distribution of stimuli and tested
on others: scaled, shifted, sparse, smooth, and perturbed within a ball, at random or by gradient ascent on the error.
The residual of the predicted rates in the equation of the recurrent network needs no solve. The question is which
errors it detects. To first order it is the error times a matrix, the identity less the slopes of the network, so it
misses errors that this matrix makes small. A Newton step, which takes one linear solve, divides by that matrix; the
length of the step is therefore tested as well.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import rankdata, spearmanr

from experiments._fit import fit_both
from experiments._forms import FORMS, TWO_LAYERS, WITH_SWEEPS
from experiments._script import run_script, table
from experiments._seeds import spread, with_interval
from experiments.drawings import generalization as drawing
from rnn2ff.approximators import Approximator, predict
from rnn2ff.data import (
    SampleStimulus,
    gaussian_stimuli,
    key_for,
    sample_stimuli,
    smooth_stimuli,
    solve_pairs,
    sparse_stimuli,
)
from rnn2ff.networks import RecurrentNetwork, partition_competition, random_threshold_linear
from rnn2ff.steady_state import Anderson, solve_steady_state, solve_steady_states
from rnn2ff.training import accuracy

CLAIM = "Where a two-layer network meets stimuli unlike those of its training, the residual alone detects its errors."

IN_DISTRIBUTION = "as trained"
_FALSE_ALARMS = 0.05  # share of flags on stimuli as trained
_CAUGHT = 0.9  # share of bad answers that the residual has to flag for the claim to hold


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; shifts and radii in standard deviations of the training stimuli, per channel."""

    seed: int = 0
    num_seeds: int = 5
    tasks: tuple[str, ...] = ("random", "competition")
    num_units: int = 32
    gain: float = 0.8
    num_partitions: int = 4
    stimulus_noise: float = 0.3
    scales: tuple[float, ...] = (0.5, 2.0, 4.0)
    shifts: tuple[float, ...] = (0.5, 2.0)
    active_share: float = 0.2
    smooth_length: float = 0.5
    radii: tuple[float, ...] = (0.1, 0.5)
    num_attack_steps: int = 8
    num_samples: int = 10_000
    num_test_samples: int = 500
    num_steps: int = 4_000
    num_points: int = 50

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            num_seeds=2,
            tasks=("competition",),
            num_units=8,
            num_partitions=2,
            scales=(2.0,),
            shifts=(2.0,),
            radii=(0.5,),
            num_attack_steps=2,
            num_samples=250,
            num_test_samples=60,
            num_steps=50,
            num_points=20,
        )


class Task(NamedTuple):
    """A recurrent network, and the stimuli that its approximator is trained on."""

    name: str
    network: Callable[[Array], RecurrentNetwork]
    sample_stimulus: SampleStimulus


def run(config: Config) -> Iterator[dict]:
    """One row per task and distribution of test stimuli."""
    size, num_partitions = config.num_units, config.num_partitions

    def compete(key):
        drive_key, noise_key = jr.split(key)
        drive = jnp.repeat(jr.uniform(drive_key, (num_partitions,)), size // num_partitions)
        return drive + config.stimulus_noise * jr.normal(noise_key, drive.shape)

    tasks = [
        Task("random", lambda key: random_threshold_linear(size, gain=config.gain, key=key), gaussian_stimuli(size)),
        Task("competition", lambda _: partition_competition(num_partitions, size // num_partitions), compete),
    ]
    for task in (candidate for candidate in tasks if candidate.name in config.tasks):
        results: dict[str, list[dict]] = {}
        for index in range(config.num_seeds):
            key = jr.fold_in(key_for(jr.key(config.seed), task.name), index)
            for name, result in _judge_all(task, config, key).items():
                results.setdefault(name, []).append(result)
        for name, over_seeds in results.items():
            row = {"task": task.name, "distribution": name}
            for form in FORMS:
                measures = {
                    measure: [result[form][measure] for result in over_seeds] for measure in over_seeds[0][form]
                }
                row[form] = measures | {"points": measures["points"][0]}
            yield row


def _judge_all(task: Task, config: Config, key: Array) -> dict[str, dict[str, dict]]:
    """Errors and residuals for every distribution and form, of one seed."""
    network = task.network(key_for(key, "network"))
    training_stimuli = sample_stimuli(task.sample_stimulus, config.num_samples, key=key_for(key, "training stimuli"))
    pairs = solve_pairs(network, training_stimuli)
    judged: dict[str, dict[str, dict]] = {}
    training = {"num_steps": config.num_steps, "sample_stimulus": task.sample_stimulus, "key": key}
    for form, approximator in fit_both(network, pairs, **training).items():
        stimuli = _test_stimuli(task, network, approximator, training_stimuli, config, key)
        measured = _measure(network, approximator, stimuli)
        for name, measures in measured.items():
            judged.setdefault(name, {})[form] = _judge(measures, measured[IN_DISTRIBUTION], config)
    return judged


def _test_stimuli(
    task, network, approximator, training_stimuli, config, key
) -> dict[str, Float[Array, "test channel"]]:
    """The same number of test stimuli from each distribution."""
    size = network.stimulus_size
    mean, deviation = training_stimuli.mean(), training_stimuli.std()
    draws: dict[str, SampleStimulus] = {IN_DISTRIBUTION: task.sample_stimulus}
    for scale in config.scales:
        draws[f"scaled by {scale:g}"] = lambda key, scale=scale: scale * task.sample_stimulus(key)
    for shift in config.shifts:
        draws[f"shifted by {shift:g}"] = lambda key, shift=shift: task.sample_stimulus(key) + shift * deviation
    draws["sparse"] = sparse_stimuli(task.sample_stimulus, active_share=config.active_share)
    smooth = smooth_stimuli(size, length=config.smooth_length)
    draws["smooth"] = lambda key: mean + deviation * smooth(key)
    stimuli = {
        name: sample_stimuli(draw, config.num_test_samples, key=key_for(key, f"test stimuli, {name}"))
        for name, draw in draws.items()
    }
    usual = stimuli[IN_DISTRIBUTION]
    for radius in config.radii:
        length = radius * deviation * size**0.5
        directions = jr.normal(key_for(key, f"directions, {radius:g}"), usual.shape)
        moves = length * directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
        stimuli[f"random within {radius:g}"] = usual + moves
        stimuli[f"adversarial within {radius:g}"] = usual + _attack(
            network, approximator, usual, moves, length, config.num_attack_steps
        )
    return stimuli


@eqx.filter_jit
def _attack(network, approximator, stimuli, moves, radius, num_steps: int) -> Float[Array, "test channel"]:
    """Perturbations within a ball by gradient ascent on the error, with the implicit derivative of the steady rates."""

    def squared_error(move, stimulus):
        steady = solve_steady_state(network, stimulus + move, Anderson(), throw=False)
        error = approximator(stimulus + move) - network.rates(steady.state)
        return jnp.where(steady.is_converged, jnp.sum(error**2), 0.0)

    def climb(moves, _):
        slopes = jax.vmap(jax.grad(squared_error))(moves, stimuli)
        slopes = jnp.nan_to_num(slopes)
        tiny = jnp.finfo(slopes.dtype).tiny
        moves = moves + radius / 3 * slopes / (jnp.linalg.norm(slopes, axis=1, keepdims=True) + tiny)
        return moves * jnp.minimum(1.0, radius / (jnp.linalg.norm(moves, axis=1, keepdims=True) + tiny)), None

    return jax.lax.scan(climb, moves / 2, length=num_steps)[0]


class Measured(NamedTuple):
    """Values for each sample with a steady state; errors, residuals and steps are root mean squares over units."""

    predicted: np.ndarray
    rates: np.ndarray
    error: np.ndarray
    residual: np.ndarray
    step: np.ndarray
    share_lost: float


def _measure(network: RecurrentNetwork, approximator: Approximator, stimuli: dict[str, Array]) -> dict[str, Measured]:
    """Solve all distributions as one batch, and so by one plan, and measure each."""
    drawn = jnp.concatenate(list(stimuli.values()))
    solved = solve_steady_states(network, drawn)
    predicted = predict(approximator, drawn)
    residual, step = _residual_and_step(network, predicted, drawn)
    parts = (predicted, jax.vmap(network.rates)(solved.state), residual, step, solved.is_converged)
    measured = {}
    for index, (name, batch) in enumerate(stimuli.items()):
        *arrays, is_steady = (np.asarray(part[index * len(batch) :][: len(batch)]) for part in parts)
        predicted, rates, residual, step = (np.float64(part[is_steady]) for part in arrays)
        lengths = (np.sqrt((part**2).mean(axis=1)) for part in (predicted - rates, residual, step))
        measured[name] = Measured(predicted, rates, *lengths, float(1 - is_steady.mean()))
    return measured


@eqx.filter_jit
def _residual_and_step(network: RecurrentNetwork, predicted: Array, stimuli: Array) -> tuple[Array, Array]:
    """The residual of the rates in the equation of the network, and the Newton step that would correct it."""

    def of_sample(rates: Array, stimulus: Array) -> tuple[Array, Array]:
        total = network.params.total_input(rates, stimulus)
        residual = rates - jax.nn.relu(total)
        slopes = (total > 0).astype(rates.dtype)[:, None] * network.params.recurrent_weights
        return residual, jnp.linalg.solve(jnp.eye(len(rates), dtype=rates.dtype) - slopes, residual)

    return jax.vmap(of_sample)(predicted, stimuli)


def _judge(measured: Measured, usual: Measured, config: Config) -> dict:
    """How large the errors are, and which of them the residual detects."""
    is_bad = measured.error > np.quantile(usual.error, 1 - _FALSE_ALARMS)
    is_flagged, is_far = (
        getattr(measured, name) > np.quantile(getattr(usual, name), 1 - _FALSE_ALARMS) for name in ("residual", "step")
    )
    ranks = rankdata(np.concatenate([usual.residual, measured.residual]))[len(usual.residual) :]
    number = len(measured.residual)
    area = (ranks.sum() - number * (number + 1) / 2) / (number * len(usual.residual))
    return {
        "nrmse": accuracy(measured.predicted, measured.rates).nrmse,
        "rms_error": float(np.sqrt((measured.error**2).mean())),
        "rank_correlation": float(spearmanr(measured.residual, measured.error).statistic),
        "area_under_curve": float(area),
        "share_bad": float(is_bad.mean()),
        "share_flagged": float(is_flagged.mean()),
        "share_caught": float(is_flagged[is_bad].mean()) if is_bad.any() else None,
        "share_caught_by_step": float(is_far[is_bad].mean()) if is_bad.any() else None,
        "share_lost": measured.share_lost,
        "points": np.round(np.stack([measured.residual, measured.error])[:, : config.num_points], 5),
    }


def _caught(row: dict, form: str, name: str = "share_caught") -> float | None:
    shares = [share for share in row[form][name] if share is not None]
    return spread(shares).mean if shares else None


def verdict(rows: list[dict]) -> str:
    """How many of the bad answers are flagged, where bad answers are more common than in training."""

    def caught(form: str, name: str) -> dict[str, float]:
        worse = [row for row in rows if spread(row[form]["share_bad"]).mean > 2 * _FALSE_ALARMS]
        return {f"{row['task']}, {row['distribution']}": _caught(row, form, name) for row in worse}

    def say(form: str) -> str:
        shares = caught(form, "share_caught")
        worst, number = min(shares, key=shares.get), sum(share >= _CAUGHT for share in shares.values())
        return f"{number} of {len(shares)} distributions (the fewest, {shares[worst]:.0%}, on {worst})"

    def fewest(form: str, name: str = "share_caught_by_step") -> float:
        return min(caught(form, name).values())

    def largest(form: str) -> float:
        return max(spread(row[form]["nrmse"]).mean for row in rows)

    is_detected = all(fewest(form, "share_caught") >= _CAUGHT for form in FORMS)
    is_detected_by_step = all(fewest(form) >= _CAUGHT for form in FORMS)
    word = "Holds" if is_detected else "Holds with a linear solve" if is_detected_by_step else "Holds in part"
    return (
        f"{word}: at {_FALSE_ALARMS:.0%} false alarms the residual flags at least {_CAUGHT:.0%} of the bad answers of "
        f"two layers on {say(TWO_LAYERS)}, and with sweeps at equal cost on {say(WITH_SWEEPS)}; the length of "
        f"a Newton step flags at least {fewest(TWO_LAYERS):.0%} and {fewest(WITH_SWEEPS):.0%} on all of them. What the "
        "residual alone misses are errors along which the network nearly rests, however the pass was trained. On the "
        f"worst distribution two layers are {largest(TWO_LAYERS):.1%} off, with sweeps {largest(WITH_SWEEPS):.1%}."
    )


def describe(rows: list[dict]) -> str:
    """Errors, and how many the residual detects, by distribution and form."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.0f}"

    lines = [
        [
            f"{row['task']}, {row['distribution']}, {form}",
            with_interval(row[form]["nrmse"], ".1f", 100),
            with_interval(row[form]["rank_correlation"], ".2f"),
            with_interval(row[form]["area_under_curve"], ".2f"),
            with_interval(row[form]["share_bad"], ".0f", 100),
            percent(_caught(row, form)),
            percent(_caught(row, form, "share_caught_by_step")),
            with_interval(row[form]["share_lost"], ".1f", 100),
        ]
        for row in rows
        for form in FORMS
    ]
    header = [
        "",
        "error (NRMSE, %)",
        "rank correlation of residual and error",
        "area under the curve",
        "bad answers (%)",
        "of these flagged (%)",
        "... by a step of Newton",
        "lost (%)",
    ]
    return table(header, lines)


if __name__ == "__main__":
    run_script("generalization", Config(), run, describe, drawing.draw)
