"""Drift: the part of a velocity along directions in which nothing decays, as on a continuous attractor.

Such a velocity stays, so that the state never comes to rest, however slowly it moves. A high power of the Cayley
transform tells that part, since it is a multiple of the projection on the directions that neither grow nor decay.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn2ff.compiling import solve_systems


class Drift(NamedTuple):
    """A velocity in two parts."""

    staying: Float[Array, "batch state"]  # along what does not decay
    distance: Float[Array, " batch"]  # that the part which decays still leads


def find_drift(
    power: Float[Array, "batch state state"],
    jacobian: Float[Array, "batch state state"],
    velocity: Float[Array, "batch state"],
    *,
    one_by_one: bool,
) -> Drift:
    """Divide velocities by whether they decay; `one_by_one` as for `transform_powers`.

    A high power of the Cayley transform of the Jacobian J, normalized, is c P, where P projects on what neither grows
    nor decays, and c is the ratio of the traces of its square and itself. Without these directions `J - P` is
    invertible, and its inverse is that of J on all others.
    """
    trace = jnp.trace(power, axis1=1, axis2=2)
    ratio = jnp.sum(power * jnp.matrix_transpose(power), axis=(1, 2)) / trace
    # Turning modes have no such ratio; it is at most 1 since the power is normalized.
    ratio = jnp.clip(jnp.abs(ratio), 1e-3, 1)
    projection = power / ratio[:, None, None]
    staying = jnp.einsum("bij,bj->bi", projection, velocity)
    way = solve_systems(jacobian - projection, (velocity - staying)[..., None], one_by_one=one_by_one)[..., 0]
    return Drift(staying, jnp.max(jnp.abs(way), axis=1))
