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
STIMULI = floats(np.random.default_rng(0).random((3, 4)))
APPROXIMATOR = TwoLayer(4, 8, 6, key=jr.key(1))

FUNCTIONS = {
    "solve by rollout": lambda stimulus: solve_steady_state(NETWORK, stimulus, Rollout()).state,
    "solve by root find": lambda stimulus: solve_steady_state(NETWORK, stimulus, RootFind()).state,
    "pass": APPROXIMATOR,
    "residual": lambda stimulus: residual(NETWORK, jnp.ones(6), stimulus),
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

    expected = jnp.stack([function(stimulus) for stimulus in STIMULI])
    assert_close(jnp.stack([compiled(stimulus) for stimulus in STIMULI]), expected, TOLERANCE)
    assert num_traces == 1
    assert_close(eqx.filter_jit(lambda stimuli: jax.vmap(function)(stimuli))(STIMULI), expected, TOLERANCE)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_forward_and_reverse_mode_agree_with_finite_differences(function):
    stimulus, direction = STIMULI[0], jnp.array([0.3, -0.2, 0.1, 0.4])
    step = 1e-4 if default_float() == jnp.float64 else 1e-2
    differences = (function(stimulus + step * direction) - function(stimulus - step * direction)) / (2 * step)
    _, forward = jax.jvp(function, (stimulus,), (direction,))
    reverse = jax.jit(jax.jacrev(function))(stimulus) @ direction
    assert_close(forward, differences, 1e-4 if default_float() == jnp.float64 else 1e-2)
    assert_close(reverse, forward, TOLERANCE)
