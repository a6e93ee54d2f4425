"""What every script of an experiment or a benchmark does: read its options, run, print, and save the record."""

import dataclasses
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import tyro
from tqdm import tqdm

from experiments._executors import Kind, computing
from rnn2ff.files import write_json
from rnn2ff.plotting import save_figure

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every script, beside the settings in its `Config`."""

    smoke: bool = False
    """Run a small version in seconds, to check that it works; its results are kept apart from the committed ones."""
    out: Path | None = None
    """Folder for the record and the figures; by default the script's folder, or build/smoke with --smoke."""
    executor: Kind = "serial"
    """What computes independent rows: this process; a pool of processes; Dask; submitit (Slurm)."""
    workers: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(optional)")] = None
    """Processes of a local pool, or of Dask without --scheduler; by default one per core."""
    scheduler: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(optional)")] = None
    """The address of a Dask scheduler, or the cluster of submitit: slurm, or local."""


class Config(Protocol):
    """Every setting of a script, frozen; each is an option of the command line."""

    seed: int

    def smoke(self) -> "Config":
        """The same, small enough to run in seconds."""


def run_script(
    name: str,
    config: Config,
    run: Callable[..., Iterable[dict]],
    describe: Callable[[list[dict]], str],
    draw: Callable[[dict], object] | None = None,
    *,
    folder: Path = HERE,
) -> None:
    """Run an experiment or a benchmark as a script.

    Args:
        name: of the script, after which its files are named.
        config: the settings at full size.
        run: computes the rows; if it yields them, the record is rewritten after each one, so that an interrupted run
            keeps the rows it has computed. If rows do not depend on each other, it also takes `compute`, which
            computes rows from calls.
        describe: the rows of the record as text to print.
        draw: makes the figure from the record, if there is one.
        folder: of the script, into which its record is written.
    """

    def read(options: Options, settings: type(config) = config) -> tuple[Options, Config]:
        return options, settings

    program = f"python -m {folder.name}.{name}"
    flat = (tyro.conf.OmitArgPrefixes,)
    options, config = tyro.cli(read, prog=program, description=f"`{name}` of the {folder.name}.", config=flat)
    config = config.smoke() if options.smoke else config
    out = options.out or (HERE.parent / "build" / "smoke" if options.smoke else folder)
    started = time.perf_counter()

    from rnn2ff.records import record

    (out / "results").mkdir(parents=True, exist_ok=True)
    written = [out / "results" / f"{name}.json"]
    settings = {"num_workers": options.workers, "scheduler": options.scheduler, "folder": out / "jobs"}
    if options.executor != "serial" and "compute" not in inspect.signature(run).parameters:
        sys.exit(
            f"`--executor` cannot divide this experiment. Expected rows that do not depend on each other, got {name}."
        )
    if options.executor != "serial":
        from rnn2ff.compiling import environment_that_keeps_programs

        os.environ.update(environment_that_keeps_programs())  # workers compile the same programs
    with computing(options.executor, **settings) as compute:
        computed = run(config) if options.executor == "serial" else run(config, compute)
        rows = [] if isinstance(computed, Iterator) else computed
        if isinstance(computed, Iterator):
            for row in tqdm(computed, bar_format=f"{name}: {{n}} rows after {{elapsed}}"):
                rows.append(row)
                seconds = time.perf_counter() - started
                write_json(written[0], record(name, config, rows, seconds=seconds, is_complete=False))
    seconds = time.perf_counter() - started
    content = record(name, config, rows, seconds=seconds)
    print(describe(content["rows"]))
    write_json(written[0], content)
    if draw is not None:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        figure = draw(content)
        for ending in ("pdf", "png"):
            written.append(out / "figures" / f"{name}.{ending}")
            save_figure(figure, written[-1])
    print(f"\n{seconds:.0f} seconds; written: {', '.join(map(str, written))}")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain-text table, which is a Markdown table as well; the first column to the left, numbers to the right."""
    cells = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        return "| " + " | ".join([row[0].ljust(widths[0]), *numbers]) + " |"

    rule = "|" + "-" * (widths[0] + 2) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])
