"""Runs a generator of events beside the viewer, or on the spot.

Both runners keep one promise: after `cancel` no further event is delivered, and `on_end` comes exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

Events = Generator[Any, None, None]
OnEvent = Callable[[Any], None]
OnEnd = Callable[[Exception | None], None]


class Runner(Protocol):
    """Something that consumes one generator of events at a time."""

    def start(self, events: Events, on_event: OnEvent, on_end: OnEnd) -> None:
        """Run `events`; call `on_event` for each and `on_end` with the error that stopped them, if any."""

    def cancel(self) -> None:
        """Stop asking for events and deliver no more."""


@dataclass(frozen=True)
class _Failed:
    error: Exception


def _stepwise(events: Events) -> Events:
    """Yield the events, and an error as one more event.

    A napari worker swallows a RuntimeError (torch's errors are some) without a word, so none may escape.
    """
    try:
        yield from events
    except Exception as error:
        yield _Failed(error)


class InlineRunner:
    """Runs a job to its end before `start` returns; for tests and scripts."""

    def __init__(self) -> None:
        self._cancelled = False

    def start(self, events: Events, on_event: OnEvent, on_end: OnEnd) -> None:
        """Run `events` now."""
        self._cancelled = False
        error = None
        for event in _stepwise(events):
            if isinstance(event, _Failed):
                error = event.error
            else:
                on_event(event)
            if self._cancelled:
                break
        on_end(error)

    def cancel(self) -> None:
        """Stop after the present event (to be called from `on_event`)."""
        self._cancelled = True


class ThreadRunner:
    """Runs a job in napari's generator worker; events arrive on the GUI thread.

    napari remembers every worker for ever; so nothing of a job may hang on its worker once it has ended.
    """

    def __init__(self) -> None:
        self._worker: Any = None
        self._job: tuple[Events, OnEvent, OnEnd] | None = None
        self._error: Exception | None = None
        self._cancelled = False

    def start(self, events: Events, on_event: OnEvent, on_end: OnEnd) -> None:
        """Run `events` in a thread of their own."""
        from napari.qt.threading import create_worker

        self._job, self._error, self._cancelled = (events, on_event, on_end), None, False
        self._worker = create_worker(
            _stepwise,
            events,
            _progress={"desc": "M3AE"},
            _ignore_errors=True,
            _connect={"yielded": self._deliver, "errored": self._note, "finished": self._finish},
        )

    def cancel(self) -> None:
        """Stop at the next event; it and all others are dropped."""
        self._cancelled = True
        if self._worker is not None:
            self._worker.quit()

    def _deliver(self, event: Any) -> None:
        if self._cancelled or self._job is None:  # what was already on its way when the user cancelled
            return
        if isinstance(event, _Failed):
            self._note(event.error)
        else:
            self._job[1](event)

    def _note(self, error: Exception) -> None:
        self._error = error

    def _finish(self) -> None:
        if self._job is None:
            return
        events, _, on_end = self._job
        events.close()
        self._worker = self._job = None
        on_end(self._error)
