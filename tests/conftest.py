"""The conditions every test runs under: two threads, no settings of the user's, no draws of the day.

The network is closed by pytest-socket (`--disable-socket` in pyproject.toml); local sockets stay open.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["published"]  # trials and figures

# Read when torch, napari and matplotlib are imported, hence set here, before any test module is.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "2"
os.environ["MPLBACKEND"] = "Agg"
_settings = tempfile.TemporaryDirectory(prefix="m3ae-tests-")
os.environ["NAPARI_CONFIG"] = str(Path(_settings.name) / "settings.yaml")

# A shared or busy machine must not fail a test by its speed, nor a merge by the day's random draws.
hypothesis.settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("house")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the viewer's tests where Qt cannot be loaded (then pytest-qt is absent or switched off)."""
    if config.pluginmanager.has_plugin("pytest-qt"):
        return
    skip = pytest.mark.skip(reason="needs a display and a Qt binding; scripts/test installs both")
    for item in items:
        if item.get_closest_marker("viewer"):
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _float32() -> Iterator[None]:
    """Compute in float32 on processors that are faster in bfloat16 too: what tests compare is the same everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m3ae_core.inference.device.cpu_has_bfloat16", lambda: False)
        yield


def pytest_unconfigure() -> None:
    """Remove the temporary settings."""
    _settings.cleanup()
