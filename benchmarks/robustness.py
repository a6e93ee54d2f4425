"""What breaks the library: files, arguments, interruptions, odd networks, units, long runs?

Each section attacks one thing, counts what came of it, and lists every fault with the seed that makes it again.

* `files`: whole files of every kind that is read, changed and cut. Each must be refused in one sentence, or read as
  what it says; never another error, a hang, more memory than twice the file, code, or, where a file holds a hash of
  itself, another content.
* `calls`: public functions with one or two arguments of odd types, shapes, dtypes and sizes. Each must give a right
  answer or a refusal in one sentence.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from benchmarks.parts import broken_files, odd_calls
from experiments._script import run_script, table

Section = Literal["files", "calls"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of everything that is drawn."""
    only: tuple[Section, ...] = ()
    """Which sections; all of them if empty."""
    num_files: int = 10_000
    """Changed files."""
    num_calls: int = 1000
    """Calls of public functions."""

    def smoke(self) -> "Config":
        """Small enough to run in a minute or two, nearly all of which is compilation."""
        return dataclasses.replace(self, num_files=200, num_calls=100)


def _files(config: Config) -> Iterator[dict]:
    yield from broken_files.attack(config.num_files, config.seed)


def _calls(config: Config) -> Iterator[dict]:
    yield from odd_calls.attack(config.num_calls, config.seed)


_SECTIONS: dict[str, Callable[[Config], Iterator[dict]]] = {"files": _files, "calls": _calls}


def run(config: Config) -> Iterator[dict]:
    """A row for each thing that is attacked: how often what came of it, and the faults."""
    for section in config.only or _SECTIONS:
        for row in _SECTIONS[section](config):
            yield {"section": section, **row}


def marks(rows: list[dict]) -> Iterator[dict]:
    """For each section: no fault."""
    for section in dict.fromkeys(row["section"] for row in rows):
        of_this = [row for row in rows if row["section"] == section]
        num_faults = sum(len(row["faults"]) for row in of_this)
        num_tried = sum(sum(row["counts"].values()) for row in of_this)
        yield {"what": f"faults, {section}", "mark": "0", "received": f"{num_faults} of {num_tried}",
               "is_met": num_faults == 0}  # fmt: skip


def describe(rows: list[dict]) -> str:
    """Counts, marks and faults."""
    lines = [
        [row["section"], row["what"], sum(row["counts"].values()),
         ", ".join(f"{what} {count}" for what, count in sorted(row["counts"].items())), len(row["faults"])]
        for row in rows
    ]  # fmt: skip
    judged = [[each["what"], each["received"], "met" if each["is_met"] else "NOT MET"] for each in marks(rows)]
    faults = [f"{row['section']}, {row['what']}: {fault}" for row in rows for fault in row["faults"]]
    parts = [table(["section", "what", "tried", "outcomes", "faults"], lines), table(["mark", "received", ""], judged)]
    return "\n\n".join([*parts, "\n".join(faults[:40]) or "No faults."])


if __name__ == "__main__":
    run_script("robustness", Config(), run, describe, folder=Path(__file__).parent)
