"""Networks that users bring: cells of other libraries, units with gains and thresholds, graphs, factors, files."""

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import jax.random as jr
import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from problems import assert_close, default_float
from test_cells import logistic, state_dict, torch_gru

import rnn2ff
from rnn2ff.files import read_array
from rnn2ff.networks import read_weights

DTYPE = np.dtype(default_float())
ROUNDING = 1e-12 if np.float64 == DTYPE else 1e-5
STATES, INPUTS = 5, 3


def torch_lstm(weights, h, c, x):
    """From the documentation of torch.nn.LSTM: gates i, f, g and o, stacked in this order."""
    recurrent = weights["weight_hh_l0"] @ h + weights["bias_hh_l0"]
    i, f, g, o = np.split(weights["weight_ih_l0"] @ x + weights["bias_ih_l0"] + recurrent, 4)
    c = logistic(f) * c + logistic(i) * np.tanh(g)
    return logistic(o) * np.tanh(c), c


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(DTYPE)


def assert_steps_as(network, step, size):
    """One step of the network's map from a random state is that of `step`, and its rates are h."""
    state, stimulus = draw(size, seed=1), draw(INPUTS, seed=2)
    assert (network.state_size, network.stimulus_size, network.is_map) == (size, INPUTS, True)
    change = eqx.filter_jit(network.velocity)(jnp.asarray(state), jnp.asarray(stimulus))
    assert_close(state + np.asarray(change), step(state, stimulus), ROUNDING)
    assert_close(network.rates(jnp.asarray(state)), state[:STATES], 0)


