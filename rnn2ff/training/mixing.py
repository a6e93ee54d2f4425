"""Exact pairs without a solver: every point x is the fixed point of the stimulus `u = x - W phi(x) - b`.

That holds for networks whose stimulus drives each unit directly. Mixtures of steady points,

    x = mean + cos(a) (x_1 - mean) + sin(a) (x_2 - mean),

have the same mean and covariance, and their stimuli are close to the same mixtures of the stimuli, so that the
distribution hardly changes: a few solved pairs yield as many as training needs.

In a multistable network a mixture may be an unstable fixed point, or one that the dynamics do not reach. `mixing_for`
tests this on a sample, and returns None in that case.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from rnn2ff._checks import check_positive, fail
from rnn2ff.data import take_rows
from rnn2ff.networks import RateNetwork, RecurrentNetwork, batch_rates, with_padded_rows
from rnn2ff.steady_state import Status, solve_steady_states

_SAME = 1e-2  # rates closer than this, relative to 1 + max |r|, count as equal
_NUM_TRIED = 512  # mixtures, few enough that a solve follows the dynamics of each
_LARGEST_ANGLE = 0.8  # of a mixture, in radians
_LARGEST_SHIFT = 0.5  # distance of a stimulus from the mixture of its parents, in standard deviations of the stimuli


def exact_pairs(
    network: RecurrentNetwork, points: Float[Array, "batch state"]
) -> tuple[Float[Array, "batch state"], Float[Array, "batch rate"]]:
    """The stimuli whose fixed points have the given total inputs, and the rates there.

    These are fixed points; the caller has to know that they are stable, and that the dynamics reach them.

    Args:
        network: a network with a weight matrix whose stimulus drives each unit directly.
        points: total inputs to each unit, one row per sample: the states, in the state form.

    Raises:
        ValueError: if the network is of another kind.
    """
    _check_has_exact_pairs(network)
    rates = jax.vmap(network.nonlinearity)(points)
    recurrent = jax.vmap(network.params.recurrent_input)(rates)
    return points - recurrent - network.params.bias[None], rates


def _check_has_exact_pairs(network: RecurrentNetwork) -> None:
    if not has_exact_pairs(network):
        expected = "a network with a weight matrix, driven directly, whose rates are those of all units"
        raise fail("network", "has no exact pairs", expected, f"{network.vector_field}")


def has_exact_pairs(network: RecurrentNetwork) -> bool:
    """Whether every point is the fixed point of a known stimulus."""
    return isinstance(network, RateNetwork) and network.params.stimulus_weights is None and network.shows_all_rates


class Mixing(eqx.Module):
    """Makes fresh exact pairs from minibatches of solved ones; made by `mix_pairs`."""

    network: RecurrentNetwork  # the network
    mean_stimulus: Float[Array, " state"]  # of the stimuli
    mean_point: Float[Array, " state"]  # of the points
    deviation: Float[Array, ""]  # root mean square of the stimuli about their mean
    largest_angle: float = eqx.field(static=True)  # of the mixture, in radians

    def __call__(
        self,
        stimuli: Float[Array, "batch state"],
        rates: Float[Array, "batch state"],
        shares: Float[Array, " batch"],
    ) -> tuple[Float[Array, "batch state"], Float[Array, "batch state"]]:
        """Mix each pair with the next; a sample whose stimulus would be far from that mixture stays unmixed.

        Args:
            stimuli: one per row, in random order, so that the next pair is a random one.
            rates: their steady rates.
            shares: random shares of the largest angle, from 0 to 1.
        """
        return self.with_shift(stimuli, rates, shares)[:2]

    @eqx.filter_jit
    def with_shift(self, stimuli, rates, shares):
        """As a call, and the distance of each exact stimulus from its parents' mixture, in standard deviations."""
        angles = self.largest_angle * shares[:, None]

        def mix(values, mean):
            values = values - mean[None]
            return mean[None] + jnp.cos(angles) * values + jnp.sin(angles) * jnp.roll(values, -1, axis=0)

        points = jax.vmap(self.network.params.total_input)(rates, stimuli)
        mixed_stimuli, mixed_rates = exact_pairs(self.network, mix(points, self.mean_point))
        shift = jnp.sqrt(jnp.mean((mixed_stimuli - mix(stimuli, self.mean_stimulus)) ** 2, axis=1)) / self.deviation
        is_near = (shift < _LARGEST_SHIFT)[:, None]
        return jnp.where(is_near, mixed_stimuli, stimuli), jnp.where(is_near, mixed_rates, rates), shift


