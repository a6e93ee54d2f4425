"""The commands that come after a distillation, on the files that it left."""

import errno
import json
import os
import re
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rnn2ff import StateForm, TwoLayer, load, rate_network, save, threshold_linear
from rnn2ff.approximators import predict
from rnn2ff.data import sample_stimuli
from rnn2ff.export import load_stablehlo, model_card, quantize, run_onnx, to_onnx
from rnn2ff.networks import network_hash

pytestmark = pytest.mark.usefixtures("no_network")  # no command needs one

WEIGHTS = np.array([[0.2, -0.5], [-0.3, 0.1]])
STIMULI = np.random.default_rng(0).uniform(1, 1.5, size=(60, 2)).astype(np.float32)
NETWORK = ("--weights", "W.npy", "--stimuli", "U.npy")
ACCURACY = {
    "nrmse": 0.05,
    "r_squared": 0.9975,
    "unit_nrmse": [0.02, 0.07],
    "worst_unit": 1,
    "percentile_95": 0.11,
    "num_samples": 60,
}
APPROXIMATOR = ("--approximator", "run/approximator.safetensors")
ROUTES = {
    "onnx": "rnn2ff.onnx",
    "onnx-int8": "rnn2ff_int8.onnx",
    "c": "rnn2ff.h",
    "c-int8": "rnn2ff_int8.h",
    "c-int16": "rnn2ff_int16.h",
    "stablehlo": "rnn2ff.stablehlo",
    "torch": "rnn2ff_torch.safetensors",
    "nir": "rnn2ff.nir",
    "mat": "rnn2ff.mat",
}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A folder with a network, stimuli, and an approximator as a distillation leaves it, but untrained."""
    folder = tmp_path_factory.mktemp("distilled")
    np.save(folder / "W.npy", WEIGHTS)
    np.save(folder / "U.npy", STIMULI)
    (folder / "run").mkdir()
    card = model_card(threshold_linear(WEIGHTS), STIMULI, {"accuracy": ACCURACY, "tested_on": "other stimuli"})
    save(folder / "run" / "approximator.safetensors", untrained(2, 2), card=card)
    return folder


def untrained(stimulus_size, rate_size):
    """Float32, whatever the tests run in, as the command line computes."""
    approximator = TwoLayer(stimulus_size, 5, rate_size, key=jax.random.key(2))
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), approximator)


@pytest.fixture(autouse=True)
def folder(distilled, monkeypatch):
    """That folder, with nothing of another test left in it; JAX's precision is put back."""
    before = set(distilled.rglob("*"))
    monkeypatch.chdir(distilled)
    x64 = jax.config.jax_enable_x64
    yield distilled
    jax.config.update("jax_enable_x64", x64)
    for path in sorted(set(distilled.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestEvaluate:
    def test_the_error_is_that_of_the_rates(self, run):
        code, out, err = run("evaluate", *NETWORK, *APPROXIMATOR, "--json", "--report", "page.html")
        assert (code, err) == (0, "")
        record = json.loads(out)
        approximator, _ = load("run/approximator.safetensors")
        # Both units are active for these stimuli, so that the steady state is that of a linear network.
        expected = np.linalg.solve(np.eye(2) - WEIGHTS, STIMULI.T).T
        assert (expected > 0).all()
        errors = np.asarray(predict(approximator, STIMULI)) - expected
        nrmse = np.sqrt((errors**2).sum() / ((expected - expected.mean(0)) ** 2).sum())
        assert record["accuracy"]["nrmse"] == pytest.approx(nrmse, rel=1e-3)
        assert record["accuracy"]["num_samples"] == record["status_counts"]["converged"] == 60
        assert record["familiarity"] == {"share_known": 1.0, "share_outside": 0.0}  # its own stimuli
        page = Path("page.html").read_text()
        assert f"{100 * nrmse:.2f} % (NRMSE)" in page
        assert "100.0 % of 60" in page
        code, _, err = run("evaluate", *NETWORK, *APPROXIMATOR, "--report", "page.html")
        assert (code, "`report` exists already. Expected a new file, or --overwrite" in err) == (2, True)

    @pytest.mark.parametrize("verb", ["evaluate", "certify", "bench"])
    def test_an_approximator_of_another_network_is_refused(self, verb, run, folder):
        np.save(folder / "other.npy", WEIGHTS.T)
        code, out, err = run(verb, "--weights", "other.npy", "--stimuli", "U.npy", *APPROXIMATOR)
        assert (code, out) == (2, "")
        assert "`approximator` stands for another network. Expected one of the network" in err


class TestCertify:
    def test_every_bound_is_of_the_true_error_and_the_file_holds_what_is_printed(self, run):
        code, out, err = run("certify", *NETWORK, *APPROXIMATOR, "--out", "certificates.npz", "--json")
        assert (code, err) == (0, "")
        record = json.loads(out)
        approximator, _ = load("run/approximator.safetensors")
        # Both units are active for these stimuli, so that the steady state is that of a linear network.
        expected = np.linalg.solve(np.eye(2) - WEIGHTS, STIMULI.T).T
        with np.load("certificates.npz") as received:
            np.testing.assert_allclose(received["predictions"], predict(approximator, STIMULI), rtol=1e-5)
            errors = np.linalg.norm(received["predictions"] - expected, axis=1)
            assert (errors <= received["error_bounds"]).all()
            assert (received["error_bounds"] < 5 * errors).all()
            assert received["is_refined_exact"].mean() == record["share_exact_after_a_newton_step"] > 0
            names = received["theorem_names"][received["theorems"]]
            for name, share in record["share_by_theorem"].items():
                assert (names == name).mean() == pytest.approx(share)
            assert record["error_bound"]["100 %"] == received["error_bounds"].max()
        assert record["share_not_certified"] == record["share_exact"] == 0
        assert run("certify", *NETWORK, *APPROXIMATOR, "--out", "certificates.npz")[0] == 2

    @pytest.mark.parametrize("route", ["onnx-int8", "c-int8"])
    def test_what_an_export_to_int8_answers_is_certified_as_well(self, route, run):
        assert run("certify", *NETWORK, *APPROXIMATOR, "--route", route, "--out", "certificates.npz")[0] == 0
        approximator, _ = load("run/approximator.safetensors")
        expected = np.linalg.solve(np.eye(2) - WEIGHTS, STIMULI.T).T
        with np.load("certificates.npz") as received:
            assert (received["predictions"] != np.asarray(predict(approximator, STIMULI))).any()
            np.testing.assert_allclose(received["predictions"], predict(approximator, STIMULI), atol=0.05)
            errors = np.linalg.norm(received["predictions"] - expected, axis=1)
            assert (errors <= received["error_bounds"]).all()

    def test_the_table_says_what_is_proved_of_how_many(self, run):
        code, out, _ = run("certify", *NETWORK, *APPROXIMATOR)
        assert code == 0
        for line in (
            "stimuli                   60",
            "not certified             0.0%",
            "95 %, 100 % of those that have",
        ):
            assert line in out

    def test_single_units_and_relative_errors_are_bounded_as_well(self, run):
        code, out, _ = run("certify", *NETWORK, *APPROXIMATOR, "--out", "certificates.npz", "--json")
        assert code == 0
        record = json.loads(out)
        expected = np.linalg.solve(np.eye(2) - WEIGHTS, STIMULI.T).T
        with np.load("certificates.npz") as received:
            assert (np.abs(received["predictions"] - expected) <= received["unit_bounds"]).all()
            assert (received["unit_bounds"] <= received["error_bounds"][:, None]).all()
            assert (received["unit_bounds"] < 0.9 * received["error_bounds"][:, None]).any()
            assert record["error_bound_of_the_worst_unit"]["100 %"] == received["unit_bounds"].max()
            lengths = np.linalg.norm(received["predictions"], axis=1)
            largest = (received["error_bounds"] / lengths).max()
            assert record["error_bound_over_length"]["100 %"] == pytest.approx(largest, rel=1e-5)
        assert record["why_not_certified"] is None
        assert record["share_within_tolerance"] is None

    def test_the_bound_is_written_as_a_function_in_c_as_well(self, run, folder):
        code, out, _ = run("certify", *NETWORK, *APPROXIMATOR, "--header", "my_bound.h")
        assert code == 0
        assert "my_bound.h" in out
        text = (folder / "my_bound.h").read_text()
        assert "static inline double my_bound(const float *stimulus, const float *rates)" in text
        assert network_hash(threshold_linear(WEIGHTS)) in text
        for name, message in (("my_bound.h", "exists already"), ("x.c", "ends in .h"), ("2x.h", "prefix of C names")):
            code, _, err = run("certify", *NETWORK, *APPROXIMATOR, "--header", name)
            assert code == 2
            assert message in err

    @pytest.mark.parametrize("norm", ["all", "unit"])
    def test_a_tolerance_gives_a_share_and_the_exit_code(self, norm, run):
        arguments = ("certify", *NETWORK, *APPROXIMATOR, "--norm", norm, "--out", "c.npz", "--overwrite", "--tolerance")
        assert run(*arguments, "100")[0] == 0
        with np.load("c.npz") as received:
            bounds = received["error_bounds"] if norm == "all" else received["unit_bounds"].max(axis=1)
        tolerance = float(np.quantile(bounds, 0.7))
        code, out, _ = run(*arguments, tolerance, "--json")
        assert code == 1
        assert json.loads(out)["share_within_tolerance"] == pytest.approx((bounds <= tolerance).mean())
        assert f"{(bounds <= tolerance).mean():.1%} of these stimuli" in run(*arguments, tolerance)[1]
        assert run(*arguments, "0")[0] == 2

    def test_the_reason_is_given_where_nothing_is_certified(self, run):
        weights = np.array([[4.0, 1.0], [1.0, 4.0]], np.float32)
        np.save("strong.npy", weights)
        card = model_card(rate_network(StateForm(jax.numpy.tanh), weights), STIMULI)
        save("strong.safetensors", untrained(2, 2), card=card)
        network = ("--weights", "strong.npy", "--stimuli", "U.npy")
        record = json.loads(
            run("certify", *network, "--approximator", "strong.safetensors", "--nonlinearity", "tanh", "--json")[1]
        )
        assert record["share_not_certified"] > 0
        assert "no diagonal metric makes the network monotone" in record["why_not_certified"]
        assert "the local theorem then needs a prediction that is near a fixed point" in record["why_not_certified"]


class TestFiles:
    """What was exported is judged as it is, ranges included."""

    @pytest.fixture
    def deployed(self, run):
        """Exported with stimuli of another range than those that follow."""
        np.save("lab.npy", 3 * STIMULI)
        routes = ("onnx", "onnx-int8", "c", "c-int8", "c-int16")
        assert run("export", *APPROXIMATOR, "--to", *routes, "--stimuli", "lab.npy", "--out", "deploy")[0] == 0

    def test_a_certificate_is_of_the_file_and_an_error_is_the_files(self, deployed, run):
        approximator, _ = load("run/approximator.safetensors")
        expected = np.linalg.solve(np.eye(2) - WEIGHTS, STIMULI.T).T
        in_file = {
            "rnn2ff_int8.h": quantize(approximator, 3 * STIMULI).predict(STIMULI),
            "rnn2ff_int16.h": quantize(approximator, 3 * STIMULI, weight_bits=16).predict(STIMULI),
            "rnn2ff_int8.onnx": run_onnx(open_bytes("deploy/rnn2ff_int8.onnx"), STIMULI),
        }
        for name, rates in in_file.items():
            arguments = (*NETWORK, "--model", f"deploy/{name}")
            assert run("certify", *arguments, "--out", "certificates.npz", "--overwrite")[0] == 0
            with np.load("certificates.npz") as received:
                np.testing.assert_array_equal(received["predictions"], rates)
                assert (np.linalg.norm(rates - expected, axis=1) <= received["error_bounds"]).all()
            record = json.loads(run("evaluate", *arguments, "--json")[1])
            nrmse = record["accuracy"]["nrmse"]
            assert record["familiarity"] == {"share_known": None, "share_outside": 0.0}
            spread = ((expected - expected.mean(0)) ** 2).sum()
            assert nrmse == pytest.approx(np.sqrt(((rates - expected) ** 2).sum() / spread), rel=1e-3)
        assert (in_file["rnn2ff_int8.h"] != quantize(approximator, STIMULI).predict(STIMULI)).any()

    @pytest.mark.parametrize("what", ["deploy/rnn2ff_int8.h", "deploy/rnn2ff.onnx", "run/approximator.safetensors"])
    def test_stimuli_outside_the_range_it_was_made_for_are_counted(self, what, deployed, run):
        others = np.copy(STIMULI)
        others[:3, 1] = 1.6  # no stimulus exceeds 1.5
        np.save("others.npy", others)
        option = "--approximator" if what.endswith("safetensors") else "--model"
        arguments = ("--weights", "W.npy", "--stimuli", "others.npy", option, what)
        for verb in ("evaluate", "certify"):
            assert re.search(r"outside its range +5\.0 % of the stimuli", run(verb, *arguments)[1])

    @pytest.mark.parametrize("name", ["rnn2ff_int8.h", "rnn2ff_int8.onnx", "rnn2ff.onnx"])
    def test_a_file_of_another_network_is_refused(self, name, deployed, run):
        np.save("other.npy", WEIGHTS.T)
        code, _, err = run("certify", "--weights", "other.npy", "--stimuli", "U.npy", "--model", f"deploy/{name}")
        assert code == 2
        assert "`model` stands for another network. Expected one of the network" in err

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: text.replace("int64_t sum = bias[i]", "int64_t sum = 1 + bias[i]"), "was changed after"),
            (lambda text: text.replace("_hidden_shifts[5] = {", "_hidden_shifts[5] = { 9,"), "was changed after"),
            (lambda text: text[: len(text) // 2], "was changed after"),
            (
                lambda text: text.replace("_hidden_shifts[5] = {\n    ", "_hidden_shifts[5] = {\n    x"),
                "was changed after",
            ),
            (lambda text: text.replace("RATE_SCALE ", "RATE_SCALE -"), "was changed after"),
            (lambda text: "int x;", "is not a header of rnn2ff"),
        ],
    )
    def test_a_header_that_was_changed_is_refused(self, change, message, deployed, run, folder):
        path = folder / "deploy" / "rnn2ff_int8.h"
        path.write_text(change(path.read_text()))
        code, _, err = run("certify", *NETWORK, "--model", "deploy/rnn2ff_int8.h")
        assert code == 2
        assert message in err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ("--model", "deploy/rnn2ff.h"),
                "`model` depends on the rounding of its compiler.*integer header",
            ),
            (("--model", "none.onnx"), "`model` cannot be read.*an existing file"),
            (("--model", "U.npy"), "`model` is in an unknown format"),
            (("--model", "bad.onnx"), "`model` is damaged. Expected a whole ONNX file"),
            (("--model", "other.onnx"), "does not fit the network. Expected 2 channels and 2 rates, got 3 and 1"),
            (("--model", "deploy/rnn2ff_int8.h", "--route", "c-int8"), "`route` does not go with a file"),
            (("--model", "deploy/rnn2ff_int8.h", *APPROXIMATOR), "one of --approximator and --model, got both"),
            ((), "one of --approximator and --model, got neither"),
        ],
    )
    def test_what_cannot_be_judged_is_refused(self, options, message, deployed, run, folder):
        (folder / "bad.onnx").write_bytes(b"no model")
        (folder / "other.onnx").write_bytes(to_onnx(TwoLayer(3, 1, 1, key=jax.random.key(0))))
        for verb in ("certify", "evaluate"):
            code, out, err = run(verb, *NETWORK, *options)
            assert (code, out) == (2, "")
            with pytest.raises(ValueError, match=message):
                raise ValueError(err)

    def test_a_header_tells_where_it_comes_from(self, deployed, folder):
        text = (folder / "deploy" / "rnn2ff_int8.h").read_text()
        network = network_hash(threshold_linear(WEIGHTS))
        assert f" * Stands for the network {network}." in text
        assert f'#define RNN2FF_INT8_NETWORK_HASH "{network}"' in text
        assert " * Error on unseen stimuli, before it was exported: 5.00 % (NRMSE)." in text
        assert " * Worst unit: 1, 7.00 %." in text
        assert " * Worst stimuli: one in 20 is off by 11.00 % or more." in text
        assert " * Tested on: other stimuli." in text
        assert f" * Made for stimuli from {STIMULI.min():.6g} to {STIMULI.max():.6g}" in text
        assert " * Integer arithmetic adds " in text


