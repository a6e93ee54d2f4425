"""Write the tables of the README and the docs from the records: `python -m experiments.readme`; or only `--check`."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

from experiments.figures import NAMES

_ROOT = Path(__file__).parent.parent
_PAGES = ("README.md", "docs/deploy.md", "experiments/README.md")
_FOLDERS = ("experiments", "benchmarks")


def with_tables(text: str) -> str:
    """The text with what stands between a mark and `<!-- end -->` made anew from the records.

    `<!-- table: NAME -->` is what the script prints, `<!-- summary: NAME -->` a short table that it makes of the same,
    `<!-- verdict: NAME -->` what it says of its claim, and `<!-- verdicts -->` the table of all verdicts.
    """
    for mark, write in [("table", _table), ("summary", _summary), ("verdict", _verdict)]:
        pattern = rf"(<!-- {mark}: (\w+) -->\n).*?<!-- end -->"
        text = re.sub(pattern, lambda m, write=write: m[1] + write(m[2]) + _END, text, flags=re.DOTALL)
    return re.sub(r"(<!-- verdicts -->\n).*?<!-- end -->", lambda m: m[1] + _verdicts() + _END, text, flags=re.DOTALL)


_END = "\n<!-- end -->"


def _script_and_record(name: str) -> tuple[ModuleType, dict]:
    folder = next(each for each in _FOLDERS if (_ROOT / each / f"{name}.py").is_file())
    record = json.loads((_ROOT / folder / "results" / f"{name}.json").read_text())
    return importlib.import_module(f"{folder}.{name}"), record


def _table(name: str) -> str:
    script, record = _script_and_record(name)
    return script.describe(record["rows"])


def _summary(name: str) -> str:
    script, record = _script_and_record(name)
    return script.summarize(record["rows"])


def _verdict(name: str) -> str:
    if not any((_ROOT / folder / "results" / f"{name}.json").is_file() for folder in _FOLDERS):
        return "*Not yet run at full size.*"
    script, record = _script_and_record(name)
    minutes, where = record["seconds"] / 60, record["environment"]
    place = f"{where['num_cores']} cores, {where['platform']}"
    return f"**{script.verdict(record['rows'])}** ({minutes:.1f} minutes on {place})"


def _verdicts() -> str:
    """One line for each claim whose record is there."""
    lines = ["| experiment | claim | verdict |", "|---|---|---|"]
    for name in NAMES:
        if (_ROOT / "experiments" / "results" / f"{name}.json").is_file():
            script, record = _script_and_record(name)
            lines.append(f"| `{name}` | {script.CLAIM} | {script.verdict(record['rows'])} |")
    return "\n".join(lines)


def main() -> None:
    """Write the pages, or with `--check` exit with 1 if their tables are not those of the records."""
    for name in _PAGES:
        path = _ROOT / name
        text = path.read_text()
        if "--check" not in sys.argv[1:]:
            path.write_text(with_tables(text))
        elif with_tables(text) != text:
            sys.exit(f"The tables of {name} are not those of the records. Run: python -m experiments.readme")


if __name__ == "__main__":
    main()
