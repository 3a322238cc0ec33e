"""Runs the self-test. Nothing in it uses the network; torch is loaded when it runs, not with this module."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from m3ae_core import __version__
from m3ae_core.events import Progress
from m3ae_core.selftest.check import Check
from m3ae_core.selftest.device import check_device
from m3ae_core.selftest.folder import check_folder
from m3ae_core.selftest.golden import check_model


def run_selftest(folder: Path | None = None, device: str = "auto") -> Iterator[Progress | Check]:
    """Test the installed model, the device and a folder, yielding :class:`Progress` and four :class:`Check`.

    They are called ``model`` (its files are intact and it gives its golden mask), ``device`` (which one is used, and
    whether it computes what the CPU does), ``folder`` (a file in it survives killed writes) and ``versions``. What is
    found wrong is a failed check, never an error. Stop asking for the next event to cancel.

    Parameters
    ----------
    folder
        Where results will be written; the system's folder for temporary files if left out. What lies there is not
        touched, and what the test writes is removed.
    device
        ``auto``, ``cpu`` or ``cuda``.
    """
    reference = yield from check_model()
    yield from check_device(device, reference)
    yield from check_folder(folder or Path(tempfile.gettempdir()))
    yield Check("versions", True, versions())


def versions() -> str:
    """Return what a report of a fault must name, as one line without paths."""
    found = {"napari-m3ae": __version__, "Python": platform.python_version()}
    for name in ("torch", "numpy", "nibabel", "napari"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    named = [f"{name} {version}" for name, version in found.items()]
    return ", ".join([*named, f"{platform.system()} {platform.machine()}"])
