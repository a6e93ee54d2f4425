"""The exact steady state of a threshold-linear network, from the set of its active units.

Where the set A of active units is known, the steady state solves a linear system: `(I - W_AA) x_A = h_A`. Semismooth
Newton guesses A from the total input, solves, and reads A off the solution, until A no longer changes. Then the state
is exact to rounding. A set that comes back means that the guesses go in circles.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rnn2ff._checks import fail
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import StateForm
from rnn2ff.networks.threshold_linear import is_threshold_linear
from rnn2ff.steady_state.base import AbstractSteadyStateSolver, Candidate
from rnn2ff.steady_state.padding import padded
from rnn2ff.sweeps import dense_weights

_LARGEST_PIECE = 2**24  # entries of the systems that are held at once
_BUCKET = 8  # systems on the host are padded to a multiple of this, so that many are solved together


class ActiveSet(AbstractSteadyStateSolver):
    """Semismooth Newton on the set of active units; threshold-linear networks only.

    One linear system a step, usually few steps. It ends when the set is consistent with its own solution, which is then
    exact, or when a set comes back, which is reported as `max_steps_reached`. As with any root finder, the fixed point
    may be unstable (the verdict says so), or another one than the dynamics reach.

    Attributes:
        tolerance: the largest residual that counts as rest; None asks for the dtype's default.
    """

    tolerance: float | None = None

    def search(
        self,
        network: RecurrentNetwork,
        stimulus: Float[Array, " stimulus"],
        initial_state: Float[Array, " state"],
        *,
        tolerance: float,
        max_steps: int,
    ) -> Candidate:
        """Look for a consistent active set; raises a ValueError for a network that is not threshold-linear."""
        del tolerance
        check_threshold_linear(network)
        params = network.params
        weights, drive = dense_weights(network), params.feedforward_input(stimulus)
        identity = jnp.eye(network.state_size, dtype=drive.dtype)

        def solve(active: Bool[Array, " state"]) -> Float[Array, " state"]:
            return jnp.linalg.solve(identity - weights * active[None, :].astype(drive.dtype), drive)

        def step(carry):
            active, _, seen, num_steps, _ = carry
            point = solve(active)
            new = point > 0
            is_consistent = jnp.all(new == active)
            # Brent: remember a set at every power of two; a cycle of any length meets one of them.
            seen = jnp.where((num_steps & (num_steps - 1)) == 0, active, seen)
            is_cycling = jnp.all(new == seen) & ~is_consistent
            return new, point, seen, num_steps + 1, is_consistent | is_cycling

        def goes_on(carry):
            _, _, _, num_steps, is_finished = carry
            return ~is_finished & (num_steps < max_steps)

        start = params.total_input(network.vector_field.unit_rates(initial_state), stimulus)
        is_active = start > 0
        zero = jnp.zeros((), jnp.int32)
        _, point, _, num_steps, _ = jax.lax.while_loop(
            goes_on, step, (is_active, start, is_active, zero, jnp.zeros((), bool))
        )
        return Candidate(network.vector_field.from_total_input(point), num_steps, jnp.zeros((), bool))


def check_threshold_linear(network: RecurrentNetwork) -> None:
    """Raises a ValueError for a network that is not threshold-linear."""
    if not is_threshold_linear(network):
        raise fail("network", "has no active set", "a threshold-linear network", f"{network.vector_field}")


def solve_on_active_sets(
    network: RecurrentNetwork, stimuli: Float[np.ndarray, "batch stimulus"], active: Bool[np.ndarray, "batch state"]
) -> tuple[Float[np.ndarray, "batch state"], Bool[np.ndarray, " batch"]]:
    """The states at the fixed points on given active sets, and whether each set is consistent.

    On the host, by LAPACK in float64 on the active blocks alone, those of about one size together. With half of the
    units active that is an eighth of the work.

    Args:
        network: a threshold-linear network with dense weights.
        stimuli: one a row.
        active: the active units.
    """
    weights = np.asarray(network.params.recurrent_weights, np.float64)
    silent = np.zeros((len(stimuli), network.state_size), network.dtype)
    drives = total_inputs(network, silent, stimuli).astype(np.float64)
    rates, is_solved = np.zeros_like(drives), np.ones(len(drives), bool)
    for rows, units, is_unit, blocks in active_blocks(weights, active):
        known = np.take_along_axis(drives[rows], units, axis=1) * is_unit
        try:
            solution = np.linalg.solve(blocks, known[..., None])[..., 0]
        except np.linalg.LinAlgError:  # one of them is singular; they are left to the dynamics
            is_solved[rows] = False
            continue
        at, slot = np.nonzero(is_unit)
        rates[rows[at], units[at, slot]] = solution[at, slot]
    rates = rates.astype(network.dtype)
    points = total_inputs(network, rates, stimuli)
    states = points if isinstance(network.vector_field, StateForm) else np.maximum(rates, 0)
    return states, is_solved & ((points > 0) == active).all(axis=1)


def total_inputs(
    network: RecurrentNetwork, rates: Float[np.ndarray, "batch state"], stimuli: Float[np.ndarray, "batch stimulus"]
) -> Float[np.ndarray, "batch state"]:
    """`W r + B u + b` of a batch. By XLA: NumPy's own threads would compete with XLA's for the cores."""
    rows = padded(np.arange(len(rates)))
    return np.asarray(_total_inputs(network, rates[rows], stimuli[rows]))[: len(rates)]


@eqx.filter_jit
def _total_inputs(network, rates, stimuli):
    return jax.vmap(network.params.total_input)(rates, stimuli)


def active_blocks(weights: np.ndarray, active: np.ndarray):
    """The systems `I - W_AA` of many active sets, those of about one size together.

    Yields:
        rows of `active`; for each its active units, padded; which of them are not padding; the systems, with an
        identity where they are padded.
    """
    num_active = active.sum(axis=1)
    sizes = np.maximum(-(-num_active // _BUCKET) * _BUCKET, _BUCKET)
    sizes = np.minimum(sizes, active.shape[1])
    pieces = [
        rows
        for size in np.unique(sizes)
        for rows in np.array_split(np.flatnonzero(sizes == size), -(-(sizes == size).sum() * size**2 // _LARGEST_PIECE))
    ]
    for rows in pieces:
        size = sizes[rows[0]]
        units = np.argsort(~active[rows], axis=1, kind="stable")[:, :size]
        is_unit = np.take_along_axis(active[rows], units, axis=1)
        blocks = -weights[units[:, :, None], units[:, None, :]] * (is_unit[:, :, None] & is_unit[:, None, :])
        blocks[:, np.arange(size), np.arange(size)] += 1
        yield rows, units, is_unit, blocks
