import jax
import numpy as np
import pytest

from rnn2ff import accuracy, competition, information_transformation, noise_rejection, ring_angles, ring_bump
from rnn2ff.training.nrmse import nrmse_interval


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


def test_the_tail_is_the_error_that_one_sample_in_20_exceeds():
    target = np.stack([np.linspace(-1, 1, 101), np.zeros(101)], axis=1)  # of variance .34
    errors = np.linspace(0, 1, 101)  # their 95 % point is .95
    received = accuracy(target + np.stack([0.6 * errors, 0.8 * errors], axis=1), target)
    assert received.percentile_95 == pytest.approx(0.95 / 0.34**0.5)


def test_the_headline_never_rounds_a_missing_stimulus_away():
    target = np.array([[1.0], [2.0]])
    assert accuracy(target, target).headline(2) == "0.00 % (NRMSE)"
    many = accuracy(target, target)._replace(num_samples=99_999)
    assert many.headline(100_000) == "0.00 % (NRMSE); of the 99.99 % that come to rest"
    assert many.headline(99_999, (0.001, 0.02)) == "0.00 % (NRMSE; 0.10 to 2.00 %)"


@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [
        (np.ones((3, 2)), np.ones((3, 3)), r"predicted.*\(3, 3\), got \(3, 2\)"),
        (np.full((3, 2), np.nan), np.eye(3, 2), "predicted.*rows 0, 1, 2"),
        (np.ones((3, 2)), np.ones((3, 2)), "target.*is constant"),
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

    def test_the_set_of_active_competitors_agrees_only_as_a_whole(self):
        """Of the four samples with a winner the first gains a competitor, and the last one too faint to count."""
        predicted = self.target + np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0.1], [0, 0, 0]])
        received = competition(predicted, self.target, self.drive)
        assert received.agreement == 1
        assert received.set_agreement == 3 / 4
        assert received.trivial_set_agreement == 2 / 4  # wrong about the second winner, and about two being active

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


def bumps_at(angles, num_units=16):
    return np.asarray(jax.vmap(lambda angle: ring_bump(angle, num_units))(np.asarray(angles, float)))


class TestInformationTransformation:
    def test_errors_are_those_of_the_angles_around_the_ring(self):
        steady, predicted, ideal = np.array([0.05, 3.0, 6.2]), np.array([6.25, 3.1, 6.2]), np.array([0.1, 3.0, 0.0])
        received = information_transformation(bumps_at(predicted), bumps_at(steady), ideal)
        apart = sorted([0.05 - 6.25 + 2 * np.pi, 0.1, 0.0])
        assert received.approximation.median == pytest.approx(apart[1], abs=1e-4)
        assert received.approximation.percentile_95 == pytest.approx(0.1 * apart[1] + 0.9 * apart[2], abs=1e-4)
        assert received.recurrent.median == pytest.approx(0.05, abs=1e-4)
        assert received.feedforward.median == pytest.approx(0.1, abs=1e-4)
        assert received.num_silent == received.num_missed == 0

    def test_a_ring_that_only_the_approximator_silences_is_half_a_turn_off_and_counted(self):
        steady = bumps_at([0.0, 1.0, 2.0])
        predicted = steady * [[0.0], [1.0], [0.0]]
        received = information_transformation(predicted, steady, np.arange(3.0))
        assert received.num_missed == 2
        assert received.approximation.median == pytest.approx(np.pi)

    def test_a_silent_ring_points_nowhere_and_is_counted(self):
        steady = bumps_at([0.0, 1.0]) * [[1.0], [0.0]]
        received = information_transformation(bumps_at([0.3, 5.0]), steady, np.arange(2.0))
        assert received.num_silent == 1
        assert received.approximation.percentile_95 == pytest.approx(0.3, abs=1e-4)

    def test_rings_that_are_always_silent_are_refused(self):
        with pytest.raises(ValueError, match="silent in every sample"):
            information_transformation(bumps_at([0.0]), np.zeros((1, 16)), np.zeros(1))


class TestNoiseRejection:
    def test_it_is_the_ratio_of_powers_in_decibels(self):
        rng = np.random.default_rng(3)
        clean, clean_rates = rng.normal(size=(20, 5)), rng.normal(size=(20, 4))
        noisy, rates = clean + rng.normal(size=(20, 5)), clean_rates + 0.1 * rng.normal(size=(20, 4))
        ratios = []
        for some, other in [(noisy, clean), (rates, clean_rates)]:
            noise = sum((a - b) ** 2 for a, b in zip(some.ravel(), other.ravel()))
            signal = sum((value - row.mean()) ** 2 for row in other for value in row)
            ratios.append(10 * np.log10(noise / signal))
        received = noise_rejection(noisy, clean, rates, clean_rates)
        assert received == pytest.approx((*ratios, ratios[0] - ratios[1]))

    def test_a_population_that_averages_rejects_as_much_as_averaging_does(self):
        """A cosine is left as it is, and of white noise on 64 units 2 of 64 parts pass: 15.05 dB are rejected."""
        angles = np.asarray(ring_angles(64), float)
        filtered = 2 * np.cos(angles[:, None] - angles) / 64
        clean = np.cos(angles - np.linspace(0, 6, 4_000)[:, None])
        noisy = clean + np.random.default_rng(4).normal(size=clean.shape)
        received = noise_rejection(noisy, clean, noisy @ filtered, clean)
        assert received.rejected == pytest.approx(10 * np.log10(64 / 2), abs=0.1)

    def test_samples_without_a_signal_are_refused(self):
        with pytest.raises(ValueError, match="clean_rates.*no signal"):
            noise_rejection(np.eye(2), np.eye(2), np.eye(2), np.ones((2, 2)))
