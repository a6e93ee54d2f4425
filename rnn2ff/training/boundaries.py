"""Where the state of a multistable network jumps: hyperplanes at which to initialize hidden units.

Where winners suppress losers, the steady state jumps between arbitrarily close stimuli, and the threshold of a hidden
unit has to be exactly there. Such a boundary is located between a stimulus at which a unit is active and one at which
it is not, by bisection. Its orientation follows from two trajectories, one on either side. They stay together until
they are close to a saddle, whose stable manifold is the boundary, and separate along its unstable direction, w. To
first order, stimuli with the same outcome leave `w . x(t)` unchanged, so its gradient with respect to the stimulus,
from the adjoint of the trajectory, is the normal of the boundary. Where a unit falls silent gradually instead,
trajectories do not separate: such places are left out, as the linearizations at steady states cover them.

Trajectories are integrated by Euler steps from zero, accurate enough for an initialization; a map takes its own steps.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnn2ff._checks import check_at_least, check_shape, check_stimuli
from rnn2ff.compiling import in_full_precision
from rnn2ff.data import Pairs
from rnn2ff.networks import RecurrentNetwork, time_scales
from rnn2ff.training.jumps import CUT, JUMP_THRESHOLD
from rnn2ff.training.symmetries import Symmetries

_STEP, _NUM_STEPS = 0.25, 800  # of a trajectory, in units of the shortest time scale
_NUM_HALVINGS = 16  # to 0.53^16 = 4e-5 of the distance of two stimuli
_SEPARATED = 0.1  # share of their final distance from which trajectories count as separated
# Share of the first pairs with a jump between them, below which the search ends. Among 16 partitions (a = 1.1) it is
# .2, and hidden units at these jumps reduce the error from 46 to 34 % after 1,500 steps.
_FEWEST_JUMPS = 0.05
_CHUNK_ENTRIES, _SMALLEST_CHUNK = 2**22, 16  # per call: entries of trajectories, and pairs
_MOST_PRODUCTS, _PATHS = 5e10, 21  # of all trajectories; trajectories for each pair, forward and backward
_LARGEST_SEARCHED = 2048  # units; beyond, the trajectories of even the fewest pairs take many minutes
_SAME_PLANE = 0.35  # distance between (unit normal, offset in deviations) of hyperplanes that count as the same
_NUM_RELABELED = 4000  # boundaries after relabeling by symmetries
_FEWEST_VOTES = 3  # fewest places on a hyperplane that decide which outputs it silences
_OFTEN = 0.2  # share of the places on a hyperplane where an output must be active on the other side
_SILENT = 1e-3  # of the deviation of rates


class Boundaries(NamedTuple):
    """Hyperplanes `normal . u + offset = 0`, tangent to boundaries where the state jumps and an output falls silent."""

    normals: Float[np.ndarray, "boundary stimulus"]  # of unit length, one per row, toward the side where it is silent
    offsets: Float[np.ndarray, " boundary"]  # one for each
    ahead: Bool[np.ndarray, "boundary rate"]  # which outputs are active on the side of the normal
    behind: Bool[np.ndarray, "boundary rate"]  # which outputs are active on the other side
    share_of_jumps: float  # the share of the located places where the state jumps
    deviation: float  # root mean square distance of the stimuli from their mean

    def planes(self, number: int) -> "Planes":
        """At most this many distinct hyperplanes, of both signs, the most frequent first.

        Hyperplanes that nearly coincide are replaced by their mean, which silences an output if most of them do.
        """
        rows = np.concatenate([self.normals, self.offsets[:, None] / self.deviation], axis=1)
        squares = (rows**2).sum(axis=1)
        products = rows @ rows.T
        is_same = squares[:, None] + squares[None] - 2 * np.abs(products) < _SAME_PLANE**2
        is_left, votes = np.ones(len(rows), bool), is_same.sum(axis=1)
        planes, silences = [], []
        while is_left.any() and len(planes) + 2 <= number:
            center = int(np.argmax(np.where(is_left, votes, 0)))
            members = np.flatnonzero(is_same[center] & is_left)
            signs = np.sign(products[center, members])[:, None]
            plane = (signs * rows[members]).mean(axis=0)
            plane /= np.linalg.norm(plane[:-1])  # and with it the offset
            is_same_side = signs > 0
            on_ahead = np.where(is_same_side, self.ahead[members], self.behind[members])
            on_behind = np.where(is_same_side, self.behind[members], self.ahead[members])
            is_known = len(members) >= _FEWEST_VOTES
            if not is_known and 2 * is_left.sum() < len(rows):
                break  # most lie on frequent planes; the rest is accidental
            planes += [plane, -plane]
            silences += [
                is_known & ((~off & on).mean(axis=0) > 0.5 * on.mean(axis=0)) & (on.mean(axis=0) > _OFTEN)
                for off, on in ((on_ahead, on_behind), (on_behind, on_ahead))
            ]
            is_left[members] = False
            votes -= is_same[:, members].sum(axis=1)
        shape = len(planes), rows.shape[1]
        planes = np.reshape(planes, shape)
        offsets = self.deviation * planes[:, -1]
        return Planes(planes[:, :-1], offsets, np.reshape(silences, (shape[0], self.ahead.shape[1])).astype(bool))


class Planes(NamedTuple):
    """Different hyperplanes `normal . u + offset = 0` at boundaries."""

    normals: Float[np.ndarray, "plane stimulus"]  # of unit length, one per row
    offsets: Float[np.ndarray, " plane"]  # one for each
    # Whether an output that is active behind is silent ahead, for each plane and output.
    silences: Bool[np.ndarray, "plane rate"]


def find_boundaries(
    network: RecurrentNetwork,
    pairs: Pairs,
    *,
    symmetries: Symmetries | None = None,
    num_pairs: int = 800,
    seed: int = 0,
) -> Boundaries | None:
    """Locate where units fall silent between random stimuli; None if few of these places are jumps.

    At most `num_pairs` places, fewer in large networks. Networks with more than 2,048 units are not searched, because
    the trajectories, which start at zero, would take too long. Symmetries give further boundaries.
    """
    check_at_least("num_pairs", num_pairs, 1)
    check_stimuli(pairs.stimuli, network.stimulus_size, "pairs.stimuli")
    check_shape("pairs.states", pairs.states, (len(pairs), network.state_size))
    if network.state_size > _LARGEST_SEARCHED:
        return None
    stimuli, states, rates = (np.asarray(array) for array in (pairs.stimuli, pairs.states, pairs.rates))
    least, jump = _SILENT * float(rates.std()), JUMP_THRESHOLD * float(states.std(axis=0).max())
    most_pairs = _MOST_PRODUCTS / (_PATHS * _NUM_STEPS * network.state_size**2)
    num_pairs = max(_SMALLEST_CHUNK, min(num_pairs, int(most_pairs)))
    segments = _choose_segments(rates > least, num_pairs, np.random.default_rng(seed))
    num_segments = len(segments.units)
    if not num_segments:
        return None
    chunk = max(_SMALLEST_CHUNK, min(num_pairs, _CHUNK_ENTRIES // (_NUM_STEPS * network.state_size)))
    # Arrays, since new values of Python floats would be recompiled.
    settings = jax.device_put([np.asarray(value, network.dtype) for value in (least, jump)])
    parts = []
    for start in range(0, num_segments, chunk):
        rows = np.arange(start, start + chunk) % num_segments  # the last chunk is filled up with the first rows
        arrays = jax.device_put((stimuli[segments.active[rows]], stimuli[segments.silent[rows]], segments.units[rows]))
        parts.append(jax.tree.map(np.asarray, _search(network, *arrays, *settings)))
        share = float(np.mean([part.is_jump.mean() for part in parts]))
        if share < _FEWEST_JUMPS:
            return None
    places = jax.tree.map(lambda *values: np.concatenate(values).astype(np.float64), *parts)
    is_usable = (places.is_jump > 0) & np.isfinite(places.normals).all(axis=1)
    places = jax.tree.map(lambda values: values[is_usable], places)
    offsets = -(places.normals * places.points).sum(axis=1)
    deviation = float(np.sqrt(stimuli.var(axis=0).sum()))
    boundaries = Boundaries(places.normals, offsets, places.ahead > least, places.behind > least, share, deviation)
    return boundaries if symmetries is None or not len(offsets) else _relabeled(boundaries, symmetries, seed)


class _Segments(NamedTuple):
    """Pairs of samples."""

    active: Int[np.ndarray, " segment"]  # rows of samples in which the unit is active
    silent: Int[np.ndarray, " segment"]  # rows of samples in which it is silent
    units: Int[np.ndarray, " segment"]  # which unit


def _choose_segments(is_active: np.ndarray, number: int, generator: np.random.Generator) -> _Segments:
    """Random pairs of samples for units chosen uniformly."""
    turning = np.flatnonzero(is_active.any(axis=0) & ~is_active.all(axis=0))
    units = np.resize(generator.permutation(turning), number if len(turning) else 0)
    rows = [[generator.choice(np.flatnonzero(side)) for side in (active, ~active)] for active in is_active.T[units]]
    return _Segments(*np.reshape(rows, (-1, 2)).astype(int).T, units)


def _relabeled(boundaries: Boundaries, symmetries: Symmetries, seed: int) -> Boundaries:
    """Further boundaries, by random symmetries."""
    rows = np.arange(_NUM_RELABELED) % len(boundaries.offsets)  # a fixed number, for one program
    dtype = jax.dtypes.canonicalize_dtype(float)
    arrays = [np.asarray(array[rows], dtype) for array in (boundaries.normals, boundaries.ahead, boundaries.behind)]
    normals, ahead, behind = map(np.asarray, _images(symmetries, *jax.device_put(arrays), jr.key(seed)))
    return boundaries._replace(
        normals=normals.astype(np.float64), offsets=boundaries.offsets[rows], ahead=ahead > 0, behind=behind > 0
    )


@eqx.filter_jit
def _images(symmetries, normals, ahead, behind, key) -> tuple[Array, Array, Array]:
    """Normals, and outputs on both sides, each relabeled by a random symmetry, in one program instead of many."""
    sources = symmetries.draw(len(normals), key=key)
    relabeled, ahead = symmetries.relabel(normals, ahead, sources)
    return relabeled, ahead, symmetries.relabel(normals, behind, sources)[1]


class _Places(NamedTuple):
    """Where the boundary lies between the stimuli of each pair."""

    normals: Float[Array, "pair stimulus"]  # of unit length, toward the side where the unit is silent
    points: Float[Array, "pair stimulus"]  # on the boundary
    ahead: Float[Array, "pair rate"]  # the rates on the side that the normal points to
    behind: Float[Array, "pair rate"]  # the rates on the other side
    is_jump: Bool[Array, " pair"]  # whether the state jumps there


@eqx.filter_jit
@in_full_precision
def _search(network, active, silent, units, least, jump) -> _Places:
    """Bisect between stimuli at which a unit is active, with a rate above `least`, and those at which it is silent.

    States further apart than `jump` count as a jump.
    """
    zero = jnp.zeros(network.state_size, network.dtype)

    def search(active, silent, unit):
        length = jnp.asarray(1, active.dtype) if network.is_map else _STEP * jnp.min(time_scales(network, zero, active))

        def trajectory(stimulus):
            def one(state, _):
                state = state + length * network.velocity(state, stimulus)
                return state, state

            return jax.lax.scan(one, zero, None, length=_NUM_STEPS)  # its end, and all of it

        def halve(_, between):
            active, silent = between
            middle = active + CUT * (silent - active)
            is_active = network.rates(trajectory(middle)[0])[unit] > least
            return jnp.where(is_active, middle, active), jnp.where(is_active, silent, middle)

        active, silent = jax.lax.fori_loop(0, _NUM_HALVINGS, halve, (active, silent))
        (active_end, active_path), (silent_end, silent_path) = trajectory(active), trajectory(silent)
        distance = jnp.max(jnp.abs(active_path - silent_path), axis=1)
        is_jump = distance[-1] > jump
        when = jnp.argmax(distance > _SEPARATED * distance[-1])  # when the trajectories separate
        direction = active_path[when] - silent_path[when]
        normal = -jax.grad(lambda stimulus: trajectory(stimulus)[1][when] @ direction)(active)
        normal = normal / jnp.max(jnp.abs(normal))  # if rates diverge, squares would overflow
        return _Places(
            normals=normal / jnp.linalg.norm(normal),
            points=(active + silent) / 2,
            ahead=network.rates(silent_end),
            behind=network.rates(active_end),
            is_jump=is_jump,
        )

    return jax.vmap(search)(active, silent, units)
