"""An approximator in one file for long-term storage, readable by anything that reads safetensors."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float
from safetensors import SafetensorError, safe_open

from rnn2ff._checks import fail
from rnn2ff.approximators import Approximator, Refined, TwoLayer
from rnn2ff.export.card import Distilled, check_same_network, describe, model_card
from rnn2ff.export.plain import check_deployable, check_exportable
from rnn2ff.files import plain, tensors_content, write_whole
from rnn2ff.networks import (
    RateForm,
    RateNetwork,
    RecurrentNetwork,
    SplitSweep,
    StateForm,
    decode_nonlinearity,
    encode_nonlinearity,
    rate_network,
)

_FORMATS = {TwoLayer: "rnn2ff.two_layer.1", Refined: "rnn2ff.refined.1"}
_LAYERS = ("hidden_weights", "hidden_bias", "readout_weights", "readout_bias", "bypass_weights")
_STEPS = ("step_sizes", "momenta")
_SWEEP = ("slopes", "drive_map", "recurrent_map", "offset", "velocity_per_step")
_NETWORK = ("recurrent_weights", "stimulus_weights", "bias", "time_constants")


def save(path: str | Path, approximator: Approximator | Distilled, *, card: Mapping[str, object] | None = None) -> None:
    """Write an approximator as a safetensors file, completely or not at all.

    Args:
        path: the file; an existing one is replaced.
        approximator: what to write. A refined one is written with its network, whose sparse weights become dense. For
            what `distill` returns, its approximator is written, with a card of its network, its report, the range of
            the stimuli it was trained on, and its test stimuli.
        card: any JSON-serializable information about it (how it was trained, how good it is), kept in the file's
            metadata; `model_card` makes one. The command line requires it to name the network.

    Raises:
        ValueError: if the folder cannot be written to, the approximator is not `TwoLayer` or `Refined`, or its sweeps
            are not the split sweep of a rate network with a rectifier, tanh, the logistic function, softplus, a power
            law or a `Saturating` function.
    """
    if card is not None and not isinstance(card, Mapping):
        raise fail("card", "is not a card", "a mapping of JSON-serializable values", type(card).__name__)
    if isinstance(approximator, Distilled):
        distilled, approximator = approximator, approximator.approximator
        card = {**model_card(distilled.network, distilled.test.stimuli, distilled.report), **(card or {})}
    check_deployable(approximator)
    if isinstance(approximator, Refined):
        card = {"network": describe(approximator.network), **(card or {})}
    arrays, metadata = _take_apart(approximator)
    metadata["card"] = json.dumps(plain(card or {}), allow_nan=False)
    metadata["hash"] = _hash(arrays, metadata)
    write_whole(path, tensors_content(arrays, metadata))


def load(path: str | Path, *, network: RecurrentNetwork | None = None) -> tuple[Approximator, dict[str, object]]:
    """Read an approximator and its card, as `save` wrote them.

    Args:
        path: the file.
        network: the network that the approximator must have been made for, by the hash in a card from `model_card`.

    Raises:
        ValueError: if the file is missing, damaged, changed since it was written, not an approximator, or one of
            another network.
    """
    path = Path(path)
    if not path.is_file():
        raise fail("path", "cannot be read", "an existing file", f"{path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise fail("path", "is damaged", "a whole safetensors file", f"{path}: {error}") from error
    if metadata.get("format") not in _FORMATS.values():
        expected = f"a file of format {' or '.join(_FORMATS.values())}"
        raise fail("path", "is not an approximator", expected, f"{metadata.get('format')}")
    if _hash(arrays, metadata) != metadata.get("hash"):
        raise fail("path", "was changed after it was written", "what was saved", f"{path}")
    if jax.dtypes.canonicalize_dtype(arrays["hidden_weights"].dtype) != arrays["hidden_weights"].dtype:
        raise fail("path", "holds float64 weights", "`jax_enable_x64` to be set before loading them", "float32 only")
    card = json.loads(metadata["card"])
    if network is not None:
        check_same_network(network, card, path)
    arrays = {name: jax.device_put(array) for name, array in arrays.items()}
    return _put_together(arrays, metadata), card


def _take_apart(approximator: Approximator) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of an approximator, and the metadata needed to reassemble it."""
    texts = {"format": _FORMATS[type(approximator)], "is_rectified": json.dumps(approximator.is_rectified)}
    if isinstance(approximator, TwoLayer):
        parts = [(approximator, _LAYERS)]
    else:
        network, sweep = approximator.network, approximator.sweep
        kind = None  # for a rectifier, or a nonlinearity that a file cannot hold
        if isinstance(network, RateNetwork) and network.shows_all_rates and network.nonlinearity is not jax.nn.relu:
            kind = encode_nonlinearity(network.nonlinearity)
        if kind is None or not isinstance(sweep, SplitSweep):
            check_exportable(network, sweep)
        params = eqx.tree_at(lambda params: params.recurrent_weights, network.params, network.dense_weights)
        parts = [(approximator.two_layer, _LAYERS), (approximator, _STEPS), (sweep, _SWEEP), (params, _NETWORK)]
        texts["form"] = "rate" if isinstance(network.vector_field, RateForm) else "state"
        if kind is not None:
            texts["nonlinearity"] = json.dumps(kind)
        texts["rate_size"] = json.dumps(network.rate_size)
        if network.is_map:
            texts["is_map"] = json.dumps(network.is_map)
    values = {name: getattr(owner, name) for owner, names in parts for name in names}
    return {name: np.asarray(value) for name, value in values.items() if value is not None}, texts


def _put_together(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> Approximator:
    is_rectified = json.loads(metadata["is_rectified"])
    if metadata["format"] == _FORMATS[TwoLayer]:
        return _make(TwoLayer, arrays, _LAYERS, is_rectified=is_rectified)
    nonlinearity = decode_nonlinearity(*json.loads(metadata.get("nonlinearity", '["relu"]')))
    form = (RateForm if metadata["form"] == "rate" else StateForm)(nonlinearity)
    params = {name: arrays[name] for name in _NETWORK if name in arrays}
    network = rate_network(form, **params, is_map=json.loads(metadata.get("is_map", "false")))
    rate_size = json.loads(metadata["rate_size"])
    if rate_size < network.state_size:
        network = dataclasses.replace(network, rate_function=_FirstRates(network.rate_function, rate_size))
    two_layer, sweep = _make(TwoLayer, arrays, _LAYERS, is_rectified=False), _make(SplitSweep, arrays, _SWEEP)
    return _make(Refined, arrays, _STEPS, two_layer=two_layer, sweep=sweep, network=network, is_rectified=is_rectified)


class _FirstRates(eqx.Module):
    """The rates of the first units."""

    rate_function: Callable = eqx.field(static=True)
    rate_size: int = eqx.field(static=True)

    def __call__(self, params: object, state: Float[Array, " state"]) -> Float[Array, " rate"]:
        return self.rate_function(params, state)[: self.rate_size]


def _make(kind: type, arrays: Mapping[str, Array], names: tuple[str, ...], **others: object) -> object:
    """A module made from its parts, bypassing its constructor, which would draw random weights."""
    module = object.__new__(kind)
    for name, value in {**{name: arrays.get(name) for name in names}, **others}.items():
        object.__setattr__(module, name, value)
    return module


def _hash(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """A hash of everything in the file but the hash itself."""
    texts = {name: text for name, text in metadata.items() if name != "hash"}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
