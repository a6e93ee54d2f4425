"""Feed-forward networks that replace a solve: two layers, `r = [W2 [W1 u + b1]_+ + b2 (+ V u)]_+`, or with sweeps.

Nothing here loads a solver, so that a deployed approximator stays light.
"""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnn2ff._checks import check_at_least, check_key, check_one_stimulus, check_sizes, fail
from rnn2ff.networks import AbstractSweep, RecurrentNetwork, has_rectified_rates

_TILE_BYTES = 4 * 2**20  # of the hidden layer of a tile, to fit into a CPU's cache
_SMALLEST_TILE = 256  # rows; products of fewer rows are slow in themselves


@functools.partial(jax.jit, static_argnums=(0, 1, 2))  # otherwise each operation is a program
def _random_layers(stimulus_size: int, width: int, rate_size: int, key: PRNGKeyArray) -> tuple:
    """Weights and biases of the hidden layer and of the readout."""
    hidden_key, readout_key = jr.split(key)
    hidden_weights = jr.normal(hidden_key, (width, stimulus_size)) * (2 / stimulus_size) ** 0.5
    readout_weights = jr.normal(readout_key, (rate_size, width)) * (1 / max(width, 1)) ** 0.5
    return (hidden_weights, jnp.zeros(width)), (readout_weights, jnp.zeros(rate_size))


