"""The fate of maps that did not come to rest: rest after all, a limit cycle and its period, chaos, or growth.

The counterpart of `motion.py` for discrete time. Steps are exact, so nothing is integrated: the device iterates a few
samples over windows of a fixed number of steps, and NumPy analyzes the result.

A cycle is a motion that returns after a fixed number of steps, again and again, and to which a slightly perturbed copy
returns. A slowly decaying spiral also nearly returns; but its remaining decay adds up to its size.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnn2ff.compiling import compiled
from rnn2ff.networks import RecurrentNetwork, residual
from rnn2ff.steady_state.motion import Motions
from rnn2ff.steady_state.watched import (
    ESCAPE,
    FEWEST_TURNS,
    LARGEST_CONTRACTION,
    LARGEST_REMAINDER,
    NUM_RADII,
    NUM_STRETCHES,
    has_no_trend,
)

_WINDOW = 512  # steps; cycles of up to a quarter of it are distinguished from motion without a period
_ROWS = 32  # samples that are iterated together, each with its copy
_LARGEST_PATHS = 2**27  # bytes of the states that a window of these samples keeps
_PUSH = 5e-3  # perturbation of the copy, relative to the size of the motion
_SMALLEST_CYCLE = 800.0  # in units of rounding errors, so that the perturbation is above them too
_SHORTEST_WATCH = 1024  # steps, for a verdict on a motion without a period
# Standard errors. Steps are exact, and so is a decay; only chaos scatters, and has slow changes of its own.
_SURE_TREND = 8.0
_STRAIGHT = 1e-3  # relative change of a velocity that counts as none


@dataclasses.dataclass
class _Sample:
    """One motion, and what is known of it.

    Attributes:
        row: of the batch.
        state: the last state.
        copy: the state of the perturbed copy; None before there is one.
        push: how far off it was at the start of the window.
        unit: the unit of length, 1 + max |u|.
        scale: 1 + max |u| + max |x| at the start.
        speeds: of each step so far.
        num_turns: how often the unit that moves most reversed its direction.
        verdict: "", "at_rest", "oscillating" or "diverging".
        period: of a confirmed cycle.
    """

    row: int
    state: np.ndarray
    unit: float
    scale: float
    copy: np.ndarray | None = None
    push: float = np.nan
    speeds: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    num_turns: int = 0
    verdict: str = ""
    period: float = np.nan
    time_unit = 1.0  # a step

    @property
    def num_steps(self) -> int:
        """Steps so far."""
        return len(self.speeds)


def observe_iterations(
    network: RecurrentNetwork,
    stimuli: Float[Array | np.ndarray, "batch stimulus"],
    states: Float[Array | np.ndarray, "batch state"],
    *,
    tolerance: float,
    max_steps: int,
) -> Motions:
    """Iterate samples that are not at rest until it is clear where they go.

    A verdict needs evidence. A cycle has a period of whole steps; its remaining drift adds up to no more than a
    fraction of its size; and a copy that was perturbed by a two-hundredth of its size returns to it. A motion without a
    period, or with one that is too long, counts as oscillating if its speed shows no trend over all steps, and at least
    1024. Slow decay or growth is undecided until it arrives. The bound on the steps is checked between windows of 512.
    """
    dtype = network.dtype
    stimuli, states = np.asarray(stimuli, dtype), np.asarray(states, dtype)
    samples = [
        _Sample(row, state, 1 + float(np.abs(stimulus).max()), 1 + float(np.abs(stimulus).max() + np.abs(state).max()))
        for row, (stimulus, state) in enumerate(zip(stimuli, states))
    ]
    affordable = _LARGEST_PATHS // (2 * _WINDOW * network.state_size * dtype.itemsize)
    num_rows = max(1, min(_ROWS, affordable))
    num_windows = max(1, -(-max_steps // _WINDOW))
    for start in range(0, len(samples), num_rows):
        moving = samples[start : start + num_rows]
        for _ in range(num_windows):
            _move(network, stimuli, moving, num_rows, tolerance)
            moving = [sample for sample in moving if not sample.verdict]
            if not moving:
                break
    for sample in samples:
        if not sample.verdict and _keeps_moving(sample):
            sample.verdict = "oscillating"
    return Motions.of(samples, states)


def _move(
    network: RecurrentNetwork, stimuli: np.ndarray, samples: list[_Sample], num_rows: int, tolerance: float
) -> None:
    """Iterate each sample and its copy for a window, in one program of one size, and judge the result."""
    rows = np.resize(np.arange(len(samples)), num_rows)
    starts = np.stack([sample.state for sample in samples])
    copies = np.stack([sample.state if sample.copy is None else sample.copy for sample in samples])
    inputs = stimuli[[sample.row for sample in samples]]
    paths, others, residuals, ahead = map(np.asarray, _iterate(network, inputs[rows], starts[rows], copies[rows]))
    for i, sample in enumerate(samples):
        _judge(sample, paths[i].astype(float), others[i].astype(float), float(residuals[i]), ahead[i], tolerance)


@compiled
def _iterate(network, stimuli, states, copies):
    """All states of a window, first and last included, of samples and copies; residuals, and velocities far ahead."""

    def move(stimulus, state):
        def step(state, _):
            return state + network.velocity(state, stimulus), state

        last, path = jax.lax.scan(step, state, None, length=_WINDOW)
        return jnp.concatenate([path, last[None]])

    def look(stimulus, state):
        velocity = network.velocity(state, stimulus)
        radii = (1 + jnp.max(jnp.abs(stimulus))) * 2.0 ** jnp.arange(NUM_RADII, dtype=state.dtype)
        direction = velocity / jnp.max(jnp.abs(velocity))
        beyond = jax.vmap(lambda radius: network.velocity(state + radius * direction, stimulus))(radii)
        # Component of the velocity on the ray ahead along the velocity here, as a multiple of the latter.
        return residual(network, state, stimulus), beyond @ velocity / (velocity @ velocity)

    paths, others = jax.vmap(move)(stimuli, states), jax.vmap(move)(stimuli, copies)
    residuals, ahead = jax.vmap(look)(stimuli, paths[:, -1])
    return paths, others, residuals, ahead


def _judge(
    sample: _Sample, path: np.ndarray, other: np.ndarray, last_residual: float, ahead: np.ndarray, tolerance: float
) -> None:
    """Update what is known of a sample from one more window."""
    dtype = sample.state.dtype
    sizes = np.abs(path).max(axis=1)
    is_out = ~(sizes < ESCAPE * sample.scale)
    if is_out.any():
        first = int(np.argmax(is_out))
        sample.verdict = "diverging"
        sample.state = path[first if np.isfinite(path[first]).all() else max(first - 1, 0)].astype(dtype)
        sample.speeds = np.append(sample.speeds, np.zeros(first))
        return
    steps = np.diff(path, axis=0)
    sample.speeds = np.append(sample.speeds, np.linalg.norm(steps, axis=1))
    of_widest = steps[:, np.argmax(np.ptp(path, axis=0))]
    sample.num_turns += int((of_widest[1:] * of_widest[:-1] < 0).sum())
    sample.state = path[-1].astype(dtype)
    if last_residual < tolerance:
        sample.verdict = "at_rest"
        return
    if _goes_straight_on(steps, sample.unit, ahead, dtype):
        sample.verdict = "diverging"
        return
    size = float(np.ptp(path[len(path) // 2 :], axis=0).max())
    noise = 8 * float(np.finfo(dtype).eps) * (1 + sizes.max())
    if sample.copy is None or not np.isfinite(other).all():
        _push_off(sample, size)
        return
    period = _period_of(path, size, noise)
    strayed = np.abs(other[-1] - path[-1]).max()
    if period is not None and strayed <= max(LARGEST_CONTRACTION * sample.push, noise):
        sample.verdict, sample.period = "oscillating", float(period)
    elif strayed > 0.1 * size or strayed < noise:
        _push_off(sample, size)
    else:
        sample.copy, sample.push = other[-1].astype(dtype), float(strayed)


def _push_off(sample: _Sample, size: float) -> None:
    """Start a slightly perturbed copy, in a random direction unrelated to any network."""
    direction = np.random.default_rng(0).uniform(-1, 1, len(sample.state))
    sample.copy = (sample.state + _PUSH * size * direction).astype(sample.state.dtype)
    sample.push = float(np.abs(sample.copy - sample.state).max())


def _period_of(path: np.ndarray, size: float, noise: float) -> int | None:
    """The steps after which a motion returns, so closely that its drift cannot add up; None if it does not return."""
    count = len(path) - 1
    if not size > _SMALLEST_CYCLE * noise:
        return None
    gaps = np.abs(path[-1] - path[-2 : -2 - count // 4 : -1]).max(axis=1)  # after 1, 2, ... steps
    for period in 1 + np.flatnonzero(gaps <= LARGEST_REMAINDER * size):
        if period == 1:
            return None  # it is slow, and does not turn
        returns = path[::-1][::period]
        drifts = np.abs(np.diff(returns, axis=0)).max(axis=1)  # latest first
        later = len(drifts) // 2
        last, before = drifts[:2].max(), drifts[later : later + 2].max()
        if np.abs(returns[: later + 1] - returns[0]).max() <= noise:
            return int(period)
        contraction = (last / before) ** (1 / later) if before > 0 else 0.0
        if contraction < 1 and last / (1 - contraction) <= LARGEST_REMAINDER * size:
            return int(period)
    return None


def _goes_straight_on(steps: np.ndarray, unit: float, ahead: np.ndarray, dtype: np.dtype) -> bool:
    """Whether all steps of the later half are the same, and would stay so as far as this precision can tell."""
    later = steps[len(steps) // 2 :]
    last = later[-1]
    speed = np.abs(last).max()
    if not speed > 0 or np.abs(later - last).max() > _STRAIGHT * speed:
        return False
    # Farther out, an unchanged velocity cannot be distinguished from rounding.
    reach = min(ESCAPE, 0.1 / float(np.finfo(dtype).eps) * speed / unit)
    is_near = 2.0 ** np.arange(NUM_RADII) <= reach
    return bool(reach >= 1e3 and (ahead[is_near] >= 0.5).all())


def _keeps_moving(sample: _Sample) -> bool:
    """Whether the motion turned again and again, its speed shows no trend, and it is more than jitter."""
    jitter = 2000 * float(np.finfo(sample.state.dtype).eps) * (1 + np.abs(sample.state).max())
    if len(sample.speeds) < _SHORTEST_WATCH or sample.num_turns < FEWEST_TURNS:
        return False
    width = int(0.75 * len(sample.speeds)) // NUM_STRETCHES
    stretches = sample.speeds[-width * NUM_STRETCHES :].reshape(NUM_STRETCHES, width).mean(axis=1)
    return bool(stretches.min() > jitter and has_no_trend(stretches, _SURE_TREND))
