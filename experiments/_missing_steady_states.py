"""Approximators where some stimuli have no steady state: their errors elsewhere, and whether the lack is detected."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnn2ff.approximators import TwoLayer, predict
from rnn2ff.certificates import Source, predict_or_solve
from rnn2ff.data import Pairs
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state import Status, count_statuses, solve_steady_states
from rnn2ff.training import accuracy, find_jumps

_FALSE_ALARMS = 0.05  # share of flags on stimuli with a steady state
_TOLERANCE = 0.1  # of answers that are served, in standard deviations of the steady rates


class Solved(NamedTuple):
    """All stimuli with their statuses, and the pairs of those that come to rest."""

    stimuli: np.ndarray
    status: np.ndarray
    pairs: Pairs


def solve(network: RecurrentNetwork, stimuli: Array, num_training: int) -> tuple[Solved, Solved]:
    """The stimuli to train on and those to test on, solved as one batch."""
    solved = solve_steady_states(network, stimuli)

    def part(rows: slice) -> Solved:
        status, drawn = np.asarray(solved.status)[rows], np.asarray(stimuli)[rows]
        is_steady = status == Status.converged
        states = solved.state[rows][is_steady]
        rates = jax.vmap(network.rates)(states)
        return Solved(drawn, status, Pairs(jnp.asarray(drawn[is_steady]), states, rates, count_statuses(status)))

    return part(slice(num_training)), part(slice(num_training, None))


def judge(
    network: RecurrentNetwork, approximator: TwoLayer, solved: Solved, test: Solved, readout: Array | None
) -> dict:
    """How accurate it is where there is a steady state, and how a missing steady state is detected elsewhere."""
    is_lost = test.status != Status.converged
    predicted = np.asarray(predict(approximator, jnp.asarray(test.stimuli)))
    residuals = rate_residuals(network, predicted, test.stimuli)
    is_flagged = residuals > np.quantile(residuals[~is_lost], 1 - _FALSE_ALARMS)
    deviation = float(np.asarray(solved.pairs.rates, np.float64).var(axis=0).sum() ** 0.5)
    served = predict_or_solve(network, approximator, test.stimuli, tolerance=_TOLERANCE * deviation)
    says_steady = np.asarray(served.status) == Status.converged
    distance = np.linalg.norm(np.asarray(served.rates)[~is_lost] - np.asarray(test.pairs.rates), axis=1)
    is_wrong = says_steady[~is_lost] & (distance > _TOLERANCE * deviation)
    return {
        "nrmse": accuracy(predicted[~is_lost], test.pairs.rates).nrmse,
        "status_counts": test.pairs.status_counts,
        "share_near_jumps": float(find_jumps(network, test.pairs, solved.pairs).is_found.mean()),
        "share_lost": float(is_lost.mean()),
        "lost_flagged_by_residual": _share(is_flagged[is_lost]),
        "lost_served_as_steady": _share(says_steady[is_lost]),
        "steady_served_wrong": _share(is_wrong),
        "served_without_solve": float((np.asarray(served.sources) != Source.solved).mean()),
        "task_right": None if readout is None else _task_right(readout, predicted[~is_lost], test.pairs),
    }


def _share(chosen: np.ndarray) -> float | None:
    return float(chosen.mean()) if len(chosen) else None


def _task_right(readout: Array, predicted: np.ndarray, pairs: Pairs) -> dict[str, float]:
    """Share of trials in which the largest channel is named, by the steady rates and by the predicted ones."""
    largest = np.asarray(pairs.stimuli).argmax(axis=1)
    answers = {"recurrent": np.asarray(pairs.rates), "feed-forward": predicted}
    weights = np.asarray(readout).T
    return {name: float(((rates @ weights).argmax(axis=1) == largest).mean()) for name, rates in answers.items()}


@eqx.filter_jit
def _residuals_of(network, predicted, stimuli):
    totals = jax.vmap(network.params.total_input)(predicted, stimuli)
    return jnp.sqrt(jnp.mean((predicted - jax.vmap(network.nonlinearity)(totals)) ** 2, axis=1))


def rate_residuals(network: RecurrentNetwork, predicted: np.ndarray, stimuli: np.ndarray) -> np.ndarray:
    """By how much the predicted rates violate the network's equation: root mean square, in units of rate."""
    return np.asarray(_residuals_of(network, jnp.asarray(predicted), jnp.asarray(stimuli)))
