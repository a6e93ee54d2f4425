"""Networks that are hard to judge, and statuses of solves compared with the float64 truth of `honest_failures`.

The truth of stiff networks is in closed form: their weights contract, so that there is one steady state whatever the
time constants are, and no rollout has to take steps of the shortest.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.honest_answers import solve
from benchmarks.parts.honest_cases import Case, ClosedForm
from benchmarks.parts.honest_config import Config
from benchmarks.parts.honest_truth import find_truth
from benchmarks.parts.honest_verdicts import judge
from rnn2ff.networks import RateForm, RecurrentNetwork, StateForm, rate_network
from rnn2ff.steady_state import Status, solve_steady_states

_SETTLED = 100.0  # longest time constants, after which a network whose weights contract as below is at rest
FAULTS = ("called converged, never rests", "called converged, unstable point", "converged elsewhere")


def _case(
    form: RateForm | StateForm,
    weights: np.ndarray,
    stimuli: np.ndarray,
    *,
    time_constants: np.ndarray | float = 1.0,
    stimulus_weights: np.ndarray | None = None,
    closed_form: ClosedForm | None = None,
) -> Case:
    """Rounded to float32, so that both dtypes solve the same problem."""
    network = rate_network(
        form,
        jnp.asarray(weights, jnp.float32),
        stimulus_weights=stimulus_weights,
        time_constants=np.float32(time_constants),
    )
    starts = np.zeros((len(stimuli), len(weights)), np.float32)
    return Case(network, np.float32(stimuli), starts, np.full(len(stimuli), np.inf), closed_form)


def _relu(weights: np.ndarray, stimuli: np.ndarray, **more: object) -> Case:
    return _case(StateForm(jax.nn.relu), weights, stimuli, **more)


def _non_normal(num_stimuli: int, rng: np.random.Generator) -> Case:
    """A chain of strong feed-forward weights: all eigenvalues -1, and transients that grow a thousandfold."""
    size = 8
    weights = np.diag(rng.uniform(1.5, 3, size - 1), -1) + 0.02 * np.triu(rng.normal(size=(size, size)), 1)
    return _relu(weights, rng.normal(size=(num_stimuli, size)))


def _stiff(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Time constants from 1e-3 to 1e3 and weights that contract: one steady state, stable whatever they are."""
    size = 8
    weights = rng.normal(size=(size, size))
    weights = np.float32(weights * 0.8 / np.abs(weights).sum(axis=1, keepdims=True))
    stimuli = np.float32(rng.normal(size=(num_stimuli, size)))
    states = np.zeros(stimuli.shape)
    for _ in range(500):
        states = np.maximum(states, 0) @ weights.T.astype(float) + stimuli
    # Weights with row sums of at most .8 leave every eigenvalue of the scaled Jacobian below -.2 / tau.
    known = ClosedForm(states, np.full(num_stimuli, -0.2), np.full(num_stimuli, _SETTLED))
    taus = 10 ** rng.permutation(np.linspace(-3, 3, size))
    return _relu(weights, stimuli, time_constants=taus, closed_form=known)


def _near_singular(num_stimuli: int, rng: np.random.Generator) -> Case:
    """One direction decays a hundred or a thousand times more slowly than the others, or grows as slowly."""
    size, decay = 6, float(rng.choice([0.03, 0.01, -0.03, -0.01]))
    directions = np.linalg.qr(rng.normal(size=(size, size)))[0]
    weights = directions @ np.diag([1 - decay, *rng.uniform(-0.5, 0.5, size - 1)]) @ directions.T
    return _case(StateForm(_identity), weights, 0.1 * rng.normal(size=(num_stimuli, size)))


def _identity(total: jax.Array) -> jax.Array:
    return total


