"""Samples on whose way to rest the dynamics bend, handled on the host in bounded sub-batches (`linearity.py`).

They are followed further: by the engine, and those that are then undecided by implicit steps (`creeping.py`), which
tell a fixed point from a bottleneck.
"""

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnn2ff.compiling import compiled, in_batches
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state.batch import judge, solve_rows
from rnn2ff.steady_state.creeping import STIFF_ROWS, creep, is_crept, most_crept
from rnn2ff.steady_state.field import make_field
from rnn2ff.steady_state.linearity import REACH, is_linear_ahead
from rnn2ff.steady_state.method import proved_rate
from rnn2ff.steady_state.result import Status, SteadyState, put_rows, rows_of

ROWS = 64  # of a sub-batch
_ROUNDING = 8  # relative rounding errors, at which a residual may fall no further


def follow_bent(
    network: RecurrentNetwork,
    stimuli: Float[np.ndarray, "batch stimulus"],
    solved: SteadyState,
    *,
    tolerance: float,
    max_steps: int,
) -> None:
    """Follow samples on whose way to rest the dynamics bend (`linearity.py`); arrays on the host, updated in place.

    For states that the dynamics have led to. The engine lets its own go on.
    """
    at_rest = np.flatnonzero(solved.status == Status.converged)
    rows = at_rest[~_is_linear_ahead(network, stimuli[at_rest], rows_of(solved, at_rest), is_lowest=False)]
    if not len(rows) or proved_rate(network):
        return
    limits = np.asarray(tolerance, network.dtype), np.asarray(max_steps, np.int32)
    ends = in_batches(_follow, network, (stimuli[rows], solved.state[rows]), ROWS, *limits)
    slow = np.flatnonzero((ends.status == Status.max_steps_reached) & (ends.residual < tolerance))
    if len(slow):
        judged = in_batches(judge, network, (stimuli[rows[slow]], ends.state[slow]), ROWS, limits[0])
        is_in_vain = judged.is_converged & ~_is_linear_ahead(network, stimuli[rows[slow]], judged, is_lowest=True)
        ends.status[slow] = np.where(is_in_vain, Status.undecided, judged.status)
        ends.distance[slow] = np.where(is_in_vain, np.nan, judged.distance)
    put_rows(solved, rows, ends)
    follow_through(network, stimuli, solved, rows, tolerance=tolerance, max_steps=max_steps)


def follow_through(
    network: RecurrentNetwork,
    stimuli: Float[np.ndarray, "batch stimulus"],
    solved: SteadyState,
    rows: Int[np.ndarray, " row"],
    *,
    tolerance: float,
    max_steps: int,
) -> Int[np.ndarray, " known"]:
    """Follow undecided samples with stable Jacobians to rest, or through a bottleneck; arrays updated in place.

    The dynamics bend on their way, and are too slow for explicit steps. Implicit ones lead on until the residual is
    small by rounding. Only two verdicts are taken: that there is rest within reach, in units of the distance that the
    Jacobian suggests, and that the state grows by many orders of magnitude. Once many have stayed undecided, the others
    are left.

    Returns:
        Which samples have got a verdict.
    """
    rows = rows[(solved.status[rows] == Status.undecided) & (solved.residual[rows] < tolerance)]
    known, num_open = [rows[:0]], 0
    rows = rows if is_crept(network, max_steps) else rows[:0]
    while len(rows) and num_open < most_crept(network):
        few, rows = rows[:STIFF_ROWS], rows[STIFF_ROWS:]
        known.append(_creep_on(network, stimuli, solved, few, np.asarray(tolerance, network.dtype)))
        num_open += len(few) - len(known[-1])
    return np.concatenate(known)


def _creep_on(network, stimuli, solved: SteadyState, rows, tolerance) -> Int[np.ndarray, " known"]:
    judged = in_batches(judge, network, (stimuli[rows], solved.state[rows]), ROWS, tolerance)
    rows, reach = rows[judged.is_converged], REACH * judged.distance[judged.is_converged]
    if not len(rows):
        return rows
    # Implicit steps end at a residual that is relative to the stimulus, too.
    size, strength = (1 + np.abs(array[rows]).max(axis=1) for array in (solved.state, stimuli))
    rest = _ROUNDING * np.finfo(network.dtype).eps * size / (size + strength)
    ends = in_batches(creep, network, (stimuli[rows], solved.state[rows], rest), STIFF_ROWS)
    solved.num_steps[rows] += ends.num_steps
    judged = in_batches(judge, network, (stimuli[rows], ends.state), ROWS, tolerance)
    judged.status[ends.is_diverging] = Status.diverging
    is_near = np.abs(ends.state - solved.state[rows]).max(axis=1) <= reach
    is_at_rest = judged.is_converged & is_near & _is_linear_ahead(network, stimuli[rows], judged, is_lowest=True)
    is_known = is_at_rest | ends.is_diverging
    put_rows(solved, rows[is_known], rows_of(judged, is_known))
    return rows[is_known]


def _is_linear_ahead(network, stimuli, solved: SteadyState, *, is_lowest: bool) -> Bool[np.ndarray, " batch"]:
    samples = stimuli, solved.state, solved.distance, np.full(len(stimuli), is_lowest)
    return in_batches(_are_linear_ahead, network, samples, ROWS) if len(stimuli) else np.ones(0, bool)


@compiled
def _are_linear_ahead(network, stimuli, states, distances, is_lowest) -> Bool[Array, " batch"]:
    return is_linear_ahead(make_field(network, stimuli, states), states, distances, is_lowest)


@compiled
def _follow(network, stimuli, states, tolerance, max_steps) -> SteadyState:
    return solve_rows(network, stimuli, None, states, tolerance=tolerance, max_steps=max_steps).steady
