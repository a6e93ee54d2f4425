"""Units on a ring, each tuned to an angle: `W_ij = (mean + tuned cos(a_i - a_j)) / N`, and three rings in a relation.

Unit i of N prefers the angle `a_i = 2 pi i / N`, in radians. Angles go once around the ring, so an orientation, which
repeats after half a turn, is half of the ring's angle.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from rnn2ff._checks import check_numbers, check_positive_numbers, check_sizes, fail
from rnn2ff.networks.rate import RateNetwork, RateParams
from rnn2ff.networks.threshold_linear import threshold_linear, threshold_linear_rate


def ring_angles(num_units: int) -> Float[Array, "{num_units}"]:
    """The angle that each unit of a ring prefers, `2 pi i / N`, in radians."""
    check_sizes(num_units=num_units)
    return jax.device_put(np.arange(num_units, dtype=jax.dtypes.canonicalize_dtype(float)) * (2 * np.pi / num_units))


def population_angle(activity: Float[Array, "*batch unit"]) -> Float[Array, "*batch"]:
    """The angle a ring's activity points to: that of its population vector, from 0 to 2 pi; of a silent ring, 0."""
    return _angle_of(activity, ring_angles(activity.shape[-1]))


# The next three are compiled; otherwise each operation is a program of its own.


@jax.jit
def _angle_of(activity, angles):
    angles = angles.astype(activity.dtype)
    return jnp.arctan2(activity @ jnp.sin(angles), activity @ jnp.cos(angles)) % (2 * np.pi)


@jax.jit
def _cosine_stimulus(angles, angle, contrast, modulation):
    return contrast * (1 - modulation + modulation * jnp.cos(angles - angle))


@jax.jit
def _bump(angles, angle, concentration):
    return jnp.exp(concentration * (jnp.cos(angles - angle) - 1))


def ring_attractor(
    num_units: int = 64, *, mean: float = -4.0, tuned: float = 2.5, time_constant: float = 1.0
) -> RateNetwork:
    """A ring of threshold-linear units, in the rate form, whose activity forms a bump.

    `v_i' = -v_i + [u_i + (1/N) sum_j (mean + tuned cos(a_i - a_j)) v_j]_+`. With `tuned` above 2 a uniform stimulus
    also leads to a bump, at a position that depends on the initial state: a continuous attractor. In orientations (a /
    2), its half-width w solves `tuned (w - sin(4 w) / 4) / pi = 1`. Then the residual says little about the position
    error, and there is no derivative with respect to the stimulus. A tuned stimulus (`ring_stimulus`) pins it.

    Args:
        num_units: N; the stimulus has one channel for each.
        mean: `-J0` of Ben-Yishai et al.: common inhibition if negative. If it is too weak for `tuned`, the bump grows
            without bound, which a solve reports as diverging.
        tuned: `J2` of Ben-Yishai et al.: units that prefer near angles excite each other.
        time_constant: of all units, in any unit of time.

    Raises:
        ValueError: if there is no unit, a weight is not finite, or uniform activity would grow without bound.

    References:
        Ben-Yishai, Bar-Or and Sompolinsky, Theory of orientation tuning in visual cortex, PNAS 92, 1995.
    """
    angles = np.asarray(ring_angles(num_units))
    check_numbers(mean=mean, tuned=tuned)
    if mean >= 1:
        raise fail("mean", "lets uniform activity grow without bound", "less than 1", mean)
    weights = (mean + tuned * np.cos(angles[:, None] - angles)) / num_units
    return threshold_linear_rate(weights, time_constants=time_constant)


def ring_stimulus(
    angle: ScalarLike, num_units: int = 64, *, contrast: ScalarLike = 1.0, modulation: ScalarLike = 0.3
) -> Float[Array, "{num_units}"]:
    """The stimulus `contrast (1 - modulation + modulation cos(a_i - angle))` to a ring; the angle in radians."""
    check_numbers(angle=angle, contrast=contrast, modulation=modulation)
    return _cosine_stimulus(ring_angles(num_units), angle, contrast, modulation)


