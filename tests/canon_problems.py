"""Published networks as problems for the solvers, with closed forms or references from plain numpy and scipy."""

import numpy as np
from arrays import floats
from problems import SOLVERS, Problem, partition_stimulus
from scipy.optimize import root

from rnn2ff import (
    ctln,
    grating_stimulus,
    partition_competition,
    ring_attractor,
    ring_stimulus,
    stabilized_supralinear,
    threshold_linear,
    threshold_linear_rate,
)

ALL = tuple(SOLVERS)
ROLLOUT_ONLY = ("Rollout",)
NOT_NEWTON = ("Rollout", "Anderson")  # Newton from zero lands elsewhere, at a flat point, or goes in circles
NONE = ()  # there is no steady state to find: no solver may say that it found one


def as_floats(network, stimulus):
    """Weights and the input from outside, in double precision."""
    params = network.params
    weights, bias = (np.asarray(each, np.float64) for each in (params.recurrent_weights, params.bias))
    drive = np.asarray(stimulus, np.float64)
    if params.stimulus_weights is not None:
        drive = np.asarray(params.stimulus_weights, np.float64) @ drive
    return weights, drive + bias


def settled(network, stimulus, nonlinearity, *, step=0.05, num_steps=5_000):
    """Steady rates of the rate form from zero: small steps of time, then a root finder from where they end."""
    weights, drive = as_floats(network, stimulus)
    taus = np.asarray(network.time_constants, np.float64)
    rates = np.zeros(len(weights))
    for _ in range(num_steps):
        rates = rates + step * taus.min() / taus * (nonlinearity(weights @ rates + drive) - rates)
    polished = root(lambda r: nonlinearity(weights @ r + drive) - r, rates, tol=1e-14).x
    assert np.abs(polished - rates).max() < 1e-4, "the steps did not come to rest"
    return polished


def rectified(total_input):
    return np.maximum(total_input, 0)


def supralinear(total_input):
    return 0.04 * np.maximum(total_input, 0) ** 2


def on_support(network, stimulus, units):
    """The threshold-linear fixed point on these units, `(I - W_s)^-1 u_s`, refused if it is none."""
    weights, drive = as_floats(network, stimulus)
    rates = np.zeros(len(weights))
    rates[units] = np.linalg.solve(np.eye(len(units)) - weights[np.ix_(units, units)], drive[units])
    assert np.abs(rectified(weights @ rates + drive) - rates).max() < 1e-12
    return rates


def three_partitions(drives, a=0.7, b=1.5, c=1.0, units_per_partition=3):
    """Of three partitions the first two are active: S = (i1 + i2) / (1 - a + 2 b c), r_k = (i_k - b c S) / (1 - a)."""
    total = (drives[0] + drives[1]) / (1 - a + 2 * b * c)
    assert drives[2] < b * c * total
    active = [(drive - b * c * total) / (1 - a) for drive in drives[:2]]
    return np.repeat([*active, 0, c * total], units_per_partition)


def _combinatorial():
    clique = ctln(1 - np.eye(2))
    yield Problem("CTLN, 2-clique", clique, floats([1, 1]), np.full(2, 4 / 7), ALL)
    yield Problem("CTLN, 2-clique, uneven", clique, floats([1.0, 0.9]), on_support(clique, [1.0, 0.9], [0, 1]), ALL)
    cycle = ctln(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]))
    yield Problem("CTLN, 3-cycle on the ridge", cycle, floats([1, 1, 1]), np.full(3, 4 / 13), NONE)
    yield Problem("CTLN, 3-cycle off the ridge", cycle, floats([1.0, 0.99, 0.98]), np.full(3, 4 / 13), NONE)
    isolated, stimulus = ctln(np.zeros((3, 3))), floats([0.6, 1.0, 0.5])
    yield Problem("CTLN, isolated units", isolated, stimulus, np.array([0.0, 1.0, 0.0]), NOT_NEWTON)
    graph = np.array([[int(entry) for entry in row] for row in ["00001", "00101", "00010", "10100", "11000"]])
    stable, stimulus = ctln(graph), floats([1.0, 0.7, 0.7, 0.7, 1.0])
    yield Problem("CTLN, graph C", stable, stimulus, on_support(stable, stimulus, [0, 4]), NOT_NEWTON)


def _supralinear():
    network = stabilized_supralinear(12)
    for contrast in (1.0, 10.0, 20.0):
        stimulus = grating_stimulus(45.0, 12, contrast=contrast)
        rates = settled(network, stimulus, supralinear)
        yield Problem(f"supralinear ring, contrast {contrast:g}", network, stimulus, rates, ALL)
    plaid = grating_stimulus(30.0, 12, contrast=10.0) + grating_stimulus(120.0, 12, contrast=5.0)
    yield Problem("supralinear ring, plaid", network, plaid, settled(network, plaid, supralinear), ALL)


def _rings():
    attractor = ring_attractor(16, mean=-2.0, tuned=4.0)
    pinning = ring_stimulus(1.0, 16)
    rates = settled(attractor, pinning, rectified)
    yield Problem("ring attractor, pinned", attractor, pinning, rates, ROLLOUT_ONLY)
    ring = ring_attractor()
    clean = ring_stimulus(1.0)
    noisy = clean + floats(0.5 * np.random.default_rng(7).standard_normal(64))
    yield Problem("ring, tuned stimulus", ring, clean, settled(ring, clean, rectified), NOT_NEWTON)
    yield Problem("ring, noisy stimulus", ring, noisy, settled(ring, noisy, rectified), ALL)


def _competition():
    drives = (1.0, 0.9, 0.2)
    network = partition_competition(3, 3)
    yield Problem(
        "soft competition, two of three active", network, partition_stimulus(drives), three_partitions(drives), ALL
    )


def _any_threshold_linear():
    generator = np.random.default_rng(8)
    weights = floats(generator.standard_normal((8, 8)) * 0.2)
    exact = np.asarray(weights, np.float64)
    assert np.linalg.eigvalsh((exact + exact.T) / 2).max() < 1  # monotone: one state for every stimulus
    state = floats(generator.standard_normal(8))
    stimulus = state - weights @ np.maximum(state, 0)
    rates = rectified(np.asarray(state, np.float64))
    yield Problem("exact pair, state form", threshold_linear(weights), stimulus, rates, ALL)
    yield Problem("exact pair, rate form", threshold_linear_rate(weights), stimulus, rates, ALL)


def canon_problems():
    """Problems from published networks (CANON 1, 2, 5, 6, 7 and 8), each from zero."""
    yield from _combinatorial()
    yield from _supralinear()
    yield from _rings()
    yield from _competition()
    yield from _any_threshold_linear()
