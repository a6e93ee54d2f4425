"""How well do feed-forward networks approximate random recurrent ones, and how wide or deep must they be?

Threshold-linear networks with Gaussian weights, driven by Gaussian stimuli. The question is how the error depends on
the gain of the weights, on the number of units N and on the cost of a pass, of two layers alone and of few or no hidden
units with sweeps that cost no more; which width, and which number of sweeps, is needed for an error of 5 % and of 1 %;
and, where the recurrent network has no steady state for some of the stimuli, how many are lost.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from experiments._executors import Compute, serially
from experiments._forms import FORMS, TWO_LAYERS, WITH_SWEEPS
from experiments._script import run_script, table
from experiments._seeds import spread, with_interval
from experiments.drawings import random_networks as drawing
from experiments.drawings.random_networks import TARGETS, USUAL_COST, errors_at, needed
from rnn2ff.approximators import predict
from rnn2ff.data import Pairs, gaussian_stimuli, key_for, sample_stimuli, solve_pairs
from rnn2ff.networks import RecurrentNetwork, random_threshold_linear, threshold_linear
from rnn2ff.training import Trainer, accuracy, further_pairs

CLAIM = "Two layers embody the steady states of random recurrent networks."

_MOST_DRAWN = 10  # times as many stimuli as are needed, where few have a steady state


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; the cost of a pass is its products over N^2, so twice the width over N."""

    seed: int = 0
    num_seeds: int = 3
    sizes: tuple[int, ...] = (8, 32, 128)
    gains: tuple[float, ...] = (0.3, 0.6, 0.9, 1.2)
    costs: tuple[float, ...] = (3.0, 4.0, 6.0, 8.0, 10.0, 32.0)
    """Two layers of each cost are compared with sweeps that cost no more; 8 is the cost of the usual width, 4 N."""
    most_products: int = 131_072
    """The most products of a pass; passes that cost more are left out."""
    num_samples: int = 10_000
    num_test_samples: int = 1_000
    num_steps: int = 2_000

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            num_seeds=2,
            sizes=(4,),
            gains=(0.6,),
            costs=(8.0,),
            num_samples=500,
            num_test_samples=200,
            num_steps=50,
        )


def run(config: Config, compute: Compute = serially) -> Iterator[dict]:
    """One row per size and gain, with the errors of both forms by cost."""
    return compute(functools.partial(_measure, *case, config) for case in itertools.product(config.sizes, config.gains))


def _measure(size: int, gain: float, config: Config) -> dict:
    costs = [candidate for candidate in config.costs if candidate * size**2 <= config.most_products]
    results = {
        form: {"width": [], "num_sweeps": [], "nrmse": np.empty((len(costs), config.num_seeds))} for form in FORMS
    }
    lost = []
    for index in range(config.num_seeds):
        key = jr.fold_in(key_for(jr.key(config.seed), f"network of {size}"), index)
        network = _scaled(random_threshold_linear(size, gain=1.0, key=key), gain)
        pairs, share_lost = _solve(network, config.num_samples + config.num_test_samples, key)
        lost.append(share_lost)
        test = pairs.take(slice(config.num_test_samples))
        training = pairs.take(slice(config.num_test_samples, None))
        further = further_pairs(network, gaussian_stimuli(size))
        trainer = Trainer(network, training, num_steps=config.num_steps, further=further, key=key)
        for row, cost in enumerate(costs):
            for form, trained in zip(FORMS, trainer.best_of_its_cost(round(cost * size / 2)), strict=True):
                error = accuracy(predict(trained.approximator, test.stimuli), test.rates).nrmse
                results[form]["nrmse"][row, index] = error
                if index == 0:
                    results[form]["width"].append(trained.attempt.width)
                    results[form]["num_sweeps"].append(trained.attempt.num_sweeps)
    for result in results.values():
        result["nrmse"] = np.round(result["nrmse"], 6)
    return {"size": size, "gain": gain, "share_lost": lost, "costs": costs, **results}


def _scaled(network: RecurrentNetwork, gain: float) -> RecurrentNetwork:
    """The same weights for every gain, so that gains are compared on the same networks."""
    return threshold_linear(gain * network.params.recurrent_weights)


