"""One fixed-cost step toward the steady state, the same for every stimulus.

The split sweep is for networks with a weight matrix. Writing `x = W phi(x) + h` as `(I - W D) x = h + W (phi(x) - D x)`
and inverting the left side once per network gives

    x+ = P h + P W (phi(x) - D x),    P = (I - W D)^-1,

one matrix product per sweep. With D the mean slopes of the units, the remaining nonlinear part is small.

Solvers, refinement and approximators share these steps.
"""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Scalar

from rnn2ff._checks import check_units, fail, is_known
from rnn2ff.networks.base import RecurrentNetwork, as_samples
from rnn2ff.networks.rate import RateNetwork, check_rate_network
from rnn2ff.networks.spectra import blas_threads

_NUM_AVERAGED = 512  # steady states whose slopes are averaged
LARGEST_CONDITION = 1e10  # of I - W D: 6 digits of float64 are left; beyond, a split counts as singular


class AbstractSweep(eqx.Module):
    """A step toward the steady state of one sample.

    A sweep works on its own coordinates: for a network with weights the total input to each unit, which is the state of
    the state form, otherwise the state.

    Attributes:
        velocity_per_step: about the ratio of `max |tau dx/dt|` to the largest entry of a step.
    """

    velocity_per_step: eqx.AbstractVar[Scalar]

    @abstractmethod
    def drive(self, network: RecurrentNetwork, stimulus: Float[Array, " stimulus"]) -> Float[Array, " drive"]:
        """What the sweeps need to know about the stimulus, computed once."""

    @abstractmethod
    def start(self, network: RecurrentNetwork, drive: Float[Array, " drive"]) -> Float[Array, " state"]:
        """An initial guess."""

    @abstractmethod
    def __call__(
        self, network: RecurrentNetwork, drive: Float[Array, " drive"], point: Float[Array, " state"]
    ) -> Float[Array, " state"]:
        """One step."""

    @abstractmethod
    def to_state(self, network: RecurrentNetwork, point: Float[Array, " state"]) -> Float[Array, " state"]:
        """The network's state at a point."""

    @abstractmethod
    def from_state(
        self, network: RecurrentNetwork, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
    ) -> Float[Array, " state"]:
        """The point that corresponds to a state."""


