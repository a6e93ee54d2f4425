"""Is a bottleneck ever taken for rest?

Just before a saddle-node bifurcation the dynamics slow down where no fixed point is yet, `dm/dt = .05 (m - 1)^2 + g`
with a small g > 0, so that the residual falls far below any tolerance. With g < 0 there is a fixed point, at `m = 1 -
sqrt(-20 g)`, that attracts. What the dynamics do is known in closed form, in each family:

* *a unit*: m is the state.
* *a mode of N units*: m and modes that decay at rates from .1 to 2 are turned at random against the units. All start
  within the bottleneck while the others still decay.
* *beside inputs that cancel*: another unit receives inputs of up to 1e7 (float64) or 200 (float32) times the rates,
  which cancel exactly; rounding them at random, as the solver does, changes its velocity by more than that of m.
* *a mode of all units whose inputs cancel*: as the second, and to each of 16 units such inputs are added.

Where a velocity is no larger than its own rounding, no solver knows where it leads. So g is compared with the error of
the computed velocity, measured against the same formula in extended precision: a bottleneck counts as *hidden* if g is
below 16 times that error, or below 16 rounding errors of the state.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import rnn2ff
from benchmarks.parts.marks import marks_table
from experiments._executors import Compute, serially
from experiments._script import run_script, table
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state import Status, SteadyState, solve_steady_states

_CURVATURE = 0.05
_TOLERANCES = {"float32": (1e-5, 1e-4), "float64": (1e-9, 1e-7, 1e-5)}
_STRENGTHS = {"float32": (50.0, 100.0, 200.0), "float64": (1e5, 1e6, 1e7)}  # of inputs that cancel, over the rates
_HIDDEN = 16  # rounding errors
_TARGET = 0.7  # where the units end whose effects cancel


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of directions and initial states."""
    families: tuple[str, ...] = ("unit", "mode", "beside", "cancelling mode")
    """Families, in the order of the benchmark's description."""
    sizes: tuple[int, ...] = (2, 3, 8)
    """Units, of which a mode slows down."""
    num_starts: int = 10
    """Initial states for each g."""
    dtypes: tuple[str, ...] = ("float32", "float64")
    """Precisions."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(self, families=("unit",), num_starts=2, dtypes=("float64",))


class Bottleneck(NamedTuple):
    """A network with a bottleneck, and where its samples start.

    Attributes:
        family: its name.
        network: one whose first mode slows down.
        gaps: g of each sample, above 0; the stimulus is g or -g.
        starts: initial states.
        middle: the state in the middle of the bottleneck.
        mode: the one that slows down.
        exact_velocity: takes states and g; the velocities in extended precision.
    """

    family: str
    network: RecurrentNetwork
    gaps: Float[np.ndarray, " batch"]
    starts: Float[np.ndarray, "batch state"]
    middle: Float[np.ndarray, " state"]
    mode: Float[np.ndarray, " state"]
    exact_velocity: Callable[[np.ndarray, np.ndarray], np.ndarray]


def run(config: Config, compute: Compute = serially) -> Iterator[dict]:
    """One row for each network, precision, tolerance and way to solve."""
    for dtype in config.dtypes:
        with jax.enable_x64(dtype == "float64"):
            for tolerance in _TOLERANCES[dtype]:
                for bottleneck in _bottlenecks(config, dtype, tolerance):
                    for way, solve in _WAYS.items():
                        yield judge(bottleneck, solve, dtype=dtype, tolerance=tolerance, way=way)


def judge(bottleneck: Bottleneck, solve, **where) -> dict:
    """How many samples are converged, without and with a fixed point.

    Args:
        bottleneck: the network.
        solve: takes a network, stimuli, initial states and the tolerance.
        where: further columns of the row, among them the precision and the tolerance.
    """
    network, gaps, starts = bottleneck.network, bottleneck.gaps, bottleneck.starts
    dtype, tolerance = where["dtype"], where["tolerance"]
    ends, stimuli = {}, {}
    for sign in (1, -1):  # without, and with a fixed point
        stimuli[sign] = (sign * gaps[:, None]).astype(dtype)
        ends[sign] = solve(network, stimuli[sign], starts.astype(dtype), tolerance)
    is_converged = {sign: np.asarray(end.status) == Status.converged for sign, end in ends.items()}
    # Where the samples that are not converged went is of no interest; where they slowed down is.
    states = np.where(is_converged[1][:, None], np.asarray(ends[1].state), bottleneck.middle.astype(dtype))
    computed = np.asarray(jax.jit(jax.vmap(network.velocity))(states, stimuli[1]))
    error = np.abs(computed - bottleneck.exact_velocity(states, stimuli[1][:, 0])).max(axis=1)
    rounding = np.finfo(dtype).eps * (1 + np.abs(states).max(axis=1))
    in_roundings = (gaps / np.maximum(error, rounding)).astype(float)
    is_hidden = in_roundings < _HIDDEN
    width = np.sqrt(gaps / _CURVATURE)  # half the distance of the fixed point from the saddle
    errors = np.where(is_converged[-1], np.abs(np.asarray(ends[-1].state) @ bottleneck.mode - (1 - width)), 0)
    return {
        "family": bottleneck.family,
        **where,
        "num_samples": len(gaps),
        "num_hidden": int(is_hidden.sum()),
        "num_false": int((is_converged[1] & ~is_hidden).sum()),
        "num_hidden_converged": int((is_converged[1] & is_hidden).sum()),
        "largest_converged": float(in_roundings[is_converged[1]].max(initial=0)),
        "num_found": int(is_converged[-1].sum()),
        "num_elsewhere": int((~is_hidden & ~(errors < width)).sum()),
        "largest_error": float(errors.max(initial=0)),
    }


def _on_host(network, stimuli, starts, tolerance) -> SteadyState:
    return solve_steady_states(network, stimuli, initial_states=starts, tolerance=tolerance)


@eqx.filter_jit
def _by_engine(network, stimuli, starts, tolerance) -> SteadyState:
    return rnn2ff.solve_batch(network, stimuli, initial_states=starts, tolerance=tolerance)


_WAYS = {"solve_steady_states": _on_host, "solve_batch": _by_engine}


def _bottlenecks(config: Config, dtype: str, tolerance: float) -> Iterator[Bottleneck]:
    rng = np.random.default_rng(config.seed)
    # From what rounding leaves of a velocity up to the tolerance and beyond.
    smallest = 1e-12 if dtype == "float64" else 5e-6
    gaps = np.repeat(np.geomspace(min(smallest, tolerance / 10), 5 * tolerance, 6), config.num_starts)
    # From well before the bottleneck to its middle.
    before = np.tile(np.linspace(-30, -1.2, config.num_starts), 6)

    def of_modes(family: str, modes: np.ndarray, strength: float = 0.0) -> Bottleneck:
        size = len(modes)
        first = 1 + before * np.sqrt(gaps / _CURVATURE)
        others = rng.normal(size=(len(gaps), size - 1))
        params = {
            "modes": modes.astype(dtype),
            "rates": np.r_[0, np.geomspace(0.1, 2, size - 1)].astype(dtype),
            "opposed": (strength * rng.random((size, size)) / size).astype(dtype),
            "order": rng.permutation(size),
        }

        def exact_velocity(states, gaps):  # without the inputs that cancel
            modes, rates = params["modes"].astype(np.longdouble), params["rates"].astype(np.longdouble)
            amounts = states @ modes
            return np.c_[_slow(amounts[:, 0], gaps), -rates[1:] * amounts[:, 1:]] @ modes.T

        network = RecurrentNetwork(_slow_mode, jax.tree.map(jnp.asarray, params), state_size=size, stimulus_size=1)
        return Bottleneck(
            family, network, gaps, np.c_[first, others] @ modes.T, modes[:, 0], modes[:, 0], exact_velocity
        )

    def beside(family: str, strength: float) -> Bottleneck:
        def exact_velocity(states, gaps):
            slow, difference, one, other = states.astype(np.longdouble).T
            opposed = strength * (np.tanh(one) - np.tanh(other)) - difference
            target = np.asarray(_TARGET, dtype)
            return np.stack([_slow(slow, gaps), opposed, target - one, target - other], axis=1)

        params = {"strength": jnp.asarray(strength, dtype)}
        network = RecurrentNetwork(_beside_inputs_that_cancel, params, state_size=4, stimulus_size=1)
        starts = np.c_[1 + before * np.sqrt(gaps / _CURVATURE), np.zeros((len(gaps), 3))]
        return Bottleneck(family, network, gaps, starts, np.r_[1, 0, _TARGET, _TARGET], np.eye(4)[0], exact_velocity)

    if "unit" in config.families:
        yield of_modes("a unit", np.eye(1))
    for size in config.sizes if "mode" in config.families else ():
        yield of_modes(f"a mode of {size} units", np.linalg.qr(rng.normal(size=(size, size)))[0])
    for strength in _STRENGTHS[dtype] if "beside" in config.families else ():
        yield beside(f"beside inputs that cancel, {strength:.0e}", strength)
    for strength in _STRENGTHS[dtype] if "cancelling mode" in config.families else ():
        turned = np.linalg.qr(np.c_[np.ones(16), rng.normal(size=(16, 15))])[0]
        yield of_modes(f"a mode of all units whose inputs cancel, {strength:.0e}", turned, strength)


def _slow_mode(params: dict, state: Float[Array, " state"], stimulus: Float[Array, "1"]) -> Float[Array, " state"]:
    amounts = params["modes"].T @ state
    velocity = params["modes"] @ (-params["rates"] * amounts).at[0].set(_slow(amounts[0], stimulus[0]))
    rates = jnp.tanh(state)
    # The same sum in another order, so that it is zero but for rounding.
    return velocity + (params["opposed"] @ rates - params["opposed"][:, params["order"]] @ rates[params["order"]])


def _beside_inputs_that_cancel(
    params: dict, state: Float[Array, "4"], stimulus: Float[Array, "1"]
) -> Float[Array, "4"]:
    slow, difference, one, other = state
    opposed = params["strength"] * (jnp.tanh(one) - jnp.tanh(other)) - difference
    return jnp.stack([_slow(slow, stimulus[0]), opposed, _TARGET - one, _TARGET - other])


def _slow(amount, gap):
    return _CURVATURE * (amount - 1) ** 2 + gap


def marks(rows: list[dict]) -> Iterator[dict]:
    """For each precision and way: whether a bottleneck was converged, and whether what was found is the fixed point."""
    for dtype, way in dict.fromkeys((row["dtype"], row["way"]) for row in rows):
        total = {name: sum(row[name] for row in rows if (row["dtype"], row["way"]) == (dtype, way))
                 for name in ("num_samples", "num_hidden", "num_false", "num_found", "num_elsewhere")}  # fmt: skip
        for what, false, of in (
            ("bottlenecks called converged", "num_false", total["num_samples"] - total["num_hidden"]),
            ("converged elsewhere than at the fixed point", "num_elsewhere", total["num_found"]),
        ):
            received = f"{total[false]} of {of}"
            yield {"what": f"{dtype}, {way}: {what}", "mark": "0", "received": received, "is_met": total[false] == 0}


def describe(rows: list[dict]) -> str:
    """A table by family, and the marks."""
    header = ["family", "precision", "tolerance", "by", "bottlenecks", "converged", "hidden ones", "of these converged"]
    header += ["largest g, roundings", "fixed points", "found", "elsewhere", "farthest"]
    lines = []
    for row in rows:
        where = [row["family"], row["dtype"], f"{row['tolerance']:g}", row["way"]]
        without = [row["num_samples"] - row["num_hidden"], row["num_false"], row["num_hidden"]]
        without += [row["num_hidden_converged"], f"{row['largest_converged']:.2g}"]
        found = [row["num_samples"], row["num_found"], row["num_elsewhere"], f"{row['largest_error']:.1e}"]
        lines.append([*where, *without, *found])
    return f"{table(header, lines)}\n\n{marks_table(list(marks(rows)))}"


if __name__ == "__main__":
    run_script("bottlenecks", Config(), run, describe, folder=Path(__file__).parent)
