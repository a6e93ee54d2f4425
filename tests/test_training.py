"""Initialization, losses, mixing and training: from pairs to an approximator."""

import os
import signal
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from arrays import equal, floats, in_single, normal
from problems import assert_close

from rnn2ff import (
    PowerLaw,
    RecurrentNetwork,
    Refined,
    StateForm,
    TwoLayer,
    accuracy,
    exact_pairs,
    fit_readout,
    initialize_refined,
    initialize_two_layer,
    mix_pairs,
    partition_competition,
    rate_network,
    solve_steady_state,
    threshold_linear,
    train,
)
from rnn2ff.approximators import predict
from rnn2ff.data import key_for, solve_pairs, split_rows
from rnn2ff.training import Trainer
from rnn2ff.training.losses import mean_squared_error, rate_error
from rnn2ff.training.mixing import mixing_for
from rnn2ff.training.optimizers import muon
from rnn2ff.training.trainer import _batch_size as batch_size_of

WEIGHTS = np.array([[0.2, -0.6, 0.1], [0.5, 0.1, -0.4], [-0.3, 0.2, 0.3]])


def uniform(*shape):
    return floats(np.random.default_rng(0).random(shape))


@pytest.fixture(scope="module")
def network():
    return threshold_linear(WEIGHTS, bias=np.array([0.1, 0.0, -0.1]))


@pytest.fixture(scope="module")
def states():
    return normal(jr.key(11), (400, 3))


@pytest.fixture(scope="module")
def pairs(network, states):
    """Exact ones: any point is the steady state of some stimulus."""
    return exact_pairs(network, states)


class TestReadout:
    def test_a_readout_that_is_there_to_be_found_is_found(self, key):
        teacher = TwoLayer(3, 6, 2, is_rectified=False, bypass=True, key=key)
        teacher = eqx.tree_at(lambda each: each.bypass_weights, teacher, normal(key, (2, 3)))
        stimuli = normal(key, (300, 3))
        student = eqx.tree_at(lambda each: each.readout_weights, teacher, jnp.zeros((2, 6)))
        fitted = fit_readout(student, [(stimuli, predict(teacher, stimuli))], ridge=1e-12)
        assert_close(predict(fitted, stimuli), predict(teacher, stimuli), 1e-3)

    def test_batches_give_what_the_whole_gives(self, key):
        two_layer = TwoLayer(3, 6, 2, key=key)
        stimuli, targets = np.asarray(normal(key, (90, 3))), np.maximum(normal(key, (90, 2)), 0)
        whole = fit_readout(two_layer, [(stimuli, targets)])
        parts = fit_readout(two_layer, [(stimuli[i::3], targets[i::3]) for i in range(3)])
        assert_close(parts.readout_weights, whole.readout_weights, 1e-4)

    def test_below_zero_a_rectified_output_is_free(self, key):
        """Of targets that a rectified linear output meets, plain least squares makes an error that this fit mends."""
        hidden = floats(np.vstack([np.eye(2), -np.eye(2)]))
        two_layer, linear = (
            eqx.tree_at(lambda each: each.hidden_weights, TwoLayer(2, 4, 1, is_rectified=each, key=key), hidden)
            for each in (True, False)
        )
        stimuli = np.asarray(normal(key, (500, 2)))
        targets = np.maximum(stimuli[:, :1] - 0.5 * stimuli[:, 1:], 0)
        linear = fit_readout(linear, [(stimuli, targets)])
        plain = np.maximum(predict(linear, stimuli), 0)
        fitted = predict(fit_readout(two_layer, [(stimuli, targets)]), stimuli)
        assert np.mean((fitted - targets) ** 2) < 0.01 * np.mean((plain - targets) ** 2)

    @pytest.mark.usefixtures("as_a_user")
    def test_without_rounds_the_fit_is_plain_least_squares_and_goes_through_the_batches_once(self, key):
        stimuli = normal(key, (200, 3))
        targets = floats(np.maximum(stimuli, 0)[:, :2])
        rectified, linear = (TwoLayer(3, 6, 2, is_rectified=each, key=key) for each in (True, False))
        plain = fit_readout(linear, [(stimuli, targets)]).readout_weights
        once = fit_readout(rectified, iter([(stimuli, targets)]), num_rounds=0).readout_weights
        assert_close(once, plain, 1e-12)
        assert np.abs(np.asarray(fit_readout(rectified, [(stimuli, targets)]).readout_weights) - plain).max() > 1e-3
        with pytest.raises(ValueError, match="num_rounds"):
            fit_readout(rectified, [(stimuli, targets)], num_rounds=-1)

    @pytest.mark.usefixtures("as_a_user")
    def test_batches_that_cannot_be_iterated_again_are_refused(self, key):
        with pytest.raises(ValueError, match="batches.*only once"):
            fit_readout(TwoLayer(3, 6, 2, key=key), iter([]))
        with pytest.raises(ValueError, match="batches.*empty"):
            fit_readout(TwoLayer(3, 6, 2, key=key), [])

    @pytest.mark.usefixtures("as_a_user")
    def test_targets_of_another_size_are_refused(self, key):
        with pytest.raises(ValueError, match=r"targets.*\(4, 2\), got \(4, 1\)"):
            fit_readout(TwoLayer(3, 6, 2, key=key), [(jnp.ones((4, 3)), jnp.ones((4, 1)))])


