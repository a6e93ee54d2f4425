"""Does one feed-forward pass infer what a recurrent network infers?

Three rings of units hold angles in the relation A + B = C. From any two of them the recurrent network fills in the
third, and where all three are given and do not agree it settles on a compromise. Two layers, and few or no hidden units
with sweeps at equal cost, are trained on its steady states. The question is how far the angles of the networks are
apart, and from the true angle: with and without noise, for cues that agree and cues that do not, within the range of
the training and beyond; and whether large differences occur where the bump of the recurrent network itself is weak.
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

from experiments._fit import fit_both, solve_each, width_of_sweeps
from experiments._forms import FORMS, TWO_LAYERS, WITH_SWEEPS
from experiments._script import run_script, table
from experiments._seeds import spread, with_interval
from experiments.drawings import information_transformation as drawing
from rnn2ff.approximators import Approximator, predict
from rnn2ff.data import key_for
from rnn2ff.networks import RecurrentNetwork, relation_angles, relation_network, relation_stimulus
from rnn2ff.steady_state import Plan
from rnn2ff.training import accuracy, information_transformation

CLAIM = "One feed-forward pass infers a third angle from two others, and settles conflicts between three."

RINGS = ("A", "B", "C")
_TAIL = 0.05  # share of the angles that are furthest apart
_WEAK = 0.5  # times the median strength of a bump, its first Fourier coefficient


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; noise in units of a bump's height, conflicts in degrees."""

    seed: int = 0
    num_seeds: int = 5
    num_units: int = 12
    num_sweeps: int = 8
    """Sweeps of the second form; the two layers alone get so many hidden units that these sweeps cost no more."""
    largest_noise: float = 0.2
    """In training; each stimulus has noise of a deviation between 0 and this."""
    largest_conflict: float = 90.0
    """In training, of stimuli to all three rings: the angle by which C is off A + B."""
    noises: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
    conflicts: tuple[float, ...] = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0, 120.0, 150.0)
    noise_in_conflicts: float = 0.1
    num_samples: int = 20_000
    num_test_samples: int = 200
    """For each noise and missing ring, and for each conflict."""
    num_steps: int = 4_000

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            num_seeds=2,
            num_units=6,
            num_sweeps=4,
            noises=(0.0, 0.1),
            conflicts=(0.0, 60.0),
            num_samples=160,
            num_test_samples=12,
            num_steps=100,
        )


