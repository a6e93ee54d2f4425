"""The fate of motions that did not come to rest: rest after all, a limit cycle and its period, chaos, or growth.

On the host, diffrax integrates a few samples over windows of time, and NumPy analyzes the result. Time is in units of
the longest time scale of each sample, and each window starts at time 0 and at displacement 0, so that no digits are
lost to the unit of time, to late times, or to a large state around which little moves.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnn2ff.compiling import compiled, in_batches
from rnn2ff.networks import RecurrentNetwork, residual, time_scales
from rnn2ff.steady_state.cycles import judge_returns, search_return
from rnn2ff.steady_state.watched import (
    ESCAPE,
    NUM_RADII,
    SEARCH_ERROR,
    SHRINK,
    STEPS_PER_WINDOW,
    Sample,
    Window,
    grows_for_ever,
    keeps_moving,
    record,
)

_FEW_ROWS, _MANY_ROWS = 8, 64  # rows that are integrated together; a program is compiled for each
# Up to this many units, the last few of many rows are integrated in batches of the same size: one motion takes .05 s in
# a batch of 8 and .09 in one of 64 (3 units; .07 and .15 with 32, .4 and 1.7 with 128); to compile takes 1.3 s.
_SMALL = 32
_LARGEST_PATHS = 2**26  # bytes of the states that one batch saves
_GRID_SIZE = 1024  # states that a window saves
_FEWEST_WINDOWS = 5  # that `max_time` is divided into
_MOST_STALLS = 8  # windows in a row that ended early
# Factor on the limits while returns are followed. With 2, 15 of 956 cycles (`benchmarks.honest_failures`, float64) had
# no period, and 4 no verdict; with 4, 9 and 2, at the same total cost.
_EXTENSION = 4
_MOST_RETURNS = 64
_SECTION_WIDTH = 3e-2  # in periods; within it, saved states around a return are densest
_PUSH = 5e-4


class Pace(NamedTuple):
    """How fast samples move.

    Attributes:
        time_unit: the longest time scale, in the network's unit of time.
        speed: the largest entry of the velocity.
        residual: how far the state is from rest (`residual`).
    """

    time_unit: Float[Array, " batch"]
    speed: Float[Array, " batch"]
    residual: Float[Array, " batch"]


class Motions(NamedTuple):
    """Where the dynamics go. At most one verdict of a sample is True; if none is, the motion so far does not decide.

    Attributes:
        is_at_rest: the residual fell below the tolerance, perhaps at a saddle: stability is for others to judge.
        is_oscillating: the motion stays in bounds and does not slow down: a cycle, or motion without a period.
        is_diverging: the state grew by many orders of magnitude, or grows along a ray on which nothing stops it.
        period: of the cycle, in the network's unit of time; NaN where none was confirmed.
        state: the last state.
        num_steps: time steps, including rejected ones.
        num_turns: how often the unit that moved most reversed its direction in the last window; 0 for one that creeps.
    """

    is_at_rest: Bool[np.ndarray, " batch"]
    is_oscillating: Bool[np.ndarray, " batch"]
    is_diverging: Bool[np.ndarray, " batch"]
    period: Float[np.ndarray, " batch"]
    state: Float[np.ndarray, "batch state"]
    num_steps: Int[np.ndarray, " batch"]
    num_turns: Int[np.ndarray, " batch"]

    @property
    def is_open(self) -> Bool[np.ndarray, " batch"]:
        """Whether there is no verdict."""
        return ~(self.is_at_rest | self.is_oscillating | self.is_diverging)

    @staticmethod
    def of(samples: Sequence, states: Float[np.ndarray, "batch state"]) -> "Motions":
        """The verdicts on samples, in the shape and dtype of the states at which they started."""
        verdicts = np.array([sample.verdict for sample in samples], "<U11")
        return Motions(
            is_at_rest=verdicts == "at_rest",
            is_oscillating=verdicts == "oscillating",
            is_diverging=verdicts == "diverging",
            period=np.array([sample.period * sample.time_unit for sample in samples], states.dtype),
            state=np.array([sample.state for sample in samples], states.dtype).reshape(states.shape),
            num_steps=np.array([sample.num_steps for sample in samples], int),
            num_turns=np.array([sample.num_turns for sample in samples], int),
        )


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

    A verdict needs evidence. On a cycle, the motion returns three times (two, if time is short) over at least ten of
    the longest time scale, and so does a copy that was perturbed by less than a thousandth of the cycle's size; the
    remaining drift must not add up to more than a fraction of that size. A motion without a period counts as
    oscillating if its speed shows no trend over all of the time given, and at least 250 of the longest time scale. Slow
    decay or growth is undecided until it arrives. No finite time distinguishes lasting from transient chaos. The nearer
    to the end of its transient a motion starts, the less it costs.

    `max_time` is in units of the longest time scale at the start of each sample; `max_steps` counts rejected steps as
    well, and is checked between windows of at most 8192.
    """
    dtype = network.dtype
    stimuli, states = np.asarray(stimuli, dtype), np.asarray(states, dtype)
    measured = in_batches(measure, network, (stimuli, states), _MANY_ROWS)
    samples, moving = [], []
    for row, (state, time_unit, speed, initial_residual) in enumerate(zip(states, *measured)):
        scale = 1 + float(np.abs(state).max() + np.abs(stimuli[row]).max())
        size = min(scale, float(speed) * float(time_unit))
        sample = Sample(row, state, float(time_unit), scale, size)
        samples.append(sample)
        if initial_residual < tolerance:
            sample.verdict = "at_rest"
        elif np.isfinite(initial_residual):
            moving.append(sample)
    most_rows = len(moving)
    while moving:
        for sample, window, copy in _follow(network, stimuli, moving, max_time, most_rows):
            _judge(sample, window, copy, tolerance, max_time)
        moving = [sample for sample in moving if _is_open(sample, max_time, max_steps)]
    for sample in samples:
        if not sample.verdict and keeps_moving(sample):
            sample.verdict = "oscillating"
    return Motions.of(samples, states)


