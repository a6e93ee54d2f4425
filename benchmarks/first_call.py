"""What does a first call cost?

Each case runs in a fresh process: the first call, a second one like it, and one with another batch size. The first call
is made again in a process that finds a persistent compilation cache, filled by an earlier one.

* **seconds** of a call, until its result is there. Importing JAX and this library, making the stimuli and starting the
  backend are not part of it; tracing, lowering and compiling are. **CPU seconds** are those of all threads, which tell
  more on a machine that has other work. Medians over processes.
* **programs** that XLA compiles while a call runs: JAX's events of a backend compilation, less those that the
  persistent cache serves, which are the **cache hits**. The cache keeps every program, however small or quick.
* **to the device**: transfers from host memory, explicit or not, as `jax.transfer_guard_host_to_device` reports them:
  one for each array, and for each Python number that a program takes or an index is made of.
* **to the host**: the same in the other direction, on accelerators. A processor's arrays are read in place, which the
  guard does not see, so there it is not counted.

A plan "made before" is made in the same process, whose compiled programs are then forgotten (`jax.clear_caches`).
"""

import contextlib
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import tyro

from benchmarks.parts.marks import marks_table
from experiments._script import run_script, table

_COMPILED = "/jax/core/compile/backend_compile_duration"  # also where the persistent cache has the program
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_TO_DEVICE, _TO_HOST = "host-to-device transfer", "device-to-host transfer"  # in the lines of the transfer guard
_NUM_PLANNED = 512  # stimuli, none of them solved, that a plan is made from
_SERVED_TOLERANCE = 0.02
_CACHE = {  # of the environment: keep all programs
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the weights and the stimuli."""
    cases: tuple[str, ...] = ()
    """Which cases; all of them if empty."""
    state_size: int = 128
    """Units of the network whose steady states are solved."""
    batch_sizes: tuple[int, int] = (20_000, 12_345)
    """Stimuli of the first two calls, and of the third, of `solve_steady_states`, `solve_batch`, `rnn2ff solve`."""
    num_served: tuple[int, int] = (4096, 3000)
    """The same, for `predict_or_solve`."""
    num_distilled: tuple[int, int] = (20_000, 15_000)
    """Samples of `distill`; the first is its default."""
    num_training_steps: int = 5_000
    """Of `distill`, by default."""
    num_starts: tuple[int, int] = (256, 200)
    """Starts of `find_fixed_points`."""
    num_processes: int = 3
    """The most fresh processes of a case, each with and without the cache; slow cases get fewer, at least 1."""
    budget_seconds: float = 60.0
    """For the processes of a case, without and with the cache each; none is started when more is spent."""
    most_seconds: float = 600.0
    """For one process; a case that takes longer has a row that says so."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            cases=("solve_steady_states", "solve_batch"),
            state_size=16,
            batch_sizes=(64, 40),
            num_processes=1,
        )


class Case(NamedTuple):
    """A public function, called as a user calls it.

    Attributes:
        function: the attribute of `rnn2ff` that is called; a case whose function is not there is not run.
        build: from the config and a folder for files to a call, which takes a batch size and returns arrays.
        sizes: the field of the config with the batch sizes.
    """

    function: str
    build: Callable[[Config, Path], Callable[[int], object]]
    sizes: str


class Calls(NamedTuple):
    """Measurements of one call.

    Attributes:
        seconds: until its result was available.
        cpu_seconds: of all threads of the process meanwhile.
        programs: compiled by XLA.
        cache_hits: programs that the persistent cache had.
        to_device: transfers from the host.
        to_host: transfers to the host; None on processors, where they are not seen.
    """

    seconds: float
    cpu_seconds: float
    programs: int
    cache_hits: int
    to_device: int
    to_host: int | None


# --- the cases, which run in processes of their own -------------------------------------------------------------------


def _gauss(config: Config, num_stimuli: int, *, stimulus_seed: int = 0):
    from benchmarks.parts.problems import make_problem

    return make_problem("gauss09", config.state_size, num_stimuli, seed=config.seed, stimulus_seed=stimulus_seed)


def _plan(config: Config):
    """A plan from other stimuli, as if an earlier process had made it: what was compiled for it is forgotten."""
    import jax

    import rnn2ff

    problem = _gauss(config, _NUM_PLANNED, stimulus_seed=1)
    plan = rnn2ff.plan_steady_states(problem.network, problem.stimuli)
    jax.clear_caches()
    return plan


def _solve(config: Config, folder: Path, *, has_plan: bool) -> Callable[[int], object]:
    import rnn2ff

    del folder
    plan = _plan(config) if has_plan else None
    problem = _gauss(config, max(config.batch_sizes))
    return lambda size: rnn2ff.solve_steady_states(problem.network, problem.stimuli[:size], solver=plan)


