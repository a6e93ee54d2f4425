"""The problems of `honest_failures`: families of networks that are hard to judge, with stimuli and initial states."""

import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.problems import TANH, grating, make_problem, make_saddle, ssn_ring, ssn_weights
from rnn2ff.networks import (
    RecurrentNetwork,
    partition_competition,
    rate_network,
    threshold_linear,
    threshold_linear_rate,
)

_GROWTH_RATES = (1, 0.1, 0.01, 0.003, 0.001)  # of saddles
COMPETITION, _COMPETITION_SIZE = "winner-take-all", 48  # the one large family, and its units


class ClosedForm(NamedTuple):
    """Where the dynamics come to rest, without a rollout.

    Attributes:
        states: there.
        leading: the largest real part of the eigenvalues there, times the longest time constant.
        settling_times: until they are there, in longest time constants.
    """

    states: np.ndarray
    leading: np.ndarray
    settling_times: np.ndarray


class Case(NamedTuple):
    """A network, with the stimuli and the initial states of the dynamics. All its numbers are exact in float32.

    Attributes:
        network: in float32.
        stimuli: one per row.
        initial_states: one per row.
        margins: the velocity that decides between two basins, relative to the states; infinite where neither basin is
        close.
        closed_form: the final states of the dynamics, where they are known.
    """

    network: RecurrentNetwork
    stimuli: np.ndarray
    initial_states: np.ndarray
    margins: np.ndarray
    closed_form: ClosedForm | None = None


_GRAPHS = {  # rows: from whom each unit receives (CTLN, Curto and Morrison)
    "clique of 3": "011;101;110",
    "cycle of 3": "001;100;010",
    "graph A": "00001;10001;01000;10100;00110",
    "graph C": "00001;00101;00010;10100;11000",
}


def _ctln(edges: np.ndarray) -> np.ndarray:
    weights = np.where(edges, -0.75, -1.5)
    np.fill_diagonal(weights, 0)
    return weights


def _ctln_case(edges: np.ndarray, num_stimuli: int, rng: np.random.Generator) -> Case:
    stimuli = 1 + 0.02 * rng.normal(size=(num_stimuli, len(edges)))
    return _case(threshold_linear_rate, _ctln(edges), stimuli, 0.3 * rng.uniform(size=stimuli.shape))


def _graph_case(name: str, num_stimuli: int, rng: np.random.Generator) -> Case:
    edges = np.array([[int(entry) for entry in row] for row in _GRAPHS[name].split(";")], bool)
    return _ctln_case(edges, num_stimuli, rng)


def _random_graph_case(num_stimuli: int, rng: np.random.Generator, *, is_oriented: bool) -> Case:
    """Without edges in both directions there are few stable fixed points."""
    draw = rng.uniform(size=(8, 8))
    return _ctln_case(draw < draw.T if is_oriented else draw < 0.5, num_stimuli, rng)


def _on_the_fixed_point(num_stimuli: int, rng: np.random.Generator) -> Case:
    """A cycle of 3 that starts on its unstable fixed point, or next to it: a residual near 0, and no rest."""
    weights = _ctln(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], bool))
    offsets = np.geomspace(1e-7, 1e-2, num_stimuli)[:, None] * rng.normal(size=(num_stimuli, 3))
    return _case(threshold_linear_rate, weights, np.ones((num_stimuli, 3)), 4 / 13 + offsets)


def _random_case(gain: float, num_stimuli: int, rng: np.random.Generator, *, is_smooth: bool = False) -> Case:
    size = 32
    weights = rng.normal(size=(size, size)) * (gain / size**0.5)
    stimuli = rng.normal(size=(num_stimuli, size)) * (0.3 if is_smooth else 1.0)
    return _case(_tanh if is_smooth else threshold_linear, weights, stimuli)


def _inhibited_case(gain: float, num_stimuli: int, rng: np.random.Generator) -> Case:
    """Random weights with inhibition that keeps them from growing: limit cycles and chaos."""
    size = 32
    weights = (gain * rng.normal(size=(size, size)) - 2) / size**0.5
    return _case(threshold_linear, weights, 2 + 0.3 * rng.normal(size=(num_stimuli, size)))


