"""The derivative of a steady state, `dx* = -F_x^-1 (F_theta dtheta + F_u du)`, however it was found.

At a steady state `F(theta, x*, u) = 0`, so the implicit function theorem gives the derivative from the Jacobian of F
there; the search is never differentiated. F is `tau dx/dt`, in which time constants cancel. The linear systems of a
batch are solved together, by products with all Jacobians at once.

The rule uses the state together with its derivative. The derivative of the rule, which is the second derivative of the
state, is therefore correct too, and so on to any order.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float

from rnn2ff.networks import RateNetwork, RecurrentNetwork, time_scales
from rnn2ff.steady_state.krylov import Linear, Vectors
from rnn2ff.steady_state.systems import Points, Systems, Way, residuals, solve
from rnn2ff.steady_state.tiles import vary_like

_SAME = 1e-2  # relative; derivatives on the two sides of a state that differ by less hold at the state


def constants_of(*trees):
    """The same values, as constants that are not differentiated."""
    constants = jax.lax.stop_gradient(eqx.filter(trees, eqx.is_array))
    return eqx.combine(constants, trees)


def with_implicit_derivatives(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    states: Float[Array, "batch state"],
    is_steady: Bool[Array, " batch"],
) -> Float[Array, "batch state"]:
    """The states unchanged, with their derivatives with respect to the network's parameters and the stimuli.

    Forward and reverse mode, to any order. A derivative costs some tens of products with all Jacobians at once; rows
    that these do not solve are factored, a few at a time (above 1024 units, without dense weights, they are solved by
    GMRES). Pure, and the same under `jit`, `vmap`, `scan` and `shard_map`.

    The derivative of a row is NaN, without an error, if the row is not steady, if its Jacobian is not finite and
    differs on either side of the state, or if it is singular to working precision (on a continuous attractor the
    stimulus does not determine the state). What the rows share, such as the gradient with respect to the weights, is
    then NaN as well. A row that a loss ignores contributes zero, whatever its state.

    Two limits where a Jacobian is singular: a loss that does not depend on the undetermined direction may still get a
    derivative; and reverse mode over reverse mode differentiates rows that the loss ignores, so that these are NaN,
    while forward mode over reverse mode does not.
    """
    return _attach(network, stimuli, states, is_steady, Way.together)


def with_implicit_derivative(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    state: Float[Array, " state"],
    is_steady: Bool[Array, ""],
    is_matrix_free: bool,
) -> Float[Array, " state"]:
    """The state unchanged, with its derivatives with respect to the network's parameters and the stimulus.

    Forward and reverse mode, to any order. The derivative of a state that is not steady is NaN, in its own sample
    alone; a sample that a loss ignores contributes zero. On a continuous attractor the derivative is undefined: the
    linear solve fails, with an error. It uses LU or, if `is_matrix_free`, GMRES with products with the Jacobian.
    """
    way = Way.products if is_matrix_free else Way.factors
    return _attach(network, stimulus[None], state[None], is_steady[None], way)[0]


@eqx.filter_jit  # so that a derivative outside of `jit` is not recompiled each time
def _attach(network, stimuli, states, is_steady, way: Way) -> Vectors:
    network = _without_time_constants(network)
    return _attached(network, *_varying_alike(network, stimuli, states, is_steady), way)


def _without_time_constants(network: RecurrentNetwork) -> RecurrentNetwork:
    """Treat them as constants: steady states of a rate network do not depend on them, but rounding would train them."""
    if not isinstance(network, RateNetwork):
        return network
    tau = network.params.time_constants
    return eqx.tree_at(lambda tree: tree.params.time_constants, network, jax.lax.stop_gradient(tau))


@eqx.filter_custom_jvp
def _attached(network, stimuli, states, is_steady, way: Way) -> Vectors:
    return states


@_attached.def_jvp
def _attached_jvp(primals, tangents):
    network, stimuli, states, is_steady, way = primals
    network_tangent, stimuli_tangent, *_ = tangents
    states = _attached(*primals)  # with its derivative, so that all that follows can be differentiated
    with jax.default_matmul_precision("highest"):  # the default of accelerators has three digits
        tangents = network_tangent, stimuli_tangent
        points = _usable_points(network, stimuli, states, is_steady, tangents)
        _, push = eqx.filter_jvp(
            lambda network, stimuli: residuals(network, points._replace(stimuli=stimuli)),
            (network, points.stimuli),
            tangents,
        )
        push = jnp.where(points.is_usable[:, None], push, _dependence(tangents, push))
        _, pull_back = jax.linearize(lambda states: -residuals(network, points._replace(states=states)), points.states)

        def multiply(rows: Vectors) -> Vectors:
            # Unusable rows are masked on input and output, so that their NaNs spread in neither direction.
            is_usable = points.is_usable[:, None]
            return jnp.where(is_usable, pull_back(jnp.where(is_usable, rows, 0)), rows)

        # Solutions get their derivative from `multiply` and `push`. If the solver had one as well, JAX would fail where
        # these have none, as with rectified units.
        where = constants_of(network, points)

        def solver(is_transposed: bool) -> Callable[[Linear, Vectors], Vectors]:
            return lambda multiply, right: solve(Systems(*where, multiply, is_transposed), right, way)

        # Both solves are given explicitly: automatic transposition would turn a NaN into a zero.
        response = jax.lax.custom_linear_solve(
            multiply, push, solve=solver(is_transposed=False), transpose_solve=solver(is_transposed=True)
        )
    return states, response


def _dependence(tangents: tuple[RecurrentNetwork, Array | None], push: Vectors) -> Vectors:
    """For rows without a derivative: a value that depends on every entry of the tangents that the row depends on.

    The value is not used. But a NaN that is propagated back through such a row reaches all of these entries, whether or
    not the field depends on them at the substitute point.
    """
    network_tangent, stimuli_tangent = tangents

    def mixed(numbers: Float[Array, "*batch size"]) -> Float[Array, "*batch"]:
        return numbers @ (1 / jnp.arange(1, numbers.shape[-1] + 1, dtype=push.dtype))

    terms = [*jax.tree.leaves(stimuli_tangent), *(leaf.ravel() for leaf in jax.tree.leaves(network_tangent))]
    total = sum(map(mixed, terms), jnp.zeros_like(push[:, 0]))
    return jnp.broadcast_to(total[:, None], push.shape)


def _usable_points(network, stimuli, states, is_steady, tangents) -> Points:
    constant_network, constant_states, constant_stimuli = constants_of(network, states, stimuli)
    # A derivative that is not finite, with respect to any input, shows in the derivative along a vector of ones.
    network_ones, stimuli_ones = jax.tree.map(jnp.ones_like, tangents)

    def derivative_at(states: Vectors) -> Vectors:
        return eqx.filter_jvp(
            lambda network, states, stimuli: jax.vmap(network.velocity)(states, stimuli),
            (constant_network, states, constant_stimuli),
            (network_ones, jnp.ones_like(states), stimuli_ones),
        )[1]

    def offsets(is_finite: Bool[Array, " batch"]) -> tuple[Vectors, Bool[Array, " batch"]]:
        offset, is_smooth = _offset_beside(derivative_at, constant_states)
        return jnp.where((is_smooth & ~is_finite)[:, None], offset, 0), is_finite | is_smooth

    def no_offsets(is_finite: Bool[Array, " batch"]) -> tuple[Vectors, Bool[Array, " batch"]]:
        return jnp.zeros_like(constant_states), is_finite

    is_finite = jnp.all(jnp.isfinite(derivative_at(constant_states)), axis=1)
    offset, is_finite = jax.lax.cond(jnp.any(is_steady & ~is_finite), offsets, no_offsets, is_finite)
    # Added, so that the state keeps its derivative.
    states, constant_states = states + offset, constant_states + offset
    is_finite &= jnp.all(jnp.isfinite(jnp.concatenate([constant_states, constant_stimuli], axis=1)), axis=1)
    is_usable = is_steady & is_finite
    first = jnp.argmax(is_finite)

    def finite(rows, constant):
        substitute = jnp.where(is_finite[first], constant[first], 0)
        return jnp.where(is_finite[:, None], rows, substitute[None])

    states, stimuli = finite(states, constant_states), finite(stimuli, constant_stimuli)
    if network.has_time_constants:
        return Points(states, stimuli, jnp.ones_like(states), is_usable)
    scales = jax.vmap(functools.partial(time_scales, constant_network))(*constants_of(states, stimuli))
    return Points(states, stimuli, scales, is_usable)


def _offset_beside(
    derivative_at: Callable[[Vectors], Vectors], states: Vectors
) -> tuple[Vectors, Bool[Array, " batch"]]:
    """Offsets so small that derivatives there hold at the state, and whether they do: if both sides agree.

    A velocity may be smooth where automatic differentiation of its formula gives NaN, as for a norm at zero.
    """
    direction = jr.normal(jr.key(0), states.shape[1:], states.dtype)
    length = float(jnp.finfo(states.dtype).eps) ** 0.75 * (1 + jnp.max(jnp.abs(states), axis=1, keepdims=True))
    offset = length * direction[None]
    first, second = derivative_at(states + offset), derivative_at(states - offset)
    apart = jnp.max(jnp.abs(first - second), axis=1)
    return offset, apart <= _SAME * jnp.max(jnp.abs(first), axis=1)  # False if NaN


def _varying_alike(network: RecurrentNetwork, *rows: Array) -> tuple[Array, ...]:
    """Inside `shard_map`: the rows, each varying over all mesh axes that any of them or the network varies over."""
    for array in jax.tree.leaves(eqx.filter((network, rows), eqx.is_array)):
        rows = vary_like(rows, array)
    return rows
