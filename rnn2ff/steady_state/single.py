"""The steady state for one stimulus, by any solver; and for each of a batch."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Scalar
from tqdm.auto import tqdm

from rnn2ff._checks import check_array, check_at_least, check_stimulus, check_tolerance, fail, is_known
from rnn2ff.compiling import compiled, in_batches
from rnn2ff.networks import RecurrentNetwork, as_array
from rnn2ff.steady_state.batch import judge_rows
from rnn2ff.steady_state.bends import follow_bent
from rnn2ff.steady_state.hard import finish
from rnn2ff.steady_state.implicit import constants_of, with_implicit_derivative
from rnn2ff.steady_state.meshes import divided_over, on_each_device, placed_on
from rnn2ff.steady_state.result import ADVICE, Status, SteadyState, SteadyStates, on_device, put_rows
from rnn2ff.steady_state.search import AbstractSteadyStateSolver, Candidate
from rnn2ff.steady_state.solvers.rollout import Rollout
from rnn2ff.steady_state.stability import LARGEST_FACTORED
from rnn2ff.steady_state.tiles import check_not_in_shard, check_not_split

_SOLVED_ALONE = 256  # samples per program, each solved on its own


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

    Safe under `jit`, `vmap` and `grad`: the derivative is the implicit one, to any order, with respect to the network's
    parameters and the stimulus, whatever the solver. For a whole batch inside a program, and inside `jax.shard_map`,
    there is `solve_batch`.

    A motion that does not come to rest is watched for cycles if its values are known, that is outside of `jit` and
    `vmap`; inside, it is `max_steps_reached`. Values far below 1 should have a smaller unit, as for `solve_batch`.

    Args:
        network: the network.
        stimulus: one stimulus.
        solver: how to search.
        initial_state: where the dynamics start, by default at zero. In a multistable network it decides which
            steady state is the answer.
        max_steps: bound on the steps of the search.
        matrix_free: how the linear system of a derivative is solved: from products with the Jacobian (GMRES), or by LU.
            By default from products for networks above 1024 units or with sparse weights.
        throw: whether a search that ends without a steady state raises; otherwise see its status. The derivative of
            a sample without a steady state is NaN, unless a loss ignores the sample, as by
            `jnp.where(found.is_converged, loss, 0)`.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or the tolerance is below what the dtype can reach.
        RuntimeError: with `throw`, if the status is not `converged`; inside `jit` it is equinox's, which is longer.

    Example:
        A loss over stimuli of which some may have no steady state. Without `where`, one of them makes the gradient NaN;
        if all are ignored, the loss is 0. `solve_batch` does the same for a whole batch, faster:

            def loss(network, stimuli, targets):
                found = jax.vmap(lambda u: solve_steady_state(network, u, Anderson(), throw=False))(stimuli)
                errors = jnp.mean((found.rates(network) - targets) ** 2, axis=1)
                kept = jnp.where(found.is_converged, errors, 0)
                return jnp.sum(kept) / jnp.maximum(jnp.sum(found.is_converged), 1)
    """
    if not isinstance(solver, AbstractSteadyStateSolver):
        expected = "a solver such as `Rollout()`; a plan solves batches, by `solve_batch` or `solve_steady_states`"
        raise fail("solver", "does not search for one steady state", expected, type(solver).__name__)
    check_not_in_shard("solve_steady_state", "`solve_batch`, which does", network, stimulus, initial_state)
    check_not_split("solve_steady_state", "`solve_batch`, which does", stimulus, initial_state)
    tolerance = check_tolerance(solver.tolerance, network.dtype)
    max_steps = check_at_least("max_steps", max_steps, 1)
    check_stimulus(stimulus, network.stimulus_size)
    if initial_state is None:
        initial_state = np.zeros(network.state_size, network.dtype)
    check_array("initial_state", initial_state, (network.state_size,))
    stimulus, initial_state = (as_array(array, network.dtype) for array in (stimulus, initial_state))
    if matrix_free is None:
        matrix_free = network.state_size > LARGEST_FACTORED or network.has_sparse_weights
    is_outside = all(map(is_known, jax.tree.leaves((network, stimulus, initial_state))))
    limit = np.asarray(tolerance, network.dtype)
    arguments = network, stimulus, _without_tolerance(solver), initial_state, limit, max_steps, matrix_free
    solved = solve_one(*arguments, throw=throw and not is_outside)
    if not is_outside or not is_known(solved.status):
        return solved
    if int(solved.status) in (Status.converged, Status.max_steps_reached) and isinstance(solver, Rollout):
        alone = jax.tree.map(lambda leaf: np.array(leaf)[None], solved)
        _watch(network, np.asarray(stimulus)[None], alone.state, alone, tolerance, max_steps)
        is_new = (alone.status != solved.status) | (alone.num_steps != solved.num_steps)
        if is_new.item():  # otherwise it stays on its device
            solved = jax.tree.map(lambda leaf: jax.device_put(leaf[0]), alone)
    if throw and int(solved.status) != Status.converged:
        status = Status(int(solved.status))
        msg = f"No steady state ({status.name}): {ADVICE[status]}."
        raise RuntimeError(msg)
    return solved


