"""C99: a single header with the weights in it, in float or integer-only, for anything down to a microcontroller.

A header is the template `model.h` beside this module, filled in with the code of `float.h` or `integer.h`. It allocates
nothing, calls nothing, and runs the same number of operations for every stimulus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Template
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float

from rnn2ff import __version__
from rnn2ff._checks import check_array, check_stimuli, check_text, fail
from rnn2ff.approximators import Approximator, predict
from rnn2ff.export.card import stated_error
from rnn2ff.export.fixed_point import GAIN_BITS, STEP_BITS, IntegerModel
from rnn2ff.export.plain import arrays_of, plain_arrays, template

_TYPES = {"float32": "float", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t"}
_LINE = 110  # characters of numbers on a line
_SCALES = "#define ${NAME}_STIMULUS_SCALE $stimulus_scale\n#define ${NAME}_RATE_SCALE $rate_scale\n"
MARK = "/* Where it comes from, and a test of itself. */"
_NUM_TESTED = 4  # stimuli of the self-test
_LARGEST_ROUNDING = 1e-4  # of a rate in float, relative to 1 + the largest: compilers may reorder sums


class Footprint(NamedTuple):
    """The resources that an approximator needs, for every stimulus.

    Without hidden units there is one in C, whose weights are zero.
    """

    flash_bytes: int  # of constants; the code takes about a kilobyte more
    ram_bytes: int  # of stack for the signals, without the stimulus and the rates of the caller
    num_products: int  # multiplications of weights


def to_c(
    model: Approximator | IntegerModel,
    *,
    name: str = "rnn2ff",
    card: Mapping[str, object] | None = None,
    test_stimuli: Float[ArrayLike, "batch stimulus"] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Export an approximator as a C99 header; integer-only for what `quantize` returns, otherwise in float.

    Args:
        model: what to export.
        name: prefix of every name in the header.
        card: its model card. The header then states the network, the error, and the range of the stimuli.
        test_stimuli: one per row. The first few, with their rates, become a self-test, compiled if `NAME_SELF_TEST`
            is defined: `name_self_test()` counts the rates that are wrong on the target machine.
        notes: additional lines for the comment at the top.

    Raises:
        ValueError: if `name` is not the name of a C function, the test stimuli do not fit, or a note would end the
            comment.
    """
    check_name(name)
    if isinstance(notes, str) or not isinstance(notes, Sequence) or not all(isinstance(note, str) for note in notes):
        raise fail("notes", "are not lines of text", "a list of strings", repr(notes))
    stimulus_range = _range_in((card or {}).get("stimuli"), model)
    parts = _parts(model)
    arrays = "\n".join(array_definition(f"{name}_{label}", array) for label, array in parts.arrays.items())
    units = f"A stimulus is in units of {name.upper()}_STIMULUS_SCALE, a rate in units of {name.upper()}_RATE_SCALE."
    lines = [*([units] if parts.scales else []), *_notes(card or {}, stimulus_range), *notes]
    if any("*/" in line or "\n" in line for line in lines):
        raise fail("notes", "would end the comment", "lines without */", repr(lines))
    written = {"notes": "".join(f" * {line}\n" for line in ["", *lines] if lines).replace(" * \n", " *\n")}
    written["extras"] = _extras(model, name, (card or {}).get("network"), stimulus_range, test_stimuli)
    names = {"name": name, "NAME": name.upper(), "version": __version__}
    fields = {**parts.fields, **footprint(model)._asdict(), **written, **names, "arrays": arrays}
    fields["code"] = template(parts.code).substitute(fields)
    return template("model.h").substitute(fields, scales=Template(parts.scales).substitute(fields))


def _range_in(stimuli: Mapping[str, object] | None, model) -> Float[np.ndarray, "2 stimulus"] | None:
    """The smallest and largest values in a card, which become code; None if it has none."""
    if not stimuli:
        return None
    ends = [stimuli["smallest"], stimuli["largest"]]
    check_array("range of the stimuli in the card", ends, (2, model.stimulus_size))
    return np.asarray(ends, np.float32)


