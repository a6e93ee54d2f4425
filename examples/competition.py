"""Competition, distilled and certified.

Groups of excitatory units compete through shared inhibition: the steady state shows who wins. A recurrent network has
to settle for that. Here a feed-forward network learns it, and each of its answers gets a proved bound of its error.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import rnn2ff

# %% The network
# Three groups of four excitatory units, and four inhibitory units.
network = rnn2ff.partition_competition(3, 4)
print(network.stimulus_size, "channels,", network.state_size, "units")

# %% Distilled
# By default, `distill` returns the better of two approximators of equal cost: two layers alone, or sweeps, one product
# with a matrix each, preceded by hidden units where the cost allows. The report has the error of both.
result = rnn2ff.distill(network, rnn2ff.uniform_stimuli(12), num_samples=2000, num_steps=300, key=jr.key(0))
print(result)

# %% The winners
# On the test stimuli, which were held out.
test = result.test
predicted = np.asarray(jax.vmap(result.approximator)(test.stimuli))
groups = [rnn2ff.partition_means(jnp.asarray(each), 3, 4) for each in (predicted, test.rates, test.stimuli)]
print("stimuli to the groups:", np.asarray(groups[2][0]).round(2))
print("their steady rates:", np.asarray(groups[1][0]).round(2))
judged = rnn2ff.competition(*groups)
print(f"same winner as the recurrent network: {judged.agreement:.1%}")
print(f"trivial guess, the largest stimulus wins: {judged.trivial_agreement:.1%}")

# %% Certified
# A bound of the Euclidean distance of all rates to the unique fixed point, rounding included, without a solve.
certifier = rnn2ff.make_certifier(network)
predictions = rnn2ff.predict_all_units(network, result.approximator, test.stimuli[:200])
certificates = rnn2ff.certify_predictions(network, test.stimuli[:200], predictions, certifier)
true_errors = np.linalg.norm(predictions - np.asarray(test.rates[:200]), axis=1)
print(certificates)
print(f"true errors at most {true_errors.max():.4f}; never above their bounds: ", end="")
print(bool((true_errors <= np.asarray(certificates.error_bound) + 1e-4).all()))

# %% Answers within a tolerance
# One pass for some, a few more sweeps for others, and a solve for the rest, if any.
served = rnn2ff.predict_or_solve(network, result.approximator, test.stimuli, tolerance=1e-3, certifier=certifier)
print(served)
