"""Feed-forward networks that stand in for the steady states of recurrent ones."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Each public name and the module that defines it. Loaded on first use, so that `rnn2ff --help` does not wait for JAX
# and a deployed approximator does not load a solver.
_HOME = {
    "AbstractSteadyStateSolver": "steady_state",
    "RateForm": "networks",
    "RecurrentNetwork": "networks",
    "Rollout": "steady_state",
    "RootFind": "steady_state",
    "StateForm": "networks",
    "Status": "steady_state",
    "SteadyState": "steady_state",
    "TwoLayer": "approximators",
    "accuracy": "evaluation",
    "competition": "evaluation",
    "count_statuses": "steady_state",
    "distill": "distillation",
    "load": "export",
    "partition_competition": "networks",
    "partition_means": "networks",
    "random_threshold_linear": "networks",
    "rate_network": "networks",
    "residual": "networks",
    "sample_from": "datasets",
    "save": "export",
    "solve_steady_state": "steady_state",
    "solve_steady_states": "steady_state",
    "threshold_linear": "networks",
    "threshold_linear_rate": "networks",
    "train": "training",
    "winner_take_all": "networks",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from rnn2ff.approximators import TwoLayer
    from rnn2ff.datasets import sample_from
    from rnn2ff.distillation import distill
    from rnn2ff.evaluation import accuracy, competition
    from rnn2ff.export import load, save
    from rnn2ff.networks import (
        RateForm,
        RecurrentNetwork,
        StateForm,
        partition_competition,
        partition_means,
        random_threshold_linear,
        rate_network,
        residual,
        threshold_linear,
        threshold_linear_rate,
        winner_take_all,
    )
    from rnn2ff.steady_state import (
        AbstractSteadyStateSolver,
        Rollout,
        RootFind,
        Status,
        SteadyState,
        count_statuses,
        solve_steady_state,
        solve_steady_states,
    )
    from rnn2ff.training import train


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module `rnn2ff` has no attribute {name!r}")
    return getattr(importlib.import_module(f"rnn2ff.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
