"""Data sets, training and distillation: from stimuli to a judged approximator."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats
from problems import assert_close, compiled_programs

from rnn2ff import (
    accuracy,
    distill,
    gaussian_stimuli,
    grating_stimulus,
    initialize_refined,
    partition_competition,
    save,
    stabilized_supralinear,
    threshold_linear,
    winner_take_all,
    write_report,
)
from rnn2ff.approximators import predict
from rnn2ff.data import sample_stimuli, solve_pairs
from rnn2ff.training import Trained, Trainer
from rnn2ff.training.escalation import why_missed
from rnn2ff.training.trainer import Attempt

NETWORK = partition_competition(2, 2)
HARD = partition_competition(2, 1, self_excitation=1.3)
FEW = {"num_samples": 60, "num_test_samples": 60, "num_steps": 5}


def sample(key):
    return jr.uniform(key, (4,))


@pytest.fixture(scope="module")
def distillation():
    return distill(NETWORK, sample, num_samples=2000, num_test_samples=300, num_steps=1000, width=32, key=jr.key(0))


class TestPairs:
    def test_samples_without_a_steady_state_are_left_out_and_counted(self):
        stimuli = floats([[1.0, 0.2], [1.0, 1.0], [0.2, 1.0]])
        pairs = solve_pairs(HARD, stimuli)
        assert len(pairs) == 2
        assert_close(pairs.stimuli, np.asarray(stimuli)[[0, 2]], 0)
        assert_close(np.asarray(pairs.rates)[:, :2], np.eye(2) / (1 - 1.3 + 1.5), 1e-3)
        assert (pairs.status_counts["converged"], pairs.status_counts["unstable"]) == (2, 1)

    def test_no_steady_state_at_all_is_an_error_with_the_counts(self):
        with pytest.raises(RuntimeError, match="to a steady state.*'unstable': 2"):
            solve_pairs(HARD, jnp.ones((2, 2)))


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
        assert report.width == distillation.approximator.width == 32

    def test_its_summary_is_plain_json(self, distillation):
        import json

        content = json.loads(json.dumps(distillation.report.summary(), allow_nan=False))
        assert content["accuracy"]["nrmse"] == distillation.report.accuracy.nrmse
        assert len(content["training"]["validation_errors"]) == 21

    def test_an_array_is_used_row_by_row_with_a_tenth_held_out(self, key):
        rows = sample_stimuli(sample, 100, key=key)
        received = distill(NETWORK, rows, num_steps=20, key=key)
        used = np.concatenate([received.test.stimuli, rows])
        assert (received.report.num_training_pairs, len(received.test)) == (90, 10)
        assert len(np.unique(used, axis=0)) == 100

    def test_by_default_it_is_the_best_of_its_cost_and_both_errors_are_reported(self, distillation):
        report = distill(NETWORK, sample, num_samples=2000, num_test_samples=300, num_steps=300, key=jr.key(0)).report
        two_layers, swept = report.attempts
        assert (two_layers.width, two_layers.num_sweeps) == (4 * NETWORK.rate_size, 0)
        assert swept.num_sweeps > 0
        assert swept.num_products <= two_layers.num_products < swept.num_products + NETWORK.state_size**2
        assert max(attempt.num_sweeps for attempt in report.attempts) <= 8
        assert report.num_sweeps == swept.num_sweeps
        assert report.accuracy.nrmse == report.attempt_nrmses[1] < 0.5 * report.attempt_nrmses[0]

    def test_in_a_small_network_few_sweeps_leave_room_for_more_hidden_units(self, key):
        pairs = solve_pairs(NETWORK, sample_stimuli(sample, 60, key=key))
        swept = Trainer(NETWORK, pairs, num_steps=2, key=key).refined_at(1000, most_sweeps=8).attempt
        assert swept.num_sweeps == 8
        assert swept.num_products <= 1000 < swept.num_products + NETWORK.stimulus_size + NETWORK.state_size

    def test_it_is_never_worse_than_as_many_sweeps_without_training(self, key):
        pairs = solve_pairs(NETWORK, sample_stimuli(sample, 600, key=key))
        trainer = Trainer(NETWORK, pairs, num_steps=20, key=key)
        trained = trainer.refined_at(8 * NETWORK.state_size**2)
        assert (trained.attempt.width, trained.attempt.num_sweeps) == (0, 7)
        assert trained.attempt.form == "7 sweeps alone"
        untrained = initialize_refined(NETWORK, pairs.states, pairs.stimuli, 0, num_sweeps=7, key=key)
        before, after = (
            accuracy(predict(approximator, trainer.held_out.stimuli), trainer.held_out.rates).nrmse
            for approximator in (untrained, trained.approximator)
        )
        assert after < before

    def test_hidden_units_come_first_where_sweeps_alone_overflow(self, key):
        network = stabilized_supralinear(8)
        contrasts = 20 * np.random.default_rng(0).random((400, 1))
        pairs = solve_pairs(network, contrasts * np.asarray(grating_stimulus(90.0, num_units=8)))
        trainer = Trainer(network, pairs, num_steps=5, key=key)
        num_products = 8 * network.state_size * network.rate_size
        trained = trainer.refined_at(num_products)
        assert trained.attempt.width > 0
        assert trained.attempt.num_products <= num_products
        longer = trainer.refined_at(num_products + network.state_size**2, start=trained.approximator)
        assert (longer.attempt.width, longer.attempt.num_sweeps) == (
            trained.attempt.width,
            trained.attempt.num_sweeps + 1,
        )

    def test_two_layers_alone_can_be_requested_with_and_without_a_tolerance(self, monkeypatch, key):
        monkeypatch.setattr("rnn2ff.training.escalation._WIDTHS", (1, 2))
        for tolerance in (None, 1e-3):
            received = distill(NETWORK, sample, kind="two_layers", tolerance=tolerance, **FEW, key=key)
            assert all(attempt.num_sweeps == 0 for attempt in received.report.attempts)

    def test_an_interrupted_one_resumes_with_the_same_result(self, tmp_path, key):
        arguments = {"num_samples": 60, "num_test_samples": 20, "num_steps": 40, "key": key}
        whole = distill(NETWORK, sample, **arguments)
        distill(NETWORK, sample, checkpoints=tmp_path, **arguments)
        checkpoints = sorted(tmp_path.iterdir())
        assert len(checkpoints) == len(whole.report.attempts) == 2
        checkpoints[1].unlink()  # as if it had been stopped between the two
        times = checkpoints[0].stat().st_mtime_ns
        again = distill(NETWORK, sample, checkpoints=tmp_path, **arguments)
        assert checkpoints[0].stat().st_mtime_ns == times
        for one, other in zip(jax.tree.leaves(whole.approximator), jax.tree.leaves(again.approximator)):
            np.testing.assert_array_equal(one, other)

    def test_the_same_key_gives_the_same_bytes_of_model_and_reports(self, tmp_path, key):
        contents = []
        for _ in range(2):
            found = distill(NETWORK, sample, num_samples=60, num_test_samples=20, num_steps=40, key=key)
            attempts = tuple(attempt._replace(seconds=0.0) for attempt in found.report.attempts)
            found = found._replace(report=found.report._replace(seconds={}, attempts=attempts))
            save(tmp_path / "model.safetensors", found)  # with a card that holds the report
            write_report(tmp_path / "report.html", found)
            contents.append([path.read_bytes() for path in sorted(tmp_path.iterdir())])
        assert len(contents[0]) == 2
        assert contents[0] == contents[1]

    @pytest.mark.slow
    def test_two_processes_end_with_the_same_bytes_and_one_core_up_to_rounding(self):
        code = (
            "import os, sys\n"
            "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])\n"
            "import jax, jax.random as jr, numpy as np, rnn2ff\n"
            "network = rnn2ff.threshold_linear(0.9 / 32**0.5 * jr.normal(jr.key(0), (32, 32)))\n"
            "found = rnn2ff.distill(network, jr.normal(jr.key(1), (400, 32)), num_steps=40, key=jr.key(2))\n"
            "leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(found.approximator)]\n"
            "sys.stdout.buffer.write(np.concatenate(leaves).astype(np.float64).tobytes())\n"
        )
        received = []
        for num_cores in ("2", "2", "1"):
            variables = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
            command = [sys.executable, "-c", code, num_cores]
            received.append(subprocess.run(command, env=variables, capture_output=True, check=True).stdout)
        assert received[0] == received[1]
        weights, others = np.frombuffer(received[0]), np.frombuffer(received[2])
        assert len(weights) > 1000
        np.testing.assert_allclose(others, weights, rtol=1e-3, atol=1e-4)

    @pytest.mark.slow
    def test_two_devices_end_where_one_does(self, key):
        arguments = {"num_samples": 61, "num_test_samples": 21, "num_steps": 40, "width": 4, "key": key}
        one = distill(NETWORK, sample, **arguments)
        two = distill(NETWORK, sample, mesh=jax.make_mesh((2,), ("batch",)), **arguments)
        assert_close(two.report.accuracy.nrmse, one.report.accuracy.nrmse, 1e-3)
        assert two.report.status_counts == one.report.status_counts

    def test_test_stimuli_and_sweeps_are_used_where_given(self, key):
        rows = sample_stimuli(sample, 7, key=key)
        received = distill(NETWORK, sample, test_stimuli=rows, num_sweeps=2, num_samples=20, num_steps=5, key=key)
        assert_close(received.test.stimuli, rows, 0)
        assert received.report.num_sweeps == received.approximator.num_sweeps == 2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"width": 0}, "width.*at least 1, got 0"),
            ({"num_sweeps": -1}, "num_sweeps.*at least 0, got -1"),
            ({"kind": "three_layers"}, "kind.*two_layers.*got 'three_layers'"),
            ({"kind": "two_layers", "num_sweeps": 2}, "num_sweeps.*no sweeps, got 2"),
            ({"tolerance": 2.0}, "tolerance.*below 1, got 2.0"),
            ({"num_samples": 2}, "num_samples.*at least 3, got 2"),
            ({"stimuli": np.eye(4)[:1], "test_stimuli": np.eye(4)}, "number of stimuli to train on.*at least 3, got 1"),
            ({"stimuli": lambda key: jr.uniform(key, (5,))}, r"stimuli.*4\).*got \(20, 5\)"),
            ({"test_stimuli": np.ones((3, 5))}, r"test_stimuli.*4\).*got \(3, 5\)"),
        ],
    )
    @pytest.mark.usefixtures("as_a_user")
    def test_distillations_that_cannot_work_are_refused_before_any_solve(self, arguments, message, key, monkeypatch):
        monkeypatch.setattr("rnn2ff.training.distillation.solve_pairs", lambda *args, **kwargs: pytest.fail("solved"))
        arguments = {"stimuli": sample, "num_samples": 20, **arguments}
        with pytest.raises(ValueError, match=message):
            distill(NETWORK, arguments.pop("stimuli"), key=key, **arguments)


class TestTolerance:
    @pytest.fixture(autouse=True)
    def few_sizes(self, monkeypatch):
        monkeypatch.setattr("rnn2ff.training.escalation._WIDTHS", (1, 2))
        monkeypatch.setattr("rnn2ff.training.escalation._SWEEPS", (3,))

    def test_the_cheapest_that_is_good_enough_is_returned(self):
        received = distill(NETWORK, sample, tolerance=0.03, num_samples=600, num_steps=60, key=jr.key(0))
        report = received.report
        assert report.is_within_tolerance
        assert report.reason is None
        assert report.nrmse_interval[0] < report.accuracy.nrmse < report.nrmse_interval[1] < 0.03
        assert [each.num_products for each in report.attempts] == sorted(each.num_products for each in report.attempts)
        assert all(each.validation_nrmse > 0.02 for each in report.attempts[:-1])
        assert (report.width, report.num_sweeps) == (report.attempts[-1].width, report.attempts[-1].num_sweeps)
        fresh = solve_pairs(NETWORK, sample_stimuli(sample, 300, key=jr.key(99)))
        assert accuracy(predict(received.approximator, fresh.stimuli), fresh.rates).nrmse < 0.03

    def test_where_the_winner_jumps_it_says_discontinuous(self):
        received = distill(
            HARD, lambda key: jr.uniform(key, (2,)), tolerance=0.01, num_samples=600, num_steps=60, key=jr.key(0)
        )
        report = received.report
        assert not report.is_within_tolerance
        assert report.reason.startswith("discontinuous")
        assert len(report.attempts) >= 2
        errors = report.error_by_margin.nrmse
        assert errors[0] > 2 * errors[4]
        best = min(report.attempts, key=lambda each: each.validation_nrmse)
        assert (report.width, report.num_sweeps) == (best.width, best.num_sweeps)

    def test_many_channels_pay_for_few_more_sweeps(self, monkeypatch, key):
        monkeypatch.setattr("rnn2ff.training.escalation._WIDTHS", ())
        monkeypatch.setattr("rnn2ff.training.escalation._SWEEPS", (2,))
        network = threshold_linear(0.3 * np.eye(3), stimulus_weights=jr.normal(key, (3, 60)))
        arguments = {"tolerance": 1e-6, "num_samples": 60, "num_test_samples": 30, "num_steps": 2}
        found = distill(network, gaussian_stimuli(60), **arguments, key=key)
        assert {attempt.num_sweeps for attempt in found.report.attempts} == {4}

    def test_where_pairs_are_missing_the_best_is_trained_again_on_four_times_as_many(self, tmp_path, monkeypatch, key):
        monkeypatch.setattr("rnn2ff.training.distillation.is_data_limited", lambda trained: True)
        arguments = {"kind": "two_layers", "tolerance": 1e-6, **FEW, "key": key}
        found = distill(NETWORK, sample, checkpoints=tmp_path, **arguments)
        *before, last = found.report.attempts
        assert last.num_training_pairs > 3 * before[0].num_training_pairs
        assert last.width == min(before, key=lambda each: each.validation_nrmse).width
        checkpoints = list(tmp_path.iterdir())
        assert len(checkpoints) == len(before) + 1
        resumed = distill(NETWORK, sample, checkpoints=tmp_path, **arguments)
        assert jnp.array_equal(resumed.approximator.hidden_weights, found.approximator.hidden_weights)

    @pytest.mark.parametrize(
        ("errors", "is_in_time", "word"),
        [((0.1, 0.3), True, "data limited"), ((0.3, 0.3), True, "plateau"), ((0.1, 0.3), False, "out of time")],
    )
    def test_the_reason_why_the_tolerance_is_missed_is_given_in_words(self, errors, is_in_time, word):
        attempt = Attempt(64, 2, 1000, 900, *errors, 1.0)
        reason = why_missed([Trained(None, None, attempt)], is_in_time, 5.0)
        assert reason.startswith(word)
        assert "64 hidden units and 2 sweeps" in reason


def test_where_winners_take_all_the_first_one_compiles_few_programs(key):
    # The last test, as the others would compile again what is forgotten.
    network = winner_take_all(4)
    jax.clear_caches()
    with compiled_programs() as programs:
        found = distill(network, sample, num_samples=400, num_test_samples=100, num_steps=2, key=key)
    assert len(found.report.attempts) == 2
    assert len(programs) <= 25
