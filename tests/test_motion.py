from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats
from problems import default_float
from scipy.integrate import solve_ivp

from benchmarks.parts.honest_cases import make_case
from rnn2ff import RecurrentNetwork, Status, solve_steady_states, threshold_linear, threshold_linear_rate
from rnn2ff.networks import StateForm, rate_network
from rnn2ff.steady_state.motion import observe_motions

TOLERANCE = 1e-9 if default_float() == jnp.float64 else 1e-5
MAX_STEPS = 16384


class Motion(NamedTuple):
    """One row of `Motions`."""

    is_at_rest: bool
    is_oscillating: bool
    is_diverging: bool
    period: float
    state: np.ndarray
    num_steps: int
    num_turns: int


def motion_of(network, stimulus, state, **options) -> Motion:
    rows = [np.asarray(each, default_float())[None] for each in (stimulus, state)]
    options = {"max_steps": MAX_STEPS, **options}
    return Motion(*(array[0] for array in observe_motions(network, *rows, tolerance=TOLERANCE, **options)))


def verdict(motion) -> str:
    names = [name for name in ("is_at_rest", "is_oscillating", "is_diverging") if getattr(motion, name)]
    assert len(names) <= 1
    return names[0].removeprefix("is_") if names else "undecided"


def combinatorial(adjacency):
    """Rows of A(i, j) = 1 iff j->i."""
    has_edge = np.array([[int(bit) for bit in row] for row in adjacency.split(";")]) == 1
    weights = np.where(has_edge, -0.75, -1.5) * (1 - np.eye(len(has_edge)))
    return threshold_linear_rate(floats(weights))


def hopf_field(params, state, stimulus):
    """r' = mu r - r^3 around the stimulus, at an angular velocity of 2: period pi, amplitude sqrt(mu)."""
    offset = state - stimulus
    turned = jnp.stack([-offset[1], offset[0]])
    return (params - jnp.sum(offset**2)) * offset + 2 * turned


def van_der_pol_field(params, state, stimulus):
    del stimulus
    return jnp.stack([state[1], params * (1 - state[0] ** 2) * state[1] - state[0]])


def lorenz_field(params, state, stimulus):
    del stimulus
    x, y, z = state
    return jnp.stack([10 * (y - x), x * (params - z) - y, x * y - 8 / 3 * z])


def rossler_field(params, state, stimulus):
    del stimulus
    x, y, z = state
    return jnp.stack([-y - z, x + 0.2 * y, 0.2 + z * (x - params)])


def torus_field(params, state, stimulus):
    """Two circles of radius 1, turned at velocities without a common period."""
    del stimulus
    first, second = state[:2], state[2:]
    turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    return jnp.concatenate(
        [
            (1 - jnp.sum(first**2)) * first + turn @ first,
            (1 - jnp.sum(second**2)) * second + params * (turn @ second),
        ]
    )


# Of the module, so that tests of several parameters share their programs.


def decaying_field(decay, state, stimulus):
    return stimulus - decay * state


def power_field(power, state, stimulus):
    return state**power + stimulus


def square_field(growth, state, stimulus):
    return growth * state**2 - state + stimulus


def of_field(field, params, state_size, stimulus_size=1):
    return RecurrentNetwork(field, floats(params), state_size=state_size, stimulus_size=stimulus_size)


def hopf(mu):
    return of_field(hopf_field, mu, 2, 2)


def period_by_scipy(network, stimulus, state, transient=300.0, span=60.0):
    """Slow and obvious: the mean time between upward crossings of the first unit's mean, for one crossing a cycle."""
    stimulus = floats(stimulus)
    velocity = jax.jit(lambda state: network.velocity(state, stimulus))

    def right_hand_side(t, state):
        return np.asarray(velocity(floats(state)), np.float64)

    # A multistep method, since calls of the velocity take most of the time.
    settled = solve_ivp(right_hand_side, (0, transient), state, "LSODA", rtol=1e-6, atol=1e-8).y[:, -1]
    path = solve_ivp(right_hand_side, (0, span), settled, "LSODA", rtol=1e-7, atol=1e-9, max_step=0.1)
    times, heights = path.t, path.y[0] - (path.y[0].max() + path.y[0].min()) / 2
    before = np.flatnonzero((heights[:-1] < 0) & (heights[1:] >= 0))
    crossings = times[before] - heights[before] * np.diff(times)[before] / np.diff(heights)[before]
    return np.diff(crossings).mean()


