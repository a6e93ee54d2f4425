"""Data sets on disk: memory-mapped shards, and a manifest with their provenance.

A shard is one batch of a stream. Its arrays are written first, each atomically, and then a file of counts with their
hashes, which marks the shard as complete. When all shards are complete, their counts move to the manifest, which has a
hash of itself. An interrupted generation therefore resumes where it stopped and writes the same bytes as an
uninterrupted one, and changed files are refused. Processes of `jax.distributed` divide the shards by their index modulo
the number of processes; the first process alone writes the manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray
from tqdm.auto import tqdm

from rnn2ff._checks import check_sizes, fail
from rnn2ff.data.manifest import ARRAYS, FORMAT, MANIFEST, read_manifest, read_sealed, write_sealed
from rnn2ff.data.pairs import Batch, Pairs, make_batches, stream_plan
from rnn2ff.data.stimuli import SampleStimulus
from rnn2ff.files import alone_in, make_folder, replacing
from rnn2ff.networks import RecurrentNetwork, network_hash
from rnn2ff.records import readable
from rnn2ff.steady_state import Status, check_mesh

_COUNTS = "counts"
_PACKAGES = ("rnn2ff", "jax", "jaxlib", "numpy")
_PATIENCE, _PAUSE = 600.0, 0.5  # seconds to wait for a new shard of other processes, and between two checks


@readable
@dataclasses.dataclass(frozen=True, repr=False)
class StoredPairs:
    """A data set on disk; made by `store_steady_states`, opened by `open_steady_states`.

    Attributes:
        folder: where it is.
        manifest: the provenance: the network's hash, the stimuli in words, the solver, versions, shards and counts.
    """

    folder: Path
    manifest: dict[str, object]

    def _describe(self) -> tuple[str, dict[str, object]]:
        counts = {name: count for name, count in self.status_counts.items() if count}
        lines = {"folder": self.folder, "stimuli": self.manifest["stimuli"], "shards": len(self.manifest["shards"])}
        return f"{len(self)} stored pairs", lines | counts

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
                yield {name: np.load(_path(self.folder, name, index), mmap_mode="r") for name in ARRAYS}

    def read(self) -> Pairs:
        """All pairs, in memory."""
        parts = [[np.array(shard[name]) for name in ARRAYS] for shard in self.shards()]
        stimuli, states, rates = (jax.device_put(np.concatenate(arrays)) for arrays in zip(*parts))
        return Pairs(stimuli, states, rates, self.status_counts)


def store_steady_states(
    folder: str | Path,
    network: RecurrentNetwork,
    sample_stimulus: SampleStimulus,
    *,
    num_samples: int,
    shard_size: int = 4096,
    description: str,
    mesh: Mesh | None = None,
    max_steps: int = 4096,
    progress: bool = False,
    key: PRNGKeyArray,
) -> StoredPairs:
    """Draw and solve stimuli, and keep the pairs on disk; an interrupted call resumes.

    Where `jax.distributed` is initialized all processes make this call and share the work; a later call with another
    number of processes may resume it.

    Args:
        folder: where to write, the same for all processes; made if it does not exist.
        network: the network.
        sample_stimulus: draws one stimulus from a key; pure.
        num_samples: how many to draw, rounded up to whole shards.
        shard_size: samples drawn for each shard.
        description: the stimuli in words. These are compared with those of an earlier call, since functions cannot be.
        mesh: devices of this process that divide each shard, as for `solve_steady_states`.
        max_steps: bound on the steps of each solve.
        progress: whether to show a progress bar, on standard error.
        key: a PRNG key.

    Raises:
        ValueError: if an option is out of range, the folder holds something else, another
            process writes to it, or the mesh has devices of other processes.
        RuntimeError: if no stimulus leads to a steady state, or another process adds no shard for 10 minutes.
    """
    check_sizes(num_samples=num_samples, shard_size=shard_size)
    mesh = check_mesh(mesh)
    folder = Path(folder)
    plan = stream_plan(network, sample_stimulus, max_steps=max_steps, key=key)
    manifest = {
        "format": FORMAT,
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
    make_folder(folder)
    with alone_in(folder) if jax.process_count() == 1 else nullcontext():
        settings = {"plan": plan, "mesh": mesh, "max_steps": max_steps, "key": key}
        _generate(folder, manifest, network, sample_stimulus, settings, progress)
    return open_steady_states(folder, network)


def _generate(folder, manifest, network, sample_stimulus, settings, progress) -> None:
    """Generate the missing shards of this process, and wait for those of others."""
    process, num_processes = jax.process_index(), jax.process_count()
    num_samples, shard_size = manifest["num_samples"], manifest["shard_size"]
    num_shards = -(-num_samples // shard_size)
    mine = range(process, num_shards, num_processes)
    if process == 0:
        _begin(folder, manifest)
    else:
        _wait("the manifest of the first process", (folder / MANIFEST).is_file, lambda: 0)
    is_finished = _check_same(folder, manifest)
    _remove_leftovers(folder, mine)
    done = {} if is_finished else _counts(folder, mine)
    _check_shards(folder, done)
    left = [] if is_finished else [index for index in mine if index not in done]
    batches = make_batches(network, sample_stimulus, left, batch_size=shard_size, **settings)
    counts = {"initial": len(mine) - len(left), "total": len(mine)}
    for batch in tqdm(batches, desc="steady states", unit="shard", **counts, disable=not progress):
        write_sealed(_path(folder, _COUNTS, batch.index), _write_arrays(folder, batch))
    if not is_finished:
        _finish(folder, manifest, num_shards, is_first=process == 0)
    if process == 0:  # also after a call that was killed after it completed the manifest
        for path in folder.glob(f"{_COUNTS}-*"):
            path.unlink()


def _begin(folder: Path, manifest: dict[str, object]) -> None:
    """Write the manifest, unless there is one; the folder must be new."""
    for leftover in folder.glob(f".{MANIFEST}.*"):
        leftover.unlink()
    if (folder / MANIFEST).exists():
        return
    if any(folder.iterdir()):
        raise fail("folder", "is in use", "an empty or a new folder", f"{folder}")
    write_sealed(folder / MANIFEST, manifest)


def _check_same(folder: Path, wanted: dict[str, object]) -> bool:
    """Whether the data set is finished; one with other settings is refused."""
    manifest = read_manifest(folder)
    for name, value in wanted.items():
        if name != "shards" and manifest.get(name) != json.loads(json.dumps(value)):
            raise fail("folder", f"holds a data set with another `{name}`", value, f"{manifest.get(name)} in {folder}")
    return _is_finished(manifest)


def _is_finished(manifest: dict[str, object]) -> bool:
    return len(manifest["shards"]) == -(-manifest["num_samples"] // manifest["shard_size"])


def _counts(folder: Path, indices: Iterable[int]) -> dict[int, dict]:
    """The counts of the complete shards among these."""
    paths = {index: _path(folder, _COUNTS, index) for index in indices}
    return {index: read_sealed(path) for index, path in paths.items() if path.is_file()}


def _remove_leftovers(folder: Path, indices: range) -> None:
    """Delete temporary files that an interrupted run left of these shards."""
    for name in (*ARRAYS, _COUNTS):
        for leftover in folder.glob(f".{name}-*"):
            if int(leftover.name.removeprefix(f".{name}-").partition(".")[0]) in indices:
                leftover.unlink()


def _finish(folder: Path, manifest: dict[str, object], num_shards: int, *, is_first: bool) -> None:
    """Wait for the shards of all processes; the first process then moves their counts to the manifest."""

    def num_done() -> int:
        return sum(1 for _ in folder.glob(f"{_COUNTS}-*"))

    if not is_first:
        _wait("the shards of all processes", lambda: _is_finished(read_manifest(folder)), num_done)
        return
    _wait("the shards of all processes", lambda: num_done() == num_shards, num_done)
    write_sealed(folder / MANIFEST, {**manifest, "shards": list(_counts(folder, range(num_shards)).values())})


def _wait(what: str, is_there: Callable[[], bool], progress: Callable[[], int]) -> None:
    """Wait for other processes, as long as they make progress."""
    last, since = progress(), time.monotonic()
    while not is_there():
        time.sleep(_PAUSE)
        now = progress()
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > _PATIENCE:
            stopped = f"Another process has stopped. Expected {what}, got no new shard for {_PATIENCE:g} s."
            raise RuntimeError(f"{stopped} Make the call again in all processes to resume.")


def open_steady_states(folder: str | Path, network: RecurrentNetwork) -> StoredPairs:
    """Open a data set, after checking that it is complete and of this network.

    Args:
        folder: where it is.
        network: whose steady states it should hold.

    Raises:
        ValueError: if there is no data set, it is of another network, unfinished or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest["network_hash"] != network_hash(network):
        raise fail("folder", "holds the steady states of another network", network_hash(network), f"{folder}")
    stored = StoredPairs(folder, manifest)
    if not _is_finished(manifest):
        num_shards = -(-manifest["num_samples"] // manifest["shard_size"])
        num_done = sum(1 for _ in folder.glob(f"{_COUNTS}-*"))
        problem = "holds an unfinished data set; repeat the call that began it to resume"
        raise fail("folder", problem, f"{num_shards} shards", f"{num_done}")
    _check_shards(folder, dict(enumerate(manifest["shards"])))
    if len(stored) == 0:
        raise fail("folder", "holds no pair", "at least one steady state", f"{stored.status_counts}")
    return stored


def _path(folder: Path, name: str, index: int) -> Path:
    return folder / f"{name}-{index:06d}.{'json' if name == _COUNTS else 'npy'}"


def _write_arrays(folder: Path, batch: Batch) -> dict[str, object]:
    """Write the pairs of a batch; returns their counts and hashes."""
    pairs, hashes = batch.pairs, {}
    for name in ARRAYS:
        with replacing(_path(folder, name, batch.index)) as temporary:
            np.save(temporary, np.asarray(getattr(pairs, name)), allow_pickle=False)
            hashes[name] = _file_hash(temporary)
    return {"num_pairs": len(pairs), "status_counts": pairs.status_counts, "hashes": hashes}


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_shards(folder: Path, shards: dict[int, dict]) -> None:
    """Every array exists and has its hash."""
    for index, shard in shards.items():
        for name in ARRAYS:
            if not (path := _path(folder, name, index)).is_file():
                raise fail("folder", "is damaged", f"a file {path.name}", f"none in {folder}")
            if _file_hash(path) != shard["hashes"][name]:
                raise fail("folder", "is damaged", "what was written", f"{path}, which has another hash")
