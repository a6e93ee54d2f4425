import copy
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats, normal, sparse_weights
from problems import assert_close, default_float

from rnn2ff import (
    RateForm,
    RateNetwork,
    RecurrentNetwork,
    StateForm,
    hopfield,
    partition_competition,
    partition_means,
    random_rate_network,
    random_threshold_linear,
    rate_network,
    relation_network,
    residual,
    stabilized_supralinear_pair,
    threshold_linear,
    threshold_linear_rate,
    wilson_cowan,
    winner_take_all,
)
from rnn2ff.networks import has_rectified_rates

EXACT = 1e-6
FIELDS = [field.name for field in dataclasses.fields(RecurrentNetwork)]


def with_zeros(share):
    """Weights, of which this share is not zero."""
    generator = np.random.default_rng(0)
    return floats(np.where(generator.random((6, 6)) < share, generator.normal(size=(6, 6)), 0))


def test_the_state_form_is_its_equation(key):
    keys = jr.split(key, 5)
    weights, stimulus_weights = np.asarray(normal(keys[0], (4, 4))), np.asarray(normal(keys[1], (4, 3)))
    bias, tau = np.asarray(normal(keys[2], (4,))), np.linspace(1, 2, 4)
    state, stimulus = np.asarray(normal(keys[3], (4,))), np.asarray(normal(keys[4], (3,)))
    network = threshold_linear(weights, stimulus_weights=stimulus_weights, bias=bias, time_constants=tau)
    expected = [
        (
            -state[i]
            + sum(weights[i, j] * max(state[j], 0) for j in range(4))
            + sum(stimulus_weights[i, j] * stimulus[j] for j in range(3))
            + bias[i]
        )
        / tau[i]
        for i in range(4)
    ]
    given = floats(state), floats(stimulus)
    assert_close(network.velocity(*given), expected, EXACT)
    assert_close(network.rates(given[0]), np.maximum(state, 0), EXACT)
    drift = tau * expected
    assert_close(residual(network, *given), abs(drift).max() / (1 + abs(state).max()), EXACT)


def test_the_rate_form_is_its_equation(key):
    keys = jr.split(key, 4)
    weights, bias = np.asarray(normal(keys[0], (4, 4))), np.asarray(normal(keys[1], (4,)))
    rates, stimulus = np.abs(normal(keys[2], (4,))), np.asarray(normal(keys[3], (4,)))
    network = threshold_linear_rate(weights, bias=bias, time_constants=2.0)
    total = weights @ rates + stimulus + bias
    assert_close(network.velocity(floats(rates), floats(stimulus)), (np.maximum(total, 0) - rates) / 2, EXACT)
    assert_close(network.rates(floats(rates)), rates, 0)


def test_sparse_weights_give_the_same_velocity(key):
    weights = with_zeros(0.3)
    state = normal(key, (6,))
    sparse, dense = (
        eqx.filter_jit(threshold_linear(each).velocity)(state, state) for each in (sparse_weights(weights), weights)
    )
    assert_close(sparse, dense, EXACT)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("form", [StateForm, RateForm])
def test_the_jacobian_is_the_derivative_of_the_velocity(form, is_sparse, key):
    keys = jr.split(key)
    weights = with_zeros(0.5)
    network = rate_network(
        form(jnp.tanh),
        sparse_weights(weights) if is_sparse else weights,
        stimulus_weights=normal(keys[0], (6, 3)),
        bias=np.full(6, 0.3),
        time_constants=np.linspace(1, 2, 6),
    )
    state, stimulus = normal(keys[1], (6,)), floats([1.0, -2.0, 0.5])
    expected = jax.jit(jax.jacrev(network.velocity))(state, stimulus)
    assert_close(eqx.filter_jit(network.jacobian)(state, stimulus), expected, EXACT)


def test_a_network_passes_through_jit_vmap_and_tree_map(key):
    network = random_threshold_linear(4, key=key)
    states = normal(key, (3, 4))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, network)
    assert_close(doubled.params.recurrent_weights, 2 * np.asarray(network.params.recurrent_weights), 0)
    velocities = jax.jit(lambda network, states: jax.vmap(network.velocity)(states, states))(network, states)
    for state, velocity in zip(states, velocities):
        assert_close(velocity, network.velocity(state, state), EXACT)


def test_the_dtype_follows_the_weights():
    weights = np.zeros((2, 2), np.float32)
    network = threshold_linear(weights, bias=np.ones(2))
    assert network.dtype == jnp.float32
    assert network.velocity(jnp.zeros(2, jnp.float32), jnp.zeros(2, jnp.float32)).dtype == jnp.float32
    assert threshold_linear(np.zeros((2, 2), int)).dtype == default_float()


