"""Is a solve ever wrong about what happened?

Thousands of solves by `solve_steady_states`, in float32 and in float64, over networks that come to rest, that never do,
that grow without bound, and that have many steady states. The truth is a float64 rollout over 2000 time constants with
small steps, checked by its residual and by the eigenvalues of the Jacobian. It uses nothing of the library but the
vector field. Every wrong answer is listed, with the settings that reproduce it.

Some families are made to mislead: two competitors with equal or nearly equal drives, started at zero or next to the
saddle between them. The dynamics approach the saddle along all other directions first, come nearly to rest there, and
leave it at the growth rate of the family. A solver that takes a small residual for rest, or convergence for attraction,
stops at the saddle. What the dynamics do is known in closed form.

The entry point is compared with the engine alone, `solve_batch` under `jit`: no host program finishes what it leaves
undecided.
"""

import dataclasses
import functools
import itertools
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnn2ff
from benchmarks.parts.problems import (
    TANH,
    distances,
    grating,
    in_float64,
    make_problem,
    make_saddle,
    ssn_ring,
    ssn_weights,
)
from experiments._executors import Compute, serially
from experiments._script import run_script, table
from rnn2ff.networks import (
    RecurrentNetwork,
    partition_competition,
    rate_network,
    residual,
    threshold_linear,
    threshold_linear_rate,
)
from rnn2ff.steady_state import Status, SteadyState, plan_steady_states, solve_steady_states