class TestInitialization:
    def test_it_is_nearer_than_random_weights_with_the_best_readout(self, network, states, pairs):
        stimuli, rates = pairs
        made = initialize_two_layer(network, states, stimuli, 12, key=jr.key(0))
        random = fit_readout(TwoLayer(3, 12, 3, key=jr.key(0)), [(stimuli, rates)])
        errors = [accuracy(predict(each, stimuli), rates).nrmse for each in (made, random)]
        assert errors[0] < 0.7 * errors[1]

    def test_hidden_units_turn_on_where_units_of_the_network_do(self, network):
        """With one steady state to look at, half of them are planes of its own linearization."""
        state = jnp.array([[0.5, 0.7, -0.2]])
        stimuli, _ = exact_pairs(network, state)
        made = initialize_two_layer(network, state, stimuli, 8, key=jr.key(0))
        slopes = np.array([1.0, 1.0, 0.0])
        gain = np.linalg.inv(np.eye(3) - WEIGHTS * slopes)
        offset = gain @ np.asarray(network.params.bias)
        planes = np.c_[gain, offset]
        for row in np.c_[made.hidden_weights, made.hidden_bias][4:]:
            cosines = planes @ row / np.linalg.norm(planes, axis=1) / np.linalg.norm(row)
            assert np.abs(cosines).max() == pytest.approx(1, abs=1e-5)

    def test_without_a_weight_matrix_the_linearizations_are_the_same(self, network, states, pairs):
        field = RecurrentNetwork(
            lambda params, state, stimulus: network.velocity(state, stimulus),
            None,
            state_size=3,
            stimulus_size=3,
            rate_function=lambda params, state: network.rates(state),
        )
        known, unknown = (initialize_two_layer(each, states, pairs[0], 12, key=jr.key(0)) for each in (network, field))
        assert_close(unknown.hidden_weights, known.hidden_weights, 1e-4)

    def test_smooth_rates_are_approximated_by_hidden_units_that_turn_on_among_the_stimuli(self):
        """A unit without recurrent input whose rate is a square bends everywhere, and not at its threshold alone."""
        network = rate_network(StateForm(PowerLaw(1.0, 2.0)), np.zeros((2, 2)))
        stimuli = jr.uniform(jr.key(1), (500, 2), minval=0.5, maxval=3.0)
        states = solve_pairs(network, stimuli).states
        rates = jax.vmap(network.rates)(states)
        made = initialize_two_layer(network, states, stimuli, 24, key=jr.key(0))
        totals = np.asarray(stimuli) @ np.asarray(made.hidden_weights).T + np.asarray(made.hidden_bias)
        turns_on = (totals > 0).any(axis=0) & (totals < 0).any(axis=0)
        assert turns_on.mean() > 0.8
        assert accuracy(predict(made, stimuli), rates).nrmse < 0.02

    def test_sweeps_start_from_points(self, network, states, pairs):
        stimuli, rates = pairs
        refined = initialize_refined(network, states, stimuli, 12, num_sweeps=1, key=jr.key(0))
        two_layer = initialize_two_layer(network, states, stimuli, 12, key=jr.key(0))
        errors = [accuracy(predict(each, stimuli), rates).nrmse for each in (refined, two_layer)]
        assert errors[0] < 0.7 * errors[1]

    @pytest.mark.usefixtures("as_a_user")
    def test_states_of_another_network_are_refused(self, network, states, pairs):
        with pytest.raises(ValueError, match="states.*wrong shape"):
            initialize_two_layer(network, states[:, :2], pairs[0], 12, key=jr.key(0))

    @pytest.mark.usefixtures("as_a_user")
    def test_two_layers_without_a_hidden_unit_are_refused(self, network, states, pairs):
        with pytest.raises(ValueError, match="`width`.*at least 1"):
            initialize_two_layer(network, states, pairs[0], 0, key=jr.key(0))


