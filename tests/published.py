"""How the figures of docs/reliability.md come about: two fixtures and two options.

`trials` says how often a test tries what it tests: a few times in the CI, as often as published with `--long`.
`figures` records what was tried and what failed; `--figures FILE` adds it to a JSON file, in which a later run
of a test replaces the earlier one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from m3ae_core.files import write_json

Trials = Callable[..., int]

_RECORDED = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    group.addoption(
        "--long", action="store_true", help="try everything as often as the published figures say"
    )
    group.addoption("--figures", type=Path, metavar="FILE", help="add what was tried to this JSON file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RECORDED] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the long form of a test the time that it takes."""
    if config.getoption("long"):
        for item in items:
            if "trials" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.timeout(0), append=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    file, recorded = session.config.getoption("figures"), session.config.stash[_RECORDED]
    if file is not None and recorded:
        write_json(file, merged(json.loads(file.read_text("utf-8")) if file.exists() else {}, recorded))


def merged(published: dict[str, Any], recorded: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The table after a run: a part that was run again replaces the same part, all other parts stay.

    {property: {goal, tried, failed, parts: {test: {tried, failed, notes, seconds, date}}}}
    """
    rows = dict(published)
    for name, row in recorded.items():
        parts = {**rows.get(name, {}).get("parts", {}), **row["parts"]}
        totals = {key: sum(part[key] for part in parts.values()) for key in ("tried", "failed")}
        rows[name] = {"goal": row["goal"], **totals, "parts": parts}
    return rows


@dataclass
class Figures:
    """What one test adds to the published table."""

    test: str
    recorded: dict[str, dict[str, Any]]
    started: float = field(default_factory=time.perf_counter)

    def add(self, property: str, *, goal: str, tried: int, failed: int, note: str = "") -> None:  # noqa: A002
        """Record a row; calls for the same property in the same test (of any parameters) add up."""
        row = self.recorded.setdefault(property, {"goal": goal, "parts": {}})
        part = row["parts"].setdefault(self.test, {"tried": 0, "failed": 0, "notes": [], "seconds": 0.0})
        part["tried"] += tried
        part["failed"] += failed
        part["notes"] = sorted({*part["notes"], note} - {""})
        part["seconds"] = round(part["seconds"] + time.perf_counter() - self.started, 2)
        part["date"] = date.today().isoformat()
        self.started = time.perf_counter()

    @contextmanager
    def trial(self, property: str, *, goal: str) -> Iterator[None]:  # noqa: A002
        """Record one trial, which failed if the block raises."""
        failed = 1
        try:
            yield
            failed = 0
        finally:
            self.add(property, goal=goal, tried=1, failed=failed)


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Trials:
    """`trials(ci=20, long=500)` is the number that holds in this run."""
    is_long = request.config.getoption("long")

    def chosen(*, ci: int, long: int) -> int:
        return long if is_long else ci

    return chosen


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """`figures.add(property, goal=..., tried=..., failed=..., note="")` records a row of the published table."""
    return Figures(request.node.nodeid.partition("[")[0], request.config.stash[_RECORDED])
