"""Does one feed-forward pass infer what a recurrent network infers?

Three rings of units hold angles in the relation A + B = C. From any two of them the recurrent network fills in the
third, and where all three are given and do not agree it settles on a compromise. A two-layer network is trained on its
steady states. Asked is how far the angles of the two networks are apart, and from the angle that is right: with noise
and without, for cues that agree and cues that do not, within the range that was trained on and beyond.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from experiments._fit import fit_two_layer, solve_each
from experiments._script import run_script, table
from experiments._seeds import spread, with_interval
from experiments.drawings import information_transformation as drawing
from rnn2ff.approximators import predict
from rnn2ff.data import key_for
from rnn2ff.networks import RecurrentNetwork, relation_angles, relation_network, relation_stimulus
from rnn2ff.steady_state import Plan
from rnn2ff.training import accuracy, information_transformation

CLAIM = "One feed-forward pass infers a third angle from two others, and settles conflicts between three."

RINGS = ("A", "B", "C")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; noise in units of a bump's height, conflicts in degrees."""

    seed: int = 0
    num_seeds: int = 5
    num_units: int = 12
    width: int = 144
    largest_noise: float = 0.2
    """In training; each stimulus has noise of a deviation between 0 and this."""
    largest_conflict: float = 90.0
    """In training, of stimuli to all three rings: the angle by which C is off A + B."""
    noises: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
    conflicts: tuple[float, ...] = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0, 120.0, 150.0)
    noise_in_conflicts: float = 0.1
    num_samples: int = 8_000
    num_test_samples: int = 200
    """For each noise and missing ring, and for each conflict."""
    num_steps: int = 2_000

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            num_seeds=2,
            num_units=6,
            width=36,
            noises=(0.0, 0.1),
            conflicts=(0.0, 60.0),
            num_samples=160,
            num_test_samples=12,
            num_steps=100,
        )


class Cues(NamedTuple):
    """Stimuli, and what they say.

    Attributes:
        stimuli: one a row.
        angles: that each ring was given, or would have been, in radians.
    """

    stimuli: Float[Array, "batch visible"]
    angles: Float[Array, "batch 3"]


class Kind(NamedTuple):
    """What the stimuli of a test have in common.

    Attributes:
        missing: the ring without a stimulus; None where all have one.
        noise: deviation of the noise.
        conflict: in degrees.
    """

    missing: int | None
    noise: float
    conflict: float


def run(config: Config) -> Iterator[dict]:
    """One row a seed: a training set, an approximator, and how it did on each kind of stimuli."""
    network, plan = relation_network(config.num_units), None
    for seed in range(config.num_seeds):
        row, plan = _measure(network, plan, config, jr.fold_in(jr.key(config.seed), seed))
        yield {"seed": seed, **row}


def _measure(network: RecurrentNetwork, plan: Plan | None, config: Config, key: PRNGKeyArray) -> tuple[dict, Plan]:
    kinds, number = _kinds(config), config.num_samples
    # All at once, so that a plan is made once and each shape is compiled once.
    cues = _draw(kinds, config, key_for(key, "cues"))
    pairs, plan = solve_each(network, cues.stimuli, plan)
    approximator = fit_two_layer(network, pairs.take(slice(number)), config.width, num_steps=config.num_steps, key=key)
    predicted, rates = np.asarray(predict(approximator, cues.stimuli)), np.asarray(pairs.rates)

    row = {
        "degrees_per_unit": 360 / config.num_units,
        "trained": {"noise": config.largest_noise, "conflict": config.largest_conflict},
        "status_counts": pairs.status_counts,
        "inference": [],
        "conflict": [],
    }
    for kind, rows in zip(kinds, np.split(np.arange(number, len(rates)), len(kinds))):
        judge, name = (_judge_conflict, "conflict") if kind.missing is None else (_judge_inference, "inference")
        chosen = Cues(cues.stimuli[rows], cues.angles[rows])
        row[name].append(judge(kind, chosen, predicted[rows], rates[rows]))
        if kind.missing == 2 and kind.noise == config.noise_in_conflicts:
            shown = {"stimulus": chosen.stimuli, "recurrent": rates[rows], "feed-forward": predicted[rows]}
            row["example"] = {each: np.round(values[0], 4) for each, values in shown.items()}
    return row, plan


