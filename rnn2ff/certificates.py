"""How far predicted rates are from the steady ones, proved from the network's own equation.

With r the predicted rates, phi the nonlinearity and h the feedforward input, let `e = r - phi(W r + h)`. Then
`y = r - e` is an exact fixed point for the input `h + W e`, so the question is how far a fixed point moves when
the input does. All bounds are of the Euclidean norm `|r - r*|`, so no single rate is further off either. With slopes
of phi between 0 and s:

    contraction    |e| + s |v| |W e|_v / (1 - s c)                 c: the norm of |W| in max_i |x_i| / v_i
    monotonicity   |e| + s |W e|_D / ((1 - s m) min_i sqrt(D_i))   m: the largest eigenvalue of sym(D^(1/2) W D^(-1/2))
    newton         2 n / (1 - q + sqrt((1 - q)^2 - 2 k n))         n = |R e|, q = |I - R (I - S W)|, S the slopes at r

The first two hold for every r and for the network's only fixed point. The last needs no constant of the network: R is
any approximate inverse, and k = 0 for a rectifier if the new point is on the same piece. What it proves is that *a*
fixed point is so near. The derivations are in `docs/certificates.md`.

A product of n terms is off by at most `n eps` times the product of the absolute values. This is added at each step, so
that bounds hold for the network as it is stored, in float32 as in float64.
"""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Scalar

from rnn2ff._checks import check_shape, fail, is_known
from rnn2ff.networks.base import RecurrentNetwork, residual
from rnn2ff.networks.rate import is_rate_network, slopes
from rnn2ff.spectra import largest_in_metric
from rnn2ff.stability import stability_constants
from rnn2ff.sweeps import dense_weights

# Steepest slope, largest curvature (of tanh 4 / sqrt(27), of the logistic 1 / (6 sqrt(3)), rounded up), and how far off
# the computed values and slopes may be, in units of the dtype's precision.
_SHAPES = {jax.nn.relu: (1.0, 0.0, 0.0), jnp.tanh: (1.0, 0.7699, 16.0), jax.nn.sigmoid: (0.25, 0.0963, 16.0)}
_LARGEST_FACTORED = 512  # units; beyond, no Newton step is made
_SLACK = 64  # units of the precision, for the few operations on the way from norms to a bound


class Theorem(enum.IntEnum):
    """What a bound rests on. Certificates hold its integers. Append only."""

    none = 0  # nothing is proved, and the bound is infinite
    contraction = 1  # of the map, in a weighted max-norm
    monotonicity = 2  # of I - W, in a diagonal metric
    newton = 3  # local: a fixed point is within the bound, and there may be others


class Certifier(eqx.Module):
    """What certificates need of a network, made once by `make_certifier`; each number is rounded to the safe side.

    Attributes:
        slope: s, the steepest of the nonlinearity; infinite where it is not known.
        curvature: the largest second derivative, 0 for a rectifier, whose pieces have none.
        value_error: of the nonlinearity as it is computed.
        contraction_gap: `1 - s c`; 0 where the map does not contract.
        contraction_scale: v, with a largest entry of 1.
        monotonicity: `1 - s m`; 0 where no metric is known.
        metric_root: the square roots of D.
        recurrent_norms: of the rows of W.
        stimulus_norms: of the rows of B.
        is_rectified: whether the nonlinearity is a rectifier.
    """

    slope: Scalar
    curvature: Scalar
    value_error: Scalar
    contraction_gap: Scalar
    contraction_scale: Float[Array, " state"]
    monotonicity: Scalar
    metric_root: Float[Array, " state"]
    recurrent_norms: Float[Array, " state"]
    stimulus_norms: Float[Array, " state"]
    is_rectified: bool = eqx.field(static=True)

    @property
    def has_global_bound(self) -> Bool[Array, ""]:
        """Whether every prediction has a finite bound: there is one fixed point, whatever the stimulus."""
        return (self.contraction_gap > 0) | (self.monotonicity > 0)


