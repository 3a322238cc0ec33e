"""The self-test as a job of the session, and what it found in words. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from m3ae_core.data.builtin import builtin_bundle
from m3ae_core.selftest.check import Check
from m3ae_core.selftest.run import run_selftest
from napari_m3ae import layers
from napari_m3ae.jobs import Events
from napari_m3ae.session import Session
from napari_m3ae.settings import settings


def start_selftest(session: Session, on_end: Callable[[Sequence[Check]], None]) -> bool:
    """Test the installation, the device of the settings and the folder of the case; `on_end` gets what was found.

    Returns whether the test was started: not while another job runs. A cancelled test tells nothing.
    """

    def job() -> Events:
        found: list[Check] = []
        for event in run_selftest(folder_of_case(session), settings().device):
            if isinstance(event, Check):
                found.append(event)
            else:
                yield event
        yield found

    return session.start(job(), on_end)


def folder_of_case(session: Session) -> Path | None:
    """Return the folder of the chosen images; None where no file is known, and for the case that is built in."""
    for slot in session.state.slots:
        path = None if slot.layer is None else layers.facts(slot.layer).get("path")
        if path is not None:
            return None if path.is_relative_to(builtin_bundle().parent) else path.parent
    return None


def as_text(found: Sequence[Check]) -> str:
    """Return what was found, a paragraph for each check."""
    return "\n\n".join(
        f"{'✓' if check.ok else '✗'} {check.name}: {check.detail} {check.fix}".rstrip() for check in found
    )