def mix_pairs(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch state"],
    rates: Float[Array, "batch state"],
    *,
    largest_angle: float = _LARGEST_ANGLE,
) -> Mixing:
    """How to make fresh exact pairs from minibatches of solved ones.

    Args:
        network: a network with a weight matrix whose stimulus drives each unit directly.
        stimuli: the solved ones, one per row.
        rates: their steady rates.
        largest_angle: of the mixture, in radians; in training, angles are uniform between 0 and this.

    Raises:
        ValueError: if the network is of another kind, or the angle is not positive.
    """
    check_positive("largest_angle", largest_angle)
    _check_has_exact_pairs(network)
    network = with_padded_rows(network)
    return Mixing(network, *_moments(network, stimuli, rates), largest_angle)


@eqx.filter_jit
def _moments(network, stimuli, rates):
    """The mean stimulus, the mean point, and the root mean square of the stimuli about their mean."""
    points = jax.vmap(network.params.total_input)(rates, stimuli)
    mean = stimuli.mean(axis=0)
    return mean, points.mean(axis=0), jnp.sqrt(jnp.mean((stimuli - mean[None]) ** 2))


def mixing_for(
    network: RecurrentNetwork,
    stimuli: Float[Array, "batch stimulus"],
    rates: Float[Array, "batch rate"],
    *,
    key: PRNGKeyArray,
) -> tuple[Mixing, float] | None:
    """How to mix pairs of stimuli and steady rates, if the network has exact pairs and its dynamics reach the mixtures.

    The second result is the median distance of exact stimuli from the mixtures of their parents, in standard
    deviations. None if the network has no exact pairs, the stimuli do not vary, or the dynamics do not reach a mixture.
    The pairs must be in random order.
    """
    if not has_exact_pairs(network) or len(stimuli) < 2 or not np.asarray(stimuli).std() > 0:
        return None
    network = with_padded_rows(network)
    tried = take_rows((stimuli, rates), slice(_NUM_TRIED))
    moments, (*mixtures, shift) = _moments_and_mixtures(network, stimuli, rates, *tried, key)
    if not _leads_to_mixtures(network, *mixtures):
        return None
    return Mixing(network, *moments, _LARGEST_ANGLE), float(np.median(shift))


@eqx.filter_jit
def _moments_and_mixtures(network, stimuli, rates, tried_stimuli, tried_rates, key):
    """The moments that define a mixing, and mixtures of some pairs, in one program."""
    shares = jr.uniform(key, (len(tried_stimuli),), stimuli.dtype)
    moments = _moments(network, stimuli, rates)
    return moments, Mixing(network, *moments, _LARGEST_ANGLE).with_shift(tried_stimuli, tried_rates, shares)


def _leads_to_mixtures(network: RateNetwork, stimuli, rates) -> bool:
    """Whether the dynamics from zero reach all mixtures, not counting samples that run out of steps."""
    solved = solve_steady_states(network, stimuli)
    reached = np.asarray(batch_rates(network, solved.state))
    apart = np.abs(reached - np.asarray(rates)).max(axis=1) / (1 + np.abs(reached).max(axis=1))
    status = np.asarray(solved.status)
    is_elsewhere = (status != Status.max_steps_reached) & ~((status == Status.converged) & (apart < _SAME))
    return not is_elsewhere.any()
