"""A small valid file of every kind that the library reads, and how a user reads it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import jax
import jax.random as jr
import numpy as np
import scipy.io
import scipy.sparse
from safetensors.numpy import save_file

import rnn2ff
from rnn2ff.export import read_exported
from rnn2ff.files import read_array
from rnn2ff.training import train

_FREE_BYTES = 2**21  # of memory that reading any file may take
_LARGEST_FULL = 3 * 2**31  # bytes: a sparse array is read as a full one of at most 2 GiB, which is then checked
_SIZE = 4


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        path: of the file that is changed.
        read: reads it as a user does; returns arrays and texts that can be compared.
        is_sealed: whether the file holds a hash of its content, so that no change may be read as another content.
        free_bytes: of memory that reading it may take, beside twice the file.
    """

    path: Path
    read: Callable[[], object]
    is_sealed: bool
    free_bytes: int = _FREE_BYTES


_MATRIX = np.arange(12.0).reshape(3, 4) / 7
_ARRAYS: dict[str, Callable[[Path], object]] = {
    "a.npy": lambda path: np.save(path, _MATRIX),
    "a.npz": lambda path: np.savez(path, W=_MATRIX),
    "packed.npz": lambda path: np.savez_compressed(path, W=_MATRIX),
    "a.mat": lambda path: scipy.io.savemat(path, {"W": _MATRIX}),
    "packed.mat": lambda path: scipy.io.savemat(path, {"W": _MATRIX}, do_compression=True),
    "v4.mat": lambda path: scipy.io.savemat(path, {"W": _MATRIX}, format="4"),
    "sparse.mat": lambda path: scipy.io.savemat(path, {"W": scipy.sparse.csc_array(_MATRIX)}),
    "struct.mat": lambda path: scipy.io.savemat(path, {"net": {"W": _MATRIX}}),
    "a.csv": lambda path: np.savetxt(path, _MATRIX, delimiter=","),
    "names.csv": lambda path: np.savetxt(path, _MATRIX, delimiter=";", header="a;b;c;d", comments=""),
}


def _array(path: Path) -> Kind:
    _ARRAYS[path.name](path)
    named = f"{path}:net.W" if path.name == "struct.mat" else path
    free_bytes = _LARGEST_FULL if path.name == "sparse.mat" else _FREE_BYTES
    return Kind(path, lambda: read_array(named, "weights"), is_sealed=False, free_bytes=free_bytes)


def _graph_of_units(path: Path) -> Kind:
    """Connections, as networkx or a spreadsheet writes them."""
    if path.suffix == ".csv":
        path.write_text("source,target,weight\na,b,0.5\nb,c,-1.25\nc,a,2\n")
    else:
        edges = "".join(
            f'<edge source="n{i}" target="n{(i + 1) % 3}"><data key="d0">{i}.5</data></edge>' for i in range(3)
        )
        path.write_text(
            '<?xml version="1.0" encoding="utf-8"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
            '<key id="d0" for="edge" attr.name="weight" attr.type="double"/><graph edgedefault="directed">'
            f'<node id="n0"/><node id="n1"/><node id="n2"/>{edges}</graph></graphml>'
        )

    def read() -> object:
        connectome = rnn2ff.read_connectome(path)
        return connectome.weights.toarray(), np.array(connectome.names)

    return Kind(path, read, is_sealed=False)


def _hdf5(path: Path) -> Kind:
    with h5py.File(path, "w") as file:
        file["W"] = _MATRIX
    content = path.read_bytes()
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(head.ljust(512, b"\0") + content)
    return Kind(path, lambda: read_array(path, "weights"), is_sealed=False)


def _cell(path: Path) -> Kind:
    save_file({"weight_hh_l0": np.eye(3, dtype="f4"), "weight_ih_l0": np.ones((3, 2), "f4")}, path)
    return Kind(path, lambda: rnn2ff.from_torch(path).params, is_sealed=False)


