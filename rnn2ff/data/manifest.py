"""The manifest of a data set on disk: JSON with a hash of itself, so that damage is detected.

A hash reveals damage, but not a file written by another program, so types are checked as well.
"""

import hashlib
import json
from pathlib import Path

from rnn2ff._checks import fail
from rnn2ff.files import write_json

ARRAYS = ("stimuli", "states", "rates")  # of a shard, one file each
MANIFEST = "manifest.json"
FORMAT = "rnn2ff.steady_states.2"
_MANIFEST_TYPES = {"network_hash": str, "stimuli": str, "num_samples": int, "shard_size": int, "shards": list}
_SHARD_TYPES = {"num_pairs": int, "status_counts": dict, "hashes": dict}


def read_manifest(folder: Path) -> dict[str, object]:
    """The manifest in a folder, undamaged and of this format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise fail("folder", "holds no data set", f"a file {MANIFEST}", f"{folder}")
    manifest = read_sealed(path)
    if manifest.get("format") != FORMAT:
        raise fail("folder", "holds no data set", f"a manifest of format {FORMAT}", f"{path}")
    _check_types(path, manifest, _MANIFEST_TYPES)
    for shard in manifest["shards"]:
        _check_types(path, shard, _SHARD_TYPES)
        _check_types(path, shard["hashes"], dict.fromkeys(ARRAYS, str))
        _check_types(path, shard["status_counts"], dict.fromkeys(shard["status_counts"], int))
    return manifest


def _check_types(path: Path, content: object, types: dict[str, type]) -> None:
    for name, kind in types.items():
        value = content.get(name) if isinstance(content, dict) else None
        least = 1 if name in ("num_samples", "shard_size") else 0
        if not isinstance(value, kind) or (kind is int and value < least):
            expected = f"`{name}` of type {kind.__name__}"
            raise fail("folder", f"has a damaged {path.name}", expected, f"{value!r:.80} in {path}")


def write_sealed(path: Path, content: dict[str, object]) -> None:
    """Write JSON with its hash."""
    write_json(path, {**content, "hash": _hash(content)})


def _hash(content: dict[str, object]) -> str:
    """The hash of everything but the hash itself."""
    others = {name: value for name, value in content.items() if name != "hash"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def read_sealed(path: Path) -> dict[str, object]:
    """Read what `write_sealed` wrote; anything else is refused."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise fail("folder", f"has a damaged {path.name}", "valid JSON", f"{path}: {error}") from error
    if isinstance(content, dict) and "hash" in content and content["hash"] == _hash(content):
        return content
    raise fail("folder", f"has a damaged {path.name}", "what was written", f"{path}, which has another hash, or none")
