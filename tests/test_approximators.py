import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_close

from rnn2ff import (
    RecurrentNetwork,
    Refined,
    TwoLayer,
    best_sweep,
    solve_steady_state,
    threshold_linear,
)
from rnn2ff.approximators import predict, trainable


@pytest.mark.parametrize("is_rectified", [True, False])
@pytest.mark.parametrize("bypass", [True, False])
def test_a_pass_is_its_formula(bypass, is_rectified, key):
    approximator = TwoLayer(3, 5, 2, bypass=bypass, is_rectified=is_rectified, key=key)
    if bypass:
        approximator = eqx.tree_at(lambda each: each.bypass_weights, approximator, jr.normal(key, (2, 3)))
    stimuli = jr.normal(key, (20, 3))
    weights = {name: np.asarray(value) for name, value in vars(approximator).items() if isinstance(value, jax.Array)}
    for stimulus, received in zip(np.asarray(stimuli), predict(approximator, stimuli)):
        hidden = np.maximum(weights["hidden_weights"] @ stimulus + weights["hidden_bias"], 0)
        expected = weights["readout_weights"] @ hidden + weights["readout_bias"]
        if bypass:
            expected = expected + weights["bypass_weights"] @ stimulus
        assert_close(received, np.maximum(expected, 0) if is_rectified else expected, 1e-6)


def test_the_first_weights_keep_the_scale_of_the_stimulus(key):
    approximator = TwoLayer(50, 400, 100, is_rectified=False, key=key)
    rates = predict(approximator, jr.normal(key, (200, 50)))
    assert 0.8 < float(rates.std()) < 1.2


def test_an_approximator_needs_no_solver():
    import subprocess
    import sys

    code = "import sys, rnn2ff.approximators; print({'diffrax', 'optimistix', 'lineax', 'optax'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


@pytest.mark.parametrize("sizes", [(0, 5, 2), (3, 5, 0), (3.0, 5, 2)])
@pytest.mark.usefixtures("as_a_user")
def test_sizes_below_one_are_refused(sizes, key):
    with pytest.raises(ValueError, match="at least 1"):
        TwoLayer(*sizes, key=key)


@pytest.mark.parametrize("width", [-1, 5.0])
@pytest.mark.usefixtures("as_a_user")
def test_a_width_below_zero_or_with_a_fraction_is_refused(width, key):
    with pytest.raises(ValueError, match="`width`.*at least 0"):
        TwoLayer(3, width, 2, key=key)


def test_the_output_of_a_rectified_approximator_is_never_negative(key):
    approximator = TwoLayer(3, 5, 2, key=key)
    assert jnp.all(predict(approximator, 10 * jr.normal(key, (100, 3))) >= 0)


@pytest.fixture(scope="module")
def network():
    weights = jr.normal(jr.key(0), (4, 4)) * 0.2
    drive = jr.normal(jr.key(1), (4, 3))
    return threshold_linear(weights, stimulus_weights=drive, bias=jnp.full(4, 0.5))


@pytest.fixture(scope="module")
def refined(network):
    states, stimuli = jr.normal(jr.key(2), (50, 4)), jr.normal(jr.key(3), (50, 3))
    two_layer = TwoLayer(3, 5, 4, is_rectified=False, key=jr.key(4))
    refined = Refined(two_layer, network, best_sweep(network, states, stimuli), num_sweeps=3)
    sizes = jr.uniform(jr.key(5), (2, 3, 4))
    return eqx.tree_at(lambda each: (each.step_sizes, each.momenta), refined, (sizes[0], sizes[1]))


class TestRefined:
    def test_a_call_is_its_formula(self, refined, network):
        stimuli = jr.normal(jr.key(6), (10, 3))
        two, sweep = refined.two_layer, refined.sweep
        for stimulus, received in zip(np.asarray(stimuli), predict(refined, stimuli)):
            h = np.asarray(network.params.stimulus_weights) @ stimulus + 0.5
            hidden = np.maximum(two.hidden_weights @ stimulus + two.hidden_bias, 0)
            point = before = h @ sweep.drive_map + sweep.offset + two.readout_weights @ hidden + two.readout_bias
            for step_size, momentum in zip(refined.step_sizes, refined.momenta):
                rest = np.maximum(point, 0) - sweep.slopes * point
                step = h @ sweep.drive_map + rest @ sweep.recurrent_map - point
                before, point = point, point + step_size * step + momentum * (point - before)
            assert_close(received, np.maximum(point, 0), 1e-5)

    def test_plain_sweeps_come_to_the_steady_state(self, network, refined):
        many = Refined(refined.two_layer, network, refined.sweep, num_sweeps=16)
        stimulus = jr.normal(jr.key(6), (3,))
        solved = solve_steady_state(network, stimulus)
        assert_close(many(stimulus), network.rates(solved.state), 1e-4)
        assert_close(many.state(stimulus), solved.state, 1e-4)

    def test_a_network_without_weights_is_refined_too(self, refined, network):
        field = RecurrentNetwork(
            lambda params, state, stimulus: network.velocity(state, stimulus),
            None,
            state_size=4,
            stimulus_size=3,
            rate_function=lambda params, state: network.rates(state),
        )
        stimuli = jr.normal(jr.key(7), (40, 3))
        states = jax.vmap(lambda stimulus: solve_steady_state(network, stimulus).state)(stimuli)
        many = Refined(refined.two_layer, field, best_sweep(field, states, stimuli), num_sweeps=16)
        assert_close(predict(many, stimuli[:5]), jax.vmap(network.rates)(states[:5]), 1e-4)
        assert not many.is_rectified

    def test_the_output_before_the_rectifier_is_the_point(self, refined):
        stimulus = jr.normal(jr.key(6), (3,))
        assert_close(refined.linear_output(stimulus), refined.point(stimulus), 1e-6)

    def test_sweeps_that_are_added_are_plain(self, refined, network):
        longer = refined.lengthened(4)
        stimulus = jr.normal(jr.key(6), (3,))
        drive = refined.sweep.drive(network, stimulus)
        expected = refined.sweep(network, drive, refined.point(stimulus))
        assert_close(longer.point(stimulus), expected, 1e-6)

    def test_products_are_counted(self, refined):
        assert refined.two_layer.num_products == 5 * (3 + 4)
        assert refined.num_products == 5 * (3 + 4) + (3 + 1) * 4**2

    def test_only_what_is_learned_is_trainable(self, refined):
        arrays = eqx.filter(refined, trainable(refined))
        assert len(jax.tree.leaves(arrays)) == 6
        assert len(jax.tree.leaves(eqx.filter(refined.two_layer, trainable(refined.two_layer)))) == 4
        gradient = jax.jit(jax.grad(lambda stimulus: refined(stimulus).sum()))(jnp.ones(3))
        assert jnp.all(jnp.isfinite(gradient))

    @pytest.mark.parametrize(
        ("two_layer", "num_sweeps", "message"),
        [
            ((3, 5, 4, False), 0, "num_sweeps.*at least 1, got 0"),
            ((3, 5, 4, True), 1, "two_layer.*rectified"),
            ((3, 5, 3, False), 1, "two_layer.*3 channels.*4 units, got 3 and 3"),
        ],
    )
    @pytest.mark.usefixtures("as_a_user")
    def test_parts_that_do_not_fit_are_refused(self, two_layer, num_sweeps, message, network, refined, key):
        *sizes, is_rectified = two_layer
        with pytest.raises(ValueError, match=message):
            Refined(TwoLayer(*sizes, is_rectified=is_rectified, key=key), network, refined.sweep, num_sweeps=num_sweeps)


@pytest.mark.parametrize("num_stimuli", [512, 515])
def test_a_large_batch_in_tiles_gives_the_rates_of_one_after_the_other(num_stimuli, key):
    approximator = TwoLayer(2, 4096, 3, key=key)  # so wide that a tile has its smallest size
    stimuli = jr.normal(key, (num_stimuli, 2))
    assert "scan" in str(jax.make_jaxpr(lambda stimuli: predict(approximator, stimuli))(stimuli))
    hidden = np.maximum(np.asarray(stimuli) @ np.asarray(approximator.hidden_weights).T, 0)
    expected = np.maximum(hidden @ np.asarray(approximator.readout_weights).T, 0)
    assert_close(predict(approximator, stimuli), expected, 1e-4)
