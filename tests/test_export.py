import dataclasses
import json
import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import safetensors.numpy
from arrays import equal, sparse_weights
from exported import approximator_of, refined_of

from rnn2ff import (
    PowerLaw,
    Refined,
    StateForm,
    TwoLayer,
    load,
    mean_slope_sweep,
    random_rate_network,
    rate_network,
    save,
    threshold_linear,
    threshold_linear_rate,
)
from rnn2ff.approximators import predict
from rnn2ff.export import model_card
from rnn2ff.export.plain import plain_arrays
from rnn2ff.networks import network_hash

CARD = {"network": "three units", "report": {"nrmse": 0.05, "status_counts": {"converged": 7}}, "seeds": [0, 1]}


@pytest.fixture(scope="module")
def refined():
    return refined_of(threshold_linear)


def rewrite(path, change):
    """Take a file apart, change its arrays and metadata, and put it together again."""
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    change(arrays, metadata)
    safetensors.numpy.save_file(arrays, path, metadata)


@pytest.fixture
def path(tmp_path, key):
    save(tmp_path / "approximator.safetensors", approximator_of(key, bypass=True), card=CARD)
    return tmp_path / "approximator.safetensors"


@pytest.mark.parametrize("is_rectified", [True, False])
@pytest.mark.parametrize("bypass", [True, False])
def test_an_approximator_comes_back_bit_for_bit(is_rectified, bypass, tmp_path, key):
    approximator = approximator_of(key, is_rectified=is_rectified, bypass=bypass)
    save(tmp_path / "a.safetensors", approximator)
    received, card = load(tmp_path / "a.safetensors")
    assert equal(received, approximator)
    assert received.is_rectified is is_rectified
    assert (received.bypass_weights is not None) is bypass
    assert card == {}
    stimuli = jr.normal(key, (5, 3))
    np.testing.assert_array_equal(predict(received, stimuli), predict(approximator, stimuli))


@pytest.mark.parametrize(
    ("constructor", "width"), [(threshold_linear, 5), (threshold_linear_rate, 5), (threshold_linear, 0)]
)
def test_a_refined_approximator_comes_back_bit_for_bit(constructor, width, tmp_path):
    refined = refined_of(constructor, width=width, time_constants=jnp.array([1.0, 2.0, 3.0, 4.0]))
    save(tmp_path / "a.safetensors", refined, card=CARD)
    received, card = load(tmp_path / "a.safetensors")
    assert equal(received, refined)
    assert card == CARD


def test_a_refined_approximator_of_the_first_units_comes_back_with_their_rates(tmp_path):
    refined = refined_of(threshold_linear, rate_size=2)
    save(tmp_path / "a.safetensors", refined)
    received, _ = load(tmp_path / "a.safetensors")
    stimuli = jr.normal(jr.key(6), (5, 3))
    assert received.rate_size == 2
    np.testing.assert_array_equal(predict(received, stimuli), predict(refined, stimuli))


def test_a_refined_approximator_comes_back_with_dense_weights_of_a_sparse_network(refined, tmp_path):
    sparse = eqx.tree_at(
        lambda each: each.network.params.recurrent_weights,
        refined,
        sparse_weights(refined.network.params.recurrent_weights),
    )
    save(tmp_path / "a.safetensors", sparse)
    assert equal(load(tmp_path / "a.safetensors")[0], refined)


def test_sweeps_of_a_network_with_no_named_nonlinearity_are_refused(refined, tmp_path):
    network = random_rate_network(4, nonlinearity=jnp.arctan, key=jr.key(0))
    sweep = mean_slope_sweep(network, jr.normal(jr.key(2), (20, 4)), jr.normal(jr.key(3), (20, 4)))
    smooth = Refined(TwoLayer(4, 5, 4, is_rectified=False, key=jr.key(4)), network, sweep, num_sweeps=1)
    for route in (lambda each: save(tmp_path / "a.safetensors", each), plain_arrays):
        with pytest.raises(ValueError, match="`network` cannot be exported.*threshold-linear"):
            route(smooth)
    assert list(tmp_path.iterdir()) == []