@compiled
def solve_one(network, stimulus, solver, initial_state, tolerance, max_steps, matrix_free, *, throw) -> SteadyState:
    # The search and the verdict see constants: no derivative passes through them.
    constant_network, constant_stimulus, start = constants_of(network, stimulus, initial_state)
    candidate = solver.search(constant_network, constant_stimulus, start, tolerance=tolerance, max_steps=max_steps)
    judged = _judge(constant_network, constant_stimulus, candidate, tolerance)
    state = with_implicit_derivative(network, stimulus, judged.state, judged.is_converged, matrix_free)
    if throw:
        messages = [f"No steady state ({status.name}): {advice}." for status, advice in ADVICE.items()]
        state = eqx.branched_error_if(state, ~judged.is_converged, judged.status - 1, messages)
    return eqx.tree_at(lambda record: record.state, judged, state)


def _without_tolerance(solver: AbstractSteadyStateSolver) -> AbstractSteadyStateSolver:
    """The solver without its tolerance, which the search gets as an array: another value needs no compilation."""
    return eqx.tree_at(lambda tree: tree.tolerance, solver, None, is_leaf=lambda leaf: leaf is None)


def _judge(network: RecurrentNetwork, stimulus: Array, candidate: Candidate, tolerance: Scalar) -> SteadyState:
    """The verdict on one sample, from the candidate's state alone; of all samples together under `vmap`."""
    arrays, static = eqx.partition((network, tolerance), eqx.is_array)

    @jax.custom_batching.custom_vmap
    def judge_batch(arrays, stimuli, states):
        network, tolerance = eqx.combine(arrays, static)
        return judge_rows(network, stimuli, states, tolerance)

    @judge_batch.def_vmap
    def judge_batches(axis_size, in_batched, arrays, stimuli, states):
        if any(jax.tree.leaves(in_batched[0])):
            # A batch of networks, whose samples do not share products.
            def judge_at(i):
                trees = (arrays, stimuli, states), tuple(in_batched)
                return judge_batch(*jax.tree.map(lambda leaf, batched: leaf[i] if batched else leaf, *trees))

            results = jax.lax.map(judge_at, jnp.arange(axis_size))
        else:
            rows = [
                array if is_batched else jnp.broadcast_to(array, (axis_size, *array.shape))
                for array, is_batched in zip((stimuli, states), in_batched[1:])
            ]
            flat = judge_batch(arrays, *(array.reshape(-1, array.shape[-1]) for array in rows))
            results = jax.tree.map(lambda leaf: leaf.reshape(axis_size, -1, *leaf.shape[1:]), flat)
        return results, jax.tree.map(lambda _: True, results)

    judged = jax.tree.map(lambda leaf: leaf[0], judge_batch(arrays, stimulus[None], candidate.state[None]))
    is_diverging = candidate.is_diverging & (judged.status == Status.max_steps_reached)
    status = jnp.where(is_diverging, Status.diverging, judged.status)
    return eqx.tree_at(lambda record: (record.status, record.num_steps), judged, (status, candidate.num_steps))


def _watch(network, stimuli, initial_states, whole: SteadyState, tolerance: float, max_steps: int) -> None:
    """Find out where samples that still move end, if they ever do; arrays on the host, updated in place."""
    limits = {"tolerance": tolerance, "max_steps": max_steps}
    follow_bent(network, stimuli, whole, **limits)
    left = np.flatnonzero(whole.status == Status.max_steps_reached)
    if len(left):
        arguments = stimuli[left], initial_states[left], whole.state[left]
        put_rows(whole, left, finish(network, *arguments, **limits, is_stiff_tried=False))


def solve_each(
    network, stimuli, solver, initial_states, tolerance, max_steps, mesh, progress, *, watch
) -> SteadyStates:
    """Solve a batch by a solver for single samples."""
    num_samples = len(stimuli)
    num_devices = 1 if mesh is None else mesh.devices.size
    chunk_size = num_devices * min(-(-num_samples // num_devices), _SOLVED_ALONE)
    limit = np.asarray(tolerance, network.dtype)
    constants = placed_on(mesh, (network, _without_tolerance(solver), limit, max_steps))
    total = -(-num_samples // chunk_size)
    with tqdm(total=total, desc="steady states", unit="chunk", disable=not progress) as bar:

        def solve_chunk(constants, *rows):
            solved = jax.device_get(_solve_chunk(constants, divided_over(mesh, rows), mesh))
            bar.update()
            return solved

        whole = in_batches(solve_chunk, constants, (stimuli, initial_states), chunk_size)
    if watch and isinstance(solver, Rollout):
        _watch(network, stimuli, initial_states, whole, tolerance, max_steps)
    return on_device(whole, None, {type(solver).__name__: int(whole.is_converged.sum())})


@compiled
def _solve_chunk(constants, rows, mesh) -> SteadyState:
    def solve(constants, rows):
        network, solver, tolerance, max_steps = constants

        def solve_row(stimulus, start):
            return solve_one(network, stimulus, solver, start, tolerance, max_steps, False, throw=False)

        return jax.vmap(solve_row)(*rows)

    return on_each_device(solve, mesh)(constants, rows)