class Certificate(eqx.Module):
    """What is known of one prediction; for a batch, each field has a leading axis. Lengths are in units of the rates.

    Attributes:
        residual: `max |r - phi(W r + h)| / (1 + max |r|)`; of a network without weights, that of the state.
        error_bound: `|r - r*|` is at most this, in the Euclidean norm; infinite where no theorem applies.
        error_estimate: the length of one Newton step: near the truth, but no bound. NaN beyond 512 units.
        is_exact: whether the prediction is proved to be a fixed point up to rounding: one is proved to lie on the
            piece of the prediction (its set of active units), and no further off than the rounding of the equation
            can move it. Only of threshold-linear networks.
        theorem: a `Theorem`, as an integer. With `newton`, r* is a fixed point that is proved to exist, and in a
            multistable network perhaps not the one that the dynamics reach.
        refined: the prediction after the Newton step.
        is_refined_exact: whether `refined` is proved to be a fixed point up to rounding.
    """

    residual: Float[Array, "*batch"]
    error_bound: Float[Array, "*batch"]
    error_estimate: Float[Array, "*batch"]
    is_exact: Bool[Array, "*batch"]
    theorem: Int[Array, "*batch"]
    refined: Float[Array, "*batch state"]
    is_refined_exact: Bool[Array, "*batch"]


def make_certifier(network: RecurrentNetwork) -> Certifier:
    """The constants behind the certificates of a network: contraction, the best metric, norms.

    Args:
        network: any network. Only those with weights and a rectifier, tanh or the logistic function are ever
            certified; others get estimates.

    Raises:
        ValueError: if the weights are not known, as inside `jit`.
    """
    dtype, size = network.dtype, network.state_size
    shape = _SHAPES.get(network.vector_field.nonlinearity) if is_rate_network(network) else None
    if not all(map(is_known, jax.tree.leaves(network.params))):
        raise fail("network", "has weights that are not known", "a certifier that is made outside of `jit`", "tracers")
    precision = float(jnp.finfo(dtype).eps)

    def up(value: ArrayLike) -> Array:
        return jnp.asarray(np.asarray(value, np.float64) * (1 + 4 * precision), dtype)

    def down(value: float) -> Array:
        return jnp.asarray(max(value, 0.0) * (1 - 4 * precision), dtype)

    nothing = np.ones(size)
    if shape is None:
        never = up(np.inf)
        return Certifier(
            never, never, never, down(0.0), up(nothing), down(0.0), up(nothing), up(nothing), up(nothing), False
        )
    weights, constants = np.asarray(dense_weights(network), np.float64), stability_constants(network)
    stimulus_weights = network.params.stimulus_weights
    slope, curvature, value_error = shape
    return Certifier(
        slope=up(slope),
        curvature=up(curvature),
        value_error=up(value_error * precision),
        contraction_gap=down(1 - slope * constants.contraction),
        contraction_scale=jnp.asarray(constants.contraction_scale, dtype),
        monotonicity=down(1 - slope * largest_in_metric(weights, constants.metric)),
        metric_root=jnp.asarray(np.sqrt(constants.metric), dtype),
        recurrent_norms=up(np.linalg.norm(weights, axis=1)),
        stimulus_norms=up(
            nothing
            if stimulus_weights is None
            else np.linalg.norm(np.asarray(stimulus_weights, np.float64).reshape(size, -1), axis=1)
        ),
        is_rectified=constants.is_rectified,
    )


def certify(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    prediction: Float[ArrayLike, " state"],
    certifier: Certifier | None = None,
) -> Certificate:
    """Bound and estimate how far a prediction is from a fixed point.

    Pure, and safe under `jit` and `vmap` with a certifier that was made outside. A prediction or a stimulus that is not
    finite is never certified. The Newton step inverts a matrix for each sample; `bound_error` does without.

    Args:
        network: the network.
        stimulus: one stimulus.
        prediction: the rates of *all* units, which the weights multiply. Of a network without weights, the state.
        certifier: from `make_certifier`; by default made anew.

    Raises:
        ValueError: if shapes do not fit.
    """
    network, stimulus, prediction, certifier = _checked(network, stimulus, prediction, certifier)
    with jax.default_matmul_precision("highest"):  # accelerators round more by default than the bounds allow for
        if not is_rate_network(network):
            return _estimate(network, stimulus, prediction)
        measured = _measure(network, stimulus, prediction, certifier)
        bound, theorem = _bound(network, measured, certifier)
        if network.state_size > _LARGEST_FACTORED:
            unknown, no = jnp.full_like(bound, jnp.nan), jnp.zeros((), bool)
            return Certificate(measured.residual, bound, unknown, no, theorem, prediction, no)
        local, step_length, refined, is_on_piece, is_step_rounding = _newton(network, measured, certifier)
        theorem = jnp.where(local < bound, jnp.int32(Theorem.newton), theorem)
        return Certificate(
            residual=measured.residual,
            error_bound=jnp.minimum(bound, local),
            error_estimate=step_length,
            is_exact=is_on_piece & is_step_rounding,
            theorem=theorem,
            refined=refined,
            is_refined_exact=is_on_piece,
        )


