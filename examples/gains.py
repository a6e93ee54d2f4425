"""A parameter as a stimulus: one approximator over gains.

What changes between uses need not be retrained for. A parameter of the network, here the gain of its recurrent weights,
becomes one more channel of the stimulus; the approximator learns steady states over stimuli *and* gains.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import rnn2ff

NUM_UNITS = 12

# %% A network with a gain
# Any function `(params, state, stimulus) -> velocity` is a network. The last channel of the stimulus scales the
# weights.
weights = jr.normal(jr.key(0), (NUM_UNITS, NUM_UNITS)) / NUM_UNITS**0.5


def velocity(weights, state, stimulus):
    drive, gain = stimulus[:-1], stimulus[-1]
    return -state + gain * weights @ jnp.tanh(state) + drive


def rates(weights, state):
    return jnp.tanh(state)


network = rnn2ff.RecurrentNetwork(
    velocity, weights, state_size=NUM_UNITS, stimulus_size=NUM_UNITS + 1, rate_function=rates
)

# %% Stimuli and gains
# Drawn independently, side by side.
lowest, highest = 0.1, 0.9
stimuli = rnn2ff.concatenate(rnn2ff.gaussian_stimuli(NUM_UNITS), rnn2ff.uniform_stimuli(1, low=lowest, high=highest))

# %% One approximator for all of them
result = rnn2ff.distill(network, stimuli, num_samples=2000, num_test_samples=500, num_steps=200, key=jr.key(1))
print(result)

# %% Its error by gain
# On the test stimuli.
test = result.test
predicted, gains = np.asarray(jax.vmap(result.approximator)(test.stimuli)), np.asarray(test.stimuli[:, -1])
for low in (0.1, 0.3, 0.5, 0.7):
    rows = (gains >= low) & (gains < low + 0.2)
    judged = rnn2ff.accuracy(predicted[rows], np.asarray(test.rates)[rows])
    print(f"gains from {low} to {low + 0.2:.1f}: {judged.nrmse:.3%} on {rows.sum()} stimuli")

# %% How the rates change with the gain
# The approximator is differentiable, and so is the steady state, implicitly.
one = jnp.asarray(test.stimuli[0])
by_pass = jax.jacfwd(result.approximator)(one)[:, -1]
by_solve = jax.jacfwd(lambda u: rnn2ff.solve_steady_state(network, u).rates(network))(one)[:, -1]
print("d rates / d gain, one pass:", np.asarray(by_pass[:4]).round(3))
print("d rates / d gain, implicit:", np.asarray(by_solve[:4]).round(3))
