"""How fast are steady states found, and are they the right ones?

Solvers of this library and of others, in one process and in turns, on the problems of `benchmarks/parts/problems.py`,
in float32. Each timing is reported with the share of samples whose residual, recomputed in float64, is below the
tolerance, and with the agreement with an accurate rollout.

The plain loop is what a user would write: Euler steps of the whole batch until the slowest sample is at rest, at the
best step size, with no verdict. It has marks of its own; "the best competitor" is the fastest of the others.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnn2ff
from benchmarks.parts.contenders import TOLERANCE
from benchmarks.parts.method import time_in_turns
from benchmarks.parts.peer_tuning import Peer, Tuned, tune, tune_on_all
from benchmarks.parts.peers import PEERS, PLAIN_LOOP, ROLLOUT
from benchmarks.parts.problems import NAMES, Problem, make_problem, residuals64
from benchmarks.parts.steady_state_judging import Method, compare, first_calls, judge
from benchmarks.parts.steady_state_marks import (
    ENGINE,
    ENGINE_PLANNED,
    ENTRY_POINT,
    GEMM_MARKS,
    LOOP_MARKS,
    PLANNED,
    WITH_SHARE,
)
from benchmarks.parts.steady_state_marks import marks as marks
from benchmarks.parts.steady_state_tables import describe
from benchmarks.parts.steady_state_tables import summarize as summarize
from experiments._script import run_script
from rnn2ff import steady_state
from rnn2ff.steady_state import solve_steady_states

_OUR_SOLVERS = ("Rollout", "RootFind", "Anderson", "ActiveSet")
_GEMM = "GEMM"
_LOOPS = (PLAIN_LOOP.name, "PyTorch loop")  # the peers that large batches have
_NUM_PLANNED = 512  # stimuli, none of them timed, that a plan is made from
_NUM_GEMMS = 20  # in one call, so that the dispatch does not count


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
    return sorted({case[2] for case in (*LOOP_MARKS, *GEMM_MARKS) if case[:2] == place} - set(config.batches))


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
            row = {**where, **judge(method, calls[method.name](), problem, reference)}
            row["microseconds"] = [1e6 * quartile / method.num_samples for quartile in seconds]
            row["num_rounds"] = num_rounds
            rows.append(row)
    compare(rows)
    for row in rows:
        if row["method"] in WITH_SHARE:
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
        trial_compile, trial_seconds, _ = first_calls(solve, problem.take(_num_trial(problem, config)))
        # Methods with marks are timed on the whole batch: a part of it would have another cost per sample.
        is_whole = name in WITH_SHARE
        num_samples = len(problem.stimuli) if is_whole else _num_affordable(trial_seconds, problem, config)
        compile_seconds = first_calls(solve, problem.take(num_samples)).compile_seconds
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
    _, seconds, share = first_calls(best.solve, problem.take(num_samples))
    if share == 1 and num_samples < largest:
        num_samples = min(largest, _num_affordable(seconds, problem, config))
        _, seconds, share = first_calls(best.solve, problem.take(num_samples))
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
    tried = [(candidate, first_calls(candidate.solve, problem)) for candidate in (best, tuned)]
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


if __name__ == "__main__":
    run_script("steady_states", Config(), run, describe, folder=Path(__file__).parent)
