"""Steady states with a verdict each: one sample, a batch, any solver."""

from rnn2ff.steady_state.driver import plan_steady_states, solve_steady_states
from rnn2ff.steady_state.meshes import check_mesh, chunks_of, on_each_device, placed_on
from rnn2ff.steady_state.method import Method, Plan, proved_rate
from rnn2ff.steady_state.result import (
    AbstractSteadyStateSolver,
    Candidate,
    Status,
    SteadyState,
    SteadyStates,
    count_statuses,
)
from rnn2ff.steady_state.single import solve_steady_state
from rnn2ff.steady_state.solve import solve_batch
from rnn2ff.steady_state.solvers.active_set import ActiveSet
from rnn2ff.steady_state.solvers.anderson import Anderson, AndersonAcceleration, repeat_accelerated
from rnn2ff.steady_state.solvers.rollout import Rollout
from rnn2ff.steady_state.solvers.root_find import RootFind
from rnn2ff.steady_state.stability import neutral_growth
from rnn2ff.steady_state.tiles import Layout, check_not_split, in_dense_tiles, in_tiles, layout_for
from rnn2ff.steady_state.trajectory import Trajectory, simulate

__all__ = [
    "AbstractSteadyStateSolver",
    "ActiveSet",
    "Anderson",
    "AndersonAcceleration",
    "Candidate",
    "Layout",
    "Method",
    "Plan",
    "Rollout",
    "RootFind",
    "Status",
    "SteadyState",
    "SteadyStates",
    "Trajectory",
    "check_mesh",
    "check_not_split",
    "chunks_of",
    "count_statuses",
    "in_dense_tiles",
    "in_tiles",
    "layout_for",
    "neutral_growth",
    "on_each_device",
    "placed_on",
    "plan_steady_states",
    "proved_rate",
    "repeat_accelerated",
    "simulate",
    "solve_batch",
    "solve_steady_state",
    "solve_steady_states",
]
