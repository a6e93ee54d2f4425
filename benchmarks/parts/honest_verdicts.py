"""What is wrong with the answers of `honest_failures`, compared with the truth: counts, and a list of violations."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.honest_answers import ENGINE
from benchmarks.parts.honest_cases import Case
from benchmarks.parts.honest_truth import GROWTH, Truth
from benchmarks.parts.problems import distances, in_float64
from rnn2ff.steady_state import Status, SteadyState

_SAME_STATE = 1e-2  # relative, as in `steady_states`
_SAME_PERIOD = 0.02
_ROUNDING = 64  # times the dtype's epsilon: a smaller velocity, relative to the states, may be due to rounding alone
FALSE, SADDLE, MISSED, BASIN, UNCALLED = (
    "called converged, never rests",
    "called converged, unstable point",
    "steady, not found",
    "converged elsewhere",
    "oscillates, not called so",
)
AT_REST = ("steady", "late", "tie", "unstable")  # kinds of truth


def judge(family: str, dtype: str, solved: list[tuple[int, Case, Truth, SteadyState]]) -> dict:
    """Counts over the networks of a family, and its wrong answers."""
    confusion: dict[str, dict[str, int]] = {}
    violations = []
    num_periodic = num_right_period = num_rounded = 0
    follows_motion = ENGINE not in dtype
    resolution = _ROUNDING * float(np.finfo(dtype.split()[0]).eps)
    for seed, case, truth, answer in solved:
        error = distances(answer.state, truth.state)
        names = [Status(int(status)).name for status in answer.status]
        period, distance = (getattr(answer, name, None) for name in ("period", "distance"))
        is_tie = case.margins < resolution
        kinds = np.where(is_tie & np.isin(truth.kind, ("steady", "late")), "tie", truth.kind)
        for i, (kind, name) in enumerate(zip(map(str, kinds), names)):
            counts = confusion.setdefault(kind, {})
            counts[name] = counts.get(name, 0) + 1
            received = np.nan if period is None else float(period[i])
            has_right_period = abs(received - truth.period[i]) <= _SAME_PERIOD * truth.period[i]
            if follows_motion and kind == "oscillating" and np.isfinite(truth.period[i]):
                num_periodic += 1
                num_right_period += bool(has_right_period)
            leading = truth.leading[i]
            is_elsewhere = name == "converged" and kind in AT_REST and error[i] > _SAME_STATE
            if is_elsewhere:
                leading = _leading(case, answer.state[i], i)
            what = _violation(kind, name, leading=leading, is_elsewhere=is_elsewhere, is_tie=is_tie[i])
            num_rounded += is_elsewhere and is_tie[i] and what is None
            if what == UNCALLED and not follows_motion:
                what = None
            if what is None and np.isfinite(received) and np.isfinite(truth.period[i]) and not has_right_period:
                what = "another period"
            if what is not None:
                violations.append(
                    {
                        "what": what,
                        "family": family,
                        "seed": seed,
                        "num_stimuli": len(truth.kind),
                        "sample": i,
                        "dtype": dtype,
                        "truth": kind,
                        "status": name,
                        "error": error[i],
                        "residual": float(answer.residual[i]),
                        "distance": None if distance is None else float(distance[i]),
                        "leading": leading,  # at the answer if it lies elsewhere, else at the truth
                        "period": [received, truth.period[i]],
                    }
                )
    return {
        "family": family,
        "dtype": dtype,
        "num_samples": sum(len(truth.kind) for _, _, truth, _ in solved),
        "confusion": confusion,
        "num_periodic": num_periodic,
        "num_right_period": num_right_period,
        "num_rounded": num_rounded,
        "violations": violations,
    }


def _violation(truth: str, status: str, *, leading: float, is_elsewhere: bool, is_tie: bool) -> str | None:
    """What is wrong with an answer, if anything.

    Args:
        truth: its kind; "tie" in place of "steady" and "late" where rounding decides between two steady states.
        status: of the answer.
        leading: eigenvalue at the answer if it is elsewhere, else at the truth.
        is_elsewhere: whether the answer is converged, but to another state than the truth.
        is_tie: whether rounding decides between the steady states, or would if the tie were not exact.
    """
    if status == "converged" and truth in AT_REST:
        if leading > GROWTH:
            return SADDLE
        if truth == "unstable":
            return None if is_tie else FALSE
        return BASIN if is_elsewhere and not is_tie else None
    if status == "converged" and truth in ("oscillating", "diverging"):
        return FALSE
    if truth == "steady":
        return MISSED
    if truth == "oscillating" and status != "oscillating":
        return UNCALLED
    return None


def _leading(case: Case, state: np.ndarray, row: int) -> float:
    """The leading eigenvalue at an answer, in float64."""
    with jax.enable_x64(True):
        network = in_float64(case.network)
        state, stimulus = jnp.asarray(state, float), jnp.asarray(case.stimuli[row], float)
        jacobian = np.asarray(jax.jacfwd(network.velocity)(state, stimulus))
        return float(np.linalg.eigvals(jacobian).real.max() * np.max(network.time_constants))
