"""Solve a batch: fast methods for most, sturdier ones for the few that are left.

Everything here runs on the host, in bounded chunks. A chunk goes through sweeps; what is open is gathered, padded to
one of a few sizes, and handed on: to longer Anderson acceleration, to the dynamics, and what neither comes to rest
nor is seen to move for ever to a stiff integrator. Every state is judged on its own, whatever found it.
"""

from collections import Counter
from collections.abc import Callable, Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rnn2ff.networks.base import RecurrentNetwork, residual
from rnn2ff.steady_state.attraction import attractions, settle_unproved
from rnn2ff.steady_state.base import Status, SteadyState
from rnn2ff.steady_state.classify import distance, judge
from rnn2ff.steady_state.follow import follow
from rnn2ff.steady_state.oscillation import Motion, observe_motion
from rnn2ff.steady_state.padding import LARGEST, TILE, in_tiles, padded
from rnn2ff.steady_state.plan import SAFETY, Plan, Probe, Swept, make_plan, run_sweeps
from rnn2ff.steady_state.rollout import STIFF

_STURDY_MEMORY, _STURDY_SWEEPS, _STURDY_ROUNDS = 5, 21, 4  # of the Anderson acceleration that takes over
_FOLLOWED_STEPS = 1200  # before a motion is watched for cycles
_LARGEST_NEWTON = 1024  # units, for an estimate of the distance that remains


class SteadyStates(eqx.Module):
    """The end of a batch: the fields of `SteadyState` with a leading axis, and how they were found.

    Attributes:
        state: the last states, whatever the status.
        status: a `Status` for each sample, as integers.
        residual: recomputed on `state`.
        num_steps: steps of the search of each sample, over all methods that worked on it.
        distance: an estimate of how far each state is from rest; as in `SteadyState`.
        period: of limit cycles.
        plan: how the batch was solved; pass it as `solver` for the next batch. None if a solver was given.
        finished_by: how many samples each method brought to rest.
    """

    state: Float[Array, "batch state"]
    status: Int[Array, " batch"]
    residual: Float[Array, " batch"]
    num_steps: Int[Array, " batch"]
    distance: Float[Array, " batch"]
    period: Float[Array, " batch"]
    plan: Plan | None
    finished_by: dict[str, int] = eqx.field(static=True)

    @property
    def is_converged(self) -> Array:
        """Whether the state is a steady state, per sample."""
        return self.status == Status.converged


class _Samples:
    """Samples on their way to a verdict; arrays on the host, changed in place."""

    def __init__(self, network: RecurrentNetwork, stimuli: np.ndarray, initial_states: np.ndarray, tolerance: float):
        size = len(stimuli)
        self.network, self.stimuli, self.initial_states = network, stimuli, initial_states
        self.tolerance = tolerance
        self.states = np.array(initial_states)
        self.status = np.full(size, Status.max_steps_reached, np.int32)
        self.rates = np.full(size, np.nan)
        self.period = np.full(size, np.nan)
        self.residuals, self.speeds = np.full((2, size), np.nan)  # NaN until known of the last state
        self.num_steps = np.zeros(size, np.int32)
        self.finished_by: Counter[str] = Counter()

    @property
    def open_rows(self) -> np.ndarray:
        return np.flatnonzero(self.status == Status.max_steps_reached)

    def settle(self, rows: np.ndarray, states: np.ndarray, rates: np.ndarray, method: str) -> None:
        """These samples are at steady states."""
        self.states[rows], self.rates[rows], self.status[rows] = states, rates, Status.converged
        if len(rows):
            self.finished_by[method] += len(rows)

    def settle_swept(
        self, rows: np.ndarray, swept: Swept, is_at_rest: np.ndarray, plan: Plan, method: str
    ) -> np.ndarray:
        """Settle those at rest that attract; the rows at rest that do not."""
        if plan.certified_rate > 0:
            is_stable, rates = is_at_rest, np.full(len(rows), plan.certified_rate)
        else:
            unproved = np.flatnonzero(is_at_rest & ~swept.is_proved)
            is_stable, rates = is_at_rest & swept.is_proved, np.array(swept.rates)
            if len(unproved):
                found = settle_unproved(
                    self.network,
                    swept.states[unproved],
                    self.stimuli[rows[unproved]],
                    np.zeros(len(unproved), bool),
                    rates[unproved],
                )
                is_stable[unproved], rates[unproved] = found.is_stable, found.rate
        chosen = rows[is_stable]
        self.settle(chosen, swept.states[is_stable], rates[is_stable], method)
        self.residuals[chosen], self.speeds[chosen] = swept.residuals[is_stable], swept.speeds[is_stable]
        return rows[is_at_rest & ~is_stable]

    def settle_if_stable(self, rows: np.ndarray, states: np.ndarray, plan: Plan, method: str) -> np.ndarray:
        """Settle those of the states at rest that attract; the rows that do not."""
        found = attractions(self.network, states, self.stimuli[rows], step=plan.proof_step, rate=plan.certified_rate)
        is_stable = np.asarray(found.is_stable)
        self.settle(rows[is_stable], states[is_stable], np.asarray(found.rate)[is_stable], method)
        return rows[~is_stable]


