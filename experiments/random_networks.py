"""How well does a two-layer network stand in for a random recurrent one, and how wide must it be?

Threshold-linear networks with Gaussian weights, driven by Gaussian stimuli. Asked is how the error depends on the gain
of the weights, on the number of units, on the width of the hidden layer and on the number of solved samples; and, where
the recurrent network has no steady state for some of the stimuli, how many are lost.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from experiments._executors import Call, Compute, serially
from experiments._fit import fit_two_layer
from experiments._script import run_script, table
from experiments._seeds import growth_exponent, spread, with_interval
from experiments.drawings import random_networks as drawing
from experiments.drawings.random_networks import TARGET, errors_at, widths_needed
from rnn2ff.approximators import predict
from rnn2ff.data import Pairs, gaussian_stimuli, key_for, sample_stimuli, solve_pairs
from rnn2ff.networks import RecurrentNetwork, random_threshold_linear, threshold_linear
from rnn2ff.training import accuracy

CLAIM = "Two layers embody the steady states of random recurrent networks."

_MOST_DRAWN = 10  # times as many stimuli as are needed, where few have a steady state


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; widths in units of the number of recurrent units."""

    seed: int = 0
    num_seeds: int = 5
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    gains: tuple[float, ...] = (0.3, 0.6, 0.9)
    widths: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 16.0)
    most_products: int = 32_768
    """Of a pass; networks that need more are left out, those up to 4 times as wide as the recurrent one excepted."""
    more_gains: tuple[float, ...] = (0.0, 1.1, 1.3)
    more_gains_sizes: tuple[int, ...] = (8, 32, 64)
    more_gains_width: float = 4.0
    numbers_of_samples: tuple[int, ...] = (500, 1_000, 8_000)
    samples_size: int = 32
    num_samples: int = 2_500
    num_test_samples: int = 500
    num_steps: int = 500

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            num_seeds=2,
            sizes=(4,),
            gains=(0.6,),
            widths=(1.0,),
            more_gains=(0.0,),
            more_gains_sizes=(4,),
            more_gains_width=1.0,
            numbers_of_samples=(),
            samples_size=4,
            num_samples=500,
            num_test_samples=200,
            num_steps=50,
        )


def run(config: Config, compute: Compute = serially) -> Iterator[dict]:
    """One row a size and gain, with the errors by width; then one a gain, with the errors by number of samples."""
    return compute(_calls(config))


def _calls(config: Config) -> Iterator[Call]:
    for size in config.sizes:
        widths = [each for each in config.widths if each <= 4 or 2 * each * size**2 <= config.most_products]
        for gain in config.gains:
            yield functools.partial(_measure, size, gain, widths, config.num_samples, config)
        if size in config.more_gains_sizes:
            for gain in config.more_gains:
                yield functools.partial(_measure, size, gain, [config.more_gains_width], config.num_samples, config)
    for number in config.numbers_of_samples:
        for gain in config.gains:
            yield functools.partial(_measure, config.samples_size, gain, [config.more_gains_width], number, config)


def _measure(size: int, gain: float, widths: list[float], num_samples: int, config: Config) -> dict:
    errors, lost = np.full((len(widths), config.num_seeds), np.nan), []
    for index in range(config.num_seeds):
        key = jr.fold_in(key_for(jr.key(config.seed), f"network of {size}"), index)
        network = _scaled(random_threshold_linear(size, gain=1.0, key=key), gain)
        pairs, share_lost = _solve(network, num_samples + config.num_test_samples, key)
        lost.append(share_lost)
        test = pairs.take(slice(config.num_test_samples))
        training = pairs.take(slice(config.num_test_samples, config.num_test_samples + num_samples))
        for row, factor in enumerate(widths):
            approximator = fit_two_layer(network, training, round(factor * size), num_steps=config.num_steps, key=key)
            errors[row, index] = accuracy(predict(approximator, test.stimuli), test.rates).nrmse
    return {
        "size": size,
        "gain": gain,
        "num_samples": num_samples,
        "share_lost": lost,
        "widths": widths,
        "nrmse": np.round(errors, 5),
    }


