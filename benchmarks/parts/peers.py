"""The competitors: other methods and libraries to find steady states, each at its best setting.

A peer is built for a problem, and returns states for stimuli. Convergence is judged by `residuals64`, not by the peer.
Each has a few settings, from which `tune` selects the fastest that converges on every sample. If its package is
missing, the peer is reported as not run.
"""

import functools
import importlib.util
import itertools
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

from benchmarks.parts.contenders import TOLERANCE, roll_out
from benchmarks.parts.problems import NONLINEARITIES, Problem, power_law, residuals64
from rnn2ff.records import timed

_MAX_ITERATIONS = 2000
_MOST_LOOPS = 5000  # of the plain loop; one sample of `wta` takes 3,000
_NEARLY = 2.0  # times the time of the fastest setting on some samples; slower ones are not tried on all
_JACOBIAN_BYTES = 64e6  # methods with a Jacobian per sample get no more samples than fit

Setting = Mapping[str, float | int | str]
Solve = Callable[..., object]  # (stimuli, **setting) -> states


class Peer(NamedTuple):
    """A competitor.

    Attributes:
        name: package and method.
        package: what must be installed.
        build: makes the solve function for a problem; it takes stimuli and a setting.
        settings: the ones to choose from.
        max_batch_size: of a network's size; above it the peer is timed on fewer samples.
        ends_at_failure: whether no further settings are tried after the first that converges on fewer samples.
        takes_all: whether it is timed on the whole batch, however long a call takes, and tuned on it as well.
    """

    name: str
    package: str
    build: Callable[[Problem], Solve]
    settings: tuple[Setting, ...]
    max_batch_size: Callable[[int], int] = lambda state_size: 1_000_000
    ends_at_failure: bool = False
    takes_all: bool = False

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


class Tuned(NamedTuple):
    """A peer at its best setting.

    Attributes:
        setting: the fastest that converged on every sample, else the one that converged on most.
        compile_seconds: by how much a first call took longer than the next.
        solve: takes stimuli, and returns states.
    """

    setting: Setting
    compile_seconds: float
    solve: Callable[[object], object]


class Trial(NamedTuple):
    """The result of a setting.

    Attributes:
        share: of the samples that converged.
        seconds: of a warm call.
        setting: the one that was tried.
        compile_seconds: by how much the first call took longer.
    """

    share: float
    seconds: float
    setting: Setting
    compile_seconds: float


def tune(peer: Peer, problem: Problem, *, largest_seconds: float) -> Tuned:
    """Try every setting of a peer on the stimuli of a problem, and keep the best.

    Settings are ordered from accurate to fast. Where `ends_at_failure`, settings after one that did not converge on all
    samples are not tried: an integrator that never comes to rest uses up all its steps, which takes minutes. A setting
    three times slower than the best so far is not timed again, and no more are tried after one call took longer than
    `largest_seconds`.
    """
    solve = peer.build(problem)
    return _best(solve, _try_all(peer, solve, problem, largest_seconds))


def tune_on_all(peer: Peer, problem: Problem, num_trial_samples: int, *, largest_seconds: float) -> Tuned:
    """Try every setting on some stimuli, and the settings that were nearly the fastest there on all stimuli.

    A setting that converges on some may not on all, and one sample that takes longer makes another the best. None is
    tried after all calls took longer than ten times `largest_seconds`.
    """
    solve = peer.build(problem)
    subset = problem.take(num_trial_samples)
    trials = sorted(
        _try_all(peer, solve, subset, largest_seconds), key=lambda candidate: (-candidate.share, candidate.seconds)
    )
    stimuli = jnp.asarray(problem.stimuli)
    on_all = []
    for trial in trials:
        on_all.append(_try(solve, stimuli, trial.setting, problem, skips_open=True))
        is_found = max(candidate.share for candidate in on_all) == 1 and trial.seconds > _NEARLY * trials[0].seconds
        if is_found or trial.share < 1 or sum(candidate.seconds for candidate in on_all) > 10 * largest_seconds:
            break
    return _best(solve, on_all)