class TestCells:
    def test_an_lstm_of_pytorch_has_the_state_h_and_c(self):
        weights = state_dict(4)
        step = lambda state, x: np.concatenate(torch_lstm(weights, state[:STATES], state[STATES:], x))  # noqa: E731
        assert_steps_as(rnn2ff.from_torch(weights), step, 2 * STATES)

    def test_a_cell_of_pytorch_has_names_without_a_layer(self):
        weights = {f"rnn.{name.removesuffix('_l0')}": each for name, each in state_dict(3).items()}
        step = lambda state, x: torch_gru(state_dict(3), state, x)  # noqa: E731
        assert_steps_as(rnn2ff.from_torch(weights, prefix="rnn."), step, STATES)

    @pytest.mark.parametrize("use_bias", [True, False])
    @pytest.mark.parametrize("kind", [eqx.nn.GRUCell, eqx.nn.LSTMCell])
    def test_a_cell_of_equinox_is_itself(self, kind, use_bias):
        cell = kind(INPUTS, STATES, use_bias=use_bias, dtype=DTYPE, key=jr.key(0))
        if kind is eqx.nn.GRUCell:
            assert_steps_as(rnn2ff.from_equinox(cell), lambda h, x: eqx.filter_jit(cell)(x, h), STATES)
        else:
            both = lambda state, x: np.concatenate(eqx.filter_jit(cell)(x, (state[:STATES], state[STATES:])))  # noqa: E731
            assert_steps_as(rnn2ff.from_equinox(cell), both, 2 * STATES)

    def test_cells_of_flax_are_their_documented_equations(self):
        """`flax.linen`: dense layers by the names of the gates, some of them without a bias."""

        def layers(*names):
            return {
                name: {"kernel": draw(INPUTS if name[0] == "i" else STATES, STATES, seed=number)}
                | ({"bias": draw(STATES, seed=number)} if has_bias else {})
                for number, (name, has_bias) in enumerate(names)
            }

        def apply(params, name, x):
            return x @ params[name]["kernel"] + params[name].get("bias", 0)

        gru = layers(("ir", 1), ("iz", 1), ("in", 1), ("hr", 0), ("hz", 0), ("hn", 1))

        def gru_step(h, x):
            r = logistic(apply(gru, "ir", x) + apply(gru, "hr", h))
            z = logistic(apply(gru, "iz", x) + apply(gru, "hz", h))
            n = np.tanh(apply(gru, "in", x) + r * apply(gru, "hn", h))
            return (1 - z) * n + z * h

        lstm = layers(*[(f"i{gate}", 0) for gate in "ifgo"], *[(f"h{gate}", 1) for gate in "ifgo"])

        def lstm_step(state, x):
            h, c = np.split(state, 2)
            i, f, g, o = (apply(lstm, f"i{gate}", x) + apply(lstm, f"h{gate}", h) for gate in "ifgo")
            c = logistic(f) * c + logistic(i) * np.tanh(g)
            return np.concatenate([logistic(o) * np.tanh(c), c])

        simple = layers(("i", 1), ("h", 0))
        assert_steps_as(rnn2ff.from_flax(gru), gru_step, STATES)
        assert_steps_as(rnn2ff.from_flax(lstm), lstm_step, 2 * STATES)
        step = lambda h, x: np.maximum(apply(simple, "i", x) + apply(simple, "h", h), 0)  # noqa: E731
        assert_steps_as(rnn2ff.from_flax(simple, nonlinearity=jax.nn.relu), step, STATES)

    def test_layers_of_keras_are_their_documented_equations(self):
        """`keras.layers`: kernels from row to column; gates z, r, h of a GRU, and i, f, c, o of an LSTM."""
        kernel, recurrent = draw(INPUTS, 3 * STATES), draw(STATES, 3 * STATES)
        bias = draw(2, 3 * STATES)

        def gru_step(h, x):
            x_z, x_r, x_h = np.split(x @ kernel + bias[0], 3)
            h_z, h_r, h_h = np.split(h @ recurrent + bias[1], 3)
            z, r = logistic(x_z + h_z), logistic(x_r + h_r)
            return z * h + (1 - z) * np.tanh(x_h + r * h_h)

        wide = draw(INPUTS, 4 * STATES), draw(STATES, 4 * STATES), draw(4 * STATES)

        def lstm_step(state, x):
            h, c = np.split(state, 2)
            i, f, new, o = np.split(x @ wide[0] + h @ wide[1] + wide[2], 4)
            c = logistic(f) * c + logistic(i) * np.tanh(new)
            return np.concatenate([logistic(o) * np.tanh(c), c])

        assert_steps_as(rnn2ff.from_keras([kernel, recurrent, bias]), gru_step, STATES)
        assert_steps_as(rnn2ff.from_keras(wide), lstm_step, 2 * STATES)
        plain = [kernel[:, :STATES], recurrent[:, :STATES]]
        assert_steps_as(rnn2ff.from_keras(plain), lambda h, x: np.tanh(x @ plain[0] + h @ plain[1]), STATES)

    @pytest.mark.usefixtures("as_a_user")
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: rnn2ff.from_equinox(eqx.nn.Linear(2, 2, key=jr.key(0))), r"cell.*unknown kind.*got Linear"),
            (
                lambda: rnn2ff.from_flax({"hr": {}, "hz": {}}),
                r"unknown cell.*'hr', 'hz', 'hn'.*got \['hr', 'hz'\]",
            ),
            (lambda: rnn2ff.from_flax({"h": {}, "i": {}}), "lack the kernel of 'h'"),
            (lambda: rnn2ff.from_keras([draw(3, 9), draw(3, 9), draw(9)]), "reset_after=False"),
            (lambda: rnn2ff.from_keras([draw(3, 6), draw(3, 6)]), r"recurrent layer.*got \(3, 6\)"),
            (lambda: rnn2ff.from_keras([draw(3, 9)]), "two kernels"),
            (lambda: rnn2ff.from_keras([np.full((3, 9), np.nan), draw(3, 9)]), "stimulus weights.*NaN"),
        ],
    )
    def test_what_is_no_such_cell_is_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestUnits:
    @pytest.mark.parametrize("stimulus_weights", [None, np.array([[1, 2.0], [0, 1], [3, 0], [-1, 1]])])
    @pytest.mark.parametrize("form", [rnn2ff.StateForm, rnn2ff.RateForm])
    def test_gains_and_thresholds_are_those_of_the_equation(self, form, stimulus_weights):
        """In the rate form the state is the rate; in the state form it is g (x - theta), tau x' = -x + W r + B u."""
        weights, thresholds = draw(4, 4), draw(4, seed=3)
        gains, tau = np.array([0.5, 1, 2, 3]), np.array([1, 2, 3, 4.0])
        network = rnn2ff.rate_network(
            form(jnp.tanh),
            weights,
            stimulus_weights=stimulus_weights,
            gains=gains,
            thresholds=thresholds,
            bias=np.ones(4),
            time_constants=tau,
        )
        state, stimulus = draw(4, seed=5), draw(network.stimulus_size, seed=6)
        driven = stimulus if stimulus_weights is None else stimulus_weights @ stimulus
        if form is rnn2ff.RateForm:
            expected = (-state + np.tanh(gains * (weights @ state + driven + 1 - thresholds))) / tau
        else:
            x = state / gains + thresholds
            expected = gains * (-x + weights @ np.tanh(state) + driven + 1) / tau
            assert_close(network.rates(jnp.asarray(state)), np.tanh(gains * (x - thresholds)), ROUNDING)
        assert_close(network.velocity(jnp.asarray(state), jnp.asarray(stimulus)), expected, ROUNDING)

    def test_gains_keep_sparse_weights_and_exact_methods(self):
        weights = scipy.sparse.random_array((4, 4), density=0.5, rng=np.random.default_rng(0))
        sparse = rnn2ff.from_connectome(weights).params.recurrent_weights
        gains = np.array([1, 2, 3, 4.0])
        network = rnn2ff.rate_network(rnn2ff.StateForm(jax.nn.relu), sparse, gains=gains)
        assert_close(network.params.recurrent_weights.todense(), gains[:, None] * weights.toarray(), ROUNDING)
        assert rnn2ff.networks.is_threshold_linear(network)

    def test_a_saturating_unit_is_half_of_its_maximum_at_one_and_stays_finite(self):
        phi = rnn2ff.Saturating(3.0, 2.0)
        inputs = np.array([-1.0, 0.0, 0.5, 1.0, 4.0, 1e30], DTYPE)
        clipped = np.maximum(inputs, 0).astype(float)
        assert_close(phi(jnp.asarray(inputs)), 3 * clipped**2 / (1 + clipped**2), 1e-6)
        slopes = jax.jit(jax.vmap(jax.grad(lambda x: phi(x))))(inputs)
        assert_close(slopes, 6 * clipped / (1 + clipped**2) ** 2, 1e-6)

    @pytest.mark.usefixtures("as_a_user")
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: rnn2ff.Saturating(0.0, 2.0), "maximum.*not positive"),
            (lambda: rnn2ff.Saturating(1.0, 0.5), "exponent.*slope at 0 infinite"),
            (lambda: rnn2ff.rate_network(rnn2ff.StateForm(jnp.tanh), np.eye(2), gains=[1, 0]), "gains.*not positive"),
            (lambda: rnn2ff.rate_network(rnn2ff.StateForm(jnp.tanh), np.eye(2), thresholds=[1]), r"thresholds.*\(2,\)"),
            (lambda: rnn2ff.low_rank_weights(np.ones((3, 1)), np.ones((2, 1))), r"right.*\(3, 1\)"),
            (lambda: rnn2ff.low_rank_weights(1.0, 1.0), r"left.*\(units, rank\).*got \(\)"),
            (lambda: rnn2ff.low_rank_weights([], []), r"left.*\(units, rank\).*got \(0,\)"),
        ],
    )
    def test_what_makes_no_units_is_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_weights_of_low_rank_are_outer_products_over_the_number_of_units(self):
        left, right = draw(6, 2), draw(6, 2, seed=1)
        expected = sum(np.outer(left[:, k], right[:, k]) for k in range(2)) / 6
        assert_close(rnn2ff.low_rank_weights(left, right), expected, ROUNDING)
        assert rnn2ff.low_rank_weights(left[:, 0], right[:, 0]).dtype == DTYPE


