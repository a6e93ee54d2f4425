"""MATLAB's `.mat` files, with every length checked before it is used; version 7.3, which is HDF5, with h5py.

Only arrays of numbers are read, also those in structs. SciPy's reader is not used: a changed byte in a file can crash
the process (a segmentation fault in `scipy.io.matlab._mio5`, SciPy 1.17), and no error can then be raised.

Format: "MAT-File Format", The MathWorks, R2024a.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_TYPES_OF_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_MATRIX, _COMPRESSED = 14, 15  # kinds of elements
_STRUCT, _SPARSE = 2, 5  # classes of arrays
_COMPLEX, _LOGICAL = 0x800, 0x200  # flags
_MOST_ENTRIES = 2**28  # of a sparse array that is made dense: 2 GiB, for 16,384 units
_TEXT = np.array("")  # stands for variables without numbers


class _Element(NamedTuple):
    kind: int
    content: memoryview


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a `.mat` file, by name; those in a struct as `struct.field`.

    Variables without numbers become empty texts; in files of version 7.3 they are left out.
    """
    content = path.read_bytes()
    is_hdf5 = content[124:128] in (b"\x00\x02IM", b"\x02\x00MI") or content[:8] == b"\x89HDF\r\n\x1a\n"
    return _version_73(path) if is_hdf5 else _before_73(content)


def _before_73(content: bytes) -> dict[str, np.ndarray]:
    if 0 in content[:4]:
        return dict(_version_4(memoryview(content)))
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(content[124:128])
    if order is None:
        raise ValueError("it has no header of MATLAB")
    arrays = {}
    for element in _elements(memoryview(content)[128:], order):
        if element.kind == _COMPRESSED:
            element = _uncompressed(element.content, order)
        if element.kind == _MATRIX:
            name, fields = _array(element.content, order)
            if name:  # those without a name are internal to MATLAB
                arrays |= {f"{name}{field}": array for field, array in fields.items()}
    return arrays


def mat_content(arrays: Mapping[str, object]) -> bytes:
    """A `.mat` file of named arrays; the same bytes whenever it is written, without the date that SciPy puts in."""
    import scipy.io

    file = io.BytesIO()
    scipy.io.savemat(file, dict(arrays))
    return b"MATLAB 5.0 MAT-file, written by rnn2ff".ljust(116) + file.getvalue()[116:]


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    """Consecutive elements, each with a kind, a length, and that many bytes."""
    while content:
        if len(content) < 8:
            raise ValueError("it ends too early")
        kind, length = struct.unpack(f"{order}II", content[:8])
        if kind >> 16:  # both in four bytes, and the content in the four that follow
            kind, length = kind & 0xFFFF, kind >> 16
            start, end = 4, 8
        else:
            start = 8
            end = 8 + length + (-length % 8 if kind != _COMPRESSED else 0)
        if start + length > len(content):
            raise ValueError("it ends too early")
        yield _Element(kind, content[start : start + length])
        content = content[end:]


def _uncompressed(content: memoryview, order: str) -> _Element:
    stream = zlib.decompressobj()
    head = stream.decompress(content, 8)
    if len(head) < 8:
        raise ValueError("it ends too early")
    kind, length = struct.unpack(f"{order}II", head)
    unpacked = stream.decompress(stream.unconsumed_tail, length) if length else b""
    if len(unpacked) != length or stream.decompress(stream.unconsumed_tail, 1) or not stream.eof:
        raise ValueError("what is compressed is not of its length")
    return _Element(kind, memoryview(unpacked))


def _array(content: memoryview, order: str) -> tuple[str, dict[str, np.ndarray]]:
    """The name of an array and what it holds: itself under an empty name, or the fields of a struct."""
    if not content:
        return "", {"": np.zeros((0, 0))}
    parts = _elements(content, order)
    flags = int(_numbers(_next(parts), order)[0])
    kind, shape = flags & 0xFF, tuple(map(int, _numbers(_next(parts), order)))
    name = bytes(_next(parts).content).decode()
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"it holds an array of shape {shape}")
    if kind == _STRUCT and math.prod(shape) == 1:
        return name, _fields(parts, order)
    if kind == _SPARSE:
        rows, begins = (_numbers(_next(parts), order) for _ in range(2))
        return name, {"": _by_columns(rows, begins, _values(parts, order, bool(flags & _COMPLEX)), shape)}
    if kind not in _NUMERIC:
        return name, {"": _TEXT}
    values = _values(parts, order, bool(flags & _COMPLEX))
    if len(values) != math.prod(shape):
        raise ValueError(f"it promises an array of shape {shape}, and holds {len(values)} numbers")
    if not flags & _COMPLEX:
        values = values.astype(bool if flags & _LOGICAL else _NUMERIC[kind])
    return name, {"": values.reshape(shape, order="F")}


def _next(parts: Iterator[_Element]) -> _Element:
    part = next(parts, None)
    if part is None:
        raise ValueError("it ends too early")
    return part


def _numbers(element: _Element, order: str) -> np.ndarray:
    if element.kind not in _TYPES:
        raise ValueError(f"it has numbers of an unknown kind, {element.kind}")
    return np.frombuffer(element.content, np.dtype(_TYPES[element.kind]).newbyteorder(order))


def _values(parts: Iterator[_Element], order: str, is_complex: bool) -> np.ndarray:
    values = _numbers(_next(parts), order)
    return values + 1j * _numbers(_next(parts), order) if is_complex else values