@pytest.mark.parametrize(
    "network",
    [
        lambda single: hopfield(single([[1, -1, 1]])),
        lambda single: wilson_cowan(weights=single([[9, -4], [13, -11]])),
        lambda single: stabilized_supralinear_pair(weights=single([[1.25, -0.65], [1.2, -0.5]])),
    ],
)
def test_published_networks_have_the_default_precision(network):
    made = network(lambda values: np.asarray(values, np.float32))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(made) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert dtypes == {default_float()}


def test_random_weights_have_the_given_gain(key):
    weights = random_threshold_linear(200, gain=0.9, key=key).params.recurrent_weights
    assert abs(np.std(weights) * 200**0.5 - 0.9) < 0.02


def test_a_partition_competition_has_the_weights_it_says():
    network = partition_competition(2, 2, num_inhibitory=1, self_excitation=0.6, inhibition=1.5, excitation=0.8)
    expected = [
        [0.3, 0.3, 0, 0, -1.5],
        [0.3, 0.3, 0, 0, -1.5],
        [0, 0, 0.3, 0.3, -1.5],
        [0, 0, 0.3, 0.3, -1.5],
        [0.4, 0.4, 0.4, 0.4, 0],
    ]
    assert_close(network.params.recurrent_weights, expected, EXACT)
    assert_close(network.params.stimulus_weights, np.eye(5, 4), 0)
    assert (network.state_size, network.stimulus_size, network.rate_size) == (5, 4, 5)


def test_winner_take_all_is_the_equation_of_rutishauser_et_al():
    network = winner_take_all(2)
    state, stimulus = np.array([0.5, 0.25, 0.1]), np.array([1.0, 0.4])
    expected = [
        -0.5 + max(1.0 + 1.2 * 0.5 - 3 * 0.1, 0),
        -0.25 + max(0.4 + 1.2 * 0.25 - 3 * 0.1, 0),
        -0.1 + max(0.25 * (0.5 + 0.25), 0),
    ]
    assert_close(network.velocity(floats(state), floats(stimulus)), expected, EXACT)


def test_partition_means_leave_inhibition_out():
    rates = jnp.array([[1.0, 3.0, 5.0, 7.0, 100.0]])
    assert_close(partition_means(rates, 2, 2), [[2.0, 6.0]], 0)


def test_time_constants_are_found_by_attribute_or_key_and_are_one_without():
    def field(params, state, stimulus):
        return -state

    def network(params):
        return RecurrentNetwork(field, params, state_size=2, stimulus_size=1)

    taus = jnp.array([2.0, 3.0])
    assert_close(network({"time_constants": taus}).time_constants, taus, 0)
    assert_close(network({"weights": taus}).time_constants, 1, 0)
    assert_close(network(taus).time_constants, 1, 0)


def test_a_map_is_made_inside_a_program_too():
    def made(weights, taus):
        return rate_network(RateForm(jnp.tanh), weights, time_constants=taus, is_map=True).params.time_constants

    assert jax.eval_shape(made, jnp.zeros((2, 2)), jnp.ones(2)).shape == (2,)


