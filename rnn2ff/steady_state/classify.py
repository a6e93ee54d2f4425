"""The verdict on a finished search: a fixed point is a steady state only if small perturbations die out."""

from types import ModuleType

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from rnn2ff.networks.base import RecurrentNetwork, residual
from rnn2ff.steady_state.attraction import attraction
from rnn2ff.steady_state.base import Candidate, Status, SteadyState
from rnn2ff.steady_state.oscillation import observe_motion


def judge(
    network: RecurrentNetwork,
    stimulus: Float[Array, " stimulus"],
    candidate: Candidate,
    *,
    tolerance: float,
    max_steps: int = 0,
) -> SteadyState:
    """The verdict on one sample, from the candidate's state alone.

    Args:
        network: the network.
        stimulus: the stimulus of the search.
        candidate: the end of a search.
        tolerance: the largest residual that counts as rest.
        max_steps: where the search followed the dynamics and ran out of steps, it is followed this much further, to see
            whether it moves in a cycle; 0 for a search of another kind.
    """
    state, num_steps, is_diverging = candidate.state, candidate.num_steps, candidate.is_diverging
    period = jnp.full((), jnp.nan, state.dtype)
    is_oscillating = jnp.zeros((), bool)
    if max_steps:
        is_lost = ~jnp.all(jnp.isfinite(state)) | is_diverging
        motion = observe_motion(
            network,
            stimulus,
            state,
            tolerance=tolerance,
            max_steps=max_steps,
            is_needed=~is_lost & ~(residual(network, state, stimulus) < tolerance),
        )
        state, num_steps, period = motion.state, num_steps + motion.num_steps, motion.period
        is_oscillating, is_diverging = motion.is_oscillating, is_diverging | motion.is_diverging
    recomputed = residual(network, state, stimulus)
    is_finite = jnp.isfinite(recomputed) & jnp.all(jnp.isfinite(state))
    is_at_rest = is_finite & (recomputed < tolerance)
    attracted = attraction(network, state, stimulus, is_needed=is_at_rest)
    speed = jnp.max(jnp.abs(network.velocity(state, stimulus)))
    verdicts = {
        Status.nonfinite: ~is_finite,
        Status.converged: is_at_rest & attracted.is_stable,
        Status.unstable: is_at_rest,
        Status.diverging: is_diverging,
        Status.oscillating: is_oscillating,
    }
    codes = [jnp.asarray(status, jnp.int32) for status in verdicts]
    return SteadyState(
        state=state,
        status=jnp.select(list(verdicts.values()), codes, jnp.asarray(Status.max_steps_reached, jnp.int32)),
        residual=recomputed,
        num_steps=num_steps,
        distance=jnp.where(is_at_rest, distance(speed, attracted.rate), jnp.nan),
        period=period,
    )


def distance(
    speed: Float[ArrayLike, "*batch"], rate: Float[ArrayLike, "*batch"], xp: ModuleType = jnp
) -> Float[ArrayLike, "*batch"]:
    """About how far a state is from rest: its speed over the slowest decay rate; 0 if it does not move at all.

    Args:
        speed: `max |dx/dt|`.
        rate: of the slowest decay, over time; 0 if nothing decays.
        xp: `jax.numpy`, or `numpy` for arrays on the host.
    """
    return xp.where(speed > 0, speed / xp.maximum(rate, 0), 0)
