"""The linear systems behind derivatives of steady states, `A y = b` with `A = -F_x` or its transpose, one per row.

They are solved together by products with all Jacobians at once; rows that these do not solve are factored, a few at a
time, or solved by GMRES.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jax.experimental.sparse import BCOO
from jaxtyping import Array, Bool, Float

from rnn2ff.networks import RateNetwork, RecurrentNetwork
from rnn2ff.steady_state.krylov import LARGEST_ERROR, Linear, Solution, Vectors, bicgstab, gmres, norms, refine
from rnn2ff.steady_state.stability import LARGEST_FACTORED

_FACTORED_ROWS, _FACTORED_ENTRIES = 16, 2**22  # at most this many Jacobians, and entries, are factored at a time

# A row that gains less than this in a round is left to a factorization, or given up.
_MAX_ROUNDS, _GAIN = 4, 0.1  # of BiCGSTAB
_MAX_RESTARTS, _RESTART_GAIN = 100, 0.99  # of GMRES

_UNSOLVED = (
    "The steady state has no derivative, or none was found. Either the Jacobian is singular there, as on a continuous "
    "attractor, where the stimulus does not decide the state; or GMRES did not converge: `matrix_free=False` uses LU."
)


class Way(enum.Enum):
    """How linear systems are solved, and what becomes of one that has no solution."""

    together = enum.auto()  # by products with all rows at once, and the rest by LU or GMRES; without a solution, NaN
    factors = enum.auto()  # by LU; without a solution, an error
    products = enum.auto()  # by GMRES; without a solution, an error


class Points(NamedTuple):
    """Where the network is linearized, one per row."""

    states: Vectors  # of the rows; another row's if the linearization is not finite, so that 0 times it is 0
    stimuli: Float[Array, "batch stimulus"]  # likewise
    scales: Vectors  # what velocities are multiplied by, where the network declares no time constants
    is_usable: Bool[Array, " batch"]  # whether a row is steady, and its linearization finite

    def take(self, rows: Array) -> "Points":
        """Some rows; the last one stands in for those that do not exist."""
        return Points(*(array.at[rows].get(mode="clip") for array in self))


def residuals(network: RecurrentNetwork, points: Points) -> Vectors:
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


def _recurrent_inputs(weights: Float[Array, "state state"] | BCOO, rates: Vectors) -> Vectors:
    """`W r`, one per row. JAX's sparse matrix product has no second derivative in the matrix entries under `vmap`."""
    if not isinstance(weights, BCOO):
        return rates @ weights.T
    rows, columns = weights.indices.T
    sources = rates.at[:, columns].get(mode="fill", fill_value=0)
    return jnp.zeros_like(rates).at[:, rows].add(sources * weights.data[None], mode="drop")


class Systems(NamedTuple):
    """Linear systems `A y = b` with `A = -F_x`, or with its transpose, one per row."""

    network: RecurrentNetwork  # the network
    points: Points  # where it is linearized
    multiply: Linear  # the products of all A with their rows
    is_transposed: bool  # whether A is the transpose

    def take(self, rows: Array) -> "Systems":
        """Some of the rows."""
        network, points, _, is_transposed = self
        points = points.take(rows)
        _, multiply = jax.linearize(lambda states: -residuals(network, points._replace(states=states)), points.states)
        if is_transposed:
            transposed = jax.linear_transpose(multiply, points.states)
            return Systems(network, points, lambda rows: transposed(rows)[0], True)
        return Systems(network, points, multiply, False)

    def matrices(self) -> Float[Array, "batch state state"]:
        """The matrices A, one per row."""

        def residual(state: Float[Array, " state"], point: Points) -> Float[Array, " state"]:
            rows = jax.tree.map(lambda leaf: leaf[None], point._replace(states=state))
            return -residuals(self.network, rows)[0]

        matrices = jax.vmap(jax.jacfwd(residual))(self.points.states, self.points)
        return jnp.matrix_transpose(matrices) if self.is_transposed else matrices


def solve(systems: Systems, right: Vectors, way: Way) -> Vectors:
    """The solutions y: NaN in rows without a solution, and zero in rows where b is zero."""
    is_nonzero = jnp.any(right != 0, axis=1)
    is_solvable = systems.points.is_usable & jnp.all(jnp.isfinite(right), axis=1)
    sizes = jnp.max(jnp.abs(right), axis=1)
    sizes = jnp.where(is_solvable & is_nonzero, sizes, 1)
    known = jnp.where(is_solvable[:, None], right / sizes[:, None], 0)  # so squares neither overflow nor vanish
    if way is Way.together:
        network = systems.network
        is_factored = network.has_dense_weights or network.state_size <= LARGEST_FACTORED
        solution = refine(bicgstab, systems.multiply, known, _MAX_ROUNDS, _GAIN)
        solution = _solve_rest(systems, known, solution, is_factored=is_factored)
        is_solvable &= solution.is_solved
        rows = solution.rows
    else:
        unsolved = Solution(jnp.zeros_like(known), ~jnp.any(known != 0, axis=1))
        solution = _solve_rest(systems, known, unsolved, is_factored=way is Way.factors)
        rows = eqx.error_if(solution.rows, ~solution.is_solved, _UNSOLVED)
    return jnp.where(is_nonzero[:, None], jnp.where(is_solvable[:, None], sizes[:, None] * rows, jnp.nan), 0)


def _solve_rest(systems: Systems, known: Vectors, solution: Solution, *, is_factored: bool) -> Solution:
    """Solve the rows that are left, a few at a time."""
    batch_size, size = known.shape
    num_rows = max(1, min(batch_size, _FACTORED_ROWS, _FACTORED_ENTRIES // size**2))

    def solve_some(carry: tuple[Solution, Bool[Array, " batch"]]):
        solution, is_open = carry
        (rows,) = jnp.nonzero(is_open, size=num_rows, fill_value=batch_size)
        subset, right = systems.take(rows), known.at[rows].get(mode="clip")
        if is_factored:
            solved = _by_factors(subset, right)
        else:
            solved = refine(gmres, subset.multiply, right, _MAX_RESTARTS, _RESTART_GAIN)
        solution = jax.tree.map(lambda whole, part: whole.at[rows].set(part, mode="drop"), solution, solved)
        return solution, is_open.at[rows].set(False, mode="drop")

    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), solve_some, (solution, ~solution.is_solved))[0]


def _by_factors(systems: Systems, right: Vectors) -> Solution:
    """By LU and one step of iterative refinement, whose size shows how well conditioned the system is."""
    matrices = systems.matrices()
    factors = jsl.lu_factor(matrices)

    def solve(right: Vectors) -> Vectors:
        return jsl.lu_solve(factors, right[..., None])[..., 0]

    rows = solve(right)
    change = solve(right - jnp.einsum("bij,bj->bi", matrices, rows))
    is_solved = norms(change) <= LARGEST_ERROR * norms(rows)
    return Solution(rows + change, is_solved & jnp.isfinite(norms(rows)))
