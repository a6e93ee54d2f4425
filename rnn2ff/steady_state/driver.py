"""The steady states for a batch, on the host: a plan, the engine in chunks, and the few samples that it leaves open."""

from __future__ import annotations

from collections import Counter

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import ArrayLike, Float
from tqdm.auto import tqdm

from rnn2ff._checks import check_array, check_at_least, check_on_host, check_stimuli, check_tolerance, fail
from rnn2ff.networks import RecurrentNetwork, blas_threads, with_padded_rows
from rnn2ff.steady_state.bends import follow_through
from rnn2ff.steady_state.hard import finish
from rnn2ff.steady_state.lanes import run_in_chunks, run_whole
from rnn2ff.steady_state.meshes import check_mesh, zeros_to_share
from rnn2ff.steady_state.method import NUM_PROBED, Method, Plan, are_apart, first_plan, make_plan, sweep_from_probe
from rnn2ff.steady_state.result import Status, SteadyState, SteadyStates, count_statuses, on_device, rows_of
from rnn2ff.steady_state.rows import FOUND_BY, Solved
from rnn2ff.steady_state.samples import Samples
from rnn2ff.steady_state.search import AbstractSteadyStateSolver
from rnn2ff.steady_state.single import solve_each
from rnn2ff.steady_state.units import in_common_units, in_own_units

_NEARLY_AT_REST = 0.05  # residual over the size of the state; samples this slow may use all steps of the engine
_NEAR = 0.25  # relative; how far such a decay may move the state
_LOST_ROWS = 64  # at most this many samples whose search ended in infinity are watched from their start
_RESTLESS = (Status.oscillating, Status.diverging, Status.unstable)  # of a sample without a steady state


