"""The competitors that are written in JAX: a plain loop, diffrax, optimistix and jaxopt."""

import functools
from collections.abc import Callable

import diffrax as dfx
import jax
import jax.numpy as jnp
import optimistix as optx

from benchmarks.parts.contenders import TOLERANCE, roll_out
from benchmarks.parts.peer_tuning import MAX_ITERATIONS, Solve
from benchmarks.parts.problems import Problem, power_law

_MOST_LOOPS = 5000  # of the plain loop; one sample of `wta` takes 3,000


def _sweep(network, damping=1.0):
    """The fixed-point iteration, `x <- x + damping (W phi(x) + u - x)`."""
    return lambda state, stimulus: state + damping * network.time_constants * network.velocity(state, stimulus)


def plain_loop(problem: Problem) -> Solve:
    """Euler steps of the whole batch until the slowest sample is at rest, with no verdict.

    Where all time constants are the same that is the damped fixed-point iteration.
    """
    transposed = jnp.asarray(problem.weights.T)
    shares = (problem.time_constants.min() / problem.time_constants)[None]
    phi = {"relu": jax.nn.relu, "tanh": jnp.tanh, "power": power_law}[problem.nonlinearity]

    @functools.partial(jax.jit, static_argnames="check_every")
    def solve(stimuli, damping, check_every):
        def some_steps(carry):
            states, _, num_steps = carry
            for _ in range(check_every):
                before, velocity = states, phi(states) @ transposed + stimuli - states
                states = before + damping * shares * velocity
            residuals = jnp.max(jnp.abs(velocity), axis=1) / (1 + jnp.max(jnp.abs(before), axis=1))
            return states, jnp.max(residuals), num_steps + check_every

        def is_open(carry):
            return (carry[1] >= TOLERANCE) & (carry[2] < _MOST_LOOPS)  # NaN ends it as well

        return jax.lax.while_loop(is_open, some_steps, (jnp.zeros_like(stimuli), jnp.float32(jnp.inf), 0))[0]

    return solve


def diffrax(problem: Problem) -> Solve:
    """vmap(Tsit5 + PID + event on the residual's max-norm), all of the batch in one loop or in tiles."""
    roll = roll_out(problem.network, dfx.Tsit5())

    def batch(stimuli, step_tolerance):
        return roll(TOLERANCE, step_tolerance, stimuli)[0]

    @jax.jit
    def in_one(stimuli, step_tolerance):
        return batch(stimuli, step_tolerance)

    @jax.jit
    def in_tiles(stimuli, step_tolerance):
        tiles = stimuli.reshape(-1, 64, stimuli.shape[-1])
        return jax.lax.map(lambda tile: batch(tile, step_tolerance), tiles).reshape(stimuli.shape)

    def solve(stimuli, step_tolerance, tiles):
        has_tiles = tiles == "64" and len(stimuli) % 64 == 0 and len(stimuli) > 64
        return (in_tiles if has_tiles else in_one)(stimuli, step_tolerance)

    return solve


def optimistix_fixed_point(problem: Problem) -> Solve:
    @jax.jit
    def solve(stimuli, stop, damping):
        def one(stimulus):
            sweep, solver = _sweep(problem.network, damping), optx.FixedPointIteration(rtol=stop, atol=stop)
            start = jnp.zeros(problem.network.state_size, problem.network.dtype)
            return optx.fixed_point(sweep, solver, start, stimulus, max_steps=MAX_ITERATIONS, throw=False).value

        return jax.vmap(one)(stimuli)

    return solve


def optimistix_newton(problem: Problem) -> Solve:
    network = problem.network

    @jax.jit
    def solve(stimuli, stop):
        def one(stimulus):
            solver = optx.Newton(rtol=stop, atol=stop)
            start = jnp.zeros(network.state_size, network.dtype)
            return optx.root_find(network.velocity, solver, start, stimulus, max_steps=64, throw=False).value

        return jax.vmap(one)(stimuli)

    return solve


def jaxopt(method: str) -> Callable[[Problem], Solve]:
    def build(problem: Problem) -> Solve:
        import jaxopt

        @jax.jit
        def plain(stimuli, stop, damping):
            solver = jaxopt.FixedPointIteration(
                _sweep(problem.network, damping), maxiter=MAX_ITERATIONS, tol=stop, implicit_diff=False, unroll=False
            )
            return jax.vmap(lambda stimulus: solver.run(jnp.zeros_like(stimulus), stimulus).params)(stimuli)

        @functools.partial(jax.jit, static_argnames="history")
        def anderson(stimuli, stop, history):
            solver = jaxopt.AndersonAcceleration(
                _sweep(problem.network),
                history,
                maxiter=MAX_ITERATIONS // 4,
                tol=stop,
                ridge=1e-6,
                implicit_diff=False,
                unroll=False,
            )
            return jax.vmap(lambda stimulus: solver.run(jnp.zeros_like(stimulus), stimulus).params)(stimuli)

        return plain if method == "fixed point" else anderson

    return build
