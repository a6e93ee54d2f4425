"""Files: arrays that users provide, and results.

A result is written under a temporary name and then moved into place, so that an interrupted write leaves the previous
file.
"""

import csv
import hashlib
import io
import json
import math
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rnn2ff._checks import check_finite, fail
from rnn2ff.mat_files import mat_content, read_mat

FORMATS = ".npy, .npz, .csv, .txt or .mat"

# What readers raise for damaged files, found by changing and truncating files at every byte.
_DAMAGE = (ValueError, TypeError, LookupError, MemoryError, OSError, EOFError, RuntimeError)
_DAMAGE += (zipfile.BadZipFile, zlib.error, SyntaxError, tokenize.TokenError)

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_array(path: str | Path, name: str) -> np.ndarray:
    """Read one array of numbers from a file.

    Args:
        path: a `.npy`, `.npz` or MATLAB `.mat` file (of version 7.3 with the extra `hdf5`), or text: `.csv`, `.tsv`,
            `.txt`, with commas, semicolons, tabs or blanks between numbers, and perhaps a header line. If a file holds
            several arrays, its path is followed by `:` and the array's name, as in `network.npz:W`, or `net.mat:net.W`
            for a field of a struct.
        name: what the array is for; errors name it.

    Raises:
        ValueError: if the file is missing, is of another format or damaged, holds several arrays and none is named,
            or holds anything but finite numbers.
    """
    path, wanted = split_name(path)
    if not path.is_file():
        raise fail(name, "cannot be read", "an existing file", f"{path}")
    readers = {".npy": _read_npy, ".npz": _read_npz, ".mat": read_mat}
    readers |= {".csv": _read_text, ".tsv": _read_text, ".txt": _read_text}
    if path.suffix.lower() not in readers:
        raise fail(name, "is in an unknown format", f"a {FORMATS} file", f"{path}")
    try:
        arrays = readers[path.suffix.lower()](path)
    except _DAMAGE as error:
        raise fail(name, "cannot be read", f"a valid {path.suffix} file", f"{path}: {error}") from error
    array = _choose(arrays, wanted, name, path)
    check_finite(name, array)
    return array.astype(float) if not np.issubdtype(array.dtype, np.floating) else array


