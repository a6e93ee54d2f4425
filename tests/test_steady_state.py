import functools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from arrays import floats, normal
from canon_problems import canon_problems
from problems import (
    PROBLEMS,
    SOLVERS,
    among_silent_units,
    assert_close,
    closeness,
    compiled_programs,
    default_float,
    linear,
    partition_stimulus,
    problems_tolerance,
    residuals,
)

from rnn2ff import (
    RecurrentNetwork,
    Rollout,
    RootFind,
    Status,
    count_statuses,
    partition_competition,
    random_threshold_linear,
    solve_steady_state,
    solve_steady_states,
    threshold_linear,
    threshold_linear_rate,
    winner_take_all,
)
from rnn2ff._checks import smallest_tolerance
from rnn2ff.networks import RATE_FORM, is_threshold_linear

TABLE = {**PROBLEMS, **{problem.name: problem for problem in canon_problems()}}


def of_a_common_size(problem):
    """Threshold-linear problems share programs: one for each form, with and without weights of stimuli."""
    network = problem.network
    if not is_threshold_linear(network):
        return problem
    if network.params.stimulus_weights is not None:
        return among_silent_units(problem, 12, 9)
    return among_silent_units(problem, *((64, 64) if network.vector_field == RATE_FORM else (8, 8)))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("problem", TABLE.values(), ids=TABLE)
def test_a_solver_finds_the_known_answer_or_says_why_not(problem, solver):
    problem = of_a_common_size(problem)
    network = problem.network
    solve = functools.partial(
        solve_steady_state, network, problem.stimulus, SOLVERS[solver](tolerance=problems_tolerance()), throw=False
    )
    if solver == "ActiveSet" and not is_threshold_linear(network):
        with pytest.raises(ValueError, match="has no active set"):
            solve()
        return
    received = solve()
    if solver in problem.solved_by:
        assert received.status == Status.converged
        assert_close(np.maximum(network.rates(received.state), 0), problem.rates)
    else:
        assert received.status != Status.converged


def test_the_residual_is_that_of_the_returned_state():
    problem = PROBLEMS["soft competition, both active"]
    received = solve_steady_state(problem.network, problem.stimulus)
    again = residuals(problem.network, received.state[None], problem.stimulus[None])
    assert_close(received.residual, again[0], 10 * smallest_tolerance(default_float()))


@pytest.mark.parametrize("ode_solver", [dfx.Kvaerno5(), dfx.Heun(), dfx.Dopri8()], ids=lambda each: type(each).__name__)
def test_a_rollout_takes_any_adaptive_integrator(ode_solver):
    problem = PROBLEMS["soft competition, both active"]
    received = solve_steady_state(problem.network, problem.stimulus, Rollout(tolerance=1e-5, ode_solver=ode_solver))
    assert_close(problem.network.rates(received.state), problem.rates, 1e-4)


@pytest.mark.parametrize("solver", [Rollout, RootFind], ids=lambda each: each.__name__)
def test_another_tolerance_is_met_and_compiles_nothing(solver):
    problem = PROBLEMS["soft competition, both active"]
    exact = solve_steady_state(problem.network, problem.stimulus, solver(1e-5))
    with compiled_programs() as programs:
        received = solve_steady_state(problem.network, problem.stimulus, solver(1e-3))
    assert not programs
    assert exact.residual < 1e-5
    assert received.residual < 1e-3
    assert received.num_steps <= exact.num_steps


@pytest.mark.parametrize("root_finder", [optx.Newton, optx.Dogleg, optx.LevenbergMarquardt])
def test_a_root_find_takes_any_root_finder(root_finder):
    problem = PROBLEMS["soft competition, both active"]
    received = solve_steady_state(problem.network, problem.stimulus, RootFind(1e-5, root_finder))
    assert_close(problem.network.rates(received.state), problem.rates, 1e-3)


