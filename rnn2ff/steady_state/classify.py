"""The verdict on a finished search: a fixed point is a steady state only if small perturbations die out."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn2ff.networks.base import RecurrentNetwork, residual
from rnn2ff.steady_state.base import Candidate, Status, SteadyState

_SURE_GROWTH = 60.0  # log of a norm that no transient growth reaches


def judge(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    candidate: Candidate,
    *,
    tolerance: float,
    is_always_stable: bool = False,
) -> SteadyState:
    """The verdict on one sample, from the candidate's state alone.

    Args:
        network: the network.
        stimulus: the stimulus of the search.
        candidate: the end of a search.
        tolerance: the largest residual that counts as rest.
        is_always_stable: whether it is known that every fixed point of this network is stable.
    """
    recomputed = residual(network, candidate.state, stimulus)
    is_finite = jnp.isfinite(recomputed) & jnp.all(jnp.isfinite(candidate.state))
    is_at_rest = is_finite & (recomputed < tolerance)
    if is_always_stable:
        is_stable = jnp.ones((), bool)
    else:
        is_stable = ~grows(network, candidate.state, stimulus, is_needed=is_at_rest)
    status = jnp.select(
        [~is_finite, is_at_rest & is_stable, is_at_rest, candidate.is_diverging],
        [_code(Status.nonfinite), _code(Status.converged), _code(Status.unstable), _code(Status.diverging)],
        _code(Status.max_steps_reached),
    )
    return SteadyState(candidate.state, status, recomputed, candidate.num_steps)


def grows(
    network: RecurrentNetwork,
    state: Float[Array, " state"],
    stimulus: Float[Array, " stimulus"],
    *,
    is_needed: Bool[Array, ""],
) -> Bool[Array, ""]:
    """Whether some small perturbation of a fixed point grows, i.e. an eigenvalue of the Jacobian J is positive.

    Eigenvalues of a non-symmetric matrix are slow, and not available on every device. The Cayley transform
    `A = (I - s J)^-1 (I + s J)` maps eigenvalues with negative real part into the unit circle, and squaring A again and
    again tells which: `|A^m| < 1` for some m proves stability, and `|A^m|^(1/m)` tends to the spectral radius from
    above (Gelfand). A growth rate within rounding of zero does not count as growth: on a continuous attractor
    a perturbation stays.

    Args:
        network: the network.
        state: a fixed point.
        stimulus: the stimulus.
        is_needed: where False the answer is not needed, and under `vmap` costs nothing if no sample needs it.
    """
    size = state.size
    identity = jnp.eye(size, dtype=state.dtype)
    # What rounding and a finite power leave undecided: growth slower than about this, per step of the transform.
    max_squarings, slack = (30, 1e-8) if state.dtype == jnp.float64 else (20, 2e-5)

    def transform(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        del carry
        jacobian = jax.jacfwd(network.velocity)(state, stimulus)
        size_of_jacobian = jnp.maximum(jnp.linalg.norm(jacobian), jnp.finfo(state.dtype).tiny)
        scale = size**0.5 / size_of_jacobian  # so that typical eigenvalues end up far inside the unit circle
        cayley = jnp.linalg.solve(identity - scale * jacobian, identity + scale * jacobian)
        return jnp.zeros((), bool), cayley

    def is_undecided(carry: tuple[Array, Array, Array]) -> Array:
        _, log_norm, num_squarings = carry
        return is_needed & (log_norm >= 0) & (log_norm < _SURE_GROWTH) & (num_squarings < max_squarings)

    def square(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        matrix, log_norm, num_squarings = carry
        matrix = matrix @ matrix
        norm = jnp.linalg.norm(matrix)
        return matrix / norm, 2 * log_norm + jnp.log(norm), num_squarings + 1

    # Loops, not branches: under `vmap` a branch is always paid for, a loop that no sample enters is not.
    _, power = jax.lax.while_loop(lambda carry: carry[0], transform, (is_needed, identity))
    norm = jnp.linalg.norm(power)
    start = (power / norm, jnp.log(norm), jnp.zeros((), jnp.int32))
    _, log_norm, num_squarings = jax.lax.while_loop(is_undecided, square, start)
    num_powers = 2.0 ** num_squarings.astype(state.dtype)
    return (log_norm > slack * num_powers) | jnp.isnan(log_norm)


def _code(status: Status) -> Int[Array, ""]:
    return jnp.asarray(status, jnp.int32)
