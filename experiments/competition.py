"""Do winners suppress losers in one feed-forward pass?

Partitions of excitatory units compete through shared inhibition. A two-layer network is trained on the steady states,
for random stimuli and for handwritten digits: each digit image is projected on ten class templates, and each projection
drives one of ten partitions. Asked is whether the feed-forward network has the winner that the recurrent one has. For 2
to 16 partitions, from a soft to a hard competition, `experiments._partitions` asks as well whether all of the active
partitions are the same, and whether close stimuli are driven apart as they are in the recurrent network.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from experiments import _partitions
from experiments._fit import fit_two_layer, solve_each
from experiments._script import run_script, table
from experiments._seeds import spread, with_interval
from experiments.drawings import competition as drawing
from rnn2ff.approximators import TwoLayer, predict
from rnn2ff.data import Pairs, SampleStimulus, key_for, sample_from, sample_stimuli
from rnn2ff.networks import RecurrentNetwork, partition_competition, partition_means
from rnn2ff.steady_state import Candidate, Plan, Rollout, solve_steady_states
from rnn2ff.timing import Seconds, time_interleaved
from rnn2ff.training import accuracy, competition

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
    numbers_of_partitions: tuple[int, ...] = (2, 4, 8, 16)
    self_excitations: tuple[float, ...] = (0.7, 0.9, 1.1, 1.3)
    grid_units_per_partition: int = 4
    num_grid_samples: int = 3_000
    num_grid_test_samples: int = 500
    num_grid_steps: int = 800
    num_pairs: int = 200
    """Stimuli that keep two partitions active."""

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
            numbers_of_partitions=(10,),
            self_excitations=(0.7, 1.3),
            num_grid_samples=300,
            num_grid_test_samples=50,
            num_grid_steps=100,
            num_pairs=50,
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
    """A row for random stimuli, one for digits, then one for each number of partitions and each self-excitation."""
    key = jr.key(config.seed)
    for task in (_random_task(config), _digit_task(config, key_for(key, "digit noise"))):
        yield _run_task(task, config, key_for(key, task.name))
    yield from _partitions.run(config, key_for(key, "partitions"))


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
    templates = np.stack([images[training][labels[training] == each].mean(axis=0) for each in range(_NUM_CLASSES)])
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
    width = 4 * task.network.rate_size
    for seed in range(config.num_seeds):
        seed_key = jr.fold_in(key, seed)
        training = sample_stimuli(task.sample_stimulus, config.num_samples, key=key_for(seed_key, "training"))
        test = task.test_stimuli
        if test is None:
            test = sample_stimuli(task.sample_stimulus, config.num_test_samples, key=key_for(seed_key, "test"))
        # All at once, so that a plan is made once and each shape is compiled once.
        pairs, plan = solve_each(task.network, jnp.concatenate([training, test]), plan)
        pairs, tested = pairs.take(slice(len(training))), pairs.take(slice(len(training), None))
        approximator = fit_two_layer(task.network, pairs, width, num_steps=config.num_steps, key=seed_key)
        results.append(_judge(task, approximator, tested))
        first = first or _Trained(approximator, tested, plan)
    return {
        "task": task.name,
        "units": task.network.state_size,
        "width": width,
        **{name: [each[name] for each in results] for name in results[0]},
        **_shown(task, first, config),
    }


class _Trained(NamedTuple):
    """The approximator of the first seed, which is timed and shown."""

    approximator: TwoLayer
    test: Pairs
    plan: Plan


def _means(task: Task, *activities: Array) -> Iterator[np.ndarray]:
    """Of the partitions."""
    return (np.asarray(partition_means(each, task.num_partitions, task.units_per_partition)) for each in activities)


def _judge(task: Task, approximator: TwoLayer, test: Pairs) -> dict:
    predicted_rates = predict(approximator, test.stimuli)
    predicted, target, drive = _means(task, predicted_rates, test.rates, test.stimuli)
    judged = accuracy(predicted_rates, test.rates)
    return {
        "nrmse": judged.nrmse,
        "worst_unit_nrmse": judged.unit_nrmse[judged.worst_unit],
        "competition": competition(predicted, target, drive),
        "digit_accuracy": _digit_accuracy(task, drive, target, predicted),
        "status_counts": test.status_counts,
    }


def _shown(task: Task, first: _Trained, config: Config) -> dict:
    steps, seconds = _time(task.network, first, config)
    rates = predict(first.approximator, first.test.stimuli)
    predicted, target, drive = _means(task, rates, first.test.rates, first.test.stimuli)
    points = np.random.default_rng(config.seed).permutation(rates.size)[: config.num_points]
    close = _close_sample(drive)
    return {
        "batch_size": config.timed_batch_size,
        "rollout_steps": {"median": float(np.median(steps)), "largest": int(steps.max())},
        "microseconds": {
            name: [1e6 * each / config.timed_batch_size for each in timed] for name, timed in seconds.items()
        },
        "speedup": {name: seconds[name].median / seconds["pass"].median for name in ("rollout", "solver")},
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
    return {name: float((each.argmax(axis=1) == task.test_labels).mean()) for name, each in answers.items()}


def _close_sample(drive: np.ndarray) -> int:
    """One with a close competition: of all margins, a tenth are smaller."""
    two_largest = np.sort(drive, axis=1)[:, -2:]
    return int(np.argsort(two_largest[:, 1] - two_largest[:, 0])[len(drive) // 10])


def _time(network: RecurrentNetwork, first: _Trained, config: Config) -> tuple[np.ndarray, dict[str, Seconds]]:
    """Steps of the rollouts, and seconds for a batch by a rollout, by our fastest solver, and by a pass, all compiled.

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
            "pass": lambda: predict(first.approximator, stimuli),
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
    tasks, grid = rows[:2], rows[2:]

    def share(row: dict, name: str) -> float:
        return spread(row[name] if name in row else [each[name] for each in row["competition"]]).mean

    shares = ", ".join(
        f"{share(row, 'agreement'):.1%} ({row['task']}; trivial guess {share(row, 'trivial_agreement'):.1%})"
        for row in tasks
    )
    is_better = [share(row, "agreement") > share(row, "trivial_agreement") for row in rows]
    word = "Holds" if all(is_better) else "Holds in part" if any(is_better) else "Does not hold"
    return f"{word}: same winner on {shares}. {_partitions.verdict(grid)}"