class TestVerdict:
    cycle = threshold_linear_rate(jnp.array([[0, -1.5, -0.75], [-0.75, 0, -1.5], [-1.5, -0.75, 0]]))

    def test_a_limit_cycle_is_called_oscillating_with_its_period_and_ends_within_the_budget(self):
        received = solve_steady_state(
            self.cycle, jnp.ones(3), initial_state=jnp.array([0.3, 0.2, 0.1]), max_steps=500, throw=False
        )
        assert received.status == Status.oscillating
        assert_close(received.period, 11.24, 1e-3)
        assert received.num_steps <= 500 + 2 * 500

    def test_an_unstable_fixed_point_is_called_unstable(self):
        fixed_point = jnp.full(3, 4 / 13)
        for solver in (Rollout(), RootFind()):
            received = solve_steady_state(
                self.cycle, jnp.ones(3), solver, initial_state=fixed_point, max_steps=500, throw=False
            )
            assert received.status == Status.unstable
            assert_close(received.state, fixed_point)

    def test_the_saddle_of_a_tie_is_called_unstable(self):
        received = solve_steady_state(winner_take_all(2), jnp.ones(2), throw=False)
        assert received.status == Status.unstable

    def test_growth_without_bound_is_called_diverging(self):
        received = solve_steady_state(threshold_linear(jnp.array([[1.5]])), jnp.ones(1), throw=False)
        assert received.status == Status.diverging

    def test_a_field_that_returns_nan_is_called_nonfinite(self):
        network = RecurrentNetwork(
            lambda params, state, stimulus: jnp.sqrt(stimulus - 2 + params) - state,
            jnp.zeros(1),
            state_size=1,
            stimulus_size=1,
        )
        received = solve_steady_state(network, jnp.ones(1), RootFind(), throw=False)
        assert received.status == Status.nonfinite

    def test_too_few_steps_are_called_so(self):
        received = solve_steady_state(winner_take_all(2), jnp.ones(2), max_steps=2, throw=False)
        assert received.status == Status.max_steps_reached
        assert received.num_steps <= 2 + 2 * 2

    def test_a_neutral_state_that_stays_is_converged(self):
        integrator = threshold_linear(jnp.array([[1.0]]))
        received = solve_steady_state(integrator, jnp.zeros(1), initial_state=jnp.ones(1))
        assert received.status == Status.converged

    @pytest.mark.parametrize("gain", [0.8, 1.6, 2.4])
    def test_stability_agrees_with_the_eigenvalues(self, gain, key):
        network_key, state_key = jr.split(key)
        network = random_threshold_linear(12, gain=gain, key=network_key)
        weights = np.asarray(network.params.recurrent_weights)
        states = np.asarray(normal(state_key, (60, 12)))
        stimuli = states - np.maximum(states, 0) @ weights.T  # makes each state a fixed point
        received = solve_steady_states(network, stimuli, solver=RootFind(), initial_states=states)
        abscissae = [np.linalg.eigvals(weights * (state > 0) - np.eye(12)).real.max() for state in states]
        assert min(map(abs, abscissae)) > 1e-3
        expected = [Status.converged if abscissa < 0 else Status.unstable for abscissa in abscissae]
        assert list(received.status) == expected

    @pytest.mark.parametrize("status", [Status.unstable, Status.diverging, Status.max_steps_reached])
    def test_throw_raises_with_the_status_and_advice(self, status):
        network, stimulus, max_steps = {
            Status.unstable: (winner_take_all(2), jnp.ones(2), 4096),
            Status.diverging: (threshold_linear(jnp.array([[1.5]])), jnp.ones(1), 4096),
            Status.max_steps_reached: (winner_take_all(2), jnp.ones(2), 2),
        }[status]
        with pytest.raises(RuntimeError, match=rf"No steady state \({status.name}\): .{{20}}"):
            solve_steady_state(network, stimulus, max_steps=max_steps)

    def test_counts_name_every_status(self):
        counts = count_statuses(np.array([0, 0, 4]))
        assert counts == {**{each.name: 0 for each in Status}, "converged": 2, "max_steps_reached": 1}


