"""No certificate is ever wrong, however bad the prediction; oracles in extended precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROBLEMS, assert_close, default_float, two_active

from rnn2ff import (
    PowerLaw,
    RateForm,
    Theorem,
    bound_error,
    certify,
    linearize,
    make_certifier,
    partition_competition,
    rate_network,
    stabilized_supralinear,
    threshold_linear,
    threshold_linear_rate,
)
from rnn2ff.certificates.bounds import unit_bounds

DTYPES = [np.float32, np.float64] if default_float() == jnp.float64 else [np.float32]
certify_all, bound_all = (
    eqx.filter_jit(eqx.filter_vmap(each, in_axes=(None, 0, 0, None))) for each in (certify, bound_error)
)
units_all = eqx.filter_jit(eqx.filter_vmap(unit_bounds, in_axes=(None, 0, 0, 0, None)))


def certify_one(network, stimulus, prediction):
    """Compiled, which is cheaper than operation by operation."""
    rows = (np.asarray(floats(each))[None] for each in (stimulus, prediction))
    certificates = jax.device_get(certify_all(network, *rows, make_certifier(network)))
    return jax.tree.map(lambda each: each[0], certificates)


drawn = settings(max_examples=20, deadline=None, derandomize=True, database=None)
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
        if np.isfinite(certificate.refined_error_bound[row]):
            assert np.isfinite(bound)
            allowed = np.longdouble(certificate.refined_error_bound[row]) + 1e-16 * scale
            assert distance(certificate.refined[row], points) <= allowed
        if certificate.is_refined_exact[row]:
            assert distance(certificate.refined[row], points) < 1e4 * precision * scale + 1e-3 * distance(
                prediction, points
            )


@pytest.mark.parametrize(("size", "rank", "dtype"), [(2, 2, DTYPES[0]), (5, 5, DTYPES[-1]), (6, 2, DTYPES[0])])
@drawn
@given(
    seed=seeds,
    gain=st.floats(0.1, 2.0),
    kind=st.sampled_from(["gaussian", "skew", "inhibitory"]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    is_at_threshold=st.booleans(),
)
def test_no_bound_is_below_the_error_in_a_threshold_linear_network(
    size, rank, dtype, seed, gain, kind, scale, is_at_threshold
):
    random = np.random.default_rng(seed)
    weights = random_weights(random, rank, gain, kind)
    if rank < size:
        weights = random.normal(size=(size, rank)) @ weights @ random.normal(size=(rank, size)) / size
    network = threshold_linear(weights.astype(dtype))
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
    assert (certifier.factors is not None) == (rank < size)
    stimuli = np.tile(stimulus, (len(predictions), 1))
    certificate = jax.tree.map(np.asarray, certify_all(network, stimuli, predictions, certifier))
    assert certificate.error_bound.dtype == dtype
    if bool(certifier.has_global_bound):
        assert distance(points[0], points[-1:]) < 1e-12 * (1 + scale)
    scale = 1 + np.abs(points).max(initial=0) + np.abs(stimulus).max()
    assert_never_wrong(certificate, predictions, points, scale)
    everywhere, _ = bound_all(network, stimuli, predictions, certifier)  # which the local bound may have hidden
    for prediction, bound in zip(predictions, np.asarray(everywhere)):
        assert not bound < np.inf or distance(prediction, points) <= np.longdouble(bound) + 1e-16 * scale
    for bounds in (certificate.error_bound, np.asarray(everywhere)):
        of_units = np.asarray(units_all(network, stimuli, predictions, bounds, certifier))
        assert_units_bounded(of_units, bounds, predictions, points, scale)


def assert_units_bounded(of_units, bounds, predictions, points, scale):
    """One fixed point is within the bounds of all units, which are no larger than that of all together."""
    for prediction, bound, each in zip(predictions, bounds, of_units):
        assert (each <= bound).all()
        assert (each == np.inf).all() or bound < np.inf
        apart = np.abs(np.asarray(prediction, np.longdouble) - points)
        assert not bound < np.inf or (apart <= each + 1e-16 * scale).all(axis=1).any()


def evaluate(nonlinearity, total):
    """Values and slopes, in the precision of the total."""
    if nonlinearity is jnp.tanh:
        values = np.tanh(total)
        return values, 1 - values**2
    if nonlinearity is jax.nn.sigmoid:
        values = 1 / (1 + np.exp(-total))
        return values, values * (1 - values)
    positive = np.maximum(total, 0)
    return nonlinearity.gain * positive**2, 2 * nonlinearity.gain * positive


def smooth_fixed_point(network, stimulus, start):
    """Newton's method in extended precision; None if it does not arrive."""
    weights, bias = stored(network)
    drive, rates = np.asarray(stimulus, np.longdouble) + bias, np.asarray(start, np.longdouble)
    for _ in range(60):
        values, steepness = evaluate(network.vector_field.nonlinearity, weights @ rates + drive)
        step = solve_precisely(np.eye(len(bias)) - steepness[:, None] * weights, rates - values)
        rates = rates - step
        if not np.isfinite(rates).all():
            return None
    return rates if np.abs(step).max() < 1e-16 * (1 + np.abs(rates).max()) else None


