"""Batches: the plan, what it promises, and what becomes of those it does not serve."""

import itertools
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import equal, floats, sparse_weights
from factorizations import largest_batch, pairs_at_once
from jax.experimental.sparse import BCOO
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from problems import assert_close, compiled_programs, default_float, residuals
from scipy.optimize import brentq, root
from scipy.sparse import csr_matrix

import rnn2ff
from rnn2ff import (
    ActiveSet,
    Anderson,
    PowerLaw,
    RateForm,
    RecurrentNetwork,
    Rollout,
    StateForm,
    Status,
    SteadyState,
    damped_sweep,
    discrete_map,
    partition_competition,
    plan_steady_states,
    random_threshold_linear,
    rate_network,
    solve_batch,
    solve_steady_state,
    solve_steady_states,
    threshold_linear,
    threshold_linear_rate,
    winner_take_all,
)
from rnn2ff.compiling import only_after
from rnn2ff.networks import time_scales
from rnn2ff.steady_state import Method, bends, chunks_of, hard, in_dense_tiles, in_tiles
from rnn2ff.steady_state.creeping import MOST_STEPS, creep
from rnn2ff.steady_state.field import make_field
from rnn2ff.steady_state.lanes import _by_factorizations, has_lanes, in_lanes
from rnn2ff.steady_state.linearity import is_linear_ahead
from rnn2ff.steady_state.meshes import Chunk
from rnn2ff.steady_state.method import make_plan, sweep_from_probe
from rnn2ff.steady_state.motion import Motions
from rnn2ff.steady_state.rows import Stage
from rnn2ff.steady_state.search import Candidate
from rnn2ff.steady_state.tiles import Few, packing_of

IS_DOUBLE = default_float() == jnp.float64
CLOSE = 1e-7 if IS_DOUBLE else 1e-3
CYCLE = threshold_linear_rate(np.array([[0, -1.5, -0.75], [-0.75, 0, -1.5], [-1.5, -0.75, 0]]))


def alone(weight):
    """A unit that excites itself, among others without weights: of the size, and with the programs, of the next."""
    return threshold_linear(np.diag([weight, *np.zeros(15)]))


def cancelling(strength):
    """Weights and stimuli in float32; excitation and inhibition are this many times the rates, and all but equal."""
    rng = np.random.default_rng(0)
    excitation = np.tile(rng.random((10, 10)) / 5, (2, 1))
    stimuli = np.tile(rng.normal(size=(50, 10)), 2) + 1e-3 * rng.normal(size=(50, 20))
    return np.float32(np.c_[strength * excitation, -(strength + 1) * excitation]), np.float32(stimuli)


def out_of_steps(network, stimuli, states, *, max_steps, **_):
    """What watching motions says if nothing becomes of them."""
    no, turns = np.zeros(len(states), bool), np.ones(len(states), int)
    return Motions(no, no, no, np.full(len(states), np.nan), states, np.full(len(states), max_steps), turns)


def stopping(received, after, end=None):
    """Implicit steps that stop after so many, where they began or with one unit elsewhere; notes their samples."""

    def creep(network, stimuli, states, tolerances):
        received.append(len(states))
        ends = states if end is None else np.c_[np.full_like(states[:, :1], end), states[:, 1:]]
        return Candidate(ends, np.full(len(states), after, np.int32), np.zeros(len(states), bool))

    return creep


@pytest.fixture(scope="module")
def random_network():
    """The same in both precisions; its weights prove nothing."""
    rng = np.random.default_rng(4)
    network = threshold_linear(floats(0.9 / 4 * rng.normal(size=(16, 16))))
    stimuli = floats(rng.normal(size=(900, 16)))
    return network, stimuli, solve_steady_states(network, stimuli)


