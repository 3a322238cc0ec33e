"""Nothing leaves the computer: a segmentation, its report and the command line open no socket at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from m3ae_core.bundle import save_bundle
from m3ae_core.data.phantom import write_phantom
from published import Figures
from tiny import random_bundle

SRC = Path(__file__).parents[2] / "src"

#: Python itself reports every socket, connection and look-up of a name, of whichever library; each is refused.
WATCH = """
import json, sys
calls = []
def watch(event, arguments):
    if event.startswith("socket."):
        calls.append(event)
        raise OSError("no network in this test")
sys.addaudithook(watch)
"""
TELL = "\nprint(json.dumps(calls), file=sys.stderr)\n"

PREDICT = """
from pathlib import Path
from m3ae_core.bundle import load_bundle
from m3ae_core.cli import main
from m3ae_core.io.case import find_case, read_case
from m3ae_core.inference.predictor import Predictor
from m3ae_core.report.case import write_case_report
case, bundle, output = map(Path, sys.argv[1:])
done = main(["predict", str(case), "--output", str(output / "o.nii.gz"), "--bundle", str(bundle), "--device", "cpu"])
assert done == 0, done
read = read_case(find_case(case)).only("FLAIR", "T2")
write_case_report(output / "report.html", read, Predictor(load_bundle(bundle), "cpu").predict(read))
"""
HELP = """
import contextlib
from m3ae_core.cli import main
with contextlib.suppress(SystemExit):
    main(["predict", "--help"])
"""
CONNECT = """
import contextlib, socket, urllib.request
with contextlib.suppress(OSError):
    urllib.request.urlopen("http://example.org", timeout=1)
with contextlib.suppress(OSError):
    socket.socket()
"""


def calls(code: str, *arguments: Path) -> list[str]:
    """What `code` asked of the network in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH + code + TELL, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("name", ["predict and report", "predict --help"])
def test_no_network_call(name: str, tmp_path: Path, figures: Figures) -> None:
    if name == "predict --help":
        found = calls(HELP)
    else:
        bundle = save_bundle(random_bundle(), tmp_path / "bundle")
        files = write_phantom(tmp_path, "case")
        found = calls(PREDICT, files.labels.parent, bundle, tmp_path)
        assert (tmp_path / "o.nii.gz").is_file()
        assert (tmp_path / "report.html").is_file()
    figures.add("network calls", goal="0", tried=1, failed=len(found), note=name)
    assert not found


def test_a_call_is_found_out() -> None:
    found = calls(CONNECT)
    assert "socket.getaddrinfo" in found
    assert "socket.__new__" in found
