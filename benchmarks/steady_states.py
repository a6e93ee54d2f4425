"""How fast are steady states found, and are they the right ones?

Solvers of this library and of others, in one process and in turns, on the problems of `benchmarks/parts/problems.py`,
in float32. A timing stands beside the share of samples whose residual, recomputed in float64, is below the tolerance,
and beside the agreement with an accurate rollout.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.method import time_in_turns
from benchmarks.parts.peers import PEERS, ROLLOUT, TOLERANCE, Peer, Tuned, tune
from benchmarks.parts.problems import NAMES, Problem, distances, make_problem, residuals64
from experiments._script import run_script, table
from rnn2ff import steady_state
from rnn2ff.steady_state import count_statuses, solve_steady_states

ENTRY_POINT = "solve_steady_states"
PLANNED = "solve_steady_states, plan reused"
_OUR_SOLVERS = ("Rollout", "RootFind", "Anderson", "ActiveSet")
_GEMM = "GEMM"
_NUM_PLANNED = 512  # stimuli, none of them timed, that a plan is made from
_NUM_GEMMS = 20  # in one call, so that the dispatch does not count
_SAME_STATE = 1e-2  # relative; other basins are farther, and slow modes at the tolerance nearer
_SAME_BASIN = 0.99  # the agreement that a competitor needs

# Ratio to the rollout, at a batch of 256: (problem, state size) -> at least.
_RATIO_MARKS = {
    ("gauss09", 128): 20,
    ("pstiff99", 128): 100,
    ("gauss13", 128): 30,
    ("wta", 128): 6,
    ("tanh09", 128): 10,
    ("ssn", 64): 4,
    ("gauss09", 512): 25,
}
_GEMM_MARKS = {("gauss09", 128): 0.5, ("gauss09", 512): 0.75}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the weights and the stimuli."""
    problems: tuple[str, ...] = NAMES
    """Which problems."""
    sizes: tuple[int, ...] = (128, 512)
    """Numbers of units; the ssn has 64, whatever is asked for."""
    batches: tuple[int, ...] = (256, 4096)
    """Numbers of stimuli solved in one call."""
    widely: tuple[str, ...] = ("gauss09",)
    """Problems at all sizes and batches; the others take part at the first of each, which takes 2 minutes each."""
    peers: bool = True
    """Whether to run the competitors other than the rollout."""
    num_rounds: int = 20
    """Turns of each method; slow ones get fewer, at least 3."""
    budget_seconds: float = 5.0
    """For the turns of one method, after which they get fewer."""
    largest_seconds: float = 4.0
    """A call that takes longer is made with fewer samples, and says so."""
    num_trial_samples: int = 64
    """Samples on which settings are chosen, and competitors have to converge to be let on to the whole batch."""
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
            num_rounds=3,
            budget_seconds=0.1,
            largest_seconds=0.5,
        )


class Method(NamedTuple):
    """A way of solving that can be timed.

    Attributes:
        name: of the method.
        kind: "ours", "rollout", "peer", or "floor" for what is no solver.
        solve: from stimuli to a `SteadyState`, or to states.
        num_samples: how many of the batch it is timed on.
        setting: of a competitor, the best one.
        compile_seconds: what the first call took longer than the second.
    """

    name: str
    kind: str
    solve: Callable[[jax.Array], object]
    num_samples: int
    setting: dict
    compile_seconds: float


def run(config: Config) -> Iterator[dict]:
    """One row a method, problem, size and batch; a competitor that is not installed has a row that says so."""
    for name in config.problems:
        is_wide = name in config.widely
        for state_size in config.sizes if is_wide and name != "ssn" else config.sizes[:1]:
            for batch_size in config.batches if is_wide else config.batches[:1]:
                yield from _run_problem(make_problem(name, state_size, batch_size, seed=config.seed), config)
                jax.clear_caches()


def _run_problem(problem: Problem, config: Config) -> list[dict]:
    reference = _reference_states(problem.take(config.num_reference_samples))
    methods = [*_our_methods(problem, config), _competitor(ROLLOUT, problem, "rollout", config), _gemm(problem)]
    missing = []
    if config.peers:
        methods += [_competitor(peer, problem, "peer", config) for peer in PEERS if peer.is_installed]
        missing = [peer.name for peer in PEERS if not peer.is_installed]
    stimuli = jnp.asarray(problem.stimuli)
    calls = {each.name: _bind(each, stimuli[: each.num_samples]) for each in methods}
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
            row["microseconds"] = [1e6 * each / method.num_samples for each in seconds]
            row["num_rounds"] = num_rounds
            rows.append(row)
    _compare(rows)
    for row in rows:
        if row["method"] in (ENTRY_POINT, PLANNED):
            # A call solves all samples together, so its floor is as many products of the whole batch as sweeps.
            floor = row["mean_steps"] * row["gemm_microseconds"]
            row["gemm_share"] = floor / row["microseconds"][0] if problem.name == "gauss09" else None
    return rows + [{**where, "method": name, "kind": "not run"} for name in missing]


