"""Symmetries of a network: permutations of its units and channels under which it is invariant.

If relabeling the units, and the channels that drive them, changes no weight, bias or time constant, then the steady
state for the relabeled stimulus is the relabeled steady state, also in multistable networks, as the dynamics start at
zero. So each solved pair gives one pair per symmetry: permutations within a pool, rotations of a ring.

The algorithm is color refinement with individualization: units of one color have the same weights to each color; units
are singled out until all colors differ, and every resulting permutation is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from rnn2ff._checks import check_on_host, check_stimuli
from rnn2ff.networks import RateNetwork, RecurrentNetwork

_MOST_UNITS = 512  # bounds the time: a check of one permutation compares n^2 weights
_MOST_IMAGES = 64  # images of one unit that are tried
_MOST_TRIED = 32  # permutations that are tried for one image
_NUM_COMPOSED = 3  # permutations that are composed into a random one
_SAME = 1e-5  # relative to the largest weight; closer weights count as equal
_STANDARD_ERRORS = 6  # by which moments of the stimuli may differ and still count as equal


class Symmetries(eqx.Module):
    """Relabels the units and channels of solved pairs, each pair by a random symmetry; made by `find_symmetries`."""

    pools: Int[Array, " state"]  # the pool of each unit; all permutations within a pool are symmetries
    # Further symmetries, including the identity: for each unit, the unit whose value it takes.
    permutations: Int[Array, "symmetry state"]
    channel_units: Int[Array, " stimulus"]  # the unit that represents each channel
    unit_channels: Int[Array, " state"]  # the channel of each unit, 0 if there is none
    rate_size: int = eqx.field(static=True)  # number of rates, those of the first units

    def draw(self, number: int, *, key: PRNGKeyArray) -> Int[Array, "{number} state"]:
        """Random symmetries, one per row: for each unit, the unit whose value it takes."""
        return jax.vmap(self._draw)(jr.split(key, number))

    def relabel(
        self,
        stimuli: Float[Array, "batch stimulus"],
        rates: Float[Array, "batch rate"],
        sources: Int[Array, "batch state"],
    ) -> tuple[Float[Array, "batch stimulus"], Float[Array, "batch rate"]]:
        """The same pairs, each relabeled by the symmetry in its row."""
        channels = self.unit_channels[sources[:, self.channel_units]]
        return jnp.take_along_axis(stimuli, channels, 1), jnp.take_along_axis(rates, sources[:, : self.rate_size], 1)

    def _draw(self, key: PRNGKeyArray) -> Int[Array, " state"]:
        """A shuffle within each pool, composed with some of the permutations."""
        pool_key, choice_key = jr.split(key)
        order = jnp.argsort(self.pools)
        places = jr.uniform(pool_key, order.shape)
        shuffled = jnp.argsort(self.pools.astype(places.dtype) + places / 2)  # below 1, even rounded: pools stay apart
        sources = jnp.zeros_like(order).at[order].set(shuffled)
        for choice in jr.randint(choice_key, (_NUM_COMPOSED,), 0, len(self.permutations)):
            sources = sources[self.permutations[choice]]
        return sources


def find_symmetries(network: RecurrentNetwork, stimuli: Float[Array, "batch stimulus"]) -> Symmetries | None:
    """The symmetries that a network shares with the moments of its stimuli; None if there are none.

    Args:
        network: any network; symmetries are only found for networks with a weight matrix whose rates are those of the
            first units, or of all, and in which each unit receives at most one channel.
        stimuli: samples of its stimuli, one per row.

    Raises:
        ValueError: if the stimuli do not fit the network.
    """
    check_on_host("find_symmetries", "use what was found outside", network, stimuli)
    check_stimuli(stimuli, network.stimulus_size)
    invariants = _invariants_of(network)
    if invariants is None:
        return None
    weights, features, channels, rate_size = invariants
    colors = _refined(weights, features)
    if len(np.unique(colors)) == len(colors):
        return None
    pools = _pools(weights, colors)
    unit_channels = np.maximum(channels, 0)
    channel_units = np.array([int(np.flatnonzero(channels == channel)[0]) for channel in range(network.stimulus_size)])
    has_same_moments = _comparison_of_moments(stimuli, unit_channels, channel_units)
    moved = np.flatnonzero(pools != np.arange(len(pools)))  # each exchanged with the first unit of its pool
    is_alike = all(has_same_moments(_swapped(len(pools), unit, pools[unit])) for unit in moved)
    orders = list(filter(has_same_moments, _automorphisms(weights, colors, pools)))
    pools = pools if is_alike else np.arange(len(pools))
    if len(np.unique(pools)) == len(pools) and not orders:
        return None
    permutations = np.stack([np.arange(len(pools)), *orders])
    return Symmetries(*jax.device_put((pools, permutations, channel_units, unit_channels)), rate_size)


class _Invariants(NamedTuple):
    """What a symmetry preserves."""

    weights: Int[np.ndarray, "state state"]  # as integer codes, the same for weights that count as equal
    features: Int[np.ndarray, " state"]  # a color for each unit
    channels: Int[np.ndarray, " state"]  # of each unit, -1 for none
    rate_size: int  # number of rates


def _invariants_of(network: RecurrentNetwork) -> _Invariants | None:
    """The invariants of symmetries; None for networks of another kind."""
    if not (isinstance(network, RateNetwork) and network.state_size <= _MOST_UNITS and network.shows_first_rates):
        return None
    size, params = network.state_size, network.params
    channels, strengths = np.arange(size), np.ones(size)
    if params.stimulus_weights is not None:
        drive = np.asarray(params.stimulus_weights, np.float64)
        if (np.count_nonzero(drive, axis=1) > 1).any() or not np.count_nonzero(drive, axis=0).all():
            return None
        channels = np.where(drive.any(axis=1), np.abs(drive).argmax(axis=1), -1)
        strengths = drive.sum(axis=1)
    constants = [_codes(values) for values in (strengths, params.bias, params.time_constants)]
    features = np.stack([*constants, channels >= 0, np.arange(size) < network.rate_size], axis=1)
    # Sharing a channel is a relation to preserve, in addition to the weights.
    is_together = (channels[:, None] == channels) & (channels >= 0)[:, None]
    weights = 2 * _codes(network.dense_weights) + is_together
    colors = np.unique(features, axis=0, return_inverse=True)[1].ravel()
    return _Invariants(weights, colors, channels, network.rate_size)


def _codes(values: ArrayLike) -> np.ndarray:
    """Integer codes, equal for values that count as equal."""
    values = np.asarray(values, np.float64)
    sizes = np.sort(values, axis=None)
    gaps = np.diff(sizes, prepend=sizes[0]) > _SAME * max(np.abs(sizes).max(), np.finfo(float).tiny)
    return np.cumsum(gaps)[np.searchsorted(sizes, values.ravel())].reshape(values.shape)


def _refined(weights: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """The coarsest refinement of colors in which all units of one color have the same weights to each color.

    Colors are numbered by what they stand for, so that those of two networks that are relabelings of each other agree.
    """
    number = len(np.unique(colors))
    while True:
        links = (weights * (weights.max() + 1) + weights.T) * len(colors) + colors  # three integers in one
        pairs = np.unique(links, return_inverse=True)[1].reshape(weights.shape)
        looks = np.concatenate([colors[:, None], np.diag(weights)[:, None], np.sort(pairs, axis=1)], axis=1)
        colors = np.unique(looks, axis=0, return_inverse=True)[1].ravel()
        if len(np.unique(colors)) == number:
            return colors
        number = len(np.unique(colors))


def _pools(weights: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Pools of interchangeable units: two are if their transposition is a symmetry, and three if any two are."""
    pools = np.arange(len(colors))
    for unit in range(len(colors)):
        for earlier in np.flatnonzero(colors[:unit] == colors[unit]):
            swapped = _swapped(len(colors), unit, earlier)
            if pools[earlier] == earlier and _is_preserved(weights, swapped, rows=np.array([unit, earlier])):
                pools[unit] = earlier
                break
    return pools