class TestDerivative:
    """dx*/du = (I - W D)^-1 B, with D the active set."""

    weights, stimulus, _ = linear()

    def closed_form(self, network, state):
        active = np.diag(np.asarray(state) > 0)
        weights = np.asarray(network.params.recurrent_weights)
        return np.linalg.inv(np.eye(len(weights)) - weights @ active)

    @pytest.mark.parametrize("solver", [Rollout(), RootFind()], ids=["Rollout", "RootFind"])
    @pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
    def test_by_the_stimulus_it_is_the_closed_form(self, mode, solver, key):
        network = random_threshold_linear(5, gain=0.7, key=key)
        stimulus = normal(jr.key(2), (5,))
        state = solve_steady_state(network, stimulus, solver).state
        received = mode(lambda stimulus: solve_steady_state(network, stimulus, solver).state)(stimulus)
        assert_close(received, self.closed_form(network, state), 10 * closeness())

    @pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
    def test_from_products_alone_it_is_the_same(self, mode, key):
        network = random_threshold_linear(5, gain=0.7, key=key)
        stimulus = normal(jr.key(2), (5,))

        def state_of(stimulus):
            return solve_steady_state(network, stimulus, RootFind(), matrix_free=True).state

        state = solve_steady_state(network, stimulus, RootFind()).state
        assert_close(mode(state_of)(stimulus), self.closed_form(network, state), 100 * closeness())

    def test_of_a_sample_without_a_steady_state_it_is_nan_from_products_too(self):
        def state_of(stimulus):
            return solve_steady_state(winner_take_all(2), stimulus, throw=False, matrix_free=True).state

        tie, other = jax.vmap(jax.jacrev(state_of))(floats([[1.0, 1.0], [1.0, 0.5]]))
        assert np.isnan(tie).all()
        assert np.isfinite(other).all()

    @pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
    def test_by_the_weights_it_is_the_closed_form(self, mode):
        def state_of(weights):
            return solve_steady_state(threshold_linear(weights), self.stimulus, RootFind()).state

        state = state_of(self.weights)
        received = mode(state_of)(self.weights)
        inverse = self.closed_form(threshold_linear(self.weights), state)
        expected = np.einsum("ki,j->kij", inverse, np.maximum(np.asarray(state), 0))
        assert_close(received, expected, 10 * closeness())

    def test_by_the_network_as_a_pytree_it_is_finite_and_leaves_time_constants_alone(self):
        problem = PROBLEMS["soft competition, both active"]
        gradient = eqx.filter_grad(lambda network: solve_steady_state(network, problem.stimulus).state.sum())
        params = gradient(problem.network).params
        assert_close(params.time_constants, np.zeros(9), closeness())
        assert np.abs(params.recurrent_weights).max() > 0.1

    def test_of_a_sample_without_a_steady_state_it_is_nan_and_of_its_neighbors_it_is_not(self):
        network = winner_take_all(2)
        derivative = jax.jacrev(lambda stimulus: solve_steady_state(network, stimulus, throw=False).state)
        tie, other = jax.vmap(derivative)(floats([[1.0, 1.0], [1.0, 0.5]]))
        assert np.isnan(tie).all()
        assert np.isfinite(other).all()

    def test_a_sample_that_the_loss_ignores_adds_nothing(self):
        tie, other = [1.0, 1.0], [1.0, 0.5]

        @eqx.filter_jit
        @eqx.filter_grad
        def gradient(network, stimuli):
            solved = jax.vmap(lambda stimulus: solve_steady_state(network, stimulus, throw=False))(stimuli)
            return jnp.where(solved.is_converged[:, None], solved.state, 0).sum()

        network = winner_take_all(2)
        with_tie, twice = (gradient(network, jnp.array([each, other])) for each in (tie, other))
        assert_close(2 * np.asarray(with_tie.params.recurrent_weights), twice.params.recurrent_weights)
        assert np.abs(twice.params.recurrent_weights).max() > 0.1

    @pytest.mark.parametrize("matrix_free", [False, True])
    @pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
    def test_on_a_continuous_attractor_it_is_an_error(self, mode, matrix_free):
        integrator = threshold_linear(jnp.array([[1.0]]))

        def state_of(stimulus):
            return solve_steady_state(integrator, stimulus, initial_state=jnp.ones(1), matrix_free=matrix_free).state

        with pytest.raises(RuntimeError, match="Jacobian is singular"):
            mode(state_of)(jnp.zeros(1))