def _edge_of_gain(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Rectifiers at the gain where a mode of the active ones loses its stability, a little below or above."""
    size, gap = 6, float(rng.choice([0.1, 0.02, -0.02, -0.1]))
    weights = np.abs(rng.normal(size=(size, size)))
    weights *= (1 - gap) / np.abs(np.linalg.eigvals(weights)).max()
    return _relu(weights, rng.uniform(0.1, 1, (num_stimuli, size)))


def _edge_of_tanh(num_stimuli: int, rng: np.random.Generator) -> Case:
    size = 8
    weights = rng.normal(size=(size, size))
    weights *= float(rng.choice([0.97, 1.05, 1.2])) / np.linalg.eigvals(weights).real.max()
    return _case(StateForm(jnp.tanh), weights, 0.1 * rng.normal(size=(num_stimuli, size)))


def _delays(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Feedback through a chain of units: a delay, which makes strong inhibition oscillate."""
    length = 6
    weights = np.diag(np.ones(length - 1), -1)
    weights[0, -1] = -rng.uniform(0.5, 4)
    stimuli = np.zeros((num_stimuli, length))
    stimuli[:, 0] = rng.uniform(0.5, 2, num_stimuli)
    form = RateForm(jax.nn.relu) if rng.uniform() < 0.5 else StateForm(jnp.tanh)
    return _case(form, weights, stimuli, time_constants=np.array([1.0, *np.full(length - 1, 0.3)]))


def _one_unit(num_stimuli: int, rng: np.random.Generator) -> Case:
    form = StateForm(jnp.tanh) if rng.uniform() < 0.5 else StateForm(jax.nn.relu)
    return _case(form, np.array([[rng.uniform(-3, 1.5)]]), rng.normal(size=(num_stimuli, 1)))


def _duplicates(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Every unit twice, with the same weights: two of each pair stay equal, and their difference decays."""
    half = 4
    weights = np.kron(rng.normal(size=(half, half)) * 0.4, np.ones((2, 2)) / 2)
    return _relu(weights, np.repeat(rng.normal(size=(num_stimuli, half)), 2, axis=1))


def _zero_weights(num_stimuli: int, rng: np.random.Generator) -> Case:
    return _relu(np.zeros((4, 4)), rng.normal(size=(num_stimuli, 4)) * 10.0 ** rng.integers(-6, 6, (num_stimuli, 1)))


def _disconnected(num_stimuli: int, rng: np.random.Generator) -> Case:
    """A pair that oscillates for strong inputs, a pair that competes, and a unit alone."""
    weights = np.zeros((6, 6))
    weights[:3, :3] = [[0, -1.5, -0.75], [-0.75, 0, -1.5], [-1.5, -0.75, 0]]
    weights[3:5, 3:5] = [[0.2, -0.6], [-0.6, 0.2]]
    stimuli = rng.uniform(0.1, 1, (num_stimuli, 6))
    stimuli[: num_stimuli // 2, 1:3] = -2  # the cycle is silent
    return _case(RateForm(jax.nn.relu), weights, stimuli)


def _slow_and_fast(num_stimuli: int, rng: np.random.Generator) -> Case:
    """Excitation and inhibition with time constants a factor of 1 to 30 apart: rest, or a cycle of relaxation."""
    taus = np.array([1.0, float(rng.choice([0.3, 1.0, 3.0, 10.0]))])
    weights = np.array([[rng.uniform(1, 3), -rng.uniform(1, 4)], [rng.uniform(1, 4), 0.0]])
    return _case(StateForm(jnp.tanh), weights, rng.uniform(0, 1, (num_stimuli, 2)), time_constants=taus)


FAMILIES: dict[str, Callable[[int, np.random.Generator], Case]] = {
    "non-normal": _non_normal,
    "stiff": _stiff,
    "near-singular": _near_singular,
    "rectifiers at the edge": _edge_of_gain,
    "tanh at the edge": _edge_of_tanh,
    "delays as states": _delays,
    "one unit": _one_unit,
    "duplicates": _duplicates,
    "zero weights": _zero_weights,
    "disconnected": _disconnected,
    "slow and fast": _slow_and_fast,
}


def make_case(family: str, seed: int, num_stimuli: int) -> Case:
    """One network of a family. The seed and the number of stimuli reproduce it."""
    return FAMILIES[family](num_stimuli, np.random.default_rng([seed, zlib.crc32(family.encode())]))


def attack(
    num_networks: int, num_stimuli: int, seed: int, dtypes: tuple[str, ...], families: tuple[str, ...] = ()
) -> Iterator[dict]:
    """Solve networks of all families, and compare with the truth; one row per family and dtype."""
    config = dataclasses.replace(Config(), max_time=1000.0, late_after=500.0)
    for family in families or tuple(FAMILIES):
        row = {dtype: {"what": f"{family}, {dtype}", "counts": {}, "faults": []} for dtype in dtypes}
        for number in range(seed, seed + num_networks):
            case = make_case(family, number, num_stimuli)
            (truth,) = find_truth([case], config)
            for dtype in dtypes:
                answer = solve(case, dtype, case.stimuli)
                judged = judge(family, dtype, [(number, case, truth, answer)])
                for kind, counts in judged["confusion"].items():
                    for name, count in counts.items():
                        what = f"{kind}: {name}"
                        row[dtype]["counts"][what] = row[dtype]["counts"].get(what, 0) + count
                row[dtype]["faults"] += [violation for violation in judged["violations"] if violation["what"] in FAULTS]
        yield from row.values()


# --- units ------------------------------------------------------------------------------------------------------------


def _scaled(case: Case, time: float, rate: float) -> tuple[RecurrentNetwork, np.ndarray]:
    """The same network in other units: of time, which scales its time constants, and of rates, which scale stimuli.

    Rectifiers are the same in all units of rates.
    """
    params = case.network.params
    network = rate_network(
        case.network.vector_field,
        params.recurrent_weights,
        stimulus_weights=params.stimulus_weights,
        bias=params.bias * np.float32(rate),
        time_constants=np.asarray(params.time_constants) * np.float32(time),
    )
    return network, case.stimuli * np.float32(rate)


_RECTIFIED = ("non-normal", "stiff", "rectifiers at the edge", "duplicates", "disconnected")
_UNITS = ((1e6, 1.0), (1e-6, 1.0), (1.0, 2.0**20), (1.0, 2.0**-20), (1e-6, 2.0**20))


def attack_units(
    num_networks: int, num_stimuli: int, seed: int, families: tuple[str, ...] = _RECTIFIED
) -> Iterator[dict]:
    """Solve the same networks in other units: the same statuses, and states that differ by units and rounding."""
    for family in families:
        row = {"what": family, "counts": {}, "faults": []}
        for number in range(seed, seed + num_networks):
            case = make_case(family, number, num_stimuli)
            plain = solve_steady_states(case.network, case.stimuli)
            for time, rate in _UNITS:
                network, stimuli = _scaled(case, time, rate)
                rescaled = solve_steady_states(network, stimuli)
                states, expected = np.asarray(rescaled.state, float) / rate, np.asarray(plain.state, float)
                is_found = np.asarray(plain.status) == Status.converged
                apart = np.abs(states - expected).max(axis=1) / (1 + np.abs(expected).max(axis=1))
                is_same = np.asarray(rescaled.status) == np.asarray(plain.status)
                is_near = ~is_found | (apart < 1e-3)
                for same, near in zip(is_same, is_near):
                    what = "same" if same and near else "another status" if not same else "another state"
                    row["counts"][what] = row["counts"].get(what, 0) + 1
                if not (is_same & is_near).all():
                    wrong = np.flatnonzero(~(is_same & is_near))
                    pairs = [f"{plain.verdict[i]} -> {rescaled.verdict[i]}, {apart[i]:.1e}" for i in wrong[:3]]
                    row["faults"].append({"seed": number, "units": [time, rate], "samples": wrong, "what": pairs})
        yield row
