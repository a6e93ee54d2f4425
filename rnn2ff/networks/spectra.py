"""Spectra of matrices, and the diagonal metrics in which a matrix is small; on the host, in float64.

For a matrix W and a positive diagonal metric D, with the norm `|x|_D^2 = sum_i d_i x_i^2`, the largest eigenvalue of
the symmetric part of `D^(1/2) W D^(-1/2)` is the smallest m with `x' D W x <= m |x|_D^2` for every x. Minimizing m over
metrics is a quasi-convex problem, `D W + W' D <= 2 m D`, so that descent finds the minimum, and a dual matrix bounds
the distance to it.
"""

import contextlib
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_MOST_UNITS_DESCENT = 512  # beyond, the balanced metric is used without a descent
_LARGEST_LOG_SCALE = 8.0  # bounds in a metric with a range beyond e^16 say little about single units
_SHARPNESS = (1e2, 1e3, 1e4, 1e5)  # of the smoothed largest eigenvalue, in units of one over the norm of W
_STEPS_PER_SHARPNESS = 200  # at most; a descent usually ends earlier, once it is within `_CLOSE` of its bound
_CLOSE = 1e-4  # distance to the dual bound, relative to the norm of W, at which the descent ends
_NEGLIGIBLE = 1e-3  # relative to the largest diagonal entry of the dual matrix
_MOST_ENTRIES = 2**22  # of the systems that are in memory at once: 32 MB
# Units; beyond, BLAS keeps its threads. Two threads took 8 times longer than one for the eigenvectors of 128 units, 40
# times for 300, 3 times for 512 and 8 times for 1000 on two cores with one other busy process (`numpy.linalg.eigh` in
# `threadpoolctl.threadpool_limits`); on idle cores two threads cannot gain more than a factor of two.
_LARGEST_ON_ONE_THREAD = 1024


@functools.cache
def _blas_controller():
    import scipy.linalg  # noqa: F401  (numpy and scipy may bring a BLAS each, and only what is loaded is found)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def blas_threads(size: int) -> contextlib.AbstractContextManager:
    """A context in which matrices of up to 1024 units are factorized with one BLAS thread, and larger ones as usual.

    The threads that BLAS starts for each of many small factorizations wait for each other in busy loops, for long if
    other processes use the cores. They also busy-wait for more work after the last one: a product of 128 units on the
    host made the next program take 44 ms instead of 26.
    """
    if size > _LARGEST_ON_ONE_THREAD:
        return contextlib.nullcontext()
    return _blas_controller().limit(limits=1, user_api="blas")


class BestMetric(NamedTuple):
    """The best diagonal metric found for a matrix W."""

    largest: float  # an upper bound of the largest eigenvalue of `sym(D^(1/2) W D^(-1/2))`, rounding included
    metric: Float[np.ndarray, " unit"]  # the diagonal of D, with geometric mean 1
    smallest: float  # a lower bound of the eigenvalue in every diagonal metric, up to rounding


def best_metric(matrix: Float[np.ndarray, "unit unit"], goal: float | None = None) -> BestMetric:
    """The diagonal metric that minimizes the largest eigenvalue of the symmetric part of a finite matrix W.

    Minimizes the smoothed largest eigenvalue, `log tr exp(b M) / b`, for increasing b, over the logarithms of the
    scales. The weights of the smoothing make a positive matrix X with `(W X)_ii >= m X_ii` for every i, which proves
    that no metric has a largest eigenvalue below m. Stops once the eigenvalue is below a `goal`, or provably cannot be.

    References:
        Boyd, El Ghaoui, Feron and Balakrishnan, Linear matrix inequalities in system and control theory, 1994.
    """
    matrix = np.asarray(matrix, np.float64)
    with blas_threads(len(matrix)):
        size, norm = len(matrix), float(np.linalg.norm(matrix, 2)) or 1.0
        logs = np.clip(np.log(balancing_scale(matrix)), -_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE)
        # The largest eigenvalue so far, its logs, and a lower bound: the eigenvalues of W do not depend on the metric,
        # and bound the symmetric part from below.
        best = [np.inf, logs, float(np.linalg.eigvals(matrix).real.max())]
        rounding = size * np.finfo(np.float64).eps * norm

        def smoothed(logs: np.ndarray, sharpness: float) -> tuple[float, np.ndarray]:
            scaled = _scaled(matrix, np.exp(logs))
            eigenvalues, vectors = np.linalg.eigh((scaled + scaled.T) / 2)
            largest = float(eigenvalues[-1])
            shares = np.exp(sharpness * (eigenvalues - largest))
            total = shares.sum()
            dual = (vectors * (shares / total)) @ vectors.T
            products = scaled * dual
            if largest < best[0]:
                best[:2] = largest, logs.copy()
            # Only the units that matter: a lower bound for a principal submatrix also holds for the whole.
            inside = np.diag(dual) > _NEGLIGIBLE * np.diag(dual).max()
            ratios = (products[np.ix_(inside, inside)].sum(axis=1) - rounding) / np.diag(dual)[inside]
            best[2] = max(best[2], float(ratios.min()))
            return largest + np.log(total) / sharpness, products.sum(axis=1) - products.sum(axis=0)

        def is_decided() -> bool:
            return goal is not None and (best[0] < goal or best[2] >= goal)

        def stop_if_decided(logs: np.ndarray) -> None:
            if is_decided():
                raise StopIteration

        if size > _MOST_UNITS_DESCENT:
            smoothed(logs, _SHARPNESS[0] / norm)
        else:
            from scipy.optimize import minimize

            for sharpness in _SHARPNESS:
                if is_decided():
                    break
                logs = minimize(
                    smoothed,
                    logs,
                    args=(sharpness / norm,),
                    jac=True,
                    method="L-BFGS-B",
                    callback=stop_if_decided,
                    bounds=[(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE)] * size,
                    options={"maxiter": _STEPS_PER_SHARPNESS, "ftol": 1e-15, "gtol": 1e-10},
                ).x
                if best[0] - best[2] < _CLOSE * norm:
                    break
        metric = np.exp(2 * (best[1] - best[1].mean()))
        return BestMetric(largest_in_metric(matrix, metric), metric, best[2])


