"""Write the tables of the README from the records: `python -m experiments.readme`; with `--check`, only compare."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from experiments import competition

_HERE = Path(__file__).parent
_TABLES: dict[str, Callable[[list[dict]], str]] = {"competition": competition.describe}


def with_tables(text: str) -> str:
    """The text with what stands between `<!-- table: NAME -->` and `<!-- end -->` made anew from the records."""

    def table(match: re.Match) -> str:
        name = match.group(1)
        rows = json.loads((_HERE / "results" / f"{name}.json").read_text())["rows"]
        return f"<!-- table: {name} -->\n{_TABLES[name](rows)}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    """Write the README, or with `--check` exit with 1 if its tables are not those of the records."""
    path = _HERE.parent / "README.md"
    text = path.read_text()
    if "--check" not in sys.argv[1:]:
        path.write_text(with_tables(text))
    elif with_tables(text) != text:
        sys.exit("The tables of README.md are not those of the records. Run: python -m experiments.readme")


if __name__ == "__main__":
    main()
