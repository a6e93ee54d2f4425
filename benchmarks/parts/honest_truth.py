"""The truth that `honest_failures` judges by: what the dynamics do, in float64, found without the library's solvers."""

from typing import NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.honest_cases import Case, ClosedForm
from benchmarks.parts.honest_config import Config
from benchmarks.parts.problems import in_float64
from rnn2ff.networks import residual

_AT_REST_RESIDUAL = 1e-12  # of the truth
_LONGEST_STEP = 0.1  # of the truth, in shortest time constants
GROWTH = 1e-7  # eigenvalues above it, in units of one over the longest time constant, are unstable
_NO_DECAY, _MOST_WINDOWS = 0.9, 8  # of the motion half a window before; windows that are watched
_TRUTH_TILE = 256  # samples whose rollouts run in one loop, until the slowest of them ends


class Truth(NamedTuple):
    """What the dynamics do.

    Attributes:
        kind: "steady"; "late" (the same, but after a time in which it need not be found);
            "unstable" (at rest on a fixed point that they would leave if disturbed, as after an exact tie);
            "oscillating"; "diverging"; or "slow" (still approaching something at the end: not judged).
        state: at the end.
        period: of a limit cycle, in units of time; NaN where there is none.
        leading: the largest real part of the eigenvalues at rest, times the longest time constant; NaN elsewhere.
    """

    kind: np.ndarray
    state: np.ndarray
    period: np.ndarray
    leading: np.ndarray


def find_truth(cases: list[Case], config: Config) -> list[Truth]:
    """What the dynamics of each case do, in float64. The cases differ in numbers only."""
    if cases[0].closed_form is not None:
        return [_truth_of(case.closed_form, config) for case in cases]
    with jax.enable_x64(True):
        networks = [in_float64(case.network) for case in cases]
        network = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
        stimuli, starts = (jnp.asarray(np.stack(arrays), float) for arrays in list(zip(*cases))[1:3])
        states = _integrate(network, stimuli, starts, config.max_time)
        truths = []
        for i in range(len(cases)):
            at_rest, leading = _rest(networks[i], states[i], stimuli[i])
            moving = ~at_rest & np.isfinite(states[i]).all(axis=1) & (np.abs(states[i]).max(axis=1) < 1e8)
            kind = np.where(at_rest, np.where(leading < GROWTH, "steady", "unstable"), "diverging").astype("<U12")
            period = np.full(len(kind), np.nan)
            if moving.any():
                rows = np.flatnonzero(moving)
                period[rows], kind[rows] = _watch(networks[i], stimuli[i][rows], states[i][rows], config)
            truths.append(Truth(kind, np.asarray(states[i]), period, leading))
    return truths


def _truth_of(known: ClosedForm, config: Config) -> Truth:
    is_soon = known.settling_times <= config.late_after
    kind = np.where(known.leading > GROWTH, "unstable", np.where(is_soon, "steady", "late"))
    return Truth(kind.astype("<U12"), known.states, np.full(len(kind), np.nan), known.leading)


def _solution(network, stimulus, start, end, tolerance, **options):
    # Steps are kept from the edge of stability, where the error that the controller allows would prevent rest.
    longest_step = _LONGEST_STEP * jnp.min(network.time_constants)
    return dfx.diffeqsolve(
        dfx.ODETerm(lambda t, state, args: network.velocity(state, stimulus)),
        dfx.Tsit5(),
        t0=0.0,
        t1=end,
        dt0=None,
        y0=start,
        stepsize_controller=dfx.PIDController(rtol=tolerance, atol=tolerance, dtmax=longest_step),
        adjoint=dfx.ForwardMode(),
        max_steps=10_000_000,
        throw=False,
        **options,
    )