class TestPlan:
    def test_sweeps_are_used_where_they_land_where_the_dynamics_land(self, random_network):
        _, _, solved = random_network
        assert solved.plan.method == Method.agreed
        assert solved.plan.agreement == 1
        assert solved.finished_by.get("sweeps", 0) + solved.finished_by.get("Anderson(3)", 0) > 300
        assert sum(solved.finished_by.values()) == 900

    def test_the_states_are_those_of_the_dynamics(self, random_network):
        network, stimuli, solved = random_network
        followed = solve_steady_states(network, stimuli[-100:])
        assert "sweeps" not in followed.finished_by
        assert_close(solved.state[-100:], followed.state, CLOSE)

    def test_residuals_are_those_of_the_returned_states(self, random_network):
        network, stimuli, solved = random_network
        again = residuals(network, solved.state, stimuli)
        assert_close(solved.residual, again, 1e-6)
        assert np.all(solved.is_converged)

    # In the second, sweeps find the right winner even from the states of other stimuli; the dynamics find the other.
    @pytest.mark.parametrize(("self_excitation", "losers"), [(1.3, (0.82, 0.9)), (1.5, (0.7, 0.75))])
    def test_a_multistable_network_is_followed_even_where_sweeps_agree_on_the_whole_probe(
        self, self_excitation, losers
    ):
        network = partition_competition(4, 3, self_excitation=self_excitation)
        # Far from a tie sweeps find the right winner. The other one is stable too, and near ties they may find that.
        random = np.random.default_rng(0)
        loser = random.uniform(*losers, size=64)
        pairs = np.where(random.random((64, 1)) < 0.5, np.c_[loser, np.ones(64)], np.c_[np.ones(64), loser])
        plan = plan_steady_states(network, np.repeat(np.c_[pairs, np.zeros((64, 2))], 3, axis=1))
        assert plan.agreement == 1
        assert plan.method == Method.multistable
        assert not plan.starts_with_sweeps
        assert "at other states reach other steady states" in plan.reason

    def test_the_same_call_makes_the_same_plan(self, random_network):
        network, stimuli, solved = random_network
        again = plan_steady_states(network, stimuli)
        assert equal(again, solved.plan)

    def test_a_plan_serves_further_batches_of_any_size_without_a_probe(self, random_network, key):
        network, _, solved = random_network
        for num_samples in (1, 7, 300):
            stimuli = jr.normal(key, (num_samples, 16))
            received = solve_steady_states(network, stimuli, solver=solved.plan)
            assert np.all(received.is_converged)
            assert_close(received.state, solve_steady_states(network, stimuli).state, CLOSE)

    def test_a_plan_made_from_zero_does_not_sweep_past_other_initial_states(self, random_network):
        network, stimuli, solved = random_network
        starts = jnp.ones((5, 16))
        assert not solved.plan.starts_anywhere
        received = solve_steady_states(network, stimuli[:5], solver=solved.plan, initial_states=starts)
        assert "sweeps" not in received.finished_by
        assert np.all(received.is_converged)

    def test_where_all_ways_lead_to_the_same_end_a_near_start_saves_steps(self, random_network):
        network, stimuli, solved = random_network
        as_proved = (jnp.asarray(True), jnp.asarray(0.01, network.dtype))  # as of a network with one end
        plan = eqx.tree_at(lambda plan: (plan.starts_anywhere, plan.decay_rate), solved.plan, as_proved)
        starts = solved.state[:64] * (1 + 1e-6)
        cold = solve_steady_states(network, stimuli[:64], solver=plan)
        warm = solve_steady_states(network, stimuli[:64], solver=plan, initial_states=starts)
        assert warm.finished_by.keys() <= {"sweeps", "Anderson(3)"}
        assert warm.num_steps.mean() < 0.8 * cold.num_steps.mean()
        assert_close(warm.state, cold.state, CLOSE)

    def test_a_batch_of_another_size_compiles_nothing(self, random_network, key):
        network, _, solved = random_network
        batches = [np.asarray(jr.normal(key, (num_samples, 16))) for num_samples in (1, 17, 64, 130, 3000)]
        with compiled_programs() as programs:
            for stimuli in batches:
                solve_steady_states(network, stimuli, solver=solved.plan)
        assert not programs

    def test_the_plan_of_another_network_of_the_same_size_compiles_nothing(self, random_network):
        _, stimuli, solved = random_network
        other = random_threshold_linear(16, gain=0.8, key=jr.key(5))
        traced = eqx.filter_jit(eqx.debug.assert_max_traces(lambda *each: solve_batch(*each), max_traces=1))
        traced(other, stimuli[:100], plan_steady_states(other, stimuli))
        traced(random_network[0], stimuli[:100], solved.plan)

    def test_a_multistable_network_is_followed_and_lands_where_the_dynamics_land(self, key):
        network = partition_competition(4, 3, self_excitation=1.3)
        stimuli = np.repeat(jr.uniform(key, (600, 4)), 3, axis=1) + 0.2 * np.asarray(jr.normal(key, (600, 12)))
        received = solve_steady_states(network, stimuli)
        # Slow obvious code: small Euler steps.
        weights = np.asarray(network.params.recurrent_weights, np.float64)
        drives = np.pad(np.asarray(stimuli, np.float64), ((0, 0), (0, 3)))
        states = np.zeros_like(drives)
        for _ in range(8000):
            states += 0.02 * (np.maximum(states, 0) @ weights.T + drives - states)
        same = np.abs(np.asarray(received.state) - states).max(axis=1) < 1e-3
        assert (np.asarray(received.is_converged) & same).mean() > 0.99

    def test_where_some_stimuli_never_rest_the_dynamics_are_followed(self):
        stimuli = np.ones((40, 3))
        stimuli[10:, 0] = np.linspace(4, 5, 30)  # one unit alone wins
        plan = plan_steady_states(CYCLE, stimuli)
        assert plan.method == Method.restless
        assert not plan.starts_with_sweeps

    def test_a_plan_for_no_steady_state_is_an_error_with_the_counts(self):
        with pytest.raises(RuntimeError, match="'diverging': 3"):
            plan_steady_states(alone(1.5), np.ones((3, 16)))

    def test_a_plan_for_more_stimuli_than_a_probe_without_a_steady_state_is_an_error_too(self):
        with pytest.raises(RuntimeError, match="'diverging': 256"):
            plan_steady_states(alone(1.5), np.ones((300, 16)))

    def test_integrators_are_not_proved_to_have_a_steady_state(self):
        """The rounding of an eigenvalue that is exactly 1 is no margin: with a drive along its mode nothing rests."""
        network = threshold_linear(np.ones((16, 16)) / 16)
        plan = plan_steady_states(network, -np.ones((3, 16)))
        assert plan.method != Method.proved
        assert not solve_batch(network, np.full((3, 16), 1e-2), plan).is_converged.any()

    def test_a_split_that_is_singular_is_followed_and_says_so(self):
        network = threshold_linear(jnp.array([[2.0]]))  # with half of the samples active, I - W D is zero
        states = np.array([[1.0], [-1.0]] * 5, network.dtype)
        with pytest.raises(ValueError, match="singular"):
            sweep_from_probe(network, states, states - 2 * np.maximum(states, 0))
        stimuli = np.repeat([[-1.0], [-2.0]] * 5, 16, axis=1)
        starts_on_fixed_points = plan_steady_states(alone(0.5), stimuli)
        assert starts_on_fixed_points.method == Method.proved

    def test_near_instability_sweeps_find_what_active_sets_find(self, key):
        """With weights of one sign near the radius of 1 few stimuli silence most units, and most silence few."""
        weights = np.abs(jr.normal(key, (16, 16)))
        network = threshold_linear(0.997 * weights / np.abs(np.linalg.eigvals(weights)).max())
        stimuli = jr.normal(key, (300, 16))
        made = plan_steady_states(network, stimuli)
        assert made.method == Method.proved
        received = solve_steady_states(network, stimuli[:40], solver=made)
        assert received.finished_by.keys() <= {"sweeps", "Anderson(3)"}
        expected = solve_steady_states(network, stimuli[:40], solver=ActiveSet())
        assert_close(received.state, expected.state, 1e-2)


class TestVerdicts:
    def test_one_batch_may_hold_every_kind_of_end(self, capfd):
        stimuli = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.9, 1.0]])
        starts = np.array([[0.3, 0.2, 0.1], [0, 0, 0], [0, 0, 0]])
        received = solve_steady_states(CYCLE, stimuli, initial_states=starts, progress=True)
        assert "watching 2 that move on" in capfd.readouterr().err
        assert list(received.status) == [Status.oscillating, Status.converged, Status.oscillating]
        assert_close(received.period[0], 11.24, 1e-3)
        assert np.isnan(received.period[1])

    @pytest.mark.parametrize("solver", [None, Rollout()])
    def test_without_being_watched_what_never_settles_is_left_open_and_all_else_is_the_same(self, solver):
        stimuli = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.9, 1.0]])
        starts = np.array([[0.3, 0.2, 0.1], [0, 0, 0], [0, 0, 0]])
        watched, received = (
            solve_steady_states(CYCLE, stimuli, solver=solver, initial_states=starts, watch=watch)
            for watch in (True, False)
        )
        assert list(watched.status) == [Status.oscillating, Status.converged, Status.oscillating]
        assert list(received.status) == [Status.max_steps_reached, Status.converged, Status.max_steps_reached]
        np.testing.assert_array_equal(received.state[1], watched.state[1])
        assert np.isnan(received.period).all()
        assert (np.asarray(received.residual)[[0, 2]] > 1e-3).all()

    def test_growth_a_tie_and_a_neutral_state(self):
        first = np.eye(1, 16)
        growing = solve_steady_states(alone(1.5), np.array([[1.0], [-1.0]]) * first)
        assert list(growing.status) == [Status.diverging, Status.converged]
        competing = threshold_linear_rate(winner_take_all(2).params.recurrent_weights)
        tie = solve_steady_states(competing, np.array([[1.0, 1.0, 0.0], [1.0, 0.4, 0.0]]))
        assert list(tie.status) == [Status.unstable, Status.converged]
        neutral = solve_steady_states(alone(1.0), 0 * first, initial_states=first)
        assert list(neutral.status) == [Status.converged]

    def test_a_slow_sample_is_not_called_converged_and_says_how_far_it_is(self):
        network = threshold_linear(jnp.zeros((2, 2)), time_constants=np.array([1.0, 1e5]))
        received = solve_steady_states(network, jnp.ones((1, 2)), solver=Rollout(), max_steps=24)
        assert received.status[0] == Status.max_steps_reached
        assert received.state[0, 1] < 0.9
        assert_close(received.distance[0] + received.state[0, 1], 1.0, 1e-3)

    def test_a_spiral_that_decays_for_longer_than_a_motion_is_watched_is_followed_to_its_end(self):
        matrix = np.array([[-0.024, -3.0], [3.0, -0.024]])
        network = RecurrentNetwork(
            lambda params, state, stimulus: params @ state + stimulus,
            floats(matrix),
            state_size=2,
            stimulus_size=2,
        )
        stimuli = 0.15 * np.eye(2)
        tolerance = 2e-6 if default_float() == jnp.float64 else 1e-5
        received = solve_steady_states(network, stimuli, tolerance=tolerance)
        assert np.all(received.is_converged)
        assert_close(received.state, -np.linalg.solve(matrix, stimuli.T).T, tolerance)

    def test_near_a_continuous_attractor_the_distance_is_large_although_the_residual_is_small(self):
        network = rate_network(StateForm(jnp.tanh), jnp.array([[1.0 - 1e-4]]))
        received = solve_steady_states(
            network, jnp.zeros((1, 1)), initial_states=jnp.full((1, 1), 1e-2), tolerance=1e-4
        )
        assert received.residual[0] < 1e-4
        assert received.distance[0] > 1e-3

    def test_a_users_field_needs_no_weight_matrix(self, key):
        network = RecurrentNetwork(
            lambda params, state, stimulus: (stimulus - state**3) / params,
            jnp.asarray(2.0),
            state_size=2,
            stimulus_size=2,
        )
        stimuli = 0.2 + jr.uniform(key, (20, 2))
        received = solve_steady_states(network, stimuli)
        assert np.all(received.is_converged)
        assert_close(received.state, np.cbrt(np.asarray(stimuli)), 1e-3 if default_float() == jnp.float32 else 1e-7)

    def test_sparse_weights_give_the_same_states(self, key):
        weights = 0.4 * np.asarray(jr.normal(key, (16, 16))) * (np.asarray(jr.uniform(key, (16, 16))) < 0.2)
        stimuli = np.asarray(jr.normal(key, (30, 16)))
        dense, sparse = (
            solve_steady_states(threshold_linear(each), stimuli)
            for each in (weights, BCOO.from_scipy_sparse(csr_matrix(weights)))
        )
        assert jnp.all(sparse.is_converged)
        assert_close(sparse.state, dense.state, CLOSE)

    def test_finished_by_and_statuses_add_up(self, key):
        stimuli = jr.uniform(key, (40, 3))
        received = solve_steady_states(CYCLE, stimuli)
        assert sum(received.finished_by.values()) == int(received.is_converged.sum())


