"""The result of a solve: a state, and its status."""

from __future__ import annotations

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from rnn2ff._checks import fail, shape_of
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.records import is_shown, readable
from rnn2ff.steady_state.method import Plan


class Status(enum.IntEnum):
    """Why a solve ended. Results hold its integers, so a batch of verdicts is an array.

    Attributes:
        converged: the residual is below the tolerance, and small perturbations die out.
        unstable: a fixed point, but the dynamics leave it.
        oscillating: the dynamics never come to rest: a limit cycle, or chaos.
        diverging: the dynamics grow without bound.
        max_steps_reached: the budget of steps or time ran out before the sample was at rest.
        nonfinite: NaN or infinity.
        undecided: the residual is below the tolerance, but whether the dynamics rest there, leave a fixed point, or
            only pass a bottleneck, could not be decided.
    """

    # Files hold these numbers: append only.
    converged = 0
    unstable = 1
    oscillating = 2
    diverging = 3
    max_steps_reached = 4
    nonfinite = 5
    undecided = 6

    def __str__(self) -> str:
        return self.name


ADVICE = {
    Status.unstable: "the dynamics leave the fixed point that was found; use `Rollout`, or start elsewhere",
    Status.oscillating: "the dynamics never come to rest for this stimulus, so there is no steady state to find",
    Status.diverging: "the dynamics grow without bound for this stimulus; check the weights and their signs",
    Status.max_steps_reached: "the steps ran out before it was at rest; raise `max_steps`, or change `tolerance`",
    Status.nonfinite: "the search ended in NaN or infinity; check the vector field, or use `Rollout`",
    Status.undecided: "the residual is below the tolerance, but the state may not attract, may drift where nothing "
    "decays, or may be passing a bottleneck; look at its eigenvalues with `linearize`",
}


@readable
class AbstractEnd(eqx.Module):
    """What the results of one solve and of a batch have in common."""

    state: eqx.AbstractVar[Float[ArrayLike, "*batch state"]]
    status: eqx.AbstractVar[Int[ArrayLike, "*batch"]]

    @property
    def is_converged(self) -> Bool[ArrayLike, "*batch"]:
        """Whether the state is a steady state, per sample."""
        return self.status == Status.converged

    @property
    def verdict(self) -> str | list:
        """The name of the status; of a batch, a list of them."""
        return np.array([status.name for status in Status])[np.asarray(self.status)].tolist()

    def rates(self, network: RecurrentNetwork) -> Float[Array, "*batch rate"]:
        """The rates that downstream units of the network receive from the states."""
        states, function = jnp.asarray(self.state), network.rates
        for _ in range(states.ndim - 1):
            function = jax.vmap(function)
        return function(states)


class SteadyState(AbstractEnd):
    """The result of a solve; for a batch, each field has a leading axis.

    Attributes:
        state: the last state, whatever the status.
        status: a `Status`, as an integer array.
        residual: `max |tau dx/dt| / (1 + max |x|)`, recomputed on `state`.
        num_steps: steps of the search: time steps for a rollout, iterations for a root finder.
        distance: an estimate of how far the state is from rest, `max |x - x*|`: the velocity over the slowest decay
            rate. Near a continuous attractor it may be large although the residual is small; on one, it is the
            distance to the attractor. Infinite if nothing decays, so never for `converged`; NaN if no decay rate is
            known.
        period: of a limit cycle, in the network's unit of time; NaN if the sample does not oscillate, or has no period,
            as in chaos.
    """

    state: Float[ArrayLike, "*batch state"]
    status: Int[ArrayLike, "*batch"]
    residual: Float[ArrayLike, "*batch"]
    num_steps: Int[ArrayLike, "*batch"]
    distance: Float[ArrayLike, "*batch"]
    period: Float[ArrayLike, "*batch"]

    def _describe(self) -> tuple[str, dict[str, object]] | None:
        return _described(self) if is_shown(*vars(self).values()) else None


