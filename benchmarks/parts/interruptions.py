"""Jobs that write files: killed, on a full disk, or in a folder that cannot be written to."""

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.parts.trials import IN_ONE_SENTENCE

FAULTS = ("lost", "other bytes", "no error", "no sentence", "hang")
_LONGEST_SECONDS = 300.0  # of a job
_MODULES = [
    "benchmarks.parts.interruptions",
    "rnn2ff.analysis",
    "rnn2ff.training",
    "rnn2ff.export",
    "rnn2ff.cli.commands",
]
_SIZE = 4


class Job(NamedTuple):
    """Something that writes files into a folder.

    Attributes:
        run: does it, or resumes it.
        is_renewal: whether it replaces files that it wrote before, which exist until they are replaced; otherwise it
            starts in an empty folder and resumes where it was stopped.
    """

    run: Callable[[Path], None]
    is_renewal: bool


# --- the jobs ---------------------------------------------------------------------------------------------------------


def _network() -> object:
    import jax.random as jr

    import rnn2ff

    return rnn2ff.random_threshold_linear(_SIZE, key=jr.key(0))


def _draw(key: object) -> object:
    import jax.random as jr

    return jr.normal(key, (_SIZE,))


def _stimuli() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, _SIZE)).astype(np.float32)


def _layers(seed: int) -> object:
    import jax.random as jr

    import rnn2ff

    return rnn2ff.TwoLayer(_SIZE, 8, _SIZE, key=jr.key(seed))


def _generate(folder: Path) -> None:
    import jax.random as jr

    import rnn2ff

    settings = {"num_samples": 320, "shard_size": 16, "description": "Gaussian", "key": jr.key(1)}
    rnn2ff.store_steady_states(folder / "pairs", _network(), _draw, **settings)


def _train(folder: Path) -> None:
    import jax
    import jax.numpy as jnp
    import jax.random as jr

    import rnn2ff

    stimuli = jnp.asarray(_stimuli())
    settings = {"num_steps": 4000, "batch_size": 16, "num_evaluations": 20, "key": jr.key(2)}
    path = folder / "training.checkpoint"
    run = rnn2ff.train(_layers(1), stimuli, jax.nn.relu(stimuli), checkpoint=path, **settings)
    rnn2ff.save(folder / "model.safetensors", run.approximator)


def _export(folder: Path) -> None:
    """Every export that needs no extra, one after the other; the folder decides which of two models is exported."""
    import rnn2ff

    layers = _layers(_version(folder))
    rnn2ff.save(folder / "model.safetensors", layers)
    rnn2ff.write_mat(folder / "model.mat", layers)
    from rnn2ff.export import write_torch

    write_torch(folder / "model_torch.safetensors", layers)


def _page(folder: Path) -> None:
    import rnn2ff
    from rnn2ff.export import Scene

    scene = Scene("A network", "", _network(), _layers(_version(folder)), _stimuli())
    for _ in range(5):
        rnn2ff.write_page(folder / "index.html", [scene])


def _report(folder: Path) -> None:
    from rnn2ff.files import write_arrays, write_json

    version = _version(folder)
    numbers = np.random.default_rng(version).normal(size=(200, 50))
    write_json(folder / "report.json", {"version": version, "numbers": numbers})
    for name in ("states.npz", "states.csv", "states.mat"):
        write_arrays(folder / name, {"states": numbers})


def _version(folder: Path) -> int:
    """Which of two results a job writes: 0 at first, 1 where the file `again` says so."""
    return int((folder / "again").exists())


JOBS = {
    "generation": Job(_generate, is_renewal=False),
    "training": Job(_train, is_renewal=False),
    "export": Job(_export, is_renewal=True),
    "page": Job(_page, is_renewal=True),
    "report": Job(_report, is_renewal=True),
}


# --- in a process of its own ------------------------------------------------------------------------------------------


