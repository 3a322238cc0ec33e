"""Whole trainings through the command line: killed with SIGKILL, and shared out to two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import m3ae_core
import runs

pytestmark = pytest.mark.heavy
KILLS = 2  # python benchmarks/resume.py --kills 20 for more


def fresh(code: str, *arguments: object) -> Any:
    """Evaluate `code` in a new interpreter, which may fork and use local sockets; return its JSON."""
    paths = [str(Path(m3ae_core.__file__).parents[1]), str(Path(runs.__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    program = f"import json, runs, sys\nfrom pathlib import Path\nprint(json.dumps({code}))"
    line = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
@pytest.mark.parametrize("stage", runs.STAGES)
def test_a_killed_run_ends_like_one_left_alone(stage: str, tmp_path: Path) -> None:
    """Parameters, substitute, optimiser, average, bundles and log, to the bit."""
    found = fresh("runs.resumed(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))", tmp_path, stage, KILLS)
    assert len(found) == KILLS
    assert not [kill for kill in found if kill["differs"]]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stage", runs.STAGES)
def test_two_processes_train_like_one(stage: str, tmp_path: Path) -> None:
    found = fresh("runs.shared_out(Path(sys.argv[1]), sys.argv[2])", tmp_path, stage)
    assert found["steps"] == 20
    assert 0 < found["loss"] < 1e-4  # they sum in another order
    assert stage == "pretrain" or found["dice"] < 0.02
