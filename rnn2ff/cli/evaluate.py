"""`rnn2ff evaluate`."""

import dataclasses

from rnn2ff.cli.answers import Predictions
from rnn2ff.cli.options import (
    Json,
    NetworkFiles,
    OptionalPath,
    Overwrite,
    check_differ,
    check_new_file,
    read_network,
    show,
)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure the error of an approximator on stimuli of your choice.

    Solves the network for every stimulus and compares the steady rates with those of the approximator, which must have
    been made for this network. Stimuli without a steady state are left out, and counted. With --model, an
    exported file is evaluated.

    Example: rnn2ff evaluate --approximator run1/approximator.safetensors --weights W.npy --stimuli new.npy

    Example: rnn2ff evaluate --model deploy/rnn2ff_int8.h --weights W.npy --stimuli new.npy
    """

    network: NetworkFiles
    predictions: Predictions
    report: OptionalPath = None
    """An .html file to write: the errors of units and of stimuli, with figures, on one page."""
    overwrite: Overwrite = False
    as_json: Json = False

    def run(self) -> int:
        """Solve, compare, and report the error."""
        if self.report is not None:
            check_new_file(self.report, (".html",), overwrite=self.overwrite, name="report")
        network, stimuli = read_network(self.network)
        check_differ(stimuli)
        answers = self.predictions.read(network, stimuli)

        from rnn2ff.data import solve_pairs
        from rnn2ff.training import accuracy

        max_steps, progress = self.network.max_steps, self.network.shows_progress
        pairs = solve_pairs(network, stimuli, max_steps=max_steps, progress=progress)
        predicted = answers.predict(pairs.stimuli)
        received = accuracy(predicted, pairs.rates)
        lines = {
            "error": received.headline(len(stimuli)),
            "variance explained": f"{100 * received.r_squared:.2f} %",
            **received.lines(),
            "stimuli compared": received.num_samples,
            "without a steady state": f"{len(stimuli) - received.num_samples} left out",
            **answers.lines(),
        }
        if self.report is not None:
            from rnn2ff.export import write_evaluation

            counts = pairs.status_counts
            write_evaluation(self.report, network, predicted, pairs.rates, status_counts=counts, lines=lines)
            lines["written to"] = self.report
        familiarity = {"share_known": answers.share_known, "share_outside": answers.share_outside}
        content = {"accuracy": received, "status_counts": pairs.status_counts, "familiarity": familiarity}
        show(lines, content, as_json=self.as_json)
        return 0