def _bind(method: Method, stimuli: jax.Array) -> Callable[[], object]:
    return lambda: method.solve(stimuli)


def _reference_states(problem: Problem) -> np.ndarray:
    """The states that the dynamics reach, by rollouts with small steps; NaN where they do not come to rest."""
    solve = ROLLOUT.build(problem)
    states = np.asarray(solve(jnp.asarray(problem.stimuli), step_tolerance=1e-6, tiles="64"))
    at_rest = residuals64(problem.network, problem.stimuli, states) < TOLERANCE
    return np.where(at_rest[:, None], states, np.nan)


# --- the methods ------------------------------------------------------------------------------------------------------


def _our_methods(problem: Problem, config: Config) -> list[Method]:
    """As the user calls it, verdict included; and each solver alone, where this version of the library has it."""

    def make(name, solver):
        def solve(stimuli):
            return solve_steady_states(problem.network, stimuli, solver=solver, tolerance=TOLERANCE)

        trial_compile, trial_seconds, _ = _first_calls(solve, problem.take(_num_trial(problem, config)))
        num_samples = _num_affordable(trial_seconds, problem, config)
        compile_seconds, *_ = _first_calls(solve, problem.take(num_samples))
        return Method(name, "ours", solve, num_samples, {}, max(trial_compile, compile_seconds))

    methods = [make(ENTRY_POINT, None)]
    # What a few hundred other stimuli tell about the network can be kept for all that follow.
    others = make_problem(problem.name, problem.network.state_size, _NUM_PLANNED, seed=config.seed, stimulus_seed=1)
    methods.append(make(PLANNED, steady_state.plan_steady_states(problem.network, others.stimuli, tolerance=TOLERANCE)))
    for name in _OUR_SOLVERS:
        if hasattr(steady_state, name):
            try:
                methods.append(make(name, getattr(steady_state, name)()))
            except ValueError as error:  # a solver for other networks than this one
                print(f"{problem.name}: {name} does not apply: {error}")
    return methods


def _competitor(peer: Peer, problem: Problem, kind: str, config: Config) -> Method:
    """At its best setting, chosen on some of the batch, and again on more of it where that was too few."""
    num_samples = min(_num_trial(problem, config), peer.max_batch_size(problem.network.state_size))
    largest = min(len(problem.stimuli), peer.max_batch_size(problem.network.state_size))
    best = tune(peer, problem.take(num_samples), largest_seconds=config.largest_seconds)
    _, seconds, share = _first_calls(best.solve, problem.take(num_samples))
    if share == 1 and num_samples < largest:
        num_samples = min(largest, _num_affordable(seconds, problem, config))
        _, seconds, share = _first_calls(best.solve, problem.take(num_samples))
        if share < 1 and seconds * len(peer.settings) < 10 * config.largest_seconds:
            best = tune(peer, problem.take(num_samples), largest_seconds=config.largest_seconds)
    if "tiles" in best.setting and share == 1:  # which is faster shows on the whole batch alone
        best = _retile(peer, problem.take(num_samples), best)
    return Method(peer.name, kind, best.solve, num_samples, best.setting, best.compile_seconds)


def _retile(peer: Peer, problem: Problem, best: Tuned) -> Tuned:
    """The same setting, in one loop or in tiles."""
    other = {**best.setting, "tiles": {"64": "all", "all": "64"}[best.setting["tiles"]]}
    solve = peer.build(problem)
    tuned = Tuned(other, best.compile_seconds, lambda stimuli: solve(stimuli, **other))
    tried = [(each, *_first_calls(each.solve, problem)[1:]) for each in (best, tuned)]
    return min((each for each in tried if each[2] == 1), key=lambda each: each[1])[0]


def _gemm(problem: Problem) -> Method:
    """The product that a sweep of the whole batch cannot do without."""
    transposed = jnp.asarray(problem.weights.T)

    @jax.jit
    def multiply(stimuli):
        return jax.lax.fori_loop(0, _NUM_GEMMS, lambda _, states: states @ transposed, stimuli)

    return Method(_GEMM, "floor", multiply, len(problem.stimuli), {}, 0.0)


