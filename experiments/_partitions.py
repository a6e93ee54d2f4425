"""From 2 to 16 partitions, from a soft to a hard competition: winners, all that are active, and the gain of contrast.

Where two partitions are active in a soft competition, the difference of their stimuli comes out multiplied by
`1 / (1 - a)`, with the self-excitation a. Stimuli that keep just two active tell whether one pass has that gain.
"""

from collections.abc import Iterator
from typing import Protocol

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from experiments._fit import fit_two_layer, solve_all
from experiments._script import table
from experiments._seeds import spread, with_interval
from rnn2ff.approximators import predict
from rnn2ff.data import SampleStimulus, key_for, sample_stimuli
from rnn2ff.networks import partition_competition, partition_means
from rnn2ff.training import accuracy, competition

_SPARE = 1.05  # times as many stimuli as are needed, as in a hard competition some may have no steady state
_INHIBITION = 1.5  # b c, with b at its default and c = 1


class Config(Protocol):
    """What is used of the settings of the experiment."""

    num_seeds: int
    stimulus_noise: float
    numbers_of_partitions: tuple[int, ...]
    self_excitations: tuple[float, ...]
    grid_units_per_partition: int
    num_grid_samples: int
    num_grid_test_samples: int
    num_grid_steps: int
    num_pairs: int


def run(config: Config, key: PRNGKeyArray) -> Iterator[dict]:
    """One row for each number of partitions and each self-excitation, with a value for each seed."""
    for num_partitions in config.numbers_of_partitions:
        for self_excitation in config.self_excitations:
            yield _measure(num_partitions, self_excitation, config, jr.fold_in(key, num_partitions))


def _measure(num_partitions: int, self_excitation: float, config: Config, key: PRNGKeyArray) -> dict:
    size = config.grid_units_per_partition
    network = partition_competition(num_partitions, size, inhibition=_INHIBITION, self_excitation=self_excitation)

    def sample(key: PRNGKeyArray) -> Array:
        """Noise of any deviation up to the largest, so that stimuli without any are known too."""
        drive_key, deviation_key, noise_key = jr.split(key, 3)
        drive = jnp.repeat(jr.uniform(drive_key, (num_partitions,)), size)
        deviation = jr.uniform(deviation_key, maxval=config.stimulus_noise)
        return drive + deviation * jr.normal(noise_key, drive.shape)

    is_soft, plan, results = self_excitation < 1, None, []
    sample_close = _two_active(num_partitions, self_excitation, size)
    num_kept, num_test = config.num_grid_samples, config.num_grid_test_samples
    for seed in range(config.num_seeds):
        seed_key = jr.fold_in(key, seed)
        stimuli = sample_stimuli(sample, int(_SPARE * (num_kept + num_test)), key=key_for(seed_key, "stimuli"))
        num_random = len(stimuli)
        if is_soft:
            close = sample_stimuli(sample_close, config.num_pairs, key=key_for(seed_key, "pairs"))
            stimuli = jnp.concatenate([stimuli, close])
        pairs, is_steady, plan = solve_all(network, stimuli, plan)
        steady = np.flatnonzero(is_steady[:num_random])
        test, two_active = steady[num_kept:], num_random + np.flatnonzero(is_steady[num_random:])
        approximator = fit_two_layer(
            network,
            pairs.take(steady[:num_kept]),
            4 * network.rate_size,
            num_steps=config.num_grid_steps,
            key=seed_key,
        )
        predicted_rates = predict(approximator, stimuli)
        predicted, target, drive = (
            np.asarray(partition_means(each, num_partitions, size)) for each in (predicted_rates, pairs.rates, stimuli)
        )
        judged = competition(predicted[test], target[test], drive[test])
        results.append(
            {
                "share_lost": 1 - is_steady.mean(),
                "nrmse": accuracy(predicted_rates[test], pairs.rates[test]).nrmse,
                "agreement": judged.agreement,
                "trivial_agreement": judged.trivial_agreement,
                "set_agreement": judged.set_agreement,
                "trivial_set_agreement": judged.trivial_set_agreement,
                "agreement_by_margin": judged.agreement_by_margin,
                "trivial_agreement_by_margin": judged.trivial_agreement_by_margin,
                "gain_recurrent": _gain(drive[two_active], target[two_active]) if is_soft else None,
                "gain_feedforward": _gain(drive[two_active], predicted[two_active]) if is_soft else None,
            }
        )
    return {
        "task": "partitions",
        "num_partitions": num_partitions,
        "self_excitation": self_excitation,
        **{name: [each[name] for each in results] for name in results[0]},
    }


