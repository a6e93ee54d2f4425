"""The certificate in C: never below the error, and about as small as that of Python."""

import subprocess

import jax
import numpy as np
import pytest
from arrays import in_single

from rnn2ff import bound_error, bound_to_c, make_certifier, partition_competition, threshold_linear

COMPILE = ("gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsanitize=undefined", "-O1")


def bounds_in_c(network, stimuli, rates, folder):
    (folder / "net.h").write_text(bound_to_c(network, name="net"))
    (folder / "main.c").write_text(
        '#include <stdio.h>\n#include "net.h"\n'
        "int main(void)\n{\n    float given[NET_STIMULUS_SIZE + NET_STATE_SIZE];\n"
        "    while (fread(given, sizeof given, 1, stdin) == 1) {\n"
        "        double bound = net(given, given + NET_STIMULUS_SIZE);\n"
        "        fwrite(&bound, sizeof bound, 1, stdout);\n    }\n    return 0;\n}\n"
    )
    subprocess.run([*COMPILE, "main.c", "-o", "main", "-lm"], cwd=folder, check=True)
    given = np.concatenate([stimuli, rates], axis=1).astype(np.float32)
    done = subprocess.run([folder / "main"], input=given.tobytes(), capture_output=True, check=True)
    assert done.stderr == b""
    return np.frombuffer(done.stdout, np.float64)


WEIGHTS = np.array([[0.2, -0.5], [-0.3, 0.1]], np.float32)
NETWORKS = {
    "contracting": threshold_linear(WEIGHTS),
    "monotone": threshold_linear(np.array([[-1.0, 1.2], [-1.2, -1.0]], np.float32)),
    "with stimulus weights": threshold_linear(
        WEIGHTS, stimulus_weights=np.array([[1, 0, 2], [0, 1, 1]], np.float32), bias=np.ones(2, np.float32)
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_never_below_the_error_and_no_larger_than_that_of_python(name, tmp_path):
    network, random = NETWORKS[name], np.random.default_rng(0)
    stimuli = random.uniform(2, 3, (200, network.stimulus_size)).astype(np.float32)
    weights, params = np.asarray(network.params.recurrent_weights, np.float64), network.params
    drive = stimuli.astype(np.float64)
    if params.stimulus_weights is not None:
        drive = drive @ np.asarray(params.stimulus_weights, np.float64).T
    steady = np.linalg.solve(np.eye(2) - weights, (drive + np.asarray(params.bias, np.float64)).T).T
    is_known = (steady > 0).all(axis=1)  # then both units are active, and this is the fixed point
    assert is_known.sum() > 50
    sizes = 10.0 ** random.uniform(-8, 2, (200, 1))
    rates = (steady + sizes * random.normal(size=(200, 2))).astype(np.float32)
    rates[-1] = steady[-1]
    bounds = bounds_in_c(network, stimuli, rates, tmp_path)
    errors = np.linalg.norm(rates.astype(np.float64) - steady, axis=1)
    assert (errors <= bounds)[is_known].all()
    certifier = make_certifier(network)
    in_python = jax.jit(jax.vmap(lambda u, r: bound_error(network, u, r, certifier)[0]))(stimuli, rates)
    # Python bounds the rounding of float32, and takes a step of which C knows nothing.
    assert np.median(bounds / np.asarray(in_python)) < 5
    assert (bounds <= 30 * errors + 1e-6)[is_known].all()


def test_what_is_not_finite_has_no_bound(tmp_path):
    rates = np.array([[np.nan, 1], [np.inf, 1], [3e38, 3e38], [1, 1]])
    bounds = bounds_in_c(NETWORKS["contracting"], np.ones((4, 2)), rates, tmp_path)
    assert (bounds[:2] == np.inf).all()
    assert bounds[2] > 1e38
    assert bounds[3] < 10
    stimuli = np.array([[np.nan, 1], [-np.inf, 1]])
    assert (bounds_in_c(NETWORKS["contracting"], stimuli, np.ones((2, 2)), tmp_path) == np.inf).all()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (threshold_linear(4 * np.ones((2, 2), np.float32)), "has no bound that holds everywhere.*no diagonal metric"),
        (in_single(partition_competition(2, 2, self_excitation=1.2)), "has no bound that holds everywhere"),
    ],
)
def test_a_network_without_a_global_bound_is_refused_with_the_reason(network, message):
    with pytest.raises(ValueError, match=message):
        bound_to_c(network)
    with pytest.raises(ValueError, match="`name` cannot be the prefix"):
        bound_to_c(NETWORKS["monotone"], name="2bad")
