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

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks.parts.honest_answers import solve
from benchmarks.parts.honest_cases import COMPETITION, FAMILIES, Case, make_case
from benchmarks.parts.honest_config import Config as Config
from benchmarks.parts.honest_tables import describe
from benchmarks.parts.honest_tables import marks as marks
from benchmarks.parts.honest_tables import summarize as summarize
from benchmarks.parts.honest_truth import find_truth
from benchmarks.parts.honest_verdicts import judge
from experiments._executors import Compute, serially
from experiments._script import run_script

_NUM_PLANNED = 256  # stimuli, of which the later half makes the plan; a prefix is what is judged


def run(config: Config, compute: Compute = serially) -> Iterator[dict]:
    """One row per family and dtype, with every wrong answer listed."""
    groups = itertools.groupby(config.families or FAMILIES, functools.partial(_program_of, config=config))
    for result in compute(functools.partial(_of_families, tuple(families), config) for _, families in groups):
        yield from result["rows"]


def _cases(family: str, config: Config) -> list[Case]:
    is_large = family == COMPETITION
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


if __name__ == "__main__":
    run_script("honest_failures", Config(), run, describe, folder=Path(__file__).parent)
