"""StableHLO, PyTorch and NIR: each read back by what reads it."""

import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import nir
import numpy as np
import pytest
from exported import EXAMPLES, STIMULI, approximator_of, example, relative_error
from jax import export

from rnn2ff.export import load_stablehlo, to_stablehlo, to_torch_state_dict, write_nir


class TestStableHlo:
    @pytest.mark.parametrize("name", ["bypass", "refined"])
    def test_it_computes_what_jax_computes_for_batches_of_any_size(self, name):
        approximator, expected = example(name)
        program = load_stablehlo(to_stablehlo(approximator))
        assert relative_error(program(jnp.asarray(STIMULI)), expected) < 1e-6
        for i in range(5):
            np.testing.assert_allclose(program(jnp.asarray(STIMULI[i : i + 1])), expected[i : i + 1], atol=1e-5)

    def test_jax_alone_reads_it_and_it_is_lowered_for_every_platform(self):
        approximator, expected = example("two layers")
        exported = export.deserialize(bytearray(to_stablehlo(approximator)))
        assert exported.platforms == ("cpu", "cuda", "tpu")
        assert relative_error(exported.call(jnp.asarray(STIMULI)), expected) < 1e-6
        assert str(exported.in_avals[0].shape[0]) == "batch"

    def test_damage_anywhere_is_noticed(self):
        content = to_stablehlo(example("two layers")[0], platforms=["cpu"])
        for position in range(0, len(content), 97):
            changed = bytearray(content)
            changed[position] ^= 1
            for damaged in (bytes(changed), content[:position]):
                with pytest.raises(ValueError, match="`content` is damaged.*Expected.*got"):
                    load_stablehlo(damaged)

    @pytest.mark.parametrize("platforms", [[], ["cpu", "abacus"]])
    def test_an_unknown_platform_is_refused(self, platforms):
        with pytest.raises(ValueError, match="`platforms` are not all known. Expected some of cpu, cuda, tpu, rocm"):
            to_stablehlo(example("two layers")[0], platforms=platforms)


