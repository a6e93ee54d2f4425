import numpy as np
import pytest

from rnn2ff import accuracy, competition
from rnn2ff.evaluation import nrmse_interval


def test_nrmse_and_r_squared_are_their_definitions():
    rng = np.random.default_rng(0)
    target, predicted = rng.normal(size=(50, 3)) + [0, 5, -5], rng.normal(size=(50, 3))
    received = accuracy(predicted, target)
    errors = [(predicted[i, j] - target[i, j]) ** 2 for i in range(50) for j in range(3)]
    means = [sum(target[i, j] for i in range(50)) / 50 for j in range(3)]
    deviations = [(target[i, j] - means[j]) ** 2 for i in range(50) for j in range(3)]
    assert received.nrmse == pytest.approx((sum(errors) / sum(deviations)) ** 0.5)
    assert received.r_squared == pytest.approx(1 - sum(errors) / sum(deviations))
    assert received.num_samples == 50


def test_predicting_the_mean_has_an_error_of_one_and_the_truth_of_zero():
    target = np.random.default_rng(1).normal(size=(40, 2))
    assert accuracy(np.tile(target.mean(axis=0), (40, 1)), target).nrmse == pytest.approx(1)
    assert accuracy(target, target).nrmse == 0


def test_the_worst_unit_is_the_one_with_the_largest_error_on_its_own_scale():
    target = np.random.default_rng(2).normal(size=(100, 3)) * [1, 100, 1]
    predicted = target + np.array([0.1, 1, 0.5])
    received = accuracy(predicted, target)
    assert received.worst_unit == 2
    np.testing.assert_allclose(received.unit_nrmse, np.array([0.1, 1, 0.5]) / target.std(axis=0))


def test_a_silent_unit_that_is_predicted_silent_has_no_error_of_its_own():
    target = np.array([[1.0, 0.0], [2.0, 0.0]])
    received = accuracy(target, target)
    assert np.isnan(received.unit_nrmse[1])
    assert received.worst_unit == 0
    assert np.isinf(accuracy(target + [0, 0.1], target).unit_nrmse[1])


@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [
        (np.ones((3, 2)), np.ones((3, 3)), r"predicted.*\(3, 3\), got \(3, 2\)"),
        (np.full((3, 2), np.nan), np.eye(3, 2), "predicted.*rows 0, 1, 2"),
        (np.ones((3, 2)), np.ones((3, 2)), "target.*never varies"),
        (np.ones((0, 2)), np.ones((0, 2)), "at least one sample"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_rates_that_cannot_be_compared_are_refused(predicted, target, message):
    with pytest.raises(ValueError, match=message):
        accuracy(predicted, target)


class TestCompetition:
    target = np.array([[3, 0, 0], [0, 2, 0], [0, 0, 1], [5, 4, 0], [0, 0, 0]], float)
    drive = np.array([[1, 0.5, 0], [1, 0.9, 0], [0, 0, 1], [0.5, 0.52, 0], [0, 0, 0]], float)

    def test_agreement_is_counted_beside_the_trivial_guess(self):
        predicted = self.target + np.array([[0, 0, 0], [0, 0, 0], [2, 0, 0], [0, 0, 0], [0, 0, 0]])
        received = competition(predicted, self.target, self.drive)
        assert received.agreement == 3 / 4
        assert received.trivial_agreement == 2 / 4
        assert received.num_without_winner == 1

    def test_margins_are_of_the_stimulus(self):
        received = competition(self.target, self.target, self.drive, margin_edges=(0.0, 0.05, 0.3, np.inf))
        assert list(received.num_by_margin) == [1, 1, 2]
        assert list(received.agreement_by_margin) == [1, 1, 1]
        assert list(received.trivial_agreement_by_margin) == [0, 0, 1]

    def test_an_empty_bin_has_no_agreement(self):
        received = competition(self.target, self.target, self.drive, margin_edges=(0.0, 10.0, np.inf))
        assert np.isnan(received.agreement_by_margin[1])

    @pytest.mark.parametrize(
        ("target", "drive", "message"),
        [
            (np.zeros((2, 3)), np.ones((2, 3)), "no winner"),
            (np.ones((2, 1)), np.ones((2, 1)), "too few competitors"),
            (np.eye(2), np.ones((2, 3)), r"drive.*\(2, 2\), got \(2, 3\)"),
        ],
    )
    @pytest.mark.usefixtures("as_a_user")
    def test_competitions_without_competitors_are_refused(self, target, drive, message):
        with pytest.raises(ValueError, match=message):
            competition(target, target, drive)


class TestInterval:
    def test_it_covers_the_error_of_the_whole_distribution_as_often_as_it_says(self):
        """Errors of deviation .3 on targets of deviation 1, so that the true NRMSE is .3."""
        num_covered = 0
        for seed in range(100):
            rng = np.random.default_rng(seed)
            target = rng.normal(size=(60, 2))
            low, high = nrmse_interval(target + 0.3 * rng.normal(size=(60, 2)), target, num_resamples=200)
            num_covered += low < 0.3 < high
        assert 85 <= num_covered <= 99

    def test_of_rows_that_are_all_alike_it_is_a_point(self):
        target = np.array([[1.0], [-1.0]] * 50)
        low, high = nrmse_interval(target + 0.1, target)
        assert low == pytest.approx(0.1)
        assert high == pytest.approx(0.1)
