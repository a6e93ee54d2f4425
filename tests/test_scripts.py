"""Experiments, benchmarks and the code of the pages run, and every figure can be drawn again from its record."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.scripts

ROOT = Path(__file__).parent.parent


def scripts(folder):
    paths = (ROOT / folder).glob("[!_]*.py")
    return sorted(path.stem for path in paths if "def run(" in path.read_text())


EXPERIMENTS, BENCHMARKS = scripts("experiments"), scripts("benchmarks")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/explanations").glob("*.md"))]
# Code that is whole, and what it is said to print.
EXAMPLES = [
    pytest.param(*example, id=f"{page.stem}")
    for page in PAGES
    for example in re.findall(r"```python\n(import .*?)```\n\n```text\n(.*?)```", page.read_text(), re.DOTALL)
]


def run(*arguments):
    """A process with one device, which compiles as the tests do."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow  # all of them together; the main job runs one, and `make smoke` all
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_prints_a_table_and_leaves_a_record_and_figures(experiment, tmp_path):
    done = run("-m", f"experiments.{experiment}", "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| ")
    record = json.loads((tmp_path / "results" / f"{experiment}.json").read_text())
    assert record["name"] == experiment
    assert record["rows"]
    assert record["environment"]["versions"]["jax"]
    for ending in ("png", "pdf"):
        assert (tmp_path / "figures" / f"{experiment}.{ending}").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_benchmark_prints_tables_and_leaves_a_record(benchmark, tmp_path):
    done = run("-m", f"benchmarks.{benchmark}", "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "\n|---" in done.stdout
    record = json.loads((tmp_path / "results" / f"{benchmark}.json").read_text())
    assert record["name"] == benchmark
    assert record["rows"]


def test_there_are_experiments_benchmarks_and_examples():
    assert "competition" in EXPERIMENTS
    assert "steady_states" in BENCHMARKS
    assert EXAMPLES


def test_figures_are_drawn_from_the_committed_records_without_jax():
    code = "import sys, experiments.figures; print('jax' in sys.modules)"
    done = run("-c", code)
    assert done.stdout.strip() == "False", done.stderr


@pytest.fixture(scope="module")
def printed():
    """What each example prints, all in one process, which imports JAX once."""
    codes = {each.id: each.values[0].replace("num_steps=1000", "num_steps=100") for each in EXAMPLES}
    done = run("-c", RUN_ALL, json.dumps(codes))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


RUN_ALL = """
import contextlib, io, json, sys, traceback
printed = {}
for name, code in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            exec(code, {"__name__": "__main__"})
        except Exception:
            traceback.print_exc(file=out)
    printed[name] = out.getvalue()
print(json.dumps(printed))
"""


@pytest.mark.parametrize(("code", "shown"), EXAMPLES)
def test_the_examples_of_the_pages_print_what_they_show_up_to_digits(code, shown, printed, request):
    del code

    def words(text):
        return re.sub(r"-?\d[\d.,e+-]*", "#", text).split()  # fewer steps print other digits alone

    assert words(printed[request.node.callspec.id]) == words(shown)