def _scaled(network: RecurrentNetwork, gain: float) -> RecurrentNetwork:
    """The same weights for every gain, so that gains are compared on the same networks."""
    return threshold_linear(gain * network.params.recurrent_weights)


def _solve(network: RecurrentNetwork, number: int, key: PRNGKeyArray) -> tuple[Pairs, float]:
    """That many pairs, or about, from as many draws as it takes; and the share of stimuli without a steady state."""
    found: list[Pairs] = []
    while sum(map(len, found)) < number and len(found) < _MOST_DRAWN:
        batch_key = jr.fold_in(key_for(key, "stimuli"), len(found))
        stimuli = sample_stimuli(gaussian_stimuli(network.state_size), number, key=batch_key)
        found.append(solve_pairs(network, stimuli))
    share_lost = 1 - sum(map(len, found)) / (number * len(found))
    stimuli, states, rates = (
        jnp.concatenate([getattr(each, name) for each in found])[:number] for name in ("stimuli", "states", "rates")
    )
    return Pairs(stimuli, states, rates, found[0].status_counts), share_lost


def verdict(rows: list[dict]) -> str:
    """Up to which gain the error stays below the target, at the widest networks."""
    widest = {(row["size"], row["gain"]): spread(row["nrmse"][-1]).mean for row in rows if row["gain"] <= 1}
    within = sorted({gain for _, gain in widest if all(e <= TARGET for (_, g), e in widest.items() if g == gain)})
    largest = max(gain for _, gain in widest)
    worst = max(error for (_, gain), error in widest.items() if gain == largest)
    start = f"Holds within {TARGET:.0%} up to gain {within[-1]:g}" if within else f"Does not hold within {TARGET:.0%}"
    return f"{start}; at gain {largest:g} the error is up to {worst:.1%} at the largest width tried."


def describe(rows: list[dict]) -> str:
    """Errors by size and gain, and the width that was needed."""
    lines = []
    for row in rows:
        errors = errors_at(row, 4.0)
        needed = widths_needed(row)
        lines.append(
            [
                f"{row['size']} units, gain {row['gain']:g}, {row['num_samples']} samples",
                with_interval(row["share_lost"], ".2f", 100),
                "-" if errors is None else with_interval(errors, ".1f", 100),
                with_interval(row["nrmse"][-1], ".1f", 100) + f" ({row['widths'][-1]:g} N)",
                needed if isinstance(needed, str) else with_interval(needed, ".2f") + " N",
            ]
        )
    header = ["", "lost (%)", "error at 4 N (NRMSE, %)", "at the widest", f"width for {TARGET:.0%}"]
    return "\n\n".join([table(header, lines), *_growth(rows)])


def _growth(rows: list[dict]) -> Iterator[str]:
    """How the hidden units for the target grow with the recurrent ones, where at least three sizes reach it."""
    for gain in sorted({row["gain"] for row in rows}):
        chosen = [row for row in rows if row["gain"] == gain and len(row["widths"]) > 1]
        reached = [(row["size"], needed) for row in chosen if not isinstance(needed := widths_needed(row), str)]
        if len(reached) > 2:
            sizes = np.array([size for size, _ in reached], float)
            hidden = sizes[:, None] * np.array([needed for _, needed in reached])
            mean, low, high = growth_exponent(sizes, hidden)
            yield (
                f"At gain {gain:g} the hidden units for {TARGET:.0%} grow as the recurrent units to the power"
                f" {mean:.2f} [{low:.2f}, {high:.2f}], over {sizes.min():.0f} to {sizes.max():.0f} units."
            )


if __name__ == "__main__":
    run_script("random_networks", Config(), run, describe, drawing.draw)
