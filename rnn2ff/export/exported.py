"""Exported files, read back: their predictions, bit for bit, so that the file itself can be evaluated."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from rnn2ff._checks import fail, require_extra
from rnn2ff.export.c import MARK, to_c
from rnn2ff.export.fixed_point import IntegerLayer, IntegerModel, IntegerSweeps
from rnn2ff.export.onnx import NETWORK_HASH, STIMULUS_RANGE, open_session

_INTEGER_TYPES = {"int8_t": np.int8, "int16_t": np.int16, "int32_t": np.int32}
_LAYER = ("weights", "bias", "multipliers", "shifts")


class Exported(NamedTuple):
    """An exported model."""

    # From stimuli, one per row, to rates.
    predict: Callable[[Float[ArrayLike, "batch stimulus"]], Float[np.ndarray, "batch rate"]]
    stimulus_size: int  # number of stimulus channels
    rate_size: int  # number of rates
    network_hash: str | None  # of the network that it replaces; None if the file does not say
    # Smallest and largest value of each channel among the stimuli it was made for; None where the file does not say.
    stimulus_range: Float[np.ndarray, "2 stimulus"] | None


def read_exported(path: str | Path) -> Exported:
    """Read a `.onnx` file, or an integer C header (`.h`).

    The predictions of an ONNX file are those of onnxruntime on this machine. Those of an integer header are the same
    everywhere. Those of a float header depend on how the compiler rounds sums, so that none can be proved.

    Raises:
        ValueError: if the file is missing, of another kind, damaged or changed, or a header in float.
        ModuleNotFoundError: for an ONNX file, if the extra `onnx` is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise fail("model", "cannot be read", "an existing file", f"{path}")
    readers = {".onnx": _read_onnx, ".h": _read_header}
    if path.suffix not in readers:
        expected = "a .onnx file, or a .h file of the routes c-int8 or c-int16"
        raise fail("model", "is in an unknown format", expected, f"{path}")
    return readers[path.suffix](path)


def _read_onnx(path: Path) -> Exported:
    require_extra("onnx", "onnxruntime")
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    content = path.read_bytes()
    broken = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented)
    broken += (UnicodeDecodeError,)  # of a name in the file, or of a message that cites it
    try:
        session = open_session(content)
        inputs, outputs = (
            {tensor.name: tensor.shape for tensor in group} for group in (session.get_inputs(), session.get_outputs())
        )
        named = session.get_modelmeta().custom_metadata_map
    except broken as error:
        raise fail("model", "is damaged", "a whole ONNX file", f"{path}: {str(error)[:100]}") from error
    shapes = [len(shape) for shape in (*inputs.values(), *outputs.values())]
    if list(inputs) != ["stimuli"] or list(outputs) != ["rates"] or shapes != [2, 2]:
        expected = "a model that `rnn2ff export` wrote, with the input stimuli and the output rates"
        raise fail("model", "was not written by rnn2ff", expected, f"{path}: {list(inputs)} and {list(outputs)}")

    def predict(stimuli: ArrayLike) -> np.ndarray:
        return session.run(["rates"], {"stimuli": np.asarray(stimuli, np.float32)})[0]

    stimulus_size = inputs["stimuli"][1]
    stimulus_range = _parsed_range(named.get(STIMULUS_RANGE, "null"), stimulus_size)
    return Exported(predict, stimulus_size, outputs["rates"][1], named.get(NETWORK_HASH), stimulus_range)


def _parsed_range(text: str, size: int) -> Float[np.ndarray, "2 stimulus"] | None:
    """The two ends of a range from JSON; None if the text does not hold them."""
    try:
        ends = np.asarray(json.loads(text), np.float64)
    except (ValueError, TypeError, RecursionError):
        return None
    return ends if ends.shape == (2, size) else None


