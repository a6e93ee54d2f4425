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
    """An approximator, and the time it took to train it.

    Attributes:
        approximator: the two layers, with or without sweeps.
        num_sweeps: after the two layers.
        is_trained: whether it is trained; otherwise it is random, and only timed.
        data_seconds: to solve the stimuli that it was trained on.
        training_seconds: compilation included; with sweeps, also those of the passes with fewer sweeps it started from.
    """

    approximator: Approximator
    num_sweeps: int
    is_trained: bool
    data_seconds: float = 0.0
    training_seconds: float = 0.0

    @property
    def about(self) -> dict:
        """The entries that identify its rows."""
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
    """Train approximators on solved stimuli.

    Args:
        problem: its network, with the stimuli to train on.
        plan: of the solver for these stimuli.
        widths: of two layers alone, in multiples of the number of units.
        sweeps: after two layers as wide as the network, ascending. The best of equal cost may have other sizes; each
            training starts from the one before where it can.
        num_steps: of each training.
        seed: of the training.
    """
    size = problem.network.state_size
    pairs, data_seconds = timed(lambda: solve_pairs(problem.network, problem.stimuli, solver=plan))
    trainer = Trainer(problem.network, pairs, num_steps=num_steps, key=jr.key(seed))
    passes = []
    for width in widths:
        trained = trainer.two_layer(width * size)
        passes.append(Pass(trained.approximator, 0, True, data_seconds, trained.attempt.seconds))
    start, seconds = None, 0.0
    for num_sweeps in sweeps:
        num_products = size * (problem.network.stimulus_size + size) + (num_sweeps + 1) * size**2
        trained = trainer.refined_at(num_products, start=start)
        start, seconds = trained.approximator, seconds + trained.attempt.seconds
        passes.append(Pass(start, start.num_sweeps, True, data_seconds, seconds))
    return passes


def random_passes(
    problem: Problem, states: np.ndarray, *, widths: tuple[int, ...], sweeps: tuple[int, ...], seed: int
) -> list[Pass]:
    """Approximators with random layers, for timing alone; their sweeps are those of the network.

    Args:
        problem: its network, with stimuli.
        states: the steady states of the first of them.
        widths: of two layers alone, in multiples of the number of units.
        sweeps: after two layers as wide as the network; the passes have two more without these, at equal cost.
        seed: of the weights.
    """
    network, key = problem.network, jr.key(seed)
    size, channels = network.state_size, network.stimulus_size

    def two_layer(width: int, purpose: str, is_rectified: bool) -> TwoLayer:
        return TwoLayer(channels, width, size, is_rectified=is_rectified, key=key_for(key, purpose))

    passes = [Pass(two_layer(width * size, f"width {width}", True), 0, False) for width in widths]
    if sweeps:
        sweep = best_sweep(network, jnp.asarray(states, network.dtype), jnp.asarray(problem.stimuli[: len(states)]))
        layers = two_layer(0, "before sweeps", False)
        passes += [Pass(Refined(layers, network, sweep, num_sweeps=number + 2), number + 2, False) for number in sweeps]
    return passes
