"""Simulate a network: its state on a grid of times, from an initial state, with a constant or changing stimulus."""

from __future__ import annotations

from collections.abc import Callable

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Scalar

from rnn2ff._checks import (
    check_array,
    check_at_least,
    check_finite,
    check_on_host,
    check_stimulus,
    check_tolerance,
    fail,
    is_known,
    shape_of,
)
from rnn2ff.compiling import compiled
from rnn2ff.networks import RecurrentNetwork, as_array
from rnn2ff.records import is_shown, readable
from rnn2ff.steady_state.tiles import check_not_in_shard, check_not_split


@readable
class Trajectory(eqx.Module):
    """A motion; under `vmap` each field has a leading axis.

    Attributes:
        times: in the network's unit of time.
        states: one row per time.
        rates: of these states.
        is_complete: whether the integration reached the last time; states beyond its end are NaN.
    """

    times: Float[Array, " time"]
    states: Float[Array, "time state"]
    rates: Float[Array, "time rate"]
    is_complete: Bool[Array, ""]

    def _describe(self) -> tuple[str, dict[str, object]] | None:
        if not is_shown(*vars(self).values()):
            return None
        size = self.states.shape[-1]
        if self.times.ndim > 1:
            return f"Trajectories of {size} units", {"complete": f"{self.is_complete.sum()} of {self.is_complete.size}"}
        last = np.array2string(np.asarray(self.states[-1]), precision=4, threshold=8, edgeitems=3)
        times = f"{len(self.times)}, from {self.times[0]:.4g} to {self.times[-1]:.4g}"
        lines = {"times": times, "complete": bool(self.is_complete), "last state": last}
        return f"Trajectory of {size} units", lines


def simulate(
    network: RecurrentNetwork,
    stimulus: Float[ArrayLike, " stimulus"] | Callable[[Scalar], Float[Array, " stimulus"]],
    times: Float[ArrayLike, " time"],
    *,
    initial_state: Float[ArrayLike, " state"] | None = None,
    ode_solver: dfx.AbstractSolver = dfx.Tsit5(),
    tolerance: float | None = None,
    max_steps: int = 16_384,
) -> Trajectory:
    """Follow the dynamics of a network, and keep its states at given times.

    Safe under `jit` and `vmap`, and differentiable in reverse mode (`grad`). A `discrete_map` is iterated: one step for
    each unit of time.

    Args:
        network: the network.
        stimulus: a constant one, or a pure function of time. Steps are then no longer than the longest between `times`;
            what comes and goes within a step may be missed.
        times: increasing, in the network's unit of time; the first is that of the initial state. For a map, whole
            numbers whose values are known.
        initial_state: the state at the first time, by default zero.
        ode_solver: any adaptive diffrax solver: `Tsit5()` for most networks, `Kvaerno5()` for stiff ones.
        tolerance: the largest local error of a step, relative to `1 + |x|`; by default 1e-5 in float32, 1e-9 in
            float64.
        max_steps: bound on the steps of the integrator.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, times do not increase, or those of a map are not whole
            or not known.

    Example:
        A stimulus that is switched on at time 1, and a figure:

            moved = simulate(network, lambda time: jnp.where(time > 1, stimulus, 0), jnp.linspace(0, 10, 200))
            figure, (axes,) = rnn2ff.plotting.new_figure()
            rnn2ff.plotting.plot_trajectory(axes, moved.times, moved.rates)
    """
    instead = "`jit` of arrays on a mesh with automatic axes, or `check_vma=False`"
    inputs = (times, initial_state) if callable(stimulus) else (times, initial_state, stimulus)
    check_not_in_shard("simulate", instead, network, *inputs)
    check_not_split("simulate", "a mesh with `axis_types=(AxisType.Auto,)`", *inputs)
    tolerance = check_tolerance(tolerance, network.dtype)
    max_steps = check_at_least("max_steps", max_steps, 1)
    shape = shape_of("times", times)
    if len(shape) != 1 or shape[0] < 2:
        raise fail("times", "are not a grid", "a vector of at least 2 times", f"shape {shape}")
    check_finite("times", times)
    dtype = np.float64 if network.is_map else network.dtype
    if is_known(times) and not (np.diff(np.asarray(times, dtype)) > 0).all():
        expected = f"each time after the one before, in {np.dtype(dtype).name}"
        raise fail("times", "do not increase", expected, "an order that does not")
    if initial_state is None:
        initial_state = np.zeros(network.state_size, network.dtype)
    check_array("initial_state", initial_state, (network.state_size,))
    initial_state = as_array(initial_state, network.dtype)
    if callable(stimulus):
        _check_function(stimulus, network)
    else:
        check_stimulus(stimulus, network.stimulus_size)
        stimulus = as_array(stimulus, network.dtype)
    if network.is_map:
        return _iterate(network, stimulus, initial_state, as_array(times, network.dtype), _whole(times))
    times = as_array(times, network.dtype)
    limit = np.asarray(tolerance, network.dtype)  # an array, so that another value needs no compilation
    return _integrate(network, stimulus, initial_state, times, ode_solver, limit, max_steps)


