"""The hard cases: samples that the engine leaves without a verdict, handled on the host in bounded sub-batches.

Samples that did not come to rest are watched for cycles, chaos and growth (`motion.py`, and `iteration.py` for maps).
Those that ran out of steps, not of time, are integrated again by a stiff method. Those that come to rest here get their
verdict from the same stability test as all others.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float

from rnn2ff.compiling import compiled, in_batches
from rnn2ff.networks import RecurrentNetwork, time_scales
from rnn2ff.steady_state.batch import judge
from rnn2ff.steady_state.bends import ROWS, follow_bent
from rnn2ff.steady_state.creeping import MOST_STEPS, STIFF_ROWS, creep, is_crept, may_be_factored, most_crept
from rnn2ff.steady_state.field import make_field
from rnn2ff.steady_state.iteration import observe_iterations
from rnn2ff.steady_state.linearity import moves_on
from rnn2ff.steady_state.method import are_apart
from rnn2ff.steady_state.motion import Motions, measure, observe_motions
from rnn2ff.steady_state.result import Status, SteadyState
from rnn2ff.steady_state.rows import SAFETY
from rnn2ff.steady_state.search import Candidate
from rnn2ff.steady_state.solvers.rollout import STIFF

_FEWEST_WATCHED = 128  # steps; to watch a motion for fewer shows nothing
# In units of the longest time scale. From its start a sample has twice that: as much as the engine and the watch had.
_TIME = 1000.0
_USUAL_STEPS = 4096
_FEWEST_CREEPING = 64  # as many samples may be followed by implicit steps, however large the network
_NEAR_REST = 1e-2  # relative; how far a fixed point may be from a state that crept toward it
_NEWTON_ROWS, _LARGEST_NEWTON = 16, 512  # rows of a sub-batch of Newton steps; most units
_MOST_NEWTON_WORK = 2**32  # rows times units cubed, about ten seconds; beyond, no distance is estimated


def finish(
    network: RecurrentNetwork,
    stimuli: Float[np.ndarray, "batch stimulus"],
    initial_states: Float[np.ndarray, "batch state"],
    states: Float[np.ndarray, "batch state"],
    *,
    tolerance: float,
    max_steps: int,
    is_stiff_tried: bool = True,
) -> SteadyState:
    """Find out what becomes of samples that have not come to rest and are now at `states`; arrays on the host.

    `max_steps` bounds each method; a stiff integrator is tried where steps run out, if `is_stiff_tried`.
    """
    limit = np.asarray(tolerance, states.dtype)  # an array, so that another value needs no compilation
    if 2 * max_steps < _FEWEST_WATCHED:
        no, unknown = np.zeros(len(states), bool), np.full(len(states), np.nan)
        motions = Motions(no, no, no, unknown, states, *np.ones((2, len(states)), np.int32))
    elif network.is_map:
        motions = observe_iterations(network, stimuli, states, tolerance=SAFETY * tolerance, max_steps=2 * max_steps)
    else:
        settings = {"tolerance": SAFETY * tolerance, "max_steps": 2 * max_steps}
        # More steps than usual are allowed for more time than usual.
        longer = max(1.0, max_steps / _USUAL_STEPS)
        motions = observe_motions(network, stimuli, states, **settings, max_time=longer * _TIME)
        # The engine's steps may have taken a long motion into another basin. Samples that come to rest only after them
        # are followed once more, accurately and from the start.
        rows = np.flatnonzero(motions.is_at_rest & (states != initial_states).any(axis=1))
        if len(rows):
            again = observe_motions(
                network, stimuli[rows], initial_states[rows], **settings, max_time=2 * longer * _TIME
            )
            # A motion that ran out of time on the way to the same state is not a different result.
            is_other = ~again.is_open | are_apart(again.state, motions.state[rows])
            for array, values in zip(motions, again):
                array[rows[is_other]] = values[is_other]
    states, num_steps = np.array(motions.state), np.array(motions.num_steps, np.int32)
    status = np.full(len(stimuli), Status.max_steps_reached, np.int32)
    status[motions.is_oscillating] = Status.oscillating
    status[motions.is_diverging] = Status.diverging

    may_be_stiff = is_stiff_tried and may_be_factored(network)
    rows = np.flatnonzero(motions.is_open & (num_steps >= 2 * max_steps) & may_be_stiff)
    if len(rows):
        rows = rows[in_batches(_are_moving, network, (stimuli[rows], states[rows]), ROWS)]
    if len(rows):
        samples = stimuli[rows], initial_states[rows]
        ends = in_batches(_roll_out_stiffly, network, samples, STIFF_ROWS, limit, max_steps)
        after, before = (
            in_batches(measure, network, (stimuli[rows], each), ROWS).residual for each in (ends.state, states[rows])
        )
        is_nearer = ends.is_diverging | (after < before)  # never NaN
        states[rows[is_nearer]], num_steps[rows] = ends.state[is_nearer], num_steps[rows] + ends.num_steps
        status[rows[ends.is_diverging]] = Status.diverging

    # A motion that creeps on without turning decays or grows very slowly: implicit steps soon reach its end.
    is_creeping = motions.is_open & (motions.num_turns == 0) & (num_steps < 2 * max_steps) & (num_steps > 0)
    rows = np.flatnonzero(is_creeping)[: max(_FEWEST_CREEPING, most_crept(network))]
    for start in range(0, len(rows) if is_crept(network, max_steps) else 0, STIFF_ROWS):
        few = rows[start : start + STIFF_ROWS]
        tolerances = np.full(len(few), SAFETY * limit)
        ends = in_batches(creep, network, (stimuli[few], states[few], tolerances), STIFF_ROWS)
        is_end = np.isfinite(ends.state).all(axis=1)
        states[few[is_end]], num_steps[few] = ends.state[is_end], num_steps[few] + ends.num_steps
        status[few[ends.is_diverging]] = Status.diverging
        if (ends.num_steps >= MOST_STEPS).all():  # the others most likely would not arrive either; leave them open
            break

    residuals, distance = np.full((2, len(states)), np.nan, states.dtype)
    rows = np.flatnonzero(status != Status.max_steps_reached)
    if len(rows):  # the verdict of the motion holds
        residuals[rows] = in_batches(measure, network, (stimuli[rows], states[rows]), ROWS).residual
    rows = np.flatnonzero(status == Status.max_steps_reached)
    if len(rows):
        judged = in_batches(judge, network, (stimuli[rows], states[rows]), ROWS, limit)
        residuals[rows] = judged.residual
        is_known = ~(is_creeping[rows] & (judged.status == Status.undecided))
        status[rows[is_known]] = judged.status[is_known]
        is_at_rest = status[rows] == Status.converged
        distance[rows[is_at_rest]] = judged.distance[is_at_rest]
        # A state that crept is at rest only if the fixed point is near: where nothing decays, its residual may be small
        # only because it is large, or it may stand still because its velocity is below the rounding of the state.
        crept = rows[is_at_rest & is_creeping[rows]]
        lengths = _affordable_newton_steps(network, stimuli[crept], states[crept])
        distance[crept] = np.where(np.isnan(lengths), distance[crept], lengths)
        is_far = ~(distance[crept] <= _NEAR_REST * (1 + np.abs(states[crept]).max(axis=1)))
        status[crept[is_far]] = Status.max_steps_reached
    solved = SteadyState(states, status, residuals, num_steps, distance, np.asarray(motions.period, states.dtype))
    follow_bent(network, stimuli, solved, tolerance=tolerance, max_steps=max_steps)
    rows = np.flatnonzero(status == Status.max_steps_reached)
    distance[rows] = _affordable_newton_steps(network, stimuli[rows], states[rows])
    return solved


@compiled
def _are_moving(network, stimuli, states) -> Bool[Array, " batch"]:
    """Whether states move by more than rounding; no integrator brings the others closer to rest."""
    field = make_field(network, stimuli, states)
    return moves_on(field, states, field.velocity(states))


@compiled
def _roll_out_stiffly(network, stimuli, initial_states, tolerance, max_steps) -> Candidate:
    limits = {"tolerance": tolerance, "max_steps": max_steps}
    return jax.vmap(lambda stimulus, start: STIFF.search(network, stimulus, start, **limits))(stimuli, initial_states)


def _affordable_newton_steps(network, stimuli, states) -> Float[np.ndarray, " batch"]:
    """Lengths of Newton steps, for as many rows as the bound on the work allows; NaN for the others."""
    lengths = np.full(len(states), np.nan, network.dtype)
    num_rows = min(len(states), max(1, _MOST_NEWTON_WORK // network.state_size**3))
    if num_rows and network.state_size <= _LARGEST_NEWTON:
        lengths[:num_rows] = in_batches(_newton_steps, network, (stimuli[:num_rows], states[:num_rows]), _NEWTON_ROWS)
    return lengths


@compiled
def _newton_steps(network, stimuli, states) -> Float[Array, " batch"]:
    """The largest entry of a Newton step toward rest: about how far a slow sample still has to go.

    The velocity is only known to rounding; the error of the step that this causes along slow directions is added.
    """

    def step(stimulus, state):
        velocity = network.velocity(state, stimulus)
        jacobian = network.jacobian(state, stimulus)
        signs = jr.rademacher(jr.key(0), state.shape, state.dtype)
        blur = jnp.finfo(state.dtype).eps * (1 + jnp.max(jnp.abs(state))) / time_scales(network, state, stimulus)
        steps = jnp.linalg.solve(jacobian, jnp.stack([velocity, signs * blur], axis=1))
        length = jnp.sum(jnp.max(jnp.abs(steps), axis=0))
        # If the Jacobian is singular, nothing decays along some direction, and the state may go any way along it.
        return jnp.where(jnp.isfinite(length), length, jnp.inf)

    return jax.vmap(step)(stimuli, states)
