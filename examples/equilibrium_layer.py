"""An equilibrium layer in equinox.

A layer whose output is the steady state of a recurrent network, trained by its implicit derivative: the memory of a
training step does not grow with the time that the network needs to settle. The recipe for samples without a steady
state is in the loss.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import rnn2ff

# %% Data
# Two spirals, to be classified.
generator = np.random.default_rng(0)
turns, labels = generator.uniform(0.3, 1.0, 400), generator.integers(2, size=400)
angles = 2 * np.pi * turns + np.pi * labels
points = np.stack([turns * np.cos(angles), turns * np.sin(angles)], axis=1) + 0.02 * generator.normal(size=(400, 2))
points, labels = jnp.asarray(points, jnp.float32), jnp.asarray(labels, jnp.float32)
train, test = slice(0, 300), slice(300, 400)


# %% The layer
# An ordinary module with weights of its own. The steady states of the batch are found inside `jit`, by `solve_batch`.
# A bound of the norm of the weights makes every network of the training contract, so that each sample has one steady
# state; without it some samples would lose theirs, and the loss below would leave them out.
class Equilibrium(eqx.Module):
    """Tanh units at rest, read out linearly."""

    recurrent: jax.Array
    feedforward: jax.Array
    readout: eqx.nn.Linear

    def __init__(self, stimulus_size, num_units, *, key):
        one, two, three = jr.split(key, 3)
        self.recurrent = 0.5 / num_units**0.5 * jr.normal(one, (num_units, num_units))
        self.feedforward = 3.0 * jr.normal(two, (num_units, stimulus_size))
        self.readout = eqx.nn.Linear(num_units, 1, key=three)

    def __call__(self, stimuli):
        form = rnn2ff.StateForm(jnp.tanh)
        weights = self.recurrent / jnp.maximum(1, jnp.linalg.norm(self.recurrent, ord=2) / 0.9)
        network = rnn2ff.rate_network(form, weights, stimulus_weights=self.feedforward)
        solved = rnn2ff.solve_batch(network, stimuli)
        return jax.vmap(self.readout)(solved.rates(network))[:, 0], solved.is_converged


# %% The loss
# A sample without a steady state has a derivative of NaN, unless the loss ignores it: `jnp.where` does.
def loss(layer, stimuli, labels):
    logits, is_converged = layer(stimuli)
    losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    num_converged = is_converged.sum()
    return jnp.where(is_converged, losses, 0).sum() / jnp.maximum(num_converged, 1), num_converged


# %% Training
layer = Equilibrium(2, 24, key=jr.key(0))
optimizer = optax.adam(0.02)
opt_state = optimizer.init(eqx.filter(layer, eqx.is_inexact_array))


@eqx.filter_jit
def update(layer, opt_state):
    (value, num_converged), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(
        layer, points[train], labels[train]
    )
    updates, opt_state = optimizer.update(gradient, opt_state)
    return eqx.apply_updates(layer, updates), opt_state, value, num_converged


for step in range(101):
    layer, opt_state, value, num_converged = update(layer, opt_state)
    if step % 25 == 0:
        print(f"step {step:3d}: loss {value:.3f}, {num_converged} of 300 with a steady state")

# %% The test
logits, is_converged = eqx.filter_jit(layer)(points[test])
right = (logits > 0) == (labels[test] > 0.5)
print(f"right on {right.mean():.0%} of unseen points; {int(is_converged.sum())} of 100 have a steady state")
