"""Does one feed-forward pass reject the noise that a recurrent network rejects?

A ring with tuned stimuli, three rings in the relation A + B = C, and a competition in which the losers are noisy, are
driven with noise of any size up to a largest. A two-layer network is trained on the steady states. Asked is how much
noise is left in the rates of either network: the power of what differs from the response of the recurrent network to
the stimulus without noise, over the power of that response, in decibels, within the range that was trained on and
beyond. (The angle that a ring points to would not show it: the stimulus alone points to it as exactly.)
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from experiments._fit import fit_two_layer, solve_each
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


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; noise as its deviation in each channel, in units of the stimulus."""

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
    num_samples: int = 6_000
    num_test_samples: int = 250
    num_steps: int = 1_500

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
    """A network and the stimuli it is to clean."""

    network: RecurrentNetwork
    sample: Callable[[PRNGKeyArray], Clean]


def run(config: Config) -> Iterator[dict]:
    """One row a network and seed, with the noise that is left by the size of the noise."""
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

    return Task(relation_network(size), sample)


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
        training: with noise of any deviation up to the largest, one a row.
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
    approximator = fit_two_layer(
        task.network, pairs.take(slice(number)), 4 * task.network.rate_size, num_steps=config.num_steps, key=key
    )
    predicted = predict(approximator, stimuli)
    rates, guesses, tests = (
        np.asarray(each[number:]).reshape(*tests.shape[:2], -1) for each in (pairs.rates, predicted, stimuli)
    )
    judged = {
        name: [noise_rejection(test, tests[0], each, rates[0]) for test, each in zip(tests[1:], responses[1:])]
        for name, responses in (("recurrent", rates), ("feed-forward", guesses))
    }
    return {
        "noises": deviations[1:],
        "status_counts": pairs.status_counts,
        "nrmse": [accuracy(guess, each).nrmse for guess, each in zip(guesses[1:], rates[1:])],
        "noise_in": [each.noise_in for each in judged["recurrent"]],
        "noise_out": {name: [each.noise_out for each in found] for name, found in judged.items()},
        "floor": noise_rejection(tests[1], tests[0], guesses[0], rates[0]).noise_out,
    }, plan


def verdict(rows: list[dict]) -> str:
    """How much more noise the feed-forward network leaves, where there is any to speak of."""
    inside, beyond, faint = {}, {}, []
    for name in dict.fromkeys(row["task"] for row in rows):
        found = [row for row in rows if row["task"] == name]
        left = {each: np.mean([row["noise_out"][each] for row in found], axis=0) for each in drawing.NETWORKS}
        more = left["feed-forward"] - left["recurrent"]
        is_faint, is_trained = left["recurrent"] < _FAINT, drawing.is_trained(found[0])
        inside[name], beyond[name] = np.abs(more[is_trained & ~is_faint]), np.abs(more[~is_trained & ~is_faint])
        faint.extend(left["feed-forward"][is_faint])
    within = max(each.max(initial=0) for each in inside.values())
    each_within = ", ".join(f"{name} {values.max(initial=0):.1f}" for name, values in inside.items())
    text = (
        f"{'Holds' if within < _CLOSE else 'Does not hold'} within {within:.1f} dB of the noise that the recurrent "
        f"network leaves ({each_within}), and up to twice the largest noise of the training within "
        f"{max(each.max(initial=0) for each in beyond.values()):.1f} dB"
    )
    if faint:
        text += f"; where the recurrent network leaves less than {_FAINT} dB, one pass leaves up to {max(faint):.0f} dB"
    return text + "."


def describe(rows: list[dict]) -> str:
    """Noise left, in decibels, by network and noise."""
    lines = []
    for name in dict.fromkeys(row["task"] for row in rows):
        found = [row for row in rows if row["task"] == name]
        for i, (noise, is_trained) in enumerate(zip(found[0]["noises"], drawing.is_trained(found[0]))):
            mark = "" if is_trained else ", beyond training"
            lines.append(
                [
                    f"{name}, noise {noise:.3g}{mark}",
                    with_interval([row["noise_in"][i] for row in found]),
                    *(with_interval([row["noise_out"][each][i] for row in found]) for each in drawing.NETWORKS),
                    with_interval([row["nrmse"][i] for row in found], scale=100),
                ]
            )
        lines.append([f"{name}, no noise", "", "", with_interval([row["floor"] for row in found]), ""])
    header = ["", "noise in (dB)", "left by recurrent (dB)", "left by feed-forward (dB)", "error (NRMSE, %)"]
    return table(header, lines)


if __name__ == "__main__":
    run_script("noise_rejection", Config(), run, describe, drawing.draw)