_AT_REST_RESIDUAL = 1e-12  # of the truth
_LONGEST_STEP = 0.1  # of the truth, in shortest time constants
_GROWTH = 1e-7  # eigenvalues above it, in units of one over the longest time constant, are unstable
_SAME_STATE = 1e-2  # relative, as in `steady_states`
_SAME_PERIOD = 0.02
_NUM_PLANNED = 256  # stimuli, of which the later half makes the plan; a prefix is what is judged
_TOLERANCES = {"float32": 1e-5, "float64": 1e-9}
_ROUNDING = 64  # times the dtype's epsilon: a smaller velocity, relative to the states, may be due to rounding alone
_GROWTH_RATES = (1, 0.1, 0.01, 0.003, 0.001)  # of saddles
_COMPETITION, _COMPETITION_SIZE = "winner-take-all", 48  # the one large family, and its units
_NO_DECAY, _MOST_WINDOWS = 0.9, 8  # of the motion half a window before; windows that are watched
_TRUTH_TILE = 256  # samples whose rollouts run in one loop, until the slowest of them ends
ENGINE = "engine"  # in the name of a mode: `solve_batch` alone


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of the first network of each family; the others have the seeds that follow."""
    families: tuple[str, ...] = ()
    """Names of the families; all of them if empty."""
    num_networks: int = 8
    """Networks of each family."""
    num_stimuli: int = 24
    """Stimuli for each network."""
    num_competing: int = 2048
    """Stimuli of the winner-take-all family, which has one network."""
    dtypes: tuple[str, ...] = (
        "float32",
        "float32 planned",
        "float64",
        "float64 planned",
        "float32 engine",
        "float64 engine",
    )
    """The precision of the solves, and the mode: `planned` with an existing plan, `engine` by `solve_batch` alone."""
    max_time: float = 2000.0
    """Duration of the rollouts for the truth, in longest time constants."""
    late_after: float = 1000.0
    """Where a saddle delays the dynamics by more longest time constants than this, the end need not be found."""
    window: float = 400.0
    """Time after `max_time` in which a period is searched for."""

    def smoke(self) -> "Config":
        """Small enough to run in a minute or two, nearly all of which is compilation."""
        families = ("cycle of 3", "tie, rate 0.1")
        return dataclasses.replace(
            self,
            families=families,
            num_networks=1,
            num_stimuli=4,
            num_competing=16,
            dtypes=("float32", "float32 planned", "float64 engine"),
            max_time=300.0,
            window=100.0,
        )


class ClosedForm(NamedTuple):
    """Where the dynamics come to rest, without a rollout.

    Attributes:
        states: there.
        leading: the largest real part of the eigenvalues there, times the longest time constant.
        settling_times: until they are there, in longest time constants.
    """

    states: np.ndarray
    leading: np.ndarray
    settling_times: np.ndarray


class Case(NamedTuple):
    """A network, with the stimuli and the initial states of the dynamics. All its numbers are exact in float32.

    Attributes:
        network: in float32.
        stimuli: one per row.
        initial_states: one per row.
        margins: the velocity that decides between two basins, relative to the states; infinite where neither basin is
        close.
        closed_form: the final states of the dynamics, where they are known.
    """

    network: RecurrentNetwork
    stimuli: np.ndarray
    initial_states: np.ndarray
    margins: np.ndarray
    closed_form: ClosedForm | None = None


class Truth(NamedTuple):
    """What the dynamics do.

    Attributes:
        kind: "steady"; "late" (the same, but after a time in which it need not be found);
            "unstable" (at rest on a fixed point that they would leave if disturbed, as after an exact tie);
            "oscillating"; "diverging"; or "slow" (still approaching something at the end: not judged).
        state: at the end.
        period: of a limit cycle, in units of time; NaN where there is none.
        leading: the largest real part of the eigenvalues at rest, times the longest time constant; NaN elsewhere.
    """

    kind: np.ndarray
    state: np.ndarray
    period: np.ndarray
    leading: np.ndarray


# --- the networks -----------------------------------------------------------------------------------------------------

_GRAPHS = {  # rows: from whom each unit receives (CTLN, Curto and Morrison)
    "clique of 3": "011;101;110",
    "cycle of 3": "001;100;010",
    "graph A": "00001;10001;01000;10100;00110",
    "graph C": "00001;00101;00010;10100;11000",
}


def _ctln(edges: np.ndarray) -> np.ndarray:
    weights = np.where(edges, -0.75, -1.5)
    np.fill_diagonal(weights, 0)
    return weights


def _ctln_case(edges: np.ndarray, num_stimuli: int, rng: np.random.Generator) -> Case:
    stimuli = 1 + 0.02 * rng.normal(size=(num_stimuli, len(edges)))
    return _case(threshold_linear_rate, _ctln(edges), stimuli, 0.3 * rng.uniform(size=stimuli.shape))


def _graph_case(name: str, num_stimuli: int, rng: np.random.Generator) -> Case:
    edges = np.array([[int(entry) for entry in row] for row in _GRAPHS[name].split(";")], bool)
    return _ctln_case(edges, num_stimuli, rng)


def _random_graph_case(num_stimuli: int, rng: np.random.Generator, *, is_oriented: bool) -> Case:
    """Without edges in both directions there are few stable fixed points."""
    draw = rng.uniform(size=(8, 8))
    return _ctln_case(draw < draw.T if is_oriented else draw < 0.5, num_stimuli, rng)


def _on_the_fixed_point(num_stimuli: int, rng: np.random.Generator) -> Case:
    """A cycle of 3 that starts on its unstable fixed point, or next to it: a residual near 0, and no rest."""
    weights = _ctln(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], bool))
    offsets = np.geomspace(1e-7, 1e-2, num_stimuli)[:, None] * rng.normal(size=(num_stimuli, 3))
    return _case(threshold_linear_rate, weights, np.ones((num_stimuli, 3)), 4 / 13 + offsets)


def _random_case(gain: float, num_stimuli: int, rng: np.random.Generator, *, is_smooth: bool = False) -> Case:
    size = 32
    weights = rng.normal(size=(size, size)) * (gain / size**0.5)
    stimuli = rng.normal(size=(num_stimuli, size)) * (0.3 if is_smooth else 1.0)
    return _case(_tanh if is_smooth else threshold_linear, weights, stimuli)


def _inhibited_case(gain: float, num_stimuli: int, rng: np.random.Generator) -> Case:
    """Random weights with inhibition that keeps them from growing: limit cycles and chaos."""
    size = 32
    weights = (gain * rng.normal(size=(size, size)) - 2) / size**0.5
    return _case(threshold_linear, weights, 2 + 0.3 * rng.normal(size=(num_stimuli, size)))


def _tanh(weights: jax.Array) -> RecurrentNetwork:
    return rate_network(TANH, weights)


def _ssn_case(contrast: float, num_stimuli: int, rng: np.random.Generator) -> Case:
    drive = grating(contrast, rng.uniform(0, 180, size=(num_stimuli, 1)), 32)
    return _case(ssn_ring, ssn_weights(32), np.concatenate([drive, drive], axis=1))


def _ring_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    """A ring whose bump is nearly free to move (Ben-Yishai, Bar-Or and Sompolinsky 1995), with a little noise."""
    size = 32
    angles = np.arange(size) * np.pi / size
    weights = (-1 + 4 * np.cos(2 * (angles[:, None] - angles))) / size
    return _case(threshold_linear_rate, weights, 1 + 0.1 * rng.normal(size=(num_stimuli, size)))


def _tuned_ring_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    size = 64
    angles = np.arange(size) * 2 * np.pi / size
    weights = (-4 + 2.5 * np.cos(angles[:, None] - angles)) / size
    amplitude, angle = rng.uniform(0.5, 1.5, (num_stimuli, 1)), rng.uniform(0, 2 * np.pi, (num_stimuli, 1))
    clean = amplitude * (0.7 + 0.3 * np.cos(angles - angle))
    return _case(threshold_linear, weights, clean + 0.5 * rng.normal(size=clean.shape))


def _competition_case(num_stimuli: int, rng: np.random.Generator, *, margins: tuple[float, float] | None) -> Case:
    """Hard competition of 4 partitions; with margins, the two best drives differ by as little."""
    drive = rng.uniform(size=(num_stimuli, 4))
    noise = 0.3
    if margins is not None:
        drive = np.sort(drive, axis=1)
        drive[:, -2] = drive[:, -1] * (1 - np.exp(rng.uniform(*np.log(margins), size=num_stimuli)))
        drive, noise = rng.permuted(drive, axis=1), 0.0
    weights = partition_competition(4, 8, self_excitation=1.3).params.recurrent_weights
    stimuli = np.zeros((num_stimuli, 40))
    stimuli[:, :32] = np.repeat(drive, 8, axis=1) + noise * rng.normal(size=(num_stimuli, 32))
    return _case(threshold_linear, np.asarray(weights), stimuli)


def _competition_saddle_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Hard competition of 3 partitions, 32 units, started next to the saddle on which two of them are active."""
    self_excitation, size, num_excitatory = 1.3, 32, 24
    network = partition_competition(3, 8, self_excitation=self_excitation)
    weights = np.float64(np.float32(network.params.recurrent_weights))
    best = rng.uniform(0.5, 1, size=num_stimuli)
    drive = np.stack([best, best * (1 - rng.uniform(0, 0.1, size=num_stimuli)), 0.1 * best], axis=1)
    order = rng.permuted(np.tile(np.arange(3), (num_stimuli, 1)), axis=1)
    drive = np.take_along_axis(drive, order, axis=1)
    stimuli = np.zeros((num_stimuli, size), np.float32)
    stimuli[:, :num_excitatory] = np.repeat(drive, 8, axis=1)
    is_active = np.ones((num_stimuli, size), bool)
    is_active[:, :num_excitatory] = np.repeat(order < 2, 8, axis=1)
    saddles = np.linalg.solve(np.eye(size) - weights * is_active[:, None], np.float64(stimuli)[..., None])[..., 0]
    offsets = np.resize([0, *10.0 ** -np.arange(7, 1, -1)], num_stimuli)[:, None] * rng.normal(size=(num_stimuli, size))
    starts = np.float32(saddles + offsets)
    means = (starts - saddles)[:, :num_excitatory].reshape(num_stimuli, 3, 8).mean(axis=2)
    signs = np.where(order == 0, 1, np.where(order == 1, -1, 0))
    # The difference of the two grows as its own exponential, whatever the others do.
    margins = (self_excitation - 1) * np.abs((means * signs).sum(axis=1)) / (1 + np.abs(saddles).max(axis=1))
    return _case(threshold_linear, weights, stimuli, starts, margins=margins)


