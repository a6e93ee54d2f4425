"""Sweeps, Anderson acceleration, active sets, and proofs of stability."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from arrays import floats, normal
from problems import assert_close, closeness, default_float
from scipy.linalg import expm

from rnn2ff import (
    ActiveSet,
    Anderson,
    AndersonAcceleration,
    RecurrentNetwork,
    StateForm,
    Status,
    damped_sweep,
    mean_slope_sweep,
    partition_competition,
    random_threshold_linear,
    rate_network,
    solve_steady_state,
    split_sweep,
    threshold_linear,
    threshold_linear_rate,
    winner_take_all,
)
from rnn2ff.steady_state import proved_rate, repeat_accelerated
from rnn2ff.steady_state.batch import judge_rows
from rnn2ff.steady_state.stability import transform_powers

EXACT = 1e-10 if default_float() == jnp.float64 else 1e-4


def exact_pairs(network, key, num_samples):
    """States, and the stimuli that make them fixed points: u = x - W [x]_+."""
    states = np.asarray(normal(key, (num_samples, network.state_size)))
    return floats(states), floats(states - np.maximum(states, 0) @ np.asarray(network.params.recurrent_weights).T)


class TestSweeps:
    @pytest.mark.parametrize("make", [split_sweep, damped_sweep, lambda network: damped_sweep(network, 0.3)])
    def test_a_fixed_point_stays(self, make, key):
        network = random_threshold_linear(8, gain=0.9, key=key)
        (state,), (stimulus,) = map(np.asarray, exact_pairs(network, key, 1))
        sweep = make(network)

        @jax.jit
        def swept(state, stimulus):
            return sweep(network, sweep.drive(network, stimulus), sweep.from_state(network, state, stimulus))

        assert_close(swept(state, stimulus), state, EXACT)

    def test_the_split_sweep_is_its_formula(self, key):
        network = random_threshold_linear(6, key=key)
        weights = np.asarray(network.params.recurrent_weights, np.float64)
        stimulus, point = np.asarray(normal(key, (2, 6)), np.float64)
        slopes = np.linspace(0.1, 0.9, 6)
        sweep = split_sweep(network, floats(slopes))
        right = stimulus + weights @ (np.maximum(point, 0) - slopes * point)
        expected = np.linalg.solve(np.eye(6) - weights @ np.diag(slopes), right)
        received = sweep(network, sweep.drive(network, floats(stimulus)), floats(point))
        assert_close(received, expected, EXACT)

    def test_the_mean_slope_sweep_starts_at_the_fixed_point_of_the_mean(self, key):
        network = random_threshold_linear(6, key=key)
        states, stimuli = exact_pairs(network, key, 200)
        sweep = mean_slope_sweep(network, states, stimuli)
        assert_close(sweep.slopes, (np.asarray(states) > 0).mean(axis=0), 1e-6)
        starts = jax.jit(jax.vmap(lambda stimulus: sweep.start(network, sweep.drive(network, stimulus))))(stimuli)
        assert_close(np.asarray(starts).mean(axis=0), np.asarray(states).mean(axis=0), 10 * EXACT)

    @pytest.mark.parametrize("memory", [0, 1, 3])
    @pytest.mark.parametrize("constructor", [threshold_linear, threshold_linear_rate])
    def test_repeated_sweeps_come_to_the_steady_state(self, constructor, memory, key):
        network = constructor(np.asarray(normal(key, (10, 10))) * (0.6 / 10**0.5))
        stimulus = normal(key, (10,))
        sweep = split_sweep(network)
        drive = sweep.drive(network, stimulus)
        point = repeat_accelerated(sweep, network, drive, sweep.start(network, drive), num_sweeps=60, memory=memory)
        assert_close(network.velocity(sweep.to_state(network, point), stimulus), np.zeros(10), EXACT)

    def test_acceleration_needs_fewer_sweeps(self):
        network = threshold_linear(np.full((30, 30), 0.95 / 30))
        stimulus = floats(np.random.default_rng(0).random(30))
        sweep = split_sweep(network)
        drive = sweep.drive(network, stimulus)

        def speed(memory):
            point = repeat_accelerated(sweep, network, drive, sweep.start(network, drive), num_sweeps=16, memory=memory)
            return np.abs(network.velocity(point, stimulus)).max()

        assert speed(3) < 0.1 * speed(0)

    def test_a_singular_split_is_refused(self):
        with pytest.raises(ValueError, match=r"singular split.*condition number"):
            split_sweep(threshold_linear(jnp.array([[2.0]])))

    def test_a_field_without_weights_has_no_split(self):
        network = RecurrentNetwork(
            lambda params, state, stimulus: stimulus - state, jnp.zeros(1), state_size=1, stimulus_size=1
        )
        with pytest.raises(ValueError, match="no weight matrix"):
            split_sweep(network)


class TestAnderson:
    def test_it_is_a_fixed_point_solver_for_any_problem(self):
        solver = AndersonAcceleration(rtol=EXACT, atol=EXACT)
        start = {"a": jnp.ones(3), "b": jnp.zeros(())}
        solution = optx.fixed_point(
            lambda y, args: {"a": jnp.cos(y["a"]), "b": 0.5 * y["b"] + y["a"].sum()}, solver, start
        )
        assert_close(solution.value["a"], np.full(3, 0.7390851332151607), 10 * EXACT)
        assert_close(solution.value["b"], 6 * 0.7390851332151607, 10 * EXACT)

    def test_on_a_linear_problem_it_ends_after_as_many_steps_as_there_are_directions(self, key):
        matrix = 0.3 * np.asarray(normal(key, (4, 4)))
        solver = AndersonAcceleration(rtol=EXACT, atol=EXACT, memory=4)
        solution = optx.fixed_point(lambda y, args: matrix @ y + 1, solver, floats(np.zeros(4)))
        assert_close(solution.value, np.linalg.solve(np.eye(4) - matrix, np.ones(4)), 10 * EXACT)
        assert solution.stats["num_steps"] <= 8

    def test_what_it_returns_is_what_it_measured(self, key):
        matrix = 0.9 * np.linalg.qr(normal(key, (5, 5)))[0]
        solver = AndersonAcceleration(rtol=0.0, atol=1e-3, memory=1)
        value = np.asarray(optx.fixed_point(lambda y, args: matrix @ y + 1, solver, floats(np.zeros(5))).value)
        assert np.abs(matrix @ value + 1 - value).max() < 1e-3

    def test_it_survives_a_map_that_expands(self):
        solver = AndersonAcceleration(rtol=EXACT, atol=EXACT)
        solution = optx.fixed_point(lambda y, args: 1 - 3 * y - y**3, solver, jnp.full(1, 3.0), max_steps=500)
        assert_close(4 * solution.value + solution.value**3, 1.0, 100 * EXACT)

    @pytest.mark.parametrize(("option", "value"), [("memory", 0), ("damping", 0.0), ("damping", 1.5)])
    def test_impossible_options_are_refused(self, option, value):
        with pytest.raises(ValueError, match=option):
            AndersonAcceleration(rtol=1e-3, atol=1e-3, **{option: value})

    def test_a_sweep_made_once_serves_all_stimuli(self, key):
        network = random_threshold_linear(8, gain=0.9, key=key)
        states, stimuli = exact_pairs(network, key, 3)
        solver = Anderson(sweep=split_sweep(network))
        received = jax.vmap(lambda stimulus: solve_steady_state(network, stimulus, solver, throw=False))(stimuli)
        assert_close(received.state, states, 100 * closeness())

    def test_smooth_networks_are_solved_too(self, key):
        weights, stimulus = np.asarray(normal(key, (8, 8))) * (0.8 / 8**0.5), normal(key, (8,))
        network = rate_network(StateForm(jnp.tanh), weights)
        state = solve_steady_state(network, stimulus, Anderson()).state
        assert_close(state, weights @ np.tanh(state) + np.asarray(stimulus), 10 * closeness())


class TestActiveSet:
    def test_it_is_exact_in_a_few_steps(self, key):
        network = random_threshold_linear(12, gain=0.9, key=key)
        states, stimuli = exact_pairs(network, key, 5)
        for state, stimulus in zip(np.asarray(states), np.asarray(stimuli)):
            received = solve_steady_state(network, stimulus, ActiveSet())
            assert_close(received.state, state, EXACT)
            assert received.num_steps < 20

    def test_it_starts_from_all_units_where_the_rates_show_only_some(self, key):
        whole = random_threshold_linear(6, gain=0.7, key=key)
        shown = dataclasses.replace(whole, rate_function=lambda params, state: jax.nn.relu(state[:2]))
        stimulus = normal(key, (6,))
        received, expected = (solve_steady_state(each, stimulus, ActiveSet()).state for each in (shown, whole))
        assert_close(received, expected, EXACT)

    def test_guesses_that_go_in_circles_end_and_are_reported(self):
        received = solve_steady_state(winner_take_all(3), jnp.array([1, 0.8, 0.5]), ActiveSet(), throw=False)
        assert received.status == Status.max_steps_reached
        assert received.num_steps < 30


@eqx.filter_jit
def verdicts(network, states, stimuli):
    """The engine's test of stability, of states that need not be fixed points."""
    return judge_rows(network, jnp.asarray(stimuli), jnp.asarray(states), tolerance=jnp.asarray(1e9))


