"""Relabelings that leave a network as it is, against what is known of its symmetries, and against solved pairs."""

import jax
import numpy as np
import pytest
from arrays import floats, normal
from problems import assert_close

from rnn2ff import (
    RecurrentNetwork,
    find_symmetries,
    partition_competition,
    random_threshold_linear,
    ring_attractor,
    solve_steady_states,
    threshold_linear,
)

NUM_STIMULI = 400


def uniform(*shape):
    return floats(np.random.default_rng(0).random(shape))


@jax.jit
def relabel(symmetries, stimuli, rates, key):
    return symmetries.relabel(stimuli, rates, symmetries.draw(len(stimuli), key=key))


def solved(network, stimuli):
    return np.asarray(jax.jit(jax.vmap(network.rates))(solve_steady_states(network, stimuli).state))


@pytest.fixture(scope="module")
def competition():
    """Two pools of three excitatory units that change places, and two inhibitory units that nothing drives."""
    return partition_competition(2, 3, num_inhibitory=2, self_excitation=1.3)


def test_units_of_a_pool_can_change_places_and_so_can_pools(competition, key):
    symmetries = find_symmetries(competition, uniform(NUM_STIMULI, 6))
    assert np.array_equal(symmetries.pools, [0, 0, 0, 3, 3, 3, 6, 6])
    stimuli, rates = floats(np.tile(np.arange(6), (600, 1))), floats(np.tile(np.arange(8), (600, 1)))
    relabeled, relabeled_rates = map(np.asarray, relabel(symmetries, stimuli, rates, key))
    orders = {tuple(row) for row in relabeled_rates[:, :6].astype(int)}
    assert len(orders) == 2 * 6 * 6  # all there are
    assert np.array_equal(relabeled, relabeled_rates[:, :6])
    assert np.array_equal(np.sort(relabeled_rates[:, 6:]), np.broadcast_to([6, 7], (600, 2)))


def test_a_relabeled_pair_is_what_a_solve_finds_in_a_multistable_network_too(competition, key):
    symmetries = find_symmetries(competition, uniform(NUM_STIMULI, 6))
    stimuli = uniform(16, 6)
    rates = floats(solved(competition, stimuli))
    relabeled, rates = relabel(symmetries, stimuli, rates, key)
    assert np.any(np.asarray(relabeled) != stimuli)
    assert_close(solved(competition, relabeled), rates, 1e-4)


def test_a_ring_can_be_turned_in_every_way(key):
    network = ring_attractor(6, mean=-1.0, tuned=0.8)
    symmetries = find_symmetries(network, normal(key, (NUM_STIMULI, 6)))
    rows = floats(np.tile(np.arange(6), (600, 1)))
    turned, _ = relabel(symmetries, rows, rows, key)
    orders = {tuple(row) for row in np.asarray(turned, int)}
    turns, mirrored = ({tuple((start + step * np.arange(6)) % 6) for start in range(6)} for step in (1, -1))
    assert turns <= orders <= turns | mirrored


def test_symmetries_that_the_stimuli_do_not_have_are_left_out(key):
    network = ring_attractor(6, mean=-1.0, tuned=0.8)
    stimuli = np.asarray(normal(key, (NUM_STIMULI, 6)))
    assert find_symmetries(network, floats(stimuli)) is not None
    assert find_symmetries(network, floats(stimuli + np.arange(6.0)[None])) is None
    assert find_symmetries(network, floats(stimuli * np.arange(1.0, 7.0)[None])) is None


def test_units_with_other_constants_do_not_change_places(key):
    weights = np.full((3, 3), -0.5)
    stimuli = normal(key, (NUM_STIMULI, 3))
    assert np.array_equal(find_symmetries(threshold_linear(weights), stimuli).pools, [0, 0, 0])
    slower = threshold_linear(weights, time_constants=np.array([1.0, 1.0, 2.0]))
    assert np.array_equal(find_symmetries(slower, stimuli).pools, [0, 0, 2])
    biased = threshold_linear(weights, bias=np.array([0.0, 0.1, 0.1]))
    assert np.array_equal(find_symmetries(biased, stimuli).pools, [0, 1, 1])


def test_networks_without_symmetries_or_without_a_weight_matrix_have_none(key):
    stimuli = normal(key, (NUM_STIMULI, 5))
    assert find_symmetries(random_threshold_linear(5, key=key), stimuli) is None
    field = RecurrentNetwork(lambda params, state, stimulus: stimulus - state, None, state_size=5, stimulus_size=5)
    assert find_symmetries(field, stimuli) is None


@pytest.mark.usefixtures("as_a_user")
def test_stimuli_that_do_not_fit_are_refused(competition):
    with pytest.raises(ValueError, match="stimuli"):
        find_symmetries(competition, uniform(NUM_STIMULI, 5))
