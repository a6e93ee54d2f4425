"""What is said of several seeds, against closed forms."""

import numpy as np
import pytest

from experiments._seeds import growth_exponent, spread, with_interval
from experiments.drawings.random_networks import needed


def test_an_interval_is_that_of_students_table():
    mean, low, high = spread([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5  # the 97.5 % point of two degrees of freedom, times the standard error
    assert (mean, low, high) == pytest.approx((2.0, 2.0 - half, 2.0 + half), rel=1e-6)


def test_intervals_cover_the_truth_as_often_as_they_say():
    draws = np.random.default_rng(0).standard_normal((4000, 5))
    covered = np.mean([low < 0 < high for _, low, high in map(spread, draws)])
    assert covered == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / 4000) ** 0.5)


def test_one_seed_has_no_interval():
    mean, low, high = spread([3.0])
    assert mean == 3.0
    assert np.isnan([low, high]).all()
    assert with_interval([3.0]) == "3.0"


def test_an_interval_of_percentages_does_not_go_below_zero():
    assert with_interval([0.01, 0.03], ".1f", 100) == "2.0 [0.0, 14.7]"
    assert with_interval([0.0, 0.0], ".1f", 100) == "0.0 ± 0.0"
    assert with_interval([-1.0, 1.0]) == "0.0 ± 12.7"  # no percentage
    assert with_interval([0.97, 0.99], ".1f", 100, largest=100) == "98.0 [85.3, 100.0]"
    assert with_interval([0.97, 0.99], ".1f", 100) == "98.0 ± 12.7"  # an error may be larger
    assert with_interval([0.99999, 1.0], ".1f", 100, largest=100) == "100.0 ± 0.0"


def test_a_power_law_is_found_with_an_interval_of_no_width():
    sizes = np.array([2.0, 4.0, 16.0])
    values = np.array([1.0, 5.0])[None] * sizes[:, None] ** -1.5
    assert growth_exponent(sizes, values) == pytest.approx((-1.5, -1.5, -1.5))


def test_the_cost_that_is_needed_is_the_first_whose_mean_error_is_within_the_target():
    row = {"two layers": {"nrmse": [[0.09, 0.03], [0.05, 0.03], [0.001, 0.001]]}}
    assert needed(row, "two layers", 0.05) == 1
    assert needed(row, "two layers", 0.01) == 2
    assert needed(row, "two layers", 1e-4) is None
