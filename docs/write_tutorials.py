"""Write the tutorials of the site from `examples/`: `python docs/write_tutorials.py [NAME ...]`; or only `--check`.

A script is parted at its lines `# %% Title`. On the page, comments below such a line are text, the rest is code, and
what the part printed stands below it. `--check` runs nothing: it compares the code of the pages with the scripts.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
_OUTPUT = re.compile(r'```text title="prints"\n.*?```\n', re.DOTALL)


def parts_of(text: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The docstring of a script, and of each part its title, its text and its code; the imports have no title."""
    docstring, body = text.removeprefix('"""').split('"""\n', 1)
    parts = []
    for index, part in enumerate(re.split(r"^# %% ", body, flags=re.MULTILINE)):
        title, _, part = ("", "", part) if not index else part.partition("\n")
        lines = part.splitlines()
        size = next((row for row, line in enumerate(lines) if not line.startswith("# ")), len(lines))
        prose = "\n".join(line.removeprefix("# ") for line in lines[:size])
        parts.append((title, prose, "\n".join(lines[size:]).strip("\n")))
    return docstring.strip(), parts


def page_of(name: str, *, run: bool) -> str:
    """The page of a script, with what it prints if it is run."""
    docstring, parts = parts_of((ROOT / "examples" / f"{name}.py").read_text())
    title, _, introduction = docstring.partition("\n\n")
    page = [f"# {title.rstrip('.')}\n", introduction.strip() + "\n"]
    page.append(f"The script is `examples/{name}.py`; it runs in less than a minute on one CPU.\n")
    names: dict[str, object] = {"__name__": f"examples.{name}"}
    for title, prose, code in parts:
        page += [f"## {title}\n"] * bool(title) + [f"{prose}\n"] * bool(prose)
        if not code:
            continue
        page.append(f"```python\n{code}\n```\n")
        if run:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, f"{name}.py", "exec"), names)
            if printed.getvalue():
                page.append(f'```text title="prints"\n{printed.getvalue().rstrip()}\n```\n')
    return "\n".join(page)


def without_output(page: str) -> str:
    """A page as it would be if nothing had been run."""
    return re.sub(r"\n{3,}", "\n\n", _OUTPUT.sub("", page)).strip()


def main() -> None:
    """Write the pages that are named, or all."""
    names = [name for name in sys.argv[1:] if not name.startswith("-")] or NAMES
    for name in names:
        path = ROOT / "docs" / "tutorials" / f"{name}.md"
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(page_of(name, run=True))
        elif not path.is_file() or without_output(path.read_text()) != without_output(page_of(name, run=False)):
            sys.exit(
                f"docs/tutorials/{name}.md is not of examples/{name}.py. Run: python docs/write_tutorials.py {name}"
            )


if __name__ == "__main__":
    main()