def rivals(rate, size=16):
    """Two units whose tie is a saddle that grows with a rate, among others that decay; one alone attracts, at 2.

    At the tie the modes are `-1 + .5 +- (.5 + rate)`.
    """
    weights = np.zeros((size, size))
    weights[:2, :2] = [[0.5, -0.5 - rate], [-0.5 - rate, 0.5]]
    return threshold_linear(floats(weights))


def over_a_threshold(slow, distances):
    """Unit 0 rises to 1 at a slow rate; at 1 - d it takes unit 1 over its threshold, which then silences unit 2.

    Weights, stimuli, and where the states end; below a distance of 0 the threshold is never passed. Other units decay.
    """
    weights, ones, others = np.zeros((16, 16)), np.ones(len(distances)), np.zeros((len(distances), 13))
    weights[:3, :3] = [[1 - slow, 0, 0], [1, 0, -2], [0, -2, 0]]
    never, passed = np.c_[ones, distances, ones], np.c_[ones, 2 + distances, -3 - 2 * distances]
    ends = np.where(distances[:, None] < 0, never, passed)
    return floats(weights), np.c_[slow * ones, 1 + distances, ones, others], np.c_[ends, others]


def moving_along(params, state, stimulus):
    """x is slow at 10. y is driven by `(x - 10) - (x - 10)^2 / 10`, so that its velocity bends more than that of x."""
    away = state[0] - 10
    return params["time_constants"] * jnp.stack([0.05 * away**2 + stimulus[0], away - 0.1 * away**2 - state[1]])


