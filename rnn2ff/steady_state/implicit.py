"""The derivative of a steady state, `dx* = -F_x^-1 (F_theta dtheta + F_u du)`, however it was found.

At a steady state `F(theta, x*, u) = 0`, so the implicit function theorem gives the derivative from the Jacobian of F
there; the search is never differentiated. F is `tau dx/dt`, in which time constants cancel. The linear systems of a
batch are solved together, by products with all Jacobians at once.

The rule sees the state with its derivative. The derivative of the rule, which is the second derivative of the state, is
therefore right too, and so on to any order.
"""

import enum
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy.linalg as jsl
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Bool, Float

from rnn2ff.networks import RateNetwork, RecurrentNetwork, time_scales
from rnn2ff.steady_state.krylov import LARGEST_ERROR, Linear, Rows, Solution, bicgstab, gmres, norms, refine
from rnn2ff.steady_state.stability import LARGEST_FACTORED
from rnn2ff.steady_state.tiles import vary_like

_FACTORED_ROWS, _FACTORED_ENTRIES = 16, 2**22  # at most so many Jacobians, and entries of them, are factored at a time

# What gains less than this in a round is left to a factorization, or given up.
_MAX_ROUNDS, _GAIN = 4, 0.1  # of BiCGSTAB
_MAX_RESTARTS, _RESTART_GAIN = 100, 0.99  # of GMRES

_SAME = 1e-2  # relative; derivatives on either side of a state that differ by less are that at the state

_UNSOLVED = (
    "The steady state has no derivative, or none was found. Either the Jacobian is singular there, as on a continuous "
    "attractor, where the stimulus does not decide the state; or GMRES did not converge: `matrix_free=False` uses LU."
)


def with_implicit_derivatives(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    states: Float[Array, "batch state"],
    is_steady: Bool[Array, " batch"],
) -> Float[Array, "batch state"]:
    """The states as they are, with their derivatives by the network's parameters and by the stimuli.

    Forward and reverse mode, to any order. A derivative costs some tens of products with all Jacobians at once; rows
    that these do not solve are factored, a few at a time (above 1024 units, without dense weights, they are solved by
    GMRES). Pure, and the same under `jit`, `vmap`, `scan` and `shard_map`.

    The derivative of a row is NaN, without an error, if the row is not steady, if its Jacobian is not finite and
    differs on either side of the state, or if it is singular to working precision (on a continuous attractor the
    stimulus does not determine the state). What the rows share, such as the gradient by the weights, is then NaN as
    well. A row that a loss ignores contributes zero, whatever its state.

    Two limits where a Jacobian is singular: a loss that does not depend on the undetermined direction may still get a
    derivative; and reverse mode over reverse mode differentiates rows that the loss ignores, so that these are NaN,
    while forward mode over reverse mode does not.

    Args:
        network: differentiated by its parameters.
        stimuli: differentiated; one a row.
        states: the steady states, taken as constants.
        is_steady: whether each is one.
    """
    return _attach(network, stimuli, states, is_steady, _Way.together)


def with_implicit_derivative(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    state: Float[Array, " state"],
    is_steady: Bool[Array, ""],
    is_matrix_free: bool,
) -> Float[Array, " state"]:
    """The state as it is, with its derivatives by the network's parameters and by the stimulus.

    Forward and reverse mode, to any order. The derivative of a state that is not steady is NaN, in its own sample
    alone; a sample that a loss ignores contributes zero. On a continuous attractor the derivative is undefined: the
    linear solve fails, with an error.

    Args:
        network: differentiated by its parameters.
        stimulus: differentiated.
        state: the steady state, taken as a constant.
        is_steady: whether `state` is one.
        is_matrix_free: whether the linear system is solved from products with the Jacobian, by GMRES, and not by LU.
    """
    way = _Way.products if is_matrix_free else _Way.factors
    return _attach(network, stimulus[None], state[None], is_steady[None], way)[0]


class _Way(enum.Enum):
    """How linear systems are solved, and what becomes of one that has no solution."""

    together = enum.auto()  # by products with all rows at once, what is left by factors or by GMRES; otherwise NaN
    factors = enum.auto()  # by LU; otherwise an error
    products = enum.auto()  # by GMRES; otherwise an error