class TestGraphs:
    @pytest.mark.parametrize("is_directed", [True, False])
    def test_graphml_of_networkx_gives_the_weights_of_its_graph(self, is_directed, tmp_path):
        graph = (nx.DiGraph if is_directed else nx.Graph)([("b", "a"), ("b", "c")])
        graph.add_edge("a", "c", synapses=2.5)
        graph.add_edge("c", "c", synapses=-1.0)
        nx.write_graphml(graph, tmp_path / "graph.graphml")
        found = rnn2ff.read_connectome(tmp_path / "graph.graphml", weight="synapses")
        assert found.names == ("b", "a", "c")
        expected = np.asarray(rnn2ff.from_connectome(graph, weight="synapses").params.recurrent_weights)
        assert_close(found.weights.toarray(), expected, 1e-6)
        assert_close(read_weights(f"{tmp_path / 'graph.graphml'}:synapses", "weights"), expected, 1e-6)

    def test_a_table_of_connections_is_read_by_the_names_of_its_columns(self, tmp_path):
        (tmp_path / "edges.csv").write_text("post,type,pre,count\n10,x,9,2\n9,y,10,3\n10,z,9,1.5\n2,x,10,4\n")
        found = rnn2ff.read_connectome(tmp_path / "edges.csv", columns=("pre", "post", "count"))
        assert found.names == ("2", "9", "10")  # as numbers, not as text
        assert_close(found.weights.toarray(), [[0, 0, 4], [0, 0, 3], [0, 3.5, 0]], 0)
        assert_close(read_weights(f"{tmp_path / 'edges.csv'}:pre,post", "w"), [[0, 0, 1], [0, 0, 1], [0, 2, 0]], 0)
        network = rnn2ff.from_files(f"{tmp_path / 'edges.csv'}:pre,post,count", gains=0.5)
        assert_close(network.params.recurrent_weights, 0.5 * found.weights.toarray(), 0)
        (tmp_path / "names.tsv").write_text("source\ttarget\tweight\nAVA\t'RIM, left'\t1\n".replace("'", '"'))
        assert rnn2ff.read_connectome(tmp_path / "names.tsv").names == ("AVA", "RIM, left")

    @pytest.mark.usefixtures("as_a_user")
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", "pre,post\n1,2\n", "lacks the column 'source'.*got \\['pre', 'post'\\]"),
            ("a.csv", "source,target,weight\n1,2\n", "is not a table.*3 entries.*got 2 in row 2"),
            ("a.csv", "source,target,weight\n1,2,many\n", "weight that is not a number.*'many' in .*row 2"),
            ("a.csv", "source,target,weight\n1,2,nan\n", "NaN"),
            ("a.csv", "source,target,weight\n", "has no connections"),
            ("a.csv", "", "cannot be read.*it is empty"),
            ("a.json", "{}", "unknown format"),
            ("a.graphml", "<graphml", "cannot be read.*valid .graphml"),
            ("a.graphml", "<a/>", "holds no graph"),
            ("a.graphml", "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "declares entities"),
            (
                "a.graphml",
                "<graphml xmlns='http://graphml.graphdrawing.org/xmlns'><graph><node id='a'/>"
                "<edge source='a' target='b'/></graph></graphml>",
                "edge of an unknown node.*got a, b",
            ),
            (
                "a.graphml",
                "<graphml xmlns='http://graphml.graphdrawing.org/xmlns'><graph><node id='a'/><node id='a'/>"
                "<node id='b'/><edge source='a' target='b'/></graph></graphml>",
                "nodes of the same name.*got 'a' 2 times",
            ),
        ],
    )
    def test_what_is_no_graph_is_refused(self, name, content, message, tmp_path):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            rnn2ff.read_connectome(tmp_path / name)


