"""Stage of the engine: the dynamics themselves, by third-order steps whose size follows their local error."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from rnn2ff._checks import smallest_tolerance
from rnn2ff.networks import RateNetwork
from rnn2ff.steady_state.field import choose_rows, make_field, max_norm
from rnn2ff.steady_state.result import Status
from rnn2ff.steady_state.rows import (
    FOUND_BY,
    LOCAL_ERROR,
    SAFETY,
    Known,
    Rows,
    Stage,
    Task,
    active_units,
    has_block,
    next_at_rest,
    set_code,
)
from rnn2ff.steady_state.tiles import packing_of, vary_like

_FIRST_STEP = 0.01  # in units of the shortest time scale
_LONGEST_THIRD, _LONGEST_SECOND = 0.2, 0.45  # beyond, a step of that order is less stable than one of the next lower
_SHORTEST_LARGEST_STEP = 0.02  # unstable steps reduce the largest step no further
# Bound on second differences of the velocity, relative to it: Euler steps h have |h z|^2 for an eigenvalue z, and a
# decaying mode that such steps make grow has |h z|^2 > 2 h |Re z|. A mode below the bound grows, or hardly decays.
_STRAIGHT = 0.03
_PROGRESS, _MOST_STALE = 0.97, 32  # a speed not lowered to this share within this many pairs of steps is not falling
_QUIET = 64  # pairs of steps with the same active units, after which their exact fixed point is worth solving for
_ESCAPE = 1e8  # growth beyond 1 + max |u| + max |x0| by this factor is divergence


class _Motion(NamedTuple):
    """Rows that are followed: the fields of `Rows` that change in each step, and those listed here.

    Attributes:
        velocity: at the state.
        before: velocity one step earlier.
        earlier: velocity two steps earlier.
        bend: largest second difference of the three velocities.
        size: `max |x|`.
        num_stale: pairs of long steps since the speed fell.
        active: a hash of the active units.
        is_open: whether the row needs more steps.
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


class _Weights(NamedTuple):
    """Weights in a step of the current velocity, the one before, and the one before that."""

    now: Float[Array, " tile"]
    before: Float[Array, " tile"]
    earlier: Float[Array, " tile"]

    def __call__(self, now, before, earlier) -> Float[Array, "tile state"]:
        return self.now[:, None] * now + self.before[:, None] * before + self.earlier[:, None] * earlier


