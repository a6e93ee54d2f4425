"""Do winners suppress losers in one feed-forward pass?

Partitions of excitatory units compete through shared inhibition. A two-layer network is trained on the steady states,
for random stimuli and for handwritten digits: each digit image is projected on ten class templates, and each projection
drives one of ten partitions. The question is whether the feed-forward network has the winner of the recurrent one, with
two layers alone, and with few or no hidden units and sweeps at equal cost. `experiments.partitions` goes from 2 to 16
partitions, and from soft to hard.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from experiments._errors import errors_of
from experiments._fit import fit_both, solve_each
from experiments._forms import FORMS, TWO_LAYERS, WITH_SWEEPS
from experiments._script import run_script, table
from experiments._seeds import spread, with_interval
from experiments.drawings import competition as drawing
from rnn2ff.approximators import Approximator, predict
from rnn2ff.data import Pairs, SampleStimulus, key_for, sample_from, sample_stimuli
from rnn2ff.networks import RecurrentNetwork, partition_competition, partition_means
from rnn2ff.records import Seconds, time_interleaved
from rnn2ff.steady_state import Candidate, Plan, Rollout, solve_steady_states
from rnn2ff.training import competition

CLAIM = "Winners suppress losers in one feed-forward pass."

_NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; sizes in units, stimuli and noise in units of the stimulus."""

    seed: int = 0
    num_seeds: int = 5
    num_partitions: int = 4
    units_per_partition: int = 8
    digit_units_per_partition: int = 4
    stimulus_noise: float = 0.3
    digit_noise: float = 0.1
    digit_jitter: float = 0.5
    num_samples: int = 15_000
    num_test_samples: int = 2_000
    num_steps: int = 6_000
    timed_batch_size: int = 256
    num_timing_rounds: int = 20
    num_points: int = 1_500

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            num_seeds=2,
            num_partitions=10,  # as many as digits, and all else as for them: compiled once for all
            units_per_partition=4,
            num_samples=300,
            num_test_samples=100,
            num_steps=100,
            num_timing_rounds=2,
            num_points=300,
        )


class Task(NamedTuple):
    """A competition and the stimuli it faces."""

    name: str
    network: RecurrentNetwork
    sample_stimulus: SampleStimulus
    test_stimuli: Array | None
    test_labels: np.ndarray | None
    num_partitions: int
    units_per_partition: int


def run(config: Config) -> Iterator[dict]:
    """A row for random stimuli, and one for digits."""
    key = jr.key(config.seed)
    for task in (_random_task(config), _digit_task(config, key_for(key, "digit noise"))):
        yield _run_task(task, config, key_for(key, task.name))


def _random_task(config: Config) -> Task:
    num_partitions, num_units = config.num_partitions, config.units_per_partition

    def sample(key):
        drive_key, noise_key = jr.split(key)
        drive = jnp.repeat(jr.uniform(drive_key, (num_partitions,)), num_units)
        return drive + config.stimulus_noise * jr.normal(noise_key, drive.shape)

    network = partition_competition(num_partitions, num_units)
    return Task("random stimuli", network, sample, None, None, num_partitions, num_units)


