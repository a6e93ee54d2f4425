"""All fixed points of a threshold-linear network, support by support, and when indices must sum to +1.

On the support s, the set of active units, a fixed point solves `(I - W_s) r_s = h_s`; it is one if `r_s > 0` and no
other unit is driven above 0. So a small network's fixed points are listed completely by trying every support.

The indices `sign det(-J)` of all fixed points sum to +1 if fixed points stay bounded while the recurrence is faded in,
`r = t phi(W r + h)` for t from 0 to 1 (the degree of a map does not change on the way).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.cells import DiscreteMap, gru_cell
from rnn2ff.networks.models import ShiftedLogistic, Tanh
from rnn2ff.networks.rate import StateForm, is_rate_network
from rnn2ff.networks.threshold_linear import is_threshold_linear
from rnn2ff.spectra import all_supports, best_metric, in_pieces, perron_bound, principal_blocks
from rnn2ff.sweeps import dense_weights

MOST_UNITS = 16  # whose supports are tried: 65536 of them
_MOST_UNITS_GROWTH = 10  # whose supports are tried for growth without bound
_SAME_VALUE = 1e-7  # eigenvalues so near to each other are taken as one
_ROUNDING = 1e-12  # relative; what is so near to a threshold, or to singular, is called degenerate


class Enumeration(NamedTuple):
    """The fixed points on all supports; arrays on the host, in float64.

    Attributes:
        states: one fixed point a row; one with a unit at its threshold stands there for each of its supports.
        num_degenerate: supports on which a fixed point may not be isolated: the system is singular, and has solutions.
    """

    states: Float[np.ndarray, "point state"]
    num_degenerate: int


def enumerate_fixed_points(network: RecurrentNetwork, stimulus: Float[np.ndarray, " stimulus"]) -> Enumeration:
    """Every fixed point of a threshold-linear network, by trying all supports: `2^N` linear systems.

    Args:
        network: threshold-linear, of at most 16 units.
        stimulus: the stimulus.
    """
    weights = np.asarray(dense_weights(network), np.float64)
    drive = np.asarray(network.params.feedforward_input(jnp.asarray(stimulus, network.dtype)), np.float64)
    size = len(weights)
    systems = np.eye(size) - weights
    found, num_degenerate = [], 0
    for supports in in_pieces(all_supports(size)):
        blocks = principal_blocks(systems, supports)
        known = np.where(supports, drive, 0.0)
        largest = np.linalg.norm(blocks, axis=2).prod(axis=1)
        is_singular = np.abs(np.linalg.det(blocks)) <= size**2 * _ROUNDING * largest
        for row in np.flatnonzero(is_singular):
            solution = np.linalg.lstsq(blocks[row], known[row], rcond=None)[0]
            num_degenerate += np.abs(blocks[row] @ solution - known[row]).max() < 1e-9 * (1 + np.abs(known[row]).max())
        blocks[is_singular] = np.eye(size)
        rates = np.linalg.solve(blocks, known[..., None])[..., 0]
        inputs = rates @ weights.T + drive
        margin = _ROUNDING * (1 + np.abs(inputs).max(axis=1, keepdims=True))
        is_consistent = np.where(supports, rates > -margin, inputs <= margin).all(axis=1) & ~is_singular
        rates, inputs = np.maximum(rates[is_consistent], 0), inputs[is_consistent]
        found.append(inputs if isinstance(network.vector_field, StateForm) else rates)
    return Enumeration(np.concatenate(found), int(num_degenerate))


def known_box(network: RecurrentNetwork) -> tuple[float, float] | None:
    """The interval that holds every entry of every fixed point, where the kind of network says so."""
    # A gated recurrent unit moves toward the tanh of something.
    return (-1.0, 1.0) if network.vector_field == DiscreteMap(gru_cell) else None


def index_theorem(network: RecurrentNetwork) -> tuple[bool, str]:
    """Whether the indices of all fixed points are sure to sum to +1, whatever the stimulus, and why."""
    if not is_rate_network(network):
        return False, "nothing is known of the vector field far away (name a `box` that it points into)"
    nonlinearity = network.vector_field.nonlinearity
    if nonlinearity in (jnp.tanh, jax.nn.sigmoid) or isinstance(nonlinearity, Tanh | ShiftedLogistic):
        return True, "the rates are bounded"
    if not is_threshold_linear(network):
        return False, "rates may grow without bound (name a `box` that the vector field points into)"
    weights = np.asarray(dense_weights(network), np.float64)
    if (weights <= 0).all():
        return True, "all weights are inhibitory"
    if perron_bound(np.abs(weights))[0] < 1 or best_metric(weights, goal=1.0).largest < 1:
        return True, "the network is contracting or monotone"
    if len(weights) > _MOST_UNITS_GROWTH:
        return False, f"growth without bound is not ruled out for more than {_MOST_UNITS_GROWTH} units"
    if _has_ray(weights):
        return False, "without a stimulus some rates grow without bound"
    return True, "no rates grow without bound"


def _has_ray(weights: np.ndarray) -> bool:
    """Whether `z r = [W r]_+` has a solution other than 0 for some z >= 1: a direction in which nothing holds rates."""
    for support in all_supports(len(weights))[1:]:
        block, outside = weights[np.ix_(support, support)], weights[np.ix_(~support, support)]
        values, vectors = np.linalg.eig(block)
        for index in np.flatnonzero((np.abs(values.imag) < _SAME_VALUE) & (values.real > 1 - _SAME_VALUE)):
            if (np.abs(values - values[index]) < _SAME_VALUE).sum() > 1:
                if _has_positive_vector(block - values[index].real * np.eye(len(block)), outside):
                    return True
                continue
            vector = vectors[:, index].real
            vector = vector / vector[np.abs(vector).argmax()]
            if (vector > -_SAME_VALUE).all() and (outside @ vector < _SAME_VALUE).all():
                return True
    return False


def _has_positive_vector(matrix: np.ndarray, outside: np.ndarray) -> bool:
    """Whether `A x = 0` and `B x <= 0` for some x >= 0 other than 0; eigenvectors of a repeated value do not tell."""
    from scipy.optimize import linprog

    size = len(matrix)
    found = linprog(
        np.zeros(size),
        A_eq=np.concatenate([matrix, np.ones((1, size))]),
        b_eq=np.concatenate([np.zeros(size), [1.0]]),
        A_ub=outside if len(outside) else None,
        b_ub=np.zeros(len(outside)) if len(outside) else None,
    )
    return bool(found.success)
