"""Data sets, training and distillation: from stimuli to a judged approximator."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_close

from rnn2ff import accuracy, distill, partition_competition, winner_take_all
from rnn2ff.approximators import predict
from rnn2ff.datasets import sample_stimuli, solve_pairs

NETWORK = partition_competition(2, 2)


def sample(key):
    return jr.uniform(key, (4,))


@pytest.fixture(scope="module")
def distillation():
    return distill(NETWORK, sample, num_samples=2000, num_test_samples=300, num_steps=3000, width=64, key=jr.key(0))


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