def _tanh(weights: jax.Array) -> RecurrentNetwork:
    return rate_network(TANH, weights)


def _ssn_case(contrast: float, num_stimuli: int, rng: np.random.Generator) -> Case:
    drive = grating(contrast, rng.uniform(0, 180, size=(num_stimuli, 1)), 32)
    return _case(ssn_ring, ssn_weights(32), np.concatenate([drive, drive], axis=1))


def _ring_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    """A ring whose bump is nearly free to move (Ben-Yishai, Bar-Or and Sompolinsky 1995), with a little noise."""
    size = 32
    angles = np.arange(size) * np.pi / size
    weights = (-1 + 4 * np.cos(2 * (angles[:, None] - angles))) / size
    return _case(threshold_linear_rate, weights, 1 + 0.1 * rng.normal(size=(num_stimuli, size)))


def _tuned_ring_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    size = 64
    angles = np.arange(size) * 2 * np.pi / size
    weights = (-4 + 2.5 * np.cos(angles[:, None] - angles)) / size
    amplitude, angle = rng.uniform(0.5, 1.5, (num_stimuli, 1)), rng.uniform(0, 2 * np.pi, (num_stimuli, 1))
    clean = amplitude * (0.7 + 0.3 * np.cos(angles - angle))
    return _case(threshold_linear, weights, clean + 0.5 * rng.normal(size=clean.shape))


def _competition_case(num_stimuli: int, rng: np.random.Generator, *, margins: tuple[float, float] | None) -> Case:
    """Hard competition of 4 partitions; with margins, the two best drives differ by as little."""
    drive = rng.uniform(size=(num_stimuli, 4))
    noise = 0.3
    if margins is not None:
        drive = np.sort(drive, axis=1)
        drive[:, -2] = drive[:, -1] * (1 - np.exp(rng.uniform(*np.log(margins), size=num_stimuli)))
        drive, noise = rng.permuted(drive, axis=1), 0.0
    weights = partition_competition(4, 8, self_excitation=1.3).params.recurrent_weights
    stimuli = np.zeros((num_stimuli, 40))
    stimuli[:, :32] = np.repeat(drive, 8, axis=1) + noise * rng.normal(size=(num_stimuli, 32))
    return _case(threshold_linear, np.asarray(weights), stimuli)


def _competition_saddle_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Hard competition of 3 partitions, 32 units, started next to the saddle on which two of them are active."""
    self_excitation, size, num_excitatory = 1.3, 32, 24
    network = partition_competition(3, 8, self_excitation=self_excitation)
    weights = np.float64(np.float32(network.params.recurrent_weights))
    best = rng.uniform(0.5, 1, size=num_stimuli)
    drive = np.stack([best, best * (1 - rng.uniform(0, 0.1, size=num_stimuli)), 0.1 * best], axis=1)
    order = rng.permuted(np.tile(np.arange(3), (num_stimuli, 1)), axis=1)
    drive = np.take_along_axis(drive, order, axis=1)
    stimuli = np.zeros((num_stimuli, size), np.float32)
    stimuli[:, :num_excitatory] = np.repeat(drive, 8, axis=1)
    is_active = np.ones((num_stimuli, size), bool)
    is_active[:, :num_excitatory] = np.repeat(order < 2, 8, axis=1)
    saddles = np.linalg.solve(np.eye(size) - weights * is_active[:, None], np.float64(stimuli)[..., None])[..., 0]
    offsets = np.resize([0, *10.0 ** -np.arange(7, 1, -1)], num_stimuli)[:, None] * rng.normal(size=(num_stimuli, size))
    starts = np.float32(saddles + offsets)
    means = (starts - saddles)[:, :num_excitatory].reshape(num_stimuli, 3, 8).mean(axis=2)
    signs = np.where(order == 0, 1, np.where(order == 1, -1, 0))
    # The difference of the two grows as its own exponential, whatever the others do.
    margins = (self_excitation - 1) * np.abs((means * signs).sum(axis=1)) / (1 + np.abs(saddles).max(axis=1))
    return _case(threshold_linear, weights, stimuli, starts, margins=margins)


def _winner_take_all_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    """The problem `wta` of `steady_states`, with fewer units."""
    seed = int(rng.integers(2**31))
    problem = make_problem("wta", _COMPETITION_SIZE, num_stimuli, stimulus_seed=seed)
    return _case(threshold_linear, problem.weights, problem.stimuli)


def _saddle_case(
    growth_rate: float | None, num_stimuli: int, rng: np.random.Generator, *, state_size: int, starts_near: bool = False
) -> Case:
    """Two competitors in a larger network; without a rate, one of all that there are."""
    growth_rate = float(rng.choice(_GROWTH_RATES) if growth_rate is None else growth_rate)
    saddle = make_saddle(growth_rate, state_size, num_stimuli, rng, starts_near=starts_near)
    constructor = functools.partial(threshold_linear, stimulus_weights=saddle.stimulus_weights)
    closed_form = ClosedForm(saddle.states, saddle.leading, saddle.settling_times)
    case = _case(constructor, saddle.weights, saddle.stimuli, saddle.initial_states, margins=saddle.margins)
    return case._replace(closed_form=closed_form)


def _growing_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Excitation without inhibition, too strong; for some stimuli all stay silent."""
    size = 16
    weights = rng.lognormal(size=(size, size))
    weights *= 1.1 / np.abs(np.linalg.eigvals(weights)).max()
    return _case(threshold_linear, weights, rng.normal(size=(num_stimuli, size)) - 0.5)


