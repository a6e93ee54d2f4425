"""The dynamics of a batch, written so that one step of all samples is one matrix product.

`jax.vmap` of a velocity makes several passes over memory where a rate network needs one product and one pass. So the
velocity of rate networks is written out here; any other vector field is mapped over the samples.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from rnn2ff.networks import RateNetwork, RecurrentNetwork, StateForm, time_scales

_DIFFERENCE = {32: 1e-3, 64: 1e-6}  # step of a central difference, by bits: about the cube root of the precision


class Field(NamedTuple):
    """The dynamics of a batch, with a unit of time for each sample.

    Attributes:
        velocity: maps states to `t dx/dt`, with t the `time_unit`.
        push: maps states to the function from vectors y to `t J y`, where J is a matrix with the eigenvalues of the
            Jacobian of dx/dt; in the rate form, and without weights, it is the Jacobian. One vector broadcasts.
        seen: maps states and a velocity to the velocity in the coordinates of that matrix.
        deviation: maps states and small vectors y to `tau (v(x + y) - v(x) - v'(x) y)`, with v the velocity `dx/dt`: by
            how much it deviates from linear.
        velocity_rounded: maps states and a sign for each unit to the velocity with each rate larger or smaller by a
            rounding error; in the rate form, and of any other vector field, with each state.
        time_unit: t, the shortest time scale of a sample, in the network's unit of time; for a map, one step.
        scales: the time scale of each unit, in units of the sample's `time_unit`; at least 1, except for a map.
        is_map: whether the next state is the sum of state and velocity.
    """

    velocity: Callable[[Float[Array, "batch state"]], Float[Array, "batch state"]]
    push: Callable[[Float[Array, "batch state"]], Callable[[Float[Array, "batch state"]], Float[Array, "batch state"]]]
    seen: Callable[[Float[Array, "batch state"], Float[Array, "batch state"]], Float[Array, "batch state"]]
    deviation: Callable[[Float[Array, "batch state"], Float[Array, "batch state"]], Float[Array, "batch state"]]
    velocity_rounded: Callable[[Float[Array, "batch state"], Float[Array, " state"]], Float[Array, "batch state"]]
    time_unit: Float[Array, " batch"]
    scales: Float[Array, "batch state"]
    is_map: bool

    def residual(
        self, states: Float[Array, "batch state"], velocity: Float[Array, "batch state"]
    ) -> Float[Array, " batch"]:
        """`max |tau dx/dt| / (1 + max |x|)`, from the velocity at the states; infinite where that is not a number."""
        residual = max_norm(self.scales * velocity) / (1 + max_norm(states))
        # XLA's maximum of numbers that include NaN may be anything; a sum is NaN if one of them is.
        is_number = jnp.isfinite(jnp.sum(jnp.abs(velocity), axis=1)) & (residual >= 0)
        return jnp.where(is_number, residual, jnp.inf)


def make_field(
    network: RecurrentNetwork, stimuli: Float[Array, "batch stimulus"], states: Float[Array, "batch state"]
) -> Field:
    """The dynamics of a batch. If the network declares no time scales, they are determined at the states."""
    if isinstance(network, RateNetwork):
        return _rate_field(network, stimuli)
    taus = jax.vmap(lambda state, stimulus: time_scales(network, state, stimulus))(states, stimuli)
    time_unit = jnp.ones_like(taus[:, 0]) if network.is_map else jnp.min(taus, axis=1)
    velocity = jax.vmap(network.velocity)

    def scaled(states):
        return time_unit[:, None] * velocity(states, stimuli)

    def push_at(states):
        _, exact = jax.linearize(scaled, states)

        def push(vectors):
            vectors = jnp.broadcast_to(vectors, states.shape)
            return _with_differences(exact(vectors), scaled, states, vectors)

        return push

    scales = taus / time_unit[:, None]

    def deviation(states, vectors):
        velocity, push = jax.linearize(scaled, states)
        return scales * (scaled(states + vectors) - velocity - push(vectors))

    def velocity_rounded(states, signs):
        return scaled(states * _by_a_rounding_error(signs))

    seen = lambda states, velocity: velocity  # noqa: E731
    return Field(scaled, push_at, seen, deviation, velocity_rounded, time_unit, scales, network.is_map)


def _rate_field(network: RateNetwork, stimuli: Float[Array, "batch stimulus"]) -> Field:
    """With weights W and slopes m, J is `(W m - I) / tau` in the state form and `(m W - I) / tau` in the rate form.

    The two have the same eigenvalues: if no slope is zero, `m J m^-1` turns the first into the second, and eigenvalues
    are continuous. The second takes one pass over memory less, and `m W` is zero wherever a unit is silent.
    """
    form, params = network.vector_field, network.params
    phi, taus = jax.vmap(network.nonlinearity), params.time_constants
    time_unit = jnp.ones_like(taus[0]) if network.is_map else jnp.min(taus)
    share = (time_unit / taus)[None, :]
    drive = jax.vmap(params.feedforward_input)(stimuli)
    recurrent_input = jax.vmap(params.recurrent_input)
    slopes_at = jax.vmap(network.slopes)

    def velocity(states):
        if isinstance(form, StateForm):
            return share * (recurrent_input(phi(states)) + drive - states)
        return share * (phi(recurrent_input(states) + drive) - states)

    def push_at(states):
        gains = slopes_at(states if isinstance(form, StateForm) else recurrent_input(states) + drive)
        return lambda vectors: share * (gains * recurrent_input(vectors) - vectors)

    def seen(states, velocity):
        return slopes_at(states) * velocity if isinstance(form, StateForm) else velocity

    def deviation(states, vectors):
        if isinstance(form, StateForm):
            of_rates = deviation_of_rates(states, vectors)
            # Between thresholds a rectifier is linear to the last bit, and mostly no unit crosses one.
            return jax.lax.cond(jnp.any(of_rates != 0), recurrent_input, jnp.zeros_like, of_rates)
        return deviation_of_rates(recurrent_input(states) + drive, recurrent_input(vectors))

    def deviation_of_rates(inputs, vectors):
        return phi(inputs + vectors) - (phi(inputs) + slopes_at(inputs) * vectors)

    def velocity_rounded(states, signs):
        if isinstance(form, StateForm):
            return share * (recurrent_input(phi(states) * _by_a_rounding_error(signs)) + drive - states)
        return velocity(states * _by_a_rounding_error(signs))

    time_units = jnp.broadcast_to(time_unit, len(stimuli))
    scales = jnp.broadcast_to(1 / share, (len(stimuli), network.state_size))
    return Field(velocity, push_at, seen, deviation, velocity_rounded, time_units, scales, network.is_map)


def _by_a_rounding_error(signs: Float[Array, " state"]) -> Float[Array, "1 state"]:
    return 1 + jnp.finfo(signs.dtype).eps * signs[None]


def _with_differences(exact, velocity, states, vectors):
    """Products with the Jacobian; by central differences for rows whose derivative is not finite.

    A velocity may be smooth where automatic differentiation of its formula gives NaN, as for a norm at zero.
    """

    def replace(exact):
        length = _DIFFERENCE[jnp.finfo(states.dtype).bits] * (1 + max_norm(states)) / jnp.maximum(max_norm(vectors), 1)
        moved = length[:, None] * vectors
        difference = (velocity(states + moved) - velocity(states - moved)) / (2 * length[:, None])
        is_exact = jnp.all(jnp.isfinite(exact), axis=1)
        return jnp.where(is_exact[:, None], exact, difference)

    return jax.lax.cond(jnp.all(jnp.isfinite(exact)), lambda exact: exact, replace, exact)


def jacobians(field: Field, states: Float[Array, "batch state"]) -> Float[Array, "batch state state"]:
    """`t J` of each sample, column by column; J as in `Field.push`."""
    size = states.shape[1]
    push = field.push(states)
    basis = jnp.eye(size, dtype=states.dtype)
    columns = jax.vmap(lambda unit: push(unit[None]))(basis)
    return jnp.moveaxis(columns, 0, 2)


def max_norm(values: Float[Array, "batch state"]) -> Float[Array, " batch"]:
    """The largest absolute value of each row."""
    return jnp.max(jnp.abs(values), axis=1)


def choose_rows(mask: Bool[Array, " batch"], one: PyTree, other: PyTree) -> PyTree:
    """`jnp.where` row by row, of trees of arrays with a leading axis."""

    def choose(one, other):
        return other if one is other else jnp.where(mask.reshape(-1, *(1,) * (other.ndim - 1)), one, other)

    return jax.tree.map(choose, one, other)