class TestBatch:
    network, multistable = partition_competition(2, 3), partition_competition(2, 3, self_excitation=1.3)

    def stimuli(self, key, num_samples):
        return jr.uniform(key, (num_samples, 6))

    def test_a_batch_is_the_same_as_one_by_one(self, key):
        stimuli = self.stimuli(key, 5)
        received = solve_steady_states(self.network, stimuli)
        for i, stimulus in enumerate(stimuli):
            alone = solve_steady_state(self.network, stimulus)
            assert_close(received.state[i], alone.state, 1e-3 if default_float() == jnp.float32 else 1e-8)
            assert received.status[i] == alone.status

    def test_batches_that_do_not_fill_their_chunks_come_back_whole_and_in_order(self, key):
        stimuli = self.stimuli(key, 600)
        received = solve_steady_states(self.network, stimuli)
        assert received.state.shape == (600, 9)
        again = solve_steady_states(self.network, stimuli[512:])
        assert_close(received.state[512:], again.state)

    def test_one_sample_without_a_steady_state_does_not_spoil_the_others(self, key):
        stimuli = np.repeat([[1.0, 0.4], [1.0, 1.0], [0.3, 0.9]], 3, axis=1)
        received = solve_steady_states(self.multistable, stimuli)
        assert list(received.status) == [Status.converged, Status.unstable, Status.converged]

    def test_initial_states_decide_between_the_winners_of_a_multistable_network(self):
        initial_states = np.repeat([[0.5, 0, 0], [0, 0.5, 0]], 3, axis=1)
        received = solve_steady_states(self.multistable, np.ones((2, 6)), initial_states=initial_states)
        assert (np.asarray(received.state) > 0)[:, :6:3].tolist() == [[True, False], [False, True]]

    def test_progress_is_shown_only_on_request(self, key, capfd):
        stimuli = self.stimuli(key, 2)
        solve_steady_states(self.network, stimuli)
        assert capfd.readouterr() == ("", "")
        solve_steady_states(self.network, stimuli, progress=True)
        assert "steady states" in capfd.readouterr().err

    def test_scaling_the_stimulus_scales_the_rates(self, key):
        network = random_threshold_linear(12, gain=0.7, key=key)
        stimuli = jr.normal(key, (60, 12))
        received, scaled = (solve_steady_states(network, scale * stimuli, solver=RootFind()) for scale in (1.0, 1e4))
        assert_close(scaled.state / 1e4, received.state, 10 * closeness())
        assert scaled.num_steps.max() < 50  # an end that is in sight, in float32 as well

    def test_permuting_the_units_permutes_the_states(self, key):
        network = random_threshold_linear(12, gain=0.7, key=key)
        stimuli, order = np.asarray(jr.normal(key, (60, 12))), np.random.default_rng(0).permutation(12)
        permuted = threshold_linear(np.asarray(network.params.recurrent_weights)[order][:, order])
        received = solve_steady_states(permuted, stimuli[:, order], solver=RootFind())
        expected = np.asarray(solve_steady_states(network, stimuli, solver=RootFind()).state)[:, order]
        assert_close(received.state, expected, 10 * closeness())


@pytest.mark.usefixtures("as_a_user")
class TestBadInput:
    network = partition_competition(2, 3)
    stimulus = partition_stimulus((1, 0.9))

    @pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), 1e-17])
    def test_a_tolerance_the_dtype_cannot_reach_is_refused_with_the_smallest(self, tolerance):
        smallest = f"{smallest_tolerance(default_float()):.1e}"
        with pytest.raises(ValueError, match=f"tolerance.*at least {smallest}"):
            solve_steady_state(self.network, self.stimulus, Rollout(tolerance=tolerance))
        with pytest.raises(ValueError, match=f"tolerance.*at least {smallest}"):
            solve_steady_states(self.network, self.stimulus[None], tolerance=tolerance)

    @pytest.mark.parametrize("solve", [solve_steady_state, lambda *args: solve_steady_states(args[0], args[1][None])])
    @pytest.mark.parametrize(
        ("stimulus", "message"),
        [
            (floats(np.ones(5)), r"wrong shape.*6.*got \(.*5"),
            (floats([1, 1, np.nan, 1, 1, 1]), "NaN or infinite.*got"),
        ],
    )
    def test_a_stimulus_that_does_not_fit_is_refused(self, solve, stimulus, message):
        with pytest.raises(ValueError, match=message):
            solve(self.network, stimulus)

    def test_rows_that_are_not_finite_are_named(self):
        stimuli = np.ones((40, 6))
        stimuli[3, 1], stimuli[17:25, 0] = np.nan, np.inf
        with pytest.raises(ValueError, match="rows 3, 17, 18, 19, 20 and 4 more"):
            solve_steady_states(self.network, stimuli)

    def test_an_empty_batch_is_refused(self):
        with pytest.raises(ValueError, match="empty.*at least one row, got none"):
            solve_steady_states(self.network, np.ones((0, 6)))

    def test_initial_states_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"initial_state.*\(9,\), got \(8,\)"):
            solve_steady_state(self.network, self.stimulus, initial_state=jnp.ones(8))
        with pytest.raises(ValueError, match=r"initial_states.*\(1, 9\), got \(2, 9\)"):
            solve_steady_states(self.network, self.stimulus[None], initial_states=jnp.ones((2, 9)))

    def test_no_steps_are_refused(self):
        with pytest.raises(ValueError, match="max_steps.*at least 1, got 0"):
            solve_steady_state(self.network, self.stimulus, max_steps=0)
