import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from rnn2ff.files import plain, read_array, replacing, write_arrays, write_json

MATRIX = np.array([[0.0, -1.5, 2.25], [0.0, 0.0, 3.0]])


def write_csv(path, arrays):
    (array,) = arrays.values()
    path.write_text("\n".join(",".join(map(repr, map(float, row))) for row in array) + "\n")


def write_text(path, arrays, delimiter, *, decimal=".", names=None):
    (array,) = arrays.values()
    lines = [delimiter.join(f"{value!r}".replace(".", decimal) for value in row) for row in array.tolist()]
    path.write_text("\n".join([*([] if names is None else [names]), *lines]) + "\n")


WRITERS = {
    "one.npy": lambda path, arrays: np.save(path, *arrays.values()),
    "one.npz": lambda path, arrays: np.savez(path, **arrays),
    "packed.npz": lambda path, arrays: np.savez_compressed(path, **arrays),
    "one.csv": write_csv,
    "tabs.tsv": lambda path, arrays: write_text(path, arrays, "\t"),
    "blanks.txt": lambda path, arrays: write_text(path, arrays, "  "),
    "commas.txt": lambda path, arrays: write_text(path, arrays, ","),
    "semicolons.csv": lambda path, arrays: write_text(path, arrays, ";"),
    "decimal_commas.csv": lambda path, arrays: write_text(path, arrays, ";", decimal=","),
    "named_columns.csv": lambda path, arrays: write_text(path, arrays, ",", names="left, middle, right"),
    "named_columns.txt": lambda path, arrays: write_text(path, arrays, " ", names="left middle right"),
    "one.mat": scipy.io.savemat,
    "version4.mat": lambda path, arrays: scipy.io.savemat(path, arrays, format="4"),
    "packed.mat": lambda path, arrays: scipy.io.savemat(path, arrays, do_compression=True),
}


def assert_same(received, expected):
    assert received.dtype == expected.dtype
    np.testing.assert_array_equal(received, expected)