def _read_header(path: Path) -> Exported:
    text = path.read_text(errors="replace")
    guard = re.search(r"^#ifndef ([A-Z][A-Z0-9_]*)_H$", text, re.MULTILINE)
    if guard is None:
        raise fail("model", "is not a header of rnn2ff", "one that `rnn2ff export --to c-int8` wrote", f"{path}")
    name = guard[1].lower()
    if "#include <stdint.h>" not in text:
        expected = "an integer header; instead of one in float, evaluate the approximator itself"
        raise fail("model", "depends on the rounding of its compiler", expected, f"{path}")
    model = _parsed(text, name)
    # The integer model represents the header only if the code around the numbers is ours.
    if model is None or _body(to_c(model, name=name)) != _body(text):
        expected = "a header as this version of rnn2ff writes it; export it anew"
        raise fail("model", "was changed after it was written, or by another version", expected, f"{path}")
    network_hash = re.search(r'_NETWORK_HASH "([0-9a-f]+)"', text)
    ends = re.findall(r"static const int16_t (?:low|high)\[\d+\] = \{([-\d\s,]*)\};", text)
    units = _parsed_range("[" + ", ".join(f"[{end.strip().rstrip(',')}]" for end in ends) + "]", model.stimulus_size)
    # Values that round to the ends count as inside.
    half = np.array([[-0.5], [0.5]])
    stimulus_range = None if units is None else (units + half) * model.stimulus_scale
    hashed = network_hash and network_hash[1]
    return Exported(model.predict, model.stimulus_size, model.rate_size, hashed, stimulus_range)


def _body(text: str) -> str:
    """A header without the comment on top, its origin and its self-test."""
    return text[text.index("#ifndef ") :].partition(MARK)[0].removesuffix("#endif\n").rstrip()


def _parsed(text: str, name: str) -> IntegerModel | None:
    """The numbers of a header; None if some are missing."""
    constants = dict(re.findall(rf"^#define {name.upper()}_(\w+) (\S+)$", text, re.MULTILINE))
    arrays = {}
    try:
        for kind, label, size, body in re.findall(rf"static const (\w+) {name}_(\w+)\[(\d+)\] = \{{([^}}]*)\}};", text):
            numbers = body.replace(",", " ").split()
            if kind in _INTEGER_TYPES and len(numbers) == int(size):
                arrays[label] = np.array([int(number) for number in numbers], _INTEGER_TYPES[kind])
        scales = {key: float(np.float32(constants[key].rstrip("f"))) for key in ("STIMULUS_SCALE", "RATE_SCALE")}
        if not all(0 < scale < float("inf") for scale in scales.values()):
            return None

        def layer(label: str, rows: int) -> IntegerLayer:
            parts = {part: arrays[f"{label}_{part}"] for part in _LAYER}
            return IntegerLayer(**parts | {"weights": parts["weights"].reshape(rows, -1)})

        sizes = {key: int(constants[key]) for key in ("HIDDEN_SIZE", "STATE_SIZE", "RATE_SIZE", "NUM_SWEEPS")}
        state_size, num_sweeps = sizes["STATE_SIZE"], sizes["NUM_SWEEPS"]
        sweeps = None
        if num_sweeps:
            sweeps = IntegerSweeps(
                drive=layer("drive", state_size),
                recurrent=layer("recurrent", state_size),
                positive_gains=arrays["positive_gains"],
                negative_gains=arrays["negative_gains"],
                **{field: arrays[field].reshape(num_sweeps, -1) for field in ("steps", "momenta")},
            )
        return IntegerModel(
            stimulus_scale=scales["STIMULUS_SCALE"],
            rate_scale=scales["RATE_SCALE"],
            hidden=layer("hidden", sizes["HIDDEN_SIZE"]),
            readout=layer("readout", state_size),
            bypass=layer("bypass", state_size) if constants["HAS_BYPASS"] == "1" else None,
            sweeps=sweeps,
            is_rectified=constants["IS_RECTIFIED"] == "1",
            rate_size=sizes["RATE_SIZE"],
        )
    except (KeyError, ValueError, OverflowError):  # something is missing, not a number, or of the wrong size
        return None
