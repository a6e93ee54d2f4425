import numpy as np
import pytest
import scipy.io
from exported import EXAMPLES, STIMULI, example, relative_error

from rnn2ff import write_mat


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_lines_of_matlab_compute_what_jax_computes(kind, tmp_path):
    approximator, expected = example(kind)
    write_mat(tmp_path / "net.mat", approximator)
    m = scipy.io.loadmat(tmp_path / "net.mat")
    u = STIMULI.T
    h = np.maximum(m["hidden_weights"] @ u + m["hidden_bias"], 0)
    x = m["readout_weights"] @ h + m["readout_bias"]
    if "bypass_weights" in m:
        x = x + m["bypass_weights"] @ u
    if "steps" in m:
        d = m["drive_weights"] @ u + m["drive_bias"]
        x = before = x + d
        for k in range(m["steps"].shape[1]):
            target = d + m["recurrent_weights"] @ (np.maximum(x, 0) - m["slopes"] * x)
            x, before = x + m["steps"][:, [k]] * (target - x) + m["momenta"][:, [k]] * (x - before), x
    r = np.maximum(x, 0) if m["is_rectified"].item() else x
    assert relative_error(r[: int(m["rate_size"].item())].T, expected) < 1e-5
