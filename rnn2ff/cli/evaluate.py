"""`rnn2ff evaluate`."""

import dataclasses

import tyro

from rnn2ff.cli.answers import Route, read_answers
from rnn2ff.cli.options import (
    Json,
    NetworkFiles,
    OptionalPath,
    Overwrite,
    check_differ,
    check_new_file,
    read_approximator,
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

    network: tyro.conf.OmitArgPrefixes[NetworkFiles]
    approximator: OptionalPath = None
    """The file approximator.safetensors of a distillation."""
    model: OptionalPath = None
    """Instead, an exported file: .onnx, or the .h of the routes c-int8 and c-int16."""
    route: Route = "float"
    """Which predictions of an approximator: its own in float, or those of an integer export calibrated on these
    stimuli."""
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
        answers = read_answers(network, stimuli, self.approximator, self.model, self.route)

        from rnn2ff.data import solve_pairs
        from rnn2ff.records import in_percent
        from rnn2ff.training import accuracy

        max_steps, progress = self.network.max_steps, self.network.shows_progress
        pairs = solve_pairs(network, stimuli, max_steps=max_steps, progress=progress)
        predicted = answers(pairs.stimuli)
        received = accuracy(predicted, pairs.rates)
        share = 100 * received.num_samples / len(stimuli)
        judged = f"; of the {share:.2f} % that come to rest" if share < 100 else ""
        lines = {
            "error": f"{in_percent(received.nrmse)} % (NRMSE){judged}",
            "variance explained": f"{100 * received.r_squared:.2f} %",
            **received.lines(),
            "stimuli compared": received.num_samples,
            "without a steady state": f"{len(stimuli) - received.num_samples} left out",
        }
        found = None
        if self.approximator is not None:
            from rnn2ff.export import familiarity

            found = familiarity(read_approximator(self.approximator, network)[1], stimuli)
        if found is not None:
            lines["outside its range"] = f"{100 * found.share_outside:.1f} % of the stimuli"
        if found is not None and found.share_known > 0:
            lines["seen before"] = (
                f"{100 * found.share_known:.0f} % of the rows that it was made from are among these stimuli; most were "
                "trained on, so on others expect the error that its report states"
            )
        if self.report is not None:
            from rnn2ff.export import write_evaluation

            counts = pairs.status_counts
            write_evaluation(self.report, network, predicted, pairs.rates, status_counts=counts, lines=lines)
            lines["written to"] = self.report
        content = {"accuracy": received, "status_counts": pairs.status_counts, "familiarity": found}
        show(lines, content, as_json=self.as_json)
        return 0
