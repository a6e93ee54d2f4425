"""Data sets on disk: shards that are memory-mapped, and a manifest that says what they are.

A shard is one batch of a stream. It is written whole or not at all, and the manifest, written anew after each, lists
the shards that are complete. So a generation that was killed goes on where it stopped, and leaves the same bytes as one
that was not.
"""

import dataclasses
import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from tqdm.auto import tqdm

from rnn2ff._checks import check_at_least, fail
from rnn2ff.data.pairs import Pairs, stream_plan, stream_steady_states
from rnn2ff.data.stimuli import SampleStimulus
from rnn2ff.files import as_html, as_text, replacing, write_json
from rnn2ff.networks import RecurrentNetwork, network_hash
from rnn2ff.steady_state import Status, count_statuses

_FORMAT = "rnn2ff.steady_states.1"
_MANIFEST = "manifest.json"
_ARRAYS = ("stimuli", "states", "rates")
_PACKAGES = ("rnn2ff", "jax", "jaxlib", "numpy")


@dataclasses.dataclass(frozen=True, repr=False)
class StoredPairs:
    """A data set on disk; made by `store_steady_states`, opened by `open_steady_states`.

    Attributes:
        folder: where it lies.
        manifest: what it is: the network's hash, the stimuli in words, the solver, versions, shards and counts.
    """

    folder: Path
    manifest: dict[str, object]

    def _describe(self) -> tuple[str, dict[str, object]]:
        counts = {name: count for name, count in self.status_counts.items() if count}
        lines = {"folder": self.folder, "stimuli": self.manifest["stimuli"], "shards": len(self.manifest["shards"])}
        return f"{len(self)} stored pairs", lines | counts

    __repr__ = as_text
    _repr_html_ = as_html

    def __len__(self) -> int:
        return sum(shard["num_pairs"] for shard in self.manifest["shards"])

    @property
    def status_counts(self) -> dict[str, int]:
        """How the solve of every sample ended, those without a steady state included, which are not stored."""
        total = Counter({status.name: 0 for status in Status})
        for shard in self.manifest["shards"]:
            total.update(shard["status_counts"])
        return dict(total)

    def shards(self) -> Iterator[dict[str, Float[np.ndarray, "pair _"]]]:
        """Each shard's `stimuli`, `states` and `rates`, as read-only memory maps: nothing is read before it is used."""
        for index, shard in enumerate(self.manifest["shards"]):
            if shard["num_pairs"]:
                yield {name: np.load(_path(self.folder, name, index), mmap_mode="r") for name in _ARRAYS}

    def read(self) -> Pairs:
        """All pairs, in memory."""
        parts = [[np.array(shard[name]) for name in _ARRAYS] for shard in self.shards()]
        stimuli, states, rates = (jnp.asarray(np.concatenate(each)) for each in zip(*parts))
        return Pairs(stimuli, states, rates, self.status_counts)


