"""Are certificates ever wrong, how tight are they, and what does an answer with a guarantee cost?

For each network of `benchmarks/parts/targets.py`: a million predictions, good and absurd, against fixed points in
extended precision; the bounds of trained approximators over their true errors; and the time of an answer within a
tolerance beside that of the fastest solver, which gives no bound.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.parts.certificate_checks import bound_all, certify, count, draw, worst_directions
from benchmarks.parts.certificate_marks import marks as marks
from benchmarks.parts.certificate_tables import describe
from benchmarks.parts.extended_precision import fixed_points
from benchmarks.parts.problems import in_float64
from benchmarks.parts.targets import Target, make_target
from experiments._script import run_script
from rnn2ff.approximators import Approximator, Refined
from rnn2ff.certificates import Source, certify_predictions, make_certifier, predict_all_units, predict_or_solve
from rnn2ff.data import key_for, sample_stimuli, solve_pairs
from rnn2ff.records import time_interleaved
from rnn2ff.steady_state import plan_steady_states, solve_steady_states
from rnn2ff.training import Trainer, accuracy, further_pairs

_FACTORED = 20_000  # predictions whose certificate needs the inverse of a full matrix; the others are cheap
_MOST_DRAWN = 4  # times as many predictions as are to be certified; for some networks few have a bound


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
        truths = fixed_points(target.network, stimuli)
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


# --- is a certificate ever wrong? -------------------------------------------------------------------------------------


def _verify(target, stimuli, truths, predictions, precision, config: Config) -> dict:
    """Certify predictions of all kinds, and count violated bounds and wrong claims of exactness."""
    started = time.perf_counter()
    generator = np.random.default_rng([config.seed, int(precision[-2:])])
    worst = worst_directions(target.network, stimuli, truths)
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
            drawn = draw(generator, truths, list(predictions.values()), worst).astype(network.dtype)
            is_whole = certifier.factors is not None or counts["predictions"] < _FACTORED
            certificate = certify(network, typed, drawn, certifier, is_whole=is_whole)
            count(counts, target.network, stimuli, truths, drawn, certificate, bool(certifier.has_global_bound))
    return {
        "what": "verified",
        "target": target.name,
        "precision": precision,
        "seconds": time.perf_counter() - started,
        **counts,
    }


# --- how tight are they? ----------------------------------------------------------------------------------------------


def _describe_bounds(target, kind, approximator, predictions, stimuli, truths) -> dict:
    """Ratios of bounds to true errors, for the predictions of a trained approximator."""
    network, certifier = target.network, make_certifier(target.network)
    certificate = certify_predictions(network, stimuli, predictions, certifier)
    everywhere = np.asarray(bound_all(network, stimuli, predictions, certifier)[0], float)
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


if __name__ == "__main__":
    run_script("certificates", Config(), run, describe, folder=Path(__file__).parent)
