"""How `rollout_vs_forward` measures: batches in turns, single calls one by one, and both with one thread."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts import contenders, method
from benchmarks.parts.contenders import TOLERANCE, Contender
from benchmarks.parts.forward_config import Config
from benchmarks.parts.passes import Pass
from benchmarks.parts.problems import Problem, make_problem, residuals64
from experiments._errors import errors_of
from rnn2ff.export import load, quantize_onnx, save, to_onnx
from rnn2ff.records import num_threads, timed
from rnn2ff.steady_state import Plan

_MARKED_WIDTH = 4  # hidden units of the pass that other programs run too, in multiples of the number of units
_NUM_CALIBRATED = 512  # stimuli that set the ranges of int8
_NUM_JUDGED_ALONE = 64  # stimuli on which calls with a single one are judged
_WORKING_COPIES = 12  # of the states of a batch, that a rollout holds
_MEMORY_SHARE = 0.25  # of the device's, that a batch may take
_BLOCK_SECONDS, _SINGLE_CALLS_SECONDS = 0.25, 10.0  # of single calls: a block, and all of one contender
_LARGEST_OF_ONE_THREAD = 256  # stimuli in a batch


class Setting(NamedTuple):
    """A network with stimuli, and everything that competes on them.

    Attributes:
        problem: the network and the stimuli.
        states: the exact steady states of the first stimuli.
        passes: the approximators.
        step_shares: tolerances of the steps of rollouts, as shares of the residual at which they stop.
        plan: of the solver, made before; None where no solvers are timed.
    """

    problem: Problem
    states: np.ndarray
    passes: list[Pass]
    step_shares: tuple[float, ...]
    plan: Plan | None

    @property
    def where(self) -> dict:
        """The entries that identify rows of this setting."""
        size = self.problem.network.state_size
        return {"problem": self.problem.name, "state_size": size, "num_threads": num_threads()}

    @property
    def marked(self) -> Pass:
        """The two layers that have marks, and that other programs run as well."""
        wanted = _MARKED_WIDTH * self.problem.network.state_size
        alone = [timed_pass for timed_pass in self.passes if timed_pass.num_sweeps == 0]
        return min(alone, key=lambda timed_pass: abs(timed_pass.approximator.width - wanted))

    def with_few_passes(self) -> "Setting":
        """The setting with two passes: the marked one, and the one with most sweeps."""
        return self._replace(
            passes=[self.marked, *[timed_pass for timed_pass in self.passes if timed_pass.num_sweeps][-1:]]
        )


class _Entry(NamedTuple):
    """A call that is timed in turns: the function, its stimuli, what it returns, and its row so far."""

    call: Callable
    stimuli: jax.Array | np.ndarray
    gives: str
    row: dict


# --- batches ----------------------------------------------------------------------------------------------------------


def time_batch(setting: Setting, batch_size: int, config: Config, *, with_solvers: bool) -> list[dict]:
    """One row per contender, with or without rollouts and solvers."""
    network = setting.problem.network
    entrants = _passes_and_products(setting, batch_size)
    if with_solvers:
        entrants += contenders.rollouts(network, config.integrators, config.tolerances, setting.step_shares)
        entrants += contenders.solvers(network, config.solvers)
    entries, left_out = _prepare(setting, batch_size, entrants, with_solvers)
    judged = [_judge(entry, setting) for entry in entries]
    calls = {i: functools.partial(entry.call, entry.stimuli) for i, entry in enumerate(entries)}
    seconds = method.time_in_turns(
        calls, num_rounds=config.num_rounds, budget_seconds=config.budget_seconds, are_warm=True
    )
    where, rows = setting.where | {"batch_size": batch_size}, []
    for i, entry in enumerate(entries):
        taken, num_rounds = seconds[i]
        num_samples = len(entry.stimuli)
        row = where | entry.row | judged[i] | {"num_samples": num_samples, "num_rounds": num_rounds}
        rows.append(row | {"microseconds": [1e6 * value / num_samples for value in taken]})
    floors = {row["width"]: row["microseconds"][0] for row in rows if row["kind"] == "floor"}
    for row in rows:
        if row["kind"] in ("pass", "runtime") and row["num_sweeps"] == 0 and row["width"] in floors:
            row["gemm_share"] = floors[row["width"]] / row["microseconds"][0]
    return rows + [where | omitted for omitted in left_out]


def _passes_and_products(setting: Setting, batch_size: int) -> list[Contender]:
    network = setting.problem.network
    passes = [
        contenders.forward_pass(timed_pass.approximator, timed_pass.about, closes_over_weights=batch_size == 1)
        for timed_pass in setting.passes
    ]
    widths = sorted({timed_pass.approximator.width for timed_pass in setting.passes if timed_pass.num_sweeps == 0})
    return passes + [contenders.products(network.stimulus_size, width, network.state_size) for width in widths]


def _prepare(
    setting: Setting, batch_size: int, found: list[Contender], has_plan: bool
) -> tuple[list[_Entry], list[dict]]:
    """The compiled calls; and rows for contenders that do not fit the device, or are not installed."""
    stimuli, size = setting.problem.take(batch_size).stimuli, setting.problem.network.state_size
    compiled, entries, left_out = {}, [], []
    for contender in found:
        row = {"method": contender.name, "kind": contender.kind, **contender.about}
        if contender.reason_left_out:
            left_out.append(row | {"kind": "not run", "reason": contender.reason_left_out})
            continue
        num_bytes = 4 * batch_size * (contender.about.get("width", _WORKING_COPIES * size) + 2 * size)
        if num_bytes > _MEMORY_SHARE * method.memory_bytes():
            left_out.append(row | {"kind": "not run", "reason": f"would take {num_bytes / 1e9:.1f} GB"})
            continue
        put, num_devices = method.put_on_devices(stimuli[: contender.largest_batch])
        if contender.function not in compiled:  # other tolerances are other arguments of the same program
            compiled[contender.function] = contender.compile(put, num_devices)
        program = compiled[contender.function]
        row |= {"num_devices": num_devices, **program.about}
        entries.append(_Entry(functools.partial(program.call, *contender.arguments), put, contender.gives, row))
    if has_plan and setting.plan is not None:
        entries.append(_planned(setting, stimuli))
    if jax.default_backend() == "cpu" and setting.passes:
        if contenders.has_onnx():
            entries += _in_onnx(setting, stimuli)
        else:
            left_out.append({"method": "onnxruntime", "kind": "not run", "reason": "the extra `onnx` is not installed"})
    return entries, left_out


def _planned(setting: Setting, stimuli: np.ndarray) -> _Entry:
    """The entry point, whose first call includes the compilation."""
    solve = contenders.solve_by_plan(setting.problem.network, setting.plan)
    first, second = (timed(functools.partial(solve, stimuli)).seconds for _ in range(2))
    row = {"method": contenders.PLANNED, "kind": "solver", "tolerance": TOLERANCE}
    return _Entry(solve, stimuli, "states", row | {"num_devices": 1, "compile_seconds": first - second})


def _in_onnx(setting: Setting, stimuli: np.ndarray) -> Iterator[_Entry]:
    """The marked pass in onnxruntime, in float32 and in int8."""
    model = to_onnx(setting.marked.approximator)
    int8 = quantize_onnx(model, setting.problem.stimuli[-_NUM_CALIBRATED:])
    for name, variant in [("onnxruntime", model), ("onnxruntime int8", int8)]:
        row = {"method": name, "kind": "runtime", "num_devices": 1, **setting.marked.about}
        yield _Entry(contenders.onnx_call(variant, len(stimuli)), stimuli, "rates", row)


# --- how wrong --------------------------------------------------------------------------------------------------------


def _judge(entry: _Entry, setting: Setting) -> dict:
    """The errors of a call, made as it is timed."""
    if entry.gives == "nothing":
        return {}
    problem, network = setting.problem, setting.problem.network
    output = _outputs(entry, problem.stimuli[:_NUM_JUDGED_ALONE])
    judged, rates = {}, output
    if entry.gives == "states":
        states, num_steps = output
        residuals = residuals64(network, problem.stimuli[: len(states)], states)
        judged["share_converged"] = float((residuals < TOLERANCE).mean())
        judged["num_steps"] = [int(quantile) for quantile in np.quantile(num_steps, [0, 0.5, 1])]
        rates = np.asarray(jax.vmap(network.rates)(jnp.asarray(states)))
    num_judged = min(len(rates), len(setting.states))
    exact = jnp.asarray(setting.states[:num_judged], network.dtype)
    errors = errors_of(rates[:num_judged], jax.vmap(network.rates)(exact))
    return judged | errors | {"num_judged": num_judged}


def _outputs(entry: _Entry, some: np.ndarray) -> object:
    """Outputs for its stimuli; or for some others one by one if it has only one, for which errors have no scale."""
    if len(entry.stimuli) > 1:
        return jax.tree.map(np.asarray, entry.call(entry.stimuli))
    convert = np.asarray if isinstance(entry.stimuli, np.ndarray) else jnp.asarray
    return jax.tree.map(lambda *parts: np.concatenate(parts), *(entry.call(convert(row[None])) for row in some))


# --- single calls -----------------------------------------------------------------------------------------------------


def time_single_calls(setting: Setting, config: Config) -> Iterator[dict]:
    """Latencies over different stimuli, and over as many copies of one: one row per contender."""
    stimuli = setting.problem.stimuli[: config.num_latency_calls, None]
    few = setting.with_few_passes()
    entrants = [contender for contender in _passes_and_products(few, 1) if contender.kind == "pass"]
    entrants += contenders.rollouts(setting.problem.network, ("Tsit5",), (TOLERANCE,), setting.step_shares[:1])
    for entry in _prepare(few, 1, entrants, True)[0]:
        convert = np.asarray if isinstance(entry.stimuli, np.ndarray) else jax.device_put
        seconds = min(timed(functools.partial(entry.call, entry.stimuli)).seconds for _ in range(3))
        num_calls = int(np.clip(_BLOCK_SECONDS / seconds, 20, len(stimuli)))
        varied = [convert(row) for row in stimuli[:num_calls]]
        repeated = [convert(stimuli[0].copy()) for _ in range(num_calls)]
        num_blocks = int(np.clip(_SINGLE_CALLS_SECONDS / (2 * num_calls * seconds), 3, config.num_latency_blocks))
        over = method.measure_latencies(entry.call, varied, repeated, num_blocks=num_blocks)
        yield (
            setting.where
            | entry.row
            | {
                "kind": "latency",
                "of": entry.row["kind"],
                "batch_size": 1,
                "num_calls": num_calls,
                "num_rounds": num_blocks,
                "microseconds": over.median,
                **over._asdict(),
            }
        )


# --- with one thread --------------------------------------------------------------------------------------------------


def time_with_one_thread(setting: Setting, problem_options: dict, config: Config) -> list[dict]:
    """The rows of batches and single calls of a few passes, in a process of its own that has one core."""
    few = setting.with_few_passes()
    with TemporaryDirectory() as folder:
        files = []
        for i, timed_pass in enumerate(few.passes):
            path = str(Path(folder) / f"{i}.safetensors")
            save(path, timed_pass.approximator)
            files.append((path, timed_pass.num_sweeps, timed_pass.is_trained))
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=method.keep_to_one_core) as process:
            return process.submit(_rows_with_one_thread, files, few.states, problem_options, config).result()


def _rows_with_one_thread(files: list, states: np.ndarray, problem_options: dict, config: Config) -> list[dict]:
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    passes = [Pass(load(path)[0], num_sweeps, is_trained) for path, num_sweeps, is_trained in files]
    setting = Setting(make_problem(**problem_options), states, passes, config.step_shares[:1], None)
    config = dataclasses.replace(config, integrators=("Tsit5",), solvers=(), tolerances=(TOLERANCE,))
    batches = [batch_size for batch_size in config.batches if batch_size <= _LARGEST_OF_ONE_THREAD]
    rows = []
    for batch_size in batches:
        rows += time_batch(setting, batch_size, config, with_solvers=batch_size in config.solved_batches)
    return rows + list(time_single_calls(setting, config))
