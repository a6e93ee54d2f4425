"""The library's functions under jit, vmap and grad, without a word about what they compute."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats
from problems import assert_close, default_float

from rnn2ff import Rollout, RootFind, TwoLayer, partition_competition, residual, solve_steady_state

NETWORK = partition_competition(2, 2)
STIMULI = np.random.default_rng(0).random((3, 4))
RATES = floats(np.ones(6))
APPROXIMATOR = TwoLayer(4, 8, 6, key=jr.key(1))

FUNCTIONS = {
    "solve by rollout": lambda stimulus: solve_steady_state(NETWORK, stimulus, Rollout()).state,
    "solve by root find": lambda stimulus: solve_steady_state(NETWORK, stimulus, RootFind()).state,
    "pass": APPROXIMATOR,
    "residual": lambda stimulus: residual(NETWORK, RATES, stimulus),
}
TOLERANCE = 1e-7 if default_float() == jnp.float64 else 1e-3  # the solves', not rounding


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_jit_and_vmap_change_nothing_and_all_stimuli_of_a_shape_share_a_trace(function):
    num_traces = 0

    @eqx.filter_jit
    def compiled(stimulus):
        nonlocal num_traces
        num_traces += 1
        return function(stimulus)

    stimuli = [floats(stimulus) for stimulus in STIMULI]
    expected = np.stack([function(stimulus) for stimulus in stimuli])
    assert_close(np.stack([compiled(stimulus) for stimulus in stimuli]), expected, TOLERANCE)
    assert num_traces == 1
    assert_close(eqx.filter_jit(lambda stimuli: jax.vmap(function)(stimuli))(floats(STIMULI)), expected, TOLERANCE)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_forward_and_reverse_mode_agree_with_finite_differences(function):
    stimulus, direction = STIMULI[0], np.array([0.3, -0.2, 0.1, 0.4])
    step = 1e-4 if default_float() == jnp.float64 else 1e-2
    ahead, behind = (np.asarray(function(floats(stimulus + sign * step * direction))) for sign in (1, -1))
    differences = (ahead - behind) / (2 * step)
    _, forward = jax.jvp(function, (floats(stimulus),), (floats(direction),))
    reverse = np.asarray(jax.jit(jax.jacrev(function))(floats(stimulus))) @ direction
    assert_close(forward, differences, 1e-4 if default_float() == jnp.float64 else 1e-2)
    assert_close(reverse, forward, TOLERANCE)