class TestSaddles:
    @pytest.mark.parametrize("size", [16, 40])  # the larger has more units than a block that is factored
    @pytest.mark.parametrize("rate", [1.0, 0.1, 0.01, 0.001])
    def test_a_tie_is_never_called_a_steady_state(self, rate, size):
        """Convergence is no verdict: along a tie the velocity has no part that would leave the saddle."""
        gaps = np.append([0.0, 1e-8, 1e-6, 1e-4, 1e-2], np.full(16, 0.1))  # as many rows as in the next test
        stimuli = np.zeros((len(gaps), size))
        stimuli[:, 0], stimuli[:, 1] = 1.0, 1 - gaps
        network = rivals(rate, size)
        planned = solve_steady_states(network, stimuli)
        for found in (solve_batch(network, stimuli, initial_states=np.zeros_like(stimuli)), planned):
            is_converged, states = np.asarray(found.is_converged), np.asarray(found.state)
            # Rounding may break an exact tie, to either side.
            is_tie = np.asarray(floats(stimuli))[:, 1] == 1
            winner, loser = np.max(states[:, :2], axis=1), np.min(states[:, :2], axis=1)
            assert (loser[is_converged] < 0).all()
            assert_close(winner[is_converged], 2.0, 1e-3)
            assert (states[is_converged & ~is_tie, 1] < 0).all()
            assert is_converged[0] or found.status[0] == Status.unstable
        assert np.asarray(planned.is_converged)[gaps > 0.01 * rate].all() or rate < 0.01

    def test_started_on_the_saddle_and_beside_it(self, key):
        network, offsets = rivals(0.3, 40), 1e-5 * np.asarray(jr.normal(key, (20, 40)))
        stimuli = np.zeros((21, 40))
        stimuli[:, :2] = 1
        starts = np.zeros((21, 40))
        starts[:, :2] = 1 / 1.3
        starts[1:] += offsets
        found = solve_batch(network, stimuli, initial_states=starts)
        assert found.status[0] == Status.unstable
        winners = np.asarray(found.state)[1:, :2].argmax(axis=1)
        is_converged = np.asarray(found.is_converged)[1:]
        assert is_converged.mean() > 0.8
        assert (winners == offsets[:, :2].argmax(axis=1))[is_converged].all()

    @pytest.mark.parametrize("solver", ["engine", None, Rollout()])
    def test_a_small_residual_is_no_rest_where_the_slowest_mode_still_carries_a_unit_over_its_threshold(self, solver):
        tolerance = 1e-5 if default_float() == jnp.float32 else 1e-9
        distances = tolerance * np.r_[-np.geomspace(5, 60, 10), np.geomspace(5, 60, 11)]
        weights, stimuli, ends = over_a_threshold(0.025, distances)
        network, starts = threshold_linear(weights), np.tile(np.r_[0, -1.0, 1.0, np.zeros(13)], (21, 1))
        if solver == "engine":
            found = solve_batch(network, stimuli, initial_states=starts)
        else:
            found = solve_steady_states(network, stimuli, initial_states=starts, solver=solver)
        assert found.is_converged.all()
        assert_close(found.state, ends, 200 * tolerance)

    @pytest.mark.parametrize("form", [StateForm(jax.nn.relu), RateForm(jax.nn.relu)])
    def test_nor_is_it_where_sweeps_led_there(self, form):
        """By a plan of sweeps: the first two thresholds are passed after they have converged."""
        tolerance = 1e-5 if default_float() == jnp.float32 else 1e-9
        weights, stimuli, ends = over_a_threshold(0.2, tolerance * np.array([-20, -5, -2, 0.5, 0.7, 1, 1.5, 2]))
        network = rate_network(form, weights)
        plan = make_plan(network, damped_sweep(network), Method.agreed)
        plan = eqx.tree_at(lambda plan: plan.starts_anywhere, plan, jnp.asarray(True))
        starts = np.tile(np.r_[0, 0.0, 1.0, np.zeros(13)], (8, 1))
        found = solve_steady_states(network, stimuli, initial_states=starts, solver=plan, tolerance=tolerance)
        assert found.is_converged.all()
        expected = np.maximum(ends, 0) if isinstance(form, RateForm) else ends
        assert_close(found.state, expected, 200 * tolerance)

    @pytest.mark.parametrize("solver", [None, Rollout()])
    @pytest.mark.parametrize("unit", [1, 1e-3])  # of rates, as Hz and kHz
    @pytest.mark.parametrize(
        ("tolerance", "shares"),
        [(1e-5, [0.001, 0.1, 1, 5]), (1e-9, [0.001, 0.1, 3, 8])] if IS_DOUBLE else [(1e-5, [3, 4, 5, 8])],
    )
    def test_where_a_fixed_point_is_about_to_appear_a_small_residual_is_no_rest(self, unit, solver, tolerance, shares):
        """`dx/dt = .05 (x - 10)^2 + g` slows down at 10: its residual is then a share of the tolerance, over 11."""
        gap = tolerance * np.array([*shares, *np.negative(shares)])
        network = rate_network(StateForm(PowerLaw(0.04 * unit, 2.0)), floats([[1.25 / unit]]))
        found = solve_steady_states(network, 5 + gap[:, None], solver=solver, tolerance=tolerance)
        np.testing.assert_array_equal(found.is_converged, gap < 0)
        assert_close(
            10 - found.state[gap < 0, 0], np.sqrt(20 * -gap[gap < 0]), 0.05 * tolerance**0.5 if IS_DOUBLE else 0.02
        )

    def test_fixed_points_beside_a_bottleneck_are_found_however_many_there_are(self):
        tolerance = 1e-9 if IS_DOUBLE else 1e-5
        gap = -tolerance * (np.linspace(0.01, 3, 100) if IS_DOUBLE else np.linspace(3, 8, 100))
        network = rate_network(StateForm(PowerLaw(0.04, 2.0)), floats([[1.25]]))
        found = solve_steady_states(network, 5 + gap[:, None], tolerance=tolerance)
        assert found.is_converged.all()
        assert_close(10 - found.state[:, 0], np.sqrt(20 * -gap), 1e-6 if IS_DOUBLE else 0.02)

    @pytest.mark.parametrize(("end", "tried", "num_known"), [(1, [8, 8, 8], 24), (2, [8], 0)])
    def test_after_many_that_stay_undecided_the_others_are_left(self, end, tried, num_known, monkeypatch):
        """Their rest is at 1, which implicit steps that end at 2 have not found."""
        received = []
        monkeypatch.setattr(bends, "most_crept", lambda network: 8)
        monkeypatch.setattr(bends, "creep", stopping(received, after=0, end=end))
        network, blank = alone(0.5), np.zeros(24, default_float())
        status, num_steps = np.full(24, Status.undecided, np.int32), np.zeros(24, np.int32)
        states, stimuli = np.ones((2, 24, 16), default_float()) * np.r_[1, np.zeros(15)]
        solved = SteadyState(states, status, blank, num_steps, blank, blank)
        known = bends.follow_through(network, stimuli / 2, solved, np.arange(24), tolerance=1e-4, max_steps=4096)
        assert received == tried
        assert known.tolist() == list(range(num_known))

    @pytest.mark.parametrize("solver", [None, Rollout()])
    def test_nor_is_it_where_another_unit_moves_along(self, solver):
        network = RecurrentNetwork(moving_along, {"time_constants": jnp.ones(2)}, state_size=2, stimulus_size=1)
        tolerance = 1e-9 if IS_DOUBLE else 1e-5
        gap = tolerance * (np.array([0.1, 1, -0.1, -1]) if IS_DOUBLE else np.array([4, 8, -4, -8]))
        away = -20 * np.sqrt(0.8 * tolerance)
        starts = np.tile([10 + away, away - 0.1 * away**2], (4, 1))
        found = solve_steady_states(network, gap[:, None], initial_states=starts, solver=solver, tolerance=tolerance)
        np.testing.assert_array_equal(found.is_converged, gap < 0)
        rest = -np.sqrt(20 * -gap[gap < 0])
        assert_close(
            found.state[gap < 0], np.c_[10 + rest, rest - 0.1 * rest**2], 0.05 * tolerance**0.5 if IS_DOUBLE else 0.02
        )

    def test_nor_is_it_beside_a_unit_whose_large_inputs_cancel(self):
        """Rounding moves that unit more than the bottleneck moves another, which nothing drives but its stimulus."""

        def velocity(params, state, stimulus):
            slow, difference, one, other = state
            opposed = params["strength"] * (jnp.tanh(one) - jnp.tanh(other)) - difference
            decays = stimulus[1] - jnp.stack([one, other])
            return jnp.concatenate([jnp.stack([0.05 * (slow - 1) ** 2 + stimulus[0], opposed]), decays])

        gap = np.repeat(np.geomspace(1e-13, 1e-10, 5) if IS_DOUBLE else 1e-5 * np.array([0.6, 1, 1.5, 2]), 10)
        stimuli = np.c_[gap, np.random.default_rng(0).uniform(0.5, 1.5, len(gap))]
        starts = np.c_[1 - 20 * np.sqrt(20 * gap), np.zeros((len(gap), 3))]
        for strength in (1e6, 1e7) if IS_DOUBLE else (50.0, 200.0):
            params = {"strength": jnp.asarray(strength), "time_constants": jnp.ones(4)}
            network = RecurrentNetwork(velocity, params, state_size=4, stimulus_size=2)
            found = solve_steady_states(network, stimuli, initial_states=starts, tolerance=1e-9 if IS_DOUBLE else 1e-5)
            assert not found.is_converged.any()
            assert (found.status == Status.undecided).mean() > 0.5

    def test_nor_is_it_where_faster_modes_hide_the_slowest_one(self):
        """Started within a bottleneck of one mode, turned against the units, while the other modes decay."""
        size = 5
        turned = np.linalg.qr(np.random.default_rng(size).normal(size=(size, size)))[0]

        def velocity(params, state, stimulus):
            modes = params["turned"].T @ state
            return params["turned"] @ (-params["rates"] * modes).at[0].set(0.05 * (modes[0] - 1) ** 2 + stimulus[0])

        params = {"turned": floats(turned), "rates": floats(np.r_[0, np.geomspace(0.1, 2, size - 1)])}
        network = RecurrentNetwork(velocity, params, state_size=size, stimulus_size=1)
        gap = np.repeat(np.geomspace(1e-12, 1e-7, 6) if IS_DOUBLE else np.geomspace(5e-6, 5e-5, 6), 10)
        others = np.random.default_rng(1).normal(size=(60, size - 1))
        for sign in (1, -1):
            first = 1 + np.tile(np.linspace(-30, -1.2, 10), 6) * np.sqrt(20 * gap)
            starts = np.c_[first, others] @ turned.T
            found = solve_steady_states(network, sign * gap[:, None], initial_states=starts, tolerance=1e-5)
            assert (found.is_converged == (sign < 0)).all()

    def test_of_a_spiral_that_turns_more_than_it_decays_rest_is_found_ahead(self):
        """Along its velocity such a motion may speed up first, although the dynamics are nearly linear."""
        matrix = np.array([[-0.1, 5], [-0.2, -0.1]])

        def velocity(params, state, stimulus):
            return params @ jnp.tanh(state - stimulus)

        network = RecurrentNetwork(velocity, floats(matrix), state_size=2, stimulus_size=2)
        phases = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        starts = 1 + 1e-5 * np.c_[np.cos(phases), np.sin(phases)]
        distance = floats(np.abs((starts - 1) @ matrix.T).max(axis=1) / 0.1)

        @jax.jit
        def look_ahead(is_lowest):
            field = make_field(network, floats(np.ones((32, 2))), floats(starts))
            return is_linear_ahead(field, floats(starts), distance, is_lowest)

        for is_lowest in (False, True):
            assert look_ahead(np.full(32, is_lowest)).all()

    @pytest.mark.parametrize("nonlinearity", [jnp.tanh, lambda state: jnp.tanh(state)])  # with a proof, and without
    @pytest.mark.parametrize("solver", [Rollout(), None])
    def test_a_mode_too_slow_to_go_on_is_at_rest_by_the_tolerance(self, nonlinearity, solver):
        network = rate_network(StateForm(nonlinearity), floats([[1 - 3e-4]]))
        found = solve_steady_states(
            network, np.zeros((1, 1)), initial_states=np.full((1, 1), 0.03), solver=solver, tolerance=1e-3
        )
        assert found.is_converged.all()
        assert jnp.isfinite(found.distance).all()

    @pytest.mark.parametrize(("function", "rates"), [
        (jax.nn.softplus, lambda x: np.logaddexp(x, 0)), (lambda x: 1 + jnp.tanh(x), lambda x: 1 + np.tanh(x)),
    ])  # fmt: skip
    def test_where_large_inputs_cancel_a_state_that_only_rounding_moves_has_converged(self, function, rates):
        """Excitation and inhibition of 200 times the rates: in float32 their sum is rounded a hundred times as much."""
        weights, stimuli = cancelling(200)
        network = rate_network(StateForm(function), weights)
        found = solve_steady_states(network, stimuli)
        assert found.is_converged.all()
        for state, stimulus in zip(np.asarray(found.state[:5], float), stimuli):
            expected = root(lambda x, drive=stimulus: weights @ rates(x) + drive - x, state)
            assert expected.success
            assert_close(state, expected.x, 1e-2)

    def test_what_comes_to_rest_at_a_threshold_has_converged(self):
        """All units are at their threshold, so that the dynamics bend however small the residual is."""
        network = threshold_linear(floats(0.9 / 4 * np.random.default_rng(4).normal(size=(16, 16))))
        starts = np.random.default_rng(5).normal(size=(21, 16))
        found = solve_batch(network, np.zeros((21, 16)), initial_states=starts)
        assert found.is_converged.all()
        assert_close(found.state, 0, CLOSE)

    def test_a_saddle_that_a_stiff_integrator_stops_at_is_not_a_steady_state(self, monkeypatch):
        monkeypatch.setattr(hard, "observe_motions", out_of_steps)
        stimuli, starts = np.r_[1, 1, np.zeros(14)][None], np.zeros((1, 16))
        found = hard.finish(rivals(0.3), stimuli, starts, starts, tolerance=1e-4, max_steps=400)
        assert_close(found.state, stimuli / 1.3, 1e-3)
        assert found.status[0] == Status.unstable

    def test_what_only_rounding_moves_stays_where_it_is(self, monkeypatch):
        """In float32, where the residual never falls below the tolerance, and a stiff integrator ends anywhere."""
        weights, stimuli = cancelling(2000)
        rates = lambda x: 1 + np.tanh(x)  # noqa: E731
        rest = np.float32([root(lambda x, drive=each: weights @ rates(x) + drive - x, 0 * each).x for each in stimuli])
        network = rate_network(StateForm(lambda x: 1 + jnp.tanh(x)), weights)
        monkeypatch.setattr(hard, "observe_motions", out_of_steps)
        monkeypatch.setattr(hard, "_roll_out_stiffly", None)  # is not called
        found = hard.finish(network, stimuli, np.zeros_like(rest), rest, tolerance=1e-6, max_steps=400)
        assert (found.status == Status.max_steps_reached).all()
        np.testing.assert_array_equal(found.state, rest)

    @pytest.mark.parametrize(("end", "expected"), [(1.5, 1.5), (7.0, 3.0), (np.nan, 3.0)])  # of rest at 1
    def test_of_two_integrators_that_run_out_of_steps_the_nearer_state_is_kept(self, end, expected, monkeypatch):
        def run_out(network, stimuli, starts, tolerance, max_steps):
            ends = np.where(np.arange(16) < 1, end, starts).astype(starts.dtype)
            return Candidate(ends, np.full(len(starts), max_steps, np.int32), np.zeros(len(starts), bool))

        monkeypatch.setattr(hard, "observe_motions", out_of_steps)
        monkeypatch.setattr(hard, "_roll_out_stiffly", run_out)
        stimuli, starts, states = (np.eye(1, 16, dtype=default_float()) * first for first in (0.5, 0, 3))
        found = hard.finish(alone(0.5), stimuli, starts, states, tolerance=1e-4, max_steps=400)
        assert found.state[0, 0] == expected
        assert found.status[0] == Status.max_steps_reached

    def test_where_the_first_samples_get_nowhere_by_implicit_steps_the_others_are_left(self, monkeypatch):
        network, tried = threshold_linear(np.array([[1 - 1e-4]])), []
        monkeypatch.setattr(hard, "creep", stopping(tried, after=MOST_STEPS))
        given = np.ones((20, 1), network.dtype)
        found = hard.finish(network, given, given, given, tolerance=1e-4, max_steps=4096)
        assert (found.status == Status.max_steps_reached).all()
        assert tried == [8]
        monkeypatch.undo()
        found = hard.finish(network, given, given, given, tolerance=1e-4, max_steps=4096)
        assert_close(found.state, np.full((20, 1), 1e4), 20)  # where all rest

    def test_implicit_steps_from_beside_a_saddle_end_on_the_side_where_they_began(self):
        """`dx/dt = (1 + g) tanh(x) - x` beside a unit that decays: a saddle at 0, and two states that attract."""
        offsets = np.array([1e-6, -1e-6, 1e-8, -1e-8])
        for growth in np.r_[0.02, np.geomspace(0.002, 0.003, 10)]:
            network = rate_network(StateForm(jnp.tanh), floats([[1 + growth, 0.0], [0.0, 0.5]]))
            states, tolerances = floats(np.c_[offsets, np.full(4, 0.5)]), floats(np.full(4, 1e-12))
            ends = creep(network, floats(np.zeros((4, 2))), states, tolerances)
            attractor = brentq(lambda x, gain=1 + growth: gain * np.tanh(x) - x, 1e-3, 2)
            assert_close(ends.state[:, 0], attractor * np.sign(offsets), 1e-3)

    def test_what_rests_only_after_an_inaccurate_path_is_followed_from_its_start(self):
        """A point and a cycle both attract; the state is near the point, and the start in the basin of the cycle."""

        def field(params, state, stimulus):
            square = jnp.sum(state**2)
            turned = jnp.stack([-state[1], state[0]])
            return params * (square - 0.25) * (1 - square) * state + turned + 0 * stimulus

        network = RecurrentNetwork(field, jnp.asarray(2.0), state_size=2, stimulus_size=2)
        stimuli, starts, near = np.zeros((2, 2)), np.array([[0.9, 0], [0.1, 0]]), np.full((2, 2), 0.05)
        given = [np.asarray(each, network.dtype) for each in (stimuli, starts, near)]
        found = hard.finish(network, *given, tolerance=1e-4, max_steps=4096)
        assert found.status.tolist() == [Status.oscillating, Status.converged]
        assert found.period[0] == pytest.approx(2 * np.pi, rel=1e-2)


