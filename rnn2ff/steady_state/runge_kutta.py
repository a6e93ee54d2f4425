"""One step of time, with its error and what lies between its ends."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

# Dormand and Prince, A family of embedded Runge-Kutta formulae, 1980. Rows: the stages; the last is the step itself.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
# The state in the middle of a step (Shampine, Some practical Runge-Kutta formulas, 1986).
_MIDDLE = (
    6025192743 / 60171106304,
    0.0,
    51252292925 / 130801643196,
    -2691868925 / 90256659456,
    187940372067 / 3189068634112,
    -1776094331 / 39487288512,
    11237099 / 470086768,
)


class Step(NamedTuple):
    """A step of fifth order.

    Attributes:
        moved: from its start to its end.
        velocity: at its end.
        error: of its end, an estimate.
        middle: the state halfway.
    """

    moved: Float[Array, " state"]
    velocity: Float[Array, " state"]
    error: Float[Array, " state"]
    middle: Float[Array, " state"]


def take_step(
    velocity_at: Callable[[Float[Array, " state"]], Float[Array, " state"]],
    state: Float[Array, " state"],
    velocity: Float[Array, " state"],
    duration: Scalar,
) -> Step:
    """A step from a state and its velocity."""
    velocities = [velocity]
    for row in _STAGES:
        velocities.append(velocity_at(state + duration * _combine(row, velocities)))
    return Step(
        moved=duration * _combine(_STAGES[-1], velocities),
        velocity=velocities[-1],
        error=duration * _combine(_ERROR, velocities),
        middle=state + duration * _combine(_MIDDLE, velocities),
    )


def _combine(weights: tuple[float, ...], velocities: list[Float[Array, " state"]]) -> Float[Array, " state"]:
    return sum(weight * velocity for weight, velocity in zip(weights, velocities) if weight)


def quartic(start: Array, middle: Array, end: Array, start_slope: Array, end_slope: Array) -> tuple[Array, ...]:
    """The coefficients, constant first, of the quartic on [0, 1] with these values and slopes."""
    return (
        start,
        start_slope,
        -11 * start + 16 * middle - 5 * end - 4 * start_slope + end_slope,
        18 * start - 32 * middle + 14 * end + 5 * start_slope - 3 * end_slope,
        -8 * start + 16 * middle - 8 * end - 2 * start_slope + 2 * end_slope,
    )


def evaluate(coefficients: tuple[Array, ...], where: Scalar) -> Array:
    """The value of a polynomial, given by its coefficients, constant first."""
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = value * where + coefficient
    return value


def root_of(coefficients: tuple[Array, ...]) -> Scalar:
    """Where a polynomial that is negative at 0 and not at 1 crosses zero, by bisection and a step of Newton's."""
    lower = jnp.zeros_like(coefficients[0])
    width = 1.0
    for _ in range(8):
        width /= 2
        lower = jnp.where(evaluate(coefficients, lower + width) < 0, lower + width, lower)
    root = lower + width / 2
    slopes = tuple(order * coefficient for order, coefficient in enumerate(coefficients) if order)
    for _ in range(2):
        slope = evaluate(slopes, root)
        slope = jnp.where(slope == 0, 1, slope)
        root = jnp.clip(root - evaluate(coefficients, root) / slope, lower, lower + width)
    return root