def _try_all(peer: Peer, solve: Solve, problem: Problem, largest_seconds: float) -> list[Trial]:
    stimuli = jnp.asarray(problem.stimuli)
    tried = []
    for setting in peer.settings:
        trial = _try(solve, stimuli, setting, problem)
        best = min((earlier.seconds for earlier in tried if earlier.share >= trial.share), default=np.inf)
        if trial.seconds < min(3 * best, 0.5):
            again = (_seconds(solve, stimuli, setting) for _ in range(3))
            trial = trial._replace(seconds=min(trial.seconds, *again))
        tried.append(trial)
        is_hopeless = peer.ends_at_failure and trial.share < max(earlier.share for earlier in tried)
        if is_hopeless or (trial.seconds > largest_seconds and not peer.takes_all):
            break
    return tried


def _try(solve: Solve, stimuli: jax.Array, setting: Setting, problem: Problem, *, skips_open: bool = False) -> Trial:
    """Time two calls; or one, compilation included, if it does not converge on all samples and `skips_open`."""
    states, first = timed(lambda: np.asarray(solve(stimuli, **setting)))
    share = float((residuals64(problem.network, problem.stimuli, states) < TOLERANCE).mean())
    seconds = first if skips_open and share < 1 else _seconds(solve, stimuli, setting)
    return Trial(share, seconds, setting, first - seconds)


def _best(solve: Solve, trials: list[Trial]) -> Tuned:
    setting = dict(min(trials, key=lambda trial: (-trial.share, trial.seconds)).setting)
    compile_seconds = max(0.0, *(trial.compile_seconds for trial in trials))
    return Tuned(setting, compile_seconds, lambda stimuli: solve(stimuli, **setting))


def _seconds(solve: Solve, stimuli: jax.Array, setting: Setting) -> float:
    return timed(lambda: solve(stimuli, **setting)).seconds


def _grid(**choices: tuple) -> tuple[Setting, ...]:
    return tuple(dict(zip(choices, values)) for values in itertools.product(*choices.values()))


def _sweep(network, damping=1.0):
    """The fixed-point iteration, `x <- x + damping (W phi(x) + u - x)`."""
    return lambda state, stimulus: state + damping * network.time_constants * network.velocity(state, stimulus)


# --- in JAX -----------------------------------------------------------------------------------------------------------


def _plain_loop(problem: Problem) -> Solve:
    """Euler steps of the whole batch until the slowest sample is at rest, with no verdict.

    Where all time constants are the same that is the damped fixed-point iteration.
    """
    transposed = jnp.asarray(problem.weights.T)
    shares = (problem.time_constants.min() / problem.time_constants)[None]
    phi = {"relu": jax.nn.relu, "tanh": jnp.tanh, "power": power_law}[problem.nonlinearity]

    @functools.partial(jax.jit, static_argnames="check_every")
    def solve(stimuli, damping, check_every):
        def some_steps(carry):
            states, _, num_steps = carry
            for _ in range(check_every):
                before, velocity = states, phi(states) @ transposed + stimuli - states
                states = before + damping * shares * velocity
            residuals = jnp.max(jnp.abs(velocity), axis=1) / (1 + jnp.max(jnp.abs(before), axis=1))
            return states, jnp.max(residuals), num_steps + check_every

        def is_open(carry):
            return (carry[1] >= TOLERANCE) & (carry[2] < _MOST_LOOPS)  # NaN ends it as well

        return jax.lax.while_loop(is_open, some_steps, (jnp.zeros_like(stimuli), jnp.float32(jnp.inf), 0))[0]

    return solve


def _diffrax(problem: Problem) -> Solve:
    """vmap(Tsit5 + PID + event on the residual's max-norm), all of the batch in one loop or in tiles."""
    roll = roll_out(problem.network, dfx.Tsit5())

    def batch(stimuli, step_tolerance):
        return roll(TOLERANCE, step_tolerance, stimuli)[0]

    @jax.jit
    def in_one(stimuli, step_tolerance):
        return batch(stimuli, step_tolerance)

    @jax.jit
    def in_tiles(stimuli, step_tolerance):
        tiles = stimuli.reshape(-1, 64, stimuli.shape[-1])
        return jax.lax.map(lambda tile: batch(tile, step_tolerance), tiles).reshape(stimuli.shape)

    def solve(stimuli, step_tolerance, tiles):
        has_tiles = tiles == "64" and len(stimuli) % 64 == 0 and len(stimuli) > 64
        return (in_tiles if has_tiles else in_one)(stimuli, step_tolerance)

    return solve


