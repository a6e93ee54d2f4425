"""The derivative of a steady state, `dx* = -J^-1 (df/dtheta dtheta + df/du du)`, however it was found.

At a steady state `f(theta, x*, u) = 0`, so the implicit function theorem gives the derivative from the Jacobian
J = df/dx there. The search is never differentiated.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from rnn2ff.networks.base import RecurrentNetwork

_LARGEST_DEFECT = 1e-2  # of a linear solve, relative; a Jacobian that leaves more is singular to working precision
_RESTART, _MAX_STEPS = 40, 400  # of GMRES, in products and in restarts
_UNSOLVED = (
    "The steady state has no derivative, or none was found. Either the Jacobian is singular there, as on a continuous "
    "attractor, where the stimulus does not decide the state; or GMRES did not converge: `matrix_free=False` uses LU."
)


@eqx.filter_custom_jvp
def with_implicit_derivative(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    state: Float[Array, " state"],
    is_steady: Bool[Array, ""],
    is_matrix_free: bool,
) -> Float[Array, " state"]:
    """The state as it is, with its derivative by the network's parameters and by the stimulus.

    First derivatives, forward and reverse mode. What is asked of a state that is not steady is NaN, in its own sample
    alone; a sample that a loss ignores adds nothing. On a continuous attractor the derivative is undefined: the linear
    solve fails, with an error.

    Args:
        network: differentiated by its parameters.
        stimulus: differentiated.
        state: the steady state, taken as a constant.
        is_steady: whether `state` is one.
        is_matrix_free: whether the linear system is solved from products with the Jacobian, by GMRES, and not by LU.
    """
    del network, stimulus, is_steady, is_matrix_free
    return state


@with_implicit_derivative.def_jvp
def _implicit_jvp(primals, tangents):
    network, stimulus, state, is_steady, is_matrix_free = primals
    network_tangent, stimulus_tangent, *_ = tangents
    _, push = eqx.filter_jvp(
        lambda network, stimulus: network.velocity(state, stimulus),
        (network, stimulus),
        (network_tangent, stimulus_tangent),
    )
    if is_matrix_free:
        solve, solve_transposed, multiply = _by_products(network, stimulus, state, is_steady)
    else:
        solve, solve_transposed, multiply = _by_factors(network, stimulus, state, is_steady)

    def checked(
        solve: Callable[[Array], Array], multiply: Callable[[Array], Array]
    ) -> Callable[[Array], Float[Array, " state"]]:
        def solve_or_fail(vector: Float[Array, " state"]) -> Float[Array, " state"]:
            is_solvable = is_steady & jnp.all(jnp.isfinite(vector))
            known = jnp.where(is_solvable, vector, 0)
            solution = solve(known)
            defect = jnp.max(jnp.abs(multiply(solution) - known))
            is_solved = defect <= _LARGEST_DEFECT * jnp.max(jnp.abs(known))  # False if NaN
            solution = eqx.error_if(solution, ~is_solved, _UNSOLVED)
            return jnp.where(is_solvable | (vector == 0), solution, jnp.nan)

        return solve_or_fail

    # The rule for both directions is given here, and not left to transposition, which would turn the NaN of a sample
    # without a steady state into a zero.
    transposed = jax.linear_transpose(multiply, state)
    response = jax.lax.custom_linear_solve(
        multiply,
        push,
        solve=lambda _, vector: checked(solve, multiply)(vector),
        transpose_solve=lambda _, vector: checked(solve_transposed, lambda each: transposed(each)[0])(vector),
    )
    return state, -response


_Linear = Callable[[Float[Array, " state"]], Float[Array, " state"]]


def _by_factors(network, stimulus, state, is_steady) -> tuple[_Linear, _Linear, _Linear]:
    """Solve with the Jacobian and with its transpose by LU, and multiply with it."""
    jacobian = jax.jacfwd(network.velocity)(state, stimulus)
    # One sample without a steady state must not fail the solve of all others in a batch.
    jacobian = jnp.where(is_steady, jacobian, jnp.eye(state.size, dtype=state.dtype))

    def solve(matrix: Float[Array, "state state"], vector: Float[Array, " state"]) -> Float[Array, " state"]:
        return lx.linear_solve(lx.MatrixLinearOperator(matrix), vector, lx.LU(), throw=False).value

    return (
        lambda vector: solve(jacobian, vector),
        lambda vector: solve(jacobian.T, vector),
        lambda vector: jacobian @ vector,
    )


def _by_products(network, stimulus, state, is_steady) -> tuple[_Linear, _Linear, _Linear]:
    """The same by GMRES, from products alone; memory grows with the number of units, and not with its square."""
    _, push = jax.linearize(lambda state: network.velocity(state, stimulus), state)
    pull = jax.linear_transpose(push, state)
    precision = 10 * float(jnp.finfo(state.dtype).eps)
    gmres = lx.GMRES(rtol=precision, atol=precision, restart=_RESTART, stagnation_iters=_RESTART, max_steps=_MAX_STEPS)

    def solve(product: _Linear, vector: Float[Array, " state"]) -> Float[Array, " state"]:
        operator = lx.FunctionLinearOperator(product, jax.eval_shape(lambda: state))
        return lx.linear_solve(operator, vector, gmres, throw=False).value

    def multiply(vector: Float[Array, " state"]) -> Float[Array, " state"]:
        return jnp.where(is_steady, push(vector), vector)

    def multiply_transposed(vector: Float[Array, " state"]) -> Float[Array, " state"]:
        return jnp.where(is_steady, pull(vector)[0], vector)

    return lambda vector: solve(multiply, vector), lambda vector: solve(multiply_transposed, vector), multiply
