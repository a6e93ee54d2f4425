"""What do networks of thousands of units cost: seconds of a first and of the next call, and memory?

Each network is solved in a fresh process by `solve_steady_states`, verdicts included: first with nothing but weights
and stimuli, compilation included, and again with the plan that the first call has made. The largest memory is that of
the process, JAX and the weights included. Of dense weights, the time is compared with that of the batch's products
with the weights, of which every sweep has one.

* **random**: sparse weights at random places, Gaussian.
* **connectome**: the numbers of inputs and of outputs of a unit and the strengths of connections are lognormal, as in
  brains, and a fifth of the units is inhibitory.
* **dense**: Gaussian weights.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sps

from benchmarks.parts.marks import marks_table
from experiments._script import run_script, table

_MOST_SECONDS, _MOST_MEMORY, _SMALLEST_SHARE = 60.0, 4.0, 0.5  # of the marks; memory in GiB
_NUM_PRODUCTS = 5  # repetitions, of which the fastest counts


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the weights and the stimuli."""
    gain: float = 0.8
    """Approximate spectral radius of the random weights."""
    random_size: int = 10_000
    """Units of the random network, each with inputs from a hundredth of them."""
    connectome_size: int = 20_000
    """Units of the connectome."""
    num_inputs: int = 90
    """Of a unit of the connectome, on average."""
    batch_size: int = 1000
    """Stimuli of sparse networks."""
    dense_size: int = 2048
    """Units of the dense network."""
    dense_gain: float = 0.9
    """Approximate spectral radius of the dense weights."""
    dense_batch_size: int = 4096
    """Stimuli of the dense network."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        small = {"random_size": 300, "connectome_size": 200, "num_inputs": 20, "batch_size": 20}
        return dataclasses.replace(self, **small, dense_size=32, dense_batch_size=64)


def _random(config: Config, rng: np.random.Generator) -> sps.csr_array:
    """Gaussian weights at random places, W[i, j] from unit j to unit i."""
    size = config.random_size
    num_inputs = max(1, size // 100)
    to = np.repeat(np.arange(size), num_inputs)
    weights = config.gain / num_inputs**0.5 * rng.normal(size=len(to))
    return sps.csr_array((weights, (to, rng.integers(size, size=len(to)))), shape=(size, size))


def _connectome(config: Config, rng: np.random.Generator) -> sps.csr_array:
    """Each row, the weights to one unit, has a Euclidean norm of about 0.5."""
    size, spread = config.connectome_size, 0.8
    num_inputs = 1 + (config.num_inputs * rng.lognormal(-(spread**2) / 2, spread, size)).astype(int)
    num_outputs = rng.lognormal(0, spread, size)
    to = np.repeat(np.arange(size), num_inputs)
    of = rng.choice(size, len(to), p=num_outputs / num_outputs.sum())
    weights = rng.lognormal(0, 1, len(to)) * np.where(of % 5 == 0, -4.0, 1.0)
    lengths = np.sqrt(np.bincount(to, weights**2, size))
    return sps.csr_array((0.5 * weights / lengths.mean(), (to, of)), shape=(size, size))


def _measure(name: str, config: Config) -> dict:
    """A row of the record, computed in a fresh process."""
    import jax
    import jax.random as jr

    import rnn2ff
    from rnn2ff.records import timed

    rng, row = np.random.default_rng(config.seed), {"network": name}
    if name == "dense":
        network = rnn2ff.random_threshold_linear(config.dense_size, gain=config.dense_gain, key=jr.key(config.seed))
        stimuli = rng.normal(size=(config.dense_batch_size, config.dense_size)).astype(np.float32)
        weights, states = network.params.recurrent_weights, jax.device_put(stimuli)
        multiply = jax.jit(lambda states: states @ weights.T).lower(states).compile()
        row["product_seconds"] = min(timed(lambda: multiply(states)).seconds for _ in range(_NUM_PRODUCTS))
        row["num_connections"] = weights.size
    else:
        weights = (_random if name == "random" else _connectome)(config, rng)
        weights.sum_duplicates()
        network = rnn2ff.from_connectome(weights.astype(np.float32))
        row |= {"num_connections": weights.nnz, "most_inputs": int(np.diff(weights.indptr).max())}
        stimuli = rng.normal(size=(config.batch_size, network.state_size)).astype(np.float32)
    first = timed(lambda: rnn2ff.solve_steady_states(network, stimuli))
    again = timed(lambda: rnn2ff.solve_steady_states(network, stimuli, solver=first.result.plan))
    return {
        **row,
        "size": network.state_size,
        "batch_size": len(stimuli),
        "first_seconds": first.seconds,
        "next_seconds": again.seconds,
        "num_steps": float(np.mean(again.result.num_steps)),
        "counts": rnn2ff.count_statuses(again.result.status),
        "gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def run(config: Config) -> Iterator[dict]:
    """One row per network."""
    context = multiprocessing.get_context("spawn")
    for name in ("random", "connectome", "dense"):
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            yield pool.submit(_measure, name, config).result()


def summarize(rows: list[dict]) -> str:
    """The table that `docs/scale.md` shows."""
    header = ["network", "units", "connections", "stimuli", "converged", "first call, s", "next call, s", "GiB"]
    lines = [
        [
            row["network"],
            f"{row['size']:,}",
            f"{row['num_connections']:,}",
            f"{row['batch_size']:,}",
            f"{row['counts']['converged']:,}",
            f"{row['first_seconds']:.1f}",
            f"{row['next_seconds']:.1f}",
            f"{row['gibibytes']:.2f}",
            f"{_share(row):.0%}" if "product_seconds" in row else "-",
        ]
        for row in rows
    ]
    return table([*header, "share of the GEMM rate"], lines)


def describe(rows: list[dict]) -> str:
    """The costs, and the marks."""
    return f"{summarize(rows)}\n\n{marks_table(marks(rows))}"


def _share(row: dict) -> float:
    """The share of the time that the products of the sweeps take; those of the verdicts are not counted."""
    return row["num_steps"] * row["product_seconds"] / row["next_seconds"]


def marks(rows: list[dict]) -> list[dict]:
    """Seconds and memory of the random network, and the share of the rate of products of the dense one."""
    entries = []
    for row in rows:

        def add(what: str, mark: float, received: float, bound: str, row: dict = row) -> None:
            is_met = received <= mark if bound == "at most" else received >= mark
            mark_of = {"problem": row["network"], "what": what, "mark": mark, "bound": bound}
            entries.append({**mark_of, "received": received, "is_met": is_met})

        add("share converged", 1.0, row["counts"]["converged"] / row["batch_size"], "at least")
        if row["network"] == "random":
            add("seconds of the first call", _MOST_SECONDS, row["first_seconds"], "at most")
            add("GiB", _MOST_MEMORY, row["gibibytes"], "at most")
        if "product_seconds" in row:
            add("share of the GEMM rate", _SMALLEST_SHARE, _share(row), "at least")
    return entries


if __name__ == "__main__":
    run_script("large_networks", Config(), run, describe, folder=Path(__file__).parent)
