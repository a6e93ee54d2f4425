"""Networks with known steady states: closed forms, and published numbers."""

import contextlib
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from arrays import floats

from rnn2ff import (
    ActiveSet,
    Anderson,
    RecurrentNetwork,
    Rollout,
    RootFind,
    partition_competition,
    rate_network,
    residual,
    threshold_linear,
    threshold_linear_rate,
    winner_take_all,
)

SOLVERS = {"Rollout": Rollout, "RootFind": RootFind, "Anderson": Anderson, "ActiveSet": ActiveSet}


class Problem(NamedTuple):
    """A stimulus whose steady rates are known, and which solvers find them from zero."""

    name: str
    network: RecurrentNetwork
    stimulus: jax.Array
    rates: np.ndarray
    solved_by: tuple[str, ...] = tuple(SOLVERS)


def default_float():
    return jnp.result_type(float)


def closeness() -> float:
    """How near a solve at the tolerance of `problems_tolerance` comes to a closed form."""
    return 1e-9 if default_float() == jnp.float64 else 2e-4


def problems_tolerance() -> float:
    return 1e-11 if default_float() == jnp.float64 else 1e-5


def assert_close(received, expected, tolerance=None):
    tolerance = closeness() if tolerance is None else tolerance
    np.testing.assert_allclose(np.asarray(received), np.asarray(expected), rtol=tolerance, atol=tolerance)


@eqx.filter_jit
def residuals(network, states, stimuli):
    """Of many states, in one program."""
    return jax.vmap(lambda state, stimulus: residual(network, state, stimulus))(states, stimuli)


@contextlib.contextmanager
def compiled_programs() -> Iterator[list[float]]:
    """The seconds of each program that is compiled meanwhile."""
    seconds = []

    def note(event, duration, **more):
        del more
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def linear(network_size=5):
    """Without a rectifier in reach: x* = (I - W)^-1 u for positive weights and stimuli."""
    generator = np.random.default_rng(0)
    weights = floats(generator.random((network_size, network_size)) * (0.8 / network_size))
    stimulus = floats(1 + generator.random(network_size))
    expected = np.linalg.solve(np.eye(network_size) - np.asarray(weights), np.asarray(stimulus))
    return weights, stimulus, expected


def partition_stimulus(drives, units_per_partition=3):
    return floats(np.repeat(drives, units_per_partition))


def partition_rates(first, second, inhibitory, units_per_partition=3):
    return np.repeat([first, second, inhibitory], units_per_partition)


def two_active(drives, a=0.7, b=1.5, c=1.0):
    """Both partitions active: S = (i1 + i2) / (1 - a + 2 b c), r_k = (i_k - b c S) / (1 - a)."""
    total = sum(drives) / (1 - a + 2 * b * c)
    return partition_rates(*((drive - b * c * total) / (1 - a) for drive in drives), c * total)


def one_active(drive, a=0.7, b=1.5, c=1.0):
    """One partition active: r = i / (1 - a + b c), r_I = c r."""
    rate = drive / (1 - a + b * c)
    return partition_rates(rate, 0, c * rate)


def _problems():
    weights, stimulus, expected = linear()
    soft, hard = partition_competition(2, 3), partition_competition(2, 3, self_excitation=1.3)
    clique = -0.75 * (1 - np.eye(3))
    yield Problem("linear, state form", threshold_linear(weights), stimulus, expected)
    yield Problem("linear, rate form", threshold_linear_rate(weights), stimulus, expected)
    slow = threshold_linear(weights, time_constants=np.linspace(0.5, 5.0, 5))
    yield Problem("linear, time constants of a decade", slow, stimulus, expected)
    yield Problem("all silent", threshold_linear(weights), -stimulus, np.zeros(5))
    yield Problem("soft competition, both active", soft, partition_stimulus((1, 0.9)), two_active((1, 0.9)))
    yield Problem("soft competition, one active", soft, partition_stimulus((1, 0.8)), one_active(1))
    yield Problem("soft competition, at the edge", soft, partition_stimulus((1, 1.5 / 1.8)), one_active(1))
    multistable = ("Rollout", "Anderson")  # Newton from zero lands on the saddle, at a flat point, or in a cycle
    yield Problem("hard competition", hard, partition_stimulus((1, 0.5)), one_active(1, a=1.3), multistable)
    yield Problem(
        "winner-take-all of Rutishauser et al.",
        winner_take_all(3),
        floats([1, 0.8, 0.5]),
        np.array([1.0 / 0.55, 0, 0, 0.25 / 0.55]),
        multistable,
    )
    yield Problem("3-clique", threshold_linear_rate(clique), floats([1, 1, 1]), np.full(3, 2 / 5))
    own_field = RecurrentNetwork(
        lambda params, state, stimulus: (stimulus - state**3) / params["time_constants"],
        {"time_constants": jnp.asarray([2.0, 0.5])},
        state_size=2,
        stimulus_size=2,
    )
    yield Problem("a user's field, cube root", own_field, jnp.asarray([1.0, 0.125]), np.array([1.0, 0.5]), multistable)


def among_silent_units(problem: Problem, state_size: int, stimulus_size: int) -> Problem:
    """The problem in a larger network, whose other units have no weights and stay silent.

    Problems of one size share their programs: to compile them takes longer than to solve them.
    """
    network, num_units = problem.network, problem.network.state_size
    params = network.params

    def padded(array, *shape, value=0.0):
        whole = np.full(shape, value, array.dtype)
        whole[tuple(map(slice, array.shape))] = array
        return whole

    weights = params.stimulus_weights
    larger = rate_network(
        network.vector_field,
        jax.device_put(padded(params.recurrent_weights, state_size, state_size)),
        stimulus_weights=None if weights is None else padded(weights, state_size, stimulus_size),
        bias=padded(params.bias, state_size, value=-1.0),
        time_constants=padded(params.time_constants, state_size, value=1.0),
    )
    stimulus = jax.device_put(padded(np.asarray(problem.stimulus), stimulus_size))
    rates = np.pad(np.asarray(problem.rates), (0, state_size - num_units))
    return problem._replace(network=larger, stimulus=stimulus, rates=rates)


PROBLEMS = {problem.name: problem for problem in _problems()}


def seeded(name):
    return jr.key(zlib.crc32(name.encode()))
