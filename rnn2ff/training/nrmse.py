"""The error of predicted rates, and its tails."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from rnn2ff._checks import check_finite, check_on_host, check_shape, fail, shape_of
from rnn2ff.records import in_percent, names_of_fields

_LEVEL = 0.95  # of bootstrap intervals


class Accuracy(NamedTuple):
    """The error of predicted rates with respect to the steady rates.

    Attributes:
        nrmse: root mean squared error over all entries, divided by the standard deviation about per-unit means; 1 is
            the error of predicting the mean of each unit.
        r_squared: share of the variance about per-unit means that is explained, `1 - nrmse ** 2`.
        unit_nrmse: root mean squared error of each unit over its own standard deviation; for a unit that
            never varies, NaN if it is predicted exactly, else infinite.
        worst_unit: index of the largest `unit_nrmse`.
        percentile_95: the error that 95 % of the samples stay below, in the units of `nrmse`: the norm of a sample's
            error over the root of the summed variances of the units.
        num_samples: samples compared.
    """

    nrmse: float
    r_squared: float
    unit_nrmse: Float[np.ndarray, " rate"]
    worst_unit: int
    percentile_95: float
    num_samples: int

    __dir__ = names_of_fields

    def __repr__(self) -> str:
        worst = self.unit_nrmse[self.worst_unit]
        tails = f"worst unit {self.worst_unit} at {worst:.4g}, 95 % of {self.num_samples} samples below "
        return f"Accuracy(nrmse={self.nrmse:.4g}, r_squared={self.r_squared:.4g}, {tails}{self.percentile_95:.4g})"

    def headline(self, num_stimuli: int, interval: tuple[float, float] | None = None) -> str:
        """The error and, if not all stimuli come to rest, the share that does, rounded down."""
        share = math.floor(1e4 * self.num_samples / num_stimuli) / 100
        judged = f"; of the {share:.2f} % that come to rest" if self.num_samples < num_stimuli else ""
        between = "" if interval is None else f"; {in_percent(interval[0])} to {in_percent(interval[1])} %"
        return f"{in_percent(self.nrmse)} % (NRMSE{between}){judged}"

    def lines(self) -> dict[str, str]:
        """The tails of the errors, by name."""
        return {
            "worst unit": f"{self.worst_unit}, {in_percent(self.unit_nrmse[self.worst_unit])} %",
            "worst stimuli": f"one in 20 is off by {in_percent(self.percentile_95)} % or more",
        }


def accuracy(predicted: Float[ArrayLike, "batch rate"], target: Float[ArrayLike, "batch rate"]) -> Accuracy:
    """Compare predicted rates with steady rates, in float64.

    Args:
        predicted: the approximator's rates, one row per sample.
        target: the steady rates.

    Raises:
        ValueError: if shapes differ, a value is not finite, there is no sample, or the target never varies.
    """
    predicted, target = compared(predicted, target)
    # Errors are relative. Scaled by a power of two, which changes no digit, squares neither overflow nor vanish.
    largest = max(np.abs(predicted).max(initial=0), np.abs(target).max(initial=0))
    predicted, target = (np.ldexp(rates, -np.frexp(largest)[1]) for rates in (predicted, target))
    squared_errors = (predicted - target) ** 2
    check_varies("target", target)
    deviations = (target - target.mean(axis=0)) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        unit_nrmse = np.sqrt(squared_errors.mean(axis=0) / deviations.mean(axis=0))
    unexplained = squared_errors.sum() / deviations.sum()
    return Accuracy(
        nrmse=float(np.sqrt(unexplained)),
        r_squared=float(1 - unexplained),
        unit_nrmse=unit_nrmse,
        worst_unit=int(np.nanargmax(unit_nrmse)),
        percentile_95=float(np.sqrt(np.quantile(squared_errors.sum(axis=1), 0.95) / deviations.mean(axis=0).sum())),
        num_samples=len(target),
    )


def nrmse_interval(
    predicted: Float[ArrayLike, "batch rate"], target: Float[ArrayLike, "batch rate"], *, num_resamples: int = 1000
) -> tuple[float, float]:
    """A bootstrap interval of `Accuracy.nrmse` over samples, at 95 %."""
    predicted, target = compared(predicted, target)
    check_varies("target", target)
    errors = ((predicted - target) ** 2).sum(axis=1)
    deviations = ((target - target.mean(axis=0)) ** 2).sum(axis=1)
    counts = np.random.default_rng(0).multinomial(len(target), np.full(len(target), 1 / len(target)), num_resamples)
    nrmse = np.sqrt((counts @ errors) / np.maximum(counts @ deviations, np.finfo(float).tiny))
    low, high = np.quantile(nrmse, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def deviation_of(rates: Float[ArrayLike, "batch rate"]) -> float:
    """The standard deviation of rates about per-unit means, in float64."""
    return float(np.sqrt(np.asarray(rates, np.float64).var(axis=0).mean()))


def check_varies(name: str, rates: Float[ArrayLike, "batch rate"]) -> None:
    """Errors are measured against the variation of the rates, so there must be some."""
    if not np.ptp(np.asarray(rates), axis=0).any():
        raise fail(name, "is constant", "rates that differ between samples", f"the same rates in all {len(rates)}")


def compared(predicted: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64, after checking that they are comparable."""
    check_on_host("the comparison of rates", "compare what is returned, outside", predicted, target)
    shape = shape_of("target", target)
    if len(shape) != 2 or shape[0] == 0:
        raise fail("target", "has the wrong shape", "(samples, rates), at least one sample", shape)
    check_shape("predicted", predicted, shape)
    check_finite("predicted", predicted)
    check_finite("target", target)
    return np.asarray(predicted, np.float64), np.asarray(target, np.float64)
