"""The command line. It reads and writes files, and computes nothing itself.

JAX is imported only once a command runs, so that help and mistakes answer at once.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    import numpy as np

    from rnn2ff.distillation import Distillation
    from rnn2ff.networks import RecurrentNetwork

File = Annotated[str, tyro.conf.arg(metavar="FILE")]
OptionalFile = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]


@dataclasses.dataclass(frozen=True)
class NetworkFiles:
    """A linear-threshold network, `tau x' = -x + W [x]_+ + B u + b`, and stimuli u.

    Every file is a .npy, .npz, .csv or .mat file; FILE:NAME picks one of several arrays, as in network.npz:W.
    """

    weights: File
    """Recurrent weights W, units x units; entry (i, j) is the weight from unit j to unit i."""
    stimuli: File
    """Stimuli, one a row."""
    stimulus_weights: OptionalFile = None
    """Stimulus weights B, units x channels; without them each channel drives one unit."""
    bias: OptionalFile = None
    """Constant input b, one value a unit."""
    time_constants: OptionalFile = None
    """Time constants tau, one value a unit; 1 without them."""
    form: Literal["state", "rate"] = "state"
    """Where the rectifier stands: `state` as above, `rate` for tau r' = -r + [W r + B u + b]_+."""
    precision: Literal["float32", "float64"] = "float32"
    """Precision of all numbers."""
    max_steps: int = 4096
    """Give up a solve after this many steps of the integrator."""
    progress: Annotated[bool, tyro.conf.arg(help_behavior_hint="(optional)")] = True
    """Hide the progress bars, which are shown on standard error where that is a terminal."""


@dataclasses.dataclass(frozen=True)
class Distill:
    """Replace a recurrent network by a two-layer feed-forward one.

    Solves the network for every stimulus, trains a feed-forward network on the steady rates, and judges it on stimuli
    it never saw. Writes approximator.safetensors, report.json and, where matplotlib is installed, report.png.

    Example: rnn2ff distill --weights W.npy --stimuli U.npy --out run1
    """

    network: tyro.conf.OmitArgPrefixes[NetworkFiles]
    out: Path
    """Folder for the results; made if it does not exist."""
    width: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(optional)")] = None
    """Hidden units of the feed-forward network; by default 4 for each unit of the network."""
    num_steps: int = 20_000
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


@dataclasses.dataclass(frozen=True)
class Solve:
    """Find the steady state for every stimulus.

    Writes an .npz file with the arrays states, rates, statuses, status_names, residuals and num_steps.

    Example: rnn2ff solve --weights W.npy --stimuli U.npy --out states.npz
    """

    network: tyro.conf.OmitArgPrefixes[NetworkFiles]
    out: Path
    """The .npz file to write."""
    tolerance: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(optional)")] = None
    """Largest relative residual that counts as rest; by default 1e-5 in float32, 1e-9 in float64."""
    overwrite: bool = False
    """Replace the file if it exists."""


Command = Annotated[Distill, tyro.conf.subcommand("distill")] | Annotated[Solve, tyro.conf.subcommand("solve")]


