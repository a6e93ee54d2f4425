"""Optimizers, in the units of the data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rnn2ff.approximators import Trainable, TwoLayer, trainable


def adam(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Adam, with a learning rate that falls to zero along a half cosine."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))


def muon(
    approximator: Trainable,
    stimuli: Float[Array, "batch stimulus"],
    rates: Float[Array, "batch rate"],
    *,
    num_steps: int,
    learning_rate: float | None = None,
) -> optax.GradientTransformation:
    """Muon for weight matrices and Adam for all else, falling to zero along a half cosine, in the data's own units.

    Both optimizers take steps of a size that does not depend on that of the gradient. So they are scaled here by the
    sizes of stimuli and rates, and a change of units changes nothing.

    Args:
        approximator: what is to be trained.
        stimuli: what it is trained on.
        rates: what it is trained on.
        num_steps: until the learning rate is zero.
        learning_rate: the first, for hidden units, stimuli and rates of size 1; by default 2e-2, less in proportion
            for more than 32 channels, and 5e-3 through sweeps and steps, which are good from the start.

    References:
        Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """
    if learning_rate is None:
        learning_rate = 2e-2 * min(1, 32 / stimuli.shape[1]) if isinstance(approximator, TwoLayer) else 5e-3
    stimulus_size, rate_size = (float(jnp.sqrt(jnp.mean(each**2))) or 1.0 for each in (stimuli, rates))
    scales = {
        "hidden_weights": 1 / stimulus_size,
        "readout_weights": rate_size,
        "readout_bias": rate_size,
        "bypass_weights": rate_size / stimulus_size,
        "stimulus_weights": rate_size / stimulus_size,
        "bias": rate_size,
    }
    weights, _ = eqx.partition(approximator, trainable(approximator))
    names = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].name, weights)
    is_matrix = jax.tree.map(lambda leaf, name: leaf.ndim == 2 and name.endswith("weights"), weights, names)
    dimensions = jax.tree.map(lambda chosen: optax.contrib.MuonDimensionNumbers() if chosen else None, is_matrix)

    def times(factor):
        """Multiply by the size of each array's own steps, or by its inverse for what a step is made from."""
        return optax.stateless(lambda updates, _: jax.tree.map(lambda each, name: each * factor(name), updates, names))

    # Gradients of the error in units of the rates' own size, by weights in units of theirs.
    in_own_units = times(lambda name: scales.get(name, 1.0) / rate_size**2)
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    steps = optax.chain(
        in_own_units,
        optax.clip_by_global_norm(1.0),
        # A function, because optax would call an approximator given as a tree.
        optax.contrib.muon(schedule, muon_weight_dimension_numbers=lambda _: dimensions),
        times(lambda name: scales.get(name, 1.0)),
    )
    # Sweeps carry an unlucky sample far off, beyond all numbers at the worst: clip it, or leave its minibatch out.
    return optax.apply_if_finite(steps, max_consecutive_errors=num_steps)
