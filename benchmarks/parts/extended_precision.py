"""Fixed points in extended precision, with which `certificates` compares predictions."""

import jax
import numpy as np

from benchmarks.parts.problems import in_float64
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state import solve_steady_states

POLISHED = 1e-17  # relative, of the fixed points that predictions are compared with


def _parts(network: RecurrentNetwork) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Weights, stimulus weights and bias as they are stored, in extended precision."""
    params = network.params
    wide = [None if array is None else np.asarray(array).astype(np.longdouble) for array in
            (params.recurrent_weights, params.stimulus_weights, params.bias)]  # fmt: skip
    return tuple(wide)


def totals(network: RecurrentNetwork, stimuli: np.ndarray, rates: np.ndarray) -> np.ndarray:
    weights, stimulus_weights, bias = _parts(network)
    stimuli = stimuli.astype(np.longdouble)
    return rates @ weights.T + (stimuli if stimulus_weights is None else stimuli @ stimulus_weights.T) + bias


def values_and_slopes(network: RecurrentNetwork, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nonlinearity, positive = network.nonlinearity, np.maximum(totals, 0)
    if nonlinearity is jax.nn.relu:
        return positive, (totals > 0).astype(totals.dtype)
    gain = np.longdouble(nonlinearity.gain)  # which float32 rounds by less than certificates allow for
    return gain * positive**2, 2 * gain * positive


def polish(network: RecurrentNetwork, stimuli: np.ndarray, rates: np.ndarray, num_steps: int = 6) -> np.ndarray:
    """Newton's method in extended precision; NaN where it does not converge to a fixed point."""
    rates, weights = rates.astype(np.longdouble), np.asarray(network.params.recurrent_weights, np.float64)
    identity = np.eye(len(weights))
    for start in range(0, len(rates), 1024):
        rows = slice(start, start + 1024)
        for _ in range(num_steps):
            values, slopes = values_and_slopes(network, totals(network, stimuli[rows], rates[rows]))
            systems = identity - slopes.astype(float)[:, :, None] * weights
            with np.errstate(all="ignore"):
                steps = np.linalg.solve(systems, (rates[rows] - values).astype(float)[:, :, None])[:, :, 0]
            rates[rows] -= steps
    values, _ = values_and_slopes(network, totals(network, stimuli, rates))
    is_at_rest = np.abs(rates - values).max(axis=1) <= 100 * POLISHED * (1 + np.abs(rates).max(axis=1))
    return np.where(is_at_rest[:, None], rates, np.nan)


def fixed_points(network: RecurrentNetwork, stimuli: np.ndarray) -> np.ndarray:
    """The steady rates that the dynamics reach from zero; NaN where there are none."""
    with jax.enable_x64(True):
        wide = in_float64(network)
        solved = solve_steady_states(wide, np.asarray(stimuli, float))
        rates = np.asarray(jax.vmap(wide.unit_rates)(solved.state))
        is_converged = np.asarray(solved.is_converged)
    return np.where(is_converged[:, None], polish(network, stimuli, rates), np.nan)
