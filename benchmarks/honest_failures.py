"""Is a solve ever wrong about what happened?

Thousands of solves by `solve_steady_states`, in float32 and in float64, over networks that come to rest, that never do,
that grow without bound, and that have many steady states. The truth is a float64 rollout over 2000 time constants with
small steps, checked by its residual and by the eigenvalues of the Jacobian. Nothing of the library but the vector field
is used for it. Every wrong answer is listed, with what makes it again.
"""

import dataclasses
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.problems import TANH, distances, grating, in_float64, ssn_ring, ssn_weights
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

_AT_REST = 1e-12  # residual of the truth
_LONGEST_STEP = 0.1  # of the truth, in shortest time constants
_GROWTH = 1e-7  # eigenvalues above it, in units of one over the longest time constant, are unstable
_SAME_STATE = 1e-2  # relative, as in `steady_states`
_SAME_PERIOD = 0.02
_NUM_PLANNED = 256  # stimuli, of which the later half makes the plan; a prefix is what is judged
_TOLERANCES = {"float32": 1e-5, "float64": 1e-9}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the first network of each family; the others have the seeds that follow."""
    families: tuple[str, ...] = ()
    """Which families; all of them if empty."""
    num_networks: int = 8
    """Networks of each family."""
    num_stimuli: int = 24
    """Stimuli for each network."""
    dtypes: tuple[str, ...] = ("float32", "float32 planned", "float64", "float64 planned")
    """What the solves are made in."""
    max_time: float = 2000.0
    """Of the truth, in longest time constants."""
    window: float = 400.0
    """Time after it in which a period is looked for."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        families = ("cycle of 3", "random gain 1.7", "competition, near ties", "growing")
        return dataclasses.replace(self, families=families, num_networks=1, num_stimuli=4, max_time=300.0, window=100.0)


class Case(NamedTuple):
    """A network, with the stimuli and the states that the dynamics start from. Its numbers are whole in float32."""

    network: RecurrentNetwork
    stimuli: np.ndarray
    initial_states: np.ndarray


class Truth(NamedTuple):
    """What the dynamics do.

    Attributes:
        kind: "steady", "unstable" (at rest on a fixed point that they would leave), "oscillating", "diverging", or
            "slow" (still approaching something at the end: not judged).
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
    edges = np.array([[int(each) for each in row] for row in _GRAPHS[name].split(";")], bool)
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


def _growing_case(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Excitation without inhibition, too strong; for some stimuli all stay silent."""
    size = 16
    weights = rng.lognormal(size=(size, size))
    weights *= 1.1 / np.abs(np.linalg.eigvals(weights)).max()
    return _case(threshold_linear, weights, rng.normal(size=(num_stimuli, size)) - 0.5)


def _case(constructor: Callable, weights: np.ndarray, stimuli: np.ndarray, initial_states=None) -> Case:
    """Rounded to float32, so that both dtypes solve the same problem."""
    initial_states = np.zeros((len(stimuli), len(weights))) if initial_states is None else initial_states
    network = constructor(jnp.asarray(weights, jnp.float32))
    return Case(network, np.float32(stimuli), np.float32(initial_states))


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
}


def make_case(family: str, seed: int, num_stimuli: int) -> Case:
    """One network of a family. The seed and the number of stimuli make it again."""
    return FAMILIES[family](num_stimuli, np.random.default_rng([seed, zlib.crc32(family.encode())]))


# --- the truth --------------------------------------------------------------------------------------------------------


def find_truth(cases: list[Case], config: Config) -> list[Truth]:
    """What the dynamics of each case do, in float64. The cases differ in nothing but numbers."""
    with jax.enable_x64(True):
        networks = [in_float64(case.network) for case in cases]
        network = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
        stimuli, starts = (jnp.asarray(np.stack(each), float) for each in list(zip(*cases))[1:])
        states = _integrate(network, stimuli, starts, config.max_time)
        found = []
        for i in range(len(cases)):
            at_rest, leading = _rest(networks[i], states[i], stimuli[i])
            moving = ~at_rest & np.isfinite(states[i]).all(axis=1) & (np.abs(states[i]).max(axis=1) < 1e8)
            kind = np.where(at_rest, np.where(leading < _GROWTH, "steady", "unstable"), "diverging").astype("<U12")
            period = np.full(len(kind), np.nan)
            if moving.any():
                rows = np.flatnonzero(moving)
                period[rows], kind[rows] = _watch(networks[i], stimuli[i][rows], states[i][rows], config)
            found.append(Truth(kind, np.asarray(states[i]), period, leading))
    return found


