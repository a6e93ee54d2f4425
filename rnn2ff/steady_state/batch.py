"""The engine: steady states of a batch, with a verdict for each sample, as one pure function of arrays.

Every sample goes through stages, on the device, until it has a verdict:

    sweep       fixed-cost steps toward a fixed point, where these are known to end where the dynamics end (`Plan`)
    accelerate  the same with Anderson acceleration, for what the sweeps leave open
    follow      the dynamics themselves, by Adams-Bashforth steps of third order, one matrix product each, whose length
                follows their local error; longer ones are of second order, and in the end they are Euler steps, which
                is the damped fixed-point iteration; a map is followed by its own steps
    block       where few units of a threshold-linear network are active, and have been the same for long: their exact
                fixed point, and its stability, from their block of the weights alone
    prove       powers of a polynomial of the Jacobian on a random vector (`stability.py`)
    decide      powers of its Cayley transform, for the few that products leave undecided

What is open is gathered into dense tiles (`tiles.py`), round after round. A fixed point that turns out to be unstable
is left by the dynamics, and the sample is followed further.

Nothing here looks at a value on the host, so that it runs under `jit`, in a `scan`, and under `shard_map`.
"""

import enum
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Scalar, UInt32

from rnn2ff.compiling import in_full_precision
from rnn2ff.networks import RateNetwork, RecurrentNetwork, StateForm, is_threshold_linear
from rnn2ff.steady_state.field import Field, choose_rows, make_field, max_norm
from rnn2ff.steady_state.method import Plan
from rnn2ff.steady_state.result import Status, SteadyState
from rnn2ff.steady_state.solvers.anderson import accelerate, begin_history, default_regularization
from rnn2ff.steady_state.stability import Powers, Stability, decay_rates, decide, num_factored, shrink, transform_powers
from rnn2ff.steady_state.tiles import Few, Layout, in_dense_tiles, packing_of, vary_like

SAFETY = 0.9  # of the tolerance, so that a residual recomputed with other rounding still meets it
# What the third order adds to a step, relative to 1 + max |x|. At 1e-3, 1 in 8,192 competitions changed basin; at 1e-4
# none did, but 1 in 6,099 samples of `benchmarks.honest_failures`, whose weights are the largest there, and which did
# not at 5e-5.
_LOCAL_ERROR = 3e-5
_FIRST_STEP, _LARGEST_STEP = 0.01, 0.9  # in units of the shortest time scale
_LONGEST_THIRD, _LONGEST_SECOND = 0.2, 0.45  # beyond, a step of that order is less stable than one of the order below
_SHORTEST_LARGEST_STEP = 0.02  # that unstable steps shorten the largest to
_PROGRESS, _MOST_STALE = 0.97, 32  # a speed that was not lowered to this share in so many pairs of steps does not fall
_QUIET = 64  # pairs of steps with the same active units, after which their exact fixed point is worth solving for
_ESCAPE = 1e8  # growth beyond 1 + max |u| + max |x0| by this factor is divergence
_SWEEPS_PER_CHECK, _MOST_SWEEPS, _WORTH = 3, 30, 9.0  # plain sweeps; how many more are worth waiting for
_MEMORY, _MOST_ACCELERATIONS = 3, 16  # steps that are combined, and how often the memory is filled
_BLOCK = 32  # active units of a block
_SHARE_LEFT = 4  # one in so many rows of a tile may wait for the next round; more than there are stages that wait
_MOST_ROUNDS = 1000  # more than any sample needs; a bound, so that the program ends


FOUND_BY = ("sweeps", f"Anderson({_MEMORY})", "dynamics", "active set")


class _Stage(enum.IntEnum):
    sweep = 0
    accelerate = 1
    follow = 2
    prove = 3
    block = 4
    decide = 5
    done = 6


class _Rows(NamedTuple):
    """Samples on their way to a verdict.

    Attributes:
        state: the last state.
        memory: the vector of the powers, while stability is being proved.
        stage: what comes next, a `_Stage`.
        status: a `Status`; meaningful once the stage is `done`.
        residual: of the state.
        speed: `max |dx/dt|` at the state, over time.
        decay_rate: of the slowest perturbation, over time.
        num_steps: sweeps and steps of time.
        step: of time, the last; in units of the shortest time scale.
        largest_step: so far as the steps were stable.
        lowest_speed: since the largest step changed.
        rest: the residual that counts as rest; lower where a fixed point was found unstable.
        num_quiet: pairs of steps with the same active units.
        tried: a hash of the active units that were last solved for.
        is_followed: whether the state was reached by the dynamics from the initial state.
        norm: of the vector of the powers.
        decay: of that norm, per product.
        power_step: which polynomial the powers are of.
        num_checks: of the powers.
        found_by: what brought the state to rest, an index into `FOUND_BY`.
    """

    state: Float[Array, "batch state"]
    memory: Float[Array, "batch state"]
    stage: Int[Array, " batch"]
    status: Int[Array, " batch"]
    residual: Float[Array, " batch"]
    speed: Float[Array, " batch"]
    decay_rate: Float[Array, " batch"]
    num_steps: Int[Array, " batch"]
    step: Float[Array, " batch"]
    largest_step: Float[Array, " batch"]
    lowest_speed: Float[Array, " batch"]
    rest: Float[Array, " batch"]
    num_quiet: Int[Array, " batch"]
    tried: UInt32[Array, " batch"]
    is_followed: Bool[Array, " batch"]
    norm: Float[Array, " batch"]
    decay: Float[Array, " batch"]
    power_step: Float[Array, " batch"]
    num_checks: Int[Array, " batch"]
    found_by: Int[Array, " batch"]