def bound_error(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    prediction: Float[ArrayLike, " state"],
    certifier: Certifier | None = None,
) -> tuple[Scalar, Int[Array, ""]]:
    """The bound that holds everywhere, and its theorem, at the price of two products; arguments as of `certify`."""
    network, stimulus, prediction, certifier = _checked(network, stimulus, prediction, certifier)
    if not is_rate_network(network):
        return jnp.asarray(jnp.inf, network.dtype), jnp.asarray(Theorem.none, jnp.int32)
    with jax.default_matmul_precision("highest"):
        return _bound(network, _measure(network, stimulus, prediction, certifier), certifier)


def _checked(network, stimulus, prediction, certifier):
    check_shape("stimulus", stimulus, (network.stimulus_size,))
    check_shape("prediction", prediction, (network.state_size,))
    stimulus, prediction = (jnp.asarray(each, network.dtype) for each in (stimulus, prediction))
    return network, stimulus, prediction, make_certifier(network) if certifier is None else certifier


class _Measured(eqx.Module):
    """The error of the equation, as computed, and how far each number may be off by rounding."""

    rates: Float[Array, " state"]
    total: Float[Array, " state"]
    total_rounding: Float[Array, " state"]
    error: Float[Array, " state"]
    rounding: Float[Array, " state"]
    residual: Scalar


def _measure(network, stimulus, rates, certifier) -> _Measured:
    params, info = network.params, jnp.finfo(network.dtype)
    num_terms = network.state_size + network.stimulus_size + 4
    total = params.total_input(rates, stimulus)
    values = network.vector_field.nonlinearity(total)
    error = rates - values
    # By Cauchy and Schwarz the sum of absolute values is at most a product of norms, which costs no product.
    by_stimulus = jnp.abs(stimulus) if params.stimulus_weights is None else certifier.stimulus_norms * _norm(stimulus)
    sizes = certifier.recurrent_norms * _norm(rates) + by_stimulus + jnp.abs(params.bias)
    total_rounding = num_terms * (info.eps * sizes + info.tiny)
    value_rounding = certifier.slope * total_rounding + certifier.value_error
    if certifier.is_rectified:  # a unit that is silent for certain has a rate of exactly 0
        value_rounding = jnp.where(total < -total_rounding, 0.0, value_rounding)
    rounding = value_rounding + info.eps * jnp.abs(error) + info.tiny
    relative = jnp.max(jnp.abs(error)) / (1 + jnp.max(jnp.abs(rates)))
    return _Measured(rates, total, total_rounding, error, rounding, relative)


def _bound(network, measured: _Measured, certifier: Certifier) -> tuple[Scalar, Int[Array, ""]]:
    """The smaller of the bounds by contraction and by monotonicity, and which it is."""
    info, size = jnp.finfo(network.dtype), network.state_size
    error = _norm(jnp.abs(measured.error) + measured.rounding)
    pushed = jnp.abs(network.params.recurrent_input(measured.error))
    pushed_rounding = _norm(measured.rounding) + size * info.eps * _norm(measured.error)
    pushed = pushed + certifier.recurrent_norms * pushed_rounding + size * info.tiny
    scale, root = certifier.contraction_scale, certifier.metric_root
    moved = certifier.slope * jnp.stack(
        [
            _norm(scale) * jnp.max(pushed / scale) / certifier.contraction_gap,
            _norm(root * pushed) / (certifier.monotonicity * jnp.min(root)),
        ]
    )
    bounds = _proved((error + moved) * (1 + _SLACK * info.eps))
    smallest = jnp.min(bounds)
    theorem = jnp.asarray([Theorem.contraction, Theorem.monotonicity], jnp.int32)[jnp.argmin(bounds)]
    return smallest, jnp.where(jnp.isfinite(smallest), theorem, jnp.int32(Theorem.none))


