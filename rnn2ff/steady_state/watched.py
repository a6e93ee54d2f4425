"""A motion that is watched over windows of time: what is known of it, and whether it grows or keeps moving."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

# Times are in units of the longest time scale, and lengths in units of the size of the motion, unless noted otherwise.
STEPS_PER_WINDOW = 8192
_FIRST_WINDOW = 32.0
SHRINK = 64.0  # factor by which a window is shortened after one in which no step was short enough
ESCAPE = 1e8  # growth by this factor is growth without bound
NUM_RADII = 27  # powers of two up to `ESCAPE`
_FARTHEST_STILL = 0.01  # of the scale of the state; over a shorter distance, a constant speed shows nothing yet

_SHORTEST_WATCH = 250.0  # for a verdict on a motion without a period
FEWEST_TURNS = 8
NUM_STRETCHES = 12  # intervals of time whose speeds are compared
LARGEST_REMAINDER = 3e-3  # distance that a cycle may still drift
LARGEST_CONTRACTION = 0.9  # factor on a copy's perturbation, over the later half of the returns, or a window of a map
_LARGEST_TREND, _SMALLEST_TREND = 0.4, 1e-3  # of the logarithm of the speed
_SURE_TREND = 4.0  # standard errors
SEARCH_ERROR = 1e-5  # local error of the integration in a search, relative to the size of the motion
_COARSE_ERROR = 1e-6  # the same, at first, where returns are followed


class Window(NamedTuple):
    """One window of integration of a batch; without the first axis, that of one sample.

    Attributes:
        times: of the saved states; infinite after the integration ended.
        moved: displacements since the start of the window.
        velocities: at the saved states.
        end_time: when the integration ended.
        end_moved: displacement at the end.
        end_state: the state there.
        end_velocity: at the end.
        end_residual: of the last state.
        advances: on the ray ahead of the last state, the velocity's part along the last velocity, as a multiple of it.
        num_steps: time steps.
        has_stalled: whether the integration ended early, because it ran out of steps or no step was short enough.
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
class Sample:
    """One motion, what is known of it, and what its next window is for.

    Attributes:
        row: of the batch.
        state: the last state.
        time_unit: the longest time scale, in the network's unit of time.
        scale: 1 + max |u| + max |x| at the start.
        size: of the motion: the recent extent of the unit that moved most.
        time, num_steps: spent so far.
        num_stalls: windows in a row that ended early.
        span: length of the next window, if it is a search.
        wait: time during which not to look for returns.
        cycle: period of the cycle that the motion may be on; NaN before there was a candidate.
        num_returns: number to follow in the next window; 0 for a search.
        error: local error of the next window that follows returns, relative to the size of the motion.
        velocity: at the last state.
        push: perturbation of the copy in that window.
        history: one array per window, with rows of times, path lengths and numbers of turns until then.
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
    error: float = _COARSE_ERROR
    velocity: np.ndarray | None = None
    push: np.ndarray | None = None
    history: list[np.ndarray] = dataclasses.field(default_factory=list)
    verdict: str = ""
    period: float = np.nan

    @property
    def num_turns(self) -> int:
        """How often the unit that moved most reversed its direction in the last window."""
        return int(np.ptp(self.history[-1][2])) if self.history else 0


def record(sample: Sample, window: Window) -> None:
    """Record where the motion is, how large it was, how far it came and how often it turned."""
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


def grows_for_ever(sample: Sample, window: Window) -> bool:
    """Whether the motion is straight and does not slow down, and nothing ahead would stop it."""
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
    # Farther out, an unchanged velocity cannot be distinguished from rounding, and the ray leaves the path.
    blur = max(float(jnp.finfo(sample.state.dtype).eps), aside)
    reach = min(ESCAPE, 0.1 / blur * speed / sample.scale)
    ahead = window.advances[2.0 ** np.arange(NUM_RADII) <= reach]
    return bool(is_straight and keeps_up and has_moved and reach >= 1e3 and (ahead >= 0.5).all())


def keeps_moving(sample: Sample) -> bool:
    """Whether the motion turned again and again, its speed shows no trend, and it is more than jitter."""
    if not sample.history:
        return False
    times, lengths, turns = np.concatenate(sample.history, axis=1)
    dtype = jnp.finfo(sample.state.dtype)
    # Rounding, once a step, can sustain a motion that decays over some hundreds of steps.
    jitter = 2000 * float(dtype.eps) * (1 + np.abs(sample.state).max())
    width = 0.75 * times[-1] / NUM_STRETCHES
    if sample.cycle < width:  # whole periods, which are alike
        width = np.floor(width / sample.cycle) * sample.cycle
    edges = times[-1] - width * np.arange(NUM_STRETCHES, -1, -1)
    num_turns = np.ptp(np.interp(edges[[0, -1]], times, turns))
    if times[-1] < _SHORTEST_WATCH or num_turns < FEWEST_TURNS or not sample.size > jitter:
        return False
    return has_no_trend(np.diff(np.interp(edges, times, lengths)), _SURE_TREND)


def has_no_trend(speeds: Float[np.ndarray, " stretches"], sure: float) -> bool:
    """Whether speeds over successive intervals of time show no trend, as far as their scatter tells.

    A small trend counts if it exceeds `sure` standard errors.
    """
    count = len(speeds)
    logarithms = np.log(np.maximum(speeds, np.finfo(float).tiny))
    places = np.arange(count) - (count - 1) / 2
    slope = places @ logarithms / (places @ places)
    scatter = np.sum((logarithms - logarithms.mean() - slope * places) ** 2) / (count - 2)
    trend, uncertainty = abs(slope) * count, np.sqrt(scatter / (places @ places)) * count
    is_seen = trend > sure * uncertainty and trend > _SMALLEST_TREND
    return bool(trend <= _LARGEST_TREND and not is_seen)
