"""Drift: the part of a velocity along directions in which nothing decays, as on a continuous attractor.

This part stays, so that the state never comes to rest, however slowly it moves. A high power of the Cayley transform
isolates it: it is a multiple of the projection onto neutral directions, which neither grow nor decay.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn2ff.compiling import solve_systems


def find_drift(
    power: Float[Array, "batch state state"],
    jacobian: Float[Array, "batch state state"],
    velocity: Float[Array, "batch state"],
    *,
    one_by_one: bool,
) -> tuple[Float[Array, "batch state"], Float[Array, " batch"]]:
    """The part of velocities along directions in which nothing decays, and how far the rest still has to travel.

    A high power of the Cayley transform of the Jacobian J, normalized, is c P, where P projects onto the neutral
    directions, and c is the ratio of the traces of its square and itself. `J - P` is invertible, and along all other
    directions its inverse is that of J. `one_by_one` as for `transform_powers`.
    """
    trace = jnp.trace(power, axis1=1, axis2=2)
    ratio = jnp.sum(power * jnp.matrix_transpose(power), axis=(1, 2)) / trace
    # Oscillatory modes have no such ratio; it is at most 1 since the power is normalized.
    ratio = jnp.clip(jnp.abs(ratio), 1e-3, 1)
    projection = power / ratio[:, None, None]
    staying = jnp.einsum("bij,bj->bi", projection, velocity)
    way = solve_systems(jacobian - projection, (velocity - staying)[..., None], one_by_one=one_by_one)[..., 0]
    return staying, jnp.max(jnp.abs(way), axis=1)
