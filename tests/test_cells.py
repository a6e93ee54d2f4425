"""Networks that users bring: cells from PyTorch and elsewhere, files, connectomes."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from jax.experimental.sparse import BCOO
from problems import assert_close, default_float
from safetensors.numpy import save_file
from scipy.optimize import brentq

from rnn2ff import (
    RateForm,
    Rollout,
    RootFind,
    Status,
    discrete_map,
    find_fixed_points,
    from_connectome,
    from_files,
    from_torch,
    in_continuous_time,
    initialize_two_layer,
    linearize,
    make_certifier,
    predict_or_solve,
    rate_network,
    solve_batch,
    solve_steady_states,
    stability_constants,
    threshold_linear,
)
from rnn2ff.analysis import Audit
from rnn2ff.networks import is_threshold_linear, network_hash

DTYPE = np.dtype(default_float())
ROUNDING = 1e-12 if default_float() == jnp.float64 else 1e-5
STATES, INPUTS = 5, 3


def state_dict(gates, *, layer=0, prefix="", gain=1.0, seed=0, inputs=INPUTS):
    """Weights of a cell with the names and shapes of PyTorch's documentation."""
    generator = np.random.default_rng(seed)
    rows = gates * STATES
    shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, STATES), "bias_ih": (rows,), "bias_hh": (rows,)}
    return {
        f"{prefix}{name}_l{layer}": (generator.standard_normal(shape) * gain / STATES**0.5).astype(DTYPE)
        for name, shape in shapes.items()
    }


def test_a_cell_in_half_precision_is_solved_in_the_default_one():
    half = {name: array.astype(np.float16) for name, array in state_dict(3, gain=0.5).items()}
    network = from_torch(half)
    assert network.dtype == DTYPE
    full = from_torch({name: array.astype(DTYPE) for name, array in half.items()})
    received, expected = (solve_steady_states(each, np.zeros((1, INPUTS))) for each in (network, full))
    assert received.is_converged.all()
    assert_close(received.state, expected.state, 0)


def logistic(x):
    return 1 / (1 + np.exp(-x))


def torch_rnn(weights, h, x, phi):
    """`h' = phi(W_ih x + b_ih + W_hh h + b_hh)`, from the documentation of torch.nn.RNN."""
    inputs = weights["weight_ih_l0"] @ x + weights["bias_ih_l0"]
    return phi(inputs + weights["weight_hh_l0"] @ h + weights["bias_hh_l0"])


def torch_gru(weights, h, x):
    """From the documentation of torch.nn.GRU: gates r, z and n, stacked in this order."""
    w_ir, w_iz, w_in = np.split(weights["weight_ih_l0"], 3)
    w_hr, w_hz, w_hn = np.split(weights["weight_hh_l0"], 3)
    b_ir, b_iz, b_in = np.split(weights["bias_ih_l0"], 3)
    b_hr, b_hz, b_hn = np.split(weights["bias_hh_l0"], 3)
    r = logistic(w_ir @ x + b_ir + w_hr @ h + b_hr)
    z = logistic(w_iz @ x + b_iz + w_hz @ h + b_hz)
    n = np.tanh(w_in @ x + b_in + r * (w_hn @ h + b_hn))
    return (1 - z) * n + z * h


CELLS = {
    "relu": (1, jax.nn.relu, lambda weights, h, x: torch_rnn(weights, h, x, lambda y: np.maximum(y, 0))),
    "tanh": (1, jnp.tanh, lambda weights, h, x: torch_rnn(weights, h, x, np.tanh)),
    "gru": (3, jnp.tanh, torch_gru),
}


