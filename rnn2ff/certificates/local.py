"""A Newton step from predicted rates, and the fixed point that it proves to be close (Newton and Kantorovich).

With f the error of the equation as a function of the rates, S the slopes and R any approximate inverse of `I - S W`,

    n = |R f|,    q = |I - R (I - S W)|,    k: how fast slopes change, times |R|,

there is a fixed point within `p = 2 n / (1 - q + sqrt((1 - q)^2 - 2 k n))` of the rates, and within `(q + k p / 2) p`
of the point after the step. R is the computed inverse or, where `W = U V'` with thin U and V, Woodbury's
`I + S U C V'` with C the inverse of the small matrix `I - V' S U`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Scalar

from rnn2ff.certificates.constants import Certifier
from rnn2ff.networks import RateNetwork

LARGEST_FACTORED = 512  # units; beyond, a full matrix is not inverted
SLACK = 64  # units of the precision, for the few operations between norms and a bound
_LARGEST_UNROLLED = 12  # rank; beyond, a small matrix is inverted by LAPACK, to limit the size of the program
_NUM_SQUARINGS = 9  # proves decay rates down to 1 / 512 of the leak


class Measured(eqx.Module):
    """The computed error of the equation, with bounds of all rounding errors."""

    rates: Float[Array, " state"]  # the prediction, r
    total: Float[Array, " state"]  # `W r + h`
    total_rounding: Float[Array, " state"]  # a bound of the rounding error of each total
    error: Float[Array, " state"]  # `r - phi(W r + h)`
    rounding: Float[Array, " state"]  # a bound of the rounding error of each error
    residual: Scalar  # the largest error, relative


class Local(eqx.Module):
    """What a Newton step proves."""

    bound: Scalar  # of the distance from the prediction to a fixed point; infinite if none is proved
    refined_bound: Scalar  # of the distance from the point after the step to the same fixed point
    step_length: Scalar  # of the Newton step, `|R e|`
    refined: Float[Array, " state"]  # the point after the step
    # Whether a fixed point is proved to have the active units of the prediction; for rectifiers only.
    is_on_piece: Bool[Array, ""]
    is_step_rounding: Bool[Array, ""]  # whether the step is no longer than rounding can make it
    # Whether small perturbations of a fixed point with these slopes are proved to decay; False where that is not
    # computed.
    is_attracting: Bool[Array, ""]


class _Inverse(eqx.Module):
    """What is needed of R."""

    step: Float[Array, " state"]  # `R e`
    step_rounding: Scalar  # a bound of the rounding error of the step, for an exact e
    size: Scalar  # an upper bound of |R|
    defect: Scalar  # an upper bound of `|I - R (I - S W)|`, with the computed slopes
    core: Float[Array, "rank rank"] | None  # `V' S U`, with the eigenvalues of `S W` other than 0; None without factors


def newton_bound(network: RateNetwork, measured: Measured, certifier: Certifier) -> Local:
    """Take a Newton step from the prediction, and prove bounds with it; neither if a matrix is too large to invert."""
    info, size = jnp.finfo(network.dtype), network.state_size
    if size > LARGEST_FACTORED and certifier.factors is None:
        infinite, no = jnp.full_like(measured.residual, jnp.inf), jnp.zeros((), bool)
        return Local(
            bound=infinite,
            refined_bound=infinite,
            step_length=jnp.full_like(infinite, jnp.nan),
            refined=measured.rates,
            is_on_piece=no,
            is_step_rounding=no,
            is_attracting=no,
        )
    is_active = measured.total > 0
    slope_at = is_active.astype(network.dtype) if certifier.is_rectified else network.slopes(measured.total)
    if certifier.factors is None:
        inverse = _invert(network, slope_at, measured.error)
    else:
        inverse = _invert_thin(certifier, slope_at, measured.error)
    slope_rounding = certifier.curvature * jnp.max(measured.total_rounding) + certifier.value_error
    slope_rounding = slope_rounding + certifier.relative_error * jnp.max(slope_at)
    defect = inverse.defect + inverse.size * slope_rounding * certifier.recurrent_norm + SLACK * info.eps
    step, step_rounding = inverse.step, inverse.step_rounding + inverse.size * norm(measured.rounding)
    length = norm(step) + step_rounding
    # k: how fast the slopes change, times the size of the inverse.
    bend = inverse.size * certifier.curvature * jnp.max(certifier.recurrent_norms) * certifier.recurrent_norm
    discriminant = (1 - defect) ** 2 * (1 - SLACK * info.eps) - 2 * bend * length * (1 + SLACK * info.eps)
    is_proved = (defect < 1) & (discriminant > 0)
    bound = 2 * length / (1 - defect + jnp.sqrt(jnp.maximum(discriminant, 0))) * (1 + SLACK * info.eps)
    refined = measured.rates - step
    uncertainty = (defect + bend * bound / 2) * bound * (1 + SLACK * info.eps) + step_rounding
    is_on_piece = jnp.zeros((), bool)
    if certifier.is_rectified:
        # The exact solution of the linear piece is a fixed point of the network if it lies on the piece.
        pushed = network.params.recurrent_input(step)
        total = measured.total - pushed
        margin = measured.total_rounding + certifier.recurrent_norms * (
            uncertainty + (size + 4) * info.eps * norm(step)
        )
        margin = (margin + 4 * info.eps * (jnp.abs(measured.total) + jnp.abs(pushed)) + size * info.tiny) * 1.01
        on_its_side = jnp.where(is_active, total > margin, total < -margin)
        is_on_piece = is_proved = is_proved & jnp.all(on_its_side) & jnp.isfinite(bound)
        refined = jnp.where(is_active, refined, 0.0)
    is_attracting = jnp.zeros((), bool)
    if inverse.core is not None and not certifier.has_global_bound:  # a unique fixed point needs no local proof
        # At the fixed point slopes differ from those here, and so does the core.
        slope_change = certifier.curvature * jnp.max(certifier.recurrent_norms) * bound + slope_rounding
        core_change = certifier.factors.right_norm * slope_change * norm(certifier.factors.left)
        is_attracting = _attracts(inverse.core, core_change, certifier.is_map)
    refined_bound = (uncertainty + info.eps * (norm(measured.rates) + norm(step))) * (1 + SLACK * info.eps)
    return Local(
        bound=proved(jnp.where(is_proved, bound, jnp.inf)),
        refined_bound=proved(jnp.where(is_proved, refined_bound, jnp.inf)),
        step_length=jnp.linalg.norm(step),
        refined=refined,
        is_on_piece=is_on_piece,
        is_step_rounding=jnp.linalg.norm(step) <= step_rounding,
        is_attracting=is_attracting & is_proved,
    )


def _invert(network, slope_at: Float[Array, " state"], error) -> _Inverse:
    """By LU factorization of the full matrix."""
    info, size = jnp.finfo(network.dtype), network.state_size
    weights, identity = network.dense_weights, jnp.eye(size, dtype=network.dtype)
    system = identity - slope_at[:, None] * weights
    inverse = jnp.linalg.inv(system)
    by_sums = jnp.sqrt(jnp.max(jnp.sum(jnp.abs(inverse), axis=0)) * jnp.max(jnp.sum(jnp.abs(inverse), axis=1)))
    inverse_size = jnp.minimum(norm(inverse), by_sums * (1 + (size + 8) * info.eps))
    system_rounding = (size + 4) * info.eps * (norm(system) + size**0.5)
    return _Inverse(
        step=inverse @ error,
        step_rounding=size * info.eps * norm(inverse) * norm(error),
        size=inverse_size,
        defect=norm(identity - inverse @ system) + 2 * norm(inverse) * system_rounding,
        core=None,
    )


def _invert_thin(certifier: Certifier, slope_at: Float[Array, " state"], error) -> _Inverse:
    """By Woodbury's identity: two products with thin matrices, and the inverse of a small one."""
    info, size = jnp.finfo(error.dtype), len(error)
    left, right = certifier.factors.left, certifier.factors.right
    rank = left.shape[1]
    # Written such that `vmap` makes one product for the whole batch.
    small = (slope_at @ (right[:, :, None] * left[:, None, :]).reshape(size, -1)).reshape(rank, rank)
    identity = jnp.eye(rank, dtype=error.dtype)
    inner = _invert_small(identity - small)
    scaled_norm = norm(slope_at * jnp.sqrt(jnp.sum(left**2, axis=1))) * (1 + (rank + 8) * info.eps)
    right_norm, right_size, inner_norm = certifier.factors.right_norm, norm(right), norm(inner)
    thin = scaled_norm * inner_norm
    step = error + slope_at * (jnp.sum(inner * (error @ right)[None, :], axis=1) @ left.T)
    # |S U C|, from `C' (U' S^2 U) C`, plus a bound of its rounding error.
    squared = (slope_at**2 @ (left[:, :, None] * left[:, None, :]).reshape(size, -1)).reshape(rank, rank)
    trace = jnp.sum(inner * _product(squared, inner)) + (size + rank**2 + 16) * info.eps * thin**2
    thick = jnp.minimum(jnp.sqrt(jnp.maximum(trace, 0)), thin) * (1 + SLACK * info.eps)
    inverse_size = 1 + thick * right_norm
    small_rounding = (size + 8) * info.eps * right_size * scaled_norm + 2 * info.eps * rank**0.5
    miss = norm(identity - _product(inner, identity - small)) + inner_norm * small_rounding
    miss = miss + (rank + 4) * info.eps * (rank**0.5 + inner_norm * norm(identity - small))
    return _Inverse(
        step=step,
        step_rounding=(size + 2 * rank + 8) * info.eps * norm(error) * (1 + thin * right_size),
        size=inverse_size,
        defect=scaled_norm * miss * right_norm + inverse_size * jnp.max(slope_at) * certifier.factors.remainder,
        core=small,
    )


