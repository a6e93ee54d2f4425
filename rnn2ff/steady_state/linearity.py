"""Whether the dynamics are linear between a state of small residual and the rest that it approaches.

Where a fixed point attracts, its slowest mode may still carry a state of small residual far enough to take a unit over
its threshold, after which the state goes elsewhere. So a small residual and a stable Jacobian tell where a state ends
only if that Jacobian holds all the way. Likewise in a bottleneck, where a fixed point is about to appear: a parabola's
Newton steps end at a root only if the velocity is close to linear along the first of them (Kantorovich's theorem).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnn2ff.steady_state.field import Field, max_norm
from rnn2ff.steady_state.tiles import vary_like

REACH = 8.0  # how far ahead is looked, in estimated distances from rest
# Largest deviation from the linear velocity, relative to the velocity at the state. A parabola with a root deviates by
# up to `REACH**2 / 4`; a unit over its threshold by about its share of the motion.
_MOST_BENT = 0.1
# A hidden mode is looked for where its rate is below 1/50 of that of the fastest unit, and the velocity changes over
# three times as fast. With 1/5, networks with Gaussian weights at gain .9 took 1.5 times as long.
_SLOW, _FASTER = 50, 3
_ROUNDING = 8  # rounding errors of a velocity, which are no deviation
_MOVING = 16  # rounding errors of a velocity, above which a unit moves on
# Largest ratio of a velocity that is only rounding to its change when all rates are rounded up or down, by 8 draws: of
# one unit to its largest change, and of the root mean squares over units. In networks in float32 in the state form (10
# to 80 units, excitation and inhibition of 60 to 1,000 times the rates) they were at most 2.7 and 1.5 in 99 of 100
# samples. With fewer units, or where a rate saturates, changes may be too small; a fixed point is then undecided.
_LARGEST_CHANGE, _LARGEST_MEAN, _NUM_ROUNDINGS = 4, 2, 8


def is_linear_ahead(
    field: Field,
    states: Float[Array, "batch state"],
    distance: Float[Array, " batch"],
    is_lowest: Bool[Array, " batch"],
) -> Bool[Array, " batch"]:
    """Whether the Jacobian at a state of small residual holds up to rest, and far beyond.

    Looks along the velocity, as the slowest mode alone is left after a while; where the velocity is still that of
    faster modes, in directions at random.

    Args:
        field: the dynamics.
        states: of small residual.
        distance: the estimated distance from rest, as in `SteadyState`.
        is_lowest: where the residual was followed as far as it falls, or as steps allow. There a state whose velocity
            is hardly larger than rounding, or, of a map, changes by more than half in a step, is at rest, whatever is
            ahead.
    """
    velocity = field.velocity(states)
    fastest, speed = max_norm(velocity), max_norm(field.scales * velocity)

    def deviates(way):
        way = jnp.where(jnp.isfinite(way), way, 0)
        deviation = max_norm(field.deviation(states, way))
        error = jnp.finfo(states.dtype).eps * (1 + max_norm(states + way))
        # Where there is no distance, or no derivative, nothing is known to bend.
        return jnp.isfinite(deviation) & (deviation > _MOST_BENT * speed + _ROUNDING * error)

    def bends_along_a_hidden_mode():
        change = _change_in_a_step(field, states, velocity)
        is_faster = may_hide_a_mode & (change > _FASTER * fastest * fastest / distance)
        ways = (REACH * distance)[None, :, None] * _directions(states)
        return is_faster & jax.lax.cond(
            jnp.any(is_faster), lambda: jnp.any(jax.lax.map(deviates, ways), axis=0), lambda: no
        )

    no = vary_like(jnp.zeros(len(states), bool), states)
    is_bent = deviates((REACH * distance / fastest)[:, None] * velocity)
    may_hide_a_mode = ~is_bent & (distance > _SLOW * fastest)
    is_bent |= jax.lax.cond(jnp.any(may_hide_a_mode), bends_along_a_hidden_mode, lambda: no)
    is_left = is_bent & is_lowest
    is_moving = jax.lax.cond(jnp.any(is_left), lambda: is_left & moves_on(field, states, velocity), lambda: no)
    return ~(is_bent & (~is_lowest | is_moving))


def moves_on(
    field: Field, states: Float[Array, "batch state"], velocity: Float[Array, "batch state"]
) -> Bool[Array, " batch"]:
    """Whether a small velocity, at these states, is more than rounding, and, of a map, lasts for more than a step."""

    def add(sums, signs):
        largest, squares = sums
        change = field.scales * (field.velocity_rounded(states, signs) - velocity)
        return (jnp.maximum(largest, jnp.abs(change)), squares + change**2), None

    none = vary_like(jnp.zeros_like(velocity), velocity)
    (largest, squares), _ = jax.lax.scan(add, (none, none), jnp.asarray(_signs(states, _NUM_ROUNDINGS), states.dtype))
    error = _MOVING * jnp.finfo(states.dtype).eps * (1 + max_norm(states))
    speeds = jnp.abs(field.scales * velocity)
    # Unit by unit, since those whose inputs cancel say nothing about the others; and all together, since rounding does
    # not move many units at once along a mode. What is not a number is not at rest.
    are_slow = speeds <= jnp.maximum(_LARGEST_CHANGE * largest, error[:, None])
    typical = jnp.sqrt(jnp.mean(squares, axis=1) / _NUM_ROUNDINGS)
    is_slow = jnp.sqrt(jnp.mean(speeds**2, axis=1)) <= jnp.maximum(_LARGEST_MEAN * typical, error)
    is_moving = ~(jnp.all(are_slow, axis=1) & is_slow)
    # A map may alternate about its fixed point, by rounding errors that decay slowly. In a bottleneck a velocity lasts.
    if field.is_map:
        is_moving &= _change_in_a_step(field, states, velocity) < 0.5 * max_norm(velocity)
    return is_moving


def _directions(states: Float[Array, "batch state"]) -> Float[Array, "2 1 state"]:
    """Two directions at random, the same for all samples. With two units they are orthogonal: no mode is missed."""
    signs = _signs(states, 1)
    alternating = (-1) ** np.arange(states.shape[1])
    return jnp.asarray(np.stack([signs, signs * alternating]), states.dtype)


def _signs(states: Float[Array, "batch state"], number: int) -> Int[np.ndarray, "number state"]:
    """The same at each call, so that verdicts are reproducible."""
    return np.random.default_rng(0).choice([-1, 1], (number, states.shape[1]))


def _change_in_a_step(
    field: Field, states: Float[Array, "batch state"], velocity: Float[Array, "batch state"]
) -> Float[Array, " batch"]:
    """How much a small velocity changes by an explicit step of one unit of time."""
    return max_norm(field.velocity(states + velocity) - velocity)