SMOOTH = [jnp.tanh, jax.nn.sigmoid, PowerLaw(0.125, 2.0)]  # a gain that float32 holds exactly


@pytest.mark.parametrize(
    ("nonlinearity", "rank"),
    [*((each, 3) for each in SMOOTH), (SMOOTH[-1], 1)],
    ids=["tanh", "logistic", "power law", "power law of low rank"],
)
@drawn
@given(seed=seeds, gain=st.floats(0.1, 6.0), dtype=st.sampled_from(DTYPES))
def test_no_bound_is_below_the_error_in_a_smooth_network(nonlinearity, rank, seed, gain, dtype):
    random, size = np.random.default_rng(seed), 3
    weights = random_weights(random, size, gain, "gaussian")
    if rank < size:
        weights = weights[:, :1] * weights[:1]
    network = rate_network(RateForm(nonlinearity), weights.astype(dtype))
    stimulus = (random.normal(size=size) * 10 ** random.uniform(-2, 1)).astype(dtype)
    starts = [random.normal(size=size) for _ in range(5)]
    points = [smooth_fixed_point(network, stimulus, start) for start in starts]
    points = np.array([point for point in points if point is not None], np.longdouble).reshape(-1, size)
    truth = points[0].astype(np.float64) if len(points) else np.zeros(size)
    predictions = bad_predictions(random, truth).astype(dtype)
    certificate = certify_all(
        network, np.tile(stimulus, (len(predictions), 1)), predictions, certifier := make_certifier(network)
    )
    certificate = jax.tree.map(np.asarray, certificate)
    # A local bound is of the fixed point to which Newton's method leads from the prediction.
    for row in np.flatnonzero(certificate.theorem == Theorem.newton):
        nearest = smooth_fixed_point(network, stimulus, predictions[row])
        assert nearest is not None
        slack = 1e-16 * (1 + np.abs(nearest).max())
        assert distance(predictions[row], nearest[None]) <= np.longdouble(certificate.error_bound[row]) + slack
        allowed = np.longdouble(certificate.refined_error_bound[row]) + slack
        assert distance(certificate.refined[row], nearest[None]) <= allowed
    if bool(certifier.has_global_bound) and len(points):
        assert_never_wrong(certificate, predictions, points, scale := 1 + np.abs(points).max())
        stimuli = np.tile(stimulus, (len(predictions), 1))
        of_units = np.asarray(units_all(network, stimuli, predictions, certificate.error_bound, certifier))
        assert_units_bounded(of_units, certificate.error_bound, predictions, points, scale)
    assert not certificate.is_exact.any()
    assert (certificate.error_bound[~np.isfinite(predictions).all(axis=1)] == np.inf).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nonlinearity", SMOOTH, ids=["tanh", "logistic", "power law"])