def _attracts(matrix: Float[Array, "rank rank"], change: Scalar, is_map: bool) -> Bool[Array, ""]:
    """Whether all eigenvalues of B, and of any matrix within `change` of it, have real parts below 1.

    By powers of `(2 I - B)^-1 B`. The transform maps that half-plane into the unit circle (Cayley), and a power with a
    norm below 1/2 proves that the eigenvalues are inside. Those of a map must be inside the circle themselves; a leak
    only moves them toward 1. `change` is an upper bound of the norm of the difference.
    """
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    power = matrix
    if not is_map:
        resolvent = _invert_small(2 * identity - matrix)
        power, length = _product(resolvent, matrix), norm(resolvent)
        left = 1 - length * change  # of a Neumann series for the other resolvent
        change = jnp.where(left > 0, 2 * length**2 * change / left, jnp.inf)

    def is_undecided(carry):
        _, size, change, num_squarings = carry
        return (size + change >= 0.5) & (size < 1e9) & (num_squarings < _NUM_SQUARINGS)

    def square(carry):
        power, size, change, num_squarings = carry
        power = _product(power, power)
        return power, jnp.linalg.norm(power), change * (2 * size + change), num_squarings + 1

    start = (power, jnp.linalg.norm(power), change, jnp.zeros((), jnp.int32))
    _, size, change, _ = jax.lax.while_loop(is_undecided, square, start)
    return size + change < 0.5  # False if NaN