def _kinds(config: Config) -> list[Kind]:
    inference = [Kind(ring, noise, 0.0) for noise in config.noises for ring in range(len(RINGS))]
    return inference + [Kind(None, config.noise_in_conflicts, conflict) for conflict in config.conflicts]


def _draw(kinds: list[Kind], config: Config, key: PRNGKeyArray) -> Cues:
    """For the training: one ring left out or none, noise and conflicts of all sizes. Then all tests, one by one."""
    missing_key, noise_key, conflict_key, key = jr.split(key, 4)
    number = (config.num_samples,)
    missing = np.asarray(jr.randint(missing_key, number, 0, len(RINGS) + 1))
    noise = config.largest_noise * np.asarray(jr.uniform(noise_key, number))
    conflict = config.largest_conflict * np.asarray(jr.uniform(conflict_key, number, minval=-1.0))
    tests = [(len(RINGS) if each.missing is None else each.missing, each.noise, each.conflict) for each in kinds]
    tested = np.repeat(np.array(tests).T, config.num_test_samples, axis=1)
    missing = np.concatenate([missing, tested[0].astype(missing.dtype)])
    noise, conflict = np.concatenate([noise, tested[1]]), np.concatenate([conflict, tested[2]])
    conflict = np.deg2rad(np.where(missing == len(RINGS), conflict, 0))
    noise, conflict = jnp.asarray(noise, float), jnp.asarray(conflict, float)
    return _cues(missing, noise, conflict, jr.split(key, len(missing)), config.num_units)


@functools.partial(jax.jit, static_argnames="num_units")
def _cues(missing: Array, noise: Array, conflict: Array, keys: PRNGKeyArray, num_units: int) -> Cues:
    """A sample each: A and B anywhere, C off their sum by the conflict, and nothing but noise to the missing ring."""

    def cue(missing: ScalarLike, noise: ScalarLike, conflict: ScalarLike, key: PRNGKeyArray) -> Cues:
        angle_key, noise_key = jr.split(key)
        first, second = jr.uniform(angle_key, (2,), maxval=2 * np.pi)
        angles = jnp.stack([first, second, first + second + conflict])
        bumps = relation_stimulus(*angles, num_units).reshape(len(RINGS), num_units)
        given = jnp.where((jnp.arange(len(RINGS)) == missing)[:, None], 0, bumps).ravel()
        return Cues(given + noise * jr.normal(noise_key, given.shape), angles)

    return jax.vmap(cue)(missing, noise, conflict, keys)


def _judge_inference(kind: Kind, cues: Cues, predicted: np.ndarray, rates: np.ndarray) -> dict:
    """Angles of the ring that was given nothing: median and 95th percentile of the errors, in degrees."""
    of_ring = (each.reshape(len(each), len(RINGS), -1)[:, kind.missing] for each in (predicted, rates))
    right = cues.angles[:, kind.missing]
    judged = information_transformation(*of_ring, right)
    first, second, third = relation_angles(cues.stimuli).T
    computed = np.abs(_wrapped((third - second, third - first, first + second)[kind.missing] - right))
    return {
        "ring": RINGS[kind.missing],
        "noise": kind.noise,
        "nrmse": accuracy(predicted, rates).nrmse,
        "degrees": {
            "between": np.rad2deg(judged.approximation),
            "recurrent": np.rad2deg(judged.recurrent),
            "feed-forward": np.rad2deg(judged.feedforward),
            "computed": np.rad2deg(np.quantile(computed, (0.5, 0.95))),
        },
        "num_missed": judged.num_missed,
        "num_silent": judged.num_silent,
    }