def _multistep(step: Float[Array, " tile"], last: Float[Array, " tile"]) -> tuple[_Weights, _Weights]:
    """Adams-Bashforth weights of two steps of one size, the first and the second after two steps of size `last`.

    Each integrates the polynomial through the last three velocities. Without its second difference the step is of
    second order; without the first difference as well, it is an Euler step.
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
    """The longest step whose third-order term, `h^2 (h / 6 + h_last / 4) |v''|`, is within the bound."""
    last = motion.step
    bend = jnp.maximum(motion.bend / (last * last * (1 + motion.size)), 1e-12)  # v'', relative
    shorter = jnp.cbrt(2.4 * LOCAL_ERROR / bend)  # if all steps have one size
    longer = jnp.sqrt(LOCAL_ERROR / (bend * (shorter / 6 + last / 4)))
    step = jnp.where(shorter < last, shorter, longer)
    return jnp.minimum(step, jnp.minimum(2 * last, motion.largest_step))


def follow_rows(task: Task, rows: Rows, known: Known, few: Int[Array, ""], is_mine: Bool[Array, " tile"]) -> Rows:
    """Take time steps until no more than `few` rows are moving."""
    field = make_field(task.network, known.stimuli, rows.state)
    bound = _ESCAPE * (1 + max_norm(known.stimuli) + max_norm(known.initial_states))
    is_begun = rows.step > 0
    velocity = field.velocity(rows.state)

    def active_set(states, velocity):
        if not task.has_blocks:
            return jnp.zeros(len(states), jnp.uint32)
        active = active_units(task, field, states, velocity)
        return jnp.where(has_block(task, active), set_code(active), 0)

    def goes_on(arrays):
        return jnp.sum(unpack(arrays).is_open, dtype=jnp.int32) > few

    def two_steps(arrays):
        motion = unpack(arrays)
        state, velocity = motion.state, motion.velocity
        # A step of 1 is an Euler step; for a map, it is the map itself.
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
        # A velocity that turns from step to step without shrinking shows that steps are too long to be stable, which
        # the local error, small near a fixed point, does not show. So does one that grows at the largest step while it
        # bends. One that grows without bending leaves a saddle.
        is_turning = bend > 0.5 * speed
        is_straight = bend < _STRAIGHT * speed
        is_growing = (step >= 0.99 * motion.largest_step) & ~(speed < 2 * motion.lowest_speed) & ~is_straight
        # A state that is at rest by the tolerance goes on only as far as rounding allows, of which these may be signs.
        is_small = residual < SAFETY * task.tolerance
        is_too_long = ((is_turning & (speed > 0.9 * motion.speed)) | is_growing) & ~is_small
        # So does one that neither grows nor shrinks, as low-order steps can sustain a spiral that would die out.
        lowest = jnp.minimum(speed, motion.lowest_speed)
        is_lower = (speed < _PROGRESS * motion.lowest_speed) | ((step <= _LONGEST_THIRD) & ~is_small)
        num_stale = jnp.where(is_lower | is_too_long, 0, motion.num_stale + 1)
        is_stale = num_stale >= _MOST_STALE
        shorter = 0.75 * jnp.minimum(step, motion.largest_step)
        largest_step = jnp.where(is_too_long, jnp.maximum(shorter, _SHORTEST_LARGEST_STEP), motion.largest_step)
        largest_step = jnp.where(is_stale, jnp.maximum(shorter, _LONGEST_THIRD), largest_step)
        active = active_set(arrived, velocity_arrived)
        is_quiet = (active == motion.active) & (active > 0) & (active != rows.tried)
        num_quiet = jnp.where(is_quiet, motion.num_quiet + 1, 0)
        # Once the state is no longer at rest, it has left that fixed point, and the usual threshold applies.
        rest = jnp.where(residual > task.tolerance, SAFETY * task.tolerance, motion.rest)
        num_steps = motion.num_steps + 2
        size = max_norm(arrived)
        is_escaped = ~(size < bound)
        is_lowest = is_small & is_stale & ~(is_straight & (speed > motion.lowest_speed))
        ends = is_escaped | is_lowest | (num_steps >= task.max_steps) | (num_quiet >= _QUIET)
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
            is_open=(residual >= rest) & ~ends,
        )
        # Rows that are done have not moved, so whole states need no selection.
        same = motion._replace(state=arrived, velocity=velocity_arrived, before=velocity_between, earlier=velocity)
        return choose_rows(motion.is_open, pack(new), pack(same))

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
    pack, unpack = packing_of(start)
    end = unpack(jax.lax.while_loop(goes_on, two_steps, vary_like(pack(start), rows.state)))
    if not isinstance(task.network, RateNetwork):
        # Time scales that a network does not declare depend on the state.
        field = make_field(task.network, known.stimuli, end.state)
        velocity = jax.vmap(task.network.velocity)(end.state, known.stimuli) * field.time_unit[:, None]
        end = end._replace(velocity=velocity, residual=field.residual(end.state, velocity))
    is_escaped = ~(max_norm(end.state) < bound)
    is_out = end.num_steps >= task.max_steps
    # A residual below the rounding error need not be reached.
    smallest = jnp.where(is_out, smallest_tolerance(rows.state.dtype), SAFETY * task.tolerance)
    is_lowest = ~end.is_open & (end.num_quiet < _QUIET) & (end.residual < smallest)
    is_at_rest = (end.residual < end.rest) | is_lowest
    stage = jnp.where(end.num_quiet >= _QUIET, Stage.block, Stage.follow)
    stage = jnp.where(is_out | is_escaped, Stage.done, stage)
    stage = jnp.where(is_at_rest & ~is_escaped, next_at_rest(task, end.state), stage)
    is_finite = jnp.all(jnp.isfinite(end.state), axis=1)
    status = jnp.where(is_escaped, jnp.where(is_finite, Status.diverging, Status.nonfinite), Status.max_steps_reached)
    return rows._replace(
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
        powers=rows.powers.to_be_begun(),
    )
