"""Published networks, against their published numbers."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import networkx as nx
import numpy as np
import pytest
from arrays import floats
from problems import (
    assert_close,
    closeness,
    default_float,
    one_active,
    partition_stimulus,
    problems_tolerance,
    two_active,
)
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, root
from scipy.sparse.linalg import eigs

from rnn2ff import (
    PowerLaw,
    RateForm,
    Rollout,
    RootFind,
    StateForm,
    Status,
    ctln,
    grating_stimulus,
    hopfield,
    motion_stimulus,
    partition_competition,
    population_angle,
    random_excitatory_inhibitory,
    random_rate_network,
    random_threshold_linear,
    relation_angles,
    relation_network,
    relation_stimulus,
    residual,
    ring_angles,
    ring_attractor,
    ring_bump,
    ring_stimulus,
    solve_steady_state,
    solve_steady_states,
    stabilized_supralinear,
    stabilized_supralinear_pair,
    threshold_linear,
    threshold_linear_rate,
    wilson_cowan,
    winner_take_all,
    wong_wang,
)
from rnn2ff.networks.zoo.models import _smooth_ramp

IS_DOUBLE = default_float() == jnp.float64
SIX_DIGITS = 1e-6 if IS_DOUBLE else 1e-4
FOUR_DIGITS = 1e-4


def rows(text):
    return np.array([[int(entry) for entry in row] for row in text.split(";")])


def weights_of(network):
    return np.asarray(network.params.recurrent_weights, np.float64)


@eqx.filter_jit
def jacobian(network, state, stimulus):
    return jax.jacobian(network.velocity)(state, stimulus)


def jacobian_of(network, state, stimulus):
    return np.asarray(jacobian(network, floats(state), floats(stimulus)), np.float64)


def residual_of(network, state, stimulus):
    return eqx.filter_jit(residual)(network, floats(state), floats(stimulus))


def eigenvalues(network, state, stimulus):
    """Of the Jacobian, the leading one first."""
    found = np.linalg.eigvals(jacobian_of(network, state, stimulus))
    return found[np.argsort(-found.real)]


def extreme_eigenvalue(matrix, which):
    """One eigenvalue of a large matrix, by Arnoldi's method: LAPACK takes 3 s for all of those of 360 units."""
    start = np.random.default_rng(0).standard_normal(len(matrix))
    return eigs(np.asarray(matrix, np.float64), k=1, which=which, v0=start, return_eigenvectors=False)[0]


def is_stable(network, state, stimulus):
    return eigenvalues(network, state, stimulus)[0].real < -1e-4


def supports(weights, stimulus):
    """Every fixed point of `r = [W r + u]_+` by its support, in one-based digits: try them all."""
    found = {}
    size = len(weights)
    for units in itertools.chain.from_iterable(itertools.combinations(range(size), n) for n in range(size + 1)):
        on, off = list(units), [unit for unit in range(size) if unit not in units]
        rates = np.zeros(size)
        rates[on] = np.linalg.solve(np.eye(len(on)) - weights[np.ix_(on, on)], stimulus[on])
        if (rates[on] > 0).all() and (weights[off] @ rates + stimulus[off] <= 0).all():
            found["".join(str(unit + 1) for unit in on)] = rates
    return found


def index_of(weights, support):
    on = [int(digit) - 1 for digit in support]
    return np.sign(np.linalg.det(np.eye(len(on)) - weights[np.ix_(on, on)]))


def follow(velocity, start, times):
    """States along a trajectory, one per row."""
    step_tolerance = 1e-9 if IS_DOUBLE else 1e-6
    solution = solve_ivp(
        lambda t, x: velocity(x),
        (0, times[-1]),
        start,
        t_eval=times,
        rtol=step_tolerance,
        atol=step_tolerance,
        max_step=0.1,  # the rectifier's kinks deceive the estimate of the error
    )
    return solution.y.T


def velocity_of(network, stimulus):
    field = jax.jit(lambda state: network.velocity(state, floats(stimulus)))
    return lambda state: np.asarray(field(floats(state)), np.float64)


def cycle_of(velocity, start, *, settled=150.0, end=250.0):
    """Period, and the smallest and largest rate of each unit, once a limit cycle is settled."""
    times = np.linspace(settled, end, 20001)
    states = follow(velocity, start, times)
    first, middle = states[:, 0], np.median(states[:, 0])
    before = np.flatnonzero((first[:-1] < middle) & (first[1:] >= middle))
    share = (middle - first[before]) / (first[before + 1] - first[before])
    crossings = times[before] + share * (times[1] - times[0])
    return np.diff(crossings), states.min(axis=0), states.max(axis=0)


def distinct(points, tolerance=1e-3):
    """The points, without repetitions, by their first coordinate."""
    kept = []
    for point in points:
        if all(np.abs(point - other).max() > tolerance for other in kept):
            kept.append(point)
    return np.array(sorted(kept, key=lambda point: tuple(point)))


def fixed_points_from(network, stimulus, starts):
    """What a root finder reaches from each start, distinct, and whether it is stable."""
    starts = floats(starts)
    stimuli = floats(np.tile(stimulus, (len(starts), 1)))
    found = solve_steady_states(network, stimuli, solver=RootFind(), initial_states=starts, max_steps=256)
    at_rest = np.isin(found.status, [Status.converged, Status.unstable])
    points = distinct(np.asarray(found.state)[at_rest])
    return points, [is_stable(network, point, stimulus) for point in points]


def grid(low, high, number=7):
    axis = np.linspace(low, high, number)
    return np.array(list(itertools.product(axis, axis)))


def steady_state(network, stimulus, **options):
    """Where the dynamics come to rest, to the digits compared here."""
    return solve_steady_state(network, stimulus, Rollout(problems_tolerance()), **options)


