"""Find a zero of the velocity, without following the dynamics."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Scalar

from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state.search import AbstractSteadyStateSolver, Candidate


class RootFind(AbstractSteadyStateSolver):
    """An optimistix root finder on `tau dx/dt = 0`.

    A root need not be a steady state: it may be unstable (the verdict says so), and in a multistable network it may
    be another than the one the dynamics reach (no verdict on one state can say so; `Rollout` is the reference).

    Attributes:
        tolerance: the largest residual that counts as rest; None asks for the dtype's default.
        root_finder: makes the optimistix solver from `(rtol, atol)`: `optx.Newton`, `optx.Dogleg`,
            `optx.LevenbergMarquardt` and so on.
    """

    tolerance: float | None = None
    root_finder: Callable[[float, float], optx.AbstractRootFinder | optx.AbstractLeastSquaresSolver] = eqx.field(
        static=True, default=optx.Newton
    )

    def search(
        self,
        network: RecurrentNetwork,
        stimulus: Float[Array, " stimulus"],
        initial_state: Float[Array, " state"],
        *,
        tolerance: float | Scalar,
        max_steps: int,
    ) -> Candidate:
        enough = tolerance / 10  # stricter than needed

        def relative_velocity(state, args):
            # Relative to the state, as the residual is: with an absolute tolerance, large states in float32 never end.
            # The size is not differentiated, so the steps of Newton's method are unchanged.
            size = jax.lax.stop_gradient(1 + jnp.max(jnp.abs(state)))
            velocity = network.time_constants * network.velocity(state, stimulus) / size
            # At a root, the value is exactly zero: a root finder also tests its step, entry by entry, and entries that
            # are small beside others move by rounding for ever. The derivative is unchanged.
            is_found = jnp.max(jnp.abs(velocity)) < enough
            return velocity - jax.lax.stop_gradient(jnp.where(is_found, velocity, 0))

        # If differentiating the formula gives NaN, as for a norm at 0, the search starts beside the initial state. If
        # that is a root already, it is returned; a solver that differentiates there again would lose it.
        drift = relative_velocity(initial_state, None)
        speed, info = jnp.max(jnp.abs(drift)), jnp.finfo(initial_state.dtype)
        _, slope = jax.jvp(lambda state: relative_velocity(state, None), (initial_state,), (jnp.ones_like(drift),))
        is_smooth = jnp.all(jnp.isfinite(slope))
        aside = jnp.cbrt(info.eps) * (1 + jnp.max(jnp.abs(initial_state))) / jnp.maximum(speed, info.tiny) * drift
        solution = optx.root_find(
            relative_velocity,
            self.root_finder(enough, enough),
            jnp.where(is_smooth, initial_state, initial_state + aside),
            max_steps=max_steps,
            throw=False,
        )
        state = jnp.where(is_smooth | (speed >= enough), solution.value, initial_state)
        return Candidate(state, solution.stats["num_steps"].astype(jnp.int32), jnp.zeros((), bool))
