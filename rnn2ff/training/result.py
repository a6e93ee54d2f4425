"""The result of a distillation: an approximator, and its errors."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from rnn2ff.approximators import Approximator, predict
from rnn2ff.data import Pairs
from rnn2ff.files import plain
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.plotting import new_figure, plot_learning, plot_rates
from rnn2ff.records import in_percent, readable
from rnn2ff.training.jumps import ErrorByMargin
from rnn2ff.training.loop import TrainingRun
from rnn2ff.training.nrmse import Accuracy, deviation_of
from rnn2ff.training.trainer import Attempt

if TYPE_CHECKING:
    from rnn2ff.plotting import Figure


@readable
class Report(NamedTuple):
    """The course of a distillation, and the errors of its approximator.

    Attributes:
        accuracy: on fresh stimuli, solved for this test.
        nrmse_interval: a 95 % bootstrap confidence interval of its NRMSE.
        width: hidden units.
        num_sweeps: sweeps after the two layers; 0 for two layers alone.
        num_training_pairs: pairs trained and validated on.
        status_counts: how each solve ended, for `training` and for `test`; all but `converged` were left out.
        training: the course of the training.
        seconds: wall-clock seconds spent on solving and on training, compilation included.
        stimulus_shift: the median distance of the stimuli of exact pairs, mixed from solved ones, from the mixture of
            stimuli, in units of their deviation; None if no pairs were mixed.
        tolerance: the requested error, or None.
        is_within_tolerance: whether the upper end of the interval is below it; None without a tolerance.
        reason: why the tolerance was not reached, in words; None if it was, or without a tolerance.
        attempts: what was tried, in order; the best on validation, or the first that was good enough, was returned.
        attempt_nrmses: their errors on the test stimuli.
        error_by_margin: the error by the distance to the nearest jump of the steady state between near stimuli; None if
            no jumps were searched for.
        tested_on: where the test stimuli come from, in words. If it is the training distribution, the error on others
            is unknown.
        stimulus_range: smallest and largest value of each channel among the stimuli that were trained on.
    """

    accuracy: Accuracy
    nrmse_interval: tuple[float, float]
    width: int
    num_sweeps: int
    num_training_pairs: int
    status_counts: dict[str, dict[str, int]]
    training: TrainingRun
    seconds: dict[str, float]
    stimulus_shift: float | None
    tolerance: float | None
    is_within_tolerance: bool | None
    reason: str | None
    attempts: tuple[Attempt, ...]
    attempt_nrmses: tuple[float, ...]
    error_by_margin: ErrorByMargin | None
    tested_on: str
    stimulus_range: tuple[Float[np.ndarray, " stimulus"], Float[np.ndarray, " stimulus"]]

    def lines(self) -> dict[str, str]:
        """The main numbers, by name, the most important first."""
        counts = self.status_counts
        excluded = {name: sum(by_status.values()) - by_status["converged"] for name, by_status in counts.items()}
        without_state = f"excluded: {excluded['training']} from training, {excluded['test']} from the test"
        sweeps = f", {self.num_sweeps} sweeps" if self.num_sweeps else ""
        num_tested = sum(counts["test"].values())
        lines = {
            "error on unseen stimuli": self.accuracy.headline(num_tested, self.nrmse_interval),
            "variance explained": f"{100 * self.accuracy.r_squared:.2f} %",
            **self.accuracy.lines(),
            "tested on": self.tested_on,
            "hidden units": f"{self.width}{sweeps}",
            **({"tried": ", ".join(self._tried())} if len(self.attempts) > 1 else {}),
            "stimuli trained on": f"{self.num_training_pairs}",
            "without a steady state": without_state,
            "seconds": f"{sum(self.seconds.values()):.1f}",
        }
        if self.tolerance is not None:
            answer = "reached" if self.is_within_tolerance else f"not reached: {self.reason}"
            lines["tolerance"] = f"{100 * self.tolerance:g} %, {answer}"
        return lines

    def _tried(self) -> list[str]:
        """Every attempt and its error."""
        return [f"{attempt.form} {in_percent(nrmse)} %" for attempt, nrmse in zip(self.attempts, self.attempt_nrmses)]

    def _describe(self) -> tuple[str | None, dict[str, str]]:
        return None, self.lines()

    def summary(self) -> dict[str, object]:
        """The report as a record for a file, without the weights."""
        training = {name: value for name, value in self.training._asdict().items() if name != "approximator"}
        return plain({**self._asdict(), "training": training})


@readable
class Distillation(NamedTuple):
    """An approximator, and its report.

    Attributes:
        approximator: maps one stimulus to the steady rates.
        report: how good it is.
        test: the pairs it was tested on, which it was not trained on.
        network: the recurrent network that it approximates.
    """

    approximator: Approximator
    report: Report
    test: Pairs
    network: RecurrentNetwork

    def _describe(self) -> tuple[str, dict[str, str]]:
        kind = type(self.approximator).__name__
        title = f"{kind}, {self.approximator.stimulus_size} channels to {self.approximator.rate_size} rates"
        return title, self.report.lines()

    def plot(self) -> "Figure":
        """Predicted against steady rates of the test, and the course of the training.

        Raises:
            ModuleNotFoundError: if matplotlib is not installed, naming the extra.
        """
        figure, (left, right) = new_figure(2, height=2.8)
        target, nrmse = np.asarray(self.test.rates), self.report.accuracy.nrmse
        plot_rates(left, target, predict(self.approximator, self.test.stimuli), nrmse=nrmse)
        training, variance = self.report.training._asdict(), deviation_of(target) ** 2
        plot_learning(right, training, variance=variance, test_nrmse=nrmse)
        return figure
