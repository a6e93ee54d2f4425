"""Write the tables of the README and the docs from the records: `python -m experiments.readme`; or only `--check`."""

import importlib
import json
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

from experiments.figures import NAMES

_ROOT = Path(__file__).parent.parent
_PAGES = (
    "README.md",
    "docs/deploy.md",
    "docs/evidence.md",
    "docs/scale.md",
    "experiments/README.md",
    "benchmarks/README.md",
)
_FOLDERS = ("experiments", "benchmarks")
_UNITS, _BATCH, _WIDTH = 128, 256, 4  # of the table of results; the width is in hidden units per unit


def with_tables(text: str) -> str:
    """The text in which everything between a mark and `<!-- end -->` is regenerated from the records.

    `<!-- table: NAME -->` gets what the script prints, `<!-- summary: NAME -->` its short table of the same rows,
    `<!-- verdict: NAME -->` its verdict on its claim, `<!-- verdicts -->` the table of all verdicts, and
    `<!-- claims -->` that of their first words, with links to the sections of the page.
    `<!-- results: rollout_vs_forward -->` gets the shortest table of all, for the first page.
    """
    for mark, write in _WRITERS.items():
        pattern = rf"(<!-- {mark}: (\w+) -->\n).*?<!-- end -->"
        text = re.sub(pattern, lambda m, write=write: m[1] + write(m[2]) + _END, text, flags=re.DOTALL)
    for mark, is_short in (("verdicts", False), ("claims", True)):
        pattern, lines = rf"(<!-- {mark} -->\n).*?<!-- end -->", _verdicts(is_short=is_short)
        text = re.sub(pattern, lambda m, lines=lines: m[1] + lines + _END, text, flags=re.DOTALL)
    return text


_END = "\n<!-- end -->"


def _has_record(name: str) -> bool:
    return any((_ROOT / folder / "results" / f"{name}.json").is_file() for folder in _FOLDERS)


def _folder(name: str) -> str:
    """The folder of a script."""
    return next(folder for folder in _FOLDERS if (_ROOT / folder / f"{name}.py").is_file())


def _script_and_record(name: str) -> tuple[ModuleType, dict]:
    folder = _folder(name)
    record = json.loads((_ROOT / folder / "results" / f"{name}.json").read_text())
    return importlib.import_module(f"{folder}.{name}"), record


def _printed(name: str, function: str) -> str:
    """What a function of the script, `describe` or `summarize`, returns for the rows of its record."""
    if not _has_record(name):
        return f"Not run at full size yet. `python -m {_folder(name)}.{name}` leaves the record."
    script, record = _script_and_record(name)
    return getattr(script, function)(record["rows"])


def _verdict(name: str) -> str:
    if not _has_record(name):
        return f"**No verdict yet: not run at full size.** `python -m experiments.{name}` leaves the record."
    script, record = _script_and_record(name)
    minutes, where = record["seconds"] / 60, record["environment"]
    place = f"{where['num_cores']} cores, {where['platform']}"
    return f"**{script.verdict(record['rows'])}** ({minutes:.1f} minutes on {place})"


def _results(name: str) -> str:
    """Error, time and size of passes and solves: two layers, sweeps that take no more operations, and the network."""
    _, record = _script_and_record(name)
    most = max(row["num_threads"] for row in record["rows"])
    place = {"state_size": _UNITS, "batch_size": _BATCH, "num_threads": most}
    rows = [row for row in record["rows"] if "nrmse" in row and place.items() <= row.items()]
    passes = [row for row in rows if row["kind"] == "pass"]
    (two_layers,) = (row for row in passes if not row["num_sweeps"] and row["width"] == _WIDTH * _UNITS)
    swept = [row for row in passes if row["num_sweeps"] and row["num_operations"] <= two_layers["num_operations"]]
    solved = [row for row in rows if row.get("share_converged") == 1]
    fastest = {
        kind: min((row for row in solved if row["kind"] == kind), key=lambda row: row["microseconds"][0])
        for kind in ("solver", "rollout")
    }
    best = max(swept, key=lambda row: row["num_sweeps"])
    units = f"{best['width']} hidden units, " if best["width"] else ""
    layers = 2 * two_layers["width"] * _UNITS
    with_sweeps = 2 * best["width"] * _UNITS + 2 * _UNITS**2
    lines = [
        (f"two layers, {two_layers['width']} hidden units", two_layers, layers),
        (f"{units}{best['num_sweeps']} sweeps, no more products", best, with_sweeps),
        ("recurrent network, our solver, stability checked", fastest["solver"], _UNITS**2),
        (f"recurrent network, rollout (diffrax, {fastest['rollout']['method']})", fastest["rollout"], _UNITS**2),
    ]
    header = "| | error (NRMSE) | of the worst unit | 95th percentile of stimuli | time per stimulus | weights |"
    text = [header, "|---|--:|--:|--:|--:|--:|"]
    for title, row, size in lines:
        errors = (f"{100 * row[name]:.2g} %" for name in ("nrmse", "worst_unit_nrmse", "percentile_95"))
        text.append(f"| {title} | {' | '.join(errors)} | {row['microseconds'][0]:.3g} us | {size:,} |")
    return "\n".join(text)


def _verdicts(*, is_short: bool) -> str:
    """One line for each claim that has a record."""
    lines = ["| experiment | claim | verdict |", "|---|---|---|"]
    for name in NAMES:
        if _has_record(name):
            script, record = _script_and_record(name)
            verdict = script.verdict(record["rows"])
            title, verdict = (f"[`{name}`](#{name})", verdict.split(":")[0]) if is_short else (f"`{name}`", verdict)
            lines.append(f"| {title} | {script.CLAIM} | {verdict} |")
    return "\n".join(lines)


_WRITERS = {
    "table": partial(_printed, function="describe"),
    "summary": partial(_printed, function="summarize"),
    "verdict": _verdict,
    "results": _results,
}


def main() -> None:
    """Write the pages, or with `--check` exit with 1 if their tables differ from the records."""
    for name in _PAGES:
        path = _ROOT / name
        text = path.read_text()
        if "--check" not in sys.argv[1:]:
            path.write_text(with_tables(text))
        elif with_tables(text) != text:
            sys.exit(f"The tables of {name} are not those of the records. Run: python -m experiments.readme")


if __name__ == "__main__":
    main()
