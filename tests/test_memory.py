"""The allocator's settings are the whole process's, hence tried in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from m3ae_core import memory

PROGRAM = """
import ctypes, platform, sys
from m3ae_core.memory import keep_freed_memory
before = "libc" in sys.argv and keep_freed_memory(1)
free, malloc = ctypes.CDLL(None).free, ctypes.CDLL(None).malloc
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
block = malloc(256 << 20)
ctypes.memset(block, 1, 256 << 20)
free(block)
print(before, int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_freed_memory_stays_with_the_process() -> None:
    """A freed block of 256 MiB goes back to the system, unless it is told to stay."""
    environment = {**os.environ, "PYTHONPATH": str(Path(memory.__file__).parents[1])}
    resident = {}
    for setting in ("plain", "libc"):
        line = [sys.executable, "-c", PROGRAM, setting]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, check=True)
        worked, megabytes = done.stdout.split()
        if setting == "libc" and worked == "False":
            pytest.skip("another C library")
        resident[setting] = int(megabytes)
    assert resident["libc"] - resident["plain"] > 200


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory(1) is False
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert memory.keep_freed_memory(1) is False


def test_very_large_tensors_are_left_to_the_system() -> None:
    assert memory.keep_freed_memory(memory.LARGEST + 1) is False
