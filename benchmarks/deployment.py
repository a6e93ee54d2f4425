"""How large, how fast and how exact is an approximator in each place that it can be exported to?

A competition is distilled briefly, exported by every route, and run by the runtime of that route, one stimulus per
call. The error is the one that a route adds to the approximator's own: NRMSE against its rates in float32.
"""

import dataclasses
import importlib.metadata
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.parts.contenders import onnx_call
from experiments._script import run_script, table
from rnn2ff import accuracy, distill, partition_competition, save
from rnn2ff.approximators import Approximator, predict
from rnn2ff.export import footprint, load, load_stablehlo, quantize, quantize_onnx, to_c, to_onnx, to_stablehlo
from rnn2ff.records import timed

_TIMER = """
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <time.h>
#include "net.h"
static TYPE stimuli[NUM][NET_STIMULUS_SIZE], rates[NUM][NET_RATE_SIZE];
int main(void)
{
    struct timespec start, end;
    if (fread(stimuli, sizeof stimuli, 1, stdin) != 1) return 1;
    for (int round = 0; round < ROUNDS; round++) {
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (int i = 0; i < NUM; i++) net_predict(stimuli[i], rates[i]);
        clock_gettime(CLOCK_MONOTONIC, &end);
        fprintf(stderr, "%.9f\\n", (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec));
    }
    fwrite(rates, sizeof rates, 1, stdout);
    return 0;
}
"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of the stimuli and the training."""
    num_partitions: int = 4
    """Partitions of the competition."""
    units_per_partition: int = 8
    """Excitatory units in each."""
    num_samples: int = 5000
    """Stimuli to train on; half of the test stimuli are for calibration, the other half for the comparison."""
    num_steps: int = 3000
    """Optimizer steps."""
    num_calls: int = 500
    """Timed calls in a round."""
    num_rounds: int = 9
    """Rounds, of which the median is taken."""

    def smoke(self) -> "Config":
        """The same, in seconds."""
        small = {"num_partitions": 2, "units_per_partition": 2, "num_samples": 60, "num_steps": 20}
        return dataclasses.replace(self, **small, num_calls=20, num_rounds=3)


def run(config: Config) -> list[dict]:
    """One row per route."""
    size = config.num_partitions * config.units_per_partition
    distillation = distill(
        partition_competition(config.num_partitions, config.units_per_partition),
        lambda key: jr.uniform(key, (size,)),
        kind="two_layers",  # which every route takes
        num_samples=config.num_samples,
        num_test_samples=2 * config.num_calls,
        num_steps=config.num_steps,
        key=jr.key(config.seed),
    )
    approximator = distillation.approximator
    stimuli = np.asarray(distillation.test.stimuli, np.float32)
    calibration, stimuli = stimuli[: -config.num_calls], stimuli[-config.num_calls :]
    expected = np.asarray(predict(approximator, jnp.asarray(stimuli)))
    own_error = distillation.report.accuracy.nrmse
    with tempfile.TemporaryDirectory() as folder:
        routes = _routes(approximator, calibration, stimuli, Path(folder), config)
        rows = []
        for route, extra, runtime, content, measure in routes:
            received, seconds = measure()
            added = accuracy(received, expected).nrmse
            row = {"route": route, "extra": extra, "bytes": len(content), "added_nrmse": added, "own_nrmse": own_error}
            rows.append(row | {"microseconds": 1e6 * seconds, "tested_with": _version(runtime)})
    models = {"C99 float": approximator, "C99 int8": quantize(approximator, calibration)}
    return [row | (footprint(models[row["route"]])._asdict() if row["route"] in models else {}) for row in rows]


