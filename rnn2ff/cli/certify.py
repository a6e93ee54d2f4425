"""`rnn2ff certify`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from rnn2ff.cli.options import Json, NetworkFiles, check_new_file, read_approximator, read_network, show

if TYPE_CHECKING:
    import numpy as np

    from rnn2ff.approximators import Approximator
    from rnn2ff.networks import RecurrentNetwork

OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(optional)")]
_QUANTILES = {"5 %": 0.05, "50 %": 0.5, "95 %": 0.95, "100 %": 1.0}


@dataclasses.dataclass(frozen=True)
class Certify:
    """Bound how far each answer of an approximator is from the steady rates, without solving anything.

    The bounds are proved from the network's own equation, rounding included, and are of the Euclidean norm over all
    units; docs/certificates.md has the theorems. The estimate is the length of a Newton step, near the truth and no
    bound. With --out, an .npz file gets the arrays predictions, residuals, error_bounds, error_estimates, theorems,
    theorem_names, is_exact, refined and is_refined_exact.

    Example: rnn2ff certify --approximator run1/approximator.safetensors --weights W.npy --stimuli U.npy
    """

    network: tyro.conf.OmitArgPrefixes[NetworkFiles]
    approximator: Path
    """The file approximator.safetensors of a distillation."""
    route: Literal["float", "onnx-int8", "c-int8"] = "float"
    """Whose answers: the approximator's own, or those of an export to int8, its ranges set by the same stimuli."""
    out: OptionalPath = None
    """An .npz file for the certificate of each stimulus."""
    overwrite: bool = False
    """Replace the file if it exists."""
    as_json: Json = False
    """Print the results as JSON."""

    def run(self) -> int:
        """Predict, certify, and count what is proved."""
        if self.out is not None:
            check_new_file(self.out, overwrite=self.overwrite)
        network, stimuli = read_network(self.network)
        approximator, _ = read_approximator(self.approximator, network)

        import jax
        import numpy as np

        from rnn2ff.certificates import Theorem, certify_predictions
        from rnn2ff.files import write_arrays

        approximator = jax.tree.map(lambda leaf: leaf.astype(network.dtype), approximator)
        predictions = _predict(self.route, network, approximator, stimuli)
        found = certify_predictions(network, stimuli, predictions)
        if self.out is not None:
            arrays = {
                "predictions": predictions,
                "residuals": found.residual,
                "error_bounds": found.error_bound,
                "error_estimates": found.error_estimate,
                "theorems": found.theorem,
                "theorem_names": np.array([each.name for each in Theorem]),
                "is_exact": found.is_exact,
                "refined": found.refined,
                "is_refined_exact": found.is_refined_exact,
            }
            write_arrays(self.out, arrays)
        is_bounded = np.isfinite(found.error_bound)
        record = {
            "num_stimuli": len(stimuli),
            "share_exact": float(found.is_exact.mean()),
            "share_exact_after_a_newton_step": float(found.is_refined_exact.mean()),
            "share_by_theorem": {each.name: float((found.theorem == each).mean()) for each in Theorem if each},
            "share_not_certified": float(1 - is_bounded.mean()),
            "error_bound": _quantiles(found.error_bound[is_bounded]),
            "error_estimate": _quantiles(found.error_estimate[np.isfinite(found.error_estimate)]),
            "mean_length_of_the_predictions": float(np.linalg.norm(predictions, axis=1).mean()),
            "written_to": self.out,
        }
        by_theorem = {f"bounded by {name}": f"{share:.1%}" for name, share in record["share_by_theorem"].items()}
        lines = {
            "stimuli": len(stimuli),
            "exact": f"{record['share_exact']:.1%}",
            "exact after Newton step": f"{record['share_exact_after_a_newton_step']:.1%}",
            **by_theorem,
            "not certified": f"{record['share_not_certified']:.1%}",
            "error bound": _text(record["error_bound"]),
            "error estimate": _text(record["error_estimate"]),
            "length of a prediction": f"{record['mean_length_of_the_predictions']:.3g} on average",
            **({} if self.out is None else {"written to": self.out}),
        }
        show(lines, record, as_json=self.as_json)
        return 0 if is_bounded.any() else 1


def _predict(
    route: str, network: "RecurrentNetwork", approximator: "Approximator", stimuli: "np.ndarray"
) -> "np.ndarray":
    """What a route answers of every unit."""
    from rnn2ff import export
    from rnn2ff.certificates import predict_all_units

    predictions = predict_all_units(network, approximator, stimuli)  # checks the approximator as well
    if route == "c-int8":
        predictions = export.quantize(approximator, stimuli).predict(stimuli)
    elif route == "onnx-int8":
        predictions = export.run_onnx(export.quantize_onnx(export.to_onnx(approximator), stimuli), stimuli)
    return predictions.astype(network.dtype)


def _quantiles(values: "np.ndarray") -> dict[str, float] | None:
    import numpy as np

    return {name: float(np.quantile(values, q)) for name, q in _QUANTILES.items()} if len(values) else None


def _text(quantiles: dict[str, float] | None) -> str:
    if quantiles is None:
        return "none"
    values = ", ".join(f"{value:.2g}" for value in quantiles.values())
    return f"{values} ({', '.join(quantiles)} of those that have one)"