def _num_trial(problem: Problem, config: Config) -> int:
    # Never the whole batch, whose first call would then not compile.
    return min(config.num_trial_samples, len(problem.stimuli) // 2)


def _num_affordable(trial_seconds: float, problem: Problem, config: Config) -> int:
    """The whole batch, or as much of it as fits the time for one call, in whole trials."""
    num_trial = _num_trial(problem, config)
    num_calls = max(1, int(config.largest_seconds / trial_seconds))
    return min(len(problem.stimuli), num_trial * num_calls)


def _first_calls(solve: Callable, problem: Problem) -> tuple[float, float, float]:
    """Seconds to compile, seconds of a warm call, and the share of samples converged."""
    stimuli = jnp.asarray(problem.stimuli)
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        found = jax.block_until_ready(solve(stimuli))
        taken.append(time.perf_counter() - start)
    return max(0.0, taken[0] - taken[1]), taken[1], _share_converged(problem, _states(found))


# --- judging ----------------------------------------------------------------------------------------------------------


def _states(found: object) -> np.ndarray:
    return np.asarray(getattr(found, "state", found))


def _share_converged(problem: Problem, states: np.ndarray) -> float:
    return float((residuals64(problem.network, problem.stimuli, states) < TOLERANCE).mean())


def _judge(method: Method, found: object, problem: Problem, reference: np.ndarray) -> dict:
    """What a method found, on what it was timed on."""
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
    """Add the ratios to the rollout, and to the fastest competitor that converged everywhere, to the right states."""
    rollout = next(row for row in rows if row["kind"] == "rollout")
    enough = min(1.0, rollout["share_converged"])
    fit = [
        row
        for row in rows
        if row["kind"] in ("rollout", "peer")
        and row["share_converged"] >= enough
        and (row["agreement"] or 0) >= _SAME_BASIN
    ]
    best = min(fit, key=lambda row: row["microseconds"][0], default=rollout)
    for row in rows:
        row["ratio_to_rollout"] = rollout["microseconds"][0] / row["microseconds"][0]
        row["ratio_to_best"] = best["microseconds"][0] / row["microseconds"][0]
        row["best_competitor"] = best["method"]


# --- what is printed --------------------------------------------------------------------------------------------------


def marks(rows: list[dict]) -> list[dict]:
    """What was asked, what was received, and whether it is met.

    The marks are for a plan that was made before, from other stimuli; what a call without one gives stands beside it.
    """
    found = []
    where = ("problem", "state_size", "batch_size")
    pairs = {}
    for row in rows:
        if row["method"] in (ENTRY_POINT, PLANNED):
            pairs.setdefault(tuple(row[name] for name in where), {})[row["method"]] = row

    def add(place, what, asked, received, unplanned):
        is_met = received is not None and received >= asked
        found.append({**dict(zip(where, place)), "what": what, "mark": asked, "received": received,
                      "without_plan": unplanned, "is_met": is_met})  # fmt: skip

    for place, pair in pairs.items():
        row, unplanned = pair[PLANNED], pair[ENTRY_POINT]
        wanted = [("share_converged", "share converged", 1.0)]
        if place[2] == 256 and place[:2] in _RATIO_MARKS:
            wanted.append(("ratio_to_rollout", "ratio to the rollout", _RATIO_MARKS[place[:2]]))
        if place[0] == "wta":
            wanted.append(("agreement", "agreement with the rollout", 0.995))
        wanted.append(("ratio_to_best", f"ratio to the best competitor, {row['best_competitor']}", 1.0))
        if place[:2] in _GEMM_MARKS:
            wanted.append(("gemm_share", "share of the GEMM rate", _GEMM_MARKS[place[:2]]))
        for name, what, asked in wanted:
            add(place, what, asked, row[name], unplanned[name])

    def share_ahead(method):
        ratios = [pair[method]["ratio_to_best"] for pair in pairs.values() if method in pair]
        return sum(each >= 1.5 for each in ratios) / len(ratios) if ratios else None

    most = "share of problems 1.5 x ahead of the best"
    add(("all", "-", "-"), most, 0.501, share_ahead(PLANNED), share_ahead(ENTRY_POINT))
    return found


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
        (rollout,) = (each for each in rows if each["kind"] == "rollout" and place.items() <= each.items())
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
    ]
    lines = []
    for row in sorted(rows, key=lambda row: row.get("microseconds", [math.inf])[0]):
        if row["kind"] == "not run":
            lines.append([f"{row['method']}: not installed, not run", *"-" * (len(header) - 1)])
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
            f"{each['problem']} {each['state_size']} x {each['batch_size']}: {each['what']}",
            number(each["mark"]),
            number(each["received"]),
            number(each["without_plan"]),
            "met" if each["is_met"] else "NOT MET",
        ]
        for each in found
    ]
    return table(["mark", "at least", "received", "without a plan", ""], lines)


if __name__ == "__main__":
    run_script("steady_states", Config(), run, describe, folder=Path(__file__).parent)
