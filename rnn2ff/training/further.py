"""Further pairs in the course of a training, where it has come to fit its own pairs better than others.

Training on a fixed set ends in one of two ways: the error on it and the error on others fall together, and more pairs
would change nothing; or they part, and each further pair is worth more than a further step. In the second case, and
where stimuli can be drawn, the pairs are replaced by fresh ones, as often as the errors part again: 128 units (gain .9)
had an error of 15.2 % after 10,000 steps on 13,500 pairs, of 14.6 % with fresh ones, and of 14.5 % if each of 20
stretches had its own. A model of relations (180 units), whose pairs take five seconds, was as good with 2 draws as
with 15.
"""

import contextlib
import functools
from collections.abc import Callable

import jax
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from rnn2ff.data import Pairs, SampleStimulus, sample_stimuli, solve_pairs, stream_plan, take_rows
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state import AbstractSteadyStateSolver, Plan

Further = Callable[[int, PRNGKeyArray], Pairs]  # draws and solves a number of stimuli
_PARTED = 1.02  # ratio of validation to training error, from which the pairs are fitted better than others
# How often pairs are used before they are replaced. Up to four times, those seen before are nearly as good as others
# (Muennighoff et al., Scaling data-constrained language models, NeurIPS 2023).
_FEWEST_USES = 4


def further_pairs(
    network: RecurrentNetwork,
    sample_stimulus: SampleStimulus,
    *,
    solver: AbstractSteadyStateSolver | Plan | None = None,
    max_steps: int = 4096,
    mesh: Mesh | None = None,
) -> Further:
    """Draws of a sampler, solved; options as for `solve_pairs`, but that one plan serves all draws."""

    @functools.cache
    def plan() -> Plan | None:
        # From stimuli of its own, so that a training that resumes has the same.
        with contextlib.suppress(RuntimeError):  # no steady state among them
            return stream_plan(network, sample_stimulus, max_steps=max_steps, key=jr.key(0))
        return None

    def draw(number: int, key: PRNGKeyArray) -> Pairs:
        stimuli = sample_stimuli(sample_stimulus, number, key=key)
        chosen = plan() if solver is None else solver
        # What has no steady state is no pair: whether it oscillates or grows would cost most of the time to tell.
        return solve_pairs(network, stimuli, solver=chosen, max_steps=max_steps, watch=False, mesh=mesh)

    return draw


def exactly(further: Further, number: int) -> Callable[[PRNGKeyArray], tuple[Array, Array]]:
    """Stimuli and rates of exactly that many pairs: where some stimuli have no steady state, others are repeated.

    So that each stretch of a training has the shapes of the one before, and none is compiled anew.
    """

    def draw(key: PRNGKeyArray) -> tuple[Array, Array]:
        pairs = further(number, key)
        return take_rows((pairs.stimuli, pairs.rates), np.resize(np.arange(len(pairs)), number))

    return draw


def last_draw(
    training_errors: Float[jax.Array, " evaluation"],
    validation_errors: Float[jax.Array, " evaluation"],
    num_samples: int,
    num_pairs: int,
) -> int | None:
    """The evaluation at which the present pairs are drawn; None for those at the beginning.

    Args:
        training_errors: mean squares; unknown ones, which count as equal, are NaN.
        validation_errors: likewise.
        num_samples: that are trained on between two evaluations.
        num_pairs: among which these are chosen.
    """
    with np.errstate(invalid="ignore"):  # of evaluations that are still to come
        have_parted = np.asarray(validation_errors) > _PARTED**2 * np.asarray(training_errors)
    drawn = None
    for i in np.flatnonzero(have_parted):
        if (i - (drawn or 0)) * num_samples >= _FEWEST_USES * num_pairs:
            drawn = int(i)
    return drawn
