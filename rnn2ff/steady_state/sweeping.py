"""Stages of the engine: fixed-cost sweeps toward a fixed point, plain, and with Anderson acceleration."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn2ff.steady_state.field import make_field, max_norm
from rnn2ff.steady_state.result import Status
from rnn2ff.steady_state.rows import FOUND_BY, MEMORY, SAFETY, Known, Rows, Stage, Task, next_at_rest, restart
from rnn2ff.steady_state.solvers.anderson import begin_history, through_memory
from rnn2ff.steady_state.tiles import vary_like

_SWEEPS_PER_CHECK, _MOST_SWEEPS, _WORTH = 3, 30, 9.0  # plain sweeps; how many more are worth waiting for
_MOST_ACCELERATIONS = 16  # how often the memory is filled


def sweep_rows(task: Task, rows: Rows, known: Known, few: Int[Array, ""], is_mine: Bool[Array, " tile"]) -> Rows:
    """Take plain sweeps as long as more than `few` rows are about to converge."""
    network, sweep = task.network, task.plan.sweep
    is_zero = jnp.all(known.initial_states == 0, axis=1)
    drives = jax.vmap(lambda stimulus: sweep.drive(network, stimulus))(known.stimuli)
    starts = jax.vmap(lambda drive: sweep.start(network, drive))(drives)

    def from_states(starts):
        own_starts = jax.vmap(lambda state, stimulus: sweep.from_state(network, state, stimulus))(*known[::-1])
        return jnp.where(is_zero[:, None], starts, own_starts)

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

    ones = jnp.ones_like(rows.residual)
    start = vary_like((starts, ones * jnp.inf, ones, jnp.zeros((), jnp.int32)), starts)
    points, _, _, num_sweeps = jax.lax.while_loop(goes_on, check, start)
    return _arrive(task, rows, known, points, FOUND_BY[0])._replace(num_steps=rows.num_steps + num_sweeps)


def accelerate_rows(task: Task, rows: Rows, known: Known, few: Int[Array, ""], is_mine: Bool[Array, " tile"]) -> Rows:
    """Anderson acceleration of the sweeps; rows that do not converge are followed from the initial state."""
    network, sweep = task.network, task.plan.sweep
    drives = jax.vmap(lambda stimulus: sweep.drive(network, stimulus))(known.stimuli)

    def goes_on(carry):
        _, _, is_open, num_turns = carry
        return (jnp.sum(is_open, dtype=jnp.int32) > few) & (num_turns < _MOST_ACCELERATIONS)

    def turn(carry):
        points, histories, is_open, num_turns = carry
        new, histories = jax.vmap(functools.partial(through_memory, sweep, network))(drives, points, histories)
        is_close = max_norm(histories.step) * sweep.velocity_per_step < rows.rest * (1 + max_norm(new))
        points = jnp.where(is_open[:, None], new, points)
        is_open = is_open & ~is_close & jnp.all(jnp.isfinite(new), axis=1)
        return points, histories, is_open, num_turns + 1

    images = jax.vmap(lambda drive, point: sweep(network, drive, point))(drives, rows.state)
    histories = jax.vmap(lambda point, image: begin_history(point, image, MEMORY))(rows.state, images)
    start = vary_like((images, histories, is_mine, jnp.zeros((), jnp.int32)), rows.state)
    points, _, is_open, num_turns = jax.lax.while_loop(goes_on, turn, start)
    # A final plain sweep removes the rounding errors of the combination.
    points = jax.vmap(lambda drive, point: sweep(network, drive, point))(drives, points)
    arrived = _arrive(task, rows, known, points, FOUND_BY[1])
    is_given_up = (num_turns >= _MOST_ACCELERATIONS) | ~is_open
    arrived = restart(arrived, known, (arrived.stage == Stage.accelerate) & is_given_up)
    return arrived._replace(num_steps=rows.num_steps + 2 + MEMORY * num_turns)


def _arrive(task: Task, rows: Rows, known: Known, points: Float[Array, "tile state"], by: str) -> Rows:
    """The states that sweeps have reached, and the next stage. Rows still open keep their point in place of a state."""
    network, sweep = task.network, task.plan.sweep
    states = jax.vmap(lambda point: sweep.to_state(network, point))(points)
    field = make_field(network, known.stimuli, states)
    velocity = field.velocity(states)
    residual = field.residual(states, velocity)
    is_at_rest = residual < rows.rest
    stage = jnp.where(is_at_rest, next_at_rest(task, states), Stage.accelerate)
    return rows._replace(
        state=jnp.where(is_at_rest[:, None], states, points),
        stage=stage,
        status=jnp.where(is_at_rest, Status.converged, rows.status),
        residual=residual,
        speed=max_norm(velocity) / field.time_unit,
        decay_rate=jnp.broadcast_to(task.proved_rate, residual.shape),
        found_by=jnp.full_like(rows.found_by, FOUND_BY.index(by)),
    )