class TestMatlab73:
    @pytest.fixture
    def path(self, tmp_path):
        """As MATLAB writes `save net W S net name -v7.3`: axes reversed, structs as groups, sparse columns."""
        path = tmp_path / "net.mat"
        sparse = scipy.sparse.csc_array(np.array([[0, 2.0, 0], [3, 0, 0]]))
        with h5py.File(path, "w", userblock_size=512) as file:
            file.create_dataset("W", data=np.arange(6.0).reshape(3, 2)).attrs["MATLAB_class"] = np.bytes_("double")
            file.create_dataset("name", data=np.arange(3, dtype=np.uint16)).attrs["MATLAB_class"] = np.bytes_("char")
            file.create_group("#refs#").create_dataset("a", data=1.0)
            file.create_group("net").create_dataset("tau", data=np.ones((3, 1)))
            group = file.create_group("S")
            group.attrs["MATLAB_sparse"] = 2
            for name, values in [("data", sparse.data), ("ir", sparse.indices), ("jc", sparse.indptr)]:
                group.create_dataset(name, data=values)
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
        return path

    def test_its_arrays_structs_and_sparse_matrices_are_read(self, path):
        assert_close(read_array(f"{path}:W", "W"), [[0, 2, 4], [1, 3, 5]], 0)
        assert_close(read_array(f"{path}:S", "S"), [[0, 2, 0], [3, 0, 0]], 0)
        assert_close(read_array(f"{path}:net.tau", "tau"), [[1, 1, 1]], 0)
        with pytest.raises(ValueError, match=r"one of: S, W, net.tau"):
            read_array(f"{path}:name", "name")

    @pytest.mark.parametrize(
        ("part", "values"),
        [("ir", [9, 0]), ("ir", [-1, 0]), ("jc", [1, 1, 2, 2]), ("jc", [0, 3, 1, 2]), ("jc", [0, 1, 2, 9])],
    )
    def test_a_sparse_matrix_whose_entries_are_outside_of_it_is_refused(self, part, values, path):
        with h5py.File(path, "r+") as file:
            file["S"][part][...] = values
        with pytest.raises(ValueError, match="it holds a sparse array"):
            read_array(f"{path}:S", "S")

    def test_without_h5py_the_cure_is_told(self, path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "h5py", None)
        with pytest.raises(
            ValueError, match=r"version 7.3; save it with the option -v7, or pip install 'rnn2ff\[hdf5\]'"
        ):
            read_array(path, "W")


