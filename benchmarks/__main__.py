"""Run the benchmarks: `python -m benchmarks`. Tables are printed; records, figures and `report.md` stay."""

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
_STOP_SECONDS = 10.0  # from the signal that ends a benchmark to the one that it cannot refuse
_PROBE = "import jax; each = jax.devices(); print(each[0].platform, len(each), each[0].device_kind, sep='\\n')"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the suite; those of one benchmark are options of its own script."""

    quick: bool = False
    """Only the two that compare passes with rollouts, small, in less than 3 minutes; kept in build/bench-quick."""
    only: tuple[str, ...] = ()
    """Names of the benchmarks to run; by default all."""
    minutes: Annotated[float | None, tyro.conf.arg(help_behavior_hint="(optional)")] = None
    """For a device that is lent for a while: the rows that tell most first, and when the time ends, what there is; of a
    processor in build/bench-timed."""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """What to run on; by default what JAX takes."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next quick, small or timed run. Full ones compile all
    themselves, since they say how long that takes."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Of matrix products. Lower ones change how many steps a solver takes; processors have only the highest."""
    smoke: bool = False
    """Every benchmark in its smallest version, to see that it works; kept in build/smoke."""
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
        # A process of its own: threads, memory and compiled programs of one are not those of the next, and one that
        # fails takes no other with it.
        command = [sys.executable, "-m", f"benchmarks.{job.name}", *job.options, "--out", str(out.resolve())]
        print(f"\n=== {job.name}\n", flush=True)
        started = time.perf_counter()
        problem = _run(command, environment, left)
        if problem is not None:
            failed[job.name] = problem
        print(f"{job.name}: {time.perf_counter() - started:.0f} seconds", flush=True)
    path = write_report(out, [each.name for each in SUITE], failed)
    print(f"\nReport: {path}")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}.")


class _Job(NamedTuple):
    """A script to run, its options, and its share of the time that is left."""

    name: str
    options: tuple[str, ...]
    share: float = 1.0


def _run(command: list[str], environment: dict[str, str], seconds: float | None) -> str | None:
    """Run a script to its end, or for a time, after which the record has the rows so far; why it failed, if it did."""
    pipes = {"stderr": subprocess.PIPE, "text": True}
    # In a session of its own, so that processes that it has started end with it.
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
    for each in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, each)
        try:
            process.communicate(timeout=_STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def _choose(options: Options) -> list[_Job]:
    names = [each.name for each in SUITE]
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        sys.exit(f"`--only` has unknown names. Expected some of {', '.join(names)}, got {', '.join(unknown)}.")
    if options.minutes is not None and not options.minutes > 0:
        sys.exit(f"`--minutes` is out of range. Expected a number above 0, got {options.minutes:g}.")
    jobs = _jobs(options)
    chosen = [each for each in jobs if not options.only or each.name in options.only]
    if not chosen:
        expected = f"some of {', '.join(each.name for each in jobs)}, which take part in such a run"
        sys.exit(f"`--only` selects no benchmark. Expected {expected}.")
    return chosen


def _jobs(options: Options) -> list[_Job]:
    """All that take part in a run of this kind, with its options."""
    if options.quick:
        jobs = [_Job(each.name, each.quick) for each in SUITE if each.quick is not None]
    elif options.minutes is not None:
        jobs = [_Job(*each) for each in TIMED]
    else:
        jobs = [_Job(each.name, ()) for each in SUITE]
    return [each._replace(options=("--smoke",)) for each in jobs] if options.smoke else jobs


def _probe(device: str | None, environment: dict[str, str]) -> str:
    """What JAX runs on, in a process of its own: this one takes no device from those that follow."""
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
