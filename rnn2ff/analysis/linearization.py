"""How a network moves near a state: the eigenvalues there, and the velocities on a plane through it."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnn2ff._checks import check_at_least, check_finite, check_on_host, check_shape, check_stimulus, fail
from rnn2ff.analysis.newton import finite_jacobians
from rnn2ff.compiling import in_full_precision
from rnn2ff.networks import (
    RecurrentNetwork,
    eigenvalues_of,
    leading_eigenvalues,
    rates_of_map,
)

_LARGEST_DENSE = 1024  # units; beyond, only the leading eigenvalues are sought, by a Krylov method


class Linearization(NamedTuple):
    """The motion near one state, `dx/dt = J (x - x*)`; arrays on the host, in float64.

    Attributes:
        eigenvalues: of J, over time, the rightmost first; all of them, or the leading ones that a Krylov method found.
            Of a map the logarithms of those of its own Jacobian, `I + J`, which mean the same: decay or growth, and
            turns; minus infinity for what is gone after one step.
        jacobian: J, of the velocity, or None where it is too large to be made.
        spectral_radius: of `I + tau J`, the map `x+ = x + tau dx/dt`; of a map, that of its own Jacobian. None where J
            is not made.
    """

    eigenvalues: Complex[np.ndarray, " mode"]
    jacobian: Float[np.ndarray, "state state"] | None
    spectral_radius: float | None

    @property
    def spectral_abscissa(self) -> float:
        """The largest real part; below 0 small perturbations die out."""
        return float(self.eigenvalues[0].real)

    @property
    def time_constants(self) -> Float[np.ndarray, " mode"]:
        """In which each mode falls to 1/e, in the network's unit of time; negative for a mode that grows so fast."""
        with np.errstate(divide="ignore"):
            return -1 / self.eigenvalues.real

    @property
    def frequencies(self) -> Float[np.ndarray, " mode"]:
        """Of each mode, in cycles per unit of time; 0 if it does not turn."""
        return np.abs(self.eigenvalues.imag) / (2 * np.pi)


def linearize(
    network: RecurrentNetwork,
    state: Float[ArrayLike, " state"],
    stimulus: Float[ArrayLike, " stimulus"],
    *,
    num_eigenvalues: int | None = None,
) -> Linearization:
    """How small perturbations of a state evolve, usually of a fixed point.

    Args:
        network: the network.
        state: where to linearize.
        stimulus: the stimulus.
        num_eigenvalues: look only for so many of the rightmost eigenvalues, by a Krylov method that needs no matrix.
            By default all of them up to 1024 units, and 6 beyond.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or more eigenvalues are asked for than the method finds
            (two less than there are units).
        RuntimeError: if the Krylov method finds none.
    """
    check_on_host("linearize", "use `jax.jacfwd(network.velocity)`", network, state, stimulus)
    check_shape("state", state, (network.state_size,))
    check_finite("state", state)
    check_stimulus(stimulus, network.stimulus_size)
    state, stimulus = (jnp.asarray(each, network.dtype) for each in (state, stimulus))
    if num_eigenvalues is None and network.state_size <= _LARGEST_DENSE:
        matrix = np.asarray(_jacobian(network, state, stimulus), np.float64)
        taus = np.broadcast_to(np.asarray(network.time_constants, np.float64), (network.state_size,))
        step = np.eye(network.state_size) + (1 if network.is_map else taus[:, None]) * matrix
        factors = eigenvalues_of(step)
        eigenvalues = rates_of_map(factors) if network.is_map else eigenvalues_of(matrix)
        return Linearization(eigenvalues, matrix, float(np.abs(factors).max()))
    count = 6 if num_eigenvalues is None else num_eigenvalues
    check_at_least("num_eigenvalues", count, 1)
    if count > network.state_size - 2:
        raise fail("num_eigenvalues", "are too many", f"at most {network.state_size - 2}, or None for all", count)
    tolerance = 1e-10 if network.dtype == jnp.float64 else 1e-5
    found = _eigenvalues_by_krylov(network, state, stimulus, count, tolerance)
    if not len(found):
        msg = f"The Krylov method found none of {count} eigenvalues. Ask for more of them, or for all with None."
        raise RuntimeError(msg)
    return Linearization(found, None, None)


@eqx.filter_jit
@in_full_precision
def _jacobian(network, state, stimulus) -> Float[Array, "state state"]:
    return finite_jacobians(lambda state: network.velocity(state, stimulus), state[None])[0]


@eqx.filter_jit
@in_full_precision
def _push(network, state, stimulus, vector):
    return jax.jvp(lambda state: network.velocity(state, stimulus), (state,), (vector,))[1]


def _eigenvalues_by_krylov(network, state, stimulus, count: int, tolerance: float) -> Complex[np.ndarray, " found"]:
    """The rightmost eigenvalues of the Jacobian, from its products with vectors; those that were found."""

    def push(vector: np.ndarray) -> np.ndarray:
        pushed = np.asarray(_push(network, state, stimulus, jnp.asarray(vector, network.dtype)))
        return vector + pushed if network.is_map else pushed

    which = "largest" if network.is_map else "rightmost"
    found = leading_eigenvalues(push, network.state_size, network.dtype, count=count, tolerance=tolerance, which=which)
    return rates_of_map(found) if network.is_map else found


def velocities_on_plane(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"],
    first: Float[ArrayLike, " first"],
    second: Float[ArrayLike, " second"],
) -> Float[np.ndarray, "second first 2"]:
    """The velocity of a network of two units on a grid of states, for `plotting.plot_phase_plane`.

    Args:
        network: of two units.
        stimulus: the stimulus.
        first: values of the first unit.
        second: values of the second unit.

    Raises:
        ValueError: if the network has another number of units, or the stimulus does not fit.
    """
    if network.state_size != 2:
        raise fail("network", "has no plane to draw", "two units", network.state_size)
    check_stimulus(stimulus, network.stimulus_size)
    states = np.stack(np.meshgrid(np.asarray(first), np.asarray(second)), axis=-1)
    return np.asarray(_on_grid(network, jnp.asarray(stimulus, network.dtype), jnp.asarray(states, network.dtype)))


@eqx.filter_jit
@in_full_precision
def _on_grid(network, stimulus, states):
    return jax.vmap(jax.vmap(lambda state: network.velocity(state, stimulus)))(states)