def solve_by_plan(
    network: RecurrentNetwork,
    stimuli: Float[np.ndarray, "batch stimulus"],
    initial_states: Float[np.ndarray, "batch state"],
    plan: Plan | None,
    *,
    tolerance: float,
    max_steps: int,
    show: Callable[[Iterable[int]], Iterable[int]],
    always_plan: bool = False,
) -> SteadyStates:
    """Solve a batch by a plan, or make one from it first.

    Args:
        network: the network.
        stimuli: one a row.
        initial_states: where the dynamics start.
        plan: how; None to measure what is best.
        tolerance: the largest residual that counts as rest.
        max_steps: bound on the steps of the dynamics of each sample.
        show: wraps the iterable of chunks, to show progress.
        always_plan: whether to look for sweeps even if the batch is no larger than the probe.
    """
    samples = _Samples(network, stimuli, initial_states, tolerance)
    rows = np.arange(len(stimuli))
    # A plan was measured from zero. From elsewhere only a network with one steady state is sure to end at the same.
    may_sweep = plan is None or plan.certified_rate > 0 or not initial_states.any()
    if plan is None:
        plan, probe = make_plan(
            network,
            stimuli,
            initial_states,
            tolerance=tolerance,
            max_steps=_followed(max_steps),
            even_if_whole=always_plan,
        )
        _take_over(samples, probe)
        _finish_open(samples, probe.rows, plan, max_steps)
        rows = np.setdiff1d(rows, probe.rows)
    for start in show(range(0, len(rows), LARGEST)):
        chunk = rows[start : start + LARGEST]
        if plan.sweep is not None and may_sweep:
            chunk = _sweep(samples, chunk, plan)
        if len(chunk):
            _follow(samples, chunk, plan, max_steps)
            _finish_open(samples, chunk, plan, max_steps)
    _measure_states(samples)
    residuals, speeds = samples.residuals, samples.speeds
    # The last word: whatever a method said, a state above the tolerance is not at rest.
    samples.status[(samples.status == Status.converged) & ~(residuals < tolerance)] = Status.max_steps_reached
    samples.status[~np.isfinite(residuals) & (samples.status != Status.diverging)] = Status.nonfinite
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.where(samples.status == Status.converged, distance(speeds, samples.rates, np), np.nan)
    for row in samples.open_rows:
        distances[row] = _newton_step(network, samples.states[row], stimuli[row])
    floats = [each.astype(network.dtype) for each in (residuals, distances, samples.period)]
    state, status, num_steps, residuals, distances, period = jax.device_put(
        [samples.states, samples.status, samples.num_steps, *floats]
    )
    return SteadyStates(
        state=state,
        status=status,
        residual=residuals,
        num_steps=num_steps,
        distance=distances,
        period=period,
        plan=plan,
        finished_by=dict(samples.finished_by),
    )


def _measure_states(samples: _Samples) -> None:
    """Residuals and speeds of the states where these are not known yet."""
    rows = np.flatnonzero(np.isnan(samples.residuals))
    if len(rows):
        p = rows[padded(np.arange(len(rows)))]
        residuals, speeds = _measure(samples.network, samples.states[p], samples.stimuli[p])
        samples.residuals[rows] = np.asarray(residuals)[: len(rows)]
        samples.speeds[rows] = np.asarray(speeds)[: len(rows)]


@eqx.filter_jit
def _measure(network, states, stimuli):
    def measure(state, stimulus):
        return residual(network, state, stimulus), jnp.max(jnp.abs(network.velocity(state, stimulus)))

    return in_tiles(jax.vmap(measure), (states, stimuli), TILE)


def _newton_step(network: RecurrentNetwork, state: np.ndarray, stimulus: np.ndarray) -> float:
    """The largest entry of a Newton step toward rest: about how far a slow sample still has to go."""
    if network.state_size > _LARGEST_NEWTON or not np.isfinite(state).all():
        return np.nan
    velocity, jacobian = _linearize(network, state, stimulus)
    step = np.linalg.lstsq(np.asarray(jacobian, np.float64), np.asarray(velocity, np.float64), rcond=None)[0]
    return float(np.abs(step).max())


@eqx.filter_jit
def _linearize(network, state, stimulus):
    return network.velocity(state, stimulus), jax.jacfwd(network.velocity)(state, stimulus)


def _followed(max_steps: int) -> int:
    return min(max_steps, _FOLLOWED_STEPS)


