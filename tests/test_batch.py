"""Batches: the plan, what it promises, and what becomes of those it does not serve."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from problems import assert_close, default_float

from rnn2ff import (
    ActiveSet,
    RecurrentNetwork,
    StateForm,
    Status,
    partition_competition,
    plan_steady_states,
    random_threshold_linear,
    rate_network,
    residual,
    solve_steady_states,
    threshold_linear,
    threshold_linear_rate,
    winner_take_all,
)
from rnn2ff.steady_state import batch, plan
from rnn2ff.steady_state.padding import padded
from rnn2ff.sweeps import DampedSweep

CLOSE = 1e-7 if default_float() == jnp.float64 else 1e-3
CYCLE = threshold_linear_rate(jnp.array([[0, -1.5, -0.75], [-0.75, 0, -1.5], [-1.5, -0.75, 0]]))


@pytest.fixture(scope="module")
def random_network():
    network = random_threshold_linear(16, gain=0.9, key=jr.key(0))
    stimuli = jr.normal(jr.key(1), (900, 16))
    return network, stimuli, solve_steady_states(network, stimuli)


class TestPlan:
    def test_sweeps_are_used_where_they_land_where_the_dynamics_land(self, random_network):
        _, _, solved = random_network
        assert solved.plan.sweep is not None
        assert solved.plan.agreement == 1
        assert solved.finished_by["sweeps"] > 300
        assert sum(solved.finished_by.values()) == 900

    def test_the_states_are_those_of_the_dynamics(self, random_network):
        network, stimuli, solved = random_network
        followed = solve_steady_states(network, stimuli[-100:])
        assert "sweeps" not in followed.finished_by
        assert_close(solved.state[-100:], followed.state, CLOSE)

    def test_residuals_are_those_of_the_returned_states(self, random_network):
        network, stimuli, solved = random_network
        again = jax.vmap(lambda state, stimulus: residual(network, state, stimulus))(solved.state, stimuli)
        assert_close(solved.residual, again, 1e-6)
        assert jnp.all(solved.is_converged)

    def test_a_multistable_network_is_followed_even_where_sweeps_agree_on_the_whole_probe(self):
        network = partition_competition(2, 3, self_excitation=1.3)
        # Far from a tie sweeps find the right winner. The other one is stable too, and near ties they may find that.
        random = np.random.default_rng(0)
        loser = random.uniform(0.82, 0.9, size=64)
        pairs = np.where(random.random((64, 1)) < 0.5, np.c_[loser, np.ones(64)], np.c_[np.ones(64), loser])
        plan = plan_steady_states(network, np.repeat(pairs, 3, axis=1))
        assert plan.agreement == 1
        assert plan.sweep is None
        assert "from other states come to other steady states" in plan.reason

    def test_the_same_call_makes_the_same_plan(self, random_network):
        network, stimuli, solved = random_network
        again = plan_steady_states(network, stimuli)
        assert (again.memory, again.num_sweeps, again.proof_step) == (
            solved.plan.memory,
            solved.plan.num_sweeps,
            solved.plan.proof_step,
        )

    def test_a_plan_serves_further_batches_of_any_size_without_a_probe(self, random_network, key):
        network, _, solved = random_network
        for num_samples in (1, 7, 300):
            stimuli = jr.normal(key, (num_samples, 16))
            received = solve_steady_states(network, stimuli, solver=solved.plan)
            assert jnp.all(received.is_converged)
            assert "active set" not in received.finished_by
            assert_close(received.state, solve_steady_states(network, stimuli).state, CLOSE)

    def test_a_plan_made_from_zero_does_not_sweep_past_other_initial_states(self, random_network):
        network, stimuli, solved = random_network
        starts = jnp.ones((5, 16))
        uncertified = dataclasses.replace(solved.plan, certified_rate=0.0)
        received = solve_steady_states(network, stimuli[:5], solver=uncertified, initial_states=starts)
        assert "sweeps" not in received.finished_by
        assert jnp.all(received.is_converged)

    def test_where_all_ways_lead_to_the_same_end_a_near_start_saves_steps(self, random_network):
        network, stimuli, solved = random_network
        plan = dataclasses.replace(solved.plan, certified_rate=0.01)  # as of a network that is proved to have one end
        starts = solved.state[:64] * (1 + 1e-4)
        cold = solve_steady_states(network, stimuli[:64], solver=plan)
        warm = solve_steady_states(network, stimuli[:64], solver=plan, initial_states=starts)
        assert warm.finished_by == {"sweeps": 64}
        assert warm.num_steps.mean() < 0.8 * cold.num_steps.mean()
        assert_close(warm.state, cold.state, CLOSE)

    def test_batches_of_many_sizes_compile_for_a_few(self, random_network, key):
        network, _, solved = random_network
        traced = eqx.debug.assert_max_traces(max_traces=6)(plan.run_sweeps.__wrapped__)
        original = plan.run_sweeps
        batch.run_sweeps = eqx.filter_jit(traced)
        try:
            for num_samples in (1, 3, 11, 16, 17, 40, 64, 65, 130, 256):
                solve_steady_states(network, jr.normal(key, (num_samples, 16)), solver=solved.plan)
        finally:
            batch.run_sweeps = original

    def test_a_multistable_network_is_followed_and_lands_where_the_dynamics_land(self, key):
        network = partition_competition(4, 3, self_excitation=1.3)
        stimuli = jnp.repeat(jr.uniform(key, (600, 4)), 3, axis=1) + 0.2 * jr.normal(key, (600, 12))
        received = solve_steady_states(network, stimuli)
        # Slow obvious code: small Euler steps.
        weights = np.asarray(network.params.recurrent_weights, np.float64)
        drives = np.pad(np.asarray(stimuli, np.float64), ((0, 0), (0, 3)))
        states = np.zeros_like(drives)
        for _ in range(8000):
            states += 0.02 * (np.maximum(states, 0) @ weights.T + drives - states)
        same = np.abs(np.asarray(received.state) - states).max(axis=1) < 1e-3
        assert (np.asarray(received.is_converged) & same).mean() > 0.99

    def test_a_plan_for_no_steady_state_is_an_error_with_the_counts(self):
        with pytest.raises(RuntimeError, match="'diverging': 3"):
            plan_steady_states(threshold_linear(jnp.array([[1.5]])), jnp.ones((3, 1)))

    def test_a_split_that_is_singular_falls_back_and_says_so(self, key):
        network = threshold_linear(jnp.array([[2.0]]))  # with half of the samples active, I - W D is zero
        states = np.array([[1.0], [-1.0]] * 5, network.dtype)
        sweep, note = next(plan._sweeps(network, states, states - 2 * np.maximum(states, 0)))
        assert isinstance(sweep, DampedSweep)
        assert "the split is singular" in note

    def test_near_instability_a_split_in_the_middle_is_used_where_one_at_the_mean_fails(self, key):
        """With weights of one sign near the radius of 1 few stimuli silence most units, and most silence few."""
        weights = jnp.abs(jr.normal(key, (64, 64)))
        network = threshold_linear(0.997 * weights / jnp.abs(jnp.linalg.eigvals(weights)).max())
        stimuli = jr.normal(key, (512, 64))
        made = plan_steady_states(network, stimuli)
        assert made.reason.startswith("split sweeps, with Anderson")
        received = solve_steady_states(network, stimuli[:40], solver=made)
        assert received.finished_by.keys() <= {"sweeps", "Anderson(5)"}
        expected = solve_steady_states(network, stimuli[:40], solver=ActiveSet())
        assert_close(received.state, expected.state, 1e-2)


class TestVerdicts:
    def test_one_batch_may_hold_every_kind_of_end(self):
        stimuli = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.9, 1.0]])
        starts = jnp.array([[0.3, 0.2, 0.1], [0, 0, 0], [0, 0, 0]])
        received = solve_steady_states(CYCLE, stimuli, initial_states=starts)
        assert list(received.status) == [Status.oscillating, Status.converged, Status.oscillating]
        assert_close(received.period[0], 11.24, 1e-3)
        assert np.isnan(received.period[1])

    def test_growth_a_tie_and_a_neutral_state(self):
        growing = solve_steady_states(threshold_linear(jnp.array([[1.5]])), jnp.array([[1.0], [-1.0]]))
        assert list(growing.status) == [Status.diverging, Status.converged]
        tie = solve_steady_states(winner_take_all(2), jnp.array([[1.0, 1.0], [1.0, 0.4]]))
        assert list(tie.status) == [Status.unstable, Status.converged]
        neutral = solve_steady_states(threshold_linear(jnp.eye(1)), jnp.zeros((1, 1)), initial_states=jnp.ones((1, 1)))
        assert list(neutral.status) == [Status.converged]

    def test_a_slow_sample_is_not_called_converged_and_says_how_far_it_is(self):
        network = RecurrentNetwork(
            lambda params, state, stimulus: (stimulus - state) / 1000, jnp.zeros(1), state_size=1, stimulus_size=1
        )
        received = solve_steady_states(network, jnp.ones((1, 1)), max_steps=24)
        assert received.status[0] == Status.max_steps_reached
        assert received.state[0, 0] < 0.9
        assert_close(received.distance[0] + received.state[0, 0], 1.0, 1e-3)

    def test_near_a_continuous_attractor_the_distance_is_large_although_the_residual_is_small(self):
        network = rate_network(StateForm(jnp.tanh), jnp.array([[1.0 - 1e-4]]))
        received = solve_steady_states(
            network, jnp.zeros((1, 1)), initial_states=jnp.full((1, 1), 1e-2), tolerance=1e-4
        )
        assert received.residual[0] < 1e-4
        assert received.distance[0] > 1e-3

    def test_a_users_field_needs_nothing_to_look_at(self, key):
        network = RecurrentNetwork(
            lambda params, state, stimulus: (stimulus - state**3) / params,
            jnp.asarray(2.0),
            state_size=2,
            stimulus_size=2,
        )
        stimuli = 0.2 + jr.uniform(key, (20, 2))
        received = solve_steady_states(network, stimuli)
        assert jnp.all(received.is_converged)
        assert_close(received.state, np.cbrt(np.asarray(stimuli)), 1e-3 if default_float() == jnp.float32 else 1e-7)

    def test_sparse_weights_give_the_same_states(self, key):
        weights = jnp.where(jr.uniform(key, (12, 12)) < 0.3, 0.4 * jr.normal(key, (12, 12)), 0)
        stimuli = jr.normal(key, (30, 12))
        dense, sparse = (
            solve_steady_states(threshold_linear(each), stimuli) for each in (weights, BCOO.fromdense(weights))
        )
        assert jnp.all(sparse.is_converged)
        assert_close(sparse.state, dense.state, CLOSE)

    def test_finished_by_and_statuses_add_up(self, key):
        stimuli = jr.uniform(key, (40, 3))
        received = solve_steady_states(CYCLE, stimuli)
        assert sum(received.finished_by.values()) == int(received.is_converged.sum())


def test_padding_repeats_the_first_row_up_to_a_few_sizes():
    assert list(padded(np.array([5, 7]))) == [5, 7] + [5] * 14
    assert {len(padded(np.arange(size))) for size in range(1, 1025)} == {16, 64, 128, 256, 1024}
    assert len(padded(np.arange(5000))) == 8192
