"""The benchmark suite: its method, its contenders, its report, and the comparison of two records."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import export
from problems import assert_close

from benchmarks import __main__ as suite
from benchmarks.compare import compare
from benchmarks.parts import contenders, forward_tables, method
from benchmarks.parts.marks import marks_table
from benchmarks.parts.problems import Problem, exact_states
from benchmarks.report import write_report
from rnn2ff import Refined, TwoLayer, best_sweep, random_threshold_linear, threshold_linear
from rnn2ff.steady_state.plan import run_sweeps

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
    sweep = passes[1].sweep  # what the entry point with a plan runs on the device
    sweeps = lambda stimuli: run_sweeps(network, sweep, stimuli, 1, jnp.int32(4), None, 1.0, 1e-5).states  # noqa: E731
    yield contenders.Contender("sweeps", "solver", sweeps)


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


def test_a_loop_of_unknown_length_is_told_from_work_that_is_always_the_same(passes):
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


def test_the_suite_refuses_names_that_it_does_not_have():
    with pytest.raises(SystemExit, match="unknown names"):
        suite._choose(suite.Options(only=("speed",)))
    assert [each.name for each in suite._choose(suite.Options(quick=True))] == ["rollout_vs_forward", "scaling"]
    with pytest.raises(SystemExit, match="nothing to run"):
        suite._choose(suite.Options(quick=True, only=("deployment",)))


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