def test_smooth_nonlinearities_are_computed_as_exactly_as_certificates_assume(nonlinearity, dtype):
    totals = np.concatenate([np.linspace(-30, 30, 20_001), np.logspace(-8, 0, 2_001)]).astype(dtype)
    values, steepness = evaluate(nonlinearity, totals.astype(np.longdouble))
    computed, computed_slopes = jax.jit(lambda t: jax.jvp(nonlinearity, (t,), (jnp.ones_like(t),)))(totals)
    allowed = 16 * np.finfo(dtype).eps
    scales = (values, steepness) if isinstance(nonlinearity, PowerLaw) else (1, 1)  # relative, or absolute
    assert (np.abs(np.asarray(computed, np.longdouble) - values) <= allowed * scales[0]).all()
    assert (np.abs(np.asarray(computed_slopes, np.longdouble) - steepness) <= allowed * scales[1]).all()
    curvature = np.abs(np.gradient(steepness[:20_001], totals[:20_001].astype(np.longdouble))).max()
    network = rate_network(RateForm(nonlinearity), np.full((1, 1), 0.5, dtype))
    assumed = float(make_certifier(network).curvature)
    assert 0.999 * assumed < curvature <= assumed


class TestClosedForms:
    @pytest.mark.parametrize("a", [0.5, 0.7])
    def test_the_modulus_of_a_soft_competition_is_one_minus_its_self_excitation(self, a):
        certifier = make_certifier(partition_competition(2, 3, self_excitation=a))
        assert certifier.monotonicity == pytest.approx(1 - a, abs=1e-5)
        assert certifier.contraction_gap == 0
        assert bool(certifier.has_global_bound)

    @pytest.mark.parametrize(
        ("nonlinearity", "weight", "factor", "theorem"),
        [
            (jax.nn.relu, 0.5, 0.5 / 0.5, Theorem.contraction),  # 1 / (1 - w) of the error of the equation, tight
            (jax.nn.relu, -2.0, 2 / 3, Theorem.monotonicity),
            (jax.nn.sigmoid, -2.0, 0.25 * 2 / 1.5, Theorem.monotonicity),
            (jax.nn.sigmoid, 2.0, 0.25 * 2 / 0.5, Theorem.contraction),
        ],
    )
    def test_the_bound_of_one_unit_is_its_formula(self, nonlinearity, weight, factor, theorem):
        network = rate_network(RateForm(nonlinearity), floats([[weight]]))
        stimulus, rate = jnp.asarray([1.0]), jnp.asarray([0.9])
        error = float(abs(rate - nonlinearity(weight * rate + stimulus))[0])
        bound, received = bound_error(network, stimulus, rate)
        assert_close(bound, error * (1 + factor), 1e-4)
        assert bound >= error * (1 + factor) * (1 - 1e-6)
        if factor != 1 and theorem == Theorem.monotonicity:
            assert received == theorem

    @pytest.mark.parametrize(("second", "is_silent"), [(-5.0, True), (-0.7, False)])
    def test_units_that_are_active_or_silent_for_certain_make_the_bound_smaller(self, second, is_silent):
        """The first is active for certain; the second, at a total of -4.34, silent for certain, and not at -.04."""
        network = threshold_linear_rate(jnp.asarray([[0.5, 0.3], [0.3, -0.2]]))
        certifier = make_certifier(network)
        bound, _ = bound_error(network, jnp.asarray([1.0, second]), jnp.asarray([2.2, 0.0]), certifier)
        error = np.array([2.2 - (0.5 * 2.2 + 1), 0.0])
        root, scale = np.asarray(certifier.metric_root), np.asarray(certifier.contraction_scale)

        def moved(pushed):
            by_metric = np.linalg.norm(root * pushed) / (float(certifier.monotonicity) * root.min())
            by_scale = np.linalg.norm(scale) * (pushed / scale).max() / float(certifier.contraction_gap)
            return min(by_metric, by_scale)

        step, counts = np.array([0.5 * error[0], 0.0]), np.array([1.0, 0.0 if is_silent else 1.0])
        plain = np.linalg.norm(error) + moved(counts * [0.5 * error[0], 0.3 * error[0]])
        stepped = np.linalg.norm(error + step) + moved(counts * [0.5 * step[0], 0.3 * step[0] + 0.3 * error[0]])
        assert_close(bound, min(plain, stepped), 1e-4)
        assert (stepped < plain) == is_silent

    def test_the_exact_answer_of_a_competition_is_proved_from_anywhere_on_its_piece(self):
        network, rates = partition_competition(2, 3), two_active((1.0, 0.9))
        stimulus = jnp.repeat(jnp.asarray([1.0, 0.9]), 3)
        off = jnp.asarray(rates) + 0.01 * jnp.cos(jnp.arange(9.0))
        certificate = certify_one(network, stimulus, off)
        distance = jnp.linalg.norm(off - rates)
        assert not certificate.is_exact
        assert certificate.is_refined_exact
        assert_close(certificate.refined, rates, 1e-5)
        assert_close(certificate.error_estimate, distance, 1e-4)
        assert_close(certificate.error_bound, distance, 1e-4)
        assert certificate.theorem == Theorem.newton
        again = certify_one(network, stimulus, certificate.refined)
        assert again.is_exact
        assert again.error_bound < 1e-4

    def test_where_a_network_has_two_winners_the_bound_is_of_a_fixed_point_and_local(self):
        problem = PROBLEMS["hard competition"]
        certifier = make_certifier(problem.network)
        assert not bool(certifier.has_global_bound)
        bound, theorem = bound_error(problem.network, problem.stimulus, problem.rates, certifier)
        assert (bound, theorem) == (jnp.inf, Theorem.none)
        certificate = certify_one(problem.network, problem.stimulus, problem.rates)
        assert certificate.is_exact
        assert certificate.theorem == Theorem.newton