def test_rates_of_units_that_are_not_the_first_are_refused(refined, tmp_path):
    reversed_rates = lambda params, state: jax.nn.relu(state[::-1])  # noqa: E731
    network = dataclasses.replace(refined.network, rate_function=reversed_rates)
    with pytest.raises(ValueError, match="`network` cannot be exported.*first units"):
        save(tmp_path / "a.safetensors", Refined(refined.two_layer, network, refined.sweep, num_sweeps=1))


class TestCard:
    def test_it_names_the_network_the_stimuli_the_report_the_versions_and_the_license(self, refined):
        stimuli = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
        card = model_card(refined.network, stimuli, {"nrmse": np.float32(0.5)}, license="MIT")
        assert json.loads(json.dumps(card)) == card
        sizes = {name: card["network"][name] for name in ("state_size", "stimulus_size", "rate_size")}
        assert sizes == {"state_size": 4, "stimulus_size": 3, "rate_size": 4}
        assert card["network"]["vector_field"] == "StateForm(relu)"
        assert card["stimuli"]["num_rows"] == 2
        assert card["stimuli"]["largest"] == [2.0, 1.0, 2.0]
        assert card["stimuli"]["standard_deviation"] == [1.0, 0.0, 1.0]
        assert (card["report"], card["license"]) == ({"nrmse": 0.5}, "MIT")
        assert card["environment"]["versions"]["jax"] == jax.__version__

    def test_the_hash_distinguishes_networks_and_nothing_else(self, refined):
        weights = np.array([[0.0, 0.5], [0.25, 0.0]])
        hashes = [
            network_hash(each)
            for each in [
                threshold_linear(jnp.asarray(weights)),
                threshold_linear(jnp.asarray(weights, jnp.float32)),
                threshold_linear(sparse_weights(weights)),
                threshold_linear_rate(jnp.asarray(weights)),
                threshold_linear(jnp.asarray(weights.T)),
                threshold_linear(jnp.asarray(weights), bias=jnp.array([0.0, 1.0])),
                threshold_linear(jnp.asarray(weights), time_constants=2.0),
                rate_network(StateForm(PowerLaw(0.04, 2.0)), jnp.asarray(weights)),
                rate_network(StateForm(PowerLaw(0.05, 2.0)), jnp.asarray(weights)),
            ]
        ]
        assert len(set(hashes[:3])) == 1
        assert len(set(hashes)) == 7

    def test_an_approximator_of_another_network_is_refused(self, refined, tmp_path):
        path = tmp_path / "a.safetensors"
        save(path, refined, card=model_card(refined.network, np.ones((2, 3))))
        load(path, network=refined.network)
        other = refined_of(threshold_linear_rate).network
        with pytest.raises(ValueError, match="approximator.*another network.*Expected.*got .* in .*a.safetensors"):
            load(path, network=other)
        save(path, refined)  # its network is in the file, and named
        load(path, network=refined.network)
        save(path, refined.two_layer)
        with pytest.raises(ValueError, match="approximator.*another network.*got no network named"):
            load(path, network=refined.network)


def test_the_pass_of_a_loaded_approximator_is_the_published_formula(path):
    approximator, _ = load(path)
    weights = safetensors.numpy.load_file(path)
    stimulus = np.array([1.0, -0.5, 2.0], weights["hidden_weights"].dtype)
    hidden = np.maximum(weights["hidden_weights"] @ stimulus + weights["hidden_bias"], 0)
    total = weights["readout_weights"] @ hidden + weights["readout_bias"] + weights["bypass_weights"] @ stimulus
    np.testing.assert_allclose(approximator(jnp.asarray(stimulus)), np.maximum(total, 0), rtol=1e-5, atol=1e-6)


def test_an_approximator_of_numpy_arrays_is_saved_as_one_of_jax_arrays(tmp_path, key):
    approximator = approximator_of(key)
    save(tmp_path / "a.safetensors", jax.tree.map(np.asarray, approximator))
    assert equal(load(tmp_path / "a.safetensors")[0], approximator)