@eqx.filter_jit  # so that a derivative outside of `jit` is not compiled anew each time
def _attach(network, stimuli, states, is_steady, way: _Way) -> Rows:
    return _attached(network, *_varying_alike(network, stimuli, states, is_steady), way)


@eqx.filter_custom_jvp
def _attached(network, stimuli, states, is_steady, way: _Way) -> Rows:
    del network, stimuli, is_steady, way
    return states


@_attached.def_jvp
def _attached_jvp(primals, tangents):
    network, stimuli, states, is_steady, way = primals
    network_tangent, stimuli_tangent, *_ = tangents
    states = _attached(*primals)  # with its derivative, for the derivative of all that follows
    with jax.default_matmul_precision("highest"):  # what accelerators do by default has three digits
        tangents = network_tangent, stimuli_tangent
        points = _usable_points(network, stimuli, states, is_steady, tangents)
        _, push = eqx.filter_jvp(
            lambda network, stimuli: _residuals(network, points._replace(stimuli=stimuli)),
            (network, points.stimuli),
            tangents,
        )
        push = jnp.where(points.is_usable[:, None], push, _dependence(tangents, push))
        _, pull_back = jax.linearize(lambda states: -_residuals(network, points._replace(states=states)), points.states)

        def multiply(rows: Rows) -> Rows:
            # Unusable rows neither enter nor leave: no NaN of theirs, in either direction.
            is_usable = points.is_usable[:, None]
            return jnp.where(is_usable, pull_back(jnp.where(is_usable, rows, 0)), rows)

        def solver(is_transposed: bool) -> Callable[[Linear, Rows], Rows]:
            return lambda multiply, right: _solve(_Systems(network, points, multiply, is_transposed), right, way)

        # Both directions are given, and not left to transposition, which would turn a NaN into a zero.
        response = jax.lax.custom_linear_solve(
            multiply, push, solve=solver(is_transposed=False), transpose_solve=solver(is_transposed=True)
        )
    return states, response


def _dependence(tangents: tuple[RecurrentNetwork, Array | None], push: Rows) -> Rows:
    """For rows without a derivative: depends on every number of the tangents that a row depends on.

    Its values are not used. But a NaN that comes back through such a row reaches all of these numbers, whether or not
    the field depends on them at the point that stands in.
    """
    network_tangent, stimuli_tangent = tangents

    def mixed(numbers: Float[Array, "*batch size"]) -> Float[Array, "*batch"]:
        return numbers @ (1 / jnp.arange(1, numbers.shape[-1] + 1, dtype=push.dtype))

    total = jnp.zeros_like(push[:, 0])
    if stimuli_tangent is not None:
        total += mixed(stimuli_tangent)
    for tangent in jax.tree.leaves(network_tangent):
        total += mixed(tangent.ravel())
    return jnp.broadcast_to(total[:, None], push.shape)


class _Points(NamedTuple):
    """Where the network is linearized, one a row."""

    states: Rows  # of the rows; where the linearization is not finite another's, so that what is multiplied by zero is
    stimuli: Float[Array, "batch stimulus"]  # likewise
    scales: Rows  # what velocities are multiplied by, where the network declares no time constants
    is_usable: Bool[Array, " batch"]  # whether a row is steady, and its linearization finite

    def take(self, rows: Array) -> "_Points":
        """Some rows; the last one in place of those that do not exist."""
        return _Points(*(each.at[rows].get(mode="clip") for each in self))