@eqx.filter_jit
def states_and_jacobians(network, points, stimuli):
    states = jax.vmap(network.state_from_total_input)(points)
    return states, jax.vmap(jax.jacfwd(network.velocity))(states, stimuli)


def linear_field(params, state, stimulus):
    return params @ state + stimulus


class TestStability:
    @pytest.mark.parametrize("shear", [0.0, 10.0, 1000.0])
    def test_no_perturbation_grows_beyond_the_amplification(self, shear):
        jacobian = np.array([[-1.0, shear], [0.0, -1.0]])
        transform = jax.jit(functools.partial(transform_powers, one_by_one=False))
        found = transform(floats(jacobian[None]), floats([1]), np.array([True]))
        largest = max(np.linalg.norm(expm(time * jacobian), 2) for time in np.linspace(0, 10, 101))
        assert largest < found.amplification[0] < 10 * largest

    @pytest.mark.parametrize("gain", [0.7, 1.5, 2.5])
    @pytest.mark.parametrize("constructor", [threshold_linear, threshold_linear_rate])
    def test_the_verdict_is_that_of_the_eigenvalues(self, gain, constructor, key):
        """At a gain of 1.5 half of the active sets attract, some of them slowly."""
        weights = random_threshold_linear(20, gain=gain, key=key).params.recurrent_weights
        network = constructor(weights, time_constants=np.linspace(1, 3, 20))
        points, stimuli = exact_pairs(random_threshold_linear(20, gain=gain, key=key), jr.key(1), 300)
        states, jacobians = states_and_jacobians(network, points, stimuli)
        rightmost = 3 * np.linalg.eigvals(np.asarray(jacobians, np.float64)).real.max(axis=1)
        received = verdicts(network, states, stimuli)
        is_clear = np.abs(rightmost) > 1e-4
        expected = np.where(rightmost < 0, Status.converged, Status.unstable)
        np.testing.assert_array_equal(np.asarray(received.status)[is_clear], expected[is_clear])
        assert is_clear.mean() > 0.95

    def test_a_saddle_is_unstable_beside_a_state_that_attracts(self):
        network = partition_competition(2, 8, self_excitation=1.3)
        stimuli = np.repeat([[0.6, 0.6006], [0.8, 0.2]], 8, axis=1).astype(network.dtype)
        weights = np.asarray(network.params.recurrent_weights, np.float64)
        drive = np.pad(stimuli[0].astype(np.float64), (0, 8))
        saddle = np.linalg.solve(np.eye(24) - weights, drive)  # all units active
        assert (saddle > 0).all()
        clear = solve_steady_state(network, jnp.asarray(stimuli[1])).state
        states = np.stack([saddle.astype(network.dtype), clear])
        assert list(verdicts(network, states, stimuli).status) == [Status.unstable, Status.converged]

    @pytest.mark.parametrize("turning", [0.0, 3.0, 30.0])
    @pytest.mark.parametrize("growth", [-0.01, 0.01])
    def test_a_mode_that_turns_fast_is_decided_too(self, growth, turning):
        matrix = np.array([[growth, turning, 5.0], [-turning, growth, 0.0], [0.0, 0.0, -1.0]], default_float())
        network = RecurrentNetwork(linear_field, jax.device_put(matrix), state_size=3, stimulus_size=3)
        received = verdicts(network, floats(np.zeros((1, 3))), floats(np.zeros((1, 3))))
        assert received.status[0] == (Status.converged if growth < 0 else Status.unstable)

    @pytest.mark.parametrize(
        ("growth", "expected"),
        [(-50.0, Status.converged), (-0.005, Status.undecided), (0.005, Status.undecided), (50.0, Status.unstable)],
    )
    def test_a_slow_mode_whose_sign_is_lost_in_rounding_beside_fast_ones_is_not_decided(self, growth, expected):
        def field(params, state, stimulus):
            return params["factors"] * state / params["time_constants"]

        slowest = 0.1 / float(jnp.finfo(default_float()).eps)
        params = {"factors": jnp.array([-1.0, -1.0, growth]), "time_constants": jnp.array([1.0, 1.0, slowest])}
        network = RecurrentNetwork(field, params, state_size=3, stimulus_size=3)
        assert verdicts(network, floats(np.zeros((1, 3))), floats(np.zeros((1, 3)))).status[0] == expected

    @pytest.mark.parametrize("tau", [1.0, 5.0])
    def test_the_distance_follows_from_the_slowest_decay(self, tau):
        network = threshold_linear(jnp.diag(jnp.array([0.9, 0.5])), time_constants=tau)
        received = verdicts(network, jnp.array([[1.0, 1.0]]), jnp.array([[0.1001, 0.5]]))
        assert received.distance[0] == pytest.approx(0.001, rel=0.1)

    def test_a_soft_competition_is_stable_for_every_stimulus(self):
        assert proved_rate(partition_competition(3, 2, self_excitation=0.7)) == pytest.approx(0.3, rel=1e-3)
        assert proved_rate(partition_competition(3, 2, self_excitation=1.3)) == 0

    def test_no_false_statement_is_proved(self, key):
        rates = []
        for i in range(20):
            network = random_threshold_linear(6, gain=0.5 + 0.05 * i, key=jr.fold_in(key, i))
            rate = proved_rate(network)
            rates.append(rate)
            weights = np.asarray(network.params.recurrent_weights, np.float64)
            sets = (np.arange(64)[:, None] >> np.arange(6)) & 1
            slowest = -max(np.linalg.eigvals(weights * active - np.eye(6)).real.max() for active in sets)
            assert rate == 0 or rate <= slowest
        assert 0 in rates
        assert max(rates) > 0