class TestAnyField:
    def test_the_unit_of_time_changes_nothing(self, key):
        weights, stimuli = 0.9 * jr.normal(key, (8, 8)) / 8**0.5, np.asarray(jr.normal(key, (20, 8)))

        def field(params, state, stimulus):
            return (jnp.tanh(params[0] @ state) + stimulus - state) / params[1]

        def in_units_of(unit):
            params = (weights, jnp.asarray(unit, weights.dtype))
            return RecurrentNetwork(field, params, state_size=8, stimulus_size=8)

        first, *others = (solve_batch(in_units_of(unit), stimuli) for unit in (1.0, 1e-3, 300.0, 1e6))
        assert jnp.all(first.is_converged)
        for other in others:
            np.testing.assert_array_equal(other.status, first.status)
            assert_close(other.state, first.state, CLOSE)


class TestPureFunction:
    def test_under_jit_and_in_a_scan_it_is_the_same(self, random_network):
        network, stimuli, solved = random_network

        @jax.jit
        def solve(parts):
            return jax.lax.scan(lambda _, part: (None, solve_batch(network, part, solved.plan)), None, parts)[1]

        received = jax.tree.map(np.concatenate, solve(np.asarray(stimuli)[:300].reshape(3, 100, 16)))
        np.testing.assert_array_equal(received.status, solved.status[:300])
        assert_close(received.state, solved.state[:300], CLOSE)

    @pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
    def test_a_batch_that_is_sharded_over_a_mesh_stays_so(self, axis_type, random_network):
        network, stimuli, solved = random_network
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(axis_type,))
        sharding = NamedSharding(mesh, PartitionSpec("batch"))
        received = solve_batch(network, jax.device_put(stimuli[:64], sharding), solved.plan)
        assert_close(received.state, solved.state[:64], CLOSE)
        assert axis_type == AxisType.Auto or received.state.sharding.is_equivalent_to(sharding, 2)

    @pytest.mark.parametrize("solver", [None, pytest.param(Anderson(), marks=pytest.mark.slow)])
    def test_devices_that_do_not_divide_a_batch_find_what_one_does(self, solver, random_network):
        network, stimuli, solved = random_network
        mesh = jax.make_mesh((1, 2), ("row", "column"))
        solver = solved.plan if solver is None else solver
        received = solve_steady_states(network, stimuli[:51], solver=solver, mesh=mesh)
        np.testing.assert_array_equal(received.status, solved.status[:51])
        assert_close(received.state, solved.state[:51], CLOSE)

    @pytest.mark.usefixtures("as_a_user")
    def test_what_is_no_mesh_is_refused(self):
        with pytest.raises(ValueError, match="`mesh` is not a mesh of devices. Expected .*, got list"):
            solve_steady_states(CYCLE, np.ones((2, 3)), mesh=jax.devices())

    @pytest.mark.parametrize("name", ["solve_steady_state", "simulate"])
    def test_functions_of_one_sample_say_inside_shard_map_what_to_use(self, name):
        network = threshold_linear(jnp.eye(2) / 2)
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
        times = jnp.arange(3.0)
        function = {
            "solve_steady_state": lambda stimulus: rnn2ff.solve_steady_state(network, stimulus).state,
            "simulate": lambda stimulus: rnn2ff.simulate(network, stimulus, times).states[-1],
        }[name]
        split = PartitionSpec("batch")
        mapped = jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=split, out_specs=split)
        with pytest.raises(ValueError, match=f"`{name}` does not run inside `jax.shard_map`. Expected .*, got values"):
            jax.jit(mapped)(jnp.ones((4, 2)))

    def test_errors_are_bounded_on_a_mesh_with_explicit_axes_as_without(self):
        network = rnn2ff.partition_competition(2, 2)
        certifier = rnn2ff.make_certifier(network)
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Explicit,))
        bounds = jax.jit(jax.vmap(lambda *pair: rnn2ff.bound_error(network, *pair, certifier)))
        pairs = floats(np.ones((4, 4))), floats(np.ones((4, 6)))
        expected = bounds(*pairs)
        received = bounds(*jax.device_put(pairs, NamedSharding(mesh, PartitionSpec("batch"))))
        jax.tree.map(np.testing.assert_array_equal, received, expected)

    @pytest.mark.parametrize("name", ["solve_steady_state", "simulate", "certify"])
    def test_functions_of_one_sample_say_on_a_mesh_with_explicit_axes_what_to_use(self, name):
        network = threshold_linear(jnp.eye(2) / 2)
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Explicit,))
        times = jnp.arange(3.0)
        function = {
            "solve_steady_state": lambda stimulus: rnn2ff.solve_steady_state(network, stimulus).state,
            "simulate": lambda stimulus: rnn2ff.simulate(network, stimulus, times).states[-1],
            "certify": lambda stimulus: rnn2ff.certify(network, stimulus, stimulus, certifier).error_bound[None],
        }[name]
        certifier = rnn2ff.make_certifier(network)
        stimuli = jax.device_put(jnp.ones((4, 2)), NamedSharding(mesh, PartitionSpec("batch")))
        message = f"`{name}` does not run under `vmap` on a mesh with explicit axes. Expected .*divided over 'batch'"
        total = lambda stimuli: jax.vmap(function)(stimuli).sum()  # noqa: E731
        for program in (jax.vmap(function), jax.jit(jax.vmap(function)), jax.grad(total)):
            with pytest.raises(ValueError, match=message):
                program(stimuli)

    def test_inside_shard_map_each_device_solves_its_own(self, random_network):
        network, stimuli, solved = random_network
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
        split = PartitionSpec("batch")

        @jax.jit
        @jax.shard_map(mesh=mesh, in_specs=split, out_specs=split)
        def solve(stimuli):
            return solve_batch(network, stimuli, solved.plan).state

        assert_close(solve(stimuli[:64]), solved.state[:64], CLOSE)

    def test_its_gradient_is_the_implicit_one_and_its_second_derivative_is_not_zero(self):
        network = RecurrentNetwork(
            lambda params, state, stimulus: params * stimulus - state**2,
            jnp.ones(1),
            state_size=1,
            stimulus_size=1,
        )
        root = lambda stimulus: solve_batch(  # noqa: E731
            network, stimulus[None, None], initial_states=jnp.ones((1, 1))
        ).state[0, 0]
        stimulus = jnp.asarray(2.0)
        tolerance = 1e-7 if default_float() == jnp.float64 else 1e-3
        assert_close(jax.grad(root)(stimulus), 0.5 / np.sqrt(2), tolerance)
        assert_close(jax.jit(jax.hessian(root))(stimulus), -0.25 * 2**-1.5, tolerance)

    def test_many_networks_are_solved_at_once_under_vmap_with_their_derivatives(self):
        generator, gains = np.random.default_rng(0), np.array([0.2, 0.5, 0.9], default_float())
        weights = floats(generator.random((4, 4)) / 4)
        stimuli = floats(0.5 + generator.random((6, 4)))  # all units are active, so that x = (I - g W)^-1 u

        def solve(gain):
            solved = solve_batch(threshold_linear(gain * weights), stimuli)
            return jnp.sum(solved.state[0]), solved

        slopes, solved = jax.vmap(jax.grad(solve, has_aux=True))(gains)
        for i, gain in enumerate(gains):
            inverse = np.linalg.inv(np.eye(4) - gain * np.asarray(weights))
            expected = np.asarray(stimuli) @ inverse.T
            assert_close(solved.state[i], expected, CLOSE)
            assert_close(slopes[i], (inverse @ np.asarray(weights) @ expected[0]).sum(), 100 * CLOSE)
        assert np.all(solved.is_converged)

    @pytest.mark.parametrize("platform", ["cuda", "tpu"])
    def test_it_is_lowered_for_an_accelerator_without_a_way_back_to_the_host(self, platform, random_network):
        network, stimuli, solved = random_network
        solve = lambda stimuli: solve_batch(network, stimuli, solved.plan).state  # noqa: E731
        shape = jax.ShapeDtypeStruct((512, 16), jnp.float32 if platform == "tpu" else stimuli.dtype)
        if shape.dtype != stimuli.dtype:
            network, solved = jax.tree.map(
                lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, (network, solved)
            )
        exported = jax.export.export(jax.jit(solve), platforms=[platform])(shape)
        assert "callback" not in exported.mlir_module()

    def test_what_needs_the_host_says_what_to_use_instead(self, random_network):
        network, stimuli, _ = random_network
        with pytest.raises(ValueError, match="use `solve_batch`"):
            jax.jit(lambda stimuli: solve_steady_states(network, stimuli).state)(stimuli[:4])