def largest_in_metric(
    matrix: Float[np.ndarray, "unit unit"], metric: Float[np.ndarray, " unit"], *, in_norm: bool = False
) -> float:
    """An upper bound, rounding included, of the largest eigenvalue of `sym(D^(1/2) W D^(-1/2))`.

    If `in_norm`, of the spectral norm of `D^(1/2) W D^(-1/2)` itself, as maps need it.
    """
    scaled = _scaled(matrix, np.sqrt(metric))
    slack = 4 * (len(matrix) + 8) * np.finfo(np.float64).eps  # a safe bound of the rounding errors, relative
    with blas_threads(len(matrix)):
        if in_norm:
            return float(np.linalg.norm(scaled, 2) * (1 + slack))
        return float(np.linalg.eigvalsh((scaled + scaled.T) / 2)[-1] + slack * np.linalg.norm(scaled))


def perron_bound(matrix: Float[np.ndarray, "unit unit"]) -> tuple[float, Float[np.ndarray, " unit"]]:
    """An upper bound of the spectral radius of A >= 0, `max_i (A x)_i / x_i` for any x > 0 (Collatz), and its x.

    Power iteration makes it tight if A is irreducible. In the norm `max_i |y_i| / x_i`, A is at most this large,
    rounding included; the largest entry of x is 1.
    """
    vector, bound, best = np.ones(len(matrix)), np.inf, np.ones(len(matrix))
    for _ in range(200):
        image = matrix @ vector
        largest = float((image / vector).max())
        if largest < bound:
            bound, best = largest, vector
        vector = np.maximum(image / max(image.max(), np.finfo(float).tiny), 1e-12)
    return bound * (1 + (len(matrix) + 4) * np.finfo(np.float64).eps), best


def balancing_scale(matrix: Float[np.ndarray, "unit unit"]) -> Float[np.ndarray, " unit"]:
    """The scales s for which rows and columns of `|s_i W_ij / s_j|` have equal sums, to a percent."""
    scale = np.ones(len(matrix))
    off_diagonal = np.abs(matrix) * (1 - np.eye(len(matrix)))
    for _ in range(100):
        scaled = _scaled(off_diagonal, scale)
        ratio = (scaled.sum(axis=0) + 1e-12) / (scaled.sum(axis=1) + 1e-12)
        scale *= ratio**0.25
        if np.abs(ratio - 1).max() < 0.01:
            break
    return scale


def _scaled(matrix: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return matrix * scale[:, None] / scale[None, :]


def all_supports(size: int) -> Bool[np.ndarray, "supports {size}"]:
    """Every set of units, the empty one first."""
    return (np.arange(2**size)[:, None] >> np.arange(size)) % 2 == 1


def principal_blocks(
    matrix: Float[np.ndarray, "unit unit"], supports: Bool[np.ndarray, "supports unit"]
) -> Float[np.ndarray, "supports unit unit"]:
    """The principal submatrices on the supports, padded with the identity, which leaves determinants unchanged."""
    inside = supports[:, :, None] & supports[:, None, :]
    return np.where(inside, matrix, np.eye(len(matrix)))


def is_p_matrix(matrix: Float[np.ndarray, "unit unit"]) -> bool:
    """Whether every principal minor of a square matrix is positive, by computing all of them; for up to about 16 units.

    A minor within rounding of 0 counts as not positive.
    """
    matrix = np.asarray(matrix, np.float64)
    with blas_threads(len(matrix)):
        for supports in in_pieces(all_supports(len(matrix))):
            blocks = principal_blocks(matrix, supports)
            if (np.linalg.det(blocks) <= 0).any() or are_singular(blocks, len(matrix) ** 2 * np.finfo(float).eps).any():
                return False
    return True


def are_singular(matrices: Float[np.ndarray, "piece unit unit"], smallest: float) -> Bool[np.ndarray, " piece"]:
    """Whether singular values are below `smallest`, relative to the largest, whatever the scales of the rows.

    With rows of unit length the condition number is at most 2 over the determinant (Guggenheimer, Edelman and Johnson,
    College Mathematics Journal 26, 1995). This decides most cases; the rest need singular values, since determinants of
    many units are small.
    """
    lengths = np.linalg.norm(matrices, axis=2, keepdims=True)
    scaled = matrices / np.where(lengths > 0, lengths, 1)
    is_singular = np.abs(np.linalg.det(scaled)) <= 2 * smallest
    rows = np.flatnonzero(is_singular)
    if len(rows):
        values = np.linalg.svd(scaled[rows], compute_uv=False)
        is_singular[rows] = values[:, -1] <= smallest * values[:, 0]
    return is_singular


def in_pieces(supports: Bool[np.ndarray, "supports unit"]) -> list[Bool[np.ndarray, "piece unit"]]:
    """The supports in pieces whose systems fit into memory."""
    return np.array_split(supports, max(1, -(-supports.size * supports.shape[1] // _MOST_ENTRIES)))
