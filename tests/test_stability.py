"""Constants that hold for every stimulus, and the motion near one state."""

import contextlib
import itertools
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats
from problems import default_float
from threadpoolctl import threadpool_info, threadpool_limits

from rnn2ff import (
    PowerLaw,
    RateForm,
    ctln,
    partition_competition,
    random_rate_network,
    random_threshold_linear,
    rate_network,
    solve_steady_state,
    threshold_linear,
    threshold_linear_rate,
    wong_wang,
)
from rnn2ff.analysis import linearize, velocities_on_plane
from rnn2ff.networks import best_metric, blas_threads, is_p_matrix, perron_bound, split_sweep, stability_constants

PRECISION = 1e-6 if default_float() == jnp.float64 else 1e-5  # of weights that are rounded to float32


def gaussian(size, gain=0.9, seed=0):
    return np.random.default_rng(seed).standard_normal((size, size)) * gain / size**0.5


def largest(weights, metric):
    """Of the symmetric part in a metric, the plain way."""
    root = np.diag(np.sqrt(metric))
    scaled = root @ weights @ np.linalg.inv(root)
    return np.linalg.eigvalsh((scaled + scaled.T) / 2).max()


class TestMonotonicity:
    @pytest.mark.parametrize("a", [0.5, 0.7, 0.95])
    def test_of_a_soft_competition_is_one_minus_the_self_excitation(self, a):
        constants = stability_constants(partition_competition(2, 3, num_inhibitory=2, self_excitation=a))
        assert constants.monotonicity == pytest.approx(1 - a, abs=PRECISION)
        assert constants.largest_monotonicity == pytest.approx(1 - a, abs=PRECISION)
        assert constants.has_one_fixed_point
        assert f"modulus {1 - a:.4g}" in constants.reason

    def test_no_metric_makes_a_hard_competition_monotone_and_some_stimulus_has_several_fixed_points(self):
        constants = stability_constants(partition_competition(2, 3, self_excitation=1.3))
        assert constants.monotonicity == 0
        assert constants.largest_monotonicity == pytest.approx(-0.3, abs=PRECISION)
        assert constants.has_one_fixed_point is False
        assert "no diagonal metric makes" in constants.reason

    @pytest.mark.parametrize("size", [2, 5, 12])
    def test_of_random_weights_is_proved_to_be_the_best_by_its_dual(self, size):
        for seed in range(4):
            weights = gaussian(size, seed=seed)
            best = best_metric(weights)
            assert best.largest == pytest.approx(largest(weights, best.metric), abs=1e-9)
            assert best.smallest <= best.largest < best.smallest + 1e-3
            assert best.largest <= largest(weights, np.ones(size)) + 1e-9

    def test_is_that_of_a_search_over_all_metrics_of_two_and_three_units(self):
        for seed in range(3):
            for size, number in [(2, 4001), (3, 161)]:
                weights = gaussian(size, seed=seed)
                logs = np.linspace(-4, 4, number)
                grid = np.exp(np.array(list(itertools.product(logs, repeat=size - 1))))
                roots = np.sqrt(np.concatenate([np.ones((len(grid), 1)), grid], axis=1))
                scaled = weights * roots[:, :, None] / roots[:, None, :]
                slow = np.linalg.eigvalsh((scaled + scaled.transpose(0, 2, 1)) / 2).max(axis=1).min()
                assert slow - 2e-2 < best_metric(weights).largest <= slow + 1e-6

    def test_is_a_bound_although_numbers_are_rounded(self):
        """The Rayleigh quotient of the top vector, in long doubles, comes as near as can be."""
        for seed in range(5):
            weights = gaussian(8, seed=seed)
            best = best_metric(weights)
            root = np.sqrt(best.metric)
            scaled = weights * root[:, None] / root
            vector = (np.linalg.eigh((scaled + scaled.T) / 2)[1][:, -1] / root).astype(np.longdouble)
            metric = best.metric.astype(np.longdouble)
            exact = (vector * metric * (weights.astype(np.longdouble) @ vector)).sum() / (metric * vector**2).sum()
            assert exact <= best.largest < exact + 1e-12

    def test_does_not_depend_on_the_units_rates_are_measured_in(self):
        weights, scale = gaussian(6), np.exp(np.random.default_rng(1).uniform(-2, 2, 6))
        one, other = best_metric(weights), best_metric(weights * scale[:, None] / scale)
        assert one.largest == pytest.approx(other.largest, abs=2e-4)

    def test_of_a_chain_without_feedback_is_near_one(self):
        constants = stability_constants(threshold_linear(floats(np.diag(np.full(3, 5.0), 1))))
        assert 0.9 < constants.monotonicity < 1
        assert constants.has_one_fixed_point

    def test_bounds_the_distance_of_fixed_points_of_two_stimuli(self, key):
        """alpha |r - r'| <= |u - u'| in the metric, for random exact pairs."""
        network = random_threshold_linear(6, gain=0.6, key=key)
        constants = stability_constants(network)
        assert constants.monotonicity > 0
        weights = np.asarray(network.params.recurrent_weights, np.float64)
        states = np.random.default_rng(0).normal(size=(200, 6))
        rates = np.maximum(states, 0)
        stimuli = states - rates @ weights.T

        def norms(vectors):
            return np.sqrt((constants.metric * vectors**2).sum(axis=1))

        ratios = norms(stimuli[1:] - stimuli[:-1]) / norms(rates[1:] - rates[:-1])
        assert ratios.min() >= constants.monotonicity


