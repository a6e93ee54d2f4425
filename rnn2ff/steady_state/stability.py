"""Linear stability of fixed points, and how fast perturbations decay: one test for a batch, by products first.

A fixed point attracts if every eigenvalue z of the Jacobian J of the velocity has a negative real part. Eigenvalues of
non-symmetric matrices are slow, and not available on every device, so they are not computed:

1. **Powers of a polynomial of J on a random vector**, by products alone, prove most fixed points stable. For
   Re z >= 0 both `|1 + s z| >= 1` and `|1 + s z + (s z)^2 / 2| >= 1`. So with y0 standard normal, an unstable J gives
   `|p(J)^k y0| >= |g|`, where g, the component of y0 along a left eigenvector, is standard normal too, however
   non-normal J is. A norm below `PROOF` therefore proves stability, with an error probability below `PROOF`. Without a
   proof, a fixed point need not be unstable.
2. **Powers of the Cayley transform** `A = (I - s J)^-1 (I + s J)` by repeated squaring, for the few that remain.
   A maps eigenvalues with negative real part into the unit circle; `|A^m| < 1` for some m proves stability, and
   `|A^m|^(1/m)` tends to the spectral radius from above (Gelfand).

A fixed point of a map attracts if every eigenvalue of `I + J` is within the unit circle. `I + J` is the first
polynomial itself, and replaces the Cayley transform.

A growth rate below `neutral_growth`, per longest time scale or step of a map, is zero to rounding, and counts as zero:
on a continuous attractor perturbations persist, and that is stable. A state that drifts along such a direction faster
than rounding allows is undecided (`drifting.py`); so is a mode so much slower than others that the sign of its growth
is lost in rounding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnn2ff.compiling import solve_systems
from rnn2ff.steady_state.drifting import find_drift
from rnn2ff.steady_state.field import Field, choose_rows, jacobians, max_norm
from rnn2ff.steady_state.tiles import packing_of, vary_like

PROOF = 1e-3  # the norm to shrink to
LARGEST_FACTORED = 1024  # units; there a matrix takes 8 MB in float64, and a squaring 2e9 operations
_LARGEST_UNSEEN = 1e-3  # growth, per longest time scale, that rounding may hide in a verdict
_SURE_DECAY, _SURE_GROWTH = -4.0, 60.0  # logarithms of norms; transient growth stays below e^60 = 1e26
LARGEST_BATCHED = 48  # units; products of matrices this small are fast in batches on any device
_MOST_ENTRIES, _MOST_DEVICE_ENTRIES = 2**18, 2**24  # of matrices factored together on a processor; on an accelerator
_PRODUCTS_PER_CHECK = 4  # even, as one step of the second polynomial takes two
_STEPS = (0.0, 1.0, 0.5)  # of the polynomials, in turn; 0 is the first polynomial
_FIRST_CHECKS = 3  # after which powers that do not shrink are restarted with the second polynomial
MOST_CHECKS = 48  # more would cost a processor as much as a factorization of 128 units


def neutral_growth(dtype: jnp.dtype) -> float:
    """Growth, per longest time scale, that is within rounding of zero."""
    return 1e-6 if jnp.finfo(dtype).bits >= 64 else 1e-5


class Stability(NamedTuple):
    """Linear stability, per sample."""

    is_stable: Bool[Array, " batch"]  # perturbations are proved to decay, or at least not to grow
    is_unstable: Bool[Array, " batch"]  # some grow. If neither is True, it is undecided
    # Of the slowest perturbation, per unit of time; an estimate, 0 if nothing decays. On a continuous attractor it is
    # that of the velocity: the ratio of the speed to the remaining distance.
    decay_rate: Float[Array, " batch"]
    # An upper estimate, not a bound, of the transient growth of a perturbation before it decays, in the Euclidean norm:
    # twice the norm of the largest power of the Cayley transform that was computed.
    amplification: Float[Array, " batch"]


class Powers(NamedTuple):
    """State of the stability proofs."""

    vectors: Float[Array, "batch state"]  # `p(J)^k y0`
    norms: Float[Array, " batch"]  # of the vectors; infinite once these are lost, which proves nothing
    decay: Float[Array, " batch"]  # factor on the norm per product
    step: Float[Array, " batch"]  # s of the second polynomial; 0 where p is the first
    num_checks: Float[Array, " batch"]  # since the vector was started; negative before

    def to_be_begun(self) -> "Powers":
        """The same, to be restarted."""
        return self._replace(num_checks=jnp.full_like(self.num_checks, -1))

    @property
    def is_proved(self) -> Bool[Array, " batch"]:
        """Whether the norm is small enough."""
        return self.norms < PROOF

    @property
    def is_open(self) -> Bool[Array, " batch"]:
        """Whether more products may still prove it."""
        return (self.norms >= PROOF) & jnp.isfinite(self.norms) & (self.num_checks < MOST_CHECKS)


def shrink(
    field: Field,
    states: Float[Array, "batch state"],
    is_needed: Bool[Array, " batch"],
    powers: Powers,
    *,
    most_open: int | Int[Array, ""] = 0,
) -> Powers:
    """Multiply random vectors until at most `most_open` of the needed samples are open.

    Starts with `1 + z`, which is the best polynomial for eigenvalues in a disk about -1, such as those of random
    weights. A sample whose vector does not shrink restarts with `1 + s z + (s z)^2 / 2`, which handles oscillatory
    modes, at s = 1 and then, for fast ones, at s = 1/2.
    """
    push = field.push(states)
    powers = vary_like(powers, states)
    first = jnp.asarray(np.random.default_rng(0).standard_normal((1, states.shape[1])), states.dtype)
    first_norm = jnp.linalg.norm(first)
    overflow = 1 / jnp.finfo(states.dtype).eps
    pack, unpack = packing_of(powers)

    def begun(vectors, steps):
        ones = jnp.ones_like(powers.norms)
        return Powers(vectors, first_norm * ones, ones, steps, jnp.zeros_like(powers.num_checks))

    def open_rows(powers):
        return is_needed & powers.is_open

    def check(arrays):
        powers = unpack(arrays)
        # Two products are two steps of the first polynomial, or one of the second.
        is_linear = powers.step == _STEPS[0]
        slope = jnp.where(is_linear, 2, powers.step)[:, None]
        curve = jnp.where(is_linear, 1, powers.step**2 / 2)[:, None]
        vectors = powers.vectors
        for _ in range(_PRODUCTS_PER_CHECK // 2):
            once = push(vectors)
            vectors = vectors + slope * once + curve * push(once)
        norms = jnp.linalg.norm(vectors, axis=1)
        num_checks = powers.num_checks + 1
        is_lost = ~(norms < overflow)
        is_growing = is_lost | ((num_checks >= _FIRST_CHECKS) & (norms > first_norm))
        is_begun = is_growing & (powers.step != _STEPS[-1]) & (not field.is_map)
        next_step = jnp.where(is_linear, *(jnp.asarray(step, states.dtype) for step in _STEPS[1:]))
        again = begun(jnp.broadcast_to(first, states.shape), next_step)
        decay = (norms / powers.norms) ** (1 / _PRODUCTS_PER_CHECK)
        vectors, norms = jnp.where(is_lost[:, None], 0, vectors), jnp.where(is_lost, jnp.inf, norms)
        new = Powers(vectors, norms, decay, powers.step, num_checks)
        return choose_rows(open_rows(powers), choose_rows(is_begun, pack(again), pack(new)), arrays)

    def goes_on(arrays):
        return jnp.sum(open_rows(unpack(arrays)), dtype=jnp.int32) > most_open

    # The first vector is the same for all samples, so that one row is multiplied.
    anew = begun(jnp.broadcast_to(first + push(first), states.shape), jnp.zeros_like(powers.step))
    start = choose_rows(powers.num_checks < 0, pack(anew), pack(powers))
    return unpack(jax.lax.while_loop(goes_on, check, vary_like(start, states)))


def decay_rates(field: Field, powers: Powers) -> Float[Array, " batch"]:
    """The slowest decay rate, per unit of time, estimated from the last products as for a real eigenvalue."""
    # With `1 + z`, one product is a step; with the second polynomial, nearly e^(s z), two products are a step of s.
    turning = -2 * jnp.log(jnp.maximum(powers.decay, 1e-6)) / jnp.maximum(powers.step, _STEPS[-1])
    rate = jnp.where(powers.step > 0, turning, 1 - powers.decay)
    return jnp.maximum(rate, 0) / field.time_unit


def transform_powers(
    matrices: Float[Array, "batch state state"],
    slowest: Float[Array, " batch"],
    is_needed: Bool[Array, " batch"],
    *,
    one_by_one: bool,
    is_map: bool = False,
    velocity: Float[Array, "batch state"] | None = None,
    rounding: Float[Array, "batch state"] | None = None,
) -> Stability:
    """Decide by powers of the Cayley transform, or of the Jacobian of a map.

    Args:
        matrices: Jacobians, in any unit of time.
        slowest: the longest time scale, in that unit.
        is_needed: which samples to decide.
        one_by_one: whether samples are processed one by one, as on a processor: its threads are shared with other
            programs, and it multiplies larger matrices faster one by one. An accelerator is faster on the batch.
        is_map: whether the matrices are Jacobians of the change in a step of a map.
        velocity: at the states; the matrices are its derivatives. None if drift does not matter.
        rounding: of the velocity; a state that drifts no faster than this along a neutral direction is at rest.
    """
    settings = {"one_by_one": one_by_one, "is_map": is_map}
    if not one_by_one or matrices.shape[-1] <= LARGEST_BATCHED:
        return _transform_powers(matrices, slowest, is_needed, velocity, rounding, **settings)

    def decide_one(sample):
        matrix, slowest, velocity, rounding, is_needed = sample

        def run(_):
            more = () if velocity is None else (velocity[None], rounding[None])
            stability = _transform_powers(matrix[None], slowest[None], is_needed[None], *more, **settings)
            return jax.tree.map(lambda leaf: leaf[0], stability)

        def skip(_):
            no = jnp.zeros((), bool)
            zero = jnp.zeros((), matrices.dtype)
            return vary_like(Stability(no, no, zero, zero), matrices)

        return jax.lax.cond(sample[-1], run, skip, None)

    return jax.lax.map(decide_one, (matrices, slowest, velocity, rounding, is_needed))


def _transform_powers(
    matrices, slowest, is_needed, velocity=None, rounding=None, *, one_by_one: bool, is_map: bool
) -> Stability:
    dtype, size = matrices.dtype, matrices.shape[-1]
    identity = jnp.eye(size, dtype=dtype)[None]
    # Each squaring doubles the logarithm of a norm: this many separate the smallest growth that counts from none.
    max_squarings = 34 if jnp.finfo(dtype).bits >= 64 else 22
    is_finite = jnp.all(jnp.isfinite(matrices), axis=(1, 2))
    matrices = jnp.where((is_finite & is_needed)[:, None, None], matrices, -identity)

    def norm_of(matrices):
        # A power may be zero: a silent unit of a map forgets its state in one step, and so does the Cayley transform of
        # units that all decay at one rate.
        return jnp.maximum(jnp.sqrt(jnp.sum(matrices**2, axis=(1, 2))), jnp.finfo(dtype).tiny)

    # Scale such that typical eigenvalues end up far inside the unit circle.
    largest_scale = 1 / (size * jnp.finfo(dtype).tiny)  # for a zero matrix
    scale = jnp.minimum(size**0.5 / norm_of(matrices), largest_scale)
    scaled = scale[:, None, None] * matrices
    if is_map:
        power = identity + matrices
    else:
        power = solve_systems(identity - scaled, identity + scaled, one_by_one=one_by_one)
    norm = norm_of(power)

    def is_undecided(log_norm, num_squarings):
        return (log_norm > _SURE_DECAY) & (log_norm < _SURE_GROWTH) & (num_squarings < max_squarings)

    def goes_on(carry):
        _, log_norm, _, num_squarings = carry
        return jnp.any(is_needed & is_undecided(log_norm, num_squarings))

    def square(carry):
        power, log_norm, largest, num_squarings = carry
        is_open = is_undecided(log_norm, num_squarings)
        squared = power @ power
        norm = norm_of(squared)
        squared = squared / norm[:, None, None]
        log_norm = jnp.where(is_open, 2 * log_norm + jnp.log(norm), log_norm)
        num_squarings = num_squarings + is_open.astype(jnp.int32)
        return choose_rows(is_open, squared, power), log_norm, jnp.maximum(largest, log_norm), num_squarings

    start = (power / norm[:, None, None], jnp.log(norm), jnp.log(norm), jnp.zeros(len(matrices), jnp.int32))
    power, log_norm, largest, num_squarings = jax.lax.while_loop(goes_on, square, vary_like(start, matrices))
    mean_log = log_norm / 2.0 ** num_squarings.astype(dtype)
    # For a map, the largest growth factor minus one; otherwise the transform is inverted, as for a real eigenvalue.
    growth = jnp.expm1(mean_log) if is_map else jnp.tanh(mean_log / 2) / scale
    amplification = 2 * jnp.exp(jnp.maximum(largest, 0))  # 2 for the powers between those that are squared
    # Beside much faster units, slow growth or decay may be lost in the rounding of each factor of the power.
    rounding_of_mean = 8 * jnp.finfo(dtype).eps
    is_rounding = jnp.abs(mean_log) < rounding_of_mean
    unseen = slowest * (rounding_of_mean if is_map else rounding_of_mean / 2 / scale)
    is_known = is_finite & is_needed & jnp.isfinite(log_norm) & ~(is_rounding & (unseen > _LARGEST_UNSEEN))
    is_stable = (log_norm <= _SURE_DECAY) | ((log_norm < _SURE_GROWTH) & (growth * slowest < neutral_growth(dtype)))
    decay_rate, is_drifting = jnp.maximum(-growth, 0), jnp.zeros_like(is_known)
    if velocity is not None:
        is_neutral = is_rounding | ((log_norm > _SURE_DECAY) & (decay_rate * slowest < neutral_growth(dtype)))
        staying, distance = find_drift(power, matrices, velocity, one_by_one=one_by_one)
        is_drifting = is_neutral & is_stable & ~jnp.all(jnp.abs(staying) <= rounding, axis=1)
        speed = jnp.max(jnp.abs(velocity), axis=1)
        # Silent units do not show in this velocity; they decay with their own time constants.
        along = jnp.where(speed > 0, speed / jnp.maximum(distance, jnp.finfo(dtype).tiny), 1 / slowest)
        decay_rate = jnp.where(is_neutral & jnp.isfinite(along), along, decay_rate)
    is_known_stable = is_known & is_stable & ~is_drifting
    return Stability(is_known_stable, is_known & ~is_stable, decay_rate, amplification)


def num_factored(size: int, *, one_by_one: bool) -> int:
    """How many matrices of this size are factored together; the argument as for `transform_powers`."""
    most, entries = (64, _MOST_ENTRIES) if one_by_one else (1024, _MOST_DEVICE_ENTRIES)
    return max(1, min(most, entries // size**2))


def decide(
    field: Field, states: Float[Array, "batch state"], is_needed: Bool[Array, " batch"], *, one_by_one: bool
) -> Stability:
    """Decide a few samples by the Cayley transform of their Jacobian, or leave them undecided if it is too large."""
    if states.shape[1] > LARGEST_FACTORED:
        no = jnp.zeros(len(states), bool)
        return Stability(no, no, jnp.zeros_like(field.time_unit), jnp.full_like(field.time_unit, jnp.inf))
    slowest = jnp.ones_like(field.time_unit) if field.is_map else jnp.max(field.scales, axis=1)
    velocity = field.seen(states, field.velocity(states))
    stability = transform_powers(
        jacobians(field, states),
        slowest,
        is_needed,
        one_by_one=one_by_one,
        is_map=field.is_map,
        velocity=velocity,
        rounding=jnp.finfo(states.dtype).eps * (1 + max_norm(states))[:, None] / field.scales,
    )
    return stability._replace(decay_rate=stability.decay_rate / field.time_unit)