def _solve_batch(config: Config, folder: Path, *, has_plan: bool) -> Callable[[int], object]:
    import equinox as eqx

    import rnn2ff

    del folder
    plan = _plan(config) if has_plan else None
    problem = _gauss(config, max(config.batch_sizes))
    solve = eqx.filter_jit(rnn2ff.solve_batch)  # `jax.jit` with what is static in a network left out
    return lambda size: solve(problem.network, problem.stimuli[:size], plan)


def _distill(config: Config, folder: Path, *, has_jumps: bool) -> Callable[[int], object]:
    import jax
    import jax.random as jr

    import rnn2ff

    del folder
    network = rnn2ff.winner_take_all(12) if has_jumps else rnn2ff.partition_competition(4, 8)

    def call(size: int) -> object:
        distillation = rnn2ff.distill(
            network,
            lambda key: jr.uniform(key, (network.stimulus_size,)),
            num_samples=size,
            num_steps=config.num_training_steps,
            key=jr.key(config.seed),
        )
        return jax.tree.leaves(distillation.approximator)

    return call


def _find_fixed_points(config: Config, folder: Path) -> Callable[[int], object]:
    import jax.numpy as jnp
    import jax.random as jr

    import rnn2ff

    del folder
    network = rnn2ff.partition_competition(4, 8, self_excitation=1.3)
    stimulus = jnp.linspace(0, 1, network.stimulus_size)
    key = jr.key(config.seed)
    return lambda size: rnn2ff.find_fixed_points(network, stimulus, num_starts=size, key=key).states


def _predict_or_solve(config: Config, folder: Path) -> Callable[[int], object]:
    import jax.random as jr
    import numpy as np

    import rnn2ff

    del folder
    network = rnn2ff.partition_competition(4, 8)
    approximator = rnn2ff.TwoLayer(network.stimulus_size, 160, network.rate_size, key=jr.key(config.seed))
    rng = np.random.default_rng(config.seed)
    stimuli = rng.uniform(size=(max(config.num_served), network.stimulus_size)).astype(np.float32)

    def call(size: int) -> object:
        return rnn2ff.predict_or_solve(network, approximator, stimuli[:size], tolerance=_SERVED_TOLERANCE).rates

    return call


def _command_line(config: Config, folder: Path) -> Callable[[int], object]:
    """`rnn2ff solve`, from and to files, in this process: what it imports is imported already."""
    import numpy as np

    from rnn2ff import cli

    problem = _gauss(config, max(config.batch_sizes))
    np.save(folder / "W.npy", problem.weights)
    for size in config.batch_sizes:
        np.save(folder / f"U{size}.npy", problem.stimuli[:size])

    def call(size: int) -> object:
        options = {"--weights": "W.npy", "--stimuli": f"U{size}.npy", "--out": "states.npz"}
        paths = [part for name, file in options.items() for part in (name, str(folder / file))]
        saved_arguments, sys.argv = sys.argv, ["rnn2ff", "solve", *paths, "--overwrite", "--json"]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                cli.main()
        finally:
            sys.argv = saved_arguments
        return None

    return call


_SOLVE, _SOLVE_BATCH, _PLANNED = "solve_steady_states", "solve_batch", ", plan made before"
_DISTILL, _JUMPING = "distill", ", states that jump"

CASES = {
    _SOLVE: Case(_SOLVE, functools.partial(_solve, has_plan=False), "batch_sizes"),
    f"{_SOLVE}{_PLANNED}": Case(_SOLVE, functools.partial(_solve, has_plan=True), "batch_sizes"),
    _SOLVE_BATCH: Case(_SOLVE_BATCH, functools.partial(_solve_batch, has_plan=False), "batch_sizes"),
    f"{_SOLVE_BATCH}{_PLANNED}": Case(_SOLVE_BATCH, functools.partial(_solve_batch, has_plan=True), "batch_sizes"),
    _DISTILL: Case(_DISTILL, functools.partial(_distill, has_jumps=False), "num_distilled"),
    f"{_DISTILL}{_JUMPING}": Case(_DISTILL, functools.partial(_distill, has_jumps=True), "num_distilled"),
    "find_fixed_points": Case("find_fixed_points", _find_fixed_points, "num_starts"),
    "predict_or_solve": Case("predict_or_solve", _predict_or_solve, "num_served"),
    "rnn2ff solve": Case(_SOLVE, _command_line, "batch_sizes"),
}


# --- what is measured in these processes ------------------------------------------------------------------------------