def _winner_take_all_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    """The problem `wta` of `steady_states`, with fewer units."""
    seed = int(rng.integers(2**31))
    problem = make_problem("wta", _COMPETITION_SIZE, num_stimuli, stimulus_seed=seed)
    return _case(threshold_linear, problem.weights, problem.stimuli)


def _saddle_case(
    growth_rate: float | None, num_stimuli: int, rng: np.random.Generator, *, state_size: int, starts_near: bool = False
) -> Case:
    """Two competitors in a larger network; without a rate, one of all that there are."""
    growth_rate = float(rng.choice(_GROWTH_RATES) if growth_rate is None else growth_rate)
    saddle = make_saddle(growth_rate, state_size, num_stimuli, rng, starts_near=starts_near)
    constructor = functools.partial(threshold_linear, stimulus_weights=saddle.stimulus_weights)
    closed_form = ClosedForm(saddle.states, saddle.leading, saddle.settling_times)
    case = _case(constructor, saddle.weights, saddle.stimuli, saddle.initial_states, margins=saddle.margins)
    return case._replace(closed_form=closed_form)


def _growing_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Excitation without inhibition, too strong; for some stimuli all stay silent."""
    size = 16
    weights = rng.lognormal(size=(size, size))
    weights *= 1.1 / np.abs(np.linalg.eigvals(weights)).max()
    return _case(threshold_linear, weights, rng.normal(size=(num_stimuli, size)) - 0.5)


def _case(
    constructor: Callable,
    weights: np.ndarray,
    stimuli: np.ndarray,
    initial_states: np.ndarray | None = None,
    *,
    margins: np.ndarray | None = None,
) -> Case:
    """Rounded to float32, so that both dtypes solve the same problem."""
    initial_states = np.zeros((len(stimuli), len(weights))) if initial_states is None else initial_states
    margins = np.full(len(stimuli), np.inf) if margins is None else margins
    network = constructor(jnp.asarray(weights, jnp.float32))
    return Case(network, np.float32(stimuli), np.float32(initial_states), margins)


FAMILIES: dict[str, Callable[[int, np.random.Generator], Case]] = {
    **{name: lambda n, rng, name=name: _graph_case(name, n, rng) for name in _GRAPHS},
    "random CTLN": lambda n, rng: _random_graph_case(n, rng, is_oriented=False),
    "random oriented CTLN": lambda n, rng: _random_graph_case(n, rng, is_oriented=True),
    "starts on an unstable fixed point": _on_the_fixed_point,
    **{
        f"random gain {gain}": lambda n, rng, g=gain: _random_case(g, n, rng) for gain in (0.8, 1.1, 1.4, 1.7, 2.1, 2.5)
    },
    **{f"random gain {gain}, inhibited": lambda n, rng, g=gain: _inhibited_case(g, n, rng) for gain in (2.1, 3.5)},
    **{
        f"random tanh, gain {gain}": lambda n, rng, g=gain: _random_case(g, n, rng, is_smooth=True)
        for gain in (0.8, 1.2, 1.6, 2.0)
    },
    **{f"SSN, contrast {contrast}": lambda n, rng, c=contrast: _ssn_case(c, n, rng) for contrast in (1, 10, 20)},
    "ring, nearly free bump": _ring_case,
    "ring, tuned input": _tuned_ring_case,
    "competition": lambda n, rng: _competition_case(n, rng, margins=None),
    "competition, near ties": lambda n, rng: _competition_case(n, rng, margins=(1e-4, 0.1)),
    "growing": _growing_case,
    _COMPETITION: _winner_take_all_case,
    **{f"tie, rate {rate}": lambda n, rng, r=rate: _saddle_case(r, n, rng, state_size=16) for rate in _GROWTH_RATES},
    "starts near a saddle": lambda n, rng: _saddle_case(None, n, rng, state_size=32, starts_near=True),
    "competition, starts near a saddle": _competition_saddle_case,
}
MISLEADING = tuple(name for name in FAMILIES if name.startswith("tie, ") or name.endswith("near a saddle"))


def make_case(family: str, seed: int, num_stimuli: int) -> Case:
    """One network of a family. The seed and the number of stimuli reproduce it."""
    return FAMILIES[family](num_stimuli, np.random.default_rng([seed, zlib.crc32(family.encode())]))


# --- the truth --------------------------------------------------------------------------------------------------------


def find_truth(cases: list[Case], config: Config) -> list[Truth]:
    """What the dynamics of each case do, in float64. The cases differ in numbers only."""
    if cases[0].closed_form is not None:
        return [_truth_of(case.closed_form, config) for case in cases]
    with jax.enable_x64(True):
        networks = [in_float64(case.network) for case in cases]
        network = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
        stimuli, starts = (jnp.asarray(np.stack(arrays), float) for arrays in list(zip(*cases))[1:3])
        states = _integrate(network, stimuli, starts, config.max_time)
        truths = []
        for i in range(len(cases)):
            at_rest, leading = _rest(networks[i], states[i], stimuli[i])
            moving = ~at_rest & np.isfinite(states[i]).all(axis=1) & (np.abs(states[i]).max(axis=1) < 1e8)
            kind = np.where(at_rest, np.where(leading < _GROWTH, "steady", "unstable"), "diverging").astype("<U12")
            period = np.full(len(kind), np.nan)
            if moving.any():
                rows = np.flatnonzero(moving)
                period[rows], kind[rows] = _watch(networks[i], stimuli[i][rows], states[i][rows], config)
            truths.append(Truth(kind, np.asarray(states[i]), period, leading))
    return truths


def _truth_of(known: ClosedForm, config: Config) -> Truth:
    is_soon = known.settling_times <= config.late_after
    kind = np.where(known.leading > _GROWTH, "unstable", np.where(is_soon, "steady", "late"))
    return Truth(kind.astype("<U12"), known.states, np.full(len(kind), np.nan), known.leading)


def _solution(network, stimulus, start, end, tolerance, **options):
    # Steps are kept from the edge of stability, where the error that the controller allows would prevent rest.
    longest_step = _LONGEST_STEP * jnp.min(network.time_constants)
    return dfx.diffeqsolve(
        dfx.ODETerm(lambda t, state, args: network.velocity(state, stimulus)),
        dfx.Tsit5(),
        t0=0.0,
        t1=end,
        dt0=None,
        y0=start,
        stepsize_controller=dfx.PIDController(rtol=tolerance, atol=tolerance, dtmax=longest_step),
        adjoint=dfx.ForwardMode(),
        max_steps=10_000_000,
        throw=False,
        **options,
    )


@jax.jit
def _integrate(network, stimuli, starts, max_time):
    """The final states: where the dynamics come to rest, exceed a bound, or are when the time ends."""

    def one(network, stimulus, start):
        def has_ended(t, state, args, **kwargs):
            del t, args, kwargs
            return (residual(network, state, stimulus) < _AT_REST_RESIDUAL) | (jnp.max(jnp.abs(state)) > 1e9)

        end = max_time * jnp.max(network.time_constants)
        solution = _solution(network, stimulus, start, end, 1e-10, event=dfx.Event(has_ended))
        return solution.ys[0]

    over_stimuli = jax.vmap(one, in_axes=(None, 0, 0))
    if stimuli.shape[1] % _TRUTH_TILE == 0:  # samples that come to rest do not wait for the slowest of all
        return jax.vmap(lambda network, *rows: _in_tiles(over_stimuli, network, *rows))(network, stimuli, starts)
    return jax.vmap(over_stimuli)(network, stimuli, starts)


def _in_tiles(function, network, *rows):
    tiles = [array.reshape(-1, _TRUTH_TILE, array.shape[-1]) for array in rows]
    output = jax.lax.map(lambda tile: function(network, *tile), tuple(tiles))
    return output.reshape(-1, output.shape[-1])


def _rest(network, states, stimuli) -> tuple[np.ndarray, np.ndarray]:
    """Whether states are at rest, and the leading eigenvalue there."""
    residuals = np.asarray(jax.vmap(residual, in_axes=(None, 0, 0))(network, states, stimuli))
    at_rest = residuals < 10 * _AT_REST_RESIDUAL
    leading = np.full(len(at_rest), np.nan)
    slowest = float(np.max(network.time_constants))
    for row in np.flatnonzero(at_rest):
        jacobian = np.asarray(jax.jacfwd(network.velocity)(states[row], stimuli[row]))
        leading[row] = np.linalg.eigvals(jacobian).real.max() * slowest
    return at_rest, leading


def _leading(case: Case, state: np.ndarray, row: int) -> float:
    """The leading eigenvalue at an answer, in float64."""
    with jax.enable_x64(True):
        network = in_float64(case.network)
        state, stimulus = jnp.asarray(state, float), jnp.asarray(case.stimuli[row], float)
        jacobian = np.asarray(jax.jacfwd(network.velocity)(state, stimulus))
        return float(np.linalg.eigvals(jacobian).real.max() * np.max(network.time_constants))


def _watch(network, stimuli, states, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Continue moving samples for a while: whether they keep moving, and with which period."""
    slowest = float(np.max(network.time_constants))
    times = jnp.linspace(0, config.window * slowest, int(20 * config.window) + 1)

    @jax.jit
    def follow(stimulus, state):
        saved = dfx.SaveAt(ts=times)
        return _solution(network, stimulus, state, times[-1], 1e-9, saveat=saved).ys

    periods, kinds = [], []
    for stimulus, state in zip(stimuli, states):
        for _ in range(_MOST_WINDOWS):
            path = np.asarray(follow(stimulus, state))
            half = len(path) // 2
            first, second = np.ptp(path[:half], axis=0).max(), np.ptp(path[half:], axis=0).max()
            has_grown = not np.isfinite(path).all() or np.abs(path[-1]).max() > 1e3 * (1 + np.abs(path[0]).max())
            # A state that comes to rest moves less and less, even if slowly; one that oscillates keeps its amplitude,
            # and moves back and forth.
            way = np.abs(np.diff(path[half:], axis=0)).sum(axis=0).max()
            is_moving = not has_grown and second > 1e-4 * (1 + np.abs(path).max()) and way > 1.5 * second
            moves_on = is_moving and second > _NO_DECAY * first
            if moves_on or not is_moving or second < 0.2 * first:
                break
            state = path[-1]
        kinds.append("oscillating" if moves_on else "diverging" if has_grown else "slow")
        periods.append(find_period(np.asarray(times), path) if moves_on else np.nan)
    return np.array(periods), np.array(kinds)


