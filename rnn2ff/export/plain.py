"""An approximator as plain float32 arrays, from which all exports start.

    h = [W1 u + b1]_+,    x = W2 h + b2 (+ V u)

and, with sweeps, x starts from `x + d`, with `d = A u + c` computed once, and each sweep is

    x+ = x + a (d + R ([x]_+ - D x) - x) + m (x - x_before).

The rates are `[x]_+`, or x itself where they are not rectified.
"""

from collections.abc import Iterator
from importlib import resources
from string import Template
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnn2ff._checks import check_on_host, fail
from rnn2ff.approximators import Approximator, Refined, TwoLayer
from rnn2ff.networks import RecurrentNetwork, SplitSweep, has_rectified_rates

_EXPECTED = "a threshold-linear network with the rates of its first units, and its split sweep"


class PlainSweeps(NamedTuple):
    """The arrays of the sweeps of a refined approximator."""

    drive_weights: Float[np.ndarray, "state stimulus"]  # A
    drive_bias: Float[np.ndarray, " state"]  # c
    recurrent_weights: Float[np.ndarray, "state state"]  # R, from column to row
    slopes: Float[np.ndarray, " state"]  # the diagonal of D
    steps: Float[np.ndarray, "sweep state"]  # a, one row per sweep
    momenta: Float[np.ndarray, "sweep state"]  # m, one row per sweep; the first has no effect


class Plain(NamedTuple):
    """An approximator as plain arrays."""

    hidden_weights: Float[np.ndarray, "width stimulus"]  # W1
    hidden_bias: Float[np.ndarray, " width"]  # b1
    readout_weights: Float[np.ndarray, "state width"]  # W2
    readout_bias: Float[np.ndarray, " state"]  # b2
    bypass_weights: Float[np.ndarray, "state stimulus"] | None  # V, or None
    is_rectified: bool  # whether the rates are `[x]_+`
    sweeps: PlainSweeps | None  # that refine the pass, or None
    rate_size: int  # number of rates, those of the first units if there are more units

    @property
    def stimulus_size(self) -> int:
        """Number of stimulus channels."""
        return self.hidden_weights.shape[1]

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return self.hidden_weights.shape[0]

    @property
    def state_size(self) -> int:
        """Number of outputs of the pass."""
        return self.readout_weights.shape[0]


def check_deployable(approximator: Approximator) -> None:
    """Check that an approximator is two layers, with or without sweeps."""
    check_on_host("an export", "use the approximator itself", approximator)
    if not isinstance(approximator, TwoLayer | Refined):
        raise fail("approximator", "cannot be exported", "TwoLayer or Refined", type(approximator).__name__)


def plain_arrays(approximator: Approximator) -> Plain:
    """The arrays of an approximator, in float32; sweeps must be those of a threshold-linear network.

    Where there is no hidden unit, there is one whose weights are zero, since C has no arrays without entries.
    """
    check_deployable(approximator)
    refined = isinstance(approximator, Refined)
    two_layer = approximator.two_layer if refined else approximator
    missing = max(0, 1 - two_layer.width)
    offset = approximator.sweep.offset if refined and isinstance(approximator.sweep, SplitSweep) else 0
    return Plain(
        hidden_weights=_float32(np.pad(two_layer.hidden_weights, ((0, missing), (0, 0)))),
        hidden_bias=_float32(np.pad(two_layer.hidden_bias, (0, missing))),
        readout_weights=_float32(np.pad(two_layer.readout_weights, ((0, 0), (0, missing)))),
        readout_bias=_float32(np.asarray(two_layer.readout_bias, np.float64) + np.asarray(offset, np.float64)),
        bypass_weights=None if two_layer.bypass_weights is None else _float32(two_layer.bypass_weights),
        is_rectified=approximator.is_rectified,
        sweeps=_plain_sweeps(approximator) if refined else None,
        rate_size=approximator.rate_size,
    )


def arrays_of(record: tuple, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a record and of those in it, by name; the names in a layer begin with that of the layer."""
    for name, value in record._asdict().items():
        if isinstance(value, np.ndarray):
            yield f"{prefix}{name}", value
        elif hasattr(value, "_asdict"):
            yield from arrays_of(value, "" if name == "sweeps" else f"{name}_")


def dtype_of(approximator: Approximator) -> np.dtype:
    """The dtype that an approximator computes in."""
    return jnp.result_type(*jax.tree.leaves(eqx.filter(approximator, eqx.is_inexact_array)))


def check_exportable(network: RecurrentNetwork, sweep: object) -> None:
    """Check for sweeps of a threshold-linear network whose rates are those of its first units, or of all."""
    if not isinstance(sweep, SplitSweep):
        raise fail("approximator", "is refined by sweeps that cannot be exported", _EXPECTED, type(sweep).__name__)
    check_first_rates(network)


def check_first_rates(network: RecurrentNetwork) -> None:
    """Check for a threshold-linear network whose rates are those of its first units, or of all."""
    if not has_rectified_rates(network):
        raise fail("network", "cannot be exported", _EXPECTED, f"{network.vector_field}")
    if not network.shows_first_rates:
        raise fail("network", "cannot be exported", _EXPECTED, f"rates {network.rate_function}")


def _plain_sweeps(approximator: Refined) -> PlainSweeps:
    network, sweep = approximator.network, approximator.sweep
    check_exportable(network, sweep)
    inverse = np.asarray(sweep.drive_map, np.float64).T  # P
    stimulus_weights = network.params.stimulus_weights
    return PlainSweeps(
        drive_weights=_float32(inverse if stimulus_weights is None else inverse @ np.asarray(stimulus_weights)),
        drive_bias=_float32(inverse @ np.asarray(network.params.bias)),
        recurrent_weights=_float32(np.asarray(sweep.recurrent_map).T),
        slopes=_float32(sweep.slopes),
        steps=_float32(approximator.step_sizes),
        momenta=_float32(approximator.momenta),
    )


def template(name: str) -> Template:
    """The text of a file in `templates`, to be filled in."""
    return Template(resources.files("rnn2ff.export").joinpath("templates", name).read_text(encoding="utf-8"))


def _float32(array: object) -> Float[np.ndarray, "..."]:
    return np.ascontiguousarray(array, np.float32)
