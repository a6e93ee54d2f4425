"""Answers within a tolerance: one pass for all, a few sweeps for most of the others, and a solve for what is left.

Runs on the host. What is open after a stage is gathered, padded to one of a few sizes and handed on, so that nothing is
compiled anew for another batch.
"""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from rnn2ff._checks import check_at_least, check_finite, check_positive, check_shape, check_stimuli, fail
from rnn2ff.approximators import Approximator, Refined
from rnn2ff.certificates import Certificate, bound_error, certify
from rnn2ff.certifier import Certifier, make_certifier
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import is_rate_network
from rnn2ff.steady_state.anderson import repeat_accelerated
from rnn2ff.steady_state.attraction import attractions
from rnn2ff.steady_state.base import Status
from rnn2ff.steady_state.padding import TILE, in_tiles, padded
from rnn2ff.steady_state.plan import Plan
from rnn2ff.steady_state.solve import solve_steady_states
from rnn2ff.sweeps import AbstractSweep, SplitSweep, damped_sweep, split_sweep

_MEMORY = 3  # steps that the acceleration of a refinement combines


class Source(enum.IntEnum):
    """Where an answer comes from. Results hold its integers. Append only."""

    one_pass = 0  # the approximator alone
    refined = 1  # the approximator, and a fixed number of sweeps
    solved = 2  # the solver


class Served(eqx.Module):
    """Answers for a batch, each with what is known of it.

    Attributes:
        rates: of all units; of a network without weights, its states.
        error_bounds: proved, in the Euclidean norm of the rates; infinite where nothing is proved.
        error_estimates: lengths of a Newton step; NaN where the bound that holds everywhere was enough.
        sources: a `Source` for each sample, as integers.
        status: a `Status` for each sample, as integers. An answer that is served without a solve has `converged`.
        is_possibly_another_basin: whether the answer is a fixed point that attracts, found without following the
            dynamics, in a network that may have several: the dynamics may reach another one.
        plan: how the rest was solved; pass it for the next batch. None if none was made yet.
    """

    rates: Float[Array, "batch state"]
    error_bounds: Float[Array, " batch"]
    error_estimates: Float[Array, " batch"]
    sources: Int[Array, " batch"]
    status: Int[Array, " batch"]
    is_possibly_another_basin: Bool[Array, " batch"]
    plan: Plan | None


def predict_all_units(
    network: RecurrentNetwork, approximator: Approximator, stimuli: Float[ArrayLike, "batch stimulus"]
) -> Float[np.ndarray, "batch state"]:
    """What an approximator predicts of every unit, which is what certificates are about; a batch, on the host.

    Args:
        network: the network.
        approximator: of its rates.
        stimuli: one a row.

    Returns:
        the rates of all units; of a network without weights, the states.

    Raises:
        ValueError: if the stimuli do not fit or are not finite, or the approximator predicts the rates of some units
            only.
    """
    check_stimuli(stimuli, network.stimulus_size)
    _check_predicts_all_units(network, approximator)
    return _in_batch(_predict_all, (network, approximator), np.asarray(stimuli, network.dtype))


def certify_predictions(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    predictions: Float[ArrayLike, "batch state"],
    certifier: Certifier | None = None,
) -> Certificate:
    """The certificates of a batch, on the host; as `certify`, with a leading axis.

    Args:
        network: the network.
        stimuli: one a row.
        predictions: from `predict_all_units`, or of any other origin.
        certifier: from `make_certifier`; by default made anew.

    Raises:
        ValueError: if the shapes do not fit, or a stimulus is not finite.
    """
    check_stimuli(stimuli, network.stimulus_size)
    check_shape("predictions", predictions, (len(stimuli), network.state_size))
    certifier = make_certifier(network) if certifier is None else certifier
    stimuli, predictions = (np.asarray(each, network.dtype) for each in (stimuli, predictions))
    return _in_batch(_certificate_of, (network, certifier), stimuli, predictions)


