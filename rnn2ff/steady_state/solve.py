"""The two entry points: the steady state for one stimulus, or for a batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from tqdm import tqdm

from rnn2ff._checks import check_at_least, check_finite, check_shape, check_stimuli, check_stimulus, check_tolerance
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.steady_state.base import ADVICE, AbstractSteadyStateSolver, SteadyState
from rnn2ff.steady_state.classify import judge
from rnn2ff.steady_state.implicit import with_implicit_derivative
from rnn2ff.steady_state.rollout import Rollout

_CHUNK_SIZE = 256  # samples solved together; a chunk costs its slowest sample


def solve_steady_state(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    solver: AbstractSteadyStateSolver = Rollout(),
    *,
    initial_state: Float[ArrayLike, " state"] | None = None,
    max_steps: int = 4096,
    throw: bool = True,
) -> SteadyState:
    """The steady state of a network for one stimulus.

    Safe under `jit`, `vmap` and `grad`: the derivative is the implicit one, by the network's parameters and the
    stimulus, whatever the solver.

    Args:
        network: the network.
        stimulus: one stimulus.
        solver: how to search.
        initial_state: where the dynamics start, by default at zero. In a multistable network it decides which
            steady state is the answer.
        max_steps: bound on the steps of the search.
        throw: whether a search that ends without a steady state raises; otherwise the status tells.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or the tolerance is below what the dtype can reach.
        RuntimeError: with `throw`, if the status is not `converged`.
    """
    tolerance = check_tolerance(solver.tolerance, network.dtype)
    check_at_least("max_steps", max_steps, 1)
    check_stimulus(stimulus, network.stimulus_size)
    if initial_state is None:
        initial_state = jnp.zeros(network.state_size, network.dtype)
    check_shape("initial_state", initial_state, (network.state_size,))
    check_finite("initial_state", initial_state)
    stimulus, initial_state = (jnp.asarray(each, network.dtype) for each in (stimulus, initial_state))
    return _solve(network, stimulus, solver, initial_state, tolerance, max_steps, throw=throw)


@eqx.filter_jit
def _solve(network, stimulus, solver, initial_state, tolerance, max_steps, *, throw) -> SteadyState:
    # The search and the verdict see constants: no derivative passes through them.
    constants = jax.lax.stop_gradient(eqx.filter((network, stimulus, initial_state), eqx.is_array))
    network_, stimulus_, initial_state_ = eqx.combine(constants, (network, stimulus, initial_state))
    candidate = solver.search(network_, stimulus_, initial_state_, tolerance=tolerance, max_steps=max_steps)
    found = judge(network_, stimulus_, candidate, tolerance=tolerance)
    state = with_implicit_derivative(network, stimulus, found.state, found.is_converged)
    if throw:
        messages = [f"No steady state ({each.name}): {advice}." for each, advice in ADVICE.items()]
        state = eqx.branched_error_if(state, ~found.is_converged, found.status - 1, messages)
    return eqx.tree_at(lambda record: record.state, found, state)


def solve_steady_states(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    solver: AbstractSteadyStateSolver | None = None,
    initial_states: Float[ArrayLike, "batch state"] | None = None,
    tolerance: float | None = None,
    max_steps: int = 4096,
    progress: bool = False,
) -> SteadyState:
    """The steady states of a network for a batch of stimuli, each with its own verdict.

    Runs on the host, in chunks of one size, so that memory is bounded and nothing is compiled twice. It never raises
    for a sample that has no steady state: look at `status`.

    Args:
        network: the network.
        stimuli: one stimulus a row.
        solver: how to search, by default `Rollout`.
        initial_states: where the dynamics start, one row a stimulus; by default at zero.
        tolerance: the largest residual that counts as rest; by default the solver's.
        max_steps: bound on the steps of each search.
        progress: whether to show a progress bar, on standard error.

    Raises:
        ValueError: if shapes do not fit, a value is not finite (the rows are named), or the tolerance is below what
            the dtype can reach.
    """
    solver = Rollout() if solver is None else solver
    tolerance = check_tolerance(solver.tolerance if tolerance is None else tolerance, network.dtype)
    check_at_least("max_steps", max_steps, 1)
    check_stimuli(stimuli, network.stimulus_size)
    stimuli = np.asarray(stimuli, network.dtype)
    num_samples = len(stimuli)
    if initial_states is None:
        initial_states = np.zeros((num_samples, network.state_size), network.dtype)
    check_shape("initial_states", initial_states, (num_samples, network.state_size))
    check_finite("initial_states", initial_states)
    initial_states = np.asarray(initial_states, network.dtype)

    chunk_size = min(num_samples, _CHUNK_SIZE)
    chunks = []
    starts = range(0, num_samples, chunk_size)
    for start in tqdm(starts, desc="steady states", unit="chunk", disable=not progress):
        rows = np.minimum(np.arange(start, start + chunk_size), num_samples - 1)  # the last chunk repeats a row
        chunk = _solve_chunk(network, stimuli[rows], solver, initial_states[rows], tolerance, max_steps)
        chunks.append(jax.tree.map(np.asarray, chunk))
    return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)[:num_samples]), *chunks)


@eqx.filter_jit
def _solve_chunk(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    solver: AbstractSteadyStateSolver,
    initial_states: Float[Array, "batch state"],
    tolerance: float,
    max_steps: int,
) -> SteadyState:
    return jax.vmap(
        lambda stimulus, initial_state: _solve(
            network, stimulus, solver, initial_state, tolerance, max_steps, throw=False
        )
    )(stimuli, initial_states)
