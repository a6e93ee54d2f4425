"""Linear systems of a batch, solved together by products with all matrices at once.

A solver reduces a defect `b - A y`; `refine` repeats it on recomputed defects, and accepts a solution whose defect is
at the level of rounding.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnn2ff._checks import smallest_tolerance
from rnn2ff.steady_state.field import choose_rows

# The largest relative error of a solution. A matrix that leaves more has a condition number above 0.01 over the dtype's
# precision: it is singular to working precision.
LARGEST_ERROR = 1e-2
_STEPS_PER_BIT = 2  # of BiCGSTAB, at most, for each bit of accuracy
_MEMORY = 40  # products of GMRES between two restarts

Vectors = Float[Array, "batch state"]
Linear = Callable[[Vectors], Vectors]


class Solution(NamedTuple):
    """Solutions of linear systems."""

    rows: Vectors  # y, one per row
    is_solved: Bool[Array, " batch"]  # whether it is a solution, to rounding


class _Progress(NamedTuple):
    """State of the refinement of solutions, one per row."""

    rows: Vectors  # the solutions
    defects: Vectors  # b - A y
    sizes: Float[Array, " batch"]  # of the defects
    is_open: Bool[Array, " batch"]  # whether a row needs more steps
    is_solved: Bool[Array, " batch"]  # whether it is solved
    num_rounds: int | Array  # so far


def refine(
    iterate: Callable[[Linear, Vectors, Array], Vectors], multiply: Linear, right: Vectors, max_rounds: int, gain: float
) -> Solution:
    """Repeat an iterative solver on its own recomputed defects, while each round multiplies them by at most `gain`.

    A solution is accepted if its defect is within the rounding error of a product with it, and that error is small.
    """
    tolerance = smallest_tolerance(right.dtype)
    sizes = norms(right)
    scales = jnp.maximum(norms(multiply(right)) / sizes, 1)  # of the matrices, about
    aims = tolerance / 2 * sizes  # below the tolerance, since the defect of a recurrence drifts from the true one

    def improve(progress: _Progress) -> _Progress:
        change = iterate(multiply, jnp.where(progress.is_open[:, None], progress.defects, 0), aims)
        rows = progress.rows + jnp.where(jnp.isfinite(norms(change))[:, None], change, 0)
        defects = right - multiply(rows)
        remaining, rounding = norms(defects), tolerance * scales * norms(rows)
        is_solved = progress.is_solved | ((remaining <= rounding) & (rounding <= LARGEST_ERROR * sizes))
        is_open = progress.is_open & ~is_solved & (remaining <= gain * progress.sizes)
        return _Progress(rows, defects, remaining, is_open, is_solved, progress.num_rounds + 1)

    is_open = sizes > 0
    progress = jax.lax.while_loop(
        lambda progress: jnp.any(progress.is_open) & (progress.num_rounds < max_rounds),
        improve,
        _Progress(jnp.zeros_like(right), right, sizes, is_open, ~is_open, 0),
    )
    return Solution(progress.rows, progress.is_solved)


def bicgstab(multiply: Linear, right: Vectors, aims: Float[Array, " batch"]) -> Vectors:
    """BiCGSTAB(2), four products a step; a row is frozen once its defect reaches its aim, or if it breaks down.

    Defects are minimized over two products at a time, which suits the complex eigenvalues of a recurrent network.

    References:
        Sleijpen and Fokkema, BiCGSTAB(l) for linear equations involving unsymmetric matrices with complex spectrum,
        Electronic Transactions on Numerical Analysis 1, 1993.
    """
    max_steps = math.ceil(-_STEPS_PER_BIT * math.log2(smallest_tolerance(right.dtype)))
    aims = aims**2

    def step(progress: _Bicgstab) -> _Bicgstab:
        _, _, direction, products, is_open, num_steps = progress
        image = multiply(direction)
        length = products / _dots(right, image)
        rows = progress.rows + length[:, None] * direction
        defects = progress.defects - length[:, None] * image
        is_early = _dots(defects, defects) <= aims
        early = rows, defects

        first = multiply(defects)
        next_products = _dots(right, first)
        back = (length * next_products / products)[:, None]
        image = first - back * image
        second_image = multiply(image)
        length = next_products / _dots(right, second_image)
        direction = defects - back * direction
        rows = rows + length[:, None] * direction
        defects = defects - length[:, None] * image
        first = first - length[:, None] * second_image
        second = multiply(first)

        # Subtract from the defect its best approximation by its images under A and A^2.
        a, b, c = _dots(first, first), _dots(first, second), _dots(second, second)
        d, e = _dots(first, defects), _dots(second, defects)
        determinant = a * c - b**2
        is_regular = determinant > jnp.finfo(right.dtype).eps * a * c
        y = jnp.where(is_regular, (a * e - b * d) / determinant, 0)
        x = jnp.where(a > 0, (d - b * y) / a, 0)
        rows = rows + x[:, None] * defects + y[:, None] * first
        defects = defects - x[:, None] * first - y[:, None] * second
        direction = direction - x[:, None] * image - y[:, None] * second_image
        sizes = _dots(defects, defects)
        products = _dots(right, defects)
        back = -length * products / (y * next_products)
        direction = defects - back[:, None] * direction

        is_sound = is_open & (is_early | jnp.isfinite(sizes))
        chosen = choose_rows(is_early, early, (rows, defects))
        rows, defects = choose_rows(is_sound, chosen, (progress.rows, progress.defects))
        is_open = is_sound & ~is_early & (sizes > aims) & jnp.isfinite(back)
        return _Bicgstab(rows, defects, direction, products, is_open, num_steps + 1)

    squares = _dots(right, right)
    progress = jax.lax.while_loop(
        lambda progress: jnp.any(progress.is_open) & (progress.num_steps < max_steps),
        step,
        _Bicgstab(jnp.zeros_like(right), right, right, squares, squares > 0, 0),
    )
    return progress.rows


class _Bicgstab(NamedTuple):
    """State of BiCGSTAB(2), one per row."""

    rows: Vectors  # the solutions
    defects: Vectors  # as updated by the recurrence
    directions: Vectors  # of the next step
    products: Float[Array, " batch"]  # of the defects with the first defects
    is_open: Bool[Array, " batch"]  # whether a row needs more steps
    num_steps: int | Array  # so far


def gmres(multiply: Linear, right: Vectors, aims: Float[Array, " batch"]) -> Vectors:
    """GMRES, up to its first restart.

    Keeps directions whose images are orthonormal, so that each new one minimizes the defect by one projection.
    """

    def step(slot, carry):
        rows, defects, image, directions, images = carry
        direction, image = image, multiply(image)
        least = 100 * jnp.finfo(right.dtype).eps * norms(image)
        for _ in range(2):  # once is not enough where an image is nearly a combination of the others
            shares = jnp.einsum("mbi,bi->mb", images, image)
            image = image - jnp.einsum("mb,mbi->bi", shares, images)
            direction = direction - jnp.einsum("mb,mbi->bi", shares, directions)
        size = norms(image)
        inverse = jnp.where(size > least, 1 / size, 0)[:, None]  # or nothing is left
        direction, image = inverse * direction, inverse * image
        lengths = _dots(image, defects)[:, None]
        directions, images = directions.at[slot].set(direction), images.at[slot].set(image)
        return rows + lengths * direction, defects - lengths * image, image, directions, images

    del aims  # a round has a fixed number of products
    empty = jnp.zeros_like(right, shape=(_MEMORY, *right.shape))
    return jax.lax.fori_loop(0, _MEMORY, step, (jnp.zeros_like(right), right, right, empty, empty))[0]


def _dots(first: Vectors, second: Vectors) -> Float[Array, " batch"]:
    return jnp.sum(first * second, axis=1)


def norms(rows: Vectors) -> Float[Array, " batch"]:
    return jnp.sqrt(_dots(rows, rows))
