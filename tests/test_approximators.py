import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_close

from rnn2ff import TwoLayer
from rnn2ff.approximators import predict


@pytest.mark.parametrize("is_rectified", [True, False])
@pytest.mark.parametrize("bypass", [True, False])
def test_a_pass_is_its_formula(bypass, is_rectified, key):
    approximator = TwoLayer(3, 5, 2, bypass=bypass, is_rectified=is_rectified, key=key)
    if bypass:
        approximator = eqx.tree_at(lambda each: each.bypass_weights, approximator, jr.normal(key, (2, 3)))
    stimuli = jr.normal(key, (20, 3))
    weights = {name: np.asarray(value) for name, value in vars(approximator).items() if isinstance(value, jax.Array)}
    for stimulus, received in zip(np.asarray(stimuli), predict(approximator, stimuli)):
        hidden = np.maximum(weights["hidden_weights"] @ stimulus + weights["hidden_bias"], 0)
        expected = weights["readout_weights"] @ hidden + weights["readout_bias"]
        if bypass:
            expected = expected + weights["bypass_weights"] @ stimulus
        assert_close(received, np.maximum(expected, 0) if is_rectified else expected, 1e-6)


def test_the_first_weights_keep_the_scale_of_the_stimulus(key):
    approximator = TwoLayer(50, 400, 100, is_rectified=False, key=key)
    rates = predict(approximator, jr.normal(key, (200, 50)))
    assert 0.8 < float(rates.std()) < 1.2


def test_an_approximator_needs_no_solver():
    import subprocess
    import sys

    code = "import sys, rnn2ff.approximators; print({'diffrax', 'optimistix', 'lineax', 'optax'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


@pytest.mark.parametrize("sizes", [(0, 5, 2), (3, 0, 2), (3, 5, 0), (3, 5.0, 2)])
@pytest.mark.usefixtures("as_a_user")
def test_sizes_below_one_are_refused(sizes, key):
    with pytest.raises(ValueError, match="at least 1"):
        TwoLayer(*sizes, key=key)


def test_the_output_of_a_rectified_approximator_is_never_negative(key):
    approximator = TwoLayer(3, 5, 2, key=key)
    assert jnp.all(predict(approximator, 10 * jr.normal(key, (100, 3))) >= 0)