def _solution(network, stimulus, start, end, tolerance, **options):
    # Steps never at the edge of stability, where the error that the controller allows would keep the states from rest.
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
    """The states where the dynamics rest, have grown beyond all bounds, or are when the time is up."""

    def one(network, stimulus, start):
        def has_ended(t, state, args, **kwargs):
            del t, args, kwargs
            return (residual(network, state, stimulus) < _AT_REST) | (jnp.max(jnp.abs(state)) > 1e9)

        end = max_time * jnp.max(network.time_constants)
        solution = _solution(network, stimulus, start, end, 1e-10, event=dfx.Event(has_ended))
        return solution.ys[0]

    over_stimuli = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.vmap(over_stimuli)(network, stimuli, starts)


def _rest(network, states, stimuli) -> tuple[np.ndarray, np.ndarray]:
    """Whether states are at rest, and the leading eigenvalue there."""
    residuals = np.asarray(jax.vmap(residual, in_axes=(None, 0, 0))(network, states, stimuli))
    at_rest = residuals < 10 * _AT_REST
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
    """Follow what moves for a while: does it go on moving, and with which period?"""
    slowest = float(np.max(network.time_constants))
    times = jnp.linspace(0, config.window * slowest, int(20 * config.window) + 1)

    @jax.jit
    def follow(stimulus, state):
        saved = dfx.SaveAt(ts=times)
        return _solution(network, stimulus, state, times[-1], 1e-9, saveat=saved).ys

    periods, kinds = [], []
    for stimulus, state in zip(stimuli, states):
        path = np.asarray(follow(stimulus, state))
        half = len(path) // 2
        first, second = np.ptp(path[:half], axis=0).max(), np.ptp(path[half:], axis=0).max()
        has_grown = not np.isfinite(path).all() or np.abs(path[-1]).max() > 1e3 * (1 + np.abs(path[0]).max())
        # What comes to rest moves less and less; what oscillates moves about as much as before, and to and fro.
        way = np.abs(np.diff(path[half:], axis=0)).sum(axis=0).max()
        moves_on = not has_grown and second > max(0.2 * first, 1e-4 * (1 + np.abs(path).max())) and way > 1.5 * second
        kinds.append("oscillating" if moves_on else "diverging" if has_grown else "slow")
        periods.append(find_period(np.asarray(times), path) if moves_on else np.nan)
    return np.array(periods), np.array(kinds)


