"""What the weights of a network alone say of all its fixed points.

`Constants` hold for every stimulus at once. With r the rates and slopes in [0, 1], a fixed point solves
`r = phi(W r + h)`, and there is exactly one for every h if the right-hand side contracts in some norm, if `I - W` is
strongly monotone in some metric, or, for rectifiers, if and only if `I - W` is a P-matrix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnn2ff._checks import check_on_host, fail
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import check_rate_network
from rnn2ff.networks.spectra import best_metric, is_p_matrix, perron_bound
from rnn2ff.networks.threshold_linear import is_threshold_linear

_MOST_UNITS_MINORS = 12  # all principal minors are tried up to here: 4096 of them


class Constants(NamedTuple):
    """Constants of a rate network with slopes in [0, 1], for every stimulus; float64, made safe against rounding.

    Attributes:
        contraction: the map `r -> phi(W r + h)` changes distances by this factor at most, in the norm
            `max_i |r_i| / v_i`. Of use below 1: the plain iteration then converges from everywhere.
        contraction_scale: v, positive, the norm's scale of each unit; the largest is 1.
        monotonicity: the modulus alpha, with `x' D (I - W) x >= alpha x' D x` for every x; 0 if no metric with a
            positive one was found.
        metric: the diagonal of D, positive, with geometric mean 1; the best that was found.
        largest_monotonicity: no diagonal metric gives a modulus above this, up to rounding; at most 0 if there is none.
        is_p_matrix: whether every principal minor of `I - W` is positive; None where there are too many to try.
        is_rectified: whether phi is a rectifier.
        is_map: whether the network is a map, which monotonicity does not make come to rest.
    """

    contraction: float
    contraction_scale: Float[np.ndarray, " state"]
    monotonicity: float
    metric: Float[np.ndarray, " state"]
    largest_monotonicity: float
    is_p_matrix: bool | None
    is_rectified: bool
    is_map: bool

    @property
    def has_one_fixed_point(self) -> bool | None:
        """Whether there is exactly one fixed point for every stimulus; None where the constants do not decide."""
        if self.contraction < 1 or self.monotonicity > 0 or self.is_p_matrix:
            return True
        return False if self.is_rectified and self.is_p_matrix is False else None

    @property
    def reason(self) -> str:
        """What the constants say, in a sentence."""
        if self.is_map and self.contraction < 1:
            return f"the map contracts by {self.contraction:.4g}: one fixed point for every stimulus, which it comes to"
        if self.monotonicity > 0:
            monotone = f"monotone in a diagonal metric, with modulus {self.monotonicity:.4g}"
            if self.is_map:
                return f"{monotone}: one fixed point for every stimulus, which the map need not come to"
            return (
                f"{monotone}: one fixed point for every stimulus, and the dynamics go there from everywhere "
                "(in the rate form if all time constants are alike)"
            )
        none = (
            "no diagonal metric makes the network monotone"
            if self.largest_monotonicity <= 0
            else ("no diagonal metric was found in which the network is monotone")
        )
        if self.contraction < 1:
            return f"{none}, but the map contracts by {self.contraction:.4g}: one fixed point for every stimulus"
        if self.is_p_matrix:
            return f"{none}, but I - W is a P-matrix: one fixed point for every stimulus, which need not be stable"
        if self.has_one_fixed_point is False:
            return f"{none}, and I - W is not a P-matrix: for some stimulus there is not exactly one fixed point"
        return f"{none}, and the map does not contract: nothing follows on the number of fixed points"


def stability_constants(network: RecurrentNetwork) -> Constants:
    """Contraction and monotonicity of a rate network with slopes in [0, 1], in the best norms; made once per network.

    Args:
        network: in the state or the rate form, with a rectifier, tanh or the logistic function. Up to about 500 units
            the best metric is searched for; beyond, one is taken in which rows and columns are balanced.

    Raises:
        ValueError: if the network has no weight matrix, or another nonlinearity.

    References:
        Forti and Tesi, New conditions for global stability of neural networks with application to linear and quadratic
        programming problems, IEEE Transactions on Circuits and Systems I 42, 1995.
        Cottle, Pang and Stone, The linear complementarity problem, 1992 (P-matrices).
    """
    check_on_host("stability_constants", "use what was computed outside", network)
    check_rate_network(network)
    weights, nonlinearity = np.asarray(network.dense_weights, np.float64), network.nonlinearity
    if nonlinearity not in (jax.nn.relu, jnp.tanh, jax.nn.sigmoid):
        expected = "slopes in [0, 1]: jax.nn.relu, jnp.tanh or jax.nn.sigmoid"
        raise fail("network", "has a nonlinearity whose slopes are not known", expected, f"{nonlinearity}")
    contraction, scale = perron_bound(np.abs(weights))
    best = best_metric(weights)
    return Constants(
        contraction=contraction,
        contraction_scale=scale,
        monotonicity=max(0.0, 1 - best.largest),
        metric=best.metric,
        largest_monotonicity=1 - best.smallest,
        is_p_matrix=is_p_matrix(np.eye(len(weights)) - weights) if len(weights) <= _MOST_UNITS_MINORS else None,
        is_rectified=is_threshold_linear(network),
        is_map=network.is_map,
    )
