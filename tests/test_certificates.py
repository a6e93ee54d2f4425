"""No certificate is ever wrong, however bad the prediction; oracles in extended precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import default_float

from rnn2ff import (
    Theorem,
    certify,
    make_certifier,
    threshold_linear,
)

DTYPES = [np.float32, np.float64] if default_float() == jnp.float64 else [np.float32]
SIZES = [2, 5]
certify_all = eqx.filter_jit(eqx.filter_vmap(certify, in_axes=(None, 0, 0, None)))
drawn = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)


def random_weights(random, size, gain, kind):
    weights = random.normal(size=(size, size)) * gain / size**0.5
    if kind == "skew":  # monotone, but far from a contraction
        return 3 * (weights - weights.T) - 0.5 * weights @ weights.T
    return -np.abs(weights) if kind == "inhibitory" else weights


def bad_predictions(random, truth):
    """Near, far and absurd."""
    size = len(truth)
    near = [truth + 10.0**power * random.normal(size=size) for power in (-12, -7, -5, -3, -1, 1)]
    with_nan, with_infinity = truth.copy(), truth.copy()
    with_nan[random.integers(size)], with_infinity[random.integers(size)] = np.nan, -np.inf
    absurd = [np.zeros(size), -truth, 1e8 * random.normal(size=size), np.full(size, 3e38), with_nan, with_infinity]
    return np.stack([truth, *near, *absurd])


def stored(network):
    """The network's own numbers, in extended precision."""
    return (np.asarray(each, np.longdouble) for each in (network.params.recurrent_weights, network.params.bias))


def solve_precisely(matrix, right):
    """A linear system, with residuals in extended precision."""
    solution = np.zeros_like(right)
    for _ in range(4):
        rest = right - matrix @ solution
        solution = solution + np.linalg.solve(matrix.astype(np.float64), rest.astype(np.float64))
    return solution


def threshold_linear_fixed_points(network, stimulus):
    """Rates of all fixed points, by trying every set of active units."""
    weights, bias = stored(network)
    drive, size, found = np.asarray(stimulus, np.longdouble) + bias, len(bias), []
    rounding = 1e-17 * (1 + np.abs(drive).max())
    for number in range(2**size):
        active = (number >> np.arange(size)) % 2 == 1
        on = np.flatnonzero(active)
        block = (np.eye(size) - weights)[np.ix_(on, on)]
        if len(on) and np.linalg.cond(block.astype(np.float64)) > 1e9:
            continue
        rates = np.zeros(size, np.longdouble)
        rates[on] = solve_precisely(block, drive[on])
        total = weights @ rates + drive
        if (rates[on] >= -rounding).all() and (total[~active] <= rounding).all():
            found.append(rates)
    return np.array(found, np.longdouble).reshape(-1, size)


def distance(prediction, points):
    """To the nearest of the points."""
    apart = np.asarray(prediction, np.longdouble) - points
    return np.sqrt((apart**2).sum(axis=-1)).min(initial=np.inf)


def assert_never_wrong(certificate, predictions, points, scale):
    """Every bound holds, what is exact is a fixed point, and what is not finite is not certified."""
    for row, prediction in enumerate(predictions):
        bound, theorem = certificate.error_bound[row], int(certificate.theorem[row])
        assert bound >= 0
        if not np.isfinite(prediction).all():
            assert bound == np.inf
            assert theorem == Theorem.none
            assert not certificate.is_exact[row]
            assert not certificate.is_refined_exact[row]
            continue
        assert (theorem == Theorem.none) == (bound == np.inf)
        precision = np.longdouble(np.finfo(predictions.dtype).eps)
        if np.isfinite(bound):
            # The oracle itself is right to about 1e-17.
            assert distance(prediction, points) <= np.longdouble(bound) + 1e-16 * scale
        if certificate.is_exact[row]:
            assert certificate.is_refined_exact[row]
            assert distance(prediction, points) < 1e4 * precision * scale
        if certificate.is_refined_exact[row]:
            assert distance(certificate.refined[row], points) < 1e4 * precision * scale + 1e-3 * distance(
                prediction, points
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@drawn
@given(
    seed=seeds,
    gain=st.floats(0.1, 2.0),
    kind=st.sampled_from(["gaussian", "skew", "inhibitory"]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    is_at_threshold=st.booleans(),
)
def test_no_bound_is_below_the_error_in_a_threshold_linear_network(
    size, dtype, seed, gain, kind, scale, is_at_threshold
):
    random = np.random.default_rng(seed)
    network = threshold_linear(random_weights(random, size, gain, kind).astype(dtype))
    stimulus = (scale * random.normal(size=size)).astype(dtype)
    points = threshold_linear_fixed_points(network, stimulus)
    weights, _ = stored(network)
    truth = points[random.integers(len(points))] if len(points) else np.zeros(size)
    if is_at_threshold and len(points):  # then a unit is moved to its threshold, up to the rounding of the stimulus
        unit = random.integers(size)
        stimulus[unit] -= dtype((weights @ truth + stimulus)[unit])
        points = threshold_linear_fixed_points(network, stimulus)
        truth = points[0] if len(points) else truth
    predictions = bad_predictions(random, truth.astype(np.float64)).astype(dtype)
    certifier = make_certifier(network)
    certificate = certify_all(network, np.tile(stimulus, (len(predictions), 1)), predictions, certifier)
    certificate = jax.tree.map(np.asarray, certificate)
    assert certificate.error_bound.dtype == dtype
    if bool(certifier.has_global_bound):
        assert distance(points[0], points[-1:]) < 1e-12 * (1 + scale)
    scale = 1 + np.abs(points).max(initial=0) + np.abs(stimulus).max()
    assert_never_wrong(certificate, predictions, points, scale)
