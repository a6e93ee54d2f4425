"""Linearization at a state: Jacobian, eigenvalues, time constants; and velocities on a grid of states."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Complex, Float

from rnn2ff._checks import check_array, check_at_least, check_on_host, check_stimulus, fail
from rnn2ff.analysis.newton import LARGEST_DENSE, finite_jacobians, map_rows
from rnn2ff.compiling import compiled
from rnn2ff.networks import RecurrentNetwork, as_array, blas_threads, with_padded_rows
from rnn2ff.records import readable


@readable
class Linearization(NamedTuple):
    """The linearized dynamics near one state, `dx/dt = J (x - x*)`; arrays on the host, in float64.

    Attributes:
        eigenvalues: of J, per unit of time, the rightmost first; all of them, or the leading ones that a Krylov method
            found. For a map, the logarithms of the eigenvalues of its own Jacobian, `I + J`, which mean the same: decay
            or growth, and rotation; minus infinity for a mode that vanishes in one step.
        jacobian: J, of the velocity, or None if only its leading eigenvalues were computed.
        spectral_radius: of `I + tau J`, the map `x+ = x + tau dx/dt`; for a map, of its own Jacobian. None if J is
            None.
    """

    eigenvalues: Complex[np.ndarray, " mode"]
    jacobian: Float[np.ndarray, "state state"] | None
    spectral_radius: float | None

    def _describe(self) -> tuple[str, dict[str, object]]:
        shown = np.array2string(self.eigenvalues, precision=4, threshold=6, edgeitems=3)
        radius = {} if self.spectral_radius is None else {"spectral radius": f"{self.spectral_radius:.4g}"}
        return f"Linearization, {len(self.eigenvalues)} eigenvalues", {
            "eigenvalues": " ".join(shown.split()),
            "largest real part": f"{self.spectral_abscissa:.4g}",
            **radius,
        }

    @property
    def spectral_abscissa(self) -> float:
        """The largest real part; below 0 small perturbations decay."""
        return float(self.eigenvalues[0].real)

    @property
    def time_constants(self) -> Float[np.ndarray, " mode"]:
        """The time in which each mode decays to 1/e, in the network's unit of time; negative for a growing mode."""
        with np.errstate(divide="ignore"):
            return -1 / self.eigenvalues.real

    @property
    def frequencies(self) -> Float[np.ndarray, " mode"]:
        """Of each mode, in cycles per unit of time; 0 if it does not oscillate."""
        return np.abs(self.eigenvalues.imag) / (2 * np.pi)


def linearize(
    network: RecurrentNetwork,
    state: Float[ArrayLike, " state"],
    stimulus: Float[ArrayLike, " stimulus"],
    *,
    num_eigenvalues: int | None = None,
) -> Linearization:
    """Linearize a network at a state, usually a fixed point.

    Args:
        network: the network.
        state: where to linearize.
        stimulus: the stimulus.
        num_eigenvalues: compute only this many of the rightmost eigenvalues, by a Krylov method without a matrix.
            By default all of them up to 1024 units, and 6 beyond.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or more eigenvalues are requested than the Krylov
            method can compute (the number of units minus two).
        RuntimeError: if the Krylov method does not converge to any.
    """
    check_on_host("linearize", "use `network.jacobian`", network, state, stimulus)
    check_array("state", state, (network.state_size,))
    check_stimulus(stimulus, network.stimulus_size)
    state, stimulus = (as_array(array, network.dtype) for array in (state, stimulus))
    if num_eigenvalues is None and network.state_size <= LARGEST_DENSE:
        matrix = np.asarray(_jacobian(network, state, stimulus), np.float64)
        eigenvalues, radius = modes(network, matrix, np.asarray(network.time_constants, np.float64))
        return Linearization(eigenvalues, matrix, float(radius))
    count = 6 if num_eigenvalues is None else num_eigenvalues
    check_at_least("num_eigenvalues", count, 1)
    if count > network.state_size - 2:
        raise fail("num_eigenvalues", "are too many", f"at most {network.state_size - 2}, or None for all", count)
    tolerance = 1e-10 if network.dtype == jnp.float64 else 1e-5
    eigenvalues = _eigenvalues_by_krylov(network, state, stimulus, count, tolerance)
    if not len(eigenvalues):
        msg = f"The Krylov method found none of {count} eigenvalues. Request more of them, or all with None."
        raise RuntimeError(msg)
    return Linearization(eigenvalues, None, None)