class TestExactPairs:
    def test_the_dynamics_rest_there(self, network, states, pairs):
        stimuli, rates = pairs
        velocity = jax.jit(jax.vmap(network.velocity))(states, stimuli)
        assert_close(velocity, np.zeros(states.shape), 1e-6)
        assert_close(rates[0], network.rates(solve_steady_state(network, stimuli[0]).state), 1e-4)

    def test_mixtures_are_exact_and_keep_the_moments(self, network, pairs, key):
        stimuli, rates = pairs
        shares = jr.uniform(key, (len(stimuli),))
        mixed, mixed_rates = mix_pairs(network, *pairs)(stimuli, rates, shares)
        points = jax.vmap(network.params.total_input)(mixed_rates, mixed)
        assert_close(jax.vmap(network.rates)(points), mixed_rates, 1e-5)
        assert_close(mixed.mean(axis=0), stimuli.mean(axis=0), 0.15)
        assert_close(np.cov(np.asarray(mixed).T), np.cov(np.asarray(stimuli).T), 0.25)
        is_kept = jnp.all(mixed == stimuli, axis=1)
        np.testing.assert_array_equal(is_kept, self.shift(network, stimuli, rates, shares) >= 0.5)
        assert jnp.mean(is_kept) < 0.1

    @staticmethod
    def shift(network, stimuli, rates, shares):
        """Distances of exact stimuli from the mixtures of their parents, in standard deviations."""
        angles = 0.8 * np.asarray(shares)[:, None]

        def mix(values):
            mean = np.mean(values, axis=0, keepdims=True)
            deviations = values - mean
            return mean + np.cos(angles) * deviations + np.sin(angles) * np.roll(deviations, -1, axis=0)

        points = np.asarray(jax.vmap(network.params.total_input)(rates, stimuli))
        exact, _ = exact_pairs(network, jnp.asarray(mix(points)))
        distances = np.sqrt(np.mean((exact - mix(np.asarray(stimuli))) ** 2, axis=1))
        return distances / np.sqrt(np.var(stimuli, axis=0).mean())

    def test_pairs_are_mixed_where_there_is_one_steady_state(self, network, pairs, key):
        mixing, median_shift = mixing_for(network, *pairs, key=key)
        assert_close(mixing.mean_stimulus, pairs[0].mean(axis=0), 1e-5)
        shares = jr.uniform(key, (len(pairs[0]),), pairs[0].dtype)
        assert_close(median_shift, np.median(self.shift(network, *pairs, shares)), 1e-4)

    def test_they_are_not_if_there_are_two_or_no_pairs_to_mix(self, key):
        """Between a state in which the one wins and a state in which the other does lies a saddle."""
        weights = np.zeros((3, 3))  # of two rivals, and a unit of its own: the size of the network above
        weights[[0, 1], [1, 0]] = -1.2
        rivals = threshold_linear(weights)
        pairs = solve_pairs(rivals, 1 + jr.normal(key, (400, 3)))
        assert mixing_for(rivals, pairs.stimuli, pairs.rates, key=key) is None
        assert mixing_for(rivals, pairs.stimuli[:1], pairs.rates[:1], key=key) is None
        assert mixing_for(partition_competition(2, 2), jr.normal(key, (3, 4)), jnp.ones((3, 4)), key=key) is None
        trainer = Trainer(rivals, pairs, num_steps=1, key=key)
        assert trainer.mixing is None
        assert trainer.stimulus_shift is None

    @pytest.mark.usefixtures("as_a_user")
    def test_networks_that_have_none_are_refused(self):
        with pytest.raises(ValueError, match="no exact pairs"):
            exact_pairs(partition_competition(2, 2), jnp.ones((1, 6)))