def solve_steady_states(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    solver: AbstractSteadyStateSolver | Plan | None = None,
    initial_states: Float[ArrayLike, "batch state"] | None = None,
    tolerance: float | None = None,
    max_steps: int = 4096,
    watch: bool = True,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> SteadyStates:
    """The steady states of a network for a batch of stimuli, each with its own verdict.

    Without a solver, the method is chosen by proof or by measurement (`plan_steady_states`). What was chosen, and why,
    is in the result's `plan`. Pass it as `solver` to solve further batches of the same network without a new probe.

    Runs on the host, around compiled programs that serve batches of all sizes; memory is bounded. The few samples
    that these leave open are watched for cycles, chaos and growth. It never raises for a sample that has no
    steady state: look at `status`. Inside `jit`, `vmap` or `grad` use `solve_batch`.

    Args:
        network: the network.
        stimuli: one stimulus per row.
        solver: how to search: a plan, or a solver that is used for every sample.
        initial_states: where the dynamics start, one row per stimulus; by default at zero. In a multistable network
            these decide which steady states are the answer.
        tolerance: the largest residual that counts as rest; by default the solver's, or the dtype's.
        max_steps: bound on the steps of each search.
        watch: whether to find out what becomes of samples that still move after 1,200 steps. If only steady states
            matter, turn it off: such samples are `max_steps_reached`, even if they would settle later, and a batch of
            which a sixth never settles takes about a tenth of the time. Those that may be in a bottleneck then stay
            `undecided`. Without a plan, the probe is watched.
        mesh: devices, such as `jax.make_mesh((4,), ("batch",))`, over all of which the batch is divided, whatever the
            axes; by default JAX's default device. Any batch size works: shares are padded. Every sample ends where it
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
    return _solve_states(network, stimuli, solver, initial_states, tolerance, max_steps, mesh, progress, watch=watch)


def plan_steady_states(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    tolerance: float | None = None,
    max_steps: int = 4096,
) -> Plan:
    """Choose the best method to solve a network from zero, for stimuli like these; a few hundred are enough.

    If the weights prove a single, attracting fixed point, nothing is measured. Otherwise some of the stimuli, the
    probe, are solved by following the dynamics, and fast sweeps are used from then on if they end where the dynamics
    end on the whole probe, and if both do so also when started from the steady states of other stimuli.

    Args:
        network: the network.
        stimuli: one per row.
        tolerance: the largest residual that counts as rest; by default the dtype's.
        max_steps: bound on the steps of the dynamics.

    Raises:
        ValueError: as for `solve_steady_states`.
        RuntimeError: if no stimulus leads to a steady state, with the counts of what happened instead.
    """
    solved = _solve_states(network, stimuli, None, None, tolerance, max_steps, None, False, is_probe=True)
    if not solved.plan.has_one_fixed_point and not bool(solved.is_converged.any()):
        msg = f"No stimulus leads to a steady state, so there is nothing to plan for: {count_statuses(solved.status)}."
        raise RuntimeError(msg)
    return solved.plan


def _solve_states(
    network, stimuli, solver, initial_states, tolerance, max_steps, mesh, progress, *, watch=True, is_probe=False
) -> SteadyStates:
    name = "plan_steady_states" if is_probe else "solve_steady_states"
    instead = "use a plan that was made outside" if is_probe else "use `solve_batch`"
    check_on_host(name, instead, network, stimuli, initial_states)
    mesh = check_mesh(mesh)
    is_planned = solver is None or isinstance(solver, Plan)
    if not is_planned and not isinstance(solver, AbstractSteadyStateSolver):
        raise fail(
            "solver", "does not search for steady states", "a plan, or a solver such as `Rollout()`", repr(solver)
        )
    tolerance = check_tolerance(solver.tolerance if tolerance is None and not is_planned else tolerance, network.dtype)
    max_steps = check_at_least("max_steps", max_steps, 1)
    check_stimuli(stimuli, network.stimulus_size)
    dtype = network.dtype
    stimuli = np.asarray(stimuli, dtype)
    if is_probe:
        stimuli = stimuli[_probe_of(len(stimuli))]
    num_samples = len(stimuli)
    if initial_states is not None:
        check_array("initial_states", initial_states, (num_samples, network.state_size))
        initial_states = np.asarray(initial_states, dtype)
    with blas_threads(network.state_size):
        own = in_own_units(network, stimuli, initial_states)
        if own is not None:
            more = {"watch": watch, "is_probe": is_probe}
            arguments = own.network, own.stimuli, solver, own.initial_states
            solved = _solve_states(*arguments, tolerance, max_steps, mesh, progress, **more)
            return in_common_units(solved, own.units)
        if not is_planned:
            if initial_states is None:
                initial_states = np.zeros((num_samples, network.state_size), dtype)
            return solve_each(
                network, stimuli, solver, initial_states, tolerance, max_steps, mesh, progress, watch=watch
            )
        network = with_padded_rows(network)

        state = zeros_to_share((num_samples, network.state_size), dtype)
        residual, distance, period = np.full((3, num_samples), np.nan, dtype)
        status = np.full(num_samples, Status.max_steps_reached, np.int32)
        num_steps, found_by = np.zeros((2, num_samples), np.int32)
        solved = SteadyState(state, status, residual, num_steps, distance, period)
        samples = Samples(network, stimuli, initial_states, tolerance, max_steps, solved, found_by, mesh, watch)
        rows, plan = np.arange(num_samples), solver
        with tqdm(total=num_samples, desc="steady states", unit="stimuli", disable=not progress) as bar:
            bar.set_postfix_str("compiling")
            if plan is None:
                plan = first_plan(network)
                if plan.has_one_fixed_point:
                    rows = rows[:0] if is_probe else rows
                elif num_samples > NUM_PROBED or is_probe:
                    probe = _probe_of(num_samples)
                    _solve_some(samples._replace(watch=True), probe, plan, bar)
                    plan = _choose_method(samples, probe, plan)
                    rows = np.setdiff1d(rows, probe)
            _solve_some(samples, rows, plan, bar)
        is_found = solved.status == Status.converged
        counts = Counter(FOUND_BY[index] for index in found_by[is_found])
        return on_device(solved, plan, dict(counts))


def _probe_of(num_samples: int) -> np.ndarray:
    """Evenly spaced rows of a batch; all of a small one."""
    return np.unique(np.linspace(0, num_samples - 1, min(NUM_PROBED, num_samples)).astype(int))


def _choose_method(samples: Samples, probe: np.ndarray, first: Plan) -> Plan:
    """Compare sweeps with the dynamics on a probe, from zero, and from the steady states of other stimuli."""
    network, status = samples.network, samples.solved.status[probe]
    settled = probe[status == Status.converged]
    # If some never come to rest, sweeps may find a fixed point beside a cycle, where the dynamics do not end.
    if not len(settled) or np.isin(status, _RESTLESS).any():
        return make_plan(network, first.sweep, Method.restless, num_probed=len(probe))
    states, stimuli = samples.solved.state[settled], samples.stimuli[settled]
    try:
        sweep = sweep_from_probe(network, states, stimuli)
    except ValueError:  # the matrix to invert is singular
        return make_plan(network, first.sweep, Method.singular, num_probed=len(probe))
    candidate = make_plan(network, sweep, Method.agreed, num_probed=len(probe))
    candidate = eqx.tree_at(lambda plan: plan.starts_anywhere, candidate, jax.device_put(np.asarray(True)))

    def ends_elsewhere(plan: Plan, starts: np.ndarray) -> tuple[np.ndarray, Solved]:
        ends = run_whole(samples, settled, plan, starts, samples.first_steps)
        return (ends.steady.status == Status.converged) & are_apart(ends.steady.state, states), ends

    # By sweeps and by the dynamics, as their basins differ, and from different states: in a network of 48 competing
    # units the dynamics reached another state for 3 % of the stimuli, sweeps for none; but from zero, sweeps were wrong
    # for .2 %.
    starts_elsewhere = (candidate, 1), (first, max(1, len(states) // 2))
    is_other, ends = ends_elsewhere(candidate, np.zeros_like(states))
    is_compared = (ends.steady.status == Status.converged) & (ends.found_by < FOUND_BY.index("dynamics"))
    agreement = 1 - float(is_other[is_compared].mean()) if is_compared.any() else float("nan")
    if is_compared.mean() < 0.5:
        method = Method.slow
    elif agreement < 1:
        method = Method.disagreed
    elif any(ends_elsewhere(plan, np.roll(states, shift, axis=0))[0].any() for plan, shift in starts_elsewhere):
        method = Method.multistable
    else:
        method = Method.agreed
    return make_plan(network, sweep, method, agreement=agreement, num_probed=len(probe))


def _solve_some(samples: Samples, rows: np.ndarray, plan: Plan, bar: tqdm) -> None:
    """Solve some rows of a batch, and watch those that the engine leaves open, if that is asked for."""
    if not len(rows):
        return
    starts = None if samples.initial_states is None else samples.starts(rows)
    for part, solved in run_in_chunks(samples, rows, plan, starts, samples.first_steps, bar):
        samples.put(rows[part], solved)
    _follow_slow_ones(samples, samples.rows_that(Status.max_steps_reached, rows), plan)
    if not samples.watch:
        return
    limits = {"tolerance": samples.tolerance, "max_steps": samples.max_steps}
    undecided = samples.rows_that(Status.undecided, rows)
    if len(undecided):
        bar.set_postfix_str(f"following {len(undecided)} that are undecided")
        known = follow_through(samples.network, samples.stimuli, samples.solved, undecided, **limits)
        samples.found_by[known] = FOUND_BY.index("dynamics")
    left = samples.rows_that(Status.max_steps_reached, rows)
    if len(left):
        bar.set_postfix_str(f"watching {len(left)} that move on")
        samples.put(left, _watched(samples, left, samples.solved.state[left]))
    # Where the velocity grows fast, as before a blow-up, the engine's steps may end in infinity.
    lost = samples.rows_that(Status.nonfinite, rows)[:_LOST_ROWS]
    if len(lost):
        solved = _watched(samples, lost, samples.starts(lost))
        is_known = ~np.isin(solved.steady.status, (Status.max_steps_reached, Status.undecided, Status.nonfinite))
        samples.put(lost[is_known], Solved(rows_of(solved.steady, is_known), solved.found_by[is_known]))


def _follow_slow_ones(samples: Samples, left: np.ndarray, plan: Plan) -> None:
    """Let the engine finish slow decays, at a fraction of what it costs to watch them; a cycle is not as slow.

    A sample that comes to rest far from where it was slow, as after passing a saddle, was a long motion, and stays
    open: such motions are followed from their start.
    """
    is_slow = samples.solved.residual[left] < _NEARLY_AT_REST * (1 + np.abs(samples.solved.state[left]).max(axis=1))
    rows, steps_left = left[is_slow], samples.max_steps - samples.first_steps
    if len(rows) and steps_left > 0:
        states = samples.solved.state[rows]
        dynamics = eqx.tree_at(lambda plan: plan.starts_with_sweeps, plan, jax.device_put(np.asarray(False)))
        ends = run_whole(samples, rows, dynamics, states, steps_left)
        samples.put(rows, ends)
        is_far = ~(np.abs(ends.steady.state - states).max(axis=1) < _NEAR * (1 + np.abs(states).max(axis=1)))
        samples.solved.status[rows[is_far & (ends.steady.status == Status.converged)]] = Status.max_steps_reached


def _watched(samples: Samples, rows: np.ndarray, states: np.ndarray) -> Solved:
    """Where the dynamics go from these states: to rest after all, around a cycle, or to infinity."""
    limits = {"tolerance": samples.tolerance, "max_steps": samples.max_steps}
    steady = finish(samples.network, samples.stimuli[rows], samples.starts(rows), states, **limits)
    return Solved(steady, np.full(len(rows), FOUND_BY.index("dynamics")))
