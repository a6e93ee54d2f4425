"""The benchmark suite: its method, its contenders, its report, and the comparison of two records."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
import unittest.mock
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import export
from problems import assert_close

from benchmarks import __main__ as suite
from benchmarks import bottlenecks, first_call, honest_failures, large_networks, rollout_vs_forward, steady_states
from benchmarks.compare import compare
from benchmarks.parts import contenders, forward_tables, honest_verdicts, method
from benchmarks.parts.honest_cases import make_case
from benchmarks.parts.honest_truth import Truth, find_truth
from benchmarks.parts.marks import marks_table
from benchmarks.parts.peers import PLAIN_LOOP
from benchmarks.parts.problems import Problem, exact_states, make_problem, make_saddle
from benchmarks.report import write_report
from rnn2ff import Refined, Status, TwoLayer, best_sweep, random_threshold_linear, solve_batch, threshold_linear

SIZE = 4


# --- everything that is timed compiles for devices that are not here --------------------------------------------------


@pytest.fixture(scope="module")
def network():
    return random_threshold_linear(SIZE, key=jr.key(0))


@pytest.fixture(scope="module")
def passes(network):
    keys = jr.split(jr.key(1), 2)
    layers = [TwoLayer(SIZE, 8, SIZE, is_rectified=each, key=key) for each, key in zip((True, False), keys)]
    samples = jr.normal(jr.key(2), (2, 16, SIZE))
    return layers[0], Refined(layers[1], network, best_sweep(network, *samples), num_sweeps=2)


def everything_timed(network, passes):
    yield from contenders.rollouts(network, tuple(contenders.INTEGRATORS), (1e-5,), (0.1,))
    yield from contenders.solvers(network, tuple(contenders.SOLVERS))
    for each in passes:
        yield contenders.forward_pass(each, {})
        yield contenders.forward_pass(each, {}, closes_over_weights=True)
    yield contenders.products(SIZE, 8, SIZE)
    # What the entry point runs on the device.
    yield contenders.Contender("engine", "solver", lambda stimuli: solve_batch(network, stimuli).state)


def test_everything_that_is_timed_lowers_for_gpus_and_tpus(network, passes):
    names = []
    for each in everything_timed(network, passes):
        dtype = jnp.float32 if each.kind == "floor" else network.dtype
        arguments = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), each.arguments)
        stimuli = jax.ShapeDtypeStruct((64, SIZE), dtype)
        exported = export.export(jax.jit(each.function), platforms=("cuda", "tpu"))(*arguments, stimuli)
        assert exported.platforms == ("cuda", "tpu")
        names.append(each.name)
    assert {"Tsit5", "Heun", "Kvaerno5", "Rollout", "Anderson", "RootFind", "ActiveSet", "pass"} <= set(names)


# --- the method -------------------------------------------------------------------------------------------------------


def test_a_loop_of_unknown_length_is_distinguished_from_fixed_work(passes):
    stimuli = jnp.ones((2, SIZE), passes[0].hidden_weights.dtype)
    for each in passes:
        compiled = contenders.forward_pass(each, {}, closes_over_weights=True).compile(stimuli)
        assert compiled.num_open_loops == 0
        assert compiled.num_operations > 2 * each.num_products
    halve = lambda x: jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)  # noqa: E731
    branch = lambda x: jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x)  # noqa: E731
    repeat = lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x / 2, x)  # noqa: E731
    received = [
        method.count_open_loops(jax.make_jaxpr(jax.jit(each))(stimuli).jaxpr) for each in (halve, branch, repeat)
    ]
    assert received == [1, 1, 0]


def test_what_compiles_while_it_is_timed_fails_the_run():
    function = jax.jit(lambda x: x + 1)
    small, large = jnp.ones(3), jnp.ones(4)
    function(small)
    with method.without_compiling():
        function(small)
    with pytest.raises(RuntimeError, match="Expected no compilation, got 1"), method.without_compiling():
        function(large)


def test_calls_take_turns_and_their_times_are_quartiles():
    called = []
    calls = {name: lambda name=name: called.append(name) or jnp.zeros(()) for name in ("first", "second")}
    timed = method.time_in_turns(calls, num_rounds=4, budget_seconds=60)
    for seconds, num_rounds in timed.values():
        assert num_rounds == 4
        assert 0 < seconds.lower <= seconds.median <= seconds.upper
    order = [name for name, before in zip(called, [None, *called]) if name != before]
    assert order == ["first", "second"] * 6  # twice to warm up, and four turns


def test_different_inputs_and_copies_of_one_are_called_equally_often_and_neither_always_first():
    called = []
    latencies = method.measure_latencies(called.append, ["a", "b"], ["c", "d"], num_blocks=3)
    assert called == ["a", "b", *["c", "a", "c", "d", "b"] * 3]  # to warm up, and in each block
    assert all(np.isfinite(latencies))


def test_a_batch_on_all_devices_gives_what_it_gives_on_one(network, passes):
    stimuli = np.asarray(jr.normal(jr.key(3), (6, SIZE)))
    put, num_devices = method.put_on_devices(stimuli)
    assert num_devices == jax.device_count() == 2
    for each in (contenders.forward_pass(passes[0], {}), contenders.solvers(network, ("Anderson",))[0]):
        parts = each.compile(put, num_devices).call(*each.arguments, put)
        whole = each.compile(jnp.asarray(stimuli)).call(*each.arguments, jnp.asarray(stimuli))
        jax.tree.map(assert_close, parts, whole)
    assert method.put_on_devices(stimuli[:5])[1] == 1  # which two do not divide


def test_exact_states_are_exact_and_refuse_what_is_no_steady_state():
    rng = np.random.default_rng(0)
    weights, stimuli = rng.uniform(0, 0.1, size=(SIZE, SIZE)), rng.uniform(1, 2, size=(3, SIZE))
    problem = Problem("linear", threshold_linear(jnp.asarray(weights)), stimuli, "relu")
    weights = problem.weights.astype(float)  # as the network has them
    expected = np.linalg.solve(np.eye(SIZE) - weights, stimuli.T).T  # all units are active
    np.testing.assert_allclose(exact_states(problem, expected + 1e-3), expected, rtol=1e-12)
    with pytest.raises(RuntimeError, match="far from steady"):
        exact_states(problem, expected + 10)


def test_the_plain_loop_finds_the_exact_states():
    problem = make_problem("gauss09", SIZE, 6)
    states = PLAIN_LOOP.build(problem)(jnp.asarray(problem.stimuli), damping=0.7, check_every=4)
    np.testing.assert_allclose(states, exact_states(problem, np.asarray(states)), atol=1e-3)


# --- saddles that mislead ---------------------------------------------------------------------------------------------


def settle(saddle, duration, step=0.1):
    """The states after this time, by the classical Runge-Kutta method."""
    weights, states = saddle.weights.astype(float), saddle.initial_states.astype(float)
    drives = saddle.stimuli.astype(float) @ saddle.stimulus_weights.astype(float).T
    velocity = lambda states: -states + np.maximum(states, 0) @ weights.T + drives  # noqa: E731
    for _ in range(int(duration / step)):
        first = velocity(states)
        second = velocity(states + step / 2 * first)
        third = velocity(states + step / 2 * second)
        states = states + step / 6 * (first + 2 * second + 2 * third + velocity(states + step * third))
    return states


@pytest.mark.parametrize("starts_near", [False, True])
@pytest.mark.parametrize("seed", [0, 1])  # two partitions of four, and two units
def test_the_dynamics_leave_a_saddle_as_the_closed_form_says(seed, starts_near):
    saddle = make_saddle(0.2, 12, 9, np.random.default_rng(seed), starts_near=starts_near)
    is_left = saddle.margins > 0  # rounding may break an exact tie
    assert not is_left.all()
    states = settle(saddle, saddle.settling_times.max())
    np.testing.assert_allclose(states[is_left], saddle.states[is_left], atol=1e-8)
    # An exact tie: the saddle is a fixed point, and repels.
    tie = saddle.states[~is_left]
    drives = saddle.stimuli[~is_left] @ saddle.stimulus_weights.T.astype(float)
    np.testing.assert_allclose(np.maximum(tie, 0) @ saddle.weights.T + drives, tie, atol=1e-12)
    np.testing.assert_allclose(saddle.leading[~is_left], 0.2, atol=1e-6)
    assert (saddle.leading[is_left] < 0).all()


def judged(dtype, states, status, chosen):
    """The row, and what is wrong, for answers to some of nine samples whose drives differ more and more."""
    case, truth = tied()
    case = case._replace(stimuli=case.stimuli[chosen], margins=case.margins[chosen])
    truth = Truth(*(each[chosen] for each in truth))
    answer = SimpleNamespace(state=states[chosen], status=np.full(len(chosen), status), residual=np.zeros(len(chosen)))
    row = honest_verdicts.judge("tie, rate 0.1", dtype, [(0, case, truth, answer)])
    return row, [each["what"] for each in row["violations"]]


@functools.cache
def tied():
    case = make_case("tie, rate 0.1", 0, 9)
    return case, find_truth([case], honest_failures.Config())[0]


def test_converged_on_a_saddle_is_wrong_in_either_dtype():
    case, truth = tied()
    assert truth.kind.tolist() == ["unstable", *8 * ["steady"]]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), case.network.params)
    drives = case.stimuli @ params.stimulus_weights.T
    pair = params.stimulus_weights[:, 0] == 1
    saddles, weights = np.zeros_like(drives), params.recurrent_weights
    saddles[:, pair] = np.linalg.solve(np.eye(pair.sum()) - weights[np.ix_(pair, pair)], drives[:, pair].T).T
    for _ in range(100):
        saddles[:, ~pair] = (np.maximum(saddles, 0) @ weights.T + drives)[:, ~pair]
    for dtype in ("float32", "float64 engine"):
        chosen = [0, 1, 4, 7]  # an exact tie, and relative differences of 1e-8, 1e-5 and 1e-2
        assert judged(dtype, saddles, Status.converged, chosen)[1] == 4 * [honest_verdicts.SADDLE]
        assert judged(dtype, truth.state, Status.converged, [1, 4, 7])[1] == []
        row, wrong = judged(dtype, saddles, Status.unstable, chosen)
        num_open = 3 if dtype.startswith("float64") else 1
        assert wrong == num_open * [honest_verdicts.MISSED]
        (undecided,) = (each for each in honest_failures.marks([row]) if each["what"] == "truly stable, left undecided")
        assert undecided["received"] == f"100.00 % ({num_open} of {num_open})"
        assert not undecided["is_met"]


def test_either_winner_is_right_only_where_rounding_decides():
    case, truth = tied()
    second = np.asarray(case.network.params.stimulus_weights[:, 1]) < 0
    first = np.asarray(case.network.params.stimulus_weights[:, 1]) > 0
    others = truth.state.copy()
    others[:, first], others[:, second] = truth.state[:, second], truth.state[:, first]
    assert judged("float32", others, Status.converged, [1, 7])[1] == [honest_verdicts.BASIN]
    assert judged("float64", others, Status.converged, [1, 7])[1] == 2 * [honest_verdicts.BASIN]


# --- marks, report and comparison -------------------------------------------------------------------------------------


def timed_row(kind, name, microseconds, **more):
    return {
        "problem": "gauss09", "state_size": 128, "batch_size": 256, "num_threads": 2, "method": name, "kind": kind,
        "num_samples": 256, "num_rounds": 20, "num_devices": 1, "compile_seconds": 1.0, "nrmse": 0.1,
        "microseconds": [microseconds, 0.9 * microseconds, 1.1 * microseconds], **more,
    }  # fmt: skip


@pytest.fixture
def rows():
    two_layers = {"width": 512, "num_sweeps": 0, "is_trained": True}
    solved = {"tolerance": 1e-5, "num_steps": [1, 2, 3], "share_converged": 1.0}
    rolled_out = solved | {"step_tolerance": 1e-6}
    return [
        timed_row("pass", "pass", 2.0, **two_layers, gemm_share=0.95),
        timed_row("floor", "GEMM pair", 1.9, width=512, num_sweeps=0),
        timed_row("rollout", "Tsit5", 90.0, **rolled_out | {"share_converged": 0.9}),
        timed_row("rollout", "Heun", 300.0, **rolled_out),
        timed_row("solver", "Anderson", 10.0, **solved),
        timed_row("pass", "pass", 2.0, **two_layers, gemm_share=0.5) | {"num_threads": 1},
        timed_row("pass", "pass", 16.0, **two_layers) | {"batch_size": 1, "num_samples": 1},
        timed_row("runtime", "onnxruntime", 7.0, **two_layers) | {"batch_size": 1, "num_samples": 1},
    ]  # fmt: skip


def test_marks_compare_with_what_converges_and_say_what_is_missed(rows):
    found = {(each["what"], each["batch_size"]): each for each in forward_tables.marks(rows)}
    products = found["share of the GEMM pair", 256]
    assert (products["received"], products["is_met"]) == (0.95, True)  # of all threads
    rollout = found["ratio to the fastest rollout that converges (Heun)", 256]
    assert (rollout["received"], rollout["is_met"]) == (150, True)
    assert found["ratio to our own fastest solver (Anderson)", 256]["is_met"] is None
    runtime = found["times onnxruntime's time", 1]
    assert (round(runtime["received"], 2), runtime["is_met"]) == (2.29, False)
    assert "NOT MET" in forward_tables.describe(rows)


def a_record(rows, **more):
    where = {
        "commit": "0123456789", "is_dirty": False, "device": "1 x cpu", "platform": "cpu", "processor": "a processor",
        "num_cores": 2, "num_threads": 2, "matmul_precision": "highest", "xla_flags": "", "versions": {"jax": "0.10.2"},
    }  # fmt: skip
    return {
        "name": "rollout_vs_forward",
        "config": {"seed": 0},
        "rows": rows,
        "environment": where,
        "seconds": 60,
        **more,
    }


def test_the_report_is_made_from_records_and_says_what_was_not_run(rows, tmp_path):
    (tmp_path / "results").mkdir()
    record = a_record(rows)
    (tmp_path / "results" / "rollout_vs_forward.json").write_text(json.dumps(record))
    text = write_report(tmp_path, ["rollout_vs_forward", "scaling"], {}).read_text()
    assert "scaling: not run" in text
    for device in ("gpu", "tpu"):
        assert any(line.startswith(f"| {device}") and "nothing" in line for line in text.splitlines())
    assert "### N = 128, B = 256, 2 threads" in text
    assert "NOT MET" in text.split("## Marks")[1]
    assert (tmp_path / "figures" / "rollout_vs_forward.png").stat().st_size > 1000
    text = write_report(tmp_path, ["rollout_vs_forward", "scaling"], {"scaling": "ValueError: why"}).read_text()
    assert "scaling: FAILED: ValueError: why" in text


def test_two_records_are_compared_row_by_row_with_intervals_from_the_quartiles():
    place = {"kind": "pass", "method": "pass", "state_size": 8}
    old = [place | {"width": 8, "microseconds": [10.0, 9.0, 11.0]}, place | {"width": 9, "microseconds": 4.0}]
    new = [place | {"width": 8, "microseconds": [5.0, 4.5, 5.5]}, place | {"width": 7, "microseconds": [1.0, 1.0, 1.0]}]
    after = a_record(new, config={"seed": 1})
    text = compare(a_record(old), after)
    (line,) = [each for each in text.splitlines() if "width 8" in each]
    cells = [each.strip() for each in line.strip("|").split("|")]
    assert cells[1:] == ["10", "5", "0.50", "0.41 to 0.61", "faster"]  # 4.5 / 11 and 5.5 / 9
    assert "1 timings in both, 1 only in A, 1 only in B. Geometric mean of B / A: 0.500." in text
    assert "config: seed" in text


def test_records_that_cannot_be_compared_are_refused():
    place = {"kind": "pass", "method": "pass", "microseconds": [10.0, 9.0, 11.0]}
    one = a_record([place])
    with pytest.raises(ValueError, match="different benchmarks"):
        compare(one, one | {"name": "scaling"})
    with pytest.raises(ValueError, match="no timing in common"):
        compare(one, a_record([place | {"width": 3}]))
    with pytest.raises(ValueError, match="Two rows of a record are the same"):
        compare(one, a_record([place, place]))


def test_the_time_of_a_solve_is_compared_with_that_of_the_plain_loop():
    place = {"problem": "gauss09", "state_size": 128, "batch_size": 4096, "kind": "ours", "share_converged": 1.0}
    place |= {"best_competitor": "PyTorch loop", "ratio_to_best": 1.6, "gemm_share": 0.6}
    rows = [
        place | {"method": steady_states.PLANNED, "microseconds": [10.0, 9.0, 11.0], "times_the_loop": 0.8},
        place | {"method": steady_states.ENTRY_POINT, "microseconds": [15.0, 14.0, 16.0], "times_the_loop": 1.2},
        place | {"method": steady_states.ENGINE, "kind": "not run", "reason": "not there"},
    ]
    found = {each["what"]: each for each in steady_states.marks(rows)}
    loop = found["times the plain loop's time"]
    assert (loop["mark"], loop["received"], loop["without_plan"], loop["is_met"]) == (0.9, 0.8, 1.2, True)
    unplanned = found["without a plan, times the time with one"]
    assert (unplanned["received"], unplanned["is_met"]) == (1.5, False)
    assert found["share of problems 1.5 x ahead of the best"]["is_met"]


def test_first_calls_are_held_to_their_marks_and_a_function_that_is_not_there_misses_them():
    one = {"seconds": 3.0, "cpu_seconds": 4.0, "programs": 7, "cache_hits": 0, "to_device": 5, "to_host": None}
    calls = {"first": one, "second": one, "other": one | {"programs": 0}, "cached": one | {"seconds": 1.0}}
    row = {"case": "solve_steady_states", "size": 9, "other_size": 8, "kind": "measured", "calls": calls}
    missing = {"case": "distill", "size": 9, "other_size": 8, "kind": "not run", "reason": "rnn2ff has no `distill`"}
    received = [each["is_met"] for each in first_call.marks([row, missing])]
    assert received == [False, True, True, True, False]
    assert "distill: no numbers, rnn2ff has no `distill`" in first_call.describe([row, missing])


@pytest.mark.scripts
@pytest.mark.slow
def test_programs_and_transfers_of_a_first_call_are_counted_in_a_process_of_its_own():
    config = dataclasses.asdict(first_call.Config(state_size=8, batch_sizes=(32, 20)))
    command = [sys.executable, "-m", "benchmarks.first_call", "--case", "solve_batch", "--config", json.dumps(config)]
    root = Path(suite.__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, other = (json.loads(done.stdout)[which] for which in ("first", "second", "other"))
    assert (first["programs"], second["programs"], other["programs"]) == (1, 0, 1)  # under `jit`
    assert first["to_device"] == second["to_device"] == 1  # the stimuli
    assert first["seconds"] > second["seconds"] > 0
    assert "transfer" not in done.stderr


def test_a_bottleneck_called_converged_is_counted_but_where_rounding_hides_it():
    config = bottlenecks.Config(families=("unit", "cancelling mode"), num_starts=2, dtypes=("float32",))

    def at_rest(network, stimuli, starts, tolerance, side):
        """At the fixed point (-1) or the saddle (1); where there is none, in the middle of the bottleneck."""
        modes = np.asarray(network.params["modes"])
        states = (1 + side * np.sqrt(np.maximum(-stimuli, 0) / 0.05)) * modes[:, 0]
        return SimpleNamespace(state=states, status=np.full(len(states), Status.converged))

    rows, at_saddles = (
        [
            bottlenecks.judge(each, functools.partial(at_rest, side=side), dtype="float32", tolerance=1e-4, way="both")
            for each in bottlenecks._bottlenecks(config, "float32", 1e-4)
        ]
        for side in (-1, 1)
    )
    unit, *cancelling = rows
    assert (unit["num_false"], unit["num_hidden"]) == (12, 0)
    assert [row["num_false"] + row["num_hidden_converged"] for row in cancelling] == [12, 12, 12]
    assert all(0 < row["num_hidden"] < 12 for row in cancelling)
    assert all(row["num_found"] == 12 and row["num_elsewhere"] == 0 for row in rows)
    assert all(row["num_elsewhere"] == 12 - row["num_hidden"] for row in at_saddles)
    assert [mark["is_met"] for mark in bottlenecks.marks(rows)] == [False, True]
    assert not any(mark["is_met"] for mark in bottlenecks.marks(at_saddles))
    assert "a unit" in bottlenecks.describe(rows)


def test_the_suite_refuses_names_that_it_does_not_have():
    with pytest.raises(SystemExit, match="unknown names"):
        suite._choose(suite.Options(only=("speed",)))
    assert [each.name for each in suite._choose(suite.Options(quick=True))] == ["rollout_vs_forward", "scaling"]
    with pytest.raises(SystemExit, match="selects no benchmark"):
        suite._choose(suite.Options(quick=True, only=("deployment",)))


def test_a_lent_device_gets_the_rows_that_tell_most_first():
    jobs = suite._choose(suite.Options(minutes=8))
    assert [each.name for each in jobs] == ["rollout_vs_forward", "fitting", "first_call"]
    options = " ".join(jobs[0].options)
    assert "--sizes 128 512 2048" in options
    assert "--solved-batches 256 4096 65536" in options
    assert "--solvers-first" in options
    assert all(each.options == ("--smoke",) for each in suite._choose(suite.Options(minutes=1, smoke=True)))
    with pytest.raises(SystemExit, match="`--minutes` is out of range. Expected a number above 0, got 0"):
        suite._choose(suite.Options(minutes=0))


def test_its_first_rows_come_before_anything_is_trained_and_none_comes_twice(monkeypatch):
    calls = []

    def time_batch(setting, batch_size, config, *, with_solvers):
        calls.append((setting, batch_size, with_solvers))
        return []

    monkeypatch.setattr(rollout_vs_forward, "jax", unittest.mock.Mock())  # whose settings are left as they are
    monkeypatch.setattr(rollout_vs_forward, "make_setting", lambda size, config: ("untrained", {}))
    monkeypatch.setattr(rollout_vs_forward, "with_passes", lambda setting, options, config: "trained")
    monkeypatch.setattr(rollout_vs_forward, "time_batch", time_batch)
    monkeypatch.setattr(rollout_vs_forward, "break_even", lambda setting, rows: [])
    monkeypatch.setattr(rollout_vs_forward, "time_single_calls", lambda setting, config: [])
    settings = {"sizes": (8,), "batches": (1, 16), "solved_batches": (1, 16), "one_thread": False}
    list(rollout_vs_forward.run(rollout_vs_forward.Config(**settings, solvers_first=True)))
    assert calls == [("untrained", 1, True), ("trained", 1, False), ("trained", 16, True)]
    calls.clear()
    list(rollout_vs_forward.run(rollout_vs_forward.Config(**settings)))
    assert calls == [("trained", 1, True), ("trained", 16, True)]


def test_a_device_that_is_not_there_is_one_sentence():
    with pytest.raises(SystemExit, match="`--device` is not available. Expected the platform of JAX here, cpu"):
        suite._probe("gpu", dict(os.environ, JAX_PLATFORMS="cpu"))


def test_when_the_time_ends_a_benchmark_ends_with_all_that_it_started(tmp_path):
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "rows")!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    started = time.monotonic()
    assert suite._run([sys.executable, "-c", code], dict(os.environ), 3.0) is None
    assert time.monotonic() - started < 15
    state = Path("/proc", (tmp_path / "rows").read_text(), "stat")

    def has_ended() -> bool:
        try:
            return " Z " in state.read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    deadline = time.monotonic() + 5  # a process that was killed may take a moment to end
    while not has_ended() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert has_ended()
    assert suite._run([sys.executable, "-c", "raise ValueError('no rows')"], dict(os.environ), None) == (
        "ValueError: no rows"
    )


def test_marks_of_large_networks_see_a_slow_a_large_and_a_wrong_one():
    row = {"size": 8, "num_connections": 9, "batch_size": 10, "num_steps": 20.0, "counts": {"converged": 10}}
    row |= {"first_seconds": 59.0, "next_seconds": 4.0, "gibibytes": 3.9}
    good = [row | {"network": "random"}, row | {"network": "dense", "product_seconds": 0.1}]  # 20 x 0.1 of 4 s: a half
    assert all(mark["is_met"] for mark in large_networks.marks(good))
    worse = {"first_seconds": 61.0, "next_seconds": 4.1, "gibibytes": 4.1, "counts": {"converged": 9}}
    assert not any(mark["is_met"] for mark in large_networks.marks([each | worse for each in good]))
    assert "50%" in large_networks.describe(good)


def test_every_benchmark_is_in_the_suite():
    paths = Path(suite.__file__).parent.glob("[!_]*.py")
    assert sorted(path.stem for path in paths if "\ndef run(" in path.read_text()) == sorted(
        each.name for each in suite.SUITE
    )


def test_marks_of_any_benchmark_make_one_table():
    found = [
        {"benchmark": "one", "state_size": 8, "batch_size": 2, "what": "x", "mark": 3, "received": 4, "is_met": True},
        {"benchmark": "two", "target": "soft", "what": "NRMSE %", "mark": "<= 5", "received": 7.25, "is_met": False},
        {"what": "time", "bound": "at most", "mark": 1, "received": None, "is_met": False},
        {"what": "words", "mark": None, "received": "nothing", "is_met": None},
    ]  # fmt: skip
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in marks_table(found).splitlines()[2:]]
    assert rows == [
        ["one, N = 8, B = 2: x", "at least 3", "4", "met"],
        ["two, soft: NRMSE %", "<= 5", "7.25", "NOT MET"],
        ["time", "at most 1", "-", "NOT MET"],
        ["words", "-", "nothing", "no mark"],
    ]