def find_period(times: np.ndarray, path: np.ndarray) -> float:
    """The period of a path, by its returns to a section through its first state; NaN if it does not return there.

    The section is the plane through that state, orthogonal to the direction in which it moves. A return counts if it is
    near, and if the path is back again after twice and three times the period (as far as the path goes).
    """
    direction = path[1] - path[0]
    height = (path - path[0]) @ direction
    size = np.abs(path - path.mean(axis=0)).max()
    before = np.flatnonzero((height[:-1] < 0) & (height[1:] >= 0))
    share = height[before] / (height[before] - height[before + 1])
    crossing = times[before] + share * (times[before + 1] - times[before])
    state = path[before] + share[:, None] * (path[before + 1] - path[before])
    returns = crossing[np.abs(state - path[0]).max(axis=1) < 2e-3 * size]
    for period in returns:
        multiples = period * np.arange(1, max(2, 1 + min(3, int(times[-1] / period))))
        is_back = [np.abs(returns - multiple).min() < 5e-3 * period for multiple in multiples]
        if period <= times[-1] / 2 and all(is_back):
            return float(period)
    return float("nan")


# --- the answers ------------------------------------------------------------------------------------------------------


def run(config: Config, compute: Compute = serially) -> Iterator[dict]:
    """One row per family and dtype, with every wrong answer listed."""
    groups = itertools.groupby(config.families or FAMILIES, functools.partial(_program_of, config=config))
    for result in compute(functools.partial(_of_families, tuple(families), config) for _, families in groups):
        yield from result["rows"]