class _Watch:
    """Counts programs and cache hits from when it is made, and transfers on request."""

    def __init__(self):
        import jax

        self.num_programs = self.num_hits = 0
        jax.monitoring.register_event_duration_secs_listener(self._note_duration)
        jax.monitoring.register_event_listener(self._note)
        for direction in ("host_to_device", "device_to_host"):
            jax.config.update(f"jax_transfer_guard_{direction}", "log_explicit")  # of all threads
        self.sees_to_host = jax.default_backend() != "cpu"  # and starts the backend

    def _note_duration(self, event: str, seconds: float, **more: object) -> None:
        del seconds, more
        self.num_programs += event == _COMPILED

    def _note(self, event: str, **more: object) -> None:
        del more
        self.num_hits += event == _CACHE_HIT

    def measure(self, call: Callable[[], object]) -> Calls:
        """Call once, and return the measurements."""
        import jax

        before = self.num_programs, self.num_hits
        with _standard_error() as lines:
            started = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            seconds, cpu_seconds = time.perf_counter() - started[0], time.process_time() - started[1]
        num_programs, num_hits = self.num_programs - before[0], self.num_hits - before[1]
        to_device, to_host = (sum(direction in line for line in lines) for direction in (_TO_DEVICE, _TO_HOST))
        to_host = to_host if self.sees_to_host else None
        return Calls(seconds, cpu_seconds, num_programs - num_hits, num_hits, to_device, to_host)


@contextlib.contextmanager
def _standard_error() -> Iterator[list[str]]:
    """The lines that are written to standard error meanwhile, also by XLA; those of the guard are not passed on."""
    lines = []
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
            others = [line for line in lines if _TO_DEVICE not in line and _TO_HOST not in line]
            sys.stderr.write("".join(f"{line}\n" for line in others))


@dataclasses.dataclass(frozen=True)
class _CaseOptions:
    """The settings of the process of one case."""

    case: str
    """Name of the case."""
    config: str
    """The config, as JSON."""
    calls: int = 3
    """How many: the first, the second, and one with another batch size."""


def measure_case(name: str, config: Config, num_calls: int = 3) -> dict:
    """The calls of a case, made in this process, which should be fresh.

    Args:
        name: of the case.
        config: the settings.
        num_calls: how many of the three.

    Returns:
        The measurements of the calls `first`, `second` and `other`; or the reason why the case is not run.
    """
    import rnn2ff

    case = CASES[name]
    if not hasattr(rnn2ff, case.function):
        return {"reason": f"rnn2ff has no `{case.function}`"}
    size, other_size = getattr(config, case.sizes)
    with tempfile.TemporaryDirectory() as folder:
        call = case.build(config, Path(folder))
        watch = _Watch()
        sizes = {"first": size, "second": size, "other": other_size}
        return {
            which: watch.measure(functools.partial(call, sizes[which]))._asdict() for which in list(sizes)[:num_calls]
        }


def _main_of_a_case() -> None:
    options = tyro.cli(_CaseOptions)
    measured = measure_case(options.case, Config(**json.loads(options.config)), options.calls)
    print(json.dumps(measured))


# --- the processes ----------------------------------------------------------------------------------------------------


def run(config: Config) -> list[dict]:
    """One row per case; without numbers, but with the reason, if its function does not exist or takes too long."""
    unknown = sorted(set(config.cases) - set(CASES))
    if unknown:
        msg = f"`cases` has unknown names. Expected some of {', '.join(CASES)}, got {', '.join(unknown)}."
        raise ValueError(msg)
    # A list: a record that is written while cases run would start a backend here, and take the memory of a GPU.
    return [_run_case(name, config) for name in config.cases or CASES]


def _run_case(name: str, config: Config) -> dict:
    size, other_size = getattr(config, CASES[name].sizes)
    row = {"case": name, "size": size, "other_size": other_size}
    cold = _repeat(lambda: _in_a_process(name, config), config)
    if "reason" in cold[0]:
        return {**row, "kind": "not run", "reason": cold[0]["reason"]}
    with tempfile.TemporaryDirectory() as folder:
        filling = _in_a_process(name, config, num_calls=1, cache=folder)
        warm = [filling]
        if "reason" not in filling:
            warm = _repeat(lambda: _in_a_process(name, config, num_calls=1, cache=folder), config)
    stuck = [result["reason"] for result in (*cold, *warm) if "reason" in result]
    if stuck:
        return {**row, "kind": "not run", "reason": stuck[0]}
    calls = {
        **{which: [result[which] for result in cold] for which in cold[0]},
        "cached": [result["first"] for result in warm],
    }
    return {**row, "kind": "measured", "num_processes": len(cold), "calls": {w: _median(c) for w, c in calls.items()}}


