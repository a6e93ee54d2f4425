"""Small approximators for the tests of the exports: every weight and bias is random, so that none is like another."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from arrays import floats, in_single, normal

from rnn2ff import Refined, TwoLayer, mean_slope_sweep, threshold_linear
from rnn2ff.approximators import predict

STIMULI = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)


def approximator_of(key, *, width=4, rate_size=2, **options):
    """Every weight and bias is random, so that none can be mistaken for another."""
    approximator = eqx.filter_eval_shape(TwoLayer, 3, width, rate_size, key=key, **options)
    leaves, structure = jax.tree.flatten(approximator)
    keys = jr.split(key, len(leaves))
    return jax.tree.unflatten(structure, [normal(key, leaf.shape) for key, leaf in zip(keys, leaves)])


def network_of(constructor, **more):
    """Four units with random weights, driven through three channels."""
    weights, stimulus_weights = floats(0.2 * normal(jr.key(0), (4, 4))), normal(jr.key(1), (4, 3))
    return constructor(weights, stimulus_weights=stimulus_weights, bias=np.ones(4), **more)


def refined_of(constructor, *, rate_size=4, width=5, **more):
    """A refined approximator in which every array is random."""
    whole = network = network_of(constructor, **more)
    if rate_size < 4:
        network = dataclasses.replace(network, rate_function=lambda params, state: jax.nn.relu(state[:rate_size]))
    sweep = mean_slope_sweep(whole, normal(jr.key(2), (20, 4)), normal(jr.key(3), (20, 3)))
    two_layer = approximator_of(jr.key(4), width=width, rate_size=4, is_rectified=False, bypass=True)
    sizes = np.random.default_rng(5).random((2, 3, 4), np.float32)
    step_sizes, momenta = floats(0.5 + sizes[0] / 2), floats(sizes[1] / 3)
    refined = Refined(two_layer, network, sweep, num_sweeps=3)
    return eqx.tree_at(lambda each: (each.step_sizes, each.momenta), refined, (step_sizes, momenta))


# What every route is tried on.
EXAMPLES = {
    "two layers": lambda: approximator_of(jr.key(0)),
    "linear output": lambda: approximator_of(jr.key(1), is_rectified=False),
    "bypass": lambda: approximator_of(jr.key(2), bypass=True),
    "refined": lambda: refined_of(threshold_linear),
    "refined, first units": lambda: refined_of(threshold_linear, rate_size=2),
    "refined, no hidden units": lambda: refined_of(threshold_linear, width=0),
}


@functools.cache
def example(name):
    """An approximator, and the rates that JAX computes from it in float32."""
    approximator = in_single(EXAMPLES[name]())
    return approximator, np.asarray(predict(approximator, jax.device_put(STIMULI)))


def relative_error(received, expected):
    """The largest difference, in units of the largest value."""
    return np.abs(received - expected).max() / np.abs(expected).max()