def _fields(parts: Iterator[_Element], order: str) -> dict[str, np.ndarray]:
    length, names = int(_numbers(_next(parts), order)[0]), bytes(_next(parts).content)
    if length <= 0:
        raise ValueError("it has fields without names")
    arrays = {}
    for start in range(0, len(names), length):
        field = names[start : start + length].partition(b"\0")[0].decode()
        element = _next(parts)
        inner = _array(element.content, order)[1] if element.kind == _MATRIX else {"": _TEXT}
        arrays |= {f".{field}{name}": array for name, array in inner.items()}
    return arrays


def _by_columns(rows: np.ndarray, begins: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A dense matrix from the entries of a sparse one, column by column, and where each column begins."""
    counts = np.diff(begins.astype(int))
    if begins[:1].any() or (counts < 0).any() or counts.sum() > len(values):
        raise ValueError("it holds a sparse array whose parts do not fit each other")
    return _full(rows, np.repeat(np.arange(len(counts)), counts), values, shape)


def _full(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A dense matrix from the entries of a sparse one."""
    if math.prod(shape) > _MOST_ENTRIES:
        raise ValueError(f"it holds a sparse array of shape {shape}, too large to be made full")
    rows, values = rows[: len(columns)], values[: len(columns)]
    if len(shape) != 2 or not len(rows) == len(columns) == len(values):
        raise ValueError("it holds a sparse array whose parts do not fit each other")
    full = np.zeros(shape, np.result_type(values.dtype.newbyteorder("="), float))
    if len(rows) and (rows.min() < 0 or rows.max() >= shape[0] or columns.max() >= shape[1]):
        raise ValueError("it holds a sparse array with entries outside of it")
    np.add.at(full, (rows, columns), values)
    return full


def _version_4(content: memoryview) -> Iterator[tuple[str, np.ndarray]]:
    while content:
        if len(content) < 20:
            raise ValueError("it ends too early")
        order = "<" if 0 <= int.from_bytes(content[:4], "little", signed=True) < 5000 else ">"
        kind, num_rows, num_columns, is_complex, name_length = struct.unpack(f"{order}5i", content[:20])
        precision, sort = kind // 10 % 10, kind % 10
        is_known = kind // 1000 == (order == ">") and kind // 100 % 10 == 0 and precision < len(_TYPES_OF_4)
        if not is_known or sort > 2 or is_complex not in (0, 1) or min(num_rows, num_columns, name_length) < 0:
            raise ValueError("it has no header of MATLAB")
        dtype = np.dtype(_TYPES_OF_4[precision]).newbyteorder(order)
        size, start = num_rows * num_columns, 20 + name_length
        end = start + size * dtype.itemsize * (1 + is_complex)
        if end > len(content):
            raise ValueError(f"it promises an array of shape {(num_rows, num_columns)}, and ends too early")
        name = bytes(content[20:start]).partition(b"\0")[0].decode("latin1")
        values = np.frombuffer(content[start:end], dtype)
        values = values[:size] + 1j * values[size:] if is_complex else values.astype(_TYPES_OF_4[precision])
        array = values.reshape((num_rows, num_columns), order="F")
        yield name, (array, _TEXT, None)[sort] if sort < 2 else _sparse_4(array)
        content = content[end:]


def _sparse_4(entries: np.ndarray) -> np.ndarray:
    """A dense matrix from rows of (row, column, value), counted from 1; the last one holds the shape."""
    if entries.ndim != 2 or len(entries) == 0 or entries.shape[1] not in (3, 4):
        raise ValueError("it holds a sparse array whose parts do not fit each other")
    values = entries[:-1, 2] if entries.shape[1] == 3 else entries[:-1, 2] + 1j * entries[:-1, 3]
    if not (np.isfinite(entries[:, :2]).all() and (np.abs(entries[:, :2]) < 2**31).all()):
        raise ValueError("it holds a sparse array with entries outside of it")
    places = entries[:, :2].astype(int)
    return _full(places[:-1, 0] - 1, places[:-1, 1] - 1, values, tuple(places[-1].tolist()))


def _version_73(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of version 7.3, which is HDF5 with the axes of each array reversed."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        cure = "save it with the option -v7, or pip install 'rnn2ff[hdf5]'"
        raise ValueError(f"it is of MATLAB version 7.3; {cure}") from error
    arrays = {}
    with h5py.File(path, "r") as file:
        for name, value in file.items():
            if value is not None and not name.startswith("#"):  # a broken link is None
                arrays |= _nodes(name, value)
    return arrays


def _nodes(name: str, node: object) -> dict[str, np.ndarray]:
    """An array of HDF5, a sparse matrix, or the arrays in a struct, as `struct.field`; only what holds numbers."""
    if "MATLAB_sparse" in node.attrs:
        begins = np.asarray(node["jc"])
        parts = (node["data"], node["ir"]) if "data" in node else ([], [])  # a matrix of zeros has none
        values, rows = (np.asarray(part) for part in parts)
        shape = (int(node.attrs["MATLAB_sparse"]), len(begins) - 1)
        return {name: _by_columns(rows.astype(int), begins, values, shape)}
    if hasattr(node, "keys"):
        arrays = {}
        for field, inner in node.items():
            arrays |= {} if inner is None else _nodes(f"{name}.{field}", inner)
        return arrays
    is_empty = "MATLAB_empty" in node.attrs  # then the data are its shape
    holds_numbers = node.dtype.kind in "fiub" and node.attrs.get("MATLAB_class", b"double") not in (b"char", b"cell")
    return {name: np.asarray(node).T} if holds_numbers and not is_empty else {}
