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

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Scalar

from rnn2ff.compiling import in_full_precision
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state.field import choose_rows, make_field, max_norm
from rnn2ff.steady_state.following import follow_rows
from rnn2ff.steady_state.method import Plan
from rnn2ff.steady_state.proving import decide_rows, prove_rows, solve_blocks
from rnn2ff.steady_state.result import Status, SteadyState
from rnn2ff.steady_state.rows import BLOCK, LARGEST_STEP, SAFETY, Known, Rows, Solved, Stage, Task
from rnn2ff.steady_state.stability import Powers, num_factored
from rnn2ff.steady_state.sweeping import accelerate_rows, sweep_rows
from rnn2ff.steady_state.tiles import Few, Layout, in_dense_tiles, layout_for, packing_of, vary_like

_SHARE_LEFT = 4  # one in so many rows of a tile may wait for the next round; more than there are stages that wait
_MOST_ROUNDS = 1000  # more than any sample needs; a bound, so that the program ends

_WORK = {Stage.sweep: sweep_rows, Stage.accelerate: accelerate_rows, Stage.follow: follow_rows, Stage.prove: prove_rows}


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
    """The engine; pure. Without a plan the dynamics are followed; rows beyond `num_rows` are given no work."""
    task = Task(network, plan, _scalar(tolerance, network.dtype), _scalar(max_steps, jnp.int32), layout)
    num_rows = _scalar(num_rows, jnp.int32)
    known = Known(jnp.asarray(stimuli), jnp.asarray(initial_states))
    rows = _first_rows(task, known)
    is_filling = jnp.arange(len(stimuli), dtype=jnp.int32) >= num_rows
    rows = rows._replace(stage=jnp.where(is_filling, Stage.done, rows.stage))
    return _conclude(task, _in_rounds(task, rows, known, moves=True))


@in_full_precision
def judge_rows(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    states: Float[Array, "batch state"],
    tolerance: float | Scalar,
) -> SteadyState:
    """The verdict on states from elsewhere, none of which is moved; pure.

    What is not at rest is `max_steps_reached`, or `nonfinite`.
    """
    layout = layout_for(jax.default_backend(), len(stimuli))
    task = Task(network, None, _scalar(tolerance, network.dtype), _scalar(0, jnp.int32), layout)
    known = Known(jnp.asarray(stimuli), jnp.asarray(states))
    rows = _first_rows(task, known)
    field = make_field(network, known.stimuli, rows.state)
    velocity = field.velocity(rows.state)
    residual = field.residual(rows.state, velocity)
    is_at_rest = residual < task.tolerance
    rows = rows._replace(
        residual=residual,
        speed=max_norm(velocity) / field.time_unit,
        stage=jnp.where(is_at_rest, Stage.prove, Stage.done).astype(jnp.int32),
        status=jnp.where(is_at_rest, Status.converged, Status.max_steps_reached).astype(jnp.int32),
    )
    return _conclude(task, _in_rounds(task, rows, known, moves=False)).steady


def _scalar(value, dtype) -> Scalar:
    return jnp.asarray(value).astype(dtype)


