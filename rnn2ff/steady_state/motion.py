"""What becomes of motions that did not come to rest: rest after all, a cycle and its period, chaos, or growth.

On the host: diffrax integrates a few samples over windows of time, and NumPy looks at what they did. Time is counted in
the longest time scale of each sample, and each window starts at time 0 and at displacement 0, so that neither the unit
of time, nor late times, nor a large state around which little moves take digits away.

A cycle is a motion that comes back to where it was, again and again. One that does not attract is not where a motion
ends, and a spiral that decays slowly also comes nearly back. So a copy of the motion is pushed off a little, and the
cycle is believed once the copy has come back to the motion, so quickly that what drift is left cannot add up.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnn2ff.compiling import in_batches, in_full_precision
from rnn2ff.networks import RecurrentNetwork, residual, time_scales

# Times count in the longest time scale, and lengths in the size of the motion, unless said otherwise.
_FEW_ROWS, _MANY_ROWS = 8, 64  # that are integrated together; a program is compiled for each
_LARGEST_PATHS = 2**26  # bytes of the states that one batch saves
_GRID_SIZE = 1024  # states that a window saves
_STEPS_PER_WINDOW = 8192
_STEPS_PER_SEARCH = 3000  # about as many as the grid resolves: three steps from one saved state to the next
_FIRST_WINDOW = 32.0
_FEWEST_WINDOWS = 5  # that `max_time` is spent on
_SHRINK = 64.0  # by which a window is shorter than one in which no step was short enough
_MOST_STALLS = 8  # of such windows in a row
ESCAPE = 1e8  # growth by this factor is growth without bound
_NUM_RADII = 27  # powers of two up to it
_FARTHEST_STILL = 0.01  # of the scale of the state: a way on which a constant speed tells nothing yet

_NEAR = 5e-3  # a return that is worth a closer look
_LOOPS_APART = 1e-2  # loops of one cycle that come nearer to each other than this are looked at one by one
_EXTENSION = 2  # of the limits, while returns are followed
_FEWEST_RETURNS, _MOST_RETURNS = 3, 64
_SHORTEST_EVIDENCE = 10.0  # of returns
_SECTION_WIDTH = 3e-2  # of a period; within it returns are resolved best
_PUSH = 5e-4
_LARGEST_CONTRACTION = 0.9  # of the push, in the later half of the returns
_LARGEST_REMAINDER = 3e-3  # that a cycle may still drift
_LARGEST_DRIFT_OF_PERIOD = 2e-3

_SHORTEST_WATCH = 250.0  # for a verdict on a motion without a period
_FEWEST_TURNS = 8
_NUM_STRETCHES = 12  # of time, whose speeds are compared
_LARGEST_TREND, _SMALLEST_TREND = 0.4, 1e-3  # of the logarithm of the speed
_SURE_TREND = 4.0  # standard errors


class Motions(NamedTuple):
    """Where the dynamics go. At most one verdict of a sample is True; if none is, what was seen does not decide.

    Attributes:
        is_at_rest: the residual fell below the tolerance, perhaps at a saddle: stability is for others to judge.
        is_oscillating: the motion stays in bounds and does not slow down: a cycle, or motion without a period.
        is_diverging: the state grew by many orders of magnitude, or grows along a ray on which nothing stops it.
        period: of the cycle, in the network's unit of time; NaN where none was confirmed.
        state: the last state.
        num_steps: steps of time, also those that were refused.
        num_turns: how often the unit that moved most turned in the last window of time; 0 for one that creeps.
    """

    is_at_rest: Bool[np.ndarray, " batch"]
    is_oscillating: Bool[np.ndarray, " batch"]
    is_diverging: Bool[np.ndarray, " batch"]
    period: Float[np.ndarray, " batch"]
    state: Float[np.ndarray, "batch state"]
    num_steps: Int[np.ndarray, " batch"]
    num_turns: Int[np.ndarray, " batch"]


class _Accuracy(NamedTuple):
    """How accurately a window is integrated.

    Attributes:
        of_step: local error, of the size of the motion.
        of_return: by how much two returns to one place differ at most, where the field has kinks.
    """

    of_step: float
    of_return: float


_SEARCH, _COARSE = _Accuracy(1e-5, np.inf), _Accuracy(1e-6, 1.2e-4)


def _finest_of(dtype: np.dtype) -> _Accuracy:
    return _Accuracy(1e-7 if jnp.finfo(dtype).bits > 32 else 3e-7, 1.2e-4)


class _Window(NamedTuple):
    """What the integrator saw of a batch, or without the first axis of one sample.

    Attributes:
        times: of the saved states; infinite where the integration ended before.
        moved: displacements since the start of the window.
        velocities: at the saved states.
        end_time: when the integration ended.
        end_moved: displacement at the end.
        end_state: the state there.
        end_velocity: at the end.
        end_residual: of the last state.
        advances: the velocity on the ray from the last state along its velocity, as a multiple of that.
        num_steps: steps of time.
        has_stalled: whether the integration ended early, without steps left or with none that was short enough.
    """

    times: Float[np.ndarray, "*batch grid"]
    moved: Float[np.ndarray, "*batch grid state"]
    velocities: Float[np.ndarray, "*batch grid state"]
    end_time: Float[np.ndarray, "*batch"]
    end_moved: Float[np.ndarray, "*batch state"]
    end_state: Float[np.ndarray, "*batch state"]
    end_velocity: Float[np.ndarray, "*batch state"]
    end_residual: Float[np.ndarray, "*batch"]
    advances: Float[np.ndarray, "*batch radii"]
    num_steps: Int[np.ndarray, "*batch"]
    has_stalled: Bool[np.ndarray, "*batch"]


@dataclasses.dataclass
class _Sample:
    """One motion, what is known of it, and what its next window is to show.

    Attributes:
        row: of the batch.
        state: the last state.
        time_unit: the longest time scale, in the network's unit of time.
        scale: of the state.
        size: of the motion: the recent extent of the unit that moved most.
        time, num_steps: what was spent.
        num_stalls: windows in a row that ended early.
        span: length of the next window, where it is one of search.
        wait: how long not to look for returns.
        cycle: period of the cycle that the motion may be on; NaN before there was a candidate.
        num_returns: to be followed in the next window; 0 for a search.
        accuracy: of the next window that follows returns.
        velocity: at the last state.
        push: of the copy in it.
        history: rows of times, path lengths and numbers of turns until then, an array a window.
        verdict: "", "at_rest", "oscillating" or "diverging".
        period: of a confirmed cycle.
    """

    row: int
    state: np.ndarray
    time_unit: float
    scale: float
    size: float
    time: float = 0.0
    num_steps: int = 0
    num_stalls: int = 0
    span: float = _FIRST_WINDOW
    wait: float = 0.0
    cycle: float = np.nan
    num_returns: int = 0
    accuracy: _Accuracy = _COARSE
    velocity: np.ndarray | None = None
    push: np.ndarray | None = None
    history: list[np.ndarray] = dataclasses.field(default_factory=list)
    verdict: str = ""
    period: float = np.nan


def observe_motions(
    network: RecurrentNetwork,
    stimuli: Float[Array | np.ndarray, "batch stimulus"],
    states: Float[Array | np.ndarray, "batch state"],
    *,
    tolerance: float,
    max_time: float = 1000.0,
    max_steps: int = 8192,
) -> Motions:
    """Follow the dynamics of samples that are not at rest until it is clear where they go.

    A verdict needs evidence. A cycle is one to which the motion returns three times (two, where time is short) and over
    at least ten of the longest time scale, and to which a copy returns that was pushed off by less than a thousandth of
    its size; the drift that is left must not add up to more than a fraction of that size. A motion without a period
    counts as oscillating if all of the time given, and at least 250 of the longest time scale, shows no trend of its
    speed. What decays, or grows, slowly is undecided until it arrives. No finite time tells chaos that lasts from chaos
    that will die out.

    Args:
        network: the network.
        stimuli: one a row.
        states: where to start, e.g. the ends of a search. The nearer to the end of the transient, the less it costs.
        tolerance: the largest residual that counts as rest.
        max_time: how long to follow the dynamics, in the longest time scale at the start of each sample.
        max_steps: of time, refused ones included; looked at between windows of at most 8192 steps.
    """
    dtype = network.dtype
    stimuli, states = np.asarray(stimuli, dtype), np.asarray(states, dtype)
    if not len(states):
        measured = np.zeros((3, 0), dtype)
    else:
        measured = in_batches(_measure, network, (stimuli, states), _MANY_ROWS)
    samples = [
        _start(row, state, stimuli[row], *(float(array[row]) for array in measured[:2]))
        for row, state in enumerate(states)
    ]
    moving = []
    for sample, rest in zip(samples, measured[2]):
        if rest < tolerance:
            sample.verdict = "at_rest"
        elif np.isfinite(rest) and max_time > 0 and max_steps > 0:
            moving.append(sample)
    while moving:
        for sample, window, copy in _follow(network, stimuli, moving, max_time):
            _judge(sample, window, copy, tolerance, max_time)
        moving = [sample for sample in moving if _is_open(sample, max_time, max_steps)]
    for sample in samples:
        if not sample.verdict and _keeps_moving(sample):
            sample.verdict = "oscillating"
    verdicts = np.array([sample.verdict for sample in samples], "<U11")
    return Motions(
        is_at_rest=verdicts == "at_rest",
        is_oscillating=verdicts == "oscillating",
        is_diverging=verdicts == "diverging",
        period=np.array([sample.period * sample.time_unit for sample in samples], dtype),
        state=np.array([sample.state for sample in samples], dtype).reshape(states.shape),
        num_steps=np.array([sample.num_steps for sample in samples], int),
        num_turns=np.array([np.ptp(sample.history[-1][2]) if sample.history else 0 for sample in samples], int),
    )


def _start(row: int, state: np.ndarray, stimulus: np.ndarray, time_unit: float, speed: float) -> _Sample:
    scale = 1 + float(np.abs(state).max() + np.abs(stimulus).max())
    return _Sample(row, state, time_unit, scale, size=min(scale, speed * time_unit))


def _is_open(sample: _Sample, max_time: float, max_steps: int) -> bool:
    extension = _EXTENSION if sample.num_returns else 1
    has_time = sample.time < extension * max_time * (1 - 1e-6) and sample.num_steps < extension * max_steps
    return bool(not sample.verdict and has_time and sample.num_stalls < _MOST_STALLS)


# --- integration ------------------------------------------------------------------------------------------------------


def _follow(
    network: RecurrentNetwork, stimuli: np.ndarray, samples: list[_Sample], max_time: float
) -> Iterator[tuple[_Sample, _Window, _Window | None]]:
    """One window of each sample and, where it may be on a cycle, that of a copy which starts with a push."""
    with_copy = [sample for sample in samples if sample.num_returns]
    rows = samples + with_copy
    states = np.stack([sample.state for sample in rows])
    for i, sample in enumerate(with_copy, len(samples)):
        sample.push = _push(sample)
        states[i] += sample.push.astype(states.dtype)

    def column(values) -> np.ndarray:
        return np.array(list(values), states.dtype)

    arrays = (
        stimuli[[sample.row for sample in rows]],
        states,
        column(_grid(sample, max_time) for sample in rows),
        column(sample.time_unit for sample in rows),
        column(sample.scale for sample in rows),
        column(sample.size for sample in rows),
        column((sample.accuracy if sample.num_returns else _SEARCH).of_step for sample in rows),
    )
    num_together = _num_together(len(rows), states.itemsize, states.shape[1])
    windows = in_batches(_integrate, network, arrays, num_together)
    copies = {sample.row: i for i, sample in enumerate(with_copy, len(samples))}
    for i, sample in enumerate(samples):
        copy = copies.get(sample.row)
        yield sample, _row(windows, i), None if copy is None else _row(windows, copy)


def _push(sample: _Sample) -> np.ndarray:
    """A small displacement across the motion, otherwise of no relation to any network."""
    direction = np.random.default_rng(0).uniform(-1, 1, len(sample.state))
    along = sample.velocity / max(np.linalg.norm(sample.velocity), np.finfo(float).tiny)
    direction -= along * (along @ direction)
    return _PUSH * sample.size * direction / max(np.abs(direction).max(), np.finfo(float).tiny)


def _grid(sample: _Sample, max_time: float) -> np.ndarray:
    """When to save states: at equidistant times and, of a candidate for a cycle, more often about each return."""
    if not sample.num_returns:
        return np.linspace(0, min(sample.span, max_time - sample.time), _GRID_SIZE)
    num_near = _GRID_SIZE // 2 // sample.num_returns
    near = np.arange(1, sample.num_returns + 1)[:, None] + _SECTION_WIDTH * np.linspace(-1, 1, num_near)
    evenly = np.linspace(0, sample.num_returns + 0.1, _GRID_SIZE - near.size)
    return sample.cycle * np.sort(np.concatenate([near.ravel(), evenly]))


def _row(windows: _Window, row: int) -> _Window:
    """One sample, in float64, without what was not reached."""
    window = _Window(*(np.asarray(array[row], None if array.dtype == bool else float) for array in windows))
    is_seen = np.isfinite(window.times) & np.isfinite(window.moved).all(axis=1)
    is_seen &= np.isfinite(window.velocities).all(axis=1)
    seen = {name: getattr(window, name)[is_seen] for name in ("times", "moved", "velocities")}
    return window._replace(**seen)


def _num_together(num_rows: int, entry_size: int, state_size: int) -> int:
    """Rows that are integrated together: few or many, as far as what they save fits."""
    affordable = _LARGEST_PATHS // (_GRID_SIZE * state_size * entry_size)
    return _FEW_ROWS if num_rows <= _FEW_ROWS or affordable < _MANY_ROWS else _MANY_ROWS


@eqx.filter_jit
@in_full_precision
def _measure(network, stimuli, states):
    """The longest time scale, the speed and the residual of each sample."""

    def measure(stimulus, state):
        speed = jnp.max(jnp.abs(network.velocity(state, stimulus)))
        return jnp.max(time_scales(network, state, stimulus)), speed, residual(network, state, stimulus)

    return jax.vmap(measure)(stimuli, states)


@eqx.filter_jit
@in_full_precision
def _integrate(network, stimuli, states, times, time_units, scales, sizes, errors) -> _Window:
    """A window of time of each sample, with adaptive steps."""
    rounding = jnp.finfo(states.dtype).eps

    def integrate(stimulus, start, times, time_unit, scale, size, error):
        def velocity(moved):
            return time_unit * network.velocity(start + moved, stimulus)

        def has_escaped(time, moved, args, **kwargs):
            del time, args, kwargs
            return jnp.max(jnp.abs(moved)) > 2 * ESCAPE * scale

        solution = dfx.diffeqsolve(
            dfx.ODETerm(lambda time, moved, args: velocity(moved)),
            dfx.Tsit5(),
            t0=jnp.zeros_like(time_unit),
            t1=times[-1],
            dt0=1e-4 * times[-1],
            y0=jnp.zeros_like(start),
            saveat=dfx.SaveAt(subs=[dfx.SubSaveAt(ts=times), dfx.SubSaveAt(t1=True)]),
            # Errors are measured by the motion, not by the state: a small cycle around a large state is still a cycle.
            stepsize_controller=dfx.PIDController(
                rtol=error,
                atol=error * size + rounding * (1 + jnp.max(jnp.abs(start))),
                pcoeff=0.3,  # diffrax's advice for fields that are not smooth
                icoeff=0.4,
                dtmin=16 * rounding * times[-1],
                force_dtmin=False,
                norm=lambda errors: jnp.max(jnp.where(jnp.isnan(errors), jnp.inf, jnp.abs(errors))),
            ),
            adjoint=dfx.ForwardMode(),
            event=dfx.Event(has_escaped),
            max_steps=_STEPS_PER_WINDOW,
            throw=False,
        )
        (saved_times, end_time), (moved, end_moved) = solution.ts, solution.ys
        end_moved = end_moved[0]
        end_velocity = velocity(end_moved)
        speed = jnp.max(jnp.abs(end_velocity))
        direction = end_velocity / speed
        radii = scale * 2.0 ** jnp.arange(_NUM_RADII, dtype=scale.dtype)
        beyond = jax.vmap(lambda radius: velocity(end_moved + radius * direction))(radii)
        is_complete = (solution.result == dfx.RESULTS.successful) | (solution.result == dfx.RESULTS.event_occurred)
        return _Window(
            times=saved_times,
            moved=moved,
            velocities=jax.vmap(velocity)(moved),
            end_time=end_time[0],
            end_moved=end_moved,
            end_state=start + end_moved,
            end_velocity=end_velocity,
            end_residual=residual(network, start + end_moved, stimulus),
            advances=beyond / speed @ direction / jnp.vdot(direction, direction),
            num_steps=solution.stats["num_steps"],
            has_stalled=~is_complete,
        )

    return jax.vmap(integrate)(stimuli, states, times, time_units, scales, sizes, errors)


# --- analysis ---------------------------------------------------------------------------------------------------------


def _judge(sample: _Sample, window: _Window, copy: _Window | None, tolerance: float, max_time: float) -> None:
    """What one more window says of a sample, and what its next one is to show."""
    sample.num_steps += int(window.num_steps)
    sample.num_stalls = sample.num_stalls + 1 if window.has_stalled else 0
    if len(window.times) < 2 or not np.isfinite(window.end_state).all():
        sample.span, sample.num_returns = sample.span / _SHRINK, 0
        return
    _record(sample, window)
    if np.abs(window.end_state).max() > ESCAPE * sample.scale or _grows_for_ever(sample, window):
        sample.verdict = "diverging"
    elif window.end_residual < tolerance:
        sample.verdict = "at_rest"
    elif copy is None:
        _search_return(sample, window)
    else:
        _judge_returns(sample, window, copy)
    if sample.num_returns:
        affordable = int(min((_EXTENSION * max_time - sample.time) / sample.cycle - 0.2, _MOST_RETURNS))
        sample.num_returns = min(sample.num_returns, affordable) if affordable >= 2 else 0
    sample.span = min(sample.span, max_time / _FEWEST_WINDOWS)


def _record(sample: _Sample, window: _Window) -> None:
    """Where the motion is, how large it was, how far it came and how often it turned."""
    times, moved, velocities = window.times, window.moved, window.velocities
    speeds = np.linalg.norm(velocities, axis=1)
    of_widest = velocities[:, np.argmax(np.ptp(moved, axis=0))]
    lengths = np.cumsum(np.append(0, 0.5 * (speeds[1:] + speeds[:-1]) * np.diff(times)))
    turns = np.cumsum(np.append(0, of_widest[1:] * of_widest[:-1] < 0))
    before = sample.history[-1][:, -1:] if sample.history else np.zeros((3, 1))
    sample.history.append(before + np.stack([times, lengths, turns]))
    sample.size = float(np.ptp(moved[times >= times[-1] / 2], axis=0).max())
    sample.time += float(window.end_time)
    sample.state, sample.velocity = window.end_state.astype(sample.state.dtype), window.end_velocity


def _search_return(sample: _Sample, window: _Window) -> None:
    """Look for a state that the motion came back to; if there is one, go on from there."""
    times, moved, velocities = window.times, window.moved, window.velocities
    spent = float(window.end_time)
    if window.has_stalled:
        is_out_of_steps = window.num_steps >= _STEPS_PER_WINDOW
        sample.span = spent * _STEPS_PER_SEARCH / _STEPS_PER_WINDOW if is_out_of_steps else sample.span / _SHRINK
        return
    sample.span *= min(2.0, _STEPS_PER_SEARCH / max(float(window.num_steps), 1.0))
    sample.wait -= spent
    later = len(times) // 2
    size = np.ptp(moved[later:], axis=0).max()
    speeds = np.linalg.norm(velocities, axis=1)
    # It is left fast, so that returns are well timed. A mean of equal numbers may be rounded above them.
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
    """The shortest time after which a motion is back and, as far as was seen, is back again after its multiples."""
    for age in ages[(gaps <= near) & (ages > shortest)]:
        multiples = age * np.arange(2, 1 + min(_FEWEST_RETURNS, int(longest / (1.05 * age))))
        if all((gaps[np.abs(ages - multiple) < 0.05 * age] <= 4 * near).any() for multiple in multiples):
            return float(age)
    return None


def _crossings(
    times: np.ndarray, moved: np.ndarray, velocities: np.ndarray, point: np.ndarray, normal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """When and where a path crosses the plane through a point, along its normal, by cubic interpolation."""
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
        places: there, as displacements from the start, in sizes of the motion.
        strays: displacements of the copy that was pushed off at the start.
        rounding: by how much places and distances are uncertain at least.
        noise: and at most.
    """

    times: Float[np.ndarray, " returns"]
    places: Float[np.ndarray, "returns state"]
    strays: Float[np.ndarray, "returns state"]
    rounding: float
    noise: float

    @property
    def distances(self) -> Float[np.ndarray, " returns"]:
        """Of the copy."""
        return np.abs(self.strays).max(axis=1)