def _swapped(size: int, one: int | np.integer, other: int | np.integer) -> np.ndarray:
    """The transposition of two units, as an order of all."""
    order = np.arange(size)
    order[[one, other]] = other, one
    return order


def _is_preserved(weights: np.ndarray, order: np.ndarray, rows: np.ndarray | None = None) -> bool:
    """Whether a permutation preserves the weights, in all rows and columns or in some."""
    rows = np.arange(len(weights)) if rows is None else rows
    return np.array_equal(weights[rows], weights[order[rows]][:, order]) and np.array_equal(
        weights[:, rows], weights[order][:, order[rows]]
    )


def _automorphisms(weights: np.ndarray, colors: np.ndarray, pools: np.ndarray) -> list[np.ndarray]:
    """Permutations that map units of other pools to the first unit of their color."""
    orders: list[np.ndarray] = []
    for color in np.unique(colors):
        units = np.flatnonzero((colors == color) & (pools == np.arange(len(pools)))).tolist()
        start = _singled_out(weights, colors, units[0])
        is_reached = _reached(units[0], orders, len(pools))  # earlier permutations may generate it
        for image in [unit for unit in units if not is_reached[unit]][:_MOST_IMAGES]:
            order = _matched(weights, start, _singled_out(weights, colors, image), [_MOST_TRIED])
            if order is not None:
                orders.append(order)
    return orders


