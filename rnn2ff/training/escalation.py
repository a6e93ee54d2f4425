"""Approximators of rising cost up to a tolerance, and the reason if none reaches it."""

import time

from rnn2ff.approximators import predict
from rnn2ff.data import Pairs
from rnn2ff.training.nrmse import nrmse_interval
from rnn2ff.training.trainer import Trained, Trainer, best_of

_WIDTHS = (1, 2, 4, 8)  # of two layers, in multiples of the number of rates
_SWEEPS = (2, 4, 8, 16)  # after two layers of the first width, or of equal cost
_MOST_MORE = 2  # sweeps in place of these layers, which cost two where channels, rates and units are equally many
_PLATEAU = 0.8  # share of the error left after doubling width or sweeps, above which progress has stopped
_OUT_OF_REACH = 4  # times the tolerance: an error that a larger width will not reduce enough
_OVERFITTED = 1.5  # ratio of validation to training error from which more data are needed


def escalate(
    trainer: Trainer, test: Pairs, tolerance: float, deadline: float, *, with_sweeps: bool = True
) -> tuple[list[Trained], bool]:
    """Train approximators, the cheapest first, until one is within the tolerance, on validation and on the test.

    Returns all that were trained, in order, and whether none was omitted because the deadline (of `time.perf_counter`)
    had passed.
    """
    num_rates, num_units = trainer.network.rate_size, trainer.network.state_size
    stimulus_size = trainer.network.stimulus_size
    # The number of products of each size, with its width if it is of two layers alone, and its sweeps otherwise.
    sizes = [(multiple * num_rates * (stimulus_size + num_rates), multiple * num_rates, 0) for multiple in _WIDTHS]
    before_sweeps = num_rates * (stimulus_size + num_units)
    sizes += [(before_sweeps + (number + 1) * num_units**2, 0, number) for number in _SWEEPS if with_sweeps]
    tried: list[Trained] = []
    for num_products, width, num_sweeps in sorted(sizes):
        alike = [trained for trained in tried if (trained.attempt.num_sweeps > 0) == (num_sweeps > 0)]
        errors = [trained.attempt.validation_nrmse for trained in alike]
        is_flat = len(errors) > 1 and errors[-1] > _PLATEAU * errors[-2]
        is_far = num_sweeps == 0 and len(errors) > 0 and errors[-1] > _OUT_OF_REACH * tolerance
        if is_flat or is_far:
            continue
        if tried and time.perf_counter() > deadline:
            return tried, False
        if num_sweeps == 0:
            tried.append(trainer.two_layer(width))
        else:
            start = alike[-1].approximator if alike else None
            tried.append(trainer.refined_at(num_products, start=start, most_sweeps=num_sweeps + _MOST_MORE))
        if is_within(tried[-1], test, tolerance):
            return tried, True
    return tried, True


def is_within(trained: Trained, test: Pairs, tolerance: float) -> bool:
    """Whether the error is below the tolerance, on validation and, with its interval, on the test."""
    if not trained.attempt.validation_nrmse < tolerance:
        return False
    return nrmse_interval(predict(trained.approximator, test.stimuli), test.rates)[1] < tolerance


def is_data_limited(trained: Trained) -> bool:
    """Whether the training error is much smaller than the validation error."""
    return trained.attempt.validation_nrmse > _OVERFITTED * trained.attempt.training_nrmse


def why_missed(tried: list[Trained], is_in_time: bool, max_seconds: float) -> str:
    """Why the tolerance was not met, where there are no jumps, in words."""
    best = best_of(tried)
    form = f"the best of {len(tried)}, with {best.attempt.form}"
    error = f"has an error of {best.attempt.validation_nrmse:.2%} on pairs it was not trained on"
    if not is_in_time:
        return f"out of time: after {max_seconds:g} s {form}, {error}"
    if is_data_limited(best):
        num_pairs, fitted = best.attempt.num_training_pairs, best.attempt.training_nrmse
        return f"data limited: {form}, {error}, and of {fitted:.2%} on the {num_pairs} that it was"
    return f"plateau: more width and more sweeps no longer help; {form}, {error}"
