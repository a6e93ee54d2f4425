"""From a recurrent network and a distribution of stimuli to a tested feed-forward network."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, get_args

from jax.sharding import Mesh
from jaxtyping import ArrayLike, Float, PRNGKeyArray

from rnn2ff._checks import check_at_least, check_fraction, check_positive, check_stimuli, fail
from rnn2ff.approximators import predict
from rnn2ff.data import Pairs, SampleStimulus, hold_out, key_for, sample_stimuli, solve_pairs
from rnn2ff.files import alone_in, make_folder
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state import AbstractSteadyStateSolver, Plan, check_mesh
from rnn2ff.training.escalation import escalate, is_data_limited, is_within, why_missed
from rnn2ff.training.further import further_pairs
from rnn2ff.training.jumps import explain_by_jumps
from rnn2ff.training.nrmse import accuracy, check_varies, nrmse_interval
from rnn2ff.training.result import Distillation, Report
from rnn2ff.training.trainer import USUAL_WIDTH, Trainer, best_of

Kind = Literal["any", "two_layers"]

SAME_DISTRIBUTION = "the training distribution; errors on other distributions are unknown"
_FEWEST_PAIRS = 3  # one for validation, and two to learn from
_HELD_OUT_SHARE = 0.1  # of an array of stimuli, for the test
_MORE_DATA = 4  # times as many samples, if the error is limited by data


def distill(
    network: RecurrentNetwork,
    stimuli: SampleStimulus | Float[ArrayLike, "batch stimulus"],
    *,
    tolerance: float | None = None,
    test_stimuli: Float[ArrayLike, "test stimulus"] | None = None,
    kind: Kind = "any",
    width: int | None = None,
    num_sweeps: int | None = None,
    num_samples: int = 20_000,
    num_test_samples: int = 2_000,
    num_steps: int = 5_000,
    bypass: bool = False,
    max_seconds: float = 600.0,
    solver: AbstractSteadyStateSolver | Plan | None = None,
    max_steps: int = 4096,
    checkpoints: str | Path | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    key: PRNGKeyArray,
) -> Distillation:
    """Solve stimuli, train a feed-forward network on the steady rates, and test it on stimuli it was not trained on.

    Without a tolerance, two approximators are trained: two layers with 4 hidden units per rate, and as many sweeps
    (`Refined`) as the same cost allows, or one less, after as many hidden units as the rest of the cost allows. The one
    with the smaller validation error is returned; the report has both errors. If a width or a number of sweeps is
    given, only that size is trained.

    With a tolerance, two layers of increasing width and approximators with increasingly many sweeps are tried, the
    cheapest first. The first whose test error, bootstrap interval included, is below the tolerance is returned; if
    there is none, the best is returned, and `report.reason` says why.

    Args:
        network: the recurrent network.
        stimuli: a function that draws one stimulus from a key, or an array of stimuli, each of which is used once.
        tolerance: the largest NRMSE that is good enough, such as .02.
        test_stimuli: for the test, by default fresh draws, or a random tenth of the array, held out.
        kind: what may be returned: "any", or only "two_layers", without sweeps.
        width: hidden units, 0 for sweeps alone; by default 4 for each rate, and not used with a tolerance.
        num_sweeps: sweeps after the two layers, trained together with them; by default as described above, or none if a
            width is given; not used with a tolerance.
        num_samples: how many to draw for training and validation, if `stimuli` is a function.
        num_test_samples: how many to draw for the test, if `stimuli` is a function.
        num_steps: optimizer steps of each training; half as many with the sweeps that are tried by default. On five
            networks, twice the default took twice the time and lowered the errors by 0 to 14 % of their value.
        bypass: whether two layers without sweeps have linear weights from the stimulus to the rates.
        max_seconds: with a tolerance, no further training is begun after this time.
        solver: as for `solve_steady_states`.
        max_steps: bound on the steps of each solve.
        checkpoints: a folder, made if it does not exist, for the checkpoints of each training. An interrupted
            distillation resumes from them, with the same result.
        mesh: devices that divide the stimuli to solve and each minibatch, as for `solve_steady_states` and `train`.
        progress: whether to show progress bars, on standard error.
        key: a PRNG key, the only source of randomness.

    Raises:
        ValueError: if an option is out of range, the stimuli do not fit the network, or the steady rates of the
            test stimuli are all the same; or the mesh has devices of other processes.
        RuntimeError: if no stimulus leads to a steady state.

    Example:
        Predictions of one pass, and the error on stimuli that were not trained on:

            result = rnn2ff.distill(network, stimuli, num_steps=1000, key=jr.key(0))
            print(result.report)
            rates = jax.vmap(result.approximator)(stimuli)
    """
    if kind not in get_args(Kind):
        raise fail("kind", "is not known", f"one of {get_args(Kind)}", repr(kind))
    if kind == "two_layers" and num_sweeps:
        raise fail("num_sweeps", "contradicts two layers alone", "kind='any', or no sweeps", f"{num_sweeps}")
    is_best_of_its_cost = kind == "any" and tolerance is None and width is None and num_sweeps is None
    width = USUAL_WIDTH * network.rate_size if width is None else width
    num_sweeps = 0 if num_sweeps is None else num_sweeps
    mesh = check_mesh(mesh)
    check_at_least("num_sweeps", num_sweeps, 0)
    check_at_least("width", width, 0 if num_sweeps else 1)
    check_at_least("num_samples", num_samples, _FEWEST_PAIRS)
    check_at_least("num_test_samples", num_test_samples, 2)
    num_steps = check_at_least("num_steps", num_steps, 1)  # products of a short NumPy integer would overflow
    check_positive("max_seconds", max_seconds)
    if tolerance is not None:
        check_fraction("tolerance", tolerance)

    tested_on = "stimuli that were given for it" if test_stimuli is not None else SAME_DISTRIBUTION
    training_stimuli, test_stimuli = _split(stimuli, test_stimuli, num_samples, num_test_samples, key)
    check_stimuli(training_stimuli, network.stimulus_size)
    check_stimuli(test_stimuli, network.stimulus_size, "test_stimuli")
    check_at_least("number of stimuli to train on", len(training_stimuli), _FEWEST_PAIRS)

    options = {"solver": solver, "max_steps": max_steps, "mesh": mesh}
    further = further_pairs(network, stimuli, **options) if callable(stimuli) else None

    def solve(which: ArrayLike) -> Pairs:
        return solve_pairs(network, which, **options, progress=progress)

    def trainer_on(pairs: Pairs) -> Trainer:
        check_at_least("number of steady states to train on", len(pairs), _FEWEST_PAIRS)
        settings = {"num_steps": num_steps, "bypass": bypass, "checkpoints": checkpoints, "progress": progress}
        return Trainer(network, pairs, **settings, further=further, mesh=mesh, key=key)

    if checkpoints is not None:
        checkpoints = Path(checkpoints)
        make_folder(checkpoints)
    with nullcontext() if checkpoints is None else alone_in(checkpoints):
        clock = _Clock()
        pairs, test = solve(training_stimuli), solve(test_stimuli)
        check_varies("steady rates of the test stimuli", test.rates)
        trainer = trainer_on(pairs)
        clock.add("solving")
        if tolerance is None:
            tried = trainer.best_of_its_cost() if is_best_of_its_cost else [trainer.of_size(width, num_sweeps)]
            clock.add("training")
            return _reported(best_of(tried), tried, trainer, pairs, test, clock, tolerance, None, None, tested_on)

        deadline = clock.started + max_seconds
        tried, is_in_time = escalate(trainer, test, tolerance, deadline, with_sweeps=kind == "any")
        clock.add("training")
        reason = by_margin = None
        if not is_within(tried[-1], test, tolerance):
            reason, by_margin = explain_by_jumps(network, best_of(tried).approximator, pairs, test, solver)
            clock.add("explaining")
            is_in_time = is_in_time and time.perf_counter() < deadline
            if reason is None and is_in_time and callable(stimuli) and is_data_limited(best_of(tried)):
                more = sample_stimuli(stimuli, _MORE_DATA * num_samples, key=key_for(key, "more training stimuli"))
                pairs = solve(more)
                trainer = trainer_on(pairs)
                clock.add("solving")
                best = best_of(tried).attempt
                tried.append(trainer.of_size(best.width, best.num_sweeps))
                clock.add("training")
            if reason is None and not is_within(tried[-1], test, tolerance):
                reason = why_missed(tried, is_in_time, max_seconds)
        num_unsteady = sum(test.status_counts.values()) - test.status_counts["converged"]
        if reason is not None and num_unsteady:
            reason += f"; no steady state for {num_unsteady / sum(test.status_counts.values()):.1%} of the stimuli"
        trained = tried[-1] if reason is None else best_of(tried)
        return _reported(trained, tried, trainer, pairs, test, clock, tolerance, reason, by_margin, tested_on)


class _Clock:
    """Wall-clock seconds by purpose."""

    def __init__(self):
        self.started = self.last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def add(self, purpose: str) -> None:
        """Add the seconds since the last call."""
        now = time.perf_counter()
        self.seconds[purpose] = self.seconds.get(purpose, 0.0) + now - self.last
        self.last = now


def _reported(trained, tried, trainer, pairs, test, clock, tolerance, reason, by_margin, tested_on) -> Distillation:
    predicted = predict(trained.approximator, test.stimuli)
    interval, judged = nrmse_interval(predicted, test.rates), accuracy(predicted, test.rates)
    errors = [
        judged.nrmse if result is trained else accuracy(predict(result.approximator, test.stimuli), test.rates).nrmse
        for result in tried
    ]
    report = Report(
        accuracy=judged,
        nrmse_interval=interval,
        width=trained.attempt.width,
        num_sweeps=trained.attempt.num_sweeps,
        num_training_pairs=len(pairs),
        status_counts={"training": pairs.status_counts, "test": test.status_counts},
        training=trained.run,
        seconds=clock.seconds,
        stimulus_shift=trainer.stimulus_shift,
        tolerance=tolerance,
        is_within_tolerance=None if tolerance is None else interval[1] < tolerance,
        reason=reason,
        attempts=tuple(result.attempt for result in tried),
        attempt_nrmses=tuple(errors),
        error_by_margin=by_margin,
        tested_on=tested_on,
        stimulus_range=pairs.stimulus_range,
    )
    return Distillation(trained.approximator, report, test, trainer.network)


def _split(stimuli, test_stimuli, num_samples, num_test_samples, key) -> tuple[ArrayLike, ArrayLike]:
    """Disjoint stimuli for training and test."""
    if callable(stimuli):
        training = sample_stimuli(stimuli, num_samples, key=key_for(key, "training stimuli"))
        if test_stimuli is None:
            test_stimuli = sample_stimuli(stimuli, num_test_samples, key=key_for(key, "test stimuli"))
        return training, test_stimuli
    if test_stimuli is not None:
        return stimuli, test_stimuli
    return hold_out(stimuli, _HELD_OUT_SHARE, key=key_for(key, "held-out stimuli"))