def steady_states(network, stimuli, **options):
    return solve_steady_states(network, stimuli, solver=Rollout(problems_tolerance()), **options)


class TestCombinatorialThresholdLinear:
    """CANON 1."""

    isolated = rows("000;000;000")
    cycle = rows("001;100;010")
    graph_a = rows("00001;10001;01000;10100;00110")
    graph_c = rows("00001;00101;00010;10100;11000")

    @pytest.mark.parametrize(
        ("adjacency", "expected", "stable"),
        [
            (rows("01;10"), {"12": 4 / 7}, "12"),
            (rows("011;101;110"), {"123": 2 / 5}, "123"),
            (isolated, {"1": 1, "2": 1, "3": 1, "12": 0.4, "13": 0.4, "23": 0.4, "123": 0.25}, "1 2 3"),
            (cycle, {"123": 4 / 13}, ""),
            (graph_a, {"235": 4 / 13}, ""),
            (graph_c, dict.fromkeys(["15", "25", "34", "125", "145", "234", "12345"]), "15 25 34"),
        ],
        ids=["2-clique", "3-clique", "isolated", "3-cycle", "A", "C"],
    )
    def test_the_fixed_points_are_the_published_ones(self, adjacency, expected, stable):
        network, theta = ctln(adjacency), np.ones(len(adjacency))
        weights = weights_of(network)
        found = supports(weights, theta)
        assert set(found) == set(expected)
        assert sum(index_of(weights, support) for support in found) == 1
        for support, rates in found.items():
            on = rates > 0
            value = 4 / 7 if support in ("15", "25", "34") else expected[support]
            if value is not None:
                assert_close(rates[on], np.full(on.sum(), value))
            assert residual_of(network, rates, theta) < 1e-6
            assert is_stable(network, rates, theta) == (support in stable.split())

    @pytest.mark.parametrize("size", [2, 3])
    def test_the_leading_eigenvalue_of_a_clique_is_minus_a_quarter(self, size):
        network = ctln(1 - np.eye(size))
        rates = np.full(size, {2: 4 / 7, 3: 2 / 5}[size])
        assert_close(eigenvalues(network, rates, np.ones(size))[0], -0.25, SIX_DIGITS)

    def test_the_3_cycle_turns_around_its_unstable_fixed_point_with_the_published_period_and_range(self):
        network, theta = ctln(self.cycle), np.ones(3)
        assert_close(eigenvalues(network, np.full(3, 4 / 13), theta)[0].real, 0.125, SIX_DIGITS)
        assert_close(abs(eigenvalues(network, np.full(3, 4 / 13), theta)[0].imag), 3 * 3**0.5 / 8, SIX_DIGITS)
        weights = np.array([[0, -1.5, -0.75], [-0.75, 0, -1.5], [-1.5, -0.75, 0]])
        for velocity in (lambda x: -x + np.maximum(weights @ x + 1, 0), velocity_of(network, theta)):
            periods, lowest, highest = cycle_of(velocity, [0.3, 0.2, 0.1])
            assert len(periods) >= 7
            assert_close(periods, np.full_like(periods, 11.24), 1e-3)
            assert_close(lowest, np.full(3, 0.0123), FOUR_DIGITS)
            assert_close(highest, np.full(3, 0.6707), FOUR_DIGITS)

    def test_the_3_cycle_started_on_its_fixed_point_stays(self):
        starts = np.full((3, 3), 4 / 13)
        received = steady_states(ctln(self.cycle), np.ones((3, 3)), initial_states=starts, max_steps=512)
        assert (received.status == Status.unstable).all()
        assert_close(received.state, starts)

    def test_graph_a_has_one_limit_cycle(self):
        weights = weights_of(ctln(self.graph_a))
        starts = np.random.default_rng(0).uniform(0, 1, (5, 5))
        cycles = [cycle_of(lambda x: -x + np.maximum(weights @ x + 1, 0), start) for start in starts]
        for periods, lowest, highest in cycles:
            assert np.ptp(periods) < 3e-3
            assert_close(periods[0], cycles[0][0][0], 1e-3)
            assert_close(lowest, cycles[0][1], 1e-3)
            assert_close(highest, cycles[0][2], 1e-3)
            assert highest.max() - lowest.min() > 0.1

    def test_graph_c_goes_to_the_support_it_starts_on_and_graph_a_nowhere(self):
        starts = np.zeros((3, 5))
        for row, support in enumerate(["15", "25", "34"]):
            starts[row, [int(digit) - 1 for digit in support]] = 0.1
        graph_c, graph_a = (
            steady_states(ctln(graph), np.ones((3, 5)), initial_states=floats(starts), max_steps=2048)
            for graph in (self.graph_c, self.graph_a)
        )
        assert (graph_c.status == Status.converged).all()
        assert_close(graph_c.state, np.where(starts > 0, 4 / 7, 0))
        assert (graph_a.status != Status.converged).all()

    def test_isolated_units_take_all(self):
        starts = floats(np.eye(3) * 0.1 + 0.05)
        received = steady_states(ctln(self.isolated), np.ones((3, 3)), initial_states=starts, max_steps=512)
        assert_close(received.state, np.eye(3))

    def test_a_graph_gives_the_weights_of_its_adjacency_matrix(self):
        graph = nx.DiGraph()
        graph.add_nodes_from("abc")
        graph.add_edges_from([("a", "b"), ("b", "c"), ("c", "a")])
        assert_close(weights_of(ctln(graph)), weights_of(ctln(self.cycle)), 0)
        assert_close(weights_of(ctln(nx.complete_graph(3))), weights_of(ctln(rows("011;101;110") == 1)), 0)
        other = weights_of(ctln(rows("00;10"), epsilon=0.1, delta=0.2))
        assert_close(other, [[0, -1.2], [-0.9, 0]], SIX_DIGITS)


