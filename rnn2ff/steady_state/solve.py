"""The two entry points: the steady state for one stimulus, or for a batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from tqdm import tqdm

from rnn2ff._checks import check_at_least, check_finite, check_shape, check_stimuli, check_stimulus, check_tolerance
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import has_sparse_weights
from rnn2ff.steady_state.base import ADVICE, AbstractSteadyStateSolver, SteadyState, count_statuses
from rnn2ff.steady_state.batch import SteadyStates, solve_by_plan
from rnn2ff.steady_state.classify import judge
from rnn2ff.steady_state.implicit import with_implicit_derivative
from rnn2ff.steady_state.padding import TILE
from rnn2ff.steady_state.plan import Plan
from rnn2ff.steady_state.rollout import Rollout

_LARGEST_FACTORED = 1024  # units; beyond, a factorization costs more than products


def solve_steady_state(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    solver: AbstractSteadyStateSolver = Rollout(),
    *,
    initial_state: Float[ArrayLike, " state"] | None = None,
    max_steps: int = 4096,
    matrix_free: bool | None = None,
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
        matrix_free: how the linear system of a derivative is solved: from products with the Jacobian (GMRES), or by LU.
            By default from products for networks above 1024 units or with sparse weights.
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
    if matrix_free is None:
        matrix_free = network.state_size > _LARGEST_FACTORED or has_sparse_weights(network)
    return _solve(network, stimulus, solver, initial_state, tolerance, max_steps, matrix_free, throw=throw)


@eqx.filter_jit
def _solve(network, stimulus, solver, initial_state, tolerance, max_steps, matrix_free, *, throw) -> SteadyState:
    # The search and the verdict see constants: no derivative passes through them.
    constants = jax.lax.stop_gradient(eqx.filter((network, stimulus, initial_state), eqx.is_array))
    network_, stimulus_, initial_state_ = eqx.combine(constants, (network, stimulus, initial_state))
    candidate = solver.search(network_, stimulus_, initial_state_, tolerance=tolerance, max_steps=max_steps)
    watched_steps = 2 * max_steps if isinstance(solver, Rollout) else 0
    found = judge(network_, stimulus_, candidate, tolerance=tolerance, max_steps=watched_steps)
    state = with_implicit_derivative(network, stimulus, found.state, found.is_converged, matrix_free)
    if throw:
        messages = [f"No steady state ({each.name}): {advice}." for each, advice in ADVICE.items()]
        state = eqx.branched_error_if(state, ~found.is_converged, found.status - 1, messages)
    return eqx.tree_at(lambda record: record.state, found, state)


def solve_steady_states(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    solver: AbstractSteadyStateSolver | Plan | None = None,
    initial_states: Float[ArrayLike, "batch state"] | None = None,
    tolerance: float | None = None,
    max_steps: int = 4096,
    progress: bool = False,
) -> SteadyStates:
    """The steady states of a network for a batch of stimuli, each with its own verdict.

    Without a solver the way is chosen by measurement. A probe of the stimuli is solved by following the dynamics;
    sweeps, which are much faster, are used for the others if they land where the dynamics land on every sample of the
    probe. What was chosen, and why, is in `plan`. Pass it as `solver` to solve further batches of the same network,
    and the probe is spared.

    Runs on the host, in chunks of a few sizes, so that memory is bounded and nothing is compiled twice. It never raises
    for a sample that has no steady state: look at `status`.

    Args:
        network: the network.
        stimuli: one stimulus a row.
        solver: how to search: a plan, or a solver that is used for every sample.
        initial_states: where the dynamics start, one row a stimulus; by default at zero. In a multistable network they
            decide which steady states are the answer.
        tolerance: the largest residual that counts as rest; by default the solver's, or the dtype's.
        max_steps: bound on the steps of each search.
        progress: whether to show a progress bar, on standard error.

    Raises:
        ValueError: if shapes do not fit, a value is not finite (the rows are named), or the tolerance is below what
            the dtype can reach.
    """
    return _solve_states(network, stimuli, solver, initial_states, tolerance, max_steps, progress)


def _solve_states(
    network, stimuli, solver, initial_states, tolerance, max_steps, progress=False, always_plan=False
) -> SteadyStates:
    is_planned = solver is None or isinstance(solver, Plan)
    tolerance = check_tolerance(solver.tolerance if tolerance is None and not is_planned else tolerance, network.dtype)
    check_at_least("max_steps", max_steps, 1)
    check_stimuli(stimuli, network.stimulus_size)
    num_samples = len(stimuli)
    if initial_states is None:
        initial_states = np.zeros((num_samples, network.state_size), network.dtype)
    check_shape("initial_states", initial_states, (num_samples, network.state_size))
    check_finite("initial_states", initial_states)
    stimuli, initial_states = (np.asarray(each, network.dtype) for each in (stimuli, initial_states))

    def show(starts):
        return tqdm(starts, desc="steady states", unit="chunk", disable=not progress)

    if is_planned:
        return solve_by_plan(
            network,
            stimuli,
            initial_states,
            solver,
            tolerance=tolerance,
            max_steps=max_steps,
            show=show,
            always_plan=always_plan,
        )
    chunk_size = min(num_samples, TILE)
    chunks = []
    for start in show(range(0, num_samples, chunk_size)):
        rows = np.minimum(np.arange(start, start + chunk_size), num_samples - 1)  # the last chunk repeats a row
        chunk = _solve_chunk(network, stimuli[rows], solver, initial_states[rows], tolerance, max_steps)
        chunks.append(jax.tree.map(np.asarray, chunk))
    whole = jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)[:num_samples]), *chunks)
    num_converged = int(whole.is_converged.sum())
    return SteadyStates(**vars(whole), plan=None, finished_by={type(solver).__name__: num_converged})


def plan_steady_states(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    tolerance: float | None = None,
    max_steps: int = 4096,
) -> Plan:
    """Measure the best way to solve a network from zero, on stimuli like those to come; a few hundred are enough.

    Args:
        network: the network.
        stimuli: one a row.
        tolerance: the largest residual that counts as rest; by default the dtype's.
        max_steps: bound on the steps of the dynamics.

    Raises:
        ValueError: as for `solve_steady_states`.
        RuntimeError: if no stimulus leads to a steady state, with the counts of what happened instead.
    """
    solved = _solve_states(network, stimuli, None, None, tolerance, max_steps, always_plan=True)
    if not bool(solved.is_converged.any()):
        msg = f"No stimulus leads to a steady state, so there is nothing to plan for: {count_statuses(solved.status)}."
        raise RuntimeError(msg)
    return solved.plan


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
            network, stimulus, solver, initial_state, tolerance, max_steps, False, throw=False
        )
    )(stimuli, initial_states)
