"""Does the library reproduce the published numbers of published networks?

Each family of networks is solved for its fixed points, its steady states or its cycles, and every number that was
published, or follows from a closed form, stands beside what comes out here. Everything is in float64.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from experiments import _trajectories as trajectories
from experiments._script import run_script, table
from experiments.drawings import canon as drawing
from rnn2ff.analysis import FixedPoints, find_fixed_points, linearize, velocities_on_plane
from rnn2ff.networks import (
    RecurrentNetwork,
    ctln,
    grating_stimulus,
    hopfield,
    motion_stimulus,
    partition_competition,
    partition_means,
    ring_angles,
    ring_attractor,
    ring_bump,
    ring_stimulus,
    stability_constants,
    stabilized_supralinear,
    wilson_cowan,
    winner_take_all,
    wong_wang,
)
from rnn2ff.steady_state import Rollout, solve_steady_states

CLAIM = "Published networks reproduce their published numbers here."

_THREE_CYCLE = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
_GRAPH_A = np.array([[int(entry) for entry in row] for row in ["00001", "10001", "01000", "10100", "00110"]])
_GRAPH_C = np.array([[int(entry) for entry in row] for row in ["00001", "00101", "00010", "10100", "11000"]])


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seed: int = 0
    num_starts: int = 256
    num_noisy: int = 8_000
    num_traced: float = 250.0
    num_grid: int = 41

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(self, num_starts=64, num_noisy=2_000, num_traced=100.0)


def run(config: Config) -> list[dict]:
    """One row per family: the published values, the values computed here, and what the figure shows."""
    with jax.enable_x64(True):
        return [
            {
                "family": family,
                "source": source,
                "quantities": [
                    {"quantity": name, "published": published, "received": float(received)}
                    for name, published, received in quantities
                ],
                "drawing": drawing,
            }
            for family, source, (quantities, drawing) in (
                (family, source, measure(config)) for family, source, measure in _FAMILIES
            )
        ]


def _fixed_points(network: RecurrentNetwork, stimulus, config: Config, **options) -> FixedPoints:
    return find_fixed_points(network, stimulus, num_starts=config.num_starts, key=jr.key(config.seed), **options)


def _steady(network: RecurrentNetwork, stimuli, initial_states=None) -> np.ndarray:
    solution = solve_steady_states(network, jnp.asarray(stimuli), solver=Rollout(1e-11), initial_states=initial_states)
    return np.asarray(jax.vmap(network.rates)(solution.state))


def _combinatorial(config: Config):
    pair, triple, isolated, cycle, graph_a, graph_c = (
        (network, _fixed_points(network, np.ones(network.state_size), config))
        for network in map(ctln, (1 - np.eye(2), 1 - np.eye(3), np.zeros((3, 3)), _THREE_CYCLE, _GRAPH_A, _GRAPH_C))
    )
    leading = linearize(cycle[0], cycle[1].states[0], np.ones(3)).eigenvalues[0]
    trace = trajectories.trace(cycle[0], np.ones(3), [0.3, 0.2, 0.1], config.num_traced)
    late = trace[len(trace) // 2 :]
    quantities = [
        ("2-clique: rate", 4 / 7, pair[1].states[0].max()),
        ("2-clique: leading eigenvalue", -0.25, pair[1].eigenvalues[0, 0].real),
        ("3-clique: rate", 2 / 5, triple[1].states[0].max()),
        ("isolated: fixed points", 7, len(isolated[1].states)),
        ("isolated: stable ones", 3, isolated[1].is_stable.sum()),
        ("3-cycle: rate at the fixed point", 4 / 13, cycle[1].states[0].max()),
        ("3-cycle: real part", 0.125, leading.real),
        ("3-cycle: imaginary part", 0.6495, leading.imag),
        ("3-cycle: period of the limit cycle", 11.24, trajectories.period(trace[:, 0])),
        ("3-cycle: smallest rate", 0.0123, late.min()),
        ("3-cycle: largest rate", 0.6707, late.max()),
        ("graph A: fixed points", 1, len(graph_a[1].states)),
        ("graph A: stable ones", 0, graph_a[1].is_stable.sum()),
        ("graph A: rate", 4 / 13, graph_a[1].states[0].max()),
        ("graph C: fixed points", 7, len(graph_c[1].states)),
        ("graph C: stable ones", 3, graph_c[1].is_stable.sum()),
        ("graph C: rate at the stable ones", 4 / 7, graph_c[1].states[:3].max()),
        ("graph C: sum of indices", 1, graph_c[1].index_sum),
    ]
    kept = trace[: int(45 / trajectories.STEP) : 10]
    return quantities, {"step": 10 * trajectories.STEP, "trace": np.round(kept, 4)}


def _supralinear(config: Config):
    del config
    network, contrasts = stabilized_supralinear(), (1.0, 10.0, 20.0)
    pairs = [[grating_stimulus(angle, contrast=strength) for angle in (45.0, 135.0)] for strength in contrasts]
    stimuli = jnp.stack([stimulus for first, second in pairs for stimulus in (first, second, first + second)])
    rates = _steady(network, stimuli).reshape(3, 3, 2, 180)
    quantities = []
    published = [(0.0433, 0.0438, 0.053), (11.7375, 15.6659, 0.987), (24.0422, 40.1372, 1.442)]
    for index, (contrast, values) in enumerate(zip(contrasts, published)):
        state = rates[index, 0].ravel()
        received = (state[:180].max(), state[180:].max(), linearize(network, state, stimuli[3 * index]).spectral_radius)
        for name, value, measured in zip(
            ("peak rate, excitatory", "peak rate, inhibitory", "radius of the map"), values, received
        ):
            quantities.append((f"contrast {contrast:g}: {name}", value, measured))
    for index, value in [(0, 1.244), (1, 0.913)]:
        first, second, both = rates[index, :, 0].sum(axis=1)
        quantities.append((f"contrast {contrasts[index]:g}: summation index", value, both / (first + second)))
    return quantities, {"contrasts": contrasts, "excitatory": np.round(rates[:, 0, 0], 4)}


def _plane(network, stimulus, found: FixedPoints, high: float, starts, config: Config) -> dict:
    grid = np.linspace(-0.05 * high, high, config.num_grid)
    traces = [trajectories.trace(network, stimulus, start, 40.0)[::20] for start in starts]
    return {
        "grid": np.round(grid, 5),
        "velocities": np.round(velocities_on_plane(network, stimulus, grid, grid), 5),
        "states": found.states,
        "is_stable": found.is_stable,
        "trajectories": np.round(traces, 4),
    }


def _wilson_cowan(config: Config):
    network, stimulus = wilson_cowan(), np.zeros(2)
    points = _fixed_points(network, stimulus, config)
    quantities = [
        ("fixed points", 3, len(points.states)),
        ("stable ones", 2, points.is_stable.sum()),
        *_coordinates("saddle", (0.336852, 0.168420), points.states[2]),
        *_coordinates("active state", (0.938430, 0.672481), points.states[1]),
        ("sum of indices", 1, points.index_sum),
    ]
    starts = [(0.9, 0.05), (0.3, 0.3), (0.3, 0.02), (0.6, 0.95), (0.05, 0.6)]
    return quantities, _plane(network, stimulus, points, 1.0, starts, config)


def _coordinates(name: str, published, state) -> Iterator[tuple[str, float, float]]:
    return ((f"{name}: unit {unit + 1}", value, state[unit]) for unit, value in enumerate(published))


def _wong_wang(config: Config):
    network = wong_wang()
    even = _fixed_points(network, motion_stimulus(0.0), config, box=(0.0, 1.0))
    coherent = _fixed_points(network, motion_stimulus(1.0), config, box=(0.0, 1.0))
    quantities = [
        ("no coherence: fixed points", 3, len(even.states)),
        ("no coherence: stable ones", 2, even.is_stable.sum()),
        *_coordinates("no coherence: decision", (0.658694, 0.051807), even.states[1]),
        *_coordinates("no coherence: saddle", (0.424456, 0.424456), even.states[2]),
        ("full coherence: fixed points", 1, len(coherent.states)),
        *_coordinates("full coherence: decision", (0.709281, 0.023964), coherent.states[0]),
    ]
    starts = [(0.1, 0.12), (0.12, 0.1), (0.7, 0.5), (0.5, 0.7), (0.3, 0.01), (0.01, 0.3)]
    return quantities, _plane(network, motion_stimulus(0.0), even, 0.8, starts, config)


def _bumps(config: Config):
    del config
    quantities, drawing = [], {}
    for tuned, degrees in [(4.0, 45.0), (11.0, 29.165)]:
        network, size = ring_attractor(120, mean=-10.0, tuned=tuned), 120
        rates = _steady(network, jnp.ones((1, size)), ring_bump(0.0, size)[None])[0]
        total = np.asarray(network.params.total_input(jnp.asarray(rates), jnp.ones(size)))
        constant, cosine = total.mean(), 2 * (total * np.cos(np.asarray(ring_angles(size)))).mean()
        quantities.append(
            (f"J2 = {tuned:g}: half-width, degrees", degrees, np.rad2deg(np.arccos(-constant / cosine)) / 2)
        )
        drawing[f"{tuned:g}"] = np.round(rates / rates.max(), 4)
    size = 64
    network = ring_attractor(size, mean=-2.0, tuned=4.0)
    bump = np.maximum(np.cos(np.asarray(ring_angles(size))), 0)
    # A unit at the very edge of the bump counts as silent.
    bump = np.where(bump > 1e-6, bump, 0) * size / (2 * bump.sum())
    state = jnp.asarray(bump)
    stimulus = jnp.ones(size) - 1e-9 * jnp.asarray(bump == 0)
    quantities.append(
        ("J2 = 4: leading eigenvalue x N", -4.0, size * linearize(network, state, stimulus).spectral_abscissa)
    )
    return quantities, drawing


def _competition(config: Config):
    del config
    soft, hard = (partition_competition(2, 3, self_excitation=a) for a in (0.7, 1.3))

    def rates(network, *drives):
        activities = _steady(network, np.repeat(drives, 3, axis=1))
        return np.concatenate([partition_means(activities, 2, 3), activities[:, -1:]], axis=1)

    # Two stimuli each, so that both are compiled once.
    (both, single), (alone, _) = rates(soft, (1.0, 0.9), (1.0, 0.8)), rates(hard, (1.0, 0.05), (1.0, 0.8))
    winner = _steady(winner_take_all(3), [[1.0, 0.8, 0.5]])[0]
    quantities = [
        ("soft, one active: gain", 0.555556, single[0]),
        ("soft, one active: the loser", 0.0, single[1]),
        ("hard, one active: gain", 0.833333, alone[0]),
        ("soft, two active: the stronger", 0.4545, both[0]),
        ("soft, two active: the weaker", 0.1212, both[1]),
        ("soft, two active: inhibition", 0.5758, both[2]),
        ("soft: monotonicity modulus", 0.3, stability_constants(soft).monotonicity),
        ("winner-take-all: the winner", 1.818182, winner[0]),
        ("winner-take-all: inhibition", 0.454545, winner[-1]),
    ]
    return quantities, None


def _noise(config: Config):
    generator = np.random.default_rng(config.seed)
    network, number = ring_attractor(), config.num_noisy
    contrasts = 0.5 + (np.arange(number) + 0.5) / number
    angles = generator.uniform(0, 2 * np.pi, number)
    clean = np.asarray(jax.vmap(lambda angle, contrast: ring_stimulus(angle, contrast=contrast))(angles, contrasts))
    noisy = clean + 0.5 * generator.standard_normal(clean.shape)
    solved = solve_steady_states(network, np.concatenate([clean, noisy, np.asarray(ring_stimulus(0.0))[None]]))
    rates = np.asarray(solved.state)
    clean_rates, noisy_rates = rates[:number], rates[number : 2 * number]

    def noise_to_signal(noisy, clean):
        return ((noisy - clean) ** 2).sum() / ((clean - clean.mean(axis=1, keepdims=True)) ** 2).sum()

    before, after = noise_to_signal(noisy, clean), noise_to_signal(noisy_rates, clean_rates)
    quantities = [
        ("peak rate, clean", 0.62404, rates[-1].max()),
        ("noise over signal power, in", 5.11, before),
        ("noise over signal power, out", 1.44, after),
        ("noise rejected, dB", 5.5, 10 * np.log10(before / after)),
    ]
    example = int(np.abs(angles - np.pi).argmin())
    shown = {"noisy": noisy[example], "clean rates": clean_rates[example], "noisy rates": noisy_rates[example]}
    return quantities, {name: np.round(values, 4) for name, values in shown.items()}


def _memories(config: Config):
    patterns = np.array([[1, 1, 1, 1, -1, -1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]])
    points = _fixed_points(hopfield(patterns), np.zeros(8), config)
    size = 0.5
    for _ in range(200):  # s = (1 - P/N) tanh(gain s)
        size = 0.75 * np.tanh(4 * size)
    return [
        ("two patterns: stable states, with mirrors", 4, points.is_stable.sum()),
        ("two patterns: amplitude of recall", size, np.abs(points.states[0]).max()),
    ], None


_FAMILIES: list[tuple[str, str, Callable]] = [
    ("combinatorial threshold-linear", "Morrison, Degeratu, Itskov and Curto, arXiv 1605.04463", _combinatorial),
    ("stabilized supralinear ring", "Rubin, Van Hooser and Miller, Neuron 85, 2015", _supralinear),
    ("Wilson and Cowan", "Biophysical Journal 12, 1972, with the parameters of Neuromatch Academy W2D4", _wilson_cowan),
    ("Wong and Wang", "Journal of Neuroscience 26, 2006", _wong_wang),
    ("ring attractor", "Ben-Yishai, Bar-Or and Sompolinsky, PNAS 92, 1995", _bumps),
    (
        "competition",
        "Muir, Neural Computation 30, 2018; Rutishauser, Douglas and Slotine, Neural Computation 23, 2011",
        _competition,
    ),
    ("ring with tuned input", "Muir, Neural Computation 30, 2018", _noise),
    ("Hopfield", "Hopfield, PNAS 81, 1984", _memories),
]


def verdict(rows: list[dict]) -> str:
    """Whether the published numbers are reproduced."""
    quantities = [quantity for row in rows for quantity in row["quantities"]]
    right = [
        abs(quantity["received"] - quantity["published"]) <= 0.02 * max(abs(quantity["published"]), 1e-3)
        for quantity in quantities
    ]
    text = f"{sum(right)} of {len(right)} published numbers are reproduced within 2 %"
    return f"Holds: {text}." if all(right) else f"Does not hold for all: {text}."


def describe(rows: list[dict]) -> str:
    """One line for each number."""
    lines = [
        [
            f"{row['family']}, {quantity['quantity']}",
            f"{quantity['published']:.6g}",
            f"{quantity['received']:.6g}",
            f"{abs(quantity['received'] - quantity['published']):.0e}",
        ]
        for row in rows
        for quantity in row["quantities"]
    ]
    sources = "\n".join(f"* {row['family']}: {row['source']}" for row in rows)
    return f"{table(['', 'published', 'here', 'error'], lines)}\n\n{sources}"


if __name__ == "__main__":
    run_script("canon", Config(), run, describe, drawing.draw)