@pytest.mark.usefixtures("as_a_user")
class TestBadInput:
    @pytest.mark.parametrize("constructor", [threshold_linear, threshold_linear_rate])
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"recurrent_weights": np.ones((2, 3))}, r"recurrent_weights.*not a square.*got shape \(2, 3\)"),
            ({"recurrent_weights": np.ones(3)}, r"not a square.*got shape \(3,\)"),
            ({"recurrent_weights": np.zeros((0, 0))}, "no units"),
            ({"recurrent_weights": np.array([[0, np.nan], [0, 0]])}, "NaN or infinite.*rows 0"),
            ({"recurrent_weights": np.array([[0, 1j], [0, 0]])}, "complex"),
            ({"recurrent_weights": np.array([["a"]])}, "does not hold numbers"),
            ({"bias": np.ones(3)}, r"bias.*\(2,\), got \(3,\)"),
            ({"bias": np.array([1, np.inf])}, "bias.*1 of 2 not finite"),
            ({"stimulus_weights": np.ones((3, 2))}, r"stimulus_weights.*\(2, 2\), got \(3, 2\)"),
            ({"stimulus_weights": np.ones(2)}, "stimulus_weights.*wrong shape"),
            ({"time_constants": 0.0}, "time_constants.*not positive.*got 0"),
            ({"time_constants": np.array([1.0, -2.0])}, "time_constants.*not positive.*got -2"),
            ({"time_constants": np.ones(3)}, r"time_constants.*\(2,\), got \(3,\)"),
            ({"time_constants": float("nan")}, "time_constants.*NaN"),
        ],
    )
    def test_what_does_not_fit_a_threshold_linear_network_is_refused(self, constructor, arguments, message):
        arguments = {"recurrent_weights": np.zeros((2, 2)), **arguments}
        with pytest.raises(ValueError, match=message):
            constructor(**arguments)

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            (lambda params, state, stimulus: state[:1], r"returns the wrong shape.*\(2,\), got \(\(1,\)"),
            (lambda params, state, stimulus: (state, state), "returns the wrong shape"),
            (lambda params, state, stimulus: state.astype(jnp.float16), "changes the dtype.*float16"),
            (lambda params, state, stimulus: state + stimulus, "failed for a state of 2 units.*3 channels"),
        ],
    )
    def test_a_vector_field_that_does_not_fit_is_refused_at_construction(self, field, message):
        with pytest.raises(ValueError, match=message):
            RecurrentNetwork(field, jnp.zeros(1), state_size=2, stimulus_size=3)

    def test_a_rate_function_that_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="rate_function.*vector"):
            RecurrentNetwork(
                lambda params, state, stimulus: -state,
                jnp.zeros(1),
                state_size=2,
                stimulus_size=2,
                rate_function=lambda params, state: state.sum(),
            )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"state_size": 0}, "state_size.*at least 1, got 0"),
            ({"state_size": 2.5}, "state_size.*integer"),
            ({"gain": 0.0}, "gain.*not positive"),
        ],
    )
    def test_impossible_random_networks_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            random_threshold_linear(**{"state_size": 4, "key": jr.key(0), **arguments})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_partitions": 0}, "at least 1, got 0"),
            ({"units_per_partition": -1}, "units_per_partition.*at least 1, got -1"),
            ({"inhibition": -1.0}, "inhibition.*not positive"),
            ({"self_excitation": 2.5}, "exceeds the inhibition.*less than 1 .* = 2.5, got 2.5"),
        ],
    )
    def test_impossible_competitions_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            partition_competition(**{"num_partitions": 2, "units_per_partition": 2, **arguments})


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (threshold_linear(np.eye(2) / 2), True),
        (threshold_linear_rate(np.eye(2) / 2), True),
        (relation_network(3), True),
        (random_rate_network(3, key=jr.key(0)), False),
    ],
)
def test_which_rates_are_rectified_inputs(network, expected):
    assert has_rectified_rates(network) is expected


def test_a_network_read_out_by_its_state_has_no_rectified_rates():
    network = threshold_linear(np.eye(2) / 2)
    own = RecurrentNetwork(network.vector_field, network.params, state_size=2, stimulus_size=2)
    assert not has_rectified_rates(own)


@pytest.mark.parametrize("form", [StateForm, RateForm])
def test_the_total_input_is_what_the_weights_multiply_whatever_is_shown(form, key):
    weights = np.asarray(normal(key, (4, 4)))
    network = rate_network(form(jnp.tanh), weights, stimulus_weights=np.ones((4, 2)), bias=np.arange(4.0))
    shown = dataclasses.replace(network, rate_function=lambda params, state: state[:1])
    state, stimulus = normal(jr.key(1), (4,)), floats([0.5, 1.0])
    rates = np.tanh(state) if form is StateForm else np.asarray(state)
    total = floats(weights @ rates + 1.5 + np.arange(4.0))
    for received in (network, shown, RecurrentNetwork(**{field: getattr(shown, field) for field in FIELDS})):
        assert isinstance(received, RateNetwork)
        assert_close(received.total_input(state, stimulus), total, EXACT)
        rest = received.state_from_total_input(total)
        assert_close(rest, total if form is StateForm else np.tanh(total), EXACT)
        assert_close(received.slopes(total), 1 - np.tanh(total) ** 2, EXACT)
        assert_close(received.dense_weights, weights, 0)


def test_a_field_of_ones_own_is_no_rate_network():
    network = threshold_linear(np.eye(2) / 2)
    own = RecurrentNetwork(lambda params, x, u: u - x, network.params, state_size=2, stimulus_size=2)
    assert not isinstance(own, RateNetwork)
    assert isinstance(copy.deepcopy(network), RateNetwork)
    assert isinstance(
        eqx.tree_at(lambda network: network.params.recurrent_weights, network, jnp.zeros((2, 2))), RateNetwork
    )
    with pytest.raises(ValueError, match="vector_field.*no weight matrix"):
        dataclasses.replace(network, vector_field=own.vector_field)
