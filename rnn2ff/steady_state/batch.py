"""The engine: steady states of a batch, with a verdict for each sample, as pure functions of arrays.

Every sample goes through stages, on the device, until it has a verdict:

    sweep       fixed-cost steps toward a fixed point, if these are known to end where the dynamics end (`Plan`)
    accelerate  the same with Anderson acceleration, for samples on which plain sweeps have not converged
    follow      the dynamics themselves, by third-order Adams-Bashforth steps, one matrix product each, with the step
                size set by the local error; longer steps are of second order, and the longest are Euler steps, which is
                damped fixed-point iteration; a map is iterated
    block       where few units of a threshold-linear network are active, and the active set has long been the same:
                their exact fixed point, and its stability, from their block of the weight matrix alone
    prove       linear stability, by powers of a polynomial of the Jacobian on a random vector (`stability.py`)
    decide      the same, by powers of the Jacobian's Cayley transform, for the few that `prove` leaves undecided
    look        whether the dynamics are linear from a stable state up to rest (`linearity.py`)

In each round, samples without a verdict are gathered into dense tiles (`tiles.py`). If a fixed point turns out to be
unstable, the dynamics leave it, and the sample is followed further. Where the dynamics are not linear up to rest, a
sample goes on, in the way it came, to a smaller residual.

`block` and `decide` factor matrices; the other stages only multiply by them. As one function of arrays (`solve_rows`)
the engine alternates between the two and never reads a value on the host, so it runs under `jit`, in a `scan`, and
under `shard_map`. The host calls `by_products` and `by_factorizations` as separate programs: many networks need only
the first, few need both stages of the second, and those two stages take as long to compile as all others.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Scalar, Shaped

from rnn2ff.compiling import compiled, in_full_precision
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state.field import choose_rows, make_field, max_norm
from rnn2ff.steady_state.following import follow_rows
from rnn2ff.steady_state.meshes import zeros_to_share
from rnn2ff.steady_state.method import Plan
from rnn2ff.steady_state.proving import decide_rows, look_ahead, prove_rows, solve_blocks
from rnn2ff.steady_state.result import Status, SteadyState
from rnn2ff.steady_state.rows import BLOCK, LARGEST_STEP, SAFETY, Known, Rows, Solved, Stage, Task, blank_rows
from rnn2ff.steady_state.stability import LARGEST_BATCHED, num_factored
from rnn2ff.steady_state.sweeping import accelerate_rows, sweep_rows
from rnn2ff.steady_state.tiles import Few, in_dense_tiles, layout_for, packing_of, vary_like

_SHARE_LEFT = 4  # per stage, one in so many rows of a tile may wait a round; more than there are stages that wait
MOST_ROUNDS = 1000  # more than any sample needs; guarantees that the program ends

_WORK = {
    Stage.sweep: sweep_rows,
    Stage.accelerate: accelerate_rows,
    Stage.follow: follow_rows,
    Stage.prove: prove_rows,
    Stage.look: look_ahead,
}
_NUM_KINDS = max(_WORK) + 1
FACTORIZATIONS = (Stage.block, Stage.decide)
Packing = tuple[Callable, Callable]  # of `packing_of`


class Work(NamedTuple):
    """A batch once no sample waits for a stage that only takes products.

    Attributes:
        solved: the verdicts, as far as they are known.
        arrays: the rows of all samples in progress, packed.
        is_waited_for: for each stage of `FACTORIZATIONS`, whether any sample waits for it.
    """

    solved: Solved
    arrays: list[Shaped[Array, "batch ..."]]
    is_waited_for: Bool[Array, "device stage"]


@in_full_precision
def solve_rows(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    plan: Plan | None,
    initial_states: Float[Array, "batch state"],
    *,
    tolerance: Scalar,
    max_steps: Int[Array, ""],
) -> Solved:
    """The engine; pure. Without a plan the dynamics are followed."""
    task = Task(network, plan, tolerance, max_steps, layout_for(jax.default_backend(), len(stimuli)))
    known = Known(jnp.asarray(stimuli), jnp.asarray(initial_states))
    return _conclude(task, _in_rounds(task, _first_rows(task, known), known))


@in_full_precision
def by_products(task: Task, known: Known, arrays: list[Array], num_rows: Int[Array, ""]) -> Work:
    """Run the stages that only take products; pure. Rows beyond `num_rows` are padding and get no work."""
    rows = _first_rows(task, known)
    is_filling = jnp.arange(len(known.stimuli), dtype=jnp.int32) >= num_rows
    rows = rows._replace(stage=jnp.where(is_filling, Stage.done, rows.stage))
    packing = pack, unpack = packing_of(rows)
    arrays = choose_rows(unpack(arrays).stage == Stage.begin, pack(rows), arrays)
    arrays = _do_products(task, arrays, known, packing)
    rows = unpack(arrays)
    is_waited_for = jnp.stack([jnp.any(rows.stage == stage) for stage in FACTORIZATIONS])
    return Work(_conclude(task, rows), arrays, is_waited_for[None])


@in_full_precision
def by_factorizations(task: Task, known: Known, arrays: list[Array], stage: Stage) -> list[Array]:
    """Run one stage of `FACTORIZATIONS`, once for every sample that waits for it; pure."""
    packing = packing_of(_first_rows(task, known))
    return _do_factorizations(task, arrays, known, packing, (stage,))


@functools.lru_cache(maxsize=8)
def rows_to_begin(num_rows: int, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """The packed numbers of samples that have not begun. The arrays of states that follow them may hold anything."""

    def pack(states):
        rows = blank_rows(states)
        return packing_of(rows)[0](rows)

    *numbers, _, _ = jax.eval_shape(pack, jax.ShapeDtypeStruct((num_rows, 1), dtype))
    return tuple(zeros_to_share(array.shape, array.dtype) for array in numbers)


@in_full_precision
def judge_rows(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    states: Float[Array, "batch state"],
    tolerance: Scalar,
) -> SteadyState:
    """The verdicts on given states, none of which is moved; pure.

    A state that is not at rest is `max_steps_reached`, or `nonfinite`.
    """
    layout = layout_for(jax.default_backend(), len(stimuli))
    task = Task(network, None, tolerance, jnp.zeros((), jnp.int32), layout, moves=False)
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
    if len(stimuli) == 1 and network.state_size <= LARGEST_BATCHED:
        # One small matrix is factored as fast as `prove` multiplies by it, and half the code is compiled.
        decide = functools.partial(decide_rows, task, known=known, is_mine=is_at_rest)
        return _conclude(task, jax.lax.cond(is_at_rest[0], decide, lambda rows: rows, rows)).steady
    packing = pack, unpack = packing_of(rows)

    def prove(arrays, known, is_mine, may_wait):
        rows = unpack(arrays)
        none = jnp.zeros((), jnp.int32)
        return pack(choose_rows(is_mine, prove_rows(task, rows, known, none, is_mine), rows))

    # As no state moves, nothing is done twice.
    arrays = in_dense_tiles(prove, pack(rows), known, is_at_rest, layout.tiles)
    arrays = _do_factorizations(task, arrays, known, packing, FACTORIZATIONS)
    return _conclude(task, unpack(arrays)).steady


judge = compiled(judge_rows)  # a program of its own, for calls from the host


def _is_in(stage: Int[Array, " batch"], *stages: Stage) -> Bool[Array, " batch"]:
    return functools.reduce(jnp.logical_or, (stage == option for option in stages))


def _in_rounds(task: Task, rows: Rows, known: Known) -> Rows:
    """Alternate products and factorizations until all rows have a verdict."""
    packing = pack, unpack = packing_of(rows)

    def goes_on(carry):
        arrays, num_rounds = carry
        return jnp.any(unpack(arrays).stage != Stage.done) & (num_rounds < MOST_ROUNDS)

    def one_round(carry):
        arrays, num_rounds = carry
        arrays = _do_products(task, arrays, known, packing)
        return _do_factorizations(task, arrays, known, packing, FACTORIZATIONS), num_rounds + 1

    start = vary_like((pack(rows), jnp.zeros((), jnp.int32)), known.stimuli)
    return unpack(jax.lax.while_loop(goes_on, one_round, start)[0])


def _do_products(task: Task, arrays: list[Array], known: Known, packing: Packing) -> list[Array]:
    """Work in rounds of dense tiles, until no sample waits for a stage that only takes products."""
    layout, (pack, unpack) = task.layout, packing
    stages = list(_WORK) if task.plan is not None else [Stage.follow, Stage.prove, Stage.look]
    # Code for wide tiles takes half a second more to compile for each stage. With a plan, few rows are accelerated or
    # followed, or they take such different times that wide tiles gain nothing; without one, to prove them takes little.
    wide = [Stage.follow] if task.plan is None else [Stage.sweep, Stage.prove, Stage.look]

    def in_turn(stages):
        """The work on a tile: each stage in turn, on its rows. A few rows may wait, to share a tile in the next round.

        Rows are selected in packed form: one kernel for all floats and one for all integers, not one for each field.
        """

        def work(arrays, known, is_mine, may_wait):
            few = _few(is_mine, may_wait)
            for stage in stages:
                is_chosen = is_mine & (unpack(arrays).stage == stage)

                def run(arrays, stage=stage, is_chosen=is_chosen):
                    done = _WORK[stage](task, unpack(arrays), known, few, is_chosen)
                    return choose_rows(is_chosen, pack(done), arrays)

                # Sweeps and looks ahead are cheap, and run even for one row; the other stages wait for more than a few.
                least = 0 if stage in (Stage.sweep, Stage.look) else few
                is_due = jnp.sum(is_chosen, dtype=jnp.int32) > least
                arrays = jax.lax.cond(is_due, run, lambda arrays: arrays, arrays)
            return arrays

        return work

    def goes_on(carry):
        arrays, num_rounds = carry
        return jnp.any(_is_in(unpack(arrays).stage, *stages)) & (num_rounds < MOST_ROUNDS)

    def one_round(carry):
        arrays, num_rounds = carry
        stage = unpack(arrays).stage
        if layout.wide_tile:
            arrays = in_dense_tiles(
                in_turn(wide), arrays, known, _is_in(stage, *wide), (layout.wide_tile,),
                kind=stage, num_kinds=_NUM_KINDS, few=Few.left,
            )  # fmt: skip
            stage = unpack(arrays).stage
        arrays = in_dense_tiles(
            in_turn(stages), arrays, known, _is_in(stage, *stages), layout.tiles,
            kind=stage, num_kinds=_NUM_KINDS, few=Few.done_if_alone,
        )  # fmt: skip
        return arrays, num_rounds + 1

    start = vary_like((arrays, jnp.zeros((), jnp.int32)), known.stimuli)
    return jax.lax.while_loop(goes_on, one_round, start)[0]


def _do_factorizations(
    task: Task, arrays: list[Array], known: Known, packing: Packing, stages: tuple[Stage, ...]
) -> list[Array]:
    """Run these stages, in dense tiles of the samples that wait for them."""
    layout, state_size, batch_size = task.layout, task.network.state_size, len(known.stimuli)
    pack, unpack = packing

    def worked_on(arrays, work, width, *stages):
        size = min(num_factored(width, one_by_one=layout.factors_one_by_one), batch_size)
        is_left = _is_in(unpack(arrays).stage, *stages)

        def packed(arrays, known, is_mine, may_wait):
            return pack(work(task, unpack(arrays), known, is_mine))

        return in_dense_tiles(packed, arrays, known, is_left, (size,))

    if Stage.block in stages and task.has_blocks and task.moves:
        arrays = worked_on(arrays, solve_blocks, min(BLOCK, state_size), Stage.block)
    if Stage.decide in stages:
        others = (Stage.decide,) if task.moves else FACTORIZATIONS  # a block moves its sample to another state
        arrays = worked_on(arrays, decide_rows, state_size, *others)
    return arrays


def _conclude(task: Task, rows: Rows) -> Solved:
    """The verdicts. The residual decides: no state above the tolerance is converged, whatever a stage said."""
    is_finite = jnp.isfinite(rows.residual) & jnp.all(jnp.isfinite(rows.state), axis=1)
    status = jnp.where(rows.stage == Stage.done, rows.status, Status.max_steps_reached)
    status = jnp.where(is_finite | (status == Status.diverging), status, Status.nonfinite)
    is_converged = (status == Status.converged) & (rows.residual < task.tolerance)
    status = jnp.where((status == Status.converged) & ~is_converged, Status.max_steps_reached, status)
    distance = jnp.where(rows.speed > 0, rows.speed / jnp.maximum(rows.decay_rate, 0), 0)
    # Along a direction in which nothing decays, a state that moves at all never comes to rest.
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
    stage = jnp.full(len(known.stimuli), Stage.follow, jnp.int32)
    if task.plan is not None:
        # A plan is made for starts at zero. From elsewhere, sweeps are sure to be right only with one steady state.
        is_swept = jnp.all(known.initial_states == 0, axis=1) | task.plan.starts_anywhere
        stage = jnp.where(is_swept & task.plan.starts_with_sweeps, Stage.sweep, stage)
    rows = blank_rows(known.initial_states)
    rows = rows._replace(
        powers=rows.powers._replace(vectors=jnp.zeros_like(rows.state)).to_be_begun(),
        stage=stage,
        status=jnp.full_like(stage, Status.max_steps_reached),
        residual=rows.residual + jnp.inf,
        largest_step=rows.largest_step + LARGEST_STEP,
        lowest_speed=rows.lowest_speed + jnp.inf,
        rest=rows.rest + SAFETY * task.tolerance,
    )
    return vary_like(rows, known.stimuli)


def _few(is_mine: Bool[Array, " tile"], may_wait: Bool[Array, ""]) -> Int[Array, ""]:
    """How many rows each of three stages may leave for later; few enough that a tile never leaves all its rows."""
    return jnp.where(may_wait, jnp.sum(is_mine, dtype=jnp.int32) // _SHARE_LEFT, 0)
