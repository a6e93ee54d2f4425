"""The entry points: the steady state for one stimulus, for a batch as a pure function, and for a batch on the host."""

import functools
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, ArrayLike, Float, Int
from tqdm.auto import tqdm

from rnn2ff._checks import (
    check_at_least,
    check_finite,
    check_on_host,
    check_shape,
    check_stimuli,
    check_stimulus,
    check_tolerance,
    fail,
    is_known,
)
from rnn2ff.compiling import compiler_options, in_full_precision, jit_for_device
from rnn2ff.networks import RateNetwork, RecurrentNetwork, blas_threads, with_padded_rows
from rnn2ff.steady_state.batch import judge_rows, solve_rows
from rnn2ff.steady_state.hard import finish
from rnn2ff.steady_state.implicit import with_implicit_derivative, with_implicit_derivatives
from rnn2ff.steady_state.meshes import check_mesh, chunks_of, divided_over, on_each_device, placed_on
from rnn2ff.steady_state.method import NUM_PROBED, Method, Plan, apart, first_plan, make_plan, sweep_from_probe
from rnn2ff.steady_state.result import (
    ADVICE,
    AbstractSteadyStateSolver,
    Candidate,
    Status,
    SteadyState,
    SteadyStates,
    count_statuses,
)
from rnn2ff.steady_state.rows import FOUND_BY, Solved
from rnn2ff.steady_state.solvers.rollout import Rollout
from rnn2ff.steady_state.tiles import check_not_in_shard, check_not_split, layout_for

_LARGEST_FACTORED = 1024  # units; beyond, a factorization costs more than products
_FOLLOWED_STEPS = 1200  # before what has not come to rest is watched for cycles
_RESTLESS = (Status.oscillating, Status.diverging, Status.unstable)  # of a sample without a steady state
_SOLVED_ALONE = 256  # samples of a program that uses a solver for each


# --- one sample -------------------------------------------------------------------------------------------------------


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

    Safe under `jit`, `vmap` and `grad`: the derivative is the implicit one, to any order, by the network's parameters
    and the stimulus, whatever the solver. For a whole batch inside a program, and inside `jax.shard_map`, there is
    `solve_batch`.

    A motion that does not come to rest is watched for cycles where its values are known, that is outside of `jit` and
    `vmap`; inside, it is `max_steps_reached`.

    Args:
        network: the network.
        stimulus: one stimulus.
        solver: how to search.
        initial_state: where the dynamics start, by default at zero. In a multistable network it decides which
            steady state is the answer.
        max_steps: bound on the steps of the search.
        matrix_free: how the linear system of a derivative is solved: from products with the Jacobian (GMRES), or by LU.
            By default from products for networks above 1024 units or with sparse weights.
        throw: whether a search that ends without a steady state raises; otherwise the status tells. The derivative of
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
    check_at_least("max_steps", max_steps, 1)
    check_stimulus(stimulus, network.stimulus_size)
    if initial_state is None:
        initial_state = jnp.zeros(network.state_size, network.dtype)
    check_shape("initial_state", initial_state, (network.state_size,))
    check_finite("initial_state", initial_state)
    stimulus, initial_state = (jnp.asarray(each, network.dtype) for each in (stimulus, initial_state))
    if matrix_free is None:
        matrix_free = network.state_size > _LARGEST_FACTORED or network.has_sparse_weights
    is_outside = all(map(is_known, jax.tree.leaves((network, stimulus, initial_state))))
    found = _solve(
        network, stimulus, solver, initial_state, tolerance, max_steps, matrix_free, throw=throw and not is_outside
    )
    if not is_outside or not is_known(found.status):
        return found
    if int(found.status) == Status.max_steps_reached and isinstance(solver, Rollout):
        found = _watch(network, stimulus, found, tolerance, max_steps)
    if throw and int(found.status) != Status.converged:
        status = Status(int(found.status))
        msg = f"No steady state ({status.name}): {ADVICE[status]}."
        raise RuntimeError(msg)
    return found