def _notes(card: Mapping[str, object], stimulus_range: Float[np.ndarray, "2 stimulus"] | None) -> list[str]:
    """Origin, error and stimulus range from a model card, as lines of text."""
    lines, network = [], card.get("network")
    if network and not re.fullmatch("[0-9a-f]+", str(network["hash"])):  # it becomes code
        raise fail("card", "names a network by something else than a hash", "hexadecimal digits", repr(network["hash"]))
    if network:
        lines.append(f"Stands for the network {network['hash']}.")
    for label, text in stated_error(card).items():
        label = "error on unseen stimuli, before it was exported" if label == "error" else label
        lines.append(f"{label[:1].upper()}{label[1:]}: {text}.")
    if stimulus_range is not None:
        low, high = stimulus_range.min(), stimulus_range.max()
        lines.append(f"Made for stimuli from {low:.6g} to {high:.6g}; untested on others, of which")
        lines.append("`_num_outside` counts the channels.")
    return lines


def _extras(model, name: str, network, stimulus_range, test_stimuli: ArrayLike | None) -> str:
    """The hash of the network as a macro, the range of the stimuli, and the self-test."""
    text = f'#define {name.upper()}_NETWORK_HASH "{network["hash"]}"\n' if network else ""
    if stimulus_range is not None:
        text += _range(model, name, stimulus_range)
    if test_stimuli is not None:
        text += _self_test(model, name, test_stimuli)
    return f"{MARK}\n{text}\n" if text else ""


def _range(model, name: str, ends: Float[np.ndarray, "2 stimulus"]) -> str:
    """A function that counts the channels of a stimulus which are outside the range."""
    if isinstance(model, IntegerModel):
        ends = model.quantize_stimuli(ends)
    signal = _TYPES[ends.dtype.name]
    low, high = (array_definition(label, end) for label, end in zip(("low", "high"), ends))
    return template("range.h").substitute(name=name, NAME=name.upper(), signal=signal, low=low, high=high)


def _self_test(model: Approximator | IntegerModel, name: str, test_stimuli: ArrayLike) -> str:
    is_integer = isinstance(model, IntegerModel)
    check_stimuli(test_stimuli, model.stimulus_size, "test_stimuli")
    if is_integer:
        stimuli = model.quantize_stimuli(np.asarray(test_stimuli)[:_NUM_TESTED])
        rates, kind = model(stimuli), "int16_t"
        is_wrong = "rates[j] != expected[j]"
    else:
        stimuli = np.asarray(test_stimuli, np.float32)[:_NUM_TESTED]
        single = jax.tree.map(lambda leaf: leaf.astype(np.float32), model)
        rates, kind = np.asarray(predict(single, jax.device_put(stimuli))), "float"
        bound = _number(np.float32(_LARGEST_ROUNDING * (1 + np.abs(rates).max())))
        is_wrong = f"!(rates[j] - expected[j] <= {bound} && expected[j] - rates[j] <= {bound})"
    fields = {
        "name": name,
        "NAME": name.upper(),
        "stimuli": array_definition(f"{name}_test_stimuli", stimuli),
        "rates": array_definition(f"{name}_test_rates", rates),
        "num_stimuli": len(stimuli),
        "kind": kind,
        "is_wrong": is_wrong,
    }
    return template("self_test.h").substitute(fields)


def footprint(model: Approximator | IntegerModel) -> Footprint:
    """The resources that the header of an approximator needs."""
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
    """The parts of a header."""

    code: str  # the template of its functions
    arrays: dict[str, np.ndarray]  # its constants, by name
    fields: dict[str, object]  # further values for the templates
    scales: str  # the macros of integer signals
    bytes_per_signal: int  # of an activity


def _parts(model: Approximator | IntegerModel) -> _Parts:
    if isinstance(model, IntegerModel):
        bits = 8 * model.hidden.weights.itemsize
        fields = {
            "arithmetic": f"integer-only: {bits}-bit weights, 16-bit signals",
            "signal": "int16_t",
            "includes": "#include <stdint.h>\n\n",
            "stimulus_scale": _number(np.float32(model.stimulus_scale)),
            "rate_scale": _number(np.float32(model.rate_scale)),
            "gain_bits": GAIN_BITS,
            "step_bits": STEP_BITS,
            "weight_bits": bits,
        }
        code, scales, bytes_per_signal = "integer.h", _SCALES, 2
    else:
        model = plain_arrays(model)
        fields = {"arithmetic": "in float", "signal": "float", "includes": ""}
        code, scales, bytes_per_signal = "float.h", "", 4
    arrays = dict(arrays_of(model))
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
    return _Parts(code, arrays, fields, scales, bytes_per_signal)


def check_name(name: str) -> None:
    """Check that a name can be a prefix for names in C."""
    check_text("name", name)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise fail("name", "cannot be the prefix of C names", "lower-case letters, digits and _", repr(name))


def array_definition(name: str, array: np.ndarray) -> str:
    """The definition of an array, with its numbers wrapped into lines."""
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