def test_the_card_comes_back_as_plain_json(tmp_path, key):
    save(tmp_path / "a.safetensors", approximator_of(key), card={**CARD, "worst": np.float32("nan"), "r": np.ones(2)})
    assert load(tmp_path / "a.safetensors")[1] == {**CARD, "worst": None, "r": [1.0, 1.0]}


def test_a_file_changed_at_any_byte_is_refused(path):
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"`path` (is damaged|was changed|is not an approximator).*Expected.*got"):
            load(path)


def test_a_file_cut_short_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="`path` is damaged"):
            load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, metadata: metadata.update(card=json.dumps({"report": {"nrmse": 0.0}})),
        lambda arrays, metadata: metadata.update(card="no json"),
        lambda arrays, metadata: metadata.update(is_rectified="false"),
        lambda arrays, metadata: metadata.pop("is_rectified"),
        lambda arrays, metadata: metadata.pop("hash"),
        lambda arrays, metadata: metadata.update(comment="mine"),
        lambda arrays, metadata: arrays.pop("bypass_weights"),
        lambda arrays, metadata: arrays.update(hidden_bias=np.nextafter(arrays["hidden_bias"], np.float32(9))),
        lambda arrays, metadata: arrays.update(readout_weights=arrays["readout_weights"].T.copy()),
    ],
)
def test_a_file_edited_by_hand_is_refused(change, path):
    rewrite(path, lambda arrays, metadata: None)
    load(path)  # taken apart and put together again it is still good
    rewrite(path, change)
    with pytest.raises(ValueError, match="`path` was changed after it was written"):
        load(path)


def test_another_safetensors_file_is_refused(tmp_path):
    safetensors.numpy.save_file({"hidden_weights": np.ones((2, 2))}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"is not an approximator.*format rnn2ff\.two_layer\.1 or .*, got None"):
        load(tmp_path / "a.safetensors")


def test_a_file_of_a_later_format_is_refused_by_name(path):
    rewrite(path, lambda arrays, metadata: metadata.update(format="rnn2ff.two_layer.2"))
    with pytest.raises(ValueError, match=r"got rnn2ff\.two_layer\.2"):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="existing file, got .*missing"):
        load(tmp_path / "missing.safetensors")


def test_a_missing_folder_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match="cannot be written"):
        save(tmp_path / "missing" / "a.safetensors", approximator_of(key))


def test_a_save_that_fails_midway_leaves_the_old_file_and_nothing_else(path, key, monkeypatch):
    before = path.read_bytes()

    def fail_midway(temporary, content):
        with temporary.open("wb") as file:
            file.write(content[:100])
        raise OSError("no space left")

    monkeypatch.setattr(type(path), "write_bytes", fail_midway)
    with pytest.raises(OSError, match="no space left"):
        save(path, approximator_of(jr.key(1)))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture(scope="module")
def double_precision_file(tmp_path_factory):
    """Written by a process that computes in float64, whatever this one does."""
    path = tmp_path_factory.mktemp("double") / "a.safetensors"
    run_in_precision("1", f"save({str(path)!r}, TwoLayer(2, 3, 2, key=jax.random.key(0)))")
    return path


def run_in_precision(x64, code):
    code = f"import jax\nfrom rnn2ff import TwoLayer, load, save\n{code}\n"
    environment = {**os.environ, "JAX_ENABLE_X64": x64}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_float64_weights_are_refused_where_jax_computes_in_float32(double_precision_file):
    code = f"try:\n    load({str(double_precision_file)!r})\nexcept ValueError as error:\n    print(error)"
    message = "`path` holds float64 weights. Expected `jax_enable_x64` to be set before loading them, got float32 only."
    assert run_in_precision("0", code).strip() == message


def test_float64_weights_come_back_in_float64(double_precision_file):
    code = f"print(load({str(double_precision_file)!r})[0].hidden_weights.dtype)"
    assert run_in_precision("1", code).strip() == "float64"
