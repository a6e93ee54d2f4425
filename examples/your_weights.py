"""Your weights from MATLAB or PyTorch.

A network is a weight matrix and a nonlinearity. `W[i, j]` is the weight from unit j to unit i (from column to row), and
stimuli are rows: `U[k]` is the k-th stimulus, one channel a unit unless you give a matrix B. The state form is
`tau dx/dt = -x + W phi(x) + B u + b`, with the rates `phi(x)`.
"""

import tempfile
from pathlib import Path

import jax.random as jr
import numpy as np
import scipy.io

import rnn2ff

folder = Path(tempfile.mkdtemp())

# %% A file from MATLAB
# Here we write one, as `save network.mat W U` would. `.npy`, `.npz` and `.csv` are read in the same way.
generator = np.random.default_rng(0)
W = 0.6 / np.sqrt(30) * generator.normal(size=(30, 30)).astype(np.float32)
U = generator.normal(size=(1000, 30)).astype(np.float32)
scipy.io.savemat(folder / "network.mat", {"W": W, "U": U})

network = rnn2ff.from_files(folder / "network.mat:W")  # rectified units; form=rnn2ff.StateForm(jnp.tanh) for others
stimuli = scipy.io.loadmat(folder / "network.mat")["U"]

# %% Its steady states
# Every stimulus comes back with a verdict. The residual is recomputed on the returned state.
solved = rnn2ff.solve_steady_states(network, stimuli)
print(solved)
rates = solved.rates(network)
print("rates of the first stimulus:", np.asarray(rates[0, :4]).round(2), "...")

# %% A feed-forward network that answers in one pass
# A tenth of an array of stimuli is held out for the test.
result = rnn2ff.distill(network, stimuli, num_steps=200, key=jr.key(0))
print(result)
rnn2ff.save(folder / "approximator.safetensors", result)
approximator, card = rnn2ff.load(folder / "approximator.safetensors", network=network)
print("read again, of the network", card["network"]["hash"][:12])

# %% Back to MATLAB
rnn2ff.write_mat(folder / "approximator.mat", approximator)
print("matrices in the file:", [name for name, *_ in scipy.io.whosmat(folder / "approximator.mat")])

# %% A cell from PyTorch
# `from_torch` reads a state dict, or a safetensors file; PyTorch itself is not needed. In PyTorch:
# `weights = {name: np.asarray(value) for name, value in module.state_dict().items()}`. A cell is a map, and judged as
# one.
weights = {
    "weight_ih_l0": generator.normal(size=(16, 3)).astype(np.float32),
    "weight_hh_l0": 0.8 / 4 * generator.normal(size=(16, 16)).astype(np.float32),
    "bias_ih_l0": np.zeros(16, np.float32),
    "bias_hh_l0": np.zeros(16, np.float32),
}
cell = rnn2ff.from_torch(weights)
print("a map:", cell.is_map, "of", cell.state_size, "units; continue as above")
