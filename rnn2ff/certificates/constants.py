"""Constants for the certificates of a network, computed once: for the theorems, for rounding, and low-rank factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Scalar

from rnn2ff._checks import check_on_host, fail
from rnn2ff.networks import (
    PowerLaw,
    RateNetwork,
    RecurrentNetwork,
    as_array,
    blas_threads,
    largest_in_metric,
    stability_constants,
)


class _Shape(NamedTuple):
    """What is known about a nonlinearity."""

    slope: float  # the steepest slope
    curvature: float  # the largest curvature
    value_error: float = 0.0  # how far off computed values and slopes may be, in units of the dtype's precision
    relative_error: float = 0.0  # the same, relative to their values


_SHAPES = {
    jax.nn.relu: _Shape(1.0, 0.0),
    jnp.tanh: _Shape(1.0, 0.7699, 16.0),  # 4 / sqrt(27), rounded up
    jax.nn.sigmoid: _Shape(0.25, 0.0963, 16.0),  # 1 / (6 sqrt(3)), rounded up
}
_LAPACK = 1e-12  # a safe bound of the relative error of computed singular values in float64
_NEARLY = 1e-6  # relative to the size of W: the largest remainder of weights that count as low-rank
_LARGEST_DECOMPOSED = 2048  # units; beyond, singular values are not computed
_LARGEST_CERTIFIED = 4096  # units; beyond, the eigenvalues for a metric take hours
_LOW_RANK = 3  # units per rank, at least, for thin products (2 n r) to replace n^2 with room for the small inverse


class Factors(eqx.Module):
    """`W = U V' + remainder`, with U and V thin."""

    left: Float[Array, "state rank"]  # U
    right: Float[Array, "state rank"]  # V, with columns that are nearly orthonormal
    right_norm: Scalar  # the spectral norm of V
    remainder: Scalar  # the Frobenius norm of the remainder, the rounding of U and V included


class Certifier(eqx.Module):
    """The constants behind the certificates of a network, from `make_certifier`; each is rounded to the safe side.

    Attributes:
        slope: s, the steepest slope of the nonlinearity; infinite if unbounded or unknown.
        curvature: the largest second derivative, 0 for a rectifier, whose pieces have none.
        value_error: a bound on the error of the computed nonlinearity and its slope.
        relative_error: the same, relative to their values.
        contraction_gap: `1 - s c`; 0 if the map does not contract.
        contraction_scale: v, with a largest entry of 1.
        monotonicity: `1 - s m`; 0 if no metric is known.
        metric_root: the square roots of D.
        recurrent_norms: the norms of the rows of W.
        recurrent_norm: the spectral norm of W or, for large networks, the Frobenius norm.
        stimulus_norms: the norms of the rows of B.
        factors: low-rank factors of W, if it has low rank up to a small remainder.
        is_contracting: whether the contraction gap is positive.
        is_monotone: whether the monotonicity is positive.
        is_rectified: whether the nonlinearity is a rectifier.
        has_one_time_constant: whether all units share one time constant.
        is_map: whether the network is a map, whose unique fixed point need not attract.
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
        """Whether every prediction has a finite bound: there is a unique fixed point for every stimulus.

        For a map it attracts as well.
        """
        return self.is_contracting or self.is_monotone