class TestField:
    @pytest.mark.parametrize("kind", ["state form", "rate form", "map", "sparse", "any field"])
    @pytest.mark.parametrize("nonlinearity", [jax.nn.relu, jnp.tanh])
    def test_its_deviation_is_that_of_the_velocity_from_its_derivative(self, kind, nonlinearity):
        generator = np.random.default_rng(0)
        weights, taus = floats(generator.normal(size=(5, 5))), floats([1.0, 2.0, 3.0, 1.5, 1.0])
        form = RateForm(nonlinearity) if kind == "rate form" else StateForm(nonlinearity)
        matrix = sparse_weights(weights) if kind == "sparse" else weights
        network = rate_network(form, matrix, time_constants=taus)
        if kind == "any field":
            by_weights = network.velocity
            network = RecurrentNetwork(
                lambda params, x, u: by_weights(x, u), {"time_constants": taus}, state_size=5, stimulus_size=5
            )
        if kind == "map":
            network = discrete_map(
                lambda params, x, u: nonlinearity(params @ x + u), weights, state_size=5, stimulus_size=5
            )
        given = [floats(each) for each in generator.normal(size=(3, 20, 5))]

        @jax.jit
        def deviation(states, stimuli, vectors):
            return make_field(network, stimuli, states).deviation(states, vectors)

        @jax.jit
        def expected(states, stimuli, vectors):
            velocity = jax.vmap(network.velocity)
            at_states, along = jax.jvp(lambda states: velocity(states, stimuli), (states,), (vectors,))
            scales_of_map = jax.vmap(lambda state, stimulus: time_scales(network, state, stimulus))
            scales = scales_of_map(states, stimuli) if kind == "map" else taus[None]
            return scales * (velocity(states + vectors, stimuli) - at_states - along)

        assert_close(deviation(*given), expected(*given), 10 * CLOSE)