@eqx.filter_jit
@in_full_precision
def _solve(network, stimulus, solver, initial_state, tolerance, max_steps, matrix_free, *, throw) -> SteadyState:
    # The search and the verdict see constants: no derivative passes through them.
    network_, stimulus_, initial_state_ = _constants(network, stimulus, initial_state)
    candidate = solver.search(network_, stimulus_, initial_state_, tolerance=tolerance, max_steps=max_steps)
    found = _judge(network_, stimulus_, candidate, tolerance)
    network = _without_time_constants(network)
    state = with_implicit_derivative(network, stimulus, found.state, found.is_converged, matrix_free)
    if throw:
        messages = [f"No steady state ({each.name}): {advice}." for each, advice in ADVICE.items()]
        state = eqx.branched_error_if(state, ~found.is_converged, found.status - 1, messages)
    return eqx.tree_at(lambda record: record.state, found, state)


def _constants(*trees):
    """The same values, of which no derivative is taken."""
    constants = jax.lax.stop_gradient(eqx.filter(trees, eqx.is_array))
    return eqx.combine(constants, trees)


def _without_time_constants(network: RecurrentNetwork) -> RecurrentNetwork:
    """Steady states of a rate network do not depend on them: what is left of rounding would move them in a training."""
    if not isinstance(network, RateNetwork):
        return network
    tau = network.params.time_constants
    return eqx.tree_at(lambda each: each.params.time_constants, network, jax.lax.stop_gradient(tau))


def _judge(network: RecurrentNetwork, stimulus: Array, candidate: Candidate, tolerance: float) -> SteadyState:
    """The verdict on one sample, from the candidate's state alone; of all samples together under `vmap`."""
    arrays, static = eqx.partition(network, eqx.is_array)

    def judge_all(arrays, stimuli, states):
        layout = layout_for(jax.default_backend(), len(stimuli), network.state_size)
        return judge_rows(eqx.combine(arrays, static), stimuli, states, tolerance=tolerance, layout=layout)

    @jax.custom_batching.custom_vmap
    def judge_batch(arrays, stimuli, states):
        return judge_all(arrays, stimuli, states)

    @judge_batch.def_vmap
    def judge_batches(axis_size, in_batched, arrays, stimuli, states):
        if any(jax.tree.leaves(in_batched[0])):
            return _one_by_one(judge_batch, axis_size, in_batched, arrays, stimuli, states)
        stimuli, states = _broadcast(axis_size, in_batched[1:], (stimuli, states))
        flat = judge_batch(arrays, *(each.reshape(-1, each.shape[-1]) for each in (stimuli, states)))
        found = jax.tree.map(lambda leaf: leaf.reshape(axis_size, -1, *leaf.shape[1:]), flat)
        return found, jax.tree.map(lambda _: True, found)

    @jax.custom_batching.custom_vmap
    def judge_one(arrays, stimulus, state):
        return jax.tree.map(lambda leaf: leaf[0], judge_all(arrays, stimulus[None], state[None]))

    @judge_one.def_vmap
    def judge_ones(axis_size, in_batched, arrays, stimuli, states):
        if any(jax.tree.leaves(in_batched[0])):
            return _one_by_one(judge_one, axis_size, in_batched, arrays, stimuli, states)
        found = judge_batch(arrays, *_broadcast(axis_size, in_batched[1:], (stimuli, states)))
        return found, jax.tree.map(lambda _: True, found)

    found = judge_one(arrays, stimulus, candidate.state)
    is_diverging = candidate.is_diverging & (found.status == Status.max_steps_reached)
    status = jnp.where(is_diverging, Status.diverging, found.status)
    return eqx.tree_at(lambda record: (record.status, record.num_steps), found, (status, candidate.num_steps))


def _broadcast(axis_size: int, is_batched, arrays):
    return [
        array if batched else jnp.broadcast_to(array, (axis_size, *array.shape))
        for array, batched in zip(arrays, is_batched)
    ]


def _one_by_one(function, axis_size: int, is_batched, *arguments):
    """A batch of networks: their samples do not share products."""

    def at(i):
        return jax.tree.map(lambda leaf, batched: leaf[i] if batched else leaf, arguments, tuple(is_batched))

    found = jax.lax.map(lambda i: function(*at(i)), jnp.arange(axis_size))
    return found, jax.tree.map(lambda _: True, found)


def _watch(network, stimulus, found: SteadyState, tolerance: float, max_steps: int) -> SteadyState:
    """See whether a motion that did not come to rest goes on for ever."""
    state = np.asarray(found.state)[None]
    finished = finish(
        network, np.asarray(stimulus)[None], state, state,
        tolerance=tolerance, max_steps=max_steps, is_stiff_tried=False,
    )  # fmt: skip
    finished = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), finished)
    return eqx.tree_at(lambda one: one.num_steps, finished, found.num_steps + finished.num_steps)