class SplitSweep(AbstractSweep):
    """`x+ = P h + P W (phi(x) - D x)`; made by `split_sweep` or `mean_slope_sweep`."""

    slopes: Float[Array, " state"]  # the diagonal of D
    drive_map: Float[Array, "state state"]  # P, transposed
    recurrent_map: Float[Array, "state state"]  # P W, transposed
    offset: Float[Array, " state"]  # added to `P h` for an initial guess
    velocity_per_step: Scalar  # the largest row norm of `I - W D`

    def drive(self, network: RecurrentNetwork, stimulus: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """`P (B u + b)`."""
        return network.params.feedforward_input(stimulus) @ self.drive_map

    def start(self, network: RecurrentNetwork, drive: Float[Array, " state"]) -> Float[Array, " state"]:
        """The fixed point if every unit had its mean slope."""
        return drive + self.offset

    def __call__(
        self, network: RecurrentNetwork, drive: Float[Array, " state"], point: Float[Array, " state"]
    ) -> Float[Array, " state"]:
        """One matrix product."""
        return drive + (network.nonlinearity(point) - self.slopes * point) @ self.recurrent_map

    def to_state(self, network: RecurrentNetwork, point: Float[Array, " state"]) -> Float[Array, " state"]:
        """Points are total inputs."""
        return network.state_from_total_input(point)

    def from_state(
        self, network: RecurrentNetwork, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
    ) -> Float[Array, " state"]:
        """The total input in a state."""
        return network.total_input(state, stimulus)


def split_sweep(network: RecurrentNetwork, mean_slopes: Float[Array, " state"] | float = 0.5) -> SplitSweep:
    """The split sweep with given slopes D, by default 1/2, the middle of a rectifier's.

    Args:
        network: a network with a weight matrix.
        mean_slopes: the diagonal of D.

    Raises:
        ValueError: if the network has no weight matrix, or `I - W D` is singular.
    """
    network = check_rate_network(network)
    dtype, size = network.dtype, network.state_size
    check_units("mean_slopes", mean_slopes, size)
    weights = network.dense_weights
    xp, working_dtype = (np, np.float64) if is_known(weights) else (jnp, dtype)  # once per network: in full precision
    weights = xp.asarray(weights, working_dtype)
    diagonal = xp.broadcast_to(xp.asarray(mean_slopes, working_dtype), (size,))
    matrix = xp.eye(size, dtype=working_dtype) - weights * diagonal[None, :]
    with blas_threads(size), np.errstate(invalid="ignore"):
        try:
            inverse = xp.linalg.inv(matrix)
        except np.linalg.LinAlgError:
            inverse = np.full_like(matrix, np.inf)
        if xp is np:
            condition = np.abs(matrix).sum(1).max() * np.abs(inverse).sum(1).max()
            if not condition < LARGEST_CONDITION:
                expected = f"a condition number below {LARGEST_CONDITION:.0e}"
                raise fail("mean_slopes", "make a singular split I - W D", expected, f"{condition:.1e}")
        recurrent_map = inverse @ weights
    fields = diagonal, inverse.T, recurrent_map.T, xp.zeros(size), xp.max(xp.linalg.norm(matrix, axis=1))
    # Known values are converted on the host, where nothing is compiled.
    return SplitSweep(*jax.device_put([xp.asarray(field, dtype).copy() for field in fields]))


def mean_slope_sweep(
    network: RecurrentNetwork, states: Float[ArrayLike, "batch state"], stimuli: Float[ArrayLike, "batch stimulus"]
) -> SplitSweep:
    """The split sweep with the mean slopes of sampled steady states, started from their mean.

    Args:
        network: a network with a weight matrix.
        states: steady states, one per row.
        stimuli: their stimuli, one per row.

    Raises:
        ValueError: if the network has no weight matrix, or `I - W D` is singular.
    """
    network = check_rate_network(network)
    states, stimuli = as_samples(network, states, stimuli)
    num_rows = len(states)
    if all(map(is_known, (states, stimuli))):  # a fixed number of rows, so that it is compiled once
        num_rows = min(num_rows, _NUM_AVERAGED)
        rows = np.minimum(np.arange(_NUM_AVERAGED), num_rows - 1)
        states, stimuli = np.asarray(states)[rows], np.asarray(stimuli)[rows]
    shares = np.where(np.arange(len(states)) < num_rows, 1 / num_rows, 0).astype(network.dtype)
    mean_slopes, rest = _mean_slopes(network, states, stimuli, shares)
    sweep = split_sweep(network, mean_slopes)
    xp = np if is_known(rest) else jnp  # on the host nothing is compiled
    offset = xp.asarray(rest) @ xp.asarray(sweep.recurrent_map)
    return eqx.tree_at(lambda sweep: sweep.offset, sweep, jax.device_put(offset))


@eqx.filter_jit
def _mean_slopes(network, states, stimuli, shares):
    """Mean slopes D at steady states with total inputs p, and the mean of `phi(p) - D p`."""
    points = jax.vmap(network.total_input)(states, stimuli)
    mean_slopes = shares @ jax.vmap(network.slopes)(points)
    return mean_slopes, shares @ jax.vmap(network.nonlinearity)(points) - mean_slopes * (shares @ points)


def to_point(
    network: RecurrentNetwork, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
) -> Float[Array, " state"]:
    """The coordinates of sweeps and searches: the total input to each unit; without a weight matrix, the state.

    In total inputs, unlike in rates, silent units of a rectified network are distinguished by their distance to
    threshold.
    """
    return network.total_input(state, stimulus) if isinstance(network, RateNetwork) else state


def to_state(network: RecurrentNetwork, point: Float[Array, " state"]) -> Float[Array, " state"]:
    """The state at a fixed point, from the coordinates of sweeps and searches."""
    return network.state_from_total_input(point) if isinstance(network, RateNetwork) else point