def _in_rounds(task: Task, rows: Rows, known: Known, *, moves: bool) -> Rows:
    """Rounds of dense tiles, until every sample has a verdict; only that on its stability, unless it `moves`."""
    network, layout, batch_size = task.network, task.layout, len(known.stimuli)
    has_blocks = task.has_blocks and moves
    stages = [stage for stage in _WORK if moves or stage == Stage.prove]
    if task.plan is None:
        stages = [stage for stage in stages if stage not in (Stage.sweep, Stage.accelerate)]
    # With a plan little is accelerated or followed, or its samples take so different times that wide tiles are no gain.
    wide = [stage for stage in stages if task.plan is None or stage in (Stage.sweep, Stage.prove)]
    pack, unpack = packing_of(rows)

    def packed(work):
        return lambda arrays, *others: pack(work(task, unpack(arrays), *others))

    def in_turn(stages):
        """The work on a tile: what it holds of each stage in turn. A few rows may wait, to share one of the next round.

        Rows are chosen in packed form: one kernel for all real and one for all whole numbers, not one for each field.
        """

        def work(arrays, known, is_mine, may_wait):
            few = _few(is_mine, may_wait)
            for stage in stages:
                is_chosen = is_mine & (unpack(arrays).stage == stage)

                def run(arrays, stage=stage, is_chosen=is_chosen):
                    done = _WORK[stage](task, unpack(arrays), known, few, is_chosen)
                    return choose_rows(is_chosen, pack(done), arrays)

                # Sweeps cost little and are made for any row; the other stages wait until more than a few need them.
                least = 0 if stage == Stage.sweep else few
                is_due = jnp.sum(is_chosen, dtype=jnp.int32) > least
                arrays = jax.lax.cond(is_due, run, lambda arrays: arrays, arrays)
            return arrays

        return work

    def is_in(stage, *stages):
        return functools.reduce(jnp.logical_or, (stage == each for each in stages))

    def goes_on(carry):
        arrays, num_rounds = carry
        return jnp.any(unpack(arrays).stage != Stage.done) & (num_rounds < _MOST_ROUNDS)

    def one_round(carry):
        arrays, num_rounds = carry
        stage = unpack(arrays).stage
        if layout.wide_tile:
            arrays = in_dense_tiles(
                in_turn(wide), arrays, known, is_in(stage, *wide), (layout.wide_tile,),
                kind=stage, num_kinds=int(Stage.prove) + 1, few=Few.left,
            )  # fmt: skip
            stage = unpack(arrays).stage
        arrays = in_dense_tiles(
            in_turn(stages), arrays, known, is_in(stage, *stages), layout.tiles,
            kind=stage, num_kinds=int(Stage.prove) + 1, few=Few.done_if_alone,
        )  # fmt: skip
        if has_blocks:
            size = min(num_factored(min(BLOCK, network.state_size), one_by_one=layout.factors_one_by_one), batch_size)
            is_left = is_in(unpack(arrays).stage, Stage.block)
            arrays = in_dense_tiles(packed(solve_blocks), arrays, known, is_left, (size,))
        size = min(num_factored(network.state_size, one_by_one=layout.factors_one_by_one), batch_size)
        is_left = is_in(unpack(arrays).stage, Stage.decide, *(() if has_blocks else (Stage.block,)))
        arrays = in_dense_tiles(packed(functools.partial(decide_rows, moves=moves)), arrays, known, is_left, (size,))
        return arrays, num_rounds + 1

    start = vary_like((pack(rows), jnp.zeros((), jnp.int32)), known.stimuli)
    return unpack(jax.lax.while_loop(goes_on, one_round, start)[0])


def _conclude(task: Task, rows: Rows) -> Solved:
    """The verdicts. The last word is the residual's: whatever a stage said, a state above the tolerance moves."""
    is_finite = jnp.isfinite(rows.residual) & jnp.all(jnp.isfinite(rows.state), axis=1)
    status = jnp.where(rows.stage == Stage.done, rows.status, Status.max_steps_reached)
    status = jnp.where(is_finite | (status == Status.diverging), status, Status.nonfinite)
    is_converged = (status == Status.converged) & (rows.residual < task.tolerance)
    status = jnp.where((status == Status.converged) & ~is_converged, Status.max_steps_reached, status)
    distance = jnp.where(rows.speed > 0, rows.speed / jnp.maximum(rows.decay_rate, 0), 0)
    # Along a direction in which nothing decays, what moves at all never arrives.
    is_lost = is_converged & ~jnp.isfinite(distance)
    status, is_converged = jnp.where(is_lost, Status.undecided, status), is_converged & ~is_lost
    steady = SteadyState(
        state=rows.state,
        status=status.astype(jnp.int32),
        residual=rows.residual,
        num_steps=rows.num_steps,
        distance=jnp.where(is_converged, distance, jnp.nan),
        period=jnp.full_like(rows.residual, jnp.nan),
    )
    return Solved(steady, rows.found_by)


def _first_rows(task: Task, known: Known) -> Rows:
    size = len(known.stimuli)
    dtype = task.network.dtype
    zero, none, no = jnp.zeros(size, dtype), jnp.zeros(size, jnp.int32), jnp.zeros(size, bool)
    stage = jnp.full(size, Stage.follow, jnp.int32)
    if task.plan is not None:
        # A plan is made from zero. From elsewhere only a network with one steady state is sure to end at the same.
        is_swept = jnp.all(known.initial_states == 0, axis=1) | task.plan.starts_anywhere
        stage = jnp.where(is_swept & task.plan.starts_with_sweeps, Stage.sweep, stage)
    rows = Rows(
        state=known.initial_states,
        powers=Powers(jnp.zeros_like(known.initial_states), zero, zero, zero, zero - 1),
        stage=stage,
        status=jnp.full(size, Status.max_steps_reached, jnp.int32),
        residual=zero + jnp.inf,
        speed=zero,
        decay_rate=zero,
        num_steps=none,
        step=zero,
        largest_step=zero + LARGEST_STEP,
        lowest_speed=zero + jnp.inf,
        rest=zero + SAFETY * task.tolerance,
        num_quiet=none,
        tried=jnp.zeros(size, jnp.uint32),
        is_followed=no,
        found_by=none,
    )
    return vary_like(rows, known.stimuli)


def _few(is_mine: Bool[Array, " tile"], may_wait: Bool[Array, ""]) -> Int[Array, ""]:
    """How many rows of each of three stages may be left as they are; so few that not all of a tile are."""
    return jnp.where(may_wait, jnp.sum(is_mine, dtype=jnp.int32) // _SHARE_LEFT, 0)
