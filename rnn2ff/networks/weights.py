"""User-supplied weight matrices: low-rank factors, and graphs in files.

A graph in a file is GraphML, or a text table with a header line and one connection per row. Connections go from source
to target, which in a weight matrix is from column to row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import scipy.sparse
from jaxtyping import ArrayLike, Float

from rnn2ff._checks import check_array, check_finite, check_shape, fail, is_known
from rnn2ff.files import read_array, read_columns, split_name
from rnn2ff.records import readable

_MOST_SHOWN = 8  # names of units that are printed
_TABLES = (".csv", ".tsv", ".txt")
_GRAPHML = "{http://graphml.graphdrawing.org/xmlns}"


@readable
class Connectome(NamedTuple):
    """Connections between named units.

    Attributes:
        weights: sparse, from column to row, as `from_connectome` takes them; parallel connections are added up.
        names: of the units, in the order of rows and columns: as in a GraphML file; from a table, sorted, numerically
            if all names are whole numbers.
    """

    weights: scipy.sparse.csr_array
    names: tuple[str, ...]

    def _describe(self) -> tuple[str, dict[str, object]]:
        names = ", ".join(self.names[:_MOST_SHOWN]) + (", ..." if len(self.names) > _MOST_SHOWN else "")
        return f"Connectome of {len(self.names)} units", {"connections": self.weights.nnz, "names": names}


def read_connectome(
    path: str | Path, *, columns: Sequence[str] = ("source", "target", "weight"), weight: str = "weight"
) -> Connectome:
    """Read a graph from a file.

    Args:
        path: a `.graphml` file, as networkx writes it, or a table (`.csv`, `.tsv`, `.txt`) with a header line.
        columns: of a table, the names of the columns of sources, targets and weights; without a third, all weights
            are 1.
        weight: of GraphML, the attribute of an edge that holds its weight; edges without it have the weight 1.

    Raises:
        ValueError: if the file is missing, is in another format or damaged, lacks a column, or holds no connection or a
            weight that is not a finite number.
    """
    path = Path(path)
    if not path.is_file():
        raise fail("connectome", "cannot be read", "an existing file", f"{path}")
    if path.suffix.lower() == ".graphml":
        graph = _read_graphml(path, weight)
    elif path.suffix.lower() in _TABLES:
        graph = _read_table(path, tuple(columns))
    else:
        raise fail("connectome", "is in an unknown format", "a .graphml, .csv, .tsv or .txt file", f"{path}")
    if not graph.sources:
        raise fail("connectome", "has no connections", "at least one", f"none in {path}")
    position = {name: index for index, name in enumerate(graph.names)}
    rows, columns = ([position[unit] for unit in units] for units in (graph.targets, graph.sources))
    check_finite("connectome", graph.weights)
    matrix = scipy.sparse.coo_array((graph.weights, (rows, columns)), shape=(len(position), len(position)))
    return Connectome(matrix.tocsr(), tuple(graph.names))


def read_weights(path: str | Path, name: str) -> np.ndarray:
    """A weight matrix from a file of arrays or of a graph: `graph.graphml`, or `edges.csv:source,target,weight`."""
    file, wanted = split_name(path)
    if file.suffix.lower() == ".graphml":
        return read_connectome(file, weight=wanted or "weight").weights.toarray()
    if file.suffix.lower() in _TABLES and wanted and "," in wanted:
        return read_connectome(file, columns=wanted.split(",")).weights.toarray()
    return read_array(path, name)


def low_rank_weights(
    left: Float[ArrayLike, "unit *rank"], right: Float[ArrayLike, "unit *rank"]
) -> Float[np.ndarray, "unit unit"]:
    """Weights of low rank, `W = m n^T / N`: the units are driven along m by what n reads from them.

    Args:
        left: m, one row per unit; a vector for rank 1.
        right: n, of the same shape.

    Raises:
        ValueError: if the shapes differ or are not those of matrices, or a value is not finite.

    References:
        Mastrogiuseppe and Ostojic, Linking connectivity, dynamics, and computations in low-rank recurrent neural
        networks, Neuron 99, 2018.
    """
    left, right = np.asarray(left), np.asarray(right)
    if left.ndim not in (1, 2) or 0 in left.shape:
        raise fail("left", "has the wrong shape", "(units, rank), or (units,)", left.shape)
    check_finite("left", left)
    check_array("right", right, left.shape)
    left, right = (factor.reshape(len(factor), -1) for factor in (left, right))
    return left @ right.T / np.asarray(len(left), left.dtype if left.dtype.kind == "f" else float)


def check_signs(signs: ArrayLike | Sequence[int], columns: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Check the signs of units, 1 or -1 (Dale's law), and that the connections from units `columns` are at least 0."""
    signs = np.asarray(signs)
    check_shape("signs", signs, (size,))
    others = sorted(set(signs.tolist()) - {1, -1})
    if others:
        raise fail("signs", "have other values", "1 for excitatory and -1 for inhibitory units", others[:5])
    if (values < 0).any():
        unit = int(columns[np.argmax(values < 0)])
        raise fail("connectome", "holds negative strengths beside signs", "at least 0", f"some that leave unit {unit}")
    return signs