def _is_open(sample: Sample, max_time: float, max_steps: int) -> bool:
    extension = _EXTENSION if sample.num_returns else 1
    has_time = sample.time < extension * max_time * (1 - 1e-6) and sample.num_steps < extension * max_steps
    return bool(not sample.verdict and has_time and sample.num_stalls < _MOST_STALLS)


def _follow(
    network: RecurrentNetwork, stimuli: np.ndarray, samples: list[Sample], max_time: float, most_rows: int
) -> Iterator[tuple[Sample, Window, Window | None]]:
    """One window of each sample and, if it may be on a cycle, that of a perturbed copy."""
    with_copy = [sample for sample in samples if sample.num_returns]
    rows = samples + with_copy
    states = np.stack([sample.state for sample in rows])
    for i, sample in enumerate(with_copy, len(samples)):
        sample.push = _push(sample)
        states[i] += sample.push.astype(states.dtype)

    settings = [
        (_grid(each, max_time), each.time_unit, each.scale, each.size, each.error if each.num_returns else SEARCH_ERROR)
        for each in rows
    ]
    columns = (np.array(column, states.dtype) for column in zip(*settings))
    arrays = stimuli[[sample.row for sample in rows]], states, *columns
    num_rows = most_rows if network.state_size <= _SMALL else len(rows)
    num_together = _num_together(num_rows, states.itemsize, states.shape[1])
    windows = in_batches(_integrate, network, arrays, num_together)
    copies = {sample.row: i for i, sample in enumerate(with_copy, len(samples))}
    for i, sample in enumerate(samples):
        copy = copies.get(sample.row)
        yield sample, _row(windows, i), None if copy is None else _row(windows, copy)


def _push(sample: Sample) -> np.ndarray:
    """A small displacement perpendicular to the motion, in a random direction unrelated to any network."""
    direction = np.random.default_rng(0).uniform(-1, 1, len(sample.state))
    along = sample.velocity / max(np.linalg.norm(sample.velocity), np.finfo(float).tiny)
    direction -= along * (along @ direction)
    return _PUSH * sample.size * direction / max(np.abs(direction).max(), np.finfo(float).tiny)


def _grid(sample: Sample, max_time: float) -> np.ndarray:
    """When to save states: at equidistant times and, for a candidate cycle, more densely around each return."""
    if not sample.num_returns:
        return np.linspace(0, min(sample.span, max_time - sample.time), _GRID_SIZE)
    num_near = _GRID_SIZE // 2 // sample.num_returns
    near = np.arange(1, sample.num_returns + 1)[:, None] + _SECTION_WIDTH * np.linspace(-1, 1, num_near)
    evenly = np.linspace(0, sample.num_returns + 0.1, _GRID_SIZE - near.size)
    return sample.cycle * np.sort(np.concatenate([near.ravel(), evenly]))


