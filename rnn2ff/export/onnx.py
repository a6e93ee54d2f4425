"""ONNX: two `Gemm` nodes and a rectifier, with a dynamic batch; the sweeps of a refined approximator unrolled.

The graph is written node by node, so that it contains exactly the formula.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import ArrayLike, Float

from rnn2ff import __version__
from rnn2ff._checks import check_stimuli, fail, require_extra
from rnn2ff.approximators import Approximator
from rnn2ff.export.card import stated_error
from rnn2ff.export.plain import Plain, plain_arrays

NETWORK_HASH = "rnn2ff.network_hash"  # in the metadata of a file
STIMULUS_RANGE = "rnn2ff.stimulus_range"  # of the stimuli it was made for
OLDEST_OPSET = 13  # the first whose quantized weights may have a scale for each row
DEFAULT_OPSET = 17  # from 2022, read by current runtimes
_IR_VERSION = 8  # of the file; any runtime since 2021 reads it


def to_onnx(approximator: Approximator, *, opset: int = DEFAULT_OPSET) -> bytes:
    """An approximator as an ONNX model, in float32.

    Its input is `stimuli`, shape (batch, stimulus), its output `rates`, shape (batch, rate); the batch is dynamic.

    Args:
        approximator: what to export.
        opset: version of ONNX's operators, at least 13.

    Raises:
        ValueError: if the opset is too old, or newer than the onnx package that is installed.
        ModuleNotFoundError: if the extra `onnx` is not installed.
    """
    require_extra("onnx", "onnx")
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise fail("opset", "is out of range", f"{OLDEST_OPSET} to {newest}", opset)
    model = onnx.helper.make_model(
        _Graph(plain_arrays(approximator)).build(),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=_IR_VERSION,
        producer_name="rnn2ff",
        producer_version=__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Graph:
    """Nodes and weights, in order of use."""

    def __init__(self, plain: Plain):
        self.plain = plain
        self.nodes, self.weights = [], []

    def build(self):
        """The graph of the whole approximator."""
        from onnx import TensorProto, helper

        plain = self.plain
        hidden = self.node("Relu", self.gemm("stimuli", "hidden", plain.hidden_weights, plain.hidden_bias))
        output = self.gemm(hidden, "readout", plain.readout_weights, plain.readout_bias)
        if plain.bypass_weights is not None:
            zero = np.zeros(plain.state_size, np.float32)
            output = self.node("Add", output, self.gemm("stimuli", "bypass", plain.bypass_weights, zero))
        if plain.sweeps is not None:
            output = self.sweep(output)
        if plain.rate_size < plain.state_size:
            bounds = [self.constant(name, np.array([n])) for name, n in (("first", 0), ("last", plain.rate_size))]
            output = self.node("Slice", output, *bounds, self.constant("axis", np.array([1])))
        self.nodes.append(helper.make_node("Relu" if plain.is_rectified else "Identity", [output], ["rates"]))

        def batch_of(name, size):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])

        inputs, outputs = [batch_of("stimuli", plain.stimulus_size)], [batch_of("rates", plain.rate_size)]
        return helper.make_graph(self.nodes, "rnn2ff", inputs, outputs, self.weights)

    def sweep(self, state: str) -> str:
        """All sweeps, from the output of the pass, which is added to their initial guess."""
        sweeps = self.plain.sweeps
        slopes = self.constant("slopes", sweeps.slopes)
        drive = self.gemm("stimuli", "drive", sweeps.drive_weights, sweeps.drive_bias)
        recurrent = self.constant("recurrent_weights", sweeps.recurrent_weights)
        before = state = self.node("Add", drive, state)
        for i, (step, momentum) in enumerate(zip(sweeps.steps, sweeps.momenta)):
            rest = self.node("Sub", self.node("Relu", state), self.node("Mul", slopes, state))
            target = self.node("Add", drive, self.node("Gemm", rest, recurrent, transB=1))
            change = self.node("Mul", self.constant(f"step_{i}", step), self.node("Sub", target, state))
            if i:  # the first sweep has no momentum
                carried = self.node("Mul", self.constant(f"momentum_{i}", momentum), self.node("Sub", state, before))
                change = self.node("Add", change, carried)
            before, state = state, self.node("Add", state, change)
        return state

    def gemm(self, operand: str, name: str, weights: np.ndarray, bias: np.ndarray) -> str:
        """`weights @ operand + bias`, for each row of a batch."""
        arrays = [self.constant(f"{name}_weights", weights), self.constant(f"{name}_bias", bias)]
        return self.node("Gemm", operand, *arrays, transB=1)

    def node(self, operator: str, *operands: str, **attributes: int) -> str:
        """Add a node, and return the name of its output."""
        from onnx import helper

        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(operands), [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add an array to the weights."""
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name


