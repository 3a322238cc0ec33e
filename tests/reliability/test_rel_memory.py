"""A computer without the memory for a segmentation: one sentence that says so, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import m3ae_core
from m3ae_core.data.phantom import write_phantom

#: Address space beyond what is in use when the segmentation begins (MB): from nothing to nearly enough.
ROOM = (0, 4, 12, 24, 36, 48)
#: Loads model and case, and segments in forks of itself that get so much room; says how each of them ended.
PROGRAM = """
import json, os, resource, sys
from pathlib import Path
import torch
from m3ae_core.bundle import load_bundle
from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.io.case import find_case, read_case
from m3ae_core.errors import M3AEError
from m3ae_core.inference.predictor import Predictor, save_prediction

torch.set_num_threads(1)
case, output = Path(sys.argv[1]), Path(sys.argv[2])
predictor = Predictor(load_bundle(builtin_bundle()), "cpu", arithmetic="float32")
content = read_case(find_case(case), predictor.config.modality_set)

def segment(room):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (room << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        save_prediction(predictor.predict(content), output / "mask.nii.gz")
        return "done"
    except M3AEError as error:
        return f"{error.code}: {error}"
    except BaseException as error:
        return f"raw {type(error).__name__}: {error}"

for room in map(int, sys.argv[3:]):
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, segment(room).encode()[:4000])
        os._exit(0)
    os.close(writing)
    told = os.read(reading, 4096).decode()
    _, status = os.waitpid(child, 0)
    print(json.dumps([room, told, status, sorted(path.name for path in output.iterdir())]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on address space")
def test_no_memory_left(tmp_path: Path, figures: Any) -> None:
    output, src = tmp_path / "output", Path(m3ae_core.__file__).parents[1]
    write_phantom(tmp_path / "cases", "case")
    output.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(src), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "cases" / "case"), str(output)]
    done = subprocess.run([*line, *map(str, ROOM)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [end for end in ends if not end[1].startswith("memory: ") or end[2] or end[3]]
    figures.add(
        "CPU allocation failures", goal="a sentence, nothing written", tried=len(ends), failed=len(wrong)
    )
    assert len(ends) == len(ROOM)
    assert not wrong