@pytest.fixture(scope="module")
def gratings():
    """For each contrast a grating at 45 degrees, one at 135, both; the states, and how the solves ended."""
    contrasts = (1.0, 10.0, 20.0)
    pairs = [[np.asarray(grating_stimulus(angle, contrast=c)) for angle in (45.0, 135.0)] for c in contrasts]
    stimuli = floats([stimulus for one, other in pairs for stimulus in (one, other, one + other)])
    found = steady_states(stabilized_supralinear(), stimuli)
    parts = [slice(3 * i, 3 * i + 3) for i in range(len(contrasts))]
    return {c: (stimuli[part], found.state[part], found.status[part]) for c, part in zip(contrasts, parts)}


class TestStabilizedSupralinear:
    """CANON 2. The peaks are at 45 degrees."""

    network = stabilized_supralinear()

    @pytest.mark.parametrize(
        ("contrast", "peaks"), [(1.0, (0.0433, 0.0438)), (10.0, (11.7375, 15.6659)), (20.0, (24.0422, 40.1372))]
    )
    def test_the_peak_rates_are_the_published_ones_and_stable(self, gratings, contrast, peaks):
        stimuli, states, status = gratings[contrast]
        assert (status == Status.converged).all()
        excitatory, inhibitory = states[0, :180], states[0, 180:]
        assert (int(excitatory.argmax()), int(inhibitory.argmax())) == (45, 45)
        np.testing.assert_allclose(
            [excitatory.max(), inhibitory.max()], peaks, rtol=1e-5, atol=5e-5 if IS_DOUBLE else 6e-5
        )
        jacobian = jacobian_of(self.network, states[0], stimuli[0])
        assert extreme_eigenvalue(jacobian, "LR").real < -1e-4

    @pytest.mark.parametrize(("contrast", "radius"), [(1.0, 0.053), (10.0, 0.987), (20.0, 1.442)])
    def test_the_plain_iteration_has_the_published_spectral_radius(self, gratings, contrast, radius):
        stimuli, states, _ = gratings[contrast]
        phi = self.network.vector_field.nonlinearity
        iterate = jax.jacobian(lambda rates, stimulus: phi(self.network.params.total_input(rates, stimulus)))
        found = jax.jit(iterate)(np.asarray(states)[0], np.asarray(stimuli)[0])
        assert_close(np.abs(extreme_eigenvalue(found, "LM")), radius, 1e-3)

    @pytest.mark.parametrize(("contrast", "index"), [(1.0, 1.244), (10.0, 0.913)])
    def test_two_gratings_sum_as_published(self, gratings, contrast, index):
        _, states, _ = gratings[contrast]
        one, other, both = np.asarray(states[:, :180]).sum(axis=1)
        assert_close(both / (one + other), index, 1e-3)

    def test_fewer_units_have_nearly_the_same_rates_in_either_form(self, gratings):
        coarse = stabilized_supralinear(36, form=StateForm)
        found = steady_state(coarse, grating_stimulus(45.0, 36, contrast=10.0))
        assert_close(coarse.rates(found.state)[9], gratings[10.0][1][0, 45], 1e-2)

    def test_uniform_activity_makes_the_ring_a_pair_of_populations(self):
        ring = stabilized_supralinear(12)
        weights = weights_of(ring).reshape(2, 12, 2, 12)[:, 0].sum(axis=-1)
        pair = stabilized_supralinear_pair(weights=weights, nonlinearity=PowerLaw(0.04, 2.0))
        state = np.array([10.0, 12.0])
        expected = np.repeat(velocity_of(pair, np.full(2, 15.0))(state), 12)
        assert_close(velocity_of(ring, np.full(12, 15.0))(np.repeat(state, 12)), expected, SIX_DIGITS)

    def test_the_pair_of_populations_solves_its_equations_and_is_stable(self):
        network, stimulus = stabilized_supralinear_pair(), jnp.array([5.0, 5.0])

        def rates_at(r):
            return 0.3 * np.maximum([1.25 * r[0] - 0.65 * r[1] + 5, 1.2 * r[0] - 0.5 * r[1] + 5], 0) ** 2

        expected = root(lambda r: rates_at(r) - r, [3.0, 5.0], tol=1e-13).x
        received = steady_state(network, stimulus)
        np.testing.assert_allclose(received.state, expected, rtol=1e-7 if IS_DOUBLE else 1e-3)
        assert is_stable(network, received.state, stimulus)
        assert_close(network.time_constants, [20, 10], 0)

    def test_a_power_law_is_silent_below_zero_and_has_slopes_there(self):
        law, totals = PowerLaw(0.5, 3.0), floats([-1, 0, 2])
        assert_close(law(totals), [0, 0, 4], SIX_DIGITS)
        assert_close(jax.jit(jax.jacobian(law))(totals), np.diag([0, 0, 6]), SIX_DIGITS)


class TestWilsonCowan:
    """CANON 3."""

    published = np.array([[0, 0], [0.336852, 0.168420], [0.938430, 0.672481]])

    @staticmethod
    def velocity(r, refractory=0.0, drive=0.0):
        e, i = r

        def response(x, gain, threshold):
            return 1 / (1 + np.exp(-gain * (x - threshold))) - 1 / (1 + np.exp(gain * threshold))

        return np.array(
            [
                -e + (1 - refractory * e) * response(9 * e - 4 * i + drive, 1.2, 2.8),
                (-i + (1 - refractory * i) * response(13 * e - 11 * i + drive, 1, 4)) / 2,
            ]
        )

    def test_it_has_exactly_the_three_published_fixed_points(self):
        found, stable = fixed_points_from(wilson_cowan(), np.zeros(2), grid(-0.1, 1.1))
        assert_close(found, self.published, SIX_DIGITS)
        assert stable == [True, False, True]
        searches = [root(self.velocity, start, tol=1e-12) for start in grid(-0.1, 1.1)]
        assert_close(distinct([each.x for each in searches if each.success]), self.published, 1e-6)
        network = wilson_cowan()
        assert sum(np.sign(np.linalg.det(-jacobian_of(network, point, np.zeros(2)))) for point in found) == 1

    @pytest.mark.parametrize("refractory", [0.0, 1.0])
    def test_it_is_its_equation_with_and_without_the_refractory_factor(self, refractory):
        received = velocity_of(wilson_cowan(refractory=refractory), np.zeros(2))
        for state in np.random.default_rng(0).random((3, 2)):
            assert_close(received(state), self.velocity(state, refractory), SIX_DIGITS)


