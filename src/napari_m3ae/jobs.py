"""Runs a generator of events beside the viewer, or on the spot.

Both runners keep one promise: after `cancel` no further event is delivered, and `on_end` comes exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

OnEvent = Callable[[Any], None]
OnEnd = Callable[[Exception | None], None]


class Runner(Protocol):
    """Something that consumes one generator of events at a time."""

    def start(self, events: Iterator[Any], on_event: OnEvent, on_end: OnEnd) -> None:
        """Run `events`; call `on_event` for each and `on_end` with the error that stopped them, if any."""

    def cancel(self) -> None:
        """Stop asking for events and deliver no more."""


@dataclass(frozen=True)
class _Failed:
    error: Exception


def _stepwise(events: Iterator[Any]) -> Generator[Any, None, None]:
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

    def start(self, events: Iterator[Any], on_event: OnEvent, on_end: OnEnd) -> None:
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
    """Runs a job in napari's generator worker; events arrive on the GUI thread."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._error: Exception | None = None
        self._cancelled = False

    def start(self, events: Iterator[Any], on_event: OnEvent, on_end: OnEnd) -> None:
        """Run `events` in a thread of their own."""
        from napari.qt.threading import create_worker

        self._error, self._cancelled = None, False

        def deliver(event: Any) -> None:
            if self._cancelled:  # what was already on its way when the user cancelled
                return
            if isinstance(event, _Failed):
                self._error = event.error
            else:
                on_event(event)

        def finish() -> None:
            self._worker = None
            on_end(self._error)

        self._worker = create_worker(
            _stepwise,
            events,
            _progress={"desc": "M3AE"},
            _ignore_errors=True,
            _connect={"yielded": deliver, "errored": self._note, "finished": finish},
        )

    def cancel(self) -> None:
        """Stop at the next event; it and all others are dropped."""
        self._cancelled = True
        if self._worker is not None:
            self._worker.quit()

    def _note(self, error: Exception) -> None:
        self._error = error
