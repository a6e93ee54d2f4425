"""Does one feed-forward pass reject the noise that a recurrent network rejects?

A ring with tuned stimuli, three rings in the relation A + B = C, and a competition in which the losers are noisy, are
driven with noise of any size up to a largest. Two layers, and few or no hidden units with sweeps at equal cost, are
trained on the steady states. The question is how much noise is left in the rates: the power of what differs from the
response of the recurrent network to the stimulus without noise, over the power of that response, in decibels, within
the range that was trained on and beyond. (The angle that a ring points to would not show it: the stimulus alone points
to it as exactly.)
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from experiments._fit import fit_both, solve_each, width_of_sweeps
from experiments._forms import FORMS
from experiments._script import run_script, table
from experiments._seeds import with_interval
from experiments.drawings import noise_rejection as drawing
from rnn2ff.approximators import predict
from rnn2ff.data import key_for
from rnn2ff.networks import (
    RecurrentNetwork,
    partition_competition,
    relation_network,
    relation_stimulus,
    ring_attractor,
    ring_stimulus,
)
from rnn2ff.steady_state import Plan
from rnn2ff.training import accuracy, noise_rejection

CLAIM = "One feed-forward pass rejects the noise that the recurrent network rejects."

_FAINT = -30  # dB: noise of a thousandth of the signal's power
_CLOSE = 3  # dB: a factor of two
_NUM_SWEEPS = 8  # for the relation, most of whose units are hidden


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; noise as its standard deviation in each channel, in units of the stimulus."""

    seed: int = 0
    num_seeds: int = 5
    tasks: tuple[str, ...] = ("ring", "relation", "competition")
    ring_units: int = 64
    relation_units: int = 12
    partitions: int = 4
    units_per_partition: int = 8
    largest_noises: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"ring": 0.5, "relation": 0.2, "competition": 0.5}
    )
    """In training; each stimulus has noise of a deviation between 0 and this."""
    noises: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    """In tests, as shares of the largest in training."""
    num_samples: int = 10_000
    num_test_samples: int = 250
    num_steps: int = 4_000

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            num_seeds=2,
            tasks=("ring", "competition"),
            ring_units=8,
            partitions=2,
            units_per_partition=4,
            noises=(0.5, 1.0),
            num_samples=160,
            num_test_samples=32,
            num_steps=100,
        )


class Clean(NamedTuple):
    """A stimulus without noise, and which of its channels noise may be added to."""

    stimulus: Array
    is_noisy: Array


class Task(NamedTuple):
    """A network, the stimuli it is to clean, and the hidden units of two layers, by default 4 for each rate."""

    network: RecurrentNetwork
    sample: Callable[[PRNGKeyArray], Clean]
    width: int | None = None


def run(config: Config) -> Iterator[dict]:
    """One row per network and seed, with the noise that is left for each size of the noise."""
    for name in config.tasks:
        task, plan = _TASKS[name](config), None
        draw = _drawing(task, config.largest_noises[name], config)
        for seed in range(config.num_seeds):
            key = jr.fold_in(key_for(jr.key(config.seed), name), seed)
            row, plan = _measure(task, draw, plan, config, key)
            yield {"task": name, "seed": seed, "trained_noise": config.largest_noises[name], **row}


def _ring(config: Config) -> Task:
    size = config.ring_units

    def sample(key: PRNGKeyArray) -> Clean:
        angle_key, contrast_key = jr.split(key)
        contrast = jr.uniform(contrast_key, minval=0.5, maxval=1.5)
        stimulus = ring_stimulus(jr.uniform(angle_key, maxval=2 * np.pi), size, contrast=contrast)
        return Clean(stimulus, jnp.ones(size))

    return Task(ring_attractor(size), sample)


def _relation(config: Config) -> Task:
    size = config.relation_units

    def sample(key: PRNGKeyArray) -> Clean:
        """Cues that agree; one ring left out, or none."""
        angle_key, missing_key = jr.split(key)
        first, second = jr.uniform(angle_key, (2,), maxval=2 * np.pi)
        bumps = relation_stimulus(first, second, first + second, size).reshape(3, size)
        is_missing = jnp.arange(3) == jr.randint(missing_key, (), 0, 4)
        return Clean(jnp.where(is_missing[:, None], 0, bumps).ravel(), jnp.ones(3 * size))

    network = relation_network(size)
    return Task(network, sample, width_of_sweeps(network, _NUM_SWEEPS))


def _competition(config: Config) -> Task:
    partitions, size = config.partitions, config.units_per_partition

    def sample(key: PRNGKeyArray) -> Clean:
        """A clear winner without noise; losers that would be silent without theirs."""
        winner_key, drive_key, share_key = jr.split(key, 3)
        is_winner = jnp.arange(partitions) == jr.randint(winner_key, (), 0, partitions)
        drive = jr.uniform(drive_key, minval=0.5, maxval=1.5)
        share = jnp.where(is_winner, 1, jr.uniform(share_key, (partitions,), maxval=0.6))
        return Clean(jnp.repeat(drive * share, size), jnp.repeat(jnp.where(is_winner, 0.0, 1.0), size))

    return Task(partition_competition(partitions, size), sample)


_TASKS = {"ring": _ring, "relation": _relation, "competition": _competition}


class Drawn(NamedTuple):
    """Stimuli.

    Attributes:
        training: with noise of any deviation up to the largest, one per row.
        tests: the same stimuli and the same noise at each deviation, shape (deviation, sample, channel).
        deviations: the first is zero.
    """

    training: Array
    tests: Array
    deviations: Array


