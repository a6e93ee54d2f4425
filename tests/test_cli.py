import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.io

import rnn2ff
from rnn2ff import TwoLayer, load
from rnn2ff.approximators import predict

pytestmark = pytest.mark.usefixtures("no_network")  # no command needs one

WEIGHTS = np.array([[0.2, -0.5], [-0.3, 0.1]])
STIMULI = np.random.default_rng(0).uniform(0.5, 1.5, size=(40, 2))
STIMULI[0] = [1.0, -1.0]  # the second unit is silent
DOUBLING = np.array([[2.0, 0.0], [0.0, 2.0]])
FILES = ("approximator.safetensors", "report.json", "report.html", "report.png")
SHORT = ("--num-steps", "40", "--width", "5")


def closed_form(stimulus):
    """Of the four active sets, the one that agrees with its own solution of x = W D x + u."""
    for active in itertools.product([False, True], repeat=2):
        state = np.linalg.solve(np.eye(2) - WEIGHTS @ np.diag(active), stimulus)
        if list(state > 0) == list(active):
            return state, np.maximum(state, 0)
    raise AssertionError("no fixed point")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder with a network and stimuli in it; JAX's precision is put back."""
    monkeypatch.chdir(tmp_path)
    np.save("W.npy", WEIGHTS)
    np.save("U.npy", STIMULI)
    x64 = jax.config.jax_enable_x64
    yield tmp_path
    jax.config.update("jax_enable_x64", x64)