def _routes(approximator: Approximator, calibration: np.ndarray, stimuli: np.ndarray, folder: Path, config: Config):
    """Each route: its name, its extra, the runtime that reads it, its content, and a function that times it."""
    path = folder / "approximator.safetensors"
    save(path, approximator)
    onnx = to_onnx(approximator)
    int8 = quantize_onnx(onnx, calibration)
    program = to_stablehlo(approximator)
    integer = quantize(approximator, calibration)
    loaded, _ = load(path)
    in_jax = jax.jit(lambda stimulus: loaded(stimulus))
    exported = load_stablehlo(program)

    def timed(call: Callable, one_by_one: list) -> Callable:
        return lambda: _time_calls(call, one_by_one, config.num_rounds)

    singles = [jnp.asarray(row) for row in stimuli]
    rows = [row[None] for row in stimuli]
    jax_rows = [row[None] for row in singles]
    yield "safetensors", "-", "jax", path.read_bytes(), timed(lambda row: np.asarray(in_jax(row))[None], singles)
    yield "StableHLO", "-", "jax", program, timed(lambda row: np.asarray(exported(row)), jax_rows)
    yield "ONNX", "onnx", "onnxruntime", onnx, timed(onnx_call(onnx, 1), rows)
    yield "ONNX int8", "onnx", "onnxruntime", int8, timed(onnx_call(int8, 1), rows)
    header, integer_header = to_c(approximator, name="net"), to_c(integer, name="net")

    def run_integer():
        received, seconds = _time_c(integer_header, "int16_t", integer.quantize_stimuli(stimuli), folder, config)
        return received * integer.rate_scale, seconds

    yield "C99 float", "-", "gcc", header.encode(), lambda: _time_c(header, "float", stimuli, folder, config)
    yield "C99 int8", "-", "gcc", integer_header.encode(), run_integer


def _version(runtime: str) -> str:
    """The name and the version of the runtime of a route."""
    if runtime == "gcc":
        done = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True)
        return f"gcc {done.stdout.strip()} -O2"
    return f"{runtime} {importlib.metadata.version(runtime)}"


def _time_calls(call: Callable, inputs: list, num_rounds: int) -> tuple[np.ndarray, float]:
    """The outputs, and the median seconds per call."""
    rounds = [timed(lambda: [call(stimulus) for stimulus in inputs]) for _ in range(1 + num_rounds)]
    return np.concatenate(rounds[0].result), float(np.median([timing.seconds for timing in rounds[1:]]) / len(inputs))


def _time_c(header: str, kind: str, stimuli: np.ndarray, folder: Path, config: Config) -> tuple[np.ndarray, float]:
    """The outputs, and the median seconds per call, of a compiled header."""
    (folder / "net.h").write_text(header)
    (folder / "main.c").write_text(_TIMER)
    sizes = [f"-DNUM={len(stimuli)}", f"-DROUNDS={config.num_rounds}", f"-DTYPE={kind}"]
    subprocess.run(["gcc", "-std=c99", "-O2", *sizes, "main.c", "-o", "main"], cwd=folder, check=True)
    done = subprocess.run([folder / "main"], input=stimuli.tobytes(), capture_output=True, check=True)
    dtype = np.float32 if kind == "float" else np.int16
    received = np.frombuffer(done.stdout, dtype).reshape(len(stimuli), -1)
    return received, float(np.median([float(line) for line in done.stderr.split()])) / len(stimuli)


def describe(rows: list[dict]) -> str:
    """The table that `docs/deploy.md` shows."""
    lines = [
        [
            row["route"],
            row["extra"],
            f"{row['bytes'] / 1000:.1f} kB",
            f"{row['flash_bytes'] / 1000:.1f} kB, {row['ram_bytes']} B" if "flash_bytes" in row else "-",
            f"{row['microseconds']:.1f} us",
            f"{100 * row['added_nrmse']:.2g} %",
            row["tested_with"],
        ]
        for row in rows
    ]
    return table(
        ["route", "extra", "file", "flash, RAM", "latency, one stimulus", "error added (NRMSE)", "tested with"], lines
    )


if __name__ == "__main__":
    run_script("deployment", Config(), run, describe, folder=Path(__file__).parent)