def refine(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    prediction: Float[ArrayLike, " state"],
    *,
    sweep: AbstractSweep,
    num_steps: int,
    memory: int = _MEMORY,
) -> Float[Array, " state"]:
    """Improve a prediction by a fixed number of accelerated sweeps: the same work for every stimulus.

    Pure and differentiable, without a branch that depends on data.

    Args:
        network: the network.
        stimulus: one stimulus.
        prediction: the rates of all units; of a network without weights, the state.
        sweep: of that network, from `best_sweep`, `split_sweep` or another.
        num_steps: sweeps, at least 1; rounded up to a whole number of times through the memory, plus one.
        memory: sweeps that the acceleration combines; 0 for plain ones.

    Returns:
        what `prediction` is, after the sweeps.

    Raises:
        ValueError: if shapes do not fit, or `num_steps` is below 1.
    """
    check_at_least("num_steps", num_steps, 1)
    check_at_least("memory", memory, 0)
    check_shape("stimulus", stimulus, (network.stimulus_size,))
    check_shape("prediction", prediction, (network.state_size,))
    stimulus, prediction = (jnp.asarray(each, network.dtype) for each in (stimulus, prediction))
    if isinstance(sweep, SplitSweep):  # its points are total inputs, without the detour over a state
        point = network.params.total_input(prediction, stimulus)
    else:
        point = sweep.from_state(network, _as_state(network, stimulus, prediction), stimulus)
    drive = sweep.drive(network, stimulus)
    point = repeat_accelerated(sweep, network, drive, point, num_sweeps=num_steps, memory=memory)
    return _as_prediction(network, sweep.to_state(network, point))


def predict_or_solve(
    network: RecurrentNetwork,
    approximator: Approximator,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    tolerance: float,
    certifier: Certifier | None = None,
    plan: Plan | None = None,
    sweep: AbstractSweep | None = None,
    num_steps: int = 8,
    initial_states: Float[ArrayLike, "batch state"] | None = None,
) -> Served:
    """Steady rates within a tolerance, by the cheapest way that proves it for each sample.

    One pass of the approximator is certified for all samples. Those within the tolerance are served. The others are
    refined by sweeps and certified again; the rest is solved.

    Where no constant of the network gives a bound, the certificate is the local one, which costs an inverse for each
    sample, and a fixed point is served only if it attracts. It may be another one than the dynamics reach, and is
    flagged. Networks without weights are solved throughout, as nothing is proved of them.

    Args:
        network: the network.
        approximator: of its rates; it has to predict the rates of all units.
        stimuli: one stimulus a row.
        tolerance: the largest distance from the steady rates, in the Euclidean norm, in units of the rates. What is
            solved has the solver's own default tolerance.
        certifier: from `make_certifier`; by default made anew.
        plan: of the solver; by default made anew, when something is left to be solved.
        sweep: of the refinement; by default the approximator's or the plan's, if they have one, or the split sweep.
        num_steps: sweeps of the refinement.
        initial_states: where the dynamics start, one row a stimulus; by default at zero. In a network that is proved to
            have one fixed point the solver starts from the refined prediction instead.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, the approximator predicts the rates of some units only,
            or `tolerance` is not positive.
    """
    check_positive("tolerance", tolerance)
    check_at_least("num_steps", num_steps, 1)
    check_stimuli(stimuli, network.stimulus_size)
    size = len(stimuli)
    if initial_states is not None:
        check_shape("initial_states", initial_states, (size, network.state_size))
        check_finite("initial_states", initial_states)
    _check_predicts_all_units(network, approximator)
    certifier = make_certifier(network) if certifier is None else certifier
    stimuli = np.asarray(stimuli, network.dtype)
    answers = _Answers(network, certifier, stimuli, tolerance)

    everyone = np.arange(size)
    answers.judge(everyone, _in_batch(_predict_all, (network, approximator), stimuli), Source.one_pass)
    rows = answers.open_rows
    if len(rows):
        sweep = _choose_sweep(network, approximator, plan) if sweep is None else sweep
        refined = _in_batch(_refine_all, (network, sweep, num_steps), stimuli[rows], answers.rates[rows])
        answers.judge(rows, refined, Source.refined)
    rows = answers.open_rows
    if len(rows):
        plan = answers.solve(rows, plan, initial_states)
    return Served(
        rates=jnp.asarray(answers.rates),
        error_bounds=jnp.asarray(answers.bounds),
        error_estimates=jnp.asarray(answers.estimates),
        sources=jnp.asarray(answers.sources),
        status=jnp.asarray(answers.status),
        is_possibly_another_basin=jnp.asarray(answers.is_flagged),
        plan=plan,
    )


def _check_predicts_all_units(network: RecurrentNetwork, approximator: Approximator) -> None:
    if not isinstance(approximator, Refined) and approximator.rate_size != network.state_size:
        expected = f"an approximator of the rates of all {network.state_size} units"
        raise fail("approximator", "predicts the rates of some units only", expected, f"{approximator.rate_size}")


