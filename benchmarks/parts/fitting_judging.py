"""How far the rates of a method are from those of a target, on fresh stimuli."""

from typing import NamedTuple

import jax
import numpy as np

from benchmarks.parts.fitting_marks import LEAST_AGREEMENT
from benchmarks.parts.targets import NUM_PARTITIONS, UNITS_PER_PARTITION, Target
from experiments._errors import errors_of
from rnn2ff.approximators import Approximator, predict
from rnn2ff.networks import partition_means
from rnn2ff.training import Trained, Trainer, competition

_MARGIN_EDGES = (0.0, 0.05, 0.1, 0.15, float("inf"))


class Data(NamedTuple):
    """A target's pairs.

    Attributes:
        trainer: with the pairs to train and validate on.
        test_stimuli: fresh ones.
        test_rates: their steady rates, in float64.
        seconds: to draw and solve what is trained on.
        num_without: samples without a steady state, left out of training and test.
    """

    trainer: Trainer
    test_stimuli: jax.Array
    test_rates: np.ndarray
    seconds: float
    num_without: int


def judged(method: str, target: Target, data: Data, trained: Trained, seconds: float | None = None) -> dict:
    approximator: Approximator = trained.approximator
    row = judged_rates(method, target, data, predict(approximator, data.test_stimuli))
    seconds = trained.attempt.seconds if seconds is None else seconds
    return {
        **row,
        "width": trained.attempt.width,
        "num_sweeps": trained.attempt.num_sweeps,
        "num_products": trained.attempt.num_products,
        "seconds": seconds,
        "seconds_with_data": seconds + data.seconds,
    }


def judged_rates(method: str, target: Target, data: Data, rates: jax.Array) -> dict:
    rates = np.asarray(rates, np.float64)
    row = {
        "method": method,
        **errors_of(rates, data.test_rates),
        "num_dead_units": int(((np.ptp(rates, axis=0) == 0) & (np.ptp(data.test_rates, axis=0) > 0)).sum()),
        "num_test_samples": len(rates),
        "num_without_steady_state": data.num_without,
    }
    if target.name in LEAST_AGREEMENT:
        sizes = (NUM_PARTITIONS, UNITS_PER_PARTITION)
        drive = partition_means(np.asarray(data.test_stimuli), *sizes)
        means = [np.asarray(partition_means(activity, *sizes)) for activity in (rates, data.test_rates)]
        judged = competition(*means, drive, margin_edges=_MARGIN_EDGES)
        row |= {
            "agreement": judged.agreement,
            "trivial_agreement": judged.trivial_agreement,
            "agreement_above_margin": float(judged.agreement_by_margin[-1]),
        }
    return row
