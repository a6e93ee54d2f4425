"""Distributions of stimuli: their moments are those of their definitions, and rows are drawn and parted fairly."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats
from problems import assert_close

from rnn2ff import (
    add,
    bump_stimuli,
    concatenate,
    gaussian_stimuli,
    mixture,
    sample_from,
    smooth_stimuli,
    sparse_stimuli,
    uniform_stimuli,
)
from rnn2ff.data import hold_out, key_for, sample_stimuli

NUM_SAMPLES = 4000  # standard errors of means of unit deviation are 0.016


def sample(key):
    return jr.uniform(key, (4,))


def draw(sampler, key):
    return np.asarray(sample_stimuli(sampler, NUM_SAMPLES, key=key), float)


class TestSamplers:
    def test_gaussian_channels_have_their_moments(self, key):
        drawn = draw(gaussian_stimuli(3, mean=np.array([0.0, 1.0, 2.0]), deviation=np.array([1.0, 2.0, 0.5])), key)
        assert_close(drawn.mean(axis=0), [0, 1, 2], 0.12)
        assert_close(np.cov(drawn.T), np.diag([1, 4, 0.25]), 0.35)

    def test_uniform_channels_fill_their_range(self, key):
        drawn = draw(uniform_stimuli(2, low=-1.0, high=3.0), key)
        assert drawn.min() >= -1
        assert drawn.max() <= 3
        assert_close(np.quantile(drawn, [0.25, 0.5, 0.75], axis=0), [[0, 0], [1, 1], [2, 2]], 0.15)

    def test_a_share_of_sparse_channels_is_active(self, key):
        drawn = draw(sparse_stimuli(uniform_stimuli(5, low=1.0, high=2.0), active_share=0.2), key)
        assert_close((drawn != 0).mean(axis=0), np.full(5, 0.2), 0.03)
        assert drawn[drawn != 0].min() >= 1

    def test_smooth_channels_have_the_covariance_of_their_process(self, key):
        drawn = draw(smooth_stimuli(6, length=0.7, deviation=2.0), key)
        distance = 2 * np.pi * np.subtract.outer(np.arange(6), np.arange(6)) / 6
        assert_close(np.cov(drawn.T), 4 * np.exp((np.cos(distance) - 1) / 0.7**2), 0.4)

    def test_bumps_have_their_heights_and_shape(self, key):
        drawn = draw(bump_stimuli(32, smallest=1.0, largest=2.0), key)
        peaks = drawn.max(axis=1)
        assert peaks.min() > 0.98
        assert peaks.max() <= 2
        assert_close(peaks.mean(), 1.5, 0.03)
        assert_close(drawn.min(axis=1) / peaks, np.full(NUM_SAMPLES, np.exp(-6)), 2e-3)
        assert_close(drawn.mean(axis=0), np.full(32, drawn.mean()), 0.1)  # no angle is preferred

    def test_sums_are_of_independent_parts(self, key):
        drawn = draw(add(gaussian_stimuli(2), gaussian_stimuli(2, mean=1.0)), key)
        assert_close(drawn.mean(axis=0), [1, 1], 0.1)
        assert_close(np.cov(drawn.T), 2 * np.eye(2), 0.2)

    def test_parts_stand_side_by_side(self, key):
        drawn = draw(concatenate(uniform_stimuli(1), uniform_stimuli(2, low=5.0, high=6.0)), key)
        assert drawn.shape[1] == 3
        assert drawn[:, 0].max() < 1
        assert drawn[:, 1:].min() > 5
        assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.1

    def test_a_mixture_draws_from_each_as_often(self, key):
        drawn = draw(mixture(uniform_stimuli(1), uniform_stimuli(1, low=5.0, high=6.0)), key)
        assert_close((drawn > 3).mean(), 0.5, 0.06)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: gaussian_stimuli(0), "size.*at least 1"),
            (lambda: gaussian_stimuli(2, deviation=0.0), "deviation.*not positive"),
            (lambda: uniform_stimuli(2, low=1, high=1), "high.*above 1"),
            (lambda: sparse_stimuli(sample, active_share=0), "active_share.*above 0"),
            (lambda: smooth_stimuli(4, length=0.0), "length.*not positive"),
            (lambda: bump_stimuli(4, concentration=-1.0), "concentration.*not positive"),
            (lambda: add(), "number of samplers.*at least 1"),
        ],
    )
    @pytest.mark.usefixtures("as_a_user")
    def test_distributions_that_are_none_are_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestStimuli:
    def test_sample_i_depends_on_the_key_and_on_i_alone(self, key):
        assert_close(sample_stimuli(sample, 10, key=key)[:3], sample_stimuli(sample, 3, key=key), 0)
        assert not jnp.allclose(sample_stimuli(sample, 3, key=key), sample_stimuli(sample, 3, key=jr.key(0)))

    def test_purposes_do_not_share_randomness(self, key):
        assert not jnp.allclose(jr.uniform(key_for(key, "a")), jr.uniform(key_for(key, "b")))

    def test_without_jitter_only_rows_are_drawn_and_all_of_them(self, key):
        rows = jr.normal(key, (5, 3))
        drawn = sample_stimuli(sample_from(rows), 200, key=key)
        assert {tuple(row) for row in np.asarray(drawn)} == {tuple(row) for row in np.asarray(rows)}

    def test_jitter_is_in_units_of_each_channel(self, key):
        rows = np.array([[0.0, 0.0], [2.0, 20.0]])
        drawn = np.asarray(sample_stimuli(sample_from(floats(rows), jitter=0.1), 4000, key=key))
        noise = drawn - np.round(drawn / rows[1]) * rows[1]
        assert_close(noise.std(axis=0), [0.1, 1.0], 0.05)

    def test_rows_come_from_a_file_too(self, key, tmp_path):
        rows = np.arange(6.0).reshape(3, 2)
        np.save(tmp_path / "rows.npy", rows)
        drawn = sample_stimuli(sample_from(tmp_path / "rows.npy"), 50, key=key)
        assert {tuple(row) for row in np.asarray(drawn)} == {tuple(row) for row in rows}

    def test_rows_are_parted_and_none_is_lost(self, key):
        kept, held_out = hold_out(jnp.arange(10.0)[:, None], 0.2, key=key)
        assert (len(kept), len(held_out)) == (8, 2)
        assert sorted(np.concatenate([kept, held_out]).ravel()) == list(range(10))

    @pytest.mark.parametrize(
        ("sampler", "num_samples", "message"),
        [
            (lambda key: jr.uniform(key), 2, "does not return one stimulus"),
            (lambda key: jr.uniform(key, (2,)) * jnp.nan, 2, "rows 0, 1"),
            (sample, 0, "num_samples.*at least 1, got 0"),
        ],
    )
    @pytest.mark.usefixtures("as_a_user")
    def test_samplers_that_do_not_work_are_refused(self, sampler, num_samples, message, key):
        with pytest.raises(ValueError, match=message):
            sample_stimuli(sampler, num_samples, key=key)

    @pytest.mark.usefixtures("as_a_user")
    def test_negative_jitter_is_refused(self):
        with pytest.raises(ValueError, match="jitter.*at least 0, got -1"):
            sample_from(np.ones((2, 2)), jitter=-1)
