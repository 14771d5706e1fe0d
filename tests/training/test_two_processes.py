"""Two processes on one CPU (gloo). Both check each claim, in `two_processes.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from two_processes import CLAIMS


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the claims that hold in both processes. One launch checks all, since imports take most of its time."""
    directory = tmp_path_factory.mktemp("two")
    script = Path(__file__).with_name("two_processes.py")
    tests = script.parent.parent
    folders = [tests.parent, tests, *(tests / room for room in ("training", "evaluation", "model"))]
    paths = os.pathsep.join(map(str, folders))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(directory)], capture_output=True, text=True, timeout=500, env=environment
    )
    held = [{path.name for path in directory.glob(f"process-{process}/*")} for process in (0, 1)]
    print(done.stdout, done.stderr)
    return held[0] & held[1]


@pytest.mark.parametrize("claim", [claim.__name__ for claim in CLAIMS])
def test_in_two_processes(claim: str, finished: set[str]) -> None:
    assert claim in finished