class TestTiles:
    def test_rows_that_are_not_chosen_stay_as_they_are(self):
        rows, constants = jnp.arange(13.0), jnp.arange(13)
        is_chosen = constants % 5 == 2  # 2, 7 and 12
        done = in_dense_tiles(lambda rows, known, is_mine, may_wait: -rows - 100, rows, constants, is_chosen, (4,))
        np.testing.assert_array_equal(done, np.where(is_chosen, -np.arange(13.0) - 100, np.arange(13.0)))

    def test_rows_of_one_kind_share_tiles(self):
        kinds = jnp.asarray([1, 0, 1, 0, 2, 1, 0, 0], jnp.int32)
        seen = in_dense_tiles(
            lambda rows, known, is_mine, may_wait: jnp.full_like(rows, jnp.unique(known, size=3, fill_value=-1)[1]),
            jnp.zeros(8, jnp.int32),
            kinds,
            kinds < 2,
            (4,),
            kind=kinds,
            num_kinds=2,
        )
        np.testing.assert_array_equal(seen[kinds == 0], -1)  # no other kind beside them

    def test_the_largest_tile_is_used_as_long_as_it_is_filled(self):
        def work(rows, known, is_mine, may_wait):
            return jnp.full_like(rows, len(rows))

        rows, constants = jnp.zeros(13, jnp.int32), jnp.arange(13)
        sizes = in_dense_tiles(work, rows, constants, constants != 5, (8, 2))
        np.testing.assert_array_equal(np.bincount(sizes), [1, 0, 4, 0, 0, 0, 0, 0, 8])

    @pytest.mark.parametrize(("few", "num_chosen", "num_done"), [
        (Few.done, 10, 10), (Few.done_if_alone, 10, 8), (Few.done_if_alone, 2, 2), (Few.left, 10, 8), (Few.left, 2, 0),
    ])  # fmt: skip
    def test_rows_too_few_for_a_tile_wait_where_that_is_allowed(self, few, num_chosen, num_done):
        rows, constants = jnp.zeros(13, jnp.int32), jnp.arange(13)
        done = in_dense_tiles(
            lambda rows, known, is_mine, may_wait: rows + 1, rows, constants, constants < num_chosen, (8,), few=few
        )
        assert done.sum() == num_done

    def test_a_tree_is_packed_into_an_array_for_each_dtype_and_unpacked(self):
        tree = {"a": jnp.arange(3.0), "b": jnp.arange(6.0).reshape(3, 2), "c": jnp.arange(3), "d": -jnp.arange(3.0)}
        pack, unpack = packing_of(tree)
        assert [each.shape for each in pack(tree)] == [(3, 2), (3, 1), (3, 2)]
        chosen = unpack([each[1:] for each in pack(tree)])
        jax.tree.map(np.testing.assert_array_equal, chosen, jax.tree.map(lambda leaf: leaf[1:], tree))

    def test_no_work_is_done_beyond_the_rows_that_matter(self):
        done = in_tiles(lambda rows, known: rows + known, jnp.zeros(12), jnp.ones(12), 4, jnp.asarray(5))
        np.testing.assert_array_equal(done, [1.0] * 8 + [0.0] * 4)


