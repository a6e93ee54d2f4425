"""What becomes of a motion that did not come to rest: rest after all, a cycle and its period, chaos, or growth.

A cycle is a motion that comes back to where it was, again and again (`returns.py`). One that does not attract is not
where the motion ends: so a cycle is believed once the motion, pushed off a little, has come back to it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Scalar

from rnn2ff.networks.base import RecurrentNetwork, residual
from rnn2ff.steady_state.returns import Reference, follow_returns, new_reference, precision_of
from rnn2ff.steady_state.runge_kutta import take_step

_REST_SAFETY = 0.5  # a residual recomputed with other rounding still meets the tolerance
_ESCAPE = 1e8  # growth by this factor is growth without bound
_LONGEST_STEP = 4.0  # times in this block count in the longest time constant
_FIRST_LIFETIME = 32.0  # of a reference that nothing returned to; each of the next lives twice as long
_SHORTEST_WATCH = 250.0  # for a verdict on a motion that is not periodic
_LARGEST_TREND = 0.4  # of the logarithm of its speed
_SURE_TREND = 4.0  # standard errors
_PUSH = 5e-4  # of the size of the motion
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
    reference: Reference
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
    precision = precision_of(state.dtype)
    is_needed = jnp.asarray(is_needed)
    slowest, fastest = jnp.max(network.time_constants), jnp.min(network.time_constants)
    state_scale = 1 + jnp.max(jnp.abs(state)) + jnp.max(jnp.abs(stimulus))

    def is_undecided(carry: _Carry) -> Array:
        is_decided = carry.is_at_rest | carry.is_diverging | ~jnp.isnan(carry.reference.period)
        is_in_budget = (carry.time < max_time * slowest) & (carry.num_steps < max_steps) & (carry.step > 0)
        return is_needed & ~is_decided & is_in_budget

    def advance(carry: _Carry) -> _Carry:
        state, step, reference = carry.state, carry.step, carry.reference
        moved, velocity, difference, middle = take_step(
            lambda state: network.velocity(state, stimulus), state, carry.velocity, step
        )
        arrived = state + moved

        # The error is measured by the motion, not by the state: a small cycle around a large state is still a cycle.
        # And by the step itself, so that the errors die out together with a motion that comes to rest.
        size = jnp.maximum(reference.size, reference.previous_size)
        allowed = precision.of_step * jnp.minimum(size, 100 * jnp.max(jnp.abs(moved)))
        allowed = jnp.maximum(allowed, precision.of_rounding * (1 + jnp.max(jnp.abs(state))))
        error = jnp.max(jnp.abs(difference)) / allowed
        is_finite = jnp.isfinite(error) & jnp.all(jnp.isfinite(velocity))
        is_accepted = is_finite & (error <= 1)
        factor = jnp.where(is_finite, jnp.clip(0.9 * jnp.maximum(error, 1e-10) ** -0.2, 0.2, 5.0), 0.2)

        followed = follow_returns(
            reference, state, middle, arrived, carry.velocity, velocity, step, precision, slowest=slowest
        )
        time = carry.time + step
        new = _Carry(
            state=arrived,
            velocity=velocity,
            time=time,
            step=step,
            num_steps=carry.num_steps,
            reference=followed,
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
        again = new_reference(
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
        reference=new_reference(
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


def _push(size: int) -> np.ndarray:
    """A direction with no relation to any network."""
    return np.random.default_rng(0).uniform(-1, 1, size)