# Each through what is public; of few sizes and kinds, since each compiles its own programs.
BROUGHT = {
    "LSTM": lambda: rnn2ff.from_torch(state_dict(4, gain=0.7)),
    "saturating units of their own gains, thresholds and time constants": lambda: rnn2ff.rate_network(
        rnn2ff.RateForm(rnn2ff.Saturating(1.0, 2.0)),
        rnn2ff.low_rank_weights(draw(4, 1), draw(4, 1, seed=1)),
        stimulus_weights=draw(4, INPUTS),
        gains=np.array([0.5, 1, 1.5, 2]),
        thresholds=np.array([-0.5, 0, 0.1, 0.2]),
        time_constants=np.array([1, 2, 3, 4.0]),
    ),
}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "LSTM")) for name in BROUGHT])
def test_a_network_that_is_brought_goes_through_all_public_functions(name, key, tmp_path):
    network = BROUGHT[name]()
    stimuli = jnp.asarray(draw(24, INPUTS))
    solved = rnn2ff.solve_steady_states(network, stimuli)
    assert solved.is_converged.all()
    velocities = jax.jit(jax.vmap(network.velocity))(solved.state, stimuli)
    assert np.abs(velocities).max() < 1e-4
    found = rnn2ff.find_fixed_points(network, stimuli[0], num_starts=4, key=key)
    assert np.abs(found.states - np.asarray(solved.state[0])).max(axis=1).min() < 1e-4
    linear = rnn2ff.linearize(network, solved.state[0], stimuli[0])
    assert linear.spectral_abscissa < 0
    certificate = rnn2ff.certify(network, stimuli[0], solved.state[0])
    assert float(certificate.error_estimate) < 1e-3
    distilled = rnn2ff.distill(network, stimuli, kind="two_layers", width=3, num_steps=2, key=key)
    rnn2ff.save(tmp_path / "a.safetensors", distilled)
    loaded, _ = rnn2ff.load(tmp_path / "a.safetensors", network=network)
    assert_close(loaded(stimuli[0]), distilled.approximator(stimuli[0]), 0)
    assert "settle" in rnn2ff.to_c(distilled.approximator, name="settle")
    rnn2ff.write_report(tmp_path / "report.html", distilled)
