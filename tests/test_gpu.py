"""An accelerator gives the answers that a processor gives. Run by `make gpu`, where there is one."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from rnn2ff import (
    Status,
    TwoLayer,
    certify_predictions,
    distill,
    make_certifier,
    partition_competition,
    plan_steady_states,
    predict_or_solve,
    random_threshold_linear,
    solve_batch,
    solve_steady_states,
    stabilized_supralinear,
    train,
)

pytestmark = pytest.mark.gpu

NETWORKS = {
    "random": functools.partial(random_threshold_linear, 64, gain=0.9, key=jr.key(0)),
    "competition": functools.partial(partition_competition, 8, 4, self_excitation=1.3),
    "supralinear": functools.partial(stabilized_supralinear, 30),
}


@pytest.fixture(scope="module", autouse=True)
def accelerator():
    """The default device, which is no processor."""
    device = jax.devices()[0]
    assert device.platform != "cpu", f"These tests need an accelerator, and JAX has {jax.devices()}."
    return device


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def stimuli_of(network, count=512):
    return jr.uniform(jr.key(1), (count, network.stimulus_size), network.dtype, 0.0, 3.0)


def on_processor(function, *arrays):
    """The function's value, computed on a processor of the same machine."""
    device = jax.devices("cpu")[0]
    with jax.default_device(device):
        return function(*jax.device_put(arrays, device))


def residuals(network, stimuli, states):
    """`max |tau dx/dt| / (1 + max |x|)`, on a processor, where products are exact."""

    def residual(network, stimulus, state):
        scaled = network.time_constants * network.velocity(state, stimulus)
        return jnp.max(jnp.abs(scaled)) / (1 + jnp.max(jnp.abs(state)))

    return np.asarray(on_processor(jax.vmap(residual, in_axes=(None, 0, 0)), network, stimuli, states))


def test_the_engine_gives_the_states_and_verdicts_of_a_processor(network):
    stimuli = stimuli_of(network)
    received, expected = solve_batch(network, stimuli), on_processor(solve_batch, network, stimuli)
    np.testing.assert_array_equal(received.status, expected.status)
    np.testing.assert_allclose(received.state, expected.state, rtol=1e-3, atol=1e-3)


def test_what_is_converged_is_at_rest_with_exact_products(network):
    stimuli = stimuli_of(network)
    found = solve_steady_states(network, stimuli)
    is_converged = np.asarray(found.status) == Status.converged
    assert is_converged.mean() > 0.95
    assert residuals(network, stimuli, jnp.asarray(found.state))[is_converged].max() < 2e-5


def test_a_plan_leads_to_the_same_states(network):
    stimuli = stimuli_of(network)
    planned = solve_batch(network, stimuli, plan_steady_states(network, stimuli))
    followed = solve_batch(network, stimuli)
    np.testing.assert_array_equal(planned.status, followed.status)
    np.testing.assert_allclose(planned.state, followed.state, rtol=1e-3, atol=1e-3)


def test_stimuli_that_are_not_finite_are_refused_with_their_rows(network):
    stimuli = stimuli_of(network).at[7, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="not finite in rows 7"):
        solve_batch(network, stimuli)


def test_gradients_of_a_loss_are_those_of_a_processor():
    network = NETWORKS["random"]()
    stimuli = stimuli_of(network, 128)

    def loss(stimuli, network):
        return jnp.mean(solve_batch(network, stimuli).state ** 2)

    received = jax.grad(loss)(stimuli, network)
    expected = on_processor(jax.grad(loss), stimuli, network)
    np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-5)


def test_training_ends_at_the_error_of_a_processor():
    network = NETWORKS["random"]()
    stimuli = stimuli_of(network, 4000)
    rates = jax.nn.relu(jnp.asarray(solve_steady_states(network, stimuli).state))

    def error(stimuli, rates):
        start = TwoLayer(stimuli.shape[1], 128, rates.shape[1], key=jr.key(2))
        return float(jnp.nanmin(train(start, stimuli, rates, num_steps=500, key=jr.key(3)).validation_errors))

    assert error(stimuli, rates) == pytest.approx(on_processor(error, stimuli, rates), rel=0.1)


def test_certificates_hold_for_predictions_made_on_the_accelerator():
    network = random_threshold_linear(32, gain=0.5, key=jr.key(0))
    stimuli = stimuli_of(network, 256)
    truth = np.maximum(np.asarray(on_processor(lambda *arrays: solve_batch(*arrays).state, network, stimuli)), 0)
    predictions = truth * (1 + 0.01 * np.random.default_rng(0).normal(size=truth.shape).astype(truth.dtype))
    certificates = certify_predictions(network, stimuli, predictions, make_certifier(network))
    errors = np.linalg.norm(predictions - truth, axis=1)
    assert np.isfinite(certificates.error_bound).all()
    assert (np.asarray(certificates.error_bound) >= errors - 1e-4).all()


def test_what_is_served_is_within_its_tolerance():
    network = random_threshold_linear(32, gain=0.5, key=jr.key(0))
    stimuli = stimuli_of(network, 2000)
    distilled = distill(network, stimuli, num_steps=500, key=jr.key(1))
    served = predict_or_solve(network, distilled.approximator, stimuli, tolerance=0.05)
    truth = np.maximum(np.asarray(on_processor(lambda *arrays: solve_batch(*arrays).state, network, stimuli)), 0)
    assert np.linalg.norm(np.asarray(served.rates) - truth, axis=1).max() <= 0.05 + 1e-4
