"""What users break: files that were changed, calls with anything, interruptions, odd networks. Small versions of
`python -m benchmarks.robustness`, and each fault that it found."""

import ast
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import jax
import jax.random as jr
import numpy as np
import pytest
import scipy.io
import scipy.sparse

import rnn2ff
from benchmarks.parts import broken_files, odd_calls
from benchmarks.parts.trials import IN_ONE_SENTENCE
from benchmarks.parts.valid_files import KINDS, Kind
from rnn2ff import threshold_linear
from rnn2ff.files import alone_in, make_folder, read_array, write_arrays

QUICK_KINDS = [kind for kind in KINDS if kind.endswith((".npy", "z", ".mat", ".csv", ".safetensors", ".h"))]
QUICK_KINDS = [kind for kind in QUICK_KINDS if not kind.startswith("pairs")]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_refused_in_one_sentence_or_read_as_what_it_says():
    rows = broken_files.attack(300, seed=1, kinds=QUICK_KINDS)
    assert [fault for row in rows for fault in row["faults"]] == []
    assert sum(sum(row["counts"].values()) for row in rows) == 300
    assert all(row["counts"]["refused"] > 0 for row in rows)


def test_the_attack_sees_what_it_looks_for(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def outcome(read, *, is_sealed=False):
        return broken_files.attempt(Kind(path, read, is_sealed), expected=1.0).what

    def raising(error):
        raise error

    broken_files.tracemalloc.start()
    assert outcome(lambda: raising(ValueError("no sentence"))) == "no sentence"
    assert outcome(lambda: raising(KeyError("W"))) == "another error"
    assert outcome(lambda: 2.0, is_sealed=True) == "wrong content"
    assert outcome(lambda: 2.0) == outcome(lambda: 1.0, is_sealed=True) == "read"
    assert outcome(lambda: np.ones(10**6)) == "too much memory"
    assert outcome(lambda: sys.audit("pickle.find_class", "os", "system")) == "code or network"
    broken_files.tracemalloc.stop()


@pytest.mark.parametrize("name", ["weights.npy", "weights.npz"])
def test_a_header_that_promises_more_than_the_file_holds_is_refused_before_memory_is_taken(name, tmp_path):
    path = tmp_path / "weights.npy"
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 8)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))
    if name.endswith(".npz"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.write(path, "weights.npy")
    with pytest.raises(ValueError, match=r"promises an array of shape \(1000000000000, 8\), and holds 64 bytes"):
        read_array(tmp_path / name, "weights")


def test_a_matlab_file_with_an_unknown_class_is_refused_where_scipy_ends_the_process(tmp_path):
    path = tmp_path / "weights.mat"
    scipy.io.savemat(path, {"W": np.eye(2)})
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<IIII", 6, 8, 6, 0))  # the flags: so many bytes, of class 6, numbers
    content[place + 8] = 200
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not hold numbers"):
        read_array(path, "weights")


@pytest.mark.parametrize("form", ["4", "5"])
def test_matlab_files_with_any_type_of_number_are_read(form, tmp_path):
    for kind in ("f8", "f4", "i2", "u1", "i4"):
        array = np.arange(6, dtype=kind).reshape(2, 3)
        scipy.io.savemat(tmp_path / "W.mat", {"W": array, "text": "abc"}, format=form)
        np.testing.assert_array_equal(read_array(f"{tmp_path / 'W.mat'}:W", "weights"), array)


def test_matlab_files_of_the_other_byte_order_are_read(tmp_path):
    numbers = struct.pack(">4d", 1, 2, 3, 4)
    (tmp_path / "v4.mat").write_bytes(struct.pack(">5i", 1000, 2, 2, 0, 2) + b"W\0" + numbers)
    parts = struct.pack(">II2i", 6, 8, 6, 0) + struct.pack(">II2i", 5, 8, 2, 2) + struct.pack(">HH4s", 1, 1, b"W")
    parts += struct.pack(">II", 9, 32) + numbers
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "v5.mat").write_bytes(head + struct.pack(">II", 14, len(parts)) + parts)
    for name in ("v4.mat", "v5.mat"):
        np.testing.assert_array_equal(read_array(tmp_path / name, "weights"), [[1, 3], [2, 4]])