def open_bytes(path):
    with open(path, "rb") as file:
        return file.read()


class TestExport:
    def test_every_route_writes_a_file_that_says_what_the_approximator_says(self, run, folder):
        code, out, err = run("export", *APPROXIMATOR, "--to", *ROUTES, "--stimuli", "U.npy", "--out", "new/deploy")
        assert (code, err) == (0, "")
        made = folder / "new" / "deploy"
        assert sorted(path.name for path in made.iterdir()) == sorted(ROUTES.values())
        approximator, _ = load("run/approximator.safetensors")
        expected = np.asarray(predict(approximator, STIMULI))
        for route, bound in [("onnx", 1e-5), ("onnx-int8", 0.05)]:
            received = run_onnx((made / ROUTES[route]).read_bytes(), STIMULI)
            np.testing.assert_allclose(received, expected, atol=bound)
        program = load_stablehlo((made / ROUTES["stablehlo"]).read_bytes())
        np.testing.assert_allclose(program(STIMULI), expected, atol=1e-5)
        torch_weights = load_file(made / ROUTES["torch"])
        np.testing.assert_array_equal(torch_weights["2.weight"], approximator.readout_weights)
        assert "rnn2ff_int8_predict" in (made / ROUTES["c-int8"]).read_text()
        for name in ROUTES.values():
            assert name in out

    def test_the_added_error_and_the_footprint_are_shown(self, run):
        arguments = ("export", *APPROXIMATOR, "--to", "onnx", "c-int8", "--stimuli", "U.npy", "--out", "deploy")
        code, out, _ = run(*arguments, "--json")
        assert code == 0
        rows = json.loads(out)["routes"]
        approximator, _ = load("run/approximator.safetensors")
        expected = np.asarray(predict(approximator, STIMULI))
        errors = quantize(approximator, STIMULI).predict(STIMULI) - expected
        nrmse = np.sqrt((errors**2).sum() / ((expected - expected.mean(0)) ** 2).sum())
        assert rows["c-int8"]["added_error"] == pytest.approx(nrmse, rel=1e-3)
        assert rows["onnx"]["added_error"] < 1e-5
        assert rows["c-int8"]["flash_bytes"] == 5 * 2 + 2 * 5 + 7 * (5 + 2)
        code, out, _ = run(*arguments, "--overwrite")
        assert "% (NRMSE) added" in out
        assert "rnn2ff_int8.h, worst unit" in out
        assert "rnn2ff.onnx, worst stimuli" in out
        assert "69 of flash, 14 of RAM" in out

    def test_routes_may_follow_one_option_or_several(self, run, folder):
        assert run("export", *APPROXIMATOR, "--to", "c", "--to", "mat", "torch", "--to", "c", "--out", "deploy")[0] == 0
        assert {file.name for file in (folder / "deploy").iterdir()} == {
            "rnn2ff.h",
            "rnn2ff.mat",
            "rnn2ff_torch.safetensors",
        }

    def test_a_single_stimulus_sets_ranges_and_has_no_error_to_show(self, run):
        np.save("one.npy", STIMULI[:1])
        arguments = ("export", *APPROXIMATOR, "--to", "c-int8", "--stimuli", "one.npy", "--out", "deploy", "--json")
        code, out, _ = run(*arguments)
        assert code == 0
        assert json.loads(out)["routes"]["c-int8"]["added_error"] is None

    def test_existing_files_are_replaced_only_with_overwrite(self, run, folder):
        arguments = ("export", *APPROXIMATOR, "--to", "c", "--out", "deploy")
        assert run(*arguments)[0] == 0
        (folder / "deploy" / "rnn2ff.h").write_text("mine")
        before = files(folder)
        code, _, err = run(*arguments)
        assert (code, files(folder)) == (2, before)
        assert "`out` holds the files already. Expected another folder, or --overwrite, got deploy/rnn2ff.h." in err
        assert run(*arguments, "--overwrite")[0] == 0
        assert (folder / "deploy" / "rnn2ff.h").read_text() != "mine"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--to", "onnx-int8"), "`stimuli` are missing.*to set the ranges of onnx-int8, got none"),
            (("--to", "onnx", "--opset", "9"), "`opset` is out of range. Expected 13 to .*, got 9"),
            (("--to", "c", "--name", "2bad"), "`name` cannot be the prefix of C names"),
            (("--to", "c-int8", "--stimuli", "W3.npy"), r"`stimuli`.*\(samples, 2\).*got \(4, 3\)"),
            (
                ("--to", "c", "--approximator", "U.npy"),
                "`approximator` is not one. Expected a file approximator.safetensors.*got U.npy",
            ),
            (("--to", "c", "--approximator", "none"), "`approximator` cannot be read.*an existing file, got none"),
            (("--to", "c", "--out", "U.npy/deploy"), "`out` cannot be written"),
        ],
    )
    def test_bad_input_exits_with_2_and_writes_nothing(self, options, message, run, folder):
        np.save(folder / "W3.npy", np.ones((4, 3)))
        before = sorted(folder.rglob("*"))
        code, out, err = run("export", *APPROXIMATOR, "--out", "deploy", *options)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        with pytest.raises(ValueError, match=message):
            raise ValueError(err)
        assert sorted(folder.rglob("*")) == before

    def test_a_missing_extra_is_named_and_the_other_routes_are_not_half_done(self, run, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "nir", None)
        before = sorted(folder.rglob("*"))
        code, _, err = run("export", *APPROXIMATOR, "--to", "c", "nir", "--out", "deploy")
        assert code == 2
        assert "pip install 'rnn2ff[nir]'" in err
        assert sorted(folder.rglob("*")) == before

    def test_a_full_disk_exits_with_1_and_leaves_what_was_there(self, run, folder, monkeypatch):
        arguments = ("export", *APPROXIMATOR, "--to", "c", "stablehlo", "--out", "deploy", "--overwrite")
        run(*arguments)
        before = files(folder)
        monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
        code, _, err = run(*arguments)
        assert code == 1
        assert "the results could not be written" in err
        assert "No space left on device" in err
        assert files(folder) == before

    def test_a_folder_without_permission_is_refused_before_any_work(self, run, folder, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)
        monkeypatch.setattr("rnn2ff.cli.export.read_approximator", None)  # no work is done
        code, _, err = run("export", *APPROXIMATOR, "--to", "c", "--out", "deploy")
        assert code == 2
        assert "`out` cannot be written. Expected a writable folder, got ." in err


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("arguments", "broken"),
    [
        (("export", *APPROXIMATOR, "--to", "c", "stablehlo"), "rnn2ff.export.to_stablehlo"),
        (("demo", *APPROXIMATOR, *NETWORK), "rnn2ff.export.page.Template.substitute"),
    ],
)
def test_an_interruption_exits_with_130_and_leaves_no_half_files(arguments, broken, run, folder, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(broken, interrupt)
    before = files(folder)
    code, out, err = run(*arguments, "--out", "deploy")
    assert (code, out) == (130, "")
    assert err == "rnn2ff: interrupted before the results were complete\n"
    assert files(folder) == before


def test_bench_times_all_on_the_same_batch_and_shows_the_error_beside(run):
    code, out, _ = run("bench", *NETWORK, *APPROXIMATOR, "--batch-size", "60", "--num-rounds", "3", "--json")
    assert code == 0
    record = json.loads(out)
    assert set(record["microseconds_per_stimulus"]) == {"rollout", "solve", "pass"}
    for quartiles in record["microseconds_per_stimulus"].values():
        assert 0 < quartiles["lower"] <= quartiles["median"] <= quartiles["upper"]
    assert record["status_counts"]["converged"] == record["batch_size"] == 60
    assert record["accuracy"]["nrmse"] > 0
    assert record["accuracy"]["percentile_95"] > 0
    assert record["environment"]["x64"] is False


@pytest.mark.parametrize("verb", ["bench", "evaluate"])
def test_an_error_of_one_stimulus_is_refused_before_any_work(verb, run, folder, monkeypatch):
    np.save("one.npy", np.repeat(STIMULI[:1], 2, axis=0))
    monkeypatch.setattr("rnn2ff.steady_state.lanes._by_products", None)  # no work is done
    code, out, err = run(verb, *NETWORK, *APPROXIMATOR, "--stimuli", "one.npy")
    assert (code, out) == (2, "")
    assert "`stimuli` are all the same. Expected at least two that differ" in err
    assert "got one, in 2 rows." in err


class TestFixedPoints:
    @pytest.mark.usefixtures("as_a_user")
    def test_they_are_found_and_audited(self, run):
        np.save("wta.npy", np.full((2, 2), -1.5) + 1.5 * np.eye(2))  # either unit silences the other
        np.save("one.npy", np.ones((1, 2)))
        command = (
            "fixed-points",
            "--weights",
            "wta.npy",
            "--stimuli",
            "one.npy",
            "--form",
            "rate",
            "--out",
            "points.npz",
        )
        code, out, _ = run(*command, "--num-starts", "16")
        assert code == 0
        with np.load("points.npz") as received:
            order = np.lexsort(received["states"].T)
            np.testing.assert_allclose(received["states"][order], [[1, 0], [0.4, 0.4], [0, 1]], atol=1e-5)
            assert received["is_stable"][order].tolist() == [True, False, True]
        assert "complete" in out

    def test_a_row_that_is_not_there_is_refused(self, run):
        code, _, err = run("fixed-points", *NETWORK, "--row", "60", "--out", "points.npz")
        assert code == 2
        assert "`row` is out of range. Expected 0 to 59, got 60." in err


class TestNetworks:
    def test_all_are_listed_with_what_they_are(self, run):
        code, out, _ = run("networks", "--json")
        assert code == 0
        listed = json.loads(out)
        for name in ("ring_attractor", "wilson_cowan", "ctln", "hopfield"):
            assert len(listed[name]["summary"]) > 20
        assert not {"solve_steady_state", "from_torch", "rate_network", "discrete_map"} & set(listed)
        assert "(--write)" in next(line for line in run("networks")[1].splitlines() if "winner_take_all" in line)
        assert listed["winner_take_all"]["writable"]
        assert "winner_take_all" in run("networks")[1]

    def test_all_that_are_said_to_be_writable_are_written(self, run):
        listed = json.loads(run("networks", "--json")[1])
        for name in [name for name in listed if listed[name]["writable"]]:
            assert run("networks", "--write", name, "--out", f"zoo/{name}")[0] == 0
            assert np.load(f"zoo/{name}/U.npy").shape[0] == 5000

    def test_a_written_one_can_be_solved_by_the_options_that_are_printed(self, run):
        code, out, _ = run("networks", "--write", "winner_take_all", "--out", "zoo", "--json")
        assert code == 0
        options = json.loads(out)["command"].split()[2:-2]
        np.save("zoo/U.npy", np.load("zoo/U.npy")[:3])
        assert run("solve", *options, "--out", "states.npz")[0] == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--write", "wilson_cowan", "--out", "zoo"), "is not a network that can be written. Expected one of"),
            (("--write", "winner_take_all"), "`out` is missing"),
            (("--write", "winner_take_all", "--out", "U.npy/zoo"), "`out` cannot be written"),
        ],
    )
    def test_what_cannot_be_written_is_refused(self, options, message, run, folder):
        before = files(folder)
        code, _, err = run("networks", *options)
        assert (code, files(folder)) == (2, before)
        assert message in err