def test_weights_of_low_rank_give_the_certificate_of_the_whole_inverse_and_tell_what_attracts():
    network = partition_competition(2, 3, self_excitation=1.3)  # 9 units, rank 3
    thin = make_certifier(network)
    whole = eqx.tree_at(lambda each: each.factors, thin, None)
    generator = np.random.default_rng(0)
    stimuli = floats(np.repeat(generator.random((200, 2)), 3, axis=1))
    rates = floats(np.maximum(generator.normal(size=(200, 9)), 0))
    for _ in range(10):  # Newton steps, to fixed points of all kinds
        found = certify_all(network, stimuli, rates, whole)
        rates = floats(np.maximum(found.refined, 0))
    received, expected = (jax.device_get(certify_all(network, stimuli, rates, each)) for each in (thin, whole))
    exact = np.flatnonzero(expected.is_refined_exact)
    assert len(exact) > 10
    assert (received.is_refined_exact[exact]).all()
    assert_close(received.refined[exact], expected.refined[exact], 1e-4)
    assert (received.error_bound[exact] < 1e-2).all()
    assert not expected.is_attracting.any()
    for row in exact:
        active = np.flatnonzero(np.asarray(rates)[row] > 0)
        block = np.asarray(network.params.recurrent_weights, np.float64)[np.ix_(active, active)]
        assert bool(received.is_attracting[row]) == (np.linalg.eigvals(block).real.max() < 1)
    assert 0 < received.is_attracting[exact].sum() < len(exact)


@pytest.mark.parametrize(("growth", "distance", "expected"), [(0.002, 0.01, False), (-0.1, 0.001, True)])
def test_a_fixed_point_beside_a_prediction_with_smaller_slopes_is_not_called_attracting(growth, distance, expected):
    """Units at rates of 1/2 and slopes of 3/4; a turning mode, and one that moves all units together."""
    size = 12
    modes = np.linalg.qr(np.column_stack([np.ones(size), np.arange(size), np.arange(size) ** 2]))[0]
    gain = (1 + growth) / 0.75
    turning = modes[:, 1:] @ np.array([[gain, -1], [1, gain]]) @ modes[:, 1:].T
    network = rate_network(RateForm(jnp.tanh), turning - np.full((size, size), 1 / size))
    stimulus, fixed_point = np.full(size, np.arctanh(0.5) + 0.5), np.full(size, 0.5)
    assert (linearize(network, fixed_point, stimulus).spectral_abscissa < 0) == expected
    received = certify_one(network, stimulus, fixed_point - distance)
    assert distance * size**0.5 <= received.error_bound < np.inf
    assert bool(received.is_attracting) == expected