class TestReadArray:
    @pytest.mark.parametrize("name", WRITERS)
    def test_each_format_gives_back_what_was_written(self, name, tmp_path):
        WRITERS[name](tmp_path / name, {"W": MATRIX})
        assert_same(read_array(tmp_path / name, "weights"), MATRIX)

    @pytest.mark.parametrize("name", ["one.npz", "one.mat"])
    def test_a_named_array_is_picked_from_several(self, name, tmp_path):
        WRITERS[name](tmp_path / name, {"W": MATRIX, "b": np.ones((1, 3))})
        assert_same(read_array(f"{tmp_path / name}:W", "weights"), MATRIX)
        assert_same(read_array(f"{tmp_path / name}:b", "bias"), np.ones((1, 3)))

    @pytest.mark.parametrize("kind", [scipy.sparse.csc_matrix, scipy.sparse.csr_matrix, scipy.sparse.csc_array])
    def test_a_sparse_matlab_matrix_is_read_as_a_full_one(self, kind, tmp_path):
        scipy.io.savemat(tmp_path / "sparse.mat", {"W": kind(MATRIX)})
        assert_same(read_array(tmp_path / "sparse.mat", "weights"), MATRIX)

    @pytest.mark.parametrize("begin", [-1, 4, 2**31 - 1])
    def test_a_sparse_matlab_matrix_that_promises_more_entries_than_it_holds_is_refused(self, begin, tmp_path):
        path = tmp_path / "sparse.mat"
        scipy.io.savemat(path, {"W": scipy.sparse.csc_matrix([[0.0, 2.0], [3.0, 0.0]])}, do_compression=False)
        begins = np.array([0, 1, 2], "<i4").tobytes()  # of the columns, and the end
        changed = np.array([0, 1, begin], "<i4").tobytes()
        assert path.read_bytes().count(begins) == 1
        path.write_bytes(path.read_bytes().replace(begins, changed))
        with pytest.raises(ValueError, match="sparse array whose parts do not fit"):
            read_array(path, "weights")

    def test_a_field_of_a_matlab_struct_is_named_with_a_dot(self, tmp_path):
        scipy.io.savemat(tmp_path / "net.mat", {"net": {"W": MATRIX, "more": {"b": np.ones((1, 3))}}, "U": np.eye(2)})
        assert_same(read_array(f"{tmp_path / 'net.mat'}:net.W", "weights"), MATRIX)
        assert_same(read_array(f"{tmp_path / 'net.mat'}:net.more.b", "bias"), np.ones((1, 3)))
        with pytest.raises(ValueError, match=r"one of: U, net\.W, net\.more\.b, got net"):
            read_array(f"{tmp_path / 'net.mat'}:net", "weights")

    def test_whole_numbers_become_floats_and_floats_keep_their_precision(self, tmp_path):
        np.savez(tmp_path / "both.npz", whole=np.array([[1, 2]]), single=np.array([0.1], np.float32))
        assert_same(read_array(f"{tmp_path / 'both.npz'}:whole", "weights"), np.array([[1.0, 2.0]]))
        assert_same(read_array(f"{tmp_path / 'both.npz'}:single", "bias"), np.array([0.1], np.float32))

    def test_a_file_whose_own_name_holds_a_colon_is_read_whole(self, tmp_path):
        np.save(tmp_path / "run:1.npy", MATRIX)
        assert_same(read_array(tmp_path / "run:1.npy", "weights"), MATRIX)

    def test_a_csv_with_one_row_a_byte_order_mark_and_comments_is_a_matrix_of_one_row(self, tmp_path):
        (tmp_path / "row.csv").write_bytes("\ufeff1, 2.5,-3e-1\r\n# from a spreadsheet\r\n\r\n".encode())
        assert_same(read_array(tmp_path / "row.csv", "bias"), np.array([[1.0, 2.5, -0.3]]))

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("text.doc", "1,2", r"unknown format.*\.npy, \.npz, \.csv, \.txt or \.mat.*text\.doc"),
            ("no_suffix", "1,2", "unknown format"),
            ("empty.csv", " \n", "it is empty"),
            ("comment.csv", "# nothing\n", "it is empty"),
            ("header.csv", "a,b\n", "row 1 has 'a' in column 1, which is not a number"),
            ("names_below.csv", "1,2\na,b\n", "row 2 has 'a' in column 1, which is not a number"),
            ("empty_cell.csv", "1,2,3\n4,,6\n", "row 2 has '' in column 2"),
            ("ragged.csv", "1,2\n3\n", "row 2 has 1 values, and row 1 has 2"),
            ("text.npy", "1,2", "valid .npy file"),
            ("text.npz", "1,2", "valid .npz file.*not an archive"),
            ("zip.npz", "PK and no more", "valid .npz file"),
            ("text.mat", "1,2", "valid .mat file"),
            ("nothing.npy", "", "valid .npy file"),
            ("nothing.npz", "", "valid .npz file"),
            ("nothing.mat", "", "valid .mat file"),
            ("nan.csv", "1,2\n3,nan\n5,6\ninf,8\n", "`weights` holds NaN or infinite values.*rows 1, 3"),
        ],
    )
    def test_what_cannot_be_read_is_refused_with_the_reason(self, name, content, message, tmp_path):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=r"^`weights` .*Expected .*, got .*\.$") as caught:
            read_array(tmp_path / name, "weights")
        caught.match(message)

    @pytest.mark.parametrize("name", [name for name in WRITERS if not name.endswith((".csv", ".txt", ".tsv"))])
    def test_a_file_cut_short_anywhere_is_refused(self, name, tmp_path):
        WRITERS[name](tmp_path / name, {"W": MATRIX})
        whole = (tmp_path / name).read_bytes()
        for length in range(len(whole)):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match="`weights` cannot be read|does not say which array"):
                read_array(tmp_path / name, "weights")

    @pytest.mark.parametrize("name", ["one.npz", "packed.npz"])
    def test_a_byte_changed_in_an_archive_never_gives_other_numbers(self, name, tmp_path):
        WRITERS[name](tmp_path / name, {"W": MATRIX})
        whole, num_refused = (tmp_path / name).read_bytes(), 0
        for position in range(len(whole)):
            changed = bytearray(whole)
            changed[position] ^= 0xFF
            (tmp_path / name).write_bytes(changed)
            try:
                received = read_array(tmp_path / name, "weights")
            except ValueError:
                num_refused += 1
            else:
                assert_same(received, MATRIX)
        assert num_refused > len(whole) // 2

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ValueError, match="`weights` cannot be read.*existing file, got .*missing.npy"):
            read_array(tmp_path / "missing.npy", "weights")
        with pytest.raises(ValueError, match="existing file"):
            read_array(f"{tmp_path / 'missing.npz'}:W", "weights")

    @pytest.mark.parametrize("name", ["one.npz", "one.mat"])
    def test_several_arrays_and_none_named_or_a_wrong_name_is_refused_with_the_names(self, name, tmp_path):
        WRITERS[name](tmp_path / name, {"W": MATRIX, "b": np.ones(3)})
        with pytest.raises(ValueError, match=r"does not say which array.*:NAME with one of: W, b, got"):
            read_array(tmp_path / name, "weights")
        with pytest.raises(ValueError, match="one of: W, b, got V"):
            read_array(f"{tmp_path / name}:V", "weights")

    def test_objects_are_never_unpickled(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "trapped"),)

        np.save(tmp_path / "object.npy", np.array([Trap()], object), allow_pickle=True)
        np.savez(tmp_path / "object.npz", W=np.array([Trap()], object))
        for name in ("object.npy", "object.npz"):
            with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
                read_array(tmp_path / name, "weights")
        assert not (tmp_path / "trapped").exists()

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.array(["a", "b"]), "does not hold numbers.*dtype <U1"),
            (np.array([True]), "does not hold numbers.*dtype bool"),
            (np.array([1j]), "complex numbers"),
            (np.array([1.0, np.nan, np.inf]), "2 of 3 not finite"),
        ],
    )
    def test_anything_but_finite_real_numbers_is_refused(self, array, message, tmp_path):
        np.save(tmp_path / "other.npy", array)
        with pytest.raises(ValueError, match=message):
            read_array(tmp_path / "other.npy", "weights")