# --- a batch, as a pure function --------------------------------------------------------------------------------------


def solve_batch(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    plan: Plan | None = None,
    *,
    initial_states: Float[ArrayLike, "batch state"] | None = None,
    tolerance: float | None = None,
    max_steps: int = 4096,
) -> SteadyState:
    """The steady states of a network for a batch of stimuli, each with its verdict, as one pure function of arrays.

    Runs unchanged under `jax.jit`, in a `scan`, on arrays that are sharded over a mesh, and inside `jax.shard_map`, on
    any device, and never leaves it. Differentiable in forward and reverse mode, to any order, by the network's
    parameters and the stimuli; the derivative is the implicit one. A sample without a steady state has a derivative of
    NaN, unless a loss ignores it, as by `jnp.where(solved.is_converged, loss, 0)`; `solve_steady_state` has an example.

    What does not come to rest within `max_steps` is `max_steps_reached`; whether it moves in a cycle, and more,
    `solve_steady_states` finds out on the host.

    Args:
        network: the network.
        stimuli: one a row.
        plan: from `plan_steady_states`, to use the fastest way that is right; by default the dynamics are followed.
        initial_states: where the dynamics start, one row a stimulus; by default at zero.
        tolerance: the largest residual that counts as rest; by default the dtype's.
        max_steps: bound on the steps of each sample.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or the tolerance is below what the dtype can reach.
    """
    tolerance = check_tolerance(tolerance, network.dtype)
    check_at_least("max_steps", max_steps, 1)
    check_stimuli(stimuli, network.stimulus_size)
    stimuli = jnp.asarray(stimuli, network.dtype)
    if initial_states is not None:
        check_shape("initial_states", initial_states, (len(stimuli), network.state_size))
        check_finite("initial_states", initial_states)
        initial_states = jnp.asarray(initial_states, network.dtype)
    settings = (np.asarray(tolerance, network.dtype), np.asarray(max_steps, np.int32))
    return _solve_batch(network, stimuli, plan, initial_states, *settings)


def _explicit_axes(array: Array) -> tuple | None:
    """The mesh, and the axes of it that the leading axis is divided over, where these are part of the array's type."""
    sharding = jax.typeof(array).sharding
    axes = sharding.spec[0] if len(sharding.spec) else None
    return None if axes is None else (sharding.mesh, axes)


@jit_for_device
def _solve_batch(network, stimuli, plan, initial_states, tolerance, max_steps) -> SteadyState:
    explicit = _explicit_axes(stimuli)
    if explicit is None:
        return _solve_shard(network, stimuli, plan, initial_states, tolerance, max_steps)
    # Each device solves its own samples; a gather over all devices would have no one sharding.
    mesh, axes = explicit
    arrays, static = eqx.partition((network, plan), eqx.is_array)

    def solve(arrays, stimuli, initial_states):
        network, plan = eqx.combine(arrays, static)
        return _solve_shard(network, stimuli, plan, initial_states, tolerance, max_steps)

    split, whole = PartitionSpec(axes), PartitionSpec()
    if initial_states is None:
        solve_from_zero = lambda arrays, stimuli: solve(arrays, stimuli, None)  # noqa: E731
        return jax.shard_map(solve_from_zero, mesh=mesh, in_specs=(whole, split), out_specs=split)(arrays, stimuli)
    return jax.shard_map(solve, mesh=mesh, in_specs=(whole, split, split), out_specs=split)(
        arrays, stimuli, initial_states
    )


def _solve_shard(network, stimuli, plan, initial_states, tolerance, max_steps) -> SteadyState:
    if initial_states is None:
        initial_states = jnp.zeros((len(stimuli), network.state_size), network.dtype)
    constants = _constants(network, stimuli, plan, initial_states)
    network_, stimuli_, plan_, initial_states_ = constants
    batch_size = len(stimuli)
    layout = layout_for(jax.default_backend(), batch_size, network.state_size)
    solved = solve_rows(
        network_,
        stimuli_,
        plan_,
        initial_states_,
        tolerance=tolerance,
        max_steps=max_steps,
        num_rows=batch_size,
        layout=layout,
    ).steady
    network = _without_time_constants(network)
    state = with_implicit_derivatives(network, stimuli, solved.state, solved.is_converged)
    return eqx.tree_at(lambda record: record.state, solved, state)


# --- a batch, on the host ---------------------------------------------------------------------------------------------


