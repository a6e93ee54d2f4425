"""What does a feed-forward pass cost, and how wrong is it, beside the ways of solving the network?

Error against time: rollouts over tolerances, the solvers of this library, and approximators by width and by sweeps, on
the same stimuli, in turns. In addition: the latency of single calls, over different stimuli and over copies of one;
after how many queries an approximator has paid for its training; and the time of the matrix products that every pass
needs.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.contenders import TOLERANCE, rollouts
from benchmarks.parts.forward_config import Config as Config
from benchmarks.parts.forward_rows import Setting, time_batch, time_single_calls, time_with_one_thread
from benchmarks.parts.forward_tables import describe
from benchmarks.parts.forward_tables import marks as marks
from benchmarks.parts.forward_tables import summarize as summarize
from benchmarks.parts.method import compile_ahead
from benchmarks.parts.passes import random_passes, train_passes
from benchmarks.parts.problems import Problem, exact_states, make_problem, residuals64
from experiments._script import run_script
from rnn2ff.steady_state import plan_steady_states, solve_steady_states

_NUM_PLANNED = 512  # stimuli, none of them timed, that a plan is made from
_NUM_TRIED = 32  # stimuli on which the steps of rollouts are tried
_JUDGED_ENTRIES = 2**26  # of the matrices that are factorized for exact steady states


def run(config: Config) -> Iterator[dict]:
    """One row per contender, size, batch and number of threads, one per latency, and one per break-even."""
    # The result of a single call is awaited at once, so that dispatching it to another thread would only cost time.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    for state_size in config.sizes:
        setting, problem_options = make_setting(state_size, config)
        rows = []
        early = config.solved_batches[:1] if config.solvers_first else ()
        for batch_size in early:
            rows += time_batch(setting, batch_size, config, with_solvers=True)
            yield from rows
        setting = with_passes(setting, problem_options, config)
        for batch_size in config.batches:
            is_solved = batch_size in config.solved_batches and batch_size not in early
            new_rows = time_batch(setting, batch_size, config, with_solvers=is_solved)
            rows += new_rows
            yield from new_rows
        yield from break_even(setting, rows)
        yield from time_single_calls(setting, config)
        if config.one_thread and jax.default_backend() == "cpu":
            yield from time_with_one_thread(setting, problem_options, config)
        jax.clear_caches()


def make_setting(state_size: int, config: Config) -> tuple[Setting, dict]:
    """A setting with exact steady states of some stimuli, but without passes yet; and the options of the problem."""
    num_samples = max(*config.batches, config.num_judged)
    options = {"name": config.problem, "state_size": state_size, "batch_size": num_samples, "seed": config.seed}
    problem = make_problem(**options)
    others = _to_train_on(options, config)
    plan = plan_steady_states(problem.network, others.stimuli[:_NUM_PLANNED], tolerance=TOLERANCE)
    judged = problem.take(int(np.clip(_JUDGED_ENTRIES // state_size**2, 16, config.num_judged)))
    near = solve_steady_states(problem.network, judged.stimuli, solver=plan, tolerance=TOLERANCE)
    states = exact_states(judged, np.asarray(near.state))
    return Setting(problem, states, [], _step_shares(judged, config), plan), options


def with_passes(setting: Setting, problem_options: dict, config: Config) -> Setting:
    """The setting with approximators, trained on other stimuli; those of large networks are random."""
    sizes = {"widths": config.widths, "sweeps": config.sweeps, "seed": config.seed}
    if setting.problem.network.state_size <= config.largest_trained:
        others = _to_train_on(problem_options, config)
        passes = train_passes(others, setting.plan, num_steps=config.num_steps, **sizes)
    else:
        passes = random_passes(setting.problem.take(len(setting.states)), setting.states, **sizes)
    return setting._replace(passes=passes)


def _to_train_on(problem_options: dict, config: Config) -> Problem:
    return make_problem(**problem_options | {"batch_size": config.num_pairs, "stimulus_seed": 1})


def _step_shares(problem: Problem, config: Config) -> tuple[float, ...]:
    """The shares with which a few samples come to rest; with larger ones, rollouts would use up all steps."""
    if len(config.step_shares) == 1:
        return config.step_shares
    tried = rollouts(problem.network, ("Tsit5",), (TOLERANCE,), config.step_shares)
    few = problem.take(_NUM_TRIED)
    roll = compile_ahead(tried[0].function, *tried[0].arguments, jnp.asarray(few.stimuli)).call
    shares = []
    for share, contender in zip(config.step_shares, tried):
        states, _ = roll(*contender.arguments, jnp.asarray(few.stimuli))
        if (residuals64(few.network, few.stimuli, np.asarray(states)) >= TOLERANCE).any():
            break
        shares.append(share)
    return tuple(shares) or config.step_shares[:1]


def break_even(setting: Setting, rows: list[dict]) -> Iterator[dict]:
    """After how many queries a trained pass has paid for its training, against the fastest converging solver here."""
    for batch_size in sorted({row["batch_size"] for row in rows if row["kind"] == "solver"}):
        group = [row for row in rows if row["batch_size"] == batch_size]
        solved = [row for row in group if row["kind"] == "solver" and row["share_converged"] == 1]
        best = min(solved, key=lambda row: row["microseconds"][0], default=None)
        for timed_pass in setting.passes:
            matching = [row for row in group if row["kind"] == "pass" and timed_pass.about.items() <= row.items()]
            if best is None or not timed_pass.is_trained or not matching:
                continue
            (row,) = matching
            saved = best["microseconds"][0] - row["microseconds"][0]
            seconds = timed_pass.data_seconds + timed_pass.training_seconds + row["compile_seconds"]
            yield {
                **setting.where,
                "batch_size": batch_size,
                "method": "pass",
                "kind": "break-even",
                **timed_pass.about,
                "nrmse": row["nrmse"],
                "data_seconds": timed_pass.data_seconds,
                "training_seconds": timed_pass.training_seconds,
                "compile_seconds": row["compile_seconds"],
                "solver": best["method"],
                "solver_microseconds": best["microseconds"],
                "pass_microseconds": row["microseconds"],
                "queries": 1e6 * seconds / saved if saved > 0 else None,
            }


if __name__ == "__main__":
    run_script("rollout_vs_forward", Config(), run, describe, folder=Path(__file__).parent)