class _Known(NamedTuple):
    """What does not change: stimuli and initial states."""

    stimuli: Float[Array, "batch stimulus"]
    initial_states: Float[Array, "batch state"]


class _Task(NamedTuple):
    """What all stages need.

    Attributes:
        network: the network.
        plan: how to solve; None to follow the dynamics.
        tolerance: the largest residual that counts as rest.
        max_steps: of the dynamics, per sample.
        layout: how many rows are worked on together.
    """

    network: RecurrentNetwork
    plan: Plan | None
    tolerance: Scalar
    max_steps: Int[Array, ""]
    layout: Layout

    @property
    def has_blocks(self) -> bool:
        """Whether active units have a block of the weights to look at, whose decay is that of a flow."""
        if self.network.is_map:
            return False
        return is_threshold_linear(self.network) and self.network.has_dense_weights

    @property
    def proved_rate(self) -> Scalar:
        """A decay rate that every fixed point has; 0 where none is known."""
        return jnp.zeros((), self.network.dtype) if self.plan is None else self.plan.decay_rate


class Solved(NamedTuple):
    """The end of a batch.

    Attributes:
        steady: states and verdicts.
        found_by: what brought each state to rest, an index into `FOUND_BY`.
    """

    steady: SteadyState
    found_by: Int[Array, " batch"]


@in_full_precision
def solve_rows(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    plan: Plan | None,
    initial_states: Float[Array, "batch state"],
    *,
    tolerance: float | Scalar,
    max_steps: int | Int[Array, ""],
    num_rows: int | Int[Array, ""],
    layout: Layout,
) -> Solved:
    """The engine; pure.

    Args:
        network: the network.
        stimuli: one a row.
        plan: how to solve; None to follow the dynamics.
        initial_states: where the dynamics start, one a row.
        tolerance: the largest residual that counts as rest.
        max_steps: bound on the steps of the dynamics.
        num_rows: rows that matter; those beyond are given no work.
        layout: how many rows are worked on together.
    """
    task = _Task(network, plan, _scalar(tolerance, network.dtype), _scalar(max_steps, jnp.int32), layout)
    num_rows = _scalar(num_rows, jnp.int32)
    known = _Known(jnp.asarray(stimuli), jnp.asarray(initial_states))
    rows = _first_rows(task, known)
    is_filling = jnp.arange(len(stimuli), dtype=jnp.int32) >= num_rows
    rows = rows._replace(stage=jnp.where(is_filling, _Stage.done, rows.stage))
    return _conclude(task, _in_rounds(task, rows, known, moves=True))


@in_full_precision
def judge_rows(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    states: Float[Array, "batch state"],
    *,
    tolerance: float | Scalar,
    layout: Layout,
) -> SteadyState:
    """The verdict on states from elsewhere, none of which is moved; pure.

    What is not at rest is `max_steps_reached`, or `nonfinite`.

    Args:
        network: the network.
        stimuli: one a row.
        states: one a row.
        tolerance: the largest residual that counts as rest.
        layout: how many rows are worked on together.
    """
    task = _Task(network, None, _scalar(tolerance, network.dtype), _scalar(0, jnp.int32), layout)
    known = _Known(jnp.asarray(stimuli), jnp.asarray(states))
    rows = _first_rows(task, known)
    field = make_field(network, known.stimuli, rows.state)
    velocity = field.velocity(rows.state)
    residual = field.residual(rows.state, velocity)
    is_at_rest = residual < task.tolerance
    rows = rows._replace(
        residual=residual,
        speed=max_norm(velocity) / field.time_unit,
        stage=jnp.where(is_at_rest, _Stage.prove, _Stage.done).astype(jnp.int32),
        status=jnp.where(is_at_rest, Status.converged, Status.max_steps_reached).astype(jnp.int32),
    )
    return _conclude(task, _in_rounds(task, rows, known, moves=False)).steady


def _scalar(value, dtype) -> Scalar:
    return jnp.asarray(value).astype(dtype)


