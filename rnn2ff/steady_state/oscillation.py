"""What becomes of a motion that did not come to rest: rest after all, a cycle and its period, chaos, or growth.

A cycle is a motion that comes back to where it was, again and again. Where it was is a reference state, whose section
is the plane through it normal to the velocity there. A spiral that decays slowly also comes nearly back; what tells it
apart is that the gaps of its returns add up. And a cycle that does not attract is not where the motion ends: so a cycle
is believed once the motion, pushed off a little, has come back to it.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Scalar

from rnn2ff.networks.base import RecurrentNetwork, residual

# Dormand and Prince, A family of embedded Runge-Kutta formulae, 1980. Rows: the stages; the last is the step itself.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
# The state in the middle of a step (Shampine, Some practical Runge-Kutta formulas, 1986).
_MIDDLE = (
    6025192743 / 60171106304,
    0.0,
    51252292925 / 130801643196,
    -2691868925 / 90256659456,
    187940372067 / 3189068634112,
    -1776094331 / 39487288512,
    11237099 / 470086768,
)

_REST_SAFETY = 0.5  # a residual recomputed with other rounding still meets the tolerance
_ESCAPE = 1e8  # growth by this factor is growth without bound
_LONGEST_STEP = 4.0  # times in this block count in the longest time constant
_FIRST_LIFETIME = 32.0  # of a reference that nothing returned to; each of the next lives twice as long
_SHORTEST_EVIDENCE = 10.0  # of returns, for a cycle
_SHORTEST_WATCH = 250.0  # for a verdict on a motion that is not periodic
_LARGEST_TREND = 0.4  # of the logarithm of its speed
_SURE_TREND = 4.0  # standard errors
_FEWEST_RETURNS = 2  # before the push
_FEWEST_RETURNS_PUSHED = 4
_PUSH = 5e-4  # of the size of the motion
_LARGEST_REMAINDER = 3e-3  # how far a cycle may still have to drift, as a fraction of its size
_LARGEST_DRIFT_OF_PERIOD = 2e-3
_LATE = 1.3  # a return this many periods after the last one was missed
_NEAR_MISS = 0.1  # of the size of the motion: worth a new reference, there
_NUM_WINDOWS = 16
_WINDOWS = np.arange(_NUM_WINDOWS, dtype=np.int32)
_FEWEST_TURNS = 8


class Motion(eqx.Module):
    """Where the dynamics go. At most one verdict is True; if none is, what was seen does not decide.

    Attributes:
        is_at_rest: the residual fell below the tolerance, perhaps at a saddle: stability is for others to judge.
        is_oscillating: the motion stays in bounds and does not slow down: a cycle, or chaos.
        is_diverging: the state grew by many orders of magnitude.
        period: of the cycle, in the network's unit of time; NaN where no period was confirmed.
        state: the last state.
        residual: of the last state.
        num_steps: steps of time, also those that were refused.
    """

    is_at_rest: Bool[Array, ""]
    is_oscillating: Bool[Array, ""]
    is_diverging: Bool[Array, ""]
    period: Float[Array, ""]
    state: Float[Array, " state"]
    residual: Float[Array, ""]
    num_steps: Int[Array, ""]


class _Precision(NamedTuple):
    """What a dtype can resolve, as fractions of the size of the motion unless said otherwise."""

    of_step: float  # local error
    of_return: float  # drift within this is not seen
    near: float  # a return ends within this distance of the reference, or nearer where that is ambiguous
    nearest: float
    of_rounding: float  # as a fraction of the state


def _precision(dtype: jnp.dtype) -> _Precision:
    rounding = float(jnp.finfo(dtype).eps)
    if jnp.finfo(dtype).bits > 32:
        return _Precision(1e-6, 2e-4, 1e-2, 1e-3, rounding)
    return _Precision(3e-6, 4e-4, 1e-2, 4e-3, rounding)


class _Reference(eqx.Module):
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


class _Windows(eqx.Module):
    """Distance traveled and turns taken in equal windows of time. When all are full, neighbors are merged."""

    path_length: Float[Array, " window"]
    longest_move: Float[Array, " window"]  # in one step, by the unit that moved most
    num_turns: Float[Array, " window"]
    width: Scalar
    direction: Float[Array, " state"]  # of the motion after the last turn

    def add(self, time: Scalar, moved: Float[Array, " state"], velocity: Float[Array, " state"]) -> "_Windows":
        """One more step, which ended at this time."""
        is_turn = jnp.vdot(velocity, self.direction) <= 0
        is_full = time >= _NUM_WINDOWS * self.width
        width = jnp.where(is_full, 2 * self.width, self.width)
        is_now = ((time / width).astype(jnp.int32) == _WINDOWS).astype(moved.dtype)

        def merge(counts: Float[Array, " window"], over=jnp.sum) -> Float[Array, " window"]:
            merged = over(counts.reshape(-1, 2), axis=1)
            return jnp.where(is_full, jnp.concatenate([merged, jnp.zeros_like(merged)]), counts)

        longest_move = jnp.maximum(merge(self.longest_move, jnp.max), is_now * jnp.max(jnp.abs(moved)))
        return _Windows(
            path_length=merge(self.path_length) + is_now * jnp.linalg.norm(moved),
            longest_move=longest_move,
            num_turns=merge(self.num_turns) + is_now * is_turn.astype(moved.dtype),
            width=width,
            direction=jnp.where(is_turn, velocity, self.direction),
        )

    def keep_moving(self, time: Scalar, jitter: Scalar) -> Bool[Array, ""]:
        """Whether the motion turns again and again, its speed shows no trend, and it is more than jitter."""
        num_full = (time / self.width).astype(jnp.int32)
        is_used = ((num_full > _WINDOWS) & (num_full // 4 <= _WINDOWS)).astype(time.dtype)
        num_used = is_used.sum()
        log_speed = jnp.log(jnp.maximum(self.path_length, jnp.finfo(time.dtype).tiny))
        when = jnp.asarray(_WINDOWS, time.dtype)
        when = (when - (is_used * when).sum() / num_used) * is_used
        deviation = (log_speed - (is_used * log_speed).sum() / num_used) * is_used
        slope = (when * deviation).sum() / (when**2).sum()
        scatter = jnp.sum((deviation - slope * when) ** 2) / (num_used - 2)
        trend, uncertainty = jnp.abs(slope) * num_used, jnp.sqrt(scatter / (when**2).sum()) * num_used
        has_trend = (trend > _LARGEST_TREND) | ((trend > _SURE_TREND * uncertainty) & (trend > 1e-2))
        is_seen = jnp.min(jnp.where(is_used > 0, self.longest_move, jnp.inf)) > jitter
        return ~has_trend & is_seen & (num_used >= 6) & ((is_used * self.num_turns).sum() >= _FEWEST_TURNS)


class _Carry(eqx.Module):
    state: Float[Array, " state"]
    velocity: Float[Array, " state"]
    time: Scalar
    step: Scalar  # of time
    num_steps: Int[Array, ""]
    reference: _Reference
    windows: _Windows
    is_at_rest: Bool[Array, ""]
    is_diverging: Bool[Array, ""]


def observe_motion(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    state: Float[Array, " state"],
    *,
    tolerance: float,
    max_time: float = 1000.0,
    max_steps: int = 8192,
    is_needed: Bool[Array, ""] | bool = True,
) -> Motion:
    """Follow the dynamics from a state that is not at rest, until it is clear where they go.

    A verdict needs evidence. A cycle is one whose returns to a reference state were confirmed at least twice, and after
    a push of less than a thousandth of its size four times again, over at least ten of the longest time constant,
    without a drift that would add up to more than a fraction of the cycle. A motion without a period counts as
    oscillating if all of the time given, and at least 250 of the longest time constant, shows no trend of its speed.
    What decays, or grows, slowly is undecided until it arrives. No finite time tells chaos that lasts from chaos that
    will die out.

    Args:
        network: the network.
        stimulus: the stimulus.
        state: where to start, e.g. the end of a search. The nearer to the end of the transient, the less it costs.
        tolerance: the largest residual that counts as rest.
        max_time: how long to follow the dynamics, in units of the longest time constant.
        max_steps: of time, refused ones included.
        is_needed: where False nothing is done, and under `vmap` that costs nothing if no sample needs it.
    """
    precision = _precision(state.dtype)
    is_needed = jnp.asarray(is_needed)
    slowest, fastest = jnp.max(network.time_constants), jnp.min(network.time_constants)
    state_scale = 1 + jnp.max(jnp.abs(state)) + jnp.max(jnp.abs(stimulus))

    def is_undecided(carry: _Carry) -> Array:
        is_decided = carry.is_at_rest | carry.is_diverging | ~jnp.isnan(carry.reference.period)
        is_in_budget = (carry.time < max_time * slowest) & (carry.num_steps < max_steps) & (carry.step > 0)
        return is_needed & ~is_decided & is_in_budget

    def advance(carry: _Carry) -> _Carry:
        state, step, reference = carry.state, carry.step, carry.reference
        velocities = [carry.velocity]
        for row in _STAGES:
            velocities.append(network.velocity(state + step * _combine(row, velocities), stimulus))
        moved = step * _combine(_STAGES[-1], velocities)
        arrived, velocity = state + moved, velocities[-1]

        # The error is measured by the motion, not by the state: a small cycle around a large state is still a cycle.
        # And by the step itself, so that the errors die out together with a motion that comes to rest.
        size = jnp.maximum(reference.size, reference.previous_size)
        allowed = precision.of_step * jnp.minimum(size, 100 * jnp.max(jnp.abs(moved)))
        allowed = jnp.maximum(allowed, precision.of_rounding * (1 + jnp.max(jnp.abs(state))))
        error = jnp.max(jnp.abs(step * _combine(_ERROR, velocities))) / allowed
        is_finite = jnp.isfinite(error) & jnp.all(jnp.isfinite(velocity))
        is_accepted = is_finite & (error <= 1)
        factor = jnp.where(is_finite, jnp.clip(0.9 * jnp.maximum(error, 1e-10) ** -0.2, 0.2, 5.0), 0.2)

        middle = state + step * _combine(_MIDDLE, velocities)
        new_reference = _follow(
            reference, state, middle, arrived, carry.velocity, velocity, step, precision, slowest=slowest
        )
        time = carry.time + step
        new = _Carry(
            state=arrived,
            velocity=velocity,
            time=time,
            step=step,
            num_steps=carry.num_steps,
            reference=new_reference,
            windows=carry.windows.add(time, moved, velocity),
            is_at_rest=residual(network, arrived, stimulus) < _REST_SAFETY * tolerance,
            is_diverging=jnp.max(jnp.abs(arrived)) > _ESCAPE * state_scale,
        )
        new = jax.tree.map(lambda new, old: jnp.where(is_accepted, new, old), new, carry)
        return eqx.tree_at(
            lambda carry: (carry.step, carry.num_steps),
            new,
            (jnp.minimum(factor * step, _LONGEST_STEP * slowest), carry.num_steps + 1),
        )

    def observe(carry: _Carry) -> _Carry:
        reference = carry.reference
        is_found = ~jnp.isnan(reference.period)
        push = jnp.asarray(_push(state.size), state.dtype) * (_PUSH * reference.size)
        pushed = jnp.where(is_found, carry.state + push, carry.state)
        velocity = network.velocity(pushed, stimulus)
        again = _new_reference(
            pushed,
            velocity,
            near=reference.near,
            lifetime=jnp.maximum(reference.lifetime, 2 * reference.period),
            previous_size=reference.size,
            nearest_miss=zero,  # it has arrived, and need not move along
            is_pushed=True,
        )
        reference = jax.tree.map(lambda new, old: jnp.where(is_found, new, old), again, reference)
        start = eqx.tree_at(
            lambda carry: (carry.state, carry.velocity, carry.reference), carry, (pushed, velocity, reference)
        )
        return jax.lax.while_loop(is_undecided, advance, start)

    def is_unfinished(carry: _Carry) -> Array:
        is_found = ~jnp.isnan(carry.reference.period) & ~carry.reference.is_pushed
        return is_needed & (carry.num_steps < max_steps) & (is_found | (carry.num_steps == 0)) & (carry.step > 0)

    zero = jnp.zeros((), state.dtype)
    no_windows = jnp.zeros(_NUM_WINDOWS, state.dtype)
    velocity = network.velocity(state, stimulus)
    start_residual = residual(network, state, stimulus)
    start = _Carry(
        state=state,
        velocity=velocity,
        time=zero,
        step=jnp.where(jnp.isfinite(start_residual) & (start_residual >= tolerance), 1e-2 * fastest, 0),
        num_steps=jnp.zeros((), jnp.int32),
        reference=_new_reference(
            state,
            velocity,
            near=zero + precision.near,
            lifetime=_FIRST_LIFETIME * slowest,
            previous_size=zero,
            nearest_miss=zero + jnp.inf,
        ),
        windows=_Windows(no_windows, no_windows, no_windows, _LONGEST_STEP * slowest, velocity),
        is_at_rest=jnp.zeros((), bool),
        is_diverging=jnp.zeros((), bool),
    )
    end = jax.lax.while_loop(is_unfinished, observe, start)

    last_residual = residual(network, end.state, stimulus)
    is_at_rest = is_needed & (last_residual < tolerance)
    is_periodic = ~jnp.isnan(end.reference.period) & end.reference.is_pushed
    # Rounding, once a step, can sustain a motion that decays over some hundreds of steps.
    jitter = 2000 * precision.of_rounding * (1 + jnp.max(jnp.abs(end.state)))
    is_lasting = end.windows.keep_moving(end.time, jitter) & (end.time >= _SHORTEST_WATCH * slowest)
    is_oscillating = ~is_at_rest & ~end.is_diverging & (is_periodic | is_lasting) & is_needed
    return Motion(
        is_at_rest=is_at_rest,
        is_oscillating=is_oscillating,
        is_diverging=end.is_diverging & ~is_at_rest,
        period=jnp.where(is_oscillating & is_periodic, end.reference.period, jnp.nan),
        state=end.state,
        residual=last_residual,
        num_steps=end.num_steps,
    )


def _follow(
    reference: _Reference,
    start: Float[Array, " state"],
    middle: Float[Array, " state"],
    end: Float[Array, " state"],
    start_velocity: Float[Array, " state"],
    end_velocity: Float[Array, " state"],
    step: Scalar,
    precision: _Precision,
    *,
    slowest: Scalar,
) -> _Reference:
    """The reference after one more step: returns are counted, and a reference that has served is replaced."""
    lowest, highest = jnp.minimum(reference.lowest, end), jnp.maximum(reference.highest, end)
    size = jnp.max(highest - lowest)
    age = reference.age + step
    path_length = reference.path_length + jnp.linalg.norm(end - start)

    # Where the step crosses the section, by a quartic.
    def height(state: Array) -> Scalar:
        return jnp.vdot(reference.normal, state - reference.state)

    polynomial = _quartic(
        height(start),
        height(middle),
        height(end),
        step * jnp.vdot(reference.normal, start_velocity),
        step * jnp.vdot(reference.normal, end_velocity),
    )
    is_crossing = (height(start) < 0) & (height(end) >= 0)
    fraction = _root(polynomial)
    crossing = _evaluate(_quartic(start, middle, end, step * start_velocity, step * end_velocity), fraction)
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

    continued = _Reference(
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
    replacement = _new_reference(
        end,
        end_velocity,
        near=jnp.where(is_irregular, jnp.maximum(reference.near / 3, precision.nearest), reference.near),
        lifetime=jnp.where(is_expired, 2 * reference.lifetime, reference.lifetime),
        previous_size=size,
        nearest_miss=jnp.where(is_near_miss, distance, jnp.inf),
    )
    return jax.tree.map(lambda new, old: jnp.where(is_replaced, new, old), replacement, continued)


def _new_reference(
    state: Float[Array, " state"],
    velocity: Float[Array, " state"],
    *,
    near: Scalar,
    lifetime: Scalar,
    previous_size: Scalar,
    nearest_miss: Scalar,
    is_pushed: bool = False,
) -> _Reference:
    zero = jnp.zeros((), state.dtype)
    return _Reference(
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


def _push(size: int) -> np.ndarray:
    """A direction with no relation to any network."""
    return np.random.default_rng(0).uniform(-1, 1, size)


def _combine(weights: tuple[float, ...], velocities: list[Float[Array, " state"]]) -> Float[Array, " state"]:
    return sum(weight * velocity for weight, velocity in zip(weights, velocities) if weight)


def _quartic(start: Array, middle: Array, end: Array, start_slope: Array, end_slope: Array) -> tuple[Array, ...]:
    """The coefficients, constant first, of the quartic on [0, 1] with these values and slopes."""
    return (
        start,
        start_slope,
        -11 * start + 16 * middle - 5 * end - 4 * start_slope + end_slope,
        18 * start - 32 * middle + 14 * end + 5 * start_slope - 3 * end_slope,
        -8 * start + 16 * middle - 8 * end - 2 * start_slope + 2 * end_slope,
    )


def _evaluate(coefficients: tuple[Array, ...], where: Scalar) -> Array:
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = value * where + coefficient
    return value


def _root(coefficients: tuple[Array, ...]) -> Scalar:
    """Where a polynomial that is negative at 0 and not at 1 crosses zero, by bisection and a step of Newton's."""
    lower = jnp.zeros_like(coefficients[0])
    width = 1.0
    for _ in range(8):
        width /= 2
        lower = jnp.where(_evaluate(coefficients, lower + width) < 0, lower + width, lower)
    root = lower + width / 2
    slopes = tuple(order * coefficient for order, coefficient in enumerate(coefficients) if order)
    for _ in range(2):
        slope = _evaluate(slopes, root)
        slope = jnp.where(slope == 0, 1, slope)
        root = jnp.clip(root - _evaluate(coefficients, root) / slope, lower, lower + width)
    return root
