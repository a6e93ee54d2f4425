"""What certificates need of a network, made once: constants of theorems, sizes for rounding, factors of low rank."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Scalar

from rnn2ff._checks import check_on_host
from rnn2ff.networks import (
    PowerLaw,
    RateNetwork,
    RecurrentNetwork,
    blas_threads,
    largest_in_metric,
    stability_constants,
)

# Steepest slope, largest curvature (of tanh 4 / sqrt(27), of the logistic 1 / (6 sqrt(3)), rounded up), and how far off
# the computed values and slopes may be, in units of the dtype's precision.
_SHAPES = {jax.nn.relu: (1.0, 0.0, 0.0), jnp.tanh: (1.0, 0.7699, 16.0), jax.nn.sigmoid: (0.25, 0.0963, 16.0)}
_LAPACK = 1e-12  # relative error that a computed singular value of a float64 matrix stays far below
_NEARLY = 1e-6  # of the size of W: what is left of weights that are called of low rank
_LARGEST_DECOMPOSED = 2048  # units; beyond, singular values are not looked for
_LOW_RANK = 3  # times the rank that there must be units, for two thin products to be cheaper than one inverse


class Factors(eqx.Module):
    """`W = U V' + (what is left)`, with U and V thin.

    Attributes:
        left: U.
        right: V, with columns that are nearly orthonormal.
        right_norm: the spectral norm of V.
        remainder: the Frobenius norm of what is left, the rounding of U and V included.
    """

    left: Float[Array, "state rank"]
    right: Float[Array, "state rank"]
    right_norm: Scalar
    remainder: Scalar


class Certifier(eqx.Module):
    """What certificates need of a network, made once by `make_certifier`; each number is rounded to the safe side.

    Attributes:
        slope: s, the steepest of the nonlinearity; infinite where there is none or it is not known.
        curvature: the largest second derivative, 0 for a rectifier, whose pieces have none.
        value_error: of the nonlinearity and its slope as they are computed.
        relative_error: the same, for what grows with the values.
        contraction_gap: `1 - s c`; 0 where the map does not contract.
        contraction_scale: v, with a largest entry of 1.
        monotonicity: `1 - s m`; 0 where no metric is known.
        metric_root: the square roots of D.
        recurrent_norms: of the rows of W.
        recurrent_norm: of W, the spectral norm or, of large networks, Frobenius'.
        stimulus_norms: of the rows of B.
        factors: of W, where it is nearly of low rank.
        is_contracting: whether the gap is above 0.
        is_monotone: whether the modulus is.
        is_rectified: whether the nonlinearity is a rectifier.
        has_one_time_constant: whether that of all units is the same.
        is_map: whether the network is a map, whose only fixed point need not attract.
    """

    slope: Scalar
    curvature: Scalar
    value_error: Scalar
    relative_error: Scalar
    contraction_gap: Scalar
    contraction_scale: Float[Array, " state"]
    monotonicity: Scalar
    metric_root: Float[Array, " state"]
    recurrent_norms: Float[Array, " state"]
    recurrent_norm: Scalar
    stimulus_norms: Float[Array, " state"]
    factors: Factors | None
    is_contracting: bool = eqx.field(static=True)
    is_monotone: bool = eqx.field(static=True)
    is_rectified: bool = eqx.field(static=True)
    has_one_time_constant: bool = eqx.field(static=True)
    is_map: bool = eqx.field(static=True)

    @property
    def has_global_bound(self) -> bool:
        """Whether every prediction has a finite bound: there is one fixed point, whatever the stimulus.

        That of a map attracts as well.
        """
        return self.is_contracting or self.is_monotone


def make_certifier(network: RecurrentNetwork) -> Certifier:
    """The constants behind the certificates of a network: contraction, the best metric, norms, factors.

    Args:
        network: any network. Only those with weights and a rectifier, tanh, the logistic function or a power law with
            the exponent 2 are ever certified; others get estimates.

    Raises:
        ValueError: if the weights are not known, as inside `jit`.
    """
    check_on_host("make_certifier", "use a certifier that was made outside", network)
    dtype, size = network.dtype, network.state_size
    precision = float(jnp.finfo(dtype).eps)

    def up(value: ArrayLike) -> Array:
        return jnp.asarray(np.asarray(value, np.float64) * (1 + 4 * precision), dtype)

    def down(value: float) -> Array:
        return jnp.asarray(max(value, 0.0) * (1 - 4 * precision), dtype)

    shape = _shape(network)
    nothing, never, none = up(np.ones(size)), up(np.inf), down(0.0)
    found = {
        "slope": never,
        "curvature": never,
        "value_error": never,
        "relative_error": none,
        "contraction_gap": none,
        "contraction_scale": nothing,
        "monotonicity": none,
        "metric_root": nothing,
        "recurrent_norms": nothing,
        "recurrent_norm": never,
        "stimulus_norms": nothing,
        "factors": None,
        "is_contracting": False,
        "is_monotone": False,
        "is_rectified": False,
        "has_one_time_constant": bool(np.ptp(np.asarray(network.time_constants)) == 0),
        "is_map": network.is_map,
    }
    if shape is None:
        return Certifier(**found)
    slope, curvature, value_error, relative_error = shape
    weights, stimulus_weights = np.asarray(network.dense_weights, np.float64), network.params.stimulus_weights
    with blas_threads(size):
        norm = np.linalg.norm(weights, 2 if size <= _LARGEST_DECOMPOSED else "fro") * (1 + _LAPACK)
        factors = _factors(weights, up, dtype) if size <= _LARGEST_DECOMPOSED else None
    found |= {
        "slope": up(slope),
        "curvature": up(curvature),
        "value_error": up(value_error * precision),
        "relative_error": up(relative_error * precision),
        "recurrent_norms": up(np.linalg.norm(weights, axis=1)),
        "recurrent_norm": up(norm),
        "factors": factors,
        "is_rectified": network.nonlinearity is jax.nn.relu,
    }
    if stimulus_weights is not None:
        stimulus_weights = np.asarray(stimulus_weights, np.float64).reshape(size, -1)
        found["stimulus_norms"] = up(np.linalg.norm(stimulus_weights, axis=1))
    if np.isfinite(slope):
        constants = stability_constants(network)
        found |= {
            "contraction_gap": down(1 - slope * constants.contraction),
            "contraction_scale": jnp.asarray(constants.contraction_scale, dtype),
            "monotonicity": down(1 - slope * _growth_in_metric(network, weights, constants.metric)),
            "metric_root": jnp.asarray(np.sqrt(constants.metric), dtype),
        }
        found["is_contracting"] = bool(found["contraction_gap"] > 0)
        found["is_monotone"] = bool(found["monotonicity"] > 0)
    return Certifier(**found)


def _growth_in_metric(network: RecurrentNetwork, weights: np.ndarray, metric: np.ndarray) -> float:
    """At least the largest eigenvalue of `sym(D^(1/2) W D^(-1/2))`; of a map its norm, so that below 1 it contracts."""
    if not network.is_map:
        return largest_in_metric(weights, metric)
    root = np.sqrt(metric)
    slack = 4 * (len(weights) + 8) * np.finfo(np.float64).eps
    with blas_threads(len(weights)):
        return float(np.linalg.norm(weights * root[:, None] / root[None, :], 2) * (1 + slack))


def _shape(network: RecurrentNetwork) -> tuple[float, float, float, float] | None:
    """Of the nonlinearity: steepest slope, largest curvature, absolute and relative error; None if not known."""
    if not isinstance(network, RateNetwork):
        return None
    nonlinearity = network.nonlinearity
    if isinstance(nonlinearity, PowerLaw):  # its slope, `2 gain [x]_+`, has no bound, but changes at a bounded rate
        return (np.inf, 2 * nonlinearity.gain, 0.0, 16.0) if nonlinearity.exponent == 2 else None
    return (*_SHAPES[nonlinearity], 0.0) if nonlinearity in _SHAPES else None


def _factors(weights: np.ndarray, up: Callable[[ArrayLike], Array], dtype: jnp.dtype) -> Factors | None:
    """Of weights that are nearly of low rank, in their own precision; None for others."""
    left, sizes, right = np.linalg.svd(weights)
    what_is_left = np.sqrt(np.cumsum(sizes[::-1] ** 2))[::-1]  # beyond each rank
    rank = max(1, int((what_is_left > _NEARLY * max(what_is_left[0], np.finfo(np.float64).tiny)).sum()))
    if _LOW_RANK * rank > len(weights):
        return None
    left, right = (each.astype(dtype) for each in (left[:, :rank] * sizes[:rank], right[:rank].T))
    stored_left, stored_right = left.astype(np.float64), right.astype(np.float64)
    return Factors(
        left=jnp.asarray(left),
        right=jnp.asarray(right),
        right_norm=up(np.linalg.norm(stored_right, 2) * (1 + _LAPACK)),
        remainder=up(np.linalg.norm(weights - stored_left @ stored_right.T) + _LAPACK * sizes[0]),
    )
