"""Do small perturbations of a fixed point die out, and how fast? The cheapest proof first.

A fixed point is stable if every eigenvalue z of the Jacobian J of the velocity has a negative real part. Eigenvalues of
non-symmetric matrices are slow and not available on every device, so they come last:

1. for a network: with slopes in [0, 1], every fixed point is stable if the spectral radius of |W| is below 1, or if the
   symmetric part of W is below the identity in some positive diagonal metric (`certified_rate`);
2. for a batch: powers of `I + s J` on a random vector (`shrink`), a few matrix products for all samples;
3. for one sample: powers of the Cayley transform of J by repeated squaring (`attraction`);
4. for the few that are left: eigenvalues on the host (`rightmost_eigenvalues`).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Scalar

from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.networks.rate import StateForm, has_sparse_weights, is_rate_network, slopes
from rnn2ff.spectra import balancing_scale, perron_bound
from rnn2ff.steady_state.eigenvalues import LARGEST_DENSE, active_jacobians, has_blocks, rightmost_eigenvalues
from rnn2ff.steady_state.padding import TILE, in_tiles, padded

_SURE_DECAY, _SURE_GROWTH = -4.0, 60.0  # logs of norms; no transient growth reaches e^60
NEUTRAL = 1e-6  # a growth rate below this, per longest time constant, is within rounding of none
_PROOF = 1e-3  # the norm to shrink to; the chance of a false proof is below this, for each unstable fixed point
_STEPS_PER_CHECK, _MAX_CHECKS = 4, 48
_FEW, _SMALLEST_DIVIDED = 4, 64  # a batch is divided once only one in so many is open; a small one is not
_MOST_SQUARINGS = 16
_SMALL_BLOCK = 40  # units


class Attraction(eqx.Module):
    """Whether small perturbations die out.

    Attributes:
        is_stable: no perturbation grows. On a continuous attractor perturbations stay, and that counts as stable.
        rate: of the slowest decay, over time; an estimate, 0 if there is none.
    """

    is_stable: Bool[ArrayLike, "*batch"]
    rate: Float[ArrayLike, "*batch"]


def attraction(
    network: RecurrentNetwork,
    state: Float[Array, " state"],
    stimulus: Float[Array, " stimulus"],
    *,
    is_needed: Bool[Array, ""],
) -> Attraction:
    """The attraction of one fixed point, by products and one linear solve; for networks of up to some hundred units.

    The Cayley transform `A = (I - s J)^-1 (I + s J)` maps eigenvalues with negative real part into the unit circle, and
    squaring A again and again tells which: `|A^m| < 1` for some m proves stability, and `|A^m|^(1/m)` tends to the
    spectral radius from above (Gelfand).

    Args:
        network: the network.
        state: a fixed point.
        stimulus: the stimulus.
        is_needed: where False the answer is not needed, and under `vmap` costs nothing if no sample needs it.
    """
    size = state.size
    identity = jnp.eye(size, dtype=state.dtype)
    # What rounding and a finite power leave undecided: growth slower than about this, per step of the transform.
    max_squarings, slack = (30, 1e-8) if state.dtype == jnp.float64 else (20, 2e-5)

    def transform(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        del carry
        matrix = jax.jacfwd(network.velocity)(state, stimulus)
        norm = jnp.maximum(jnp.linalg.norm(matrix), jnp.finfo(state.dtype).tiny)
        scale = size**0.5 / norm  # so that typical eigenvalues end up far inside the unit circle
        cayley = jnp.linalg.solve(identity - scale * matrix, identity + scale * matrix)
        return jnp.zeros((), bool), cayley, scale

    def is_undecided(carry: tuple[Array, Array, Array]) -> Array:
        _, log_norm, num_squarings = carry
        return is_needed & (log_norm > _SURE_DECAY) & (log_norm < _SURE_GROWTH) & (num_squarings < max_squarings)

    def square(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        matrix, log_norm, num_squarings = carry
        matrix = matrix @ matrix
        norm = jnp.linalg.norm(matrix)
        return matrix / norm, 2 * log_norm + jnp.log(norm), num_squarings + 1

    # Loops, not branches: under `vmap` a branch is always paid for, a loop that no sample enters is not.
    one = jnp.ones((), state.dtype)
    _, power, scale = jax.lax.while_loop(lambda carry: carry[0], transform, (is_needed, identity, one))
    norm = jnp.linalg.norm(power)
    start = (power / norm, jnp.log(norm), jnp.zeros((), jnp.int32))
    _, log_norm, num_squarings = jax.lax.while_loop(is_undecided, square, start)
    log_radius = log_norm / 2.0 ** num_squarings.astype(state.dtype)
    return Attraction(
        is_stable=log_radius <= slack,  # False if NaN
        rate=jnp.maximum(-jnp.tanh(log_radius / 2) / scale, 0),  # inverts the transform, for a real eigenvalue
    )


def certified_rate(network: RecurrentNetwork) -> float:
    """A decay rate that every fixed point of the network has, whatever the stimulus, over time; 0 where none is known.

    For rectifiers and tanh, whose slopes are in [0, 1]. It holds for all time constants.
    """
    if not is_rate_network(network) or network.vector_field.nonlinearity not in (jax.nn.relu, jnp.tanh):
        return 0.0
    weights = network.params.recurrent_weights
    if has_sparse_weights(network) or len(weights) > 2 * LARGEST_DENSE:
        return 0.0
    weights = np.asarray(weights, np.float64)
    slowest = float(np.max(np.asarray(network.time_constants)))
    margins = [1 - perron_bound(np.abs(weights))[0]]
    scale = balancing_scale(weights)  # the best metric would cost more than a plan gains from it
    scaled = weights * scale[:, None] / scale[None, :]
    margins.append(1 - np.linalg.eigvalsh((scaled + scaled.T) / 2).max())
    return max(0.0, min(1.0, float(max(margins)))) / slowest


def shrink(
    network: RecurrentNetwork,
    states: Float[Array, "batch state"],
    stimuli: Float[Array, "batch stimulus"],
    step: float | Scalar,
) -> tuple[Bool[Array, " batch"], Float[Array, " batch"]]:
    """Which fixed points are proved stable by powers of `I + s J` on a random vector, and their slowest decay rates.

    For an eigenvalue z with real part of at least 0, `|1 + s z| >= 1`. So with y0 standard normal, an unstable J gives
    `|(I + s J)^k y0| >= |g|`, where g, the component of y0 along the left eigenvector, is standard normal too, however
    non-normal J is. A norm below `1e-3` therefore proves stability, with a chance of less than that to be wrong. What
    is not proved need not be unstable.

    Args:
        network: the network.
        states: fixed points, one a row; no more than are worked on together.
        stimuli: their stimuli.
        step: s, in units of the shortest time constant: 1 where eigenvalues are within 1 of -1, smaller otherwise.
    """
    size = len(states)
    vectors = jnp.broadcast_to(jr.normal(jr.key(0), states.shape[1:], states.dtype), states.shape)
    norms = jnp.full(size, states.shape[1] ** 0.5, states.dtype)
    few = size // _FEW if size >= _SMALLEST_DIVIDED else 0
    powers = _Powers(vectors, norms, jnp.zeros_like(norms), jnp.zeros((), jnp.int32))
    powers = _multiply(network, states, stimuli, step, powers, most_open=few)
    if few:  # the last ones take many steps, which cost less for them alone
        rows = jnp.argsort(~powers.is_open)[:few]
        rest = _Powers(powers.vectors[rows], powers.norms[rows], powers.rates[rows], powers.num_checks)
        rest = _multiply(network, states[rows], stimuli[rows], step, rest, most_open=0)
        norms, rates = powers.norms.at[rows].set(rest.norms), powers.rates.at[rows].set(rest.rates)
        return norms < _PROOF, rates
    return powers.norms < _PROOF, powers.rates


class _Powers(eqx.Module):
    """Vectors on their way to a proof."""

    vectors: Float[Array, "batch state"]
    norms: Float[Array, " batch"]  # infinite once it has grown: never proved, whatever follows
    rates: Float[Array, " batch"]
    num_checks: Int[Array, ""]

    @property
    def is_open(self) -> Bool[Array, " batch"]:
        return (self.norms >= _PROOF) & jnp.isfinite(self.norms)


def _multiply(network, states, stimuli, step: float | Scalar, powers: _Powers, *, most_open: int) -> _Powers:
    """Until no more than so many are open."""
    seconds = step * jnp.min(network.time_constants)
    overflow = 1 / jnp.finfo(states.dtype).eps
    advance = _steps(network, states, stimuli, seconds)

    def is_open(powers):
        return (powers.num_checks < _MAX_CHECKS) & (jnp.sum(powers.is_open) > most_open)

    def check(powers):
        vectors = advance(powers.vectors)
        norms = jnp.linalg.norm(vectors, axis=1)
        rates = (1 - (norms / powers.norms) ** (1 / _STEPS_PER_CHECK)) / seconds  # `1 + s z`, for a real eigenvalue z
        is_lost = jnp.isinf(powers.norms) | ~(norms < overflow)
        vectors = jnp.where(is_lost[:, None], 0, vectors)  # kept finite
        return _Powers(vectors, jnp.where(is_lost, jnp.inf, norms), rates, powers.num_checks + 1)

    return jax.lax.while_loop(is_open, check, powers)


def _steps(
    network: RecurrentNetwork,
    states: Float[Array, "batch state"],
    stimuli: Float[Array, "batch stimulus"],
    seconds: Scalar,
) -> Callable[[Float[Array, "batch state"]], Float[Array, "batch state"]]:
    """The map from vectors y, one for each fixed point, to `(I + s J)^k y` for a small fixed k."""

    def repeat(step: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda vectors: jax.lax.fori_loop(0, _STEPS_PER_CHECK, lambda _, vectors: step(vectors), vectors)

    if not is_rate_network(network):
        _, push = jax.linearize(lambda states: jax.vmap(network.velocity)(states, stimuli), states)
        return repeat(lambda vectors: vectors + seconds * push(vectors))
    # With weights W and slopes m the Jacobian is `(W m - I) / tau` in the state form and `(m W - I) / tau` in the rate
    # form. Written out, a step is one product and one pass over memory; `linearize` would make several.
    form, params = network.vector_field, network.params
    share = seconds / params.time_constants[None, :]
    recurrent_input = jax.vmap(params.recurrent_input)
    if isinstance(form, StateForm):
        gains = jax.vmap(lambda state: slopes(form, state))(states)
        return repeat(lambda vectors: (1 - share) * vectors + share * recurrent_input(gains * vectors))
    points = jax.vmap(params.total_input)(states, stimuli)
    gains = share * jax.vmap(lambda point: slopes(form, point))(points)
    return repeat(lambda vectors: (1 - share) * vectors + gains * recurrent_input(vectors))


def prove(
    network: RecurrentNetwork,
    states: Float[ArrayLike, "batch state"],
    stimuli: Float[ArrayLike, "batch stimulus"],
    step: float,
) -> tuple[Bool[np.ndarray, " batch"], Float[np.ndarray, " batch"]]:
    """`shrink` for a batch of any size, on the host."""
    num_samples = len(states)
    rows = padded(np.arange(num_samples))
    if len(rows) > num_samples:  # padded on the host: a batch of a new size would be compiled anew
        states, stimuli = np.asarray(states)[rows], np.asarray(stimuli)[rows]
    is_proved, rates = _shrink_batch(network, states, stimuli, np.asarray(step, network.dtype))
    return np.asarray(is_proved)[:num_samples], np.asarray(rates)[:num_samples]


@eqx.filter_jit
def _shrink_batch(network, states, stimuli, step):
    return in_tiles(lambda *tile: shrink(network, *tile, step), (states, stimuli), TILE)


def _attractions_of_blocks(network, states, stimuli) -> Attraction:
    """For small active blocks: powers of Cayley transforms as in `attraction`, all of about one size together."""
    slowest = float(np.max(np.asarray(network.params.time_constants)))
    is_stable, rates = np.zeros(len(states), bool), np.full(len(states), 1 / slowest)
    for rows, jacobians in active_jacobians(network, states, stimuli):
        identity = np.eye(jacobians.shape[1])
        norms = np.linalg.norm(jacobians, axis=(1, 2))
        scales = jacobians.shape[1] ** 0.5 / np.where(norms > 0, norms, 1)
        try:
            scaled = scales[:, None, None] * jacobians
            powers = np.linalg.solve(identity - scaled, identity + scaled)
        except np.linalg.LinAlgError:  # an eigenvalue of 1 / s
            powers = np.full_like(jacobians, np.inf)
        left, log_norms = np.arange(len(rows)), np.zeros(len(rows))
        for exponent in range(_MOST_SQUARINGS):
            norms = np.maximum(np.linalg.norm(powers, axis=(1, 2)), np.finfo(np.float64).tiny)
            with np.errstate(invalid="ignore"):  # of what could not be solved; it stays undecided
                powers = powers / norms[:, None, None]
            log_norms = log_norms + np.log(norms)
            is_done = ~(log_norms > _SURE_DECAY) | ~(log_norms < _SURE_GROWTH)
            done = rows[left[is_done]]
            is_stable[done] = log_norms[is_done] <= _SURE_DECAY
            log_radii = log_norms[is_done] / 2.0**exponent
            rates[done] = np.minimum(rates[done], -np.tanh(log_radii / 2) / scales[left[is_done]])
            left, powers, log_norms = left[~is_done], powers[~is_done], log_norms[~is_done]
            if not len(left):
                break
            powers, log_norms = powers @ powers, 2 * log_norms
    undecided = np.flatnonzero(~is_stable)
    if len(undecided):  # eigenvalues have the last word
        rightmost = rightmost_eigenvalues(network, states[undecided], stimuli[undecided])
        is_stable[undecided], rates[undecided] = rightmost * slowest < NEUTRAL, -rightmost
    return Attraction(is_stable, np.maximum(rates, 0))


def _has_small_blocks(network, states) -> bool:
    """Whether active blocks are so small that to look at them is cheaper than products with all units."""
    if not has_blocks(network):
        return False
    num_active = (np.asarray(states) > 0).sum(axis=1)
    return bool(num_active.max() <= _SMALL_BLOCK) or network.state_size <= _SMALL_BLOCK


def attractions(
    network: RecurrentNetwork,
    states: Float[ArrayLike, "batch state"],
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    step: float = 1.0,
    rate: float = 0.0,
) -> Attraction:
    """The attraction of a batch of fixed points, on the host.

    Args:
        network: the network.
        states: fixed points, one a row.
        stimuli: their stimuli.
        step: of the powers, as for `shrink`; a wrong one costs time, and nothing else.
        rate: one that every fixed point is known to have, from `certified_rate`; if positive nothing is left to prove.
    """
    num_samples = len(states)
    if rate > 0:
        return Attraction(np.ones(num_samples, bool), np.full(num_samples, rate))
    states, stimuli = np.asarray(states), np.asarray(stimuli)
    if _has_small_blocks(network, states):
        return _attractions_of_blocks(network, states, stimuli)
    is_proved, rates = prove(network, states, stimuli, step)
    return settle_unproved(network, states, stimuli, is_proved, rates)


def settle_unproved(
    network: RecurrentNetwork,
    states: Float[np.ndarray, "batch state"],
    stimuli: Float[np.ndarray, "batch stimulus"],
    is_proved: Bool[np.ndarray, " batch"],
    rates: Float[np.ndarray, " batch"],
) -> Attraction:
    """The attraction of a batch of which most are proved: eigenvalues decide for the others.

    Args:
        network: the network.
        states: fixed points, one a row.
        stimuli: their stimuli.
        is_proved: from `shrink`.
        rates: from `shrink`.
    """
    is_stable, rates = np.array(is_proved), np.array(rates)
    rows = np.flatnonzero(~is_stable)
    if len(rows) and has_blocks(network):
        found = _attractions_of_blocks(network, states[rows], stimuli[rows])
        is_stable[rows], rates[rows] = found.is_stable, found.rate
    elif len(rows):
        rightmost = rightmost_eigenvalues(network, states[rows], stimuli[rows])
        slowest = float(np.max(np.asarray(network.time_constants)))
        is_stable[rows] = rightmost * slowest < NEUTRAL
        rates[rows] = -rightmost
    return Attraction(is_stable, np.maximum(rates, 0))
