"""Does a motion come back to where it was, again and again, and after how long?

Where it was is a reference state, whose section is the plane through it normal to the velocity there. A spiral that
decays slowly also comes nearly back; what tells it apart is that the gaps of its returns add up.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Scalar

from rnn2ff.steady_state.runge_kutta import evaluate, quartic, root_of

_SHORTEST_EVIDENCE = 10.0  # of returns, for a cycle, in the longest time constant
_FEWEST_RETURNS = 2  # before the push
_FEWEST_RETURNS_PUSHED = 4
_LARGEST_REMAINDER = 3e-3  # how far a cycle may still have to drift, as a fraction of its size
_LARGEST_DRIFT_OF_PERIOD = 2e-3
_LATE = 1.3  # a return this many periods after the last one was missed
_NEAR_MISS = 0.1  # of the size of the motion: worth a new reference, there


class Precision(NamedTuple):
    """What a dtype can resolve, as fractions of the size of the motion unless said otherwise."""

    of_step: float  # local error
    of_return: float  # drift within this is not seen
    near: float  # a return ends within this distance of the reference, or nearer where that is ambiguous
    nearest: float
    of_rounding: float  # as a fraction of the state


def precision_of(dtype: jnp.dtype) -> Precision:
    """What float64, or a shorter dtype, can resolve."""
    rounding = float(jnp.finfo(dtype).eps)
    if jnp.finfo(dtype).bits > 32:
        return Precision(1e-6, 2e-4, 1e-2, 1e-3, rounding)
    return Precision(3e-6, 4e-4, 1e-2, 4e-3, rounding)


class Reference(eqx.Module):
    """A state, what happened since it was left, and the returns to it."""

    state: Float[Array, " state"]
    normal: Float[Array, " state"]  # of the section
    lowest: Float[Array, " state"]
    highest: Float[Array, " state"]
    age: Scalar
    path_length: Scalar
    near: Scalar  # a return ends within this distance, as a fraction of the size
    lifetime: Scalar
    previous_size: Scalar  # of the motion, as the reference before this one saw it
    nearest_miss: Scalar
    num_returns: Int[Array, ""]
    first_return: Scalar  # ages
    last_return: Scalar
    halfway_return: Scalar  # at the last power of two
    halfway_state: Float[Array, " state"]
    first_drift: Scalar  # before halfway
    second_drift: Scalar  # after it
    is_pushed: Bool[Array, ""]  # whether the motion started here with a push, off a cycle
    period: Scalar  # NaN until confirmed

    @property
    def size(self) -> Scalar:
        """The extent of the motion since the reference was left, by the unit that moved most."""
        return jnp.max(self.highest - self.lowest)


def follow_returns(
    reference: Reference,
    start: Float[Array, " state"],
    middle: Float[Array, " state"],
    end: Float[Array, " state"],
    start_velocity: Float[Array, " state"],
    end_velocity: Float[Array, " state"],
    step: Scalar,
    precision: Precision,
    *,
    slowest: Scalar,
) -> Reference:
    """The reference after one more step: returns are counted, and a reference that has served is replaced."""
    lowest, highest = jnp.minimum(reference.lowest, end), jnp.maximum(reference.highest, end)
    size = jnp.max(highest - lowest)
    age = reference.age + step
    path_length = reference.path_length + jnp.linalg.norm(end - start)

    # Where the step crosses the section, by a quartic.
    def height(state: Array) -> Scalar:
        return jnp.vdot(reference.normal, state - reference.state)

    polynomial = quartic(
        height(start),
        height(middle),
        height(end),
        step * jnp.vdot(reference.normal, start_velocity),
        step * jnp.vdot(reference.normal, end_velocity),
    )
    is_crossing = (height(start) < 0) & (height(end) >= 0)
    fraction = root_of(polynomial)
    crossing = evaluate(quartic(start, middle, end, step * start_velocity, step * end_velocity), fraction)
    when = reference.age + fraction * step
    distance = jnp.max(jnp.abs(crossing - reference.state))
    is_return = is_crossing & (distance <= reference.near * size)

    # A return on time continues the count; one at another time shows that the reference does not serve.
    num_returns = reference.num_returns + is_return.astype(jnp.int32)
    interval = when - reference.last_return
    is_first = is_return & (num_returns == 1)
    first_return = jnp.where(is_first, when, reference.first_return)
    is_irregular = is_return & ~is_first & (jnp.abs(interval - first_return) > 0.05 * first_return)

    # At each power of two the drift of the second half of the returns is compared with that of the first.
    is_power = is_return & ((num_returns & (num_returns - 1)) == 0)
    # All of them count, or a cycle of two loops that lie close together would pass for one.
    first_drift = reference.first_drift
    drift = jnp.where(is_return, jnp.max(jnp.abs(crossing - reference.halfway_state)), 0)
    second_drift = jnp.maximum(reference.second_drift, drift)
    has_settled = second_drift < precision.of_return * size
    remainder = second_drift**2 / jnp.maximum(first_drift - second_drift, jnp.finfo(step.dtype).tiny)
    is_settling = (second_drift < 0.9 * first_drift) & (remainder < _LARGEST_REMAINDER * size)
    num_half = jnp.maximum(num_returns / 2, 1).astype(step.dtype)
    first_period = reference.halfway_return / num_half
    period = (when - reference.halfway_return) / num_half
    noise = 40 * precision.of_rounding * (1 + jnp.max(jnp.abs(end)))
    is_confirmed = (
        is_power
        & ~is_irregular
        & (num_returns >= jnp.where(reference.is_pushed, _FEWEST_RETURNS_PUSHED, _FEWEST_RETURNS))
        & ((when >= _SHORTEST_EVIDENCE * slowest) | ~reference.is_pushed)
        & (has_settled | is_settling)
        & (jnp.abs(period - first_period) < _LARGEST_DRIFT_OF_PERIOD * period)
        & (precision.nearest * size > noise)
    )

    continued = Reference(
        state=reference.state,
        normal=reference.normal,
        lowest=lowest,
        highest=highest,
        age=age,
        path_length=path_length,
        near=reference.near,
        lifetime=reference.lifetime,
        previous_size=reference.previous_size,
        nearest_miss=reference.nearest_miss,
        num_returns=num_returns,
        first_return=first_return,
        last_return=jnp.where(is_return, when, reference.last_return),
        halfway_return=jnp.where(is_power, when, reference.halfway_return),
        halfway_state=jnp.where(is_power, crossing, reference.halfway_state),
        first_drift=jnp.where(is_power, second_drift, first_drift),
        second_drift=jnp.where(is_power, 0, second_drift),
        is_pushed=reference.is_pushed,
        period=jnp.where(is_confirmed, period, jnp.nan),
    )

    # A cycle that is still approached misses the reference, each time by less: then the reference moves along.
    is_near_miss = (
        is_crossing
        & ~is_return
        & (reference.num_returns == 0)
        & (distance < jnp.minimum(_NEAR_MISS * size, 0.7 * reference.nearest_miss))
    )
    # Otherwise it is replaced in ever longer intervals (Brent), at a state that is left fast enough to time returns.
    is_fast = jnp.linalg.norm(end_velocity) * age >= 0.5 * path_length
    is_expired = (num_returns == 0) & (age > reference.lifetime)
    is_late = (num_returns > 0) & (age - continued.last_return > _LATE * first_return)
    is_overdue = is_expired & (age > 2 * reference.lifetime)
    is_replaced = ~is_confirmed & (is_near_miss | is_irregular | is_overdue | ((is_expired | is_late) & is_fast))
    replacement = new_reference(
        end,
        end_velocity,
        near=jnp.where(is_irregular, jnp.maximum(reference.near / 3, precision.nearest), reference.near),
        lifetime=jnp.where(is_expired, 2 * reference.lifetime, reference.lifetime),
        previous_size=size,
        nearest_miss=jnp.where(is_near_miss, distance, jnp.inf),
    )
    return jax.tree.map(lambda new, old: jnp.where(is_replaced, new, old), replacement, continued)


def new_reference(
    state: Float[Array, " state"],
    velocity: Float[Array, " state"],
    *,
    near: Scalar,
    lifetime: Scalar,
    previous_size: Scalar,
    nearest_miss: Scalar,
    is_pushed: bool = False,
) -> Reference:
    """The reference at a state that is left with this velocity; the other arguments are its fields."""
    zero = jnp.zeros((), state.dtype)
    return Reference(
        state=state,
        normal=velocity / jnp.maximum(jnp.linalg.norm(velocity), jnp.finfo(state.dtype).tiny),
        lowest=state,
        highest=state,
        age=zero,
        path_length=zero,
        near=near,
        lifetime=lifetime,
        previous_size=previous_size,
        nearest_miss=nearest_miss,
        num_returns=jnp.zeros((), jnp.int32),
        first_return=zero,
        last_return=zero,
        halfway_return=zero,
        halfway_state=state,
        first_drift=zero,
        second_drift=zero,
        is_pushed=jnp.asarray(is_pushed),
        period=zero + jnp.nan,
    )
