"""What breaks the library: files, arguments, interruptions, odd networks, units, long runs?

Each section attacks one thing, counts the outcomes, and lists every fault with the seed that reproduces it.

* `files`: valid files of every kind that is read, changed and truncated. Each must be refused in one sentence, or read
  as what it now contains; never another error, a hang, more memory than twice the file, executed code, or, where a
  file holds a hash of itself, another content.
* `calls`: public functions with one or two arguments of odd types, shapes, dtypes and sizes. Each must give a right
  answer or a refusal in one sentence.
* `commands`: command lines with odd options and files: done, or refused with an exit code and a sentence, and no file
  left by a command that was refused.
* `interruptions`: generation, training, export, page and report, killed at random times or run on a full disk: existing
  files stay intact, and a resumed run ends with the same bytes.
* `networks`: verdicts beside the float64 truth of `honest_failures`, for families that are hard to judge.
* `units`: the same networks in other units of time and of rates: the same statuses and states.
* `batches`: thousands of batches in one process: memory does not grow, and nothing compiles after a warm-up.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from benchmarks.parts import (
    broken_files,
    interruptions,
    long_runs,
    odd_calls,
    odd_commands,
    odd_networks,
)
from experiments._script import run_script, table

Section = Literal["files", "calls", "commands", "interruptions", "networks", "units", "batches"]
_MOST_SHOWN = 40  # faults
_MOST_OUTCOMES = 4  # of a section, in the short table


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of everything that is drawn at random."""
    only: tuple[Section, ...] = ()
    """Names of the sections; all of them if empty."""
    num_files: int = 10_000
    """Changed files."""
    num_calls: int = 1000
    """Calls of public functions."""
    num_commands: int = 300
    """Command lines."""
    num_kills: int = 100
    """Jobs that are killed, twice on average."""
    num_full_disks: int = 40
    """Jobs that run on a full disk."""
    num_networks: int = 40
    """Networks of each family."""
    num_stimuli: int = 24
    """Stimuli for each network."""
    num_batches: int = 10_000
    """Batches of each loop."""

    def smoke(self) -> "Config":
        """Small enough to run in a few minutes, nearly all of which is compilation."""
        return dataclasses.replace(
            self,
            num_files=200,
            num_calls=100,
            num_commands=7,
            num_kills=5,
            num_full_disks=5,
            num_networks=1,
            num_stimuli=4,
            num_batches=50,
        )


_SECTIONS: dict[str, Callable[[Config], Iterable[dict]]] = {
    "files": lambda config: broken_files.attack(config.num_files, config.seed),
    "calls": lambda config: odd_calls.attack(config.num_calls, config.seed),
    "commands": lambda config: odd_commands.attack(config.num_commands, config.seed),
    "interruptions": lambda config: interruptions.attack(config.num_kills, config.num_full_disks, config.seed),
    "networks": lambda config: odd_networks.attack(
        config.num_networks, config.num_stimuli, config.seed, ("float32", "float64")
    ),
    "units": lambda config: odd_networks.attack_units(config.num_networks, config.num_stimuli, config.seed),
    "batches": lambda config: long_runs.attack(config.num_batches),
}


def run(config: Config) -> Iterator[dict]:
    """A row for each target: the counts of outcomes, and the faults."""
    for section in config.only or _SECTIONS:
        for row in _SECTIONS[section](config):
            yield {"section": section, **row}


def marks(rows: list[dict]) -> Iterator[dict]:
    """For each section: no fault."""
    for section in dict.fromkeys(row["section"] for row in rows):
        of_this = [row for row in rows if row["section"] == section]
        num_faults = sum(len(row["faults"]) for row in of_this)
        num_tried = sum(sum(row["counts"].values()) for row in of_this)
        received = f"{num_faults} of {num_tried}"
        yield {"what": f"faults, {section}", "mark": "0", "received": received, "is_met": num_faults == 0}


def summarize(rows: list[dict]) -> str:
    """A line for each section: the number of trials, the most frequent outcomes, and the number of faults."""
    lines = []
    for section in dict.fromkeys(row["section"] for row in rows):
        of_this = [row for row in rows if row["section"] == section]
        counts = Counter()
        for row in of_this:
            counts.update(row["counts"])
        outcomes = ", ".join(f"{what} {count}" for what, count in counts.most_common(_MOST_OUTCOMES))
        lines.append([section, len(of_this), counts.total(), outcomes, sum(len(row["faults"]) for row in of_this)])
    return table(["section", "kinds", "tried", "most frequent outcomes", "faults"], lines)


def describe(rows: list[dict]) -> str:
    """Counts, marks and faults."""
    lines = []
    for row in rows:
        outcomes = ", ".join(f"{what} {count}" for what, count in sorted(row["counts"].items()))
        lines.append([row["section"], row["what"], sum(row["counts"].values()), outcomes, len(row["faults"])])
    judged = [[mark["what"], mark["received"], "met" if mark["is_met"] else "NOT MET"] for mark in marks(rows)]
    faults = [f"{row['section']}, {row['what']}: {fault}" for row in rows for fault in row["faults"]]
    parts = [table(["section", "what", "tried", "outcomes", "faults"], lines), table(["mark", "received", ""], judged)]
    return "\n\n".join([*parts, "\n".join(faults[:_MOST_SHOWN]) or "No faults."])


if __name__ == "__main__":
    run_script("robustness", Config(), run, describe, folder=Path(__file__).parent)