def _in_rounds(task: _Task, rows: _Rows, known: _Known, *, moves: bool) -> _Rows:
    """Rounds of dense tiles, until every sample has a verdict.

    Args:
        task: what all stages need.
        rows: the samples.
        known: their stimuli and initial states.
        moves: whether states may be moved; otherwise only their stability is asked for.
    """
    network, layout, batch_size = task.network, task.layout, len(known.stimuli)
    has_blocks = task.has_blocks and moves
    stages = [stage for stage in _WORK if moves or stage == _Stage.prove]
    if task.plan is None:
        stages = [stage for stage in stages if stage not in (_Stage.sweep, _Stage.accelerate)]
    # With a plan little is accelerated or followed, or its samples take so different times that wide tiles are no gain.
    wide = [stage for stage in stages if task.plan is None or stage in (_Stage.sweep, _Stage.prove)]
    pack, unpack = packing_of(rows)

    def packed(work):
        return lambda rows, *others: pack(work(task, unpack(rows), *others))

    def is_in(stage, *stages):
        return functools.reduce(jnp.logical_or, (stage == each for each in stages))

    def goes_on(carry):
        arrays, num_rounds = carry
        return jnp.any(unpack(arrays).stage != _Stage.done) & (num_rounds < _MOST_ROUNDS)

    def one_round(carry):
        arrays, num_rounds = carry
        stage = unpack(arrays).stage
        if layout.wide_tile:
            arrays = in_dense_tiles(
                packed(_in_turn(wide)), arrays, known, is_in(stage, *wide), (layout.wide_tile,),
                kind=stage, num_kinds=int(_Stage.prove) + 1, few=Few.left,
            )  # fmt: skip
            stage = unpack(arrays).stage
        arrays = in_dense_tiles(
            packed(_in_turn(stages)), arrays, known, is_in(stage, *stages), layout.tiles,
            kind=stage, num_kinds=int(_Stage.prove) + 1, few=Few.done_if_alone,
        )  # fmt: skip
        if has_blocks:
            size = min(num_factored(min(_BLOCK, network.state_size), one_by_one=layout.factors_one_by_one), batch_size)
            is_left = is_in(unpack(arrays).stage, _Stage.block)
            arrays = in_dense_tiles(packed(_solve_blocks), arrays, known, is_left, (size,))
        size = min(num_factored(network.state_size, one_by_one=layout.factors_one_by_one), batch_size)
        is_left = is_in(unpack(arrays).stage, _Stage.decide, *(() if has_blocks else (_Stage.block,)))
        arrays = in_dense_tiles(packed(functools.partial(_decide, moves=moves)), arrays, known, is_left, (size,))
        return arrays, num_rounds + 1

    start = vary_like((pack(rows), jnp.zeros((), jnp.int32)), known.stimuli)
    return unpack(jax.lax.while_loop(goes_on, one_round, start)[0])


def _conclude(task: _Task, rows: _Rows) -> Solved:
    """The verdicts. The last word is the residual's: whatever a stage said, a state above the tolerance moves."""
    is_finite = jnp.isfinite(rows.residual) & jnp.all(jnp.isfinite(rows.state), axis=1)
    status = jnp.where(rows.stage == _Stage.done, rows.status, Status.max_steps_reached)
    status = jnp.where(is_finite | (status == Status.diverging), status, Status.nonfinite)
    is_converged = (status == Status.converged) & (rows.residual < task.tolerance)
    status = jnp.where((status == Status.converged) & ~is_converged, Status.max_steps_reached, status)
    distance = jnp.where(rows.speed > 0, rows.speed / jnp.maximum(rows.decay_rate, 0), 0)
    steady = SteadyState(
        state=rows.state,
        status=status.astype(jnp.int32),
        residual=rows.residual,
        num_steps=rows.num_steps,
        distance=jnp.where(is_converged, distance, jnp.nan),
        period=jnp.full_like(rows.residual, jnp.nan),
    )
    return Solved(steady, rows.found_by)


def _first_rows(task: _Task, known: _Known) -> _Rows:
    size = len(known.stimuli)
    dtype = task.network.dtype
    zero, none, no = jnp.zeros(size, dtype), jnp.zeros(size, jnp.int32), jnp.zeros(size, bool)
    stage = jnp.full(size, _Stage.follow, jnp.int32)
    if task.plan is not None:
        # A plan is made from zero. From elsewhere only a network with one steady state is sure to end at the same.
        is_swept = jnp.all(known.initial_states == 0, axis=1) | task.plan.starts_anywhere
        stage = jnp.where(is_swept & task.plan.starts_with_sweeps, _Stage.sweep, stage)
    rows = _Rows(
        state=known.initial_states,
        memory=jnp.zeros_like(known.initial_states),
        stage=stage,
        status=jnp.full(size, Status.max_steps_reached, jnp.int32),
        residual=zero + jnp.inf,
        speed=zero,
        decay_rate=zero,
        num_steps=none,
        step=zero,
        largest_step=zero + _LARGEST_STEP,
        lowest_speed=zero + jnp.inf,
        rest=zero + SAFETY * task.tolerance,
        num_quiet=none,
        tried=jnp.zeros(size, jnp.uint32),
        is_followed=no,
        norm=zero,
        decay=zero,
        power_step=zero,
        num_checks=none - 1,
        found_by=none,
    )
    return vary_like(rows, known.stimuli)


def _in_turn(stages: list[_Stage]) -> Callable:
    """The work on a tile: what it holds of each stage in turn. A few rows may wait, to share one of the next round."""

    def work(task: _Task, rows: _Rows, known: _Known, is_mine: Bool[Array, " tile"], may_wait: Bool[Array, ""]):
        rows = rows._replace(stage=jnp.where(is_mine, rows.stage, _Stage.done))
        few = _few(is_mine, may_wait)
        for stage in stages:
            rows = _WORK[stage](task, rows, known, few)
        return rows

    return work