def _case(
    constructor: Callable,
    weights: np.ndarray,
    stimuli: np.ndarray,
    initial_states: np.ndarray | None = None,
    *,
    margins: np.ndarray | None = None,
) -> Case:
    """Rounded to float32, so that both dtypes solve the same problem."""
    initial_states = np.zeros((len(stimuli), len(weights))) if initial_states is None else initial_states
    margins = np.full(len(stimuli), np.inf) if margins is None else margins
    network = constructor(jnp.asarray(weights, jnp.float32))
    return Case(network, np.float32(stimuli), np.float32(initial_states), margins)


FAMILIES: dict[str, Callable[[int, np.random.Generator], Case]] = {
    **{name: lambda n, rng, name=name: _graph_case(name, n, rng) for name in _GRAPHS},
    "random CTLN": lambda n, rng: _random_graph_case(n, rng, is_oriented=False),
    "random oriented CTLN": lambda n, rng: _random_graph_case(n, rng, is_oriented=True),
    "starts on an unstable fixed point": _on_the_fixed_point,
    **{
        f"random gain {gain}": lambda n, rng, g=gain: _random_case(g, n, rng) for gain in (0.8, 1.1, 1.4, 1.7, 2.1, 2.5)
    },
    **{f"random gain {gain}, inhibited": lambda n, rng, g=gain: _inhibited_case(g, n, rng) for gain in (2.1, 3.5)},
    **{
        f"random tanh, gain {gain}": lambda n, rng, g=gain: _random_case(g, n, rng, is_smooth=True)
        for gain in (0.8, 1.2, 1.6, 2.0)
    },
    **{f"SSN, contrast {contrast}": lambda n, rng, c=contrast: _ssn_case(c, n, rng) for contrast in (1, 10, 20)},
    "ring, nearly free bump": _ring_case,
    "ring, tuned input": _tuned_ring_case,
    "competition": lambda n, rng: _competition_case(n, rng, margins=None),
    "competition, near ties": lambda n, rng: _competition_case(n, rng, margins=(1e-4, 0.1)),
    "growing": _growing_case,
    COMPETITION: _winner_take_all_case,
    **{f"tie, rate {rate}": lambda n, rng, r=rate: _saddle_case(r, n, rng, state_size=16) for rate in _GROWTH_RATES},
    "starts near a saddle": lambda n, rng: _saddle_case(None, n, rng, state_size=32, starts_near=True),
    "competition, starts near a saddle": _competition_saddle_case,
}
MISLEADING = tuple(name for name in FAMILIES if name.startswith("tie, ") or name.endswith("near a saddle"))


def make_case(family: str, seed: int, num_stimuli: int) -> Case:
    """One network of a family. The seed and the number of stimuli reproduce it."""
    return FAMILIES[family](num_stimuli, np.random.default_rng([seed, zlib.crc32(family.encode())]))