@pytest.mark.parametrize("size", [8, 1000])
def test_a_verdict_on_one_sample_needs_no_eigenvalues_and_no_host(size):
    """They would cost ten times the solve; the program is only traced."""
    network = threshold_linear(jnp.zeros((size, size)))
    program = str(jax.make_jaxpr(lambda stimulus: solve_steady_state(network, stimulus, throw=False))(jnp.ones(size)))
    assert re.search(r"= lu\b", program)  # of the implicit derivative, as the names are spelled here
    assert not re.findall(r"= (eigh?|svd|schur|\w*callback)\b", program)


def numbers_of_blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


class TestThreads:
    """Many small factorizations are made with one BLAS thread, since several wait for each other in busy loops."""

    def test_are_one_inside_and_as_before_outside(self):
        with threadpool_limits(limits=2, user_api="blas"):
            with blas_threads(50):
                assert numbers_of_blas_threads() == {1}
                with blas_threads(1024):
                    assert numbers_of_blas_threads() == {1}
                assert numbers_of_blas_threads() == {1}
            assert numbers_of_blas_threads() == {2}
            with blas_threads(1025):
                assert numbers_of_blas_threads() == {2}
            with contextlib.suppress(ZeroDivisionError), blas_threads(50):
                _ = 1 / 0
            assert numbers_of_blas_threads() == {2}

    def test_are_one_for_the_product_of_a_sweep_as_well(self, monkeypatch):
        """After it they would still wait in their loops while the solver runs."""
        seen, invert = set(), np.linalg.inv

        class Watched(np.ndarray):
            def __matmul__(self, other):
                seen.update(numbers_of_blas_threads())
                return np.asarray(self) @ other

        monkeypatch.setattr(np.linalg, "inv", lambda matrix: invert(matrix).view(Watched))
        with threadpool_limits(limits=2, user_api="blas"):
            split_sweep(threshold_linear(jnp.eye(8) / 2))
        assert seen == {1}

    def test_change_no_constant(self, monkeypatch):
        """The calls to LAPACK all see one thread, and the metric is the same with any number around them."""
        import rnn2ff.networks.spectra as module

        seen, decompose = set(), np.linalg.eigh

        def watched(matrix):
            seen.update(numbers_of_blas_threads())
            return decompose(matrix)

        found = []
        for limit in (1, 2):
            with threadpool_limits(limits=limit, user_api="blas"):
                found.append(best_metric(gaussian(20)))
        monkeypatch.setattr(module.np.linalg, "eigh", watched)
        best_metric(gaussian(4))
        assert seen == {1}
        assert found[0].largest == found[1].largest
        np.testing.assert_array_equal(found[0].metric, found[1].metric)


class TestContraction:
    def test_is_the_spectral_radius_of_the_absolute_weights(self):
        weights = np.abs(gaussian(9))
        bound, vector = perron_bound(weights)
        radius = np.abs(np.linalg.eigvals(weights)).max()
        assert radius <= bound < radius * (1 + 1e-9)
        assert (weights @ vector <= bound * vector).all()
        assert vector.max() == pytest.approx(1)

    def test_holds_for_rates_after_one_iteration(self, key):
        network = random_rate_network(7, gain=0.4, key=key)
        constants = stability_constants(network)
        assert constants.contraction < 1
        weights = np.asarray(network.params.recurrent_weights, np.float64)
        one, other = np.random.default_rng(0).normal(size=(2, 100, 7))

        def norms(vectors):
            return np.abs(vectors / constants.contraction_scale).max(axis=1)

        after = np.tanh(one @ weights.T) - np.tanh(other @ weights.T)
        assert (norms(after) <= constants.contraction * norms(one - other)).all()