def test_two_writers_of_one_folder_are_told_so(tmp_path):
    refused = pytest.raises(ValueError, match="`folder` is being written to by another process.*Expected")
    with alone_in(tmp_path), refused, alone_in(tmp_path):
        pass
    with alone_in(tmp_path):  # a writer that ended lets it go
        pass


# --- calls ------------------------------------------------------------------------------------------------------------

QUICK_CALLS = (
    "threshold_linear", "rate_network", "ctln", "hopfield", "from_connectome", "from_torch", "ring_attractor",
    "wong_wang", "ring_stimulus", "residual", "accuracy", "competition", "uniform_stimuli", "gaussian_stimuli",
    "smooth_stimuli", "sample_from", "damped_sweep", "split_sweep", "best_sweep", "save", "model_card", "to_c",
    "count_statuses",
)  # fmt: skip


@pytest.fixture
def usual_promotion():
    """As users have JAX."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.usefixtures("as_a_user", "usual_promotion")
def test_a_call_with_odd_arguments_is_answered_rightly_or_refused_in_one_sentence():
    rows = odd_calls.attack(12 * len(QUICK_CALLS), seed=3, names=QUICK_CALLS)
    assert [fault for row in rows for fault in row["faults"]] == []


RAGGED = [[1.0, 2.0], [3.0]]
SPARSE = scipy.sparse.csr_array(np.eye(2))
NETWORK = threshold_linear(np.eye(2) / 2)
LAYERS = rnn2ff.TwoLayer(2, 3, 2, key=jr.key(0))


@pytest.mark.usefixtures("as_a_user", "usual_promotion")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: threshold_linear(RAGGED), "`recurrent_weights` is not an array. Expected rows of the same length"),
        (lambda: threshold_linear(SPARSE), "`recurrent_weights` is a sparse matrix of SciPy.*from_connectome"),
        (lambda: threshold_linear(np.full((2, 2), 1e300, np.longdouble) * 1e300), "NaN or infinite values"),
        (lambda: rnn2ff.ctln(np.zeros((2, 2)), epsilon="3"), "`epsilon` does not hold numbers"),
        (lambda: rnn2ff.ctln(np.zeros((2, 2)), delta=[1]), r"`delta` has the wrong shape. Expected \(\), got \(1,\)"),
        (lambda: rnn2ff.ring_attractor(8, tuned=np.ones(2)), "`tuned` has the wrong shape"),
        (lambda: rnn2ff.uniform_stimuli(2, low=None), "`low` does not hold numbers"),
        (lambda: rnn2ff.sample_from(np.ones((2, 2)), jitter=None), "`jitter` does not hold numbers"),
        (lambda: rnn2ff.sample_from(np.zeros((2, 0))), "`stimuli` is empty. Expected at least one channel"),
        (lambda: rnn2ff.from_torch([1]), "`weights` are not the weights of a module"),
        (lambda: rnn2ff.split_sweep(NETWORK, np.ones(3)), "`mean_slopes` has the wrong shape"),
        (lambda: rnn2ff.best_sweep(NETWORK, np.ones((1, 2)), np.ones((3, 2))), "`stimuli` has the wrong shape"),
        (lambda: rnn2ff.residual(NETWORK, np.ones(3), np.ones(2)), "`state` has the wrong shape"),
        (lambda: rnn2ff.residual(NETWORK, "ab", np.ones(2)), "`state` has the wrong shape"),
        (lambda: rnn2ff.accuracy(SPARSE, SPARSE), "`target` is sparse. Expected a dense array"),
        (lambda: rnn2ff.model_card(NETWORK, SPARSE), "`stimuli` is sparse"),
        (lambda: rnn2ff.count_statuses([0.5]), "`status` holds no statuses"),
        (lambda: rnn2ff.count_statuses([17]), "`status` holds no statuses"),
        (lambda: rnn2ff.to_c(LAYERS, name=3), "`name` is not a string"),
        (lambda: rnn2ff.to_c(LAYERS, notes=3), "`notes` are not lines of text"),
        (lambda: rnn2ff.save("x.safetensors", LAYERS, card=3), "`card` is not a card"),
        (lambda: rnn2ff.solve_steady_states(NETWORK, np.ones((1, 2)), tolerance=2.0), "`tolerance` takes any state"),
        (lambda: rnn2ff.solve_steady_states(NETWORK, np.ones((1, 2)), tolerance="1"), "`tolerance` does not hold numb"),
        (lambda: rnn2ff.find_fixed_points(NETWORK, np.ones(2), box="ab", key=jr.key(0)), "`box` has the wrong shape"),
        (lambda: rnn2ff.find_fixed_points(NETWORK, np.ones(2), key=jr.split(jr.key(0))), "`key` is not a PRNG key"),
        (lambda: rnn2ff.solve_steady_states(NETWORK, np.ones((1, 2)), solver="Rollout"), "`solver` does not search"),
        (lambda: rnn2ff.solve_steady_states(NETWORK, np.ones((1, 2)), solver=rnn2ff.Rollout), "`solver` does not sea"),
        (lambda: rnn2ff.solve_batch(NETWORK, np.ones((1, 2)), rnn2ff.Rollout()), "`plan` is not a plan"),
        (lambda: rnn2ff.Rollout(max_time=-1.0), "`max_time` is not positive"),
        (
            lambda: rnn2ff.predict_or_solve(NETWORK, LAYERS, np.ones((2, 2)), tolerance=np.ones(2)),
            r"`tolerance` has the wrong shape. Expected \(\), got \(2,\)",
        ),
        (
            lambda: rnn2ff.RecurrentNetwork(
                lambda params, x, u: x - u,
                {"time_constants": jax.numpy.array([-1.0, 1.0])},
                state_size=2,
                stimulus_size=2,
            ),
            "`time_constants` is not positive",
        ),
    ],
)
def test_odd_arguments_are_refused_in_one_sentence(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=IN_ONE_SENTENCE) as caught:
        call()
    caught.match(message)


@pytest.mark.usefixtures("as_a_user", "usual_promotion")
@pytest.mark.parametrize("kind", [np.longdouble, ">f4", "f2", "i1"])
def test_numbers_of_any_type_make_the_same_network_and_residual(kind):
    weights = np.array([[0, 1], [-1, 0]])
    network = threshold_linear(weights.astype(kind), bias=np.ones(2, kind))
    received = rnn2ff.residual(network, np.array([3, 1], kind), np.array([1, 2], kind))
    assert float(received) == 1 / 4  # -3 + 1 + 1 + 1 and -1 - 3 + 2 + 1, over 1 + 3


def test_errors_are_relative_at_any_scale():
    target, predicted = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 2.5], [3.0, 4.0]])
    expected = rnn2ff.accuracy(predicted, target)
    for scale in (2.0**-1000, 2.0**1000):
        received = rnn2ff.accuracy(scale * predicted, scale * target)
        assert received.nrmse == expected.nrmse
        np.testing.assert_array_equal(received.unit_nrmse, expected.unit_nrmse)


# --- what never happens -----------------------------------------------------------------------------------------------

SOURCES = sorted(Path(rnn2ff.__file__).parent.rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "socket", "urllib", "http", "requests"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen"}


def breaches(tree):
    """What a file does with code, other processes and the network."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if name in FORBIDDEN_CALLS and owner not in ("re",):
                yield f"calls {name}"
            for keyword in node.keywords:
                if keyword.arg in ("shell", "allow_pickle") and getattr(keyword.value, "value", True) is not False:
                    yield f"calls {name} with {keyword.arg}"


