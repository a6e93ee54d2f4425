"""Answers within a tolerance, whatever the approximator; refinement."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_close, compiled_programs, default_float

from rnn2ff import (
    Refined,
    Source,
    Status,
    TwoLayer,
    certify_predictions,
    damped_sweep,
    make_certifier,
    partition_competition,
    predict_or_solve,
    refine,
    relation_network,
    solve_steady_states,
    split_sweep,
    threshold_linear,
)

NUM_STIMULI = 60
ROUNDING = 1e-10 if default_float() == jnp.float64 else 1e-5


def rough_approximator(network, size=0.02):
    """A small random pass and three untrained sweeps: good on some stimuli, and bad on others."""
    two_layer = TwoLayer(network.stimulus_size, 4, network.state_size, is_rectified=False, key=jr.key(0))
    two_layer = jax.tree.map(lambda weights: size * weights, two_layer)
    return Refined(two_layer, network, split_sweep(network), num_sweeps=3)


def stimuli_of(network, seed):
    """From weak to strong: weak ones are predicted within any tolerance, as errors grow with the stimulus."""
    strengths = jnp.logspace(-2, 1, NUM_STIMULI)[:, None]
    return strengths * jr.uniform(jr.key(seed), (NUM_STIMULI, network.stimulus_size))


def true_rates(network, stimuli):
    """Where the dynamics end from zero, by many small steps in float64."""
    params = network.params
    weights = np.asarray(params.recurrent_weights, np.float64)
    drives = np.asarray(jax.vmap(params.feedforward_input)(stimuli), np.float64)
    states = np.zeros_like(drives)
    for _ in range(5000):
        states += 0.1 * (np.maximum(states, 0) @ weights.T + drives - states)
    return np.maximum(states, 0)


@pytest.fixture(scope="module")
def soft():
    """A network with one fixed point, its certifier, and answers at a tolerance that uses every source."""
    network = partition_competition(2, 3)
    certifier = make_certifier(network)
    stimuli = stimuli_of(network, 1)
    served = predict_or_solve(
        network, rough_approximator(network), stimuli, tolerance=0.05, certifier=certifier, num_steps=1
    )
    return network, certifier, stimuli, served


class TestWithOneFixedPoint:
    def test_every_answer_is_within_its_bound_and_the_tolerance_whatever_its_source(self, soft):
        network, _, stimuli, served = soft
        counts = np.bincount(served.sources, minlength=len(Source))
        assert (counts > 0).all(), counts
        truth = true_rates(network, stimuli)
        distances = np.linalg.norm(np.asarray(served.rates) - truth, axis=1)
        assert (distances <= np.asarray(served.error_bounds) + ROUNDING).all()
        assert (np.asarray(served.error_bounds) <= 0.05).all()
        assert (np.asarray(served.status) == Status.converged).all()
        assert not served.is_possibly_another_basin.any()
        assert served.plan is not None

    def test_stimuli_outside_the_range_of_the_training_are_flagged_and_no_flag_is_no_answer(self, soft):
        network, certifier, stimuli, served = soft
        stimulus_range = (jnp.zeros(network.stimulus_size), stimuli[30] + 1e-3)
        flagged = predict_or_solve(
            network,
            rough_approximator(network),
            stimuli,
            tolerance=0.05,
            certifier=certifier,
            num_steps=1,
            plan=served.plan,
            stimulus_range=stimulus_range,
        )
        expected = (np.asarray(stimuli) > np.asarray(stimulus_range[1])).any(axis=1)
        np.testing.assert_array_equal(flagged.is_extrapolated, expected)
        assert 0 < expected.sum() < NUM_STIMULI
        assert f"outside the range of the training  {expected.sum()}" in repr(flagged)
        assert served.is_extrapolated is None
        assert "outside the range" not in repr(served)

    def test_the_answer_of_a_pass_is_the_approximators(self, soft):
        network, certifier, stimuli, served = soft
        approximator = rough_approximator(network)
        row = int(np.flatnonzero(np.asarray(served.sources) == Source.one_pass)[0])
        assert_close(served.rates[row], approximator(stimuli[row]), ROUNDING)
        certificate = certify_predictions(network, stimuli[row : row + 1], served.rates[row : row + 1], certifier)
        assert_close(served.error_bounds[row], certificate.error_bound[0], 1e-4)

    def test_another_batch_of_the_same_size_compiles_nothing(self, soft):
        network, certifier, _, served = soft
        again = lambda seed: predict_or_solve(  # noqa: E731
            network,
            rough_approximator(network),
            stimuli_of(network, seed),
            tolerance=0.05,
            certifier=certifier,
            plan=served.plan,
            num_steps=1,
        )
        again(2)
        with compiled_programs() as programs:
            another = again(3)
        assert not programs
        assert len(np.unique(another.sources)) == 3

    @pytest.mark.slow
    def test_two_devices_serve_what_one_serves(self, soft):
        network, certifier, stimuli, served = soft
        answers = predict_or_solve(
            network,
            rough_approximator(network),
            stimuli[:59],
            tolerance=0.05,
            certifier=certifier,
            plan=served.plan,
            num_steps=1,
            mesh=jax.make_mesh((2,), ("batch",)),
        )
        np.testing.assert_array_equal(answers.sources, served.sources[:59])
        assert_close(answers.rates, served.rates[:59], 1e-4)
        assert (np.asarray(answers.error_bounds) <= 0.05).all()

    def test_an_approximator_that_answers_nan_is_never_served(self, soft):
        network, certifier, stimuli, served = soft
        broken = jax.tree.map(lambda each: each * jnp.nan, rough_approximator(network).two_layer)
        broken = eqx.tree_at(lambda each: each.two_layer, rough_approximator(network), broken)
        answers = predict_or_solve(
            network, broken, stimuli, tolerance=0.05, certifier=certifier, plan=served.plan, num_steps=1
        )
        assert (np.asarray(answers.sources) == Source.solved).all()
        truth = true_rates(network, stimuli)
        assert np.linalg.norm(np.asarray(answers.rates) - truth, axis=1).max() < 0.05


class TestWithSeveralFixedPoints:
    def test_what_was_not_solved_is_flagged_and_near_a_fixed_point_that_attracts(self):
        network = partition_competition(2, 3, self_excitation=1.3)
        certifier, stimuli = make_certifier(network), stimuli_of(network, 4)
        served = predict_or_solve(
            network, rough_approximator(network), stimuli, tolerance=0.05, certifier=certifier, num_steps=4
        )
        is_solved = np.asarray(served.sources) == Source.solved
        assert 0 < is_solved.sum() < NUM_STIMULI
        assert (np.asarray(served.is_possibly_another_basin) == ~is_solved).all()
        truth = true_rates(network, stimuli)
        assert_close(np.asarray(served.rates)[is_solved], truth[is_solved], 1e-4)
        states = jax.vmap(network.params.total_input)(served.rates, stimuli)
        nearest = solve_steady_states(network, stimuli, initial_states=states)
        rates = np.asarray(jax.vmap(network.rates)(nearest.state))
        distances = np.linalg.norm(np.asarray(served.rates) - rates, axis=1)
        assert (distances <= np.minimum(np.asarray(served.error_bounds), 0.05) + 100 * ROUNDING).all()

    def test_a_stimulus_without_a_steady_state_says_so(self):
        network = threshold_linear(jnp.asarray([[1.5]]))  # at rest below 0, and without bound above
        stimuli = jnp.asarray([[-1.0], [1.0], [-2.0], [3.0]])
        served = predict_or_solve(
            network, rough_approximator(network), stimuli, tolerance=0.01, sweep=damped_sweep(network)
        )
        assert served.status.tolist() == [Status.converged, Status.diverging] * 2
        assert (np.asarray(served.error_bounds)[[1, 3]] == np.inf).all()
        assert_close(np.asarray(served.rates)[[0, 2]], np.zeros((2, 1)))


class TestRefine:
    @pytest.mark.parametrize("make", [split_sweep, damped_sweep])
    def test_more_steps_come_closer_and_the_answer_stays(self, soft, make):
        network, _, stimuli, _ = soft
        truth = true_rates(network, stimuli[40:41])
        start = jnp.asarray(truth[0]) + 0.1 * jnp.sin(jnp.arange(9.0))
        sweep = make(network, 0.3) if make is damped_sweep else make(network)
        few, many = (refine(network, stimuli[40], start, sweep=sweep, num_steps=count) for count in (1, 16))
        assert np.linalg.norm(few - truth[0]) > np.linalg.norm(many - truth[0])
        assert_close(many, truth[0], 1e-3)
        assert_close(refine(network, stimuli[40], many, sweep=sweep, num_steps=4), truth[0], 1e-3)

    def test_one_plain_damped_sweep_is_its_formula(self):
        network = threshold_linear(jnp.asarray([[0.0, -0.5], [-0.5, 0.0]]))
        stimulus, rates = jnp.asarray([1.0, 0.2]), jnp.asarray([0.8, 0.1])
        received = refine(network, stimulus, rates, sweep=damped_sweep(network), num_steps=1, memory=0)
        point = np.array([1 - 0.05, 0.2 - 0.4])  # the state that the rates cause, then one iteration
        assert_close(received, np.maximum([1 - 0.5 * max(point[1], 0), 0.2 - 0.5 * point[0]], 0), 1e-6)

    def test_its_derivative_is_that_of_differences(self, soft):
        network, _, stimuli, _ = soft
        start, direction, sweep = jnp.linspace(0.1, 0.5, 9), jnp.cos(jnp.arange(6.0)), split_sweep(network)
        run = eqx.filter_jit(lambda stimulus: jnp.sum(refine(network, stimulus, start, sweep=sweep, num_steps=4) ** 2))
        step = 1e-6 if default_float() == jnp.float64 else 1e-2
        expected = (run(stimuli[40] + step * direction) - run(stimuli[40] - step * direction)) / (2 * step)
        assert abs(expected) > 1e-2
        derivative = eqx.filter_jit(jax.grad(run))(stimuli[40]) @ direction
        assert_close(derivative, expected, 1e-5 if default_float() == jnp.float64 else 3e-2)


def test_wrong_arguments_are_refused_before_any_work(as_a_user):
    network = threshold_linear(jnp.eye(2) * 0.5)
    approximator = TwoLayer(2, 4, 2, key=jr.key(0))
    with pytest.raises(ValueError, match="`tolerance` is not positive"):
        predict_or_solve(network, approximator, jnp.ones((3, 2)), tolerance=0.0)
    with pytest.raises(ValueError, match="not finite in rows 1"):
        predict_or_solve(network, approximator, jnp.asarray([[0.0, 0.0], [jnp.nan, 0.0]]), tolerance=0.1)
    relation = relation_network(4)
    with pytest.raises(ValueError, match="predicts the rates of some units only"):
        few = TwoLayer(relation.stimulus_size, 4, relation.rate_size, key=jr.key(0))
        predict_or_solve(relation, few, jnp.ones((3, relation.stimulus_size)), tolerance=0.1)
    with pytest.raises(ValueError, match="`num_steps` is out of range"):
        refine(network, jnp.ones(2), jnp.ones(2), sweep=split_sweep(network), num_steps=0)