class TestTraining:
    def test_a_representable_map_is_learned(self, key):
        teacher = TwoLayer(3, 4, 2, key=key)
        stimuli = normal(key, (2000, 3))
        run = train(
            TwoLayer(3, 32, 2, key=jr.key(1)), stimuli, predict(teacher, stimuli), num_steps=3000, key=jr.key(2)
        )
        fresh = normal(jr.key(3), (500, 3))
        assert accuracy(predict(run.approximator, fresh), predict(teacher, fresh)).nrmse < 0.05

    def test_the_best_on_validation_is_kept_and_the_bar_shows_the_error_that_reports_speak_of(self, key, capsys):
        stimuli, rates = normal(key, (50, 3)), uniform(50, 2)
        start, settings = TwoLayer(3, 8, 2, key=key), {"num_steps": 200, "num_evaluations": 10, "progress": True}
        run = train(start, stimuli, rates, **settings, key=key)
        assert run.best_evaluation == int(run.validation_errors.argmin())
        _, held_out = split_rows(50, 0.1, key=key_for(key, "split"))
        held_out = np.asarray(stimuli)[held_out], np.asarray(rates)[held_out]
        error = eqx.filter_jit(mean_squared_error)
        assert_close(error(run.approximator, *held_out), run.validation_errors.min(), 1e-5)
        assert_close(run.validation_errors[0], error(TwoLayer(3, 8, 2, key=key), *held_out), 1e-5)
        deviation = np.sqrt(np.var(held_out[1], axis=0).mean())
        shown = capsys.readouterr().err
        assert "training TwoLayer:   0%" in shown
        assert "compiling" in shown
        assert f"error {100 * np.sqrt(run.validation_errors[-1]) / deviation:.3g} %" in shown

    def test_without_a_hidden_unit_the_mean_is_learned(self, key):
        stimuli, rates = normal(key, (64, 3)), floats(np.ones((64, 2)))
        run = train(
            TwoLayer(3, 0, 2, is_rectified=False, key=key), stimuli, rates, num_steps=300, num_evaluations=1, key=key
        )
        assert_close(run.approximator.readout_bias, np.ones(2), 1e-2)

    @pytest.mark.usefixtures("as_a_user")
    def test_whole_numbers_are_trained_on_as_floats_are(self, key):
        generator = np.random.default_rng(0)
        stimuli, rates = generator.integers(-3, 4, (50, 3)), generator.integers(0, 5, (50, 2))
        start = TwoLayer(3, 8, 2, key=key)
        one, other = (
            train(start, *pairs, validation=pairs, num_steps=20, key=key)
            for pairs in ((stimuli, rates), (stimuli.astype(float), rates.astype(float)))
        )
        assert equal(one.approximator, other.approximator)
        assert one.validation_errors.min() < 0.9 * one.validation_errors[0]

    def test_every_weight_follows_from_the_key(self, key):
        stimuli, rates = normal(key, (50, 3)), uniform(50, 2)
        one, two, other = (
            train(TwoLayer(3, 8, 2, key=key), stimuli, rates, num_steps=20, key=each).approximator
            for each in (key, key, jr.key(5))
        )
        assert equal(one, two)
        assert not equal(one, other)

    def test_a_second_training_of_the_same_sizes_is_not_compiled_anew(self, key):
        traced = []

        def loss(approximator, stimuli, rates):
            traced.append(len(stimuli))
            return mean_squared_error(approximator, stimuli, rates)

        stimuli, rates = normal(key, (50, 3)), uniform(50, 2)
        for seed, scale in enumerate((1.0, 3.0)):  # in other units, and from other weights
            start = TwoLayer(3, 8, 2, key=jr.key(seed))
            train(start, scale * stimuli, rates, num_steps=10, num_evaluations=2, loss=loss, key=jr.key(seed))
            num_traced = num_traced if seed else len(traced)
        assert len(traced) == num_traced > 0

    def test_any_optimizer_takes_steps_on_the_rate_error(self, key):
        stimuli, rates = (jnp.tile(each, (2, 1)) for each in (jr.normal(key, (1, 3)), jr.uniform(key, (1, 2))))
        approximator = TwoLayer(3, 8, 2, key=key)
        run = train(
            approximator,
            stimuli,
            rates,
            optimizer=optax.sgd(0.01),
            num_steps=1,
            num_evaluations=1,
            batch_size=8,
            key=key,
        )
        gradient = eqx.filter_jit(eqx.filter_grad(rate_error))(approximator, stimuli, rates)
        expected = approximator.hidden_weights - 0.01 * gradient.hidden_weights
        assert_close(run.approximator.hidden_weights, expected, 1e-6)

    def test_the_rate_error_is_the_error_where_each_output_is_active_for_some_sample(self, key):
        stimuli, rates = normal(key, (200, 3)), uniform(200, 2)
        approximator = TwoLayer(3, 8, 2, key=key)
        is_wrongly_silent = (np.asarray(predict(approximator, stimuli)) == 0) & (np.asarray(rates) > 0)
        assert 0 < is_wrongly_silent.mean() < 1
        received, expected = (
            eqx.filter_jit(error)(approximator, stimuli, rates) for error in (rate_error, mean_squared_error)
        )
        assert_close(received, expected, 1e-12)

    def test_an_output_far_below_zero_costs_no_more_than_its_rate(self, key):
        approximator = eqx.tree_at(lambda each: each.readout_bias, TwoLayer(3, 8, 2, key=key), jnp.zeros(2))
        steep = eqx.tree_at(lambda each: each.readout_weights, approximator, 100 * approximator.readout_weights)
        stimuli = normal(key, (200, 3))
        predicted = np.asarray(predict(steep, stimuli))
        rates = floats(np.where(predicted > 0, predicted, 0.1))  # silent where it should not be
        assert_close(eqx.filter_jit(rate_error)(steep, stimuli, rates), 0.01 * np.mean(predicted == 0), 1e-5)

    def test_the_rate_error_of_an_output_that_is_silent_for_all_is_extended_linearly_below_zero(self, key):
        approximator = eqx.tree_at(lambda each: each.readout_bias, TwoLayer(3, 8, 1, key=key), jnp.array([-50.0]))
        stimuli, rates = normal(key, (20, 3)), 1 + np.asarray(uniform(20, 1))
        outputs = np.asarray(jax.jit(jax.vmap(approximator.linear_output))(stimuli))
        assert (outputs < 0).all()
        error = eqx.filter_jit(rate_error)(approximator, stimuli, rates)
        assert_close(error, np.mean(rates**2 - 2 * rates * outputs), 1e-6)

    def test_an_output_that_is_silent_for_all_stimuli_learns_nevertheless(self, key):
        approximator = eqx.tree_at(lambda each: each.readout_bias, TwoLayer(3, 16, 2, key=key), jnp.array([-20.0, 0.0]))
        stimuli = normal(key, (500, 3))
        rates = floats(1 + np.maximum(np.asarray(stimuli)[:, :2], 0))
        assert np.all(np.asarray(predict(approximator, stimuli))[:, 0] == 0)
        run = train(approximator, stimuli, rates, num_steps=2000, optimizer=optax.adam(0.05), key=key)
        assert accuracy(predict(run.approximator, stimuli), rates).unit_nrmse[0] < 0.5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_steps": 0}, "num_steps.*at least 1, got 0"),
            ({"batch_size": 0}, "batch_size.*at least 1, got 0"),
            ({"validation_fraction": 1.0}, "validation_fraction.*below 1, got 1"),
            ({"stimuli": np.full((4, 3), np.nan)}, "stimuli.*not finite"),
            ({"stimuli": np.ones((1, 3)), "rates": np.ones((1, 2))}, "number of pairs.*at least 2"),
            ({"stimuli": np.ones((4, 2))}, r"stimuli.*\(samples, 3\).*got \(4, 2\)"),
            ({"rates": np.ones((4, 1))}, r"rates.*\(4, 2\), got \(4, 1\)"),
            ({"validation": (np.ones((2, 3)), np.ones((2, 1)))}, r"rates.*\(2, 2\), got \(2, 1\)"),
        ],
    )
    @pytest.mark.usefixtures("as_a_user")
    def test_trainings_that_cannot_work_are_refused(self, arguments, message, key):
        arguments = {"stimuli": np.ones((4, 3)), "rates": np.ones((4, 2)), **arguments}
        stimuli, rates = floats(arguments.pop("stimuli")), floats(arguments.pop("rates"))
        with pytest.raises(ValueError, match=message):
            train(TwoLayer(3, 8, 2, key=key), stimuli, rates, key=key, **arguments)

    def test_through_sweeps_only_the_pass_and_the_steps_are_trained(self, network, states, pairs, key):
        refined = initialize_refined(network, states, pairs[0], 6, num_sweeps=1, key=key)
        run = train(refined, *pairs, num_steps=300, key=key)
        trained = run.approximator
        assert isinstance(trained, Refined)
        assert equal((trained.sweep, trained.network), (refined.sweep, refined.network))
        assert not jnp.array_equal(trained.step_sizes, refined.step_sizes)
        assert run.validation_errors.min() < 0.8 * run.validation_errors[0]

    def test_a_change_of_units_changes_nothing(self, pairs, key):
        """The default optimizer takes steps in units of the data."""
        stimuli, rates = pairs
        start = TwoLayer(3, 8, 3, key=key)
        scaled = eqx.tree_at(
            lambda each: (each.hidden_weights, each.readout_weights),
            start,
            (start.hidden_weights / 8, start.readout_weights / 4),
        )
        one = train(start, stimuli, rates, num_steps=40, key=key)
        other = train(scaled, 8 * stimuli, rates / 4, num_steps=40, key=key)
        assert_close(other.validation_errors * 16, one.validation_errors, 1e-2)

    def test_on_many_devices_it_is_the_same_training(self, pairs, key):
        mesh = jax.make_mesh((2,), ("batch",))
        start = TwoLayer(3, 8, 3, key=key)
        one = train(start, *pairs, num_steps=10, num_evaluations=1, key=key)
        many = train(start, *pairs, num_steps=10, num_evaluations=1, batch_size=255, mesh=mesh, key=key)
        assert_close(many.validation_errors, one.validation_errors, 1e-4)  # a minibatch of 255 is rounded up to 256
        assert many.approximator.hidden_weights.devices() == one.approximator.hidden_weights.devices()

    def test_narrow_layers_of_many_channels_take_larger_steps(self):
        narrow, wide, wider = (first_step_of_muon(64, width) for width in (64, 256, 512))
        assert narrow == pytest.approx(2 * wide, rel=0.001)
        assert wider == pytest.approx(wide, rel=0.001)

    def test_short_trainings_take_larger_steps_and_long_ones_no_smaller_ones(self):
        short, usual, long = (first_step_of_muon(32, 128, num_steps) for num_steps in (500, 2_000, 8_000))
        assert short == pytest.approx(2 * usual, rel=0.001)
        assert long == pytest.approx(usual, rel=0.001)

    def test_at_jumps_a_hidden_unit_takes_steps_in_inverse_proportion_to_large_readout_weights(self):
        """Those of random weights are smaller than the rates, so that 1,000 times as large ones are large."""
        sizes = np.ones((1, 64))
        sizes[0, 5] = 1e3
        step = np.asarray(biases_after_a_step_of_muon(32, 64, sizes=sizes, at_jumps=True))
        assert_close(np.delete(step, 5), np.full(63, step[0]), 1e-5)
        two_layer, stimuli = jax.device_get(two_layer_and_stimuli(32, 64))
        size = 1e3 * np.linalg.norm(two_layer.readout_weights[:, 5]) / np.sqrt(np.mean(stimuli**2))
        assert_close(step[5], step[0] * 2 / size, 1e-5)
        elsewhere = biases_after_a_step_of_muon(32, 64, sizes=sizes)
        assert_close(elsewhere, np.full(64, elsewhere[0]), 1e-5)

    @pytest.mark.parametrize("shape", [(6, 24), (24, 6), (12, 12)], ids=["wide", "tall", "square"])
    def test_the_singular_values_of_a_step_of_weights_are_alike_and_its_singular_vectors_those_of_the_gradient(
        self, shape, key
    ):
        num_hidden, num_channels = shape
        two_layer = TwoLayer(num_channels, num_hidden, 3, key=key)
        draws = (normal(each, (size, min(shape))) for each, size in zip(jr.split(key), shape))
        left, right = (np.linalg.qr(draw)[0] for draw in draws)
        gradient = floats(left * np.geomspace(1, 0.02, min(shape)) @ right.T)
        gradients = eqx.tree_at(lambda each: each.hidden_weights, ones_like(two_layer), gradient)
        step = np.asarray(step_of_muon(two_layer, gradients).hidden_weights)
        values = -(left.T @ step @ right) / (2e-2 * max(1, num_channels / num_hidden) ** 0.5)
        assert_close(values, np.diag(np.diag(values)), 1e-4)
        assert 0.15 < np.diag(values).min() < np.diag(values).max() < 2

    def test_a_minibatch_without_a_finite_gradient_changes_no_weight_and_the_next_one_does(self, key):
        two_layer = TwoLayer(4, 8, 3, key=key)
        ones = ones_like(two_layer)
        overflow = eqx.tree_at(lambda tree: tree.hidden_bias, ones, floats(np.full(8, np.inf)))
        for gradients in ([overflow], [ones, overflow]):
            assert all(not np.any(leaf) for leaf in jax.tree.leaves(step_of_muon(two_layer, *gradients)))
        step, later = (step_of_muon(two_layer, *gradients) for gradients in ([ones], [overflow, ones]))
        assert_close(later.readout_weights, step.readout_weights, 1e-4)
        assert all(np.isfinite(leaf).all() and np.all(leaf) for leaf in jax.tree.leaves(later))

    def test_steps_fade_out_where_there_is_no_gradient(self, key):
        """Momenta shrink until their squares underflow."""
        two_layer = in_single(TwoLayer(4, 8, 3, key=key))
        ones = ones_like(two_layer)
        zeros = jax.tree.map(lambda leaf: 0 * leaf, ones)
        steps = [step_of_muon(two_layer, ones, *num * [zeros]).readout_weights for num in (0, 400, 850, 1000)]
        sizes = [np.abs(step).max() for step in steps]
        assert sizes[0] > 1e-3
        assert max(sizes[1:]) < sizes[0]
        assert max(sizes[2:]) < 1e-6


