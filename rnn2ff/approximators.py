"""The feed-forward network that replaces the solve, `r = [W2 [W1 u + b1]_+ + b2 (+ V u)]_+`.

Nothing here needs a solver, so a deployed approximator stays light.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from rnn2ff._checks import check_at_least


class TwoLayer(eqx.Module):
    """Two layers: hidden rectified units, and a readout.

    One pass costs `width * (stimulus + rate)` products, whatever the stimulus.

    Attributes:
        hidden_weights: W1.
        hidden_bias: b1.
        readout_weights: W2.
        readout_bias: b2.
        bypass_weights: V, straight from the stimulus to the rates, or None.
        is_rectified: whether the rates are rectified, as those of a threshold-linear network are.

    References:
        Muir, Feedforward approximations to dynamic recurrent network architectures, Neural Computation 30, 2018.
    """

    hidden_weights: Float[Array, "width stimulus"]
    hidden_bias: Float[Array, " width"]
    readout_weights: Float[Array, "rate width"]
    readout_bias: Float[Array, " rate"]
    bypass_weights: Float[Array, "rate stimulus"] | None
    is_rectified: bool = eqx.field(static=True)

    def __init__(
        self,
        stimulus_size: int,
        width: int,
        rate_size: int,
        *,
        is_rectified: bool = True,
        bypass: bool = False,
        key: PRNGKeyArray,
    ):
        """Random weights with variances that keep the scale of a standard normal stimulus (He et al., 2015).

        Args:
            stimulus_size: number of stimulus channels.
            width: number of hidden units.
            rate_size: number of rates.
            is_rectified: whether the output is rectified.
            bypass: whether there are linear weights from the stimulus to the output, zero at first.
            key: a PRNG key.

        Raises:
            ValueError: if a size is below 1.
        """
        check_at_least("stimulus_size", stimulus_size, 1)
        check_at_least("width", width, 1)
        check_at_least("rate_size", rate_size, 1)
        hidden_key, readout_key = jr.split(key)
        self.hidden_weights = jr.normal(hidden_key, (width, stimulus_size)) * (2 / stimulus_size) ** 0.5
        self.hidden_bias = jnp.zeros(width)
        self.readout_weights = jr.normal(readout_key, (rate_size, width)) * (1 / width) ** 0.5
        self.readout_bias = jnp.zeros(rate_size)
        self.bypass_weights = jnp.zeros((rate_size, stimulus_size)) if bypass else None
        self.is_rectified = is_rectified

    def __call__(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " rate"]:
        """The predicted rates for one stimulus."""
        total = self.linear_output(stimulus)
        return jax.nn.relu(total) if self.is_rectified else total

    def linear_output(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " rate"]:
        """The output before its rectifier."""
        hidden = jax.nn.relu(self.hidden_weights @ stimulus + self.hidden_bias)
        total = self.readout_weights @ hidden + self.readout_bias
        return total if self.bypass_weights is None else total + self.bypass_weights @ stimulus

    @property
    def stimulus_size(self) -> int:
        """Number of stimulus channels."""
        return self.hidden_weights.shape[1]

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return self.hidden_weights.shape[0]

    @property
    def rate_size(self) -> int:
        """Number of rates."""
        return self.readout_weights.shape[0]


@eqx.filter_jit
def predict(approximator: TwoLayer, stimuli: Float[Array, "batch stimulus"]) -> Float[Array, "batch rate"]:
    """The approximator's rates for a batch, in one compiled pass."""
    return jax.vmap(approximator)(stimuli)
