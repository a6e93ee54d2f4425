"""How far predicted rates are from the steady ones, proved from the network's own equation.

With r the predicted rates, phi the nonlinearity and h the feedforward input, let `e = r - phi(W r + h)`. Then
`y = r - e` is an exact fixed point for the input `h + W e`, so the question is how far a fixed point moves when
the input does. All bounds are on the Euclidean norm `|r - r*|`, so they also bound the error of each single rate.
With slopes of phi between 0 and s:

    contraction    |e| + s |v| |W e|_v / (1 - s c)                 c: the norm of |W| in max_i |x_i| / v_i
    monotonicity   |e| + s |W e|_D / ((1 - s m) min_i sqrt(D_i))   m: the largest eigenvalue of sym(D^(1/2) W D^(-1/2))
    newton         2 n / (1 - q + sqrt((1 - q)^2 - 2 k n))         n = |R e|, q = |I - R (I - S W)|, S the slopes at r

The first two hold for every r and for the network's unique fixed point. For a rectifier they also tell which units are
on the same side of the threshold at r and at the fixed point, which makes them smaller. The last needs no constant of
the network, and holds for power laws too, whose slopes are unbounded: R is any approximate inverse; k bounds how fast
slopes change, and is 0 for a rectifier if the new point is on the same piece. It proves that *a* fixed point is this
close. The derivations are in `docs/certificates.md`.

A product of n terms has a rounding error of at most `n eps` times the product of the absolute values. This is added at
each step, so that bounds hold for the network as it is stored, in float32 as in float64.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Scalar

from rnn2ff._checks import check_shape
from rnn2ff.certificates.certificate import Certificate, Theorem
from rnn2ff.certificates.constants import Certifier, make_certifier
from rnn2ff.certificates.local import LARGEST_FACTORED, SLACK, Measured, newton_bound, norm, proved
from rnn2ff.compiling import compiled_alone, evaluated_now, in_full_precision
from rnn2ff.networks import RateNetwork, RecurrentNetwork, as_array, residual
from rnn2ff.steady_state import check_not_split

_EXACT = 5e3  # units of the precision: the largest proved distance to a fixed point of a prediction called exact


def certify(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    prediction: Float[ArrayLike, " state"],
    certifier: Certifier | None = None,
) -> Certificate:
    """Bound and estimate how far a prediction is from a fixed point.

    Pure, and safe under `jit` and `vmap`; where the network itself is an argument of the program, pass a certifier made
    outside. A prediction or a stimulus that is not finite is never certified. The Newton step inverts a matrix for each
    sample, a small one if the weights have low rank; `bound_error` inverts none.

    Args:
        network: the network.
        stimulus: one stimulus.
        prediction: the rates of *all* units, which the weights multiply; for a network without weights, the state.
        certifier: from `make_certifier`; by default made for this call.

    Raises:
        ValueError: if shapes do not fit.
    """
    check_not_split("certify", "`bound_error`, or a mesh with `axis_types=(AxisType.Auto,)`", stimulus, prediction)
    return _certify(network, *_checked(network, stimulus, prediction, certifier))


@compiled_alone  # in full precision: by default, accelerators round more than the bounds allow for
def _certify(network, stimulus, prediction, certifier) -> Certificate:
    if not isinstance(network, RateNetwork):
        return _estimate(network, stimulus, prediction)
    measured = _measure(network, stimulus, prediction, certifier)
    bound, theorem = _bound(network, measured, certifier)
    local = newton_bound(network, measured, certifier)
    # On the right piece, and close as well: with an approximate inverse, a long step misses the fixed point.
    rounding = _EXACT * jnp.finfo(network.dtype).eps * (1 + jnp.linalg.norm(local.refined))
    return Certificate(
        residual=measured.residual,
        error_bound=jnp.minimum(bound, local.bound),
        error_estimate=local.step_length,
        is_exact=local.is_on_piece & local.is_step_rounding & (local.bound <= rounding),
        theorem=jnp.where(local.bound < bound, jnp.int32(Theorem.newton), theorem),
        refined=local.refined,
        is_refined_exact=local.is_on_piece & (local.refined_bound <= rounding),
        refined_error_bound=local.refined_bound,
        is_attracting=local.is_attracting,
    )


def bound_error(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    prediction: Float[ArrayLike, " state"],
    certifier: Certifier | None = None,
) -> tuple[Scalar, Int[Array, ""]]:
    """A bound by contraction or monotonicity and its theorem, from up to three products; arguments as for `certify`."""
    return _bound_error(network, *_checked(network, stimulus, prediction, certifier))


@compiled_alone
def _bound_error(network, stimulus, prediction, certifier) -> tuple[Scalar, Int[Array, ""]]:
    if not isinstance(network, RateNetwork):
        return jnp.asarray(jnp.inf, network.dtype), jnp.asarray(Theorem.none, jnp.int32)
    return _bound(network, _measure(network, stimulus, prediction, certifier), certifier)


@in_full_precision
def bound_and_floor(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    prediction: Float[ArrayLike, " state"],
    certifier: Certifier | None = None,
) -> tuple[Scalar, Scalar]:
    """A bound from two products, and the part of it due to rounding: for rates of this size no bound is much smaller.

    Arguments are as for `certify`; the network has weights. For a rectifier, a third product tightens `bound_error`.
    """
    stimulus, prediction, certifier = _checked(network, stimulus, prediction, certifier)
    measured = _measure(network, stimulus, prediction, certifier)
    bound, _ = _bound(network, measured, certifier, makes_step=False)
    rounding = norm(measured.rounding)
    floor, _ = _from_sizes(rounding, certifier.recurrent_norms * rounding, certifier)
    return bound, floor


@in_full_precision
def unit_bounds(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    prediction: Float[ArrayLike, " state"],
    error_bound: Float[ArrayLike, ""],
    certifier: Certifier | None = None,
) -> Float[Array, " state"]:
    """Bounds on the errors of single rates, `|r_i - r*_i|`, from a bound on `|r - r*|` for the same fixed point r*.

    The smallest of that bound itself, of `|e_i| + s |W_i| |r - r*|`, with W_i the unit's row of weights, and of the
    bounds by contraction and monotonicity for a single unit. Arguments are as for `certify`.
    """
    stimulus, prediction, certifier = _checked(network, stimulus, prediction, certifier)
    error_bound = jnp.asarray(error_bound, network.dtype)
    if not isinstance(network, RateNetwork):
        return jnp.full(network.state_size, error_bound)
    info, size = jnp.finfo(network.dtype), network.state_size
    measured = _measure(network, stimulus, prediction, certifier)
    own = jnp.abs(measured.error) + measured.rounding
    pushed = network.params.recurrent_input(measured.error)
    rounding = norm(measured.rounding) + size * info.eps * norm(measured.error)
    pushed = jnp.abs(pushed) + certifier.recurrent_norms * rounding + size * info.tiny
    moved = [certifier.recurrent_norms * error_bound]
    scale, root = certifier.contraction_scale, certifier.metric_root
    if certifier.is_contracting:
        moved.append(scale * jnp.max(pushed / scale) / certifier.contraction_gap)
    if certifier.is_monotone:
        moved.append(norm(root * pushed) / (certifier.monotonicity * root))
    bounds = proved((own[None] + certifier.slope * jnp.stack(moved)) * (1 + SLACK * info.eps))
    return jnp.minimum(jnp.min(bounds, axis=0), error_bound)


def _checked(network, stimulus, prediction, certifier):
    check_shape("stimulus", stimulus, (network.stimulus_size,))
    check_shape("prediction", prediction, (network.state_size,))
    stimulus, prediction = (as_array(array, network.dtype) for array in (stimulus, prediction))
    if certifier is None:
        with evaluated_now():  # also inside a compiled program, if the network is a constant of it
            certifier = make_certifier(network)
    return stimulus, prediction, certifier


def _measure(network, stimulus, rates, certifier) -> Measured:
    params, info = network.params, jnp.finfo(network.dtype)
    num_terms = network.state_size + network.stimulus_size + 4
    total = params.total_input(rates, stimulus)
    values = network.nonlinearity(total)
    error = rates - values
    # By Cauchy and Schwarz, a product of norms bounds the sum of absolute values, without a matrix product.
    by_stimulus = jnp.abs(stimulus) if params.stimulus_weights is None else certifier.stimulus_norms * norm(stimulus)
    sizes = certifier.recurrent_norms * norm(rates) + by_stimulus + jnp.abs(params.bias)
    total_rounding = num_terms * (info.eps * sizes + info.tiny)
    steepest = jnp.where(  # the steepest slope of a power law up to this total
        jnp.isfinite(certifier.slope), certifier.slope, certifier.curvature * (jax.nn.relu(total) + total_rounding)
    )
    value_rounding = steepest * total_rounding + certifier.value_error + certifier.relative_error * jnp.abs(values)
    if certifier.is_rectified:  # a unit that is surely silent has a rate of exactly 0
        value_rounding = jnp.where(total < -total_rounding, 0.0, value_rounding)
    rounding = value_rounding + info.eps * jnp.abs(error) + info.tiny
    relative = jnp.max(jnp.abs(error)) / (1 + jnp.max(jnp.abs(rates)))
    return Measured(rates, total, total_rounding, error, rounding, relative)


def _bound(
    network, measured: Measured, certifier: Certifier, *, makes_step: bool = True
) -> tuple[Scalar, Int[Array, ""]]:
    """The smaller of the bounds by contraction and by monotonicity, and its theorem; tightened for a rectifier."""
    info, size = jnp.finfo(network.dtype), network.state_size
    error = norm(jnp.abs(measured.error) + measured.rounding)
    pushed = network.params.recurrent_input(measured.error)
    pushed_rounding = norm(measured.rounding) + size * info.eps * norm(measured.error)
    pushed_rounding = certifier.recurrent_norms * pushed_rounding + size * info.tiny
    bound, theorem = _from_sizes(error, jnp.abs(pushed) + pushed_rounding, certifier)
    if not certifier.is_rectified:
        return bound, theorem

    def is_beyond(total: Float[Array, " state"], bound: Scalar) -> Bool[Array, " state"]:
        """Whether totals exceed the threshold by so much that they also do at the fixed point; False for NaN."""
        return total > (certifier.recurrent_norms * bound + measured.total_rounding) * (1 + SLACK * info.eps)

    # A unit that is silent both here and at the fixed point contributes no error.
    pushes = jnp.where(is_beyond(-measured.total, bound), 0, jnp.abs(pushed) + pushed_rounding)
    bound, theorem = _from_sizes(error, pushes, certifier)
    if not makes_step:
        return bound, theorem
    # The rate of a unit that is active at both changes as much as its input. Take this as a step, and bound the rest.
    is_silent, is_active = is_beyond(-measured.total, bound), is_beyond(measured.total, bound)
    step = jnp.where(is_active, pushed, 0)
    left = jnp.abs(network.params.recurrent_input(step) + (pushed - step)) * (1 + 4 * info.eps) + pushed_rounding
    left = left + size * (info.eps * certifier.recurrent_norms * norm(step) + info.tiny)
    stepped = norm(jnp.abs(measured.error + step) * (1 + 4 * info.eps) + measured.rounding)
    after_step, theorem_after_step = _from_sizes(stepped, jnp.where(is_silent, 0, left), certifier)
    return jnp.minimum(bound, after_step), jnp.where(after_step < bound, theorem_after_step, theorem)


def _from_sizes(error: Scalar, pushed: Float[Array, " state"], certifier: Certifier) -> tuple[Scalar, Int[Array, ""]]:
    """The bound from upper bounds of |e| and of the absolute values of `W e`."""
    info, terms = jnp.finfo(pushed.dtype), []
    scale, root = certifier.contraction_scale, certifier.metric_root
    if certifier.is_contracting:
        terms.append((norm(scale) * jnp.max(pushed / scale) / certifier.contraction_gap, Theorem.contraction))
    if certifier.is_monotone:
        terms.append((norm(root * pushed) / (certifier.monotonicity * jnp.min(root)), Theorem.monotonicity))
    if not terms:
        return jnp.full_like(error, jnp.inf), jnp.asarray(Theorem.none, jnp.int32)
    moved, theorems = zip(*terms)
    bounds = proved((error + certifier.slope * jnp.stack(moved)) * (1 + SLACK * info.eps))
    # Not by `argmin`: a gather from a constant is refused on a mesh with explicit axes.
    smallest, first, last = jnp.min(bounds), jnp.int32(theorems[0]), jnp.int32(theorems[-1])
    theorem = jnp.where(bounds[-1] < bounds[0], last, first)
    return smallest, jnp.where(jnp.isfinite(smallest), theorem, jnp.int32(Theorem.none))


def _estimate(network, stimulus, state) -> Certificate:
    """For a network without weights: the Newton step of the velocity, without a proof."""
    length, refined = jnp.asarray(jnp.nan, network.dtype), state
    if network.state_size <= LARGEST_FACTORED:
        step = jnp.linalg.solve(network.jacobian(state, stimulus), network.velocity(state, stimulus))
        length, refined = jnp.linalg.norm(step), state - step
    no, infinite = jnp.zeros((), bool), jnp.asarray(jnp.inf, network.dtype)
    return Certificate(
        residual=residual(network, state, stimulus),
        error_bound=infinite,
        error_estimate=length,
        is_exact=no,
        theorem=jnp.asarray(Theorem.none, jnp.int32),
        refined=refined,
        is_refined_exact=no,
        refined_error_bound=infinite,
        is_attracting=no,
    )
