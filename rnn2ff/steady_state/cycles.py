"""Limit cycles: returns of a motion to an earlier state, and whether they settle on a period.

No motion ends on a cycle that does not attract, and a slowly decaying spiral nearly returns, too. So a copy of the
motion is perturbed slightly, and the cycle is accepted once the copy has contracted back to the motion, so quickly that
the remaining drift cannot add up.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnn2ff.steady_state.watched import LARGEST_CONTRACTION, LARGEST_REMAINDER, SHRINK, STEPS_PER_WINDOW, Sample, Window

_STEPS_PER_SEARCH = 3000  # about as many as the grid resolves: three steps per saved state
_NEAR = 5e-3  # gap of a return that is worth a closer look
_LOOPS_APART = 1e-2  # if loops of one cycle come closer together than this, a single loop is tried as the cycle
_FEWEST_RETURNS = 3
_SHORTEST_EVIDENCE = 10.0  # time that the returns must span
_LARGEST_DRIFT_OF_PERIOD = 2e-3
_KINK_ERROR = 1.2e-4  # largest difference between two returns to one place, where the field has kinks


def search_return(sample: Sample, window: Window) -> None:
    """Look for a state to which the motion has returned; if there is one, continue from it."""
    times, moved, velocities = window.times, window.moved, window.velocities
    spent = float(window.end_time)
    if window.has_stalled:
        is_out_of_steps = window.num_steps >= STEPS_PER_WINDOW
        sample.span = spent * _STEPS_PER_SEARCH / STEPS_PER_WINDOW if is_out_of_steps else sample.span / SHRINK
        return
    sample.span *= min(2.0, _STEPS_PER_SEARCH / max(float(window.num_steps), 1.0))
    sample.wait -= spent
    later = len(times) // 2
    size = np.ptp(moved[later:], axis=0).max()
    speeds = np.linalg.norm(velocities, axis=1)
    # Pick a state at which the motion is fast, so that returns are timed well. A mean of equal numbers may round up.
    now = int(np.flatnonzero(speeds >= min(speeds.mean(), speeds.max()))[-1])
    if sample.wait > 0 or now < max(later, 16) or not size > 0:
        return
    when, where = _crossings(times[:now], moved[:now], velocities[:now], moved[now], velocities[now])
    ages, gaps = times[now] - when[::-1], np.abs(where - moved[now]).max(axis=1)[::-1] / size
    cycle = _shortest_return(ages, gaps, longest=times[now], shortest=4 * times[1], near=_NEAR)
    if cycle is not None:
        sample.cycle, sample.num_returns = cycle, _enough_returns(cycle)
        sample.state = (window.end_state - window.end_moved + moved[now]).astype(sample.state.dtype)
        sample.velocity = velocities[now]
        sample.time -= spent - times[now]
        sample.history[-1] = sample.history[-1][:, : now + 1]


def _enough_returns(cycle: float) -> int:
    return max(_FEWEST_RETURNS, int(np.ceil(_SHORTEST_EVIDENCE / cycle)))


def _shortest_return(
    ages: np.ndarray, gaps: np.ndarray, *, longest: float, shortest: float, near: float
) -> float | None:
    """The shortest time after which a motion returns and, as far as observed, also returns after its multiples."""
    for age in ages[(gaps <= near) & (ages > shortest)]:
        multiples = age * np.arange(2, 1 + min(_FEWEST_RETURNS, int(longest / (1.05 * age))))
        if all((gaps[np.abs(ages - multiple) < 0.05 * age] <= 4 * near).any() for multiple in multiples):
            return float(age)
    return None


def _crossings(
    times: np.ndarray, moved: np.ndarray, velocities: np.ndarray, point: np.ndarray, normal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Times and places at which a path crosses the plane through a point, along its normal, by cubic interpolation."""
    normal = normal / np.linalg.norm(normal)
    heights = (moved - point) @ normal
    before = np.flatnonzero((heights[:-1] < 0) & (heights[1:] >= 0))
    widths = np.diff(times)[before, None]
    start, end = moved[before] - point, moved[before + 1] - point
    start_slope, end_slope = widths * velocities[before], widths * velocities[before + 1]
    square = 3 * (end - start) - 2 * start_slope - end_slope
    cube = 2 * (start - end) + start_slope + end_slope

    def at(share):
        return start + share * (start_slope + share * (square + share * cube))

    lower, upper = np.zeros_like(widths), np.ones_like(widths)
    for _ in range(40):
        middle = (lower + upper) / 2
        is_below = at(middle) @ normal[:, None] < 0
        lower, upper = np.where(is_below, middle, lower), np.where(is_below, upper, middle)
    return times[before] + (widths * upper)[:, 0], at(upper) + point


class _Returns(NamedTuple):
    """Returns of a motion to where it started.

    Attributes:
        times: of the start and each return.
        places: displacements from the start at these times, in units of the size of the motion.
        strays: displacements from the motion of the copy that was perturbed at the start.
        rounding: lower bound on the uncertainty of places and distances.
        noise: upper bound on it.
    """

    times: Float[np.ndarray, " returns"]
    places: Float[np.ndarray, "returns state"]
    strays: Float[np.ndarray, "returns state"]
    rounding: float
    noise: float

    @property
    def distances(self) -> Float[np.ndarray, " returns"]:
        """Distance of the copy from the motion at each return."""
        return np.abs(self.strays).max(axis=1)


