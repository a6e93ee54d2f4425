"""Sparse weights in rows of one length: the products, the states and the names of dense ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import floats, sparse_weights
from jax.experimental.sparse import BCOO, BCSR
from problems import assert_close, default_float

from rnn2ff import Status, linearize, make_certifier, solve_steady_states, threshold_linear
from rnn2ff.networks import network_hash, with_padded_rows
from rnn2ff.networks.sparse import PaddedRows, pad_rows

SIZE = 40
ROUNDING = 1e-12 if default_float() == jnp.float64 else 1e-5


def matrix(*, hub):
    """A tenth of the entries; with a hub, which hears all."""
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((SIZE, SIZE)) < 0.1, rng.normal(size=(SIZE, SIZE)), 0)
    weights[3] = rng.normal(size=SIZE) if hub else 0  # and without one, a unit that hears none
    return floats(0.3 * weights)


@pytest.mark.parametrize(("hub", "batch_size"), [(True, 128), (False, 5)])
def test_products_and_their_derivatives_are_those_of_the_dense_matrix(hub, batch_size):
    dense = matrix(hub=hub)
    weights = pad_rows(sparse_weights(dense, SIZE**2))  # with as many entries outside as are missing
    assert (weights.owners is not None) == hub
    assert weights.nse < SIZE**2 // 2
    rates, change = np.asarray(floats(np.random.default_rng(1).normal(size=(2, batch_size, SIZE))))
    products, changes = rates @ np.asarray(dense).T, change @ np.asarray(dense).T
    np.testing.assert_array_equal(jax.jit(PaddedRows.todense)(weights), dense)
    assert_close(jax.jit(jax.vmap(lambda each: weights @ each))(rates), products, ROUNDING)
    assert_close(jax.jit(lambda each: weights @ each)(rates[0]), products[0], ROUNDING)
    function = lambda each: jnp.tanh(weights @ each)  # noqa: E731
    received = jax.jit(jax.vmap(lambda one, other: jax.jvp(function, (one,), (other,))[1]))(rates, change)
    assert_close(received, (1 - np.tanh(products) ** 2) * changes, ROUNDING)
    scales = np.arange(batch_size, dtype=dense.dtype)
    scaled = lambda scale: jax.tree.map(lambda leaf: scale * leaf if leaf.dtype == dense.dtype else leaf, weights)  # noqa: E731
    many = jax.jit(jax.vmap(lambda scale, each: scaled(scale) @ each))(scales, rates)
    assert_close(many, scales[:, None] * products, ROUNDING)


def test_entries_of_one_place_add_up():
    twice = BCOO((floats(np.ones(3)), jnp.array([[0, 1], [0, 1], [1, 0]])), shape=(2, 2))
    np.testing.assert_array_equal(jax.jit(PaddedRows.todense)(pad_rows(twice)), [[0, 2], [1, 0]])


def test_a_network_takes_either_kind_and_has_the_hash_of_a_dense_one():
    dense = matrix(hub=True)
    by_place = sparse_weights(dense)
    networks = [threshold_linear(each) for each in (dense, by_place, jax.jit(BCSR.from_bcoo)(by_place))]
    assert len({network_hash(each) for each in networks}) == 1
    padded = with_padded_rows(networks[2])
    ones = floats(np.ones(SIZE))
    of_rows, of_matrix = (eqx.filter_jit(each.velocity)(ones, ones) for each in (padded, networks[0]))
    assert_close(of_rows, of_matrix, ROUNDING)
    assert with_padded_rows(networks[0]) is networks[0]


@pytest.mark.usefixtures("as_a_user")
def test_large_networks_have_leading_eigenvalues_and_are_not_certified():
    size = 5000
    strengths, ones = np.linspace(0, 0.3, size), floats(np.ones(size))
    strengths[[7, 70]] = 0.9, 0.8
    places = jax.device_put(np.stack([np.arange(size, dtype=np.int32)] * 2, axis=1))
    network = threshold_linear(BCOO((floats(strengths), places), shape=(size, size)))
    found = linearize(network, ones, ones, num_eigenvalues=2)  # where all units are active
    assert_close(found.eigenvalues, [-0.1, -0.2], 1e-4)
    with pytest.raises(
        ValueError, match="`network` is too large to certify. Expected at most 4096 units, .*, got 5000"
    ):
        make_certifier(network)


def test_what_oscillates_is_watched_also_where_a_unit_hears_all_others():
    weights = np.zeros((SIZE, SIZE))
    weights[:3, :3] = [[0, -1.5, -0.75], [-0.75, 0, -1.5], [-1.5, -0.75, 0]]
    weights[-1, :-1] = 0.01
    sparse = sparse_weights(floats(weights))
    assert pad_rows(sparse).owners is not None
    stimuli = np.ones((2, SIZE))
    stimuli[:, 0] = 0.9
    found = solve_steady_states(threshold_linear(sparse), stimuli)
    assert (np.asarray(found.status) == Status.oscillating).all()
