import sys

import jax
import numpy as np
import onnx
import pytest
from exported import EXAMPLES, STIMULI, example, relative_error

from rnn2ff import accuracy
from rnn2ff.export import quantize_onnx, read_exported, run_onnx, to_onnx


@pytest.fixture(params=EXAMPLES)
def exported(request):
    return request.param, *example(request.param)


def test_onnxruntime_computes_what_jax_computes(exported):
    _, approximator, expected = exported
    assert relative_error(run_onnx(to_onnx(approximator), STIMULI), expected) < 1e-6


def test_the_batch_is_dynamic_and_a_batch_is_its_samples_one_by_one(exported):
    _, approximator, expected = exported
    model = to_onnx(approximator)
    assert (
        relative_error(np.concatenate([run_onnx(model, STIMULI[i : i + 1]) for i in range(50)]), expected[:50]) < 1e-6
    )
    (axis, _) = onnx.load_from_string(model).graph.output[0].type.tensor_type.shape.dim
    assert axis.dim_param == "batch"


def test_two_layers_are_two_products_and_two_rectifiers():
    graph = onnx.load_from_string(to_onnx(example("two layers")[0])).graph
    assert [node.op_type for node in graph.node] == ["Gemm", "Relu", "Gemm", "Relu"]
    assert [(each.name) for each in (*graph.input, *graph.output)] == ["stimuli", "rates"]


def test_int8_loses_little_and_has_products_of_8_bit_weights(exported):
    name, approximator, expected = exported
    model = to_onnx(approximator)
    quantized = quantize_onnx(model, STIMULI[:500])
    loss = accuracy(run_onnx(quantized, STIMULI[500:]), expected[500:]).nrmse
    assert 1e-5 < loss < 0.03
    weights = {each.name: each for each in onnx.load_from_string(quantized).graph.initializer}
    kinds = [each.data_type for each in weights.values() if len(each.dims) == 2]
    assert kinds.count(onnx.TensorProto.UINT8) == 2 + ("bypass" in name) + 3 * ("refined" in name)
    assert onnx.TensorProto.FLOAT not in kinds


def test_int8_does_not_depend_on_anything_but_the_model_and_the_stimuli():
    model = to_onnx(example("two layers")[0])
    assert quantize_onnx(model, STIMULI[:50]) == quantize_onnx(model, STIMULI[:50])


def test_a_model_of_float64_weights_is_one_of_float32_weights():
    approximator, _ = example("two layers")
    doubled = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), approximator)
    assert to_onnx(doubled) == to_onnx(approximator)


@pytest.mark.parametrize("opset", [12, 1000])
def test_an_opset_that_is_too_old_or_unknown_is_refused(opset):
    with pytest.raises(ValueError, match=f"`opset` is out of range. Expected 13 to .*, got {opset}"):
        to_onnx(example("two layers")[0], opset=opset)


@pytest.mark.parametrize("opset", [13, 21])
def test_other_opsets_run_too(opset):
    approximator, expected = example("refined, first units")
    model = to_onnx(approximator, opset=opset)
    assert onnx.load_from_string(model).opset_import[0].version == opset
    assert relative_error(run_onnx(model, STIMULI), expected) < 1e-6


def test_calibration_stimuli_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"stimuli.*\(samples, 3\).*got \(4, 2\)"):
        quantize_onnx(to_onnx(example("two layers")[0]), np.ones((4, 2)))


def test_a_damaged_name_of_an_axis_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(example("two layers")[0]).replace(b"batch", b"ba\xf4ch"))
    with pytest.raises(ValueError, match="`model` is damaged.*whole ONNX file"):
        read_exported(path)


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_without_a_library_of_the_extra_the_error_names_it_and_what_does_not_use_it_works(library, monkeypatch):
    approximator, _ = example("two layers")
    model = to_onnx(approximator)
    calls = {"onnx": lambda: to_onnx(approximator), "onnxruntime": lambda: run_onnx(model, STIMULI)}
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=rf"This needs {library}.*pip install 'rnn2ff\[onnx\]'"):
        calls.pop(library)()
    (other,) = calls.values()
    assert other() is not None