def check_two_populations(weights: ArrayLike) -> None:
    """Two by two, with a non-negative excitatory column and a non-positive inhibitory one."""
    check_array("weights", weights, (2, 2))
    if is_known(weights) and (np.asarray(weights) * [1, -1] < 0).any():
        expected = "a first column (excitatory) of at least 0 and a second (inhibitory) of at most 0"
        raise fail("weights", "have the wrong signs", expected, np.asarray(weights).tolist())


class _Graph(NamedTuple):
    """The content of a file; one source, target and weight per connection."""

    names: list[str]  # of the units
    sources: list[str]
    targets: list[str]
    weights: list[float]


def _read_table(path: Path, columns: tuple[str, ...]) -> _Graph:
    if len(columns) not in (2, 3):
        raise fail("columns", "do not name sources, targets and weights", "2 or 3 names", ", ".join(columns) or "none")
    table = read_columns(path, columns, "connectome")
    sources, targets = table[columns[0]], table[columns[1]]
    weights = [1.0] * len(sources)
    if len(columns) == 3:
        weights = [_number(text, f"{path}, row {row}") for row, text in enumerate(table[columns[2]], 2)]
    names = list({*sources, *targets})
    are_numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return _Graph(sorted(names, key=int if are_numbers else None), sources, targets, weights)


def _number(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise fail("connectome", "has a weight that is not a number", "numbers", f"{text[:20]!r} in {place}") from error


def _read_graphml(path: Path, weight: str) -> _Graph:
    content = path.read_bytes()
    if b"\0" in content:  # as in UTF-16, in which the words below would be missed
        raise fail("connectome", "cannot be read", "a .graphml file in UTF-8", f"{path}")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # which could expand a small file endlessly
        raise fail("connectome", "declares entities", "plain GraphML", f"{path}")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the others for an unknown encoding
        raise fail("connectome", "cannot be read", "a valid .graphml file", f"{path}: {error}") from error
    graph = root.find(f"{_GRAPHML}graph")
    if graph is None:
        raise fail("connectome", "holds no graph", "a GraphML file", f"{path}")
    of_edges = [key for key in root.iter(f"{_GRAPHML}key") if key.get("for") in ("edge", "all")]
    keys = {key.get("id") for key in of_edges if key.get("attr.name") == weight}
    names = [node.get("id", "") for node in graph.iter(f"{_GRAPHML}node")]
    known = set(names)
    if len(known) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise fail("connectome", "has nodes of the same name", "unique names", f"{name!r} {count} times in {path}")
    ends, weights = [], []
    for edge in graph.iter(f"{_GRAPHML}edge"):
        source, target = edge.get("source"), edge.get("target")
        if not {source, target} <= known:
            raise fail("connectome", "has an edge of an unknown node", f"nodes of {path}", f"{source}, {target}")
        values = [data.text or "" for data in edge.iter(f"{_GRAPHML}data") if data.get("key") in keys]
        value = _number(values[0], f"{path}, {source} to {target}") if values else 1.0
        is_directed = edge.get("directed", "false" if graph.get("edgedefault") == "undirected" else "true") == "true"
        for pair in [(source, target), *([] if is_directed or source == target else [(target, source)])]:
            ends.append(pair)
            weights.append(value)
    return _Graph(names, [source for source, _ in ends], [target for _, target in ends], weights)
