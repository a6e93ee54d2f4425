"""Rows that other processes compute: the same as in one, in the same order, whoever dies meanwhile."""

import functools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rows

from experiments import _executors
from experiments._executors import computing, serially

ROOT = Path(__file__).parent.parent
NUMBERS = range(6)

# Each with two workers of its own on this machine.
KINDS = [
    pytest.param("local", None, id="local"),
    pytest.param("dask", None, id="dask", marks=pytest.mark.tools),
    pytest.param("submitit", "local", id="submitit", marks=pytest.mark.tools),
]


@pytest.fixture(autouse=True)
def _workers_find_the_rows(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")


@pytest.mark.parametrize(("kind", "scheduler"), KINDS)
def test_a_killed_worker_costs_time_and_no_row(kind, scheduler, tmp_path):
    calls = [functools.partial(rows.row_whose_worker_dies_once, number, str(tmp_path)) for number in NUMBERS]
    with computing(kind, num_workers=2, scheduler=scheduler, folder=tmp_path / "jobs") as compute:
        received = list(compute(calls))
    assert (tmp_path / "dead").exists()
    assert received == list(serially(functools.partial(rows.row, number) for number in NUMBERS))
    processes = {path.name.split("-")[1] for path in tmp_path.glob("[0-9]-*")}
    assert len(processes) > 1


@pytest.mark.parametrize(("kind", "scheduler"), KINDS)
def test_a_row_that_fails_says_why_and_one_that_kills_its_workers_is_given_up(kind, scheduler, tmp_path):
    with computing(kind, num_workers=1, scheduler=scheduler, folder=tmp_path / "jobs") as compute:
        with pytest.raises(Exception, match="this row cannot be computed"):
            list(compute([functools.partial(rows.row, 1), rows.row_that_fails]))
        if kind == "local":
            with pytest.raises(RuntimeError, match="lost 3 times, each time with the worker"):
                list(compute([rows.row_whose_worker_dies]))


@pytest.mark.tools
def test_a_scheduler_that_does_not_answer_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(_executors, "ANSWER_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        said = (
            f"`--executor` finds no workers. Expected a Dask scheduler at {address} with a worker within 0.5 s, got: "
        )
        with (
            pytest.raises(SystemExit, match=said),
            computing("dask", num_workers=2, scheduler=address, folder=tmp_path),
        ):
            pass
        assert time.monotonic() - started < 10
    with (
        pytest.raises(SystemExit, match="Expected a cluster that submitit can use"),
        computing("submitit", num_workers=2, scheduler="nowhere", folder=tmp_path),
    ):
        pass


@pytest.mark.scripts
def test_a_script_whose_rows_depend_on_each_other_is_not_divided(tmp_path):
    command = [sys.executable, "-m", "experiments.canon", "--smoke", "--executor", "local", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "`--executor` cannot divide this experiment. Expected rows that do not depend on each other, got canon."
    )
