"""Do winners suppress losers among 2 to 16 partitions, from a soft to a hard competition?

The question is whether a pass has the winner and all active partitions of the recurrent network, more often than the
trivial guess that the largest stimulus wins alone, and whether it has the gain of contrast: where two partitions are
active in a soft competition, the difference of their stimuli is multiplied by `1 / (1 - a)`, with the self-excitation
a. This gain is measured with stimuli that keep just two partitions active, for two layers of 4 N hidden units, and for
few or no hidden units with sweeps at equal cost.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from experiments._errors import errors_of
from experiments._executors import Compute, serially
from experiments._fit import fit_both, solve_all
from experiments._forms import FORMS, TWO_LAYERS, WITH_SWEEPS
from experiments._script import run_script, table
from experiments._seeds import spread, with_interval
from experiments.drawings import partitions as drawing
from rnn2ff.approximators import predict
from rnn2ff.data import SampleStimulus, key_for, sample_stimuli
from rnn2ff.networks import partition_competition, partition_means
from rnn2ff.training import competition

CLAIM = "Winners suppress losers among up to 16 partitions, from soft to hard competitions."

_SPARE = 1.05  # times as many stimuli as are needed, as in a hard competition some may have no steady state
_INHIBITION = 1.5  # b c, with b at its default and c = 1


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; sizes in units, stimuli and noise in units of the stimulus."""

    seed: int = 0
    num_seeds: int = 3
    numbers_of_partitions: tuple[int, ...] = (2, 4, 8, 16)
    self_excitations: tuple[float, ...] = (0.7, 0.9, 1.1, 1.3)
    units_per_partition: int = 4
    stimulus_noise: float = 0.3
    num_samples: int = 20_000
    num_test_samples: int = 2_000
    num_steps: int = 40_000
    """Optimizer steps: eight times those of `distill`, as 8 partitions and more still gain from them."""
    num_pairs: int = 400
    """Stimuli that keep two partitions active."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            num_seeds=2,
            numbers_of_partitions=(3,),
            self_excitations=(0.7, 1.3),
            num_samples=300,
            num_test_samples=50,
            num_steps=50,
            num_pairs=50,
        )


def run(config: Config, compute: Compute = serially) -> Iterator[dict]:
    """One row for each number of partitions and each self-excitation, with a value for each seed."""
    cases = itertools.product(config.numbers_of_partitions, config.self_excitations)
    return compute(functools.partial(_measure, *case, config) for case in cases)


def _measure(num_partitions: int, self_excitation: float, config: Config) -> dict:
    key, size = jr.fold_in(jr.key(config.seed), num_partitions), config.units_per_partition
    network = partition_competition(num_partitions, size, inhibition=_INHIBITION, self_excitation=self_excitation)

    def sample(key: PRNGKeyArray) -> Array:
        """Noise of any deviation up to the largest, so that stimuli without noise are covered as well."""
        drive_key, deviation_key, noise_key = jr.split(key, 3)
        drive = jnp.repeat(jr.uniform(drive_key, (num_partitions,)), size)
        deviation = jr.uniform(deviation_key, maxval=config.stimulus_noise)
        return drive + deviation * jr.normal(noise_key, drive.shape)

    is_soft, plan, results = self_excitation < 1, None, []
    sample_close = _two_active(num_partitions, self_excitation, size)
    num_kept, num_test = config.num_samples, config.num_test_samples
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
        training = {"num_steps": config.num_steps, "sample_stimulus": sample, "key": seed_key}
        fitted = fit_both(network, pairs.take(steady[:num_kept]), **training)
        drive, target = (
            np.asarray(partition_means(activity, num_partitions, size)) for activity in (stimuli, pairs.rates)
        )
        result = {
            "share_lost": 1 - is_steady.mean(),
            "gain_recurrent": _gain(drive[two_active], target[two_active]) if is_soft else None,
        }
        for form, approximator in fitted.items():
            rates = predict(approximator, stimuli)
            predicted = np.asarray(partition_means(rates, num_partitions, size))
            judged = competition(predicted[test], target[test], drive[test])
            result |= {"trivial_agreement": judged.trivial_agreement}
            result |= {"trivial_set_agreement": judged.trivial_set_agreement}
            result[form] = {
                "num_products": approximator.num_products,
                **errors_of(rates[test], pairs.rates[test]),
                "agreement": judged.agreement,
                "set_agreement": judged.set_agreement,
                "gain": _gain(drive[two_active], predicted[two_active]) if is_soft else None,
            }
        results.append(result)

    def over_seeds(values: list) -> object:
        if isinstance(values[0], dict):
            return {name: over_seeds([value[name] for value in values]) for name in values[0]}
        return values

    return {
        "num_partitions": num_partitions,
        "self_excitation": self_excitation,
        "num_units": network.state_size,
        **over_seeds(results),
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
    apart, response = (np.diff(np.take_along_axis(activity, order, axis=1))[:, 0] for activity in (drive, rates))
    return float(apart @ response / (apart @ apart))


def verdict(rows: list[dict]) -> str:
    """In how many settings each form beats the trivial guess, the worst of all, and how much of the gain is found."""
    soft = [row for row in rows if row["self_excitation"] < 1]

    def say(form: str) -> str:
        def better(name: str) -> int:
            return sum(spread(row[form][name]).mean >= spread(row[f"trivial_{name}"]).mean for row in rows)

        def worst(name: str) -> float:
            return min(spread(row[form][name]).mean for row in rows)

        gains = [spread(row[form]["gain"]).mean * (1 - row["self_excitation"]) for row in soft]
        return (
            f"the winner in {better('agreement')} of {len(rows)} settings (at worst {worst('agreement'):.1%} right), "
            f"all active partitions in {better('set_agreement')} ({worst('set_agreement'):.0%}), and {min(gains):.0%} "
            f"to {max(gains):.0%} of the gain of contrast"
        )

    def holds(form: str) -> bool:
        return all(spread(row[form]["agreement"]).mean >= spread(row["trivial_agreement"]).mean for row in rows)

    word = "Holds" if holds(TWO_LAYERS) else "Holds with sweeps" if holds(WITH_SWEEPS) else "Holds in part"
    return (
        f"{word}: at least as often as the largest stimulus alone, two layers have {say(TWO_LAYERS)}; with sweeps at "
        f"equal cost {say(WITH_SWEEPS)}. In a hard competition the steady state jumps where two stimuli tie, and no "
        "continuous pass can follow there."
    )


def describe(rows: list[dict]) -> str:
    """One line for each number of partitions and each self-excitation."""

    def cells(row: dict, name: str, scale: float = 100, form: str = ".1f", largest: float = np.inf) -> list[str]:
        values = [row[kind][name] for kind in FORMS]
        return ["-" if value[0] is None else with_interval(value, form, scale, largest) for value in values]

    lines = [
        [
            f"{row['num_partitions']}, {row['self_excitation']:g}",
            *cells(row, "nrmse"),
            f"{100 * spread(row['trivial_agreement']).mean:.1f}",
            *cells(row, "agreement", largest=100),
            f"{100 * spread(row['trivial_set_agreement']).mean:.1f}",
            *cells(row, "set_agreement", largest=100),
            "-" if row["gain_recurrent"][0] is None else f"{spread(row['gain_recurrent']).mean:.2f}",
            *cells(row, "gain", 1, ".2f"),
        ]
        for row in rows
    ]
    header = ["partitions, a", "error (%): two layers", "sweeps", "winner (%): trivial", "two layers", "sweeps"]
    header += ["active set (%): trivial", "two layers", "sweeps", "gain: recurrent", "two layers", "sweeps"]
    tails = [
        [
            f"{row['num_partitions']}, {row['self_excitation']:g}",
            *cells(row, "worst_unit_nrmse"),
            *cells(row, "percentile_95"),
        ]
        for row in rows
    ]
    header_of_tails = ["partitions, a", "error of the worst unit (%): two layers", "sweeps"]
    header_of_tails += ["one stimulus in 20 is off by (%): two layers", "sweeps"]
    lost = max(max(row["share_lost"]) for row in rows)
    return (
        f"{table(header, lines)}\n\n{table(header_of_tails, tails)}\n\n"
        f"Means and 95 % intervals over {len(rows[0]['share_lost'])} seeds. Two layers of 4 N hidden units, and "
        "sweeps at no more products; the trivial guess is that the largest stimulus wins alone; the "
        f"gain should be 1 / (1 - a). Stimuli without a steady state: at most {lost:.1%}."
    )


if __name__ == "__main__":
    run_script("partitions", Config(), run, describe, drawing.draw)
