"""The predictions that a command evaluates: an approximator's, or those of an exported file."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import tyro

from rnn2ff.cli.options import OptionalPath, read_approximator

if TYPE_CHECKING:
    import numpy as np

    from rnn2ff.networks import RecurrentNetwork

Route = Literal["float", "onnx-int8", "c-int8", "c-int16"]


class Answers(NamedTuple):
    """What is evaluated, and how the stimuli compare with those that it was made for; None where that is unknown."""

    predict: "Callable[[np.ndarray], np.ndarray]"  # from stimuli to rates
    share_outside: float | None  # of the stimuli, those outside the range that it was made for
    share_known: float | None  # of the rows with fingerprints in its card, those among the stimuli

    def lines(self) -> dict[str, str]:
        """Remarks on the stimuli, by name."""
        lines = {}
        if self.share_outside is not None:
            lines["outside its range"] = f"{math.ceil(1e3 * self.share_outside) / 10:.1f} % of the stimuli"
        if self.share_known:
            lines["seen before"] = (
                f"{100 * self.share_known:.0f} % of the rows that it was made from are among these stimuli; most were "
                "trained on, so on others expect the error that its report states"
            )
        return lines


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclasses.dataclass(frozen=True)
class Predictions:
    """Where the predictions come from."""

    approximator: OptionalPath = None
    """The file approximator.safetensors of a distillation."""
    model: OptionalPath = None
    """Instead, an exported file: .onnx, or the .h of the routes c-int8 and c-int16."""
    route: Route = "float"
    """Which predictions of an approximator: its own in float, or those of an integer export made now, calibrated on
    these stimuli. For a file that was exported before, use --model."""

    def read(self, network: "RecurrentNetwork", stimuli: "np.ndarray") -> Answers:
        """The answers of the approximator by a route, or of the file; either must be for this network."""
        from rnn2ff._checks import fail

        if (self.approximator is None) == (self.model is None):
            received = "neither" if self.model is None else "both"
            raise fail("approximator", "or `model` must be given", "one of --approximator and --model", received)
        if self.model is None:
            return _by_route(network, stimuli, self.approximator, self.route)
        if self.route != "float":
            raise fail("route", "does not go with a file", "no --route beside --model", self.route)
        return _of_file(network, stimuli, self.model)


def _of_file(network, stimuli, model: Path) -> Answers:
    from rnn2ff._checks import fail
    from rnn2ff.export import read_exported, share_outside
    from rnn2ff.networks import network_hash

    exported, expected = read_exported(model), network_hash(network)
    if exported.network_hash not in (None, expected):
        received = f"{exported.network_hash[:12]} in {model}"
        raise fail("model", "stands for another network", f"one of the network {expected[:12]}", received)
    if (exported.stimulus_size, exported.rate_size) != (network.stimulus_size, network.rate_size):
        sizes = f"{network.stimulus_size} channels and {network.rate_size} rates"
        raise fail("model", "does not fit the network", sizes, f"{exported.stimulus_size} and {exported.rate_size}")
    limits = exported.stimulus_range
    return Answers(exported.predict, None if limits is None else share_outside(limits, stimuli), None)


def _by_route(network, stimuli, path: Path, route: Route) -> Answers:
    import jax
    import jax.numpy as jnp

    from rnn2ff import export
    from rnn2ff.approximators import predict

    approximator, card = read_approximator(path, network)
    familiarity = export.familiarity(card, stimuli)
    about = (None, None) if familiarity is None else (familiarity.share_outside, familiarity.share_known)
    if route in ("c-int8", "c-int16"):
        model = export.quantize(approximator, stimuli, weight_bits=int(route.removeprefix("c-int")))
        return Answers(model.predict, *about)
    if route == "onnx-int8":
        content = export.quantize_onnx(export.to_onnx(approximator), stimuli)
        return Answers(lambda rows: export.run_onnx(content, rows), *about)
    approximator = jax.tree.map(lambda leaf: leaf.astype(network.dtype), approximator)
    return Answers(lambda rows: predict(approximator, jnp.asarray(rows)), *about)