def solve_steady_states(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    solver: AbstractSteadyStateSolver | Plan | None = None,
    initial_states: Float[ArrayLike, "batch state"] | None = None,
    tolerance: float | None = None,
    max_steps: int = 4096,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> SteadyStates:
    """The steady states of a network for a batch of stimuli, each with its own verdict.

    Without a solver the way is chosen by proof or by measurement (`plan_steady_states`). What was chosen, and why, is
    in `plan`. Pass it as `solver` to solve further batches of the same network, and the probe is spared.

    Runs on the host, around one compiled program that serves batches of all sizes; memory is bounded. The few samples
    that the program leaves open are watched for cycles, chaos and growth. It never raises for a sample that has no
    steady state: look at `status`. Inside `jit`, `vmap` or `grad` use `solve_batch`.

    Args:
        network: the network.
        stimuli: one stimulus a row.
        solver: how to search: a plan, or a solver that is used for every sample.
        initial_states: where the dynamics start, one row a stimulus; by default at zero. In a multistable network they
            decide which steady states are the answer.
        tolerance: the largest residual that counts as rest; by default the solver's, or the dtype's.
        max_steps: bound on the steps of each search.
        mesh: devices, such as `jax.make_mesh((4,), ("batch",))`, over all of which the batch is divided, whatever the
            axes; by default JAX's own. Any batch fits: what a device lacks is filled up. Every sample ends where it
            does on one device, within the tolerance.
        progress: whether to show a progress bar, on standard error.

    Raises:
        ValueError: if shapes do not fit, a value is not finite (the rows are named), or the tolerance is below what
            the dtype can reach; if values are not known, as inside `jit`; or if the mesh has devices of other
            processes.

    Example:
        A batch, and the rates of those that have a steady state:

            solved = rnn2ff.solve_steady_states(network, stimuli)
            rates = solved.rates(network)[np.asarray(solved.is_converged)]
    """
    return _solve_states(network, stimuli, solver, initial_states, tolerance, max_steps, mesh, progress)


def plan_steady_states(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    tolerance: float | None = None,
    max_steps: int = 4096,
) -> Plan:
    """Choose the best way to solve a network from zero, for stimuli like these; a few hundred are enough.

    Where the weights prove one attracting fixed point nothing is measured. Otherwise a probe of the stimuli is solved
    by following the dynamics, and fast sweeps are used from then on if they land where the dynamics land, on all of it,
    and also from the steady states of other stimuli.

    Args:
        network: the network.
        stimuli: one a row.
        tolerance: the largest residual that counts as rest; by default the dtype's.
        max_steps: bound on the steps of the dynamics.

    Raises:
        ValueError: as for `solve_steady_states`.
        RuntimeError: if no stimulus leads to a steady state, with the counts of what happened instead.
    """
    solved = _solve_states(network, stimuli, None, None, tolerance, max_steps, is_probe=True)
    if not bool(solved.is_converged.any()):
        msg = f"No stimulus leads to a steady state, so there is nothing to plan for: {count_statuses(solved.status)}."
        raise RuntimeError(msg)
    return solved.plan


class _Samples(NamedTuple):
    """A batch on the host; arrays are changed in place.

    Attributes:
        network: the network.
        stimuli: one a row.
        initial_states: one a row.
        tolerance: the largest residual that counts as rest.
        max_steps: of each method.
        solved: the fields of `SteadyState`.
        found_by: an index into `FOUND_BY` for each sample.
        mesh: the devices; None for JAX's own.
    """

    network: RecurrentNetwork
    stimuli: Float[np.ndarray, "batch stimulus"]
    initial_states: Float[np.ndarray, "batch state"]
    tolerance: float
    max_steps: int
    solved: SteadyState
    found_by: Int[np.ndarray, " batch"]
    mesh: Mesh | None

    def put(self, rows: np.ndarray, part: Solved) -> None:
        """Take over the end of some rows."""
        for name, values in vars(part.steady).items():
            getattr(self.solved, name)[rows] = values
        self.found_by[rows] = part.found_by


def _solve_states(
    network, stimuli, solver, initial_states, tolerance, max_steps, mesh=None, progress=False, is_probe=False
) -> SteadyStates:
    name = "plan_steady_states" if is_probe else "solve_steady_states"
    instead = "use a plan that was made outside" if is_probe else "use `solve_batch`"
    check_on_host(name, instead, network, stimuli, initial_states)
    mesh = check_mesh(mesh)
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
    if not is_planned:
        return _solve_each(network, stimuli, solver, initial_states, tolerance, max_steps, mesh, progress)
    network = with_padded_rows(network)

    floats = (np.full(num_samples, np.nan, network.dtype) for _ in range(3))
    residual, distance, period = floats
    whole = (np.zeros(num_samples, np.int32) for _ in range(3))
    status, num_steps, found_by = whole
    solved = SteadyState(np.array(initial_states), status, residual, num_steps, distance, period)
    samples = _Samples(network, stimuli, initial_states, tolerance, max_steps, solved, found_by, mesh)
    rows, plan = np.arange(num_samples), solver
    with tqdm(total=num_samples, desc="steady states", unit="stimuli", disable=not progress) as bar:
        bar.set_postfix_str("compiling")
        if plan is None:
            plan = first_plan(network)
            if not plan.has_one_fixed_point and (num_samples > NUM_PROBED or is_probe):
                probe = np.unique(np.linspace(0, num_samples - 1, min(NUM_PROBED, num_samples)).astype(int))
                _solve_some(samples, probe, plan, bar)
                plan = _choose_method(samples, probe, plan)
                rows = np.array([], int) if is_probe else np.setdiff1d(rows, probe)
        _solve_some(samples, rows, plan, bar)
    is_found = solved.status == Status.converged
    counts = Counter(FOUND_BY[each] for each in found_by[is_found])
    arrays = jax.device_put([getattr(solved, name) for name in vars(solved)])
    return SteadyStates(**dict(zip(vars(solved), arrays)), plan=plan, finished_by=dict(counts))


def _choose_method(samples: _Samples, probe: np.ndarray, first: Plan) -> Plan:
    """Compare sweeps with the dynamics on a probe, from zero, and from the steady states of other stimuli."""
    network, status = samples.network, samples.solved.status[probe]
    settled = probe[status == Status.converged]
    # Where some never rest, a fixed point that sweeps find beside a cycle is not where the dynamics end.
    if not len(settled) or np.isin(status, _RESTLESS).any():
        return make_plan(network, first.sweep, Method.restless, num_probed=len(probe))
    states, stimuli = samples.solved.state[settled], samples.stimuli[settled]
    try:
        sweep = sweep_from_probe(network, states, stimuli)
    except ValueError:  # what has to be inverted is singular
        return make_plan(network, first.sweep, Method.singular, num_probed=len(probe))
    candidate = make_plan(network, sweep, Method.agreed, num_probed=len(probe))
    candidate = eqx.tree_at(lambda plan: plan.starts_anywhere, candidate, jax.device_put(np.asarray(True)))
    starts = np.concatenate([np.zeros_like(states), np.roll(states, 1, axis=0)])
    ends = _run(samples, np.concatenate([settled, settled]), candidate, starts)
    status, found = np.split(ends.steady.status, 2), np.split(ends.steady.state, 2)
    is_other = [(one == Status.converged) & apart(state, states) for one, state in zip(status, found)]
    is_swept = ends.found_by[: len(settled)] < FOUND_BY.index("dynamics")
    is_compared = (status[0] == Status.converged) & is_swept
    agreement = 1 - float(is_other[0][is_compared].mean()) if is_compared.any() else float("nan")
    if is_compared.mean() < 0.5:
        method = Method.slow
    elif agreement < 1:
        method = Method.disagreed
    else:
        method = Method.multistable if is_other[1].any() else Method.agreed
    return make_plan(network, sweep, method, agreement=agreement, num_probed=len(probe))


def _solve_some(samples: _Samples, rows: np.ndarray, plan: Plan, bar: tqdm) -> None:
    """Solve rows of a batch, and find out about those that the engine leaves open."""
    if not len(rows):
        return
    solved = _run(samples, rows, plan, samples.initial_states[rows], bar)
    samples.put(rows, solved)
    left = rows[solved.steady.status == Status.max_steps_reached]
    if len(left):
        finished = finish(
            samples.network,
            samples.stimuli[left],
            samples.initial_states[left],
            samples.solved.state[left],
            tolerance=samples.tolerance,
            max_steps=samples.max_steps,
        )
        num_steps = samples.solved.num_steps[left] + finished.num_steps
        samples.put(left, Solved(finished, np.full(len(left), FOUND_BY.index("dynamics"))))
        samples.solved.num_steps[left] = num_steps


def _run(samples: _Samples, rows: np.ndarray, plan: Plan, starts: np.ndarray, bar: tqdm | None = None) -> Solved:
    """The engine, in chunks of one size, on all cores."""
    network, mesh = samples.network, samples.mesh
    limits = (
        np.asarray(samples.tolerance, network.dtype),
        np.asarray(min(samples.max_steps, _FOLLOWED_STEPS), np.int32),
    )
    leaves, structure = jax.tree.flatten((network, plan))
    constants, parts = placed_on(mesh, (leaves, limits)), []
    # One after the other: XLA's own threads share the work of a program, and two programs at once may each wait for a
    # thread that the other holds, for ever. BLAS, which factors a few matrices, must not start threads of its own.
    with blas_threads(network.state_size):
        for chunk in chunks_of(len(rows), network.state_size, mesh):
            chosen = rows[chunk.rows]
            given = tuple(chunk.place(array) for array in (samples.stimuli[chosen], starts[chunk.rows]))
            solved = _engine(jax.default_backend())(
                constants, given, chunk.num_rows, structure=structure, layout=chunk.layout, mesh=mesh
            )
            parts.append(chunk.take(solved))
            if bar is not None:
                bar.set_postfix_str("", refresh=False)
                bar.update(len(chosen))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _solve_chunk_of_rows(constants, given, num_rows, *, structure, layout, mesh) -> Solved:
    # A tree of arrays by its leaves: `eqx.filter_jit` would look through it in every call.
    def solve(constants, given, num_rows):
        leaves, (tolerance, max_steps) = constants
        stimuli, initial_states = given
        network, plan = jax.tree.unflatten(structure, leaves)
        limits = {"tolerance": tolerance, "max_steps": max_steps}
        return solve_rows(network, stimuli, plan, initial_states, **limits, num_rows=num_rows, layout=layout)

    return on_each_device(solve, mesh)(constants, given, num_rows)


@functools.cache
def _engine(backend: str) -> Callable:
    del backend
    static = ("structure", "layout", "mesh")
    return jax.jit(_solve_chunk_of_rows, static_argnames=static, compiler_options=compiler_options())


def _solve_each(network, stimuli, solver, initial_states, tolerance, max_steps, mesh, progress) -> SteadyStates:
    """A batch by a solver for single samples."""
    num_samples = len(stimuli)
    num_devices = 1 if mesh is None else mesh.devices.size
    chunk_size = num_devices * min(-(-num_samples // num_devices), _SOLVED_ALONE)
    constants = placed_on(mesh, (network, solver, tolerance, max_steps))
    nothing = divided_over(mesh, np.zeros(num_devices, np.int32))  # every row matters
    chunks = []
    starts = range(0, num_samples, chunk_size)
    for start in tqdm(starts, desc="steady states", unit="chunk", disable=not progress):
        rows = np.minimum(np.arange(start, start + chunk_size), num_samples - 1)  # the last chunk repeats a row
        chunk = _solve_chunk(constants, divided_over(mesh, (stimuli[rows], initial_states[rows])), nothing, mesh)
        chunks.append(jax.device_get(chunk))
    whole = jax.tree.map(lambda *parts: np.array(np.concatenate(parts)[:num_samples]), *chunks)
    left = np.flatnonzero(whole.status == Status.max_steps_reached)
    if isinstance(solver, Rollout) and len(left):
        finished = finish(
            network, stimuli[left], initial_states[left], whole.state[left],
            tolerance=tolerance, max_steps=max_steps, is_stiff_tried=False,
        )  # fmt: skip
        num_steps = whole.num_steps[left] + finished.num_steps
        for name, values in vars(finished).items():
            getattr(whole, name)[left] = values
        whole.num_steps[left] = num_steps
    num_converged = int(whole.is_converged.sum())
    arrays = jax.device_put(list(vars(whole).values()))
    return SteadyStates(**dict(zip(vars(whole), arrays)), plan=None, finished_by={type(solver).__name__: num_converged})


@jit_for_device
@in_full_precision
def _solve_chunk(constants, rows, num_rows, mesh) -> SteadyState:
    def solve(constants, rows, num_rows):
        del num_rows
        network, solver, tolerance, max_steps = constants
        return jax.vmap(
            lambda stimulus, initial_state: _solve(
                network, stimulus, solver, initial_state, tolerance, max_steps, False, throw=False
            )
        )(*rows)

    return on_each_device(solve, mesh)(constants, rows, num_rows)
