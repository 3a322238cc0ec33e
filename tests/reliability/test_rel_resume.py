"""Training that is killed at a random moment and started again ends like one that was left alone, to the bit."""

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

#: The runs are forked by a process that has computed nothing yet.
PROGRAM = """
import json, runs, sys
from pathlib import Path
print(json.dumps(runs.resumed(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
"""


@pytest.mark.heavy
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
@pytest.mark.parametrize("stage", runs.STAGES)
def test_killed_and_started_again(stage: str, tmp_path: Path, trials: Any, figures: Any) -> None:
    """Parameters, substitute, optimiser, average, bundles and log; no temporary file is left."""
    kills = trials(ci=1, long=25)
    paths = [str(Path(m3ae_core.__file__).parents[1]), str(Path(runs.__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path), stage, str(kills)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    differing = [kill for kill in found if kill["differs"]]
    moments = ", ".join(str(kill["lines"]) for kill in found)
    figures.add(
        "resume after kill",
        goal="50 of 50 bit-exact",
        tried=len(found),
        failed=len(differing),
        note=f"{stage}: killed after {moments} of {found[0]['of']} lines of the log",
    )
    assert len(found) == kills
    assert not differing
