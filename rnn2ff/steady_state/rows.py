"""The samples of a batch before their verdicts: what is known of each, and what all stages share."""

import enum
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Scalar, UInt32

from rnn2ff.networks import RecurrentNetwork, StateForm, is_threshold_linear
from rnn2ff.steady_state.field import Field, choose_rows
from rnn2ff.steady_state.method import Plan
from rnn2ff.steady_state.result import Status, SteadyState
from rnn2ff.steady_state.stability import Powers
from rnn2ff.steady_state.tiles import Layout

SAFETY = 0.9  # of the tolerance, so that a residual recomputed with other rounding still meets it
# Bound on the error of a step, relative to 1 + max |x|; of explicit steps, on their third-order term. At 1e-3, 1 in
# 8,192 competitions changed basin. At 1e-4 none did, but 1 in 6,099 samples of `benchmarks.honest_failures` did, with
# the largest weights there; it did not at 5e-5.
LOCAL_ERROR = 3e-5
LARGEST_STEP = 0.9  # of time, in units of the shortest time scale
MEMORY = 3  # steps that Anderson acceleration combines
BLOCK = 32  # most active units of a block

FOUND_BY = ("sweeps", f"Anderson({MEMORY})", "dynamics", "active set")


class Stage(enum.IntEnum):
    """The next stage of a sample."""

    begin = 0
    sweep = 1
    accelerate = 2
    follow = 3
    prove = 4
    look = 5
    block = 6
    decide = 7
    done = 8


class Rows(NamedTuple):
    """Samples before their verdict.

    Attributes:
        state: the last state.
        powers: state of the stability proof.
        stage: the next one, a `Stage`.
        status: a `Status`; meaningful once the stage is `done`.
        residual: of the state.
        speed: `max |dx/dt|` at the state, per unit of time.
        decay_rate: of the slowest perturbation, per unit of time.
        num_steps: sweeps and time steps.
        step: the last time step, in units of the shortest time scale.
        largest_step: bound on the step, reduced where steps were unstable.
        lowest_speed: since `largest_step` last changed.
        rest: the residual that counts as rest; lower after a fixed point was found unstable, or the
            dynamics were found to bend ahead.
        num_quiet: pairs of steps with the same active units.
        tried: a hash of the active units that were last solved for.
        is_followed: whether the state was reached by the dynamics from the initial state.
        found_by: what brought the state to rest, an index into `FOUND_BY`.
    """

    state: Float[Array, "batch state"]
    powers: Powers
    stage: Int[Array, " batch"]
    status: Int[Array, " batch"]
    residual: Float[Array, " batch"]
    speed: Float[Array, " batch"]
    decay_rate: Float[Array, " batch"]
    num_steps: Int[Array, " batch"]
    step: Float[Array, " batch"]
    largest_step: Float[Array, " batch"]
    lowest_speed: Float[Array, " batch"]
    rest: Float[Array, " batch"]
    num_quiet: Int[Array, " batch"]
    tried: UInt32[Array, " batch"]
    is_followed: Bool[Array, " batch"]
    found_by: Int[Array, " batch"]


class Known(NamedTuple):
    """What does not change: stimuli and initial states."""

    stimuli: Float[Array, "batch stimulus"]
    initial_states: Float[Array, "batch state"]


class Task(NamedTuple):
    """What all stages need.

    Attributes:
        network: the network.
        plan: how to solve; None to follow the dynamics.
        tolerance: the largest residual that counts as rest.
        max_steps: of the dynamics, per sample.
        layout: how many rows are worked on together.
        moves: whether states may be moved, or only judged.
    """

    network: RecurrentNetwork
    plan: Plan | None
    tolerance: Scalar
    max_steps: Int[Array, ""]
    layout: Layout
    moves: bool = True

    @property
    def has_blocks(self) -> bool:
        """Whether `block` applies: the network is threshold-linear, in continuous time, with dense weights."""
        return is_threshold_linear(self.network) and self.network.has_dense_weights and not self.network.is_map

    @property
    def proved_rate(self) -> Scalar:
        """A decay rate that every fixed point has; 0 where none is known."""
        return jnp.zeros((), self.network.dtype) if self.plan is None else self.plan.decay_rate


class Solved(NamedTuple):
    """The results of a batch.

    Attributes:
        steady: states and verdicts.
        found_by: what brought each state to rest, an index into `FOUND_BY`.
    """

    steady: SteadyState
    found_by: Int[Array, " batch"]


def blank_rows(states: Float[Array, "batch state"]) -> Rows:
    """Samples that have not begun: every number is zero."""
    zero, whole = jnp.zeros(len(states), states.dtype), jnp.zeros(len(states), jnp.int32)
    reals = ("residual", "speed", "decay_rate", "step", "largest_step", "lowest_speed", "rest")
    return Rows(
        state=states,
        powers=Powers(states, zero, zero, zero, zero),
        tried=whole.astype(jnp.uint32),
        is_followed=whole.astype(bool),
        **dict.fromkeys(reals, zero),
        **dict.fromkeys(("stage", "status", "num_steps", "num_quiet", "found_by"), whole),
    )


def restart(rows: Rows, known: Known, is_lost: Bool[Array, " tile"]) -> Rows:
    """Send lost rows back to the initial state, to follow the dynamics."""
    new = rows._replace(
        state=known.initial_states,
        stage=jnp.full_like(rows.stage, Stage.follow),
        status=jnp.full_like(rows.status, Status.max_steps_reached),
        step=jnp.zeros_like(rows.step),
        powers=rows.powers.to_be_begun(),
    )
    return choose_rows(is_lost, new, rows)


def next_at_rest(task: Task, states) -> Int[Array, " tile"]:
    """The next stage of a state at rest: a stability proof, unless the weights have given it."""
    return jnp.where(task.proved_rate > 0, Stage.done, jnp.full(len(states), Stage.prove, jnp.int32))


# --- active units of threshold-linear networks ------------------------------------------------------------------------


def active_units(task: Task, field: Field, states, velocity) -> Bool[Array, "tile state"]:
    """Units above threshold: with a positive state or, in the rate form, a positive total input."""
    if isinstance(task.network.vector_field, StateForm):
        return states > 0
    return states + field.scales * velocity > 0


def set_code(active: Bool[Array, "tile state"]) -> UInt32[Array, " tile"]:
    """A hash of the set of active units; never 0, which stands for none."""
    codes = np.random.default_rng(0).integers(1, 2**32, active.shape[1], dtype=np.uint32)
    return jnp.sum(jnp.where(active, jnp.asarray(codes)[None], jnp.uint32(0)), axis=1, dtype=jnp.uint32) | 1


def has_block(task: Task, active: Bool[Array, "tile state"]) -> Bool[Array, " tile"]:
    return jnp.sum(active, axis=1, dtype=jnp.int32) <= min(BLOCK, task.network.state_size)
