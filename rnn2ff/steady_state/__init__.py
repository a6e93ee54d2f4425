"""Steady states: solvers, and an honest verdict on what they found."""

from rnn2ff.steady_state.active_set import ActiveSet as ActiveSet
from rnn2ff.steady_state.anderson import Anderson as Anderson
from rnn2ff.steady_state.anderson import AndersonAcceleration as AndersonAcceleration
from rnn2ff.steady_state.base import AbstractSteadyStateSolver as AbstractSteadyStateSolver
from rnn2ff.steady_state.base import Status as Status
from rnn2ff.steady_state.base import SteadyState as SteadyState
from rnn2ff.steady_state.base import SteadyStates as SteadyStates
from rnn2ff.steady_state.base import count_statuses as count_statuses
from rnn2ff.steady_state.method import Method as Method
from rnn2ff.steady_state.method import Plan as Plan
from rnn2ff.steady_state.rollout import Rollout as Rollout
from rnn2ff.steady_state.root_find import RootFind as RootFind
from rnn2ff.steady_state.solve import plan_steady_states as plan_steady_states
from rnn2ff.steady_state.solve import solve_batch as solve_batch
from rnn2ff.steady_state.solve import solve_steady_state as solve_steady_state
from rnn2ff.steady_state.solve import solve_steady_states as solve_steady_states