class Cues(NamedTuple):
    """Stimuli, and the angles that they stand for.

    Attributes:
        stimuli: one per row.
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
    """One row per seed: a training set, an approximator, and its results on each kind of stimuli."""
    network, plan = relation_network(config.num_units), None
    for seed in range(config.num_seeds):
        row, plan = _measure(network, plan, config, jr.fold_in(jr.key(config.seed), seed))
        yield {"seed": seed, **row}


def _measure(network: RecurrentNetwork, plan: Plan | None, config: Config, key: PRNGKeyArray) -> tuple[dict, Plan]:
    kinds, number = _kinds(config), config.num_samples
    # All at once, so that a plan is made once and each shape is compiled once.
    cues = _draw(kinds, config, key_for(key, "cues"))
    pairs, plan = solve_each(network, cues.stimuli, plan)
    width = width_of_sweeps(network, config.num_sweeps)
    fitted = fit_both(network, pairs.take(slice(number)), width, num_steps=config.num_steps, key=key)
    predicted = {form: np.asarray(predict(approximator, cues.stimuli)) for form, approximator in fitted.items()}
    rates = np.asarray(pairs.rates)

    row = {
        "degrees_per_unit": 360 / config.num_units,
        "trained": {"noise": config.largest_noise, "conflict": config.largest_conflict},
        "status_counts": pairs.status_counts,
        "size": {form: _size(approximator) for form, approximator in fitted.items()},
        "inference": [],
        "conflict": [],
    }
    for kind, rows in zip(kinds, np.split(np.arange(number, len(rates)), len(kinds))):
        judge, name = (_judge_conflict, "conflict") if kind.missing is None else (_judge_inference, "inference")
        chosen = Cues(cues.stimuli[rows], cues.angles[rows])
        guesses = {form: guess[rows] for form, guess in predicted.items()}
        row[name].append(judge(kind, chosen, guesses, rates[rows]))
        if kind.missing == 2 and kind.noise == config.noise_in_conflicts:
            shown = {"stimulus": chosen.stimuli, "recurrent": rates[rows], **guesses}
            row["example"] = {label: np.round(values[0], 4) for label, values in shown.items()}
    return row, plan


def _size(approximator: Approximator) -> dict[str, int]:
    num_sweeps = getattr(approximator, "num_sweeps", 0)
    return {"width": approximator.width, "num_sweeps": num_sweeps, "num_products": approximator.num_products}


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
    tests = [(len(RINGS) if kind.missing is None else kind.missing, kind.noise, kind.conflict) for kind in kinds]
    tested = np.repeat(np.array(tests).T, config.num_test_samples, axis=1)
    missing = np.concatenate([missing, tested[0].astype(missing.dtype)])
    noise, conflict = np.concatenate([noise, tested[1]]), np.concatenate([conflict, tested[2]])
    conflict = np.deg2rad(np.where(missing == len(RINGS), conflict, 0))
    noise, conflict = jnp.asarray(noise, float), jnp.asarray(conflict, float)
    return _cues(missing, noise, conflict, jr.split(key, len(missing)), config.num_units)


@functools.partial(jax.jit, static_argnames="num_units")
def _cues(missing: Array, noise: Array, conflict: Array, keys: PRNGKeyArray, num_units: int) -> Cues:
    """One sample each: A and B at random, C off their sum by the conflict, and only noise to the missing ring."""

    def cue(missing: ScalarLike, noise: ScalarLike, conflict: ScalarLike, key: PRNGKeyArray) -> Cues:
        angle_key, noise_key = jr.split(key)
        first, second = jr.uniform(angle_key, (2,), maxval=2 * np.pi)
        angles = jnp.stack([first, second, first + second + conflict])
        bumps = relation_stimulus(*angles, num_units).reshape(len(RINGS), num_units)
        stimulus = jnp.where((jnp.arange(len(RINGS)) == missing)[:, None], 0, bumps).ravel()
        return Cues(stimulus + noise * jr.normal(noise_key, stimulus.shape), angles)

    return jax.vmap(cue)(missing, noise, conflict, keys)


def _judge_inference(kind: Kind, cues: Cues, predicted: dict[str, np.ndarray], rates: np.ndarray) -> dict:
    """Angles of the ring without a stimulus: median and 95th percentile of the errors, in degrees."""

    def of_ring(each: np.ndarray) -> np.ndarray:
        return each.reshape(len(each), len(RINGS), -1)[:, kind.missing]

    right, steady = cues.angles[:, kind.missing], of_ring(rates)
    judged = {form: information_transformation(of_ring(guess), steady, right) for form, guess in predicted.items()}
    first, second, third = relation_angles(cues.stimuli).T
    computed = np.abs(_wrapped((third - second, third - first, first + second)[kind.missing] - right))
    strength = np.abs(np.fft.rfft(steady)[:, 1])
    is_weak = strength < _WEAK * np.median(strength)

    def share_weak_in_tail(form: str) -> float:
        apart = np.abs(_wrapped(relation_angles(predicted[form]) - relation_angles(rates)))[:, kind.missing]
        return float(is_weak[np.argsort(apart)[-max(1, round(_TAIL * len(apart))) :]].mean())

    return {
        "ring": RINGS[kind.missing],
        "noise": kind.noise,
        "nrmse": {form: accuracy(guess, rates).nrmse for form, guess in predicted.items()},
        "between": {form: np.rad2deg(result.approximation) for form, result in judged.items()},
        "degrees": {
            "computed": np.rad2deg(np.quantile(computed, (0.5, 0.95))),
            "recurrent": np.rad2deg(judged[TWO_LAYERS].recurrent),
            **{form: np.rad2deg(result.feedforward) for form, result in judged.items()},
        },
        "share_weak": float(is_weak.mean()),
        "share_weak_in_tail": {form: share_weak_in_tail(form) for form in predicted},
        "num_missed": {form: result.num_missed for form, result in judged.items()},
        "num_silent": judged[TWO_LAYERS].num_silent,
    }


def _judge_conflict(kind: Kind, cues: Cues, predicted: dict[str, np.ndarray], rates: np.ndarray) -> dict:
    """How far rings are pulled from their own cues toward the angle that the two others imply, in degrees.

    With equally reliable cues, the best compromise in a small conflict moves each ring by a third of it.
    """
    signs = np.array([1, 1, -1])  # the others say A + conflict, B + conflict, and C - conflict
    responses = {"recurrent": rates, **predicted}
    pulls = {name: signs * _wrapped(relation_angles(response) - cues.angles) for name, response in responses.items()}
    apart = {form: np.abs(_wrapped(pulls[form] - pulls["recurrent"])) for form in predicted}
    is_silent = [response.reshape(len(response), len(RINGS), -1).max(axis=2) <= 0 for response in responses.values()]
    return {
        "conflict": kind.conflict,
        "nrmse": {form: accuracy(guess, rates).nrmse for form, guess in predicted.items()},
        "pull": {name: np.rad2deg(np.quantile(pull, (0.5, 0.05, 0.95))) for name, pull in pulls.items()},
        "between": {form: np.rad2deg(np.quantile(difference, (0.5, 0.95))) for form, difference in apart.items()},
        "num_silent": np.sum(is_silent),
    }


def _wrapped(angles: Array) -> np.ndarray:
    """The same angles, from -pi to pi."""
    return (np.asarray(angles) + np.pi) % (2 * np.pi) - np.pi


def verdict(rows: list[dict]) -> str:
    """How far the angles of each form are from the recurrent network's, on stimuli like those that were trained on."""
    trained, close = rows[0]["trained"], rows[0]["degrees_per_unit"] / 2
    noises = [noise for noise in drawing.noises(rows) if noise <= trained["noise"]]
    conflicts = [i for i, result in enumerate(rows[0]["conflict"]) if result["conflict"] <= trained["conflict"]]

    def inferred(form: str) -> np.ndarray:
        by_noise = [drawing.errors(rows, "between", form, noise) for noise in noises]
        return np.max([[spread(values).mean for values in errors] for errors in by_noise], axis=0)

    def settled(form: str) -> np.ndarray:
        return np.mean([[row["conflict"][i]["between"][form] for i in conflicts] for row in rows], axis=0).max(axis=0)

    def worst(form: str) -> np.ndarray:
        return np.maximum(inferred(form), settled(form))

    def say(form: str) -> str:
        size, (median, tail), (median_settled, tail_settled) = rows[0]["size"][form], inferred(form), settled(form)
        units = f"{size['width']:,} hidden units" + (f", {size['num_sweeps']} sweeps" if size["num_sweeps"] else "")
        return (
            f"({units}) are within {median:.1f} degrees of the recurrent network's in the median and {tail:.1f} in 95"
            f" %, in conflicts up to {trained['conflict']:g} degrees within {median_settled:.1f} and {tail_settled:.1f}"
        )

    word = "Does not hold"
    if any((worst(form) < close).all() for form in FORMS):
        word = "Holds" if (worst(TWO_LAYERS) < close).all() else "Holds with sweeps"
    elif worst(TWO_LAYERS)[0] < close:
        word = "Holds in the median, not in the tail"
    own = [spread(errors).mean for errors in drawing.errors(rows, "degrees", "recurrent", noises[-1])]
    noisiest = [result for row in rows for result in row["inference"] if result["noise"] == noises[-1]]
    weak = spread([result["share_weak_in_tail"][TWO_LAYERS] for result in noisiest]).mean
    of_all = spread([result["share_weak"] for result in noisiest]).mean
    return (
        f"{word}: at noise up to {noises[-1]:g}, where the recurrent network itself is {own[0]:.0f} degrees off in the "
        f"median and {own[1]:.0f} in 95 %, angles inferred by two layers {say(TWO_LAYERS)}; with sweeps at equal cost "
        f"{say(WITH_SWEEPS)}. Where two layers are furthest off, the bump of the recurrent network is often weak, so "
        f"that a small error turns it far: at the largest noise for {weak:.0%} of the worst {_TAIL:.0%}, and for "
        f"{of_all:.0%} of all."
    )