def _product(one: Float[Array, "rank rank"], other: Float[Array, "rank rank"]) -> Float[Array, "rank rank"]:
    """A matrix product; of small matrices as sums, since a batch of tiny products is slow on a CPU."""
    if len(one) > _LARGEST_UNROLLED:
        return one @ other
    return jnp.sum(one[:, :, None] * other[None, :, :], axis=1)


def _invert_small(matrix: Float[Array, "rank rank"]) -> Float[Array, "rank rank"]:
    """By Gauss-Jordan elimination without pivoting; the caller checks the result. Vectorized over batches."""
    rank = len(matrix)
    if rank > _LARGEST_UNROLLED:
        return jnp.linalg.inv(matrix)
    rows = jnp.concatenate([matrix, jnp.eye(rank, dtype=matrix.dtype)], axis=1)
    for k in range(rank):
        pivot = rows[k] / rows[k, k]
        factors = rows[:, k].at[k].set(0.0)
        rows = (rows - factors[:, None] * pivot[None, :]).at[k].set(pivot)
    return rows[:, rank:]


def proved(bound: Float[Array, "..."]) -> Float[Array, "..."]:
    """A bound, with NaN replaced by infinity."""
    return jnp.where(jnp.isnan(bound), jnp.inf, bound)


def norm(array: Float[Array, "..."]) -> Scalar:
    """The Euclidean norm of all entries, rounded up, with an allowance for squares that underflow."""
    info = jnp.finfo(array.dtype)
    return jnp.sqrt(jnp.sum(array**2)) * (1 + (array.size + 8) * info.eps) + 2 * (array.size * info.tiny) ** 0.5