def test_weights_of_low_rank_up_to_rounding_make_no_distant_point_exact():
    """A step of length 1 by an inverse that is off by 1e-7 of float64 weights ends that far from the fixed point."""
    angles = 2 * np.pi * np.arange(12) / 12
    weights = (((-4 + 2.5 * np.cos(angles[:, None] - angles)) / 12).astype(np.float32)).astype(float)
    network = threshold_linear_rate(weights)
    stimulus = np.asarray(1 + 0.01 * np.cos(angles), network.dtype).astype(float)  # all units are active
    truth = np.linalg.solve(np.eye(12) - weights, stimulus)
    assert (truth > 0).all()
    assert make_certifier(network).factors is not None
    unheard = np.cos(2 * angles)  # by the weights, so that a step along it stays on the piece
    far, near = (certify_one(network, stimulus, truth + step * unheard) for step in (1.0, 1e-8))
    limit = 1e4 * np.finfo(network.dtype).eps * (1 + np.linalg.norm(truth))
    for found in (far, near):
        assert np.isfinite(found.refined_error_bound)
        error = np.linalg.norm(np.asarray(found.refined, float) - truth)
        assert error <= found.refined_error_bound + np.finfo(network.dtype).eps
        assert error <= limit or not found.is_refined_exact
    assert near.is_refined_exact


def test_the_state_form_and_the_rate_form_have_the_same_certificates(key):
    weights = jr.normal(key, (5, 5)) * 0.3
    stimulus, rates = jnp.linspace(-1, 1, 5), jnp.linspace(0, 1, 5)
    received, expected = (
        certify_one(make(weights), stimulus, rates) for make in (threshold_linear, threshold_linear_rate)
    )
    jax.tree.map(assert_close, received, expected)


def test_stimulus_weights_and_biases_are_the_same_as_their_input(key):
    weights, stimulus_weights = jr.normal(key, (3, 3)) * 0.3, jr.normal(key, (3, 2))
    stimulus, bias, rates = jnp.asarray([1.0, -0.5]), jnp.asarray([0.1, 0.2, 0.3]), jnp.asarray([0.5, 0.0, 1.0])
    network = threshold_linear(weights, stimulus_weights=stimulus_weights, bias=bias)
    received = certify_one(network, stimulus, rates)
    expected = certify_one(threshold_linear(weights), stimulus_weights @ stimulus + bias, rates)
    assert_close(received.error_bound, expected.error_bound, 1e-4)
    norms = np.linalg.norm(np.asarray(stimulus_weights, np.float64), axis=1)  # on which the rounding of B u depends
    assert (make_certifier(network).stimulus_norms >= norms).all()
    assert norms.max() > 1


def test_of_other_networks_there_are_estimates_and_no_bounds():
    problem = PROBLEMS["a user's field, cube root"]
    off = jnp.asarray(problem.rates) + 0.001
    certificate = certify_one(problem.network, problem.stimulus, off)
    assert (certificate.error_bound, certificate.theorem) == (jnp.inf, Theorem.none)
    assert_close(certificate.error_estimate, 0.001 * 2**0.5, 1e-2)
    network = stabilized_supralinear(4, nonlinearity=PowerLaw(0.01, 3.0))
    certificate = certify_one(network, jnp.ones(network.stimulus_size), jnp.zeros(network.state_size))
    assert certificate.error_bound == jnp.inf
    assert certificate.error_estimate > 0


def test_a_certifier_is_made_outside_of_jit_or_the_error_says_so(as_a_user):
    with pytest.raises(ValueError, match="use a certifier that was made outside"):
        jax.jit(lambda weights: make_certifier(threshold_linear(weights)).slope)(jnp.eye(2))
    with pytest.raises(ValueError, match="`prediction` has the wrong shape"):
        certify(threshold_linear(jnp.eye(2)), jnp.ones(2), jnp.ones(3))
