"""When there is no steady state.

For some stimuli the dynamics cycle or diverge, and a fixed point may be unstable. A small residual alone cannot tell
these apart. Here each sample gets a verdict, and a distillation counts what it left out.
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import rnn2ff

# %% A network that rests for some stimuli
# The pair of Wilson and Cowan, excitatory and inhibitory, with weights that make it oscillate where the drive is
# moderate.
network = rnn2ff.wilson_cowan(weights=np.array([[16.0, -12.0], [15.0, -3.0]]), gains=(1.3, 2.0), thresholds=(4.0, 3.7))
drives = rnn2ff.uniform_stimuli(2, low=0.0, high=3.0)
stimuli = rnn2ff.data.sample_stimuli(drives, 100, key=jr.key(0))
solved = rnn2ff.solve_steady_states(network, stimuli)
print(solved)

# %% A cycle, and its period
row = int(np.argmax(np.asarray(solved.status) == rnn2ff.Status.oscillating))
stimulus = stimuli[row]
print("stimulus", stimulus.round(2), f"is {solved.verdict[row]} with a period of {solved.period[row]:.1f}")
moved = rnn2ff.simulate(network, stimulus, jnp.linspace(0, 40, 801))
excitatory = moved.rates[:, 0]
peaks = (excitatory[1:-1] > excitatory[:-2]) & (excitatory[1:-1] > excitatory[2:])
print("excitatory rates peak at the times", np.asarray(moved.times[1:-1][peaks]).round(1))

# %% A root finder is not enough
# The search ends at a fixed point, and the residual is almost zero; the verdict says what the dynamics do there.
print(rnn2ff.solve_steady_state(network, stimulus, rnn2ff.RootFind(), throw=False))

# %% A loss that ignores what has no steady state
# With `jnp.where` on the verdict the value is not NaN; with `solve_batch`, neither is the gradient.
# (The tutorials on the supralinear network and on the equilibrium layer train in this way.)
loss = jnp.where(solved.is_converged, solved.rates(network)[:, 0], 0).sum()
print(f"loss over {solved.is_converged.sum()} samples: {loss:.3f}")

# %% Distillation counts what it left out
# Trained very briefly; what matters here is the line "without a steady state".
distilled = rnn2ff.distill(
    network, drives, kind="two_layers", num_samples=400, num_test_samples=100, num_steps=500, key=jr.key(1)
)
print(distilled)

# %% At work
# The approximator gives an answer for every stimulus, also without a steady state. `predict_or_solve` says so.
served = rnn2ff.predict_or_solve(network, distilled.approximator, stimuli, tolerance=0.01)
print({name: count for name, count in rnn2ff.count_statuses(served.status).items() if count})
