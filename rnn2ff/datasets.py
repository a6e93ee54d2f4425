"""Stimuli, and the steady states they lead to."""

import zlib
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from rnn2ff._checks import check_at_least, check_finite, check_fraction, check_shape, check_stimuli, fail
from rnn2ff.networks.base import RecurrentNetwork
from rnn2ff.steady_state import AbstractSteadyStateSolver, count_statuses, solve_steady_states

SampleStimulus = Callable[[PRNGKeyArray], Float[Array, " stimulus"]]


class Pairs(eqx.Module):
    """Stimuli and the steady rates they lead to; samples without a steady state are left out, and counted.

    Attributes:
        stimuli: one a row.
        rates: the steady rates, one row a stimulus.
        status_counts: how the solve of every sample ended, those left out included.
    """

    stimuli: Float[Array, "batch stimulus"]
    rates: Float[Array, "batch rate"]
    status_counts: dict[str, int] = eqx.field(static=True)

    def __len__(self) -> int:
        return self.stimuli.shape[0]


def key_for(key: PRNGKeyArray, purpose: str) -> PRNGKeyArray:
    """The key for one purpose of a run, so that no two uses share their randomness."""
    return jr.fold_in(key, zlib.crc32(purpose.encode()))


def sample_stimuli(
    sample_stimulus: SampleStimulus, num_samples: int, *, key: PRNGKeyArray
) -> Float[Array, "batch stimulus"]:
    """Draw a batch; sample i depends on the key and on i alone.

    Args:
        sample_stimulus: draws one stimulus from a key; pure.
        num_samples: how many.
        key: a PRNG key.

    Raises:
        ValueError: if a draw is not a finite vector, or there are none.
    """
    check_at_least("num_samples", num_samples, 1)
    drawn = _sample(sample_stimulus, num_samples, key)
    if drawn.ndim != 2:
        raise fail("sample_stimulus", "does not return one stimulus", "a vector", f"shape {drawn.shape[1:]}")
    check_finite("sample_stimulus", drawn)
    return drawn


@eqx.filter_jit
def _sample(sample_stimulus: SampleStimulus, num_samples: int, key: PRNGKeyArray) -> Array:
    return jax.vmap(lambda i: sample_stimulus(jr.fold_in(key, i)))(jnp.arange(num_samples))


def sample_from(stimuli: Float[ArrayLike, "batch stimulus"], *, jitter: float = 0.0) -> SampleStimulus:
    """A sampler that draws a row of an array, plus Gaussian noise.

    Args:
        stimuli: one a row.
        jitter: standard deviation of the noise added to each channel, in units of that channel's own standard
            deviation over the rows.

    Raises:
        ValueError: if the array is empty or holds a value that is not finite, or `jitter` is negative.
    """
    stimuli = jnp.asarray(stimuli)
    check_stimuli(stimuli, stimuli.shape[-1] if stimuli.ndim else 0)
    if not 0 <= jitter < float("inf"):
        raise fail("jitter", "is out of range", "a finite number of at least 0", repr(jitter))
    return ArraySampler(stimuli, jitter * stimuli.std(axis=0))


class ArraySampler(eqx.Module):
    """Draws a row of an array, plus Gaussian noise; made by `sample_from`."""

    stimuli: Float[Array, "batch stimulus"]
    deviations: Float[Array, " stimulus"]

    def __call__(self, key: PRNGKeyArray) -> Float[Array, " stimulus"]:
        row_key, noise_key = jr.split(key)
        stimulus = self.stimuli[jr.randint(row_key, (), 0, len(self.stimuli))]
        return stimulus + self.deviations * jr.normal(noise_key, stimulus.shape, stimulus.dtype)


def hold_out(
    stimuli: Float[ArrayLike, "batch stimulus"], share: float, *, key: PRNGKeyArray
) -> tuple[Float[Array, "kept stimulus"], Float[Array, "held_out stimulus"]]:
    """Part an array of stimuli at random into rows to train on and a share of rows to judge on.

    Raises:
        ValueError: if there are fewer than two rows, or the share is not between 0 and 1.
    """
    check_fraction("share", share)
    stimuli = jnp.asarray(stimuli)
    if len(stimuli) < 2:
        raise fail("stimuli", "cannot be parted", "at least 2 rows", len(stimuli))
    num_held_out = min(max(1, round(share * len(stimuli))), len(stimuli) - 1)
    order = jr.permutation(key, len(stimuli))
    return stimuli[order[num_held_out:]], stimuli[order[:num_held_out]]


def solve_pairs(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    *,
    solver: AbstractSteadyStateSolver | None = None,
    max_steps: int = 4096,
    progress: bool = False,
) -> Pairs:
    """Solve every stimulus, keep those that reach a steady state, and count the others.

    Args:
        network: the network.
        stimuli: one a row.
        solver: as for `solve_steady_states`.
        max_steps: bound on the steps of each solve.
        progress: whether to show a progress bar.

    Raises:
        ValueError: if the stimuli do not fit.
        RuntimeError: if no stimulus reaches a steady state, with the counts.
    """
    solved = solve_steady_states(network, stimuli, solver=solver, max_steps=max_steps, progress=progress)
    counts = count_statuses(solved.status)
    if counts["converged"] == 0:
        msg = f"No stimulus leads to a steady state. Expected at least one that converges, got {counts}."
        raise RuntimeError(msg)
    stimuli = jnp.asarray(stimuli, network.dtype)
    kept = solved.is_converged
    return Pairs(stimuli[kept], jax.vmap(network.rates)(solved.state[kept]), counts)


def check_pairs(stimuli: Array, rates: Array) -> None:
    """Stimuli and rates of as many rows, all finite."""
    check_stimuli(stimuli, stimuli.shape[-1])
    check_shape("rates", rates, (stimuli.shape[0], rates.shape[-1]))
    check_finite("rates", rates)