def test_the_library_runs_no_code_from_files_no_shell_and_no_network():
    found = {path.name: list(breaches(ast.parse(path.read_text()))) for path in SOURCES}
    assert {name: what for name, what in found.items() if what} == {}
    planted = "import pickle, urllib.request\neval('1')\nos.system('ls')\nrun('ls', shell=True)\nload(allow_pickle=x)"
    assert len(list(breaches(ast.parse(planted)))) == 6


def test_a_card_cannot_write_code_into_a_header():
    with pytest.raises(ValueError, match="`card` names a network by something else than a hash"):
        rnn2ff.to_c(LAYERS, card={"network": {"hash": '1"\n#include "evil.h'}})


@pytest.mark.parametrize("name", ["int", "a", "static", "x9__", "main"])
def test_headers_of_odd_names_compile(name, tmp_path):
    text = rnn2ff.to_c(LAYERS, name=name, test_stimuli=np.ones((1, 2), np.float32))
    (tmp_path / "test.c").write_text(f"#define {name.upper()}_SELF_TEST\n{text}\nint main(void) {{ return 0; }}\n")
    command = ["cc", "-std=c99", "-Wall", "-Werror", "-Wno-unused-function", "-c", "test.c", "-o", "test.o"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the same bytes ---------------------------------------------------------------------------------------------------


def test_files_hold_no_date(tmp_path):
    for name in ("one.mat", "one.npz", "one.csv"):
        write_arrays(tmp_path / name, {"W": np.eye(2)})
    assert (tmp_path / "one.mat").read_bytes()[:116].strip() == b"MATLAB 5.0 MAT-file, written by rnn2ff"
    np.testing.assert_array_equal(scipy.io.loadmat(tmp_path / "one.mat")["W"], np.eye(2))
    with zipfile.ZipFile(tmp_path / "one.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_bytes_of_a_model_do_not_depend_on_the_order_in_which_a_process_meets_its_texts(tmp_path):
    card = {name: 1 for name in "abc"}
    rnn2ff.save(tmp_path / "model.safetensors", LAYERS, card=card)
    content = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].decode()
    assert header.rstrip() == json.dumps(json.loads(header), sort_keys=True, separators=(",", ":"))
    assert length % 8 == 0  # where the numbers begin
    assert rnn2ff.load(tmp_path / "model.safetensors")[1] == card


def test_a_folder_that_cannot_be_made_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`folder` cannot be created. Expected a writable location, got .*file"):
        make_folder(tmp_path / "file" / "pairs")


@pytest.mark.parametrize(
    "content",
    [
        b'<?xml version="1.0" encoding="utf-999"?><graphml/>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE g [<!ENTITY a "b">]><graphml>&a;</graphml>'.encode("utf-16"),
    ],
)
def test_a_graph_in_another_encoding_is_refused_in_one_sentence(content, tmp_path):
    (tmp_path / "graph.graphml").write_bytes(content)
    with pytest.raises(ValueError, match="`connectome` cannot be read. Expected .*graphml"):
        rnn2ff.read_connectome(tmp_path / "graph.graphml")


def test_a_link_that_leads_nowhere_is_passed_over_in_a_matlab_file_of_version_7_3(tmp_path):
    with h5py.File(tmp_path / "W.h5", "w") as file:
        file["W"] = np.eye(2)
        file["gone"] = h5py.SoftLink("/nowhere")
        file["net/gone"] = h5py.SoftLink("/nowhere")
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "W.mat").write_bytes(head.ljust(512, b"\0") + (tmp_path / "W.h5").read_bytes())
    np.testing.assert_array_equal(read_array(tmp_path / "W.mat", "weights"), np.eye(2))
