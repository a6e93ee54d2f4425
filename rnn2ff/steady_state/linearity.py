"""Whether the dynamics are linear between a state of small residual and the rest that it approaches.

Where a fixed point attracts, its slowest mode may still carry a state of small residual far enough to take a unit over
its threshold, after which the state goes elsewhere. So a small residual and a stable Jacobian tell where a state ends
only if that Jacobian holds all the way. Likewise in a bottleneck, where a fixed point is about to appear: a parabola's
Newton steps end at a root only if the velocity is close to linear along the first of them (Kantorovich's theorem).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnn2ff.steady_state.field import Field, max_norm

_REACH = 8.0  # how far ahead is looked, in estimated distances from rest
# Largest deviation from the linear velocity, relative to the velocity at the state. A parabola with a root deviates by
# up to `_REACH**2 / 4`; a unit over its threshold by about its share of the motion.
_MOST_BENT = 0.1
# The same where the residual falls no further, one distance ahead. A parabola with a root deviates by up to 1/4, and a
# velocity that vanishes as the k-th power of the distance by ((k - 1) / k)^k, which is less than 1/e.
_NO_REST = 0.4
_ROUNDING = 8  # rounding errors of a velocity, which are no deviation
_MOVING = 16  # rounding errors of a velocity, above which a state moves on
# Distances at which a velocity is looked at that should have turned back. The minimum of a parabola is two ahead.
_BEYOND = tuple(2 ** (step / 4) for step in range(1, 13))


def is_linear_ahead(
    field: Field,
    states: Float[Array, "batch state"],
    distance: Float[Array, " batch"],
    is_lowest: Bool[Array, " batch"],
) -> Bool[Array, " batch"]:
    """Whether the Jacobian at a state of small residual holds up to rest, and far beyond.

    Looks along the velocity, as the slowest mode alone is left after a while.

    Args:
        field: the dynamics.
        states: of small residual.
        distance: the estimated distance from rest, as in `SteadyState`.
        is_lowest: where the residual was followed as far as it falls, or as steps allow. There the question is whether
            there may be rest at all: the answer is no if the state moves on and either would hardly be slower at the
            estimated distance, or would nowhere turn back beyond it.
    """
    velocity = field.velocity(states)
    ahead = (distance / max_norm(velocity))[:, None] * velocity
    # Where there is no distance, or no derivative, nothing is known to bend.
    ahead = jnp.where(jnp.isfinite(ahead), ahead, 0)
    way = jnp.where(is_lowest, 1, _REACH)[:, None] * ahead
    deviation, speed = max_norm(field.deviation(states, way)), max_norm(field.scales * velocity)
    error = jnp.finfo(states.dtype).eps * (1 + max_norm(states + way))
    most_bent = jnp.where(is_lowest, _NO_REST, _MOST_BENT)
    is_bent = (deviation > most_bent * speed + _ROUNDING * error) & (~is_lowest | (speed > _MOVING * error))
    is_bent &= jnp.isfinite(deviation)

    def goes_on(is_lowest):
        """Whether the velocity keeps its direction at all distances, by more than rounding."""

        def look(step, goes_on):
            velocity_there = field.velocity(states + jnp.asarray(_BEYOND, states.dtype)[step] * ahead)
            along = jnp.sum(velocity_there * velocity, axis=1) / jnp.sum(velocity**2, axis=1)
            return goes_on & (along * speed > _ROUNDING * error)

        return jax.lax.fori_loop(0, len(_BEYOND), look, is_lowest & (max_norm(ahead) > 0))

    return ~is_bent & ~jax.lax.cond(jnp.any(is_lowest), goes_on, jnp.zeros_like, is_lowest)
