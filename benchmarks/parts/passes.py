"""The passes that are timed: two layers by width, and two layers with sweeps, trained where that is quick."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.parts.problems import Problem
from rnn2ff.approximators import Approximator, Refined, TwoLayer
from rnn2ff.data import key_for, solve_pairs
from rnn2ff.networks import best_sweep
from rnn2ff.records import timed
from rnn2ff.steady_state import Plan
from rnn2ff.training import Trainer


class Pass(NamedTuple):
    """An approximator, and what it took to make it.

    Attributes:
        approximator: the two layers, with or without sweeps.
        num_sweeps: after the two layers.
        is_trained: or random, where only the time is of interest.
        data_seconds: to solve the stimuli that it was trained on.
        training_seconds: compilation included; with sweeps, that of the ones with fewer sweeps it began from.
    """

    approximator: Approximator
    num_sweeps: int
    is_trained: bool
    data_seconds: float = 0.0
    training_seconds: float = 0.0

    @property
    def about(self) -> dict:
        """By which its rows are known."""
        return {"width": self.approximator.width, "num_sweeps": self.num_sweeps, "is_trained": self.is_trained}


def train_passes(
    problem: Problem,
    plan: Plan,
    *,
    widths: tuple[int, ...],
    sweeps: tuple[int, ...],
    num_steps: int,
    seed: int,
) -> list[Pass]:
    """Distilled from solved stimuli.

    Args:
        problem: its network, with the stimuli to train on.
        plan: how to solve them.
        widths: of two layers alone, in multiples of the number of units.
        sweeps: after two layers as wide as the network, ascending; each begins from the one before.
        num_steps: of each training.
        seed: of the training.
    """
    size = problem.network.state_size
    pairs, data_seconds = timed(lambda: solve_pairs(problem.network, problem.stimuli, solver=plan))
    trainer = Trainer(problem.network, pairs, num_steps=num_steps, key=jr.key(seed))
    found = []
    for width in widths:
        trained = trainer.two_layer(width * size)
        found.append(Pass(trained.approximator, 0, True, data_seconds, trained.attempt.seconds))
    start, seconds = None, 0.0
    for num_sweeps in sweeps:
        trained = trainer.refined(size, num_sweeps, start)
        start, seconds = trained.approximator, seconds + trained.attempt.seconds
        found.append(Pass(start, num_sweeps, True, data_seconds, seconds))
    return found


def random_passes(
    problem: Problem, states: np.ndarray, *, widths: tuple[int, ...], sweeps: tuple[int, ...], seed: int
) -> list[Pass]:
    """With random layers, for the time alone; the sweeps are the network's own.

    Args:
        problem: its network, with stimuli.
        states: the steady states of the first of them.
        widths: of two layers alone, in multiples of the number of units.
        sweeps: after two layers as wide as the network.
        seed: of the weights.
    """
    network, key = problem.network, jr.key(seed)
    size, channels = network.state_size, network.stimulus_size

    def two_layer(width: int, purpose: str, is_rectified: bool) -> TwoLayer:
        return TwoLayer(channels, width, size, is_rectified=is_rectified, key=key_for(key, purpose))

    found = [Pass(two_layer(width * size, f"width {width}", True), 0, False) for width in widths]
    if sweeps:
        sweep = best_sweep(network, jnp.asarray(states, network.dtype), jnp.asarray(problem.stimuli[: len(states)]))
        layers = two_layer(size, "before sweeps", False)
        found += [Pass(Refined(layers, network, sweep, num_sweeps=each), each, False) for each in sweeps]
    return found