def _check_function(stimulus: Callable, network: RecurrentNetwork) -> None:
    returned = jax.eval_shape(stimulus, jax.ShapeDtypeStruct((), network.dtype))
    if getattr(returned, "shape", None) != (network.stimulus_size,) or returned.dtype != network.dtype:
        expected = f"shape ({network.stimulus_size},) and dtype {network.dtype.name} at each time"
        raise fail("stimulus", "does not return a stimulus", expected, f"{returned}")


def _whole(times: ArrayLike) -> tuple[int, ...]:
    """Numbers of steps of a map since the first time."""
    check_on_host("simulate for a map", "pass times that are not an argument of the program", times)
    steps = np.asarray(times, np.float64) - float(np.asarray(times)[0])
    if (steps != np.rint(steps)).any():
        raise fail("times", "are not those of a map", "integer numbers of steps", np.asarray(times).tolist())
    return tuple(int(step) for step in steps)


def _at(stimulus, time: Scalar) -> Float[Array, " stimulus"]:
    return stimulus(time) if callable(stimulus) else stimulus


@compiled
def _integrate(network, stimulus, initial_state, times, ode_solver, tolerance, max_steps) -> Trajectory:
    longest = jnp.max(jnp.diff(times)) if callable(stimulus) else None
    solution = dfx.diffeqsolve(
        dfx.ODETerm(lambda time, state, args: network.velocity(state, _at(stimulus, time))),
        ode_solver,
        t0=times[0],
        t1=times[-1],
        dt0=None,
        y0=initial_state,
        saveat=dfx.SaveAt(ts=times),
        # The coefficients are diffrax's advice for fields that are not smooth.
        stepsize_controller=dfx.PIDController(rtol=tolerance, atol=tolerance, pcoeff=0.3, icoeff=0.4, dtmax=longest),
        max_steps=max_steps,
        throw=False,
    )
    is_complete = solution.result == dfx.RESULTS.successful
    # States that were not reached are infinite, and would spoil derivatives of those that were.
    is_saved = jnp.all(jnp.isfinite(solution.ys), axis=1, keepdims=True)
    states = jnp.where(is_saved, solution.ys, jnp.nan)
    return Trajectory(times, states, jax.vmap(network.rates)(states), is_complete & jnp.all(is_saved))


@compiled
def _iterate(network, stimulus, initial_state, times, steps: tuple[int, ...]) -> Trajectory:
    def step(state, index):
        time = times[0] + index.astype(times.dtype)
        following = state + network.velocity(state, _at(stimulus, time))
        return following, following

    _, later = jax.lax.scan(step, initial_state, jnp.arange(steps[-1], dtype=jnp.int32))
    states = jnp.concatenate([initial_state[None], later])[np.array(steps)]
    return Trajectory(times, states, jax.vmap(network.rates)(states), jnp.all(jnp.isfinite(states)))
