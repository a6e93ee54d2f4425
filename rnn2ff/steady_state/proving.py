"""Stages of the engine: whether a state is linearly stable, and whether the dynamics are linear from it up to rest."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rnn2ff.compiling import only_after, solve_systems
from rnn2ff.steady_state.field import choose_rows, make_field, max_norm
from rnn2ff.steady_state.linearity import is_linear_ahead
from rnn2ff.steady_state.result import Status
from rnn2ff.steady_state.rows import (
    BLOCK,
    FOUND_BY,
    Known,
    Rows,
    Stage,
    Task,
    active_units,
    has_block,
    restart,
    set_code,
)
from rnn2ff.steady_state.stability import Stability, decay_rates, decide, shrink, transform_powers


def prove_rows(task: Task, rows: Rows, known: Known, few: Int[Array, ""], is_mine: Bool[Array, " tile"]) -> Rows:
    """Apply powers to a random vector until no more than `few` rows are open."""
    field = make_field(task.network, known.stimuli, rows.state)
    powers = shrink(field, rows.state, is_mine, rows.powers, most_open=few)
    stage = jnp.full_like(rows.stage, Stage.decide)
    if task.has_blocks:
        active = active_units(task, field, rows.state, field.velocity(rows.state))
        stage = jnp.where(has_block(task, active), Stage.block, stage)
    stage = jnp.where(powers.is_proved, _after_proof(task), stage)
    ended = rows._replace(stage=stage, decay_rate=decay_rates(field, powers))
    return choose_rows(powers.is_open, rows._replace(powers=powers), ended)


def decide_rows(task: Task, rows: Rows, known: Known, is_mine: Bool[Array, " tile"]) -> Rows:
    """Decide stability by the Cayley transform of the whole Jacobian."""
    field = make_field(task.network, known.stimuli, rows.state)
    stability = decide(field, rows.state, is_mine, one_by_one=task.layout.factors_one_by_one)
    return _judge(task, rows, known, stability)


def solve_blocks(task: Task, rows: Rows, known: Known, is_mine: Bool[Array, " tile"]) -> Rows:
    """The exact fixed point of the active units, and whether it attracts, from their block of the weights."""
    network, params = task.network, task.network.params
    field = make_field(network, known.stimuli, rows.state)
    velocity = field.velocity(rows.state)
    active = active_units(task, field, rows.state, velocity)
    width = min(BLOCK, network.state_size)
    is_small = has_block(task, active)
    units = jnp.argsort(~active, axis=1, stable=True)[:, :width]
    is_unit = jnp.take_along_axis(active, units, axis=1)
    inside = is_unit[:, :, None] & is_unit[:, None, :]
    weights = jnp.where(inside, params.recurrent_weights[units[:, :, None], units[:, None, :]], 0)
    identity = jnp.eye(width, dtype=weights.dtype)[None]
    taus = params.time_constants / jnp.min(params.time_constants)
    unit_taus = jnp.where(is_unit, taus[units], jnp.max(taus))
    stability = transform_powers(
        (weights - identity) / unit_taus[:, :, None],
        jnp.broadcast_to(jnp.max(taus), is_small.shape),
        is_mine & is_small,
        one_by_one=task.layout.factors_one_by_one,
    )
    slowest = 1 / jnp.max(params.time_constants)  # the rate of silent units
    stability = stability._replace(decay_rate=jnp.minimum(stability.decay_rate / field.time_unit, slowest))

    drive = jax.vmap(params.feedforward_input)(known.stimuli)
    driven = jnp.where(is_unit, jnp.take_along_axis(drive, units, axis=1), 0)
    systems = only_after(stability.amplification, identity - weights), driven[..., None]
    solution = solve_systems(*systems, one_by_one=task.layout.factors_one_by_one)[..., 0]
    rates = jnp.zeros_like(drive).at[jnp.arange(len(drive))[:, None], units].set(jnp.where(is_unit, solution, 0))
    total = jax.vmap(params.recurrent_input)(rates) + drive
    exact = jax.vmap(network.state_from_total_input)(total)
    is_consistent = jnp.all((total > 0) == active, axis=1) & is_small
    # If the fixed point is not ahead, the motion still turns. From afar it may yet turn away, since the active units
    # change on the way. The fixed point is near if no perturbation as large as its distance, with all its transient
    # growth, takes the total input to any unit through zero.
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
        stage=jnp.full_like(rows.stage, Stage.done),
        residual=exact_residual,
        speed=max_norm(exact_velocity) / field.time_unit,
        decay_rate=stability.decay_rate,
        status=jnp.full_like(rows.status, Status.converged),
        found_by=jnp.full_like(rows.found_by, FOUND_BY.index("active set")),
    )
    is_decided = ~is_consistent | (is_ahead & (is_near | ~stability.is_stable))
    onward = rows._replace(
        stage=jnp.full_like(rows.stage, Stage.follow),
        tried=jnp.where(is_decided, set_code(active), rows.tried),
        # While undecided, it is tried again at growing intervals.
        num_quiet=jnp.where(is_decided, 0, -rows.num_steps // 8),
    )
    return choose_rows(is_taken, exactly, choose_rows(is_at_rest, _judge(task, rows, known, stability), onward))


def look_ahead(task: Task, rows: Rows, known: Known, few: Int[Array, ""], is_mine: Bool[Array, " tile"]) -> Rows:
    """End rows whose Jacobian holds up to rest; the others go on.

    They go on to a smaller residual, in the way they came. Where that was already aimed at in vain, it is undecided
    whether there is rest ahead; on the host, implicit steps may lead to it (`bends.py`).
    """
    field = make_field(task.network, known.stimuli, rows.state)
    is_lowest = _is_lowest(rows)
    distance = jnp.where(is_mine, rows.speed / rows.decay_rate, 0)
    is_bent = is_mine & ~is_linear_ahead(field, rows.state, distance, is_lowest)
    status = jnp.where(is_bent & is_lowest, Status.undecided, rows.status)
    ended = rows._replace(stage=jnp.full_like(rows.stage, Stage.done), status=status)

    def go_on(ended):
        onward = _follow_on(rows, known)
        if task.plan is not None:
            to_point = jax.vmap(lambda state, stimulus: task.plan.sweep.from_state(task.network, state, stimulus))
            swept = onward._replace(
                state=to_point(rows.state, known.stimuli),
                stage=jnp.full_like(rows.stage, Stage.accelerate),
                powers=rows.powers.to_be_begun(),
            )
            onward = choose_rows(rows.is_followed, onward, swept)
        return choose_rows(is_bent & ~is_lowest, onward, ended)

    return jax.lax.cond(jnp.any(is_bent & ~is_lowest), go_on, lambda ended: ended, ended)


def _judge(task: Task, rows: Rows, known: Known, stability: Stability) -> Rows:
    """End rows that are undecided; those that are unstable go on, and stable ones to `look`."""
    # Where rounding keeps a state from moving any more, the dynamics rest at a point that they would leave.
    is_stuck = rows.is_followed & _is_lowest(rows) & (rows.residual < 4 * jnp.finfo(rows.state.dtype).eps)
    is_left = stability.is_unstable & ~is_stuck & task.moves
    status = jnp.where(stability.is_stable, Status.converged, Status.undecided)
    status = jnp.where(stability.is_unstable, Status.unstable, status)
    stage = jnp.where(stability.is_stable, _after_proof(task), Stage.done)
    ended = rows._replace(stage=stage, status=status, decay_rate=stability.decay_rate)
    return choose_rows(is_left, _follow_on(rows, known), ended)


def _after_proof(task: Task) -> Stage:
    """The stage after a proof of stability. If states may not be moved, there is none."""
    return Stage.look if task.moves else Stage.done


def _is_lowest(rows: Rows) -> Bool[Array, " tile"]:
    """Whether the dynamics ended above the residual that was aimed at: it falls no further, or steps ran out."""
    return rows.residual >= rows.rest


def _follow_on(rows: Rows, known: Known) -> Rows:
    """Follow the dynamics to a smaller residual; from the initial state, if they did not lead here."""
    onward = rows._replace(
        stage=jnp.full_like(rows.stage, Stage.follow),
        rest=0.1 * rows.residual,
        step=jnp.zeros_like(rows.step),
        num_quiet=jnp.zeros_like(rows.num_quiet),
    )
    return restart(onward, known, ~rows.is_followed)