class TestTorch:
    @pytest.mark.parametrize("name", ["two layers", "linear output"])
    def test_the_names_and_shapes_are_those_of_a_sequence_of_layers(self, name):
        approximator, expected = example(name)
        state = to_torch_state_dict(approximator)
        assert list(state) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        hidden = np.maximum(STIMULI @ state["0.weight"].T + state["0.bias"], 0)
        received = hidden @ state["2.weight"].T + state["2.bias"]
        received = np.maximum(received, 0) if approximator.is_rectified else received
        assert relative_error(received, expected) < 1e-6
        assert {array.dtype.name for array in state.values()} == {"float32"}

    @pytest.mark.tools
    def test_torch_computes_what_jax_computes(self):
        import torch

        approximator, expected = example("two layers")
        layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2), torch.nn.ReLU())
        layers.load_state_dict(to_torch_state_dict(approximator, as_tensors=True))
        assert relative_error(layers(torch.from_numpy(STIMULI)).detach().numpy(), expected) < 1e-6

    def test_torch_is_imported_only_for_tensors(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        to_torch_state_dict(example("two layers")[0])
        with pytest.raises(ModuleNotFoundError, match=r"This needs torch.*rnn2ff\[peers\]"):
            to_torch_state_dict(example("two layers")[0], as_tensors=True)

    @pytest.mark.parametrize(("name", "received"), [("bypass", "a bypass"), ("refined", "sweeps")])
    def test_what_does_not_fit_is_refused(self, name, received):
        with pytest.raises(ValueError, match=f"does not fit a sequence of layers.*got {received}"):
            to_torch_state_dict(example(name)[0])


def spike_rate(current, times, jumps, duration):
    """Spikes per unit of time of a unit with threshold 1 that receives a current and jumps; exact between jumps."""
    voltage, now, count = 0.0, 0.0, 0
    for time, jump in zip([*times, duration], [*jumps, 0.0]):
        while current > 0 and now + (1 - voltage) / current <= time:
            now, voltage, count = now + (1 - voltage) / current, 0.0, count + 1
        now, voltage = time, voltage + current * (time - now) + jump
        if voltage > 1:
            voltage, count = 0.0, count + 1
    return count / duration


def simulate(graph, stimulus, duration):
    """The spike rates of the outputs, from the numbers in a NIR graph."""
    nodes = graph.nodes
    current = nodes["hidden_input"].weight @ stimulus + nodes["hidden_input"].bias
    rates = np.maximum(nodes["hidden"].r * current / nodes["hidden"].v_threshold, 0)  # a constant current
    spikes = [np.arange(1, int(rate * duration) + 1) / max(rate, 1e-9) for rate in rates]
    times = np.concatenate(spikes)
    sources = np.repeat(np.arange(len(rates)), [len(each) for each in spikes])
    order = np.argsort(times, kind="stable")
    readout = nodes["rate_input"]
    direct = readout.bias + (nodes["bypass"].weight @ stimulus if "bypass" in nodes else 0)
    return [
        spike_rate(direct[i], times[order].tolist(), readout.weight[i, sources[order]].tolist(), duration)
        for i in range(len(direct))
    ]


def count_in_steps(graph, stimulus, num_steps):
    """Spikes per step as readers with a clock count them: what a step brings is added up, and whole thresholds fire.

    They know neither a resistance nor a threshold other than 1.
    """
    nodes = graph.nodes
    hidden, outputs, spikes = 0.0, 0.0, 0.0
    for _ in range(num_steps):
        hidden = hidden + nodes["hidden_input"].weight @ stimulus + nodes["hidden_input"].bias
        fired = np.maximum(np.floor(hidden), 0)
        hidden = hidden - fired
        outputs = outputs + nodes["rate_input"].weight @ fired + nodes["rate_input"].bias
        counted = np.maximum(np.floor(outputs), 0)
        outputs, spikes = outputs - counted, spikes + counted
    return spikes / num_steps


class TestNir:
    def test_readers_that_know_no_resistance_find_the_rates(self, tmp_path):
        approximator = approximator_of(jr.key(7))
        write_nir(tmp_path / "a.nir", approximator)
        graph = nir.read(tmp_path / "a.nir")
        for name in ("hidden", "firing"):
            unit = graph.nodes[name]
            assert (unit.r == 1).all()
            assert (unit.v_threshold == 1).all()
            assert (unit.v_reset == 0).all()
        stimuli = STIMULI[:6]
        expected = np.asarray(jax.vmap(approximator)(jnp.asarray(stimuli, approximator.hidden_bias.dtype)))
        assert relative_error(np.array([count_in_steps(graph, each, 2000) for each in stimuli]), expected) < 0.01

    @pytest.mark.parametrize("bypass", [False, True])
    def test_the_spike_rates_come_close_to_the_rates_and_closer_with_a_larger_gain(self, bypass, tmp_path):
        approximator = approximator_of(jr.key(7), bypass=bypass)
        stimuli = STIMULI[:6]
        expected = np.asarray(jax.vmap(approximator)(jnp.asarray(stimuli, approximator.hidden_bias.dtype)))
        errors = {}
        for gain in (4.0, 100.0):
            write_nir(tmp_path / "a.nir", approximator, gain=gain)
            graph = nir.read(tmp_path / "a.nir")
            errors[gain] = relative_error(np.array([simulate(graph, each, 50) for each in stimuli]), expected)
        assert errors[100.0] < 0.03
        assert errors[100.0] < errors[4.0] / 4

    def test_a_linear_readout_is_not_made_to_fire(self, tmp_path):
        write_nir(tmp_path / "a.nir", example("linear output")[0])
        graph = nir.read(tmp_path / "a.nir")
        assert ("rate_input", "rates") in graph.edges
        assert "firing" not in graph.nodes

    @pytest.mark.parametrize("name", [name for name in EXAMPLES if "refined" in name])
    def test_sweeps_are_refused_and_nothing_is_written(self, name, tmp_path):
        with pytest.raises(ValueError, match="does not fit NIR. Expected two layers, got sweeps"):
            write_nir(tmp_path / "a.nir", example(name)[0])
        assert list(tmp_path.iterdir()) == []

    def test_without_the_extra_the_error_names_it(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "nir", None)
        with pytest.raises(ModuleNotFoundError, match=r"This needs nir.*pip install 'rnn2ff\[nir\]'"):
            write_nir(tmp_path / "a.nir", example("two layers")[0])
