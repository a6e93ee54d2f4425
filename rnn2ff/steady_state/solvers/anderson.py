"""Anderson acceleration: combine the last few steps of a sweep into a much better one.

With g a sweep, `f_k = g(x_k) - x_k`, and the columns of dF and dG the differences of the last m values of f and g,

    x_{k+1} = g(x_k) - dG c,    c = argmin |f_k - dF c|.

Written as an optimistix fixed-point solver, so that it also serves any other fixed-point problem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from rnn2ff._checks import check_at_least, check_positive, fail
from rnn2ff.networks import AbstractSweep, RateNetwork, RecurrentNetwork, damped_sweep, split_sweep
from rnn2ff.steady_state.search import AbstractSteadyStateSolver, Candidate


class History(eqx.Module):
    """The last steps of one sample, the newest first.

    Separate arrays, not rows of one, so that an unrolled loop copies none.

    Attributes:
        step_changes: the columns of dF.
        image_changes: the columns of dG.
        gram: `dF^T dF`, entry by entry.
        step: the last f.
        image: the last g.
    """

    step_changes: tuple[Float[Array, " state"], ...]
    image_changes: tuple[Float[Array, " state"], ...]
    gram: tuple[tuple[Scalar, ...], ...]
    step: Float[Array, " state"]
    image: Float[Array, " state"]


def begin_history(point: Float[Array, " state"], image: Float[Array, " state"], memory: int) -> History:
    """The history after the first step."""
    zeros, zero = (jnp.zeros_like(point),) * memory, jnp.zeros((), point.dtype)
    return History(zeros, zeros, ((zero,) * memory,) * memory, image - point, image)


def accelerate(
    history: History, point: Float[Array, " state"], image: Float[Array, " state"], *, regularization: float
) -> tuple[Float[Array, " state"], Float[Array, " state"], History]:
    """The combined image, the combined step, and the new history, without the oldest step.

    Args:
        history: the last steps.
        point: where the sweep was.
        image: where it led.
        regularization: of the least-squares problem, relative.
    """
    step = image - point
    step_changes = (step - history.step, *history.step_changes[:-1])
    image_changes = (image - history.image, *history.image_changes[:-1])
    newest = tuple(jnp.sum(change * step_changes[0]) for change in step_changes)
    gram = (newest, *((product, *row[:-1]) for product, row in zip(newest[1:], history.gram)))
    coefficients = _solve_small(gram, [jnp.sum(change * step) for change in step_changes], regularization)
    combined_image = image - sum(c * change for c, change in zip(coefficients, image_changes))
    combined_step = step - sum(c * change for c, change in zip(coefficients, step_changes))
    return combined_image, combined_step, History(step_changes, image_changes, gram, step, image)


def _solve_small(gram: tuple[tuple[Scalar, ...], ...], right: list[Scalar], regularization: float) -> list[Scalar]:
    """Solve the normal equations by an unrolled Cholesky factorization.

    A column that depends on the others, to within the regularization, gets a pivot in proportion to its own size and so
    a harmless coefficient; zero columns get none.
    """
    size = len(right)
    tiny = jnp.finfo(right[0].dtype).tiny ** 0.5
    factor = [[None] * size for _ in range(size)]
    for j in range(size):
        pivot = gram[j][j] * (1 + regularization) - sum((factor[j][k] ** 2 for k in range(j)), 0.0)
        factor[j][j] = jnp.sqrt(jnp.maximum(jnp.maximum(pivot, regularization * gram[j][j]), tiny))
        for i in range(j + 1, size):
            factor[i][j] = (gram[i][j] - sum((factor[i][k] * factor[j][k] for k in range(j)), 0.0)) / factor[j][j]
    forward, backward = [], [None] * size
    for i in range(size):
        forward.append((right[i] - sum((factor[i][k] * forward[k] for k in range(i)), 0.0)) / factor[i][i])
    for i in reversed(range(size)):
        known = sum((factor[k][i] * backward[k] for k in range(i + 1, size)), 0.0)
        backward[i] = (forward[i] - known) / factor[i][i]
    return backward


def default_regularization(dtype: jnp.dtype) -> float:
    """Ten times the precision of the dtype."""
    return 10 * float(jnp.finfo(dtype).eps)


def repeat_accelerated(
    sweep: AbstractSweep,
    network: RecurrentNetwork,
    drive: Float[Array, " drive"],
    point: Float[Array, " state"],
    *,
    num_sweeps: int | Int[Array, ""],
    memory: int,
) -> Float[Array, " state"]:
    """A fixed number of accelerated sweeps, without a check: the same work for every sample.

    Args:
        sweep: the step to accelerate.
        network: the network.
        drive: from `sweep.drive`.
        point: where to start.
        num_sweeps: at least this many; rounded up to a whole number of times through the memory, plus one.
        memory: how many steps are combined; 0 repeats the sweep as it is.
    """
    if memory == 0:
        return jax.lax.fori_loop(0, num_sweeps, lambda _, point: sweep(network, drive, point), point)

    def turn(_, carry):
        return through_memory(sweep, network, drive, *carry)

    image = sweep(network, drive, point)
    start = (image, begin_history(point, image, memory))
    return jax.lax.fori_loop(0, -(-(num_sweeps - 1) // memory), turn, start)[0]


def through_memory(
    sweep: AbstractSweep,
    network: RecurrentNetwork,
    drive: Float[Array, " drive"],
    point: Float[Array, " state"],
    history: History,
) -> tuple[Float[Array, " state"], History]:
    """As many accelerated sweeps as are combined: the point and the history after them.

    Unrolled: all steps of the history are new at the end, so that a loop around this copies none.
    """
    for _ in history.step_changes:
        image = sweep(network, drive, point)
        point, _, history = accelerate(history, point, image, regularization=default_regularization(point.dtype))
    return point, history


class _AccelerationState(eqx.Module):
    history: History
    error: Scalar  # of the last point, over the tolerance
    best_error: Scalar
    best_point: Float[Array, " state"]
    num_without_progress: Int[Array, ""]
    num_steps: Int[Array, ""]  # since the history was cleared
    damping: Scalar


class AndersonAcceleration(optx.AbstractFixedPointSolver):
    """Anderson acceleration for `optimistix.fixed_point`, with safeguards.

    It stops when the step from the point that it *returns* is below the tolerance. After a step that is not finite or
    more than ten times the smallest so far, or after `patience` steps without progress, it restarts at the point of the
    smallest step, with an empty history and half the damping.

    Attributes:
        rtol: tolerance of the step, relative to the point.
        atol: absolute tolerance of the step.
        norm: of the step, and of the point.
        memory: m, how many steps are combined.
        damping: fraction of the combined step that is taken at first, above 0 and at most 1.
        regularization: of the least-squares problem, relative; 0 asks for ten times the precision of the dtype.
        patience: steps without progress after which it restarts.
    """

    rtol: float | Scalar
    atol: float | Scalar
    norm: Callable[[PyTree], Scalar] = eqx.field(static=True, default=optx.max_norm)
    memory: int = eqx.field(static=True, default=3)
    damping: float = 1.0
    regularization: float = 0.0
    patience: int = 20

    def __check_init__(self):
        check_at_least("memory", self.memory, 1)
        check_positive("damping", self.damping)
        if self.damping > 1:
            raise fail("damping", "is out of range", "at most 1", self.damping)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> _AccelerationState:
        """An empty history."""
        flat, _ = ravel_pytree(y)
        infinite, zero = jnp.asarray(jnp.inf, flat.dtype), jnp.zeros((), jnp.int32)
        damping = jnp.asarray(self.damping, flat.dtype)
        return _AccelerationState(begin_history(flat, flat, self.memory), infinite, infinite, flat, zero, zero, damping)

    def step(self, fn, y, args, options, state, tags):
        """One evaluation of the function, and one combined step."""
        image_tree, aux = fn(y, args)
        point, unravel = ravel_pytree(y)
        image, _ = ravel_pytree(image_tree)
        error = self.norm(image - point) / (self.atol + self.rtol * self.norm(point))
        error = jnp.where(jnp.isfinite(error), error, jnp.inf)
        is_best = error < state.best_error
        num_without_progress = jnp.where(error < 0.9 * state.best_error, 0, state.num_without_progress + 1)
        is_lost = ~(error <= 10 * state.best_error) | (num_without_progress > self.patience)
        combined, combined_step, history = accelerate(
            state.history, point, image, regularization=self.regularization or default_regularization(point.dtype)
        )
        combined = combined - (1 - state.damping) * combined_step
        is_lost |= (state.num_steps > 0) & ~jnp.all(jnp.isfinite(combined))
        best_point = jnp.where(is_best, point, state.best_point)
        plain = point + state.damping * (image - point)
        new = jnp.where(state.num_steps > 0, combined, plain)
        new = jnp.where(is_lost, best_point, new)  # restart there with half the damping
        new = jnp.where(error < 1, point, new)  # return the point whose error was measured
        begun = begin_history(point, image, self.memory)
        keeps = (state.num_steps > 0) & ~is_lost
        return (
            unravel(new),
            _AccelerationState(
                history=jax.tree.map(lambda kept, cleared: jnp.where(keeps, kept, cleared), history, begun),
                error=error,
                best_error=jnp.minimum(error, state.best_error),
                best_point=best_point,
                num_without_progress=jnp.where(is_lost, 0, num_without_progress),
                num_steps=jnp.where(is_lost, 0, state.num_steps + 1),
                damping=jnp.where(is_lost, state.damping / 2, state.damping),
            ),
            aux,
        )

    def terminate(self, fn, y, args, options, state, tags) -> tuple[Bool[Array, ""], optx.RESULTS]:
        """Whether the step from the point was below the tolerance."""
        return state.error < 1, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result) -> tuple[PyTree, Any, dict[str, Any]]:
        """Nothing."""
        return y, aux, {}


class Anderson(AbstractSteadyStateSolver):
    """Anderson acceleration on a sweep.

    A fixed point found this way is the steady state if there is only one. In a multistable network it may not be the
    one that the dynamics reach.

    Attributes:
        tolerance: the largest residual that counts as rest; None asks for the dtype's default.
        memory: how many steps are combined: 1 for well-damped networks, 3 to 5 near instability.
        damping: fraction of the combined step that is taken.
        sweep: the step to accelerate, made once per network by `split_sweep`, `mean_slope_sweep` or `damped_sweep`. By
            default `split_sweep` for a network with weights, remade in each call, and `damped_sweep` otherwise.
        starts_at_state: whether to begin at the initial state; otherwise the sweep's own first guess.
    """

    tolerance: float | None = None
    memory: int = eqx.field(static=True, default=3)
    damping: float = 1.0
    sweep: AbstractSweep | None = None
    starts_at_state: bool = eqx.field(static=True, default=False)

    def search(
        self,
        network: RecurrentNetwork,
        stimulus: Float[Array, " stimulus"],
        initial_state: Float[Array, " state"],
        *,
        tolerance: float | Scalar,
        max_steps: int,
    ) -> Candidate:
        make = split_sweep if isinstance(network, RateNetwork) else damped_sweep
        sweep = make(network) if self.sweep is None else self.sweep
        drive = sweep.drive(network, stimulus)
        if self.starts_at_state:
            start = sweep.from_state(network, initial_state, stimulus)
        else:
            start = sweep.start(network, drive)
        # The tolerance applies to the residual of the velocity; a step is smaller by about this factor.
        step_tolerance = 0.5 * tolerance / jnp.maximum(sweep.velocity_per_step, 1)
        solution = optx.fixed_point(
            lambda point, args: sweep(network, drive, point),
            AndersonAcceleration(step_tolerance, step_tolerance, memory=self.memory, damping=self.damping),
            start,
            max_steps=max_steps,
            throw=False,
        )
        state, num_steps = sweep.to_state(network, solution.value), solution.stats["num_steps"].astype(jnp.int32)
        return Candidate(state, num_steps, jnp.zeros((), bool))
