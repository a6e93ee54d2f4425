"""Solved stimuli, and two layers fitted to them, with the settings that all experiments share."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from rnn2ff.approximators import TwoLayer
from rnn2ff.datasets import Pairs, key_for
from rnn2ff.initialization import initialize_two_layer
from rnn2ff.mixing import mixing_for
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state import Plan, count_statuses, solve_steady_states
from rnn2ff.training import train

_NUM_INITIAL = 2_000  # pairs that the first weights are made from
_VALIDATION_SHARE = 0.1


class Solved(NamedTuple):
    """The end of every stimulus, in their order.

    Attributes:
        pairs: a row for each stimulus, those without a steady state included.
        is_steady: whether the state is a steady state, per row.
        plan: to solve further stimuli of the network by.
    """

    pairs: Pairs
    is_steady: Bool[np.ndarray, " batch"]
    plan: Plan


def solve_all(network: RecurrentNetwork, stimuli: Float[Array, "batch stimulus"], plan: Plan | None) -> Solved:
    """Solve stimuli and keep their order, where that is needed."""
    solved = solve_steady_states(network, stimuli, solver=plan)
    pairs = Pairs(stimuli, solved.state, jax.vmap(network.rates)(solved.state), count_statuses(solved.status))
    return Solved(pairs, np.asarray(solved.is_converged), solved.plan)


def solve_each(
    network: RecurrentNetwork, stimuli: Float[Array, "batch stimulus"], plan: Plan | None
) -> tuple[Pairs, Plan]:
    """Solve stimuli of which each has a steady state.

    Raises:
        RuntimeError: if one has none, with the counts.
    """
    pairs, is_steady, plan = solve_all(network, stimuli, plan)
    if not is_steady.all():
        msg = f"Some stimuli have no steady state. Expected {len(stimuli)} that converge, got {pairs.status_counts}."
        raise RuntimeError(msg)
    return pairs, plan


def fit_two_layer(
    network: RecurrentNetwork, pairs: Pairs, width: int, *, num_steps: int, key: PRNGKeyArray
) -> TwoLayer:
    """The approximator of that width that validates best; a tenth of the pairs are for validation.

    Args:
        network: whose steady rates are fitted.
        pairs: solved.
        width: hidden units.
        num_steps: optimizer steps.
        key: a PRNG key.
    """
    num_held_out = max(1, round(_VALIDATION_SHARE * len(pairs)))
    held_out, kept = pairs.take(slice(num_held_out)), pairs.take(slice(num_held_out, None))
    initial = kept.take(slice(_NUM_INITIAL))
    return train(
        initialize_two_layer(
            network, initial.states, initial.stimuli, width, num_rounds=0, key=key_for(key, "initialization")
        ),
        kept.stimuli,
        kept.rates,
        num_steps=num_steps,
        mixing=mixing_for(network, kept.stimuli, kept.rates, key=key_for(key, "mixtures")),
        validation=(held_out.stimuli, held_out.rates),
        num_evaluations=10,
        key=key_for(key, "training"),
    ).approximator
