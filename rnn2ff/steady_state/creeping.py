"""Where a slow motion that does not turn ends: slow decay to a fixed point, or slow growth, by implicit steps.

The fastest decay limits the size of explicit steps, however slow the motion. A linearly implicit Euler step can be as
long as the motion stays straight; two half steps are taken, and the whole step estimates their error. A motion that
slows down exponentially takes some hundred steps, whatever the rate.
"""

import functools

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float, Int

from rnn2ff.compiling import compiled, only_after
from rnn2ff.networks import RecurrentNetwork, residual, time_scales
from rnn2ff.steady_state.rows import LOCAL_ERROR
from rnn2ff.steady_state.search import Candidate
from rnn2ff.steady_state.stability import neutral_growth
from rnn2ff.steady_state.watched import ESCAPE

MOST_STEPS = 512
STIFF_ROWS, _LARGEST_STIFF = 8, 512  # rows of an implicitly integrated sub-batch; most units whose matrix is factored
_FIRST_STEP, _LARGEST_CHANGE = 0.1, 5.0  # in units of the longest time scale; largest ratio of successive steps


@compiled
def creep(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    states: Float[Array, "batch state"],
    tolerances: Float[Array, " batch"],
) -> Candidate:
    """Follow motions by implicit steps until they come to rest, or have grown by many orders of magnitude.

    Each step factors two matrices of the network's size.
    """
    return jax.vmap(functools.partial(_creep, network))(stimuli, states, tolerances)


def most_crept(network: RecurrentNetwork) -> int:
    """How many samples of a batch may take all implicit steps: half a minute of work, except for large networks."""
    return max(STIFF_ROWS, 2**27 // (network.state_size**3 + 2**15))


def may_be_factored(network: RecurrentNetwork) -> bool:
    """Whether implicit steps apply, each of which factors matrices of the network's size."""
    return network.state_size <= _LARGEST_STIFF and not network.is_map


def is_crept(network: RecurrentNetwork, max_steps: int) -> bool:
    """Whether slow motions are followed by implicit steps."""
    return max_steps >= MOST_STEPS and may_be_factored(network)


def _creep(network, stimulus, start, tolerance) -> Candidate:
    identity = jnp.eye(network.state_size, dtype=start.dtype)
    scale = 1 + jnp.max(jnp.abs(stimulus)) + jnp.max(jnp.abs(start))
    bound = ESCAPE * scale
    slowest = jnp.max(time_scales(network, start, stimulus))
    longest = 0.1 / jnp.finfo(start.dtype).eps * slowest  # beyond, rounding errors of the Jacobian are no longer small

    def velocity(state):
        return network.velocity(state, stimulus)

    def goes_on(carry):
        state, step, num_steps = carry
        # Relative to the scale of the start: relative to its own size, growth at constant speed finally looks slow.
        is_moving = residual(network, state, stimulus) * (1 + jnp.max(jnp.abs(state))) >= tolerance * scale
        return is_moving & (jnp.max(jnp.abs(state)) <= bound) & (step > 0) & (num_steps < MOST_STEPS)

    def take_step(carry):
        state, step, num_steps = carry
        jacobian, speed = network.jacobian(state, stimulus), velocity(state)
        once = jsl.lu_factor(identity - step * jacobian)
        whole = state + step * jsl.lu_solve(once, speed)
        half = jsl.lu_factor(only_after(whole, identity - step / 2 * jacobian))
        middle = state + step / 2 * jsl.lu_solve(half, speed)
        twice = middle + step / 2 * jsl.lu_solve(half, velocity(middle))
        error = jnp.max(jnp.abs(twice - whole)) / (LOCAL_ERROR * (1 + jnp.max(jnp.abs(state))))
        # Two half steps change the sign of no mode: for an eigenvalue z their factor is 1 / (1 - h z / 2)^2. If they
        # were extrapolated with the whole step they would, and cross a saddle that the motion leaves. Beyond h z = 4 a
        # growing mode shrinks, and the motion ends at the saddle. The determinant shows an odd number of modes beyond
        # h z = 1, however near the saddle is; after steps so long that rounding would show as well, it is not used.
        is_too_long = (_sign_of_determinant(once) < 0) & (step * neutral_growth(state.dtype) <= slowest)
        error = jnp.where(jnp.isfinite(error) & ~is_too_long, error, jnp.inf)
        change = jnp.clip(0.9 / jnp.sqrt(jnp.maximum(error, 1e-6)), 1 / _LARGEST_CHANGE, _LARGEST_CHANGE)
        state = jnp.where(error <= 1, twice, state)
        return state, jnp.minimum(change * step, longest), num_steps + 1

    carry = (start, _FIRST_STEP * slowest, jnp.zeros((), jnp.int32))
    state, _, num_steps = jax.lax.while_loop(goes_on, take_step, carry)
    return Candidate(state, num_steps, jnp.max(jnp.abs(state)) > bound)


def _sign_of_determinant(factors: tuple[Float[Array, "state state"], Int[Array, " state"]]) -> Float[Array, ""]:
    """Of a matrix, from its LU factors and the rows that were exchanged."""
    triangular, pivots = factors
    num_exchanged = jnp.sum(pivots != jnp.arange(len(pivots), dtype=pivots.dtype))
    return jnp.prod(jnp.sign(jnp.diagonal(triangular))) * jnp.where(num_exchanged % 2 == 0, 1, -1)
