"""Stimuli, and the steady states they lead to."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable, Iterator
from itertools import count
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

from rnn2ff._checks import (
    check_at_least,
    check_finite,
    check_fraction,
    check_key,
    check_stimuli,
    fail,
    is_known,
)
from rnn2ff.compiling import in_batches
from rnn2ff.data.stimuli import SampleStimulus
from rnn2ff.networks import RecurrentNetwork, batch_rates
from rnn2ff.records import names_of_fields
from rnn2ff.steady_state import (
    AbstractSteadyStateSolver,
    Plan,
    Status,
    SteadyStates,
    check_mesh,
    count_statuses,
    plan_steady_states,
    solve_steady_states,
)

_DRAWN = 512  # stimuli drawn per call of the program, whatever the total number
_NUM_PLANNED = 512  # stimuli of the plan of a stream


class Pairs(eqx.Module):
    """Stimuli and the steady rates they lead to; samples without a steady state are left out, and counted.

    Attributes:
        stimuli: one per row.
        states: the steady states, one row per stimulus.
        rates: the steady rates.
        status_counts: how the solve of every sample ended, those left out included.
    """

    stimuli: Float[Array, "batch stimulus"]
    states: Float[Array, "batch state"]
    rates: Float[Array, "batch rate"]
    status_counts: dict[str, int] = eqx.field(static=True)

    def __len__(self) -> int:
        return self.stimuli.shape[0]

    @property
    def stimulus_range(self) -> tuple[Float[np.ndarray, " stimulus"], Float[np.ndarray, " stimulus"]]:
        """The smallest and the largest value of each channel."""
        stimuli = np.asarray(self.stimuli)
        return stimuli.min(axis=0), stimuli.max(axis=0)

    def take(self, rows: slice | Int[ArrayLike, " row"]) -> "Pairs":
        """Some of the pairs; the counts remain those of all."""
        return Pairs(*take_rows((self.stimuli, self.states, self.rates), rows), self.status_counts)


def take_rows(arrays: PyTree[Array | np.ndarray], rows: slice | Int[ArrayLike, " row"]) -> PyTree[Array]:
    """Some rows of each array, taken on the host: on a device, each number of rows would be another program."""
    rows = rows if isinstance(rows, slice) else np.asarray(rows)
    return jax.device_put(jax.tree.map(lambda array: np.asarray(array)[rows], arrays))


def split_rows(
    num_rows: int, share: float, *, key: PRNGKeyArray
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held_out"]]:
    """Random rows to keep and a share to hold out, at least one of each; needs at least two rows.

    Drawn on the host: on a device, each size would be another program to compile.
    """
    order = np.random.default_rng(np.asarray(jr.key_data(key))).permutation(num_rows)
    num_held_out = min(max(1, round(share * num_rows)), num_rows - 1)
    return order[num_held_out:], order[:num_held_out]


def key_for(key: PRNGKeyArray, purpose: str) -> PRNGKeyArray:
    """The key for one purpose of a run, so that no two uses share their randomness."""
    check_key(key)
    return jr.fold_in(key, zlib.crc32(purpose.encode()))


def sample_stimuli(
    sample_stimulus: SampleStimulus, num_samples: int, *, key: PRNGKeyArray
) -> Float[Array, "batch stimulus"]:
    """Draw a batch; sample i depends on the key and on i alone.

    Args:
        sample_stimulus: draws one stimulus from a key; pure.
        num_samples: how many.
        key: a PRNG key.

    Raises:
        ValueError: if a draw is not a finite vector, or there are none.
    """
    check_at_least("num_samples", num_samples, 1)
    check_key(key)
    if is_known(key):
        drawn = jax.device_put(in_batches(_sample, sample_stimulus, (np.arange(num_samples),), _DRAWN, key))
    else:
        drawn = _sample(sample_stimulus, jnp.arange(num_samples), key)
    if drawn.ndim != 2:
        raise fail("sample_stimulus", "does not return one stimulus", "a vector", f"shape {drawn.shape[1:]}")
    check_finite("sample_stimulus", drawn)
    if num_samples > 1 and is_known(drawn) and not np.ptp(np.asarray(drawn), axis=0).any():
        _check_uses_key(sample_stimulus, key)
    return drawn


def _check_uses_key(sample_stimulus: SampleStimulus, key: PRNGKeyArray) -> None:
    """Refuse draws that ignore the key: those of `numpy.random` are made once, while the sampler is compiled."""
    program = jax.make_jaxpr(sample_stimulus)(key).jaxpr
    depends = set(program.invars)
    for equation in program.eqns:
        if any(isinstance(variable, Hashable) and variable in depends for variable in equation.invars):
            depends.update(equation.outvars)
    if not any(isinstance(variable, Hashable) and variable in depends for variable in program.outvars):
        expected = "draws by `jax.random` from its key, such as `lambda key: jax.random.normal(key, (20,))`"
        raise fail("sample_stimulus", "ignores its key", expected, "the same stimulus for every key")


@eqx.filter_jit
def _sample(sample_stimulus: SampleStimulus, indices: Int[ArrayLike, " batch"], key: PRNGKeyArray) -> Array:
    return jax.vmap(lambda i: sample_stimulus(jr.fold_in(key, i)))(jnp.asarray(indices))


def hold_out(
    stimuli: Float[ArrayLike, "batch stimulus"], share: float, *, key: PRNGKeyArray
) -> tuple[Float[Array, "kept stimulus"], Float[Array, "held_out stimulus"]]:
    """Split an array of stimuli at random into rows to train on and a share of rows to test on.

    Raises:
        ValueError: if there are fewer than two rows, or the share is not between 0 and 1.
    """
    check_fraction("share", share)
    check_key(key)
    stimuli = jnp.asarray(stimuli)
    if len(stimuli) < 2:
        raise fail("stimuli", "cannot be split", "at least 2 rows", len(stimuli))
    kept, held_out = split_rows(len(stimuli), share, key=key)
    return take_rows(stimuli, kept), take_rows(stimuli, held_out)


def solve_pairs(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    solver: AbstractSteadyStateSolver | Plan | None = None,
    max_steps: int = 4096,
    watch: bool = True,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> Pairs:
    """Solve every stimulus, keep those that reach a steady state, and count the others.

    Args:
        network: the network.
        stimuli: one per row.
        solver: as for `solve_steady_states`.
        max_steps: bound on the steps of each solve.
        watch: as for `solve_steady_states`; without it, the counts do not say why samples have no steady state.
        mesh: devices that divide the batch, as for `solve_steady_states`.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if the stimuli do not fit.
        RuntimeError: if no stimulus reaches a steady state, with the counts.
    """
    settings = {"max_steps": max_steps, "watch": watch, "mesh": mesh, "progress": progress}
    solved = solve_steady_states(network, stimuli, solver=solver, **settings)
    pairs = _batch(network, 0, stimuli, solved).pairs
    if not len(pairs):
        counts = pairs.status_counts
        raise RuntimeError(f"No stimulus leads to a steady state. Expected at least one that converges, got {counts}.")
    return pairs


class Batch(NamedTuple):
    """One batch of a stream: every sample that was drawn, with its status.

    Attributes:
        index: of the batch, from 0.
        stimuli: one per row.
        states: where the search ended; steady states where the status is `converged`.
        rates: of these states.
        status: a `Status` for each sample, as integers.
    """

    index: int
    stimuli: Float[Array, "batch stimulus"]
    states: Float[Array, "batch state"]
    rates: Float[Array, "batch rate"]
    status: Int[Array, " batch"]

    __dir__ = names_of_fields

    @property
    def pairs(self) -> Pairs:
        """The samples with a steady state, and the status counts of all."""
        kept = np.flatnonzero(np.asarray(self.status) == Status.converged)
        return Pairs(*take_rows((self.stimuli, self.states, self.rates), kept), count_statuses(self.status))


def _batch(network: RecurrentNetwork, index: int, stimuli: ArrayLike, solved: SteadyStates) -> Batch:
    stimuli = jax.device_put(np.asarray(stimuli, network.dtype))
    return Batch(index, stimuli, solved.state, batch_rates(network, solved.state), solved.status)


def stream_steady_states(
    network: RecurrentNetwork,
    sample_stimulus: SampleStimulus,
    *,
    batch_size: int = 4096,
    num_batches: int | None = None,
    start: int = 0,
    plan: Plan | None = None,
    mesh: Mesh | None = None,
    max_steps: int = 4096,
    key: PRNGKeyArray,
) -> Iterator[Batch]:
    """Draw stimuli and solve them, batch after batch, indefinitely unless an end is given.

    Batch i depends on the network, the key and i alone, so a stream can resume at any batch, and several processes can
    share it: batch i is the same in each of them.

    Args:
        network: the network.
        sample_stimulus: draws one stimulus from a key; pure.
        batch_size: samples in a batch.
        num_batches: where to end, counted from batch 0; by default never.
        start: the first batch to make.
        plan: how to solve, by default as chosen by `stream_plan`.
        mesh: devices that divide each batch, as for `solve_steady_states`.
        max_steps: bound on the steps of each solve.
        key: a PRNG key.

    Raises:
        ValueError: if an option is out of range, the stimuli do not fit the network, or the mesh has devices of other
            processes.
        RuntimeError: if no stimulus drawn for the plan leads to a steady state.
    """
    check_at_least("batch_size", batch_size, 1)
    check_at_least("start", start, 0)
    if num_batches is not None:
        check_at_least("num_batches", num_batches, 0)
    mesh = check_mesh(mesh)
    plan = stream_plan(network, sample_stimulus, max_steps=max_steps, key=key) if plan is None else plan
    indices = count(start) if num_batches is None else range(start, num_batches)
    return make_batches(
        network, sample_stimulus, indices, batch_size=batch_size, plan=plan, mesh=mesh, max_steps=max_steps, key=key
    )


def make_batches(
    network: RecurrentNetwork,
    sample_stimulus: SampleStimulus,
    indices: Iterable[int],
    *,
    batch_size: int,
    plan: Plan,
    mesh: Mesh | None,
    max_steps: int,
    key: PRNGKeyArray,
) -> Iterator[Batch]:
    """The batches of a stream with these indices."""
    stream_key = key_for(key, "stream")
    for index in indices:
        drawn = sample_stimuli(sample_stimulus, batch_size, key=jr.fold_in(stream_key, index))
        solved = solve_steady_states(network, drawn, solver=plan, max_steps=max_steps, mesh=mesh)
        yield _batch(network, index, drawn, solved)


def stream_plan(
    network: RecurrentNetwork, sample_stimulus: SampleStimulus, *, max_steps: int = 4096, key: PRNGKeyArray
) -> Plan:
    """The plan for the stream with this key; its batches depend on the plan."""
    probed = sample_stimuli(sample_stimulus, _NUM_PLANNED, key=key_for(key, "plan"))
    check_stimuli(probed, network.stimulus_size, "sample_stimulus")
    return plan_steady_states(network, probed, max_steps=max_steps)
