"""The networks and stimuli that solvers are timed on, all in the state form `tau dx/dt = -x + W phi(x) + u`.

| name | weights | nonlinearity | what is hard about it |
|---|---|---|---|
| gauss09 | Gaussian, spectral radius .9 | rectifier | none: the plain case |
| pstiff99 | lognormal, non-negative, spectral radius .99 | rectifier | one slow mode |
| gauss13 | Gaussian, spectral radius 1.25 | rectifier | the plain iteration diverges |
| wta | groups of 8 that share 8 inhibitory units, self-excitation 1.3 | rectifier | many steady states |
| tanh09 | Gaussian, spectral radius .9 | tanh | smooth: no exact finish |
| ssn | ring of 32 E + 32 I units, time constants 1 and 1/2 | .04 [x]_+^2 | strong gain, damped oscillations |

Beside them, `make_saddle`: networks in which a solver can mistake a saddle for a steady state, and whose dynamics are
known in closed form.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rnn2ff.networks import (
    RecurrentNetwork,
    StateForm,
    blas_threads,
    partition_competition,
    rate_network,
    residual,
    threshold_linear,
)

_RADIUS = {"gauss09": 0.9, "pstiff99": 0.99, "gauss13": 1.25, "tanh09": 0.9}
_GROUP_SIZE = 8
_SSN_SIZE = 64

# Of a saddle: the time constants in which the winner comes to within e^-30 of its steady state, the loser being silent,
# and the iterations in which the units that follow do: the norm of their weights is about 2 x .3 (Gaussian).
_SETTLING, _CONTRACTIONS = 30, 100
_MOST_NEWTON_STEPS, _EXACT, _NEAR = 20, 1e-12, 0.1  # of exact states: residual, and distance from the given ones

# The nonlinearities and their slopes, in numpy.
NONLINEARITIES = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "power": (lambda x: 0.04 * np.maximum(x, 0) ** 2, lambda x: 0.08 * np.maximum(x, 0)),
}

NAMES = (*_RADIUS, "wta", "ssn")


def power_law(state: jax.Array) -> jax.Array:
    """`.04 [x]_+^2`, of the stabilized supralinear network."""
    return 0.04 * jnp.maximum(state, 0) ** 2


# Made once: two forms of the same function are not equal, and a network with another form compiles anew.
TANH = StateForm(jnp.tanh)
POWER_LAW = StateForm(power_law)


class Problem(NamedTuple):
    """A network and a batch of stimuli.

    Attributes:
        name: of the problem.
        network: in the state form, with the stimulus driving each unit directly.
        stimuli: one per row.
        nonlinearity: "relu", "tanh" or "power", for methods without JAX.
    """

    name: str
    network: RecurrentNetwork
    stimuli: np.ndarray
    nonlinearity: str

    @property
    def weights(self) -> np.ndarray:
        return np.asarray(self.network.params.recurrent_weights)

    @property
    def time_constants(self) -> np.ndarray:
        return np.asarray(self.network.params.time_constants)

    def take(self, num_samples: int) -> "Problem":
        """The first samples alone."""
        return self._replace(stimuli=self.stimuli[:num_samples])


def make_problem(
    name: str,
    state_size: int,
    batch_size: int,
    *,
    seed: int = 0,
    stimulus_seed: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> Problem:
    """A problem by name.

    Args:
        name: one of `NAMES`.
        state_size: number of units; the SSN ring always has 64.
        batch_size: number of stimuli.
        seed: of the weights and of the stimuli, which have generators of their own.
        stimulus_seed: another one gives other stimuli for the same weights.
        dtype: of the network and the stimuli.
    """
    weight_rng, stimulus_rng = np.random.default_rng(seed), np.random.default_rng([1000 + seed, stimulus_seed])
    if name in _RADIUS:
        draw = weight_rng.lognormal if name == "pstiff99" else weight_rng.normal
        weights = draw(size=(state_size, state_size))
        weights *= _RADIUS[name] / np.abs(np.linalg.eigvals(weights)).max()
        stimuli = stimulus_rng.normal(size=(batch_size, state_size))
        if name == "tanh09":
            return Problem(name, rate_network(TANH, jnp.asarray(weights, dtype)), stimuli.astype(dtype), "tanh")
    elif name == "wta":
        weights, stimuli = _wta(state_size, batch_size, stimulus_rng)
    elif name == "ssn":
        weights, stimuli = ssn_weights(_SSN_SIZE // 2), _gratings(batch_size, stimulus_rng)
        return Problem(name, ssn_ring(jnp.asarray(weights, dtype)), stimuli.astype(dtype), "power")
    else:
        msg = f"`name` is unknown. Expected one of {', '.join(NAMES)}, got {name!r}."
        raise ValueError(msg)
    return Problem(name, threshold_linear(jnp.asarray(weights, dtype)), stimuli.astype(dtype), "relu")


def ssn_ring(weights: jax.Array) -> RecurrentNetwork:
    """The SSN with these weights; inhibition is twice as fast as excitation."""
    return rate_network(POWER_LAW, weights, time_constants=np.repeat([1, 0.5], len(weights) // 2))


def ssn_weights(num_per_population: int) -> np.ndarray:
    """Of the ring of Rubin, Van Hooser and Miller (2015), 180 units of each kind, thinned to fewer."""
    angles = np.arange(num_per_population) * 180 / num_per_population
    kernel = _bump(angles[:, None] - angles, width=32) * (180 / num_per_population)
    return np.block([[0.044 * kernel, -0.023 * kernel], [0.042 * kernel, -0.018 * kernel]])


def grating(contrast: np.ndarray, angle: np.ndarray, num_per_population: int) -> np.ndarray:
    """The input to each population for gratings at angles in degrees."""
    angles = np.arange(num_per_population) * 180 / num_per_population
    return contrast * _bump(angles - angle, width=30)


def _bump(degrees: np.ndarray, width: float) -> np.ndarray:
    distance = np.abs(degrees)
    distance = np.minimum(distance, 180 - distance)
    return np.exp(-(distance**2) / (2 * width**2))


def _gratings(batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """One grating at a random angle, for half of the samples a second one, and noise; the same to E and I."""
    size = _SSN_SIZE // 2
    contrast, angle = rng.uniform(0, 50, size=(2, batch_size, 1)), rng.uniform(0, 180, size=(2, batch_size, 1))
    contrast[1] *= rng.uniform(size=(batch_size, 1)) < 0.5
    drive = grating(contrast, angle, size).sum(axis=0) + 0.5 * rng.normal(size=(batch_size, size))
    return np.concatenate([drive, drive], axis=1)


def _wta(state_size: int, batch_size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    num_groups = state_size // _GROUP_SIZE - 1  # and as many inhibitory units as one group has
    if state_size % _GROUP_SIZE or num_groups < 2:
        msg = f"`state_size` does not fit the groups. Expected a multiple of {_GROUP_SIZE} from 24, got {state_size}."
        raise ValueError(msg)
    weights = partition_competition(num_groups, _GROUP_SIZE, self_excitation=1.3).params.recurrent_weights
    num_excitatory = num_groups * _GROUP_SIZE
    drive = np.repeat(rng.uniform(size=(batch_size, num_groups)), _GROUP_SIZE, axis=1)
    stimuli = np.zeros((batch_size, state_size))
    stimuli[:, :num_excitatory] = drive + 0.3 * rng.normal(size=drive.shape)
    return np.asarray(weights), stimuli


class Saddle(NamedTuple):
    """Two competitors with a saddle between them, and what the dynamics do, in closed form; one stimulus a row.

    The numbers that make the problem are float32; the answers are exact for these numbers, in float64.

    Attributes:
        weights: W of `x' = -x + W [x]_+ + B u`.
        stimulus_weights: B. The first channel drives both competitors alike, the second one against the other.
        stimuli: u.
        initial_states: where the dynamics start.
        states: where they come to rest: the winner's steady state, or the saddle after an exact tie.
        leading: the largest real part of the eigenvalues there.
        settling_times: until they are there; 0 after an exact tie, whose saddle is never left.
        margins: the velocity that decides who wins, over the states; where it is below rounding, rounding decides.
    """

    weights: np.ndarray
    stimulus_weights: np.ndarray
    stimuli: np.ndarray
    initial_states: np.ndarray
    states: np.ndarray
    leading: np.ndarray
    settling_times: np.ndarray
    margins: np.ndarray


def make_saddle(
    growth_rate: float, state_size: int, num_stimuli: int, rng: np.random.Generator, *, starts_near: bool = False
) -> Saddle:
    """Two units, or two partitions of 4, that excite themselves and inhibit each other; the other units follow them.

    With self-excitation a, mutual inhibition b, and drives h_1 and h_2, while both are active the sum s of the two
    states and their difference d obey

        s' = -(1 - a + b) s + h_1 + h_2,    d' = (a + b - 1) d + h_1 - h_2.

    So there is a saddle at s* = (h_1 + h_2) / (1 - a + b) and d* = -(h_1 - h_2) / (a + b - 1), and d moves away from d*
    at the growth rate a + b - 1, until one of the two falls silent; the other then comes to rest at h / (1 - a). The
    sign of d - d* at the start says who wins. Where it is 0, the dynamics come to rest on the saddle.

    Args:
        growth_rate: a + b - 1.
        state_size: units, at least 9: all that do not compete receive input from the competitors and, weakly, from each
            other, and send none back. Some are silent.
        num_stimuli: stimuli, whose drives differ by 0 and by 1e-8 to 1e-1, relative to their mean, in turns.
        rng: a generator.
        starts_near: start next to the saddle, off by 0 and by 1e-8 to 1e-1 in turns, and not at zero. The drives then
            are the same (always so on the saddle itself), or differ by so little that there is a saddle.
    """
    half = int(rng.choice((1, 4)))
    first, second, others = np.arange(half), half + np.arange(half), np.arange(2 * half, state_size)
    excitation = rng.uniform(0.2, 0.8)
    inhibition = 1 - excitation + growth_rate
    weights = np.zeros((state_size, state_size))
    for own, rival in ((first, second), (second, first)):
        weights[np.ix_(own, own)], weights[np.ix_(own, rival)] = excitation / half, -inhibition / half
    weights[np.ix_(others, others)] = 0.3 / len(others) ** 0.5 * rng.normal(size=(len(others), len(others)))
    weights[others, : 2 * half] = rng.normal(size=(len(others), 2 * half)) / (2 * half) ** 0.5
    stimulus_weights = np.eye(state_size)
    stimulus_weights[: 2 * half] = 0
    stimulus_weights[: 2 * half, 0], stimulus_weights[first, 1], stimulus_weights[second, 1] = 1, 1, -1
    mean_drive = rng.uniform(0.5, 2, size=num_stimuli)
    differences = np.resize([0, *10.0 ** -np.arange(8, 0, -1)], num_stimuli) * rng.choice((-1, 1), size=num_stimuli)
    gaps = differences
    if starts_near:
        has_gap = (differences != 0) & (rng.uniform(size=num_stimuli) < 0.5)
        gaps = growth_rate * rng.uniform(-0.5, 0.5, size=num_stimuli) * has_gap
    stimuli = np.zeros((num_stimuli, state_size))
    stimuli[:, 0], stimuli[:, 1] = mean_drive, mean_drive * gaps / 2
    stimuli[:, others] = rng.normal(size=(num_stimuli, len(others))) - 0.5
    weights, stimulus_weights, stimuli = (np.float32(array) for array in (weights, stimulus_weights, stimuli))

    # From here on with the numbers as they are after rounding.
    excitation, inhibition = (abs(weights[0, units].sum(dtype=float)) for units in (first, second))
    growth_rate = excitation + inhibition - 1
    drives = np.float64(stimuli) @ np.float64(stimulus_weights).T
    total, difference = drives[:, 0] + drives[:, half], drives[:, 0] - drives[:, half]
    sums, apart = total / (1 - excitation + inhibition), -difference / growth_rate  # s*, d*
    starts = np.zeros((num_stimuli, state_size))
    if starts_near:
        pairs = (sums[:, None] + np.outer(apart + differences * sums, (1, -1))) / 2
        starts[:, : 2 * half] = np.repeat(pairs, half, axis=1)
        starts[:, others] = rng.normal(size=(num_stimuli, len(others)))
    starts = np.float32(starts)
    escapes = starts[:, 0].astype(float) - starts[:, half] - apart  # d - d*
    signs = np.sign(escapes)
    # Units that follow do not matter for the time: they settle as fast as the pair does, or faster.
    with np.errstate(divide="ignore"):
        leaving_times = np.log(np.maximum((sums - signs * apart) / np.abs(escapes), 1)) / growth_rate
    settling_times = np.where(signs == 0, 0, leaving_times + _SETTLING / (1 - excitation))
    states = np.zeros((num_stimuli, state_size))
    winner = np.where(signs > 0, drives[:, 0], drives[:, half]) / (1 - excitation)
    loser = np.where(signs > 0, drives[:, half], drives[:, 0]) - inhibition * winner
    pairs = np.where(signs[:, None] > 0, np.stack([winner, loser], 1), np.stack([loser, winner], 1))
    on_saddle = (sums[:, None] + np.outer(apart, (1, -1))) / 2
    states[:, : 2 * half] = np.repeat(np.where(signs[:, None] == 0, on_saddle, pairs), half, axis=1)
    for _ in range(_CONTRACTIONS):  # of those that follow: their weights shrink distances
        states[:, others] = np.maximum(states, 0) @ np.float64(weights).T[:, others] + drives[:, others]
    jacobians = np.float64(weights) * (states[:, None] > 0) - np.eye(state_size)
    leading = np.linalg.eigvals(jacobians).real.max(axis=1)
    margins = growth_rate * np.abs(escapes) / sums
    return Saddle(weights, stimulus_weights, stimuli, starts, states, leading, settling_times, margins)


def residuals64(network: RecurrentNetwork, stimuli: np.ndarray, states: np.ndarray) -> np.ndarray:
    """The residual of each state, recomputed in float64 from what the network's own parameters say; inf if not finite.

    Solvers do not judge themselves: a float32 residual near its tolerance may be due to rounding.
    """
    with jax.enable_x64(True):
        network = in_float64(network)
        states, stimuli = np.asarray(states, float), np.asarray(stimuli, float)
        with np.errstate(invalid="ignore"):
            values = np.asarray(jax.jit(jax.vmap(residual, in_axes=(None, 0, 0)))(network, states, stimuli))
    return np.where(np.isfinite(values) & np.isfinite(states).all(axis=1), values, np.inf)


def exact_states(problem: Problem, states: np.ndarray) -> np.ndarray:
    """The steady states near the given ones, to the precision of float64: Newton's method, sample by sample.

    For a rectifier it ends with the exact solution for the units that are active.

    Raises:
        RuntimeError: if it does not converge, or not near where it started.
    """
    phi, slope = NONLINEARITIES[problem.nonlinearity]
    weights, identity = problem.weights.astype(float), np.eye(len(problem.weights))
    exact = np.array(states, float)
    for row, stimulus in zip(exact, problem.stimuli.astype(float)):
        for _ in range(_MOST_NEWTON_STEPS):
            velocity = weights @ phi(row) + stimulus - row
            if np.abs(velocity).max() < _EXACT * (1 + np.abs(row).max()):
                break
            with blas_threads(len(row)):
                row += np.linalg.solve(identity - weights * slope(row), velocity)
        else:
            msg = f"`states` are no steady states. Expected rest in {_MOST_NEWTON_STEPS} Newton steps."
            raise RuntimeError(msg)
    if distances(exact, states).max() > _NEAR:
        msg = f"`states` are far from steady. Expected a distance below {_NEAR}, got {distances(exact, states).max()}."
        raise RuntimeError(msg)
    return exact


def in_float64(network: RecurrentNetwork) -> RecurrentNetwork:
    """The same network, number by number, in float64; call it with x64 on."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), network)


def distances(states: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`max |x - y| / (1 + max |y|)` for each sample; inf if not finite."""
    states, reference = np.asarray(states, float), np.asarray(reference, float)
    with np.errstate(invalid="ignore"):
        values = np.abs(states - reference).max(axis=1) / (1 + np.abs(reference).max(axis=1))
    return np.where(np.isfinite(values), values, np.inf)
