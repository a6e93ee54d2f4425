"""What happens to stimuli unlike those of the training, and would a user notice?

A two-layer network is trained on one distribution of stimuli and asked about others: scaled, shifted, sparse, smooth,
and moved within a ball, at random or by an adversary who climbs the error. The residual, by how much the predicted
rates fail the equation of the recurrent network, needs no solve. Asked is what it alone would have told.
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

from experiments._fit import fit_two_layer
from experiments._script import run_script, table
from experiments._seeds import spread, with_interval
from experiments.drawings import generalization as drawing
from rnn2ff.approximators import TwoLayer, predict
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

CLAIM = "Where a two-layer network meets stimuli unlike those of its training, the residual alone tells that it errs."

IN_DISTRIBUTION = "as trained"
_FALSE_ALARMS = 0.05  # share of flags on stimuli as trained
_CAUGHT = 0.9  # share of bad answers that the residual has to flag for the claim to hold


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; shifts and radii in standard deviations of the training stimuli, a channel."""

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
    width: float = 4.0
    num_samples: int = 4_000
    num_test_samples: int = 500
    num_steps: int = 500
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
            width=2.0,
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
    """One row a task and distribution of test stimuli."""
    size, num_partitions = config.num_units, config.num_partitions

    def compete(key):
        drive_key, noise_key = jr.split(key)
        drive = jnp.repeat(jr.uniform(drive_key, (num_partitions,)), size // num_partitions)
        return drive + config.stimulus_noise * jr.normal(noise_key, drive.shape)

    tasks = [
        Task("random", lambda key: random_threshold_linear(size, gain=config.gain, key=key), gaussian_stimuli(size)),
        Task("competition", lambda _: partition_competition(num_partitions, size // num_partitions), compete),
    ]
    for task in (each for each in tasks if each.name in config.tasks):
        results: dict[str, list[dict]] = {}
        for index in range(config.num_seeds):
            key = jr.fold_in(key_for(jr.key(config.seed), task.name), index)
            for name, result in _judge_all(task, config, key).items():
                results.setdefault(name, []).append(result)
        for name, found in results.items():
            measures = {each: [result[each] for result in found] for each in found[0] if each != "points"}
            yield {"task": task.name, "distribution": name, **measures, "points": found[0]["points"]}


def _judge_all(task: Task, config: Config, key: Array) -> dict[str, dict]:
    """Errors and residuals for every distribution, of one seed."""
    network = task.network(key_for(key, "network"))
    training_stimuli = sample_stimuli(task.sample_stimulus, config.num_samples, key=key_for(key, "training stimuli"))
    pairs = solve_pairs(network, training_stimuli)
    width = round(config.width * network.rate_size)
    approximator = fit_two_layer(network, pairs, width, num_steps=config.num_steps, key=key)
    stimuli = _test_stimuli(task, network, approximator, training_stimuli, config, key)
    measured = _measure(network, approximator, stimuli)
    usual = measured[IN_DISTRIBUTION]
    return {name: _judge(each, usual, config) for name, each in measured.items()}


def _test_stimuli(
    task, network, approximator, training_stimuli, config, key
) -> dict[str, Float[Array, "test channel"]]:
    """As many of each distribution."""
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
    """Moves within a ball that climb the error, by the implicit derivative of the steady rates."""

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
    """Of each sample with a steady state; errors and residuals are root mean squares over units, in units of rate."""

    predicted: np.ndarray
    rates: np.ndarray
    error: np.ndarray
    residual: np.ndarray
    share_lost: float


def _measure(network: RecurrentNetwork, approximator: TwoLayer, stimuli: dict[str, Array]) -> dict[str, Measured]:
    """All distributions are solved as one batch, and so by one plan."""
    drawn = jnp.concatenate(list(stimuli.values()))
    solved = solve_steady_states(network, drawn)
    predicted = predict(approximator, drawn)
    totals = jax.vmap(network.params.total_input)(predicted, drawn)
    parts = (predicted, jax.vmap(network.rates)(solved.state), jax.nn.relu(totals), solved.is_converged)
    measured = {}
    for index, (name, each) in enumerate(stimuli.items()):
        predicted, rates, fed_back, is_steady = (np.asarray(part[index * len(each) :][: len(each)]) for part in parts)
        predicted, rates, fed_back = (np.float64(part[is_steady]) for part in (predicted, rates, fed_back))
        error, residual = (np.sqrt(((predicted - other) ** 2).mean(axis=1)) for other in (rates, fed_back))
        measured[name] = Measured(predicted, rates, error, residual, float(1 - is_steady.mean()))
    return measured


def _judge(measured: Measured, usual: Measured, config: Config) -> dict:
    """How large the errors are, and what the residual tells of them."""
    is_bad = measured.error > np.quantile(usual.error, 1 - _FALSE_ALARMS)
    is_flagged = measured.residual > np.quantile(usual.residual, 1 - _FALSE_ALARMS)
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
        "share_lost": measured.share_lost,
        "points": np.round(np.stack([measured.residual, measured.error])[:, : config.num_points], 5),
    }


def _caught(row: dict) -> float | None:
    found = [each for each in row["share_caught"] if each is not None]
    return spread(found).mean if found else None


def verdict(rows: list[dict]) -> str:
    """How many of the bad answers the residual flags, where bad answers are more common than in training."""
    worse = [row for row in rows if spread(row["share_bad"]).mean > 2 * _FALSE_ALARMS]
    caught = {f"{row['task']}, {row['distribution']}": _caught(row) for row in worse}
    worst = min(caught, key=caught.get)
    num_caught = sum(each >= _CAUGHT for each in caught.values())
    start = "Holds" if num_caught == len(caught) else "Holds in part" if num_caught else "Does not hold"
    return (
        f"{start}: at {_FALSE_ALARMS:.0%} false alarms the residual flags at least {_CAUGHT:.0%} of the bad answers on"
        f" {num_caught} of {len(caught)} distributions that have more of them; the fewest, {caught[worst]:.0%}, on"
        f" {worst}."
    )


def describe(rows: list[dict]) -> str:
    """Errors, and what the residual tells, by distribution."""
    lines = [
        [
            f"{row['task']}, {row['distribution']}",
            with_interval(row["nrmse"], ".1f", 100),
            with_interval(row["rank_correlation"], ".2f"),
            with_interval(row["area_under_curve"], ".2f"),
            with_interval(row["share_bad"], ".0f", 100),
            "-" if _caught(row) is None else f"{100 * _caught(row):.0f}",
            with_interval(row["share_lost"], ".1f", 100),
        ]
        for row in rows
    ]
    header = [
        "",
        "error (NRMSE, %)",
        "rank correlation of residual and error",
        "area under the curve",
        "bad answers (%)",
        "of these flagged (%)",
        "lost (%)",
    ]
    return table(header, lines)


if __name__ == "__main__":
    run_script("generalization", Config(), run, describe, drawing.draw)
