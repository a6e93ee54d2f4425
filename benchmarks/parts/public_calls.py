"""Public functions, each with valid arguments, and with a check of its answers where there is one."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.sparse

import rnn2ff

_SIZE = 3
_CHECKED_RESIDUAL = 1e-3  # largest one of converged samples, recomputed in float64; the default tolerance is 1e-5


class Call(NamedTuple):
    """A public function, and valid arguments.

    Attributes:
        function: the callable, which takes its arguments by keyword.
        arguments: returns valid arguments, newly made for each call.
        check: takes a result and the arguments, and returns what is wrong; None if nothing is.
    """

    function: Callable
    arguments: Callable[[], dict[str, object]]
    check: Callable[[object, dict[str, object]], str | None] | None = None


# --- good arguments ---------------------------------------------------------------------------------------------------

_WEIGHTS = np.array([[0.2, -0.5, 0.1], [0.3, 0.1, -0.4], [0.0, 0.6, -0.2]], np.float32)
_STIMULI = np.array([[1.0, 0.5, -0.2], [0.3, 2.0, 0.7], [-1.0, 0.2, 0.4], [0.9, 0.1, 0.8]], np.float32)


def _network() -> rnn2ff.RecurrentNetwork:
    return rnn2ff.threshold_linear(_WEIGHTS)


def _two_layer() -> rnn2ff.TwoLayer:
    return rnn2ff.TwoLayer(_SIZE, 5, _SIZE, key=jr.key(0))


def _weights(**more: object) -> Callable[[], dict[str, object]]:
    return lambda: {"recurrent_weights": _WEIGHTS.copy(), "bias": np.zeros(_SIZE), "time_constants": 1.0, **more}


def _batch(**more: object) -> Callable[[], dict[str, object]]:
    return lambda: {"network": _network(), "stimuli": _STIMULI.copy(), **more}


def _one(**more: object) -> Callable[[], dict[str, object]]:
    return lambda: {"network": _network(), "stimulus": _STIMULI[0].copy(), **more}


def _rates(*names: str, **more: object) -> Callable[[], dict[str, object]]:
    return lambda: {**{name: np.abs(_STIMULI) + place for place, name in enumerate(names)}, **more}


# --- what is right ----------------------------------------------------------------------------------------------------


def _is_at_rest(found: object, given: dict[str, object]) -> str | None:
    """Check that converged states are at rest, in float64 and by the definition of the network."""
    network = given["network"]
    weights = np.asarray(network.params.recurrent_weights, float)
    states, stimuli = np.atleast_2d(np.asarray(found.state, float)), given.get("stimuli", given.get("stimulus"))
    stimuli = np.atleast_2d(np.asarray(stimuli, float))
    with np.errstate(over="ignore", invalid="ignore"):
        velocity = -states + np.maximum(states, 0) @ weights.T + stimuli
        residuals = np.abs(velocity).max(axis=1) / (1 + np.abs(states).max(axis=1))
    largest = max(_CHECKED_RESIDUAL, 10 * float(given.get("tolerance") or 0))
    is_wrong = (np.atleast_1d(np.asarray(found.status)) == 0) & ~(residuals < largest)
    return f"called converged with residuals {residuals[is_wrong]}" if is_wrong.any() else None


def _are_at_rest(found: object, given: dict[str, object]) -> str | None:
    states = np.asarray(found.states, float)
    velocity = -states + np.maximum(states, 0) @ _WEIGHTS.T.astype(float) + np.asarray(given["stimulus"], float)
    residuals = np.abs(velocity).max(axis=1) / (1 + np.abs(states).max(axis=1))
    return f"fixed points with residuals {residuals}" if (residuals > _CHECKED_RESIDUAL).any() else None


def _is_a_bound(found: object, given: dict[str, object]) -> str | None:
    """Check that bounds are at least the true errors; the only fixed point is found by sweeps in float64."""
    stimuli = np.atleast_2d(np.real(np.asarray(given.get("stimuli", given.get("stimulus")))).astype(float))
    predictions = np.atleast_2d(np.real(np.asarray(given.get("predictions", given.get("prediction")))).astype(float))
    states = np.zeros_like(stimuli)
    for _ in range(2000):
        states = 0.5 * states + 0.5 * (np.maximum(states, 0) @ _WEIGHTS.T.astype(float) + stimuli)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.linalg.norm(predictions - np.maximum(states, 0), axis=1)
        rounding = 1e-6 * (np.linalg.norm(stimuli, axis=1) + np.linalg.norm(predictions, axis=1))
        bound = found.error_bound if hasattr(found, "error_bound") else found[0]
        bounds = np.atleast_1d(np.asarray(bound, float))
        is_wrong = bounds < errors - rounding
    return f"bounds {bounds} of errors {errors}" if is_wrong.any() else None


def _is_finite(found: object, given: dict[str, object]) -> str | None:
    del given
    leaves = [
        leaf for leaf in jax.tree.leaves(found) if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return None if all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves) else "numbers that are not finite"


def _samples(make: Callable) -> Callable:
    """A function that makes a sampler, and draws from it."""
    return lambda **arguments: make(**arguments)(jr.key(0))


def _saved(**arguments: object) -> object:
    with tempfile.TemporaryDirectory() as folder:
        rnn2ff.save(Path(folder) / "model.safetensors", **arguments)
        return rnn2ff.load(Path(folder) / "model.safetensors")[0]


# --- the functions ----------------------------------------------------------------------------------------------------

CALLS: dict[str, Call] = {
    "threshold_linear": Call(rnn2ff.threshold_linear, _weights(), _is_finite),
    "threshold_linear_rate": Call(rnn2ff.threshold_linear_rate, _weights(), _is_finite),
    "rate_network": Call(rnn2ff.rate_network, _weights(form=rnn2ff.RateForm(jnp.tanh)), _is_finite),
    "ctln": Call(
        rnn2ff.ctln, lambda: {"graph": np.eye(3)[::-1] * [1, 0, 1], "epsilon": 0.25, "delta": 0.5}, _is_finite
    ),
    "hopfield": Call(rnn2ff.hopfield, lambda: {"patterns": np.sign(_STIMULI)}, _is_finite),
    "from_connectome": Call(
        rnn2ff.from_connectome,
        lambda: {"connectome": scipy.sparse.csr_array(np.abs(_WEIGHTS)), "signs": [1, -1, 1], "scale": 1.0},
        _is_finite,
    ),
    "from_torch": Call(
        rnn2ff.from_torch,
        lambda: {"weights": {"weight_hh_l0": _WEIGHTS, "weight_ih_l0": _WEIGHTS[:, :2]}, "layer": 0, "prefix": ""},
        _is_finite,
    ),
    "random_threshold_linear": Call(
        rnn2ff.random_threshold_linear, lambda: {"state_size": 3, "key": jr.key(0)}, _is_finite
    ),
    "partition_competition": Call(
        rnn2ff.partition_competition, lambda: {"num_partitions": 2, "units_per_partition": 2}, _is_finite
    ),
    "ring_attractor": Call(rnn2ff.ring_attractor, lambda: {"num_units": 8, "mean": -4.0, "tuned": 2.5}, _is_finite),
    "winner_take_all": Call(rnn2ff.winner_take_all, lambda: {"num_units": 3, "inhibition": 3.0}, _is_finite),
    "wong_wang": Call(rnn2ff.wong_wang, lambda: {"time_constant": 0.1, "saturation": 0.6}, _is_finite),
    "wilson_cowan": Call(rnn2ff.wilson_cowan, lambda: {"weights": np.eye(2), "gains": (1.2, 1.0)}, _is_finite),
    "ring_stimulus": Call(rnn2ff.ring_stimulus, lambda: {"angle": 0.3, "num_units": 8, "contrast": 1.0}),
    "solve_steady_states": Call(rnn2ff.solve_steady_states, _batch(initial_states=np.zeros((4, 3))), _is_at_rest),
    "solve_steady_states, settings": Call(
        rnn2ff.solve_steady_states, _batch(tolerance=1e-5, max_steps=500, solver=rnn2ff.Rollout()), _is_at_rest
    ),
    "solve_steady_state": Call(
        rnn2ff.solve_steady_state, _one(initial_state=np.zeros(3), max_steps=500, throw=False), _is_at_rest
    ),
    "plan_steady_states": Call(rnn2ff.plan_steady_states, _batch()),
    "simulate": Call(rnn2ff.simulate, _one(times=np.array([0.0, 1.0, 2.0]), initial_state=np.zeros(3))),
    "residual": Call(rnn2ff.residual, _one(state=np.zeros(3, np.float32))),
    "linearize": Call(rnn2ff.linearize, _one(state=np.ones(3, np.float32))),
    "find_fixed_points": Call(rnn2ff.find_fixed_points, _one(num_starts=16, key=jr.key(0)), _are_at_rest),
    "certify": Call(rnn2ff.certify, _one(prediction=np.ones(3, np.float32)), _is_a_bound),
    "certify_predictions": Call(rnn2ff.certify_predictions, _batch(predictions=np.ones((4, 3), "f4")), _is_a_bound),
    "bound_error": Call(rnn2ff.bound_error, _one(prediction=np.ones(3, np.float32)), _is_a_bound),
    "accuracy": Call(rnn2ff.accuracy, _rates("predicted", "target")),
    "competition": Call(rnn2ff.competition, _rates("predicted", "target", "drive", active_share=0.05)),
    "noise_rejection": Call(rnn2ff.noise_rejection, _rates("stimuli", "clean_stimuli", "rates", "clean_rates")),
    "uniform_stimuli": Call(_samples(rnn2ff.uniform_stimuli), lambda: {"size": 3, "low": 0.0, "high": 1.0}, _is_finite),
    "gaussian_stimuli": Call(
        _samples(rnn2ff.gaussian_stimuli), lambda: {"size": 3, "mean": np.zeros(3), "deviation": 1.0}, _is_finite
    ),
    "bump_stimuli": Call(
        _samples(rnn2ff.bump_stimuli), lambda: {"num_units": 8, "smallest": 0.0, "concentration": 3.0}, _is_finite
    ),
    "smooth_stimuli": Call(
        _samples(rnn2ff.smooth_stimuli), lambda: {"num_units": 8, "length": 2.0, "deviation": 1.0}, _is_finite
    ),
    "sample_from": Call(_samples(rnn2ff.sample_from), lambda: {"stimuli": _STIMULI.copy(), "jitter": 0.1}, _is_finite),
    "TwoLayer": Call(
        rnn2ff.TwoLayer, lambda: {"stimulus_size": 3, "width": 5, "rate_size": 3, "key": jr.key(0)}, _is_finite
    ),
    "damped_sweep": Call(rnn2ff.damped_sweep, lambda: {"network": _network(), "step": 0.5}, _is_finite),
    "split_sweep": Call(rnn2ff.split_sweep, lambda: {"network": _network(), "mean_slopes": np.full(3, 0.5, "f4")}),
    "best_sweep": Call(rnn2ff.best_sweep, _batch(states=np.abs(_STIMULI))),
    "initialize_two_layer": Call(rnn2ff.initialize_two_layer, _batch(states=_STIMULI.copy(), width=5, key=jr.key(0))),
    "train": Call(
        rnn2ff.train,
        lambda: {
            "approximator": _two_layer(),
            "stimuli": jnp.asarray(_STIMULI),
            "rates": jnp.abs(_STIMULI),
            "num_steps": 4,
            "batch_size": 2,
            "key": jr.key(0),
        },
    ),
    "distill": Call(
        rnn2ff.distill,
        _batch(num_steps=4, width=4, test_stimuli=_STIMULI + 0.1, max_steps=500, key=jr.key(0)),
    ),
    "save": Call(_saved, lambda: {"approximator": _two_layer(), "card": {"license": "MIT"}}),
    "model_card": Call(rnn2ff.model_card, _batch(license="MIT")),
    "to_c": Call(rnn2ff.to_c, lambda: {"model": _two_layer(), "name": "net", "test_stimuli": _STIMULI, "notes": ["a"]}),
    "quantize": Call(rnn2ff.quantize, lambda: {"approximator": _two_layer(), "stimuli": _STIMULI.copy()}),
    "count_statuses": Call(rnn2ff.count_statuses, lambda: {"status": np.array([0, 1, 0])}),
}
