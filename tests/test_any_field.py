"""Fixed points of any network: whatever its unit of time, its derivatives, its rates, its weights and its size."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from problems import assert_close, closeness, default_float, residuals
from scipy.sparse import csr_matrix, random_array

from rnn2ff import (
    RateForm,
    RecurrentNetwork,
    Rollout,
    RootFind,
    StateForm,
    Status,
    ctln,
    discrete_map,
    find_fixed_points,
    from_connectome,
    from_torch,
    hopfield,
    linearize,
    partition_competition,
    random_excitatory_inhibitory,
    random_rate_network,
    random_threshold_linear,
    rate_network,
    relation_network,
    ring_attractor,
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
from rnn2ff.analysis import Audit
from rnn2ff.analysis.newton import finite_jacobians

DTYPE = np.dtype(default_float())


def saturating(params, state, stimulus):
    """x' = -x + (1 - x) u, with the fixed point u / (1 + u) and the decay rate 1 + u."""
    del params
    return -state + (1 - state) * stimulus


def saturating_with_a_slow_reader(params, state, stimulus):
    """A second unit follows the first, and is slower by a factor of 1 + u."""
    del params
    return jnp.stack([-state[0] + (1 - state[0]) * stimulus[0], -state[1] + state[0]])


def toggle(per_unit_of_time, state, stimulus):
    """Two units that silence each other."""
    return per_unit_of_time * (-state + jax.nn.sigmoid(10 * (stimulus - state[::-1])))


def normalizing(offset, state, stimulus):
    """Divisive normalization by the norm of the state, whose derivative at 0 is NaN."""
    return -state + stimulus / (offset + jnp.linalg.norm(state))


def mean_driven(params, state, stimulus):
    """All units are driven by their mean: silent, or all active."""
    del params
    return -state + jax.nn.sigmoid(20 * (jnp.mean(state) - 0.3) + stimulus)


def network_of(field, size, params=None, stimulus_size=None):
    stimulus_size = size if stimulus_size is None else stimulus_size
    params = jnp.ones(()) if params is None else params
    return RecurrentNetwork(field, params, state_size=size, stimulus_size=stimulus_size)


def identity(total):
    return total


DRIVES = (1.0, 3.0, 5.0, 10.0, 100.0, 1000.0, 3000.0)


class TestTime:
    def test_fast_units_are_solved(self):
        drives = np.array(DRIVES)
        found = solve_steady_states(network_of(saturating, 1), drives[:, None])
        assert (found.status == Status.converged).all()
        assert_close(np.ravel(found.state), drives / (1 + drives), 10 * closeness())

    def test_a_fast_unit_is_followed_in_its_own_time(self, key):
        for drive in DRIVES:
            found = find_fixed_points(network_of(saturating, 1), np.array([drive]), box=(0.0, 1.0), key=key)
            assert_close(found.states, [[drive / (1 + drive)]])
            assert_close(found.eigenvalues.real, [[-1 - drive]], 1e-4)
            assert found.is_stable.tolist() == [True]
            assert found.basin_counts.tolist() == [256]
            assert found.audit == Audit.passed

    def test_units_of_very_different_speed_are_followed_by_an_implicit_method(self, key):
        network = network_of(saturating_with_a_slow_reader, 2, stimulus_size=1)
        found = find_fixed_points(network, np.array([1e5]), num_starts=32, box=(0.0, 1.0), key=key)
        assert_close(found.states, [[1e5 / 100001] * 2])
        assert found.basin_counts.tolist() == [32]
        assert (found.audit, found.indices.tolist()) == (Audit.passed, [1])

    def test_a_change_of_the_unit_of_time_changes_no_fixed_point_no_basin_and_no_audit(self, key):
        in_seconds, in_milliseconds = (
            find_fixed_points(
                network_of(toggle, 2, jnp.asarray(rate)), np.full(2, 0.5), num_starts=64, box=(0.0, 1.0), key=key
            )
            for rate in (1000.0, 1.0)
        )
        assert len(in_seconds.states) == 3
        assert (in_seconds.audit, in_milliseconds.audit) == (Audit.passed, Audit.passed)
        assert_close(in_seconds.states, in_milliseconds.states)
        assert_close(in_seconds.eigenvalues.real, 1000 * in_milliseconds.eigenvalues.real, 1e-4)
        assert_close(in_seconds.spectral_radii, in_milliseconds.spectral_radii, 1e-4)
        for name in ("is_stable", "is_stable_map", "indices", "basin_counts", "newton_counts"):
            np.testing.assert_array_equal(getattr(in_seconds, name), getattr(in_milliseconds, name))
        assert in_seconds.is_stable.tolist() == [True, True, False]
        assert in_seconds.basin_counts.sum() == 64
        # From a start above the diagonal the first unit wins.
        wins = found_first(in_seconds) == (in_seconds.starts[:, 0] > in_seconds.starts[:, 1])
        assert wins.all()