class TestUniqueness:
    def test_a_p_matrix_is_recognized_by_its_minors(self):
        generator = np.random.default_rng(0)
        answers = []
        for _ in range(60):
            matrix = np.eye(4) - generator.standard_normal((4, 4)) * 0.6
            minors = [
                np.linalg.det(matrix[np.ix_(units, units)])
                for count in range(1, 5)
                for units in itertools.combinations(range(4), count)
            ]
            answers.append(min(minors) > 0)
            assert is_p_matrix(matrix) == answers[-1]
        assert 10 < sum(answers) < 50
        assert not is_p_matrix(np.zeros((2, 2)))
        assert not is_p_matrix(np.ones((2, 2)))

    def test_what_follows_is_said_in_words(self):
        """Of two units with weights to each other alone, I - W is a P-matrix if their product is below 1."""
        between = threshold_linear_rate(jnp.array([[0.0, 4.0, 0.0], [0.0, 0.0, 4.0], [-4.0, 0.0, 0.0]]))
        constants = stability_constants(between)
        assert constants.is_p_matrix
        assert constants.monotonicity == 0
        assert constants.has_one_fixed_point
        assert "P-matrix: one fixed point" in constants.reason
        isolated = stability_constants(ctln(np.zeros((3, 3))))
        assert isolated.has_one_fixed_point is False
        assert "not a P-matrix" in isolated.reason
        unconnected = stability_constants(threshold_linear_rate(np.zeros((3, 3))))
        assert (unconnected.monotonicity, unconnected.contraction) == pytest.approx((1.0, 0.0), abs=1e-12)
        assert unconnected.has_one_fixed_point
        large = stability_constants(random_threshold_linear(16, gain=3.0, key=jr.key(0)))
        assert large.is_p_matrix is None
        assert large.has_one_fixed_point is None
        assert "the number of fixed points is not known" in large.reason

    def test_a_minor_that_is_not_positive_does_not_decide_for_a_tanh_network(self):
        network = random_rate_network(4, gain=4.0, key=jr.key(1))
        constants = stability_constants(network)
        assert constants.is_p_matrix is False
        assert constants.has_one_fixed_point is None


class TestLinearization:
    def test_of_a_spiral_has_its_rate_and_its_frequency(self):
        """The 3-cycle at its fixed point: .125 +- .6495i and -3.25."""
        cycle = ctln(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]))
        found = linearize(cycle, np.full(3, 4 / 13), np.ones(3))
        turn = 3 * 3**0.5 / 8
        np.testing.assert_allclose(found.eigenvalues, [0.125 + turn * 1j, 0.125 - turn * 1j, -3.25], atol=PRECISION)
        assert found.spectral_abscissa == pytest.approx(0.125, abs=PRECISION)
        np.testing.assert_allclose(found.time_constants, [-8, -8, 1 / 3.25], rtol=20 * PRECISION)
        np.testing.assert_allclose(found.frequencies, [turn / (2 * np.pi)] * 2 + [0], atol=PRECISION)
        assert found.spectral_radius == pytest.approx(2.25, abs=PRECISION)

    def test_counts_in_the_unit_of_time_of_the_network(self):
        network = threshold_linear(jnp.diag(jnp.array([0.5, 0.8])), time_constants=jnp.array([10.0, 20.0]))
        found = linearize(network, np.ones(2), np.ones(2))
        np.testing.assert_allclose(found.time_constants, [100, 20], rtol=1e-5)
        assert found.spectral_radius == pytest.approx(0.8, rel=1e-5)

    def test_at_rest_in_a_neutral_direction_has_an_infinite_time_constant(self):
        found = linearize(threshold_linear(jnp.ones((1, 1))), np.ones(1), np.zeros(1))
        assert np.isposinf(np.abs(found.time_constants)).all()

    def test_velocities_on_a_plane_are_those_of_its_states(self):
        network, stimulus = threshold_linear(jnp.array([[0.5, -1.0], [1.0, 0.0]])), np.array([1.0, 0.0])
        found = velocities_on_plane(network, stimulus, np.array([-1.0, 0.0, 2.0]), np.array([1.0, 3.0]))
        assert found.shape == (2, 3, 2)
        np.testing.assert_allclose(found[1, 2], [-2 + 1 - 3 + 1, -3 + 2], rtol=1e-6)

    def test_by_krylov_has_the_leading_eigenvalues(self, key):
        network = random_rate_network(60, gain=0.9, key=key)
        state = jr.normal(key, (60,))
        every = linearize(network, state, np.zeros(60))
        leading = linearize(network, state, np.zeros(60), num_eigenvalues=3)
        assert leading.jacobian is None
        assert leading.spectral_radius is None
        count = len(leading.eigenvalues)
        assert count >= 2  # conjugates come in pairs
        np.testing.assert_allclose(
            leading.eigenvalues.real, every.eigenvalues[:count].real, atol=1e-6 if PRECISION < 5e-6 else 1e-3
        )


@pytest.mark.usefixtures("as_a_user")
class TestBadInput:
    def test_networks_whose_slopes_are_not_known_are_refused(self):
        supralinear = rate_network(RateForm(PowerLaw(0.1, 2.0)), np.eye(2))
        with pytest.raises(ValueError, match=r"unknown slopes.*jax.nn.relu"):
            stability_constants(supralinear)
        with pytest.raises(ValueError, match="no weight matrix"):
            stability_constants(wong_wang())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"state": np.ones(3)}, r"state.*\(4,\), got \(3,\)"),
            ({"state": np.full(4, np.inf)}, "state.*infinite"),
            ({"stimulus": np.ones(1)}, r"stimulus.*\(4,\)"),
            ({"num_eigenvalues": 3}, "num_eigenvalues.*at most 2"),
            ({"num_eigenvalues": 0}, "num_eigenvalues.*at least 1"),
        ],
    )
    def test_what_cannot_be_linearized_is_refused(self, options, message):
        network = random_threshold_linear(4, key=jr.key(0))
        with pytest.raises(ValueError, match=message):
            linearize(network, **{"state": np.zeros(4), "stimulus": np.zeros(4), **options})
