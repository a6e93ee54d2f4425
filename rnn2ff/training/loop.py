"""Fit an approximator to pairs of stimuli and steady rates, by gradient descent."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree
from tqdm.auto import tqdm

from rnn2ff._checks import (
    check_array,
    check_at_least,
    check_finite,
    check_fraction,
    check_key,
    check_on_host,
    check_stimuli,
    fail,
)
from rnn2ff.approximators import Approximator, trainable
from rnn2ff.compiling import jit_for_device
from rnn2ff.data import key_for, split_rows, take_rows
from rnn2ff.files import sealed, unsealed, write_whole
from rnn2ff.networks import as_floats
from rnn2ff.records import names_of_fields
from rnn2ff.steady_state import check_mesh, placed_on
from rnn2ff.training.further import last_draw
from rnn2ff.training.losses import Loss, mean_squared_error, rate_error
from rnn2ff.training.mixing import Mixing
from rnn2ff.training.nrmse import deviation_of
from rnn2ff.training.optimizers import muon
from rnn2ff.training.symmetries import Symmetries

_NUM_RELABELINGS = 1024  # symmetries that the steps between two evaluations share
_FEWEST_KEPT = 20  # errors, so that shorter trainings with intervals of the same length share a program


class TrainingRun(NamedTuple):
    """The end of a training.

    Attributes:
        approximator: from the evaluation with the smallest validation error.
        best_evaluation: which evaluation that was, from 0.
        steps: optimizer steps taken before each evaluation; the first is that of the given approximator.
        training_errors: the loss over the minibatches since the previous evaluation; NaN for the first.
        validation_errors: mean squared error on the validation part, at each evaluation.
    """

    approximator: Approximator
    best_evaluation: int
    steps: Int[Array, " evaluation"]
    training_errors: Float[Array, " evaluation"]
    validation_errors: Float[Array, " evaluation"]

    __dir__ = names_of_fields

    def __repr__(self) -> str:
        error = float(self.validation_errors[self.best_evaluation])
        best, last = int(self.steps[self.best_evaluation]), int(self.steps[-1])
        return f"TrainingRun({last} steps, smallest validation error {error:.3g} after {best} steps)"


def train(
    approximator: Approximator,
    stimuli: Float[Array, "batch stimulus"],
    rates: Float[Array, "batch rate"],
    *,
    num_steps: int = 10_000,
    batch_size: int = 256,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss = rate_error,
    symmetries: Symmetries | None = None,
    mixing: Mixing | None = None,
    further: Callable[[PRNGKeyArray], tuple[Array, Array]] | None = None,
    validation: tuple[Float[Array, "held_out stimulus"], Float[Array, "held_out rate"]] | None = None,
    validation_fraction: float = 0.1,
    num_evaluations: int = 20,
    checkpoint: str | Path | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    key: PRNGKeyArray,
) -> TrainingRun:
    """Minimize a loss on minibatches; keep the approximator that validates best, the given one included.

    The steps between two evaluations are one compiled loop. The validation pairs are never trained on or changed, and
    are judged by the mean squared error, whatever the loss.

    Args:
        approximator: the initial one; in a `Refined`, the network and the sweep are not trained.
        stimuli: one per row.
        rates: the steady rates, one row per stimulus.
        num_steps: optimizer steps; rounded up to a multiple of `num_evaluations`.
        batch_size: samples in a minibatch, drawn with replacement.
        optimizer: any optax optimizer, by default `muon`.
        loss: what to minimize.
        symmetries: relabels the pairs of each minibatch at random, in ways that keep them exact.
        mixing: makes fresh exact pairs from those of each minibatch.
        further: draws stimuli and rates of the same shapes, which replace the current ones at an evaluation if the
            validation error exceeds the training error by over 2 %, and pairs were used four times on average.
        validation: stimuli and rates that choose the best evaluation, by default a held-out part of the pairs. Give
            them if the approximator was initialized from the pairs, whose error is then biased.
        validation_fraction: that part's share.
        num_evaluations: how often to evaluate.
        checkpoint: a file that is written after each evaluation. If it exists, training resumes from it, and the final
            weights are the same as without the interruption.
        mesh: devices, such as `jax.make_mesh((4,), ("batch",))`, over all of which each minibatch is divided, whatever
            the axes; pairs and weights are replicated. Minibatches are the same as on one device, up to rounding, if
            `batch_size` is a multiple of the number of devices; if not, it is rounded up to one.
        progress: whether to show a progress bar, on standard error.
        key: a PRNG key, for the split and the minibatches.

    Raises:
        ValueError: if the pairs do not fit each other or the approximator, an option is out of range, or the checkpoint
            is damaged or of another training; or the mesh has devices of other processes.
    """
    check_on_host("train", "train with optax, or call it outside", approximator, stimuli, rates, key)
    check_key(key)
    mesh = check_mesh(mesh)
    stimuli, rates = _as_pairs(approximator, stimuli, rates)
    # Python's integers, since NumPy's overflow.
    num_steps = check_at_least("num_steps", num_steps, 1)
    batch_size = check_at_least("batch_size", batch_size, 1)
    num_evaluations = min(check_at_least("num_evaluations", num_evaluations, 1), num_steps)
    check_fraction("validation_fraction", validation_fraction)
    check_at_least("number of pairs", len(stimuli), 2)
    if validation is not None:
        validation = _as_pairs(approximator, *validation)
    interval = -(-num_steps // num_evaluations)
    if optimizer is None:
        optimizer = muon(approximator, stimuli, rates, num_steps=interval * num_evaluations)

    training = (stimuli, rates)
    if validation is None:
        kept, held_out = split_rows(len(stimuli), validation_fraction, key=key_for(key, "split"))
        training, validation = take_rows(training, kept), take_rows((stimuli, rates), held_out)

    weights, constants = eqx.partition(approximator, trainable(approximator))
    errors = np.full(max(num_evaluations, _FEWEST_KEPT) + 1, np.nan, rates.dtype)
    state = _begin(weights, optimizer, errors)
    batch_size = batch_size if mesh is None else -(-batch_size // mesh.devices.size) * mesh.devices.size
    task = _Task(loss, symmetries, mixing, mesh, batch_size, interval)
    fingerprint = ""
    if checkpoint is not None:
        arrays = weights, constants, training, validation, key
        fingerprint = _fingerprint(arrays, task, num_evaluations, further is not None)
        state = _restored(Path(checkpoint), state, fingerprint)

    deviation = deviation_of(validation[1])
    state, constants, training, *fixed = placed_on(mesh, (state, constants, training, optimizer, validation, task))
    desc = f"training {type(approximator).__name__}"
    bar = tqdm(range(int(state.num_done), num_evaluations), desc=desc, unit="evaluation", disable=not progress)
    bar.set_postfix_str("compiling")
    drawn = None  # the evaluation at which the present pairs were drawn
    for i in bar:
        interval_key = placed_on(mesh, jr.fold_in(key_for(key, "minibatches"), i))
        errors = state.training_errors, state.validation_errors
        last = None if further is None else last_draw(*errors, interval * batch_size, len(stimuli))
        if last != drawn:
            training = placed_on(mesh, further(jr.fold_in(key_for(key, "further pairs"), last)))
            drawn = last
        state = _train_interval(state, constants, training, *fixed, interval_key)
        if checkpoint is not None:
            _save(Path(checkpoint), state, fingerprint)
        error = np.sqrt(np.asarray(state.validation_errors)[i + 1])
        bar.set_postfix_str(f"error {100 * error / deviation:.3g} %" if deviation else f"error {error:.3g}")
    if mesh is not None:  # back to the default device
        state = jax.device_put(jax.device_get(state))
    return TrainingRun(
        approximator=eqx.combine(state.best, constants),
        best_evaluation=int(np.nanargmin(state.validation_errors)),
        steps=jax.device_put(interval * np.arange(num_evaluations + 1)),
        training_errors=jax.device_put(np.asarray(state.training_errors)[: num_evaluations + 1]),
        validation_errors=jax.device_put(np.asarray(state.validation_errors)[: num_evaluations + 1]),
    )


class _Progress(eqx.Module):
    """The state of a training at an evaluation."""

    weights: PyTree
    opt_state: PyTree
    best: PyTree
    num_done: Int[Array, ""]
    training_errors: Float[Array, " evaluation"]
    validation_errors: Float[Array, " evaluation"]


class _Task(eqx.Module):
    """What every step does."""

    loss: Loss = eqx.field(static=True)
    symmetries: Symmetries | None
    mixing: Mixing | None
    mesh: Mesh | None = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)

    def error(self, weights, constants, batch, relabelings, bits):
        """The loss of a minibatch, given random bits for each pair."""
        approximator = eqx.combine(weights, constants)
        stimuli, rates = batch
        if self.symmetries is not None:
            relabeling = relabelings[bits[0] % jnp.uint32(len(relabelings))]
            stimuli, rates = self.symmetries.relabel(stimuli, rates, relabeling)
        if self.mixing is not None:
            stimuli, rates = self.mixing(stimuli, rates, 2.0**-32 * bits[1].astype(stimuli.dtype))
        return self.loss(approximator, stimuli, rates)


def _begin(weights, optimizer, errors) -> _Progress:
    """The state before the first interval, whose program initializes the optimizer; until then, that is zeros."""

    def zeros(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # unknown to NumPy, with which nothing is compiled
        return jnp.zeros(leaf.shape, leaf.dtype) if is_key else jax.device_put(np.zeros(leaf.shape, leaf.dtype))

    opt_state = jax.tree.map(zeros, jax.eval_shape(optimizer.init, weights))
    num_done = np.zeros((), jax.dtypes.canonicalize_dtype(int))
    return _Progress(weights, opt_state, weights, *jax.device_put((num_done, errors, errors)))


def _started(state, constants, optimizer, validation) -> _Progress:
    """Initialize the optimizer and evaluate the given approximator, if no interval is done yet."""

    def start(state):
        error = mean_squared_error(eqx.combine(state.weights, constants), *validation)
        return optimizer.init(state.weights), state.validation_errors.at[0].set(error)

    def go_on(state):
        return state.opt_state, state.validation_errors

    opt_state, errors = jax.lax.cond(state.num_done == 0, start, go_on, state)
    return dataclasses.replace(state, opt_state=opt_state, validation_errors=errors)


@jit_for_device
def _train_interval(state, constants, training, optimizer, validation, task, key) -> _Progress:
    state = _started(state, constants, optimizer, validation)
    symmetry_key, step_key = jr.split(key)
    relabelings = None  # drawn once for all steps, since drawing takes longer than the rest of a step
    if task.symmetries is not None:
        relabelings = task.symmetries.draw(_NUM_RELABELINGS, key=symmetry_key)

    def step(carry, key):
        weights, opt_state = carry
        bits = jr.bits(key, (3, task.batch_size), jnp.uint32)  # in one draw: each compiles some twenty kernels
        # Random pairs; some are more probable, by less than the number of pairs over 2^32.
        rows = bits[0] % jnp.uint32(len(training[0]))
        batch = jax.tree.map(lambda leaf: leaf[rows], training)
        if task.mesh is not None:
            batch = jax.lax.with_sharding_constraint(batch, NamedSharding(task.mesh, P(task.mesh.axis_names)))
        error, gradient = eqx.filter_value_and_grad(task.error)(weights, constants, batch, relabelings, bits[1:])
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix step counts and floats
            updates, opt_state = optimizer.update(gradient, opt_state, weights)
        return (eqx.apply_updates(weights, updates), opt_state), error

    keys = jr.split(step_key, task.num_steps)
    (weights, opt_state), errors = jax.lax.scan(step, (state.weights, state.opt_state), keys)
    error = mean_squared_error(eqx.combine(weights, constants), *validation)
    is_best = error < jnp.nanmin(state.validation_errors)
    done = state.num_done + 1
    return _Progress(
        weights=weights,
        opt_state=opt_state,
        best=jax.tree.map(lambda new, old: jnp.where(is_best, new, old), weights, state.best),
        num_done=done,
        training_errors=state.training_errors.at[done].set(errors.mean()),
        validation_errors=state.validation_errors.at[done].set(error),
    )


def _as_pairs(approximator: Approximator, stimuli: ArrayLike, rates: ArrayLike) -> tuple[Array, Array]:
    """Stimuli and rates as floats, after checking that they fit each other, the approximator and the precision."""
    check_stimuli(stimuli, approximator.stimulus_size)
    check_array("rates", rates, (len(stimuli), approximator.rate_size))
    stimuli, rates = as_floats(stimuli), as_floats(rates)
    check_finite("stimuli", stimuli)  # large values may overflow in it
    check_finite("rates", rates)
    return stimuli, rates


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _fingerprint(arrays: PyTree, task: _Task, *others: object) -> str:
    """A hash of the data, the initial weights, the key and the options of a training."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(arrays):
        leaf = jr.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    options = (task.loss.__qualname__, task.batch_size, task.num_steps, *others)
    digest.update(f"{options}{jax.tree.leaves((task.symmetries, task.mixing))}".encode())
    return digest.hexdigest()


def _save(path: Path, state: _Progress, fingerprint: str) -> None:
    content = io.BytesIO()
    eqx.tree_serialise_leaves(content, state)
    write_whole(path, fingerprint.encode() + sealed(content.getvalue()))


def _restored(path: Path, state: _Progress, fingerprint: str) -> _Progress:
    """The state of a checkpoint, or the given one if there is no checkpoint."""
    if not path.exists():
        return state
    content = path.read_bytes()
    if not content.startswith(fingerprint.encode()):
        expected = "a checkpoint of this training, with the same data, options and key"
        raise fail("checkpoint", "is of another training", expected, f"{path}")
    leaves = unsealed(content[len(fingerprint) :])
    if leaves is None:
        raise fail("checkpoint", "is damaged", "a whole file", f"{path}")
    return eqx.tree_deserialise_leaves(io.BytesIO(leaves), state)