def _drawing(task: Task, largest: float, config: Config) -> Callable[[PRNGKeyArray], Drawn]:
    def noisy(key: PRNGKeyArray, deviation: Array) -> Array:
        clean_key, noise_key = jr.split(key)
        clean = task.sample(clean_key)
        return clean.stimulus + deviation * clean.is_noisy * jr.normal(noise_key, clean.stimulus.shape)

    shares = jnp.asarray((0.0, *config.noises))

    @jax.jit
    def draw(key: PRNGKeyArray) -> Drawn:
        noise_key, training_key, test_key = jr.split(key, 3)
        trained = jr.uniform(noise_key, (config.num_samples,), maxval=largest)
        deviations = jnp.concatenate([trained, jnp.repeat(largest * shares, config.num_test_samples)])
        test_keys = jr.split(test_key, config.num_test_samples)
        keys = jnp.concatenate([jr.split(training_key, config.num_samples), jnp.tile(test_keys, len(shares))])
        stimuli = jax.vmap(noisy)(keys, deviations)
        training, tests = jnp.split(stimuli, [config.num_samples])
        return Drawn(training, tests.reshape(len(shares), config.num_test_samples, -1), largest * shares)

    return draw


def _measure(
    task: Task,
    draw: Callable[[PRNGKeyArray], Drawn],
    plan: Plan | None,
    config: Config,
    key: PRNGKeyArray,
) -> tuple[dict, Plan]:
    training, tests, deviations = draw(key_for(key, "stimuli"))
    stimuli = jnp.concatenate([training, *tests])
    pairs, plan = solve_each(task.network, stimuli, plan)
    number = config.num_samples
    fitted = fit_both(task.network, pairs.take(slice(number)), task.width, num_steps=config.num_steps, key=key)
    responses = {"recurrent": pairs.rates} | {
        form: predict(approximator, stimuli) for form, approximator in fitted.items()
    }
    tests, *reshaped = (
        np.asarray(array[number:]).reshape(*tests.shape[:2], -1) for array in (stimuli, *responses.values())
    )
    responses = dict(zip(responses, reshaped))
    rates = responses["recurrent"]
    judged = {
        name: [
            noise_rejection(test, tests[0], noisy_rates, rates[0]) for test, noisy_rates in zip(tests[1:], response[1:])
        ]
        for name, response in responses.items()
    }
    return {
        "noises": deviations[1:],
        "status_counts": pairs.status_counts,
        "num_products": {form: approximator.num_products for form, approximator in fitted.items()},
        "nrmse": {form: [accuracy(*pair).nrmse for pair in zip(responses[form][1:], rates[1:])] for form in FORMS},
        "noise_in": [result.noise_in for result in judged["recurrent"]],
        "noise_out": {name: [result.noise_out for result in results] for name, results in judged.items()},
        "floor": {form: noise_rejection(tests[1], tests[0], responses[form][0], rates[0]).noise_out for form in FORMS},
    }, plan


def verdict(rows: list[dict]) -> str:
    """How much more noise each form leaves, where the noise is not negligible."""

    def say(form: str) -> tuple[float, str]:
        inside, beyond, faint = {}, [], []
        for name in dict.fromkeys(row["task"] for row in rows):
            chosen = [row for row in rows if row["task"] == name]
            recurrent, left = (
                np.mean([row["noise_out"][network] for row in chosen], 0) for network in ("recurrent", form)
            )
            more, is_faint, is_trained = np.abs(left - recurrent), recurrent < _FAINT, drawing.is_trained(chosen[0])
            inside[name] = more[is_trained & ~is_faint].max(initial=0)
            beyond.extend(more[~is_trained & ~is_faint])
            faint.extend(left[is_faint])
        text = f"within {decibels(max(inside.values()))} ({decibels(max(beyond, default=0))} at up to twice that noise"
        text += f"; at most {max(faint):.0f} dB where the network leaves less than {_FAINT} dB" if faint else ""
        return max(inside.values()), f"{text})"

    def decibels(difference: float) -> str:
        return f"{max(difference, 0.1):.1f} dB"

    (most, two_layers), (most_swept, with_sweeps) = (say(form) for form in FORMS)
    word = "Holds" if most < _CLOSE else "Holds with sweeps" if most_swept < _CLOSE else "Does not hold"
    return (
        f"{word}: up to the largest noise of the training, two layers leave the noise that the recurrent network "
        f"leaves {two_layers}; with sweeps at equal cost {with_sweeps}."
    )


def describe(rows: list[dict]) -> str:
    """Noise left, in decibels, by network and noise."""
    lines = []
    for name in dict.fromkeys(row["task"] for row in rows):
        chosen = [row for row in rows if row["task"] == name]
        for i, (noise, is_trained) in enumerate(zip(chosen[0]["noises"], drawing.is_trained(chosen[0]))):
            mark = "" if is_trained else ", beyond training"
            lines.append(
                [
                    f"{name}, noise {noise:.3g}{mark}",
                    with_interval([row["noise_in"][i] for row in chosen]),
                    *(
                        with_interval([row["noise_out"][network][i] for row in chosen])
                        for network in ("recurrent", *FORMS)
                    ),
                    *(with_interval([row["nrmse"][form][i] for row in chosen], scale=100) for form in FORMS),
                ]
            )
        floors = [with_interval([row["floor"][form] for row in chosen]) for form in FORMS]
        lines.append([f"{name}, no noise", "", "", *floors, "", ""])
    header = ["", "noise in (dB)", "left by recurrent (dB)", "two layers", "with sweeps"]
    return table([*header, "error (%): two layers", "with sweeps"], lines)


if __name__ == "__main__":
    run_script("noise_rejection", Config(), run, describe, drawing.draw)