class TwoLayer(eqx.Module):
    """Two layers: hidden rectified units, and a readout.

    One pass costs `width * (stimulus + rate)` products, for every stimulus.

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
        """Random weights with variances that preserve the scale of a standard normal stimulus (He et al., 2015).

        Args:
            stimulus_size: number of stimulus channels.
            width: number of hidden units; 0 for a constant output, to be followed by sweeps.
            rate_size: number of rates.
            is_rectified: whether the output is rectified.
            bypass: whether there are linear weights from the stimulus to the output, zero at first.
            key: a PRNG key.

        Raises:
            ValueError: if a size is below 1, or the width below 0.
        """
        check_sizes(stimulus_size=stimulus_size, rate_size=rate_size)
        check_at_least("width", width, 0)
        check_key(key)
        (self.hidden_weights, self.hidden_bias), (self.readout_weights, self.readout_bias) = _random_layers(
            stimulus_size, width, rate_size, key
        )
        self.bypass_weights = jnp.zeros((rate_size, stimulus_size)) if bypass else None
        self.is_rectified = is_rectified

    def __call__(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " rate"]:
        """The predicted rates for one stimulus."""
        total = self.linear_output(stimulus)
        return jax.nn.relu(total) if self.is_rectified else total

    def linear_output(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " rate"]:
        """The output before its rectifier."""
        check_one_stimulus(stimulus, self.stimulus_size)
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
    def num_products(self) -> int:
        """Products of a weight and an activity in one call."""
        bypass = 0 if self.bypass_weights is None else self.stimulus_size
        return self.width * (self.stimulus_size + self.rate_size) + bypass * self.rate_size

    @property
    def rate_size(self) -> int:
        """Number of rates."""
        return self.readout_weights.shape[0]


class Refined(eqx.Module):
    """Two layers that predict the steady state, and a fixed number of sweeps that improve the prediction.

    A sweep is one step of the solvers, with the weights of the network itself, so it corrects errors that no width
    removes. The step sizes are trained, one for each sweep and unit, and the first pass is trained *through* the
    sweeps, toward states from which they converge well. In the coordinates of the sweep (the total input to each unit,
    for a network with weights; otherwise the state) one call is, for one stimulus u,

        x_0 = start(u) + two_layer(u)
        x_(t+1) = x_t + a_t (sweep(x_t) - x_t) + c_t (x_t - x_(t-1)),    t = 0 .. num_sweeps - 1,    x_(-1) = x_0
        r = rates(to_state(x_num_sweeps)),

    where products of vectors are taken unit by unit. In full, for a `SplitSweep`, with `h = B u + b`
    (`network.params.feedforward_input(u)`) and the network's nonlinearity phi,

        start(u) = h @ sweep.drive_map + sweep.offset
        two_layer(u) = readout_weights @ relu(hidden_weights @ u + hidden_bias) + readout_bias (+ bypass_weights @ u)
        sweep(x) = h @ sweep.drive_map + (phi(x) - sweep.slopes * x) @ sweep.recurrent_map
        rates = phi(x),

    and for a `JacobianSweep`, `start(u) = u @ sweep.stimulus_map + sweep.offset` and
    `sweep(x) = x + velocity(x, u) @ sweep.velocity_map`. With N units, M channels and width H, a call costs
    `H (M + N) + (num_sweeps + 1) N^2` products.

    Attributes:
        two_layer: the first pass, not rectified, which is added to the initial guess of the sweep.
        step_sizes: a, one row per sweep; 1 is the plain sweep.
        momenta: c, one row per sweep; 0 is the plain sweep. The first row has no effect.
        sweep: the step; held constant in training.
        network: the recurrent network, whose nonlinearity and weights the sweep uses; held constant in training.
        is_rectified: whether the rates are rectified points.
    """

    two_layer: TwoLayer
    step_sizes: Float[Array, "sweeps state"]
    momenta: Float[Array, "sweeps state"]
    sweep: AbstractSweep
    network: RecurrentNetwork
    is_rectified: bool = eqx.field(static=True)

    def __init__(self, two_layer: TwoLayer, network: RecurrentNetwork, sweep: AbstractSweep, *, num_sweeps: int):
        """A first pass, and sweeps with step sizes of 1 and momenta of 0.

        Args:
            two_layer: from stimuli to points, not rectified.
            network: the network whose steady states are approximated.
            sweep: of that network; `best_sweep` makes it.
            num_sweeps: how many, at least 1.

        Raises:
            ValueError: if the two layers are rectified or do not fit the network, or `num_sweeps` is below 1.
        """
        check_at_least("num_sweeps", num_sweeps, 1)
        received = (two_layer.stimulus_size, two_layer.rate_size)
        if received != (network.stimulus_size, network.state_size):
            expected = f"{network.stimulus_size} channels and an output for each of {network.state_size} units"
            raise fail("two_layer", "does not fit the network", expected, f"{received[0]} and {received[1]}")
        if two_layer.is_rectified:
            raise fail("two_layer", "is rectified", "`is_rectified=False`, as points may be negative", "True")
        self.two_layer = two_layer
        shape = (num_sweeps, network.state_size)
        self.step_sizes, self.momenta = jax.device_put((np.ones(shape, network.dtype), np.zeros(shape, network.dtype)))
        self.sweep = sweep
        self.network = network
        self.is_rectified = has_rectified_rates(network)

    def __call__(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " rate"]:
        """The predicted rates for one stimulus."""
        return self._rates(self.point(stimulus))

    def state(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """The predicted steady state for one stimulus."""
        return self.sweep.to_state(self.network, self.point(stimulus))

    def point(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """The predicted steady state in the coordinates of the sweep."""
        check_one_stimulus(stimulus, self.stimulus_size)
        drive = self.sweep.drive(self.network, stimulus)
        point = before = self.sweep.start(self.network, drive) + self.two_layer(stimulus)
        for step_size, momentum in zip(self.step_sizes, self.momenta):
            step = self.sweep(self.network, drive, point) - point
            before, point = point, point + step_size * step + momentum * (point - before)
        return point

    def linear_output(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " rate"]:
        """The rates before their rectifier, where `is_rectified`."""
        point = self.point(stimulus)
        return self._rates(point) - self._rates(-point)  # [x]_+ - [-x]_+ = x, also where rates are a part of the units'

    def _rates(self, point: Float[Array, " state"]) -> Float[Array, " rate"]:
        return self.network.rates(self.sweep.to_state(self.network, point))

    def lengthened(self, num_sweeps: int) -> "Refined":
        """A copy with more sweeps after the present ones; the new ones have step sizes of 1 and momenta of 0.

        Raises:
            ValueError: if `num_sweeps` is below the present number.
        """
        check_at_least("num_sweeps", num_sweeps, self.num_sweeps)
        if num_sweeps == self.num_sweeps:
            return self
        new = (num_sweeps - self.num_sweeps, self.network.state_size)
        sizes = jnp.concatenate([self.step_sizes, jnp.ones(new, self.step_sizes.dtype)])
        momenta = jnp.concatenate([self.momenta, jnp.zeros(new, self.momenta.dtype)])
        return eqx.tree_at(lambda refined: (refined.step_sizes, refined.momenta), self, (sizes, momenta))

    @property
    def num_sweeps(self) -> int:
        """Number of sweeps after the first pass."""
        return self.step_sizes.shape[0]

    @property
    def stimulus_size(self) -> int:
        """Number of stimulus channels."""
        return self.network.stimulus_size

    @property
    def num_products(self) -> int:
        """Products of a weight and an activity in one call, including those of the sweeps."""
        return self.two_layer.num_products + (self.num_sweeps + 1) * self.network.state_size**2

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return self.two_layer.width

    @property
    def rate_size(self) -> int:
        """Number of rates."""
        return self.network.rate_size


Approximator = TwoLayer | Refined


def trainable(approximator: Approximator) -> PyTree:
    """What training changes, for `eqx.partition`: the two layers, step sizes and momenta; not the network."""
    if isinstance(approximator, TwoLayer):
        return eqx.is_inexact_array
    constant = jax.tree.map(lambda _: False, approximator)
    return eqx.tree_at(
        lambda refined: (refined.two_layer, refined.step_sizes, refined.momenta), constant, 3 * (eqx.is_inexact_array,)
    )


@eqx.filter_jit
def predict(approximator: Approximator, stimuli: Float[Array, "batch stimulus"]) -> Float[Array, "batch rate"]:
    """The approximator's rates for a batch, in one compiled pass.

    On a CPU, large batches are computed in tiles of rows, so that the hidden layer stays in the cache.
    """
    num_rows = max(_SMALLEST_TILE, _TILE_BYTES // (max(approximator.width, 1) * stimuli.dtype.itemsize))
    whole = jax.vmap(approximator)
    if len(stimuli) < 2 * num_rows:
        return whole(stimuli)
    in_tiles = functools.partial(jax.lax.map, approximator, batch_size=num_rows)
    return jax.lax.platform_dependent(stimuli, cpu=in_tiles, default=whole)