def _take_over(samples: _Samples, probe: Probe) -> None:
    """The probe has followed the dynamics already."""
    rows, followed = probe
    samples.num_steps[rows] += followed.num_steps
    samples.states[rows] = followed.states
    for is_exact, method in [(True, "active set"), (False, "dynamics")]:
        chosen = followed.is_finished & (followed.is_exact == is_exact)
        samples.settle(rows[chosen], followed.states[chosen], followed.rates[chosen], method)


def _sweep(samples: _Samples, rows: np.ndarray, plan: Plan) -> np.ndarray:
    """Sweeps, then longer Anderson acceleration on what is open; the rows that are left to the dynamics."""
    left = []
    memory, num_sweeps, starts, method = plan.memory, plan.num_sweeps, None, "sweeps"
    if plan.certified_rate > 0 and samples.initial_states[rows].any():  # all ways lead to the same end: the shortest
        starts, num_sweeps = samples.initial_states[rows], max(1, num_sweeps // 2)
    for _ in range(1 + _STURDY_ROUNDS):
        size, p = len(rows), padded(np.arange(len(rows)))
        swept = run_sweeps(
            samples.network,
            plan.sweep,
            samples.stimuli[rows[p]],
            memory,
            np.int32(num_sweeps),
            None if starts is None else starts[p],
            None if plan.certified_rate > 0 else plan.proof_step,
            samples.tolerance,
        )
        swept = jax.tree.map(lambda each, size=size: np.asarray(each)[:size], swept)
        samples.num_steps[rows] += swept.num_steps
        is_at_rest = swept.residuals < SAFETY * samples.tolerance
        left.append(samples.settle_swept(rows, swept, is_at_rest, plan, method))
        rows, starts = rows[~is_at_rest], swept.states[~is_at_rest]
        if not len(rows):
            break
        starts = np.where(np.isfinite(starts).all(axis=1, keepdims=True), starts, 0)
        memory, num_sweeps, method = _STURDY_MEMORY, _STURDY_SWEEPS, f"Anderson({_STURDY_MEMORY})"
    return np.sort(np.concatenate([*left, rows]))


def _follow(samples: _Samples, rows: np.ndarray, plan: Plan, max_steps: int) -> None:
    """Follow the dynamics from their start."""
    followed = follow(
        samples.network,
        samples.stimuli[rows],
        samples.initial_states[rows],
        tolerance=samples.tolerance,
        max_steps=_followed(max_steps),
        proof_step=plan.proof_step,
        certified_rate=plan.certified_rate,
    )
    _take_over(samples, Probe(rows, followed))


def _finish_open(samples: _Samples, rows: np.ndarray, plan: Plan, max_steps: int) -> None:
    """Watch where the dynamics go of what has not come to rest; try a stiff integrator where that does not decide."""
    network = samples.network
    rows = np.intersect1d(rows, samples.open_rows)
    if not len(rows):
        return
    p = padded(np.arange(len(rows)))
    motion = _observe(network, samples.stimuli[rows][p], samples.states[rows][p], samples.tolerance, max_steps)
    motion = jax.tree.map(lambda each: np.asarray(each)[: len(rows)], motion)
    samples.num_steps[rows] += motion.num_steps
    samples.states[rows] = motion.state
    samples.period[rows] = motion.period
    samples.status[rows[motion.is_oscillating]] = Status.oscillating
    samples.status[rows[motion.is_diverging]] = Status.diverging
    if motion.is_at_rest.any():
        unstable = samples.settle_if_stable(rows[motion.is_at_rest], motion.state[motion.is_at_rest], plan, "dynamics")
        samples.status[unstable] = Status.unstable
    rows = np.intersect1d(rows, samples.open_rows)
    if not len(rows):
        return
    p = padded(np.arange(len(rows)))
    judged = _roll_out_stiffly(
        network, samples.stimuli[rows][p], samples.initial_states[rows][p], samples.tolerance, max_steps
    )
    judged = jax.tree.map(lambda each: np.asarray(each)[: len(rows)], judged)
    samples.num_steps[rows] += judged.num_steps
    samples.states[rows], samples.status[rows] = judged.state, judged.status
    is_settled = judged.status == Status.converged
    if is_settled.any():
        samples.settle_if_stable(rows[is_settled], judged.state[is_settled], plan, "stiff rollout")


@eqx.filter_jit
def _observe(network, stimuli, states, tolerance, max_steps) -> Motion:
    return jax.vmap(
        lambda stimulus, state: observe_motion(
            network, stimulus, state, tolerance=SAFETY * tolerance, max_steps=2 * max_steps
        )
    )(stimuli, states)


@eqx.filter_jit
def _roll_out_stiffly(network, stimuli, initial_states, tolerance, max_steps) -> SteadyState:
    def roll_out(stimulus, initial_state):
        candidate = STIFF.search(network, stimulus, initial_state, tolerance=tolerance, max_steps=max_steps)
        return judge(network, stimulus, candidate, tolerance=tolerance)

    return jax.vmap(roll_out)(stimuli, initial_states)
