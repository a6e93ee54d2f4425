"""Data sets, training and distillation: from stimuli to a judged approximator."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_close

from rnn2ff import TwoLayer, accuracy, distill, partition_competition, sample_from, train, winner_take_all
from rnn2ff.approximators import predict
from rnn2ff.datasets import hold_out, key_for, sample_stimuli, solve_pairs
from rnn2ff.training import mean_squared_error, surrogate_error

NETWORK = partition_competition(2, 2)


def sample(key):
    return jr.uniform(key, (4,))


@pytest.fixture(scope="module")
def distillation():
    return distill(NETWORK, sample, num_samples=2000, num_test_samples=300, num_steps=3000, width=64, key=jr.key(0))


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
        drawn = np.asarray(sample_stimuli(sample_from(jnp.asarray(rows, float), jitter=0.1), 4000, key=key))
        noise = drawn - np.round(drawn / rows[1]) * rows[1]
        assert_close(noise.std(axis=0), [0.1, 1.0], 0.05)

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


class TestPairs:
    def test_samples_without_a_steady_state_are_left_out_and_counted(self):
        stimuli = jnp.array([[1.0, 0.2], [1.0, 1.0], [0.2, 1.0]])
        pairs = solve_pairs(winner_take_all(2), stimuli)
        assert len(pairs) == 2
        assert_close(pairs.stimuli, stimuli[jnp.array([0, 2])], 0)
        assert_close(pairs.rates[:, :2], np.eye(2) / 0.55, 1e-3)
        assert (pairs.status_counts["converged"], pairs.status_counts["unstable"]) == (2, 1)

    def test_no_steady_state_at_all_is_an_error_with_the_counts(self):
        with pytest.raises(RuntimeError, match="to a steady state.*'unstable': 2"):
            solve_pairs(winner_take_all(2), jnp.ones((2, 2)))


class TestTraining:
    def test_a_representable_map_is_learned(self, key):
        teacher = TwoLayer(3, 4, 2, key=key)
        stimuli = jr.normal(key, (2000, 3))
        run = train(
            TwoLayer(3, 32, 2, key=jr.key(1)), stimuli, predict(teacher, stimuli), num_steps=3000, key=jr.key(2)
        )
        fresh = jr.normal(jr.key(3), (500, 3))
        assert accuracy(predict(run.approximator, fresh), predict(teacher, fresh)).nrmse < 0.05

    def test_the_best_on_validation_is_kept(self, key):
        stimuli, rates = jr.normal(key, (50, 3)), jr.uniform(key, (50, 2))
        run = train(TwoLayer(3, 8, 2, key=key), stimuli, rates, num_steps=200, num_evaluations=10, key=key)
        assert run.best_evaluation == int(run.validation_errors.argmin())
        order = jr.permutation(key_for(key, "split"), 50)
        validated = mean_squared_error(run.approximator, stimuli[order[:5]], rates[order[:5]])
        assert_close(validated, run.validation_errors.min(), 1e-5)

    def test_every_weight_follows_from_the_key(self, key):
        stimuli, rates = jr.normal(key, (50, 3)), jr.uniform(key, (50, 2))
        one, two, other = (
            train(TwoLayer(3, 8, 2, key=key), stimuli, rates, num_steps=20, key=each).approximator
            for each in (key, key, jr.key(5))
        )
        assert eqx.tree_equal(one, two)
        assert not eqx.tree_equal(one, other)

    def test_any_optimizer_takes_steps_on_the_surrogate(self, key):
        stimuli, rates = jr.normal(key, (2, 3)), jr.uniform(key, (2, 2))
        approximator = TwoLayer(3, 8, 2, key=key)
        run = train(
            approximator,
            stimuli,
            rates,
            optimizer=optax.sgd(0.1),
            num_steps=1,
            num_evaluations=1,
            batch_size=8,
            key=key,
        )
        kept = jr.permutation(key_for(key, "split"), 2)[1]  # the only row that is trained on
        gradient = eqx.filter_grad(surrogate_error)(approximator, stimuli[kept][None], rates[kept][None])
        expected = approximator.hidden_weights - 0.1 * gradient.hidden_weights
        assert_close(run.approximator.hidden_weights, expected, 1e-6)

    def test_the_surrogate_is_the_error_where_no_output_is_wrongly_silent_and_never_below_it(self, key):
        stimuli = jr.normal(key, (200, 3))
        approximator = TwoLayer(3, 8, 2, key=key)
        own = predict(approximator, stimuli)
        assert_close(surrogate_error(approximator, stimuli, own), 0, 1e-12)
        shifted = jnp.where(own > 0, own + 1, 0)
        expected = mean_squared_error(approximator, stimuli, shifted)
        assert_close(surrogate_error(approximator, stimuli, shifted), expected, 1e-6)
        rates = jr.uniform(key, (200, 2))
        assert surrogate_error(approximator, stimuli, rates) > mean_squared_error(approximator, stimuli, rates)

    def test_an_output_that_is_silent_for_all_stimuli_learns_nevertheless(self, key):
        approximator = eqx.tree_at(
            lambda each: each.readout_bias, TwoLayer(3, 16, 2, key=key), jnp.array([-100.0, 0.0])
        )
        stimuli = jr.normal(key, (500, 3))
        rates = jnp.ones((500, 2)) + jax.nn.relu(stimuli[:, :2])
        assert jnp.all(predict(approximator, stimuli)[:, 0] == 0)
        run = train(approximator, stimuli, rates, num_steps=4000, optimizer=optax.adam(0.05), key=key)
        assert accuracy(predict(run.approximator, stimuli), rates).unit_nrmse[0] < 0.5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_steps": 0}, "num_steps.*at least 1, got 0"),
            ({"batch_size": 0}, "batch_size.*at least 1, got 0"),
            ({"validation_fraction": 1.0}, "validation_fraction.*below 1, got 1"),
            ({"stimuli": np.full((4, 3), np.nan)}, "stimuli.*not finite"),
            ({"stimuli": np.ones((1, 3)), "rates": np.ones((1, 2))}, "number of pairs.*at least 2"),
        ],
    )
    @pytest.mark.usefixtures("as_a_user")
    def test_trainings_that_cannot_work_are_refused(self, arguments, message, key):
        arguments = {"stimuli": np.ones((4, 3)), "rates": np.ones((4, 2)), **arguments}
        stimuli, rates = jnp.asarray(arguments.pop("stimuli"), float), jnp.asarray(arguments.pop("rates"), float)
        with pytest.raises(ValueError, match=message):
            train(TwoLayer(3, 8, 2, key=key), stimuli, rates, key=key, **arguments)


class TestDistill:
    def test_the_approximator_comes_near_the_network_on_stimuli_it_never_saw(self, distillation):
        fresh = solve_pairs(NETWORK, sample_stimuli(sample, 300, key=jr.key(99)))
        received = accuracy(predict(distillation.approximator, fresh.stimuli), fresh.rates)
        assert received.nrmse < 0.1
        assert received.nrmse == pytest.approx(distillation.report.accuracy.nrmse, rel=0.3)

    def test_the_report_accounts_for_every_sample(self, distillation):
        report = distillation.report
        assert sum(report.status_counts["training"].values()) == 2000
        assert sum(report.status_counts["test"].values()) == 300
        assert report.num_training_pairs == report.status_counts["training"]["converged"]
        assert report.width == distillation.approximator.width == 64

    def test_its_summary_is_plain_json(self, distillation):
        import json

        content = json.loads(json.dumps(distillation.report.summary(), allow_nan=False))
        assert content["accuracy"]["nrmse"] == distillation.report.accuracy.nrmse
        assert len(content["training"]["validation_errors"]) == 20

    def test_an_array_is_used_row_by_row_with_a_tenth_held_out(self, key):
        rows = sample_stimuli(sample, 100, key=key)
        received = distill(NETWORK, rows, num_steps=20, key=key)
        used = np.concatenate([received.test.stimuli, rows])
        assert (received.report.num_training_pairs, len(received.test)) == (90, 10)
        assert len(np.unique(used, axis=0)) == 100

    def test_test_stimuli_are_used_where_given(self, key):
        rows = sample_stimuli(sample, 7, key=key)
        received = distill(NETWORK, sample, test_stimuli=rows, num_samples=20, num_steps=5, key=key)
        assert_close(received.test.stimuli, rows, 0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"width": 0}, "width.*at least 1, got 0"),
            ({"num_samples": 1}, "num_samples.*at least 2, got 1"),
            ({"stimuli": lambda key: jr.uniform(key, (5,))}, r"stimuli.*4\).*got \(20, 5\)"),
            ({"test_stimuli": np.ones((3, 5))}, r"test_stimuli.*4\).*got \(3, 5\)"),
        ],
    )
    @pytest.mark.usefixtures("as_a_user")
    def test_distillations_that_cannot_work_are_refused_before_any_solve(self, arguments, message, key, monkeypatch):
        monkeypatch.setattr("rnn2ff.distillation.solve_pairs", lambda *args, **kwargs: pytest.fail("solved"))
        arguments = {"stimuli": sample, "num_samples": 20, **arguments}
        with pytest.raises(ValueError, match=message):
            distill(NETWORK, arguments.pop("stimuli"), key=key, **arguments)