class _Answers:
    """Answers on their way; arrays on the host, changed in place."""

    def __init__(self, network: RecurrentNetwork, certifier: Certifier, stimuli: np.ndarray, tolerance: float):
        size = len(stimuli)
        self.network, self.certifier, self.stimuli, self.tolerance = network, certifier, stimuli, tolerance
        self.has_one_fixed_point = bool(certifier.has_global_bound)
        self.rates = np.zeros((size, network.state_size), network.dtype)
        self.bounds = np.full(size, np.inf, network.dtype)
        self.estimates = np.full(size, np.nan, network.dtype)
        self.sources = np.full(size, Source.solved, np.int32)
        self.status = np.full(size, Status.converged, np.int32)
        self.is_flagged = np.zeros(size, bool)

    @property
    def open_rows(self) -> np.ndarray:
        return np.flatnonzero(self.sources == Source.solved)

    def certify(self, rows: np.ndarray, rates: np.ndarray) -> None:
        """Keep these rates, and what is proved of them."""
        function = _bound_all if self.has_one_fixed_point else _certify_all
        bounds, estimates = _in_batch(function, (self.network, self.certifier), self.stimuli[rows], rates)
        self.rates[rows], self.bounds[rows], self.estimates[rows] = rates, bounds, estimates

    def judge(self, rows: np.ndarray, rates: np.ndarray, source: Source) -> None:
        """Serve those that are within the tolerance, and of several fixed points only those that attract."""
        self.certify(rows, rates)
        served = rows[self.bounds[rows] <= self.tolerance]
        if len(served) and not self.has_one_fixed_point:
            p = padded(np.arange(len(served)))
            stimuli = self.stimuli[served]
            states = _in_batch(_as_state, (self.network,), stimuli, self.rates[served])
            found = attractions(self.network, states[p], stimuli[p])
            served = served[np.asarray(found.is_stable)[: len(served)]]
            self.is_flagged[served] = True
        self.sources[served] = source

    def solve(self, rows: np.ndarray, plan: Plan | None, initial_states: ArrayLike | None) -> Plan | None:
        """Solve these, from their stated initial states or, if the end is the same, from where they are."""
        if self.has_one_fixed_point:
            starts = _in_batch(_as_state, (self.network,), self.stimuli[rows], self.rates[rows])
            starts = np.where(np.isfinite(starts).all(axis=1, keepdims=True), starts, 0)
        elif initial_states is not None:
            starts = np.asarray(initial_states, self.network.dtype)[rows]
        else:
            starts = np.zeros((len(rows), self.network.state_size), self.network.dtype)
        p = padded(np.arange(len(rows)))
        solved = solve_steady_states(self.network, self.stimuli[rows][p], solver=plan, initial_states=starts[p])
        states = np.asarray(solved.state)[: len(rows)]
        self.certify(rows, _in_batch(_as_prediction, (self.network,), states))
        self.status[rows] = np.asarray(solved.status)[: len(rows)]
        return solved.plan


def _choose_sweep(network: RecurrentNetwork, approximator: Approximator, plan: Plan | None) -> AbstractSweep:
    if isinstance(approximator, Refined):
        return approximator.sweep
    if plan is not None and plan.sweep is not None:
        return plan.sweep
    try:
        return split_sweep(network)
    except ValueError:  # without weights to look at, or singular
        return damped_sweep(network)


def _as_prediction(network: RecurrentNetwork, state: Float[Array, " state"]) -> Float[Array, " state"]:
    """The rates of all units; of a network without weights, the state."""
    return network.vector_field.unit_rates(state) if is_rate_network(network) else state


def _as_state(
    network: RecurrentNetwork, stimulus: Float[Array, " stimulus"], prediction: Float[Array, " state"]
) -> Float[Array, " state"]:
    """The state that the predicted rates cause; of a network without weights, the prediction itself."""
    if not is_rate_network(network):
        return prediction
    return network.vector_field.from_total_input(network.params.total_input(prediction, stimulus))


def _in_batch(function, constants, *arrays: np.ndarray):
    """Apply a function of one sample to every row, on a batch that is padded to one of a few sizes."""
    size = len(arrays[0])
    p = padded(np.arange(size))
    results = _compiled(function, constants, tuple(array[p] for array in arrays))
    return jax.tree.map(lambda result: np.asarray(result)[:size], results)


@eqx.filter_jit
def _compiled(function, constants, arrays):
    return in_tiles(jax.vmap(lambda *rows: function(*constants, *rows)), arrays, TILE)


def _predict_all(network, approximator, stimulus):
    if isinstance(approximator, Refined):
        return _as_prediction(network, approximator.state(stimulus))
    return approximator(stimulus)


def _refine_all(network, sweep, num_steps, stimulus, rates):
    return refine(network, stimulus, rates, sweep=sweep, num_steps=num_steps)


def _bound_all(network, certifier, stimulus, rates):
    bound, _ = bound_error(network, stimulus, rates, certifier)
    return bound, jnp.full_like(bound, jnp.nan)


def _certificate_of(network, certifier, stimulus, rates):
    return certify(network, stimulus, rates, certifier)


def _certify_all(network, certifier, stimulus, rates):
    certificate = certify(network, stimulus, rates, certifier)
    return certificate.error_bound, certificate.error_estimate
