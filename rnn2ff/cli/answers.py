"""The predictions that a command evaluates: an approximator's, or those of an exported file."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rnn2ff.cli.options import read_approximator

if TYPE_CHECKING:
    import numpy as np

    from rnn2ff.networks import RecurrentNetwork

Route = Literal["float", "onnx-int8", "c-int8", "c-int16"]


def read_answers(
    network: "RecurrentNetwork", stimuli: "np.ndarray", approximator: Path | None, model: Path | None, route: Route
) -> "Callable[[np.ndarray], np.ndarray]":
    """The function from stimuli to rates of an approximator, by a route, or of a file; both must be of this network."""
    from rnn2ff._checks import fail
    from rnn2ff.networks import network_hash

    if (approximator is None) == (model is None):
        received = "neither" if model is None else "both"
        raise fail("approximator", "or `model` is what to evaluate", "one of --approximator and --model", received)
    if model is None:
        return _by_route(network, stimuli, approximator, route)
    if route != "float":
        raise fail("route", "does not go with a file", "no --route beside --model", route)

    from rnn2ff.export import read_exported

    found, expected = read_exported(model), network_hash(network)
    if found.network_hash not in (None, expected):
        received = f"{found.network_hash[:12]} in {model}"
        raise fail("model", "stands for another network", f"one of the network {expected[:12]}", received)
    if (found.stimulus_size, found.rate_size) != (network.stimulus_size, network.rate_size):
        sizes = f"{network.stimulus_size} channels and {network.rate_size} rates"
        raise fail("model", "does not fit the network", sizes, f"{found.stimulus_size} and {found.rate_size}")
    return found.predict


def _by_route(network, stimuli, path: Path, route: Route):
    import jax
    import jax.numpy as jnp

    from rnn2ff import export
    from rnn2ff.approximators import predict

    approximator, _ = read_approximator(path, network)
    if route in ("c-int8", "c-int16"):
        return export.quantize(approximator, stimuli, weight_bits=int(route.removeprefix("c-int"))).predict
    if route == "onnx-int8":
        content = export.quantize_onnx(export.to_onnx(approximator), stimuli)
        return lambda rows: export.run_onnx(content, rows)
    approximator = jax.tree.map(lambda leaf: leaf.astype(network.dtype), approximator)
    return lambda rows: predict(approximator, jnp.asarray(rows))
