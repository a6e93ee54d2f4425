"""Fit an approximator to pairs of stimuli and steady rates, by gradient descent."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar
from tqdm import tqdm

from rnn2ff._checks import check_at_least, check_fraction
from rnn2ff.approximators import TwoLayer
from rnn2ff.datasets import check_pairs, key_for


class TrainingRun(NamedTuple):
    """The end of a training.

    Attributes:
        approximator: the one of the evaluation with the smallest validation error.
        best_evaluation: which evaluation that was, from 0.
        steps: optimizer steps taken before each evaluation.
        training_errors: `surrogate_error` over the minibatches since the evaluation before.
        validation_errors: mean squared error on the validation part, at each evaluation.
    """

    approximator: TwoLayer
    best_evaluation: int
    steps: Int[Array, " evaluation"]
    training_errors: Float[Array, " evaluation"]
    validation_errors: Float[Array, " evaluation"]


def adam(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Adam, with a learning rate that falls to zero along a half cosine."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))


def mean_squared_error(
    approximator: TwoLayer, stimuli: Float[Array, "batch stimulus"], rates: Float[Array, "batch rate"]
) -> Scalar:
    """Mean squared error over all samples and units, in squared units of rate."""
    return jnp.mean((jax.vmap(approximator)(stimuli) - rates) ** 2)


def surrogate_error(
    approximator: TwoLayer, stimuli: Float[Array, "batch stimulus"], rates: Float[Array, "batch rate"]
) -> Scalar:
    """The mean squared error, with a way back for an output that is silent where it should be active.

    The derivative of a rectified output vanishes below zero, so a unit that is silent for all stimuli would stay so.
    Where the target is active the error is therefore taken before the rectifier. This is never below the mean squared
    error, equal to it wherever no output is wrongly silent, and convex in the output.
    """
    if not approximator.is_rectified:
        return mean_squared_error(approximator, stimuli, rates)
    output = jax.vmap(approximator.linear_output)(stimuli)
    return jnp.mean(jnp.where(rates > 0, output - rates, jax.nn.relu(output)) ** 2)


def train(
    approximator: TwoLayer,
    stimuli: Float[Array, "batch stimulus"],
    rates: Float[Array, "batch rate"],
    *,
    num_steps: int = 20_000,
    batch_size: int = 256,
    optimizer: optax.GradientTransformation | None = None,
    validation_fraction: float = 0.1,
    num_evaluations: int = 20,
    progress: bool = False,
    key: PRNGKeyArray,
) -> TrainingRun:
    """Minimize the squared error in minibatches, and keep the approximator that validates best.

    Every stretch between two evaluations is one compiled loop.

    Args:
        approximator: where to start.
        stimuli: one a row.
        rates: the steady rates, one row a stimulus.
        num_steps: optimizer steps; rounded up to a multiple of `num_evaluations`.
        batch_size: samples in a minibatch, drawn with replacement.
        optimizer: any optax optimizer, by default Adam from 1e-2 down along a half cosine.
        validation_fraction: share of the pairs that is held out to choose the best evaluation.
        num_evaluations: how often to evaluate.
        progress: whether to show a progress bar, on standard error.
        key: a PRNG key: the split and the minibatches.

    Raises:
        ValueError: if the pairs do not fit each other or the approximator, or an option is out of range.
    """
    check_pairs(stimuli, rates)
    for name, value in [
        ("num_steps", num_steps),
        ("batch_size", batch_size),
        ("num_evaluations", num_evaluations),
    ]:
        check_at_least(name, value, 1)
    check_fraction("validation_fraction", validation_fraction)
    check_at_least("number of pairs", len(stimuli), 2)
    num_evaluations = min(num_evaluations, num_steps)
    interval = -(-num_steps // num_evaluations)
    if optimizer is None:
        optimizer = adam(1e-2, interval * num_evaluations)

    order = jr.permutation(key_for(key, "split"), len(stimuli))
    num_held_out = min(max(1, round(validation_fraction * len(stimuli))), len(stimuli) - 1)
    held_out, kept = order[:num_held_out], order[num_held_out:]
    training, validation = (stimuli[kept], rates[kept]), (stimuli[held_out], rates[held_out])

    opt_state = optimizer.init(eqx.filter(approximator, eqx.is_inexact_array))
    best, best_evaluation, best_error = approximator, 0, float("inf")
    training_errors, validation_errors = [], []
    bar = tqdm(range(num_evaluations), desc="training", unit="evaluation", disable=not progress)
    for i in bar:
        interval_key = jr.fold_in(key_for(key, "minibatches"), i)
        approximator, opt_state, error = _train_interval(
            approximator, opt_state, optimizer, training, interval, batch_size, interval_key
        )
        training_errors.append(error)
        validation_errors.append(_validate(approximator, *validation))
        if validation_errors[-1] < best_error:
            best, best_evaluation, best_error = approximator, i, validation_errors[-1]
        bar.set_postfix(validation=f"{validation_errors[-1]:.3g}")
    return TrainingRun(
        approximator=best,
        best_evaluation=best_evaluation,
        steps=interval * jnp.arange(1, num_evaluations + 1),
        training_errors=jnp.stack(training_errors),
        validation_errors=jnp.stack(validation_errors),
    )


_validate = eqx.filter_jit(mean_squared_error)


@eqx.filter_jit
def _train_interval(approximator, opt_state, optimizer, training, num_steps, batch_size, key):
    stimuli, rates = training
    arrays, static = eqx.partition(approximator, eqx.is_array)

    def step(carry, key):
        arrays, opt_state = carry
        approximator = eqx.combine(arrays, static)
        rows = jr.randint(key, (batch_size,), 0, len(stimuli))
        error, gradient = eqx.filter_value_and_grad(surrogate_error)(approximator, stimuli[rows], rates[rows])
        weights = eqx.filter(approximator, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix step counts and floats
            updates, opt_state = optimizer.update(gradient, opt_state, weights)
        approximator = eqx.apply_updates(approximator, updates)
        return (eqx.filter(approximator, eqx.is_array), opt_state), error

    (arrays, opt_state), errors = jax.lax.scan(step, (arrays, opt_state), jr.split(key, num_steps))
    return eqx.combine(arrays, static), opt_state, errors.mean()