def _cases(family: str, config: Config) -> list[Case]:
    is_large = family == _COMPETITION
    seeds = range(config.seed, config.seed + (1 if is_large else config.num_networks))
    return [make_case(family, seed, config.num_competing if is_large else config.num_stimuli) for seed in seeds]


def _program_of(family: str, config: Config) -> tuple:
    """A key that is equal for families that share compiled programs."""
    case = _cases(family, config)[0]
    return case.network.vector_field, case.stimuli.shape


def _of_families(families: tuple[str, ...], config: Config) -> dict:
    """The rows of families that share compiled programs."""
    jax.clear_caches()  # programs compiled for other families would only fill the memory
    rows = []
    for family in families:
        cases = _cases(family, config)
        seeds = range(config.seed, config.seed + len(cases))
        truths = find_truth(cases, config)
        for dtype in config.dtypes:
            answers = [solve(case, dtype, _other_stimuli(family, seed)) for seed, case in zip(seeds, cases)]
            rows.append(judge(family, dtype, list(zip(seeds, cases, truths, answers))))
    return {"rows": rows}


def _other_stimuli(family: str, seed: int) -> np.ndarray:
    """Stimuli for the same network, to make a plan from."""
    return make_case(family, seed, _NUM_PLANNED).stimuli[-_NUM_PLANNED // 2 :]


def solve(case: Case, way: str, other_stimuli: np.ndarray) -> SteadyState:
    """Solve as the user does, with or without a plan; in float32 with x64 off, which is the default."""
    dtype, *how = way.split()
    tolerance = _TOLERANCES[dtype]
    with jax.enable_x64(dtype == "float64"):
        network = in_float64(case.network) if dtype == "float64" else case.network
        plan = None
        if "planned" in how:
            try:
                plan = plan_steady_states(network, other_stimuli.astype(dtype), tolerance=tolerance)
            except RuntimeError as error:  # no steady state to plan for: then there is no plan to judge
                print(f"no plan: {error}", file=sys.stderr)
        stimuli, starts = case.stimuli.astype(dtype), case.initial_states.astype(dtype)
        if ENGINE in how:
            solution = _solve_by_engine(network, stimuli, plan, starts, tolerance)
        else:
            solution = solve_steady_states(network, stimuli, solver=plan, initial_states=starts, tolerance=tolerance)
        return jax.tree.map(np.asarray, solution)


@eqx.filter_jit
def _solve_by_engine(network, stimuli, plan, initial_states, tolerance):
    return rnn2ff.solve_batch(network, stimuli, plan, initial_states=initial_states, tolerance=tolerance)


def judge(family: str, dtype: str, solved: list[tuple[int, Case, Truth, SteadyState]]) -> dict:
    """Counts over the networks of a family, and its wrong answers."""
    confusion: dict[str, dict[str, int]] = {}
    violations = []
    num_periodic = num_right_period = num_rounded = 0
    follows_motion = ENGINE not in dtype
    resolution = _ROUNDING * float(np.finfo(dtype.split()[0]).eps)
    for seed, case, truth, answer in solved:
        error = distances(answer.state, truth.state)
        names = [Status(int(status)).name for status in answer.status]
        period, distance = (getattr(answer, name, None) for name in ("period", "distance"))
        is_tie = case.margins < resolution
        kinds = np.where(is_tie & np.isin(truth.kind, ("steady", "late")), "tie", truth.kind)
        for i, (kind, name) in enumerate(zip(map(str, kinds), names)):
            counts = confusion.setdefault(kind, {})
            counts[name] = counts.get(name, 0) + 1
            received = np.nan if period is None else float(period[i])
            has_right_period = abs(received - truth.period[i]) <= _SAME_PERIOD * truth.period[i]
            if follows_motion and kind == "oscillating" and np.isfinite(truth.period[i]):
                num_periodic += 1
                num_right_period += bool(has_right_period)
            leading = truth.leading[i]
            is_elsewhere = name == "converged" and kind in _AT_REST and error[i] > _SAME_STATE
            if is_elsewhere:
                leading = _leading(case, answer.state[i], i)
            what = _violation(kind, name, leading=leading, is_elsewhere=is_elsewhere, is_tie=is_tie[i])
            num_rounded += is_elsewhere and is_tie[i] and what is None
            if what == _UNCALLED and not follows_motion:
                what = None
            if what is None and np.isfinite(received) and np.isfinite(truth.period[i]) and not has_right_period:
                what = "another period"
            if what is not None:
                violations.append(
                    {
                        "what": what,
                        "family": family,
                        "seed": seed,
                        "num_stimuli": len(truth.kind),
                        "sample": i,
                        "dtype": dtype,
                        "truth": kind,
                        "status": name,
                        "error": error[i],
                        "residual": float(answer.residual[i]),
                        "distance": None if distance is None else float(distance[i]),
                        "leading": leading,  # at the answer if it lies elsewhere, else at the truth
                        "period": [received, truth.period[i]],
                    }
                )
    return {
        "family": family,
        "dtype": dtype,
        "num_samples": sum(len(truth.kind) for _, _, truth, _ in solved),
        "confusion": confusion,
        "num_periodic": num_periodic,
        "num_right_period": num_right_period,
        "num_rounded": num_rounded,
        "violations": violations,
    }


_FALSE, _SADDLE, _MISSED, _BASIN, _UNCALLED = (
    "called converged, never rests",
    "called converged, unstable point",
    "steady, not found",
    "converged elsewhere",
    "oscillates, not called so",
)
_AT_REST = ("steady", "late", "tie", "unstable")  # kinds of truth


def _violation(truth: str, status: str, *, leading: float, is_elsewhere: bool, is_tie: bool) -> str | None:
    """What is wrong with an answer, if anything.

    Args:
        truth: its kind; "tie" in place of "steady" and "late" where rounding decides between two steady states.
        status: of the answer.
        leading: eigenvalue at the answer if it is elsewhere, else at the truth.
        is_elsewhere: whether the answer is converged, but to another state than the truth.
        is_tie: whether rounding decides between the steady states, or would if the tie were not exact.
    """
    if status == "converged" and truth in _AT_REST:
        if leading > _GROWTH:
            return _SADDLE
        if truth == "unstable":
            return None if is_tie else _FALSE
        return _BASIN if is_elsewhere and not is_tie else None
    if status == "converged" and truth in ("oscillating", "diverging"):
        return _FALSE
    if truth == "steady":
        return _MISSED
    if truth == "oscillating" and status != "oscillating":
        return _UNCALLED
    return None


# --- what is printed --------------------------------------------------------------------------------------------------


def _summary(rows: list[dict]) -> dict:
    """Counts over rows."""
    kinds: dict[str, int] = {}
    for row in rows:
        for kind, counts in row["confusion"].items():
            kinds[kind] = kinds.get(kind, 0) + sum(counts.values())
    wrong = [violation["what"] for row in rows for violation in row["violations"]]
    return {
        "kinds": kinds,
        "moving": sum(kinds.get(kind, 0) for kind in ("oscillating", "diverging")),
        "at rest": sum(kinds.get(kind, 0) for kind in _AT_REST),
        **{what: wrong.count(what) for what in (_FALSE, _SADDLE, _MISSED, _BASIN, _UNCALLED)},
        "num_periodic": sum(row["num_periodic"] for row in rows),
        "num_right_period": sum(row["num_right_period"] for row in rows),
        "num_rounded": sum(row.get("num_rounded", 0) for row in rows),
    }


def marks(rows: list[dict]) -> Iterator[dict]:
    """For each dtype and mode: the required and the measured value, and whether the mark is met."""
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        of_this = [row for row in rows if row["dtype"] == dtype]
        summary = _summary(of_this)
        plain = _summary([row for row in of_this if row["family"] not in MISLEADING])

        def mark(what, required, received, is_met, dtype=dtype):
            return {"dtype": dtype, "what": what, "mark": required, "received": received, "is_met": bool(is_met)}

        def percent(count, total):
            return f"{100 * count / total:.2f} % ({count} of {total})" if total else "none to judge"

        steady, oscillating = (summary["kinds"].get(kind, 0) for kind in ("steady", "oscillating"))
        yield mark(
            "never at rest, called converged", "0", f"{summary[_FALSE]} of {summary['moving']}", summary[_FALSE] == 0
        )
        yield mark("unstable points called converged", "0", f"{summary[_SADDLE]} of {summary['at rest']}",
                   summary[_SADDLE] == 0)  # fmt: skip
        yield mark("converged elsewhere than the dynamics", "0", percent(summary[_BASIN], steady), summary[_BASIN] == 0)
        # Of all families: where a saddle delays the dynamics, a state that is never reached is undecided as well.
        yield mark("truly stable, left undecided", "<= 1 %", percent(summary[_MISSED], steady),
                   summary[_MISSED] <= 0.01 * steady)  # fmt: skip
        if ENGINE in dtype:  # which neither decides every sample nor tells how undecided ones move
            continue
        missed, steady = plain[_MISSED], plain["kinds"].get("steady", 0)
        yield mark("steady states not found, where no saddle misleads", "<= .1 %", percent(missed, steady),
                   missed <= 1e-3 * steady)  # fmt: skip
        called, right = oscillating - summary[_UNCALLED] - _false_cycles(rows, dtype), summary["num_right_period"]
        yield mark("limit cycles and chaos called oscillating", ">= 99 %", percent(called, oscillating),
                   called >= 0.99 * oscillating)  # fmt: skip
        yield mark("periods within 2 %, of limit cycles", "(>= 99 %)", percent(right, summary["num_periodic"]),
                   right >= 0.99 * summary["num_periodic"])  # fmt: skip


def _false_cycles(rows: list[dict], dtype: str) -> int:
    return sum(row["confusion"].get("oscillating", {}).get("converged", 0) for row in rows if row["dtype"] == dtype)


def describe(rows: list[dict]) -> str:
    """A table by family, the marks, and the wrong answers."""
    shown = ("steady", "late", "tie", "unstable", "oscillating", "diverging", "slow")
    header = ["family", "dtype", "samples", *shown, "false", "saddle", "missed", "elsewhere", "uncalled"]
    header += ["right periods", "other end of a tie"]
    lines = []
    for row in rows:
        summary = _summary([row])
        kinds = [summary["kinds"].get(kind, 0) for kind in shown]
        wrong = [summary[what] for what in (_FALSE, _SADDLE, _MISSED, _BASIN, _UNCALLED)]
        periods = f"{row['num_right_period']} of {row['num_periodic']}"
        lines.append([row["family"], row["dtype"], row["num_samples"], *kinds, *wrong, periods, summary["num_rounded"]])
    judged = [[f"{mark['dtype']}: {mark['what']}", mark["mark"], mark["received"],
               "met" if mark["is_met"] else "NOT MET"] for mark in marks(rows)]  # fmt: skip
    parts = [table(header, lines), table(["mark", "required", "measured", ""], judged), _list_violations(rows)]
    return "\n\n".join(parts)


def summarize(rows: list[dict]) -> str:
    """The table that the README shows."""
    judged = list(marks(rows))
    ways = list(dict.fromkeys(mark["dtype"] for mark in judged))
    whats = list(dict.fromkeys(mark["what"] for mark in judged))
    received = {(mark["what"], mark["dtype"]): mark["received"] for mark in judged}
    return table(["", *ways], [[what, *(received.get((what, way), "-") for way in ways)] for what in whats])


def _list_violations(rows: list[dict], num_shown: int = 40) -> str:
    violations = [violation for row in rows for violation in row["violations"]]
    if not violations:
        return "No wrong answers."
    order = [_FALSE, _SADDLE, _BASIN, _MISSED, "another period", _UNCALLED]
    violations.sort(key=lambda violation: order.index(violation["what"]))
    lines = [
        [
            violation["what"],
            violation["family"],
            violation["seed"],
            violation["sample"],
            violation["dtype"],
            violation["truth"],
            violation["status"],
        ]
        + ["-" if violation[name] is None else f"{violation[name]:.2g}" for name in ("error", "residual", "leading")]
        for violation in violations[:num_shown]
    ]
    header = ["wrong answer", "family", "seed", "sample", "dtype", "truth", "status", "error", "residual", "leading"]
    more = len(violations) - num_shown
    rest = f"\n\n{more} more are in the record." if more > 0 else ""
    again = "python -m benchmarks.honest_failures --families FAMILY --seed SEED --num-networks 1"
    amounts = {"num-competing" if violation["family"] == _COMPETITION else "num-stimuli": violation["num_stimuli"]
               for violation in violations}  # fmt: skip
    again += "".join(f" --{name} {amount}" for name, amount in amounts.items())
    return f"Make one again: `{again}`\n\n{table(header, lines)}{rest}"


if __name__ == "__main__":
    run_script("honest_failures", Config(), run, describe, folder=Path(__file__).parent)