def _row(windows: Window, row: int) -> Window:
    """The window of one sample, in float64, without the times that were not reached."""
    window = Window(*(np.asarray(array[row], None if array.dtype == bool else float) for array in windows))
    is_seen = np.isfinite(window.times) & np.isfinite(window.moved).all(axis=1)
    is_seen &= np.isfinite(window.velocities).all(axis=1)
    seen = {name: getattr(window, name)[is_seen] for name in ("times", "moved", "velocities")}
    return window._replace(**seen)


def _num_together(num_rows: int, entry_size: int, state_size: int) -> int:
    """Rows that are integrated together: few or many, as far as their saved states fit."""
    affordable = _LARGEST_PATHS // (_GRID_SIZE * state_size * entry_size)
    return _FEW_ROWS if num_rows <= _FEW_ROWS or affordable < _MANY_ROWS else _MANY_ROWS


@compiled
def measure(network, stimuli, states) -> Pace:
    """How fast each sample moves."""

    def of_one(stimulus, state):
        velocity = network.velocity(state, stimulus)
        # XLA's maximum of numbers with a NaN among them may be anything.
        distance = jnp.where(jnp.isfinite(jnp.sum(velocity)), residual(network, state, stimulus), jnp.inf)
        return Pace(jnp.max(time_scales(network, state, stimulus)), jnp.max(jnp.abs(velocity)), distance)

    return jax.vmap(of_one)(stimuli, states)


@compiled
def _integrate(network, stimuli, states, times, time_units, scales, sizes, errors) -> Window:
    """Integrate each sample over its window of time, with adaptive steps."""
    rounding = jnp.finfo(states.dtype).eps

    def integrate(stimulus, start, times, time_unit, scale, size, error):
        def velocity(moved):
            return time_unit * network.velocity(start + moved, stimulus)

        def has_escaped(time, moved, args, **kwargs):
            return jnp.max(jnp.abs(moved)) > 2 * ESCAPE * scale

        solution = dfx.diffeqsolve(
            dfx.ODETerm(lambda time, moved, args: velocity(moved)),
            dfx.Tsit5(),
            t0=jnp.zeros_like(time_unit),
            t1=times[-1],
            dt0=1e-4 * times[-1],
            y0=jnp.zeros_like(start),
            saveat=dfx.SaveAt(subs=[dfx.SubSaveAt(ts=times), dfx.SubSaveAt(t1=True)]),
            # Errors are relative to the motion, not to the state: a small cycle around a large state is still a cycle.
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
            max_steps=STEPS_PER_WINDOW,
            throw=False,
        )
        (saved_times, end_time), (moved, end_moved) = solution.ts, solution.ys
        end_moved = end_moved[0]
        end_velocity = velocity(end_moved)
        speed = jnp.max(jnp.abs(end_velocity))
        direction = end_velocity / speed
        radii = scale * 2.0 ** jnp.arange(NUM_RADII, dtype=scale.dtype)
        beyond = jax.vmap(lambda radius: velocity(end_moved + radius * direction))(radii)
        is_complete = (solution.result == dfx.RESULTS.successful) | (solution.result == dfx.RESULTS.event_occurred)
        return Window(
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


def _judge(sample: Sample, window: Window, copy: Window | None, tolerance: float, max_time: float) -> None:
    """Update a sample from one more window: its verdict, or what its next window is for."""
    sample.num_steps += int(window.num_steps)
    # In a blow-up in finite time, windows that end early are progress.
    is_growing = np.abs(window.end_state).max() > 2 * (sample.scale + np.abs(sample.state).max())
    sample.num_stalls = sample.num_stalls + 1 if window.has_stalled and not is_growing else 0
    if len(window.times) < 2 or not np.isfinite(window.end_state).all():
        sample.span, sample.num_returns = sample.span / SHRINK, 0
        return
    record(sample, window)
    if np.abs(window.end_state).max() > ESCAPE * sample.scale or grows_for_ever(sample, window):
        sample.verdict = "diverging"
    elif window.end_residual < tolerance:
        sample.verdict = "at_rest"
    elif copy is None:
        search_return(sample, window)
    else:
        judge_returns(sample, window, copy)
    if sample.num_returns:
        affordable = int(min((_EXTENSION * max_time - sample.time) / sample.cycle - 0.2, _MOST_RETURNS))
        sample.num_returns = min(sample.num_returns, affordable) if affordable >= 2 else 0
    sample.span = min(sample.span, max_time / _FEWEST_WINDOWS)
