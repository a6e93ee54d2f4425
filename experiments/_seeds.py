"""Statistics over seeds: a mean and its 95 % interval, and the exponent with which a quantity grows. Needs no JAX."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

_LEVEL = 0.95  # of confidence


class Spread(NamedTuple):
    """A mean over seeds, and its interval by Student's t, whose limits are NaN if there is only one seed."""

    mean: float
    low: float
    high: float


def spread(values: ArrayLike) -> Spread:
    """The mean over seeds and its 95 % interval.

    Args:
        values: one per seed; they are treated as independent draws from a normal distribution.
    """
    values = np.asarray(values, float)
    mean, number = values.mean(), len(values)
    if number < 2:
        return Spread(float(mean), np.nan, np.nan)
    half = stdtrit(number - 1, (1 + _LEVEL) / 2) * values.std(ddof=1) / number**0.5
    return Spread(float(mean), float(mean - half), float(mean + half))


def growth_exponent(sizes: ArrayLike, values: ArrayLike) -> Spread:
    """The exponent p of `values ~ sizes^p`: a straight line in logarithms for each seed, then the spread of its slope.

    Args:
        sizes: at least two, positive.
        values: shape (sizes, seeds), positive.
    """
    return spread(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def with_interval(values: ArrayLike, form: str = ".1f", scale: float = 1.0, largest: float = np.inf) -> str:
    """The mean and half the width of its interval, as text: `4.2 ± 0.3`.

    An interval that exceeds the possible range is written with its limits: `3.8 [0.0, 11.4]`. Percentages (a scale of
    100) cannot be below 0, and shares cannot be above their largest value.
    """
    mean, low, high = spread(scale * np.asarray(values, float))
    smallest = 0 if scale == 100 else -np.inf
    if low < smallest <= mean or high > largest >= mean:
        ends = f"[{max(low, smallest):{form}}, {min(high, largest):{form}}]"
        if ends != f"[{mean:{form}}, {mean:{form}}]":
            return f"{mean:{form}} {ends}"
    return f"{mean:{form}}" if np.isnan(low) else f"{mean:{form}} ± {(high - low) / 2:{form}}"
