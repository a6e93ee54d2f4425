"""Further pairs in the course of a training, where it has come to fit its own pairs better than others.

Training on a fixed set ends in one of two ways: the error on it and the error on others fall together, and more pairs
would change nothing; or they part, and each further pair is worth more than a further step. In the second case, and
where stimuli can be drawn, every stretch of a training has pairs of its own, which cost a solve: 128 units (a gain of
.9) had an error of 15.2 % after 10,000 steps on 13,500 pairs, and of 14.5 % on fresh ones.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnn2ff.data import Pairs, SampleStimulus, sample_stimuli, solve_pairs, take_rows
from rnn2ff.networks import RecurrentNetwork

Further = Callable[[int, PRNGKeyArray], Pairs]  # draws and solves a number of stimuli
_PARTED = 1.05  # ratio of validation to training error, from which the pairs are fitted better than others


def further_pairs(network: RecurrentNetwork, sample_stimulus: SampleStimulus, **options) -> Further:
    """Draws of a sampler, solved; options as for `solve_pairs`."""

    def draw(number: int, key: PRNGKeyArray) -> Pairs:
        return solve_pairs(network, sample_stimuli(sample_stimulus, number, key=key), **options)

    return draw


def exactly(further: Further, number: int) -> Callable[[PRNGKeyArray], tuple[Array, Array]]:
    """Stimuli and rates of exactly that many pairs: where some stimuli have no steady state, others are repeated.

    So that each stretch of a training has the shapes of the one before, and none is compiled anew.
    """

    def draw(key: PRNGKeyArray) -> tuple[Array, Array]:
        pairs = further(number, key)
        return take_rows((pairs.stimuli, pairs.rates), np.resize(np.arange(len(pairs)), number))

    return draw


def have_parted(
    training_errors: Float[jax.Array, " evaluation"], validation_errors: Float[jax.Array, " evaluation"]
) -> bool:
    """Whether at any evaluation the training error was well below the validation error, both mean squares."""
    with np.errstate(invalid="ignore"):  # of evaluations that are still to come
        return bool((np.asarray(validation_errors) > _PARTED**2 * np.asarray(training_errors)).any())
