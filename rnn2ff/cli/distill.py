"""`rnn2ff distill`."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rnn2ff.cli.options import (
    Json,
    NetworkFiles,
    OptionalFloat,
    OptionalInt,
    OptionalText,
    check_folder,
    read_network,
    show,
)

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import PRNGKeyArray

    from rnn2ff.networks import RecurrentNetwork
    from rnn2ff.training import Distillation


@dataclasses.dataclass(frozen=True)
class Distill:
    """Replace a recurrent network with a feed-forward one.

    Solves the network for every stimulus, trains a feed-forward network on the steady rates, and judges it on stimuli
    it never saw. By default it has two layers with 4 hidden units for each unit of the network, or sweeps that cost no
    more, whichever is better. With --tolerance it is the cheapest that is good enough. Writes
    approximator.safetensors, report.json, report.html and, where matplotlib is installed, report.png. An interrupted
    run resumes when the command is given again.

    Example: rnn2ff distill --weights W.npy --stimuli U.npy --out run1 --tolerance 0.02
    """

    network: NetworkFiles
    out: Path
    """Folder for the results; made if it does not exist."""
    tolerance: OptionalFloat = None
    """The largest error that is good enough, such as 0.02: the cheapest network that reaches it, or the reason why
    none does, and exit code 1."""
    kind: Literal["any", "two-layers"] = "any"
    """What may be returned: two-layers alone, or any, with sweeps of the network's own weights after them."""
    width: OptionalInt = None
    """Hidden units, 0 for sweeps alone; not used with --tolerance."""
    num_sweeps: OptionalInt = None
    """Sweeps after the hidden units; not used with --tolerance."""
    num_steps: int = 5_000
    """Optimizer steps."""
    jitter: float = 0.0
    """Draw training stimuli from the rows, with noise of this many standard deviations of each channel.
    0 uses every row once."""
    num_samples: int = 20_000
    """How many stimuli to draw with --jitter."""
    held_out: float = 0.2
    """Share of the rows that is kept for the test."""
    seed: int = 0
    """Seed of all randomness."""
    overwrite: bool = False
    """Replace a finished run in the folder."""
    license: OptionalText = None
    """License of the weights, for the model card."""
    as_json: Json = False

    def run(self) -> int:
        """Distill, write the files, and report the error."""
        from rnn2ff._checks import check_at_least, check_fraction, fail

        self._check_unused()
        check_folder(self.out)
        if self.width is not None:
            check_at_least("width", self.width, 0 if self.num_sweeps else 1)
        if self.num_sweeps is not None:
            check_at_least("num-sweeps", self.num_sweeps, 0)
        if self.tolerance is not None:
            check_fraction("tolerance", self.tolerance)
        check_at_least("num-steps", self.num_steps, 1)
        check_fraction("held-out", self.held_out)
        network, rows = read_network(self.network)

        import jax.random as jr

        from rnn2ff.data import hold_out, key_for
        from rnn2ff.files import alone_in

        key = jr.key(self.seed)
        training_rows, test_rows = hold_out(rows, self.held_out, key=key_for(key, "held-out rows"))
        if min(len(training_rows), len(test_rows)) < 2:
            parted = f"{len(rows)} rows parted into {len(training_rows)} and {len(test_rows)}"
            raise fail("stimuli", "are too few", "at least 2 rows to train on and 2 held out", parted)
        self.out.mkdir(parents=True, exist_ok=True)
        with alone_in(self.out):
            self._check_unused()
            return self._distill(network, rows, training_rows, test_rows, key)

    def _check_unused(self) -> None:
        """Refuse to replace a finished run."""
        from rnn2ff._checks import fail

        if (self.out / "report.json").exists() and not self.overwrite:
            raise fail("out", "holds a finished run", "an empty or new folder, or --overwrite", f"{self.out}")

    def _distill(
        self,
        network: "RecurrentNetwork",
        rows: "np.ndarray",
        training_rows: "np.ndarray",
        test_rows: "np.ndarray",
        key: "PRNGKeyArray",
    ) -> int:
        """Train, write the files, and show the report."""
        from rnn2ff.data import sample_from
        from rnn2ff.export import model_card, save, write_report
        from rnn2ff.files import write_json
        from rnn2ff.training import distill

        out, unfinished = self.out, self._unfinished()
        try:
            distillation = distill(
                network,
                sample_from(training_rows, jitter=self.jitter) if self.jitter else training_rows,
                tolerance=self.tolerance,
                test_stimuli=test_rows,
                kind="two_layers" if self.kind == "two-layers" else "any",
                width=self.width,
                num_sweeps=self.num_sweeps,
                num_samples=self.num_samples,
                num_steps=self.num_steps,
                max_steps=self.network.max_steps,
                checkpoints=unfinished,
                progress=self.network.shows_progress,
                key=key,
            )
        except (ValueError, RuntimeError):  # would be raised again by a resumed run
            shutil.rmtree(unfinished)
            if not any(out.iterdir()):
                out.rmdir()
            raise
        tested_on = "rows held out of the stimuli; the error on other distributions is unknown"
        report = distillation.report._replace(tested_on=tested_on)
        distillation = distillation._replace(report=report)
        card = {"command": dataclasses.asdict(self), **model_card(network, rows, report, license=self.license)}
        # Left by an earlier run, which had another approximator.
        for name in ("report.json", "report.html", "report.png"):
            (out / name).unlink(missing_ok=True)
        save(out / "approximator.safetensors", distillation.approximator, card=card)
        has_figure = draw(out, distillation)
        write_report(out / "report.html", distillation)
        write_json(out / "report.json", card)  # last: its presence says that the run is finished
        shutil.rmtree(unfinished)
        written = "approximator.safetensors, report.json, report.html" + (", report.png" if has_figure else "")
        show({**report.lines(), f"written to {out}": written}, card, as_json=self.as_json)
        if not has_figure:
            print("rnn2ff: no figure, matplotlib is not installed: pip install 'rnn2ff[plot]'", file=sys.stderr)
        return 1 if report.is_within_tolerance is False else 0

    def _unfinished(self) -> Path:
        """The folder of the checkpoints of a run, from which an interrupted one resumes."""
        from rnn2ff._checks import fail
        from rnn2ff.files import plain, write_json

        folder = self.out / "unfinished"
        if self.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        network = dataclasses.replace(self.network, progress=True, cache=True)  # as these change no result
        options = dataclasses.replace(self, network=network, overwrite=False, as_json=False)
        settings = plain(dataclasses.asdict(options))
        kept = folder / "command.json"
        if not kept.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(kept, settings)
        elif kept.read_bytes() != (json.dumps(settings, indent=2) + "\n").encode():
            problem = "holds an unfinished run with other options"
            raise fail("out", problem, "the same options, or --overwrite", f"{kept}")
        return folder


def draw(out: Path, distillation: "Distillation") -> bool:
    """Draw the report's figure; False where matplotlib is not installed."""
    from rnn2ff.plotting import save_figure

    try:
        figure = distillation.plot()
    except ModuleNotFoundError:
        return False
    save_figure(figure, out / "report.png")
    return True
