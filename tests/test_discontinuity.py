"""Jumps of the steady state are found where they are, and nowhere else."""

import numpy as np
import pytest
from arrays import floats
from problems import assert_close

from rnn2ff import partition_competition, threshold_linear
from rnn2ff.data import Pairs
from rnn2ff.training.jumps import Jumps, error_by_margin, find_jumps

HARD = partition_competition(2, 1, self_excitation=1.3)  # from zero the larger stimulus wins: a jump at the tie


def winner_pairs(stimuli):
    """The closed form of a single winner, `i / (1 - a + b c)`."""
    stimuli = np.asarray(stimuli)
    winners = np.where(stimuli == stimuli.max(axis=1, keepdims=True), stimuli, 0) / (1 - 1.3 + 1.5)
    rates = floats(np.c_[winners, winners.sum(axis=1)])
    return Pairs(floats(stimuli), rates, rates, {"converged": len(stimuli)})


def test_the_margin_is_the_distance_to_the_tie_on_the_way():
    pairs = winner_pairs([[1.0, 0.5], [0.9, 0.2], [1.0, 0.6]])
    others = winner_pairs([[0.5, 1.0], [0.2, 0.9], [0.0, 1.0]])
    jumps = find_jumps(HARD, pairs, others, num_neighbors=1)
    assert jumps.is_found.all()
    deviation = np.asarray(others.stimuli).std()
    # The nearest to all three is the first of the others, by ways of (-.5, .5), (-.4, .8) and (-.5, .4).
    shares, ways = np.array([0.5, 0.7 / 1.2, 0.4 / 0.9]), np.array([[0.5, 0.5], [0.4, 0.8], [0.5, 0.4]])
    expected = shares * np.sqrt((ways**2).mean(axis=1)) / deviation
    assert_close(jumps.margin, expected, 1e-3)


def test_there_is_no_jump_where_the_winner_stays():
    pairs = winner_pairs([[1.0, 0.5], [0.9, 0.2], [1.0, 0.6]])
    jumps = find_jumps(HARD, pairs, winner_pairs([[0.8, 0.1], [1.2, 0.7], [0.7, 0.1]]), num_neighbors=1)
    assert not jumps.is_found.any()
    assert np.isinf(jumps.margin).all()


def test_a_steep_but_continuous_answer_is_no_jump():
    network = threshold_linear(np.array([[0.95]]))  # a gain of 20 above zero
    stimuli = np.array([[-0.1], [0.1], [0.2]])
    states = np.where(stimuli > 0, 20 * stimuli, stimuli)
    pairs = Pairs(floats(stimuli), floats(states), floats(np.maximum(states, 0)), {"converged": 3})
    assert not find_jumps(network, pairs, pairs, num_neighbors=3).is_found.any()


def test_errors_are_sorted_by_margin():
    target = np.random.default_rng(0).normal(size=(12, 1))
    margin = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, np.inf, np.inf])
    predicted = target + np.where(margin < 0.25, 2.0, np.where(np.isinf(margin), 0.0, 1.0))[:, None]
    found = error_by_margin(predicted, target, Jumps(margin, np.isfinite(margin)))
    assert found.num_samples == (2, 2, 2, 2, 2, 2)
    assert found.margin == (0.2, 0.4, 0.6, 0.8, 1.0, float("inf"))
    assert_close(np.array(found.nrmse) * target.std(), [2, 1, 1, 1, 1, 0], 1e-9)


@pytest.mark.usefixtures("as_a_user")
def test_more_ways_than_there_are_others_are_refused():
    pairs = winner_pairs([[1.0, 0.5]])
    with pytest.raises(ValueError, match="number of others.*at least 3, got 1"):
        find_jumps(HARD, pairs, pairs)