def _work(name: str, folder: str, most_bytes: int | None, pipe: object) -> None:
    """Run a job once its programs are compiled; report when it begins, and how it ended."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    jax.config.update("jax_compilation_cache_dir", str(Path(folder).parent / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with tempfile.TemporaryDirectory() as elsewhere:
        JOBS[name].run(Path(elsewhere))
    if most_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    pipe.send("begins")
    try:
        JOBS[name].run(Path(folder))
    except (ValueError, OSError) as error:
        pipe.send(f"{type(error).__name__}: {error}")
    else:
        pipe.send("done")


class _Worker:
    """A job in a process, to be killed or awaited. Processes are forked from one that has loaded the library."""

    def __init__(self, name: str, folder: Path, most_bytes: int | None = None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_MODULES)
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_work, args=(name, str(folder), most_bytes, end), daemon=True)
        self.process.start()
        end.close()
        self.began = self._received() == "begins"

    def _received(self) -> str:
        if not self.pipe.poll(_LONGEST_SECONDS):
            self.kill_after(0)
            return "hang"
        try:
            return self.pipe.recv()
        except EOFError:
            return "killed"

    def kill_after(self, seconds: float) -> None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def wait(self) -> str:
        word = self._received() if self.began else "hang"
        self.process.join()
        return word


# --- the attack -------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in its final place, and its bytes; files whose names begin with a dot are temporary."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "again"}


class _Trial(NamedTuple):
    """A job, and its result when it is not interrupted."""

    name: str
    base: Path
    old: dict[str, bytes]
    new: dict[str, bytes]
    seconds: float

    def fresh(self) -> Path:
        """A folder in the state before the job."""
        folder = Path(tempfile.mkdtemp(dir=self.base))
        for name, content in self.old.items():
            (folder / name).write_bytes(content)
        if JOBS[self.name].is_renewal:
            (folder / "again").touch()
        return folder

    def lost(self, folder: Path) -> str:
        """Files that have neither their old nor their new content."""
        files = contents(folder)
        if JOBS[self.name].is_renewal:
            wrong = [name for name in self.old if files.get(name) not in (self.old[name], self.new[name])]
        else:  # manifests grow, and checkpoints are removed; the next run checks that all files are intact
            final = [name for name in files if name in self.new and not name.endswith(("manifest.json", ".checkpoint"))]
            wrong = [name for name in final if files[name] != self.new[name]]
        return ", ".join(wrong)


def _prepare(name: str, base: Path) -> _Trial:
    old: dict[str, bytes] = {}
    if JOBS[name].is_renewal:
        first = Path(tempfile.mkdtemp(dir=base))
        _Worker(name, first).wait()
        old = contents(first)
    trial = _Trial(name, base, old, {}, 0.0)
    folder = trial.fresh()
    worker = _Worker(name, folder)
    started = time.perf_counter()
    word = worker.wait()
    if word != "done":
        raise RuntimeError(f"{name} fails without any interruption: {word}")
    return trial._replace(new=contents(folder), seconds=time.perf_counter() - started)


def attack(num_kills: int, num_full_disks: int, seed: int, names: tuple[str, ...] = tuple(JOBS)) -> list[dict]:
    """Kill jobs, in turns, at random instants, several times until one ends; and give them disks that are too small."""
    rows = {name: {"what": name, "counts": {}, "faults": []} for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        trials = [_prepare(name, Path(temporary)) for name in names]

        def count(name: str, what: str, detail: str = "", number: int = 0) -> None:
            counts = rows[name]["counts"]
            counts[what] = counts.get(what, 0) + 1
            if what in FAULTS:
                rows[name]["faults"].append({"seed": [seed, number], "what": what, "detail": detail})

        for number in range(num_kills):
            trial, rng = trials[number % len(trials)], np.random.default_rng([seed, number])
            folder = trial.fresh()
            for _ in range(1 + int(rng.integers(3))):  # again to resume
                _Worker(trial.name, folder).kill_after(rng.uniform(0, 1.1 * trial.seconds))
                lost = trial.lost(folder)
                count(trial.name, "lost" if lost else "killed", lost, number)
            word = _Worker(trial.name, folder).wait()
            is_same = word == "done" and contents(folder) == trial.new
            count(trial.name, "went on" if is_same else "hang" if word == "hang" else "other bytes", word, number)
            shutil.rmtree(folder)
        for number in range(num_full_disks):
            trial, rng = trials[number % len(trials)], np.random.default_rng([seed, number, 1])
            largest = max(map(len, trial.new.values()))
            folder = trial.fresh()
            word = _Worker(trial.name, folder, int(rng.integers(largest))).wait()
            lost = trial.lost(folder)
            what = "lost" if lost else "no error" if word == "done" else "hang" if word == "hang" else "full disk"
            count(trial.name, what, lost or word, number)
            word = _Worker(trial.name, folder).wait()
            is_same = word == "done" and contents(folder) == trial.new
            count(trial.name, "went on" if is_same else "other bytes", word, number)
            shutil.rmtree(folder)
        for trial in trials:
            word = _Worker(trial.name, Path("/proc")).wait()  # where no file can be made
            has_form = word != "done" and IN_ONE_SENTENCE.search(word)
            count(trial.name, "cannot be written" if has_form else "no sentence", word)
    return list(rows.values())