def _reached(unit: int, orders: list[np.ndarray], size: int) -> np.ndarray:
    """The orbit of a unit under permutations."""
    is_reached = np.arange(size) == unit
    while True:
        before = is_reached.sum()
        for order in orders:
            is_reached[order[is_reached]] = True
        if is_reached.sum() == before:
            return is_reached


def _singled_out(weights: np.ndarray, colors: np.ndarray, unit: int) -> np.ndarray:
    """The refined colors in which one unit has a color of its own."""
    colors = 2 * colors
    colors[unit] += 1
    return _refined(weights, colors)


def _matched(weights: np.ndarray, colors: np.ndarray, others: np.ndarray, budget: list[int]) -> np.ndarray | None:
    """A symmetry that maps the other colors to these, if one is found within the budget."""
    if not np.array_equal(np.sort(colors), np.sort(others)) or budget[0] <= 0:
        return None
    budget[0] -= 1
    order = np.empty_like(colors)
    order[np.argsort(colors, kind="stable")] = np.argsort(others, kind="stable")
    if _is_preserved(weights, order):
        return order
    names, counts = np.unique(colors, return_counts=True)
    shared = names[counts > 1]
    if not len(shared):
        return None
    next_colors = _singled_out(weights, colors, int(np.flatnonzero(colors == shared[0])[0]))
    for image in np.flatnonzero(others == shared[0]).tolist():
        order = _matched(weights, next_colors, _singled_out(weights, others, image), budget)
        if order is not None:
            return order
    return None


def _comparison_of_moments(
    stimuli: ArrayLike, unit_channels: np.ndarray, channel_units: np.ndarray
) -> Callable[[np.ndarray], bool]:
    """A function that decides whether a relabeling preserves the means and covariances of the stimuli."""
    stimuli = np.asarray(stimuli, np.float64)
    mean = stimuli.mean(axis=0)
    centered = stimuli - mean
    covariance = centered.T @ centered / len(stimuli)
    squares = (centered**2).T @ centered**2 / len(stimuli)  # of products, for the errors of covariances
    mean_error = np.sqrt(np.diag(covariance) / len(stimuli))
    covariance_error = np.sqrt(np.maximum(squares - covariance**2, 0) / len(stimuli))

    def is_same(values: np.ndarray, errors: np.ndarray, index: object) -> bool:
        bound = _STANDARD_ERRORS * np.hypot(errors, errors[index]) + _SAME * np.abs(values).max()
        return bool((np.abs(values - values[index]) <= bound).all())

    def are_preserved(order: np.ndarray) -> bool:
        channels = unit_channels[order[channel_units]]
        return is_same(mean, mean_error, channels) and is_same(covariance, covariance_error, np.ix_(channels, channels))

    return are_preserved