@jax.jit
def _integrate(network, stimuli, starts, max_time):
    """The final states: where the dynamics come to rest, exceed a bound, or are when the time ends."""

    def one(network, stimulus, start):
        def has_ended(t, state, args, **kwargs):
            del t, args, kwargs
            return (residual(network, state, stimulus) < _AT_REST_RESIDUAL) | (jnp.max(jnp.abs(state)) > 1e9)

        end = max_time * jnp.max(network.time_constants)
        solution = _solution(network, stimulus, start, end, 1e-10, event=dfx.Event(has_ended))
        return solution.ys[0]

    over_stimuli = jax.vmap(one, in_axes=(None, 0, 0))
    if stimuli.shape[1] % _TRUTH_TILE == 0:  # samples that come to rest do not wait for the slowest of all
        return jax.vmap(lambda network, *rows: _in_tiles(over_stimuli, network, *rows))(network, stimuli, starts)
    return jax.vmap(over_stimuli)(network, stimuli, starts)


def _in_tiles(function, network, *rows):
    tiles = [array.reshape(-1, _TRUTH_TILE, array.shape[-1]) for array in rows]
    output = jax.lax.map(lambda tile: function(network, *tile), tuple(tiles))
    return output.reshape(-1, output.shape[-1])


def _rest(network, states, stimuli) -> tuple[np.ndarray, np.ndarray]:
    """Whether states are at rest, and the leading eigenvalue there."""
    residuals = np.asarray(jax.vmap(residual, in_axes=(None, 0, 0))(network, states, stimuli))
    at_rest = residuals < 10 * _AT_REST_RESIDUAL
    leading = np.full(len(at_rest), np.nan)
    slowest = float(np.max(network.time_constants))
    for row in np.flatnonzero(at_rest):
        jacobian = np.asarray(jax.jacfwd(network.velocity)(states[row], stimuli[row]))
        leading[row] = np.linalg.eigvals(jacobian).real.max() * slowest
    return at_rest, leading


def _watch(network, stimuli, states, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Continue moving samples for a while: whether they keep moving, and with which period."""
    slowest = float(np.max(network.time_constants))
    times = jnp.linspace(0, config.window * slowest, int(20 * config.window) + 1)

    @jax.jit
    def follow(stimulus, state):
        saved = dfx.SaveAt(ts=times)
        return _solution(network, stimulus, state, times[-1], 1e-9, saveat=saved).ys

    periods, kinds = [], []
    for stimulus, state in zip(stimuli, states):
        for _ in range(_MOST_WINDOWS):
            path = np.asarray(follow(stimulus, state))
            half = len(path) // 2
            first, second = np.ptp(path[:half], axis=0).max(), np.ptp(path[half:], axis=0).max()
            has_grown = not np.isfinite(path).all() or np.abs(path[-1]).max() > 1e3 * (1 + np.abs(path[0]).max())
            # A state that comes to rest moves less and less, even if slowly; one that oscillates keeps its amplitude,
            # and moves back and forth.
            way = np.abs(np.diff(path[half:], axis=0)).sum(axis=0).max()
            is_moving = not has_grown and second > 1e-4 * (1 + np.abs(path).max()) and way > 1.5 * second
            moves_on = is_moving and second > _NO_DECAY * first
            if moves_on or not is_moving or second < 0.2 * first:
                break
            state = path[-1]
        kinds.append("oscillating" if moves_on else "diverging" if has_grown else "slow")
        periods.append(find_period(np.asarray(times), path) if moves_on else np.nan)
    return np.array(periods), np.array(kinds)


def find_period(times: np.ndarray, path: np.ndarray) -> float:
    """The period of a path, by its returns to a section through its first state; NaN if it does not return there.

    The section is the plane through that state, orthogonal to the direction in which it moves. A return counts if it is
    near, and if the path is back again after twice and three times the period (as far as the path goes).
    """
    direction = path[1] - path[0]
    height = (path - path[0]) @ direction
    size = np.abs(path - path.mean(axis=0)).max()
    before = np.flatnonzero((height[:-1] < 0) & (height[1:] >= 0))
    share = height[before] / (height[before] - height[before + 1])
    crossing = times[before] + share * (times[before + 1] - times[before])
    state = path[before] + share[:, None] * (path[before + 1] - path[before])
    returns = crossing[np.abs(state - path[0]).max(axis=1) < 2e-3 * size]
    for period in returns:
        multiples = period * np.arange(1, max(2, 1 + min(3, int(times[-1] / period))))
        is_back = [np.abs(returns - multiple).min() < 5e-3 * period for multiple in multiples]
        if period <= times[-1] / 2 and all(is_back):
            return float(period)
    return float("nan")
