"""The documentation is whole: every public name, every link, every tutorial as its script is."""

import re
import runpy

import pytest
from test_scripts import ROOT, run

import rnn2ff

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
TUTORIALS = runpy.run_path(str(DOCS / "write_tutorials.py"))
REFERENCE = sorted(page for page in DOCS.glob("api/*.md") if page.stem != "index")
GENERATED = DOCS / "changelog.md"


def test_every_public_name_is_in_the_reference_once():
    named = re.findall(r"^::: rnn2ff\.(\w+)$", "\n".join(page.read_text() for page in DOCS.glob("api/*.md")), re.M)
    assert sorted(named) == sorted(rnn2ff.__all__)


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.stem)
def test_every_public_name_is_used_in_the_code_of_its_page(page):
    text = page.read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    named = set(re.findall(r"^::: rnn2ff\.(\w+)$", text, re.M))
    assert named - set(re.findall(r"rnn2ff\.(\w+)", code)) == set()


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.stem)
def test_the_code_of_a_page_uses_only_names_that_there_are(page, tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
    (tmp_path / "page.py").write_text(code)
    done = run("-m", "ruff", "check", "--isolated", "--select", "F821", "--quiet", str(tmp_path / "page.py"))
    assert done.returncode == 0, done.stdout
    names = set(re.findall(r"\brnn2ff\.(\w+)", code))
    assert [name for name in names if not hasattr(rnn2ff, name)] == []


@pytest.mark.slow
@pytest.mark.scripts
@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.stem)
def test_the_code_of_a_page_of_the_reference_runs(page, tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
    done = run("-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}")
    assert done.returncode == 0, done.stderr


def test_the_readme_begins_with_its_two_commands_and_is_short():
    text = (ROOT / "README.md").read_text()
    main, tests = re.findall(r"```sh\n(.*?)\n```", text, re.S)[:2]
    assert main.endswith("python -m experiments.competition")
    assert tests.endswith("python -m pytest")
    assert text.count("\n") < 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link}
    lost = [link for link in links if link and not (page.parent / link).exists()]
    assert [link for link in lost if (page.parent / link).resolve() != GENERATED] == []


def test_every_page_is_in_the_contents_of_the_site():
    listed = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | {GENERATED.name}


@pytest.mark.parametrize("name", TUTORIALS["NAMES"])
def test_the_page_of_a_tutorial_is_of_its_script(name):
    bare, page = TUTORIALS["without_output"], (DOCS / "tutorials" / f"{name}.md").read_text()
    assert bare(page) == bare(TUTORIALS["page_of"](name, run=False))
    assert 'title="prints"' in page
    assert (ROOT / "examples" / f"{name}.py").read_text().count("\n") < 100


def test_a_page_is_made_of_the_parts_of_a_script():
    docstring, parts = TUTORIALS["parts_of"]('"""Title.\n\nMore.\n"""\n\nimport os\n\n# %% One\n# Told.\nx = 1\n')
    assert docstring == "Title.\n\nMore."
    assert parts == [("", "", "import os"), ("One", "Told.", "x = 1")]