def _optimistix_fixed_point(problem: Problem) -> Solve:
    @jax.jit
    def solve(stimuli, stop, damping):
        def one(stimulus):
            sweep, solver = _sweep(problem.network, damping), optx.FixedPointIteration(rtol=stop, atol=stop)
            start = jnp.zeros(problem.network.state_size, problem.network.dtype)
            return optx.fixed_point(sweep, solver, start, stimulus, max_steps=_MAX_ITERATIONS, throw=False).value

        return jax.vmap(one)(stimuli)

    return solve


def _optimistix_newton(problem: Problem) -> Solve:
    network = problem.network

    @jax.jit
    def solve(stimuli, stop):
        def one(stimulus):
            solver = optx.Newton(rtol=stop, atol=stop)
            start = jnp.zeros(network.state_size, network.dtype)
            return optx.root_find(network.velocity, solver, start, stimulus, max_steps=64, throw=False).value

        return jax.vmap(one)(stimuli)

    return solve


def _jaxopt(method: str) -> Callable[[Problem], Solve]:
    def build(problem: Problem) -> Solve:
        import jaxopt

        @jax.jit
        def plain(stimuli, stop, damping):
            solver = jaxopt.FixedPointIteration(
                _sweep(problem.network, damping), maxiter=_MAX_ITERATIONS, tol=stop, implicit_diff=False, unroll=False
            )
            return jax.vmap(lambda stimulus: solver.run(jnp.zeros_like(stimulus), stimulus).params)(stimuli)

        @functools.partial(jax.jit, static_argnames="history")
        def anderson(stimuli, stop, history):
            solver = jaxopt.AndersonAcceleration(
                _sweep(problem.network),
                history,
                maxiter=_MAX_ITERATIONS // 4,
                tol=stop,
                ridge=1e-6,
                implicit_diff=False,
                unroll=False,
            )
            return jax.vmap(lambda stimulus: solver.run(jnp.zeros_like(stimulus), stimulus).params)(stimuli)

        return plain if method == "fixed point" else anderson

    return build


# --- in PyTorch -------------------------------------------------------------------------------------------------------


def _torch_sweep(problem: Problem) -> Callable:
    """The plain fixed-point iteration of a batch."""
    import torch

    transposed = torch.tensor(problem.weights.T.copy())
    phi = {"relu": torch.relu, "tanh": torch.tanh, "power": lambda states: 0.04 * torch.relu(states) ** 2}
    return lambda states, stimuli: torch.addmm(stimuli, phi[problem.nonlinearity](states), transposed)