def _usable_points(network, stimuli, states, is_steady, tangents) -> _Points:
    arrays, fixed = eqx.partition(network, eqx.is_inexact_array)
    arrays, *rows = jax.lax.stop_gradient((arrays, states, stimuli))
    constants = (eqx.combine(arrays, fixed), *rows)
    # A derivative that is not finite, by whatever is differentiated by, shows in the derivative along a vector of ones.
    network_ones, stimuli_ones = jax.tree.map(jnp.ones_like, tangents)

    def derivative_at(states: Rows) -> Rows:
        return eqx.filter_jvp(
            lambda network, states, stimuli: jax.vmap(network.velocity)(states, stimuli),
            (constants[0], states, constants[2]),
            (network_ones, jnp.ones_like(states), stimuli_ones),
        )[1]

    def offsets(is_finite: Bool[Array, " batch"]) -> tuple[Rows, Bool[Array, " batch"]]:
        offset, is_smooth = _offset_beside(derivative_at, constants[1])
        return jnp.where((is_smooth & ~is_finite)[:, None], offset, 0), is_finite | is_smooth

    is_finite = jnp.all(jnp.isfinite(derivative_at(constants[1])), axis=1)
    offset, is_finite = jax.lax.cond(
        jnp.any(is_steady & ~is_finite), offsets, lambda is_finite: (jnp.zeros_like(constants[1]), is_finite), is_finite
    )
    # Added, so that the derivative of the state stays.
    states = states + offset
    constants = (constants[0], constants[1] + offset, constants[2])
    is_finite &= jnp.all(jnp.isfinite(jnp.concatenate(constants[1:], axis=1)), axis=1)
    is_usable = is_steady & is_finite
    first = jnp.argmax(is_finite)

    def finite(rows, constant):
        substitute = jnp.where(is_finite[first], constant[first], 0)
        return jnp.where(is_finite[:, None], rows, substitute[None])

    states, stimuli = finite(states, constants[1]), finite(stimuli, constants[2])
    if network.has_time_constants:
        return _Points(states, stimuli, jnp.ones_like(states), is_usable)
    scales = jax.vmap(lambda state, stimulus: time_scales(constants[0], state, stimulus))(
        *jax.lax.stop_gradient((states, stimuli))
    )
    return _Points(states, stimuli, scales, is_usable)


def _offset_beside(derivative_at: Callable[[Rows], Rows], states: Rows) -> tuple[Rows, Bool[Array, " batch"]]:
    """Steps so short that a derivative there is that at the state, and whether it is: the same on either side.

    A velocity may be smooth where the derivative of its formula is not a number, such as that of a norm at zero.
    """
    direction = jr.normal(jr.key(0), states.shape[1:], states.dtype)
    length = float(jnp.finfo(states.dtype).eps) ** 0.75 * (1 + jnp.max(jnp.abs(states), axis=1, keepdims=True))
    offset = length * direction[None]
    first, second = derivative_at(states + offset), derivative_at(states - offset)
    apart = jnp.max(jnp.abs(first - second), axis=1)
    return offset, apart <= _SAME * jnp.max(jnp.abs(first), axis=1)  # False if NaN


def _residuals(network: RecurrentNetwork, points: _Points) -> Rows:
    """`tau dx/dt`, in which time constants cancel to rounding; those of a rate network do not enter at all."""
    states, stimuli, scales, _ = points
    if isinstance(network, RateNetwork):
        recurrent = _recurrent_inputs(network.weights, jax.vmap(network.unit_rates)(states))
        totals = recurrent + jax.vmap(network.params.feedforward_input)(stimuli)
        return jax.vmap(network.state_from_total_input)(totals) - states
    velocities = jax.vmap(network.velocity)(states, stimuli)
    if network.has_time_constants:
        return velocities * jnp.broadcast_to(network.time_constants, velocities.shape[1:])[None]
    return velocities * scales


def _recurrent_inputs(weights: Float[Array, "state state"] | BCOO, rates: Rows) -> Rows:
    """`W r`, one a row. JAX's own product with a sparse matrix has no second derivative by its entries under `vmap`."""
    if not isinstance(weights, BCOO):
        return rates @ weights.T
    rows, columns = weights.indices.T
    sources = rates.at[:, columns].get(mode="fill", fill_value=0)
    return jnp.zeros_like(rates).at[:, rows].add(sources * weights.data[None], mode="drop")


