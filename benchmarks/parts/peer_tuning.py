"""What a competitor is, and how its best setting is chosen: the fastest that converges on every sample."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.contenders import TOLERANCE
from benchmarks.parts.problems import Problem, residuals64
from rnn2ff.records import timed

MAX_ITERATIONS = 2000
_NEARLY = 2.0  # times the time of the fastest setting on some samples; slower ones are not tried on all

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
