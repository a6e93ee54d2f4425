"""What is said of several seeds, against closed forms."""

import numpy as np
import pytest

from experiments._seeds import growth_exponent, spread, with_interval
from experiments.drawings.random_networks import widths_needed


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


def test_a_power_law_is_found_with_an_interval_of_no_width():
    sizes = np.array([2.0, 4.0, 16.0])
    values = np.array([1.0, 5.0])[None] * sizes[:, None] ** -1.5
    assert growth_exponent(sizes, values) == pytest.approx((-1.5, -1.5, -1.5))


def test_the_width_that_is_needed_is_read_off_between_widths():
    widths = [0.5, 1.0, 4.0]
    row = {"widths": widths, "nrmse": [[0.1 / width, 0.2 / width] for width in widths]}  # 5 % at 2 and at 4
    assert widths_needed(row) == pytest.approx([2.0, 4.0])


def test_a_width_out_of_range_is_said_in_words():
    assert widths_needed({"widths": [1.0, 2.0], "nrmse": [[0.2, 0.2], [0.1, 0.04]]}) == "> 2 N"
    assert widths_needed({"widths": [1.0, 2.0], "nrmse": [[0.04], [0.03]]}) == "<= 1 N"