class TestTorch:
    @pytest.mark.parametrize("kind", CELLS)
    def test_a_cell_is_its_documented_equation(self, kind):
        gates, nonlinearity, step = CELLS[kind]
        weights = state_dict(gates)
        network = from_torch(weights, nonlinearity=nonlinearity)
        assert (network.state_size, network.stimulus_size, network.dtype) == (STATES, INPUTS, DTYPE)
        generator = np.random.default_rng(1)
        for _ in range(5):
            h, x = (generator.standard_normal(size).astype(DTYPE) for size in (STATES, INPUTS))
            assert_close(network.velocity(jnp.asarray(h), jnp.asarray(x)), step(weights, h, x) - h, ROUNDING)

    @pytest.mark.parametrize("kind", ["relu", "gru"])
    def test_its_fixed_points_are_states_that_the_cell_keeps_and_the_map_is_judged(self, kind, key):
        gates, nonlinearity, step = CELLS[kind]
        weights = {name: each.astype(np.float32) for name, each in state_dict(gates, gain=2.5, seed=7).items()}
        network = from_torch(weights, nonlinearity=nonlinearity)
        x = np.array([0.5, -0.5, 1.0], np.float32)
        found = find_fixed_points(network, x, num_starts=64, key=key)
        assert len(found.states) >= 1
        assert found.audit in (Audit.complete, Audit.passed)
        for state, radius in zip(found.states, found.spectral_radii):
            assert np.abs(step(weights, state, x) - state).max() < 1e-5
            # The Jacobian of the map by central differences.
            around = np.eye(STATES) * 1e-4
            wide = {name: each.astype(float) for name, each in weights.items()}
            columns = [(step(wide, state + d, x) - step(wide, state - d, x)) / 2e-4 for d in around]
            assert radius == pytest.approx(np.abs(np.linalg.eigvals(np.array(columns).T)).max(), abs=1e-3)

    def test_a_rectified_one_has_the_exact_methods_and_no_bias_is_no_bias(self):
        weights = state_dict(1)
        network = from_torch(weights, nonlinearity=jax.nn.relu)
        assert is_threshold_linear(network)
        assert_close(network.params.bias, weights["bias_ih_l0"] + weights["bias_hh_l0"], 1e-6)
        bare = from_torch({name: each for name, each in weights.items() if "bias" not in name})
        assert_close(bare.params.bias, np.zeros(STATES), 0)

    def test_layers_prefixes_and_files_are_read(self, tmp_path):
        arrays = {**state_dict(3, prefix="encoder."), **state_dict(3, layer=1, prefix="encoder.", inputs=STATES)}
        save_file(arrays, tmp_path / "model.safetensors")
        first = from_torch(tmp_path / "model.safetensors", prefix="encoder.")
        second = from_torch(str(tmp_path / "model.safetensors"), prefix="encoder.", layer=1)
        assert (first.stimulus_size, second.stimulus_size) == (INPUTS, STATES)
        assert_close(second.params.recurrent_weights, arrays["encoder.weight_hh_l1"], 0)

    @pytest.mark.usefixtures("as_a_user")
    @pytest.mark.parametrize(
        ("change", "options", "message"),
        [
            ({}, {"layer": 1}, r"lack 'weight_hh_l1'.*got weight_ih_l0, weight_hh_l0"),
            ({}, {"layer": -1}, "layer.*at least 0"),
            ({}, {"prefix": "rnn."}, "lack 'rnn.weight_hh_l0'"),
            ({"weight_hh_l0": np.ones((10, 5))}, {}, r"another cell.*\(5, 5\) for an RNN, .*\(20, 5\) for an LSTM"),
            ({"weight_ih_l0": np.ones((15, 3))}, {}, r"weight_ih.*\(5, 3\), got \(15, 3\)"),
            ({"bias_hh_l0": np.ones(4)}, {}, r"bias_hh.*\(5,\), got \(4,\)"),
            ({"weight_hh_l0": np.full((5, 5), np.nan)}, {}, "weight_hh_l0.*NaN"),
            ({"weight_hh_l0": np.ones(5)}, {}, "not matrices"),
        ],
    )
    def test_weights_that_make_no_cell_are_refused(self, change, options, message):
        with pytest.raises(ValueError, match=message):
            from_torch({**state_dict(1), **change}, **options)

    @pytest.mark.usefixtures("as_a_user")
    def test_files_that_cannot_be_read_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="weights.*existing file"):
            from_torch(tmp_path / "nothing.safetensors")
        (tmp_path / "broken.safetensors").write_bytes(b"no tensors here")
        with pytest.raises(ValueError, match="weights.*whole safetensors file"):
            from_torch(tmp_path / "broken.safetensors")


