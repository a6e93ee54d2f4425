"""Every experiment and benchmark runs in its small version, and every figure can be drawn again from its record."""

import json
import os
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
EXAMPLES = [each.split("```")[0] for each in (ROOT / "README.md").read_text().split("```python\n")[1:]]


def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
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


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_readme_run(example):
    done = run("-c", example)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
