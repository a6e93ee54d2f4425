"""From a recurrent network and a distribution of stimuli to a tested feed-forward network."""

import time
from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import ArrayLike, Float, PRNGKeyArray

from rnn2ff._checks import check_at_least, check_stimuli
from rnn2ff.approximators import TwoLayer, predict
from rnn2ff.datasets import Pairs, SampleStimulus, hold_out, key_for, sample_stimuli, solve_pairs
from rnn2ff.evaluation import Accuracy, accuracy, check_varies
from rnn2ff.files import plain
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.threshold_linear import has_rectified_rates
from rnn2ff.steady_state import AbstractSteadyStateSolver
from rnn2ff.training import TrainingRun, train

_HELD_OUT_SHARE = 0.1  # of an array of stimuli, for the test


class Report(NamedTuple):
    """What a distillation did, and how good its approximator is.

    Attributes:
        accuracy: on fresh stimuli, solved for the purpose.
        width: hidden units.
        num_training_pairs: pairs trained and validated on.
        status_counts: how each solve ended, for `training` and for `test`; all but `converged` were left out.
        training: the course of the training.
        seconds: wall-clock seconds spent on solving and on training, compilation included.
    """

    accuracy: Accuracy
    width: int
    num_training_pairs: int
    status_counts: dict[str, dict[str, int]]
    training: TrainingRun
    seconds: dict[str, float]

    def summary(self) -> dict[str, object]:
        """The report as a record for a file, without the weights."""
        training = {name: value for name, value in self.training._asdict().items() if name != "approximator"}
        return plain({**self._asdict(), "training": training})


class Distillation(NamedTuple):
    """An approximator, and its report.

    Attributes:
        approximator: maps one stimulus to the steady rates.
        report: how good it is.
        test: the pairs it was judged on, and never saw.
    """

    approximator: TwoLayer
    report: Report
    test: Pairs


def distill(
    network: RecurrentNetwork,
    stimuli: SampleStimulus | Float[ArrayLike, "batch stimulus"],
    *,
    test_stimuli: Float[ArrayLike, "test stimulus"] | None = None,
    width: int | None = None,
    num_samples: int = 20_000,
    num_test_samples: int = 2_000,
    num_steps: int = 20_000,
    bypass: bool = False,
    solver: AbstractSteadyStateSolver | None = None,
    max_steps: int = 4096,
    progress: bool = False,
    key: PRNGKeyArray,
) -> Distillation:
    """Solve stimuli, train a two-layer network on the steady rates, and judge it on stimuli it never saw.

    Args:
        network: the recurrent network.
        stimuli: draws one stimulus from a key, or an array of stimuli of which each is used once.
        test_stimuli: what to judge on, by default fresh draws, or a random tenth of the array, held out.
        width: hidden units, by default 4 times the number of rates.
        num_samples: how many to draw for training and validation, where `stimuli` draws.
        num_test_samples: how many to draw for the test, where `stimuli` draws.
        num_steps: optimizer steps.
        bypass: whether the approximator has linear weights from the stimulus to the rates.
        solver: as for `solve_steady_states`.
        max_steps: bound on the steps of each solve.
        progress: whether to show progress bars, on standard error.
        key: a PRNG key, the only source of randomness.

    Raises:
        ValueError: if an option is out of range, the stimuli do not fit the network, or the steady rates of the
            test stimuli are all the same.
        RuntimeError: if no stimulus leads to a steady state.
    """
    width = 4 * network.rate_size if width is None else width
    check_at_least("width", width, 1)
    check_at_least("num_samples", num_samples, 2)
    check_at_least("num_test_samples", num_test_samples, 2)
    check_at_least("num_steps", num_steps, 1)

    training_stimuli, test_stimuli = _split(stimuli, test_stimuli, num_samples, num_test_samples, key)
    check_stimuli(training_stimuli, network.stimulus_size)
    check_stimuli(test_stimuli, network.stimulus_size, "test_stimuli")

    started = time.perf_counter()
    pairs = solve_pairs(network, training_stimuli, solver=solver, max_steps=max_steps, progress=progress)
    test = solve_pairs(network, test_stimuli, solver=solver, max_steps=max_steps, progress=progress)
    check_varies("steady rates of the test stimuli", test.rates)
    solved = time.perf_counter()
    approximator = TwoLayer(
        network.stimulus_size,
        width,
        network.rate_size,
        is_rectified=has_rectified_rates(network),
        bypass=bypass,
        key=key_for(key, "initialization"),
    )
    approximator = _as_dtype(approximator, network)
    run = train(
        approximator,
        pairs.stimuli,
        pairs.rates,
        num_steps=num_steps,
        progress=progress,
        key=key_for(key, "training"),
    )
    trained = time.perf_counter()
    report = Report(
        accuracy=accuracy(predict(run.approximator, test.stimuli), test.rates),
        width=width,
        num_training_pairs=len(pairs),
        status_counts={"training": pairs.status_counts, "test": test.status_counts},
        training=run,
        seconds={"solving": solved - started, "training": trained - solved},
    )
    return Distillation(run.approximator, report, test)


def _split(stimuli, test_stimuli, num_samples, num_test_samples, key) -> tuple[ArrayLike, ArrayLike]:
    """The stimuli to train on and those to judge on, with none in both."""
    if callable(stimuli):
        training = sample_stimuli(stimuli, num_samples, key=key_for(key, "training stimuli"))
        if test_stimuli is None:
            test_stimuli = sample_stimuli(stimuli, num_test_samples, key=key_for(key, "test stimuli"))
        return training, test_stimuli
    if test_stimuli is not None:
        return stimuli, test_stimuli
    return hold_out(stimuli, _HELD_OUT_SHARE, key=key_for(key, "held-out stimuli"))


def _as_dtype(approximator: TwoLayer, network: RecurrentNetwork) -> TwoLayer:
    return jax.tree.map(lambda leaf: leaf.astype(network.dtype) if eqx.is_inexact_array(leaf) else leaf, approximator)
