"""Fixed points of a trained RNN.

A small tanh cell is trained to remember the sign of the last pulse it saw (a flip-flop), and its fixed points are
found: two that attract and hold the memory, and one between them that does not. The list comes with an audit that
says whether some are missing.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import rnn2ff

NUM_UNITS, NUM_TIMES = 12, 30


# %% A task
# Pulses of +1 and -1 are rare; the readout has to be the last of them.
def draw(key):
    which, sign = jr.split(key)
    pulses = jr.bernoulli(which, 0.1, (64, NUM_TIMES)) * jr.rademacher(sign, (64, NUM_TIMES), jnp.float32)
    pulses = pulses.at[:, 0].set(jnp.where(pulses[:, 0] == 0, 1.0, pulses[:, 0]))

    def last(held, pulse):
        held = jnp.where(pulse == 0, held, pulse)
        return held, held

    return pulses, jax.lax.scan(last, jnp.zeros(64), pulses.T)[1].T


# %% A cell, trained through time
def cell(params, state, stimulus):
    return jnp.tanh(params["W"] @ state + params["B"] @ stimulus + params["b"])


def outputs(params, pulses):
    def step(state, pulse):
        state = cell(params, state, pulse[None])
        return state, params["readout"] @ state

    return jax.lax.scan(step, jnp.zeros(NUM_UNITS), pulses)[1]


@jax.jit
def update(params, opt_state, key):
    pulses, held = draw(key)
    loss, gradient = jax.value_and_grad(
        lambda params: jnp.mean((jax.vmap(outputs, in_axes=(None, 0))(params, pulses) - held) ** 2)
    )(params)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


keys = jr.split(jr.key(0), 4)
params = {
    "W": 0.9 / NUM_UNITS**0.5 * jr.normal(keys[0], (NUM_UNITS, NUM_UNITS)),
    "B": jr.normal(keys[1], (NUM_UNITS, 1)),
    "b": jnp.zeros(NUM_UNITS),
    "readout": 0.1 * jr.normal(keys[2], (NUM_UNITS,)),
}
optimizer = optax.adam(0.01)
opt_state = optimizer.init(params)
for step, key in enumerate(jr.split(keys[3], 501)):
    params, opt_state, loss = update(params, opt_state, key)
    if step % 100 == 0:
        print(f"step {step}: loss {loss:.4f}")

# %% Its fixed points without a pulse
# `discrete_map` takes any pure cell; `from_torch` and Flax modules work in the same way. `starts=` would add states
# that the cell visits in use to the random ones.
network = rnn2ff.discrete_map(cell, params, state_size=NUM_UNITS, stimulus_size=1)
points = rnn2ff.find_fixed_points(network, jnp.zeros(1), box=(-1.0, 1.0), key=jr.key(1))
for state, is_stable, count in zip(points.states, points.is_stable, points.basin_counts):
    readout = float(np.asarray(params["readout"]) @ state)
    kind = "stable" if is_stable else "unstable"
    print(f"readout {readout:+.2f}: {kind}, reached from {count} of {len(points.starts)} states")
print(points.audit.name, "-", points.explanation)

# %% How fast they forget
# Eigenvalues of a map are shown as decay rates, per step.
for state in points.states[points.is_stable][:2]:
    motion = rnn2ff.linearize(network, state, jnp.zeros(1))
    print("slowest modes, in steps:", motion.time_constants[:3].round(2))