class TestCycle:
    @pytest.mark.parametrize("state", [[0.3, 0.2, 0.1], [4 / 13 + 1e-3, 4 / 13, 4 / 13], [0.0, 0.0, 0.0]])
    def test_the_three_cycle_has_its_published_period(self, state):
        state = np.array(state) + [0.01, 0, 0]  # off the diagonal, which leads to the fixed point
        received = motion_of(combinatorial("001;100;010"), np.ones(3), state)
        assert verdict(received) == "oscillating"
        assert received.period == pytest.approx(11.24, rel=1e-3)
        assert 0.0123 - 1e-3 < received.state.min() < received.state.max() < 0.6707 + 1e-3

    def test_silent_units_beside_a_cycle_leave_its_period(self):
        """Six units to which no edge leads are silenced by the three that take turns."""
        graph = ";".join([row + 6 * "0" for row in ("001", "100", "010")] + 6 * [9 * "0"])
        received = motion_of(combinatorial(graph), np.ones(9), [0.3, 0.2, 0.1, *6 * [0.05]])
        assert verdict(received) == "oscillating"
        assert received.period == pytest.approx(11.24, rel=1e-3)
        assert np.abs(received.state[..., 3:]).max() < 1e-3

    def test_the_period_is_in_the_network_s_unit_of_time(self):
        network = combinatorial("001;100;010")
        slow = threshold_linear_rate(network.params.recurrent_weights, time_constants=20.0)
        assert motion_of(slow, np.ones(3), [0.3, 0.2, 0.1]).period == pytest.approx(20 * 11.24, rel=1e-3)

    def test_the_period_is_that_of_another_integrator(self):
        network, stimulus, state = combinatorial("00001;10001;01000;10100;00110"), np.ones(5), np.linspace(0.1, 0.3, 5)
        received = motion_of(network, stimulus, state)
        assert received.period == pytest.approx(period_by_scipy(network, stimulus, state), rel=1e-3)

    @pytest.mark.parametrize("mu", [1.0, 1e-2, 1e-3])
    @pytest.mark.parametrize("offset", [0.0, 3.0])
    def test_near_its_birth_a_cycle_has_the_period_and_amplitude_of_the_normal_form(self, mu, offset):
        received = motion_of(hopf(mu), [offset, offset], [offset + mu**0.5, offset])
        assert verdict(received) == "oscillating"
        assert received.period == pytest.approx(np.pi, rel=1e-3)
        assert jnp.linalg.norm(received.state - offset) == pytest.approx(mu**0.5, rel=0.02)

    def test_a_cycle_is_found_from_inside_and_from_outside(self):
        for radius in (0.01, 1.0):
            assert motion_of(hopf(0.04), [0, 0], [radius, 0]).period == pytest.approx(np.pi, rel=1e-3)

    def test_a_cycle_that_attracts_slowly_is_followed_until_its_period_is_known(self):
        case = make_case("random tanh, gain 1.2", 1, 24)
        network = jax.tree.map(floats, case.network)
        stimulus, start = (np.asarray(each[19], float) for each in (case.stimuli, case.initial_states))
        solved = solve_steady_states(network, stimulus[None], initial_states=start[None])
        assert solved.status.tolist() == [Status.oscillating]
        settled = np.asarray(solved.state[0])
        assert float(solved.period[0]) == pytest.approx(period_by_scipy(network, stimulus, settled), rel=1e-3)

    def test_a_relaxation_oscillator_has_its_published_period(self):
        received = motion_of(of_field(van_der_pol_field, 5.0, 2), [0], [2, 0])
        assert received.period == pytest.approx(11.612, rel=1e-3)

    def test_a_cycle_of_two_loops_has_the_period_of_both(self):
        # Roessler's system doubles its period near c = 2.8; the loops of c = 3.5 are closed after two rounds
        network = of_field(rossler_field, 3.5, 3)
        single = motion_of(of_field(rossler_field, 2.5, 3), [0], [1, 2, 2])
        received = motion_of(network, [0], [1, 2, 2])
        assert received.period == pytest.approx(2 * float(single.period), rel=0.05)
        assert received.period == pytest.approx(2 * period_by_scipy(network, [0], [1, 2, 2], span=231.0), rel=2e-3)