def _judge_returns(sample: _Sample, window: _Window, copy: _Window) -> None:
    """Confirm a cycle, or decide how to look on."""
    count, sample.num_returns = sample.num_returns, 0
    count = min(count, int(min(window.end_time, copy.end_time) / sample.cycle - 0.05))
    size, normal = float(np.ptp(window.moved, axis=0).max()), window.velocities[0]
    if count < 2 or not np.linalg.norm(normal) > 0:
        return
    start = np.zeros_like(normal)
    when, where = _crossings(window.times, window.moved, window.velocities, start, normal)
    own = _pick_returns(when, where / size, start, sample.cycle, count)
    crossings = _crossings(copy.times, copy.moved + sample.push, copy.velocities, start, normal)
    other = _pick_returns(crossings[0], crossings[1] / size, sample.push / size, sample.cycle, count)
    if own is None or other is None:
        return
    rounding = 4 * float(jnp.finfo(sample.state.dtype).eps) * (1 + np.abs(window.end_state).max()) / size
    noise = sample.accuracy.of_return + rounding
    rounding += sample.accuracy.of_step
    returns = _Returns(*own, other[1] - own[1], rounding, noise)
    sample.cycle = float(own[0][-1] / count)

    # What looks like one loop may be several: then the motion comes close in between.
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
    sample.accuracy = _finest_of(sample.state.dtype)
    distances, places = returns.distances, returns.places
    if distances[-1] > max(3 * distances[0], distances[count // 2]):
        return
    nearest = min(np.abs(places[-1] - places[-1 - loops]).max() for loops in range(1, 1 + max(1, count // 2)))
    if nearest > 0.3 * _LARGEST_REMAINDER:
        sample.wait = sample.span = 3 * count * sample.cycle
    else:
        sample.num_returns = count * (2 if distances[-1] <= _LARGEST_CONTRACTION * distances[0] else 4)


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
    """The period of the cycle that the returns have settled on, of one or several loops; None where they have not."""
    count, distances = len(returns.times) - 1, returns.distances
    if returns.times[-1] < _SHORTEST_EVIDENCE:
        return None
    for loops in range(1, count // 2 + 1):
        times, places, strays = (array[count % loops :: loops] for array in returns[:3])
        later = len(times) // 2
        gaps = np.abs(np.diff(places, axis=0)).max(axis=1)
        drift = np.abs(places[-later - 1 :] - places[-1]).max()
        # What dies out steadily changes little from one return to the next; noise changes by its own size.
        order = min(3, len(times) - 3)
        roughness = np.abs(np.diff(strays[1:], n=order, axis=0)).max() if order > 1 else returns.noise
        noise = min(returns.noise, returns.rounding + 2 * roughness)
        before, after = distances[-1 - later * loops], distances[-later * loops :].max()
        if after <= noise <= 0.3 * distances[0]:
            contraction = noise / distances[0]
        elif after <= before and before - distances[-1] >= max(roughness, (1 - _LARGEST_CONTRACTION) * before):
            contraction = distances[-1] / before
        else:
            contraction = 1.0
        remainder = drift / (1 - contraction) if contraction < 1 else np.inf
        has_settled = remainder <= _LARGEST_REMAINDER and gaps[-1] <= max(1.2 * contraction * gaps[0], noise)
        periods = (times[-1] - times[-1 - later]) / later, (times[-1] - times[0]) / (len(times) - 1)
        is_steady = abs(periods[0] - periods[1]) <= _LARGEST_DRIFT_OF_PERIOD * periods[0]
        if has_settled and is_steady and 10 * max(remainder, 0.5 * noise) <= separation:
            return float(periods[0])
        separation = min(separation, drift)
    return None


def _grows_for_ever(sample: _Sample, window: _Window) -> bool:
    """Whether the motion goes straight on, not slower than before, and nothing on its way would stop it."""
    velocities = window.velocities[window.times >= window.end_time / 2]
    moved = window.moved[window.times >= window.end_time / 2]
    speed = np.abs(window.end_velocity).max()
    if len(velocities) < 16 or not speed > 0:
        return False
    advance = velocities @ window.end_velocity / (window.end_velocity @ window.end_velocity)
    aside = np.abs(velocities - advance[:, None] * window.end_velocity).max() / speed
    is_straight = aside <= 0.1 and advance.min() >= 0.3 and advance.max() <= 1.05
    keeps_up = advance[len(advance) // 2 :].mean() >= (1 - 1e-3) * advance[: len(advance) // 2].mean()
    has_moved = np.ptp(moved, axis=0).max() >= _FARTHEST_STILL * sample.scale
    # Farther out, a velocity that does not change cannot be told from rounding, and the ray leads aside.
    blur = max(float(jnp.finfo(sample.state.dtype).eps), aside)
    reach = min(ESCAPE, 0.1 / blur * speed / sample.scale)
    ahead = window.advances[2.0 ** np.arange(_NUM_RADII) <= reach]
    return bool(is_straight and keeps_up and has_moved and reach >= 1e3 and (ahead >= 0.5).all())


def _keeps_moving(sample: _Sample) -> bool:
    """Whether the motion turned again and again, its speed shows no trend, and it is more than jitter."""
    if not sample.history:
        return False
    times, lengths, turns = np.concatenate(sample.history, axis=1)
    dtype = jnp.finfo(sample.state.dtype)
    # Rounding, once a step, can sustain a motion that decays over some hundreds of steps.
    jitter = 2000 * float(dtype.eps) * (1 + np.abs(sample.state).max())
    width = 0.75 * times[-1] / _NUM_STRETCHES
    if sample.cycle < width:  # whole periods, which are alike
        width = np.floor(width / sample.cycle) * sample.cycle
    edges = times[-1] - width * np.arange(_NUM_STRETCHES, -1, -1)
    num_turns = np.ptp(np.interp(edges[[0, -1]], times, turns))
    if times[-1] < _SHORTEST_WATCH or num_turns < _FEWEST_TURNS or not sample.size > jitter:
        return False
    return has_no_trend(np.diff(np.interp(edges, times, lengths)), _SURE_TREND)


def has_no_trend(speeds: Float[np.ndarray, " stretches"], sure: float) -> bool:
    """Whether speeds, over successive stretches of time, neither fall nor rise as far as their scatter tells.

    Args:
        speeds: of each stretch.
        sure: of how many standard errors a small trend must be to be one.
    """
    count = len(speeds)
    logarithms = np.log(np.maximum(speeds, np.finfo(float).tiny))
    places = np.arange(count) - (count - 1) / 2
    slope = places @ logarithms / (places @ places)
    scatter = np.sum((logarithms - logarithms.mean() - slope * places) ** 2) / (count - 2)
    trend, uncertainty = abs(slope) * count, np.sqrt(scatter / (places @ places)) * count
    is_seen = trend > sure * uncertainty and trend > _SMALLEST_TREND
    return bool(trend <= _LARGEST_TREND and not is_seen)