def describe(rows: list[dict]) -> str:
    """The tables that the README shows."""
    tasks, grid = rows[:2], rows[2:]
    header = ["", *(row["task"] for row in tasks)]

    def row_of(name, form):
        return [name, *(form(row) for row in tasks)]

    def percent(values):
        return "-" if values[0] is None else with_interval(values, scale=100) + " %"

    def judged(name):
        return lambda row: percent([each[name] for each in row["competition"]])

    def digit(name):
        return lambda row: percent([None if each is None else each[name] for each in row["digit_accuracy"]])

    lines = [
        row_of("recurrent units, hidden units", lambda row: f"{row['units']}, {row['width']}"),
        row_of("error of the rates (NRMSE)", lambda row: percent(row["nrmse"])),
        row_of("same winner as the recurrent network", judged("agreement")),
        row_of("... of the trivial guess, largest stimulus", judged("trivial_agreement")),
        row_of("same active partitions, all of them", judged("set_agreement")),
        row_of("... of the largest stimulus alone", judged("trivial_set_agreement")),
        row_of("digits named right: largest stimulus", digit("argmax")),
        row_of("digits named right: recurrent", digit("recurrent")),
        row_of("digits named right: feed-forward", digit("feed-forward")),
        row_of("microseconds per rollout", lambda row: f"{row['microseconds']['rollout'][0]:.1f}"),
        row_of("microseconds per solve, our fastest", lambda row: f"{row['microseconds']['solver'][0]:.1f}"),
        row_of("microseconds per feed-forward pass", lambda row: f"{row['microseconds']['pass'][0]:.2f}"),
        row_of("the pass is faster than the rollout", lambda row: f"{row['speedup']['rollout']:.0f} x"),
        row_of("the pass is faster than our fastest solve", lambda row: f"{row['speedup']['solver']:.0f} x"),
    ]
    return f"{table(header, lines)}\n\n{_partitions.describe(grid)}"


if __name__ == "__main__":
    run_script("competition", Config(), run, describe, drawing.draw)
