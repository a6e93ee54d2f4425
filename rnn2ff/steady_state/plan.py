"""Choose how to solve a batch, by measurement.

Sweeps are fast, but a fixed point that they find is the steady state only if the dynamics reach it too. So a probe of
the stimuli is solved both ways: sweeps are used only if they land where the dynamics land, on every sample of the
probe, and from other starts as well. Where other starts lead elsewhere the network is multistable.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from rnn2ff.networks.base import RecurrentNetwork, residual
from rnn2ff.networks.rate import has_sparse_weights, is_rate_network
from rnn2ff.networks.threshold_linear import is_threshold_linear
from rnn2ff.steady_state.anderson import repeat_accelerated
from rnn2ff.steady_state.attraction import attractions, certified_rate, prove, shrink
from rnn2ff.steady_state.follow import Followed, follow
from rnn2ff.steady_state.padding import TILE, in_tiles, padded
from rnn2ff.sweeps import AbstractSweep, damped_sweep, mean_slope_sweep, split_sweep

NUM_PROBED = 512
SAFETY = 0.9  # of the tolerance, so that a residual recomputed with other rounding still meets it
_FEWEST_SWEEPS, _MOST_SWEEPS = 3, 128
# Memories of the acceleration, and what it adds to a sweep, in plain sweeps: this, and so much over the number of units
# (measured with 32 to 512 of them, on a CPU).
_COSTS = {0: (0.0, 0.0), 1: (0.0, 130.0), 3: (0.9, 520.0)}
_ENOUGH = 0.98  # share of the probe that the sweeps must finish; the others are finished by sturdier methods
_WORTH_IT = 1.6  # times as many sweeps, to finish all
_SAME = 1e-3  # two states closer than this, relative to 1 + max |x|, are the same
_LARGEST_SPLIT = 4096  # units; beyond, the inverse of a split costs more than it saves
_PROOF_STEPS = (1.0, 0.8, 0.5, 0.25)
_SWEEPS_PER_ROUND, _MAX_ROUNDS = 3, 6  # of what a tile gets beyond the planned sweeps


class Plan(eqx.Module):
    """How to solve batches of a network; made by `plan_steady_states`, and used by passing it as `solver`.

    Attributes:
        sweep: the step to repeat; None where the dynamics are followed.
        memory: steps that Anderson acceleration combines; 0 for plain sweeps.
        num_sweeps: for every sample; what is open afterwards goes to sturdier methods.
        proof_step: step of the proofs of stability, in units of the shortest time constant.
        certified_rate: a decay rate that every fixed point has, over time; 0 where none is known.
        agreement: share of the probe on which the sweeps land where the dynamics land.
        num_probed: samples in the probe.
        reason: why this plan, in words.
    """

    sweep: AbstractSweep | None
    memory: int = eqx.field(static=True)
    num_sweeps: int = eqx.field(static=True)
    proof_step: float = eqx.field(static=True)
    certified_rate: float = eqx.field(static=True)
    agreement: float = eqx.field(static=True)
    num_probed: int = eqx.field(static=True)
    reason: str = eqx.field(static=True)


class Probe(NamedTuple):
    """The samples that a plan was measured on, solved by following the dynamics.

    Attributes:
        rows: of the batch.
        followed: how they ended.
    """

    rows: Int[np.ndarray, " probe"]
    followed: Followed


def make_plan(
    network: RecurrentNetwork,
    stimuli: Float[np.ndarray, "batch stimulus"],
    initial_states: Float[np.ndarray, "batch state"],
    *,
    tolerance: float,
    max_steps: int,
    even_if_whole: bool = False,
) -> tuple[Plan, Probe]:
    """Solve a probe by the dynamics, and find the fastest sweeps that land where the dynamics land.

    Args:
        network: the network.
        stimuli: the batch; the probe is taken from it at even distances.
        initial_states: where the dynamics start.
        tolerance: the largest residual that counts as rest.
        max_steps: bound on the steps of the dynamics.
        even_if_whole: whether to try sweeps even if the probe is the whole batch, and nothing is left for them.
    """
    rows = np.unique(np.linspace(0, len(stimuli) - 1, min(NUM_PROBED, len(stimuli))).astype(int))
    probed = stimuli[rows]
    rate = certified_rate(network)
    followed = follow(
        network, probed, initial_states[rows], tolerance=tolerance, max_steps=max_steps, certified_rate=rate
    )
    settled = np.flatnonzero(followed.is_finished)
    is_whole = len(rows) == len(stimuli)

    def planned(reason: str, proof_step: float = 1.0, **found) -> tuple[Plan, Probe]:
        defaults = {"sweep": None, "memory": 0, "num_sweeps": 0, "agreement": float("nan")}
        return Plan(
            **{**defaults, **found},
            proof_step=proof_step,
            certified_rate=rate,
            num_probed=len(rows),
            reason=reason,
        ), Probe(rows, followed)

    if is_whole and not even_if_whole:
        return planned("the batch is no larger than a probe, which the dynamics solve")
    if not len(settled):
        return planned("no sample of the probe comes to rest, so there is nothing to compare with")
    proof_step = 1.0 if rate > 0 else _choose_proof_step(network, followed.states[settled], probed[settled])
    trials, tried = [], []
    for sweep, note in _sweeps(network, followed.states[settled], probed[settled]):
        for memory in _COSTS:
            least = _cost(memory, _FEWEST_SWEEPS, 0.0, network.state_size)
            if any(each.cost <= least for _, _, each in trials):
                continue  # what cannot win is not compiled
            trial = _try(network, sweep, memory, probed, followed, tolerance, proof_step, rate)
            trials += [] if trial is None else [(sweep, note, trial)]
        tried.append(note)
        if any(each.agreement < 1 for _, _, each in trials):
            break  # others would do so on other stimuli
    if not trials:
        reason = f"{' and '.join(tried)}, which leave more than {1 - _ENOUGH:.0%} of the probe open"
        return planned(reason, proof_step)
    agreeing = [each for each in trials if each[-1].agreement == 1]
    if not agreeing:
        reason = f"{tried[-1]}, which land elsewhere than the dynamics on some of the probe"
        return planned(reason, proof_step, agreement=max(each.agreement for _, _, each in trials))
    sweep, note, best = min(agreeing, key=lambda each: each[-1].cost)
    if rate == 0 and _finds_others(
        network, sweep, best, probed[settled], followed.states[settled], tolerance, proof_step
    ):
        reason = f"{note}, which from other states come to other steady states: the dynamics must decide between them"
        return planned(reason, proof_step, agreement=best.agreement)
    name = f"with Anderson({best.memory})" if best.memory else "plain"
    reason = f"{note}, {name}: the fastest that land where the dynamics land"
    return planned(
        reason, proof_step, sweep=sweep, memory=best.memory, num_sweeps=best.num_sweeps, agreement=best.agreement
    )


class _Trial(NamedTuple):
    memory: int
    num_sweeps: int
    agreement: float
    cost: float  # in plain sweeps; counted and not timed, so that the same call makes the same plan


def _sweeps(network, states, stimuli) -> Iterator[tuple[AbstractSweep, str]]:
    """The sweeps that the network allows, and their names."""
    if not is_rate_network(network):
        yield damped_sweep(network), "damped sweeps, since the field has no weights to look at"
        return
    if has_sparse_weights(network) or network.state_size > _LARGEST_SPLIT:
        yield damped_sweep(network), "damped sweeps, since the network is sparse or large"
        return
    try:
        yield mean_slope_sweep(network, jnp.asarray(states), jnp.asarray(stimuli)), "mean-slope split sweeps"
    except ValueError as error:
        yield damped_sweep(network), f"damped sweeps, since the split is singular ({error})"
    if is_threshold_linear(network):
        # No slope is further than 1/2 from 1/2: safer on stimuli that silence other units than most do.
        with contextlib.suppress(ValueError):
            yield split_sweep(network), "split sweeps"


def _choose_proof_step(network, states, stimuli) -> float:
    """The largest step among those that prove the most."""
    num_proved = {step: int(prove(network, states, stimuli, step)[0].sum()) for step in _PROOF_STEPS}
    return max(_PROOF_STEPS, key=lambda step: (num_proved[step], step))


def _try(network, sweep, memory, stimuli, followed, tolerance, proof_step, rate) -> _Trial | None:
    """The fewest sweeps that finish the probe, or enough of it, and whether they land where the dynamics land."""
    size = len(stimuli)
    rows = padded(np.arange(size))

    def run(num_sweeps: int) -> tuple[np.ndarray, np.ndarray]:
        swept = run_sweeps(network, sweep, stimuli[rows], memory, np.int32(num_sweeps))
        return np.asarray(swept.states)[:size], np.asarray(swept.residuals)[:size] < SAFETY * tolerance

    def fewest(share: float) -> int | None:
        """By doubling and halving; more sweeps finish more."""
        high = _FEWEST_SWEEPS + 1
        while run(high)[1][followed.is_finished].mean() < share:
            high *= 2
            if high > _MOST_SWEEPS:
                return None
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            is_enough = run(middle)[1][followed.is_finished].mean() >= share
            low, high = (low, middle) if is_enough else (middle, high)
        return high

    enough, whole = fewest(_ENOUGH), fewest(1.0)
    if enough is None:
        return None
    # A few more for all are worth it, and two to spare; many more for a few stragglers are not.
    num_sweeps = whole + 2 if whole is not None and whole <= _WORTH_IT * enough else enough
    states, is_found = run(num_sweeps)
    found = np.flatnonzero(is_found)
    open_share = 1 - is_found[followed.is_finished].mean()
    is_found[found] = attractions(network, states[found], stimuli[found], step=proof_step, rate=rate).is_stable
    apart = np.abs(states - followed.states).max(axis=1) / (1 + np.abs(followed.states).max(axis=1))
    is_same = followed.is_finished & (apart < _SAME)
    cost = _cost(memory, num_sweeps, float(open_share), network.state_size)
    return _Trial(memory, num_sweeps, float(is_same[is_found].mean()), cost)


def _cost(memory: int, num_sweeps: int, open_share: float, num_units: int) -> float:
    """In plain sweeps; one open sample holds up its tile for a round or two."""
    constant, over_units = _COSTS[memory]
    num_made = 1 + -(-(num_sweeps - 1) // memory) * memory if memory else num_sweeps
    num_rounds = 2 * (1 - (1 - open_share) ** TILE)
    return (1 + constant + over_units / num_units) * (num_made + num_rounds * (_SWEEPS_PER_ROUND + 2 * memory))


def _finds_others(
    network: RecurrentNetwork,
    sweep: AbstractSweep,
    trial: _Trial,
    stimuli: Float[np.ndarray, "probe stimulus"],
    states: Float[np.ndarray, "probe state"],
    tolerance: float,
    proof_step: float,
) -> bool:
    """Whether sweeps from the steady states of other stimuli come to other steady states: the network is multistable.

    Sweeps from one start may agree with the dynamics on a probe by luck, and not near the ties that it lacks.
    """
    rows = padded(np.arange(len(stimuli)))
    starts, num_sweeps = np.roll(states, 1, axis=0)[rows], np.int32(2 * trial.num_sweeps)
    swept = run_sweeps(network, sweep, stimuli[rows], trial.memory, num_sweeps, starts, None, tolerance)
    ends, residuals = np.asarray(swept.states)[: len(stimuli)], np.asarray(swept.residuals)[: len(stimuli)]
    apart = np.abs(ends - states).max(axis=1) / (1 + np.abs(states).max(axis=1))
    others = np.flatnonzero((residuals < SAFETY * tolerance) & (apart >= _SAME))
    if not len(others):
        return False
    return bool(attractions(network, ends[others], stimuli[others], step=proof_step).is_stable.any())


class Swept(eqx.Module):
    """A batch after a number of sweeps.

    Attributes:
        states: where the sweeps ended.
        residuals: recomputed on the states.
        speeds: `max |dx/dt|` there.
        is_proved: whether the state is proved to attract; all False if that was not asked for.
        rates: slowest decay rates of the proved, over time.
        num_steps: sweeps made.
    """

    states: Float[Array, "batch state"]
    residuals: Float[Array, " batch"]
    speeds: Float[Array, " batch"]
    is_proved: Bool[Array, " batch"]
    rates: Float[Array, " batch"]
    num_steps: Int[Array, " batch"]


@eqx.filter_jit
def run_sweeps(
    network: RecurrentNetwork,
    sweep: AbstractSweep,
    stimuli: Float[ArrayLike, "batch stimulus"],
    memory: int,
    num_sweeps: Int[ArrayLike, ""],
    starts: Float[ArrayLike, "batch state"] | None = None,
    proof_step: float | None = None,
    tolerance: float | None = None,
) -> Swept:
    """States after a number of sweeps, tile by tile.

    Args:
        network: the network.
        sweep: the step to repeat.
        stimuli: one a row.
        memory: steps that Anderson acceleration combines.
        num_sweeps: how many; an array, so that another number compiles nothing.
        starts: states to start from; by default the sweep's own first guess.
        proof_step: of the proof that the states attract, in units of the shortest time constant; None for no proof.
        tolerance: tiles in which a residual is not below it get a few sweeps more, for some rounds; None for exactly
            `num_sweeps`.
    """
    extra = jnp.asarray(_SWEEPS_PER_ROUND + 2 * memory, jnp.int32)
    enough, max_rounds = (0.0, 0) if tolerance is None else (SAFETY * tolerance, _MAX_ROUNDS)

    def begin(stimulus, start):
        drive = sweep.drive(network, stimulus)
        return drive, sweep.start(network, drive) if start is None else sweep.from_state(network, start, stimulus)

    def advance(drive, point, num_sweeps):
        return repeat_accelerated(sweep, network, drive, point, num_sweeps=num_sweeps, memory=memory)

    def measure(stimulus, point):
        state = sweep.to_state(network, point)
        speed = jnp.max(jnp.abs(network.velocity(state, stimulus)))
        return state, residual(network, state, stimulus), speed

    def run_tile(stimuli, starts):
        drives, points = jax.vmap(begin)(stimuli, starts)
        points = jax.vmap(advance, in_axes=(0, 0, None))(drives, points, num_sweeps)

        # A few more for the tile cost less than to gather the few samples that are still open.
        def is_open(carry):
            _, (_, residuals, _), num_rounds = carry
            return (num_rounds < max_rounds) & jnp.any(residuals >= enough)

        def go_on(carry):
            points, _, num_rounds = carry
            points = jax.vmap(advance, in_axes=(0, 0, None))(drives, points, extra)
            return points, jax.vmap(measure)(stimuli, points), num_rounds + 1

        start = (points, jax.vmap(measure)(stimuli, points), jnp.zeros((), jnp.int32))
        _, (states, residuals, speeds), num_rounds = jax.lax.while_loop(is_open, go_on, start)
        if proof_step is None:
            is_proved, rates = jnp.zeros(len(states), bool), jnp.full_like(residuals, jnp.nan)
        else:
            is_proved, rates = shrink(network, states, stimuli, proof_step)
        num_steps = jnp.full(len(states), num_sweeps + extra * num_rounds, jnp.int32)
        return Swept(states, residuals, speeds, is_proved, rates, num_steps)

    return in_tiles(run_tile, (stimuli, starts), TILE)