def quantize_onnx(model: bytes, stimuli: Float[ArrayLike, "batch stimulus"]) -> bytes:
    """The int8 version of a model that `to_onnx` made, calibrated on stimuli by onnxruntime's own tools.

    Weights have 8 bits with a scale for each row, the signals between the matrix products 8 bits with one scale each,
    all unsigned: with signed weights, x86 processors without VNNI instructions sum two products in 16 bits, which
    saturate, and the same file would give other rates there. Only the products are quantized; the cheap operations
    (rectifier, sums, the state of sweeps) stay in float32.

    Args:
        model: a float32 model, from `to_onnx`.
        stimuli: one per row, from the distribution the model will serve: they set the ranges.

    Raises:
        ValueError: if the stimuli do not fit the model.
        ModuleNotFoundError: if the extra `onnx` is not installed.
    """
    require_extra("onnx", "onnx", "onnxruntime")
    import onnx
    from onnxruntime import quantization

    parsed = onnx.load_from_string(model)
    check_stimuli(stimuli, parsed.graph.input[0].type.tensor_type.shape.dim[1].dim_value)

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"stimuli": np.asarray(stimuli, np.float32)}])

        def get_next(self):
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        quantization.quantize_static(
            parsed,
            Path(folder) / "int8.onnx",
            Calibration(),
            op_types_to_quantize=["Gemm"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
        )
        content = (Path(folder) / "int8.onnx").read_bytes()
    onnx.checker.check_model(onnx.load_from_string(content))
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the advice to optimize the graph first, which does not apply."""
    root = logging.getLogger()
    disabled, root.disabled = root.disabled, True
    try:
        yield
    finally:
        root.disabled = disabled


def named_onnx(model: bytes, card: Mapping[str, object]) -> bytes:
    """The same model, with metadata from a card: the network, the error on unseen stimuli, and the stimulus range."""
    require_extra("onnx", "onnx")
    import onnx

    network, stimuli, errors = card.get("network") or {}, card.get("stimuli"), stated_error(card)
    properties = {
        NETWORK_HASH: network.get("hash"),
        "rnn2ff.error_before_export": "; ".join(f"{name}: {text}" for name, text in errors.items()) or None,
        STIMULUS_RANGE: stimuli and json.dumps([stimuli["smallest"], stimuli["largest"]], allow_nan=False),
    }
    parsed = onnx.load_from_string(model)
    onnx.helper.set_model_props(parsed, {name: text for name, text in properties.items() if text is not None})
    return parsed.SerializeToString()


def run_onnx(model: bytes, stimuli: Float[ArrayLike, "batch stimulus"]) -> Float[np.ndarray, "batch rate"]:
    """The rates that onnxruntime computes from a model, on one thread of the processor."""
    require_extra("onnx", "onnxruntime")
    return open_session(model).run(["rates"], {"stimuli": np.asarray(stimuli, np.float32)})[0]


def open_session(model: bytes):
    """A session of onnxruntime, on one thread of the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
