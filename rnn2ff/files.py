"""Arrays in, results out: the files a user brings and takes away.

A result is written under a temporary name and put in place in one move, so that an interrupted write leaves whatever
stood there before.
"""

import json
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rnn2ff._checks import check_finite, fail, is_known

_FORMATS = ".npy, .npz, .csv or .mat"

# What the readers of numpy and scipy trip over in a damaged file, found by changing and cutting files at every byte.
_DAMAGE = (ValueError, TypeError, LookupError, MemoryError, OSError, EOFError, RuntimeError)
_DAMAGE += (zipfile.BadZipFile, zlib.error, SyntaxError, tokenize.TokenError)


def read_array(path: str | Path, name: str) -> np.ndarray:
    """Read one array of numbers from a file.

    Args:
        path: a `.npy`, `.npz`, `.csv` or MATLAB `.mat` file (up to version 7). Where a file holds several arrays, its
            path is followed by `:` and the array's name, as in `network.npz:W`.
        name: what the array is for; errors name it.

    Raises:
        ValueError: if the file is missing, is of another format or damaged, holds several arrays and none is named,
            or holds anything but finite numbers.
    """
    path, wanted = _split(path)
    if not path.is_file():
        raise fail(name, "cannot be read", "an existing file", f"{path}")
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv, ".mat": _read_mat}
    if path.suffix.lower() not in readers:
        raise fail(name, "is in an unknown format", f"a {_FORMATS} file", f"{path}")
    try:
        arrays = readers[path.suffix.lower()](path)
    except _DAMAGE as error:
        raise fail(name, "cannot be read", f"a valid {path.suffix} file", f"{path}: {error}") from error
    array = _choose(arrays, wanted, name, path)
    check_finite(name, array)
    return array.astype(float) if not np.issubdtype(array.dtype, np.floating) else array


def read_tensors(path: str | Path, name: str) -> dict[str, np.ndarray]:
    """Read all arrays of a safetensors file.

    Args:
        path: the file.
        name: what the arrays are for; errors name it.

    Raises:
        ValueError: if the file is missing, damaged, or holds numbers of a type that NumPy does not have.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not Path(path).is_file():
        raise fail(name, "cannot be read", "an existing file", f"{path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        expected = "a whole safetensors file of float32 or float64"
        raise fail(name, "cannot be read", expected, f"{path}: {error!r}") from error


def _split(path: str | Path) -> tuple[Path, str | None]:
    """A path, and the name of an array in it where one is given."""
    if Path(path).is_file():
        return Path(path), None
    head, colon, tail = str(path).rpartition(":")
    return (Path(head), tail) if colon and Path(head).is_file() else (Path(path), None)


def _choose(arrays: Mapping[str, np.ndarray], wanted: str | None, name: str, path: Path) -> np.ndarray:
    found = ", ".join(sorted(arrays)) or "none"
    if wanted is not None:
        if wanted not in arrays:
            raise fail(name, f"names an array that is not in {path}", f"one of: {found}", wanted)
        return arrays[wanted]
    if len(arrays) != 1:
        raise fail(name, f"does not say which array of {path} is meant", f"{path}:NAME with one of: {found}", f"{path}")
    return next(iter(arrays.values()))


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        return {path.stem: np.lib.format.read_array(file, allow_pickle=False)}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError("it is not an archive of arrays")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.partition("#")[0].strip()]
    if not lines:
        raise ValueError("it is empty")
    return {path.stem: np.loadtxt(lines, delimiter=",", ndmin=2)}


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except NotImplementedError as error:
        raise ValueError("it is of MATLAB version 7.3; save it with the option -v7") from error
    except MatReadError as error:
        raise ValueError(f"{error}") from error
    arrays = {name: value for name, value in content.items() if not name.startswith("__")}
    return {name: value.toarray() if hasattr(value, "toarray") else value for name, value in arrays.items()}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` when the block ends without an error.

    Raises:
        ValueError: if the folder does not exist or cannot be written to.
    """
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:
        raise fail(
            "path", "cannot be written", "a folder that exists and may be written to", f"{path.parent}"
        ) from error
    os.close(handle)
    try:
        yield Path(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # a temporary file is private; a result is not
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_json(path: str | Path, content: object) -> None:
    """Write a record as JSON, whole or not at all; arrays become lists, and NaN and infinities become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as `.npz`, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def table(lines: Mapping[str, object], *, title: str | None = None) -> str:
    """Names and values in two columns, for people."""
    width = max([26, *(len(name) + 2 for name in lines)])
    return "\n".join([*([title] if title else []), *(f"{name:{width}s}{value}" for name, value in lines.items())])


def is_shown(*arrays: object) -> bool:
    """Whether all are arrays of known values, which can be printed, and no placeholders, as inside `jit`."""
    return all(isinstance(each, np.ndarray) or (hasattr(each, "devices") and is_known(each)) for each in arrays)


def plain(content: object) -> object:
    """A record with nothing in it but what JSON can say."""
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