def found_first(found):
    """Whether the dynamics from each start end where the first unit is the more active one."""
    ends = found.states[found.reached_by_dynamics]
    return ends[:, 0] > ends[:, 1]


class TestDerivatives:
    def test_a_fixed_point_without_a_derivative_is_found_and_judged(self, key):
        network = network_of(normalizing, 3, jnp.asarray(0.1))
        silent = find_fixed_points(network, np.zeros(3), num_starts=32, key=key)
        assert_close(silent.states, np.zeros((1, 3)))
        assert_close(silent.eigenvalues, -np.ones((1, 3)), 1e-4)
        assert silent.is_stable.tolist() == [True]
        assert silent.basin_counts.tolist() == [32]
        driven = find_fixed_points(network, np.array([1.0, 0.0, 0.0]), num_starts=32, key=key)
        assert_close(driven.states, [[(0.1**2 / 4 + 1) ** 0.5 - 0.1 / 2, 0, 0]])  # x (0.1 + x) = 1

    @pytest.mark.parametrize("solver", [None, Rollout(), RootFind()], ids=["engine", "rollout", "root finder"])
    def test_a_batch_with_a_state_without_a_derivative_is_solved_whole(self, solver):
        """The state lies along the stimulus, with a norm r of which r (0.1 + r) is that of the stimulus."""
        network = network_of(normalizing, 3, jnp.asarray(0.1))
        stimuli = np.array([[1, 0.5, 0.2], [0, 0, 0], [0.3, 0.3, 0.1]])
        sizes = np.linalg.norm(stimuli, axis=1, keepdims=True)
        norms = (0.1**2 / 4 + sizes) ** 0.5 - 0.1 / 2
        found = solve_steady_states(network, stimuli, solver=solver)
        assert np.asarray(found.is_converged).all()
        assert_close(found.state, norms * stimuli / np.where(sizes > 0, sizes, 1), 10 * closeness())
        assert_close(linearize(network, np.zeros(3), np.zeros(3)).eigenvalues, -np.ones(3), 1e-4)

    def test_a_steady_state_without_a_derivative_of_the_field_is_differentiated_where_the_field_is_smooth(self):
        """At rest at 0, `y (a + |y|) = z` has the derivative 1 / a; `y = z + |y| / 10` has none."""
        network = network_of(normalizing, 3, jnp.asarray(0.1))
        kinked = network_of(
            lambda share, state, stimulus: stimulus - state + share * jnp.linalg.norm(state), 3, jnp.asarray(0.1)
        )
        for solve, expected in ((network, 10 * np.eye(3)), (kinked, np.full((3, 3), np.nan))):
            derivative = jax.jacrev(lambda stimulus: solve_steady_state(solve, stimulus, throw=False).state)  # noqa: B023
            np.testing.assert_allclose(derivative(jnp.zeros(3)), expected, rtol=1e-3, atol=1e-3)

    def test_difference_quotients_stand_in_where_a_derivative_is_not_finite_and_only_there(self, key):
        offset, stimulus = jnp.asarray(0.1), jnp.array([0.5, -0.2, 0.3])
        points = jnp.zeros((3, 3)).at[1:].set(jr.normal(key, (2, 3)))
        for drive in (stimulus, jnp.zeros(3)):
            field = functools.partial(normalizing, offset, stimulus=drive)
            found = np.asarray(jax.jit(finite_jacobians, static_argnums=0)(field, points))
            assert_close(found[0] + np.eye(3), np.zeros((3, 3)), 1e-4)  # the norm has a minimum at 0
            for point, matrix in zip(np.asarray(points)[1:], found[1:]):
                norm = np.linalg.norm(point)
                expected = -np.eye(3) - np.outer(drive, point) / norm / (0.1 + norm) ** 2
                assert_close(matrix, expected, 1e-12 if default_float() == jnp.float64 else 1e-5)