def find_period(times: np.ndarray, path: np.ndarray) -> float:
    """The period of a path, by its returns to a section through its first state; NaN if it does not return there.

    The section is the plane through that state across the direction in which it moves. A return counts if it is near,
    and if twice and three times as long after (as far as the path goes) the path is back again.
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
        is_back = [np.abs(returns - each).min() < 5e-3 * period for each in multiples]
        if period <= times[-1] / 2 and all(is_back):
            return float(period)
    return float("nan")


# --- the answers ------------------------------------------------------------------------------------------------------


def run(config: Config) -> list[dict]:
    """One row a family and dtype, with every wrong answer listed."""
    rows = []
    seeds = range(config.seed, config.seed + config.num_networks)
    for family in config.families or FAMILIES:
        cases = [make_case(family, seed, config.num_stimuli) for seed in seeds]
        truths = find_truth(cases, config)
        for dtype in config.dtypes:
            answers = [_solve(case, dtype, _other_stimuli(family, seed)) for seed, case in zip(seeds, cases)]
            rows.append(_judge(family, dtype, list(zip(seeds, cases, truths, answers))))
        jax.clear_caches()
    return rows


def _other_stimuli(family: str, seed: int) -> np.ndarray:
    """Stimuli for the same network, to make a plan from."""
    return make_case(family, seed, _NUM_PLANNED).stimuli[-_NUM_PLANNED // 2 :]


def _solve(case: Case, way: str, other_stimuli: np.ndarray) -> SteadyState:
    """As the user calls it, alone or with a plan. In float32 as well with x64 off as is the default."""
    dtype, _, plans = way.partition(" ")
    with jax.enable_x64(dtype == "float64"):
        network = in_float64(case.network) if dtype == "float64" else case.network
        plan = None
        if plans:
            try:
                plan = plan_steady_states(network, other_stimuli.astype(dtype), tolerance=_TOLERANCES[dtype])
            except RuntimeError as error:  # no steady state to plan for: then there is no plan to be wrong
                print(f"no plan: {error}", file=sys.stderr)
        found = solve_steady_states(
            network,
            case.stimuli.astype(dtype),
            solver=plan,
            initial_states=case.initial_states.astype(dtype),
            tolerance=_TOLERANCES[dtype],
        )
        return jax.tree.map(np.asarray, found)


def _judge(family: str, dtype: str, solved: list[tuple[int, Case, Truth, SteadyState]]) -> dict:
    """Counts over the networks of a family, and its wrong answers."""
    confusion: dict[str, dict[str, int]] = {}
    violations = []
    num_periodic = num_right_period = 0
    for seed, case, truth, answer in solved:
        error = distances(answer.state, truth.state)
        names = [Status(int(each)).name for each in answer.status]
        period, distance = (getattr(answer, name, None) for name in ("period", "distance"))
        for i, (kind, name) in enumerate(zip(truth.kind, names)):
            counts = confusion.setdefault(str(kind), {})
            counts[name] = counts.get(name, 0) + 1
            received = np.nan if period is None else float(period[i])
            has_right_period = abs(received - truth.period[i]) <= _SAME_PERIOD * truth.period[i]
            if kind == "oscillating" and np.isfinite(truth.period[i]):
                num_periodic += 1
                num_right_period += bool(has_right_period)
            what = _violation(str(kind), name, error[i])
            leading = truth.leading[i]
            if what == _BASIN:
                leading = _leading(case, answer.state[i], i)
                what = _SADDLE if leading > _GROWTH else _BASIN
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
                        "truth": str(kind),
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
        "violations": violations,
    }


_FALSE, _SADDLE, _MISSED, _BASIN, _UNCALLED = (
    "called converged, never rests",
    "called converged, unstable point",
    "steady, not found",
    "converged elsewhere",
    "oscillates, not called so",
)


def _violation(truth: str, status: str, error: float) -> str | None:
    if truth in ("oscillating", "diverging", "unstable") and status == "converged":
        return _FALSE
    if truth == "steady" and status != "converged":
        return _MISSED
    if truth == "steady" and error > _SAME_STATE:
        return _BASIN
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
    wrong = [each["what"] for row in rows for each in row["violations"]]
    return {
        "kinds": kinds,
        "moving": sum(kinds.get(kind, 0) for kind in ("oscillating", "diverging", "unstable")),
        **{what: wrong.count(what) for what in (_FALSE, _SADDLE, _MISSED, _BASIN, _UNCALLED)},
        "num_periodic": sum(row["num_periodic"] for row in rows),
        "num_right_period": sum(row["num_right_period"] for row in rows),
    }


def marks(rows: list[dict]) -> Iterator[dict]:
    """For each dtype and way: what was asked, what was received, and whether it is met."""
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        found = _summary([row for row in rows if row["dtype"] == dtype])
        steady, oscillating = (found["kinds"].get(kind, 0) for kind in ("steady", "oscillating"))

        def mark(what, asked, received, is_met, dtype=dtype):
            return {"dtype": dtype, "what": what, "mark": asked, "received": received, "is_met": bool(is_met)}

        def percent(count, total):
            return f"{100 * count / total:.2f} % ({count} of {total})" if total else "none to judge"

        called = oscillating - found[_UNCALLED] - _false_cycles(rows, dtype)
        false, missed, right = found[_FALSE], found[_MISSED], found["num_right_period"]
        yield mark("never at rest, called converged", "0", f"{false} of {found['moving']}", false == 0)
        saddle = found[_SADDLE]
        yield mark("unstable points called converged", "0", f"{saddle} of {steady}", saddle == 0)
        yield mark("limit cycles and chaos called oscillating", ">= 99 %", percent(called, oscillating),
                   called >= 0.99 * oscillating)  # fmt: skip
        yield mark("periods within 2 %, of limit cycles", "(>= 99 %)", percent(right, found["num_periodic"]),
                   right >= 0.99 * found["num_periodic"])  # fmt: skip
        yield mark("steady states not found", "<= .1 %", percent(missed, steady), missed <= 1e-3 * steady)
        yield mark("converged elsewhere than the dynamics", "(0)", percent(found[_BASIN], steady), found[_BASIN] == 0)


def _false_cycles(rows: list[dict], dtype: str) -> int:
    return sum(row["confusion"].get("oscillating", {}).get("converged", 0) for row in rows if row["dtype"] == dtype)


def describe(rows: list[dict]) -> str:
    """A table by family, the marks, and the wrong answers."""
    header = ["family", "dtype", "samples", "steady", "oscillating", "diverging", "slow", "false", "saddle", "missed"]
    header += ["elsewhere", "uncalled", "right periods"]
    lines = []
    for row in rows:
        found = _summary([row])
        kinds = [found["kinds"].get(kind, 0) for kind in ("steady", "oscillating", "diverging", "slow")]
        wrong = [found[what] for what in (_FALSE, _SADDLE, _MISSED, _BASIN, _UNCALLED)]
        periods = f"{row['num_right_period']} of {row['num_periodic']}"
        lines.append([row["family"], row["dtype"], row["num_samples"], *kinds, *wrong, periods])
    judged = [[f"{each['dtype']}: {each['what']}", each["mark"], each["received"],
               "met" if each["is_met"] else "NOT MET"] for each in marks(rows)]  # fmt: skip
    parts = [table(header, lines), table(["mark", "asked", "received", ""], judged), _list_violations(rows)]
    return "\n\n".join(parts)


def summarize(rows: list[dict]) -> str:
    """The table that the README shows."""
    found = list(marks(rows))
    ways = list(dict.fromkeys(each["dtype"] for each in found))
    whats = list(dict.fromkeys(each["what"] for each in found))
    received = {(each["what"], each["dtype"]): each["received"] for each in found}
    return table(["", *ways], [[what, *(received[what, way] for way in ways)] for what in whats])


def _list_violations(rows: list[dict], num_shown: int = 40) -> str:
    violations = [each for row in rows for each in row["violations"]]
    if not violations:
        return "No wrong answers."
    order = [_FALSE, _SADDLE, _BASIN, _MISSED, "another period", _UNCALLED]
    violations.sort(key=lambda each: order.index(each["what"]))
    lines = [
        [each["what"], each["family"], each["seed"], each["sample"], each["dtype"], each["truth"], each["status"]]
        + ["-" if each[name] is None else f"{each[name]:.2g}" for name in ("error", "residual", "leading")]
        for each in violations[:num_shown]
    ]
    header = ["wrong answer", "family", "seed", "sample", "dtype", "truth", "status", "error", "residual", "leading"]
    more = len(violations) - num_shown
    rest = f"\n\n{more} more are in the record." if more > 0 else ""
    again = "python -m benchmarks.honest_failures --families FAMILY --seed SEED --num-networks 1 --num-stimuli "
    again += str(violations[0]["num_stimuli"])
    return f"Make one again: `{again}`\n\n{table(header, lines)}{rest}"


if __name__ == "__main__":
    run_script("honest_failures", Config(), run, describe, folder=Path(__file__).parent)