class TestNoPeriod:
    @pytest.mark.parametrize(
        ("network", "state"),
        [
            (of_field(lorenz_field, 28.0, 3), [1, 2, 20]),
            (of_field(rossler_field, 5.7, 3), [1, 2, 2]),
            (of_field(torus_field, 2**0.5, 4), [1, 0.1, 0.9, 0]),
        ],
        ids=["Lorenz", "Roessler", "torus"],
    )
    def test_a_bounded_motion_that_never_returns_is_oscillating_without_a_period(self, network, state):
        received = motion_of(network, [0], state, max_time=600.0)
        assert verdict(received) == "oscillating"
        assert jnp.isnan(received.period)

    def test_a_chaotic_network_is_oscillating_without_a_period(self):
        network = rate_network(StateForm(jnp.tanh), 2.5 / 10 * jr.normal(jr.key(0), (100, 100)))
        received = motion_of(network, np.zeros(100), np.random.default_rng(0).normal(size=100), max_time=300.0)
        assert verdict(received) == "oscillating"
        assert jnp.isnan(received.period)


class TestRest:
    @pytest.mark.parametrize(
        ("mu", "radius"), [(0.0, 0.1), (-1e-3, 0.1), (-1e-3, 1e-2), (-1 / 200, 0.1), (-1 / 200, 1e-3), (-1e-2, 1e-3)]
    )
    def test_a_spiral_that_decays_slowly_is_not_oscillating(self, mu, radius):
        received = motion_of(hopf(mu), [1, 1], [1 + radius, 1])
        assert verdict(received) in ("undecided", "at_rest")
        assert jnp.isnan(received.period)

    @pytest.mark.parametrize("mu", [-1e-2, -1 / 50])
    def test_given_time_a_slow_spiral_comes_to_rest_or_stays_undecided_where_rounding_sustains_it(self, mu):
        received = motion_of(hopf(mu), [0, 0], [1e-3, 0], max_time=1e5)
        expected = ["at_rest"] if default_float() == jnp.float64 else ["at_rest", "undecided"]
        assert verdict(received) in expected

    def test_a_slow_mode_is_not_oscillating_and_given_time_comes_to_rest(self):
        network = threshold_linear(jnp.array([[1 - 1 / 200]]))
        assert verdict(motion_of(network, [1], [0])) == "undecided"
        received = motion_of(network, [1], [0], max_time=1e5)
        assert verdict(received) == "at_rest"

    def test_a_converged_state_is_at_rest_and_takes_no_step(self):
        received = motion_of(threshold_linear(jnp.array([[0.5]])), [1], [2])
        assert verdict(received) == "at_rest"
        assert received.num_steps == 0
        assert received.state == 2

    def test_the_unstable_fixed_point_in_a_cycle_is_at_rest(self):
        network = of_field(hopf_field, 0.25, 2, 2)
        assert verdict(motion_of(network, [0, 0], [0, 0])) == "at_rest"


