"""Whether a list of fixed points is complete, by the indices of its members.

The indices `sign det(-J)` of all fixed points sum to +1 if fixed points stay bounded while the recurrence is faded in,
`r = t phi(W r + h)` for t from 0 to 1 (homotopy invariance of the degree). The same holds in a box on whose faces the
velocity points inward (Poincare and Hopf). A list whose indices do not sum to +1 is incomplete.
"""

import enum

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from rnn2ff.analysis.newton import map_rows
from rnn2ff.networks import (
    DiscreteMap,
    RateNetwork,
    RecurrentNetwork,
    Saturating,
    ShiftedLogistic,
    Tanh,
    all_supports,
    best_metric,
    gru_cell,
    is_threshold_linear,
    perron_bound,
)

_FACE_SAMPLES = 64  # states on each face of a box
_MOST_UNITS_GROWTH = 10  # whose 1024 supports are tried for growth without bound
_SAME_VALUE = 1e-7  # eigenvalues closer than this count as repeated


class Audit(enum.IntEnum):
    """Whether a list of fixed points is complete."""

    complete = 0  # every support was tried, or the weights prove that there is one fixed point
    passed = 1  # the indices sum to +1, as they must; a pair of opposite indices may still be missing
    missed_some = 2  # the indices do not sum to +1, as they must
    degenerate = 3  # some fixed points are not isolated, or lie at a threshold, and have no index
    not_applicable = 4  # no theorem says what the indices sum to


def index_signs(
    jacobians: Float[np.ndarray, "point state state"],
    *,
    kinks: Float[np.ndarray, "point state"] | None,
    dtype: np.dtype,
) -> Int[np.ndarray, " point"]:
    """The signs of `det(-J)`; 0 where J is singular, or a unit is at the kink of its rectifier.

    `kinks` are 0 at a kink, as total inputs are; None for a smooth network. The precision of `dtype`, in which the
    fixed points were computed, decides which Jacobians count as singular.
    """
    smallest = 1e-9 if dtype == np.float64 else 1e-5
    jacobians = np.asarray(jacobians, np.float64)
    singular_values = np.linalg.svd(jacobians, compute_uv=False)
    is_regular = singular_values[:, -1] > smallest * singular_values[:, 0]
    if kinks is not None:
        is_regular &= np.abs(kinks).min(axis=1) > smallest * (1 + np.abs(kinks).max(axis=1))
    return np.where(is_regular, np.sign(np.linalg.det(-jacobians)), 0).astype(int)


def audit_indices(
    indices: Int[np.ndarray, " point"],
    num_degenerate: int,
    *,
    size: int,
    is_complete: bool,
    has_one: bool,
    theorem: tuple[bool, str],
) -> tuple[Audit, str]:
    """Whether a list of fixed points with these indices is complete, and why.

    `theorem` says whether the indices must sum to +1, and why (`index_theorem`, `box_theorem`); `num_degenerate`
    supports have solutions that are not isolated; `is_complete` means that every support was tried, `has_one` that the
    weights prove one fixed point.
    """
    if has_one and len(indices) == 1:
        return Audit.complete, "the weights prove that there is one fixed point"
    num_flat, total = int((indices == 0).sum()), int(indices.sum())
    holds, why = theorem
    if num_flat or num_degenerate:
        return Audit.degenerate, (
            f"{num_flat} fixed points have no index, and {num_degenerate} supports have a singular system with "
            "solutions: fixed points are not isolated, nearly meet, or are at a threshold. The list may lack some, and "
            "hold too many: one that shows as several, or none where the velocity is merely below the tolerance"
        )
    if is_complete:
        return Audit.complete, f"all {2**size} supports were tried; the indices sum to {total:+d}"
    if not holds:
        return Audit.not_applicable, f"what the indices must sum to is not known: {why}"
    if total == 1:
        return Audit.passed, f"the indices sum to +1, as they must ({why}); a pair of opposite ones may be missing"
    return Audit.missed_some, (
        f"fixed points are missing: the indices sum to {total:+d}, and they must sum to +1 ({why})"
    )


def box_theorem(
    network: RecurrentNetwork, stimulus: Float[Array, " stimulus"], box: tuple[float, float], key: PRNGKeyArray
) -> tuple[bool, str]:
    """Whether the velocity points inward at random states of each face of a box, so that indices inside sum to +1."""
    size = network.state_size
    states = np.array(jr.uniform(key, (2, size, _FACE_SAMPLES, size), network.dtype, *box))
    for side, value in enumerate(box):
        states[side, np.arange(size), :, np.arange(size)] = value
    inward = map_rows(RecurrentNetwork.velocity, network, stimulus, states.reshape(-1, size)).reshape(states.shape)
    outward = np.stack([-inward[0], inward[1]])[:, np.arange(size), :, np.arange(size)]
    if (outward <= 0).all():
        return True, f"the velocity points into the box at {_FACE_SAMPLES} states of each face"
    return False, f"the velocity does not point into the box {box} on all faces"


def known_box(network: RecurrentNetwork) -> tuple[float, float] | None:
    """An interval that holds every entry of every fixed point, where one is known for this kind of network."""
    # The state of a gated recurrent unit relaxes toward a tanh.
    return (-1.0, 1.0) if network.vector_field == DiscreteMap(gru_cell) else None


def index_theorem(network: RecurrentNetwork) -> tuple[bool, str]:
    """Whether the indices of all fixed points are sure to sum to +1, whatever the stimulus, and why."""
    if not isinstance(network, RateNetwork):
        return False, "the vector field is unknown far away (pass a `box` that it points into)"
    nonlinearity = network.nonlinearity
    if nonlinearity in (jnp.tanh, jax.nn.sigmoid) or isinstance(nonlinearity, Tanh | ShiftedLogistic | Saturating):
        return True, "the rates are bounded"
    if not is_threshold_linear(network):
        return False, "rates may grow without bound (pass a `box` that the vector field points into)"
    weights = np.asarray(network.dense_weights, np.float64)
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
    """Whether `z r = [W r]_+` has a solution other than 0 for some z >= 1: a direction of unbounded growth."""
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
    """Whether `A x = 0` and `B x <= 0` for some x >= 0 other than 0, by linear programming."""
    from scipy.optimize import linprog

    size = len(matrix)
    equations, values = np.vstack([matrix, np.ones(size)]), np.append(np.zeros(size), 1.0)
    return bool(linprog(np.zeros(size), outside, np.zeros(len(outside)), equations, values).success)
