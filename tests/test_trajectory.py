"""Trajectories on a grid of times, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_close
from scipy.linalg import expm

from rnn2ff import discrete_map, simulate, threshold_linear, threshold_linear_rate

WEIGHTS = np.array([[0.2, -0.5], [-0.3, 0.1]])
TAU = np.array([1.0, 3.0])
STIMULUS = np.array([1.0, 1.2])
TIMES = np.array([0.0, 0.5, 2.0, 7.0])
RATE_FORM = threshold_linear_rate(WEIGHTS, time_constants=TAU)


def linear(time, start=np.zeros(2)):
    """Both units stay active, so that `tau r' = -r + W r + u` is linear."""
    matrix = (WEIGHTS - np.eye(2)) / TAU[:, None]
    rest = np.linalg.solve(np.eye(2) - WEIGHTS, STIMULUS)
    return rest + expm(matrix * time) @ (start - rest)


def test_the_states_are_the_closed_form_at_each_time():
    moved = simulate(RATE_FORM, STIMULUS, TIMES)
    assert bool(moved.is_complete)
    assert_close(moved.times, TIMES, 0)
    assert_close(moved.states, [linear(time) for time in TIMES], 1e-4)
    assert_close(moved.rates, moved.states, 0)


def test_the_grid_may_begin_anywhere_and_rates_are_those_of_the_states():
    network = threshold_linear(np.zeros((2, 2)))
    moved = simulate(network, np.zeros(2), 5 + TIMES, initial_state=np.array([1.0, -2.0]))
    expected = np.exp(-TIMES)[:, None] * np.array([1.0, -2.0])
    assert_close(moved.states, expected, 1e-4)
    assert_close(moved.rates, np.maximum(expected, 0), 1e-4)


def test_a_stimulus_may_change_with_time():
    network = threshold_linear(np.zeros((1, 1)))  # x' = -x + t  from 0:  x = t - 1 + exp(-t)
    moved = simulate(network, lambda time: time[None], TIMES)
    assert_close(moved.states[:, 0], TIMES - 1 + np.exp(-TIMES), 1e-4)


def test_a_pulse_that_comes_late_is_not_stepped_over():
    network, times = threshold_linear(np.zeros((1, 1))), np.linspace(0, 400, 401)
    pulse = lambda time: jnp.where((time > 350) & (time < 352), 1.0, 0.0)[None]  # noqa: E731
    moved = simulate(network, pulse, times)
    assert_close(moved.states[352, 0], 1 - np.exp(-2), 2e-2)


def test_it_can_be_mapped_compiled_and_differentiated():
    starts = jnp.asarray(np.array([[0.0, 0.0], [2.0, 1.0]]))

    @jax.jit
    def last_states(starts):
        return jax.vmap(lambda start: simulate(RATE_FORM, STIMULUS, TIMES, initial_state=start).states[-1])(starts)

    assert_close(last_states(starts), [linear(TIMES[-1], np.asarray(start)) for start in starts], 1e-4)
    # By the initial state the derivative of a linear motion is its propagator.
    received = jax.jacrev(lambda start: simulate(RATE_FORM, STIMULUS, TIMES, initial_state=start).states[-1])(starts[0])
    assert_close(received, expm((WEIGHTS - np.eye(2)) / TAU[:, None] * TIMES[-1]), 1e-3)


def test_a_map_is_iterated():
    network = discrete_map(lambda params, h, u: jnp.tanh(params * h + u), jnp.ones(1), state_size=1, stimulus_size=1)
    moved = simulate(network, np.array([0.5]), np.array([1.0, 2.0, 4.0]), initial_state=np.array([0.1]))
    expected = [0.1]
    for _ in range(3):
        expected.append(np.tanh(expected[-1] + 0.5))
    assert_close(moved.states[:, 0], [expected[0], expected[1], expected[3]], 1e-6)
    with pytest.raises(ValueError, match="`times` are not those of a map. Expected integer numbers of steps"):
        simulate(network, np.array([0.5]), np.array([0.0, 0.5]))


def test_times_that_were_not_reached_are_nan_and_reported():
    moved = simulate(RATE_FORM, STIMULUS, TIMES, max_steps=3)
    assert not bool(moved.is_complete)
    assert_close(moved.states[0], np.zeros(2), 0)
    assert np.isnan(np.asarray(moved.states[-1])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": [0.0, 1.0, 1.0]}, "`times` do not increase"),
        ({"times": [1e17, 1e17 + 4, 1e17 + 64]}, "`times` do not increase.*in float"),
        ({"times": [1.0]}, "`times` are not a grid.*at least 2"),
        ({"times": [0.0, np.nan]}, "`times` holds NaN"),
        ({"stimulus": np.ones(3)}, "`stimulus` has the wrong shape"),
        ({"stimulus": lambda time: jnp.ones(3)}, "`stimulus` does not return a stimulus.*shape"),
        ({"initial_state": np.ones(3)}, "`initial_state` has the wrong shape"),
        ({"max_steps": 0}, "`max_steps` is out of range"),
        ({"tolerance": 1e-20}, "`tolerance` is below"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_bad_input_is_refused(arguments, message):
    given = {"stimulus": STIMULUS, "times": TIMES} | arguments
    with pytest.raises(ValueError, match=message):
        simulate(RATE_FORM, **given)


def test_the_plot_has_a_line_for_each_unit_and_dots_where_they_should_end():
    from rnn2ff.plotting import new_figure, plot_trajectory

    _, (axes,) = new_figure()
    rates = np.outer(np.linspace(0, 1, 5), np.arange(1.0, 4.0))
    plot_trajectory(axes, np.arange(5.0), rates, steady_rates=rates[-1], most_units=2)
    lines = [line for line in axes.lines if len(line.get_xdata()) == 5]
    assert len(lines) == 3
    assert sorted(line.get_ydata()[-1] for line in lines) == [1, 2, 3]
    assert sorted(float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o") == [1, 2, 3]
    assert {text.get_text() for text in axes.texts} == {"1", "2"}
