"""Distributions of stimuli: plain functions of a key, and ways to combine them.

A sampler takes a PRNG key and returns one stimulus. Any function will do; those here are the usual ones:

    noisy_bumps = add(bump_stimuli(64), gaussian_stimuli(64, deviation=0.1))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from rnn2ff._checks import (
    check_at_least,
    check_finite,
    check_numbers,
    check_positive,
    check_positive_numbers,
    check_sizes,
    check_stimuli,
    check_units,
    fail,
    shape_of,
)
from rnn2ff.files import read_array
from rnn2ff.networks import as_floats, ring_bump

SampleStimulus = Callable[[PRNGKeyArray], Float[Array, " stimulus"]]


def gaussian_stimuli(size: int, *, mean: ArrayLike = 0.0, deviation: ArrayLike = 1.0) -> SampleStimulus:
    """Independent Gaussian channels.

    Args:
        size: number of channels.
        mean: of all channels, or of each.
        deviation: the standard deviation, of all channels or of each.

    Raises:
        ValueError: if there is no channel, a mean is not finite, or a deviation is not positive.
    """
    check_sizes(size=size)
    check_units("mean", mean, size)
    check_units("deviation", deviation, size)
    check_positive("deviation", deviation)
    mean, deviation = (jnp.broadcast_to(jnp.asarray(value, float), (size,)) for value in (mean, deviation))
    return lambda key: mean + deviation * jr.normal(key, (size,), mean.dtype)


def uniform_stimuli(size: int, *, low: float = 0.0, high: float = 1.0) -> SampleStimulus:
    """Independent channels, uniform from `low` to `high`.

    Raises:
        ValueError: if there is no channel, or `high` is not above `low`.
    """
    check_sizes(size=size)
    check_numbers(low=low, high=high)
    if not low < high:
        raise fail("high", "does not fit `low`", f"a finite number above {low}", high)
    return lambda key: jr.uniform(key, (size,), minval=low, maxval=high)


def sparse_stimuli(sample_stimulus: SampleStimulus, *, active_share: float) -> SampleStimulus:
    """Another sampler's stimuli, with each channel kept with probability `active_share`, and otherwise zero.

    Raises:
        ValueError: if `active_share` is not above 0 and at most 1.
    """
    check_numbers(active_share=active_share)
    if not 0 < active_share <= 1:
        raise fail("active_share", "is out of range", "above 0 and at most 1", repr(active_share))

    def sample(key: PRNGKeyArray) -> Array:
        value_key, active_key = jr.split(key)
        stimulus = sample_stimulus(value_key)
        return jnp.where(jr.bernoulli(active_key, active_share, stimulus.shape), stimulus, 0)

    return sample


def smooth_stimuli(num_units: int, *, length: float, deviation: float = 1.0) -> SampleStimulus:
    """A Gaussian process around a ring: neighboring units receive similar stimuli.

    The covariance at an angular distance d is `deviation^2 exp((cos d - 1) / length^2)`, which for short lengths is the
    squared exponential.

    Args:
        num_units: channels around the ring.
        length: of the correlation, in radians.
        deviation: the standard deviation of each channel.

    Raises:
        ValueError: if there is no channel, or `length` or `deviation` is not positive.
    """
    check_sizes(num_units=num_units)
    check_positive_numbers(length=length, deviation=deviation)
    angles = np.arange(num_units) * (2 * np.pi / num_units)
    # On a ring the covariance is circulant, and its root is the circulant matrix with the roots of its spectrum.
    spectrum = np.fft.fft(np.exp((np.cos(angles) - 1) / length**2)).real
    root = np.fft.ifft(np.sqrt(np.maximum(spectrum, 0))).real
    rows = (np.arange(num_units)[:, None] - np.arange(num_units)) % num_units
    factor = jnp.asarray(deviation * root[rows], float)
    return lambda key: factor @ jr.normal(key, (num_units,), factor.dtype)


def bump_stimuli(
    num_units: int, *, smallest: float = 0.0, largest: float = 1.0, concentration: float = 3.0
) -> SampleStimulus:
    """One bump on a ring at a random angle, of a height that is uniform from `smallest` to `largest`.

    Raises:
        ValueError: if there is no unit, `largest` is not above `smallest`, or `concentration` is not positive.
    """
    check_sizes(num_units=num_units)
    check_positive_numbers(concentration=concentration)
    heights = uniform_stimuli(1, low=smallest, high=largest)

    def sample(key: PRNGKeyArray) -> Array:
        height_key, angle_key = jr.split(key)
        angle = jr.uniform(angle_key, maxval=2 * np.pi)
        return heights(height_key) * ring_bump(angle, num_units, concentration=concentration)

    return sample


def add(*samplers: SampleStimulus) -> SampleStimulus:
    """The sum of independent stimuli."""
    check_at_least("number of samplers", len(samplers), 1)
    return lambda key: sum(sampler(k) for sampler, k in zip(samplers, jr.split(key, len(samplers))))


def concatenate(*samplers: SampleStimulus) -> SampleStimulus:
    """Independent stimuli side by side, such as one for each population."""
    check_at_least("number of samplers", len(samplers), 1)
    return lambda key: jnp.concatenate([sampler(k) for sampler, k in zip(samplers, jr.split(key, len(samplers)))])


def mixture(*samplers: SampleStimulus) -> SampleStimulus:
    """One of several samplers, chosen with equal probability."""
    check_at_least("number of samplers", len(samplers), 1)

    def sample(key: PRNGKeyArray) -> Array:
        choice_key, stimulus_key = jr.split(key)
        return jax.lax.switch(jr.randint(choice_key, (), 0, len(samplers)), samplers, stimulus_key)

    return sample


def sample_from(stimuli: Float[ArrayLike, "batch stimulus"] | str | Path, *, jitter: float = 0.0) -> SampleStimulus:
    """A sampler that draws a row of an array, plus Gaussian noise.

    Args:
        stimuli: one per row; or the path of a file that `files.read_array` can read.
        jitter: standard deviation of the noise added to each channel, in units of that channel's own standard
            deviation over the rows.

    Raises:
        ValueError: if the file cannot be read, the array is empty or holds a value that is not finite, or `jitter` is
            negative.
    """
    stimuli = read_array(stimuli, "stimuli") if isinstance(stimuli, str | Path) else stimuli
    check_stimuli(stimuli, (0, *shape_of("stimuli", stimuli))[-1])
    check_numbers(jitter=jitter)
    if jitter < 0:
        raise fail("jitter", "is out of range", "a finite number of at least 0", repr(jitter))
    stimuli = as_floats(stimuli)
    deviations = jitter * stimuli.std(axis=0)
    check_finite("deviations of the stimuli", deviations)  # those of large values may overflow
    return ArraySampler(stimuli, deviations)


class ArraySampler(eqx.Module):
    """Draws a row of an array, plus Gaussian noise; made by `sample_from`."""

    stimuli: Float[Array, "batch stimulus"]
    deviations: Float[Array, " stimulus"]

    def __call__(self, key: PRNGKeyArray) -> Float[Array, " stimulus"]:
        row_key, noise_key = jr.split(key)
        stimulus = self.stimuli[jr.randint(row_key, (), 0, len(self.stimuli))]
        return stimulus + self.deviations * jr.normal(noise_key, stimulus.shape, stimulus.dtype)
