"""Further pairs in the course of a training."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import rnn2ff
from rnn2ff import TwoLayer, threshold_linear, train
from rnn2ff.data import solve_pairs, stream_plan
from rnn2ff.training import Trainer, distillation, further_pairs
from rnn2ff.training.further import exactly, last_draw

NETWORK = threshold_linear(np.array([[0.2, -0.6, 0.1], [0.5, 0.1, -0.4], [-0.3, 0.2, 0.3]]))


def sample(key):
    return jr.normal(key, (3,))


def true_rates(stimuli):
    """What three hidden units compute exactly, so that with enough pairs the error falls to zero."""
    hidden = jax.nn.relu(stimuli @ jnp.array([[1.0, -1.0, 0.5], [-0.5, 1.0, 1.0], [1.0, 0.5, -1.0]]))
    return jax.nn.relu(hidden @ jnp.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]))


def draw(key, number=24):
    stimuli = jr.normal(key, (number, 3))
    return stimuli, true_rates(stimuli)


def training(further=draw, **changes):
    settings = {
        "num_steps": 300,
        "num_evaluations": 10,
        "validation": draw(jr.key(2), 400),
        "key": jr.key(3),
        **changes,
    }
    return train(TwoLayer(3, 24, 2, key=jr.key(4)), *draw(jr.key(1)), further=further, **settings)


class TestWhenTheyAreDrawn:
    def test_they_are_drawn_at_the_last_evaluation_at_which_errors_part_and_unknown_ones_do_not_count(self):
        nan = float("nan")
        assert last_draw(jnp.array([nan, 1.0, nan]), jnp.array([3.0, 1.03, nan]), 40, 10) is None
        assert last_draw(jnp.array([nan, 1.0, 1.0, 1.0, nan]), jnp.array([3.0, 1.2, 1.2, 1.0, nan]), 40, 10) == 2

    def test_pairs_are_used_four_times_each_before_they_are_replaced(self):
        training_errors, validation_errors = jnp.ones(10), jnp.full(10, 1.2)
        assert last_draw(training_errors, validation_errors, 10, 10) == 8  # after 4, and 8
        assert last_draw(training_errors, validation_errors, 9, 10) == 5

    def test_few_pairs_that_are_fitted_better_than_others_are_replaced_and_the_error_is_smaller(self):
        often = {"num_steps": 1000, "num_evaluations": 100}
        fixed, fresh = training(further=None, **often), training(**often)
        assert last_draw(fixed.training_errors, fixed.validation_errors, 256 * 10, 24) is not None
        assert fresh.validation_errors.min() < 0.1 * fixed.validation_errors.min()  # of twelve keys, at most .002

    def test_pairs_that_are_not_are_kept(self):
        calls = []
        key = jr.key(1)
        arguments = {"validation": draw(key), "num_steps": 20, "num_evaluations": 4}
        run = training(further=calls.append, **arguments)  # validated on the pairs that it is trained on
        assert not calls
        assert jnp.array_equal(run.validation_errors, training(further=None, **arguments).validation_errors)

    def test_a_resumed_training_draws_the_same(self, tmp_path):
        calls = []

        def interrupted(key):
            calls.append(key)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return draw(key)

        path = tmp_path / "training.checkpoint"
        with pytest.raises(KeyboardInterrupt):
            training(further=interrupted, checkpoint=path)
        resumed, whole = training(checkpoint=path), training()
        assert jnp.array_equal(resumed.validation_errors, whole.validation_errors)
        with pytest.raises(ValueError, match="another training"):
            training(further=None, checkpoint=path)


class TestWhatIsDrawn:
    def test_they_are_steady_states_of_fresh_stimuli(self):
        draw = further_pairs(NETWORK, sample)
        pairs, others = draw(5, jr.key(0)), draw(5, jr.key(1))
        assert len(pairs) == 5
        assert not np.isin(pairs.stimuli, others.stimuli).any()
        expected = jax.vmap(NETWORK.rates)(solve_pairs(NETWORK, pairs.stimuli).states)
        np.testing.assert_allclose(pairs.rates, expected, atol=1e-5)

    def test_one_plan_serves_all_draws_and_is_the_same_in_a_training_that_resumes(self, monkeypatch):
        plans = []

        def noted(*arguments, **options):
            plans.append(stream_plan(*arguments, **options))
            return plans[-1]

        monkeypatch.setattr("rnn2ff.training.further.stream_plan", noted)
        network = rnn2ff.random_threshold_linear(3, gain=1.1, key=jr.key(2))
        draw = further_pairs(network, sample)
        draw(5, jr.key(0))
        last = draw(5, jr.key(1))
        assert len(plans) == 1
        assert jnp.array_equal(last.rates, further_pairs(network, sample)(5, jr.key(1)).rates)

    def test_there_are_as_many_as_asked_for_also_where_some_have_no_steady_state(self):
        def some(number, key):
            return solve_pairs(NETWORK, jr.normal(key, (number, 3))).take(slice(number // 2))

        stimuli, rates = exactly(some, 7)(jr.key(0))
        assert stimuli.shape == rates.shape == (7, 3)
        assert jnp.array_equal(stimuli[:3], stimuli[3:6])


class TestTheRecipe:
    def test_it_takes_them_for_two_layers_and_with_sweeps(self, monkeypatch):
        monkeypatch.setattr("rnn2ff.training.loop.last_draw", lambda errors, *_: int(jnp.isfinite(errors).sum()))
        numbers = []

        def further(number, key):
            numbers.append(number)
            return further_pairs(NETWORK, sample)(number, key)

        pairs = further_pairs(NETWORK, sample)(40, jr.key(0))
        trainer = Trainer(NETWORK, pairs, num_steps=2, further=further, key=jr.key(1))
        trainer.best_of_its_cost(12)
        assert len(trainer.kept) == 36
        assert len(numbers) >= 2
        assert set(numbers) == {36}

    def test_distillation_draws_them_from_a_sampler_and_has_none_for_a_set(self, monkeypatch):
        given = []

        class Spied(Trainer):
            def __init__(self, *arguments, further, **options):
                given.append(further)
                super().__init__(*arguments, further=further, **options)

        monkeypatch.setattr(distillation, "Trainer", Spied)
        options = {"num_samples": 40, "num_test_samples": 10, "num_steps": 2, "width": 4, "key": jr.key(0)}
        rnn2ff.distill(NETWORK, sample, **options)
        rnn2ff.distill(NETWORK, jr.normal(jr.key(1), (40, 3)), **options)
        drawn = given[0](6, jr.key(2))
        assert len(drawn) == 6
        assert given[1] is None
