"""Derivatives of steady states: of any order, in batch, by every transformation, and NaN where there is none."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from arrays import floats, normal, sparse_weights
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec
from problems import assert_close, default_float

from rnn2ff import (
    RateForm,
    RecurrentNetwork,
    StateForm,
    random_threshold_linear,
    rate_network,
    threshold_linear,
    threshold_linear_rate,
)
from rnn2ff.steady_state import implicit
from rnn2ff.steady_state.implicit import with_implicit_derivative, with_implicit_derivatives
from rnn2ff.steady_state.systems import Way

IS_DOUBLE = default_float() == jnp.float64
EXACT = 1e-10 if IS_DOUBLE else 2e-4
SIZE, BATCH = 5, 4


def one_by_one(network, stimuli, states, is_steady, is_matrix_free=False):
    attach = functools.partial(with_implicit_derivative, network, is_matrix_free=is_matrix_free)
    return jax.vmap(attach)(stimuli, states, is_steady)


RULES = {
    "batch": with_implicit_derivatives,
    "one by one, LU": one_by_one,
    "one by one, GMRES": functools.partial(one_by_one, is_matrix_free=True),
}
TANH, TANH_RATE = StateForm(jnp.tanh), RateForm(jnp.tanh)


def unrolled(network, stimuli, num_steps=300):
    """Damped iteration, which JAX can differentiate as it stands: the slow and obvious oracle."""

    def step(states, _):
        return states + 0.5 * jax.vmap(network.velocity)(states, stimuli), None

    start = jnp.zeros_like(stimuli, shape=(len(stimuli), network.state_size))
    return jax.lax.scan(step, start, length=num_steps)[0]


def solved(network, stimuli, rule=with_implicit_derivatives):
    """The states, searched for as constants, with their implicit derivative."""
    network_, stimuli_ = jax.lax.stop_gradient((eqx.filter(network, eqx.is_array), stimuli))
    states = unrolled(eqx.combine(network_, network), stimuli_)
    return rule(network, stimuli, states, jnp.ones(len(stimuli), bool))


def tanh_network(form=TANH, size=SIZE):
    weights = 0.8 / size**0.5 * normal(jr.key(0), (size, size))
    return rate_network(form, weights, stimulus_weights=normal(jr.key(1), (size, 3)), bias=normal(jr.key(2), size))


def stimuli_of(network, batch_size=BATCH):
    return normal(jr.key(3), (batch_size, network.stimulus_size))


def with_leaves(network, weights, bias):
    return eqx.tree_at(lambda net: (net.params.recurrent_weights, net.params.bias), network, (weights, bias))


def fixed_pairs(network, key, batch_size=BATCH):
    """States, and the stimuli that make them fixed points of a network in the state form, driven unit by unit."""
    states = jr.normal(key, (batch_size, network.state_size), network.dtype)
    return states, states - jax.vmap(network.params.recurrent_input)(network.vector_field.nonlinearity(states))


def active_set_inverses(network, totals):
    """`(I - W D)^-1` in the state form, `(I - D W)^-1` in the rate form, one per row."""
    weights, active = np.asarray(network.params.recurrent_weights, np.float64), np.asarray(totals) > 0
    is_state_form = isinstance(network.vector_field, StateForm)
    products = weights * active[:, None, :] if is_state_form else weights * active[:, :, None]
    return np.linalg.inv(np.eye(len(weights)) - products)


class TestFirstDerivatives:
    @pytest.mark.parametrize(("make", "mode"), [(threshold_linear, jax.jacrev), (threshold_linear_rate, jax.jacfwd)])
    def test_of_a_threshold_linear_network_they_are_those_of_its_active_set(self, make, mode, key):
        network = make(random_threshold_linear(SIZE, gain=0.7, key=key).params.recurrent_weights)
        stimuli = jr.normal(key, (BATCH, SIZE))
        states = unrolled(network, stimuli)
        totals = jax.vmap(network.params.total_input)(jax.nn.relu(states), stimuli)
        received = jax.jit(mode(lambda stimuli: solved(network, stimuli)))(stimuli)
        expected = active_set_inverses(network, totals)
        if make is threshold_linear_rate:
            expected = expected * (np.asarray(totals) > 0)[:, None, :]
        assert_close(received, np.eye(BATCH)[:, None, :, None] * expected[:, :, None, :], EXACT)

    def test_of_a_linear_network_they_are_the_closed_form(self, key):
        network = rate_network(
            StateForm(lambda state: state), random_threshold_linear(SIZE, key=key).params.recurrent_weights * 0.5
        )
        weights, stimuli = network.params.recurrent_weights, jr.normal(key, (BATCH, SIZE))
        inverse = np.linalg.inv(np.eye(SIZE) - np.asarray(weights, np.float64))
        states = np.asarray(stimuli, np.float64) @ inverse.T

        def total(weights, bias):
            return jnp.sum(solved(with_leaves(network, weights, bias), stimuli) * stimuli)

        by_weights, by_bias = jax.jit(jax.grad(total, (0, 1)))(weights, jnp.zeros(SIZE))
        adjoint = np.asarray(stimuli, np.float64) @ inverse
        assert_close(by_weights, adjoint.T @ states, EXACT)
        assert_close(by_bias, adjoint.sum(axis=0), EXACT)

    @pytest.mark.parametrize("form", [TANH, TANH_RATE], ids=["state form", "rate form"])
    def test_every_rule_gives_what_differentiating_the_iteration_gives(self, form):
        network = tanh_network(form)
        stimuli = stimuli_of(network)

        @eqx.filter_jit
        def gradients(args):
            return [
                eqx.filter_grad(lambda args, solve=solve: jnp.sum(solve(*args) ** 3))(args)
                for solve in (unrolled, *(functools.partial(solved, rule=rule) for rule in RULES.values()))
            ]

        expected, *received = gradients((network, stimuli))
        for each in received:
            jax.tree.map(functools.partial(assert_close, tolerance=EXACT), each, expected)

    def test_a_gradient_by_time_constants_is_exactly_zero(self, key):
        network = rate_network(TANH, tanh_network().params.recurrent_weights, time_constants=jnp.linspace(0.5, 5, SIZE))
        states, stimuli = fixed_pairs(network, key)
        states = states + 1e-3  # where rest is only near

        def total(network):
            return jnp.sum(with_implicit_derivatives(network, stimuli, states, jnp.ones(BATCH, bool)) ** 2)

        gradient = eqx.filter_jit(eqx.filter_grad(total))(network).params
        assert (gradient.time_constants == 0).all()
        assert (gradient.recurrent_weights != 0).all()


def cube_root(params, state, stimulus):
    return (stimulus - state**3 + params["coupling"] * state[::-1]) / params["time_constants"]


def quadratic(params, state, stimulus):
    """Rests at `sqrt(u)`. Units of time differ a thousandfold, and none is declared."""
    return (stimulus - state**2) * params


class TestFieldsOfUsers:
    def test_derivatives_of_a_square_root_are_known_to_the_third_order(self):
        network = RecurrentNetwork(quadratic, jnp.asarray([1.0, 1e3]), state_size=2, stimulus_size=2)
        stimuli = jnp.asarray([[1.0, 0.5], [4.0, 2.0]])

        def root(stimuli):
            return with_implicit_derivatives(
                network, stimuli, jax.lax.stop_gradient(jnp.sqrt(stimuli)), jnp.ones(2, bool)
            )

        def along(function):  # the derivative of each number by its own stimulus
            return lambda stimuli: jax.jvp(function, (stimuli,), (jnp.ones_like(stimuli),))[1]

        first, second, third = along(root), along(along(root)), along(along(along(root)))
        reverse = jax.grad(lambda stimuli: jnp.sum(jax.grad(lambda stimuli: jnp.sum(root(stimuli)))(stimuli)))
        received = jax.jit(lambda stimuli: [each(stimuli) for each in (first, second, third, reverse)])(stimuli)
        curvature = -(stimuli**-1.5) / 4
        for each, expected in zip(received, [stimuli**-0.5 / 2, curvature, 3 * stimuli**-2.5 / 8, curvature]):
            assert_close(each, expected, EXACT)

    def test_time_constants_that_a_field_declares_cancel_to_rounding(self):
        params = {"coupling": jnp.asarray(0.1), "time_constants": jnp.asarray([2.0, 0.5])}
        network = RecurrentNetwork(cube_root, params, state_size=2, stimulus_size=2)
        states, near = jnp.asarray([[1.0, 0.5], [0.7, 0.9]]), 1e-4
        stimuli = states**3 - 0.1 * states[:, ::-1] + near  # where rest is only near

        def total(network):
            return jnp.sum(with_implicit_derivatives(network, stimuli, states, jnp.ones(2, bool)))

        gradient = eqx.filter_jit(eqx.filter_grad(total))(network).params
        assert jnp.abs(gradient["time_constants"]).max() < 10 * near * jnp.finfo(states.dtype).eps
        assert jnp.abs(gradient["coupling"]) > 0.1


class TestHigherDerivatives:
    network = tanh_network(size=3)
    stimuli = stimuli_of(network, 2)

    def loss(self, solve, values):
        weights, bias, stimuli = values
        return jnp.sum(solve(with_leaves(self.network, weights, bias), stimuli) ** 2)

    def loss_of_vector(self, solve, vector):
        return self.loss(solve, self.unravel(vector))

    @property
    def values(self):
        return self.network.params.recurrent_weights, self.network.params.bias, self.stimuli

    @property
    def vector(self):
        return ravel_pytree(self.values)[0]

    def unravel(self, vector):
        return ravel_pytree(self.values)[1](vector)

    @pytest.mark.parametrize(
        ("rule", "outer", "inner"),
        [
            ("batch", jax.jacfwd, jax.jacrev),
            ("batch", jax.jacrev, jax.jacrev),
            ("batch", jax.jacrev, jax.jacfwd),
            ("one by one, LU", jax.jacfwd, jax.jacrev),
            ("one by one, GMRES", jax.jacrev, jax.jacrev),
        ],
    )
    def test_the_hessian_by_weights_bias_and_stimulus_is_that_of_the_iteration(self, rule, outer, inner):
        solve = functools.partial(solved, rule=RULES[rule])
        received = jax.jit(outer(inner(functools.partial(self.loss_of_vector, solve))))(self.vector)
        expected = _hessian_of_unrolled()
        assert jnp.abs(expected).max() > 0.1
        assert_close(received, expected, 10 * EXACT)

    @pytest.mark.parametrize("rule", RULES)
    def test_in_forward_mode_twice_where_nothing_of_the_linear_systems_changes(self, rule):
        """By the stimulus alone, with rectified units: `x* = (1 - W)^-1 u` while the same are active."""
        weights = np.array([[0.2, -0.3], [0.1, 0.4]])

        def loss(stimulus):
            return jnp.sum(solved(threshold_linear(weights), stimulus[None], rule=RULES[rule]) ** 2)

        received = jax.jit(jax.jacfwd(jax.jacfwd(loss)))(jnp.ones(2))
        inverse = np.linalg.inv(np.eye(2) - weights)
        assert_close(received, 2 * inverse.T @ inverse, EXACT)

    def test_finite_differences_of_the_gradient_are_products_with_that_hessian(self):
        gradient = jax.jit(jax.grad(functools.partial(self.loss_of_vector, solved)))
        direction = jnp.cos(jnp.arange(self.vector.size, dtype=self.vector.dtype))
        step = 1e-5 if IS_DOUBLE else 1e-2
        differences = (gradient(self.vector + step * direction) - gradient(self.vector - step * direction)) / (2 * step)
        assert_close(_hessian_of_unrolled() @ direction, differences, 1e-8 if IS_DOUBLE else 1e-2)

    def test_the_gradient_of_a_gradient_penalty_is_right(self):
        def penalty(solve, bias):
            def output(stimuli):
                return jnp.sum(jnp.sin(solve(with_leaves(self.network, self.values[0], bias), stimuli)))

            return jnp.sum(jax.grad(output)(self.stimuli) ** 2)

        received, expected = (
            jax.jit(jax.grad(functools.partial(penalty, each)))(self.values[1]) for each in (solved, unrolled)
        )
        assert jnp.abs(expected).max() > 0.01
        assert_close(received, expected, EXACT)


@functools.cache
def _hessian_of_unrolled():
    case = TestHigherDerivatives()
    return jax.jit(jax.hessian(functools.partial(case.loss_of_vector, unrolled)))(case.vector)


@eqx.filter_jit
def _gradient_of_rows(network, stimuli, states, is_steady, shares):
    def total(args):
        received = jnp.where(shares[:, None] != 0, with_implicit_derivatives(*args, states, is_steady), 0)
        return jnp.sum(shares[:, None] * received)

    return eqx.filter_grad(total)((network, stimuli))


def _curvature(outer, num_rows):
    """Second derivatives of a loss of the first row by the weights, beside rows that are not steady."""
    network = tanh_network(size=3)
    stimuli = stimuli_of(network, 2)[:num_rows]
    states = unrolled(network, stimuli).at[1:].set(jnp.nan)
    is_steady = jnp.arange(num_rows) < 1

    def loss(weights):
        moved = with_leaves(network, weights, network.params.bias)
        received = with_implicit_derivatives(moved, stimuli, states, is_steady)
        return jnp.sum(jnp.where(is_steady[:, None], received, 0) ** 2)

    return jax.jit(outer(jax.grad(loss)))(network.params.recurrent_weights)


@functools.cache
def _curvature_of_the_first_row():
    return _curvature(jax.jacfwd, num_rows=1)


class TestRowsWithoutADerivative:
    """The first row is fine. The second is not steady, the third on a line attractor."""

    network = threshold_linear(np.diag([1.0, 0.5]))
    states = floats([[-1.0, 1.0], [np.nan, 1.0], [1.0, 1.0]])
    stimuli = floats([[-1.0, 0.5], [3.0, 1.0], [0.0, 0.5]])
    is_steady = jax.device_put(np.array([True, False, True]))

    def gradient(self, shares):
        return _gradient_of_rows(self.network, self.stimuli, self.states, self.is_steady, floats(shares))

    def test_a_row_that_the_loss_ignores_adds_nothing(self):
        network, stimuli = self.gradient([1, 0, 0])
        assert_close(network.params.bias, [1, 2], EXACT)
        assert_close(network.params.recurrent_weights, [[0, 1], [0, 2]], EXACT)
        assert_close(stimuli, [[1, 2], [0, 0], [0, 0]], EXACT)
        network, stimuli = self.gradient([0, 0, 0])
        assert all((leaf == 0).all() for leaf in jax.tree.leaves((network, stimuli)))

    def test_a_gradient_may_be_as_small_or_as_large_as_the_dtype_allows(self):
        for share in (1e-30, 1e30):  # whose squares vanish or overflow in float32
            network, _ = self.gradient([share, 0, 0])
            assert_close(network.params.bias / share, [1, 2], EXACT)

    def test_a_row_that_is_nearly_singular_is_solved_to_what_the_dtype_can_hold(self):
        gap = 1e-13 if IS_DOUBLE else 1e-4  # too small for products: it takes a factorization
        network = threshold_linear(jnp.diag(jnp.asarray([1 - gap, 0.5])))
        states = jnp.ones((3, 2))
        stimuli = states - network.params.recurrent_input(states[0])[None]
        gradient = _gradient_of_rows(network, stimuli, states, jnp.ones(3, bool), jnp.asarray([0, 1.0, 0]))[0].params
        assert_close(gradient.bias, 1 / (1 - np.diag(network.params.recurrent_weights)), 1e-2)

    @pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
    def test_a_row_that_the_loss_ignores_adds_nothing_to_second_derivatives(self, outer):
        received = _curvature(outer, num_rows=2)
        assert_close(received, _curvature_of_the_first_row(), EXACT)

    @pytest.mark.parametrize("row", [1, 2], ids=["not steady", "singular"])
    def test_a_row_that_the_loss_sees_is_nan_in_what_is_its_own_and_in_what_is_shared(self, row):
        network, stimuli = self.gradient(np.arange(3) == row)
        assert jnp.isnan(network.params.bias).any()
        assert jnp.isnan(network.params.recurrent_weights).any()
        assert jnp.isnan(stimuli[row]).any()
        assert (jnp.delete(stimuli, row, axis=0) == 0).all()

    def test_in_forward_mode_its_tangent_is_nan_and_no_other(self):
        def states_of(stimuli):
            return with_implicit_derivatives(self.network, stimuli, self.states, self.is_steady)

        ones = jnp.ones_like(self.stimuli)
        tangents = jax.jit(lambda stimuli: jax.jvp(states_of, (stimuli,), (ones,))[1])(self.stimuli)
        assert_close(tangents[0], [1, 2], EXACT)
        assert jnp.isnan(tangents[1:, 0]).all()

    def test_a_jacobian_that_is_not_finite_is_one_as_well(self):
        network = RecurrentNetwork(
            lambda params, state, stimulus: params * stimulus - jnp.sqrt(state),
            jnp.ones(1),
            state_size=1,
            stimulus_size=1,
        )
        states = jnp.asarray([[0.0], [4.0]])
        arguments = network, jnp.sqrt(states), states, jnp.ones(2, bool)
        assert_close(_gradient_of_rows(*arguments, jnp.asarray([0.0, 1.0]))[0].params, [8.0], EXACT)  # x = (p u)^2
        assert jnp.isnan(_gradient_of_rows(*arguments, jnp.asarray([1.0, 1.0]))[0].params).all()


class TestHardSystems:
    @pytest.mark.parametrize("way", Way)
    def test_rows_are_solved_by_products_by_factors_and_by_gmres_alike(self, way, key):
        """Rotations: eigenvalues of the Jacobian from about -1 - 20 i to -1 + 20 i."""
        size, batch_size = 24, 20  # more rows than are factored at a time
        draw = jr.normal(key, (size, size))
        network = rate_network(TANH, 10 * (draw - draw.T) / (2 * size) ** 0.5)
        states, stimuli = fixed_pairs(network, key, batch_size)
        received = jax.jit(jax.grad(lambda stimuli: jnp.sum(self.attach(network, stimuli, states, way))))(stimuli)
        slopes = 1 - np.tanh(np.asarray(states, np.float64)) ** 2
        matrices = np.eye(size) - np.asarray(network.params.recurrent_weights, np.float64) * slopes[:, None, :]
        expected = np.linalg.solve(matrices.transpose(0, 2, 1), np.ones((batch_size, size, 1)))[..., 0]
        assert_close(received, expected, EXACT)

    def attach(self, network, stimuli, states, way=Way.together):
        return implicit._attach(network, stimuli, states, jnp.ones(len(states), bool), way)

    def test_sparse_weights_give_what_dense_ones_give(self, key):
        dense = random_threshold_linear(SIZE, gain=0.8, connection_probability=0.6, key=key)
        dense = rate_network(TANH, dense.params.recurrent_weights)
        sparse = rate_network(TANH, sparse_weights(dense.params.recurrent_weights))
        states, stimuli = fixed_pairs(dense, key)

        def gradient_of_penalty(network, way=Way.together):
            def penalty(network):
                def output(stimuli):
                    return jnp.sum(jnp.sin(self.attach(network, stimuli, states, way)))

                return jnp.sum(jax.grad(output)(stimuli) ** 2)

            return eqx.filter_jit(eqx.filter_grad(penalty))(network).params

        expected = gradient_of_penalty(dense)
        rows, columns = np.asarray(sparse.params.recurrent_weights.indices).T
        for way in (Way.together, Way.products):
            received = gradient_of_penalty(sparse, way)
            assert_close(received.recurrent_weights.data, np.asarray(expected.recurrent_weights)[rows, columns], EXACT)
            assert_close(received.bias, expected.bias, EXACT)


class TestTransformations:
    network = tanh_network()
    stimuli = stimuli_of(network)

    def gradient(self, network, stimuli):
        return eqx.filter_grad(lambda args: jnp.sum(solved(*args) ** 2))((network, stimuli))

    def test_vmap_and_scan_change_nothing(self):
        def of_one(stimulus):
            return self.gradient(self.network, stimulus[None])

        @eqx.filter_jit
        def in_three_ways(stimuli):
            scanned = jax.lax.scan(lambda carry, stimulus: (carry, of_one(stimulus)), None, stimuli)[1]
            return self.gradient(self.network, stimuli), jax.vmap(of_one)(stimuli), scanned

        expected, mapped, scanned = in_three_ways(self.stimuli)
        close = functools.partial(assert_close, tolerance=EXACT)
        jax.tree.map(close, jax.tree.map(lambda each: each.sum(axis=0), mapped[0]), expected[0])
        assert_close(mapped[1][:, 0], expected[1], EXACT)
        jax.tree.map(close, scanned, mapped)

    def test_it_works_within_shard_map(self):
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        whole, rows = PartitionSpec(), PartitionSpec("batch")
        weights, bias = self.network.params.recurrent_weights, self.network.params.bias

        def gradients(solve, weights, bias, stimuli):
            def local(weights, bias, stimuli):
                return jnp.sum(solve(with_leaves(self.network, weights, bias), stimuli) ** 2)

            by_shared = jax.grad(local, (0, 1, 2))(weights, bias, stimuli)
            curvature = jax.grad(lambda stimuli: jnp.sum(jax.grad(local, 2)(weights, bias, stimuli) ** 2))(stimuli)
            return *by_shared, curvature

        sharded = jax.shard_map(
            functools.partial(gradients, solved),
            mesh=mesh,
            in_specs=(whole, whole, rows),
            out_specs=(whole, whole, rows, rows),
        )
        received = jax.jit(sharded)(weights, bias, self.stimuli)
        expected = jax.jit(functools.partial(gradients, unrolled))(weights, bias, self.stimuli)
        jax.tree.map(functools.partial(assert_close, tolerance=EXACT), received, expected)

    def test_a_batch_that_is_sharded_over_a_mesh_stays_so(self):
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        placed = jax.device_put(self.stimuli, jax.NamedSharding(mesh, PartitionSpec("batch")))
        received, expected = (
            jax.jit(jax.grad(lambda stimuli, solve=solve: jnp.sum(solve(self.network, stimuli) ** 2)))(placed)
            for solve in (solved, unrolled)
        )
        assert received.sharding.is_equivalent_to(placed.sharding, 2)
        assert_close(received, expected, EXACT)