def _two_active(num_partitions: int, self_excitation: float, size: int) -> SampleStimulus:
    """Stimuli without noise to two partitions, so close that both are active, and others too weak to be."""
    smallest = _INHIBITION / (1 - self_excitation + _INHIBITION)  # share of the larger stimulus

    def sample(key: PRNGKeyArray) -> Array:
        drive_key, share_key, rest_key, order_key = jr.split(key, 4)
        largest = jr.uniform(drive_key, minval=0.5, maxval=1.0)
        share = jr.uniform(share_key, minval=smallest, maxval=1.0)
        rest = jr.uniform(rest_key, (num_partitions - 2,), maxval=0.5)
        drive = largest * jnp.concatenate([jnp.stack([jnp.ones_like(share), share]), rest])
        return jnp.repeat(jr.permutation(order_key, drive), size)

    return sample


def _gain(drive: np.ndarray, rates: np.ndarray) -> float:
    """The slope of the difference of the two rates by that of the two largest stimuli, by least squares through 0."""
    order = np.argsort(drive, axis=1)[:, -2:]
    apart, response = (np.diff(np.take_along_axis(each, order, axis=1))[:, 0] for each in (drive, rates))
    return float(apart @ response / (apart @ apart))


def verdict(rows: list[dict]) -> str:
    """In how many settings one pass beats the trivial guess, the worst of all, and how much of the gain is found."""

    def better(name: str) -> int:
        return sum(spread(row[name]).mean > spread(row[f"trivial_{name}"]).mean for row in rows)

    def worst(name: str) -> float:
        return min(spread(row[name]).mean for row in rows)

    soft = [row for row in rows if row["self_excitation"] < 1]
    found = [spread(row["gain_feedforward"]).mean * (1 - row["self_excitation"]) for row in soft]
    partitions = sorted({row["num_partitions"] for row in rows})
    return (
        f"Trained more briefly on {partitions[0]} to {partitions[-1]} partitions, soft to hard, it has the winner "
        f"better than the trivial guess in {better('agreement')} of {len(rows)} settings and all active partitions in "
        f"{better('set_agreement')} (at worst {worst('agreement'):.0%} and {worst('set_agreement'):.0%} right), and "
        f"{min(found):.0%} to {max(found):.0%} of the gain of contrast."
    )


def describe(rows: list[dict]) -> str:
    """One line for each number of partitions and each self-excitation."""

    def percent(row: dict, name: str) -> str:
        return with_interval(row[name], scale=100)

    def gains(row: dict) -> tuple[str, ...]:
        if row["gain_recurrent"][0] is None:
            return "-", "-", "-"
        exact = 1 / (1 - row["self_excitation"])
        return (
            f"{exact:.2f}",
            with_interval(row["gain_recurrent"], ".2f"),
            with_interval(row["gain_feedforward"], ".2f"),
        )

    lines = [
        [
            f"{row['num_partitions']}, {row['self_excitation']:g}",
            percent(row, "nrmse"),
            f"{percent(row, 'agreement')} ({100 * spread(row['trivial_agreement']).mean:.1f})",
            f"{percent(row, 'set_agreement')} ({100 * spread(row['trivial_set_agreement']).mean:.1f})",
            *gains(row),
        ]
        for row in rows
    ]
    header = ["partitions, a", "NRMSE (%)", "same winner (trivial guess, %)", "same active ones (trivial guess, %)"]
    lost = max(max(row["share_lost"]) for row in rows)
    return (
        f"{table([*header, 'gain 1 / (1 - a)', 'recurrent', 'feed-forward'], lines)}\n\n"
        f"Means and 95 % intervals over {len(rows[0]['nrmse'])} seeds. "
        f"Stimuli without a steady state: at most {lost:.1%}."
    )