def ones_like(two_layer):
    return jax.tree.map(lambda leaf: jax.device_put(np.ones_like(leaf)), two_layer)


def step_of_muon(two_layer, *gradients):
    """The last of some steps, by stimuli and rates of size 1."""
    ones = jax.device_put(np.ones((2, two_layer.stimulus_size), two_layer.hidden_weights.dtype))
    optimizer = muon(two_layer, ones, ones, num_steps=1_000_000)
    state = eqx.filter_jit(optimizer.init)(two_layer)
    with jax.numpy_dtype_promotion("standard"):
        update = eqx.filter_jit(optimizer.update)
        for gradient in gradients:
            step, state = update(gradient, state, two_layer)
    return step


def first_step_of_muon(num_channels, width, num_steps=2_000):
    return np.abs(biases_after_a_step_of_muon(num_channels, width, num_steps)).max()


def two_layer_and_stimuli(num_channels, width):
    return TwoLayer(num_channels, width, num_channels, key=jr.key(1)), normal(jr.key(0), (8, num_channels))


def biases_after_a_step_of_muon(num_channels, width, num_steps=2_000, *, sizes=1.0, at_jumps=False):
    """A first step of Adam, which the biases are trained by, is proportional to the rate."""
    two_layer, stimuli = two_layer_and_stimuli(num_channels, width)
    two_layer = eqx.tree_at(lambda each: each.readout_weights, two_layer, two_layer.readout_weights * sizes)
    optimizer = muon(two_layer, stimuli, stimuli, num_steps=num_steps, at_jumps=at_jumps)
    ones = ones_like(two_layer)
    with jax.numpy_dtype_promotion("standard"):
        state = eqx.filter_jit(optimizer.init)(two_layer)
        step, _ = eqx.filter_jit(optimizer.update)(ones, state, two_layer)
    return step.hidden_bias