@pytest.fixture
def no_figures(monkeypatch):
    """To draw the two figures of a run takes longer than to train it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def command(verb, *more, weights="W.npy", stimuli="U.npy", out=None):
    out = {"solve": "states.npz", "distill": "run"}[verb] if out is None else out
    short = SHORT if verb == "distill" else ()
    return verb, "--weights", weights, "--stimuli", stimuli, "--out", out, *short, *more


def listing(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], ["distill", "--help"], ["export", "--help"], ["no-such-verb"]])
    def test_help_and_misspellings_do_not_wait_for_jax(self, arguments):
        code = (
            "import sys\nfrom rnn2ff.cli import main\n"
            "try:\n    main()\nfinally:\n    print('loaded:', {'jax', 'numpy', 'scipy'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.stdout.endswith("loaded: set()\n")
        assert done.returncode == (0 if "--help" in arguments else 2)

    @pytest.mark.parametrize("verb", ["distill", "solve"])
    def test_help_names_the_equation_the_formats_and_every_required_option(self, verb, run):
        code, out, _ = run(verb, "--help")
        assert code == 0
        for word in (
            "tau x' = -x + W [x]_+ + B u + b",
            ".npy, .npz, .csv, .txt or .mat",
            "FILE:NAME",
            "Example: rnn2ff",
        ):
            assert word in " ".join(out.replace("│", " ").split())
        for option in ("--weights FILE", "--stimuli FILE", "--out PATH", "--overwrite", "--no-progress"):
            assert option in out


class TestSolve:
    @pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("float64", 1e-8)])
    @pytest.mark.parametrize("form", ["state", "rate"])
    def test_the_states_are_the_closed_form(self, form, precision, tolerance, run):
        code, out, err = run(*command("solve", "--precision", precision, "--form", form))
        assert (code, err) == (0, "")
        assert "converged                 40" in out
        assert "states.npz" in out
        states, rates = (np.stack(each) for each in zip(*map(closed_form, STIMULI)))
        with np.load("states.npz") as received:
            assert set(received.files) == {"states", "rates", "statuses", "status_names", "residuals", "num_steps"}
            assert received["states"].dtype == received["residuals"].dtype == precision
            expected = states if form == "state" else rates
            np.testing.assert_allclose(received["states"], expected, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(received["rates"], rates, rtol=tolerance, atol=tolerance)
            assert (received["status_names"][received["statuses"]] == "converged").all()
            assert received["residuals"].max() < tolerance
            assert received["num_steps"].min() > 0

    def test_stimulus_weights_bias_and_time_constants_come_from_files_of_any_format(self, run):
        scipy.io.savemat("network.mat", {"W": WEIGHTS, "b": [[0.1], [0.2]], "tau": [[1.0, 5.0]]})
        np.savetxt("B.csv", [[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]], delimiter=",")
        np.savez("U.npz", U=np.ones((1, 3)))
        files = ("--stimulus-weights", "B.csv", "--bias", "network.mat:b", "--time-constants", "network.mat:tau")
        code, _, err = run(*command("solve", *files, weights="network.mat:W", stimuli="U.npz", out="states.mat"))
        assert (code, err) == (0, "")
        expected = np.linalg.solve(np.eye(2) - WEIGHTS, [3.1, 2.2])
        np.testing.assert_allclose(scipy.io.loadmat("states.mat")["rates"], [expected], rtol=1e-4)

    @pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "power-law"])
    def test_other_nonlinearities_are_those_that_they_are_called(self, name):
        functions = {
            "tanh": np.tanh,
            "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
            "softplus": lambda x: np.log1p(np.exp(x)),
            "power-law": lambda x: 0.3 * np.maximum(x, 0) ** 2,
        }
        from rnn2ff.cli.options import NetworkFiles, read_network

        files = NetworkFiles(
            "W.npy", "U.npy", form="rate", nonlinearity=name, power_law=(0.3, 2.0), precision="float64"
        )
        network, stimuli = read_network(files)
        for rates, stimulus in zip(np.random.default_rng(1).normal(size=(3, 2)), stimuli):
            expected = functions[name](WEIGHTS @ rates + stimulus) - rates
            received = network.velocity(jax.numpy.asarray(rates), jax.numpy.asarray(stimulus))
            np.testing.assert_allclose(received, expected, rtol=1e-7, atol=1e-8)

    def test_without_any_steady_state_the_verdicts_are_written_and_the_exit_code_is_1(self, run):
        np.save("W.npy", DOUBLING)
        code, out, _ = run(*command("solve"))
        assert code == 1
        assert "diverging" in out
        with np.load("states.npz") as received:
            assert set(received["status_names"][received["statuses"]]) == {"diverging"}

    def test_an_existing_file_is_replaced_only_with_overwrite(self, folder, run):
        run(*command("solve"))
        np.save("U.npy", STIMULI[:3])
        before = listing(folder)
        code, _, err = run(*command("solve"))
        assert (code, listing(folder)) == (2, before)
        assert err == "rnn2ff: error: `out` exists already. Expected a new file, or --overwrite, got states.npz.\n"
        assert run(*command("solve", "--overwrite"))[0] == 0
        assert len(np.load("states.npz")["states"]) == 3


class TestDistill:
    def test_it_writes_an_approximator_a_report_and_a_figure_and_says_how_good_it_is(self, folder, run):
        code, out, err = run(*command("distill", "--license", "CC0-1.0"))
        assert (code, err) == (0, "")
        assert sorted(path.name for path in (folder / "run").iterdir()) == sorted(FILES)
        report = json.loads((folder / "run" / "report.json").read_text())
        approximator, card = load(folder / "run" / "approximator.safetensors")
        assert card == report
        assert (card["stimuli"]["num_rows"], card["network"]["state_size"], card["license"]) == (40, 2, "CC0-1.0")
        assert report["command"]["seed"] == 0
        assert report["command"]["network"]["weights"] == "W.npy"
        assert report["environment"]["x64"] is False
        assert report["report"]["num_training_pairs"] == 32
        assert report["report"]["accuracy"]["num_samples"] == 8
        assert [sum(counts.values()) for counts in report["report"]["status_counts"].values()] == [32, 8]
        assert f"{100 * report['report']['accuracy']['nrmse']:.2f} % (NRMSE; " in out
        assert isinstance(approximator, TwoLayer)
        assert (approximator.stimulus_size, approximator.width, approximator.rate_size) == (2, 5, 2)
        assert predict(approximator, np.ones((3, 2), np.float32)).shape == (3, 2)
        assert (folder / "run" / "report.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.usefixtures("no_figures")
    def test_the_seed_decides_the_weights(self, run):
        for name, seed in [("first", 3), ("again", 3), ("other", 4)]:
            assert run(*command("distill", "--seed", seed, "--jitter", "0.1", "--num-samples", "50", out=name))[0] == 0
        first, again, other = (
            jax.tree.leaves(load(f"{name}/approximator.safetensors")[0]) for name in ("first", "again", "other")
        )
        for i in range(len(first)):
            np.testing.assert_array_equal(first[i], again[i])
        assert (np.asarray(first[0]) != np.asarray(other[0])).any()

    def test_a_finished_run_is_replaced_only_with_overwrite(self, folder, run):
        run(*command("distill"))
        before = listing(folder)
        code, _, err = run(*command("distill", "--seed", "1"))
        assert (code, listing(folder)) == (2, before)
        assert "`out` holds a finished run. Expected an empty or new folder, or --overwrite, got run." in err
        assert run(*command("distill", "--seed", "1", "--overwrite"))[0] == 0
        after = listing(folder)
        assert after.keys() == before.keys()
        assert all(after[folder / "run" / name] != before[folder / "run" / name] for name in FILES)

    @pytest.mark.usefixtures("no_figures")
    def test_an_overwrite_that_breaks_off_leaves_no_report_of_the_run_before(self, folder, run, monkeypatch):
        run(*command("distill"))
        monkeypatch.setattr("rnn2ff.cli.distill.draw", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        code, _, err = run(*command("distill", "--overwrite"))
        assert code == 1
        assert err == "rnn2ff: error: the results could not be written: no space left\n"
        load(folder / "run" / "approximator.safetensors")
        assert not (folder / "run" / "report.json").exists()

    @pytest.mark.usefixtures("no_figures")
    def test_an_interrupted_run_resumes_with_the_same_result(self, folder, run, monkeypatch):
        run(*command("distill"))
        whole = (folder / "run" / "approximator.safetensors").read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr("rnn2ff.cli.distill.draw", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
            run(*command("distill", out="other"))
        assert (folder / "other" / "unfinished").is_dir()
        code, _, err = run(*command("distill", "--seed", "1", out="other"))
        assert code == 2
        assert "`out` holds an unfinished run with other options. Expected the same options, or --overwrite" in err
        assert run(*command("distill", "--no-progress", "--no-cache", out="other"))[0] == 0
        assert not (folder / "other" / "unfinished").exists()
        arrays = [load(folder / name / "approximator.safetensors")[0] for name in ("run", "other")]
        for one, other in zip(*map(jax.tree.leaves, arrays)):
            assert np.array_equal(one, other)
        assert whole == (folder / "run" / "approximator.safetensors").read_bytes()

    @pytest.mark.usefixtures("no_figures")
    def test_a_tolerance_that_is_not_reached_says_why_and_exits_with_1(self, folder, run):
        code, out, _ = run(*command("distill", "--kind", "two-layers", "--tolerance", "0.0001"))
        assert code == 1
        assert "tolerance" in out
        assert "not reached: " in out

    @pytest.mark.usefixtures("no_figures")
    def test_without_matplotlib_there_is_no_figure_and_it_says_so(self, folder, run):
        code, out, err = run(*command("distill"))
        assert code == 0
        assert "report.png" not in out
        assert "pip install 'rnn2ff[plot]'" in err
        assert sorted(path.name for path in (folder / "run").iterdir()) == sorted(FILES[:3])

    def test_without_any_steady_state_nothing_is_written(self, folder, run):
        np.save("W.npy", DOUBLING)
        before = listing(folder)
        code, _, err = run(*command("distill"))
        assert code == 1
        assert "to a steady state" in err
        assert listing(folder) == before


with_nan = STIMULI.copy()
with_nan[[3, 17], 1] = np.nan
BAD_INPUT = {
    "weights that are not square": (dict(W=np.ones((2, 3))), (), r"`weights`.*\(units, units\), got shape \(2, 3\)"),
    "weights that are not finite": (dict(W=np.full((2, 2), np.inf)), (), "`weights`.*finite.*rows 0, 1"),
    "stimuli of another width": (dict(U=np.ones((4, 3))), (), r"`stimuli`.*\(samples, 2\).*got \(4, 3\)"),
    "stimuli with their channels in rows": (
        dict(U=np.ones((2, 9))),
        (),
        r"one row per stimulus; transpose it\?, got \(2, 9",
    ),
    "a single stimulus, not a row": (dict(U=np.ones(2)), (), r"`stimuli`.*one row per stimulus, got \(2,\)"),
    "stimuli with NaN": (dict(U=with_nan), (), "`stimuli`.*NaN.*finite numbers.*rows 3, 17"),
    "no stimuli": (dict(U=np.ones((0, 2))), (), "`stimuli` is empty.*at least one row, got none"),
    "stimuli too large for float32": (dict(U=np.full((4, 2), 1e300)), (), "`stimuli`.*rows 0, 1, 2, 3"),
    "a time constant of zero": (
        dict(tau=[1.0, 0.0]),
        ("--time-constants", "tau.npy"),
        "time_constants.*above 0, got 0",
    ),
    "a negative time constant": (
        dict(tau=[-2.0, 1]),
        ("--time-constants", "tau.npy"),
        "time_constants.*above 0, got -2",
    ),
    "a bias of another size": (dict(b=np.ones(3)), ("--bias", "b.npy"), r"`bias`.*\(2,\), got \(3,\)"),
    "no steps": ({}, ("--max-steps", "0"), "`max-steps`.*at least 1, got 0"),
    "a missing file": ({}, ("--bias", "no.npy"), "`bias`.*an existing file, got no.npy"),
    "a file of another format": ({}, ("--bias", "W.doc"), r"`bias`.*\.npy, .*\.txt or \.mat file, got W.doc"),
    "several arrays and none named": ({}, ("--bias", "two.npz"), "`bias`.*two.npz:NAME with one of: a, b, got two.npz"),
}
BAD_OPTIONS = [
    ("distill", ("--width", "0"), "`width`.*integer of at least 1, got 0"),
    ("distill", ("--num-steps", "0"), "`num-steps`.*at least 1, got 0"),
    ("distill", ("--held-out", "1"), "`held-out`.*above 0 and below 1, got 1.0"),
    ("distill", ("--held-out", "0.01"), "`stimuli` are too few.*2 held out, got 40 rows parted into 39 and 1"),
    ("distill", ("--jitter", "-1"), "`jitter`.*at least 0, got -1.0"),
    ("distill", ("--out", "W.npy/run"), "`out` cannot be written.*got W.npy"),
    ("solve", ("--tolerance", "1e-9"), "`tolerance` is below what float32 can reach.*at least 1.9e-06, got 1e-09"),
    ("solve", ("--tolerance", "nan"), "`tolerance`.*got nan"),
    ("solve", ("--out", "states.xls"), "`out`.*ends in .npz, .mat or .csv, got states.xls"),
    ("solve", ("--out", "no/states.npz"), "`out` cannot be written.*existing, writable folder.*got no"),
    ("solve", ("--out", "folder.npz", "--overwrite"), "`out` is a folder.*got folder.npz"),
]
CASES = [(verb, *case) for verb in ("distill", "solve") for case in BAD_INPUT.values()]


@pytest.mark.parametrize(
    ("verb", "arrays", "options", "message"), CASES + [(verb, {}, *rest) for verb, *rest in BAD_OPTIONS]
)
def test_bad_input_exits_with_2_one_line_of_what_expected_got_and_no_file(
    verb, arrays, options, message, folder, run, monkeypatch
):
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    (folder / "W.doc").write_text("1,2")
    np.savez("two.npz", a=np.ones(2), b=np.ones(2))
    (folder / "folder.npz").mkdir()
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr("rnn2ff.steady_state.lanes._by_products", None)  # no work is done
    code, out, err = run(*command(verb, *options))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("rnn2ff: error: `")
    with pytest.raises(ValueError, match=f"{message}.*\\.$"):
        raise ValueError(err.strip())
    assert sorted(folder.rglob("*")) == before


class TestCommand:
    def test_the_version_is_shown_without_a_command(self, run):
        from rnn2ff import __version__

        assert run("--version") == (0, f"rnn2ff {__version__}\n", "")

    def test_a_reader_that_has_seen_enough_is_no_error(self):
        read, write = os.pipe()
        os.close(read)  # as `head` does when it has its lines
        code = "from rnn2ff.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "networks", "--json"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (0, "")

    def test_an_interruption_while_commands_are_loaded_is_reported_in_a_line(self, run, monkeypatch):
        class Interrupting:
            def find_spec(self, name, *_):
                if name == "rnn2ff.cli.commands":
                    raise KeyboardInterrupt

        monkeypatch.delitem(sys.modules, "rnn2ff.cli.commands", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
        assert run("networks") == (130, "", "rnn2ff: interrupted before the results were complete\n")


class TestKeptPrograms:
    @pytest.fixture(autouse=True)
    def _put_back(self, monkeypatch, folder):
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        names = (
            "jax_compilation_cache_dir",
            "jax_enable_compilation_cache",
            "jax_persistent_cache_min_compile_time_secs",
        )
        before = {name: getattr(jax.config, name) for name in names}
        jax.config.update("jax_enable_compilation_cache", True)
        yield
        for name, value in before.items():
            jax.config.update(name, value)

    def test_they_are_in_the_users_cache_folder_in_one_for_each_kind_of_processor(self, folder):
        from rnn2ff.compiling import keep_programs

        keep_programs()
        kept = jax.config.jax_compilation_cache_dir
        assert kept.startswith(str(folder / "cache" / "rnn2ff"))
        assert os.path.isdir(kept)

    def test_not_where_the_user_says_no_or_chose_another_folder(self, folder, monkeypatch):
        from rnn2ff.compiling import keep_programs

        jax.config.update("jax_compilation_cache_dir", "elsewhere")
        keep_programs()
        assert jax.config.jax_compilation_cache_dir == "elsewhere"
        assert not (folder / "cache").exists()
        monkeypatch.setattr("rnn2ff.compiling.keep_programs", None)
        from rnn2ff.cli.options import NetworkFiles, read_network

        read_network(NetworkFiles(weights="W.npy", stimuli="U.npy", cache=False))

    def test_a_home_that_cannot_be_written_to_is_no_error(self, folder, monkeypatch):
        from rnn2ff.compiling import keep_programs

        monkeypatch.setenv("XDG_CACHE_HOME", "W.npy")  # a file
        keep_programs()
        assert jax.config.jax_compilation_cache_dir is None

    def test_those_not_used_for_longest_make_room(self, folder, monkeypatch):
        from rnn2ff import compiling

        monkeypatch.setattr(compiling, "_LARGEST_CACHE", 25)
        (folder / "kept").mkdir()
        for age, name in enumerate(["newest", "middle", "oldest"]):
            path = folder / "kept" / name
            path.write_bytes(b"0123456789")
            os.utime(path, (1e9 - age, 1e9))
        compiling._prune(folder / "kept")
        assert sorted(path.name for path in (folder / "kept").iterdir()) == ["middle", "newest"]


def test_stages_are_shown_on_a_terminal_only(capsys):
    from rnn2ff.cli.options import stages

    for shows in (True, False):
        with stages(2, shows=shows) as begin:
            begin("first")
            begin("second")
        err = capsys.readouterr().err
        assert ("second (2 of 2)" in err) == shows


class TestNetworkOptions:
    """What the options make of a network; that it is solved is tested with the commands."""

    def read(self, **options):
        from rnn2ff.cli.options import NetworkFiles, read_network

        files = {"weights": "W.npy", "stimuli": "U.npy", "precision": "float64", "cache": False}
        return read_network(NetworkFiles(**files | options))[0]

    def test_gains_thresholds_and_time_constants_are_of_single_units(self):
        np.save("g.npy", [2.0, 0.5])
        np.savetxt("theta.txt", [0.1, -0.2])
        np.save("tau.npy", [1.0, 3.0])
        network = self.read(
            nonlinearity="saturating",
            saturation=(3.0, 1.5),
            gains="g.npy",
            thresholds="theta.txt",
            time_constants="tau.npy",
            form="rate",
        )
        assert network.vector_field == rnn2ff.RateForm(rnn2ff.Saturating(3.0, 1.5))
        rates, stimulus = np.array([0.3, 0.7]), STIMULI[1]
        inputs = np.maximum([2, 0.5] * (WEIGHTS @ rates + stimulus - [0.1, -0.2]), 0) ** 1.5
        velocity = (-rates + 3 * inputs / (1 + inputs)) / [1, 3]
        found = network.velocity(*map(jax.numpy.asarray, (rates, stimulus)))
        np.testing.assert_allclose(found, velocity, rtol=1e-9)

    def test_a_network_of_one_unit_may_have_a_bias(self):
        for name, array in {"W": [[0.5]], "U": [[1.0]], "b": [0.5]}.items():
            np.save(f"{name}.npy", array)
        velocity = self.read(bias="b.npy").velocity(*map(jax.numpy.asarray, ([3.0], [1.0])))
        np.testing.assert_allclose(velocity, [0.0], atol=1e-12)  # it rests at (1 + .5) / (1 - .5)

    def test_weights_are_a_graph_or_factors_times_a_scale_with_signs(self, folder):
        (folder / "edges.csv").write_text("pre,post,count\n1,2,4\n2,1,6\n")
        np.save("signs.npy", [1, -1])
        np.save("m.npy", [1.0, 2.0])
        np.save("n.npy", [3.0, -4.0])
        network = self.read(weights="edges.csv:pre,post,count", scale=0.5, signs="signs.npy")
        np.testing.assert_allclose(network.params.recurrent_weights, [[0, -3], [2, 0]])
        network = self.read(weights="m.npy", low_rank="n.npy")
        np.testing.assert_allclose(network.params.recurrent_weights, np.outer([1, 2], [3, -4]) / 2)

    def test_what_does_not_go_together_is_refused(self, run):
        np.save("signs.npy", [1, 0])
        np.save("g.npy", [1.0, 0.0])
        for options, message in [
            (("--signs", "signs.npy"), "`signs` have other values"),
            (("--gains", "g.npy"), "`gains` is not positive"),
            (("--low-rank", "g.npy"), "`low-rank` has the wrong shape. Expected (2, 2), got (2,)"),
            (("--scale", "nan"), "`scale` holds NaN"),
        ]:
            code, _, err = run(*command("solve", *options))
            assert (code, message in err) == (2, True), err


class TestDoctor:
    def test_it_solves_a_network_of_known_answer_and_says_what_to_install(self, run, monkeypatch):
        monkeypatch.setattr("rnn2ff.cli.doctor._has", lambda library: library not in ("onnx", "sklearn"))
        code, out, err = run("doctor")
        assert (code, err) == (0, "")
        lines = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())
        assert (lines["rnn2ff"], lines["jax"]) == (rnn2ff.__version__, jax.__version__)
        assert lines["extra plot"] == "installed"
        assert lines["extra onnx"] == "onnx missing: pip install 'rnn2ff[onnx]'"
        assert lines["self test"].startswith("passed")
        monkeypatch.setattr("rnn2ff.cli.doctor._CLOSE", 0.0)
        code, out, _ = run("doctor", "--json")
        assert code == 1
        assert json.loads(out)["self_test"]["flaw"].startswith("failed: a network of two units is converged, and")
        assert json.loads(out)["missing"]["experiments"] == ["sklearn"]
        monkeypatch.setattr("rnn2ff.cli.doctor._has", lambda library: library != "diffrax")
        code, out, err = run("doctor")
        assert (code, out) == (1, "")
        assert err == "rnn2ff: error: diffrax cannot be found. Install again: pip install --upgrade rnn2ff\n"

    def test_every_extra_for_users_is_looked_for(self):
        from rnn2ff.cli.doctor import EXTRAS

        declared = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
        extras = set(declared["project"]["optional-dependencies"])
        assert set(EXTRAS) == extras - {"test", "dev", "docs", "peers", "cuda12", "cuda13", "tpu"}