def _network() -> rnn2ff.RecurrentNetwork:
    return rnn2ff.random_threshold_linear(_SIZE, key=jr.key(0))


def _two_layer(*, is_rectified: bool = True) -> rnn2ff.TwoLayer:
    return rnn2ff.TwoLayer(_SIZE, 8, _SIZE, is_rectified=is_rectified, key=jr.key(1))


def _stimuli() -> jax.Array:
    return jr.normal(jr.key(2), (16, _SIZE))


def _model(path: Path) -> Kind:
    network, model = _network(), _two_layer()
    if path.name == "refined.safetensors":
        sweep = rnn2ff.best_sweep(network, *jr.normal(jr.key(3), (2, 16, _SIZE)))
        model = rnn2ff.Refined(_two_layer(is_rectified=False), network, sweep, num_sweeps=2)
    rnn2ff.save(path, model, card=rnn2ff.model_card(network, _stimuli()))
    return Kind(path, lambda: rnn2ff.load(path), is_sealed=True)


def _header(path: Path) -> Kind:
    path.write_text(rnn2ff.to_c(rnn2ff.quantize(_two_layer(), _stimuli())))
    return Kind(path, lambda: read_exported(path).predict(_stimuli()), is_sealed=False)


def _graph(path: Path) -> Kind:
    path.write_bytes(rnn2ff.to_onnx(_two_layer()))
    return Kind(path, lambda: read_exported(path).predict(_stimuli()), is_sealed=False, free_bytes=10 * _FREE_BYTES)


def _program(path: Path) -> Kind:
    path.write_bytes(rnn2ff.to_stablehlo(_two_layer()))
    return Kind(path, lambda: rnn2ff.load_stablehlo(path.read_bytes())(_stimuli()), is_sealed=True)


def _pairs(path: Path) -> Kind:
    """A file of a data set, which is the folder that contains the file."""
    network = _network()
    rnn2ff.store_steady_states(
        path.parent, network, _draw, num_samples=16, shard_size=8, description="Gaussian", key=jr.key(5)
    )
    return Kind(path, lambda: _stored(path.parent, network), is_sealed=True)


def _checkpoint(path: Path) -> Kind:
    def go_on() -> object:
        rates = jax.nn.relu(_stimuli())
        settings = {"num_steps": 4, "batch_size": 4, "num_evaluations": 2, "key": jr.key(6)}
        run = train(_two_layer(), _stimuli(), rates, checkpoint=path, **settings)
        return run.approximator, run.validation_errors

    go_on()
    return Kind(path, go_on, is_sealed=True)


_MAKERS = {
    **dict.fromkeys(_ARRAYS, _array),
    "graph.graphml": _graph_of_units,
    "edges.csv": _graph_of_units,
    "v73.mat": _hdf5,
    "cell.safetensors": _cell,
    "two_layer.safetensors": _model,
    "refined.safetensors": _model,
    "model_int8.h": _header,
    "model.onnx": _graph,
    "model.stablehlo": _program,
    "pairs1/manifest.json": _pairs,
    "pairs2/stimuli-000000.npy": _pairs,
    "pairs3/states-000001.npy": _pairs,
    "training.checkpoint": _checkpoint,
}
KINDS = tuple(_MAKERS)


def make_kinds(folder: Path, names: Sequence[str] = KINDS) -> dict[str, Kind]:
    """One small valid file of each kind, in a folder."""
    return {name: _MAKERS[name](folder / name) for name in names}


def _stored(folder: Path, network: rnn2ff.RecurrentNetwork) -> tuple:
    stored = rnn2ff.open_steady_states(folder, network)
    pairs = stored.read()
    return pairs.stimuli, pairs.states, pairs.rates, np.frombuffer(json.dumps(stored.manifest).encode(), np.uint8)


def _draw(key: jax.Array) -> jax.Array:
    return jr.normal(key, (_SIZE,))