def make_certifier(network: RecurrentNetwork) -> Certifier:
    """The constants behind the certificates of a network: contraction, the best metric, norms, factors.

    Args:
        network: any network. Only rate networks with a rectifier, tanh, the logistic function or a power law with the
            exponent 2 are certified; others get estimates.

    Raises:
        ValueError: if the weights are not known, as inside `jit`, or the network has too many units for its metric.
    """
    check_on_host("make_certifier", "use a certifier that was made outside", network)
    if network.state_size > _LARGEST_CERTIFIED:
        expected = f"at most {_LARGEST_CERTIFIED} units, whose weights can be factored"
        raise fail("network", "is too large to certify", expected, network.state_size)
    dtype, size = network.dtype, network.state_size
    precision = float(jnp.finfo(dtype).eps)

    def up(value: ArrayLike) -> Array:
        return as_array(np.asarray(value, np.float64) * (1 + 4 * precision), dtype)

    def down(value: float) -> Array:
        return as_array(max(value, 0.0) * (1 - 4 * precision), dtype)

    ones, infinity, zero = up(np.ones(size)), up(np.inf), down(0.0)
    unknown = Certifier(
        factors=None,
        **dict.fromkeys(("slope", "curvature", "value_error", "recurrent_norm"), infinity),
        **dict.fromkeys(("relative_error", "contraction_gap", "monotonicity"), zero),
        **dict.fromkeys(("contraction_scale", "metric_root", "recurrent_norms", "stimulus_norms"), ones),
        **dict.fromkeys(("is_contracting", "is_monotone", "is_rectified"), False),
        has_one_time_constant=bool(np.ptp(np.asarray(network.time_constants)) == 0),
        is_map=network.is_map,
    )
    shape = _shape(network)
    if shape is None:
        return unknown
    weights, stimulus_weights = np.asarray(network.dense_weights, np.float64), network.params.stimulus_weights
    with blas_threads(size):
        norm = np.linalg.norm(weights, 2 if size <= _LARGEST_DECOMPOSED else "fro") * (1 + _LAPACK)
        factors = _factors(weights, up, dtype) if size <= _LARGEST_DECOMPOSED else None
    certifier = dataclasses.replace(
        unknown,
        slope=up(shape.slope),
        curvature=up(shape.curvature),
        value_error=up(shape.value_error * precision),
        relative_error=up(shape.relative_error * precision),
        recurrent_norms=up(_row_norms(weights)),
        recurrent_norm=up(norm),
        stimulus_norms=ones if stimulus_weights is None else up(_row_norms(stimulus_weights)),
        factors=factors,
        is_rectified=network.nonlinearity is jax.nn.relu,
    )
    if not np.isfinite(shape.slope):
        return certifier
    constants = stability_constants(network)
    gap = down(1 - shape.slope * constants.contraction)
    monotonicity = down(1 - shape.slope * largest_in_metric(weights, constants.metric, in_norm=network.is_map))
    return dataclasses.replace(
        certifier,
        contraction_gap=gap,
        contraction_scale=as_array(constants.contraction_scale, dtype),
        monotonicity=monotonicity,
        metric_root=as_array(np.sqrt(constants.metric), dtype),
        is_contracting=bool(np.asarray(gap) > 0),
        is_monotone=bool(np.asarray(monotonicity) > 0),
    )


def _row_norms(matrix: ArrayLike) -> Float[np.ndarray, " row"]:
    return np.linalg.norm(np.asarray(matrix, np.float64), axis=1)


def _shape(network: RecurrentNetwork) -> _Shape | None:
    """The shape of a network's nonlinearity; None if unknown."""
    if not isinstance(network, RateNetwork):
        return None
    nonlinearity = network.nonlinearity
    if isinstance(nonlinearity, PowerLaw):  # its slope, `2 gain [x]_+`, is unbounded, but changes at a bounded rate
        return _Shape(np.inf, 2 * nonlinearity.gain, 0.0, 16.0) if nonlinearity.exponent == 2 else None
    return _SHAPES.get(nonlinearity)


def _factors(weights: np.ndarray, up: Callable[[ArrayLike], Array], dtype: jnp.dtype) -> Factors | None:
    """Factors of weights with low rank up to a small remainder, in the precision of the weights; None for others."""
    left, sizes, right = np.linalg.svd(weights)
    remainders = np.sqrt(np.cumsum(sizes[::-1] ** 2))[::-1]  # beyond each rank
    rank = max(1, int((remainders > _NEARLY * max(remainders[0], np.finfo(np.float64).tiny)).sum()))
    if _LOW_RANK * rank > len(weights):
        return None
    left, right = (factor.astype(dtype) for factor in (left[:, :rank] * sizes[:rank], right[:rank].T))
    stored_left, stored_right = left.astype(np.float64), right.astype(np.float64)
    return Factors(
        left=jax.device_put(left),
        right=jax.device_put(right),
        right_norm=up(np.linalg.norm(stored_right, 2) * (1 + _LAPACK)),
        remainder=up(np.linalg.norm(weights - stored_left @ stored_right.T) + _LAPACK * sizes[0]),
    )
