"""Are all fixed points found, and how fast?

Two questions. Cells: is every fixed point that gradient descent on the speed finds (the method of FixedPointFinder,
with Adam, from the same starts) found by `find_fixed_points` as well, and in how much less time? Combinatorial
threshold-linear networks: do searches alone find all fixed points that an enumeration of the supports gives, and does
the audit say so where they do not?
"""

import dataclasses
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from experiments._script import run_script, table
from rnn2ff.analysis import Audit, FixedPoints, find_fixed_points
from rnn2ff.networks import RecurrentNetwork, ctln, from_torch
from rnn2ff.records import timed

_SAME_POINT = 1e-3  # max-norm; fixed points of the cells here are farther from each other
_AT_REST = 1e-6  # largest |cell(h) - h| of what gradient descent may call a fixed point


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of the weights, the graphs and the starts."""
    cells: tuple[str, ...] = ("relu", "gru")
    """Kinds of cells: a `torch.nn.RNN` with rectifiers, a `torch.nn.GRU`."""
    sizes: tuple[int, ...] = (16, 64)
    """Numbers of units."""
    num_starts: int = 256
    """Starts of both methods."""
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Learning rates of Adam, each decaying to 0 by a cosine."""
    num_adam_steps: tuple[int, ...] = (2_000, 8_000, 32_000, 128_000)
    """Steps of Adam; every rate is tried with every number. The competitor is the fastest of the runs that bring as
    many starts to rest as the best one (or 1 % fewer). A run ends early when every start is at rest."""
    num_graphs: int = 200
    """Random graphs of 3 to 8 nodes."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self, sizes=(8,), num_starts=32, learning_rates=(0.01,), num_adam_steps=(1000,), num_graphs=6
        )


def run(config: Config) -> list[dict]:
    """One row for each cell, one for the graphs."""
    rows = [_run_cell(kind, size, config) for kind in config.cells for size in config.sizes]
    return [*rows, _run_graphs(config)]


def random_cell(kind: str, size: int, seed: int) -> RecurrentNetwork:
    """A cell with Gaussian weights, in float32, with three inputs."""
    gates, gain = {"relu": (1, 0.9), "gru": (3, 3.0)}[kind]
    generator = np.random.default_rng([seed, size])
    shapes = {"weight_hh": (gates * size, size), "weight_ih": (gates * size, 3), "bias_hh": (gates * size,)}
    weights = {
        f"{name}_l0": (generator.standard_normal(shape) * (gain if name == "weight_hh" else 1) / size**0.5)
        for name, shape in shapes.items()
    }
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    return from_torch(weights, nonlinearity=jax.nn.relu if kind == "relu" else jnp.tanh)


def _run_cell(kind: str, size: int, config: Config) -> dict:
    network = random_cell(kind, size, config.seed)
    stimulus = jnp.full(3, 0.5, jnp.float32)

    def find() -> FixedPoints:
        return find_fixed_points(
            network, stimulus, num_starts=config.num_starts, enumerate_supports=False, key=jr.key(config.seed)
        )

    (points, first), (_, seconds) = timed(find), timed(find)
    adam = [
        {"learning_rate": rate, "steps": steps, **_descend(network, stimulus, points.starts, rate, steps)}
        for rate in config.learning_rates
        for steps in config.num_adam_steps
    ]
    most = max(descent["at_rest"] for descent in adam)
    best = min(
        (descent for descent in adam if descent["at_rest"] >= 0.99 * most), key=lambda descent: descent["seconds"]
    )
    missed = [
        point for descent in adam for point in descent.pop("points") if _distance(points.states, point) > _SAME_POINT
    ]
    steps = np.abs(np.asarray(jax.vmap(lambda state: network.velocity(state, stimulus))(jnp.asarray(points.states))))
    return {
        "kind": kind,
        "units": size,
        "starts": config.num_starts,
        "found": len(points.states),
        "stable_map": int(points.is_stable_map.sum()),
        "largest_step": float(steps.max(initial=0)),
        "audit": points.audit.name,
        "explanation": points.explanation,
        "failures": points.failures,
        "seconds": seconds,
        "compile_seconds": first - seconds,
        "adam": adam,
        "adam_found": best["found"],
        "adam_at_rest": best["at_rest"],
        "adam_seconds": best["seconds"],
        "adam_setting": {name: best[name] for name in ("learning_rate", "steps")},
        "missed": len(missed),
        "ratio": best["seconds"] / seconds,
    }


def _distance(states: np.ndarray, point: np.ndarray) -> float:
    return float(np.abs(states - point).max(axis=1).min()) if len(states) else np.inf


def _descend(network, stimulus, starts, learning_rate, num_steps) -> dict:
    """Adam on `|cell(h) - h|^2 / 2` from all starts at once, until all are at rest or the steps are spent.

    Sussillo and Barak, Neural Computation 25, 2013; Golub and Sussillo, FixedPointFinder, JOSS 3, 2018.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def speeds(states):
        return jax.vmap(lambda state: network.velocity(state, stimulus))(states)

    @eqx.filter_jit
    def some_steps(states, moments):
        def step(carry, _):
            states, moments = carry
            gradients = jax.grad(lambda states: 0.5 * jnp.sum(speeds(states) ** 2))(states)
            updates, moments = optimizer.update(gradients, moments)
            return (optax.apply_updates(states, updates), moments), None

        (states, moments), _ = jax.lax.scan(step, (states, moments), length=200)
        return states, moments, jnp.max(jnp.abs(speeds(states)), axis=1)

    states = jnp.asarray(starts, jnp.float32)
    moments = optimizer.init(states)
    some_steps(states, moments)  # compiled
    started = time.perf_counter()
    for _ in range(num_steps // 200):
        states, moments, rest = some_steps(states, moments)
        if bool((rest < _AT_REST).all()):
            break
    seconds = time.perf_counter() - started
    points = []
    for state in np.asarray(states)[np.asarray(rest) < _AT_REST]:
        if not points or _distance(np.array(points), state) > _SAME_POINT:
            points.append(state)
    return {
        "found": len(points),
        "at_rest": int((np.asarray(rest) < _AT_REST).sum()),
        "seconds": seconds,
        "points": points,
    }


def _run_graphs(config: Config) -> dict:
    """Searches alone against the complete lists."""
    generator = np.random.default_rng(config.seed)
    num_same, silent, num_points = 0, [], 0
    for index in range(config.num_graphs):
        size = 3 + index % 6
        graph = (generator.uniform(size=(size, size)) < generator.uniform(0.2, 0.8)) * (1 - np.eye(size))
        network, stimulus, key = ctln(graph), jnp.ones(size), jr.key(index)
        listed = find_fixed_points(network, stimulus, num_starts=8, key=key)
        searched = find_fixed_points(network, stimulus, num_starts=config.num_starts, enumerate_supports=False, key=key)
        supports = [sorted(map(tuple, (points.states > 1e-3).tolist())) for points in (listed, searched)]
        num_points += len(listed.states)
        if supports[0] == supports[1]:
            num_same += 1
        elif searched.audit != Audit.missed_some:
            silent.append({"graph": graph.astype(int).tolist(), "listed": supports[0], "searched": supports[1]})
    return {
        "kind": "graphs",
        "num_graphs": config.num_graphs,
        "num_points": num_points,
        "num_same": num_same,
        "share_same": num_same / config.num_graphs,
        "num_unsaid": len(silent),
        "unsaid": silent,
    }


def describe(rows: list[dict]) -> str:
    """Tables of the cells, and of the marks."""
    cells = [row for row in rows if row["kind"] != "graphs"]
    (graphs,) = (row for row in rows if row["kind"] == "graphs")
    header = ["cell", "units", "found", "Adam found", "missed", "largest step", "seconds", "Adam seconds", "ratio"]
    lines = [
        [
            row["kind"],
            row["units"],
            row["found"],
            f"{row['adam_found']} ({row['adam_at_rest']} of {row['starts']} at rest)",
            row["missed"],
            f"{row['largest_step']:.0e}",
            f"{row['seconds']:.2f}",
            f"{row['adam_seconds']:.1f}",
            f"{row['ratio']:.0f} x",
        ]
        for row in cells
    ]
    notes = [f"* {row['kind']}, {row['units']} units: {row['audit']}; Adam with {row['adam_setting']}" for row in cells]
    marks = [
        ("fixed points of Adam missed here", "0", sum(row["missed"] for row in cells), lambda x: x == 0),
        ("largest step at a fixed point", "<= 1e-5", max(row["largest_step"] for row in cells), lambda x: x <= 1e-5),
        ("time of Adam over ours, smallest", ">= 20", min(row["ratio"] for row in cells), lambda x: x >= 20),
        ("random graphs with the whole list", ">= 0.99", graphs["share_same"], lambda x: x >= 0.99),
        ("lists that lack some, and it is not said", "0", graphs["num_unsaid"], lambda x: x == 0),
    ]
    verdicts = [
        [name, required, f"{received:.4g}", "met" if is_met(received) else "NOT MET"]
        for name, required, received, is_met in marks
    ]
    return "\n\n".join([table(header, lines), "\n".join(notes), table(["mark", "required", "measured", ""], verdicts)])


if __name__ == "__main__":
    run_script("fixed_points", Config(), run, describe, folder=Path(__file__).parent)