class TestDemo:
    def test_the_page_shows_the_network_and_its_error(self, run, folder):
        code, out, _ = run("demo", *APPROXIMATOR, *NETWORK, "--out", "page")
        assert code == 0
        text = (folder / "page" / "index.html").read_text()
        assert "5.00 % (NRMSE)" in out
        assert "Your network" in text
        assert '"tails": ["worst unit: 1, 7.00 %", "worst stimuli: one in 20' in text
        assert "1, 7.00 %" in out
        assert run("demo", *APPROXIMATOR, *NETWORK, "--out", "page")[0] == 2
        assert (folder / "page" / "index.html").read_text() == text

    def test_without_a_network_it_makes_two_of_its_own(self, run, folder, monkeypatch):
        made = []

        def made_up(network, sample, *, width, num_sweeps, num_samples, num_steps, progress, key):
            del width, num_sweeps, num_samples, progress
            made.append(num_steps)
            approximator = untrained(network.stimulus_size, network.rate_size)
            stimuli = sample_stimuli(sample, 10, key=key)
            report = types.SimpleNamespace(summary=lambda: {"accuracy": {"nrmse": 0.25}})
            return types.SimpleNamespace(
                approximator=approximator, report=report, test=types.SimpleNamespace(stimuli=stimuli)
            )

        monkeypatch.setattr("rnn2ff.training.distill", made_up)
        code, out, _ = run("demo", "--out", "page", "--json")
        assert code == 0
        assert made == [5000, 5000]
        assert json.loads(out)["nrmse"] == {"Competition": 0.25, "Ring": 0.25}

    def test_half_of_a_network_is_refused(self, run):
        code, _, err = run("demo", *APPROXIMATOR, "--out", "page")
        assert code == 2
        assert "all of --approximator, --weights, --stimuli, got no weights" in err


def test_the_shell_completes(run):
    code, out, _ = run("--tyro-print-completion", "bash")
    assert code in (0, None)
    for verb in ("networks", "fixed-points", "export"):
        assert verb in out