class TestDiscreteMap:
    def test_a_flow_keeps_the_fixed_points_of_its_map_but_not_their_stability(self, key):
        """h' = 3.2 h (1 - h): 0 grows, 1 - 1/3.2 is stable for the flow, and the map, of slope 2 - 3.2, overshoots."""
        network = discrete_map(lambda r, h, u: r * h * (1 - h) + u, jnp.asarray(3.2), state_size=1, stimulus_size=1)
        flow = find_fixed_points(in_continuous_time(network), np.zeros(1), num_starts=32, key=key)
        assert_close(flow.states, [[1 - 1 / 3.2], [0]], 1e-5)
        assert (flow.is_stable.tolist(), flow.is_stable_map.tolist()) == ([True, False], [True, False])
        found = find_fixed_points(network, np.zeros(1), num_starts=32, key=key)
        assert_close(found.states, [[0], [1 - 1 / 3.2]], 1e-5)
        assert (found.is_stable.tolist(), found.is_stable_map.tolist()) == ([False, False], [False, False])
        assert_close(found.spectral_radii, [3.2, 1.2], 1e-4)
        assert_close(found.eigenvalues, np.log([[3.2], [-1.2 + 0j]]), 1e-4)
        assert found.basin_counts.tolist() == [1, 0]  # the start at 0 itself
        linear = linearize(network, found.states[1], np.zeros(1))
        assert linear.spectral_radius == pytest.approx(1.2, abs=1e-4)
        assert linear.spectral_abscissa == pytest.approx(np.log(1.2), abs=1e-4)
        assert linear.frequencies == pytest.approx([0.5])  # it alternates

    @pytest.mark.usefixtures("as_a_user")
    @pytest.mark.parametrize(
        ("cell", "message"),
        [
            (lambda w, h, u: (w @ h)[:2], r"cell.*does not return a state.*\(3,\).*\(2,\)"),
            (lambda w, h, u: (w @ h)[:1], r"does not return a state.*\(1,\)"),  # would be spread by the subtraction
            (lambda w, h, u: jnp.sum(w @ h), r"does not return a state.*\(\)"),
            (lambda w, h, u: (w @ h, h), r"does not return a state"),
            (lambda w, h, u: (w @ h).astype(jnp.float16), "does not return a state.*float16"),
            (lambda w, h, u: w @ u, "cell.*failed for a state of 3 units and a stimulus of 2 channels"),
        ],
    )
    def test_a_cell_that_returns_no_state_is_refused(self, cell, message):
        with pytest.raises(ValueError, match=message):
            discrete_map(cell, jnp.eye(3), state_size=3, stimulus_size=2)