class SteadyStates(AbstractEnd):
    """The results of a batch: the fields of `SteadyState` with a leading axis, and how they were found.

    Attributes:
        state: the last states, whatever the status.
        status: a `Status` for each sample, as integers.
        residual: recomputed on `state`.
        num_steps: steps of the search of each sample, over all methods that worked on it.
        distance: an estimate of how far each state is from rest; as in `SteadyState`.
        period: of limit cycles.
        plan: how the batch was solved; pass it as `solver` for the next batch. None if a solver was given.
        finished_by: how many samples each method brought to rest.
    """

    state: Float[Array, "batch state"]
    status: Int[Array, " batch"]
    residual: Float[Array, " batch"]
    num_steps: Int[Array, " batch"]
    distance: Float[Array, " batch"]
    period: Float[Array, " batch"]
    plan: Plan | None
    finished_by: dict[str, int] = eqx.field(static=True)

    def _describe(self) -> tuple[str, dict[str, object]] | None:
        if not is_shown(self.state, self.status, self.residual, self.num_steps):
            return None
        found_by = ", ".join(f"{count} by {name}" for name, count in self.finished_by.items())
        more = {"found": found_by} if found_by else {}
        return _described(self, **more, **({} if self.plan is None else {"plan": self.plan.reason}))


def in_one_piece(rows: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"] | slice:
    """Indices as a slice if they are consecutive, so that NumPy indexes without a copy."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and np.all(np.diff(rows) == 1):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def rows_of(whole: SteadyState, rows: Int[np.ndarray, " row"] | Bool[np.ndarray, " batch"]) -> SteadyState:
    """The results of some rows; arrays on the host."""
    return jax.tree.map(lambda array: array[rows], whole)


def put_rows(whole: SteadyState, rows: Int[np.ndarray, " row"], part: SteadyState) -> None:
    """Write the results of some rows into a batch, adding their steps to those before; arrays on the host."""
    rows = in_one_piece(rows)
    num_steps = whole.num_steps[rows] + part.num_steps
    for name, values in vars(part).items():
        getattr(whole, name)[rows] = values
    whole.num_steps[rows] = num_steps


def on_device(whole: SteadyState, plan: Plan | None, finished_by: dict[str, int]) -> SteadyStates:
    """The results of a batch, from arrays on the host, and how they were found."""
    return SteadyStates(**jax.device_put(vars(whole)), plan=plan, finished_by=finished_by)


def _described(solved: SteadyState | SteadyStates, **more: object) -> tuple[str, dict[str, object]]:
    """A title, and the result in a few lines."""
    residual, num_steps, state = (np.asarray(array) for array in (solved.residual, solved.num_steps, solved.state))
    title = f"{type(solved).__name__} of {state.shape[-1]} units"
    if residual.ndim == 0:
        return title, {
            "verdict": solved.verdict,
            "residual": f"{residual:.2g}",
            "steps": int(num_steps),
            "distance from rest": f"{float(solved.distance):.2g}, estimated",
            "state": np.array2string(state, precision=4, threshold=8, edgeitems=3),
            **more,
        }
    counts = {name: count for name, count in count_statuses(solved.status).items() if count}
    if residual.size:
        counts["largest residual"] = f"{residual.max():.2g}"
        counts["steps"] = f"{np.median(num_steps):.0f} in the median, {num_steps.max()} at most"
    return f"{title}, {residual.size} stimuli", {**counts, **more}


def count_statuses(status: Int[ArrayLike, "*batch"]) -> dict[str, int]:
    """How many samples ended with each status, every status named."""
    shape_of("status", status)
    status = np.asarray(status)
    if not (np.issubdtype(status.dtype, np.integer) and np.isin(status, list(Status)).all()):
        received = f"others, of dtype {status.dtype}"
        raise fail("status", "holds no statuses", f"integers from 0 to {len(Status) - 1}", received)
    counts = np.bincount(status.ravel(), minlength=len(Status))
    return {outcome.name: int(counts[outcome]) for outcome in Status}