def modes(
    network: RecurrentNetwork,
    jacobians: Float[np.ndarray, "*batch state state"],
    time_scales: Float[np.ndarray, "*batch state"] | Float[np.ndarray, ""],
) -> tuple[Complex[np.ndarray, "*batch state"], Float[np.ndarray, "*batch"] | np.floating]:
    """The eigenvalues and the spectral radii of a `Linearization`, from Jacobians of the velocity."""
    steps = np.asarray(1.0 if network.is_map else time_scales)
    factors = _eigenvalues_of(np.eye(network.state_size) + steps[..., None] * jacobians)
    eigenvalues = _growth_rates_of_map(factors) if network.is_map else _eigenvalues_of(jacobians)
    return eigenvalues, np.abs(factors).max(axis=-1)


@compiled
def _jacobian(network, state, stimulus) -> Float[Array, "state state"]:
    return finite_jacobians(lambda state: network.velocity(state, stimulus), state[None])[0]


@compiled
def _push(network, state, stimulus, vector):
    return jax.jvp(lambda state: network.velocity(state, stimulus), (state,), (vector,))[1]


def _eigenvalues_by_krylov(network, state, stimulus, count: int, tolerance: float) -> Complex[np.ndarray, " found"]:
    """The leading eigenvalues of a `Linearization`, from products of the Jacobian with vectors.

    Those that do not converge to the relative tolerance are left out.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

    network, size, dtype = with_padded_rows(network), network.state_size, np.dtype(network.dtype)

    def push(vector: np.ndarray) -> np.ndarray:
        pushed = np.asarray(_push(network, state, stimulus, jnp.asarray(vector.ravel(), dtype)))
        return vector.ravel() + pushed if network.is_map else pushed

    operator = LinearOperator((size, size), matvec=push, dtype=dtype)
    start = np.random.default_rng(0).normal(size=size).astype(dtype)
    which = "LM" if network.is_map else "LR"  # of largest magnitude, or the rightmost
    options = dict(v0=start, return_eigenvectors=False, tol=tolerance, maxiter=50 * size)
    try:
        with blas_threads(size):
            eigenvalues = eigs(operator, k=count, which=which, **options)
    except ArpackNoConvergence as error:
        eigenvalues = error.eigenvalues
    return _growth_rates_of_map(eigenvalues) if network.is_map else _sort(eigenvalues)


def _eigenvalues_of(matrices: Float[np.ndarray, "*batch unit unit"]) -> Complex[np.ndarray, "*batch unit"]:
    """All eigenvalues of each matrix, the rightmost first."""
    with blas_threads(matrices.shape[-1]):
        return _sort(np.linalg.eigvals(matrices))


def _growth_rates_of_map(factors: Complex[np.ndarray, "*batch unit"]) -> Complex[np.ndarray, "*batch unit"]:
    """The growth rates `log z` of modes that a map multiplies by z in each step; the fastest first."""
    with np.errstate(divide="ignore"):
        return _sort(np.log(factors.astype(complex)))


def _sort(
    eigenvalues: Complex[np.ndarray, "*batch unit"] | Float[np.ndarray, "*batch unit"],
) -> Complex[np.ndarray, "*batch unit"]:
    """The rightmost first; of a pair, the one with positive imaginary part."""
    order = np.lexsort((-eigenvalues.imag, -np.round(eigenvalues.real, 12)), axis=-1)
    return np.take_along_axis(eigenvalues.astype(complex), order, axis=-1)


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
        raise fail("network", "has no phase plane", "two units", network.state_size)
    check_stimulus(stimulus, network.stimulus_size)
    states = np.stack(np.meshgrid(np.asarray(first), np.asarray(second)), axis=-1)
    stimulus = as_array(stimulus, network.dtype)
    return map_rows(RecurrentNetwork.velocity, network, stimulus, states.reshape(-1, 2)).reshape(states.shape)
