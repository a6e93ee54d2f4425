"""`rnn2ff certify`."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from rnn2ff.cli.answers import Predictions
from rnn2ff.cli.options import (
    Json,
    NetworkFiles,
    OptionalFloat,
    OptionalPath,
    Overwrite,
    check_new_file,
    read_network,
    show,
    stages,
)

if TYPE_CHECKING:
    import numpy as np

    from rnn2ff.certificates import Certifier
    from rnn2ff.networks import RecurrentNetwork

_QUANTILES = {"5 %": 0.05, "50 %": 0.5, "95 %": 0.95, "100 %": 1.0}


@dataclasses.dataclass(frozen=True)
class Certify:
    """Bound how far each prediction of an approximator is from the steady rates, without solving the network.

    The bounds are proved from the network's own equation, rounding included, and hold for the stimuli that are given:
    they say nothing of stimuli in between. They are of the Euclidean norm over all units, and of single units;
    docs/certificates.md has the theorems. The estimate is the length of a Newton step, near the truth and no bound.

    With --model, an exported file is certified, bit for bit, with the ranges of its export.
    With --tolerance, the exit code is 0 only if all bounds are within it. With --out, a file gets the arrays
    predictions, residuals, error_bounds, unit_bounds, error_estimates, theorems, theorem_names, is_exact, refined and
    is_refined_exact.

    Example: rnn2ff certify --approximator run1/approximator.safetensors --weights W.npy --stimuli U.npy

    Example: rnn2ff certify --model deploy/rnn2ff_int8.h --weights W.npy --stimuli field.npy --tolerance 0.1
    """

    network: NetworkFiles
    predictions: Predictions
    tolerance: OptionalFloat = None
    """The largest error of the rates that is good enough, in their own units."""
    norm: Literal["all", "unit"] = "all"
    """What --tolerance is of: the Euclidean norm over all units, or the largest error of a unit."""
    header: OptionalPath = None
    """A .h file to write: a function in C that makes the bound at run time, where one holds for every stimulus."""
    out: OptionalPath = None
    """An .npz or .mat file for the certificate of each stimulus."""
    overwrite: Overwrite = False
    as_json: Json = False

    def run(self) -> int:
        """Predict, certify, and count what is proved."""
        from rnn2ff._checks import check_positive

        if self.out is not None:
            check_new_file(self.out, overwrite=self.overwrite)
        if self.header is not None:
            check_new_file(self.header, (".h",), overwrite=self.overwrite, name="header")
        if self.tolerance is not None:
            check_positive("tolerance", self.tolerance)
        network, stimuli = read_network(self.network)

        import numpy as np

        from rnn2ff._checks import fail
        from rnn2ff.certificates import Theorem, bound_units, certify_predictions, make_certifier
        from rnn2ff.export import bound_to_c, check_name
        from rnn2ff.files import write_arrays, write_whole

        if self.header is not None:  # refused before any work
            check_name(self.header.stem)
        with stages(3, shows=self.network.shows_progress) as begin:
            begin("predicting")
            answers = self.predictions.read(network, stimuli)
            predictions = np.asarray(answers.predict(stimuli)).astype(network.dtype)
            if predictions.shape[1] != network.state_size:
                expected = f"the rates of all {network.state_size} units"
                raise fail("approximator", "predicts the rates of some units only", expected, predictions.shape[1])
            begin("constants of the weights")
            certifier = make_certifier(network)
            begin("certificates")
            certificate = certify_predictions(network, stimuli, predictions, certifier)
            unit_bounds = bound_units(network, stimuli, predictions, certificate.error_bound, certifier)
        if self.out is not None:
            arrays = {
                "predictions": predictions,
                "residuals": certificate.residual,
                "error_bounds": certificate.error_bound,
                "unit_bounds": unit_bounds,
                "error_estimates": certificate.error_estimate,
                "theorems": certificate.theorem,
                "theorem_names": np.array([theorem.name for theorem in Theorem]),
                "is_exact": certificate.is_exact,
                "refined": certificate.refined,
                "is_refined_exact": certificate.is_refined_exact,
            }
            write_arrays(self.out, arrays)
        if self.header is not None:
            write_whole(self.header, bound_to_c(network, name=self.header.stem))
        is_bounded, lengths = np.isfinite(certificate.error_bound), np.linalg.norm(predictions, axis=1)
        worst_units, of_all = unit_bounds.max(axis=1), np.asarray(certificate.error_bound)
        judged = worst_units if self.norm == "unit" else of_all
        record = {
            "num_stimuli": len(stimuli),
            "share_exact": float(certificate.is_exact.mean()),
            "share_exact_after_a_newton_step": float(certificate.is_refined_exact.mean()),
            "share_by_theorem": {
                theorem.name: float((certificate.theorem == theorem).mean()) for theorem in Theorem if theorem
            },
            "share_not_certified": float(1 - is_bounded.mean()),
            "why_not_certified": None if is_bounded.all() else _reason(network, certifier),
            "error_bound": _quantiles(of_all[is_bounded]),
            "error_bound_over_length": _quantiles((of_all / np.maximum(lengths, np.finfo(float).tiny))[is_bounded]),
            "error_bound_of_the_worst_unit": _quantiles(worst_units[is_bounded]),
            "error_estimate": _quantiles(certificate.error_estimate[np.isfinite(certificate.error_estimate)]),
            "mean_length_of_the_predictions": float(lengths.mean()),
            "tolerance": self.tolerance,
            "share_within_tolerance": None if self.tolerance is None else float((judged <= self.tolerance).mean()),
            "share_outside_its_range": answers.share_outside,
            "written_to": self.out,
            "header_written_to": self.header,
        }
        show(self._lines(record) | answers._replace(share_known=None).lines(), record, as_json=self.as_json)
        if self.tolerance is not None:
            return 0 if (judged <= self.tolerance).all() else 1
        return 0 if is_bounded.any() else 1

    def _lines(self, record: dict) -> dict[str, object]:
        """The record as a table."""
        by_theorem = {f"bounded by {name}": f"{share:.1%}" for name, share in record["share_by_theorem"].items()}
        lines = {
            "stimuli": record["num_stimuli"],
            "exact": f"{record['share_exact']:.1%}",
            "exact after Newton step": f"{record['share_exact_after_a_newton_step']:.1%}",
            **by_theorem,
            "not certified": f"{record['share_not_certified']:.1%}",
        }
        if record["why_not_certified"] is not None:
            lines["why not"] = record["why_not_certified"]
        lines |= {
            "error bound": _text(record["error_bound"]),
            "relative to its length": _text(record["error_bound_over_length"]),
            "of the worst unit": _text(record["error_bound_of_the_worst_unit"]),
            "error estimate": _text(record["error_estimate"]),
            "length of a prediction": f"{record['mean_length_of_the_predictions']:.3g} on average",
        }
        if self.tolerance is not None:
            norm = "the worst unit" if self.norm == "unit" else "all units"
            share = f"{record['share_within_tolerance']:.1%}"
            lines[f"within {self.tolerance:g}"] = f"{share} of these stimuli, by the bound of {norm}"
        written = [str(path) for path in (self.out, self.header) if path is not None]
        return lines | ({"written to": ", ".join(written)} if written else {})


def _reason(network: "RecurrentNetwork", certifier: "Certifier") -> str:
    """The reason why some predictions have no bound."""
    import numpy as np

    from rnn2ff.networks import name_of, stability_constants

    if certifier.has_global_bound:
        return "some predictions are not finite, or too large for their precision"
    local = "the local theorem then needs a prediction that is near a fixed point, whose equation is well conditioned"
    if not np.isfinite(float(certifier.slope)):
        return f"the slopes of {name_of(network.nonlinearity)} have no bound that is known; {local}"
    return f"{stability_constants(network).reason}; {local}"


def _quantiles(values: "np.ndarray") -> dict[str, float] | None:
    import numpy as np

    return {name: float(np.quantile(values, q)) for name, q in _QUANTILES.items()} if len(values) else None


def _text(quantiles: dict[str, float] | None) -> str:
    if quantiles is None:
        return "none"
    values = ", ".join(f"{value:.2g}" for value in quantiles.values())
    return f"{values} ({', '.join(quantiles)} of those that have one)"
