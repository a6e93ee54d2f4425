"""Follow the dynamics until they come to rest."""

import diffrax as dfx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from rnn2ff._checks import check_positive_numbers
from rnn2ff.networks import RecurrentNetwork, residual, time_scales
from rnn2ff.steady_state.search import AbstractSteadyStateSolver, Candidate

# The event fires a little below the tolerance, so that a residual recomputed with other rounding still meets it.
_EVENT_SAFETY = 0.5


class Rollout(AbstractSteadyStateSolver):
    """Integrate from the initial state until the residual is below the tolerance.

    The reference for every other solver: what it reaches is, by definition, the steady state of a multistable network.
    The step tolerance is a tenth of the event's: with equal ones the integration error keeps the velocity from
    vanishing, and rare stragglers never stop. A map is iterated, and `ode_solver` and `max_time` do not matter.

    Attributes:
        tolerance: the largest residual that counts as rest; None asks for the dtype's default.
        ode_solver: any adaptive diffrax solver: `Tsit5()` for most networks, `Kvaerno5()` for stiff ones.
        max_time: give up after this time, in units of the longest time scale.
        max_state: a state this many times larger than 1 + max |u| + max |initial state| is diverging.

    Raises:
        ValueError: if `max_time` or `max_state` is not a positive number.
    """

    tolerance: float | None = None
    ode_solver: dfx.AbstractSolver = dfx.Tsit5()
    max_time: float = 1000.0
    max_state: float = 1e8

    def __check_init__(self):
        check_positive_numbers(max_time=self.max_time, max_state=self.max_state)

    def search(
        self,
        network: RecurrentNetwork,
        stimulus: Float[Array, " stimulus"],
        initial_state: Float[Array, " state"],
        *,
        tolerance: float | Scalar,
        max_steps: int,
    ) -> Candidate:
        bound = self.max_state * (1 + jnp.max(jnp.abs(stimulus)) + jnp.max(jnp.abs(initial_state)))

        def is_at_rest(t, state, args, **kwargs):
            return residual(network, state, stimulus) < _EVENT_SAFETY * tolerance

        def has_escaped(t, state, args, **kwargs):
            return jnp.max(jnp.abs(state)) > bound

        if network.is_map:
            return _iterate(network, stimulus, initial_state, bound, _EVENT_SAFETY * tolerance, max_steps)
        slowest = jnp.max(time_scales(network, initial_state, stimulus))
        solution = dfx.diffeqsolve(
            dfx.ODETerm(lambda t, state, args: network.velocity(state, stimulus)),
            self.ode_solver,
            t0=jnp.zeros_like(slowest),
            t1=self.max_time * slowest,
            dt0=None,
            y0=initial_state,
            stepsize_controller=dfx.PIDController(rtol=tolerance / 10, atol=tolerance / 10),
            event=dfx.Event([is_at_rest, has_escaped]),
            adjoint=dfx.ForwardMode(),  # never differentiated: the implicit derivative is attached afterwards
            max_steps=max_steps,
            throw=False,
        )
        return Candidate(solution.ys[0], solution.stats["num_steps"].astype(jnp.int32), solution.event_mask[1])


def _iterate(network, stimulus, initial_state, bound, rest, max_steps) -> Candidate:
    """Iterate until the map comes to rest or escapes."""

    def goes_on(carry):
        state, num_steps = carry
        is_moving = residual(network, state, stimulus) >= rest
        return is_moving & (jnp.max(jnp.abs(state)) <= bound) & (num_steps < max_steps)

    def step(carry):
        state, num_steps = carry
        return state + network.velocity(state, stimulus), num_steps + 1

    state, num_steps = jax.lax.while_loop(goes_on, step, (initial_state, jnp.zeros((), jnp.int32)))
    return Candidate(state, num_steps, jnp.max(jnp.abs(state)) > bound)


STIFF = Rollout(ode_solver=dfx.Kvaerno5())
