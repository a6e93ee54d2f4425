"""The networks and stimuli that approximators are fitted to, all from zero, with rates `[x]_+` unless said.

| name | network | stimulus | samples |
|---|---|---|---|
| random05, random09 | 32 units, Gaussian weights of deviation g / sqrt(N), g = .5 and .9 | N(0, 1) a unit | 40,000 |
| large09 | the same with 128 units, g = .9 | N(0, 1) a unit | 15,000 |
| soft | competition: 4 partitions of 8 units, 8 inhibitory; a = .7, b = 1.5, c = 1 | U(0, 1) a partition + .3 N(0, 1) a unit | 30,000 |
| hard | the same with a = 1.3: many steady states | the same | 30,000 |
| ring | 64 units, W_ij = (-4 + 2.5 cos(a_i - a_j)) / 64 | A (.7 + .3 cos(a_i - phi)) + .5 N(0, 1), A in U(.5, 1.5) | 20,000 |
| relation | three rings of 12 units and 144 hidden ones, that relate angles A + B = C | bumps + .1 N(0, 1); all, or one left out | 20,000 |
| ssn | 32 E + 32 I units, rates .04 [x]_+^2, inhibition twice as fast | one or two gratings of contrast U(0, 50) + .5 N(0, 1) | 20,000 |

In `relation` the approximator maps the 36 visible inputs to the 36 visible rates, and width is counted in multiples of 90.
In `ssn` both populations receive the same stimulus of 32 channels.
"""  # noqa: E501 - a table

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.parts.problems import ssn_weights
from rnn2ff.data import SampleStimulus
from rnn2ff.networks import (
    PowerLaw,
    RecurrentNetwork,
    StateForm,
    partition_competition,
    rate_network,
    relation_network,
    relation_stimulus,
    ring_attractor,
    ring_stimulus,
    threshold_linear,
)

NAMES = ("random05", "random09", "large09", "soft", "hard", "ring", "relation", "ssn")
NUM_PARTITIONS, UNITS_PER_PARTITION = 4, 8
_NUM_ANGLES = 32  # of the ssn


class Target(NamedTuple):
    """A network, and the stimuli on which it is to be replaced.

    Attributes:
        name: of the target.
        network: in float32.
        sample_stimulus: draws the input of the approximator: the stimulus, without the units that nothing drives.
        num_samples: to train and validate on.
        unit_width: hidden units that count as "1 N"; a width is stated as a multiple of it.
    """

    name: str
    network: RecurrentNetwork
    sample_stimulus: SampleStimulus
    num_samples: int
    unit_width: int


def make_target(name: str, seed: int = 0) -> Target:
    """A target by name; the seed draws its weights, where they are random."""
    if name in ("random05", "random09", "large09"):
        size, gain = 128 if name == "large09" else 32, 0.5 if name == "random05" else 0.9
        weights = np.random.default_rng(seed).normal(size=(size, size)) * gain / size**0.5
        num_samples = 15_000 if name == "large09" else 40_000
        return _target(name, threshold_linear(weights), lambda key: jr.normal(key, (size,), np.float32), num_samples)
    if name in ("soft", "hard"):
        network = partition_competition(
            NUM_PARTITIONS, UNITS_PER_PARTITION, self_excitation=0.7 if name == "soft" else 1.3
        )
        return _target(name, network, _competitors, 30_000)
    if name == "ring":
        weights = ring_attractor(64, mean=-4.0, tuned=2.5).params.recurrent_weights
        return _target(name, threshold_linear(weights), _noisy_bump, 20_000)
    if name == "relation":
        return _target(name, relation_network(12), _relation, 20_000, unit_width=90)
    if name == "ssn":
        stimulus_weights = np.tile(np.eye(_NUM_ANGLES), (2, 1))
        network = rate_network(
            StateForm(PowerLaw(0.04, 2.0)),
            ssn_weights(_NUM_ANGLES),
            stimulus_weights=stimulus_weights,
            time_constants=np.repeat([1, 0.5], _NUM_ANGLES),
        )
        return _target(name, network, _gratings, 20_000)
    msg = f"`name` is unknown. Expected one of {', '.join(NAMES)}, got {name!r}."
    raise ValueError(msg)


def _target(name, network, sample, num_samples, unit_width=None) -> Target:
    network = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), network)
    return Target(name, network, sample, num_samples, network.state_size if unit_width is None else unit_width)


def _competitors(key: jax.Array) -> jax.Array:
    partition_key, unit_key = jr.split(key)
    drives = jnp.repeat(jr.uniform(partition_key, (NUM_PARTITIONS,), np.float32), UNITS_PER_PARTITION)
    return drives + 0.3 * jr.normal(unit_key, drives.shape, np.float32)


def _noisy_bump(key: jax.Array) -> jax.Array:
    contrast_key, angle_key, noise_key = jr.split(key, 3)
    contrast = jr.uniform(contrast_key, (), np.float32, 0.5, 1.5)
    bump = ring_stimulus(jr.uniform(angle_key, (), np.float32, 0, 2 * np.pi), 64, contrast=contrast)
    return bump.astype(np.float32) + 0.5 * jr.normal(noise_key, (64,), np.float32)


def _relation(key: jax.Array) -> jax.Array:
    angle_key, case_key, noise_key = jr.split(key, 3)
    first, second = jr.uniform(angle_key, (2,), np.float32, 0, 2 * np.pi)
    bumps = relation_stimulus(first, second, first + second).astype(np.float32).reshape(3, 12)
    left_out = jr.randint(case_key, (), 0, 4)  # 3 leaves none out
    bumps = jnp.where((jnp.arange(3) == left_out)[:, None], np.float32(0), bumps).reshape(36)
    return bumps + 0.1 * jr.normal(noise_key, (36,), np.float32)


def _gratings(key: jax.Array) -> jax.Array:
    contrast_key, angle_key, second_key, noise_key = jr.split(key, 4)
    contrasts = jr.uniform(contrast_key, (2, 1), np.float32, 0, 50)
    contrasts = contrasts * jnp.stack([jnp.ones((1,)), jr.bernoulli(second_key, 0.5, (1,))]).astype(np.float32)
    angles = jr.uniform(angle_key, (2, 1), np.float32, 0, 180)
    preferred = jnp.arange(_NUM_ANGLES, dtype=np.float32)[None] * (180 / _NUM_ANGLES)
    distance = jnp.abs(preferred - angles)
    distance = jnp.minimum(distance, 180 - distance)
    drive = (contrasts * jnp.exp(-(distance**2) / (2 * 30.0**2))).sum(axis=0)
    return drive + 0.5 * jr.normal(noise_key, drive.shape, np.float32)
