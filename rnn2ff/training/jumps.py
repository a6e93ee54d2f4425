"""Jumps of the steady state, which no continuous approximator can follow.

Between two stimuli with different steady rates, the rates either change gradually or jump. Repeated bisection of the
segment, always keeping the part across which the rates change more, tells which: a gradual change shrinks with the
segment, a jump does not.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from rnn2ff._checks import check_at_least, check_shape, check_stimuli
from rnn2ff.approximators import Approximator, predict
from rnn2ff.data import Pairs
from rnn2ff.networks import RecurrentNetwork, batch_rates
from rnn2ff.records import names_of_fields
from rnn2ff.steady_state import AbstractSteadyStateSolver, Plan, plan_steady_states, solve_steady_states
from rnn2ff.training.nrmse import deviation_of

_NUM_HALVINGS = 14  # bisection steps, with one solve each
CUT = 0.47  # where the remaining segment is cut; not the midpoint, which is often a tie without a steady state
JUMP_THRESHOLD = 0.1  # of the deviation, across the last piece: 0.53^14 = 1/7,200 of the segment at most
_NUM_BINS = 5  # of samples near a jump, by the distance to it
_NUM_PROBED = 1024  # test samples near which to search for jumps
_FEWEST_JUMPS = 0.05  # share of these near a jump, from which jumps may explain the error
_CONCENTRATED = 2  # ratio of the errors near and far from jumps, from which jumps explain the error


class Jumps(NamedTuple):
    """The distance of each stimulus to a jump of the steady state.

    Attributes:
        margin: to the nearest jump that was found: root mean square over the channels, in units of the deviation of the
            stimuli; infinite if none was found.
        is_found: whether one was.
    """

    margin: Float[np.ndarray, " batch"]
    is_found: Bool[np.ndarray, " batch"]

    __dir__ = names_of_fields


class ErrorByMargin(NamedTuple):
    """The error of samples in bins of equal size by margin, the closest to a jump first, and of those without one.

    Attributes:
        margin: the largest of each bin; infinite for the last, of samples without a jump.
        nrmse: root mean squared error of the bin, over the deviation of all rates; NaN if there is no sample.
        num_samples: of each bin.
    """

    margin: tuple[float, ...]
    nrmse: tuple[float, ...]
    num_samples: tuple[int, ...]


def find_jumps(
    network: RecurrentNetwork,
    pairs: Pairs,
    others: Pairs,
    *,
    num_neighbors: int = 3,
    solver: AbstractSteadyStateSolver | Plan | None = None,
) -> Jumps:
    """Search for jumps of the steady state between each stimulus and its nearest neighbors among others.

    No continuous approximator can follow a jump. One that lies in no direction of a neighbor is not found.

    Args:
        network: the network.
        pairs: stimuli near which to search, with their steady states.
        others: a set to choose the neighbors from, such as the pairs of the training.
        num_neighbors: how many of the nearest to search toward, by 14 solves each.
        solver: as for `solve_steady_states`.

    Raises:
        ValueError: if the pairs do not fit the network, or there are fewer others than neighbors.
    """
    check_at_least("num_neighbors", num_neighbors, 1)
    check_at_least("number of others", len(others), num_neighbors)
    check_stimuli(pairs.stimuli, network.stimulus_size, "pairs.stimuli")
    check_stimuli(others.stimuli, network.stimulus_size, "others.stimuli")
    stimulus_deviation = np.asarray(others.stimuli, np.float64).std() + np.finfo(np.float32).tiny
    rate_deviation = deviation_of(others.rates)
    # One segment for each stimulus and neighbor.
    own = np.repeat(np.arange(len(pairs)), num_neighbors)
    neighbor = np.asarray(_nearest(pairs.stimuli, others.stimuli, num_neighbors)).ravel()
    start = np.asarray(pairs.stimuli)[own]
    segment = np.asarray(others.stimuli)[neighbor] - start
    low, high = np.zeros(len(own)), np.ones(len(own))
    low_rates, high_rates = np.asarray(pairs.rates)[own], np.asarray(others.rates)[neighbor]
    is_steady = np.ones(len(own), bool)
    for _ in range(_NUM_HALVINGS):
        middle = low + CUT * (high - low)
        solved = solve_steady_states(network, start + middle[:, None].astype(segment.dtype) * segment, solver=solver)
        rates = np.asarray(batch_rates(network, solved.state))
        is_steady &= np.asarray(solved.is_converged)
        is_lower = _distance(rates, low_rates) > _distance(rates, high_rates)
        high, low = np.where(is_lower, middle, high), np.where(is_lower, low, middle)
        high_rates = np.where(is_lower[:, None], rates, high_rates)
        low_rates = np.where(is_lower[:, None], low_rates, rates)
    is_jump = is_steady & (_distance(low_rates, high_rates) > JUMP_THRESHOLD * rate_deviation)
    distance = high * np.sqrt((segment.astype(np.float64) ** 2).mean(axis=1)) / stimulus_deviation
    margin = np.where(is_jump, distance, np.inf).reshape(-1, num_neighbors).min(axis=1)
    return Jumps(margin, np.isfinite(margin))


def error_by_margin(
    predicted: Float[ArrayLike, "batch rate"], target: Float[ArrayLike, "batch rate"], jumps: Jumps
) -> ErrorByMargin:
    """The error in bins by the distance to a jump."""
    check_shape("predicted", predicted, np.shape(target))
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    errors, deviation = ((predicted - target) ** 2).mean(axis=1), deviation_of(target)
    order = np.argsort(jumps.margin, kind="stable")[: int(jumps.is_found.sum())]
    bins = [*np.array_split(order, _NUM_BINS), np.flatnonzero(~jumps.is_found)]
    edges = [float(jumps.margin[rows].max()) if len(rows) else float("nan") for rows in bins[:-1]] + [float("inf")]
    nrmse = [float(np.sqrt(errors[rows].mean()) / deviation) if len(rows) else float("nan") for rows in bins]
    return ErrorByMargin(tuple(edges), tuple(nrmse), tuple(map(len, bins)))


@functools.partial(jax.jit, static_argnums=2)
def _nearest(stimuli: Array, others: Array, num_neighbors: int) -> Array:
    """Rows of the others with the smallest distances."""
    squares = jnp.sum(others**2, axis=1)
    return jax.lax.top_k(2 * stimuli @ others.T - squares[None], num_neighbors)[1]


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Root mean square over the rates; infinite where values are not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        values = np.sqrt(((np.asarray(one, np.float64) - other) ** 2).mean(axis=1))
    return np.where(np.isfinite(values), values, np.inf)


def explain_by_jumps(
    network: RecurrentNetwork,
    approximator: Approximator,
    pairs: Pairs,
    test: Pairs,
    solver: AbstractSteadyStateSolver | Plan | None,
) -> tuple[str | None, ErrorByMargin]:
    """The reason in words, if the error is concentrated at jumps, and the error by the distance to a jump."""
    probed = test.take(slice(_NUM_PROBED))
    if solver is None:
        solver = plan_steady_states(network, pairs.stimuli[:_NUM_PROBED])
    jumps = find_jumps(network, probed, pairs, num_neighbors=min(3, len(pairs)), solver=solver)
    by_margin = error_by_margin(predict(approximator, probed.stimuli), probed.rates, jumps)
    share = float(jumps.is_found.mean())
    known = [error for error in by_margin.nrmse if np.isfinite(error)]
    if share < _FEWEST_JUMPS or known[0] < _CONCENTRATED * known[-1]:
        return None, by_margin
    reason = (
        f"discontinuous: between near stimuli the steady state jumps, which no continuous approximator can follow; "
        f"jumps were found near {share:.0%} of the test stimuli, and the error is {known[0]:.1%} within "
        f"{by_margin.margin[0]:.2g} deviations of one, and {known[-1]:.1%} far from any"
    )
    return reason, by_margin
