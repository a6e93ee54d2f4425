"""C99: a single header with the weights in it, in float or in whole numbers, for anything down to a microcontroller.

The headers are the two templates beside this module, filled in. They allocate nothing, call nothing, and run the same
number of operations for every stimulus.
"""

import re
from collections.abc import Iterator
from importlib import resources
from string import Template
from typing import NamedTuple

import numpy as np

from rnn2ff import __version__
from rnn2ff._checks import fail
from rnn2ff.approximators import Approximator
from rnn2ff.export.fixed_point import GAIN_BITS, STEP_BITS, IntegerModel
from rnn2ff.export.plain import plain_arrays

_TYPES = {"float32": "float", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t"}
_LINE = 110  # characters of numbers on a line


class Footprint(NamedTuple):
    """What an approximator takes of a machine, whatever the stimulus.

    Attributes:
        flash_bytes: of constants; the code comes on top, about a kilobyte.
        ram_bytes: of stack for the signals, the caller's stimulus and rates not counted.
        num_products: multiplications of weights.
    """

    flash_bytes: int
    ram_bytes: int
    num_products: int


def to_c(model: Approximator | IntegerModel, *, name: str = "rnn2ff") -> str:
    """An approximator as a C99 header; in whole numbers for what `quantize` returns, else in float.

    Args:
        model: what to export.
        name: prefix of every name in the header.

    Raises:
        ValueError: if `name` is not the name of a C function.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise fail("name", "cannot be the prefix of C names", "lower-case letters, digits and _", repr(name))
    parts = _parts(model)
    arrays = "\n".join(_array(f"{name}_{label}", array) for label, array in parts.arrays.items())
    fields = {**parts.fields, **footprint(model)._asdict(), "arrays": arrays}
    template = resources.files("rnn2ff.export").joinpath("templates", parts.template).read_text()
    return Template(template).substitute(fields, name=name, NAME=name.upper(), version=__version__)


def footprint(model: Approximator | IntegerModel) -> Footprint:
    """What the header of an approximator takes of a machine."""
    parts = _parts(model)
    sizes = parts.fields
    num_signals = sizes["width"] + sizes["state_size"] * (5 if sizes["num_sweeps"] else 1)
    products = {label: array.size for label, array in parts.arrays.items() if label.endswith("weights")}
    if sizes["num_sweeps"]:
        products["recurrent_weights"] *= sizes["num_sweeps"]
    return Footprint(
        flash_bytes=sum(array.nbytes for array in parts.arrays.values()),
        ram_bytes=num_signals * parts.bytes_per_signal,
        num_products=sum(products.values()),
    )


class _Parts(NamedTuple):
    """What a template is filled with."""

    template: str
    arrays: dict[str, np.ndarray]
    fields: dict[str, object]
    bytes_per_signal: int


def _parts(model: Approximator | IntegerModel) -> _Parts:
    if isinstance(model, IntegerModel):
        arrays = dict(_integer_arrays(model))
        fields = {
            "stimulus_scale": _number(np.float32(model.stimulus_scale)),
            "rate_scale": _number(np.float32(model.rate_scale)),
            "gain_bits": GAIN_BITS,
            "step_bits": STEP_BITS,
        }
        template, bytes_per_signal = "int8.h", 2
    else:
        model = plain_arrays(model)
        arrays = {name: value for name, value in model._asdict().items() if isinstance(value, np.ndarray)}
        arrays |= {} if model.sweeps is None else model.sweeps._asdict()
        fields, template, bytes_per_signal = {}, "float.h", 4
    width, stimulus_size = arrays["hidden_weights"].shape
    fields |= {
        "stimulus_size": stimulus_size,
        "width": width,
        "state_size": len(arrays["readout_bias"]),
        "rate_size": model.rate_size,
        "has_bypass": int("bypass_weights" in arrays),
        "is_rectified": int(model.is_rectified),
        "num_sweeps": len(arrays.get("steps", ())),
    }
    return _Parts(template, arrays, fields, bytes_per_signal)


def _integer_arrays(model: IntegerModel) -> Iterator[tuple[str, np.ndarray]]:
    sweeps = {} if model.sweeps is None else model.sweeps._asdict()
    for name, value in {**model._asdict(), **sweeps}.items():
        if isinstance(value, np.ndarray):
            yield name, value
        elif hasattr(value, "multipliers"):  # a layer
            yield from ((f"{name}_{part}", array) for part, array in value._asdict().items())


def _array(name: str, array: np.ndarray) -> str:
    """The definition of an array, its numbers wrapped."""
    lines, line = [], "   "
    for number in map(_number, array.ravel()):
        if len(line) + len(number) > _LINE:
            lines.append(line)
            line = "   "
        line += f" {number},"
    body = "\n".join([*lines, line])
    return f"static const {_TYPES[array.dtype.name]} {name}[{array.size}] = {{\n{body}\n}};\n"


def _number(value: np.generic) -> str:
    """A literal that reads back as the same number."""
    if not isinstance(value, np.floating):
        return str(int(value))
    digits = f"{float(value):.9g}"  # 9 digits hold a float32
    return digits + ("f" if "." in digits or "e" in digits else ".0f")
