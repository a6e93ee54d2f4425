"""Write the tables of the README and the docs from the records: `python -m experiments.readme`; or only `--check`."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import deployment
from experiments import competition

_ROOT = Path(__file__).parent.parent
_PAGES = ("README.md", "docs/deploy.md")
_TABLES: dict[str, tuple[str, Callable[[list[dict]], str]]] = {
    "competition": ("experiments", competition.describe),
    "deployment": ("benchmarks", deployment.describe),
}


def with_tables(text: str) -> str:
    """The text with what stands between `<!-- table: NAME -->` and `<!-- end -->` made anew from the records."""

    def table(match: re.Match) -> str:
        name = match.group(1)
        folder, describe = _TABLES[name]
        rows = json.loads((_ROOT / folder / "results" / f"{name}.json").read_text())["rows"]
        return f"<!-- table: {name} -->\n{describe(rows)}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


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
