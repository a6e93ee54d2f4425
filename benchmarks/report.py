"""The report of the suite, generated from its records alone: `python -m benchmarks.report [FOLDER]` writes it again."""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.parts.marks import marks_table
from benchmarks.parts.suite import SUITE
from experiments._script import table
from rnn2ff.plotting import save_figure

_DEVICES = ("cpu", "gpu", "tpu")


def write_report(out: Path, names: Sequence[str], failed: Mapping[str, str] = {}) -> Path:
    """Write `report.md` and the figures.

    Args:
        out: the folder that has the records in `results`.
        names: of the benchmarks, in order; those without a record are listed as not run.
        failed: the last line of the error output of those that failed in this run.
    """
    records = {name: _read(out, name) for name in names}
    available = {name: record for name, record in records.items() if record is not None}
    parts = [
        "# Benchmarks",
        "Written by `python -m benchmarks`; `benchmarks/README.md` says what is timed, and how.",
        _overview(records, failed),
        f"## Devices\n\n{_devices(out, names)}",
    ]
    marks = []
    for name, record in available.items():
        module = importlib.import_module(f"benchmarks.{name}")
        parts.append(f"## {name}\n\n{(module.__doc__ or '').strip()}")
        if _draw(out, name, record):
            parts.append(f"![{name}](figures/{name}.png)")
        parts.append(_headings(module.describe(record["rows"])))
        if hasattr(module, "marks"):
            marks += [{"benchmark": name, **mark} for mark in module.marks(record["rows"])]
    if marks:
        parts.append(f"## Marks\n\n{marks_table(marks)}")
    path = out / "report.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def _read(out: Path, name: str) -> dict | None:
    path = out / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _draw(out: Path, name: str, record: dict) -> bool:
    """Draw the figure, if the benchmark has one; returns whether it does."""
    if not (Path(__file__).parent / "drawings" / f"{name}.py").is_file():
        return False
    (out / "figures").mkdir(exist_ok=True)
    figure = importlib.import_module(f"benchmarks.drawings.{name}").draw(record)
    save_figure(figure, out / "figures" / f"{name}.png")
    return True


def _overview(records: Mapping[str, dict | None], failed: Mapping[str, str]) -> str:
    header = ["benchmark", "device", "threads", "matrix products", "XLA flags", "jax", "commit", "minutes"]
    lines = []
    for name, record in records.items():
        if record is None or name in failed:
            what = f"FAILED: {failed[name]}" if name in failed else "not run"
            lines.append([f"{name}: {what}", *"-" * (len(header) - 1)])
            continue
        where = record["environment"]
        commit = (where["commit"] or "-")[:8] + (", changed" if where["is_dirty"] else "")
        complete = "" if record.get("is_complete", True) else ", interrupted"
        complete += ", programs kept" if where.get("keeps_programs") else ""
        lines.append(
            [
                name + complete,
                f"{where['device']} ({where['processor']})",
                where.get("num_threads", where["num_cores"]),
                where["matmul_precision"],
                f"`{where['xla_flags'].strip()}`" if where["xla_flags"] else "-",
                where["versions"]["jax"],
                commit,
                f"{record['seconds'] / 60:.1f}",
            ]
        )
    return table(header, lines)


def _devices(out: Path, names: Sequence[str]) -> str:
    """Which benchmarks were run on which device, and which were not."""
    home = out.parent if out.name in _DEVICES else out
    lines = []
    for device in _DEVICES:
        for folder in (home, home / device):
            records = {name: _read(folder, name) for name in names}
            run = [name for name, record in records.items() if record and record["environment"]["platform"] == device]
            if run:
                kind = records[run[0]]["environment"]["device"]
                missing = [name for name in names if name not in run]
                lines.append([f"{device}: {kind}", ", ".join(run), ", ".join(missing) or "-"])
                break
        else:
            lines.append([device, "nothing", "all"])
    return table(["device", "run", "not run"], lines)


def _headings(text: str) -> str:
    """Turn titles of tables into headings: each line that stands alone before a table."""
    lines = text.split("\n")
    for i, line in enumerate(lines[:-2]):
        if line and not line.startswith(("|", "*", "#")) and not lines[i + 1] and lines[i + 2].startswith("|"):
            lines[i] = f"### {line}"
    return "\n".join(lines)


if __name__ == "__main__":
    print(
        write_report(
            Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent, [benchmark.name for benchmark in SUITE]
        )
    )