class TestReplacing:
    def test_the_new_file_takes_the_place_of_the_old_one_with_ordinary_permissions(self, tmp_path):
        target, ordinary = tmp_path / "result.txt", tmp_path / "ordinary"
        target.write_text("old")
        ordinary.touch()
        with replacing(target) as temporary:
            assert temporary.suffix == ".txt"
            temporary.write_text("new")
            assert target.read_text() == "old"
        assert target.read_text() == "new"
        assert target.stat().st_mode == ordinary.stat().st_mode
        assert sorted(tmp_path.iterdir()) == [ordinary, target]

    def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(self, tmp_path):
        target = tmp_path / "result.txt"
        target.write_text("old")
        with pytest.raises(KeyboardInterrupt), replacing(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]

    def test_a_process_killed_while_writing_leaves_the_old_file(self, tmp_path):
        target = tmp_path / "result.npz"
        write_arrays(target, {"W": MATRIX})
        script = (
            "import os, signal\nfrom rnn2ff.files import replacing\n"
            f"with replacing({str(target)!r}) as temporary:\n"
            "    temporary.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert_same(read_array(target, "weights"), MATRIX)

    def test_a_missing_folder_is_refused(self, tmp_path):
        with (
            pytest.raises(ValueError, match="existing, writable folder.*got .*nowhere"),
            replacing(tmp_path / "nowhere" / "x"),
        ):
            pass


class Row(NamedTuple):
    error: float
    units: np.ndarray


class TestWriting:
    def test_a_record_becomes_plain_json_with_null_for_what_is_not_finite(self):
        record = {"row": Row(np.float32(0.5), np.array([[1, 2]])), 3: (None, True, "text", Path("a") / "b")}
        more = [float("nan"), np.inf, np.int64(7), np.array(-np.inf), np.bool_(False), np.zeros((0, 2))]
        expected = {"row": {"error": 0.5, "units": [[1, 2]]}, "3": [None, True, "text", "a/b"]}
        assert plain(record) == expected
        assert repr(plain(more)) == "[None, None, 7, None, False, []]"

    def test_json_is_written_whole_or_not_at_all(self, tmp_path):
        write_json(tmp_path / "report.json", {"a": np.nan, "b": [1.5]})
        assert (tmp_path / "report.json").read_text() == '{\n  "a": null,\n  "b": [\n    1.5\n  ]\n}\n'
        with pytest.raises(TypeError):
            write_json(tmp_path / "report.json", {"a": object()})
        assert "null" in (tmp_path / "report.json").read_text()
        assert [path.name for path in tmp_path.iterdir()] == ["report.json"]

    def test_complex_numbers_and_what_has_other_rows_in_a_table(self, tmp_path):
        arrays = {"states": MATRIX, "eigenvalues": np.array([1 + 2j, 3.0]), "names": np.array(["a", "b"]), "one": [1.0]}
        write_arrays(tmp_path / "points.csv", arrays)
        received = (tmp_path / "points.csv").read_text().splitlines()
        assert received[0] == "states_0,states_1,states_2,eigenvalues,eigenvalues_imaginary"
        assert received[1:] == ["0,-1.5,2.25,1,2", "0,0,3,3,0"]

    def test_arrays_come_back_as_they_were_written(self, tmp_path):
        arrays = {
            "states": MATRIX.astype(np.float32),
            "names": np.array(["converged", "unstable"]),
            "residuals": MATRIX,
        }
        write_arrays(tmp_path / "states.npz", arrays)
        write_arrays(tmp_path / "states.mat", arrays)
        in_matlab = scipy.io.loadmat(tmp_path / "states.mat")
        np.testing.assert_array_equal(in_matlab["states"], MATRIX)
        assert [name.strip() for name in in_matlab["names"]] == ["converged", "unstable"]
        with np.load(tmp_path / "states.npz", allow_pickle=False) as received:
            assert set(received.files) == set(arrays)
            for name, expected in arrays.items():
                assert_same(received[name], expected)
        with pytest.raises(ValueError, match="Object arrays"):
            write_arrays(tmp_path / "states.npz", {"states": np.array([None])})
        assert_same(read_array(f"{tmp_path / 'states.npz'}:residuals", "states"), MATRIX)