def _solve(network: RecurrentNetwork, number: int, key: PRNGKeyArray) -> tuple[Pairs, float]:
    """About that many pairs, from as many draws as it takes, and the share of stimuli without a steady state."""
    batches: list[Pairs] = []
    while sum(map(len, batches)) < number and len(batches) < _MOST_DRAWN:
        batch_key = jr.fold_in(key_for(key, "stimuli"), len(batches))
        stimuli = sample_stimuli(gaussian_stimuli(network.state_size), number, key=batch_key)
        batches.append(solve_pairs(network, stimuli))
    share_lost = 1 - sum(map(len, batches)) / (number * len(batches))
    stimuli, states, rates = (
        jnp.concatenate([getattr(batch, name) for batch in batches])[:number] for name in ("stimuli", "states", "rates")
    )
    return Pairs(stimuli, states, rates, batches[0].status_counts), share_lost


def verdict(rows: list[dict]) -> str:
    """Up to which gain each form meets the targets at the cost of the usual width, and its worst errors."""
    stable, beyond = ([row for row in rows if (row["gain"] < 1) == is_stable] for is_stable in (True, False))

    def worst(form: str, among: list[dict]) -> float:
        return max(spread(errors_at(row, form)).mean for row in among)

    def say(form: str) -> str:
        gains = sorted({row["gain"] for row in stable})
        targets = {}  # the smallest that is met up to a gain
        for target in sorted(TARGETS, reverse=True):
            good = [gain for gain in gains if worst(form, [row for row in stable if row["gain"] <= gain]) <= target]
            if good:
                targets[good[-1]] = target
        within = ", ".join(f"{target:.0%} up to gain {gain:g}" for gain, target in sorted(targets.items()))
        text = f"{worst(form, stable):.1%} up to gain {gains[-1]:g}" + (f" ({within})" if within else "")
        return text + (f" and {worst(form, beyond):.0%} beyond gain 1" if beyond else "")

    holds = [form for form in FORMS if worst(form, stable) <= max(TARGETS)]
    word = "Holds" if TWO_LAYERS in holds else "Holds with sweeps" if WITH_SWEEPS in holds else "Holds in part"
    return (
        f"{word}: errors are at most {say(TWO_LAYERS)} with two layers of {USUAL_COST / 2:g} N hidden units, and "
        f"{say(WITH_SWEEPS)} with sweeps at equal cost.{_what_remains(stable)}"
    )


def _what_remains(stable: list[dict]) -> str:
    """Why errors are left: the worst setting with sweeps, and what more width gains for two layers."""
    worst = max(stable, key=lambda row: spread(errors_at(row, WITH_SWEEPS)).mean)
    lost = spread(worst["share_lost"]).mean
    sentence = f" The worst with sweeps is {worst['size']} units at gain {worst['gain']:g}"
    sentence += f", where {lost:.0%} of the stimuli have no steady state." if lost >= 0.01 else "."
    wide = [row for row in stable if row["costs"][-1] > USUAL_COST]
    if not wide:
        return sentence
    factor = wide[0]["costs"][-1] / USUAL_COST
    gained = [1 - spread(row[TWO_LAYERS]["nrmse"][-1]).mean / spread(errors_at(row, TWO_LAYERS)).mean for row in wide]
    return sentence + (
        f" Two layers lack depth and not width: {factor:g} times the hidden units lower their error by "
        f"{min(gained):.0%} to {max(gained):.0%}."
    )


def describe(rows: list[dict]) -> str:
    """Errors by size and gain at the cost of the usual width, and the width and the sweeps that were needed."""

    def words(row: dict, form: str, target: float) -> str:
        index = needed(row, form, target)
        unit, name = (" N", "width") if form == TWO_LAYERS else ("", "num_sweeps")
        values = [value / (row["size"] if form == TWO_LAYERS else 1) for value in row[form][name]]
        return f"> {max(values):g}{unit}" if index is None else f"{values[index]:g}{unit}"

    lines = [
        [
            f"{row['size']} units, gain {row['gain']:g}",
            with_interval(row["share_lost"], ".1f", 100),
            *(with_interval(errors_at(row, form), ".2f", 100) for form in FORMS),
            *(words(row, form, target) for form in FORMS for target in TARGETS),
        ]
        for row in rows
    ]
    header = ["", "lost (%)", "error (%): two layers, 4 N", "sweeps, equal cost"]
    header += [f"{what} for {target:.0%}" for what in ("width", "sweeps") for target in TARGETS]
    return (
        f"{table(header, lines)}\n\n"
        f"Means and 95 % intervals over {len(rows[0]['share_lost'])} networks of each size, scaled to each gain. Two "
        "layers of each width are compared with sweeps that cost no more; needed is the first that was tried whose "
        "mean error is small enough. Lost are stimuli without a steady state."
    )


if __name__ == "__main__":
    run_script("random_networks", Config(), run, describe, drawing.draw)
