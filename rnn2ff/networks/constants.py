"""Constants of the weights of a network that bound all its fixed points.

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
from rnn2ff.records import readable

_MOST_UNITS_MINORS = 12  # up to which all principal minors are computed: 4096 of them


@readable
class Constants(NamedTuple):
    """Constants of a rate network with slopes in [0, 1], for every stimulus; float64, rounded to the safe side.

    Attributes:
        contraction: a Lipschitz constant of the map `r -> phi(W r + h)` in the norm `max_i |r_i| / v_i`. Below 1, the
            plain iteration converges from everywhere.
        contraction_scale: v, positive, the norm's scale of each unit; the largest is 1.
        monotonicity: the modulus alpha, with `x' D (I - W) x >= alpha x' D x` for every x; 0 if no metric
            with a positive one was found.
        metric: the diagonal of D, positive, with geometric mean 1; the best metric found.
        largest_monotonicity: an upper bound of the modulus in every diagonal metric, up to rounding.
        is_p_matrix: whether every principal minor of `I - W` is positive; None if there are too many to compute.
        is_rectified: whether phi is a rectifier.
        is_map: whether the network is a map, whose convergence does not follow from monotonicity.
    """

    contraction: float
    contraction_scale: Float[np.ndarray, " state"]
    monotonicity: float
    metric: Float[np.ndarray, " state"]
    largest_monotonicity: float
    is_p_matrix: bool | None
    is_rectified: bool
    is_map: bool

    def _describe(self) -> tuple[str, dict[str, object]]:
        numbers = {"contraction": f"{self.contraction:.4g}", "monotonicity": f"{self.monotonicity:.4g}"}
        return f"Constants of {len(self.metric)} units", {**numbers, "fixed points": self.reason}

    @property
    def has_one_fixed_point(self) -> bool | None:
        """Whether there is exactly one fixed point for every stimulus; None if the constants do not decide."""
        if self.contraction < 1 or self.monotonicity > 0 or self.is_p_matrix:
            return True
        return False if self.is_rectified and self.is_p_matrix is False else None

    @property
    def reason(self) -> str:
        """What follows from the constants, in a sentence."""
        if self.is_map and self.contraction < 1:
            return f"the map contracts by {self.contraction:.4g}: one fixed point for every stimulus, which attracts"
        if self.monotonicity > 0:
            monotone = f"monotone in a diagonal metric, with modulus {self.monotonicity:.4g}"
            if self.is_map:
                return f"{monotone}: one fixed point for every stimulus, which the map need not reach"
            return (
                f"{monotone}: one fixed point for every stimulus, and the dynamics converge to it from everywhere "
                "(in the rate form if all time constants are equal)"
            )
        none = "makes the network" if self.largest_monotonicity <= 0 else "was found in which the network is"
        none = f"no diagonal metric {none} monotone"
        if self.contraction < 1:
            return f"{none}, but the map contracts by {self.contraction:.4g}: one fixed point for every stimulus"
        if self.is_p_matrix:
            return f"{none}, but I - W is a P-matrix: one fixed point for every stimulus, which need not be stable"
        if self.has_one_fixed_point is False:
            return f"{none}, and I - W is not a P-matrix: for some stimulus there is not exactly one fixed point"
        return f"{none}, and the map does not contract: the number of fixed points is not known"


def stability_constants(network: RecurrentNetwork) -> Constants:
    """Contraction and monotonicity of a rate network with slopes in [0, 1], in the best norms.

    Args:
        network: in the state or the rate form, with a rectifier, tanh or the logistic function. Up to 512
            units the best metric is searched for; beyond, the metric that balances rows and columns is used.

    Raises:
        ValueError: if the network has no weight matrix, or another nonlinearity.

    References:
        Forti and Tesi, New conditions for global stability of neural networks with application to linear and quadratic
        programming problems, IEEE Transactions on Circuits and Systems I 42, 1995.
        Cottle, Pang and Stone, The linear complementarity problem, 1992 (P-matrices).
    """
    check_on_host("stability_constants", "use what was computed outside", network)
    network = check_rate_network(network)
    weights, nonlinearity = np.asarray(network.dense_weights, np.float64), network.nonlinearity
    if nonlinearity not in (jax.nn.relu, jnp.tanh, jax.nn.sigmoid):
        expected = "slopes in [0, 1]: jax.nn.relu, jnp.tanh or jax.nn.sigmoid"
        raise fail("network", "has a nonlinearity with unknown slopes", expected, f"{nonlinearity}")
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