# Normal forms, their fixed points, and the sum of their indices in the box from -2 to 2.
BIFURCATIONS = {
    "transcritical": (lambda params, x, u: params * (u * x - x**2), lambda u: [0, u], False),
    "pitchfork": (lambda params, x, u: params * (u * x - x**3), lambda u: [-(u**0.5), 0, u**0.5], True),
    "saddle-node": (lambda params, x, u: params * (u - x**2), lambda u: [-(u**0.5), u**0.5], False),
}


class TestBifurcations:
    @pytest.mark.parametrize("name", BIFURCATIONS)
    def test_near_a_bifurcation_a_list_is_that_of_the_roots_or_is_called_degenerate(self, name, key):
        field, roots_at, has_theorem = BIFURCATIONS[name]
        network = network_of(field, 1)
        for parameter in (1e-2, 1e-4, 1e-6, 1e-8):
            found = find_fixed_points(network, np.array([parameter]), num_starts=64, box=(-2.0, 2.0), key=key)
            roots = np.array(roots_at(parameter))
            distances = np.abs(found.states - roots)
            # As far as a residual tells: the cube root of the tolerance, where three meet.
            assert distances.min(axis=1).max() < (1e-4 if default_float() == jnp.float64 else 2e-3)
            if len(found.states) != len(roots):
                assert found.audit == Audit.degenerate
            else:
                assert found.audit == (Audit.passed if has_theorem else Audit.not_applicable)
                assert found.is_stable.sum() == (2 if has_theorem else 1)

    def test_just_before_a_saddle_node_what_looks_like_a_fixed_point_is_called_degenerate(self, key):
        network = network_of(BIFURCATIONS["saddle-node"][0], 1)
        for parameter in (-1e-2, -1e-8):  # there is none
            found = find_fixed_points(network, np.array([parameter]), num_starts=64, box=(-2.0, 2.0), key=key)
            assert len(found.states) == 0 or (parameter > -1e-4 and found.audit == Audit.degenerate)


class TestBox:
    def test_a_silent_state_is_found_although_uniform_starts_are_all_in_the_middle_of_the_box(self, key):
        network = network_of(mean_driven, 80)
        found = find_fixed_points(network, np.zeros(80), num_starts=32, box=(0.0, 1.0), key=key)
        low, high, between = found.states[:, 0]
        assert low < 0.01 < between < 0.3 < 0.99 < high
        assert_close(found.states, np.repeat(found.states[:, :1], 80, axis=1))
        assert found.is_stable.tolist() == [True, True, False]
        assert found.audit == Audit.passed
        assert found.basin_counts.tolist() == [0, 32, 0]  # of uniform starts
        assert found.starts.shape == (32, 80)
        assert ((found.starts > 0) & (found.starts < 1)).all()

    def test_starts_of_a_network_with_weights_are_drawn_from_its_box(self, key):
        network = threshold_linear(jnp.array([[0.0, 50.0], [-50.0, 0.0]]))
        found = find_fixed_points(network, np.ones(2), num_starts=8, box=(-1.0, 1.0), key=key)
        assert (np.abs(found.starts) <= 1).all()
        assert found.starts.min() < -0.1 < 0.1 < found.starts.max()


def torch_weights(gates):
    generator = np.random.default_rng(0)
    shapes = {"weight_hh_l0": (4 * gates, 4), "weight_ih_l0": (4 * gates, 2), "bias_hh_l0": (4 * gates,)}
    return {name: generator.standard_normal(shape).astype(default_float()) for name, shape in shapes.items()}


# Of few sizes, so that networks of one kind share their programs.
ZOO = {
    "threshold-linear": lambda: threshold_linear(-0.5 * (1 - jnp.eye(3))),
    "random threshold-linear": lambda: random_threshold_linear(3, key=jr.key(0)),
    "excitatory and inhibitory": lambda: random_excitatory_inhibitory(2, 1, key=jr.key(0)),
    "connectome": lambda: from_connectome(csr_matrix(np.diag([0.5, -2.0], 1))),
    "threshold-linear, rate form": lambda: threshold_linear_rate(-0.5 * (1 - jnp.eye(3))),
    "combinatorial": lambda: ctln(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])),
    "ring": lambda: ring_attractor(3),
    "winner-take-all": lambda: winner_take_all(2),
    "partitions": lambda: partition_competition(2, 1, self_excitation=1.3),
    "relation": lambda: relation_network(4),
    "supralinear": lambda: stabilized_supralinear(4),
    "supralinear pair": lambda: stabilized_supralinear_pair(),
    "Wilson-Cowan": lambda: wilson_cowan(),
    "refractory Wilson-Cowan": lambda: wilson_cowan(refractory=1.0),
    "Wong-Wang": lambda: wong_wang(),
    "Hopfield": lambda: hopfield(np.array([[1, 1, -1]])),
    "random tanh": lambda: random_rate_network(3, key=jr.key(0)),
    "random logistic": lambda: random_rate_network(3, nonlinearity=jax.nn.sigmoid, key=jr.key(0)),
    "torch RNN": lambda: from_torch(torch_weights(1)),
    "torch GRU": lambda: from_torch(torch_weights(3)),
    "torch LSTM": lambda: from_torch(torch_weights(4)),
    "a map": lambda: discrete_map(lambda w, h, u: jnp.tanh(w * h + u), jnp.asarray(2.0), state_size=2, stimulus_size=2),
}