class TestGrowth:
    def test_exponential_growth_is_diverging(self):
        assert verdict(motion_of(threshold_linear(jnp.array([[1.5]])), [1], [0.5])) == "diverging"

    def test_a_growing_spiral_is_diverging_and_never_oscillating(self):
        def field(params, state, stimulus):
            del stimulus
            return params * state + 2 * jnp.stack([-state[1], state[0]])

        assert verdict(motion_of(of_field(field, 0.1, 2), [0], [1, 0])) == "diverging"
        assert verdict(motion_of(of_field(field, 1e-3, 2), [0], [1, 0])) == "undecided"

    @pytest.mark.parametrize(("speed", "start"), [(1.0, 300.0), (0.1, 20.0)])
    def test_a_perfect_integrator_grows_for_ever_at_a_constant_speed(self, speed, start):
        """In the plane, beside a direction that decays; however far it has come already."""
        network = of_field(decaying_field, [1.0, 0.0], 2, 2)
        assert verdict(motion_of(network, [1.0, speed], [1.0, start])) == "diverging"

    def test_an_integrator_that_saturates_far_away_does_not_grow_for_ever(self):
        network = of_field(lambda one, state, stimulus: one * jnp.where(state < 1e3, stimulus, 1e3 - state), 1.0, 1)
        assert verdict(motion_of(network, [1.0], [20.0])) in ("undecided", "at_rest")

    @pytest.mark.parametrize("power", [2.0, 3.0, 4.0])
    def test_growth_to_infinity_in_finite_time_is_diverging(self, power):
        network = of_field(power_field, power, 1)
        assert verdict(motion_of(network, [0.1], [0.0])) == "diverging"

    def test_a_field_that_ends_in_nan_is_undecided(self):
        network = of_field(lambda params, state, stimulus: jnp.sqrt(params - state), 1.0, 1)
        received = motion_of(network, [0], [2.0])
        assert verdict(received) == "undecided"
        assert received.num_steps == 0

    @pytest.mark.parametrize(("growth", "drive"), [(1.0, 5.0), (5.0, 5.0)])
    def test_a_blow_up_is_diverging_whatever_the_precision(self, growth, drive):
        network = of_field(square_field, growth, 1)
        assert verdict(motion_of(network, [drive], [0.0])) == "diverging"


class TestBatch:
    def test_a_mixed_batch_is_the_same_as_one_by_one(self):
        """Of one network, told apart by the stimulus and the start: cycles, rest, and a cycle reached from inside."""
        network = hopf(0.25)
        stimuli = np.asarray([[0, 0], [5, 5], [1, 0], [0, 0]], default_float())
        states = np.asarray([[0.5, 0], [5, 5], [1.01, 0], [0, 2]], default_float())
        received = observe_motions(network, stimuli, states, tolerance=TOLERANCE, max_steps=MAX_STEPS)
        np.testing.assert_array_equal(received.is_oscillating, [True, False, True, True])
        np.testing.assert_array_equal(received.is_at_rest, [False, True, False, False])
        np.testing.assert_allclose(received.period[[0, 2, 3]], np.pi, rtol=1e-3)

    @pytest.mark.parametrize("unit", [1e-3, 1e3, 1e6])
    def test_the_unit_of_time_changes_nothing_but_the_period(self, unit):
        weights = combinatorial("001;100;010").params.recurrent_weights
        received = motion_of(threshold_linear_rate(weights, time_constants=unit), np.ones(3), [0.3, 0.2, 0.1])
        assert received.period == pytest.approx(11.24 * unit, rel=1e-3)

    def test_units_that_do_not_move_do_not_disturb(self):
        weights = np.full((9, 9), -1.5)
        weights[:3, :3] = np.asarray(combinatorial("001;100;010").params.recurrent_weights)
        np.fill_diagonal(weights, 0)
        stimulus, start = np.repeat([1.0, -1.0], [3, 6]), np.pad([0.3, 0.2, 0.1], (0, 6))
        received = motion_of(threshold_linear_rate(floats(weights)), stimulus, start)
        assert received.period == pytest.approx(11.24, rel=1e-3)