class TestStepsOfAMap:
    """What a map does is found out by iterating it, here with NumPy."""

    def test_the_logistic_map_doubles_its_period_on_the_way_to_chaos(self):
        """May, Simple mathematical models with very complicated dynamics, Nature 261, 1976."""
        network = discrete_map(lambda one, h, u: u * h * (one - h), jnp.ones(()), state_size=1, stimulus_size=1)
        parameters = np.array([0.5, 2.8, 3.2, 3.5, 3.55, 3.83, 3.9, 5.0])
        solved = solve_steady_states(network, parameters[:, None], initial_states=np.full((8, 1), 0.3))
        names = [Status(each).name for each in np.asarray(solved.status)]
        assert names == ["converged"] * 2 + ["oscillating"] * 5 + ["diverging"]
        assert_close(solved.state[:2, 0], [0, 1 - 1 / 2.8], 1e-5)
        np.testing.assert_array_equal(solved.period, [np.nan, np.nan, 2, 4, 8, 3, np.nan, np.nan])
        inside = jax.jit(lambda stimuli, states: solve_batch(network, stimuli, initial_states=states))
        np.testing.assert_array_equal(
            inside(jnp.asarray(parameters[:, None]), jnp.full((8, 1), 0.3)).is_converged, solved.is_converged
        )

    def test_a_steady_state_of_a_trained_cell_is_where_its_own_steps_converge(self):
        generator = np.random.default_rng(0)
        weights = {name: each.astype(DTYPE) for name, each in state_dict(1, gain=1.8, seed=4).items()}
        network = from_torch(weights)
        stimuli = generator.uniform(-1, 1, (64, INPUTS)).astype(DTYPE)
        states = np.zeros((64, STATES))
        columns = {name: each.astype(float) if each.ndim == 2 else each[:, None] for name, each in weights.items()}
        for _ in range(4000):
            before, states = states, torch_rnn(columns, states.T, stimuli.T, np.tanh).T
        rests = np.abs(states - before).max(axis=1) < 1e-6
        assert 10 < rests.sum() < 60
        solved = solve_steady_states(network, stimuli)
        np.testing.assert_array_equal(solved.is_converged, rests)
        assert_close(np.asarray(solved.state)[rests], states[rests], 1e-4)
        assert set(np.asarray(solved.status)[~rests].tolist()) == {Status.oscillating}
        flow = solve_steady_states(in_continuous_time(network), stimuli)
        assert flow.is_converged.sum() > rests.sum()

    def test_what_alternates_is_never_served_as_steady(self, key):
        """tanh(-3 h + u) has one fixed point for every u, and leaves it."""
        names = ("weight_hh_l0", "weight_ih_l0", "bias_hh_l0", "bias_ih_l0")
        weights = dict(zip(names, (np.full((1, 1), -3.0), np.ones((1, 1)), np.zeros(1), np.zeros(1))))
        network = from_torch({name: each.astype(DTYPE) for name, each in weights.items()})
        stimuli = np.array([[0.5], [0.1], [5.0]], DTYPE)
        fixed = np.array([brentq(lambda h, u=u: np.tanh(-3 * h + u) - h, 0, 1) for u in stimuli[:, 0]])
        np.testing.assert_array_equal(3 * (1 - fixed**2) > 1, [True, True, False])  # the slope of the map is below -1
        for solver in (None, Rollout(), RootFind()):
            solved = solve_steady_states(network, stimuli, solver=solver)
            assert np.asarray(solved.is_converged).tolist() == [False, False, True]
            assert_close(solved.state[2], fixed[2:], 1e-5)
        assert not stability_constants(network).reason.endswith("comes to")
        certifier = make_certifier(network)
        assert not certifier.has_global_bound
        assert network_hash(network) != network_hash(in_continuous_time(network))
        targets = jnp.asarray(fixed[:, None], DTYPE)
        approximator = initialize_two_layer(network, targets, jnp.asarray(stimuli), 4, key=key)
        served = predict_or_solve(network, approximator, stimuli, tolerance=1e-2, certifier=certifier)
        assert [Status(each).name for each in np.asarray(served.status)] == ["oscillating"] * 2 + ["converged"]

    def test_a_leaky_cell_moves_by_its_share_and_may_not_overshoot(self):
        weights = np.array([[0.0, -1.5], [1.5, 0.0]])
        network = rate_network(RateForm(jnp.tanh), weights, time_constants=4.0, is_map=True)
        state, stimulus = np.array([0.2, -0.1]), np.array([0.3, 0.4])
        expected = state + (np.tanh(weights @ state + stimulus) - state) / 4
        assert_close(state + network.velocity(jnp.asarray(state), jnp.asarray(stimulus)), expected, 1e-6)
        with pytest.raises(ValueError, match=r"time_constants.*shorter than the step of a map.*at least 1"):
            rate_network(RateForm(jnp.tanh), weights, time_constants=0.5, is_map=True)

    def test_growth_at_a_constant_speed_is_divergence(self):
        """An integrator, as the identity that rectified cells are started with: h' = [h + u]_+."""
        network = rate_network(RateForm(jax.nn.relu), np.eye(1), is_map=True)
        solved = solve_steady_states(network, np.array([[0.25], [-0.25]]), initial_states=np.array([[0.0], [10.0]]))
        assert [Status(each).name for each in np.asarray(solved.status)] == ["diverging", "converged"]
        assert_close(solved.state[1], [0], 1e-6)


class TestFiles:
    def test_weights_from_every_kind_of_file_make_the_same_network(self, tmp_path):
        generator = np.random.default_rng(0)
        arrays = {"W": generator.standard_normal((3, 3)), "B": generator.standard_normal((3, 2)), "b": np.arange(3.0)}
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
            np.savetxt(tmp_path / f"{name}.csv", array, delimiter=",")
        scipy.io.savemat(tmp_path / "all.mat", {**arrays, "tau": np.array([1.0, 2.0, 3.0])})
        paths = [
            {name: tmp_path / f"{name}.npy" for name in arrays},
            {name: tmp_path / f"{name}.csv" for name in arrays},
            {name: f"{tmp_path / 'all.mat'}:{name}" for name in arrays},
        ]
        state, stimulus = jnp.array([1.0, -1.0, 0.5]), jnp.array([0.3, 0.4])
        expected = threshold_linear(arrays["W"], stimulus_weights=arrays["B"], bias=arrays["b"])
        for each in paths:
            network = from_files(each["W"], stimulus_weights=each["B"], bias=each["b"])
            assert_close(network.velocity(state, stimulus), expected.velocity(state, stimulus), 1e-5)
        slow = from_files(paths[2]["W"], time_constants=f"{tmp_path / 'all.mat'}:tau", form=RateForm(jnp.tanh))
        assert_close(slow.time_constants, [1, 2, 3], 0)

    @pytest.mark.usefixtures("as_a_user")
    def test_bad_files_and_values_are_refused(self, tmp_path):
        np.save(tmp_path / "W.npy", np.ones((2, 3)))
        np.save(tmp_path / "good.npy", np.eye(2))
        with pytest.raises(ValueError, match="recurrent_weights.*not a square matrix"):
            from_files(tmp_path / "W.npy")
        with pytest.raises(ValueError, match="time_constants.*not positive"):
            from_files(tmp_path / "good.npy", time_constants=-1.0)
        with pytest.raises(ValueError, match="bias.*existing file"):
            from_files(tmp_path / "good.npy", bias=tmp_path / "none.npy")


