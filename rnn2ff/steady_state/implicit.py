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


@eqx.filter_custom_jvp
def with_implicit_derivative(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    state: Float[Array, " state"],
    is_steady: Bool[Array, ""],
) -> Float[Array, " state"]:
    """The state as it is, with its derivative by the network's parameters and by the stimulus.

    First derivatives, forward and reverse mode. Where the state is not steady its derivative is NaN. On a continuous
    attractor the Jacobian is singular and the derivative undefined: the linear solve then fails, with an error.

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
    response = lx.linear_solve(lx.MatrixLinearOperator(jacobian), push, lx.LU()).value
    return state, jnp.where(is_steady, -response, jnp.nan)
