"""The answers of `honest_failures`: cases solved as a user solves them, in a precision, with or without a plan."""

import sys

import equinox as eqx
import jax
import numpy as np

import rnn2ff
from benchmarks.parts.honest_cases import Case
from benchmarks.parts.problems import in_float64
from rnn2ff.steady_state import SteadyState, plan_steady_states, solve_steady_states

_TOLERANCES = {"float32": 1e-5, "float64": 1e-9}
ENGINE = "engine"  # in the name of a mode: `solve_batch` alone


def solve(case: Case, way: str, other_stimuli: np.ndarray) -> SteadyState:
    """Solve as the user does, with or without a plan; in float32 with x64 off, which is the default."""
    dtype, *how = way.split()
    tolerance = _TOLERANCES[dtype]
    with jax.enable_x64(dtype == "float64"):
        network = in_float64(case.network) if dtype == "float64" else case.network
        plan = None
        if "planned" in how:
            try:
                plan = plan_steady_states(network, other_stimuli.astype(dtype), tolerance=tolerance)
            except RuntimeError as error:  # no steady state to plan for: then there is no plan to judge
                print(f"no plan: {error}", file=sys.stderr)
        stimuli, starts = case.stimuli.astype(dtype), case.initial_states.astype(dtype)
        if ENGINE in how:
            solution = _solve_by_engine(network, stimuli, plan, starts, tolerance)
        else:
            solution = solve_steady_states(network, stimuli, solver=plan, initial_states=starts, tolerance=tolerance)
        return jax.tree.map(np.asarray, solution)


@eqx.filter_jit
def _solve_by_engine(network, stimuli, plan, initial_states, tolerance):
    return rnn2ff.solve_batch(network, stimuli, plan, initial_states=initial_states, tolerance=tolerance)
