"""Training in processes of its own: killed at random moments, and shared between two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runs import STAGES, shared_out

ROOT = Path(__file__).parents[2]


@pytest.mark.heavy
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_ends_bit_identical(stage):
    """Runs in a fresh interpreter, since it forks (see tests/runs.py)."""
    script = "import json, sys, tempfile; from pathlib import Path; from runs import resumed\n"
    script += f"print(json.dumps(resumed(Path(tempfile.mkdtemp()), {stage!r}, 3)))"
    paths = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=paths, capture_output=True, text=True, check=True
    )
    kills = json.loads(done.stdout.splitlines()[-1])
    assert len(kills) == 3
    assert [kill["differs"] for kill in kills] == [[], [], []]


@pytest.mark.heavy
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_learn_what_one_does(stage, tmp_path):
    found = shared_out(tmp_path, stage)
    assert found["steps"] == 20
    assert 0 < found["loss"] < 1e-4