todense = jax.jit(BCOO.todense)


class TestConnectome:
    graph = nx.DiGraph([("a", "b", {"weight": 2.0}), ("b", "c", {"weight": 3.0}), ("c", "a", {}), ("a", "a", {})])

    def test_edges_go_from_the_column_to_the_row_with_the_sign_of_their_source(self):
        network = from_connectome(self.graph, signs=np.array([1, -1, 1]), scale=0.5)
        assert_close(network.params.recurrent_weights, 0.5 * np.array([[1, 0, 1], [2, 0, 0], [0, -3, 0]]), 1e-6)
        undirected = nx.Graph([(0, 1, {"synapses": 4.0})])
        network = from_connectome(undirected, weight="synapses", is_symmetric=True, time_constants=np.array([1.0, 2.0]))
        assert_close(network.params.recurrent_weights, [[0, 4], [4, 0]], 1e-6)
        assert_close(network.time_constants, [1, 2], 0)

    def test_a_sparse_matrix_stays_sparse(self):
        dense = np.array([[0.0, 2, 0], [1, 0, 0], [0, 3, 0]])
        network = from_connectome(scipy.sparse.csr_matrix(dense), signs=[1, -1, 1])
        weights = network.params.recurrent_weights
        assert weights.nse == 3
        assert_close(todense(weights), dense * [1, -1, 1], 1e-6)
        twice = scipy.sparse.coo_matrix(([1.0, 2.0], ([0, 0], [1, 1])), shape=(2, 2))
        assert_close(todense(from_connectome(twice).params.recurrent_weights), [[0, 3], [0, 0]], 1e-6)
        state = jnp.array([1.0, 2.0, -1.0])
        assert_close(network.velocity(state, jnp.zeros(3)), [-4 - 1, 1 - 2, -6 + 1], 1e-6)

    @pytest.mark.usefixtures("as_a_user")
    @pytest.mark.parametrize(
        ("connectome", "options", "message"),
        [
            (graph, {"is_symmetric": True}, "not symmetric.*from unit . to unit ., and"),
            (scipy.sparse.csr_matrix([[0, 1], [2, 0]]), {"is_symmetric": True}, "1 from unit 1 to unit 0, and 2 back"),
            (scipy.sparse.eye(3), {"signs": [1, -1]}, r"signs.*\(3,\), got \(2,\)"),
            (scipy.sparse.eye(3), {"signs": [1, 0, -1]}, r"signs.*1 for excitatory.*got \[0\]"),
            (-scipy.sparse.eye(3), {"signs": [1, 1, -1]}, "negative strengths.*leave unit 0"),
            (scipy.sparse.eye(3, 4), {}, r"not a square matrix.*\(3, 4\)"),
            (nx.DiGraph(), {}, r"not a square matrix.*\(0, 0\)"),
            (np.eye(3), {}, "connectome.*unknown kind"),
            (scipy.sparse.eye(3), {"time_constants": -1.0}, "time_constants.*not positive"),
            (scipy.sparse.eye(3), {"scale": np.nan}, "scale.*NaN"),
            (scipy.sparse.eye(3) * np.nan, {}, "connectome.*NaN"),
        ],
    )
    def test_what_is_no_connectome_is_refused(self, connectome, options, message):
        with pytest.raises(ValueError, match=message):
            from_connectome(connectome, **options)