def judge_returns(sample: Sample, window: Window, copy: Window) -> None:
    """Confirm a cycle, or decide what to look for next."""
    count, sample.num_returns = sample.num_returns, 0
    count = min(count, int(min(window.end_time, copy.end_time) / sample.cycle - 0.05))
    size, normal = float(np.ptp(window.moved, axis=0).max()), window.velocities[0]
    if count < 2 or not np.linalg.norm(normal) > 0:
        return
    start = np.zeros_like(normal)
    when, where = _crossings(window.times, window.moved, window.velocities, start, normal)
    own = _pick_returns(when, where / size, start, sample.cycle, count)
    crossings = _crossings(copy.times, copy.moved + sample.push, copy.velocities, start, normal)
    of_copy = _pick_returns(crossings[0], crossings[1] / size, sample.push / size, sample.cycle, count)
    if own is None or of_copy is None:
        return
    rounding = 4 * float(jnp.finfo(sample.state.dtype).eps) * (1 + np.abs(window.end_state).max()) / size
    noise = _KINK_ERROR + rounding
    rounding += sample.error
    returns = _Returns(*own, of_copy[1] - own[1], rounding, noise)
    sample.cycle = float(own[0][-1] / count)

    # What looks like one loop may be several: then the motion comes close to its start in between.
    gaps = np.abs(where).max(axis=1) / size
    is_between = np.abs(when - own[0][-1] + 0.5 * sample.cycle) < 0.45 * sample.cycle
    separation = gaps[is_between].min(initial=1.0)
    if separation < _LOOPS_APART:
        shorter = _shortest_return(
            when, gaps, longest=float(window.end_time), shortest=0.05 * sample.cycle, near=_LOOPS_APART
        )
        if shorter is not None and shorter < 0.75 * sample.cycle:
            sample.cycle, sample.num_returns = shorter, max(2 * _FEWEST_RETURNS, _enough_returns(shorter))
            return
    period = _confirmed_period(returns, separation)
    if period is not None:
        sample.verdict, sample.period = "oscillating", period
        return
    sample.error = 1e-7 if jnp.finfo(sample.state.dtype).bits > 32 else 3e-7
    distances, places = returns.distances, returns.places
    if distances[-1] > max(3 * distances[0], distances[count // 2]):
        return
    nearest = min(np.abs(places[-1] - places[-1 - loops]).max() for loops in range(1, 1 + max(1, count // 2)))
    if nearest > 0.3 * LARGEST_REMAINDER:
        sample.wait = sample.span = 3 * count * sample.cycle
    else:
        sample.num_returns = count * (2 if distances[-1] <= LARGEST_CONTRACTION * distances[0] else 4)


def _pick_returns(
    when: np.ndarray, where: np.ndarray, start: np.ndarray, cycle: float, count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Times and places of successive returns among the crossings of a section; None where one is missing."""
    gaps = np.abs(where).max(axis=1)
    times, places = [0.0], [start]
    for _ in range(count):
        is_due = (np.abs(when - times[-1] - cycle) < 0.05 * cycle) & (gaps < 0.1)
        if not is_due.any():
            return None
        nearest = np.flatnonzero(is_due)[np.argmin(gaps[is_due])]
        times.append(when[nearest])
        places.append(where[nearest])
    return np.array(times), np.array(places)


def _confirmed_period(returns: _Returns, separation: float) -> float | None:
    """The period of the cycle, of one or several loops, that the returns have settled on; None if they have not."""
    count, distances = len(returns.times) - 1, returns.distances
    if returns.times[-1] < _SHORTEST_EVIDENCE:
        return None
    for loops in range(1, count // 2 + 1):
        times, places, strays = (array[count % loops :: loops] for array in returns[:3])
        later = len(times) // 2
        gaps = np.abs(np.diff(places, axis=0)).max(axis=1)
        drift = np.abs(places[-later - 1 :] - places[-1]).max()
        # A steady decay changes little from one return to the next; noise changes by its own size.
        order = min(3, len(times) - 3)
        roughness = np.abs(np.diff(strays[1:], n=order, axis=0)).max() if order > 1 else returns.noise
        noise = min(returns.noise, returns.rounding + 2 * roughness)
        before, after = distances[-1 - later * loops], distances[-later * loops :].max()
        if after <= noise <= 0.3 * distances[0]:
            contraction = noise / distances[0]
        elif after <= before and before - distances[-1] >= max(roughness, (1 - LARGEST_CONTRACTION) * before):
            contraction = distances[-1] / before
        else:
            contraction = 1.0
        remainder = drift / (1 - contraction) if contraction < 1 else np.inf
        has_settled = remainder <= LARGEST_REMAINDER and gaps[-1] <= max(1.2 * contraction * gaps[0], noise)
        periods = (times[-1] - times[-1 - later]) / later, (times[-1] - times[0]) / (len(times) - 1)
        is_steady = abs(periods[0] - periods[1]) <= _LARGEST_DRIFT_OF_PERIOD * periods[0]
        if has_settled and is_steady and 10 * max(remainder, 0.5 * noise) <= separation:
            return float(periods[0])
        separation = min(separation, drift)
    return None
