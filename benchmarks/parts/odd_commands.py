"""Command lines with odd options and odd files, and their allowed outcomes."""

import contextlib
import io
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.random as jr
import numpy as np
import scipy.sparse

import rnn2ff
from benchmarks.parts.odd_arguments import ODD_ARRAYS
from benchmarks.parts.trials import IN_ONE_SENTENCE, in_turns
from rnn2ff import cli

FAULTS = ("traceback", "no sentence", "files left")
_WEIGHTS = np.array([[0.2, -0.5, 0.1], [0.3, 0.1, -0.4], [0.0, 0.6, -0.2]])
_STIMULI = np.random.default_rng(0).uniform(size=(12, 3))
_VALUES = (
    "-1",
    "0",
    "1",
    "2",
    "0.5",
    "1e-30",
    "1e30",
    "nan",
    "inf",
    "-inf",
    "",
    "none",
    "W.npy",
    "état",
    "a\nb",
    "1,2",
)
_COMMANDS: dict[str, tuple[str, ...]] = {
    "solve": ("--weights", "W.npy", "--stimuli", "U.npy", "--out", "states.npz", "--max-steps", "200"),
    "fixed-points": ("--weights", "W.npy", "--stimuli", "U.npy", "--out", "points.npz"),
    "distill": ("--weights", "W.npy", "--stimuli", "U.npy", "--out", "run", "--width", "4", "--num-steps", "4"),
    "evaluate": ("--weights", "W.npy", "--stimuli", "U.npy", "--approximator", "model.safetensors"),
    "certify": ("--weights", "W.npy", "--stimuli", "U.npy", "--approximator", "model.safetensors"),
    "export": ("--approximator", "model.safetensors", "--to", "c", "--out", "deploy", "--stimuli", "U.npy"),
    "networks": ("--write", "winner_take_all", "--out", "network"),
}
_MORE: tuple[tuple[str, ...], ...] = (
    ("--bias", "b.npy"), ("--time-constants", "b.npy"), ("--stimulus-weights", "W.npy"), ("--form", "rate"),
    ("--nonlinearity", "power-law"), ("--power-law", "1", "2"), ("--precision", "float64"), ("--tolerance", "1e-4"),
    ("--json",), ("--overwrite",), ("--seed", "3"), ("--no-progress",), ("--nothing",),
)  # fmt: skip


def _prepare(folder: Path) -> dict[str, np.ndarray]:
    """Write a valid model, and return valid arrays by file name."""
    network = rnn2ff.threshold_linear(_WEIGHTS)
    model = rnn2ff.TwoLayer(3, 4, 3, key=jr.key(0))
    rnn2ff.save(folder / "model.safetensors", model, card=rnn2ff.model_card(network, _STIMULI))
    return {"W.npy": _WEIGHTS, "U.npy": _STIMULI, "b.npy": np.ones(3)}


def command(name: str, rng: np.random.Generator) -> tuple[list[str], dict[str, str]]:
    """A random command line, and the odd files by name, with the kind of each."""
    arguments = list(_COMMANDS[name])
    for more in rng.permutation(len(_MORE))[: rng.integers(3)]:
        arguments += _MORE[more]
    odd_files = {}
    for _ in range(1 + rng.integers(2)):
        if rng.uniform() < 0.5:
            odd_files[str(rng.choice(["W.npy", "U.npy", "b.npy"]))] = str(rng.choice(list(ODD_ARRAYS)))
        else:
            places = [place for place, word in enumerate(arguments) if not word.startswith("--")]
            arguments[int(rng.choice(places))] = str(rng.choice(_VALUES))
    return [name, *arguments], odd_files


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


def run(arguments: list[str]) -> Ended:
    """Run a command line in this process."""
    before, sys.argv = sys.argv, ["rnn2ff", *arguments]
    x64, cache = jax.config.jax_enable_x64, jax.config.jax_compilation_cache_dir
    out, err = io.StringIO(), io.StringIO()
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.main()
    except SystemExit as exit:
        code = exit.code
    finally:
        sys.argv = before
        jax.config.update("jax_enable_x64", x64)
        jax.config.update("jax_compilation_cache_dir", cache)
    return Ended(code, out.getvalue(), err.getvalue())


def attempt(name: str, rng: np.random.Generator) -> tuple[str, str]:
    """Run one command line in a folder of its own; returns the outcome, and a description of the command."""
    arguments, odd_files = command(name, rng)
    description = f"{' '.join(map(repr, arguments))} {odd_files}"
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        for file, array in _prepare(Path(folder)).items():
            kind = odd_files.get(file)
            _write(Path(folder) / file, array if kind is None else _odd(kind, array))
        os.chdir(folder)
        before = set(Path(folder).rglob("*"))
        try:
            code, _, err = run(arguments)
        except Exception as error:  # any other error is a fault to report
            return "traceback", f"{description}: {error!r:.300}"
        finally:
            os.chdir(home)
        left = [path.name for path in set(Path(folder).rglob("*")) - before]
    if code == 0:
        return "done", description
    is_usage = "Traceback" not in err and ("─" in err or "rnn2ff: error:" not in err)
    if code == 2 and left:
        return "files left", f"{description}: {left}"
    has_form = is_usage or code == 1 or IN_ONE_SENTENCE.search(err.strip())
    return (f"refused, {code}", description) if has_form else ("no sentence", f"{description}: {err[-300:]}")


def _odd(kind: str, array: np.ndarray) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows in conversions
        return ODD_ARRAYS[kind](array)


def _write(path: Path, content: object) -> None:
    """Write an array as a file of NumPy, and anything else as text under the same name."""
    try:
        array = np.asarray(content.todense() if scipy.sparse.issparse(content) else content)
        np.save(path, array, allow_pickle=True)
    except ValueError:
        path.write_text(repr(content))


def attack(num_commands: int, seed: int) -> list[dict]:
    """Run command lines in turns, and count the outcomes."""
    return in_turns(attempt, list(_COMMANDS), num_commands, seed, FAULTS)
