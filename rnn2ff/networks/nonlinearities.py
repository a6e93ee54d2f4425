"""Nonlinearities, from total inputs to rates, unit by unit, and their names in files and on the command line.

They do not include the gains and thresholds of single units: `rate_network(..., gains=, thresholds=)` absorbs these
into the weights, so that everything known about a nonlinearity still applies.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn2ff._checks import check_finite, check_positive, fail

Nonlinearity = Callable[[Float[Array, " state"]], Float[Array, " state"]]


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """The nonlinearity `gain [x]_+^exponent`; the gain is in units of rate / state^exponent.

    Attributes:
        gain: positive.
        exponent: at least 1, so that the slope is finite at 0.

    Raises:
        ValueError: if a value is out of range.
    """

    gain: float
    exponent: float

    def __post_init__(self):
        check_positive("gain", self.gain)
        _check_exponent(self.exponent)

    def __call__(self, x: Float[Array, "*any"]) -> Float[Array, "*any"]:
        return self.gain * jax.nn.relu(x) ** self.exponent


@dataclasses.dataclass(frozen=True)
class Saturating:
    """The nonlinearity `maximum [x]_+^exponent / (1 + [x]_+^exponent)`, which is half of the maximum at 1.

    A unit with gain g (`rate_network(..., gains=)`) reaches half of the maximum at the input 1 / g.

    Attributes:
        maximum: positive.
        exponent: at least 1, so that the slope is finite at 0.

    Raises:
        ValueError: if a value is out of range.

    References:
        Naka and Rushton, S-potentials from luminosity units in the retina of fish, Journal of Physiology 185, 1966.
    """

    maximum: float = 1.0
    exponent: float = 2.0

    def __post_init__(self):
        check_positive("maximum", self.maximum)
        _check_exponent(self.exponent)

    def __call__(self, x: Float[Array, "*any"]) -> Float[Array, "*any"]:
        largest = float(jnp.finfo(x.dtype).max) ** (0.5 / self.exponent)  # beyond, the value is the maximum to rounding
        power = jnp.minimum(jax.nn.relu(x), largest) ** self.exponent
        return self.maximum * (power / (1 + power))


@dataclasses.dataclass(frozen=True)
class Tanh:
    """The nonlinearity `tanh(gain x)`."""

    gain: float  # the slope at 0

    def __call__(self, x: Float[Array, "*any"]) -> Float[Array, "*any"]:
        return jnp.tanh(self.gain * x)


@dataclasses.dataclass(frozen=True)
class ShiftedLogistic:
    """The nonlinearity `1 / (1 + exp(-a (x - theta))) - 1 / (1 + exp(a theta))`, which is 0 at 0."""

    gains: tuple[float, ...]  # a, one per unit
    thresholds: tuple[float, ...]  # theta, one per unit

    def __call__(self, x: Float[Array, " unit"]) -> Float[Array, " unit"]:
        gains, thresholds = (jnp.asarray(values, x.dtype) for values in (self.gains, self.thresholds))
        return jax.nn.sigmoid(gains * (x - thresholds)) - jax.nn.sigmoid(-gains * thresholds)


def _check_exponent(exponent: float) -> None:
    check_finite("exponent", exponent)
    if exponent < 1:
        raise fail("exponent", "makes the slope at 0 infinite", "at least 1", exponent)


_FUNCTIONS: dict[str, Nonlinearity] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
}
_WITH_CONSTANTS = {"power-law": PowerLaw, "saturating": Saturating}


def decode_nonlinearity(name: str, *constants: float) -> Nonlinearity:
    """The nonlinearity with this name in a file or on the command line; `constants` are its fields, in order."""
    return _WITH_CONSTANTS[name](*constants) if name in _WITH_CONSTANTS else _FUNCTIONS[name]


def encode_nonlinearity(nonlinearity: Nonlinearity) -> list | None:
    """How files represent a nonlinearity: its name, then its constants; None if it has no name."""
    for name, kind in _WITH_CONSTANTS.items():
        if isinstance(nonlinearity, kind):
            return [name, *dataclasses.astuple(nonlinearity)]
    return next(([name] for name, known in _FUNCTIONS.items() if known is nonlinearity), None)
