"""What the commands share: options, reading a network, and showing results.

JAX is imported only when a command runs, so that help and errors in options appear at once.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    import numpy as np

    from rnn2ff.approximators import Approximator
    from rnn2ff.networks import RecurrentNetwork

File = Annotated[str, tyro.conf.arg(metavar="FILE")]
OptionalFile = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(optional)")]
OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(optional)")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(optional)")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(optional)")]
OptionalFlag = Annotated[bool, tyro.conf.arg(help_behavior_hint="(optional)")]
Json = Annotated[bool, tyro.conf.arg(name="json", help="Print the results as JSON.")]
Overwrite = Annotated[bool, tyro.conf.arg(help="Replace the file if it exists.")]


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclasses.dataclass(frozen=True)
class NetworkFiles:
    """A rate network, `tau x' = -x + W [x]_+ + B u + b`, and stimuli u; --nonlinearity puts another in place of [x]_+.

    Every file is a .npy, .npz, .csv, .txt or .mat file; FILE:NAME picks one of several arrays, as in network.npz:W.
    """

    weights: File
    """Recurrent weights W, units x units; entry (i, j) is the weight from unit j to unit i. Or a graph: a .graphml
    file, or a table of connections with the names of its columns, as in edges.csv:source,target,weight."""
    stimuli: File
    """Stimuli, one per row."""
    stimulus_weights: OptionalFile = None
    """Stimulus weights B, units x channels; without them each channel drives one unit."""
    bias: OptionalFile = None
    """Constant input b, one value per unit."""
    time_constants: OptionalFile = None
    """Time constants tau, one value per unit; 1 without them."""
    form: Literal["state", "rate"] = "state"
    """Where the rectifier stands: `state` as above, `rate` for tau r' = -r + [W r + B u + b]_+."""
    nonlinearity: Literal["relu", "tanh", "sigmoid", "softplus", "power-law", "saturating"] = "relu"
    """From total inputs to rates: relu is [x]_+, power-law is g [x]_+^p, saturating is m [x]_+^p / (1 + [x]_+^p)."""
    power_law: tuple[float, float] = (1.0, 2.0)
    """g and p of the power law."""
    saturation: tuple[float, float] = (1.0, 2.0)
    """m and p of the saturating nonlinearity."""
    gains: OptionalFile = None
    """Gains, one value per unit: the rates are those of gain (x - threshold); states are counted in these units."""
    thresholds: OptionalFile = None
    """Thresholds, one value per unit, in units of the total input."""
    low_rank: OptionalFile = None
    """Vectors n, units x rank; --weights are then the vectors m, and the weights W = m n^T / units."""
    scale: float = 1.0
    """A factor for all weights W, such as the input per synapse of a connectome."""
    signs: OptionalFile = None
    """One value per unit, 1 for those that excite and -1 for those that inhibit; W is then strengths of at least 0."""
    precision: Literal["float32", "float64"] = "float32"
    """Precision of all numbers."""
    max_steps: int = 4096
    """Give up a solve after this many steps of the integrator."""
    progress: OptionalFlag = True
    """Hide the progress bars, which are shown on standard error where that is a terminal."""
    cache: OptionalFlag = True
    """Keep no compiled programs for the next command."""

    @property
    def shows_progress(self) -> bool:
        """Whether progress bars are shown: if standard error is a terminal."""
        return self.progress and sys.stderr.isatty()


def check_differ(stimuli: "np.ndarray") -> None:
    """Raise if all stimuli are the same: an error is relative to the differences between their rates."""
    from rnn2ff._checks import fail

    if (stimuli == stimuli[0]).all():
        expected = "at least two that differ, as an error is relative to the differences between steady rates"
        raise fail("stimuli", "are all the same", expected, f"one, in {len(stimuli)} rows")