class TestWongWang:
    """CANON 4."""

    network = wong_wang()

    @staticmethod
    def velocity(s, coherence):
        mirror = np.array([1, -1])
        current = 0.2609 * s - 0.0497 * s[::-1] + 0.3255 + 5.2e-4 * 30 * (1 + mirror * coherence)
        excess = 270 * current - 108
        return -s / 0.1 + (1 - s) * 0.641 * excess / (1 - np.exp(-0.154 * excess))

    @pytest.mark.parametrize(
        ("coherence", "published", "expected_stable"),
        [
            (
                0.0,
                [[0.051807, 0.658694], [0.424456, 0.424456], [0.658694, 0.051807]],
                [True, False, True],
            ),
            (1.0, [[0.709281, 0.023964]], [True]),
        ],
    )
    def test_it_has_exactly_the_published_fixed_points(self, coherence, published, expected_stable):
        found, stable = fixed_points_from(self.network, motion_stimulus(coherence), grid(0, 1))
        assert_close(found, published, SIX_DIGITS)
        assert stable == expected_stable
        searches = [root(self.velocity, start, args=(coherence,), tol=1e-12) for start in grid(0.01, 0.99)]
        assert_close(distinct([each.x for each in searches if each.success]), published, 1e-6)

    def test_it_is_its_equation(self):
        received = velocity_of(self.network, motion_stimulus(0.2))
        for state in np.random.default_rng(0).random((3, 2)):
            expected = self.velocity(state, 0.2)
            np.testing.assert_allclose(received(state), expected, rtol=1e-12 if IS_DOUBLE else 1e-4)

    def test_its_ramp_and_slope_are_right_everywhere(self):
        near = np.concatenate([10.0 ** np.arange(-12, 0), [0.29, 0.2999, 0.3001, 0.31]])
        x = np.concatenate([-near, [0.0], near, np.linspace(-30, 30, 50), [-1e4, 1e4]]).astype(default_float())
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(_smooth_ramp)))(x)
        exact = x.astype(np.longdouble)
        is_tiny = np.abs(exact) < 2e-4
        drop = -np.expm1(-np.clip(np.where(is_tiny, 1, exact), -1e3, None))
        expected = np.where(is_tiny, 1 + exact / 2 + exact**2 / 12, exact / drop)
        expected_slope = np.where(is_tiny, 0.5 + exact / 6 - exact**3 / 180, (drop - exact * (1 - drop)) / drop**2)
        tolerance = 2e-14 if IS_DOUBLE else 3e-6
        np.testing.assert_allclose(value, expected.astype(float), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(slope, expected_slope.astype(float), rtol=tolerance, atol=tolerance)

    def test_values_and_gradients_are_finite_where_the_formula_is_zero_over_zero(self):
        stimulus = np.full(2, (0.4 - 0.3255) / 5.2e-4)  # I = .4
        by_stimulus = jax.jit(jax.jacobian(self.network.velocity, argnums=1))
        for nearby in (stimulus - 1e-3, stimulus, stimulus + 1e-3):
            velocity = velocity_of(self.network, nearby)(np.zeros(2))
            gradient = by_stimulus(floats(np.zeros(2)), floats(nearby))
            np.testing.assert_allclose(velocity, 0.641 / 0.154, rtol=1e-3)
            np.testing.assert_allclose(np.diag(gradient), 0.641 * 270 * 5.2e-4 / 2, rtol=1e-3)


class TestRing:
    """CANON 5 and 7."""

    num_rows = 32  # of each batch, so that all share a program

    @pytest.mark.parametrize(("tuned", "degrees"), [(4.0, 45.0), (11.0, 29.165)])
    def test_the_half_width_of_a_bump_is_the_published_one(self, tuned, degrees):
        condition = brentq(lambda w: tuned * (w - np.sin(4 * w) / 4) / np.pi - 1, 0.1, 1.5)
        assert_close(np.rad2deg(condition), degrees, 1e-4)
        network = ring_attractor(120, mean=-10.0, tuned=tuned)
        bump = ring_bump(0.0, 120)
        found = steady_state(network, floats(np.ones(120)), initial_state=bump, throw=False)
        # How the grid of units cuts the edges of the bump makes its place a little stable, or a little unstable.
        assert found.status in (Status.converged, Status.unstable)
        total = np.asarray(network.params.total_input(found.state, floats(np.ones(120))))
        constant, cosine = total.mean(), 2 * (total * np.cos(ring_angles(120))).mean()
        assert_close(np.rad2deg(np.arccos(-constant / cosine) / 2), degrees, 2e-3)

    def test_a_bump_of_45_degrees_is_a_rectified_cosine_wherever_it_is(self):
        """With `mean` -J0 its height is `N / (J0 sum_i [cos a_i]_+)`, for a stimulus of 1."""
        size = 64
        network = ring_attractor(size, mean=-2.0, tuned=4.0)
        angles = np.asarray(ring_angles(size))
        leading = []
        for place in (angles[16], angles[16] + 0.3 * angles[1], angles[16] + 0.5 * angles[1]):
            shape = np.maximum(np.cos(angles - place), 0)
            state = shape * size / (2 * shape.sum())
            assert residual_of(network, state, np.ones(size)) < 1e-6
            # What is silent stays silent: a unit at the very edge of the bump counts as such.
            active = np.cos(angles - place) > 1e-6
            jacobian = weights_of(network) * active[:, None] - np.eye(size)
            leading.append(np.linalg.eigvals(jacobian).real.max())
        assert_close(leading[0], -4 / size, 1e-5)
        assert_close(leading[1:], [0, 0], 1e-5)

    def test_the_place_of_a_bump_is_free_under_a_uniform_stimulus(self):
        network = ring_attractor(64, mean=-2.0, tuned=4.0)
        angles = floats(np.linspace(0.1, 6.1, self.num_rows))
        starts = jax.jit(jax.vmap(lambda angle: ring_bump(angle, 64)))(angles)
        received = steady_states(network, np.ones((self.num_rows, 64)), initial_states=starts)
        assert_close(population_angle(received.state), angles, 1e-2)

    def test_the_peak_rate_under_a_tuned_stimulus_is_the_published_one(self):
        received = steady_states(ring_attractor(), np.tile(ring_stimulus(0.0), (self.num_rows, 1)))
        assert_close(np.asarray(received.state).max(axis=1), np.full(self.num_rows, 0.62404), 1e-5)
        weights, stimulus = weights_of(ring_attractor(1024)), np.asarray(ring_stimulus(0.0, 1024), np.float64)
        assert_close(at_rest(weights, stimulus[None]).max(), 0.62396, 1e-5 if IS_DOUBLE else 1e-4)

    def test_noise_is_rejected_by_as_much_as_published_but_the_population_vector_was_optimal(self):
        """Power off the clean response, over the power of the clean response about its mean over the ring."""
        generator, num_samples = np.random.default_rng(0), 4_000
        contrasts = 0.5 + (np.arange(num_samples) + 0.5) / num_samples
        angles = generator.uniform(0, 2 * np.pi, num_samples)
        stimuli = jax.jit(jax.vmap(lambda angle, contrast: ring_stimulus(angle, contrast=contrast)))
        clean = np.asarray(stimuli(floats(angles), floats(contrasts)), np.float64)
        noisy = clean + 0.5 * generator.standard_normal(clean.shape)
        weights = weights_of(ring_attractor())
        clean_rates, noisy_rates = at_rest(weights, clean), at_rest(weights, noisy)
        received = steady_states(ring_attractor(), floats(noisy[: self.num_rows]))
        assert_close(received.state, noisy_rates[: self.num_rows], 1e-7 if IS_DOUBLE else 1e-3)

        def noise_to_signal(noisy, clean):
            return ((noisy - clean) ** 2).sum() / ((clean - clean.mean(axis=1, keepdims=True)) ** 2).sum()

        power_in, power_out = noise_to_signal(noisy, clean), noise_to_signal(noisy_rates, clean_rates)
        assert_close(power_in, 0.25 / (0.3**2 / 2 * (1 + 1 / 12)), 5e-3)
        assert_close(power_in, 5.11, 1e-2)
        assert_close(power_out, 1.44, 2e-2)
        assert_close(10 * np.log10(power_in / power_out), 5.5, 1e-2)

        def angle_error(activity):
            off = np.asarray(population_angle(jnp.asarray(activity))) - angles
            return np.sqrt((np.angle(np.exp(1j * off)) ** 2).mean())

        assert angle_error(noisy) < angle_error(noisy_rates)

    def test_angles_go_once_around_the_ring_and_are_read_back(self):
        assert_close(ring_angles(4), [0, np.pi / 2, np.pi, 3 * np.pi / 2], SIX_DIGITS)
        for angle in (0.0, 1.0, 6.0):
            for activity in (ring_bump(angle, 16), ring_stimulus(angle, 16)):
                assert_close(np.exp(1j * np.asarray(population_angle(activity))), np.exp(1j * angle), 1e-4)
        assert_close(ring_bump(np.pi / 2, 8).argmax(), 2, 0)
        assert_close(population_angle(floats(np.zeros(8))), 0, 0)
        assert_close(weights_of(ring_attractor(2, mean=-1.0, tuned=3.0)), [[1, -2], [-2, 1]], SIX_DIGITS)


def at_rest(weights, stimuli):
    """Steady rates of the rate form, one row per stimulus, by small steps of time."""
    rates = np.zeros_like(stimuli)
    for _ in range(3000):
        change = np.maximum(rates @ weights.T + stimuli, 0) - rates
        rates += 0.35 * change
        if np.abs(change).max() < 1e-9:
            return rates
    raise AssertionError(f"still moving by {np.abs(change).max()}")


class TestRelation:
    """FINDINGS T4."""

    network = relation_network()

    def test_it_has_the_sizes_and_the_stiffness_it_says(self):
        assert (self.network.state_size, self.network.stimulus_size, self.network.rate_size) == (180, 36, 36)
        assert 43 < np.linalg.norm(weights_of(self.network), 2) < 45
        assert extreme_eigenvalue(weights_of(self.network), "SR").real > -45

    def test_a_hidden_unit_receives_input_from_the_angles_it_represents(self):
        small = relation_network(4)
        forward = weights_of(small)[12:, :12].reshape(4, 4, 3, 4)
        assert_close(forward.sum(axis=-1), np.ones((4, 4, 3)), 1e-6)
        assert (forward[3, 2].argmax(axis=-1) == [3, 2, 1]).all()  # 3 + 2 = 5 = 1
        assert_close(weights_of(small)[:12, 12:].T, 0.5 * weights_of(small)[12:, :12], 1e-6)

    def test_it_infers_the_ring_without_a_stimulus(self):
        angles = [(1.0, 2.0, 3.0), (0.3, 4.0, 4.3), (2.2, 4.5, 6.7 - 2 * np.pi), (5.0, 6.0, 11.0 - 2 * np.pi)]
        cues = [(1.0, 2.0, None), (None, 4.0, 4.3), (2.2, None, 6.7), (5.0, 6.0, 11.0)]
        stimuli = jnp.stack([relation_stimulus(*cue) for cue in cues])
        received = steady_states(self.network, stimuli)
        assert (received.status == Status.converged).all()
        off = relation_angles(jax.vmap(self.network.rates)(received.state)) - np.array(angles)
        assert np.abs(np.angle(np.exp(1j * np.asarray(off)))).max() < 0.1  # a fifth of the distance of two units

    def test_turning_two_rings_turns_the_third(self):
        network, generator = relation_network(4), np.random.default_rng(0)
        state, stimulus = generator.normal(size=28), generator.normal(size=12)

        def turn(rings, hidden):
            return np.concatenate(
                [
                    np.roll(rings[0], 1),
                    np.roll(rings[1], 2),
                    np.roll(rings[2], 3),
                    np.roll(hidden, (1, 2), (0, 1)).ravel(),
                ]
            )

        turned = turn(state[:12].reshape(3, 4), state[12:].reshape(4, 4))
        turned_stimulus = turn(stimulus.reshape(3, 4), np.zeros((4, 4)))[:12]
        velocity = velocity_of(network, stimulus)(state)
        expected = turn(velocity[:12].reshape(3, 4), velocity[12:].reshape(4, 4))
        assert_close(velocity_of(network, turned_stimulus)(turned), expected, 1e-5)


class TestCompetition:
    """CANON 6."""

    @pytest.mark.parametrize(("a", "gain"), [(0.7, 0.555556), (1.3, 0.833333)])
    def test_one_active_partition_has_the_published_gain(self, a, gain):
        network = partition_competition(2, 3, self_excitation=a)
        scales = (0.1, 1.0, 2.0, 5.0)
        rates = self.rates(network, [(scale, 0.05 * scale) for scale in scales])
        assert_close(rates, np.stack([one_active(scale, a=a) for scale in scales]))
        assert_close(rates[1, 0], gain, SIX_DIGITS if IS_DOUBLE else closeness())

    def rates(self, network, drives, **options):
        found = steady_states(network, np.stack([partition_stimulus(each) for each in drives]), **options)
        assert (found.status == Status.converged).all()
        return np.asarray(jax.jit(jax.vmap(network.rates))(found.state))

    def test_soft_competition_has_the_published_rates(self):
        edge = 1.5 / 1.8  # b c / (1 - a + b c)
        drives = [(1, 0.9), (1, 0.8), (1, edge - 0.01), (1, edge + 0.01)]
        rates = self.rates(partition_competition(2, 3), drives)
        assert_close(rates[0], two_active((1, 0.9)))
        assert_close(rates[0, [0, 3, 6]], [0.4545, 0.1212, 0.5758], FOUR_DIGITS)
        assert_close(rates[1, [0, 3]], [0.5556, 0], FOUR_DIGITS)
        assert_close(rates[2, 3], 0)
        assert_close(rates[3], two_active(drives[3]))
        assert rates[3, 3] > 1e-2

    def test_hard_competition_near_a_tie_is_won_by_who_starts_ahead(self):
        starts = np.zeros((4, 9))
        starts[::2, :3] = starts[1::2, 3:6] = 0.5
        drives = [(1, 0.95), (1, 0.95), (0.95, 1), (0.95, 1)]
        rates = self.rates(partition_competition(2, 3, self_excitation=1.3), drives, initial_states=starts)
        assert list(rates[:, 0] > 0.1) == [True, False, True, False]
        assert list(rates[:, 3] > 0.1) == [False, True, False, True]

    def test_the_monotonicity_modulus_in_the_best_metric_is_one_minus_a(self):
        for a in (0.5, 0.7):
            weights = weights_of(partition_competition(2, 3, num_inhibitory=2, self_excitation=a))
            # Where E to I and I to E are weighed alike they cancel: b / n_I and c / n.
            best = np.sqrt([(1 / 3) / (1.5 / 2)] * 6 + [1.0] * 2)
            scaled = best[:, None] * weights / best
            assert_close(1 - np.linalg.eigvalsh((scaled + scaled.T) / 2).max(), 1 - a, SIX_DIGITS)
            # And no metric does better than the eigenvalue a of W.
            assert_close(np.linalg.eigvals(weights).real.max(), a, SIX_DIGITS)

    def test_the_winner_of_rutishauser_et_al_has_the_published_rate(self):
        received = steady_state(winner_take_all(3), jnp.array([1.0, 0.8, 0.5]))
        assert_close(received.state, [1.818182, 0, 0, 0.454545], SIX_DIGITS if IS_DOUBLE else closeness())


class TestAnyLinearThresholdNetwork:
    """CANON 8."""

    size = 6

    def p_matrix_weights(self, generator):
        """W with I - W a P-matrix: every principal minor positive. By trial; none of these is monotone by chance."""
        while True:
            weights = generator.standard_normal((self.size, self.size)) * 0.6
            minors = [
                np.linalg.det((np.eye(self.size) - weights)[np.ix_(units, units)])
                for count in range(1, self.size + 1)
                for units in itertools.combinations(range(self.size), count)
            ]
            if min(minors) > 0:
                return weights

    def test_a_p_matrix_has_exactly_one_fixed_point_for_every_stimulus(self):
        generator = np.random.default_rng(0)
        for _ in range(5):
            weights = self.p_matrix_weights(generator)
            assert all(len(supports(weights, generator.standard_normal(self.size))) == 1 for _ in range(10))

    def test_without_a_p_matrix_some_stimulus_has_another_number(self):
        weights = weights_of(ctln(np.zeros((3, 3))))
        assert len(supports(weights, np.ones(3))) == 7

    def test_a_monotone_network_reaches_one_state_from_everywhere(self):
        generator = np.random.default_rng(1)
        weights = generator.standard_normal((self.size, self.size)) * 0.25
        assert np.linalg.eigvalsh((weights + weights.T) / 2).max() < 1
        stimulus = generator.standard_normal(self.size)
        (expected,) = supports(weights, stimulus).values()
        starts = floats(3 * generator.standard_normal((16, self.size)))
        stimuli = floats(np.tile(stimulus, (16, 1)))
        network = threshold_linear(floats(weights))
        found = steady_states(network, stimuli, initial_states=starts)
        assert (found.status == Status.converged).all()
        assert_close(jax.vmap(network.rates)(found.state), np.broadcast_to(expected, starts.shape), 10 * closeness())

    @pytest.mark.parametrize("scale", [0.1, 7.0])
    def test_scaling_the_stimulus_scales_the_fixed_points(self, scale):
        generator = np.random.default_rng(2)
        for _ in range(5):
            weights, stimulus = generator.standard_normal((4, 4)), generator.standard_normal(4)
            one, scaled = supports(weights, stimulus), supports(weights, scale * stimulus)
            assert one.keys() == scaled.keys()
            for support in one:
                assert_close(scaled[support], scale * one[support], 1e-9)

    def test_symmetric_weights_never_oscillate(self):
        generator = np.random.default_rng(3)
        weights = generator.standard_normal((self.size, self.size))
        weights = -np.abs(weights + weights.T)  # bounded, and multistable
        starts = floats(generator.uniform(0, 1, (16, self.size)))
        stimuli = floats(generator.uniform(0.5, 1.5, (16, self.size)))
        found = steady_states(threshold_linear_rate(floats(weights)), stimuli, initial_states=starts)
        assert (found.status == Status.converged).all()

    def test_any_state_is_a_fixed_point_of_the_stimulus_made_for_it(self, key):
        network = random_threshold_linear(self.size, gain=3.0, key=key)
        for state in np.random.default_rng(4).normal(size=(5, self.size)):
            stimulus = state - weights_of(network) @ np.maximum(state, 0)
            assert residual_of(network, state, stimulus) < 1e-5


class TestHopfield:
    patterns = np.array([[1, 1, 1, 1, -1, -1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]])

    def test_it_recalls_stored_patterns_from_a_corrupted_start(self):
        network = hopfield(self.patterns, gain=4.0)
        starts = 0.5 * self.patterns
        starts[:, 0] *= -1
        found = steady_states(network, np.zeros((2, 8)), initial_states=starts)
        amplitude = brentq(lambda s: 0.75 * np.tanh(4 * s) - s, 0.1, 1)
        assert (found.status == Status.converged).all()
        assert_close(found.state, amplitude * self.patterns, 1e-7 if IS_DOUBLE else 1e-4)

    def test_its_weights_are_hebbian(self):
        expected = np.array([[0, -1, 1], [-1, 0, -1], [1, -1, 0]]) / 3
        assert_close(weights_of(hopfield(np.array([[1.0, -1.0, 1.0]]))), expected, SIX_DIGITS)


class TestRandom:
    @pytest.mark.parametrize("make", [
        lambda gain: random_threshold_linear(6, gain=gain, connection_probability=0.5, key=jr.key(0)),
        lambda gain: random_excitatory_inhibitory(4, 2, gain=gain, key=jr.key(0)),
        lambda gain: random_rate_network(6, gain=gain, key=jr.key(0)),
    ], ids=["threshold-linear", "excitatory and inhibitory", "rate network"])  # fmt: skip
    def test_its_gain_can_be_mapped_and_differentiated(self, make, as_a_user):
        gains = floats([0.5, 1.5])
        scales, slopes = jax.vmap(jax.value_and_grad(lambda gain: jnp.sum(make(gain).weights ** 2)))(gains)
        assert_close(scales, [(weights_of(make(gain)) ** 2).sum() for gain in (0.5, 1.5)], SIX_DIGITS)
        assert_close(slopes, 2 * scales / gains, SIX_DIGITS)

    @pytest.mark.parametrize("nonlinearity", [jnp.tanh, jax.nn.sigmoid], ids=["tanh", "logistic"])
    def test_a_random_rate_network_is_its_equation(self, nonlinearity, key):
        network = random_rate_network(8, nonlinearity=nonlinearity, gain=0.5, key=key)
        state, stimulus = np.random.default_rng(0).normal(size=(2, 8))
        function = np.tanh if nonlinearity is jnp.tanh else lambda x: 1 / (1 + np.exp(-x))
        expected = -state + weights_of(network) @ function(state) + stimulus
        assert_close(velocity_of(network, stimulus)(state), expected, SIX_DIGITS)
        deviation = weights_of(random_rate_network(200, nonlinearity=nonlinearity, gain=0.5, key=key)).std()
        assert abs(deviation * 200**0.5 - 0.5) < 0.01

    def test_sparse_weights_keep_their_gain(self, key):
        weights = weights_of(random_threshold_linear(200, gain=0.9, connection_probability=0.2, key=key))
        assert abs((weights != 0).mean() - 0.2) < 0.02
        assert abs(weights.std() * 200**0.5 - 0.9) < 0.03

    @pytest.mark.parametrize("probability", [1.0, 0.3])
    def test_excitatory_and_inhibitory_units_obey_dale_and_their_strengths_the_gain(self, probability, key):
        network = random_excitatory_inhibitory(
            160, 40, gain=0.8, balance=1.5, connection_probability=probability, key=key
        )
        weights = weights_of(network)
        assert (weights[:, :160] >= 0).all()
        assert (weights[:, 160:] <= 0).all()
        assert abs((weights != 0).mean() - probability) < 0.02
        assert_close(-weights[:, 160:].sum() / weights[:, :160].sum(), 1.5, 0.05)
        centered = weights - np.repeat([weights[:, :160].mean(), weights[:, 160:].mean()], [160, 40])
        assert abs((centered**2).mean(axis=0).sum() ** 0.5 - 0.8) < 0.05  # the radius, for many units

    def test_a_balanced_network_converges(self, key):
        network = random_excitatory_inhibitory(16, 4, key=key)
        found = steady_states(network, jr.uniform(key, (16, 20)))
        assert (found.status == Status.converged).all()


@pytest.mark.usefixtures("as_a_user")
class TestBadInput:
    @pytest.mark.parametrize(
        ("graph", "message"),
        [
            (np.eye(3), r"graph.*self-loops.*units \[0, 1, 2\]"),
            (np.ones((2, 3)), r"graph.*not a square matrix.*\(2, 3\)"),
            (np.array([[0, 2], [0, 0]]), r"graph.*entries of 0 and 1, got \[2"),
            (np.array([[0, np.nan], [0, 0]]), "graph.*NaN"),
            (nx.DiGraph([(0, 1), (1, 1)]), r"self-loops.*units \[1\]"),
            (nx.Graph(), "graph.*no units"),
        ],
    )
    def test_graphs_that_make_no_network_are_refused(self, graph, message):
        with pytest.raises(ValueError, match=message):
            ctln(graph)

    @pytest.mark.parametrize(
        ("constructor", "arguments", "message"),
        [
            (ctln, {"graph": np.zeros((2, 2)), "epsilon": 1.0}, "epsilon.*above 0 and below 1"),
            (ctln, {"graph": np.zeros((2, 2)), "delta": 0.0}, "delta.*not positive"),
            (ring_attractor, {"num_units": 0}, "num_units.*at least 1, got 0"),
            (ring_attractor, {"mean": 1.5}, "mean.*less than 1, got 1.5"),
            (ring_attractor, {"tuned": np.inf}, "tuned.*infinite"),
            (ring_attractor, {"time_constant": -1.0}, "time_constants.*not positive"),
            (relation_network, {"num_units": 0}, "num_units.*at least 1"),
            (relation_network, {"forward": -1.0}, "forward.*not positive"),
            (relation_network, {"hidden_bias": np.nan, "num_units": 2}, "bias.*NaN"),
            (stabilized_supralinear, {"num_units": 2.5}, "num_units.*integer"),
            (stabilized_supralinear, {"width": 0.0}, "width.*not positive"),
            (stabilized_supralinear, {"weights": np.ones((2, 2))}, "weights.*signs.*inhibitory"),
            (stabilized_supralinear, {"weights": np.ones(4)}, r"weights.*\(2, 2\), got \(4,\)"),
            (stabilized_supralinear, {"time_constants": (20.0, -10.0)}, "time_constants.*not positive"),
            (stabilized_supralinear_pair, {"weights": np.array([[1, -1], [-1, -1]])}, "weights.*signs"),
            (stabilized_supralinear_pair, {"time_constants": (1.0,)}, r"time_constants.*\(2,\)"),
            (PowerLaw, {"gain": 0.0, "exponent": 2.0}, "gain.*not positive"),
            (PowerLaw, {"gain": 1.0, "exponent": 0.5}, "exponent.*at least 1, got 0.5"),
            (wilson_cowan, {"refractory": -0.1}, "refractory.*at least 0"),
            (wilson_cowan, {"gains": (1.0, 0.0)}, "gains.*not positive"),
            (wilson_cowan, {"thresholds": (1.0,)}, r"thresholds.*\(2,\), got \(1,\)"),
            (wilson_cowan, {"weights": -np.ones((2, 2))}, "weights.*signs"),
            (wong_wang, {"time_constant": 0.0}, "time_constant.*not positive"),
            (wong_wang, {"curvature": -0.154}, "curvature.*not positive"),
            (wong_wang, {"background": np.nan}, "background.*NaN"),
            (hopfield, {"patterns": np.ones(4)}, r"patterns.*one row per pattern, got \(4,\)"),
            (hopfield, {"patterns": np.array([[1.0, 0.0]])}, r"patterns.*-1 and 1"),
            (hopfield, {"patterns": np.ones((1, 4)), "gain": 0.0}, "gain.*not positive"),
            (random_rate_network, {"state_size": 0, "key": jr.key(0)}, "state_size.*at least 1"),
            (random_rate_network, {"state_size": 2, "gain": -1.0, "key": jr.key(0)}, "gain.*not positive"),
            (
                random_threshold_linear,
                {"state_size": 2, "connection_probability": 0.0, "key": jr.key(0)},
                "connection_probability.*above 0 and at most 1, got 0.0",
            ),
            (
                random_excitatory_inhibitory,
                {"num_excitatory": 2, "num_inhibitory": 0, "key": jr.key(0)},
                "num_inhibitory.*at least 1",
            ),
            (
                random_excitatory_inhibitory,
                {"num_excitatory": 2, "num_inhibitory": 1, "balance": 0.0, "key": jr.key(0)},
                "balance.*not positive",
            ),
            (
                random_excitatory_inhibitory,
                {"num_excitatory": 2, "num_inhibitory": 1, "connection_probability": 1.5, "key": jr.key(0)},
                "connection_probability.*got 1.5",
            ),
        ],
        ids=lambda each: getattr(each, "__name__", None),
    )
    def test_impossible_networks_are_refused(self, constructor, arguments, message):
        with pytest.raises(ValueError, match=message):
            constructor(**arguments)

    def test_rate_form_is_the_default_of_the_supralinear_networks(self):
        assert isinstance(stabilized_supralinear(4).vector_field, RateForm)
        assert isinstance(stabilized_supralinear_pair(form=StateForm).vector_field, StateForm)
