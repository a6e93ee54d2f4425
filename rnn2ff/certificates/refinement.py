"""A prediction after a fixed number of accelerated sweeps: the same work for every stimulus."""

from __future__ import annotations

from jaxtyping import Array, ArrayLike, Float

from rnn2ff._checks import check_at_least, check_shape
from rnn2ff.networks import AbstractSweep, RateNetwork, RecurrentNetwork, SplitSweep, as_array
from rnn2ff.steady_state import repeat_accelerated


def refine(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    prediction: Float[ArrayLike, " state"],
    *,
    sweep: AbstractSweep,
    num_steps: int,
    memory: int = 3,
) -> Float[Array, " state"]:
    """Improve a prediction by a fixed number of accelerated sweeps: the same work for every stimulus.

    Pure and differentiable, without a branch that depends on data.

    Args:
        network: the network.
        stimulus: one stimulus.
        prediction: the rates of all units; for a network without weights, the state.
        sweep: a sweep of that network, from `best_sweep`, `split_sweep` or another.
        num_steps: number of sweeps, at least 1; rounded up to a multiple of `memory`, plus one.
        memory: number of sweeps that the acceleration combines, by default as in `Anderson`; 0 for plain sweeps.

    Returns:
        the refined prediction, in the same form as `prediction`.

    Raises:
        ValueError: if shapes do not fit, or `num_steps` is below 1.
    """
    check_at_least("num_steps", num_steps, 1)
    check_at_least("memory", memory, 0)
    check_shape("stimulus", stimulus, (network.stimulus_size,))
    check_shape("prediction", prediction, (network.state_size,))
    stimulus, prediction = (as_array(array, network.dtype) for array in (stimulus, prediction))
    if isinstance(sweep, SplitSweep):  # its points are total inputs, which need no state
        point = network.params.total_input(prediction, stimulus)
    else:
        point = sweep.from_state(network, as_state(network, stimulus, prediction), stimulus)
    drive = sweep.drive(network, stimulus)
    point = repeat_accelerated(sweep, network, drive, point, num_sweeps=num_steps, memory=memory)
    return as_prediction(network, sweep.to_state(network, point))


def as_prediction(network: RecurrentNetwork, state: Float[Array, " state"]) -> Float[Array, " state"]:
    """The rates of all units; for a network without weights, the state."""
    return network.unit_rates(state) if isinstance(network, RateNetwork) else state


def as_state(
    network: RecurrentNetwork, stimulus: Float[Array, " stimulus"], prediction: Float[Array, " state"]
) -> Float[Array, " state"]:
    """The state that follows from predicted rates; for a network without weights, the prediction itself."""
    if not isinstance(network, RateNetwork):
        return prediction
    return network.state_from_total_input(network.params.total_input(prediction, stimulus))
