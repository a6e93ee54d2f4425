"""The errors that every table of approximators shows: the mean error, and those of the worst unit and samples."""

from jaxtyping import ArrayLike, Float

from rnn2ff.training import accuracy


def errors_of(predicted: Float[ArrayLike, "batch rate"], rates: Float[ArrayLike, "batch rate"]) -> dict[str, float]:
    """The error of the rates (NRMSE), that of the worst unit, and what one sample in 20 is off by or more."""
    judged = accuracy(predicted, rates)
    worst = float(judged.unit_nrmse[judged.worst_unit])
    return {"nrmse": judged.nrmse, "worst_unit_nrmse": worst, "percentile_95": judged.percentile_95}