def describe(rows: list[dict]) -> str:
    """Errors of angles, by noise and by conflict."""

    def pairs_of(kind: str, name: str, noise: float) -> str:
        return ", ".join(with_interval(values) for values in drawing.errors(rows, kind, name, noise))

    def settled_by(i: int, form: str) -> list:
        return [row["conflict"][i]["between"][form] for row in rows]

    inferred = [
        [
            f"{noise:g}",
            *(pairs_of("degrees", name, noise) for name in ("computed", *drawing.NETWORKS)),
            *(pairs_of("between", form, noise) for form in FORMS),
        ]
        for noise in drawing.noises(rows)
    ]
    settled = [
        [
            f"{result['conflict']:g}",
            *(with_interval([row["conflict"][i]["pull"][name][0] for row in rows]) for name in drawing.NETWORKS),
            *(", ".join(map(with_interval, np.transpose(settled_by(i, form)))) for form in FORMS),
        ]
        for i, result in enumerate(rows[0]["conflict"])
    ]
    between = [f"from recurrent to {form}" for form in FORMS]
    header = ["noise", "computed from the cues", *drawing.NETWORKS, *between]
    pulled = ["conflict", *(f"pull, {name}" for name in drawing.NETWORKS), *between]
    missed = {form: sum(result["num_missed"][form] for row in rows for result in row["inference"]) for form in FORMS}
    silent = sum(result["num_silent"] for row in rows for kind in ("inference", "conflict") for result in row[kind])
    sizes = "; ".join(
        f"{form} {size['width']:,} hidden units, {size['num_sweeps']} sweeps, {size['num_products']:,} products"
        for form, size in rows[0]["size"].items()
    )
    return (
        f"{table(header, inferred)}\n\nErrors of the angle of a ring without a stimulus, in degrees: median, 95th "
        f"percentile; mean and 95 % interval over {len(rows)} seeds.\n\n{table(pulled, settled)}\n\nDegrees, all "
        f"rings. Silent rings: {silent} left out; in one form alone {missed}. Sizes: {sizes}."
    )


if __name__ == "__main__":
    run_script("information_transformation", Config(), run, describe, drawing.draw)
