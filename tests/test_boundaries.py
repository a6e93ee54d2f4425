"""Where outputs of a multistable network fall silent, against competitions whose boundaries are known."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats
from problems import assert_close

from rnn2ff import RecurrentNetwork, initialize_two_layer, partition_competition, threshold_linear
from rnn2ff.approximators import predict
from rnn2ff.data import solve_pairs
from rnn2ff.training import Trainer, accuracy, find_symmetries
from rnn2ff.training.boundaries import find_boundaries


def winner_take_all(num_units=2):
    """Each inhibits the others more than itself is held back: the largest stimulus wins, at exactly its strength."""
    return threshold_linear(-2.0 * (1 - np.eye(num_units)))


def pairs_of(network, count=400):
    stimuli = jr.uniform(jr.key(0), (count, network.stimulus_size), minval=0.2)
    return solve_pairs(network, stimuli)


@pytest.fixture(scope="module")
def boundaries():
    network = winner_take_all()
    return find_boundaries(network, pairs_of(network), num_pairs=64)


class TestTheBoundaryOfTwoUnits:
    def test_lies_where_their_stimuli_are_equal(self, boundaries):
        signs = np.sign(boundaries.normals[:, :1])
        expected = np.tile([[1.0, -1.0]], (len(signs), 1)) / np.sqrt(2)
        assert_close(signs * boundaries.normals, expected, 1e-2)
        assert_close(boundaries.offsets, np.zeros(len(signs)), 1e-3)

    def test_is_a_jump(self, boundaries):
        assert boundaries.share_of_jumps == 1

    def test_has_the_winner_active_behind_and_the_other_ahead(self, boundaries):
        winner = np.argmin(boundaries.normals, axis=1)  # the normal points to where it is silent
        rows = np.arange(len(winner))
        assert boundaries.behind[rows, winner].all()
        assert not boundaries.ahead[rows, winner].any()

    def test_is_one_hyperplane_of_two_signs_each_of_which_silences_the_unit_that_loses(self, boundaries):
        planes = boundaries.planes(10)
        assert len(planes.offsets) == 2
        for normal, silences in zip(planes.normals, planes.silences):
            assert silences.tolist() == (normal < 0).tolist()

    def test_no_more_hyperplanes_are_given_than_requested(self, boundaries):
        assert len(boundaries.planes(1).offsets) == 0
        assert len(boundaries.planes(2).offsets) == 2


def test_a_network_whose_state_changes_gradually_has_no_jumps():
    network = threshold_linear(-0.5 * (1 - np.eye(5)))
    assert find_boundaries(network, pairs_of(network), num_pairs=64) is None


def test_a_network_whose_units_are_always_active_has_no_boundaries():
    network = threshold_linear(np.zeros((5, 5)))
    assert find_boundaries(network, pairs_of(network), num_pairs=64) is None


def test_normals_have_unit_length_also_where_the_rates_run_away_between_two_stimuli():
    # The first unit runs away unless the second holds it back, or its own stimulus is negative, as at the ends alone.
    growth = 1.2 if jax.dtypes.canonicalize_dtype(float) == np.float64 else 0.2  # so that squares alone overflow
    weights = np.zeros((5, 5))
    weights[0, :2] = [1 + growth, -30]
    weights[2, 0] = 1
    network = threshold_linear(weights)
    ends = np.array([[2, 1, 1, -1, -1], [-0.5, -1, -1, -1, -1]])
    stimuli = np.repeat(ends, 40, axis=0) + np.random.default_rng(0).normal(scale=0.05, size=(80, 5))
    found = find_boundaries(network, solve_pairs(network, stimuli), num_pairs=16)
    assert len(found.normals) > 0
    assert_close(np.linalg.norm(found.normals, axis=1), np.ones(len(found.normals)), 1e-6)


def test_symmetries_give_the_boundaries_of_all_pairs_of_units():
    network = winner_take_all(5)
    pairs = pairs_of(network)
    symmetries = find_symmetries(network, pairs.stimuli)
    planes = find_boundaries(network, pairs, symmetries=symmetries, num_pairs=16).planes(20)
    found = {(int(np.argmin(normal)), int(np.argmax(normal))) for normal in planes.normals}
    assert found == set(itertools.permutations(range(5), 2))


def test_two_layers_that_start_at_the_boundaries_have_the_winner_before_any_training():
    network = partition_competition(3, 4, self_excitation=1.3)
    key = jr.key(1)
    drives = jnp.repeat(jr.uniform(key, (2000, 3)), 4, axis=1)
    pairs = solve_pairs(network, drives)
    training, test = pairs.take(slice(1000)), pairs.take(slice(1000, None))
    boundaries = find_boundaries(network, training, num_pairs=128)
    errors = []
    for each in (None, boundaries):
        start = initialize_two_layer(network, training.states, training.stimuli, 40, boundaries=each, key=key)
        errors.append(accuracy(predict(start, test.stimuli), test.rates).nrmse)
    assert errors[1] < 0.5 * errors[0]


def test_outputs_that_few_samples_leave_active_are_fitted_as_well_on_others():
    """Each is fitted to an eighth of the samples, by nearly as many hidden units."""
    network = partition_competition(8, 2, self_excitation=1.1, inhibition=1.5)
    drive_key, noise_key = jr.split(jr.key(1))
    drives = jnp.repeat(jr.uniform(drive_key, (3000, 8)), 2, axis=1)
    pairs = solve_pairs(network, drives + 0.2 * jr.normal(noise_key, drives.shape))
    training, test = pairs.take(slice(1000)), pairs.take(slice(1000, None))
    symmetries = find_symmetries(network, training.stimuli)
    boundaries = find_boundaries(network, training, symmetries=symmetries, num_pairs=128)
    width = 4 * network.rate_size
    start = initialize_two_layer(
        network, training.states, training.stimuli, width, boundaries=boundaries, key=jr.key(1)
    )
    errors = [accuracy(predict(start, each.stimuli), each.rates).nrmse for each in (training, test)]
    assert errors[0] < 0.35
    assert errors[1] < 1.5 * errors[0]


def test_the_better_of_both_initializations_is_kept_and_the_other_not_trained_to_the_end(tmp_path):
    network = partition_competition(3, 2, self_excitation=1.3)
    key = jr.key(1)
    drives = jnp.repeat(jr.uniform(key, (600, 3)), 2, axis=1)
    trainer = Trainer(network, solve_pairs(network, drives), num_steps=20, checkpoints=tmp_path, key=key)
    assert trainer.boundaries is not None
    kept = trainer.two_layer(24).attempt.validation_nrmse
    trainings = {path.name.removeprefix("training-24-").rsplit("-", 1)[0] for path in tmp_path.iterdir()}
    assert trainings == {"plain-short", "boundaries-short", "boundaries"}
    trainer.boundaries = None
    assert kept < trainer.two_layer(24).attempt.validation_nrmse


def test_another_network_of_the_same_size_compiles_nothing_anew():
    traced = []

    def field(strength, state, stimulus):
        traced.append(strength)
        return -state - strength * jnp.flip(jax.nn.relu(state)) + stimulus

    for strength in (2.0, 3.0):
        network = RecurrentNetwork(
            field,
            floats(strength),
            state_size=2,
            stimulus_size=2,
            rate_function=_rectified,
        )
        num_before = len(traced)
        pairs = pairs_of(threshold_linear(-strength * (1 - np.eye(2))))
        assert find_boundaries(network, pairs, num_pairs=16) is not None
    assert len(traced) == num_before > 0


def _rectified(params, state):
    del params
    return jax.nn.relu(state)


def test_pairs_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"pairs\.stimuli"):
        find_boundaries(winner_take_all(3), pairs_of(winner_take_all(2)))


def test_the_same_seed_gives_the_same_boundaries():
    network = winner_take_all()
    pairs = pairs_of(network)
    one, other = (find_boundaries(network, pairs, num_pairs=16, seed=3) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, other)
