"""Do winners suppress losers in one feed-forward pass?

Partitions of excitatory units compete through shared inhibition. A two-layer network is trained on the steady states,
for random stimuli and for handwritten digits: each digit image is projected on ten class templates, and each projection
drives one of ten partitions. Asked is whether the feed-forward network has the winner that the recurrent one has.
"""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from experiments._script import run_script, table
from experiments.drawings import competition as drawing
from rnn2ff.approximators import predict
from rnn2ff.datasets import key_for
from rnn2ff.distillation import Distillation, distill
from rnn2ff.evaluation import competition
from rnn2ff.networks import RecurrentNetwork, partition_competition, partition_means
from rnn2ff.steady_state import Rollout, plan_steady_states, solve_steady_states
from rnn2ff.stimuli import SampleStimulus, sample_from
from rnn2ff.timing import Seconds, time_interleaved

CLAIM = "Winners suppress losers in one feed-forward pass."

_NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; sizes in units, stimuli and noise in units of the stimulus."""

    seed: int = 0
    num_partitions: int = 4
    units_per_partition: int = 8
    digit_units_per_partition: int = 4
    stimulus_noise: float = 0.3
    digit_noise: float = 0.1
    digit_jitter: float = 0.5
    num_samples: int = 40_000
    num_test_samples: int = 4_000
    num_steps: int = 20_000
    timed_batch_size: int = 256
    num_timing_rounds: int = 20
    num_planned: int = 512
    num_points: int = 1_500
    num_examples: int = 3

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self, num_samples=2_000, num_test_samples=300, num_steps=500, num_timing_rounds=2, num_points=300
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


def run(config: Config) -> list[dict]:
    """One row a task: random stimuli, and digits."""
    key = jr.key(config.seed)
    return [
        _run_task(task, config, key_for(key, task.name))
        for task in (_random_task(config), _digit_task(config, key_for(key, "digit noise")))
    ]


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
    training, test = order[: len(images) // 2], order[len(images) // 2 :]
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
    distillation = distill(
        task.network,
        task.sample_stimulus,
        test_stimuli=task.test_stimuli,
        num_samples=config.num_samples,
        num_test_samples=config.num_test_samples,
        num_steps=config.num_steps,
        key=key,
    )
    report, test = distillation.report, distillation.test
    predicted_rates = predict(distillation.approximator, test.stimuli)
    predicted, target, drive = (
        np.asarray(partition_means(each, task.num_partitions, task.units_per_partition))
        for each in (predicted_rates, test.rates, test.stimuli)
    )
    judged = competition(predicted, target, drive)
    steps, seconds = _time(task.network, distillation, config)
    points = np.random.default_rng(config.seed).permutation(test.rates.size)[: config.num_points]
    examples = _examples(drive, config.num_examples)
    return {
        "task": task.name,
        "units": task.network.state_size,
        "width": report.width,
        "nrmse": report.accuracy.nrmse,
        "worst_unit_nrmse": report.accuracy.unit_nrmse[report.accuracy.worst_unit],
        "competition": judged,
        "digit_accuracy": _digit_accuracy(task, test.stimuli.shape[0], drive, target, predicted),
        "status_counts": report.status_counts,
        "batch_size": config.timed_batch_size,
        "rollout_steps": {"median": float(np.median(steps)), "largest": int(steps.max())},
        "microseconds": {
            name: [1e6 * each / config.timed_batch_size for each in timed] for name, timed in seconds.items()
        },
        "speedup": {name: seconds[name].median / seconds["pass"].median for name in ("rollout", "solver")},
        "seconds": report.seconds,
        "points": {
            "steady": np.round(np.asarray(test.rates).ravel()[points], 4),
            "predicted": np.round(np.asarray(predicted_rates).ravel()[points], 4),
        },
        "examples": [
            {
                "drive": np.round(drive[i], 4),
                "recurrent": np.round(target[i], 4),
                "feed-forward": np.round(predicted[i], 4),
                "label": None if task.test_labels is None else int(task.test_labels[i]),
            }
            for i in examples
        ],
    }


def _digit_accuracy(task: Task, num_kept: int, drive, target, predicted) -> dict[str, float] | None:
    """Share of digits named right by the largest stimulus, the recurrent and the feed-forward winner."""
    if task.test_labels is None:
        return None
    if num_kept != len(task.test_labels):
        msg = f"{len(task.test_labels) - num_kept} test digits have no steady state, so the labels no longer fit."
        raise ValueError(msg)
    answers = {"argmax": drive, "recurrent": target, "feed-forward": predicted}
    return {name: float((each.argmax(axis=1) == task.test_labels).mean()) for name, each in answers.items()}


def _examples(drive: np.ndarray, num_examples: int) -> list[int]:
    """Samples from a close competition to a clear one: at even ranks of the margin."""
    two_largest = np.sort(drive, axis=1)[:, -2:]
    order = np.argsort(two_largest[:, 1] - two_largest[:, 0])
    return [int(order[int(rank * (len(order) - 1))]) for rank in np.linspace(0.1, 0.9, num_examples)]


def _time(
    network: RecurrentNetwork, distillation: Distillation, config: Config
) -> tuple[np.ndarray, dict[str, Seconds]]:
    """Steps of the rollouts, and seconds for a batch by a rollout, by our fastest solver, and by a pass, all compiled.

    The rollout is timed without a verdict, which would only add to it; the solver with verdicts, as a user calls it.
    """
    stimuli = distillation.test.stimuli[: config.timed_batch_size]
    if len(stimuli) < config.timed_batch_size:
        stimuli = jnp.tile(stimuli, (-(-config.timed_batch_size // len(stimuli)), 1))[: config.timed_batch_size]
    initial_state = jnp.zeros(network.state_size, network.dtype)
    tolerance = 1e-5

    @eqx.filter_jit
    def roll_out(network, stimuli):
        return jax.vmap(
            lambda stimulus: Rollout().search(network, stimulus, initial_state, tolerance=tolerance, max_steps=4096)
        )(stimuli)

    steps = np.asarray(roll_out(network, stimuli).num_steps)
    plan = plan_steady_states(network, distillation.test.stimuli[-config.num_planned :])
    seconds = time_interleaved(
        {
            "rollout": lambda: roll_out(network, stimuli).state,
            "solver": lambda: solve_steady_states(network, stimuli, solver=plan).state,
            "pass": lambda: predict(distillation.approximator, stimuli),
        },
        num_rounds=config.num_timing_rounds,
    )
    return steps, seconds


def verdict(rows: list[dict]) -> str:
    """How often the feed-forward network has the winner of the recurrent one."""
    agreement = [row["competition"]["agreement"] for row in rows]
    trivial = [row["competition"]["trivial_agreement"] for row in rows]
    shares = ", ".join(f"{a:.1%} ({row['task']}; trivial guess {t:.1%})" for row, a, t in zip(rows, agreement, trivial))
    return f"{'Holds' if min(agreement) > 0.95 else 'Does not hold'}: same winner on {shares}."


def describe(rows: list[dict]) -> str:
    """The table that the README shows."""
    header = ["", *(row["task"] for row in rows)]

    def row_of(name, form):
        return [name, *(form(row) for row in rows)]

    def percent(value):
        return "-" if value is None else f"{100 * value:.1f} %"

    def digit(name):
        return lambda row: percent(None if row["digit_accuracy"] is None else row["digit_accuracy"][name])

    lines = [
        row_of("recurrent units, hidden units", lambda row: f"{row['units']}, {row['width']}"),
        row_of("error of the rates (NRMSE)", lambda row: percent(row["nrmse"])),
        row_of("same winner as the recurrent network", lambda row: percent(row["competition"]["agreement"])),
        row_of(
            "... of the trivial guess, largest stimulus",
            lambda row: percent(row["competition"]["trivial_agreement"]),
        ),
        row_of("digits named right: largest stimulus", digit("argmax")),
        row_of("digits named right: recurrent", digit("recurrent")),
        row_of("digits named right: feed-forward", digit("feed-forward")),
        row_of("microseconds per rollout", lambda row: f"{row['microseconds']['rollout'][0]:.1f}"),
        row_of("microseconds per solve, our fastest", lambda row: f"{row['microseconds']['solver'][0]:.1f}"),
        row_of("microseconds per feed-forward pass", lambda row: f"{row['microseconds']['pass'][0]:.2f}"),
        row_of("the pass is faster than the rollout", lambda row: f"{row['speedup']['rollout']:.0f} x"),
        row_of("the pass is faster than our fastest solve", lambda row: f"{row['speedup']['solver']:.0f} x"),
        row_of(
            "samples without a steady state",
            lambda row: sum(sum(each.values()) - each["converged"] for each in row["status_counts"].values()),
        ),
    ]
    return table(header, lines)


if __name__ == "__main__":
    run_script("competition", Config(), run, describe, drawing.draw)
