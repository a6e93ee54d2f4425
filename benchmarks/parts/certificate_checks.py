"""Draw predictions of all kinds, certify them, and count what their certificates claim wrongly."""

import equinox as eqx
import jax
import numpy as np

from benchmarks.parts.extended_precision import POLISHED, polish, totals, values_and_slopes
from rnn2ff.certificates import Certifier, certify_predictions
from rnn2ff.certificates import bounds as certificates
from rnn2ff.networks import RecurrentNetwork

KINDS = ("pass", "near", "adversarial", "random", "huge", "not finite")
_ROUNDING = 1e4  # units of the precision; an exact answer is no further from a fixed point


def worst_directions(network: RecurrentNetwork, stimuli: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """For each fixed point, the direction in which an error changes the residual the least."""
    _, slopes = values_and_slopes(network, totals(network, stimuli, truths))
    weights = np.asarray(network.params.recurrent_weights, np.float64)
    systems = np.eye(len(weights)) - slopes.astype(float)[:, :, None] * weights
    return np.linalg.svd(systems)[2][:, -1]


def draw(generator, truths: np.ndarray, predicted: list[np.ndarray], worst: np.ndarray) -> np.ndarray:
    """For each stimulus a prediction of a random kind."""
    size, num_units = truths.shape
    lengths = np.linalg.norm(truths.astype(float), axis=1, keepdims=True) + 1e-3
    noise = generator.standard_normal((size, num_units))
    amounts = lengths * 10 ** generator.uniform(-9, 1, size=(size, 1))
    with_nan = np.where(generator.uniform(size=noise.shape) < 0.1, generator.choice([np.nan, np.inf, -np.inf]), noise)
    with_nan[:, 0] = np.nan
    candidates = {
        "pass": predicted[generator.integers(len(predicted))].astype(np.float64),
        "near": truths + amounts * noise / num_units**0.5,
        "adversarial": truths + amounts * worst * generator.choice([-1, 1], size=(size, 1)),
        "random": lengths * np.abs(noise),
        "huge": noise * 10 ** generator.uniform(3, 30, size=(size, 1)),
        "not finite": with_nan,
    }
    shares = np.array([0.1, 0.35, 0.35, 0.1, 0.05, 0.05])
    chosen = generator.choice(len(KINDS), size=size, p=shares)
    stacked = np.stack([candidates[kind].astype(np.longdouble) for kind in KINDS])
    return stacked[chosen, np.arange(size)]


def certify(network, stimuli, predictions, certifier: Certifier, *, is_whole: bool) -> dict[str, np.ndarray]:
    """The whole certificate, or only the bound that holds everywhere."""
    if is_whole:
        certificate = certify_predictions(network, stimuli, predictions, certifier)
        names = ("error_bound", "refined_error_bound", "refined", "is_exact", "is_refined_exact")
        return {name: getattr(certificate, name) for name in names}
    bounds, _ = bound_all(network, stimuli, predictions, certifier)
    return {"error_bound": np.asarray(bounds)}


@eqx.filter_jit
def bound_all(network, stimuli, predictions, certifier):
    return jax.vmap(lambda u, r: certificates.bound_error(network, u, r, certifier))(stimuli, predictions)


def count(counts, network, stimuli, truths, drawn, found, has_one_fixed_point: bool) -> None:
    is_finite = np.isfinite(drawn).all(axis=1)
    bounds = found["error_bound"].astype(np.longdouble)
    is_certified = np.isfinite(bounds)
    counts["predictions"] += len(drawn)
    counts["certified"] += int(is_certified.sum())
    counts["violations"] += int((is_certified & ~is_finite).sum())  # NaN is never certified
    scales = 1 + np.linalg.norm(truths, axis=1)
    precision = np.finfo(drawn.dtype).eps

    def is_beyond(points, limits, rows):
        apart = np.linalg.norm(points[rows].astype(np.longdouble) - truths[rows], axis=1)
        beyond = rows[apart > limits[rows] + 1e3 * POLISHED * scales[rows]]
        if has_one_fixed_point or not len(beyond):
            return beyond
        # The bound may refer to another fixed point: the one that Newton's method converges to.
        others = polish(network, stimuli[beyond], found["refined"][beyond])
        apart = np.linalg.norm(points[beyond].astype(np.longdouble) - others, axis=1)
        return beyond[~(apart <= limits[beyond] + 1e3 * POLISHED * (1 + np.linalg.norm(others, axis=1)))]

    counts["violations"] += len(is_beyond(drawn, bounds, np.flatnonzero(is_certified & is_finite)))
    counts["bounded_everywhere"] += len(drawn) if has_one_fixed_point else 0
    if "refined" not in found:
        return
    limits = found["refined_error_bound"].astype(np.longdouble)
    counts["violations"] += len(is_beyond(found["refined"], limits, np.flatnonzero(np.isfinite(limits))))
    for name, points in [("is_exact", drawn), ("is_refined_exact", found["refined"])]:
        rows = np.flatnonzero(found[name])
        counts["exact"] += len(rows)
        counts["wrongly_exact"] += int((~is_finite[rows]).sum())
        limits = _ROUNDING * precision * scales
        if name == "is_refined_exact":  # a Newton step from far away rounds more
            limits = np.maximum(limits, 1e3 * precision * np.linalg.norm(drawn.astype(np.longdouble), axis=1))
        counts["wrongly_exact"] += len(is_beyond(points, limits, rows[is_finite[rows]]))
