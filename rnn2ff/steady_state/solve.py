"""The steady states for a batch, as one pure function."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import ArrayLike, Float

from rnn2ff._checks import check_array, check_at_least, check_stimuli, check_tolerance, fail
from rnn2ff.compiling import jit_for_device
from rnn2ff.networks import RecurrentNetwork, as_array
from rnn2ff.steady_state.batch import solve_rows
from rnn2ff.steady_state.implicit import constants_of, with_implicit_derivatives
from rnn2ff.steady_state.method import Plan
from rnn2ff.steady_state.result import SteadyState


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
    any device, and never leaves it. Differentiable in forward and reverse mode, to any order, with respect to the
    network's parameters and the stimuli, by the implicit derivative. Without a steady state, a sample's derivative is
    NaN, unless a loss ignores it, as by `jnp.where(solved.is_converged, loss, 0)`; `solve_steady_state` has an example.

    A sample that does not come to rest within `max_steps` is `max_steps_reached`; `solve_steady_states` finds out, on
    the host, whether it moves in a cycle, and more.

    The tolerance is relative to `1 + max |x|`, and says little about a sample whose stimulus and states are far below
    1: give it in a smaller unit, as `solve_steady_states` does automatically for threshold-linear networks.

    Args:
        network: the network.
        stimuli: one per row.
        plan: from `plan_steady_states`, to use the fastest method that is right; by default the dynamics are followed.
        initial_states: where the dynamics start, one row per stimulus; by default at zero.
        tolerance: the largest residual that counts as rest; by default the dtype's.
        max_steps: bound on the steps of each sample.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or the tolerance is below what the dtype can reach.

    Example:
        In a compiled loss, in which samples without a steady state do not count:

            @jax.jit
            def loss(network, stimuli, targets):
                solved = rnn2ff.solve_batch(network, stimuli)
                errors = jnp.mean((solved.rates(network) - targets) ** 2, axis=1)
                return jnp.sum(jnp.where(solved.is_converged, errors, 0))
    """
    if not (plan is None or isinstance(plan, Plan)):
        expected = "a plan from `plan_steady_states`; a solver of one sample goes to `solve_steady_states`"
        raise fail("plan", "is not a plan", expected, type(plan).__name__)
    tolerance = check_tolerance(tolerance, network.dtype)
    max_steps = check_at_least("max_steps", max_steps, 1)
    check_stimuli(stimuli, network.stimulus_size)
    stimuli = as_array(stimuli, network.dtype)
    if initial_states is not None:
        check_array("initial_states", initial_states, (len(stimuli), network.state_size))
        initial_states = as_array(initial_states, network.dtype)
    settings = (np.asarray(tolerance, network.dtype), np.asarray(max_steps, np.int32))
    return _solve_batch(network, stimuli, plan, initial_states, *settings)


@jit_for_device
def _solve_batch(network, stimuli, plan, initial_states, tolerance, max_steps) -> SteadyState:
    sharding = jax.typeof(stimuli).sharding
    axes = sharding.spec[0] if len(sharding.spec) else None  # explicit ones, that the samples are divided over
    if axes is None:
        return _solve_shard(network, stimuli, plan, initial_states, tolerance, max_steps)
    # Each device solves its own samples; a gather over all devices would have no unique sharding.
    arrays, static = eqx.partition((network, plan), eqx.is_array)

    def solve(arrays, rows):
        network, plan = eqx.combine(arrays, static)
        stimuli, initial_states = rows
        return _solve_shard(network, stimuli, plan, initial_states, tolerance, max_steps)

    split, whole = PartitionSpec(axes), PartitionSpec()
    run = jax.shard_map(solve, mesh=sharding.mesh, in_specs=(whole, split), out_specs=split)
    return run(arrays, (stimuli, initial_states))


def _solve_shard(network, stimuli, plan, initial_states, tolerance, max_steps) -> SteadyState:
    if initial_states is None:
        initial_states = jnp.zeros((len(stimuli), network.state_size), network.dtype)
    constants = constants_of(network, stimuli, plan, initial_states)
    solved = solve_rows(*constants, tolerance=tolerance, max_steps=max_steps).steady
    state = with_implicit_derivatives(network, stimuli, solved.state, solved.is_converged)
    return eqx.tree_at(lambda record: record.state, solved, state)
