"""A rectified cell (`torch.nn.RNN`) that is trained to name the largest channel, as a network to distill."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array

from rnn2ff.data import key_for
from rnn2ff.networks import RecurrentNetwork, from_torch

_CELL_STEPS, _CELL_JUDGED = 25, 10  # steps of a trial of the trained cell, and the last ones, on which it is judged


def trained_cell(size: int, num_channels: int, num_steps: int, key: Array) -> tuple[RecurrentNetwork, Array]:
    """A rectified cell, trained through time to hold a one-hot choice, and its readout."""
    keys = jr.split(key_for(key, "weights"), 3)
    weights = {
        "recurrent": 0.8 * jr.normal(keys[0], (size, size)) / size**0.5,
        "stimulus": jr.normal(keys[1], (size, num_channels)) / num_channels**0.5,
        "bias": jnp.zeros(size),
        "readout": jr.normal(keys[2], (num_channels, size)) / size**0.5,
    }
    weights = _train_cell(weights, key_for(key, "trials"), num_steps)
    named = {
        "weight_hh_l0": weights["recurrent"],
        "weight_ih_l0": weights["stimulus"],
        "bias_hh_l0": weights["bias"],
        "bias_ih_l0": jnp.zeros(size),
    }
    return from_torch(named, nonlinearity=jax.nn.relu), weights["readout"]


@eqx.filter_jit
def _train_cell(weights: dict[str, Array], key: Array, num_steps: int) -> dict[str, Array]:
    num_channels = weights["readout"].shape[0]
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, num_steps))

    def loss(weights, stimuli):
        driven = stimuli @ weights["stimulus"].T + weights["bias"][None]

        def advance(states, _):
            states = jax.nn.relu(states @ weights["recurrent"].T + driven)
            return states, states @ weights["readout"].T

        answers = jax.lax.scan(advance, jnp.zeros_like(driven), length=_CELL_STEPS)[1][-_CELL_JUDGED:]
        target = jax.nn.one_hot(stimuli.argmax(axis=1), num_channels, dtype=answers.dtype)
        return jnp.mean((answers - target[None]) ** 2)

    def step(carry, key):
        weights, state = carry
        gradient = jax.grad(loss)(weights, jr.uniform(key, (64, num_channels)))
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix step counts and floats
            updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(weights, updates), state), None

    return jax.lax.scan(step, (weights, optimizer.init(weights)), jr.split(key, num_steps))[0][0]
