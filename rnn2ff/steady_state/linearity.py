"""Whether the dynamics are linear between a state of small residual and the rest that it approaches.

Where a fixed point attracts, its slowest mode may still carry a state of small residual far enough to take a unit over
its threshold, after which the state goes elsewhere. So a small residual and a stable Jacobian tell where a state ends
only if that Jacobian holds all the way. Likewise in a bottleneck, where a fixed point is about to appear: a parabola's
Newton steps end at a root only if the velocity is close to linear along the first of them (Kantorovich's theorem).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnn2ff.steady_state.field import Field, max_norm

_REACH = 8.0  # how far ahead is looked, in estimated distances from rest
# Largest deviation from the linear velocity, relative to the velocity at the state. A parabola with a root deviates by
# up to `_REACH**2 / 4`; a unit over its threshold by about its share of the motion.
_MOST_BENT = 0.1
_ROUNDING = 8  # rounding errors of a velocity, which are no deviation


def is_linear_ahead(
    field: Field, states: Float[Array, "batch state"], distance: Float[Array, " batch"]
) -> Bool[Array, " batch"]:
    """Whether the Jacobian at a state of small residual holds up to rest, and far beyond.

    Looks along the velocity, as the slowest mode alone is left after a while.

    Args:
        field: the dynamics.
        states: of small residual.
        distance: the estimated distance from rest, as in `SteadyState`.
    """
    velocity = field.velocity(states)
    way = _REACH * (distance / max_norm(velocity))[:, None] * velocity
    bend = field.bend(states, way)
    rounding = _ROUNDING * jnp.finfo(states.dtype).eps * (1 + max_norm(states + way))
    is_bent = max_norm(bend) > _MOST_BENT * max_norm(field.scales * velocity) + rounding
    # Where there is no derivative, or no distance, nothing is known to bend.
    return ~is_bent | ~jnp.isfinite(jnp.sum(jnp.abs(bend), axis=1))
