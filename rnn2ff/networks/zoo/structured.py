"""Structured connectivity: competition between units, or between groups of units; and weights from a graph.

A competition has excitatory units that excite themselves, and inhibition that all of them share:
winners suppress losers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rnn2ff._checks import (
    check_at_least,
    check_fraction,
    check_positive_numbers,
    check_sizes,
    check_weights,
    fail,
    shape_of,
)
from rnn2ff.networks.graphs import graph_matrix, is_graph
from rnn2ff.networks.rate import RateNetwork
from rnn2ff.networks.threshold_linear import threshold_linear, threshold_linear_rate


def winner_take_all(
    num_units: int,
    *,
    self_excitation: float = 1.2,
    inhibition: float = 3.0,
    excitation: float = 0.25,
    time_constant: float = 1.0,
) -> RateNetwork:
    """Units that compete through one inhibitory unit, which is the last of the state.

    `x_i' = -x_i + [u_i + a x_i - b1 y]_+` and `y' = -y + [b2 sum_i x_i]_+`. A single winner has the gain
    `1 / (1 - a + b1 b2)`: at the defaults 1.818182.

    Args:
        num_units: number of competing units; the stimulus has one channel for each.
        self_excitation: a. Above 1 the competition is hard (one winner), below 1 soft.
        inhibition: b1, from the inhibitory unit to each competing unit.
        excitation: b2, from each competing unit to the inhibitory unit.
        time_constant: of all units, in any unit of time.

    Raises:
        ValueError: if a size or a weight is not positive, or even a single winner would grow without bound.

    References:
        Rutishauser, Douglas and Slotine, Collective stability of networks of winner-take-all circuits,
        Neural Computation 23, 2011.
    """
    return _competition(threshold_linear_rate, num_units, 1, 1, self_excitation, inhibition, excitation, time_constant)


def partition_competition(
    num_partitions: int,
    units_per_partition: int,
    *,
    num_inhibitory: int | None = None,
    self_excitation: float = 0.7,
    inhibition: float = 1.5,
    excitation: float = 1.0,
    time_constant: float = 1.0,
) -> RateNetwork:
    """Partitions of excitatory units that compete through shared inhibition, in the state form.

    Each excitatory unit excites its own partition with `a / n`, each inhibitory unit inhibits all excitatory units
    with `b / n_I`, each excitatory unit excites all inhibitory units with `c / n`. The state lists the excitatory
    units partition by partition, then the inhibitory ones; the stimulus drives the excitatory units only. With one
    partition active under a uniform stimulus i, its rates are `i / (1 - a + b c)`; where two are active, their
    difference is amplified by `1 / (1 - a)`.

    Args:
        num_partitions: number of competing partitions, K.
        units_per_partition: excitatory units in each, n.
        num_inhibitory: n_I, by default n.
        self_excitation: a. Below 1 the competition is soft and every stimulus has one steady state; above 1 it is
            hard, and near ties the winner depends on the initial state.
        inhibition: b.
        excitation: c.
        time_constant: of all units, in any unit of time.

    Raises:
        ValueError: if a size or a weight is not positive, or even a single winner would grow without bound.

    References:
        Muir, Feedforward approximations to dynamic recurrent network architectures, Neural Computation 30, 2018.
    """
    sizes = num_partitions, units_per_partition, units_per_partition if num_inhibitory is None else num_inhibitory
    return _competition(threshold_linear, *sizes, self_excitation, inhibition, excitation, time_constant)


def partition_means(
    activity: Float[Array, "*batch unit"], num_partitions: int, units_per_partition: int
) -> Float[Array, "*batch {num_partitions}"]:
    """The mean over each partition of stimuli, states or rates of `partition_competition`, without inhibitory units."""
    excitatory = activity[..., : num_partitions * units_per_partition]
    return excitatory.reshape(*activity.shape[:-1], num_partitions, units_per_partition).mean(-1)


def _competition(
    constructor, num_partitions, units_per_partition, num_inhibitory, self_excitation, inhibition, excitation, tau
) -> RateNetwork:
    check_at_least("number of competitors", num_partitions, 1)
    check_sizes(units_per_partition=units_per_partition, num_inhibitory=num_inhibitory)
    check_positive_numbers(self_excitation=self_excitation, inhibition=inhibition, excitation=excitation)
    if self_excitation >= 1 + inhibition * excitation:
        expected = f"less than 1 + inhibition * excitation = {1 + inhibition * excitation:g}"
        raise fail("self_excitation", "exceeds the inhibition that it recruits", expected, self_excitation)
    num_excitatory = num_partitions * units_per_partition
    weights = np.zeros((num_excitatory + num_inhibitory,) * 2)
    within = np.ones((units_per_partition, units_per_partition)) * (self_excitation / units_per_partition)
    weights[:num_excitatory, :num_excitatory] = np.kron(np.eye(num_partitions), within)
    weights[:num_excitatory, num_excitatory:] = -inhibition / num_inhibitory
    weights[num_excitatory:, :num_excitatory] = excitation / units_per_partition
    drive = np.eye(num_excitatory + num_inhibitory, num_excitatory)
    return constructor(weights, stimulus_weights=drive, time_constants=tau)


def ctln(graph: ArrayLike | object, *, epsilon: float = 0.25, delta: float = 0.5) -> RateNetwork:
    """A combinatorial threshold-linear network, in the rate form: a graph decides what the network can do.

    `x' = -x + [W x + theta]_+` with `W_ij = -1 + epsilon` where the graph has the edge j -> i, `-1 - delta` where it
    has none, and `W_ii = 0`. The stimulus is theta, one channel per unit: all ones is usual, other values break
    its symmetry. All weights are inhibitory, so the state stays bounded, but there may be no stable fixed point: many
    graphs have limit cycles or chaos instead.

    Args:
        graph: an adjacency matrix of 0 and 1, where row i and column j tell whether j -> i (as in a weight matrix); or
            a networkx graph, with units in the order of its nodes and, if undirected, each edge in both directions.
        epsilon: above 0 and below 1. The theory of these networks asks for `epsilon < delta / (1 + delta)`.
        delta: positive.

    Raises:
        ValueError: if the matrix is not square or has other entries, the graph is empty or has self-loops, or
            `epsilon` or `delta` is out of range.

    References:
        Morrison, Degeratu, Itskov and Curto, Diversity of emergent dynamics in competitive threshold-linear networks,
        arXiv 1605.04463.
    """
    adjacency = _adjacency(graph)
    check_fraction("epsilon", epsilon)
    check_positive_numbers(delta=delta)
    weights = np.where(adjacency, -1 + epsilon, -1 - delta) * (1 - np.eye(len(adjacency)))
    return threshold_linear_rate(weights)


def _adjacency(graph: ArrayLike | object) -> np.ndarray:
    """Whether there is an edge from the unit of the column to that of the row."""
    if is_graph(graph):
        adjacency = (graph_matrix(graph, weight="") > 0).astype(float)  # no attribute: every edge has the weight 1
    else:
        shape_of("graph", graph)
        adjacency = np.asarray(graph)
        adjacency = adjacency.astype(float) if adjacency.dtype == bool else adjacency
    check_weights("graph", adjacency)
    others = sorted(set(np.ravel(adjacency).tolist()) - {0, 1})
    if others:
        raise fail("graph", "is not an adjacency matrix", "entries of 0 and 1", others[:5])
    loops = np.flatnonzero(np.diag(adjacency))
    if loops.size:
        raise fail("graph", "has self-loops", "no edge from a unit to itself", f"some at units {loops.tolist()}")
    return adjacency == 1
