"""The choice of how to solve a network: by proofs from its weights first, then by a small probe.

Sweeps are fast, but a fixed point that they find is the steady state only if the dynamics reach it too. That is certain
if the weights prove a single, attracting fixed point. Otherwise a probe of the stimuli is solved both ways: sweeps are
used for the others if they end where the dynamics end on every sample of the probe, and if both also end there when
they are started from the steady states of other stimuli. If these starts lead elsewhere, the network is multistable,
and the dynamics decide; likewise if a sample of the probe never comes to rest.
"""

from __future__ import annotations

import contextlib
import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Scalar

from rnn2ff.networks import (
    AbstractSweep,
    JacobianSweep,
    RateNetwork,
    RecurrentNetwork,
    SplitSweep,
    balancing_scale,
    damped_sweep,
    mean_jacobian_sweep,
    mean_slope_sweep,
    perron_bound,
    split_sweep,
)
from rnn2ff.records import is_shown, readable
from rnn2ff.steady_state.stability import neutral_growth

NUM_PROBED = 256
_SAME = 1e-3  # two states closer than this, relative to 1 + max |x|, are the same
_LARGEST_JACOBIAN, _NUM_LINEARIZED = 512, 32  # units, and samples whose Jacobians are averaged
_LARGEST_SPLIT = 4096  # units; beyond, the inverse of a split costs more than it saves
_LARGEST_PROVED = 2048  # units; beyond, eigenvalues for a proof cost more than they save


class Method(enum.IntEnum):
    """Why a network is solved the way it is. Plans hold its integers. Append only."""

    followed = 0  # nothing was measured
    proved = 1  # one attracting fixed point, from the weights
    agreed = 2  # sweeps end where the dynamics end, from all starts that were tried
    multistable = 3  # sweeps or the dynamics reach other steady states from other starts
    disagreed = 4  # sweeps and the dynamics reach different states
    restless = 5  # a sample of the probe, or all of them, never comes to rest
    singular = 6  # the matrix that a sweep has to invert is singular
    slow = 7  # sweeps do not converge on most of the probe


_REASONS = {
    Method.followed: "the dynamics are followed",
    Method.proved: "the weights prove one attracting fixed point for every stimulus, which sweeps reach",
    Method.agreed: "sweeps reach what the dynamics reach, on every sample of a probe, and from other starts",
    Method.multistable: "starts at other states reach other steady states: the dynamics must decide between them",
    Method.disagreed: "sweeps reach other states than the dynamics on some of a probe, so the dynamics are followed",
    Method.restless: "some samples of a probe never come to rest, so the dynamics decide whether the others do",
    Method.singular: "what a sweep has to invert is singular, so the dynamics are followed",
    Method.slow: "sweeps leave some of a probe open that the dynamics finish, so the dynamics are followed",
}


@readable
class Plan(eqx.Module):
    """How to solve batches of a network; made by `plan_steady_states`, and passed on to solve further batches.

    Arrays only, so that the plan of another network of the same size needs no compilation.

    Attributes:
        sweep: the step to repeat, where that is allowed.
        starts_with_sweeps: whether it is; otherwise the dynamics are followed.
        starts_anywhere: whether sweeps may also start at a state other than zero, since all lead to the same one.
        decay_rate: rate at which perturbations of every fixed point decay, per unit of time, by proof; 0 if none is
            known.
        method: why, as a `Method`.
        agreement: share of the probe on which the sweeps end where the dynamics end; NaN if they were not compared.
        num_probed: samples in the probe.
    """

    sweep: AbstractSweep
    starts_with_sweeps: Bool[Array, ""]
    starts_anywhere: Bool[Array, ""]
    decay_rate: Scalar
    method: Int[Array, ""]
    agreement: Float[Array, ""]
    num_probed: Int[Array, ""]

    @property
    def reason(self) -> str:
        """Why this plan, in words."""
        return _REASONS[Method(int(self.method))]

    @property
    def has_one_fixed_point(self) -> bool:
        """Whether the weights prove a single, attracting fixed point."""
        return float(self.decay_rate) > 0

    def _describe(self) -> tuple[str, dict[str, object]] | None:
        if not is_shown(self.starts_with_sweeps, self.method, self.agreement, self.num_probed):
            return None
        if jnp.ndim(self.method):
            return f"Plans of {len(self.method)} networks", {"by sweeps": int(self.starts_with_sweeps.sum())}
        tried = {"stimuli tried": int(self.num_probed)} if self.num_probed else {}
        agreed = {} if np.isnan(self.agreement) else {"sweeps agree on": f"{100 * float(self.agreement):.1f} % of them"}
        searched = "sweeps" if self.starts_with_sweeps else "the dynamics"
        return f"Plan: by {searched}", {"why": self.reason, **tried, **agreed}


