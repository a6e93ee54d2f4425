"""How good the states of a method of `steady_states` are, and how its time compares with those of the others."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.contenders import TOLERANCE
from benchmarks.parts.peers import PLAIN_LOOP
from benchmarks.parts.problems import Problem, distances, residuals64
from rnn2ff.records import timed
from rnn2ff.steady_state import count_statuses

_SAME_STATE = 1e-2  # relative; other basins are farther apart, and errors of slow modes at the tolerance smaller
_SAME_BASIN = 0.99  # the agreement that a competitor needs


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


class FirstCalls(NamedTuple):
    """Two calls of a method on a problem."""

    compile_seconds: float  # by which the first call took longer
    seconds: float  # of the second call
    share_converged: float  # of the samples


def first_calls(solve: Callable, problem: Problem) -> FirstCalls:
    stimuli = jnp.asarray(problem.stimuli)
    first, second = (timed(lambda: solve(stimuli)) for _ in range(2))
    share = _share_converged(problem, _states(second.result))
    return FirstCalls(max(0.0, first.seconds - second.seconds), second.seconds, share)


def _states(found: object) -> np.ndarray:
    return np.asarray(getattr(found, "state", found))


def _share_converged(problem: Problem, states: np.ndarray) -> float:
    return float((residuals64(problem.network, problem.stimuli, states) < TOLERANCE).mean())


def judge(method: Method, found: object, problem: Problem, reference: np.ndarray) -> dict:
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


def compare(rows: list[dict]) -> None:
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
