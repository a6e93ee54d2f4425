"""Results in words, as text and as HTML; records of runs with their settings and environment; interleaved timings."""

import dataclasses
import html
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rnn2ff._checks import is_known
from rnn2ff.files import plain

_PACKAGES = ("rnn2ff", "jax", "jaxlib", "equinox", "diffrax", "optimistix", "optax", "numpy")


def environment() -> dict[str, object]:
    """The commit, versions and device of this run."""
    devices = jax.devices()
    return {
        **_commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "platform": devices[0].platform,
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "num_threads": num_threads(),
        "x64": bool(jax.config.jax_enable_x64),
        "matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "keeps_programs": bool(jax.config.jax_compilation_cache_dir and jax.config.jax_enable_compilation_cache),
    }


def num_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def record(name: str, config: object, rows: list[dict], *, seconds: float, **more: object) -> dict[str, object]:
    """A record: the results, every setting (a dataclass), wall-clock seconds of the run, and the environment."""
    return plain(
        {
            "name": name,
            "config": dataclasses.asdict(config),
            "rows": rows,
            **more,
            "environment": environment(),
            "seconds": round(seconds, 1),
        }
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, object]:
    """The commit of the running code, and whether anything but results differs from it; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may be inside another checkout.
    is_ours = git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    commit = git("rev-parse", "HEAD") if is_ours else None
    changes = git("status", "--porcelain", "--", ":/*.py", ":/*.toml")
    return {"commit": commit, "is_dirty": None if commit is None else bool(changes)}


def processor_features() -> str:
    """The instruction sets that compiled programs may use, as far as the system reports them."""
    reported = _processor_fields()
    return "\n".join([platform.machine(), _processor(), reported.get("flags", ""), reported.get("Features", "")])


def _processor() -> str:
    return _processor_fields().get("model name", platform.processor())


def _processor_fields() -> dict[str, str]:
    """What Linux reports about the last core."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


# --- results in words -------------------------------------------------------------------------------------------------


# Results have a method `_describe`, for a title and values by name; None if they are placeholders, as inside `jit`.


def table(lines: Mapping[str, object], *, title: str | None = None) -> str:
    """Names and values in two columns, for people."""
    width = max([26, *(len(name) + 2 for name in lines)])
    return "\n".join([*([title] if title else []), *(f"{name:{width}s}{value}" for name, value in lines.items())])


def in_percent(share: float) -> str:
    """A share in percent, without the sign: two decimals, or two digits if those would be zeros."""
    return f"{100 * share:.2g}" if 0 < share < 0.0001 else f"{100 * share:.2f}"


def readable(kind: type) -> type:
    """Decorates a class of results: they print as text, and in notebooks as a table; Tab shows their attributes."""
    kind.__repr__, kind._repr_html_ = as_text, as_html
    if issubclass(kind, tuple):
        kind.__dir__ = names_of_fields
    return kind


def as_text(result: object) -> str:
    """A result in a few lines of text; the `__repr__` of results. Placeholders are printed as shapes."""
    described = result._describe()
    if described is None:
        from equinox import tree_pformat

        return tree_pformat(result)
    title, lines = described
    return table(lines, title=title)


def as_html(result: object) -> str:
    """The same lines as a table of HTML, every word escaped; the `_repr_html_` of results, which notebooks call."""
    described = result._describe()
    if described is None:
        return f"<pre>{html.escape(as_text(result))}</pre>"
    title, lines = described
    return html_table(lines, title=title)


def html_table(lines: Mapping[str, object], *, title: str | None = None) -> str:
    """Names and values as a table of HTML, every word escaped."""
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    rows = (
        f"<tr><th scope='row' style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in lines.items()
    )
    return f"<table>{caption}<tbody>{''.join(rows)}</tbody></table>"


def names_of_fields(result: object) -> list[str]:
    """The attributes of a result without the methods of tuples; the `__dir__` of results, which Tab shows."""
    return [name for name in object.__dir__(result) if name not in ("count", "index")]


def is_shown(*arrays: object) -> bool:
    """Whether all are arrays of known values, which can be printed, not placeholders, as inside `jit`."""
    return all(isinstance(array, np.ndarray) or (hasattr(array, "devices") and is_known(array)) for array in arrays)


# --- timing -----------------------------------------------------------------------------------------------------------


class Seconds(NamedTuple):
    """Seconds per call, over the rounds."""

    median: float  # half of the rounds were faster
    lower: float  # lower quartile
    upper: float  # upper quartile


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], *, num_rounds: int = 20, round_seconds: float = 0.02
) -> dict[str, Seconds]:
    """Time functions in turns, so that all of them are affected alike when the machine slows down.

    Each is first called once, which compiles it, and then repeatedly for `round_seconds` in every round.

    Args:
        functions: functions without arguments; timing waits for the arrays that they return.
        num_rounds: how many turns.
        round_seconds: about how long one turn of one function takes.
    """
    num_calls = {}
    for name, function in functions.items():
        jax.block_until_ready(function())
        num_calls[name] = max(1, int(round_seconds / max(timed(function).seconds, 1e-7)))
    taken = {name: [] for name in functions}
    for _ in range(num_rounds):
        for name, function in functions.items():
            taken[name].append(timed(function, num_calls[name]).seconds)
    return {name: quartiles(seconds) for name, seconds in taken.items()}


class Timed(NamedTuple):
    """A result, and how long it took."""

    result: object  # of the last call
    seconds: float  # mean time of one call, until its result is ready


def timed(call: Callable[[], object], num_calls: int = 1) -> Timed:
    """Call, and wait for the result."""
    started = time.perf_counter()
    for _ in range(num_calls):
        result = call()
    jax.block_until_ready(result)
    return Timed(result, (time.perf_counter() - started) / num_calls)


def quartiles(seconds: Sequence[float]) -> Seconds:
    """The median and the quartiles."""
    return Seconds(*(float(np.quantile(seconds, q)) for q in (0.5, 0.25, 0.75)))