def _repeat(measure: Callable[[], dict], config: Config) -> list[dict]:
    results, started = [], time.perf_counter()
    while not results or (
        len(results) < config.num_processes and time.perf_counter() - started < config.budget_seconds
    ):
        results.append(measure())
        if "reason" in results[-1]:
            break
    return results


def _median(calls: list[dict]) -> dict:
    """The medians of the seconds, of which all are kept as well, and the largest of the counts."""
    largest = {name: max((call[name] for call in calls), key=lambda x: -1 if x is None else x) for name in calls[0]}
    seconds = {name: [call[name] for call in calls] for name in ("seconds", "cpu_seconds")}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {**largest, **medians, "all_seconds": seconds["seconds"]}


def _in_a_process(name: str, config: Config, *, num_calls: int = 3, cache: str | None = None) -> dict:
    environment = {variable: value for variable, value in os.environ.items() if variable != "JAX_COMPILATION_CACHE_DIR"}
    if cache is not None:
        environment |= {**_CACHE, "JAX_COMPILATION_CACHE_DIR": cache, "JAX_ENABLE_COMPILATION_CACHE": "true"}
    command = [sys.executable, "-m", "benchmarks.first_call", "--case", name, "--calls", str(num_calls)]
    command += ["--config", json.dumps(dataclasses.asdict(config))]
    root = Path(__file__).parent.parent
    where = {"cwd": root, "env": environment, "timeout": config.most_seconds}
    try:
        done = subprocess.run(command, **where, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        return {"reason": f"it did not end in {config.most_seconds:g} seconds"}
    if done.returncode:
        msg = f"The process of {name!r} failed:\n{done.stderr.strip()}"
        raise RuntimeError(msg)
    return json.loads(done.stdout.splitlines()[-1])


# --- what is printed --------------------------------------------------------------------------------------------------

_MARKS = {  # case -> the call, what of it, what it is called, and the most there may be
    **dict.fromkeys(
        (_SOLVE, f"{_SOLVE}{_PLANNED}", _SOLVE_BATCH, f"{_SOLVE_BATCH}{_PLANNED}"),
        (
            ("first", "programs", "programs of the first call", 6),
            ("first", "seconds", "seconds of the first call", 4.0),
            ("cached", "seconds", "seconds of the first call, with the cache", 1.5),
            ("other", "programs", "programs for another batch size", 0),
        ),
    ),
    **dict.fromkeys((_DISTILL, f"{_DISTILL}{_JUMPING}"), (("first", "programs", "programs of the first call", 25),)),
}


def marks(rows: list[dict]) -> Iterator[dict]:
    """The required and the measured value, and whether the mark is met; of the sizes that the marks were set for."""
    for row in rows:
        for call, name, what, most in _MARKS.get(row["case"], ()):
            if call == "other" and row["case"].startswith(_SOLVE_BATCH):
                continue  # it is under `jit`, which compiles for every shape
            received = row["calls"][call][name] if row["kind"] == "measured" else None
            is_met = received is not None and received <= most
            yield {"what": f"{row['case']}: {what}", "bound": "at most", "mark": most, "received": received,
                   "is_met": is_met}  # fmt: skip


def describe(rows: list[dict]) -> str:
    """A table of the calls, one of the transfers, and the marks."""
    header = ["case", "size", "programs", "seconds", "CPU seconds", "second call", "programs", "other size"]
    header += ["programs", "seconds", "with cache", "programs", "cache hits"]
    lines, moved = [], []
    for row in rows:
        if row["kind"] == "not run":
            lines.append([f"{row['case']}: no numbers, {row['reason']}", *"-" * (len(header) - 1)])
            continue
        first, second, other, cached = (row["calls"][which] for which in ("first", "second", "other", "cached"))
        seconds = [f"{call['seconds']:.2f}" for call in (first, second, other, cached)]
        lines.append(
            [
                *(row["case"], row["size"], first["programs"], seconds[0], f"{first['cpu_seconds']:.2f}"),
                *(seconds[1], second["programs"], row["other_size"], other["programs"], seconds[2]),
                *(seconds[3], cached["programs"], cached["cache_hits"]),
            ]
        )
        counts = [call[name] for name in ("to_device", "to_host") for call in (first, second, other)]
        moved.append([row["case"], *("-" if count is None else count for count in counts)])
    parts = [table(header, lines)]
    if moved:
        ways = ("to the device", "to the host")
        calls = [f"{which}, {way}" for way in ways for which in ("first", "second", "other")]
        parts.append(f"Transfers\n\n{table(['case', *calls], moved)}")
    return "\n\n".join([*parts, f"Marks\n\n{marks_table(list(marks(rows)))}"])


if __name__ == "__main__":
    if "--case" in sys.argv:
        _main_of_a_case()
    else:
        run_script("first_call", Config(), run, describe, folder=Path(__file__).parent)
