"""The errors of an approximator on one page of HTML, numbers and figures, without scripts or external files.

Every word is escaped, and the policy of the page forbids scripts and any other file, so that it is safe to share.
"""

import base64
import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import ArrayLike, Float

from rnn2ff import __version__
from rnn2ff.approximators import predict
from rnn2ff.export.card import Distilled, describe
from rnn2ff.export.plain import template
from rnn2ff.files import write_whole
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.plotting import new_figure, plot_learning, plot_rates, plot_tails, to_svg
from rnn2ff.records import html_table, in_percent

if TYPE_CHECKING:
    from rnn2ff.plotting import Figure

_NUM_WORST = 5  # units that are named


def write_report(path: str | Path, found: Distilled) -> None:
    """Write the result of a distillation as one page of HTML, completely or not at all.

    The page has the headline numbers, the error of every form that was tried, how many stimuli came to rest, the
    errors of the worst units and stimuli, and figures, where matplotlib is installed.

    Args:
        path: the `.html` file; an existing one is replaced.
        found: what `distill` returns.

    Raises:
        ValueError: if the folder cannot be written to.
    """
    report, pairs = found.report, found.test
    predicted = np.asarray(predict(found.approximator, pairs.stimuli))
    attempts = {
        # A form may have been trained twice, on more pairs.
        f"{attempt.form}, {attempt.num_training_pairs} pairs": (
            f"{in_percent(nrmse)} %, {attempt.num_products:,} products, {attempt.seconds:.1f} s"
        )
        for attempt, nrmse in zip(report.attempts, report.attempt_nrmses)
    }
    tables = {"At a glance": report.lines(), **({"Error of each form that was tried": attempts} if attempts else {})}
    _write(path, found.network, tables, predicted, pairs.rates, report.status_counts, report.training._asdict())


def write_evaluation(
    path: str | Path,
    network: RecurrentNetwork,
    predicted: Float[ArrayLike, "batch rate"],
    target: Float[ArrayLike, "batch rate"],
    *,
    status_counts: Mapping[str, int],
    lines: Mapping[str, object],
) -> None:
    """The same page for predictions on other stimuli, one row per stimulus.

    `status_counts` has how the solve of each stimulus ended, including those left out; `lines` are headline numbers, by
    name.
    """
    _write(path, network, {"At a glance": lines}, np.asarray(predicted), target, {"stimuli": status_counts})


def _quantiles(errors: Float[np.ndarray, " many"]) -> dict[str, str]:
    shares = {"half at most": 0.5, "95 % at most": 0.95, "worst": 1.0}
    return {name: f"{in_percent(np.quantile(errors, share, method='higher'))} %" for name, share in shares.items()}


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    others = [f"{count} {name}" for name, count in counts.items() if count and name != "converged"]
    share = math.floor(1000 * counts["converged"] / max(total, 1)) / 10  # rounded down, to hide no failure
    return ", ".join([f"{share:.1f} % of {total}", *others])


def _write(
    path: str | Path,
    network: RecurrentNetwork,
    tables: Mapping[str, Mapping[str, object]],
    predicted: Float[np.ndarray, "batch rate"],
    target: Float[ArrayLike, "batch rate"],
    status_counts: Mapping[str, Mapping[str, int]],
    training: Mapping[str, object] | None = None,
) -> None:
    """The page: these tables, how the solves ended, the errors of units and stimuli, the network, and figures."""
    from rnn2ff.training import accuracy, deviation_of

    target, deviation = np.asarray(target), deviation_of(target)
    of_units = accuracy(predicted, target).unit_nrmse
    # Of these errors, the mean square is the squared NRMSE of all.
    of_stimuli = np.sqrt(((np.asarray(predicted, np.float64) - target) ** 2).mean(axis=1)) / deviation
    known = np.where(np.isnan(of_units), 0.0, of_units)  # a unit that never varies, and is predicted exactly
    worst = np.argsort(-known, kind="stable")[:_NUM_WORST]
    tables = {
        **tables,
        "Came to rest": {name: _shares(counts) for name, counts in status_counts.items()},
        "Error of units, each over its own standard deviation": {
            **_quantiles(known),
            "worst units": ", ".join(f"{unit} ({in_percent(known[unit])} %)" for unit in worst),
        },
        "Error of stimuli, over the standard deviation of all units": _quantiles(of_stimuli),
        "The network": {
            "vector field": describe(network)["vector_field"],
            "channels, units, rates": f"{network.stimulus_size}, {network.state_size}, {network.rate_size}",
            "hash": describe(network)["hash"],
        },
    }
    try:
        figure = _draw(predicted, target, {"units": of_units, "stimuli": of_stimuli}, training, variance=deviation**2)
    except ModuleNotFoundError as error:
        drawn = f"<p>{html.escape(str(error))}</p>"
    else:
        words = "Predicted against steady rates; the tails of the errors"
        words += ", and the course of the training" if training else ""
        content = base64.b64encode(to_svg(figure)).decode()
        drawn = f'<img alt="{html.escape(words)}" src="data:image/svg+xml;base64,{content}">'
    sections = "\n".join(
        f"<section><h2>{html.escape(name)}</h2>{html_table(lines)}</section>" for name, lines in tables.items()
    )
    title = f"A feed-forward network for a recurrent one of {network.state_size} units"
    fields = {"title": title, "version": __version__, "figure": drawn, "sections": sections}
    write_whole(path, template("report.html").substitute(fields))


def _draw(
    predicted: Float[np.ndarray, "batch rate"],
    target: Float[np.ndarray, "batch rate"],
    errors: Mapping[str, Float[np.ndarray, " many"]],
    training: Mapping[str, object] | None,
    *,
    variance: float,
) -> "Figure":
    figure, axes = new_figure(2 + (training is not None), height=2.6)
    nrmse = float(np.sqrt((errors["stimuli"] ** 2).mean()))
    plot_rates(axes[0], target, predicted, nrmse=nrmse)
    plot_tails(axes[1], errors)
    if training is not None:
        plot_learning(axes[2], training, variance=variance, test_nrmse=nrmse)
    return figure