def _digit_task(config: Config, key: Array) -> Task:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(config.seed).permutation(len(images))
    training, test = order[: len(images) // 2], order[len(images) // 2 :][: config.num_test_samples]
    mean = images[training].mean(axis=0)
    templates = np.stack([images[training][labels[training] == label].mean(axis=0) for label in range(_NUM_CLASSES)])
    templates = (templates - mean) / np.linalg.norm(templates - mean, axis=1, keepdims=True)
    centered = images - mean
    match = np.maximum(centered @ templates.T / np.linalg.norm(centered, axis=1, keepdims=True), 0)  # correlation
    num_units = config.digit_units_per_partition

    def add_noise(drive, key):
        drive = jnp.repeat(drive, num_units, axis=-1)
        return drive + config.digit_noise * jr.normal(key, drive.shape)

    draw = sample_from(jnp.asarray(match[training], float), jitter=config.digit_jitter)

    def sample(key):
        drive_key, noise_key = jr.split(key)
        return add_noise(draw(drive_key), noise_key)

    network = partition_competition(_NUM_CLASSES, num_units)
    test_stimuli = add_noise(jnp.asarray(match[test], float), key)
    return Task("digits", network, sample, test_stimuli, labels[test], _NUM_CLASSES, num_units)


def _run_task(task: Task, config: Config, key: Array) -> dict:
    plan, results, first = None, [], None
    for seed in range(config.num_seeds):
        seed_key = jr.fold_in(key, seed)
        training = sample_stimuli(task.sample_stimulus, config.num_samples, key=key_for(seed_key, "training"))
        test = task.test_stimuli
        if test is None:
            test = sample_stimuli(task.sample_stimulus, config.num_test_samples, key=key_for(seed_key, "test"))
        # All at once, so that a plan is made once and each shape is compiled once.
        pairs, plan = solve_each(task.network, jnp.concatenate([training, test]), plan)
        pairs, tested = pairs.take(slice(len(training))), pairs.take(slice(len(training), None))
        training = {"num_steps": config.num_steps, "sample_stimulus": task.sample_stimulus, "key": seed_key}
        fitted = fit_both(task.network, pairs, **training)
        results.append({name: _judge(task, approximator, tested) for name, approximator in fitted.items()})
        first = first or _Trained(fitted, tested, plan)
    return {
        "task": task.name,
        "units": task.network.state_size,
        **{
            form: {name: [result[form][name] for result in results] for name in values}
            for form, values in results[0].items()
        },
        **_shown(task, first, config),
    }


class _Trained(NamedTuple):
    """The approximators of the first seed, which are timed, and of which the two layers are shown."""

    fitted: dict[str, Approximator]
    test: Pairs
    plan: Plan


def _means(task: Task, *activities: Array) -> Iterator[np.ndarray]:
    """The mean activities of the partitions."""
    return (
        np.asarray(partition_means(activity, task.num_partitions, task.units_per_partition)) for activity in activities
    )


def _judge(task: Task, approximator: Approximator, test: Pairs) -> dict:
    predicted_rates = predict(approximator, test.stimuli)
    predicted, target, drive = _means(task, predicted_rates, test.rates, test.stimuli)
    return {
        "width": approximator.width,
        "num_sweeps": getattr(approximator, "num_sweeps", 0),
        "num_products": approximator.num_products,
        **errors_of(predicted_rates, test.rates),
        "competition": competition(predicted, target, drive),
        "digit_accuracy": _digit_accuracy(task, drive, target, predicted),
        "status_counts": test.status_counts,
    }


def _shown(task: Task, first: _Trained, config: Config) -> dict:
    steps, seconds = _time(task.network, first, config)
    rates = predict(first.fitted[TWO_LAYERS], first.test.stimuli)
    predicted, target, drive = _means(task, rates, first.test.rates, first.test.stimuli)
    points = np.random.default_rng(config.seed).permutation(rates.size)[: config.num_points]
    close = _close_sample(drive)
    return {
        "batch_size": config.timed_batch_size,
        "rollout_steps": {"median": float(np.median(steps)), "largest": int(steps.max())},
        "microseconds": {
            name: [1e6 * quartile / config.timed_batch_size for quartile in timed] for name, timed in seconds.items()
        },
        "points": {
            "steady": np.round(np.asarray(first.test.rates).ravel()[points], 4),
            "predicted": np.round(np.asarray(rates).ravel()[points], 4),
        },
        "example": {
            "drive": np.round(drive[close], 4),
            "recurrent": np.round(target[close], 4),
            "feed-forward": np.round(predicted[close], 4),
            "label": None if task.test_labels is None else int(task.test_labels[close]),
        },
    }


def _digit_accuracy(task: Task, drive, target, predicted) -> dict[str, float] | None:
    """Share of digits named right by the largest stimulus, the recurrent and the feed-forward winner."""
    if task.test_labels is None:
        return None
    answers = {"argmax": drive, "recurrent": target, "feed-forward": predicted}
    return {name: float((activity.argmax(axis=1) == task.test_labels).mean()) for name, activity in answers.items()}


def _close_sample(drive: np.ndarray) -> int:
    """The index of a sample with a close competition: a tenth of all margins are smaller."""
    two_largest = np.sort(drive, axis=1)[:, -2:]
    return int(np.argsort(two_largest[:, 1] - two_largest[:, 0])[len(drive) // 10])


def _time(network: RecurrentNetwork, first: _Trained, config: Config) -> tuple[np.ndarray, dict[str, Seconds]]:
    """Steps of the rollouts, and seconds for a batch by a rollout, by the fastest solver, and by a pass, all compiled.

    The rollout is timed without a verdict, which would only add to it; the solver with verdicts, as a user calls it.
    """
    stimuli = first.test.stimuli[: config.timed_batch_size]
    if len(stimuli) < config.timed_batch_size:
        stimuli = jnp.tile(stimuli, (-(-config.timed_batch_size // len(stimuli)), 1))[: config.timed_batch_size]
    steps = np.asarray(_roll_out(network, stimuli).num_steps)
    seconds = time_interleaved(
        {
            "rollout": lambda: _roll_out(network, stimuli).state,
            "solver": lambda: solve_steady_states(network, stimuli, solver=first.plan).state,
            **{name: functools.partial(predict, approximator, stimuli) for name, approximator in first.fitted.items()},
        },
        num_rounds=config.num_timing_rounds,
    )
    return steps, seconds


@eqx.filter_jit
def _roll_out(network: RecurrentNetwork, stimuli: Array) -> Candidate:
    initial_state = jnp.zeros(network.state_size, network.dtype)
    return jax.vmap(
        lambda stimulus: Rollout().search(network, stimulus, initial_state, tolerance=1e-5, max_steps=4096)
    )(stimuli)


def verdict(rows: list[dict]) -> str:
    """How often the feed-forward network has the winner of the recurrent one, which it should more than by a guess."""

    def share(row: dict, form: str, name: str) -> float:
        return spread([result[name] for result in row[form]["competition"]]).mean

    def shares(form: str) -> str:
        return " and ".join(f"{share(row, form, 'agreement'):.1%} of the {row['task']}" for row in rows)

    def holds(form: str) -> bool:
        return all(share(row, form, "agreement") > share(row, form, "trivial_agreement") for row in rows)

    word = "Holds" if holds(TWO_LAYERS) else "Holds with sweeps" if holds(WITH_SWEEPS) else "Holds in part"
    guess = " and ".join(f"{share(row, TWO_LAYERS, 'trivial_agreement'):.1%}" for row in rows)
    return (
        f"{word}: two layers have the winner on {shares(TWO_LAYERS)}, with sweeps at equal cost on "
        f"{shares(WITH_SWEEPS)}, where the largest stimulus has it on {guess}."
    )


def describe(rows: list[dict]) -> str:
    """The tables that the README shows."""
    header = ["", *(f"{row['task']}: {form}" for row in rows for form in FORMS)]

    def row_of(name, write):
        return [name, *(write(row[form]) for row in rows for form in FORMS)]

    def timed(name, write):
        return [name, *(write(row, form) for row in rows for form in FORMS)]

    def percent(values):
        return "-" if values[0] is None else with_interval(values, scale=100, largest=100) + " %"

    def judged(name):
        return lambda row: percent([result[name] for result in row["competition"]])

    def digit(name):
        return lambda row: percent([None if shares is None else shares[name] for shares in row["digit_accuracy"]])

    lines = [
        timed("recurrent units", lambda row, _: f"{row['units']}"),
        row_of("hidden units, sweeps", lambda row: f"{row['width'][0]}, {row['num_sweeps'][0]}"),
        row_of("products", lambda row: f"{row['num_products'][0]}"),
        row_of("error of the rates (NRMSE)", lambda row: percent(row["nrmse"])),
        row_of("... of the worst unit", lambda row: percent(row["worst_unit_nrmse"])),
        row_of("one stimulus in 20 is off by", lambda row: percent(row["percentile_95"])),
        row_of("same winner as the recurrent network", judged("agreement")),
        row_of("... of the trivial guess, largest stimulus", judged("trivial_agreement")),
        row_of("same active partitions, all of them", judged("set_agreement")),
        row_of("... of the largest stimulus alone", judged("trivial_set_agreement")),
        row_of("digits named right: largest stimulus", digit("argmax")),
        row_of("digits named right: recurrent", digit("recurrent")),
        row_of("digits named right: feed-forward", digit("feed-forward")),
        timed("microseconds per rollout", lambda row, _: f"{row['microseconds']['rollout'][0]:.1f}"),
        timed("microseconds per solve, our fastest", lambda row, _: f"{row['microseconds']['solver'][0]:.1f}"),
        timed("microseconds per feed-forward pass", lambda row, form: f"{row['microseconds'][form][0]:.2f}"),
    ]
    return table(header, lines)


if __name__ == "__main__":
    run_script("competition", Config(), run, describe, drawing.draw)
