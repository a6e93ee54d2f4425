"""An approximator on its way out of Python, and back: one file, readable by anything that reads safetensors."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from rnn2ff._checks import fail
from rnn2ff.approximators import TwoLayer
from rnn2ff.files import plain, replacing

_FORMAT = "rnn2ff.two_layer.1"
_ARRAYS = ("hidden_weights", "hidden_bias", "readout_weights", "readout_bias", "bypass_weights")


def save(path: str | Path, approximator: TwoLayer, *, card: Mapping[str, object] | None = None) -> None:
    """Write an approximator as a safetensors file, whole or not at all.

    Args:
        path: the file; what stands there is replaced.
        approximator: what to write.
        card: anything JSON can say about it (how it was trained, how good it is), kept in the file's metadata.

    Raises:
        ValueError: if the folder cannot be written to.
    """
    values = {name: getattr(approximator, name) for name in _ARRAYS}
    arrays = {name: np.asarray(value) for name, value in values.items() if value is not None}
    metadata = {
        "format": _FORMAT,
        "is_rectified": json.dumps(approximator.is_rectified),
        "card": json.dumps(plain(card or {}), allow_nan=False),
    }
    metadata["hash"] = _hash(arrays, metadata)
    with replacing(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata)


def load(path: str | Path) -> tuple[TwoLayer, dict[str, object]]:
    """Read an approximator and its card, as `save` wrote them.

    Raises:
        ValueError: if the file is missing, damaged, changed since it was written, or not an approximator.
    """
    path = Path(path)
    if not path.is_file():
        raise fail("path", "cannot be read", "an existing file", f"{path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise fail("path", "is damaged", "a whole safetensors file", f"{path}: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise fail("path", "is not an approximator", f"a file of format {_FORMAT}", f"{metadata.get('format')}")
    if _hash(arrays, metadata) != metadata.get("hash"):
        raise fail("path", "was changed after it was written", "what was saved", f"{path}")
    if jnp.asarray(arrays["hidden_weights"]).dtype != arrays["hidden_weights"].dtype:
        raise fail("path", "holds float64 weights", "`jax_enable_x64` to be set before loading them", "float32 only")
    # Made from its parts, not by its constructor, which draws random weights.
    approximator = object.__new__(TwoLayer)
    for name in _ARRAYS:
        object.__setattr__(approximator, name, jnp.asarray(arrays[name]) if name in arrays else None)
    object.__setattr__(approximator, "is_rectified", json.loads(metadata["is_rectified"]))
    return approximator, json.loads(metadata["card"])


def _hash(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Of everything in the file but the hash itself."""
    texts = {name: text for name, text in metadata.items() if name != "hash"}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
