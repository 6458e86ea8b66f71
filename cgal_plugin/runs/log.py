"""The run's log: one JSON object a line, for programs and for ``cgal status``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cgal_plugin import interrupts

LOG = "log.jsonl"
_PROGRESS_SECONDS = 5.0  # between two lines of progress of a stage
#: events that the user is told of as they happen
_TOLD = {
    "worker lost": "a worker was lost; its task is tried again in {retry_after:g} s (try {attempt})",
    "straggler": "a task has been running for {seconds:.0f} s, far longer than the others: started again",
    "stall": "workers took no task any more: they were started anew",
    "timeout": "a task exceeded executor.task_timeout and was ended",
    "damage": "{what}; {remedy}",
}

#: called as ``progress(done, total)``
Progress = Callable[[int, int], None]


class Reporter(Protocol):
    """Receives progress, one line of results a round, and messages."""

    def stage(self, title: str) -> Any:
        """Context manager around a stage; yields a :data:`Progress` callback."""
        ...

    def skipped(self, title: str) -> None:
        """A stage that an earlier call finished."""
        ...

    def round(self, row: Mapping[str, Any]) -> None:
        """The results of one round."""
        ...

    def message(self, text: str) -> None:
        """Something that the user should know."""
        ...


class SilentReporter:
    """Says nothing."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Yields a callback that does nothing."""
        yield lambda done, total: None

    def skipped(self, title: str) -> None:
        """Does nothing."""

    def round(self, row: Mapping[str, Any]) -> None:
        """Does nothing."""

    def message(self, text: str) -> None:
        """Does nothing."""


class RunLog:
    """A reporter that writes what it is told to ``log.jsonl`` and passes it on to another.

    Each line has ``time`` (s since 1970) and ``event``: ``run started``, ``stage started``, ``progress``,
    ``stage finished``, ``stage done before``, ``round``, ``message``, ``quarantine``, ``worker lost``,
    ``timeout``, ``straggler``, ``stall``, ``damage``, ``interrupted``, ``error``, ``run finished``; other
    keys depend on it.
    """

    def __init__(self, inner: Reporter, path: Path) -> None:
        self.inner = inner
        self.path = path
        self.current = ""

    def event(self, kind: str, /, **facts: Any) -> None:
        """Write a line."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **facts}, default=str)
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
        if kind in _TOLD:
            self.inner.message(_TOLD[kind].format(**facts))

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Write when it starts and ends, and how far it is every few seconds."""
        self.current = title
        self.event("stage started", stage=title)
        started = last = time.monotonic()
        with self.inner.stage(title) as forward:

            def progress(done: int, total: int) -> None:
                nonlocal last
                interrupts.check()
                forward(done, total)
                now = time.monotonic()
                if now - last >= _PROGRESS_SECONDS or (done == 0 and last == started):
                    last = now
                    self.event("progress", stage=title, done=done, total=total)

            yield progress
        self.event("stage finished", stage=title, seconds=round(time.monotonic() - started, 3))
        self.current = ""

    def skipped(self, title: str) -> None:
        """Write that it was done before."""
        self.event("stage done before", stage=title)
        self.inner.skipped(title)

    def round(self, row: Mapping[str, Any]) -> None:
        """Write the results."""
        self.event("round", results=dict(row))
        self.inner.round(row)

    def message(self, text: str) -> None:
        """Write the text."""
        self.event("message", text=text)
        self.inner.message(text)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events of a log; a last line that a kill cut short is left out."""
    events = []
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as handle:
            for line in handle:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and "event" in event:
                    events.append(event)
    return events
