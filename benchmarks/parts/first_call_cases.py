"""The cases of `first_call`, which run in processes of their own: public functions, called as a user calls them."""

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.parts.first_call_config import Config

_NUM_PLANNED = 512  # stimuli, none of them solved, that a plan is made from
_SERVED_TOLERANCE = 0.02


class Case(NamedTuple):
    """A public function, called as a user calls it.

    Attributes:
        function: the attribute of `rnn2ff` that is called; a case whose function is not there is not run.
        build: from the config and a folder for files to a call, which takes a batch size and returns arrays.
        sizes: the field of the config with the batch sizes.
    """

    function: str
    build: Callable[[Config, Path], Callable[[int], object]]
    sizes: str


def _gauss(config: Config, num_stimuli: int, *, stimulus_seed: int = 0):
    from benchmarks.parts.problems import make_problem

    return make_problem("gauss09", config.state_size, num_stimuli, seed=config.seed, stimulus_seed=stimulus_seed)


def _plan(config: Config):
    """A plan from other stimuli, as if an earlier process had made it: what was compiled for it is forgotten."""
    import jax

    import rnn2ff

    problem = _gauss(config, _NUM_PLANNED, stimulus_seed=1)
    plan = rnn2ff.plan_steady_states(problem.network, problem.stimuli)
    jax.clear_caches()
    return plan


def _solve(config: Config, folder: Path, *, has_plan: bool) -> Callable[[int], object]:
    import rnn2ff

    del folder
    plan = _plan(config) if has_plan else None
    problem = _gauss(config, max(config.batch_sizes))
    return lambda size: rnn2ff.solve_steady_states(problem.network, problem.stimuli[:size], solver=plan)


def _solve_batch(config: Config, folder: Path, *, has_plan: bool) -> Callable[[int], object]:
    import equinox as eqx

    import rnn2ff

    del folder
    plan = _plan(config) if has_plan else None
    problem = _gauss(config, max(config.batch_sizes))
    solve = eqx.filter_jit(rnn2ff.solve_batch)  # `jax.jit` with what is static in a network left out
    return lambda size: solve(problem.network, problem.stimuli[:size], plan)


def _distill(config: Config, folder: Path, *, has_jumps: bool) -> Callable[[int], object]:
    import jax
    import jax.random as jr

    import rnn2ff

    del folder
    network = rnn2ff.winner_take_all(12) if has_jumps else rnn2ff.partition_competition(4, 8)

    def call(size: int) -> object:
        distillation = rnn2ff.distill(
            network,
            lambda key: jr.uniform(key, (network.stimulus_size,)),
            num_samples=size,
            num_steps=config.num_training_steps,
            key=jr.key(config.seed),
        )
        return jax.tree.leaves(distillation.approximator)

    return call


def _find_fixed_points(config: Config, folder: Path) -> Callable[[int], object]:
    import jax.numpy as jnp
    import jax.random as jr

    import rnn2ff

    del folder
    network = rnn2ff.partition_competition(4, 8, self_excitation=1.3)
    stimulus = jnp.linspace(0, 1, network.stimulus_size)
    key = jr.key(config.seed)
    return lambda size: rnn2ff.find_fixed_points(network, stimulus, num_starts=size, key=key).states


def _predict_or_solve(config: Config, folder: Path) -> Callable[[int], object]:
    import jax.random as jr
    import numpy as np

    import rnn2ff

    del folder
    network = rnn2ff.partition_competition(4, 8)
    approximator = rnn2ff.TwoLayer(network.stimulus_size, 160, network.rate_size, key=jr.key(config.seed))
    rng = np.random.default_rng(config.seed)
    stimuli = rng.uniform(size=(max(config.num_served), network.stimulus_size)).astype(np.float32)

    def call(size: int) -> object:
        return rnn2ff.predict_or_solve(network, approximator, stimuli[:size], tolerance=_SERVED_TOLERANCE).rates

    return call


def _command_line(config: Config, folder: Path) -> Callable[[int], object]:
    """`rnn2ff solve`, from and to files, in this process: what it imports is imported already."""
    import numpy as np

    from rnn2ff import cli

    problem = _gauss(config, max(config.batch_sizes))
    np.save(folder / "W.npy", problem.weights)
    for size in config.batch_sizes:
        np.save(folder / f"U{size}.npy", problem.stimuli[:size])

    def call(size: int) -> object:
        options = {"--weights": "W.npy", "--stimuli": f"U{size}.npy", "--out": "states.npz"}
        paths = [part for name, file in options.items() for part in (name, str(folder / file))]
        saved_arguments, sys.argv = sys.argv, ["rnn2ff", "solve", *paths, "--overwrite", "--json"]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                cli.main()
        finally:
            sys.argv = saved_arguments
        return None

    return call


SOLVE, SOLVE_BATCH, PLANNED = "solve_steady_states", "solve_batch", ", plan made before"
DISTILL, JUMPING = "distill", ", states that jump"

CASES = {
    SOLVE: Case(SOLVE, functools.partial(_solve, has_plan=False), "batch_sizes"),
    f"{SOLVE}{PLANNED}": Case(SOLVE, functools.partial(_solve, has_plan=True), "batch_sizes"),
    SOLVE_BATCH: Case(SOLVE_BATCH, functools.partial(_solve_batch, has_plan=False), "batch_sizes"),
    f"{SOLVE_BATCH}{PLANNED}": Case(SOLVE_BATCH, functools.partial(_solve_batch, has_plan=True), "batch_sizes"),
    DISTILL: Case(DISTILL, functools.partial(_distill, has_jumps=False), "num_distilled"),
    f"{DISTILL}{JUMPING}": Case(DISTILL, functools.partial(_distill, has_jumps=True), "num_distilled"),
    "find_fixed_points": Case("find_fixed_points", _find_fixed_points, "num_starts"),
    "predict_or_solve": Case("predict_or_solve", _predict_or_solve, "num_served"),
    "rnn2ff solve": Case(SOLVE, _command_line, "batch_sizes"),
}
