"""Run the benchmarks: `python -m benchmarks`. It prints tables, and saves records, figures and `report.md`."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from benchmarks.parts.suite import SUITE, TIMED
from benchmarks.report import write_report
from rnn2ff.compiling import environment_that_keeps_programs

_HERE = Path(__file__).parent
_QUICK_OUT = _HERE.parent / "build" / "bench-quick"
_TIMED_OUT = _HERE.parent / "build" / "bench-timed"
_STOP_SECONDS = 10.0  # from the signal that ends a benchmark to the one that it cannot ignore
_PROBE = "import jax; each = jax.devices(); print(each[0].platform, len(each), each[0].device_kind, sep='\\n')"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the suite; the settings of a single benchmark are options of its own script."""

    quick: bool = False
    """Run only the two that compare passes with rollouts, small, in less than 3 minutes; results: build/bench-quick."""
    only: tuple[str, ...] = ()
    """Names of the benchmarks to run; by default all."""
    minutes: Annotated[float | None, tyro.conf.arg(help_behavior_hint="(optional)")] = None
    """A time limit, for a device that is lent for a while: the most informative rows come first, and those that are
    done when the time ends are kept. Results of a processor go to build/bench-timed."""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """What to run on; by default what JAX takes."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next quick, smoke or timed run. Full runs compile
    everything themselves, since they report how long that takes."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Of matrix products. Lower precisions change how many steps a solver takes; processors have only the highest."""
    smoke: bool = False
    """Run every benchmark in its smallest version, to check that it works; results go to build/smoke."""
    out: Path | None = None
    """Folder of the report, the records and the figures; by default benchmarks/, or a folder in it for a gpu or tpu."""


def main() -> None:
    """Run the selected benchmarks, each in its own process, and write the report."""
    options = tyro.cli(Options, prog="python -m benchmarks", description="Run the benchmarks, and write a report.")
    jobs = _choose(options)
    environment = dict(os.environ, JAX_DEFAULT_MATMUL_PRECISION=options.precision)
    if options.device == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    if options.cache and (options.quick or options.smoke or options.minutes is not None):
        environment |= environment_that_keeps_programs()
    platform = _probe(options.device, environment)
    if platform == "gpu":
        # Without the trials of Triton kernels, which take XLA 6 to 14 s for each shape of a product at "highest".
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false".strip()
    out = options.out or _default_out(options, platform)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    failed = {}
    for job in jobs:
        left = None if deadline is None else job.share * (deadline - time.monotonic())
        if left is not None and left <= 0:
            print(f"\n=== {job.name}: not begun, the time has ended", flush=True)
            continue
        # Each has a process of its own, so that none inherits threads, memory or compiled programs from another, and
        # one that fails does not affect the others.
        command = [sys.executable, "-m", f"benchmarks.{job.name}", *job.options, "--out", str(out.resolve())]
        print(f"\n=== {job.name}\n", flush=True)
        started = time.perf_counter()
        problem = _run(command, environment, left)
        if problem is not None:
            failed[job.name] = problem
        print(f"{job.name}: {time.perf_counter() - started:.0f} seconds", flush=True)
    path = write_report(out, [benchmark.name for benchmark in SUITE], failed)
    print(f"\nReport: {path}")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}.")


class _Job(NamedTuple):
    """A script to run, its options, and its share of the remaining time."""

    name: str
    options: tuple[str, ...]
    share: float = 1.0


def _run(command: list[str], environment: dict[str, str], seconds: float | None) -> str | None:
    """Run a script to its end, or for a limited time, after which its record has the rows so far; or why it failed."""
    pipes = {"stderr": subprocess.PIPE, "text": True}
    # In a session of its own, so that the processes that it starts end with it.
    process = subprocess.Popen(command, cwd=_HERE.parent, env=environment, **pipes, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        print("The time has ended; rows that were written are kept.", flush=True)
        return None
    finally:
        _stop(process)
    sys.stderr.write(errors)
    if process.returncode == 0:
        return None
    return (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is not None:
        return
    for stop_signal in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, stop_signal)
        try:
            process.communicate(timeout=_STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def _choose(options: Options) -> list[_Job]:
    names = [benchmark.name for benchmark in SUITE]
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        sys.exit(f"`--only` has unknown names. Expected some of {', '.join(names)}, got {', '.join(unknown)}.")
    if options.minutes is not None and not options.minutes > 0:
        sys.exit(f"`--minutes` is out of range. Expected a number above 0, got {options.minutes:g}.")
    jobs = _jobs(options)
    chosen = [job for job in jobs if not options.only or job.name in options.only]
    if not chosen:
        expected = f"some of {', '.join(job.name for job in jobs)}, which take part in such a run"
        sys.exit(f"`--only` selects no benchmark. Expected {expected}.")
    return chosen


def _jobs(options: Options) -> list[_Job]:
    """All benchmarks that take part in a run of this kind, with their options."""
    if options.quick:
        jobs = [_Job(benchmark.name, benchmark.quick) for benchmark in SUITE if benchmark.quick is not None]
    elif options.minutes is not None:
        jobs = [_Job(*script) for script in TIMED]
    else:
        jobs = [_Job(benchmark.name, ()) for benchmark in SUITE]
    return [job._replace(options=("--smoke",)) for job in jobs] if options.smoke else jobs


def _probe(device: str | None, environment: dict[str, str]) -> str:
    """The platform of JAX, found in a process of its own, so that this process occupies no device."""
    done = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"JAX finds no device: {done.stderr.strip().splitlines()[-1]}")
    platform, count, kind = done.stdout.strip().splitlines()[-3:]
    if device not in (None, platform):
        sys.exit(f"`--device` is not available. Expected the platform of JAX here, {platform}, got {device}.")
    print(f"Running on {platform}: {count} x {kind}.")
    return platform


def _default_out(options: Options, platform: str) -> Path:
    if options.smoke:
        return _HERE.parent / "build" / "smoke"
    if options.quick:
        return _QUICK_OUT if platform == "cpu" else _QUICK_OUT / platform
    if platform == "cpu":
        return _HERE if options.minutes is None else _TIMED_OUT
    return _HERE / platform


if __name__ == "__main__":
    main()