def ring_bump(angle: ScalarLike, num_units: int, *, concentration: ScalarLike = 3.0) -> Float[Array, "{num_units}"]:
    """A bump of height 1, `exp(concentration (cos(a_i - angle) - 1))`; the angle in radians."""
    check_numbers(angle=angle, concentration=concentration)
    return _bump(ring_angles(num_units), angle, concentration)


def relation_network(
    num_units: int = 12,
    *,
    concentration: float = 3.0,
    forward: float = 1.0,
    backward: float = 0.5,
    hidden_inhibition: float = 0.3,
    ring_inhibition: float = 0.5,
    hidden_bias: float = -0.5,
    time_constant: float = 1.0,
) -> RateNetwork:
    """Three rings that hold angles in the relation A + B = C, in the state form.

    Hidden unit h_pq receives input from the units of A near p, of B near q and of C near p + q, and projects back
    to them. The stimulus (`relation_stimulus`) drives the rings; the rates are those of the rings, in the order A, B,
    C, so that an approximator learns to infer the ring that has no stimulus. The state lists the hidden units after the
    rings, with q varying fastest.

    Dynamics at the defaults are stiff (norm of W about 44, real eigenvalues down to -45): explicit steps must stay
    below about .05 time constants.

    Args:
        num_units: n, of each ring; there are n^2 hidden units.
        concentration: of the kernels `exp(concentration (cos - 1))` between rings and hidden units, which are
            normalized to sum to 1 around the ring.
        forward: weight from each ring to a hidden unit.
        backward: weight from each row of hidden units to a ring unit.
        hidden_inhibition: from each hidden unit to all hidden units, including itself.
        ring_inhibition: within each ring, from each unit to all units, including itself; divided by n.
        hidden_bias: constant input to hidden units; below 0, a threshold.
        time_constant: of all units, in any unit of time.

    Raises:
        ValueError: if there is no unit, a weight is not positive, or the bias is not finite.
    """
    check_positive_numbers(concentration=concentration, forward=forward, backward=backward)
    check_positive_numbers(hidden_inhibition=hidden_inhibition, ring_inhibition=ring_inhibition)
    check_numbers(hidden_bias=hidden_bias)
    angles = np.asarray(ring_angles(num_units))
    kernel = np.exp(concentration * (np.cos(angles[:, None] - angles) - 1))
    kernel /= kernel.sum(axis=1, keepdims=True)
    first, second = np.divmod(np.arange(num_units**2), num_units)
    kernels = np.hstack([kernel[place % num_units] for place in (first, second, first + second)])  # (hidden, visible)
    within_rings = np.kron(np.eye(3), np.full((num_units, num_units), -ring_inhibition / num_units))
    within_hidden = np.full((num_units**2, num_units**2), -hidden_inhibition)
    weights = np.block([[within_rings, backward * kernels.T], [forward * kernels, within_hidden]])
    num_visible = 3 * num_units
    network = threshold_linear(
        weights,
        stimulus_weights=np.eye(len(weights), num_visible),
        bias=np.where(np.arange(len(weights)) < num_visible, 0.0, hidden_bias),
        time_constants=time_constant,
    )
    return dataclasses.replace(network, rate_function=_visible_rates)


def _visible_rates(params: RateParams, state: Float[Array, " state"]) -> Float[Array, " visible"]:
    """The rates of the units that have a stimulus of their own, which come first."""
    return jax.nn.relu(state[: params.stimulus_weights.shape[1]])


def relation_stimulus(
    first: ScalarLike | None,
    second: ScalarLike | None,
    third: ScalarLike | None,
    num_units: int = 12,
    *,
    concentration: ScalarLike = 3.0,
) -> Float[Array, "3*{num_units}"]:
    """A bump on each ring of `relation_network`, at angles in radians; None leaves a ring without a stimulus."""

    def bump(angle: ScalarLike | None) -> Array:
        return jnp.zeros(num_units) if angle is None else ring_bump(angle, num_units, concentration=concentration)

    return jnp.concatenate([bump(angle) for angle in (first, second, third)])


def relation_angles(rates: Float[Array, "*batch visible"]) -> Float[Array, "*batch 3"]:
    """The angles that the three rings of `relation_network` point to, in radians, from its rates or its stimulus."""
    return population_angle(rates.reshape(*rates.shape[:-1], 3, rates.shape[-1] // 3))