def store_steady_states(
    folder: str | Path,
    network: RecurrentNetwork,
    sample_stimulus: SampleStimulus,
    *,
    num_samples: int,
    shard_size: int = 4096,
    description: str,
    devices: Sequence[jax.Device] | None = None,
    max_steps: int = 4096,
    progress: bool = False,
    key: PRNGKeyArray,
) -> StoredPairs:
    """Draw and solve stimuli, and keep the pairs on disk; or go on where the same call was interrupted.

    Args:
        folder: where to; made if it is not there.
        network: the network.
        sample_stimulus: draws one stimulus from a key; pure.
        num_samples: how many to draw, rounded up to whole shards.
        shard_size: samples drawn for each shard.
        description: the stimuli in words. A function cannot be compared with that of an earlier call; its words are.
        devices: as for `stream_steady_states`.
        max_steps: bound on the steps of each solve.
        progress: whether to show a progress bar, on standard error.
        key: a PRNG key.

    Raises:
        ValueError: if an option is out of range, or the folder holds something else.
        RuntimeError: if no stimulus leads to a steady state.
    """
    check_at_least("num_samples", num_samples, 1)
    check_at_least("shard_size", shard_size, 1)
    folder = Path(folder)
    plan = stream_plan(network, sample_stimulus, max_steps=max_steps, key=key)
    manifest = {
        "format": _FORMAT,
        "network_hash": network_hash(network),
        "stimuli": description,
        "key": np.asarray(jr.key_data(key)).tolist(),
        "solver": {"plan": plan.reason, "max_steps": max_steps},
        "dtype": network.dtype.name,
        "num_samples": num_samples,
        "shard_size": shard_size,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "shards": [],
    }
    manifest["shards"] = _shards_done(folder, manifest)
    num_shards = -(-num_samples // shard_size)
    stream = stream_steady_states(
        network,
        sample_stimulus,
        batch_size=shard_size,
        num_batches=num_shards,
        start=len(manifest["shards"]),
        plan=plan,
        devices=devices,
        max_steps=max_steps,
        key=key,
    )
    bar = tqdm(
        stream,
        desc="steady states",
        unit="shard",
        initial=len(manifest["shards"]),
        total=num_shards,
        disable=not progress,
    )
    for batch in bar:
        kept = np.asarray(batch.status == Status.converged)
        for name in _ARRAYS:
            with replacing(_path(folder, name, batch.index)) as temporary, temporary.open("wb") as file:
                np.save(file, np.asarray(getattr(batch, name))[kept], allow_pickle=False)
        shard = {"num_pairs": int(kept.sum()), "status_counts": count_statuses(batch.status)}
        manifest = {**manifest, "shards": [*manifest["shards"], shard]}
        write_json(folder / _MANIFEST, manifest)
    return open_steady_states(folder, network)


def open_steady_states(folder: str | Path, network: RecurrentNetwork) -> StoredPairs:
    """Open a data set, once it is seen to be whole and of this network.

    Args:
        folder: where it lies.
        network: whose steady states it should hold.

    Raises:
        ValueError: if there is no data set, it is of another network, unfinished or damaged.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if manifest["network_hash"] != network_hash(network):
        raise fail("folder", "holds the steady states of another network", network_hash(network), f"{folder}")
    stored = StoredPairs(folder, manifest)
    num_shards, num_done = -(-manifest["num_samples"] // manifest["shard_size"]), len(manifest["shards"])
    if num_done < num_shards:
        problem = "holds an unfinished data set; make the call that began it again, and it goes on"
        raise fail("folder", problem, f"{num_shards} shards", f"{num_done}")
    _check_shards(folder, manifest)
    if len(stored) == 0:
        raise fail("folder", "holds no pair", "at least one steady state", f"{stored.status_counts}")
    return stored


def _path(folder: Path, name: str, index: int) -> Path:
    return folder / f"{name}-{index:06d}.npy"


def _read_manifest(folder: Path) -> dict[str, object]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise fail("folder", "holds no data set", f"a file {_MANIFEST}", f"{folder}")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise fail("folder", "has a damaged manifest", "valid JSON", f"{path}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise fail("folder", "holds no data set", f"a manifest of format {_FORMAT}", f"{path}")
    return manifest


def _shards_done(folder: Path, wanted: dict[str, object]) -> list[dict]:
    """The complete shards of an interrupted call with the same settings; what it left half written is removed."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
    for leftover in [
        *folder.glob(f".{_MANIFEST}.*"),
        *(each for name in _ARRAYS for each in folder.glob(f".{name}-*")),
    ]:
        leftover.unlink()
    if not (folder / _MANIFEST).exists():
        if any(folder.iterdir()) and not _is_first_shard(folder):
            raise fail("folder", "is in use", "an empty or a new folder", f"{folder}")
        return []
    found = _read_manifest(folder)
    for name, value in wanted.items():
        if name != "shards" and found.get(name) != json.loads(json.dumps(value)):
            raise fail("folder", f"holds a data set with another `{name}`", value, f"{found.get(name)} in {folder}")
    _check_shards(folder, found)
    return found["shards"]


def _is_first_shard(folder: Path) -> bool:
    """Whether the folder holds nothing but arrays of a first shard, which no manifest lists yet."""
    return {path.name for path in folder.iterdir()} <= {_path(folder, name, 0).name for name in _ARRAYS}


def _check_shards(folder: Path, manifest: dict[str, object]) -> None:
    """Every listed array is there, of its length and dtype, and whole."""
    for index, shard in enumerate(manifest["shards"]):
        for name in _ARRAYS:
            path = _path(folder, name, index)
            expected = f"{shard['num_pairs']} rows of {manifest['dtype']}"
            try:
                array = np.load(path, mmap_mode="r" if shard["num_pairs"] else None, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise fail("folder", "is damaged", expected, f"{path}: {error}") from error
            if array.shape[:1] != (shard["num_pairs"],) or array.dtype.name != manifest["dtype"]:
                raise fail("folder", "is damaged", expected, f"{path}: {array.shape[0]} rows of {array.dtype.name}")