def _newton(network, measured: _Measured, certifier: Certifier):
    """A Newton step from the prediction, and what it proves.

    Returns:
        the bound; the length of the step; the point after it; whether that is proved to be a fixed point on the piece
        of the prediction; whether the step is no longer than rounding can make it.
    """
    info, size = jnp.finfo(network.dtype), network.state_size
    weights, identity = dense_weights(network), jnp.eye(size, dtype=network.dtype)
    is_active = measured.total > 0
    if certifier.is_rectified:
        slope_at = is_active.astype(network.dtype)
    else:
        slope_at = slopes(network.vector_field, measured.total)
    system = identity - slope_at[:, None] * weights
    inverse = jnp.linalg.inv(system)
    step = inverse @ measured.error
    weight_size, inverse_size = _norm(certifier.recurrent_norms), _norm(inverse)
    # How far the computed slopes, step and product may be off.
    slope_rounding = certifier.curvature * jnp.max(measured.total_rounding) + certifier.value_error
    step_rounding = inverse_size * (_norm(measured.rounding) + size * info.eps * _norm(measured.error))
    system_rounding = (size + 4) * info.eps * (_norm(system) + size**0.5) + slope_rounding * weight_size
    defect = _norm(identity - inverse @ system) + 2 * inverse_size * system_rounding + _SLACK * info.eps
    length = _norm(step) + step_rounding
    # How fast the slopes change, times the size of the inverse.
    bend = inverse_size * certifier.curvature * jnp.max(certifier.recurrent_norms) * weight_size
    discriminant = (1 - defect) ** 2 * (1 - _SLACK * info.eps) - 2 * bend * length * (1 + _SLACK * info.eps)
    is_proved = (defect < 1) & (discriminant > 0)
    bound = 2 * length / (1 - defect + jnp.sqrt(jnp.maximum(discriminant, 0))) * (1 + _SLACK * info.eps)
    refined = measured.rates - step
    if not certifier.is_rectified:
        no = jnp.zeros((), bool)
        return _proved(jnp.where(is_proved, bound, jnp.inf)), jnp.linalg.norm(step), refined, no, no
    # The exact solution of the piece is a fixed point of the network if it lies on the piece.
    pushed = network.params.recurrent_input(step)
    total = measured.total - pushed
    unsure = defect * bound + step_rounding + (size + 4) * info.eps * _norm(step)
    margin = measured.total_rounding + certifier.recurrent_norms * unsure
    margin = (margin + 4 * info.eps * (jnp.abs(measured.total) + jnp.abs(pushed)) + size * info.tiny) * 1.01
    is_on_piece = is_proved & jnp.all(jnp.where(is_active, total > margin, total < -margin)) & jnp.isfinite(bound)
    refined = jnp.where(is_active, refined, 0.0)
    bound = _proved(jnp.where(is_on_piece, bound, jnp.inf))
    return bound, jnp.linalg.norm(step), refined, is_on_piece, jnp.linalg.norm(step) <= step_rounding


def _estimate(network, stimulus, state) -> Certificate:
    """Of a network without weights: a Newton step of the velocity, and nothing is proved."""
    no, infinite = jnp.zeros((), bool), jnp.asarray(jnp.inf, network.dtype)
    length, refined = jnp.asarray(jnp.nan, network.dtype), state
    if network.state_size <= _LARGEST_FACTORED:
        step = jnp.linalg.solve(jax.jacfwd(network.velocity)(state, stimulus), network.velocity(state, stimulus))
        length, refined = jnp.linalg.norm(step), state - step
    theorem = jnp.asarray(Theorem.none, jnp.int32)
    return Certificate(residual(network, state, stimulus), infinite, length, no, theorem, refined, no)


def _proved(bound: Float[Array, "..."]) -> Float[Array, "..."]:
    """A bound that is not a number proves nothing."""
    return jnp.where(jnp.isnan(bound), jnp.inf, bound)


def _norm(array: Float[Array, "..."]) -> Scalar:
    """The Euclidean norm of all entries, rounded up; what underflows when squared is counted as well."""
    info = jnp.finfo(array.dtype)
    return jnp.sqrt(jnp.sum(array**2)) * (1 + (array.size + 8) * info.eps) + 2 * (array.size * info.tiny) ** 0.5