def main() -> None:
    """Run a command; exit with 0 if it did its work, 1 if nothing came of it, 2 if it was asked wrongly."""
    command = tyro.cli(
        Command,
        prog="rnn2ff",
        description="Feed-forward networks that stand in for the steady states of recurrent ones.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        if isinstance(command, Distill):
            _distill(command)
        else:
            _solve(command)
    except (ValueError, ModuleNotFoundError) as error:
        print(f"rnn2ff: error: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        print(f"rnn2ff: error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"rnn2ff: error: the results could not be written: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("rnn2ff: interrupted before the results were complete", file=sys.stderr)
        sys.exit(130)


def _read(files: NetworkFiles) -> "tuple[RecurrentNetwork, np.ndarray]":
    """The network and the stimuli, checked, in the wanted precision."""
    import jax
    import numpy as np

    from rnn2ff._checks import check_stimuli, check_weights
    from rnn2ff.files import read_array
    from rnn2ff.networks import threshold_linear, threshold_linear_rate

    jax.config.update("jax_enable_x64", files.precision == "float64")

    def read(path: str, name: str) -> "np.ndarray":
        array = read_array(path, name)
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
            return array.astype(files.precision)

    def read_vector(path: str | None, name: str) -> "np.ndarray | None":
        if path is None:
            return None
        return np.atleast_1d(read(path, name).squeeze())  # a .csv or .mat vector is a row or a column

    weights, stimuli = read(files.weights, "weights"), read(files.stimuli, "stimuli")
    check_weights("weights", weights)
    constructor = threshold_linear if files.form == "state" else threshold_linear_rate
    time_constants = read_vector(files.time_constants, "time-constants")
    network = constructor(
        weights,
        stimulus_weights=None if files.stimulus_weights is None else read(files.stimulus_weights, "stimulus-weights"),
        bias=read_vector(files.bias, "bias"),
        time_constants=1.0 if time_constants is None else time_constants,
    )
    check_stimuli(stimuli, network.stimulus_size)
    return network, stimuli


def _shows_progress(command: Distill | Solve) -> bool:
    return command.network.progress and sys.stderr.isatty()


def _solve(command: Solve) -> None:
    from rnn2ff._checks import check_at_least, check_tolerance, fail

    out = command.out
    if out.suffix != ".npz":
        raise fail("out", "is in an unknown format", "a name that ends in .npz", f"{out}")
    if out.is_dir():
        raise fail("out", "is a folder", "the name of a file", f"{out}")
    if out.exists() and not command.overwrite:
        raise fail("out", "exists already", "a new file, or --overwrite", f"{out}")
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise fail("out", "cannot be written", "a folder that exists and may be written to", f"{out.parent}")
    check_at_least("max-steps", command.network.max_steps, 1)
    network, stimuli = _read(command.network)
    check_tolerance(command.tolerance, network.dtype)

    import jax
    import numpy as np

    from rnn2ff.files import write_arrays
    from rnn2ff.steady_state import Status, count_statuses, solve_steady_states

    solved = solve_steady_states(
        network,
        stimuli,
        tolerance=command.tolerance,
        max_steps=command.network.max_steps,
        progress=_shows_progress(command),
    )
    write_arrays(
        out,
        {
            "states": np.asarray(solved.state),
            "rates": np.asarray(jax.vmap(network.rates)(solved.state)),
            "statuses": np.asarray(solved.status),
            "status_names": np.array([each.name for each in Status]),
            "residuals": np.asarray(solved.residual),
            "num_steps": np.asarray(solved.num_steps),
        },
    )
    for name, count in count_statuses(solved.status).items():
        if count:
            print(f"{name:26s}{count}")
    print(f"{'written to':26s}{out}")
    if not bool(solved.is_converged.any()):
        sys.exit(1)


def _distill(command: Distill) -> None:
    from rnn2ff._checks import check_at_least, check_fraction, fail

    out = command.out
    if (out / "report.json").exists() and not command.overwrite:
        raise fail("out", "holds a finished run", "an empty or new folder, or --overwrite", f"{out}")
    existing = next(folder for folder in (out, *out.parents) if folder.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise fail("out", "cannot be written", "a folder that may be written to", f"{existing}")
    if command.width is not None:
        check_at_least("width", command.width, 1)
    check_at_least("num-steps", command.num_steps, 1)
    check_at_least("max-steps", command.network.max_steps, 1)
    check_fraction("held-out", command.held_out)
    network, rows = _read(command.network)

    import jax.random as jr

    from rnn2ff.datasets import hold_out, key_for
    from rnn2ff.distillation import distill
    from rnn2ff.export import save
    from rnn2ff.files import write_json
    from rnn2ff.records import environment
    from rnn2ff.stimuli import sample_from

    key = jr.key(command.seed)
    training_rows, test_rows = hold_out(rows, command.held_out, key=key_for(key, "held-out rows"))
    if min(len(training_rows), len(test_rows)) < 2:
        parted = f"{len(rows)} rows parted into {len(training_rows)} and {len(test_rows)}"
        raise fail("stimuli", "are too few", "at least 2 rows to train on and 2 held out", parted)
    distillation = distill(
        network,
        sample_from(training_rows, jitter=command.jitter) if command.jitter else training_rows,
        test_stimuli=test_rows,
        width=command.width,
        num_samples=command.num_samples,
        num_steps=command.num_steps,
        max_steps=command.network.max_steps,
        progress=_shows_progress(command),
        key=key,
    )
    content = {
        "command": dataclasses.asdict(command),
        "report": distillation.report.summary(),
        "environment": environment(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "report.png"):  # of an earlier run; the new approximator is not what they tell of
        (out / name).unlink(missing_ok=True)
    save(out / "approximator.safetensors", distillation.approximator, card=content)
    has_figure = _draw(out / "report.png", distillation)
    write_json(out / "report.json", content)  # last: its presence says that the run is finished
    report = distillation.report
    worst = report.accuracy.worst_unit
    left_out = [sum(counts.values()) - counts["converged"] for counts in report.status_counts.values()]
    for name, value in [
        ("error on unseen stimuli", f"{100 * report.accuracy.nrmse:.2f} % (NRMSE)"),
        ("variance explained", f"{100 * report.accuracy.r_squared:.2f} %"),
        ("worst unit", f"{worst}, {100 * report.accuracy.unit_nrmse[worst]:.2f} %"),
        ("hidden units", report.width),
        ("stimuli trained on", report.num_training_pairs),
        ("without a steady state", f"{left_out[0]} left out of training, {left_out[1]} of the test"),
        ("seconds", f"{sum(report.seconds.values()):.1f}"),
    ]:
        print(f"{name:26s}{value}")
    written = "approximator.safetensors, report.json" + (", report.png" if has_figure else "")
    print(f"{'written to ' + str(out):26s}{written}")
    if not has_figure:
        print("rnn2ff: no figure, matplotlib is not installed: pip install 'rnn2ff[plot]'", file=sys.stderr)


def _draw(path: Path, distillation: "Distillation") -> bool:
    """Draw the report's figure; False where matplotlib is not installed."""
    import numpy as np

    from rnn2ff.approximators import predict
    from rnn2ff.plotting import new_figure, plot_learning, plot_rates, save_figure

    try:
        figure, (left, right) = new_figure(2, height=2.8)
    except ModuleNotFoundError:
        return False
    target = np.asarray(distillation.test.rates)
    predicted = np.asarray(predict(distillation.approximator, distillation.test.stimuli))
    shown = np.random.default_rng(0).permutation(target.size)[:3000]
    nrmse = distillation.report.accuracy.nrmse
    plot_rates(left, target.ravel()[shown], predicted.ravel()[shown], nrmse=nrmse)
    training = distillation.report.training._asdict()
    plot_learning(right, training, variance=float(target.var(axis=0).mean()))
    save_figure(figure, path)
    return True


if __name__ == "__main__":
    main()