class TestThreads:
    """With jaxlib 0.10, as many batches of factorizations at once as there are threads deadlock."""

    def test_two_that_do_not_wait_for_each_other_are_seen(self):
        def apart(matrices):
            return jnp.linalg.inv(matrices), jnp.linalg.cholesky(matrices)

        def in_turn(matrices):
            inverse = jnp.linalg.inv(matrices)
            return inverse, jnp.linalg.cholesky(only_after(inverse, matrices))

        matrices = np.tile(4 * np.eye(2), (3, 1, 1))
        assert pairs_at_once(apart, matrices)
        assert not pairs_at_once(in_turn, matrices)
        for one, other in zip(jax.jit(in_turn)(matrices), apart(matrices)):
            np.testing.assert_array_equal(one, other)

    def test_what_is_not_finite_holds_nothing_up(self):
        for entry in (np.inf, np.nan, 1e300):
            np.testing.assert_array_equal(jax.jit(only_after)(jnp.full((2, 2), entry), jnp.arange(3.0)), np.arange(3.0))

    @pytest.mark.parametrize("has_weights", [True, False])
    def test_no_program_makes_two_at_once(self, has_weights, random_network):
        network = random_network[0]
        if not has_weights:
            network = RecurrentNetwork(
                lambda scale, state, stimulus: stimulus - scale * state, jnp.ones(()), state_size=16, stimulus_size=16
            )
        stimuli = np.ones((8, 16), default_float())
        plan, limit = plan_steady_states(network, stimuli), 1e-4

        def one_by_one(stimuli):
            return jax.vmap(lambda stimulus: solve_steady_state(network, stimulus).state)(stimuli)

        def in_a_batch(stimuli):
            return solve_batch(network, stimuli, plan).state

        programs = {
            "the engine": (lambda stimuli: solve_batch(network, stimuli), stimuli),
            "the engine with a plan": (in_a_batch, stimuli),
            "one sample, mapped": (one_by_one, stimuli),
            "derivatives of a batch": (jax.grad(lambda stimuli: jnp.sum(in_a_batch(stimuli) ** 2)), stimuli),
            "derivatives of samples": (jax.grad(lambda stimuli: jnp.sum(one_by_one(stimuli) ** 2)), stimuli),
            "slow motions": (lambda *rows: creep(network, *rows, jnp.full(len(stimuli), limit)), stimuli, stimuli),
        }
        assert [name for name, program in programs.items() if pairs_at_once(*program)] == []

    @pytest.mark.parametrize("size", [16, 64])
    def test_a_processor_factors_one_matrix_at_a_time(self, size):
        network = threshold_linear(np.diag(np.full(size, 0.5)))
        stimuli = np.ones((8, size), default_float())
        split = PartitionSpec("batch")
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))

        def solve(stimuli):
            return solve_batch(network, stimuli).state

        assert largest_batch(solve, stimuli) == 1
        assert largest_batch(jax.shard_map(solve, mesh=mesh, in_specs=split, out_specs=split), stimuli) == 1

    def test_the_number_of_cores_changes_no_bit(self, monkeypatch):
        network = rivals(0.5, 16)
        stimuli = np.random.default_rng(0).normal(size=(1500, 16))
        alone, divided = [], []
        for num_cores, received in ((1, alone), (3, divided)):
            monkeypatch.setattr("rnn2ff.steady_state.lanes.num_threads", lambda num_cores=num_cores: num_cores)
            received.extend(jax.tree.leaves(solve_steady_states(network, stimuli)))
        for one, other in zip(alone, divided, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_chunks_are_worked_on_in_threads_but_where_a_context_is_of_this_thread(self):
        chunks, meeting = list(chunks_of(3000, 16)), threading.Barrier(2)

        def threads(*, meet):
            """Of each chunk; of the first two, each waits until the other has begun."""
            begun = itertools.count()

            def begin(chunk):
                if meet and 0 < next(begun) < 3:  # the first is begun before there are lanes
                    meeting.wait(timeout=60)
                return np.full(chunk.size, threading.get_ident())

            done = list(in_lanes(begin, Chunk.take, chunks, 2))
            assert [chunk.rows for chunk, _ in done] == [chunk.rows for chunk in chunks]
            assert sum(len(result) for _, result in done) == 3000
            return {result[0] for _, result in done}

        both = threads(meet=True)
        assert len(both) == 2
        assert threading.get_ident() in both
        with jax.default_matmul_precision("highest"):
            assert threads(meet=False) == {threading.get_ident()}

    @pytest.mark.parametrize("is_interrupted", [False, True])
    def test_nothing_more_is_begun_where_a_batch_breaks_off(self, is_interrupted):
        chunks, begun = list(chunks_of(50_000, 16)), []

        def begin(chunk):
            begun.append(chunk)
            time.sleep(0.01)

        def finish(chunk, _):
            if is_interrupted and chunk is chunks[2]:
                raise KeyboardInterrupt

        results = in_lanes(begin, finish, chunks, 2)
        if is_interrupted:
            with pytest.raises(KeyboardInterrupt):
                list(results)
        else:
            next(results)
            results.close()
        time.sleep(0.1)
        assert len(begun) < len(chunks) / 2

    @pytest.mark.parametrize(
        ("network", "stimulus", "expected"),
        [
            (threshold_linear(np.diag(np.full(16, 0.5))), np.ones(16), set()),
            (rivals(0.5, 16), np.eye(16)[0] + np.eye(16)[1], {Stage.block}),  # a tie
            (rate_network(StateForm(jnp.tanh), np.array([[2.0]])), np.zeros(1), {Stage.decide}),  # between two others
        ],
    )
    def test_what_factorizes_is_a_program_of_its_own_that_is_called_where_samples_need_it(
        self, network, stimulus, expected, monkeypatch
    ):
        called = set()

        def note(*arguments, stage, **more):
            called.add(stage)
            return _by_factorizations(*arguments, stage=stage, **more)

        monkeypatch.setattr("rnn2ff.steady_state.lanes._by_factorizations", note)
        stimuli = np.stack([stimulus, 0.5 * stimulus])
        found, at_once = solve_steady_states(network, stimuli), solve_batch(network, stimuli)
        assert called == expected
        np.testing.assert_array_equal(found.status, at_once.status)
        assert_close(found.state, at_once.state, CLOSE)

    def test_a_network_that_is_committed_to_a_device_compiles_no_program_twice(self):
        network = rivals(0.5, 6)
        committed = jax.tree.map(lambda leaf: jax.device_put(leaf, jax.devices()[0]), network)
        tie = np.tile(np.eye(6)[0] + np.eye(6)[1], (3, 1))  # which waits for a factorization, and then goes on
        counts = []
        for each in (network, committed):
            with compiled_programs() as compiled:
                solve_steady_states(each, tie)
            counts.append(len(compiled))
        assert counts[0] >= counts[1] > 1

    @pytest.mark.parametrize("waits", [None, "in a branch", "in the derivative", "in Python"])
    def test_a_field_of_a_user_which_factors_matrices_is_solved_in_one_thread(self, waits, random_network):
        def solve(x):
            return jnp.linalg.solve(2 * jnp.eye(2), x)

        @jax.custom_jvp
        def halve(x):
            return x / 2

        halve.defjvp(lambda primals, tangents: (halve(*primals), solve(*tangents)))
        half = {
            None: lambda x: x / 2,
            "in a branch": lambda x: jax.lax.cond(x[0] > 0, solve, lambda x: x / 2, x),
            "in the derivative": halve,
            "in Python": lambda x: (jax.debug.callback(lambda x: None, x), x / 2)[1],
        }[waits]
        field = RecurrentNetwork(lambda params, x, u: u - params * half(x), jnp.ones(()), state_size=2, stimulus_size=2)
        assert has_lanes(field, None) == (waits is None)
        assert has_lanes(rate_network(StateForm(half), floats(np.eye(2) / 4)), None) == (waits is None)
        assert has_lanes(random_network[0], None)

    def test_a_field_in_another_precision_than_the_default_is_looked_through(self):
        def field(params, x, u):
            return u - x + jax.lax.fori_loop(0, 2, lambda i, h: jnp.tanh(params * h + x), jnp.zeros_like(params)) / 2

        network = RecurrentNetwork(field, jnp.ones(2, jnp.float32), state_size=2, stimulus_size=2)
        assert has_lanes(network, None)

    def test_a_field_of_a_user_is_solved_in_two_threads_as_in_one(self, monkeypatch):
        network = RecurrentNetwork(
            lambda params, x, u: u - x + jnp.tanh(params * x), jnp.full(2, 0.5), state_size=2, stimulus_size=2
        )
        stimuli = np.random.default_rng(0).normal(size=(1300, 2))
        at_once = solve_steady_states(network, stimuli)
        monkeypatch.setattr("rnn2ff.steady_state.lanes.num_threads", lambda: 1)
        one_by_one = solve_steady_states(network, stimuli)
        assert at_once.is_converged.all()
        jax.tree.map(np.testing.assert_array_equal, at_once.state, one_by_one.state)
