"""All fixed points of a small threshold-linear network, support by support.

On the support s, the set of active units, a fixed point solves `(I - W_s) r_s = h_s`; it is one if `r_s > 0` and no
other unit is driven above 0. So a small network's fixed points are listed completely by trying every support.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rnn2ff.networks import RateNetwork, StateForm, all_supports, are_singular, as_array, in_pieces, principal_blocks

MOST_UNITS = 16  # whose supports are tried: 65536 of them
_ROUNDING = 1e-12  # relative distance to a threshold, or to a singular matrix, that counts as degenerate


class Enumeration(NamedTuple):
    """The fixed points on all supports; arrays on the host, in float64."""

    # One fixed point a row; one with a unit at its threshold is listed once for each of its supports.
    states: Float[np.ndarray, "point state"]
    # Supports on which a fixed point may not be isolated: the system is singular, and has solutions.
    num_degenerate: int


def enumerate_fixed_points(network: RateNetwork, stimulus: Float[np.ndarray, " stimulus"]) -> Enumeration:
    """Every fixed point of a threshold-linear network of at most 16 units, by one linear system for each support."""
    weights = np.asarray(network.dense_weights, np.float64)
    drive = np.asarray(network.params.feedforward_input(as_array(stimulus, network.dtype)), np.float64)
    size = len(weights)
    systems = np.eye(size) - weights
    states, num_degenerate = [], 0
    for supports in in_pieces(all_supports(size)):
        blocks = principal_blocks(systems, supports)
        known = np.where(supports, drive, 0.0)
        is_singular = are_singular(blocks, size * _ROUNDING)
        for row in np.flatnonzero(is_singular):
            solution = np.linalg.lstsq(blocks[row], known[row], rcond=None)[0]
            num_degenerate += np.abs(blocks[row] @ solution - known[row]).max() < 1e-9 * (1 + np.abs(known[row]).max())
        blocks[is_singular] = np.eye(size)
        rates = np.linalg.solve(blocks, known[..., None])[..., 0]
        inputs = rates @ weights.T + drive
        margin = _ROUNDING * (1 + np.abs(inputs).max(axis=1, keepdims=True))
        is_consistent = np.where(supports, rates > -margin, inputs <= margin).all(axis=1) & ~is_singular
        rates, inputs = np.maximum(rates[is_consistent], 0), inputs[is_consistent]
        states.append(inputs if isinstance(network.vector_field, StateForm) else rates)
    return Enumeration(np.concatenate(states), int(num_degenerate))