def _few(is_mine: Bool[Array, " tile"], may_wait: Bool[Array, ""]) -> Int[Array, ""]:
    """How many rows of each of three stages may be left as they are; so few that not all of a tile are."""
    return jnp.where(may_wait, jnp.sum(is_mine, dtype=jnp.int32) // _SHARE_LEFT, 0)


# --- sweeps -----------------------------------------------------------------------------------------------------------


def _sweep(task: _Task, rows: _Rows, known: _Known, few: Int[Array, ""]) -> _Rows:
    """Plain sweeps, as long as they are about to finish more than a few."""
    is_mine = rows.stage == _Stage.sweep
    return jax.lax.cond(
        jnp.any(is_mine), lambda rows: _sweep_some(task, rows, known, few, is_mine), lambda rows: rows, rows
    )


def _sweep_some(task: _Task, rows: _Rows, known: _Known, few, is_mine) -> _Rows:
    network, sweep = task.network, task.plan.sweep
    is_zero = jnp.all(known.initial_states == 0, axis=1)
    drives = jax.vmap(lambda stimulus: sweep.drive(network, stimulus))(known.stimuli)
    starts = jax.vmap(lambda drive: sweep.start(network, drive))(drives)

    def from_states(starts):
        given = jax.vmap(lambda state, stimulus: sweep.from_state(network, state, stimulus))(*known[::-1])
        return jnp.where(is_zero[:, None], starts, given)

    starts = jax.lax.cond(jnp.any(is_mine & ~is_zero), from_states, lambda starts: starts, starts)
    advance = jax.vmap(lambda drive, point: sweep(network, drive, point))

    def target(points):
        return SAFETY * task.tolerance * (1 + max_norm(points)) / sweep.velocity_per_step

    def goes_on(carry):
        _, _, left, num_sweeps = carry
        is_nearly = (left > 0) & (left < _WORTH)
        return (jnp.sum(is_mine & is_nearly, dtype=jnp.int32) > few) & (num_sweeps < _MOST_SWEEPS)

    def check(carry):
        points, length, _, num_sweeps = carry
        for _ in range(_SWEEPS_PER_CHECK - 1):
            points = advance(drives, points)
        new = advance(drives, points)
        new_length = max_norm(new - points)
        per_sweep = jnp.log(new_length / length) / _SWEEPS_PER_CHECK  # infinite at the first check
        left = jnp.log(target(new) / new_length) / jnp.minimum(per_sweep, -1e-3)
        left = jnp.where(jnp.isinf(length), 1, left)
        return new, new_length, left, num_sweeps + _SWEEPS_PER_CHECK

    one = jnp.ones_like(rows.residual)
    start = vary_like((starts, one * jnp.inf, one, jnp.zeros((), jnp.int32)), starts)
    points, _, _, num_sweeps = jax.lax.while_loop(goes_on, check, start)
    swept = _arrive(task, rows, known, points, is_mine, FOUND_BY[0])
    return swept._replace(num_steps=jnp.where(is_mine, rows.num_steps + num_sweeps, rows.num_steps))


def _accelerate(task: _Task, rows: _Rows, known: _Known, few: Int[Array, ""]) -> _Rows:
    """Anderson acceleration of the sweeps; what it leaves open is followed from the initial state."""
    network, sweep = task.network, task.plan.sweep
    is_mine = rows.stage == _Stage.accelerate
    drives = jax.vmap(lambda stimulus: sweep.drive(network, stimulus))(known.stimuli)
    regularization = default_regularization(rows.state.dtype)

    def through_memory(drive, point, history):
        for slot in range(_MEMORY):
            image = sweep(network, drive, point)
            point, _, history = accelerate(history, point, image, slot=slot, regularization=regularization)
        return point, jnp.max(jnp.abs(history.step)), history

    def goes_on(carry):
        _, _, is_open, num_turns = carry
        return (jnp.sum(is_open, dtype=jnp.int32) > few) & (num_turns < _MOST_ACCELERATIONS)

    def turn(carry):
        points, histories, is_open, num_turns = carry
        new, length, histories = jax.vmap(through_memory)(drives, points, histories)
        is_close = length * sweep.velocity_per_step < SAFETY * task.tolerance * (1 + max_norm(new))
        points = jnp.where(is_open[:, None], new, points)
        is_open = is_open & ~is_close & jnp.all(jnp.isfinite(new), axis=1)
        return points, histories, is_open, num_turns + 1

    def run(rows):
        images = jax.vmap(lambda drive, point: sweep(network, drive, point))(drives, rows.state)
        histories = jax.vmap(lambda point, image: begin_history(point, image, _MEMORY))(rows.state, images)
        start = vary_like((images, histories, is_mine, jnp.zeros((), jnp.int32)), rows.state)
        points, _, is_open, num_turns = jax.lax.while_loop(goes_on, turn, start)
        # One plain sweep at the end takes away what a combination leaves of rounding.
        points = jax.vmap(lambda drive, point: sweep(network, drive, point))(drives, points)
        arrived = _arrive(task, rows, known, points, is_mine, FOUND_BY[1])
        is_given_up = (num_turns >= _MOST_ACCELERATIONS) | ~is_open
        is_lost = is_mine & (arrived.stage == _Stage.accelerate) & is_given_up
        arrived = _restart(arrived, known, is_lost)
        num_steps = rows.num_steps + 2 + _MEMORY * num_turns
        return arrived._replace(num_steps=jnp.where(is_mine, num_steps, rows.num_steps))

    return jax.lax.cond(jnp.sum(is_mine, dtype=jnp.int32) > few, run, lambda rows: rows, rows)


def _arrive(task: _Task, rows: _Rows, known: _Known, points, is_mine: Bool[Array, " tile"], by: str) -> _Rows:
    """The states that sweeps have come to, and what comes next. What is open keeps its point in place of a state."""
    network, sweep = task.network, task.plan.sweep
    states = jax.vmap(lambda point: sweep.to_state(network, point))(points)
    field = make_field(network, known.stimuli, states)
    velocity = field.velocity(states)
    residual = field.residual(states, velocity)
    is_at_rest = residual < rows.rest
    stage = jnp.where(is_at_rest, _next_at_rest(task, states), _Stage.accelerate)
    new = rows._replace(
        state=jnp.where(is_at_rest[:, None], states, points),
        stage=stage,
        status=jnp.where(is_at_rest, Status.converged, rows.status),
        residual=residual,
        speed=max_norm(velocity) / field.time_unit,
        decay_rate=jnp.broadcast_to(task.proved_rate, residual.shape),
        found_by=jnp.full_like(rows.found_by, FOUND_BY.index(by)),
    )
    return choose_rows(is_mine, new, rows)


def _restart(rows: _Rows, known: _Known, is_lost: Bool[Array, " tile"]) -> _Rows:
    """From the initial state, by the dynamics."""
    new = rows._replace(
        state=known.initial_states,
        stage=jnp.full_like(rows.stage, _Stage.follow),
        status=jnp.full_like(rows.status, Status.max_steps_reached),
        step=jnp.zeros_like(rows.step),
        num_checks=jnp.full_like(rows.num_checks, -1),
    )
    return choose_rows(is_lost, new, rows)


# --- the dynamics -----------------------------------------------------------------------------------------------------


class _Motion(NamedTuple):
    """Rows that are followed: fields of `_Rows` that change in each step, and these.

    Attributes:
        velocity: at the state.
        before: velocity one step earlier.
        earlier: velocity two steps earlier.
        bend: largest second difference of the three velocities.
        size: `max |x|`.
        num_stale: pairs of long steps since the speed fell.
        active: a hash of the active units.
        is_open: whether it goes on.
    """

    state: Float[Array, "tile state"]
    velocity: Float[Array, "tile state"]
    before: Float[Array, "tile state"]
    earlier: Float[Array, "tile state"]
    bend: Float[Array, " tile"]
    size: Float[Array, " tile"]
    speed: Float[Array, " tile"]
    step: Float[Array, " tile"]
    largest_step: Float[Array, " tile"]
    lowest_speed: Float[Array, " tile"]
    num_stale: Int[Array, " tile"]
    rest: Float[Array, " tile"]
    residual: Float[Array, " tile"]
    num_quiet: Int[Array, " tile"]
    num_steps: Int[Array, " tile"]
    active: UInt32[Array, " tile"]
    is_open: Bool[Array, " tile"]


def _follow(task: _Task, rows: _Rows, known: _Known, few: Int[Array, ""]) -> _Rows:
    """Steps of time until no more than a few are moving."""
    is_mine = rows.stage == _Stage.follow
    run = lambda rows: _follow_some(task, rows, known, few, is_mine)  # noqa: E731
    return jax.lax.cond(jnp.sum(is_mine, dtype=jnp.int32) > few, run, lambda rows: rows, rows)


class _Weights(NamedTuple):
    """What the velocity now, the one before, and the one before that are multiplied by in a step."""

    now: Float[Array, " tile"]
    before: Float[Array, " tile"]
    earlier: Float[Array, " tile"]

    def __call__(self, now, before, earlier) -> Float[Array, "tile state"]:
        return self.now[:, None] * now + self.before[:, None] * before + self.earlier[:, None] * earlier


def _multistep(step: Float[Array, " tile"], last: Float[Array, " tile"]) -> tuple[_Weights, _Weights]:
    """Adams-Bashforth weights of a step that follows two of another length, and of a second one like it.

    Each integrates the polynomial through the last three velocities; with its second difference left out it is of
    second order, and with the first left out too it is Euler's step.
    """
    ratio = step / last
    is_second, is_third = step <= _LONGEST_SECOND, step <= _LONGEST_THIRD
    slope = jnp.where(is_second, step * ratio / 2, 0)
    curve = jnp.where(is_third, step * ratio * (ratio / 6 + 0.25), 0)
    first = _Weights(step + slope + curve, -slope - 2 * curve, curve)
    slope = jnp.where(is_second, step / 2, 0)
    curve = jnp.where(is_third, (5 / 6) * step * ratio / (1 + ratio), 0)
    return first, _Weights(step + slope + curve, -slope - curve * (1 + ratio), curve * ratio)


def _choose_step(motion: _Motion) -> Float[Array, " tile"]:
    """The longest step of which what the third order adds, `h^2 (h / 6 + h_last / 4) |v''|`, is within the bound."""
    last = motion.step
    bend = jnp.maximum(motion.bend / (last * last * (1 + motion.size)), 1e-12)  # v'', relative
    shorter = jnp.cbrt(2.4 * _LOCAL_ERROR / bend)  # of steps of one length
    longer = jnp.sqrt(_LOCAL_ERROR / (bend * (shorter / 6 + last / 4)))
    step = jnp.where(shorter < last, shorter, longer)
    return jnp.minimum(step, jnp.minimum(2 * last, motion.largest_step))


def _follow_some(task: _Task, rows: _Rows, known: _Known, few, is_mine) -> _Rows:
    field = make_field(task.network, known.stimuli, rows.state)
    bound = _ESCAPE * (1 + max_norm(known.stimuli) + max_norm(known.initial_states))
    is_begun = rows.step > 0
    velocity = field.velocity(rows.state)

    def active_set(states, velocity):
        if not task.has_blocks:
            return jnp.zeros(len(states), jnp.uint32)
        active = _active_units(task, field, states, velocity)
        return jnp.where(_has_block(task, active), _hash(active), 0)

    def goes_on(motion):
        return jnp.sum(motion.is_open, dtype=jnp.int32) > few

    def two_steps(motion):
        state, velocity = motion.state, motion.velocity
        # A step of one is Euler's, and that of a map itself.
        step = jnp.ones_like(motion.step) if field.is_map else _choose_step(motion)
        first, second = _multistep(step, motion.step)
        is_open = motion.is_open[:, None]
        between = jnp.where(is_open, state + first(velocity, motion.before, motion.earlier), state)
        velocity_between = field.velocity(between)
        arrived = jnp.where(is_open, between + second(velocity_between, velocity, motion.before), state)
        velocity_arrived = field.velocity(arrived)

        residual = field.residual(arrived, velocity_arrived)
        speed = max_norm(velocity_arrived)
        bend = max_norm(velocity_arrived - 2 * velocity_between + velocity)
        # A velocity that turns from step to step and does not shrink tells of steps that are too long to be stable,
        # where the local error, small near a fixed point, does not; so does one that grows at the largest step.
        is_turning = bend > 0.5 * speed
        is_growing = (step >= 0.99 * motion.largest_step) & ~(speed < 2 * motion.lowest_speed)
        is_too_long = (is_turning & (speed > 0.9 * motion.speed)) | is_growing
        # And one that neither grows nor shrinks, where steps of low order sustain a spiral that would die out.
        lowest = jnp.minimum(speed, motion.lowest_speed)
        is_lower = (speed < _PROGRESS * motion.lowest_speed) | (step <= _LONGEST_THIRD)
        num_stale = jnp.where(is_lower | is_too_long, 0, motion.num_stale + 1)
        is_stale = num_stale >= _MOST_STALE
        shorter = 0.75 * jnp.minimum(step, motion.largest_step)
        largest_step = jnp.where(is_too_long, jnp.maximum(shorter, _SHORTEST_LARGEST_STEP), motion.largest_step)
        largest_step = jnp.where(is_stale, jnp.maximum(shorter, _LONGEST_THIRD), largest_step)
        active = active_set(arrived, velocity_arrived)
        is_quiet = (active == motion.active) & (active > 0) & (active != rows.tried)
        num_quiet = jnp.where(is_quiet, motion.num_quiet + 1, 0)
        # A fixed point that was left is behind once the state is no longer at rest.
        rest = jnp.where(residual > task.tolerance, SAFETY * task.tolerance, motion.rest)
        num_steps = motion.num_steps + 2
        size = max_norm(arrived)
        is_escaped = ~(size < bound)
        new = _Motion(
            state=arrived,
            velocity=velocity_arrived,
            before=velocity_between,
            earlier=velocity,
            bend=bend,
            size=size,
            speed=speed,
            step=step,
            largest_step=largest_step,
            lowest_speed=jnp.where(is_too_long | is_stale, speed, jnp.where(is_lower, lowest, motion.lowest_speed)),
            num_stale=jnp.where(is_stale, 0, num_stale),
            rest=rest,
            residual=residual,
            num_quiet=num_quiet,
            num_steps=num_steps,
            active=active,
            is_open=(residual >= rest) & ~is_escaped & (num_steps < task.max_steps) & (num_quiet < _QUIET),
        )
        # Rows that are done stay where they are, and so need no choice between whole states.
        same = motion._replace(state=arrived, velocity=velocity_arrived, before=velocity_between, earlier=velocity)
        return choose_rows(motion.is_open, new, same)

    residual = field.residual(rows.state, velocity)
    start = _Motion(
        state=rows.state,
        velocity=velocity,
        before=velocity,
        earlier=velocity,
        bend=jnp.zeros_like(residual),
        size=max_norm(rows.state),
        speed=max_norm(velocity),
        step=jnp.where(is_begun, rows.step / 8, _FIRST_STEP / 2),
        largest_step=rows.largest_step,
        lowest_speed=rows.lowest_speed,
        num_stale=jnp.zeros_like(rows.num_quiet),
        rest=rows.rest,
        residual=residual,
        num_quiet=jnp.where(is_begun, rows.num_quiet, 0),
        num_steps=rows.num_steps,
        active=active_set(rows.state, velocity),
        is_open=is_mine & (residual >= rows.rest),
    )
    end = jax.lax.while_loop(goes_on, two_steps, vary_like(start, rows.state))
    if not isinstance(task.network, RateNetwork):
        # The scales of a field that declares none are those of the state.
        field = make_field(task.network, known.stimuli, end.state)
        velocity = jax.vmap(task.network.velocity)(end.state, known.stimuli) * field.time_unit[:, None]
        end = end._replace(velocity=velocity, residual=field.residual(end.state, velocity))
    is_escaped = ~(max_norm(end.state) < bound)
    is_at_rest = end.residual < end.rest
    is_out = end.num_steps >= task.max_steps
    stage = jnp.where(end.num_quiet >= _QUIET, _Stage.block, _Stage.follow)
    stage = jnp.where(is_out | is_escaped, _Stage.done, stage)
    stage = jnp.where(is_at_rest & ~is_escaped, _next_at_rest(task, end.state), stage)
    is_finite = jnp.all(jnp.isfinite(end.state), axis=1)
    status = jnp.where(is_escaped, jnp.where(is_finite, Status.diverging, Status.nonfinite), Status.max_steps_reached)
    new = rows._replace(
        state=end.state,
        stage=stage,
        status=jnp.where(is_at_rest & ~is_escaped, Status.converged, status),
        residual=end.residual,
        speed=max_norm(end.velocity) / field.time_unit,
        decay_rate=jnp.broadcast_to(task.proved_rate, end.residual.shape),
        num_steps=end.num_steps,
        step=end.step,
        largest_step=end.largest_step,
        lowest_speed=end.lowest_speed,
        rest=end.rest,
        num_quiet=end.num_quiet,
        is_followed=jnp.ones_like(rows.is_followed),
        found_by=jnp.full_like(rows.found_by, FOUND_BY.index("dynamics")),
        num_checks=jnp.full_like(rows.num_checks, -1),
    )
    return choose_rows(is_mine, new, rows)


# --- active units of threshold-linear networks ------------------------------------------------------------------------


def _active_units(task: _Task, field: Field, states, velocity) -> Bool[Array, "tile state"]:
    """Units that the weights hear: with a positive state or, in the rate form, a positive total input."""
    if isinstance(task.network.vector_field, StateForm):
        return states > 0
    return states + field.scales * velocity > 0


def _hash(active: Bool[Array, "tile state"]) -> UInt32[Array, " tile"]:
    """A number that tells sets of active units apart; 0 is none."""
    codes = np.random.default_rng(0).integers(1, 2**32, active.shape[1], dtype=np.uint32)
    return jnp.sum(jnp.where(active, jnp.asarray(codes)[None], jnp.uint32(0)), axis=1, dtype=jnp.uint32) | 1


def _has_block(task: _Task, active: Bool[Array, "tile state"]) -> Bool[Array, " tile"]:
    return jnp.sum(active, axis=1, dtype=jnp.int32) <= min(_BLOCK, task.network.state_size)


def _next_at_rest(task: _Task, states) -> Int[Array, " tile"]:
    """The stage of what is at rest: a proof, unless the weights have given it."""
    return jnp.where(task.proved_rate > 0, _Stage.done, jnp.full(len(states), _Stage.prove, jnp.int32))


def _solve_blocks(task: _Task, rows: _Rows, known: _Known, is_mine, may_wait) -> _Rows:
    """The exact fixed point of the active units, and whether it attracts, from their block of the weights."""
    del may_wait
    network, params = task.network, task.network.params
    size = network.state_size
    field = make_field(network, known.stimuli, rows.state)
    velocity = field.velocity(rows.state)
    active = _active_units(task, field, rows.state, velocity)
    width = min(_BLOCK, size)
    has_block = _has_block(task, active)
    units = jnp.argsort(~active, axis=1, stable=True)[:, :width]
    is_unit = jnp.take_along_axis(active, units, axis=1)
    inside = is_unit[:, :, None] & is_unit[:, None, :]
    weights = jnp.where(inside, params.recurrent_weights[units[:, :, None], units[:, None, :]], 0)
    identity = jnp.eye(width, dtype=weights.dtype)[None]
    taus = params.time_constants / jnp.min(params.time_constants)
    unit_taus = jnp.where(is_unit, taus[units], jnp.max(taus))
    stability = transform_powers(
        (weights - identity) / unit_taus[:, :, None],
        jnp.broadcast_to(jnp.max(taus), has_block.shape),
        is_mine & has_block,
        one_by_one=task.layout.factors_one_by_one,
    )
    slowest = 1 / jnp.max(params.time_constants)  # the rate of silent units
    stability = stability._replace(decay_rate=jnp.minimum(stability.decay_rate / field.time_unit, slowest))

    drive = jax.vmap(params.feedforward_input)(known.stimuli)
    driven = jnp.where(is_unit, jnp.take_along_axis(drive, units, axis=1), 0)
    solution = jnp.linalg.solve(identity - weights, driven[:, :, None])[:, :, 0]
    rates = jnp.zeros_like(drive).at[jnp.arange(len(drive))[:, None], units].set(jnp.where(is_unit, solution, 0))
    total = jax.vmap(params.recurrent_input)(rates) + drive
    exact = jax.vmap(network.state_from_total_input)(total)
    is_consistent = jnp.all((total > 0) == active, axis=1) & has_block
    # Where the fixed point is not ahead, the motion still turns. And from afar it may yet turn away, since the active
    # units change on the way: it is near if no perturbation of its length, amplified as much as it may be before it
    # dies out, moves the total input to any unit through zero.
    is_ahead = jnp.sum((exact - rows.state) * velocity, axis=1) > 0
    reach = jnp.maximum(1, jnp.max(jnp.linalg.norm(params.recurrent_weights, axis=1)))
    strayed = reach * stability.amplification * jnp.linalg.norm(exact - rows.state, axis=1)
    is_near = (strayed < jnp.min(jnp.abs(total), axis=1)) | (task.proved_rate > 0)
    exact_velocity = field.velocity(exact)
    exact_residual = field.residual(exact, exact_velocity)
    is_at_rest = rows.status == Status.converged  # and only its stability is asked for
    is_end = is_consistent & is_ahead & is_near & stability.is_stable
    is_taken = ~is_at_rest & is_end & (exact_residual < task.tolerance)
    exactly = rows._replace(
        state=exact,
        residual=exact_residual,
        speed=max_norm(exact_velocity) / field.time_unit,
        status=jnp.full_like(rows.status, Status.converged),
        found_by=jnp.full_like(rows.found_by, FOUND_BY.index("active set")),
    )
    judged = _judge(task, choose_rows(is_taken, exactly, rows), known, stability)
    is_decided = ~is_consistent | (is_ahead & (is_near | ~stability.is_stable))
    onward = rows._replace(
        stage=jnp.full_like(rows.stage, _Stage.follow),
        tried=jnp.where(is_decided, _hash(active), rows.tried),
        # Undecided, it is asked again later and later.
        num_quiet=jnp.where(is_decided, 0, -rows.num_steps // 8),
    )
    return choose_rows(is_at_rest | is_taken, judged, onward)


# --- the verdict ------------------------------------------------------------------------------------------------------


def _prove(task: _Task, rows: _Rows, known: _Known, few: Int[Array, ""]) -> _Rows:
    """Powers on a random vector, until no more than a few are open."""
    is_mine = rows.stage == _Stage.prove

    def run(rows):
        field = make_field(task.network, known.stimuli, rows.state)
        begun = Powers(rows.memory, rows.norm, rows.decay, rows.power_step, rows.num_checks)
        powers = shrink(field, rows.state, is_mine, begun, most_open=few)
        is_left = is_mine & powers.is_open
        going_on = rows._replace(
            memory=powers.vectors,
            norm=powers.norms,
            decay=powers.decay,
            power_step=powers.step,
            num_checks=powers.num_checks,
        )
        stage = jnp.full_like(rows.stage, _Stage.decide)
        if task.has_blocks:
            active = _active_units(task, field, rows.state, jnp.zeros_like(rows.state))
            if not isinstance(task.network.vector_field, StateForm):
                active = _active_units(task, field, rows.state, field.velocity(rows.state))
            stage = jnp.where(_has_block(task, active), _Stage.block, stage)
        stage = jnp.where(powers.is_proved, _Stage.done, stage)
        ended = rows._replace(stage=stage, decay_rate=decay_rates(field, powers))
        return choose_rows(is_left, going_on, choose_rows(is_mine, ended, rows))

    return jax.lax.cond(jnp.sum(is_mine, dtype=jnp.int32) > few, run, lambda rows: rows, rows)


_WORK = {_Stage.sweep: _sweep, _Stage.accelerate: _accelerate, _Stage.follow: _follow, _Stage.prove: _prove}


def _decide(task: _Task, rows: _Rows, known: _Known, is_mine, may_wait, *, moves: bool) -> _Rows:
    """The Cayley transform of the whole Jacobian."""
    del may_wait
    field = make_field(task.network, known.stimuli, rows.state)
    stability = decide(field, rows.state, is_mine, one_by_one=task.layout.factors_one_by_one)
    return _judge(task, rows, known, stability, moves=moves)


def _judge(task: _Task, rows: _Rows, known: _Known, stability: Stability, *, moves: bool = True) -> _Rows:
    """End what attracts or is not decided; send on what is at rest and does not attract."""
    lower = 0.1 * rows.residual
    # At the floor of rounding nothing moves it any more: the dynamics rest at a point that they would leave.
    is_stuck = rows.is_followed & (rows.residual < 4 * jnp.finfo(rows.state.dtype).eps)
    ends = ~stability.is_unstable | is_stuck | (not moves)
    status = jnp.where(stability.is_stable, Status.converged, Status.undecided)
    ended = rows._replace(
        stage=jnp.full_like(rows.stage, _Stage.done),
        status=jnp.where(stability.is_unstable, Status.unstable, status),
        decay_rate=stability.decay_rate,
    )
    left = rows._replace(
        stage=jnp.full_like(rows.stage, _Stage.follow),
        status=jnp.full_like(rows.status, Status.unstable),
        rest=lower,
        step=jnp.zeros_like(rows.step),
        num_quiet=jnp.zeros_like(rows.num_quiet),
    )
    left = _restart(left, known, ~rows.is_followed)
    return choose_rows(ends, ended, left)