def _torch_loop(problem: Problem) -> Solve:
    import torch

    sweep = _torch_sweep(problem)

    @torch.inference_mode()
    def solve(stimuli, damping, check_every, threads):
        torch.set_num_threads(threads)
        stimuli = torch.from_numpy(np.array(stimuli))
        states = torch.zeros_like(stimuli)
        for _ in range(_MAX_ITERATIONS // check_every):
            for _ in range(check_every):
                before = states
                states = torch.lerp(before, sweep(before, stimuli), damping)
            change = (states - before).abs().amax(dim=1) / (damping * (1 + states.abs().amax(dim=1)))
            # For the state before the last step, hence no margin for the one after it; NaN ends the loop as well.
            if not (change.max() >= TOLERANCE):
                break
        return states.numpy()

    return solve


def _torchdeq(method: str) -> Callable[[Problem], Solve]:
    def build(problem: Problem) -> Solve:
        import torch
        from torchdeq.solver import get_solver

        solver = get_solver(method)
        sweep = _torch_sweep(problem)

        @torch.inference_mode()
        def solve(stimuli, stop, max_iterations, threads):
            torch.set_num_threads(threads)
            stimuli = torch.from_numpy(np.array(stimuli))
            start = torch.zeros_like(stimuli)
            try:
                solution, _, _ = solver(
                    lambda states: sweep(states, stimuli), start, max_iter=max_iterations, tol=stop, stop_mode="rel"
                )
            except torch.linalg.LinAlgError:  # one singular sample ends its whole batch
                solution = torch.full_like(stimuli, torch.nan)
            return solution.numpy()

        return solve

    return build


# --- one sample at a time ---------------------------------------------------------------------------------------------


def _scipy(problem: Problem) -> Solve:
    """`scipy.optimize.root`, in float64, sample by sample."""
    from scipy.optimize import root

    weights = problem.weights.astype(float)
    phi, slope = NONLINEARITIES[problem.nonlinearity]
    identity = np.eye(len(weights))

    def solve(stimuli, method):
        options = {"hybr": {"jac": lambda x, u: weights * slope(x) - identity}, "krylov": {}}[method]
        with np.errstate(all="ignore"):
            solutions = []
            for stimulus in np.asarray(stimuli, float):
                try:
                    result = root(
                        lambda x, u: weights @ phi(x) - x + u,
                        np.zeros_like(stimulus),
                        args=(stimulus,),
                        method=method,
                        tol=TOLERANCE / 2,
                        **options,
                    )
                    solutions.append(result.x)
                except ValueError:  # krylov raises where the residual overflows
                    solutions.append(np.full_like(stimulus, np.nan))
        return np.array(solutions)

    return solve


def _few(state_size: int) -> int:
    return max(2, 2048 // state_size)


def _jacobians(state_size: int) -> int:
    return max(16, int(_JACOBIAN_BYTES / (4 * state_size**2)))


_STOPS = (3e-5, 1e-5, 3e-6, 1e-6)
_THREADS = tuple(sorted({1, os.cpu_count() or 1}))  # of PyTorch; more may be slower, where they have to wait
_DAMPINGS = (1.0, 0.7, 0.4, 0.2)
_ALL_DAMPINGS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_STEP_TOLERANCES = (5e-7, 1e-6, 2e-6, 3e-6, 5e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)

ROLLOUT = Peer(
    "diffrax Tsit5",
    "diffrax",
    _diffrax,
    _grid(step_tolerance=_STEP_TOLERANCES, tiles=("64", "all")),
    ends_at_failure=True,
)
PLAIN_LOOP = Peer("plain loop", "jax", _plain_loop, _grid(damping=_ALL_DAMPINGS, check_every=(1, 4)), takes_all=True)
PEERS = (
    PLAIN_LOOP,
    Peer(
        "optimistix FixedPointIteration",
        "optimistix",
        _optimistix_fixed_point,
        _grid(stop=_STOPS, damping=_DAMPINGS),
    ),
    Peer("optimistix Newton", "optimistix", _optimistix_newton, _grid(stop=(1e-3, 1e-5)), _jacobians),
    Peer("jaxopt FixedPointIteration", "jaxopt", _jaxopt("fixed point"), _grid(stop=_STOPS, damping=_DAMPINGS)),
    Peer("jaxopt Anderson", "jaxopt", _jaxopt("anderson"), _grid(history=(3, 5), stop=(3e-4, 1e-4, *_STOPS))),
    Peer("PyTorch loop", "torch", _torch_loop, _grid(damping=_DAMPINGS, check_every=(1, 4), threads=_THREADS)),
    Peer(
        "torchdeq Anderson",
        "torchdeq",
        _torchdeq("anderson"),
        _grid(stop=(1e-5, 2e-6), max_iterations=(150,), threads=_THREADS),
    ),
    Peer(
        "torchdeq Broyden",
        "torchdeq",
        _torchdeq("broyden"),
        _grid(stop=(1e-5, 2e-6), max_iterations=(100,), threads=_THREADS),
    ),
    Peer("SciPy root", "scipy", _scipy, _grid(method=("hybr", "krylov")), _few),
)
