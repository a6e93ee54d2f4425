"""Sweeps by the velocity, for any vector field.

The damped sweep is `x+ = x + s tau dx/dt`. The mean-Jacobian sweep is `x+ = x + P dx/dt`, where P is the negative
inverse of the mean Jacobian at sampled steady states; for a network with weights it is again the split sweep.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Scalar

from rnn2ff._checks import check_positive_numbers, fail
from rnn2ff.networks.base import RecurrentNetwork, as_samples
from rnn2ff.networks.rate import RateNetwork
from rnn2ff.networks.spectra import blas_threads
from rnn2ff.networks.sweeps import LARGEST_CONDITION, AbstractSweep, SplitSweep, mean_slope_sweep


class AbstractVelocitySweep(AbstractSweep):
    """A sweep by the velocity, for any vector field: its points are states, and its drive is the stimulus."""

    def drive(self, network: RecurrentNetwork, stimulus: Float[Array, " stimulus"]) -> Float[Array, " stimulus"]:
        """The stimulus itself."""
        return stimulus

    def to_state(self, network: RecurrentNetwork, point: Float[Array, " state"]) -> Float[Array, " state"]:
        """Points are states."""
        return point

    def from_state(
        self, network: RecurrentNetwork, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
    ) -> Float[Array, " state"]:
        """Points are states."""
        return state


class DampedSweep(AbstractVelocitySweep):
    """`x+ = x + s tau dx/dt`, for any vector field; made by `damped_sweep`."""

    step: Scalar  # s, in units of each unit's time constant
    velocity_per_step: Scalar  # `1 / s`

    def start(self, network: RecurrentNetwork, drive: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """Zero."""
        return jnp.zeros(network.state_size, drive.dtype)

    def __call__(
        self, network: RecurrentNetwork, drive: Float[Array, " stimulus"], point: Float[Array, " state"]
    ) -> Float[Array, " state"]:
        """One evaluation of the velocity."""
        return point + self.step * network.time_constants * network.velocity(point, drive)


class JacobianSweep(AbstractVelocitySweep):
    """`x+ = x + P dx/dt`, for any vector field; made by `mean_jacobian_sweep`."""

    velocity_map: Float[Array, "state state"]  # P, transposed
    # The derivative of the mean linearization's steady state with respect to the stimulus, transposed.
    stimulus_map: Float[Array, "stimulus state"]
    offset: Float[Array, " state"]  # that steady state for a stimulus of zero
    velocity_per_step: Scalar  # the largest row norm of `tau P^-1`

    def start(self, network: RecurrentNetwork, drive: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """The steady state of the mean linearization."""
        return drive @ self.stimulus_map + self.offset

    def __call__(
        self, network: RecurrentNetwork, drive: Float[Array, " stimulus"], point: Float[Array, " state"]
    ) -> Float[Array, " state"]:
        """One evaluation of the velocity, and a matrix product."""
        return point + network.velocity(point, drive) @ self.velocity_map


def damped_sweep(network: RecurrentNetwork, step: float = 1.0) -> DampedSweep:
    """The damped sweep, `x+ = x + s tau dx/dt`.

    Args:
        network: any network.
        step: s, positive; 1 is the plain fixed-point iteration of a rate network.

    Raises:
        ValueError: if `step` is not positive.
    """
    check_positive_numbers(step=step)
    return DampedSweep(jnp.asarray(step, network.dtype), jnp.asarray(1 / step, network.dtype))


def mean_jacobian_sweep(
    network: RecurrentNetwork, states: Float[ArrayLike, "batch state"], stimuli: Float[ArrayLike, "batch stimulus"]
) -> JacobianSweep:
    """The sweep with the mean Jacobian of sampled steady states, for any vector field.

    Args:
        network: any network.
        states: steady states, one per row.
        stimuli: their stimuli, one per row.

    Raises:
        ValueError: if the mean Jacobian is singular.
    """
    states, stimuli = as_samples(network, states, stimuli)
    by_state, by_stimulus = _mean_jacobians(network, states, stimuli)
    by_state, by_stimulus = np.asarray(by_state, np.float64), np.asarray(by_stimulus, np.float64)
    with blas_threads(network.state_size):
        condition = np.linalg.cond(by_state) if np.isfinite(by_state).all() else np.inf
        if not condition < LARGEST_CONDITION:
            expected = f"a condition number below {LARGEST_CONDITION:.0e}"
            raise fail("states", "have a singular mean Jacobian", expected, f"{condition:.1e}")
        inverse = -np.linalg.inv(by_state)
        stimulus_map = (inverse @ by_stimulus).T
    mean_state, mean_stimulus = (np.asarray(rows, np.float64).mean(axis=0) for rows in (states, stimuli))
    scaled = np.asarray(network.time_constants).reshape(-1, 1) * by_state
    offset = mean_state - mean_stimulus @ stimulus_map
    fields = inverse.T, stimulus_map, offset, np.linalg.norm(scaled, axis=1).max()
    return JacobianSweep(*jax.device_put([np.asarray(field, network.dtype, order="C") for field in fields]))


@eqx.filter_jit
def _mean_jacobians(network, states, stimuli):
    jacobians = jax.vmap(jax.jacfwd(network.velocity, argnums=(0, 1)))(states, stimuli)
    return jax.tree.map(lambda samples: samples.mean(axis=0), jacobians)


def best_sweep(
    network: RecurrentNetwork, states: Float[ArrayLike, "batch state"], stimuli: Float[ArrayLike, "batch stimulus"]
) -> SplitSweep | JacobianSweep:
    """The mean-slope sweep of a network with a weight matrix, and the mean-Jacobian sweep of any other.

    Args:
        network: any network.
        states: steady states, one per row.
        stimuli: their stimuli, one per row.

    Raises:
        ValueError: if what has to be inverted is singular.
    """
    make = mean_slope_sweep if isinstance(network, RateNetwork) else mean_jacobian_sweep
    return make(network, states, stimuli)
