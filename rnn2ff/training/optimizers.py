"""Optimizers, in the units of the data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree, Scalar

from rnn2ff.approximators import Approximator, TwoLayer
from rnn2ff.compiling import in_full_precision

# Polynomials that bring the singular values of a step to 1. For two layers, three of the first kind achieve what five
# of the second do in 3/5 of the time, which dominates the training of many units. Through sweeps, five are better.
_THREE_STEPS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115951949, 0.5518191394370137),
)
_FIVE_STEPS = 5 * ((3.4445, -4.7750, 2.0315),)
_SMALLEST_NORM = 1e-8  # of a gradient that is brought to order 1; as in optax. Below it, steps fade out
_MOMENTUM = 0.95  # of matrices; as in the reference of `muon`
# The first learning rate at jumps. Of .012, .024 and .04 the second was best for 4 partitions (a = 1.1 and 1.3) after
# 10,000 steps, and .04 gave 1 % less error for 16 partitions (a = 1.1). It was .024 after 3,000 steps as well.
_RATE_AT_JUMPS = 2.4e-2
# Size of a hidden unit's readout weights, in units of the rates, above which its own steps are shortened. Of 1, 2 and
# 4, 2 was best, or nearly so, for five hard competitions. For networks without jumps such steps are no better, and
# worse for a model of relations (2.4 % instead of 2.1).
_LARGE_READOUT = 2.0


def muon(
    approximator: Approximator,
    stimuli: Float[Array, "batch stimulus"],
    rates: Float[Array, "batch rate"],
    *,
    num_steps: int,
    at_jumps: bool = False,
) -> optax.GradientTransformation:
    """Muon for weight matrices and Adam for all else, falling to zero along a half cosine, in the data's own units.

    Both optimizers take steps whose size does not depend on that of the gradient. They are scaled by the root mean
    squares of stimuli and rates, so that results do not depend on units. For hidden units, stimuli and rates of size 1,
    the initial learning rate is 2e-2, less in proportion if there are more than 32 channels and more than 128 hidden
    units, and up to twice that for fewer than 2,000 steps; 5e-3 through sweeps, which are good from the start; and
    2.4e-2 at jumps.

    Args:
        approximator: to be trained.
        stimuli: of the training.
        rates: of the training.
        num_steps: until the learning rate is zero.
        at_jumps: for two layers alone, whether hidden units are initialized where rates jump. Their readout weights are
            large; the steps of a hidden unit are shortened in inverse proportion, so that outputs change equally.

    References:
        Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; for two layers with polynomials of
        Amsel et al., The Polar Express: optimal matrix sign methods and their application to Muon, arXiv 2505.16932.
    """
    learning_rate = _RATE_AT_JUMPS if at_jumps else _usual_learning_rate(approximator, stimuli.shape[1], num_steps)
    polynomials = _THREE_STEPS if isinstance(approximator, TwoLayer) else _FIVE_STEPS
    scales = (float(np.sqrt(np.mean(np.asarray(values) ** 2))) or 1.0 for values in (stimuli, rates))
    numbers = jax.device_put([np.asarray(value, rates.dtype) for value in (*scales, learning_rate, num_steps)])
    recipe = _ScaledMuon(*numbers, polynomials, at_jumps)
    return optax.GradientTransformation(recipe.init, recipe.update)


def _usual_learning_rate(approximator: Approximator, num_channels: int, num_steps: int) -> float:
    if not isinstance(approximator, TwoLayer):
        return 5e-3
    shortness = max(1, min((2_000 / num_steps) ** 0.5, 2))
    # Up to four hidden units per channel, fewer units start further from the optimum, and need larger steps.
    # The final error depends little on the rate: with a quarter to twice of it, with four times the steps, and from
    # random hidden units, 128 of them have errors of 13.4 to 13.6 % on 32 random units (gain .9).
    size_factor = min(1, max(32 / num_channels, 128 / max(approximator.width, 1)))
    return 2e-2 * size_factor * shortness


class _ScaledMuon(eqx.Module):
    """Muon, as a pytree whose numbers are arguments of a compiled training."""

    stimulus_scale: Scalar  # root mean square of the stimuli
    rate_scale: Scalar  # of the rates
    learning_rate: Scalar
    num_steps: Scalar
    polynomials: tuple[tuple[float, float, float], ...] = eqx.field(static=True)
    at_jumps: bool = eqx.field(static=True)

    def init(self, weights: PyTree) -> PyTree:
        return self._steps(weights).init(weights)

    def update(self, updates: PyTree, state: PyTree, weights: PyTree) -> tuple[PyTree, PyTree]:
        return self._steps(weights).update(updates, state, weights)

    def _steps(self, weights: PyTree) -> optax.GradientTransformation:
        scales = {
            "hidden_weights": 1 / self.stimulus_scale,
            "readout_weights": self.rate_scale,
            "readout_bias": self.rate_scale,
            "bypass_weights": self.rate_scale / self.stimulus_scale,
        }
        names = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].name, weights)
        kinds = jax.tree.map(
            lambda leaf, name: "matrix" if leaf.ndim == 2 and leaf.size and name.endswith("weights") else "other",
            weights,
            names,
        )

        def times(factor):
            """Multiply updates by a factor for each array."""
            return optax.stateless(
                lambda updates, _: jax.tree.map(lambda update, name: update * factor(name), updates, names)
            )

        def orthogonalize(updates, _):
            return jax.tree.map(lambda update: _orthogonalized(update, self.polynomials), updates)

        def schedule(count):
            return self.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / self.num_steps, 1)))

        for_matrices = optax.chain(optax.trace(_MOMENTUM, nesterov=True), optax.stateless(orthogonalize))
        by_kind = {"matrix": for_matrices, "other": optax.scale_by_adam(nesterov=True)}
        descent = optax.partition(by_kind, lambda _: kinds)  # optax would call an approximator passed as a tree

        def shorter_where_readout_is_large(updates, weights):
            size = jnp.linalg.norm(weights.readout_weights, axis=0) / self.rate_scale
            factor = _LARGE_READOUT / jnp.maximum(size, _LARGE_READOUT)
            factors = {"hidden_weights": factor[:, None], "hidden_bias": factor}
            return jax.tree.map(lambda update, name: update * factors.get(name, 1.0), updates, names)

        return optax.chain(
            # Gradients of the error, in units of the rates' scale, with respect to weights in theirs.
            times(lambda name: scales.get(name, 1.0) / self.rate_scale**2),
            _clipped_or_skipped(
                optax.chain(
                    descent,
                    optax.scale_by_learning_rate(schedule),
                    optax.stateless(shorter_where_readout_is_large) if self.at_jumps else optax.identity(),
                    times(lambda name: scales.get(name, 1.0)),
                )
            ),
        )


def _clipped_or_skipped(steps: optax.GradientTransformation) -> optax.GradientTransformation:
    """Limit the norm of the gradient to 1; change no weight if it is not finite.

    Sweeps can amplify single samples up to overflow. `optax.apply_if_finite` would keep all of the state as well, which
    takes longer; here the state goes on as after a gradient of zero.
    """

    def update(updates, state, weights):
        norm = optax.tree.norm(updates)
        is_finite = jnp.isfinite(norm)
        updates = jax.tree.map(lambda update: jnp.where(is_finite, update / jnp.maximum(norm, 1), 0), updates)
        updates, state = steps.update(updates, state, weights)
        return jax.tree.map(lambda update: jnp.where(is_finite, update, 0), updates), state

    return optax.GradientTransformation(steps.init, update)


@in_full_precision  # the first polynomials amplify rounding some hundred times
def _orthogonalized(
    matrix: Float[Array, "row column"], polynomials: tuple[tuple[float, float, float], ...]
) -> Float[Array, "row column"]:
    """A matrix with the same singular vectors, and singular values of order 1, times `sqrt(column / row)` if wide.

    With A the Gram matrix of a matrix X on its shorter side, each polynomial is `X <- (a + b A + c A^2) X`. Their
    product is formed first, from A, so that all but two matrix products have the shorter side only.
    """
    num_rows, num_columns = matrix.shape
    is_wide = num_rows <= num_columns
    gram = matrix @ matrix.T if is_wide else matrix.T @ matrix
    squared_norm = jnp.maximum(jnp.trace(gram), _SMALLEST_NORM**2)
    gram, matrix = gram / squared_norm, matrix * jax.lax.rsqrt(squared_norm)
    identity = jnp.eye(len(gram), dtype=gram.dtype)
    product = identity
    for i, (a, b, c) in enumerate(polynomials):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor if i == 0 else product @ factor
        if i < len(polynomials) - 1:
            gram = factor @ gram @ factor
    orthogonal = product @ matrix if is_wide else matrix @ product
    return max(1, num_columns / num_rows) ** 0.5 * orthogonal
