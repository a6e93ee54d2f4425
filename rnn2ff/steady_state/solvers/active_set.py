"""The exact steady state of a threshold-linear network, from the set of its active units.

Where the set A of active units is known, the steady state solves a linear system: `(I - W_AA) x_A = h_A`. Semismooth
Newton guesses A from the total input, solves, and reads A off the solution, until A no longer changes. Then the state
is exact to rounding. If a set recurs, the guesses cycle.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from rnn2ff._checks import fail
from rnn2ff.networks import RecurrentNetwork, is_threshold_linear
from rnn2ff.steady_state.search import AbstractSteadyStateSolver, Candidate


class ActiveSet(AbstractSteadyStateSolver):
    """Semismooth Newton on the set of active units; threshold-linear networks only.

    One linear system a step, usually few steps. It ends when the set is consistent with its own solution, which is then
    exact, or when a set recurs, which is reported as `max_steps_reached`. As with any root finder, the fixed point
    may be unstable (the verdict says so), or not the one that the dynamics reach.

    Attributes:
        tolerance: the largest residual that counts as rest; None asks for the dtype's default.
    """

    tolerance: float | None = None

    def search(
        self,
        network: RecurrentNetwork,
        stimulus: Float[Array, " stimulus"],
        initial_state: Float[Array, " state"],
        *,
        tolerance: float | Scalar,
        max_steps: int,
    ) -> Candidate:
        """Look for a consistent active set; raises a ValueError for a network that is not threshold-linear."""
        if not is_threshold_linear(network):
            raise fail("network", "has no active set", "a threshold-linear network", f"{network.vector_field}")
        weights, drive = network.dense_weights, network.params.feedforward_input(stimulus)
        identity = jnp.eye(network.state_size, dtype=drive.dtype)

        def step(carry):
            active, _, seen, num_steps, _ = carry
            point = jnp.linalg.solve(identity - weights * active[None, :].astype(drive.dtype), drive)
            new = point > 0
            is_consistent = jnp.all(new == active)
            # Brent's algorithm: remember a set at every power of two; a cycle of any length meets one of them.
            seen = jnp.where((num_steps & (num_steps - 1)) == 0, active, seen)
            is_cycling = jnp.all(new == seen) & ~is_consistent
            return new, point, seen, num_steps + 1, is_consistent | is_cycling

        def goes_on(carry):
            _, _, _, num_steps, is_finished = carry
            return ~is_finished & (num_steps < max_steps)

        start = network.total_input(initial_state, stimulus)
        is_active = start > 0
        zero = jnp.zeros((), jnp.int32)
        _, point, _, num_steps, _ = jax.lax.while_loop(
            goes_on, step, (is_active, start, is_active, zero, jnp.zeros((), bool))
        )
        return Candidate(network.state_from_total_input(point), num_steps, jnp.zeros((), bool))
