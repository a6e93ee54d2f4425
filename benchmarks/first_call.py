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

import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tyro

from benchmarks.parts.first_call_cases import CASES
from benchmarks.parts.first_call_config import Config as Config
from benchmarks.parts.first_call_tables import describe
from benchmarks.parts.first_call_tables import marks as marks
from benchmarks.parts.first_call_watch import Watch
from experiments._script import run_script

_CACHE = {  # of the environment: keep all programs
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


# --- in the process of a case -----------------------------------------------------------------------------------------


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
        watch = Watch()
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


if __name__ == "__main__":
    if "--case" in sys.argv:
        _main_of_a_case()
    else:
        run_script("first_call", Config(), run, describe, folder=Path(__file__).parent)