@pytest.mark.parametrize("name", ZOO)
def test_every_network_has_its_fixed_points_found(name, key):
    network = ZOO[name]()
    stimulus = np.linspace(0.4, 0.6, network.stimulus_size).astype(network.dtype)  # without a tie
    found = find_fixed_points(network, stimulus, num_starts=8, key=key)
    assert len(found.states) >= 1
    assert found.states.shape == (len(found.states), network.state_size)
    assert found.states.dtype == network.dtype
    assert residuals(network, found.states, np.tile(stimulus, (len(found.states), 1))).max() < closeness()
    assert found.audit in (Audit.complete, Audit.passed, Audit.not_applicable)
    assert found.newton_counts.sum() + (found.reached_by_newton < 0).sum() == 8
    assert (found.basin_counts[~found.is_stable] == 0).all()


def linear(matrix, state, stimulus):
    return matrix @ state + stimulus


def solve_linear(matrix, stimulus, **options):
    network = RecurrentNetwork(linear, jnp.asarray(matrix, DTYPE), state_size=4, stimulus_size=4)
    return solve_steady_states(network, np.asarray(stimulus, DTYPE)[None], **options)


class TestSlowness:
    def test_an_integrator_with_a_slow_leak_comes_to_rest_and_one_without_is_never_called_steady(self):
        """x' = -x + k v v' x + u: along v it decays at a rate of 1 - k, or grows by u . v for ever."""
        direction = np.array([0.5, -0.5, 0.5, 0.5])  # of length 1 in either precision
        stimulus, leak = np.array([1.0, -0.5, 0.25, 1.0]), 1e-3
        weights = np.outer(direction, direction)
        leaky = solve_linear((1 - leak) * weights - np.eye(4), stimulus)
        assert int(leaky.status[0]) == Status.converged
        exact = np.linalg.solve(np.eye(4) - (1 - leak) * weights, stimulus)
        assert np.abs(np.asarray(leaky.state[0]) - exact).max() < 1.1 * float(leaky.distance[0]) + 1e-3
        perfect = solve_linear(weights - np.eye(4), stimulus)
        # In float32 it hangs on rounding, and so on the compiler, whether a constant speed is told from one that falls.
        honest = {Status.diverging} if DTYPE.itemsize == 8 else {Status.diverging, Status.max_steps_reached}
        assert int(perfect.status[0]) in honest

    def test_what_drifts_where_nothing_decays_is_not_converged_and_what_stays_there_is(self):
        """x' = -x + v v' x + u drifts along v by u . v for ever, which the tolerance does not see."""
        direction = np.array([0.5, -0.5, 0.5, 0.5], DTYPE)
        network = rate_network(StateForm(identity), np.outer(direction, direction))
        across = np.array([[1.0, 0.5, 0.25, -0.75], [1.0, -0.5, -1.0, -0.5]], DTYPE)  # u . v = 0
        drifts = np.array([0.0, 1e-5, 2e-6], DTYPE)
        stimuli = (across[:, None] + drifts[:, None] * direction).reshape(6, 4)
        found = solve_steady_states(network, stimuli, tolerance=1e-4)
        assert list(found.status) == [Status.converged, Status.undecided, Status.undecided] * 2
        assert (np.asarray(found.distance)[::3] < 1e-3).all()
        assert np.abs(np.asarray(found.state)[::3] - across).max() < 1e-3

    def test_a_drift_that_ends_in_the_rounding_of_a_large_state_is_not_rest(self):
        """x' = u, in a formula that rounds u away at x of some ten thousand, beside units that come to rest."""
        network = rate_network(StateForm(identity), np.diag([0.0, 1.0, 0.0, 0.0]).astype(DTYPE))
        found = solve_steady_states(network, np.array([[1.0, 1e-3, 0, 0], [1.0, 1e-4, 0, 0]], DTYPE))
        assert not (np.asarray(found.status) == Status.converged).any()
        assert np.isinf(np.asarray(found.distance)[found.status == Status.max_steps_reached]).all()

    def test_a_blow_up_faster_than_the_steps_of_the_engine_is_diverging_and_no_number_stays_none(self):
        """x' = x^4 + u is infinite within a time of 2; the logarithm of a negative drive is no velocity."""
        network = network_of(
            lambda power, state, stimulus: state**power + jnp.exp(jnp.log(stimulus)), 1, jnp.asarray(4.0)
        )
        found = solve_steady_states(network, np.array([[1.0], [-1.0]]))
        assert found.status.tolist() == [Status.diverging, Status.nonfinite]

    def test_more_steps_are_more_time(self):
        """A spring with little friction, x'' = 1 - x - .005 x', is at rest after some thousand of its time scales."""
        matrix = -np.eye(4)  # of position and velocity, and two units more, to share a program
        matrix[:2, :2] = [[0, 1], [-1, -5e-3]]
        few, many = (solve_linear(matrix, np.eye(4)[1], tolerance=1e-4, max_steps=steps) for steps in (4096, 40960))
        assert int(few.status[0]) == Status.max_steps_reached
        assert int(many.status[0]) == Status.converged
        assert_close(many.state, [[1, 0, 0, 0]], 1e-3)