def _judge_conflict(kind: Kind, cues: Cues, predicted: np.ndarray, rates: np.ndarray) -> dict:
    """How far rings are pulled from their own cues toward what the two others say, in degrees.

    Cues that are all as reliable are best settled by a third of a small conflict for each.
    """
    signs = np.array([1, 1, -1])  # the others say A + conflict, B + conflict, and C - conflict
    steady, approximate = (signs * _wrapped(relation_angles(each) - cues.angles) for each in (rates, predicted))
    apart = np.abs(_wrapped(approximate - steady))
    is_silent = np.asarray([each.reshape(len(each), len(RINGS), -1).max(axis=2) <= 0 for each in (rates, predicted)])
    return {
        "conflict": kind.conflict,
        "nrmse": accuracy(predicted, rates).nrmse,
        "pull": {
            name: np.rad2deg(np.quantile(each, (0.5, 0.05, 0.95)))
            for name, each in (("recurrent", steady), ("feed-forward", approximate))
        },
        "between": np.rad2deg(np.quantile(apart, (0.5, 0.95))),
        "num_silent": is_silent.sum(),
    }


def _wrapped(angles: Array) -> np.ndarray:
    """The same angles, from -pi to pi."""
    return (np.asarray(angles) + np.pi) % (2 * np.pi) - np.pi


def verdict(rows: list[dict]) -> str:
    """How far the angles of the two networks are apart, on stimuli like those that were trained on."""
    trained = rows[0]["trained"]
    noises = [each for each in drawing.noises(rows) if each <= trained["noise"]]
    by_noise = [drawing.errors(rows, "between", each) for each in noises]
    noisy = np.max([[spread(values).mean for values in each] for each in by_noise], axis=0)
    conflicts = [i for i, each in enumerate(rows[0]["conflict"]) if each["conflict"] <= trained["conflict"]]
    between = np.mean([[row["conflict"][i]["between"] for i in conflicts] for row in rows], axis=0).max(axis=0)
    own = [spread(each).mean for each in drawing.errors(rows, "recurrent", noises[-1])]
    close = rows[0]["degrees_per_unit"] / 2
    if max(noisy[1], between[1]) < close:
        word = "Holds"
    elif max(noisy[0], between[0]) < close:
        word = "Holds in the median, not in the tail"
    else:
        word = "Does not hold"
    return (
        f"{word}: inferred angles are within {noisy[0]:.1f} degrees of the recurrent network's in the median, "
        f"{noisy[1]:.0f} in 95 %, at noise up to {noises[-1]:g}, where the recurrent network itself is "
        f"{own[0]:.0f} and {own[1]:.0f} off; in conflicts up to {trained['conflict']:g} degrees within "
        f"{between[0]:.1f} and {between[1]:.1f}."
    )


def describe(rows: list[dict]) -> str:
    """Errors of angles, by noise and by conflict."""
    inferred = [
        [
            f"{noise:g}",
            *(
                ", ".join(with_interval(values) for values in drawing.errors(rows, name, noise))
                for name in ("computed", "recurrent", "feed-forward", "between")
            ),
        ]
        for noise in drawing.noises(rows)
    ]
    settled = [
        [
            f"{each['conflict']:g}",
            *(with_interval([row["conflict"][i]["pull"][name][0] for row in rows]) for name in drawing.NETWORKS),
            ", ".join(with_interval([row["conflict"][i]["between"][which] for row in rows]) for which in (0, 1)),
        ]
        for i, each in enumerate(rows[0]["conflict"])
    ]
    header = ["noise", "computed from the cues", "recurrent", "feed-forward", "from recurrent to feed-forward"]
    pulled = ["conflict", "pull, recurrent", "pull, feed-forward", "from recurrent to feed-forward"]
    missed = sum(each["num_missed"] for row in rows for each in row["inference"])
    silent = sum(each["num_silent"] for row in rows for kind in ("inference", "conflict") for each in row[kind])
    return (
        f"{table(header, inferred)}\n\nErrors of the angle of a ring without a stimulus, in degrees: median, 95th "
        f"percentile; mean and 95 % interval over {len(rows)} seeds.\n\n{table(pulled, settled)}\n\nDegrees, all "
        f"rings. Silent rings: {silent} left out, {missed} in the feed-forward network alone."
    )


if __name__ == "__main__":
    run_script("information_transformation", Config(), run, describe, drawing.draw)
