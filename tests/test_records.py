import dataclasses
import json
import platform
import re
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn2ff import records
from rnn2ff.records import Seconds, environment, record, time_interleaved


@dataclasses.dataclass(frozen=True)
class Inner:
    gain: float = 0.8


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 4
    network: Inner = Inner()
    sizes: tuple[int, ...] = (2, 3)


ROWS = [{"method": "pass", "nrmse": jnp.asarray(0.25), "units": np.arange(2)}, {"method": "guess", "nrmse": np.nan}]


class TestRecord:
    def test_a_record_holds_settings_and_results(self):
        received = record("competition", Config(), ROWS, seconds=1.26, counts={"converged": np.int64(3)})
        assert list(received) == ["name", "config", "rows", "counts", "environment", "seconds"]
        assert received["name"] == "competition"
        assert received["config"] == {"width": 4, "network": {"gain": 0.8}, "sizes": [2, 3]}
        assert received["rows"] == [
            {"method": "pass", "nrmse": 0.25, "units": [0, 1]},
            {"method": "guess", "nrmse": None},
        ]
        assert received["counts"] == {"converged": 3}
        assert received["seconds"] == 1.3

    def test_a_record_is_plain_json(self):
        received = record("competition", Config(), ROWS, seconds=1.0)
        assert json.loads(json.dumps(received, allow_nan=False)) == received

    def test_the_settings_are_required(self):
        with pytest.raises(TypeError, match="dataclass"):
            record("competition", {"width": 4}, ROWS, seconds=1.0)


class TestEnvironment:
    def test_it_names_the_versions_the_device_and_the_precision(self):
        received = environment()
        assert received["versions"]["python"] == platform.python_version()
        assert received["versions"]["jax"] == jax.__version__
        assert None not in received["versions"].values()
        assert received["device"] == f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        assert received["platform"] == jax.default_backend()
        assert received["x64"] is jax.config.jax_enable_x64
        assert 1 <= received["num_threads"] <= received["num_cores"]
        assert "xla_force_host_platform_device_count=2" in received["xla_flags"]

    def test_a_package_that_is_not_installed_has_no_version(self, monkeypatch):
        monkeypatch.setattr(records, "_PACKAGES", ("numpy", "no-such-package"))
        versions = environment()["versions"]
        assert versions["numpy"] == np.__version__
        assert versions["no-such-package"] is None

    def test_it_names_the_commit_and_whether_the_code_differs_from_it(self, checkout):
        git(checkout, "add", "package/records.py")
        git(checkout, "commit", "--quiet", "--message", "first")
        received = environment()
        assert received["commit"] == git(checkout, "rev-parse", "HEAD")
        assert re.fullmatch("[0-9a-f]{40}", received["commit"])
        assert received["is_dirty"] is False
        (checkout / "results.json").write_text("{}")
        assert environment()["is_dirty"] is False
        (checkout / "package" / "new.py").write_text("")
        assert environment()["is_dirty"] is True

    def test_a_copy_installed_inside_the_checkout_of_another_project_names_no_commit(self, checkout):
        (checkout / "theirs.py").write_text("")
        git(checkout, "add", "theirs.py")
        git(checkout, "commit", "--quiet", "--message", "theirs")
        received = environment()
        assert (received["commit"], received["is_dirty"]) == (None, None)

    def test_outside_a_checkout_or_without_git_there_is_no_commit(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        monkeypatch.setattr(records, "__file__", str(tmp_path / "records.py"))
        assert (environment()["commit"], environment()["is_dirty"]) == (None, None)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert (environment()["commit"], environment()["is_dirty"]) == (None, None)


def git(folder, *arguments):
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a copy of the library in it, that is not yet part of it."""
    git(tmp_path, "init", "--quiet")
    package = tmp_path / "package"
    package.mkdir()
    (package / "records.py").write_text(Path(records.__file__).read_text())
    monkeypatch.setattr(records, "__file__", str(package / "records.py"))
    return tmp_path


class TestTimeInterleaved:
    def test_functions_are_called_in_turns_after_one_call_that_compiles(self):
        calls = []
        functions = {name: lambda name=name: calls.append(name) or jnp.zeros(1) for name in ("first", "second")}
        received = time_interleaved(functions, num_rounds=3, round_seconds=0.0)
        assert list(received) == ["first", "second"]
        warm_up, rounds = calls[:-6], calls[-6:]
        assert warm_up == sorted(warm_up)
        assert set(warm_up) == {"first", "second"}
        assert rounds == ["first", "second"] * 3

    def test_a_round_is_filled_with_calls(self, clock):
        calls = []
        time_interleaved(
            {"second long": clock.function(1.0, calls), "quarter": clock.function(0.25, calls)},
            num_rounds=2,
            round_seconds=2.0,
        )
        assert calls[-20:] == ([1.0] * 2 + [0.25] * 8) * 2

    def test_it_returns_the_median_between_the_quartiles_in_seconds_a_call(self, clock):
        durations = iter([9.0, 9.0, 5.0, 1.0, 4.0, 2.0, 3.0])  # the first two are not counted
        received = time_interleaved({"only": lambda: clock.spend(next(durations))}, num_rounds=5, round_seconds=0.0)
        assert received == {"only": Seconds(median=3.0, lower=2.0, upper=4.0)}

    def test_results_are_waited_for(self, clock, monkeypatch):
        waited = []
        monkeypatch.setattr(jax, "block_until_ready", lambda result: waited.append(result) or clock.spend(1.0))
        received = time_interleaved({"only": lambda: "result"}, num_rounds=2, round_seconds=0.0)
        assert waited == ["result"] * 4
        assert received["only"].median == 1.0


class Clock:
    """A clock that moves only when a function spends time."""

    def __init__(self):
        self.now = 0.0

    def spend(self, seconds):
        self.now += seconds

    def function(self, seconds, calls):
        return lambda: calls.append(seconds) or self.spend(seconds)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock
