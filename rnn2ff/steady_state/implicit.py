"""The derivative of a steady state, `dx* = -J^-1 (df/dtheta dtheta + df/du du)`, however it was found.

At a steady state `f(theta, x*, u) = 0`, so the implicit function theorem gives the derivative from the Jacobian
J = df/dx there. The search is never differentiated.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from rnn2ff.networks.base import RecurrentNetwork

_LARGEST_DEFECT = 1e-2  # of a linear solve, relative; a Jacobian that leaves more is singular to working precision
_SINGULAR = (
    "The steady state has no derivative: the Jacobian is singular there, as on a continuous attractor, where the "
    "stimulus does not decide the state."
)


@eqx.filter_custom_jvp
def with_implicit_derivative(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    state: Float[Array, " state"],
    is_steady: Bool[Array, ""],
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
    """
    del network, stimulus, is_steady
    return state


@with_implicit_derivative.def_jvp
def _implicit_jvp(primals, tangents):
    network, stimulus, state, is_steady = primals
    network_tangent, stimulus_tangent, _, _ = tangents
    _, push = eqx.filter_jvp(
        lambda network, stimulus: network.velocity(state, stimulus),
        (network, stimulus),
        (network_tangent, stimulus_tangent),
    )
    jacobian = jax.jacfwd(network.velocity)(state, stimulus)
    # One sample without a steady state must not fail the solve of all others in a batch.
    jacobian = jnp.where(is_steady, jacobian, jnp.eye(state.size, dtype=state.dtype))

    def solve(matrix: Float[Array, "state state"], vector: Float[Array, " state"]) -> Float[Array, " state"]:
        is_solvable = is_steady & jnp.all(jnp.isfinite(vector))
        known = jnp.where(is_solvable, vector, 0)
        solution = lx.linear_solve(lx.MatrixLinearOperator(matrix), known, lx.LU(), throw=False).value
        defect = jnp.max(jnp.abs(matrix @ solution - known))
        is_solved = defect <= _LARGEST_DEFECT * jnp.max(jnp.abs(known))  # False if NaN
        solution = eqx.error_if(solution, ~is_solved, _SINGULAR)
        return jnp.where(is_solvable | (vector == 0), solution, jnp.nan)

    # The rule for both directions is given here, and not left to transposition, which would turn the NaN of a sample
    # without a steady state into a zero.
    response = jax.lax.custom_linear_solve(
        lambda vector: jacobian @ vector,
        push,
        solve=lambda _, vector: solve(jacobian, vector),
        transpose_solve=lambda _, vector: solve(jacobian.T, vector),
    )
    return state, -response
