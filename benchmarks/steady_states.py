"""How fast are steady states found, and are they the right ones?

Solvers of this library and of others, in one process and in turns, on the problems of `benchmarks/parts/problems.py`,
in float32. Each timing is reported with the share of samples whose residual, recomputed in float64, is below the
tolerance, and with the agreement with an accurate rollout.

The plain loop is what a user would write: Euler steps of the whole batch until the slowest sample is at rest, at the
best step size, with no verdict. It has marks of its own; "the best competitor" is the fastest of the others.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnn2ff
from benchmarks.parts.method import time_in_turns
from benchmarks.parts.peers import PEERS, PLAIN_LOOP, ROLLOUT, TOLERANCE, Peer, Tuned, tune, tune_on_all
from benchmarks.parts.problems import NAMES, Problem, distances, make_problem, residuals64
from experiments._script import run_script, table
from rnn2ff import steady_state
from rnn2ff.records import timed
from rnn2ff.steady_state import count_statuses, solve_steady_states

ENTRY_POINT = "solve_steady_states"
PLANNED = "solve_steady_states, plan reused"
ENGINE = "solve_batch"  # under `jit`: the engine alone
ENGINE_PLANNED = "solve_batch, plan reused"
_OUR_SOLVERS = ("Rollout", "RootFind", "Anderson", "ActiveSet")
_GEMM = "GEMM"
_WITH_SHARE = (ENTRY_POINT, PLANNED, ENGINE, ENGINE_PLANNED)  # of the GEMM rate
_LOOPS = (PLAIN_LOOP.name, "PyTorch loop")  # the peers that large batches have
_NUM_PLANNED = 512  # stimuli, none of them timed, that a plan is made from
_NUM_GEMMS = 20  # in one call, so that the dispatch does not count
_SAME_STATE = 1e-2  # relative; other basins are farther apart, and errors of slow modes at the tolerance smaller
_SAME_BASIN = 0.99  # the agreement that a competitor needs

_RATIO_BATCH = 256
# Ratio to the rollout, at this batch: (problem, state size) -> at least.
_RATIO_MARKS = {
    ("gauss09", 128): 20,
    ("pstiff99", 128): 100,
    ("gauss13", 128): 30,
    ("wta", 128): 6,
    ("tanh09", 128): 10,
    ("ssn", 64): 4,
    ("gauss09", 512): 25,
}
_GEMM_MARKS = {("gauss09", 128, 4096): 0.5, ("gauss09", 512, 2048): 0.75}  # and batch size -> at least
# Times the plain loop's time: (problem, state size, batch size) -> at most.
_LOOP_MARKS = {
    ("gauss09", 128, 256): 1.2,
    ("gauss09", 128, 4096): 0.9,
    ("gauss09", 128, 20_000): 0.6,
    ("gauss09", 512, 2048): 1.1,
    ("pstiff99", 128, 4096): 0.07,
    ("gauss13", 128, 4096): 0.8,
    ("tanh09", 128, 4096): 1.0,
    ("wta", 128, 2048): 0.25,
    ("ssn", 64, 4096): 1.0,
}
_UNPLANNED_MARKS = {256: 2.0, 4096: 1.3, 20_000: 1.3}  # times the time with a plan: batch size -> at most
_AHEAD = 1.5  # times as fast as the best competitor, on half of the problems


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the weights and the stimuli."""
    problems: tuple[str, ...] = NAMES
    """Names of the problems."""
    sizes: tuple[int, ...] = (128, 512)
    """Numbers of units; the ssn always has 64."""
    batches: tuple[int, ...] = (256,)
    """Numbers of stimuli solved in one call, by all methods."""
    large_batches: bool = True
    """Also larger batches that have marks, but only for the entry point, the engine, the rollout and plain loops."""
    widely: tuple[str, ...] = ("gauss09",)
    """Problems that are solved at all sizes; the others only at the first."""
    peers: bool = True
    """Whether to run the competitors other than the rollout."""
    num_rounds: int = 20
    """Timed turns of each method; slow methods get fewer, at least 3."""
    budget_seconds: float = 5.0
    """Time for the turns of one method; methods that take longer get fewer turns."""
    largest_seconds: float = 4.0
    """A call that takes longer is timed on fewer samples, and its row says so."""
    num_trial_samples: int = 64
    """Samples on which settings are chosen; competitors that do not converge on them stay on these samples."""
    num_reference_samples: int = 256
    """Samples whose states are compared with those of an accurate rollout."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            problems=("gauss09",),
            widely=(),
            sizes=(16,),
            batches=(16,),
            large_batches=False,
            num_rounds=3,
            budget_seconds=0.1,
            largest_seconds=0.5,
        )


class Method(NamedTuple):
    """A way of solving that can be timed.

    Attributes:
        name: of the method.
        kind: "ours", "rollout", "peer", or "floor" for what is no solver.
        solve: takes stimuli, and returns a `SteadyState` or states.
        num_samples: number of samples of the batch that it is timed on.
        setting: the best one of a competitor.
        compile_seconds: by how much the first call took longer than the second.
    """

    name: str
    kind: str
    solve: Callable[[jax.Array], object]
    num_samples: int
    setting: dict
    compile_seconds: float


def run(config: Config) -> Iterator[dict]:
    """One row per method, problem, size and batch; a method that is not installed has a row that says so."""
    for name in config.problems:
        for state_size in config.sizes if name in config.widely else config.sizes[:1]:
            for batch_size in config.batches:
                yield from _run_problem(make_problem(name, state_size, batch_size, seed=config.seed), config)
                jax.clear_caches()
            for batch_size in _large_batches(name, state_size, config):
                problem = make_problem(name, state_size, batch_size, seed=config.seed)
                yield from _run_problem(problem, config, is_large=True)
                jax.clear_caches()


def _large_batches(name: str, state_size: int, config: Config) -> list[int]:
    if not config.large_batches:
        return []
    place = (name, make_problem(name, state_size, 1).network.state_size)
    return sorted({case[2] for case in (*_LOOP_MARKS, *_GEMM_MARKS) if case[:2] == place} - set(config.batches))


def _run_problem(problem: Problem, config: Config, *, is_large: bool = False) -> list[dict]:
    reference = _reference_states(problem.take(config.num_reference_samples))
    methods = [*_our_methods(problem, config, is_large), _competitor(ROLLOUT, problem, "rollout", config)]
    methods.append(_gemm(problem))
    missing = {}
    if config.peers:
        peers = [peer for peer in PEERS if peer.name in _LOOPS or not is_large]
        methods += [_competitor(peer, problem, "peer", config) for peer in peers if peer.is_installed]
        missing = {peer.name: "not installed" for peer in peers if not peer.is_installed}
    stimuli = jnp.asarray(problem.stimuli)
    calls = {contender.name: _bind(contender, stimuli[: contender.num_samples]) for contender in methods}
    timed = time_in_turns(calls, num_rounds=config.num_rounds, budget_seconds=config.budget_seconds)
    gemm_seconds = timed[_GEMM][0].median / _NUM_GEMMS
    where = {
        "problem": problem.name,
        "state_size": problem.network.state_size,
        "batch_size": len(problem.stimuli),
        "gemm_microseconds": 1e6 * gemm_seconds / len(problem.stimuli),
    }
    rows = []
    for method in methods:
        if method.kind != "floor":
            seconds, num_rounds = timed[method.name]
            row = {**where, **_judge(method, calls[method.name](), problem, reference)}
            row["microseconds"] = [1e6 * quartile / method.num_samples for quartile in seconds]
            row["num_rounds"] = num_rounds
            rows.append(row)
    _compare(rows)
    for row in rows:
        if row["method"] in _WITH_SHARE:
            # A call solves all samples together, so its floor is one product of the whole batch per sweep.
            floor = row["mean_steps"] * row["gemm_microseconds"]
            row["gemm_share"] = floor / row["microseconds"][0] if problem.name == "gauss09" else None
    return rows + [{**where, "method": name, "kind": "not run", "reason": why} for name, why in missing.items()]


def _bind(method: Method, stimuli: jax.Array) -> Callable[[], object]:
    return lambda: method.solve(stimuli)


def _reference_states(problem: Problem) -> np.ndarray:
    """The states that the dynamics reach, by rollouts with small steps; NaN where they do not come to rest."""
    solve = ROLLOUT.build(problem)
    states = np.asarray(solve(jnp.asarray(problem.stimuli), step_tolerance=1e-6, tiles="64"))
    at_rest = residuals64(problem.network, problem.stimuli, states) < TOLERANCE
    return np.where(at_rest[:, None], states, np.nan)


# --- the methods ------------------------------------------------------------------------------------------------------


def _our_methods(problem: Problem, config: Config, is_large: bool) -> list[Method]:
    """The entry point as the user calls it, verdicts included; and the engine and each solver alone."""

    def solve_with(solver):
        return lambda stimuli: solve_steady_states(problem.network, stimuli, solver=solver, tolerance=TOLERANCE)

    def run_engine_with(plan):
        solve = eqx.filter_jit(rnn2ff.solve_batch)
        return lambda stimuli: solve(problem.network, stimuli, plan, tolerance=TOLERANCE)

    def make(name, solve):
        trial_compile, trial_seconds, _ = _first_calls(solve, problem.take(_num_trial(problem, config)))
        # Methods with marks are timed on the whole batch: a part of it would have another cost per sample.
        is_whole = name in _WITH_SHARE
        num_samples = len(problem.stimuli) if is_whole else _num_affordable(trial_seconds, problem, config)
        compile_seconds = _first_calls(solve, problem.take(num_samples)).compile_seconds
        return Method(name, "ours", solve, num_samples, {}, max(trial_compile, compile_seconds))

    # A plan made from a few hundred other stimuli can be reused for all later ones.
    others = make_problem(problem.name, problem.network.state_size, _NUM_PLANNED, seed=config.seed, stimulus_seed=1)
    plan = steady_state.plan_steady_states(problem.network, others.stimuli, tolerance=TOLERANCE)
    methods = [make(ENTRY_POINT, solve_with(None)), make(PLANNED, solve_with(plan))]
    methods += [make(ENGINE, run_engine_with(None)), make(ENGINE_PLANNED, run_engine_with(plan))]
    for name in () if is_large else _OUR_SOLVERS:
        try:
            methods.append(make(name, solve_with(getattr(steady_state, name)())))
        except ValueError as error:  # a solver for other networks than this one
            print(f"{problem.name}: {name} does not apply: {error}")
    return methods


def _competitor(peer: Peer, problem: Problem, kind: str, config: Config) -> Method:
    """A competitor at its best setting, chosen on a part of the batch, and again on more of it if it was too small."""
    if peer.takes_all:
        best = tune_on_all(peer, problem, _num_trial(problem, config), largest_seconds=config.largest_seconds)
        return Method(peer.name, kind, best.solve, len(problem.stimuli), best.setting, best.compile_seconds)
    num_samples = min(_num_trial(problem, config), peer.max_batch_size(problem.network.state_size))
    largest = min(len(problem.stimuli), peer.max_batch_size(problem.network.state_size))
    best = tune(peer, problem.take(num_samples), largest_seconds=config.largest_seconds)
    _, seconds, share = _first_calls(best.solve, problem.take(num_samples))
    if share == 1 and num_samples < largest:
        num_samples = min(largest, _num_affordable(seconds, problem, config))
        _, seconds, share = _first_calls(best.solve, problem.take(num_samples))
        if share < 1 and seconds * len(peer.settings) < 10 * config.largest_seconds:
            best = tune(peer, problem.take(num_samples), largest_seconds=config.largest_seconds)
    if "tiles" in best.setting and share == 1:  # only the whole batch shows which is faster
        best = _retile(peer, problem.take(num_samples), best)
    return Method(peer.name, kind, best.solve, num_samples, best.setting, best.compile_seconds)


def _retile(peer: Peer, problem: Problem, best: Tuned) -> Tuned:
    """The same setting, in one loop or in tiles."""
    retiled = {**best.setting, "tiles": {"64": "all", "all": "64"}[best.setting["tiles"]]}
    solve = peer.build(problem)
    tuned = Tuned(retiled, best.compile_seconds, lambda stimuli: solve(stimuli, **retiled))
    tried = [(candidate, _first_calls(candidate.solve, problem)) for candidate in (best, tuned)]
    return min((pair for pair in tried if pair[1].share_converged == 1), key=lambda pair: pair[1].seconds)[0]


def _gemm(problem: Problem) -> Method:
    """The matrix product that every sweep of the whole batch needs."""
    transposed = jnp.asarray(problem.weights.T)

    @jax.jit
    def multiply(stimuli):
        return jax.lax.fori_loop(0, _NUM_GEMMS, lambda _, states: states @ transposed, stimuli)

    return Method(_GEMM, "floor", multiply, len(problem.stimuli), {}, 0.0)


def _num_trial(problem: Problem, config: Config) -> int:
    # Never the whole batch, whose first call would then find its program compiled already.
    return min(config.num_trial_samples, len(problem.stimuli) // 2)


def _num_affordable(trial_seconds: float, problem: Problem, config: Config) -> int:
    """The whole batch, or as much of it as fits the time for one call, in whole trials."""
    num_trial = _num_trial(problem, config)
    num_calls = max(1, int(config.largest_seconds / trial_seconds))
    return min(len(problem.stimuli), num_trial * num_calls)


class _FirstCalls(NamedTuple):
    """Two calls of a method on a problem."""

    compile_seconds: float  # by which the first call took longer
    seconds: float  # of the second call
    share_converged: float  # of the samples


def _first_calls(solve: Callable, problem: Problem) -> _FirstCalls:
    stimuli = jnp.asarray(problem.stimuli)
    first, second = (timed(lambda: solve(stimuli)) for _ in range(2))
    share = _share_converged(problem, _states(second.result))
    return _FirstCalls(max(0.0, first.seconds - second.seconds), second.seconds, share)


# --- judging ----------------------------------------------------------------------------------------------------------


def _states(found: object) -> np.ndarray:
    return np.asarray(getattr(found, "state", found))


def _share_converged(problem: Problem, states: np.ndarray) -> float:
    return float((residuals64(problem.network, problem.stimuli, states) < TOLERANCE).mean())


def _judge(method: Method, found: object, problem: Problem, reference: np.ndarray) -> dict:
    """How good the states of a method are, on the samples that it was timed on."""
    states = _states(found)
    num_compared = min(len(states), len(reference))
    is_known = np.isfinite(reference[:num_compared]).all(axis=1)
    agrees = distances(states[:num_compared], reference[:num_compared])[is_known] < _SAME_STATE
    is_ours = method.kind == "ours"
    return {
        "method": method.name,
        "kind": method.kind,
        "setting": method.setting,
        "num_samples": method.num_samples,
        "compile_seconds": method.compile_seconds,
        "share_converged": _share_converged(problem.take(method.num_samples), states),
        "agreement": float(agrees.mean()) if len(agrees) else None,
        "num_compared": len(agrees),
        "status_counts": count_statuses(found.status) if is_ours else None,
        "mean_steps": float(np.mean(found.num_steps)) if is_ours else None,
    }


def _compare(rows: list[dict]) -> None:
    """Add the ratios to the rollout, and to the fastest competitor that converged everywhere, to the right states.

    Also add the time over that of the plain loop, which does not count as a competitor here.
    """
    rollout = next(row for row in rows if row["kind"] == "rollout")
    enough = min(1.0, rollout["share_converged"])
    fit = [
        row
        for row in rows
        if row["kind"] in ("rollout", "peer")
        and row["method"] != PLAIN_LOOP.name
        and row["share_converged"] >= enough
        and (row["agreement"] or 0) >= _SAME_BASIN
    ]
    best = min(fit, key=lambda row: row["microseconds"][0], default=rollout)
    loop = next((row for row in rows if row["method"] == PLAIN_LOOP.name and row["share_converged"] == 1), None)
    for row in rows:
        row["times_the_loop"] = None if loop is None else row["microseconds"][0] / loop["microseconds"][0]
        row["ratio_to_rollout"] = rollout["microseconds"][0] / row["microseconds"][0]
        row["ratio_to_best"] = best["microseconds"][0] / row["microseconds"][0]
        row["best_competitor"] = best["method"]


# --- what is printed --------------------------------------------------------------------------------------------------


def marks(rows: list[dict]) -> list[dict]:
    """The required and the measured value, and whether the mark is met.

    The marks are for the entry point with a plan that was made before, from other stimuli; the values without a plan
    and those of the engine alone are given for comparison.
    """
    entries = []
    where = ("problem", "state_size", "batch_size")
    places: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        if row["method"] in _WITH_SHARE and row["kind"] != "not run":
            places.setdefault(tuple(row[name] for name in where), {})[row["method"]] = row

    def add(place, what, required, values, bound="at least"):
        received = values.get(PLANNED)
        is_met = received is not None and (received >= required if bound == "at least" else received <= required)
        entries.append({**dict(zip(where, place)), "what": what, "bound": bound, "mark": required, "received": received,
                      "without_plan": values.get(ENTRY_POINT), "engine": values.get(ENGINE_PLANNED),
                      "is_met": is_met})  # fmt: skip

    for place, group in places.items():

        def add_row(name, what, required, bound="at least", place=place, group=group):
            add(place, what, required, {method: row.get(name) for method, row in group.items()}, bound)

        add_row("share_converged", "share converged", 1.0)
        if place in _LOOP_MARKS:
            add_row("times_the_loop", "times the plain loop's time", _LOOP_MARKS[place], "at most")
        if place[2] in _UNPLANNED_MARKS:
            pairs = {PLANNED: ENTRY_POINT, ENGINE_PLANNED: ENGINE}
            ratios = {
                planned: group[unplanned]["microseconds"][0] / group[planned]["microseconds"][0]
                for planned, unplanned in pairs.items()
                if planned in group
            }
            add(place, "without a plan, times the time with one", _UNPLANNED_MARKS[place[2]], ratios, "at most")
        if place[2] == _RATIO_BATCH and place[:2] in _RATIO_MARKS:
            add_row("ratio_to_rollout", "ratio to the rollout", _RATIO_MARKS[place[:2]])
        if place[0] == "wta":
            add_row("agreement", "agreement with the rollout", 0.995)
        add_row("ratio_to_best", f"ratio to the best competitor, {group[PLANNED]['best_competitor']}", 1.0)
        if place in _GEMM_MARKS:
            add_row("gemm_share", "share of the GEMM rate", _GEMM_MARKS[place])

    def share_ahead(method):
        # At the smallest batch, which all competitors take part in.
        smallest = {
            place[:2]: min(candidate[2] for candidate in places if candidate[:2] == place[:2]) for place in places
        }
        ratios = [
            group[method]["ratio_to_best"]
            for place, group in places.items()
            if method in group and place[2] == smallest[place[:2]]
        ]
        return sum(ratio >= _AHEAD for ratio in ratios) / len(ratios) if ratios else None

    most = f"share of problems {_AHEAD} x ahead of the best"
    add(("all", "-", "-"), most, 0.5, {method: share_ahead(method) for method in _WITH_SHARE})
    return entries


def describe(rows: list[dict]) -> str:
    """A table for each problem, size and batch, and one of the marks."""
    cells = {}
    for row in rows:
        cells.setdefault((row["problem"], row["state_size"], row["batch_size"]), []).append(row)
    parts = []
    for (problem, state_size, batch_size), group in cells.items():
        title = f"{problem}, N = {state_size}, B = {batch_size}; a GEMM of the batch: "
        parts.append(f"{title}{group[0]['gemm_microseconds']:.3f} us a sample\n\n{_table(group, batch_size)}")
    parts.append(f"Marks\n\n{_marks_table(marks(rows))}")
    return "\n\n".join(parts)


def summarize(rows: list[dict]) -> str:
    """The table that the README shows: one line a problem, with the plan made before."""
    lines = []
    for row in rows:
        if row["method"] != PLANNED:
            continue
        place = {name: row[name] for name in ("problem", "state_size", "batch_size")}
        (rollout,) = (
            candidate for candidate in rows if candidate["kind"] == "rollout" and place.items() <= candidate.items()
        )
        lines.append(
            [
                f"{row['problem']}, {row['state_size']} units, batches of {row['batch_size']}",
                f"{rollout['microseconds'][0]:.0f}",
                f"{row['microseconds'][0]:.1f}",
                f"{row['ratio_to_rollout']:.1f}",
                f"{row['ratio_to_best']:.2f}, {row['best_competitor']}",
                f"{100 * row['share_converged']:.2f} %",
                "-" if row["agreement"] is None else f"{100 * row['agreement']:.1f} %",
            ]
        )
    header = ["", "rollout, us", "ours, us", "ratio", "ratio to the best competitor", "converged", "agrees"]
    return table(header, lines)


def _table(rows: list[dict], batch_size: int) -> str:
    header = [
        "method",
        "us a solve",
        "quartiles",
        "rounds",
        "compile s",
        "converged",
        "agrees",
        "to rollout",
        "to best",
        "times the loop",
    ]
    lines = []
    for row in sorted(rows, key=lambda row: row.get("microseconds", [math.inf])[0]):
        if row["kind"] == "not run":
            reason = row.get("reason", "not installed")
            lines.append([f"{row['method']}: {reason}, not run", *"-" * (len(header) - 1)])
            continue
        few = "" if row["num_samples"] == batch_size else f" ({row['num_samples']} samples)"
        median, lower, upper = row["microseconds"]
        lines.append(
            [
                f"{'**' if row['kind'] == 'ours' else ''}{row['method']}{'**' if row['kind'] == 'ours' else ''}{few}",
                f"{median:.2f}",
                f"{lower:.2f} - {upper:.2f}",
                row["num_rounds"],
                f"{row['compile_seconds']:.1f}",
                f"{100 * row['share_converged']:.2f} %",
                "-" if row["agreement"] is None else f"{100 * row['agreement']:.1f} %",
                f"{row['ratio_to_rollout']:.1f}",
                f"{row['ratio_to_best']:.2f}",
                "-" if row.get("times_the_loop") is None else f"{row['times_the_loop']:.2f}",
            ]
        )
    notes = []
    for row in rows:
        if row["kind"] == "ours":
            counts = ", ".join(f"{count} {name}" for name, count in row["status_counts"].items() if count)
            share = row.get("gemm_share")
            floor = "" if share is None else f"; {100 * share:.0f} % of the GEMM rate"
            notes.append(f"{row['method']}: {counts}; {row['mean_steps']:.1f} steps{floor}")
        elif row["kind"] != "not run":
            chosen = ", ".join(f"{name} {value}" for name, value in row["setting"].items())
            notes.append(f"{row['method']}: {chosen}")
    return "\n".join([table(header, lines), "", *(f"* {note}" for note in notes)])


def _marks_table(found: list[dict]) -> str:
    def number(value):
        return "-" if value is None else f"{value:.4g}"

    lines = [
        [
            f"{mark['problem']} {mark['state_size']} x {mark['batch_size']}: {mark['what']}",
            f"{mark['bound']} {number(mark['mark'])}",
            number(mark["received"]),
            number(mark["without_plan"]),
            number(mark["engine"]),
            "met" if mark["is_met"] else "NOT MET",
        ]
        for mark in found
    ]
    return table(["mark", "required", "measured", "without a plan", ENGINE_PLANNED, ""], lines)


if __name__ == "__main__":
    run_script("steady_states", Config(), run, describe, folder=Path(__file__).parent)
