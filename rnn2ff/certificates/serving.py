"""Answers within a tolerance: one pass for all samples, a few sweeps for most of the others, a solve for the rest.

Passes, certificates and sweeps are one compiled program for batches of all sizes, which gathers undecided samples on
the device; the remaining ones are solved.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Scalar

from rnn2ff._checks import check_array, check_at_least, check_on_host, check_positive_numbers, check_stimuli
from rnn2ff.approximators import Approximator, Refined
from rnn2ff.certificates.batches import call_in_chunks, check_predicts_all_units, in_chunks, map_tiles, predict_all
from rnn2ff.certificates.bounds import bound_and_floor, certify
from rnn2ff.certificates.certificate import quantiles
from rnn2ff.certificates.constants import Certifier, make_certifier
from rnn2ff.certificates.refinement import as_prediction, as_state, refine
from rnn2ff.networks import AbstractSweep, RecurrentNetwork, damped_sweep, split_sweep
from rnn2ff.records import is_shown, readable
from rnn2ff.steady_state import Layout, Plan, Status, check_mesh, count_statuses, in_dense_tiles, solve_steady_states


class Source(enum.IntEnum):
    """The origin of an answer. Results hold its integers.

    Attributes:
        one_pass: the approximator alone.
        refined: the approximator, and the Newton step of its certificate or a fixed number of sweeps.
        solved: the solver.
    """

    # Files hold these numbers: append only.
    one_pass = 0
    refined = 1
    solved = 2


@readable
class Served(eqx.Module):
    """Answers for a batch, with their error bounds.

    Attributes:
        rates: the rates of all units; for a network without weights, the states.
        error_bounds: proved, in the Euclidean norm of the rates; infinite where none is proved.
        error_estimates: lengths of a Newton step; for solved samples without a bound, the solver's estimate of the
            largest distance of a state. NaN where a global bound applies.
        sources: a `Source` for each sample, as integers.
        status: a `Status` for each sample, as integers. An answer that is served without a solve has `converged`.
        is_possibly_another_basin: whether the answer is an attracting fixed point that was found without following the
            dynamics, in a network that may have several: the dynamics may reach another one.
        plan: the plan of the solver; pass it for the next batch. None if none has been needed yet.
        is_extrapolated: whether a channel of the stimulus is outside the given range; None if no range was given.
    """

    rates: Float[Array, "batch state"]
    error_bounds: Float[Array, " batch"]
    error_estimates: Float[Array, " batch"]
    sources: Int[Array, " batch"]
    status: Int[Array, " batch"]
    is_possibly_another_basin: Bool[Array, " batch"]
    plan: Plan | None
    is_extrapolated: Bool[Array, " batch"] | None = None

    def _describe(self) -> tuple[str, dict[str, object]] | None:
        if not is_shown(self.rates, self.error_bounds, self.sources, self.status):
            return None
        lines = {f"by {source.name}": int((self.sources == source).sum()) for source in Source}
        statuses = count_statuses(self.status)
        lines |= {name: count for name, count in statuses.items() if count and name != Status.converged.name}
        lines |= {
            "error bound": quantiles(self.error_bounds),
            "without a bound": int(jnp.isinf(self.error_bounds).sum()),
        }
        lines |= {"possibly another basin": int(self.is_possibly_another_basin.sum())}
        if self.is_extrapolated is not None:
            lines["outside the range of the training"] = int(self.is_extrapolated.sum())
        return f"Answers for {len(self.rates)} stimuli, {self.rates.shape[1]} units", lines


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
    mesh: Mesh | None = None,
    stimulus_range: tuple[Float[ArrayLike, " stimulus"], Float[ArrayLike, " stimulus"]] | None = None,
) -> Served:
    """Steady rates within a tolerance, by the cheapest method that proves it for each sample.

    One pass of the approximator is certified for all samples. Those within the tolerance are served; if the weights
    have low rank, also those within it after the Newton step of the certificate. The others are refined by sweeps and
    certified again, unless the rounding of the equation alone exceeds the tolerance; the remaining ones are solved.

    If no constant of the network gives a bound, but its weights are of low rank, the certificate is the local one, and
    a fixed point is served only if it attracts. It may differ from the one that the dynamics reach, and is flagged. For
    other networks all samples are solved, since their certificates cost as much; `certify_predictions` computes them.

    Args:
        network: the network.
        approximator: an approximator of the rates of all units.
        stimuli: one stimulus a row.
        tolerance: the largest distance from the steady rates, in the Euclidean norm, in units of the rates. Samples
            that are solved have the default tolerance of the solver.
        certifier: from `make_certifier`; by default made for this call.
        plan: the plan of the solver; by default made for this call, if samples remain to be solved.
        sweep: the sweep for refinement; by default that of the approximator or the plan, if any, or the split sweep.
        num_steps: number of sweeps of the refinement.
        initial_states: where the dynamics start, one row per stimulus; by default zero. In a network that is proved to
            have one fixed point the solver may start from the prediction instead.
        mesh: a mesh of devices, over all of which the batch is divided; as for `solve_steady_states`.
        stimulus_range: smallest and largest value of each channel that the approximator was trained on, as
            `report.stimulus_range` of a distillation, or `smallest` and `largest` under `stimuli` in the card of a
            file. Stimuli outside it are flagged; their answers are bounded like all others.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, the approximator predicts the rates of only some units,
            `tolerance` is not positive, or the mesh has devices of other processes.

    Example:
        Answers within 0.01, and how many of them took one pass, a refinement, or a solve:

            served = rnn2ff.predict_or_solve(network, approximator, stimuli, tolerance=0.01)
            print(served.rates, jnp.bincount(served.sources, length=3))
    """
    instead = "use `jax.vmap` of the approximator and of `certify`, or `solve_batch`"
    check_on_host("predict_or_solve", instead, network, approximator, stimuli, certifier, plan, initial_states)
    mesh = check_mesh(mesh)
    check_positive_numbers(tolerance=tolerance)
    check_at_least("num_steps", num_steps, 1)
    check_stimuli(stimuli, network.stimulus_size)
    size = len(stimuli)
    if initial_states is not None:
        check_array("initial_states", initial_states, (size, network.state_size))
    if stimulus_range is not None:
        check_array("stimulus_range", stimulus_range, (2, network.stimulus_size))
    check_predicts_all_units(network, approximator)
    certifier = make_certifier(network) if certifier is None else certifier
    stimuli = np.asarray(stimuli, network.dtype)
    answers = _Answers(network, certifier, stimuli, tolerance, mesh)
    if answers.can_certify:
        answers.predict(approximator, _choose_sweep(network, approximator, plan) if sweep is None else sweep, num_steps)
    rows = np.flatnonzero(answers.sources == Source.solved)
    if len(rows):
        plan = answers.solve(rows, plan, initial_states)
    arrays = (answers.rates, answers.bounds, answers.estimates, answers.sources, answers.status, answers.is_flagged)
    return Served(*jax.device_put(arrays), plan, _is_outside(stimuli, stimulus_range))


def _is_outside(stimuli: np.ndarray, stimulus_range: tuple[ArrayLike, ArrayLike] | None) -> Array | None:
    """Which stimuli have a channel outside the range."""
    if stimulus_range is None:
        return None
    low, high = (np.asarray(end, stimuli.dtype) for end in stimulus_range)
    return jax.device_put(((stimuli < low) | (stimuli > high)).any(axis=1))


class _Answers:
    """Answers of a batch that is being served; arrays on the host, updated in place."""

    def __init__(
        self,
        network: RecurrentNetwork,
        certifier: Certifier,
        stimuli: np.ndarray,
        tolerance: float,
        mesh: Mesh | None,
    ):
        size = len(stimuli)
        self.stimuli, self.certifier, self.network, self.mesh = stimuli, certifier, network, mesh
        self.constants = (network, certifier, np.asarray(tolerance, network.dtype))
        self.has_one_fixed_point = certifier.has_global_bound
        # A Newton step of only a few products, which also decides whether the fixed point attracts.
        self.has_cheap_step = certifier.factors is not None and certifier.has_one_time_constant
        self.can_certify = self.has_one_fixed_point or self.has_cheap_step
        self.rates = np.zeros((size, network.state_size), network.dtype)
        self.bounds = np.full(size, np.inf, network.dtype)
        self.estimates = np.full(size, np.nan, network.dtype)
        self.sources = np.full(size, Source.solved, np.int32)
        self.status = np.full(size, Status.converged, np.int32)
        self.is_flagged = np.zeros(size, bool)

    def predict(self, approximator: Approximator, sweep: AbstractSweep, num_steps: int) -> None:
        """One pass for all, with a Newton step where it is cheap, and sweeps for those that remain undecided."""
        constants = (*self.constants, self.has_cheap_step, approximator, sweep, num_steps)
        judged = call_in_chunks(_predict_and_refine, constants, self.stimuli, mesh=self.mesh)
        self.rates, self.bounds, self.estimates = map(np.array, judged[:3])
        self.sources[judged.is_within & ~judged.is_stepped] = Source.one_pass
        self.sources[judged.is_within & judged.is_stepped] = Source.refined
        self.is_flagged = judged.is_within & (not self.has_one_fixed_point)

    def solve(self, rows: np.ndarray, plan: Plan | None, initial_states: ArrayLike | None) -> Plan | None:
        """Solve samples from their initial states or, if the fixed point is unique, from the predictions."""
        stimuli = self.stimuli[rows]
        if self.has_one_fixed_point and plan is not None and plan.has_one_fixed_point:
            starts = in_chunks(as_state, (self.network,), stimuli, self.rates[rows], mesh=self.mesh)
            starts = np.where(np.isfinite(starts).all(axis=1, keepdims=True), starts, 0)
        else:
            starts = None if initial_states is None else np.asarray(initial_states, self.network.dtype)[rows]
        solved = solve_steady_states(self.network, stimuli, solver=plan, initial_states=starts, mesh=self.mesh)
        states = np.asarray(solved.state)
        constants = (self.network, self.certifier, self.can_certify, not self.has_one_fixed_point)
        results = in_chunks(_bound_state, constants, stimuli, states, mesh=self.mesh)
        self.rates[rows], self.bounds[rows], self.estimates[rows] = results
        if not self.can_certify:
            self.estimates[rows] = np.asarray(solved.distance)
        self.status[rows] = np.asarray(solved.status)
        return solved.plan


class _Judged(NamedTuple):
    """Rates, and whether they can be served."""

    rates: Float[Array, "*batch state"]  # the given ones, or those after a Newton step
    bound: Float[Array, "*batch"]  # of their error
    estimate: Float[Array, "*batch"]  # of the error before the step
    is_rounding_limited: Bool[Array, "*batch"]  # whether rounding alone exceeds the tolerance
    is_stepped: Bool[Array, "*batch"]  # whether the rates are those after the step
    is_within: Bool[Array, "*batch"]  # whether they can be served


def _judge(network, certifier, tolerance: Scalar, makes_step: bool, stimulus, rates) -> _Judged:
    """Whether rates are within the tolerance, either as given or, if `makes_step`, after a Newton step."""
    if not makes_step:
        bound, floor = bound_and_floor(network, stimulus, rates, certifier)
        unknown, no = jnp.full_like(bound, jnp.nan), jnp.zeros((), bool)
        return _Judged(rates, bound, unknown, floor > tolerance, no, bound <= tolerance)
    certificate = certify(network, stimulus, rates, certifier)
    keeps_rates = (certificate.error_bound <= tolerance) | ~(certificate.refined_error_bound < certificate.error_bound)
    rates = jnp.where(keeps_rates, rates, certificate.refined)
    bound = jnp.where(keeps_rates, certificate.error_bound, certificate.refined_error_bound)
    is_within = (bound <= tolerance) & (certificate.is_attracting | certifier.has_global_bound)
    is_rounding_limited = certificate.is_refined_exact & ~(bound <= tolerance)  # exact up to rounding
    return _Judged(rates, bound, certificate.error_estimate, is_rounding_limited, ~keeps_rates, is_within)


def _predict_and_refine(
    network, certifier, tolerance, makes_step, approximator, sweep, num_steps, stimuli, num_rows, layout: Layout
) -> _Judged:
    """A pass for every row, and sweeps for the rows that remain undecided, gathered on the device."""

    def judge(stimulus, rates):
        return _judge(network, certifier, tolerance, makes_step, stimulus, rates)

    def predict(stimulus):
        return judge(stimulus, predict_all(network, stimulus, approximator))

    def sweep_and_judge(stimulus, rates):
        rates = refine(network, stimulus, rates, sweep=sweep, num_steps=num_steps)
        return judge(stimulus, rates)._replace(is_stepped=jnp.ones((), bool))

    def sweep_rows(rows, stimuli, is_mine, may_wait):
        return jax.vmap(sweep_and_judge)(stimuli, rows.rates)

    rows = map_tiles(predict, (stimuli,), num_rows, layout)
    is_open = ~rows.is_within & ~rows.is_rounding_limited & (jnp.arange(len(stimuli), dtype=jnp.int32) < num_rows)
    return in_dense_tiles(sweep_rows, rows, stimuli, is_open, layout.tiles)


def _bound_state(network, stimulus, state, certifier, can_certify: bool, makes_step: bool):
    """Rates of a solved state, their bound and the estimate of their error."""
    rates = as_prediction(network, state)
    infinite, unknown = jnp.asarray(jnp.inf, network.dtype), jnp.asarray(jnp.nan, network.dtype)
    if not can_certify:
        return rates, infinite, unknown
    if not makes_step:
        return rates, bound_and_floor(network, stimulus, rates, certifier)[0], unknown
    certificate = certify(network, stimulus, rates, certifier)
    return rates, certificate.error_bound, certificate.error_estimate


def _choose_sweep(network: RecurrentNetwork, approximator: Approximator, plan: Plan | None) -> AbstractSweep:
    if isinstance(approximator, Refined):
        return approximator.sweep
    if plan is not None and bool(plan.starts_with_sweeps):
        return plan.sweep
    try:
        return split_sweep(network)
    except ValueError:  # without a weight matrix, or singular
        return damped_sweep(network)
