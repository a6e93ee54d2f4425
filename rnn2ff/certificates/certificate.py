"""What is proved for a prediction, and by which theorem."""

from __future__ import annotations

import enum

import equinox as eqx
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from rnn2ff.records import is_shown, readable


class Theorem(enum.IntEnum):
    """The theorem that proves a bound. Certificates hold its integers.

    Attributes:
        none: no theorem applies, and the bound is infinite.
        contraction: of the map, in a weighted max-norm.
        monotonicity: of I - W, in a diagonal metric.
        newton: local: a fixed point is within the bound, and there may be others.
    """

    # Files hold these numbers: append only.
    none = 0
    contraction = 1
    monotonicity = 2
    newton = 3


@readable
class Certificate(eqx.Module):
    """What is proved for one prediction; for a batch, each field has a leading axis. Lengths are in units of the rates.

    Attributes:
        residual: `max |r - phi(W r + h)| / (1 + max |r|)`; for a network without weights, that of the state.
        error_bound: `|r - r*|` is at most this, in the Euclidean norm; infinite where no theorem applies.
        error_estimate: the length of one Newton step: close to the true error, but not a bound. NaN where it is not
            computed, beyond 512 units unless the weights are of low rank.
        is_exact: whether the prediction is proved to be a fixed point up to rounding: a fixed point with the same
            active units is closer than the rounding of the equation can move it, and within 5000 units of the
            precision. For threshold-linear networks only.
        theorem: a `Theorem`, as an integer. With `newton`, r* is a fixed point that is proved to exist; in a
            multistable network the dynamics may reach another.
        refined: the prediction after the Newton step.
        is_refined_exact: whether `refined` is proved to be a fixed point up to rounding, as `is_exact`.
        refined_error_bound: `|refined - r*|` is at most this, for the fixed point of `newton`; infinite where that does
            not apply.
        is_attracting: whether small perturbations are proved to decay at the fixed point that `newton` proves. Computed
            only where weights are of low rank and time constants equal; otherwise False.
    """

    residual: Float[Array, "*batch"]
    error_bound: Float[Array, "*batch"]
    error_estimate: Float[Array, "*batch"]
    is_exact: Bool[Array, "*batch"]
    theorem: Int[Array, "*batch"]
    refined: Float[Array, "*batch state"]
    is_refined_exact: Bool[Array, "*batch"]
    refined_error_bound: Float[Array, "*batch"]
    is_attracting: Bool[Array, "*batch"]

    def _describe(self) -> tuple[str, dict[str, object]] | None:
        if not is_shown(*vars(self).values()):
            return None
        bounds, theorems = np.asarray(self.error_bound), np.asarray(self.theorem)
        if not bounds.ndim:
            lines = {
                "error bound": f"{bounds:.3g} by {Theorem(int(theorems)).name}" if np.isfinite(bounds) else "none",
                "error estimate": f"{float(self.error_estimate):.3g}",
                "residual": f"{float(self.residual):.3g}",
                "exact": f"{bool(self.is_exact)}, {bool(self.is_refined_exact)} after a Newton step",
            }
            return "Certificate of one prediction", lines
        by_theorem = {f"bounded by {theorem.name}": int((theorems == theorem).sum()) for theorem in Theorem if theorem}
        lines = {
            **{name: count for name, count in by_theorem.items() if count},
            "not bounded": int(np.isinf(bounds).sum()),
            "error bound": quantiles(bounds),
            "error estimate": quantiles(self.error_estimate),
            "exact": f"{int(self.is_exact.sum())}, {int(self.is_refined_exact.sum())} after a Newton step",
        }
        return f"Certificates of {bounds.size} predictions", lines


def quantiles(values: Float[ArrayLike, " batch"]) -> str:
    """The median and the largest of the finite values, as text."""
    values = np.asarray(values)[np.isfinite(values)]
    return f"{np.median(values):.3g} in the median, {values.max():.3g} at most" if len(values) else "none"