class TestTrainer:
    @pytest.mark.parametrize(
        ("num_products", "num_pairs", "batch_size"),
        [(10_000, 20_000, 1024), (2**25 // 512, 20_000, 512), (150_000, 20_000, 256), (100, 600, 512), (100, 40, 256)],
    )
    def test_minibatches_are_large_where_that_costs_little_and_there_are_pairs(
        self, num_products, num_pairs, batch_size
    ):
        assert batch_size_of(num_products, num_pairs) == batch_size

    def test_no_output_dies_from_any_of_twenty_starts_in_short_trainings_which_take_the_largest_steps(self):
        network = partition_competition(4, 2, self_excitation=0.7)
        drives = jnp.repeat(jr.uniform(jr.key(1), (400, 4)), 2, axis=1)
        pairs = solve_pairs(network, drives + 0.3 * jr.normal(jr.key(2), drives.shape))
        trainer = Trainer(network, pairs, num_steps=60, key=jr.key(3))
        is_active = np.ptp(pairs.rates, axis=0) > 0
        assert is_active.all()
        for seed in range(20):
            trainer.key = jr.key(seed)
            rates = predict(trainer.two_layer(4 * network.rate_size).approximator, pairs.stimuli)
            assert (np.ptp(rates, axis=0) > 0).all(), f"seed {seed}"


def training(checkpoint=None, **changes):
    key = jr.key(5)
    stimuli, rates = jr.normal(key, (60, 3)), jr.uniform(key, (60, 2))
    settings = {"num_steps": 60, "num_evaluations": 6, "checkpoint": checkpoint, "key": key, **changes}
    return train(TwoLayer(3, 8, 2, key=key), stimuli, rates, **settings)


class TestCheckpoint:
    def test_a_killed_training_resumes_and_ends_with_the_same_weights(self, tmp_path):
        path = tmp_path / "training.eqx"
        code = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import jax
jax.config.update("jax_enable_x64", {bool(jax.config.jax_enable_x64)})
from test_training import training
replace, calls = os.replace, []
def killed(*paths):
    calls.append(paths)
    if len(calls) == 4:  # three evaluations are kept; the fourth is written, but not yet in place
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
os.replace = killed
training({str(path)!r})
"""
        killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        resumed, whole = training(path), training()
        assert equal(resumed.approximator, whole.approximator)
        np.testing.assert_array_equal(resumed.validation_errors, whole.validation_errors)

    @pytest.mark.usefixtures("as_a_user")
    def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(self, tmp_path):
        path = tmp_path / "training.eqx"
        training(path)
        content = path.read_bytes()
        for changes in ({"key": jr.key(6)}, {"batch_size": 16}, {"num_steps": 120}):
            with pytest.raises(ValueError, match="of another training"):
                training(path, **changes)
        assert path.read_bytes() == content
        for damaged in (content[:-50], content[:-50] + bytes([content[-50] ^ 1]) + content[-49:]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="checkpoint.*damaged"):
                training(path)