def proved_rate(network: RecurrentNetwork) -> float:
    """A decay rate, per unit of time, that every fixed point of the network has, whatever the stimulus; 0 if unknown.

    For rectifiers and tanh, whose slopes are in [0, 1]: if the spectral radius of |W| is below 1, or the symmetric part
    of W is below the identity in a positive diagonal metric. It holds for all time constants. A margin within rounding
    of zero (`neutral_growth`) counts as none: so slow a decay cannot be distinguished from drift.

    A map has one if it is a contraction: if the spectral radius of |W| is below 1, or the norm of W is in such a
    metric, and no time constant is shorter than its step.
    """
    if not isinstance(network, RateNetwork) or network.nonlinearity not in (jax.nn.relu, jnp.tanh):
        return 0.0
    weights = network.weights
    if network.has_sparse_weights or len(weights) > _LARGEST_PROVED:
        return 0.0
    weights = np.asarray(weights, np.float64)
    slowest = float(np.max(np.asarray(network.time_constants)))
    margins = [1 - perron_bound(np.abs(weights))[0]]
    scale = balancing_scale(weights)  # the best metric would cost more than it gains here
    scaled = weights * scale[:, None] / scale[None, :]
    if network.is_map:
        if np.min(np.asarray(network.time_constants)) < 1:
            return 0.0
        is_even = np.ptp(np.asarray(network.time_constants)) == 0
        margins.append(1 - np.linalg.norm(scaled, 2) if is_even else 0.0)
    else:
        symmetric = np.eye(len(weights)) - (scaled + scaled.T) / 2
        with contextlib.suppress(np.linalg.LinAlgError):  # most fail here, at a tenth of the cost of eigenvalues
            np.linalg.cholesky(symmetric)
            margins.append(np.linalg.eigvalsh(symmetric)[0])
    margin = min(1.0, float(max(margins)))
    return margin / slowest if margin > neutral_growth(network.dtype) else 0.0


def first_plan(network: RecurrentNetwork) -> Plan:
    """The plan from the weights alone: sweeps if they prove a single fixed point, and otherwise the dynamics."""
    rate = proved_rate(network)
    if rate > 0:
        return make_plan(network, _sweep_of_weights(network), Method.proved, rate=rate)
    return make_plan(network, _unused_sweep(network), Method.followed)


def _sweep_of_weights(network: RecurrentNetwork) -> AbstractSweep:
    """The sweep that needs no known steady states."""
    if not _has_split(network):
        return damped_sweep(network)
    with contextlib.suppress(ValueError):  # singular
        return split_sweep(network)
    return split_sweep(network, 0.0)


def make_plan(
    network: RecurrentNetwork,
    sweep: AbstractSweep,
    method: Method,
    *,
    rate: float = 0.0,
    agreement: float = float("nan"),
    num_probed: int = 0,
) -> Plan:
    """A plan; the other arguments are its fields."""
    dtype = network.dtype
    values = (
        np.asarray(method in (Method.proved, Method.agreed)),
        np.asarray(method == Method.proved),
        np.asarray(rate, dtype),
        np.asarray(method, np.int32),
        np.asarray(agreement, dtype),
        np.asarray(num_probed, np.int32),
    )
    return Plan(sweep, *jax.device_put(values))


def _has_split(network: RecurrentNetwork) -> bool:
    """Whether the split sweep applies: there is a weight matrix, dense and not too large to be inverted."""
    return network.has_dense_weights and network.state_size <= _LARGEST_SPLIT


def _has_mean_jacobian(network: RecurrentNetwork) -> bool:
    """Whether the mean-Jacobian sweep applies: there is no weight matrix, and a Jacobian is not too large."""
    return not isinstance(network, RateNetwork) and network.state_size <= _LARGEST_JACOBIAN


def _unused_sweep(network: RecurrentNetwork) -> AbstractSweep:
    """Zeros of the type of sweep that a probe makes, so that a later plan with such a sweep runs the same program."""
    dtype, size = network.dtype, network.state_size
    if _has_split(network):
        kind, shapes = SplitSweep, [(size,), (size, size), (size, size), (size,)]
    elif _has_mean_jacobian(network):
        kind, shapes = JacobianSweep, [(size, size), (network.stimulus_size, size), (size,)]
    else:
        return damped_sweep(network)
    return kind(*jax.device_put([*(np.zeros(shape, dtype) for shape in shapes), np.ones((), dtype)]))


def sweep_from_probe(network: RecurrentNetwork, states: np.ndarray, stimuli: np.ndarray) -> AbstractSweep:
    """The sweep made from known steady states: with their mean slopes, or with their mean Jacobian.

    Raises:
        ValueError: if the matrix to invert is singular.
    """
    if _has_split(network):
        return mean_slope_sweep(network, states, stimuli)
    if _has_mean_jacobian(network):
        rows = np.resize(np.arange(len(states)), _NUM_LINEARIZED)  # a fixed number, so that it is compiled once
        return mean_jacobian_sweep(network, states[rows], stimuli[rows])
    return damped_sweep(network)


def are_apart(states: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which states differ, relative to the size of the others; True where they are not finite."""
    with np.errstate(invalid="ignore"):
        distance = np.abs(states - others).max(axis=1) / (1 + np.abs(others).max(axis=1))
    return ~(distance < _SAME)
