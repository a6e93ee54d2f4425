"""Every tutorial runs, and prints."""

import pytest
from test_scripts import ROOT, run

pytestmark = [pytest.mark.scripts, pytest.mark.slow]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs_and_prints(path):
    done = run(str(path))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3
