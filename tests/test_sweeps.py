"""Sweeps that need no weight matrix, and their agreement with those that do."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_close

from rnn2ff import (
    RecurrentNetwork,
    StateForm,
    best_sweep,
    mean_jacobian_sweep,
    mean_slope_sweep,
    random_rate_network,
    rate_network,
    relation_network,
    threshold_linear,
)
from rnn2ff.networks import JacobianSweep, SplitSweep


def cube_root():
    """`tau dx/dt = u - x^3`: the steady state is the cube root, and the Jacobian -3 x^2 / tau."""
    return RecurrentNetwork(
        lambda params, state, stimulus: (stimulus - state**3) / params["time_constants"],
        {"time_constants": jnp.asarray([2.0, 0.5])},
        state_size=2,
        stimulus_size=2,
    )


def test_the_mean_jacobian_step_is_its_formula():
    states = jnp.asarray([[1.0, 2.0], [2.0, 1.0]])
    sweep = mean_jacobian_sweep(cube_root(), states, states**3)
    stimulus, point = jnp.asarray([1.5, 3.0]), jnp.asarray([1.1, 1.2])
    mean_square = 2.5  # of 1 and 2
    expected = point + (stimulus - point**3) / (3 * mean_square)  # the time constants cancel
    assert_close(sweep(cube_root(), sweep.drive(cube_root(), stimulus), point), expected, 1e-6)
    assert_close(sweep.velocity_per_step, 3 * mean_square, 1e-6)
    mean_stimulus = 4.5  # of 1 and 8
    expected = 1.5 + (stimulus - mean_stimulus) / (3 * mean_square)
    assert_close(sweep.start(cube_root(), stimulus), expected, 1e-6)


def test_without_its_weights_a_network_sweeps_as_with_them(key):
    network = random_rate_network(4, gain=0.8, key=key)
    states = jr.normal(key, (50, 4))
    rates = jax.vmap(network.rates)(states)
    stimuli = states - rates @ network.params.recurrent_weights.T  # at which these states rest
    known, unknown = mean_slope_sweep(network, states, stimuli), mean_jacobian_sweep(network, states, stimuli)
    stimulus, point = jr.normal(jr.key(1), (2, 4))
    received = unknown(network, unknown.drive(network, stimulus), point)
    assert_close(received, known(network, known.drive(network, stimulus), point), 1e-5)
    received = unknown.start(network, unknown.drive(network, stimulus))
    assert_close(received, known.start(network, known.drive(network, stimulus)), 1e-5)


def test_rates_that_show_only_some_units_do_not_change_the_sweep(key):
    network, visible = relation_network(3), jr.uniform(key, (20, 9))
    states = jr.normal(key, (20, network.state_size))
    whole = threshold_linear(
        network.params.recurrent_weights, stimulus_weights=network.params.stimulus_weights, bias=network.params.bias
    )
    received, expected = (mean_slope_sweep(each, states, visible) for each in (network, whole))
    assert_close(received.offset, expected.offset, 1e-6)
    assert_close(
        received.from_state(network, states[0], visible[0]), expected.from_state(whole, states[0], visible[0]), 1e-6
    )


def test_the_best_sweep_is_the_one_the_network_allows():
    states = jnp.asarray([[1.0, 2.0], [2.0, 1.0]])
    assert isinstance(best_sweep(cube_root(), states, states**3), JacobianSweep)
    assert isinstance(best_sweep(threshold_linear(jnp.zeros((2, 2))), states, states), SplitSweep)


@pytest.mark.usefixtures("as_a_user")
def test_a_singular_mean_jacobian_is_refused():
    states = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match="states.*singular mean Jacobian"):
        mean_jacobian_sweep(cube_root(), states, states)


def test_a_sweep_of_float32_stays_float32():
    network = rate_network(StateForm(jnp.tanh), np.zeros((2, 2), np.float32))
    states = jnp.asarray([[1.0, 2.0], [2.0, 1.0]], jnp.float32)
    for make in (mean_slope_sweep, mean_jacobian_sweep):
        leaves = jax.tree.leaves(make(network, states, states))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}
