"""An SSN fitted to contrast responses, by gradients through a batch of verified steady states.

The stabilized supralinear network of one excitatory and one inhibitory population (Ahmadian, Rubin and Miller 2013) is
fitted to the responses of another one. The steady states of all contrasts are solved in each step; the gradient is the
implicit one, so that no trajectory is stored.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnn2ff

# %% Data
# Rates at eleven contrasts, of a network with the published weights. Contrast drives both populations equally.
contrasts = np.linspace(0, 20, 11, dtype=np.float32)
stimuli = jnp.stack([contrasts, contrasts], axis=1)
truth = rnn2ff.stabilized_supralinear_pair()
target = rnn2ff.solve_steady_states(truth, stimuli).rates(truth)
print("excitatory:", np.asarray(target[:, 0]).round(2))
print("inhibitory:", np.asarray(target[:, 1]).round(2))

# %% The model
# Magnitudes are exponentials, which fixes the signs. The fit starts with errors of 20 %.
signs = jnp.array([[1.0, -1.0], [1.0, -1.0]])
factors = np.array([[0.8, 0.8], [1.2, 0.8]], np.float32)
log_weights = jnp.log(jnp.abs(truth.params.recurrent_weights) * factors)


def network_of(log_weights):
    return eqx.tree_at(lambda each: each.params.recurrent_weights, truth, signs * jnp.exp(log_weights))


# %% The loss
# During training some stimuli may lose their steady state. Their gradient is NaN, unless the loss leaves them out with
# `jnp.where`, as here; their number should be monitored.
def loss(log_weights):
    network = network_of(log_weights)
    solved = rnn2ff.solve_batch(network, stimuli)
    errors = jnp.sum(((solved.rates(network) - target) / target.max(axis=0)) ** 2, axis=1)
    num_converged = solved.is_converged.sum()
    return jnp.where(solved.is_converged, errors, 0).sum() / jnp.maximum(num_converged, 1), num_converged


# %% The fit
optimizer = optax.adam(0.02)


@jax.jit
def update(log_weights, opt_state):
    (error, num_converged), gradient = jax.value_and_grad(loss, has_aux=True)(log_weights)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return optax.apply_updates(log_weights, updates), opt_state, error, num_converged


opt_state = optimizer.init(log_weights)
for step in range(601):
    log_weights, opt_state, error, num_converged = update(log_weights, opt_state)
    if step % 150 == 0:
        print(f"step {step:3d}: squared error {error:.6f}, {num_converged} of {len(stimuli)} with a steady state")

# %% Result
# Two response curves do not determine four weights: the fitted weights differ from the true ones, the curves hardly.
fitted = network_of(log_weights)
rates = rnn2ff.solve_steady_states(fitted, stimuli).rates(fitted)
print("excitatory:", np.asarray(rates[:, 0]).round(2))
print(f"largest difference: {jnp.abs(rates - target).max():.3f}")
print("weights:", *np.asarray(fitted.params.recurrent_weights).round(2))
