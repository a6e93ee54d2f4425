"""The competitor that solves one sample at a time: SciPy."""

import numpy as np

from benchmarks.parts.contenders import TOLERANCE
from benchmarks.parts.peer_tuning import Solve
from benchmarks.parts.problems import NONLINEARITIES, Problem


def scipy(problem: Problem) -> Solve:
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