def read_network(files: NetworkFiles) -> "tuple[RecurrentNetwork, np.ndarray]":
    """The network and the stimuli, checked, in the requested precision."""
    import jax
    import numpy as np

    from rnn2ff._checks import check_at_least, check_finite, check_shape, check_stimuli, check_weights
    from rnn2ff.compiling import keep_programs
    from rnn2ff.files import read_array
    from rnn2ff.networks import (
        RateForm,
        StateForm,
        check_signs,
        decode_nonlinearity,
        low_rank_weights,
        rate_network,
        read_weights,
    )

    check_at_least("max-steps", files.max_steps, 1)
    if files.cache:
        keep_programs()
    jax.config.update("jax_enable_x64", files.precision == "float64")

    def read(path: str, name: str) -> "np.ndarray":
        array = read_array(path, name)
        with np.errstate(over="ignore"):  # values that overflow become infinite, and are refused as such
            return array.astype(files.precision)

    def read_vector(path: str | None, name: str) -> "np.ndarray | None":
        if path is None:
            return None
        return np.atleast_1d(read(path, name).squeeze())  # a .csv or .mat vector is a row or a column

    weights, stimuli = read_weights(files.weights, "weights").astype(files.precision), read(files.stimuli, "stimuli")
    if files.low_rank is not None:
        right = read(files.low_rank, "low-rank")
        check_shape("low-rank", right, weights.shape)
        weights = low_rank_weights(weights, right)
    check_weights("weights", weights)
    check_finite("scale", files.scale)
    weights = weights * np.asarray(files.scale, weights.dtype)
    signs = read_vector(files.signs, "signs")
    if signs is not None:
        rows, columns = weights.nonzero()
        weights = weights * check_signs(signs, columns, weights[rows, columns], len(weights))
    constants = {"power-law": files.power_law, "saturating": files.saturation}.get(files.nonlinearity, ())
    nonlinearity = decode_nonlinearity(files.nonlinearity, *constants)
    time_constants = read_vector(files.time_constants, "time-constants")
    network = rate_network(
        (StateForm if files.form == "state" else RateForm)(nonlinearity),
        weights,
        stimulus_weights=None if files.stimulus_weights is None else read(files.stimulus_weights, "stimulus-weights"),
        bias=read_vector(files.bias, "bias"),
        gains=read_vector(files.gains, "gains"),
        thresholds=read_vector(files.thresholds, "thresholds"),
        time_constants=1.0 if time_constants is None else time_constants,
    )
    check_stimuli(stimuli, network.stimulus_size)
    return network, stimuli


def read_approximator(path: Path, network: "RecurrentNetwork | None" = None) -> "tuple[Approximator, dict]":
    """The approximator in a file, and its card; one of another network is refused."""
    from rnn2ff._checks import fail
    from rnn2ff.export import load

    if not path.is_file():
        raise fail("approximator", "cannot be read", "an existing file", f"{path}")
    if path.suffix != ".safetensors":
        expected = "a file approximator.safetensors, as `rnn2ff distill` writes it"
        raise fail("approximator", "is not one", expected, f"{path}")
    return load(path, network=network)


def check_new_file(
    out: Path, suffixes: tuple[str, ...] = (".npz", ".mat", ".csv"), *, overwrite: bool, name: str = "out"
) -> None:
    """Check for a new file with a known suffix, by default one for arrays, in a folder that can be written to."""
    from rnn2ff._checks import fail

    if out.suffix not in suffixes:
        endings = " or ".join([*([", ".join(suffixes[:-1])] if suffixes[:-1] else []), suffixes[-1]])
        raise fail(name, "is in an unknown format", f"a name that ends in {endings}", f"{out}")
    if out.is_dir():
        raise fail(name, "is a folder", "the name of a file", f"{out}")
    if out.exists() and not overwrite:
        raise fail(name, "exists already", "a new file, or --overwrite", f"{out}")
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise fail(name, "cannot be written", "an existing, writable folder", f"{out.parent}")


@contextmanager
def stages(total: int, *, shows: bool) -> "Iterator[Callable[[str], None]]":
    """A progress bar of stages on standard error; the yielded function begins the next stage."""
    from tqdm import tqdm

    with tqdm(total=total, disable=not shows, bar_format="{desc} ({n_fmt} of {total_fmt}) [{elapsed}]") as bar:

        def begin(what: str) -> None:
            bar.set_description_str(what, refresh=False)
            bar.update()
            bar.refresh()

        yield begin


def check_folder(out: Path) -> None:
    """Check for a folder that can be written to, or created."""
    from rnn2ff._checks import fail

    existing = next(folder for folder in (out, *out.parents) if folder.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise fail("out", "cannot be written", "a writable folder", f"{existing}")


def show(lines: Mapping[str, object], record: Mapping[str, object], *, as_json: bool) -> None:
    """Results on standard output: `lines` as a table, or the whole `record` as JSON."""
    from rnn2ff.files import plain
    from rnn2ff.records import table

    print(json.dumps(plain(record), indent=2, allow_nan=False) if as_json else table(lines))