def read_tensors(path: str | Path, name: str) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file; errors name what they are for."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not Path(path).is_file():
        raise fail(name, "cannot be read", "an existing file", f"{path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        expected = "a whole safetensors file of float32 or float64"
        raise fail(name, "cannot be read", expected, f"{path}: {error!r}") from error


def split_name(path: str | Path) -> tuple[Path, str | None]:
    """A path, and the name of an array in it where one is given."""
    if Path(path).is_file():
        return Path(path), None
    head, colon, tail = str(path).rpartition(":")
    return (Path(head), tail) if colon and Path(head).is_file() else (Path(path), None)


def _choose(arrays: Mapping[str, np.ndarray], wanted: str | None, name: str, path: Path) -> np.ndarray:
    names = ", ".join(sorted(arrays)) or "none"
    if wanted is not None:
        if wanted not in arrays:
            raise fail(name, f"names an array that is not in {path}", f"one of: {names}", wanted)
        return arrays[wanted]
    if len(arrays) != 1:
        raise fail(name, f"does not say which array of {path} is meant", f"{path}:NAME with one of: {names}", f"{path}")
    return next(iter(arrays.values()))


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        return {path.stem: _whole_array(file, path.stat().st_size)}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError("it is not an archive of arrays")
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = _whole_array(file, member.file_size)
    return arrays


def _whole_array(file: io.BufferedIOBase, num_bytes: int) -> np.ndarray:
    """The array in a `.npy` file of so many bytes; refused, before memory is allocated, if the header promises more."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:  # later versions are for structured arrays
        raise ValueError("it does not hold numbers")
    shape, _, dtype = _HEADERS[version](file)
    promised, there = math.prod(shape) * dtype.itemsize, num_bytes - file.tell()
    if min(shape, default=0) < 0 or promised > there:
        raise ValueError(f"it promises an array of shape {shape}, and holds {there} bytes")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def read_columns(path: Path, columns: Sequence[str], name: str) -> dict[str, list[str]]:
    """Columns of a text table by their names, as text; the table may have others.

    Entries are separated by commas, semicolons, tabs or blanks, below a header line.
    """
    try:
        lines, delimiter = _read_lines(path)
        header, *rows = csv.reader(lines, delimiter=delimiter or " ", skipinitialspace=True)
    except (ValueError, csv.Error) as error:
        raise fail(name, "cannot be read", f"a valid {path.suffix} file", f"{path}: {error}") from error
    header = [entry.strip() for entry in header]
    for column in columns:
        if column not in header:
            raise fail(name, f"lacks the column {column!r}", f"a table with the columns {', '.join(columns)}", header)
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            received = f"{len(row)} in row {number} of {path}"
            raise fail(name, "is not a table", f"{len(header)} entries in each row", received)
    return {column: [row[header.index(column)].strip() for row in rows] for column in columns}


def _read_lines(path: Path) -> tuple[list[str], str | None]:
    """The lines of a text table without comments, and the delimiter of entries; None for blanks."""
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError("it is empty")
    return lines, next((delimiter for delimiter in ";\t," if any(delimiter in line for line in lines)), None)


def _read_text(path: Path) -> dict[str, np.ndarray]:
    """The numbers in a text table; a header line is skipped."""
    lines, delimiter = _read_lines(path)
    if delimiter == ";":  # where the comma is the decimal point
        lines = [line.replace(",", ".") for line in lines]
    lines = [line.rstrip(delimiter) for line in lines]
    first = lines[0].split(delimiter)
    if len(lines) > 1 and not any(map(_is_number, first)):
        lines = lines[1:]
    try:
        return {path.stem: np.loadtxt(lines, delimiter=delimiter, ndmin=2)}
    except ValueError as error:
        raise ValueError(_flaw(lines, delimiter)) from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _flaw(lines: list[str], delimiter: str | None) -> str:
    """What is wrong with the first faulty line, without quoting all of it."""
    width = len(lines[0].split(delimiter))
    for number, line in enumerate(lines, 1):
        values = line.split(delimiter)
        for column, value in enumerate(values, 1):
            if not _is_number(value):
                return f"row {number} has {value.strip()[:20]!r} in column {column}, which is not a number"
        if len(values) != width:
            return f"row {number} has {len(values)} values, and row 1 has {width}"
    return "it is not a table of numbers"


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, if it does not exist."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fail("folder", "cannot be created", "a writable location", f"{folder}: {error}") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces `path` when the block ends without an error."""
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:
        raise fail("path", "cannot be written", "an existing, writable folder", f"{path.parent}") from error
    os.close(handle)
    try:
        yield Path(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # a temporary file is private; a result is not
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file completely or not at all; text in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def tensors_content(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> bytes:
    """A safetensors file of arrays and texts; the same bytes in every process, though the library's order is random."""
    from safetensors.numpy import save

    content = save(dict(arrays), dict(texts))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the numbers begin at a multiple of 8 bytes
    return len(header).to_bytes(8, "little") + header + content[start:]


def sealed(content: bytes) -> bytes:
    """Content followed by its hash, so that any change is detected."""
    return content + hashlib.sha256(content).digest()


def unsealed(content: bytes) -> bytes | None:
    """What was sealed; None if it was changed."""
    length = len(content) - hashlib.sha256().digest_size
    return content[:length] if length >= 0 and sealed(content[:length]) == content else None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder, or refuse to work in it if another process holds the lock; the lock ends with the process.

    If the file system cannot lock folders, nothing is refused.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        problem = "is being written to by another process"
        raise fail("folder", problem, "a folder of its own for each", f"{folder}") from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)


def write_json(path: str | Path, content: object) -> None:
    """Write a record as JSON, whole or not at all; arrays become lists, and NaN and infinities become null."""
    write_whole(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as `.npz`, `.mat` or `.csv`, whole or not at all.

    A `.csv` is one table with a header line: a column for each vector and for each column of a matrix, as `rates_0`;
    arrays with another number of rows than the first one are left out.
    """
    suffix = Path(path).suffix.lower()
    with replacing(path) as temporary, temporary.open("wb") as file:
        if suffix == ".mat":
            file.write(mat_content({name: np.asarray(array) for name, array in arrays.items()}))
        elif suffix == ".csv":
            columns = _columns(arrays)
            table = np.column_stack([*columns.values()])
            np.savetxt(file, table, fmt="%.9g", delimiter=",", header=",".join(columns), comments="")
        else:
            np.savez(file, allow_pickle=False, **arrays)


def _columns(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Vectors of one length, by name."""
    columns = {}
    num_rows = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.ndim == 0 or len(array) != num_rows or array.dtype.kind not in "fiubc":
            continue
        parts = {name: array.real, f"{name}_imaginary": array.imag} if array.dtype.kind == "c" else {name: array}
        for part, value in parts.items():
            columns |= {part: value} if value.ndim == 1 else {f"{part}_{i}": column for i, column in enumerate(value.T)}
    return columns


def plain(content: object) -> object:
    """A record reduced to types that JSON can represent."""
    if hasattr(content, "_asdict"):
        content = content._asdict()
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if isinstance(content, Path):
        return str(content)
    if content is None or isinstance(content, str | bool):
        return content
    array = np.asarray(content)
    if array.ndim:
        return [plain(value) for value in array]
    value = array.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
