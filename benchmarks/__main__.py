"""Run the benchmarks: `python -m benchmarks`. Tables are printed; records, figures and `report.md` stay."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.parts.suite import SUITE, Benchmark
from benchmarks.report import write_report

_HERE = Path(__file__).parent
_QUICK_OUT = _HERE.parent / "build" / "bench-quick"
_PROBE = "import jax; each = jax.devices(); print(each[0].platform, len(each), each[0].device_kind, sep='\\n')"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the suite; those of one benchmark are options of its own script."""

    quick: bool = False
    """Only the two that compare passes with rollouts, small, in less than 3 minutes; kept in build/bench-quick."""
    only: tuple[str, ...] = ()
    """Names of the benchmarks to run; by default all."""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """What to run on; by default what JAX takes."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Of matrix products. Lower ones change how many steps a solver takes; processors have only the highest."""
    smoke: bool = False
    """Every benchmark in its smallest version, to see that it works; kept in build/smoke."""
    out: Path | None = None
    """Folder of the report, the records and the figures; by default benchmarks/, or a folder in it for a gpu or tpu."""


def main() -> None:
    """Run what was asked for, each in a process of its own, and write the report."""
    options = tyro.cli(Options, prog="python -m benchmarks", description="Run the benchmarks, and write a report.")
    chosen = _choose(options)
    environment = dict(os.environ, JAX_DEFAULT_MATMUL_PRECISION=options.precision)
    if options.device == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    platform = _probe(options.device, environment)
    if platform == "gpu":
        # Without the trials of Triton kernels, which take XLA 6 to 14 s for each shape of a product at "highest".
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false".strip()
    out = options.out or _default_out(options, platform)
    failed = {}
    for each in chosen:
        # A process of its own: threads, memory and compiled programs of one are not those of the next, and one that
        # fails takes no other with it.
        sized = ("--smoke",) if options.smoke else each.quick if options.quick else ()
        command = [sys.executable, "-m", f"benchmarks.{each.name}", *sized, "--out", str(out.resolve())]
        print(f"\n=== {each.name}\n", flush=True)
        started = time.perf_counter()
        where = {"cwd": _HERE.parent, "env": environment}
        done = subprocess.run(command, **where, stderr=subprocess.PIPE, text=True, check=False)
        sys.stderr.write(done.stderr)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            failed[each.name] = lines[-1]
        print(f"{each.name}: {time.perf_counter() - started:.0f} seconds", flush=True)
    path = write_report(out, [each.name for each in SUITE], failed)
    print(f"\nReport: {path}")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}.")


def _choose(options: Options) -> list[Benchmark]:
    names = [each.name for each in SUITE]
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        sys.exit(f"`--only` has unknown names. Expected some of {', '.join(names)}, got {', '.join(unknown)}.")
    chosen = [each for each in SUITE if not options.only or each.name in options.only]
    chosen = [each for each in chosen if not options.quick or each.quick is not None]
    if not chosen:
        quick = [each.name for each in SUITE if each.quick is not None]
        sys.exit(f"`--only` leaves nothing to run. Expected some of {', '.join(quick)}, which can be quick.")
    return chosen


def _probe(device: str | None, environment: dict[str, str]) -> str:
    """What JAX runs on, in a process of its own: this one takes no device from those that follow."""
    done = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"JAX finds no device: {done.stderr.strip().splitlines()[-1]}")
    platform, count, kind = done.stdout.strip().splitlines()[-3:]
    if device not in (None, platform):
        sys.exit(f"`--device` is not there. Expected what JAX sees here, {platform}, got {device}. Nothing was run.")
    print(f"Running on {platform}: {count} x {kind}.")
    return platform


def _default_out(options: Options, platform: str) -> Path:
    if options.smoke:
        return _HERE.parent / "build" / "smoke"
    folder = _QUICK_OUT if options.quick else _HERE
    return folder if platform == "cpu" else folder / platform


if __name__ == "__main__":
    main()
