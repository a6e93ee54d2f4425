"""How well an approximator does what the recurrent network does: compete, read out an angle, reject noise."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from rnn2ff._checks import check_finite, check_fraction, check_shape, fail
from rnn2ff.networks import population_angle
from rnn2ff.records import names_of_fields
from rnn2ff.training.nrmse import compared

MARGIN_EDGES = (0.0, 0.05, 0.1, 0.2, 0.4, float("inf"))


class Competition(NamedTuple):
    """How often the approximator and the recurrent network have the same winner.

    Attributes:
        agreement: share of samples in which the winners are the same.
        trivial_agreement: the same for the baseline that the competitor with the largest stimulus wins.
        margin_edges: edges of the bins by margin, the difference between the two largest stimuli.
        agreement_by_margin: agreement in each bin; NaN in an empty one.
        trivial_agreement_by_margin: the same for the trivial guess.
        num_by_margin: samples in each bin.
        num_without_winner: samples left out, because in the recurrent network no competitor is active.
        set_agreement: share of samples in which all active competitors are the same.
        trivial_set_agreement: the same for the guess that the largest stimulus alone is active.
    """

    agreement: float
    trivial_agreement: float
    margin_edges: tuple[float, ...]
    agreement_by_margin: Float[np.ndarray, " bin"]
    trivial_agreement_by_margin: Float[np.ndarray, " bin"]
    num_by_margin: Int[np.ndarray, " bin"]
    num_without_winner: int
    set_agreement: float
    trivial_set_agreement: float

    __dir__ = names_of_fields


def competition(
    predicted: Float[ArrayLike, "batch competitor"],
    target: Float[ArrayLike, "batch competitor"],
    drive: Float[ArrayLike, "batch competitor"],
    *,
    margin_edges: tuple[float, ...] = MARGIN_EDGES,
    active_share: float = 0.05,
) -> Competition:
    """Compare winners, overall and by margin, and active competitors, with the trivial guess as a baseline.

    Args:
        predicted: the approximator's rate of each competitor (the mean of a partition, for example).
        target: the steady rates of the recurrent network.
        drive: the stimulus to each competitor.
        margin_edges: increasing edges of the bins by margin, in units of the stimulus.
        active_share: share of the winner's rate above which a competitor counts as active.

    Raises:
        ValueError: if shapes differ, a value is not finite, there are fewer than two competitors, no sample has a
            winner, or `active_share` is not between 0 and 1.
    """
    check_fraction("active_share", active_share)
    predicted, target = compared(predicted, target)
    check_shape("drive", drive, target.shape)
    check_finite("drive", drive)
    if target.shape[1] < 2:
        raise fail("target", "has too few competitors", "at least 2", target.shape[1])
    has_winner = target.max(axis=1) > 0
    if not has_winner.any():
        raise fail("target", "has no winner in any sample", "some active competitor", "none")
    predicted, target, drive = predicted[has_winner], target[has_winner], np.asarray(drive)[has_winner]
    winner = target.argmax(axis=1)
    agrees = predicted.argmax(axis=1) == winner
    trivially_agrees = drive.argmax(axis=1) == winner
    is_active, is_predicted = (rates > active_share * rates.max(axis=1, keepdims=True) for rates in (target, predicted))
    is_largest = np.arange(drive.shape[1]) == drive.argmax(axis=1)[:, None]
    two_largest = np.sort(drive, axis=1)[:, -2:]
    bins = np.digitize(two_largest[:, 1] - two_largest[:, 0], margin_edges[1:-1])
    num_bins = len(margin_edges) - 1
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        by_margin, trivial_by_margin = (
            np.bincount(bins, weights=hits, minlength=num_bins) / counts for hits in (agrees, trivially_agrees)
        )
    return Competition(
        agreement=float(agrees.mean()),
        trivial_agreement=float(trivially_agrees.mean()),
        margin_edges=tuple(margin_edges),
        agreement_by_margin=by_margin,
        trivial_agreement_by_margin=trivial_by_margin,
        num_by_margin=counts,
        num_without_winner=int((~has_winner).sum()),
        set_agreement=float((is_predicted == is_active).all(axis=1).mean()),
        trivial_set_agreement=float((is_largest == is_active).all(axis=1).mean()),
    )


class AngleErrors(NamedTuple):
    """Sizes of differences between angles, in radians.

    Attributes:
        median: half of the samples are closer.
        percentile_95: all but a twentieth of the samples are closer.
    """

    median: float
    percentile_95: float


class InformationTransformation(NamedTuple):
    """Differences between the angles that a ring points to in the two networks, and the angle that it should point to.

    Attributes:
        approximation: between the approximator and the recurrent network.
        recurrent: between the recurrent network and the ideal angle.
        feedforward: between the approximator and the ideal angle.
        num_missed: samples in which the ring is silent in the approximator alone; they count as half a turn apart.
        num_silent: samples left out, because in the recurrent network the ring is silent.
    """

    approximation: AngleErrors
    recurrent: AngleErrors
    feedforward: AngleErrors
    num_missed: int
    num_silent: int

    __dir__ = names_of_fields


def information_transformation(
    predicted: Float[ArrayLike, "batch unit"],
    target: Float[ArrayLike, "batch unit"],
    ideal: Float[ArrayLike, " batch"],
) -> InformationTransformation:
    """Compare the angles that a ring points to: those of its population vector, once around the ring.

    Args:
        predicted: the approximator's rates of one ring.
        target: the steady rates of the ring.
        ideal: the angle that it should point to, in radians, such as the sum of two others.

    Raises:
        ValueError: if shapes differ, a value is not finite, or the ring is silent in every sample.
    """
    predicted, target = compared(predicted, target)
    check_shape("ideal", ideal, (len(target),))
    check_finite("ideal", ideal)
    is_active = target.max(axis=1) > 0
    if not is_active.any():
        raise fail("target", "is silent in every sample", "some active unit", "none")
    is_missed = predicted[is_active].max(axis=1) <= 0
    approximate, steady = (
        np.asarray(population_angle(jnp.asarray(rates[is_active])), np.float64) for rates in (predicted, target)
    )
    ideal = np.asarray(ideal, np.float64)[is_active]

    def errors(angles: np.ndarray, others: np.ndarray, is_missed: np.ndarray | bool = False) -> AngleErrors:
        apart = np.where(is_missed, np.pi, np.abs((angles - others + np.pi) % (2 * np.pi) - np.pi))
        return AngleErrors(float(np.median(apart)), float(np.quantile(apart, 0.95)))

    return InformationTransformation(
        approximation=errors(approximate, steady, is_missed),
        recurrent=errors(steady, ideal),
        feedforward=errors(approximate, ideal, is_missed),
        num_missed=int(is_missed.sum()),
        num_silent=int((~is_active).sum()),
    )


class NoiseRejection(NamedTuple):
    """Noise power over signal power, in decibels, before and after a network.

    Attributes:
        noise_in: of the stimuli.
        noise_out: of the rates.
        rejected: `noise_in - noise_out`; below zero where noise is amplified.
    """

    noise_in: float
    noise_out: float
    rejected: float

    __dir__ = names_of_fields


def noise_rejection(
    stimuli: Float[ArrayLike, "batch stimulus"],
    clean_stimuli: Float[ArrayLike, "batch stimulus"],
    rates: Float[ArrayLike, "batch rate"],
    clean_rates: Float[ArrayLike, "batch rate"],
) -> NoiseRejection:
    """How much of the noise on stimuli is left in the rates.

    Noise is the difference from the clean stimuli or rates; the signal is their variation over the channels of a
    sample. To judge an approximator against the recurrent network, give its rates and the clean rates of the recurrent
    network: its own errors then count as noise.

    Args:
        stimuli: with noise, one per row.
        clean_stimuli: the same without.
        rates: of the noisy stimuli.
        clean_rates: of the clean stimuli.

    Raises:
        ValueError: if shapes differ, a value is not finite, or no clean sample varies over its channels.
    """

    def decibels(noisy: ArrayLike, clean: ArrayLike, name: str) -> float:
        noisy, clean = compared(noisy, clean)
        signal = ((clean - clean.mean(axis=1, keepdims=True)) ** 2).sum()
        if signal == 0:
            raise fail(name, "has no signal", "channels that differ within a sample", "the same value in all of them")
        with np.errstate(divide="ignore"):
            return float(10 * np.log10(((noisy - clean) ** 2).sum() / signal))

    noise_in = decibels(stimuli, clean_stimuli, "clean_stimuli")
    noise_out = decibels(rates, clean_rates, "clean_rates")
    return NoiseRejection(noise_in, noise_out, noise_in - noise_out)
