"""Are certificates ever wrong, how tight are they, and what does an answer with a guarantee cost?

For each network of `benchmarks/parts/targets.py`: a million predictions, good and absurd, against fixed points in
extended precision; the bounds of trained approximators over their true errors; and the time of an answer within a
tolerance beside that of the fastest solver, which gives no bound.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.parts.marks import marks_table
from benchmarks.parts.problems import in_float64
from benchmarks.parts.targets import Target, make_target
from experiments._script import run_script, table
from rnn2ff.approximators import Approximator, Refined
from rnn2ff.certificates import (
    Certifier,
    Source,
    certify_predictions,
    make_certifier,
    predict_all_units,
    predict_or_solve,
)
from rnn2ff.certificates import bounds as certificates
from rnn2ff.data import key_for, sample_stimuli, solve_pairs
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.records import time_interleaved
from rnn2ff.steady_state import plan_steady_states, solve_steady_states
from rnn2ff.training import Trainer, accuracy, further_pairs

KINDS = ("pass", "near", "adversarial", "random", "huge", "not finite")
_FACTORED = 20_000  # predictions whose certificate needs the inverse of a full matrix; the others are cheap
_MOST_DRAWN = 4  # times as many predictions as are to be certified; for some networks few have a bound
_ROUNDING = 1e4  # units of the precision; an exact answer is no further from a fixed point
_MANY = 1_000_000  # certified predictions without a violation, in each precision
_LOOSEST = {"random05": 3, "soft": 10}  # median of a bound over the true error
_SERVED_WITHIN, _FAST, _LEAST_RATIO, _LEAST_RATIO_ELSEWHERE = 1e-2, ("random05", "ring", "ssn"), 3, 0.9
_POLISHED = 1e-17  # relative, of the fixed points that predictions are compared with


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the weights, the stimuli, the trainings and the predictions."""
    targets: tuple[str, ...] = ("random05", "random09", "soft", "hard", "ring", "ssn")
    """Names of the networks."""
    num_samples: int = 20_000
    """Stimuli to train on."""
    num_steps: int = 3_000
    """Optimizer steps of each training."""
    width: float = 4.0
    """Hidden units of the two layers alone, in multiples of the units."""
    refined_width: float = 0.5
    """Hidden units of the two layers before sweeps."""
    num_sweeps: int = 4
    """Sweeps after them, trained together with them."""
    batch_size: int = 4096
    """Stimuli answered in one call; bounds are compared on the same stimuli."""
    num_certified: int = 250_000
    """Predictions with a bound to collect for each network whose certificates are cheap, in each precision."""
    tolerances: tuple[float, ...] = (1e-2, 1e-4)
    """Tolerances of an answer, `|r - r*|` over the deviation of the steady rates, which are the units of an NRMSE."""
    num_rounds: int = 9
    """Turns of everything that is timed."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            targets=("soft",),
            num_samples=600,
            num_steps=20,
            width=1.0,
            num_sweeps=1,
            batch_size=64,
            num_certified=256,
            tolerances=(1e-2,),
            num_rounds=3,
        )


def run(config: Config) -> Iterator[dict]:
    """Rows of each network: its certificates in each precision, its approximators, and its answers."""
    for name in config.targets:
        target = make_target(name, config.seed)
        key = jr.key(config.seed)
        stimuli = np.asarray(
            sample_stimuli(target.sample_stimulus, config.batch_size, key=key_for(key, "test stimuli"))
        )
        approximators = _train(target, key, config)
        truths = _fixed_points(target.network, stimuli)
        is_known = np.isfinite(truths).all(axis=1)
        stimuli, truths = stimuli[is_known], truths[is_known]
        yield {"what": "stimuli", "target": name, "used": len(stimuli), "left_out": int((~is_known).sum())}
        predictions = {
            kind: predict_all_units(target.network, approximator, stimuli)
            for kind, approximator in approximators.items()
        }
        for precision in ("float32", "float64"):
            yield _verify(target, stimuli, truths, predictions, precision, config)
        for kind in approximators:
            yield _describe_bounds(target, kind, approximators[kind], predictions[kind], stimuli, truths)
        yield from _serve(target, approximators, stimuli, truths, config)
        jax.clear_caches()


def _train(target: Target, key: jax.Array, config: Config) -> dict[str, Approximator]:
    """Two layers alone, and fewer hidden units before sweeps."""
    num_samples = min(config.num_samples, target.num_samples)
    stimuli = sample_stimuli(target.sample_stimulus, num_samples, key=key_for(key, "training stimuli"))
    pairs = solve_pairs(target.network, stimuli)
    further = further_pairs(target.network, target.sample_stimulus)
    trainer = Trainer(target.network, pairs, num_steps=config.num_steps, further=further, key=key)
    widths = [max(4, round(multiple * target.unit_width)) for multiple in (config.width, config.refined_width)]
    return {
        "two layers": trainer.two_layer(widths[0]).approximator,
        "refined": trainer.refined(widths[1], config.num_sweeps).approximator,
    }


# --- fixed points in extended precision -------------------------------------------------------------------------------


def _parts(network: RecurrentNetwork) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Weights, stimulus weights and bias as they are stored, in extended precision."""
    params = network.params
    wide = [None if array is None else np.asarray(array).astype(np.longdouble) for array in
            (params.recurrent_weights, params.stimulus_weights, params.bias)]  # fmt: skip
    return tuple(wide)