class TestRates:
    def test_a_change_of_the_unit_of_rates_changes_states_by_the_unit_alone(self):
        """Two cycles, a competition and rest, in units in which all of it is far below the usual tolerance."""
        weights = np.zeros((6, 6))
        weights[:3, :3] = [[0, -1.5, -0.75], [-0.75, 0, -1.5], [-1.5, -0.75, 0]]
        weights[3:5, 3:5] = [[0.2, -1.6], [-1.6, 0.2]]
        stimuli = np.random.default_rng(0).uniform(0.5, 1, (8, 6)).astype(DTYPE)
        stimuli[4:, 1:3] = -2  # the cycle is silent
        for bias in (np.zeros(6), np.full(6, 0.25)):
            plain, other = (
                solve_steady_states(threshold_linear(weights, bias=unit * bias), unit * stimuli)
                for unit in (1.0, 2.0**-20)
            )
            assert set(plain.status.tolist()) == {Status.converged, Status.oscillating}
            np.testing.assert_array_equal(other.status, plain.status)
            found = np.asarray(plain.is_converged)
            assert_close(np.asarray(other.state)[found] * 2.0**20, np.asarray(plain.state)[found], 10 * closeness())
            assert (np.asarray(other.residual) <= np.asarray(plain.residual) + closeness()).all()


class TestSparse:
    @pytest.mark.parametrize("form", [StateForm, RateForm])
    @pytest.mark.parametrize(
        ("nonlinearity", "size", "audit"),
        [(jax.nn.relu, 50, Audit.passed), (jnp.tanh, 20, Audit.complete)],
        ids=["relu", "tanh, one by proof"],
    )
    def test_sparse_weights_have_the_fixed_points_of_dense_ones(self, form, nonlinearity, size, audit, key):
        generator = np.random.default_rng(0)
        matrix = random_array((size, size), density=0.2, rng=generator, data_sampler=generator.standard_normal)
        form = form(nonlinearity)
        sparse = from_connectome(matrix, scale=0.8 / (0.2 * size) ** 0.5, form=form)
        dense = rate_network(form, jax.jit(BCOO.todense)(sparse.params.recurrent_weights))
        stimulus = generator.standard_normal(size)
        one, other = (find_fixed_points(network, stimulus, num_starts=16, key=key) for network in (sparse, dense))
        assert len(one.states) == 1
        assert one.basin_counts.tolist() == [16]
        assert one.audit == other.audit == audit
        for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
            np.testing.assert_array_equal(first, second)


@pytest.mark.usefixtures("as_a_user")
def test_a_network_of_thousands_of_units_is_refused_before_any_work(key):
    matrix = csr_matrix(([0.5], ([0], [1])), shape=(20_000, 20_000))
    with pytest.raises(ValueError, match=r"network.*too large for its Jacobians.*at most 1024 units, got 20000"):
        find_fixed_points(from_connectome(matrix), np.zeros(20_000), key=key)