class _Systems(NamedTuple):
    """Linear systems `A y = b` with `A = -F_x`, or with its transpose, one a row."""

    network: RecurrentNetwork  # the network
    points: _Points  # where it is linearized
    multiply: Linear  # the products of all A with their rows
    is_transposed: bool  # whether A is the transpose

    def take(self, rows: Array) -> "_Systems":
        """Some of the rows."""
        network, points, _, is_transposed = self
        points = points.take(rows)
        _, multiply = jax.linearize(lambda states: -_residuals(network, points._replace(states=states)), points.states)
        if is_transposed:
            transposed = jax.linear_transpose(multiply, points.states)
            return _Systems(network, points, lambda rows: transposed(rows)[0], True)
        return _Systems(network, points, multiply, False)

    def matrices(self) -> Float[Array, "batch state state"]:
        """A, one a row."""

        def residual(state: Float[Array, " state"], point: _Points) -> Float[Array, " state"]:
            rows = jax.tree.map(lambda each: each[None], point._replace(states=state))
            return -_residuals(self.network, rows)[0]

        matrices = jax.vmap(jax.jacfwd(residual))(self.points.states, self.points)
        return jnp.matrix_transpose(matrices) if self.is_transposed else matrices


def _solve(systems: _Systems, right: Rows, way: _Way) -> Rows:
    """y, NaN in rows without a solution, and zero in rows where b is zero."""
    is_nonzero = jnp.any(right != 0, axis=1)
    is_solvable = systems.points.is_usable & jnp.all(jnp.isfinite(right), axis=1)
    sizes = jnp.max(jnp.abs(right), axis=1)
    sizes = jnp.where(is_solvable & is_nonzero, sizes, 1)
    known = jnp.where(is_solvable[:, None], right / sizes[:, None], 0)  # squares neither overflow nor vanish
    if way is _Way.together:
        solution = _solve_together(systems, known)
        is_solvable &= solution.is_solved
        rows = solution.rows
    else:
        unsolved = Solution(jnp.zeros_like(known), ~jnp.any(known != 0, axis=1))
        solution = _solve_rest(systems, known, unsolved, is_factored=way is _Way.factors)
        rows = eqx.error_if(solution.rows, ~solution.is_solved, _UNSOLVED)
    return jnp.where(is_nonzero[:, None], jnp.where(is_solvable[:, None], sizes[:, None] * rows, jnp.nan), 0)


def _solve_together(systems: _Systems, known: Rows) -> Solution:
    """Solve all rows at once by products, and what these leave by factors or by GMRES."""
    network = systems.network
    is_factored = network.has_dense_weights or network.state_size <= LARGEST_FACTORED
    solution = refine(bicgstab, systems.multiply, known, _MAX_ROUNDS, _GAIN)
    return _solve_rest(systems, known, solution, is_factored=is_factored)


def _solve_rest(systems: _Systems, known: Rows, solution: Solution, *, is_factored: bool) -> Solution:
    """Solve the rows that are left, a few at a time."""
    batch_size, size = known.shape
    num_rows = max(1, min(batch_size, _FACTORED_ROWS, _FACTORED_ENTRIES // size**2))

    def solve_some(carry: tuple[Solution, Bool[Array, " batch"]]):
        solution, is_open = carry
        (rows,) = jnp.nonzero(is_open, size=num_rows, fill_value=batch_size)
        some, right = systems.take(rows), known.at[rows].get(mode="clip")
        if is_factored:
            solved = _by_factors(some, right)
        else:
            solved = refine(gmres, some.multiply, right, _MAX_RESTARTS, _RESTART_GAIN)
        solution = jax.tree.map(lambda whole, part: whole.at[rows].set(part, mode="drop"), solution, solved)
        return solution, is_open.at[rows].set(False, mode="drop")

    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), solve_some, (solution, ~solution.is_solved))[0]


def _by_factors(systems: _Systems, right: Rows) -> Solution:
    """By LU and a step of refinement, whose size tells how well conditioned the system is."""
    matrices = systems.matrices()
    factors = jsl.lu_factor(matrices)

    def solve(right: Rows) -> Rows:
        return jsl.lu_solve(factors, right[..., None])[..., 0]

    rows = solve(right)
    change = solve(right - jnp.einsum("bij,bj->bi", matrices, rows))
    is_solved = norms(change) <= LARGEST_ERROR * norms(rows)
    return Solution(rows + change, is_solved & jnp.isfinite(norms(rows)))


def _varying_alike(network: RecurrentNetwork, *rows: Array) -> tuple[Array, ...]:
    """Inside `shard_map`: the rows, each varying over all mesh axes that any of them or the network varies over."""
    for array in jax.tree.leaves(eqx.filter((network, rows), eqx.is_array)):
        rows = vary_like(rows, array)
    return rows
