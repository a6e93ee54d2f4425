"""What every experiment script does: read its options, run, print, keep the record, draw the figure."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import tyro

from rnn2ff.files import write_json
from rnn2ff.plotting import save_figure

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of an experiment script."""

    smoke: bool = False
    """Run a small version in seconds, to see that it works; keeps its results out of the committed ones."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path | None = None
    """Folder for the record and the figures; by default this folder, or build/smoke with --smoke."""


class Config(Protocol):
    """Every setting of an experiment, frozen."""

    seed: int

    def smoke(self) -> "Config":
        """The same experiment, small enough to run in seconds."""


def run_script(
    name: str,
    config: Config,
    run: Callable[[Config], list[dict]],
    describe: Callable[[list[dict]], str],
    draw: Callable[[dict], object],
) -> None:
    """Run an experiment as a script.

    Args:
        name: of the experiment; its files are called so.
        config: the settings at full size.
        run: computes the rows.
        describe: the rows of the record as text to print.
        draw: makes the figure from the record.
    """
    options = tyro.cli(Options, prog=f"python -m experiments.{name}", description=f"The experiment `{name}`.")
    config = dataclasses.replace(config, seed=options.seed)
    config = config.smoke() if options.smoke else config
    out = options.out or (HERE.parent / "build" / "smoke" if options.smoke else HERE)
    started = time.perf_counter()
    rows = run(config)
    seconds = time.perf_counter() - started

    from rnn2ff.records import record  # it imports JAX, which help does not need

    content = record(name, config, rows, seconds=seconds)
    print(describe(content["rows"]))
    results, figures = out / "results", out / "figures"
    for folder in (results, figures):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(results / f"{name}.json", content)
    figure = draw(content)
    for ending in ("png", "pdf"):
        save_figure(figure, figures / f"{name}.{ending}")
    print(f"\n{seconds:.0f} seconds; record and figure: {results / name}.json, {figures / name}.png")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain-text table, which is a Markdown table as well; the first column to the left, numbers to the right."""
    cells = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        return "| " + " | ".join([row[0].ljust(widths[0]), *numbers]) + " |"

    rule = "|" + "-" * (widths[0] + 2) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])