def _totals(network: RecurrentNetwork, stimuli: np.ndarray, rates: np.ndarray) -> np.ndarray:
    weights, stimulus_weights, bias = _parts(network)
    stimuli = stimuli.astype(np.longdouble)
    return rates @ weights.T + (stimuli if stimulus_weights is None else stimuli @ stimulus_weights.T) + bias


def _values_and_slopes(network: RecurrentNetwork, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nonlinearity, positive = network.nonlinearity, np.maximum(totals, 0)
    if nonlinearity is jax.nn.relu:
        return positive, (totals > 0).astype(totals.dtype)
    gain = np.longdouble(nonlinearity.gain)  # which float32 rounds by less than certificates allow for
    return gain * positive**2, 2 * gain * positive


def _polish(network: RecurrentNetwork, stimuli: np.ndarray, rates: np.ndarray, num_steps: int = 6) -> np.ndarray:
    """Newton's method in extended precision; NaN where it does not converge to a fixed point."""
    rates, weights = rates.astype(np.longdouble), np.asarray(network.params.recurrent_weights, np.float64)
    identity = np.eye(len(weights))
    for start in range(0, len(rates), 1024):
        rows = slice(start, start + 1024)
        for _ in range(num_steps):
            values, slopes = _values_and_slopes(network, _totals(network, stimuli[rows], rates[rows]))
            systems = identity - slopes.astype(float)[:, :, None] * weights
            with np.errstate(all="ignore"):
                steps = np.linalg.solve(systems, (rates[rows] - values).astype(float)[:, :, None])[:, :, 0]
            rates[rows] -= steps
    values, _ = _values_and_slopes(network, _totals(network, stimuli, rates))
    is_at_rest = np.abs(rates - values).max(axis=1) <= 100 * _POLISHED * (1 + np.abs(rates).max(axis=1))
    return np.where(is_at_rest[:, None], rates, np.nan)


def _fixed_points(network: RecurrentNetwork, stimuli: np.ndarray) -> np.ndarray:
    """The steady rates that the dynamics reach from zero; NaN where there are none."""
    with jax.enable_x64(True):
        wide = in_float64(network)
        solved = solve_steady_states(wide, np.asarray(stimuli, float))
        rates = np.asarray(jax.vmap(wide.unit_rates)(solved.state))
        is_converged = np.asarray(solved.is_converged)
    return np.where(is_converged[:, None], _polish(network, stimuli, rates), np.nan)


# --- is a certificate ever wrong? -------------------------------------------------------------------------------------


def _verify(target, stimuli, truths, predictions, precision, config: Config) -> dict:
    """Certify predictions of all kinds, and count violated bounds and wrong claims of exactness."""
    started = time.perf_counter()
    generator = np.random.default_rng([config.seed, int(precision[-2:])])
    worst = _worst_directions(target.network, stimuli, truths)
    counts = dict.fromkeys(
        ("predictions", "certified", "violations", "bounded_everywhere", "exact", "wrongly_exact"), 0
    )
    with jax.enable_x64(precision == "float64"):
        network = in_float64(target.network) if precision == "float64" else target.network
        certifier = make_certifier(network)
        typed = np.asarray(stimuli, network.dtype)
        is_cheap = bool(certifier.has_global_bound) or certifier.factors is not None
        most = _MOST_DRAWN * config.num_certified if is_cheap else min(_FACTORED, config.num_certified)
        while counts["predictions"] < most and counts["certified"] < config.num_certified:
            drawn = _draw(generator, truths, list(predictions.values()), worst).astype(network.dtype)
            is_whole = certifier.factors is not None or counts["predictions"] < _FACTORED
            certificate = _certify(network, typed, drawn, certifier, is_whole=is_whole)
            _count(counts, target.network, stimuli, truths, drawn, certificate, bool(certifier.has_global_bound))
    return {
        "what": "verified",
        "target": target.name,
        "precision": precision,
        "seconds": time.perf_counter() - started,
        **counts,
    }


def _worst_directions(network: RecurrentNetwork, stimuli: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """For each fixed point, the direction in which an error changes the residual the least."""
    _, slopes = _values_and_slopes(network, _totals(network, stimuli, truths))
    weights = np.asarray(network.params.recurrent_weights, np.float64)
    systems = np.eye(len(weights)) - slopes.astype(float)[:, :, None] * weights
    return np.linalg.svd(systems)[2][:, -1]


def _draw(generator, truths: np.ndarray, predicted: list[np.ndarray], worst: np.ndarray) -> np.ndarray:
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


def _certify(network, stimuli, predictions, certifier: Certifier, *, is_whole: bool) -> dict[str, np.ndarray]:
    """The whole certificate, or only the bound that holds everywhere."""
    if is_whole:
        certificate = certify_predictions(network, stimuli, predictions, certifier)
        names = ("error_bound", "refined_error_bound", "refined", "is_exact", "is_refined_exact")
        return {name: getattr(certificate, name) for name in names}
    bounds, _ = _bound_all(network, stimuli, predictions, certifier)
    return {"error_bound": np.asarray(bounds)}


@eqx.filter_jit
def _bound_all(network, stimuli, predictions, certifier):
    return jax.vmap(lambda u, r: certificates.bound_error(network, u, r, certifier))(stimuli, predictions)


def _count(counts, network, stimuli, truths, drawn, found, has_one_fixed_point: bool) -> None:
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
        beyond = rows[apart > limits[rows] + 1e3 * _POLISHED * scales[rows]]
        if has_one_fixed_point or not len(beyond):
            return beyond
        # The bound may refer to another fixed point: the one that Newton's method converges to.
        others = _polish(network, stimuli[beyond], found["refined"][beyond])
        apart = np.linalg.norm(points[beyond].astype(np.longdouble) - others, axis=1)
        return beyond[~(apart <= limits[beyond] + 1e3 * _POLISHED * (1 + np.linalg.norm(others, axis=1)))]

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


# --- how tight are they? ----------------------------------------------------------------------------------------------


def _describe_bounds(target, kind, approximator, predictions, stimuli, truths) -> dict:
    """Ratios of bounds to true errors, for the predictions of a trained approximator."""
    network, certifier = target.network, make_certifier(target.network)
    certificate = certify_predictions(network, stimuli, predictions, certifier)
    everywhere = np.asarray(_bound_all(network, stimuli, predictions, certifier)[0], float)
    errors = np.linalg.norm(predictions.astype(np.longdouble) - truths, axis=1).astype(float)
    is_near = np.asarray(certificate.error_bound) < np.inf

    def ratios(bounds, rows):
        rows = rows & (errors > 0)
        if not rows.any():
            return None
        return [float(np.quantile(bounds[rows] / errors[rows], q)) for q in (0.5, 0.95)]

    return {
        "what": "bounds",
        "target": target.name,
        "approximator": kind,
        "width": approximator.width,
        "num_sweeps": approximator.num_sweeps if isinstance(approximator, Refined) else 0,
        "nrmse": accuracy(predictions, truths.astype(float)).nrmse,
        "everywhere_over_error": ratios(everywhere, np.isfinite(everywhere)),
        "bound_over_error": ratios(np.asarray(certificate.error_bound, float), is_near),
        "estimate_over_error": ratios(np.asarray(certificate.error_estimate, float), np.ones(len(errors), bool)),
        "share_bounded": float(is_near.mean()),
        "share_exact": float(np.mean(certificate.is_exact)),
        "share_exact_after_step": float(np.mean(certificate.is_refined_exact)),
    }


# --- what does it cost? -----------------------------------------------------------------------------------------------


def _serve(target: Target, approximators, stimuli, truths, config: Config) -> Iterator[dict]:
    """Answers within a tolerance, in turns with the solver."""
    network, certifier = target.network, make_certifier(target.network)
    others = sample_stimuli(target.sample_stimulus, 512, key=key_for(jr.key(config.seed), "stimuli of the plan"))
    plan = plan_steady_states(network, others)
    deviation = float(np.sqrt(truths.astype(float).var(axis=0).sum()))

    def serve(approximator, tolerance, num_steps=8):
        return predict_or_solve(
            network,
            approximator,
            stimuli,
            tolerance=tolerance * deviation,
            certifier=certifier,
            plan=plan,
            num_steps=num_steps,
        )

    cases = [(kind, tolerance) for kind in approximators for tolerance in config.tolerances]
    calls = {"solver": lambda: solve_steady_states(network, stimuli, solver=plan).state}
    for kind, tolerance in cases:
        calls[f"{kind}, {tolerance:g}"] = lambda kind=kind, tolerance=tolerance: (
            serve(approximators[kind], tolerance).rates
        )
    for kind, approximator in approximators.items():
        calls[f"{kind}, pass"] = lambda model=approximator: predict_all_units(network, model, stimuli)
        # With a tolerance that all predictions meet: a pass and its certificate, where the network has a cheap one.
        calls[f"{kind}, certified pass"] = lambda model=approximator: serve(model, 1e6).rates
    seconds = time_interleaved(calls, num_rounds=config.num_rounds)
    microseconds = {name: 1e6 * timing.median / len(stimuli) for name, timing in seconds.items()}
    cold = solve_steady_states(network, stimuli, solver=plan)
    for kind, tolerance in cases:
        served = serve(approximators[kind], tolerance)
        errors = np.linalg.norm(np.asarray(served.rates).astype(np.longdouble) - truths, axis=1).astype(float)
        bounds, sources = np.asarray(served.error_bounds, float), np.asarray(served.sources)
        is_unflagged = ~np.asarray(served.is_possibly_another_basin)
        mix = seconds[f"{kind}, {tolerance:g}"]
        yield {
            "what": "served",
            "target": target.name,
            "approximator": kind,
            "tolerance": tolerance,
            "deviation": deviation,
            "shares": {source.name: float((sources == source).mean()) for source in Source},
            "share_proved_within": float((bounds <= tolerance * deviation).mean()),
            "share_truly_within": float((errors <= tolerance * deviation).mean()),
            "share_flagged": float(1 - is_unflagged.mean()),
            "flagged_elsewhere": float((errors > np.maximum(bounds, 1e-3 * deviation))[~is_unflagged].mean())
            if not is_unflagged.all()
            else None,
            "microseconds": [1e6 * quartile / len(stimuli) for quartile in mix],
            "pass_microseconds": microseconds[f"{kind}, pass"],
            "certified_pass_microseconds": microseconds[f"{kind}, certified pass"],
            "solver_microseconds": [1e6 * quartile / len(stimuli) for quartile in seconds["solver"]],
            "ratio_to_solver": seconds["solver"].median / mix.median,
            **_warm_start(network, approximators[kind], stimuli, plan, cold),
            "plan": plan.reason,
        }


def _warm_start(network, approximator, stimuli, plan, cold) -> dict:
    """Steps of the solver from its own start and from predictions, where the start cannot change the steady state."""
    if not plan.has_one_fixed_point:
        return {"cold_steps": float(np.mean(cold.num_steps)), "warm_steps": None}
    rates = predict_all_units(network, approximator, stimuli)
    states = np.asarray(jax.vmap(network.params.total_input)(jnp.asarray(rates), jnp.asarray(stimuli)))
    warm = solve_steady_states(network, stimuli, solver=plan, initial_states=states)
    return {"cold_steps": float(np.mean(cold.num_steps)), "warm_steps": float(np.mean(warm.num_steps))}


# --- what is printed --------------------------------------------------------------------------------------------------


def describe(rows: list[dict]) -> str:
    """Tables of what was verified, of the bounds and of the answers, and of the marks."""
    verified, bounds, served = (
        [row for row in rows if row["what"] == kind] for kind in ("verified", "bounds", "served")
    )

    def pair(values):
        return "-" if values is None else f"{values[0]:.3g}, {values[1]:.3g}"

    names = ("predictions", "certified", "violations", "exact", "wrongly_exact")
    tables = [
        table(
            ["network, precision", *(name.replace("_", " ") for name in names), "seconds"],
            [
                [f"{row['target']}, {row['precision']}", *(f"{row[name]:,}" for name in names), f"{row['seconds']:.0f}"]
                for row in verified
            ],
        ),
        table(
            [
                "network, approximator", "NRMSE", "bound everywhere / error (50, 95 %)", "best bound / error",
                "estimate / error", "bounded", "exact", "exact after a step",
            ],
            [
                [
                    f"{row['target']}, {row['approximator']} ({row['width']}, {row['num_sweeps']} sweeps)",
                    f"{100 * row['nrmse']:.2g} %",
                    pair(row["everywhere_over_error"]),
                    pair(row["bound_over_error"]),
                    pair(row["estimate_over_error"]),
                    *_percents(row, "share_bounded", "share_exact", "share_exact_after_step"),
                ]
                for row in bounds
            ],
        ),
        table(
            [
                "network, approximator, tolerance", "pass", "refined", "solved", "proved within", "truly within",
                "flagged", "us an answer", "us a pass", "us a certified pass", "us a solve", "times faster",
                "steps cold, warm",
            ],
            [
                [
                    f"{row['target']}, {row['approximator']}, {row['tolerance']:g}",
                    *(f"{100 * share:.1f} %" for share in row["shares"].values()),
                    *_percents(row, "share_proved_within", "share_truly_within", "share_flagged"),
                    f"{row['microseconds'][0]:.2f}",
                    f"{row['pass_microseconds']:.2f}",
                    f"{row['certified_pass_microseconds']:.2f}",
                    f"{row['solver_microseconds'][0]:.2f}",
                    f"{row['ratio_to_solver']:.2f}",
                    f"{row['cold_steps']:.1f}, " + ("-" if row["warm_steps"] is None else f"{row['warm_steps']:.1f}"),
                ]
                for row in served
            ],
        ),
    ]  # fmt: skip
    left_out = {row["target"]: row["left_out"] for row in rows if row["what"] == "stimuli" and row["left_out"]}
    note = f"Stimuli left out, as no steady state was found to {_POLISHED:g}: {left_out or 'none'}."
    return "\n\n".join([*tables, note, marks_table(marks(rows))])


def _percents(row: dict, *names: str) -> list[str]:
    return [f"{100 * row[name]:.1f} %" for name in names]


def marks(rows: list[dict]) -> list[dict]:
    """The required and the measured value, and whether the mark is met."""
    entries = []

    def add(target, what, required, received, is_met):
        entries.append({"target": target, "what": what, "mark": required, "received": received, "is_met": bool(is_met)})

    verified, bounds, served = (
        [row for row in rows if row["what"] == kind] for kind in ("verified", "bounds", "served")
    )
    for precision in ("float32", "float64"):
        these = [row for row in verified if row["precision"] == precision]
        certified, violations = (sum(row[field] for row in these) for field in ("certified", "violations"))
        is_met = violations == 0 and certified >= _MANY
        add("all", f"violations in {certified:,} certified, {precision}", f"0 in {_MANY:,}", violations, is_met)
    wrong = sum(row["wrongly_exact"] for row in verified)
    add("all", f"wrong in {sum(row['exact'] for row in verified):,} called exact", "0", wrong, wrong == 0)
    for name, most in _LOOSEST.items():
        for row in bounds:
            if row["target"] == name and row["everywhere_over_error"] is not None:
                ratio = row["everywhere_over_error"][0]
                what = f"median bound everywhere over error, {row['approximator']}"
                add(name, what, f"<= {most}", ratio, ratio <= most)
    best: dict[str, float] = {}  # the better of the approximators
    for row in served:
        if row["tolerance"] == _SERVED_WITHIN:
            best[row["target"]] = max(row["ratio_to_solver"], best.get(row["target"], 0))
    for name, ratio in best.items():
        least = _LEAST_RATIO if name in _FAST else _LEAST_RATIO_ELSEWHERE
        add(name, f"times faster than the solver, within {_SERVED_WITHIN:g}", f">= {least}", ratio, ratio >= least)
    return entries


if __name__ == "__main__":
    run_script("certificates", Config(), run, describe, folder=Path(__file__).parent)
