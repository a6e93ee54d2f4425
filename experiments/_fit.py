"""Solve stimuli, and fit approximators to them by the recipe of `distill`, as all experiments do."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from experiments._forms import FORMS
from rnn2ff.approximators import Approximator
from rnn2ff.data import Pairs, SampleStimulus
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state import Plan, count_statuses, solve_steady_states
from rnn2ff.training import Trainer, further_pairs


class Solved(NamedTuple):
    """The final state for every stimulus, in the order of the stimuli.

    Attributes:
        pairs: a row for each stimulus, those without a steady state included.
        is_steady: whether the state is a steady state, per row.
        plan: with which further stimuli of the network can be solved.
    """

    pairs: Pairs
    is_steady: Bool[np.ndarray, " batch"]
    plan: Plan


def solve_all(network: RecurrentNetwork, stimuli: Float[Array, "batch stimulus"], plan: Plan | None) -> Solved:
    """Solve all stimuli, and keep their order, where the order is needed."""
    solved = solve_steady_states(network, stimuli, solver=plan)
    pairs = Pairs(stimuli, solved.state, jax.vmap(network.rates)(solved.state), count_statuses(solved.status))
    return Solved(pairs, np.asarray(solved.is_converged), solved.plan)


def solve_each(
    network: RecurrentNetwork, stimuli: Float[Array, "batch stimulus"], plan: Plan | None
) -> tuple[Pairs, Plan]:
    """Solve stimuli that must all have a steady state.

    Raises:
        RuntimeError: if one has none; the message gives the counts of the statuses.
    """
    pairs, is_steady, plan = solve_all(network, stimuli, plan)
    if not is_steady.all():
        msg = f"Some stimuli have no steady state. Expected {len(stimuli)} that converge, got {pairs.status_counts}."
        raise RuntimeError(msg)
    return pairs, plan


def fit_both(
    network: RecurrentNetwork,
    pairs: Pairs,
    width: int | None = None,
    *,
    num_steps: int,
    sample_stimulus: SampleStimulus | None = None,
    key: PRNGKeyArray,
) -> dict[str, Approximator]:
    """Fit two layers alone, and few or no hidden units with sweeps that need no more products, as `distill` does.

    Args:
        network: the one whose steady rates are fitted.
        pairs: solved stimuli; a tenth of them are held out for validation.
        width: hidden units of the two layers alone, by default 4 for each rate.
        num_steps: optimizer steps of the two layers alone.
        sample_stimulus: draws further stimuli to train on, where the pairs come to be fitted better than others.
        key: a PRNG key.

    Returns:
        The approximators by name; two layers alone where the cost allows no sweep (`width_of_sweeps`).
    """
    further = None if sample_stimulus is None else further_pairs(network, sample_stimulus)
    trained = Trainer(network, pairs, num_steps=num_steps, further=further, key=key).best_of_its_cost(width)
    return {name: fitted.approximator for name, fitted in zip(FORMS, trained)}


def width_of_sweeps(network: RecurrentNetwork, num_sweeps: int) -> int:
    """The width of two layers that cost as many products as a quarter of a hidden unit for each rate plus sweeps.

    The approximator of that cost may have one sweep less, and other hidden units.

    For networks with units that have no rate of their own, where the usual width costs less than a sweep.
    """
    num_units, num_rates, size = network.state_size, network.rate_size, network.stimulus_size
    num_products = max(1, round(num_rates / 4)) * (size + num_units) + (num_sweeps + 1) * num_units**2
    return -(-num_products // (size + num_rates))
