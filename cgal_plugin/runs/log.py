"""Messages of a run: reporters for the user, and the log with one JSON object per line."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from cgal_plugin import interrupts
from cgal_plugin.config.decisions import decision_lines
from cgal_plugin.config.section import Decision
from cgal_plugin.provenance import versions

LOG = "log.jsonl"
_PROGRESS_SECONDS = 5.0  # between two progress lines of a stage
#: events that are shown to the user as they happen
_SHOWN = {
    "worker lost": "a worker was lost; its task is repeated in {retry_after:g} s (attempt {attempt})",
    "straggler": "a task has run for {seconds:.0f} s, far longer than others; a second copy was started",
    "stall": "workers accepted no more tasks; they were restarted",
    "timeout": "a task exceeded executor.task_timeout and was ended",
    "damage": "{what}; {remedy}",
    "message": "{text}",
    "resources": "{text}",
}

#: called as ``progress(done, total)``
Progress = Callable[[int, int], None]


class StageReporter(Protocol):
    """Receives the start, progress and end of stages."""

    def stage(self, title: str) -> AbstractContextManager[Progress]:
        """Return a context manager around a stage that yields a :data:`Progress` callback."""
        ...

    def skipped(self, title: str) -> None:
        """Report a stage that an earlier call completed."""
        ...

    def event(self, kind: str, /, **facts: Any) -> None:
        """Receive an event of :class:`RunLog`."""
        ...


class Reporter(Protocol):
    """Receives stages, one line of results per round, and messages."""

    def stage(self, title: str) -> AbstractContextManager[Progress]:
        """Return a context manager around a stage that yields a :data:`Progress` callback."""
        ...

    def skipped(self, title: str) -> None:
        """Report a stage that an earlier call completed."""
        ...

    def round(self, row: Mapping[str, Any]) -> None:
        """Report the results of one round."""
        ...

    def message(self, text: str) -> None:
        """Show a message to the user."""
        ...


class SilentReporter:
    """A reporter that reports nothing."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Yield a callback without effect."""
        yield lambda done, total: None

    def skipped(self, title: str) -> None:
        """Report nothing."""

    def event(self, kind: str, /, **facts: Any) -> None:
        """Report nothing."""

    def round(self, row: Mapping[str, Any]) -> None:
        """Report nothing."""

    def message(self, text: str) -> None:
        """Report nothing."""


class RunLog:
    """A reporter that writes ``log.jsonl`` and forwards everything to another reporter.

    Each line has ``time`` (s since 1970) and ``event``: ``run started``, ``resources`` (what the run uses),
    ``decided`` (keys that were not given, with value and rule),
    ``stage started``, ``progress``, ``stage finished``, ``stage done before``, ``round``, ``message``,
    ``quarantine``, ``worker lost``, ``timeout``, ``straggler``, ``stall``, ``damage``, ``interrupted``,
    ``error``, ``run finished``. The other
    keys depend on the event.
    """

    def __init__(self, inner: Reporter, path: Path) -> None:
        self.inner = inner
        self.path = path
        self.current = ""

    def event(self, kind: str, /, **facts: Any) -> None:
        """Write one line."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **facts}, default=str)
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
        if kind in _SHOWN:
            self.inner.message(_SHOWN[kind].format(**facts))

    @contextmanager
    def recorded(
        self,
        config_hash: str,
        resources: Mapping[str, Any] | None = None,
        decided: Mapping[str, Decision] | None = None,
    ) -> Iterator[None]:
        """Record the start and the end of a run, whether it finishes, fails or is interrupted.

        ``resources`` are the facts about what the run uses; their ``text`` and ``notes`` are shown.
        ``decided`` are the values of keys that were not given; those that a user does not expect are shown.
        """
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "versions": versions()}
        self.event("run started", config_hash=config_hash, **facts)
        if resources is not None:
            self.event("resources", **resources)
            self.messages(resources["notes"])
        if decided:
            self.event("decided", keys={k: {"value": d.value, "rule": d.rule} for k, d in decided.items()})
            self.messages(decision_lines({k: d for k, d in decided.items() if d.say}))
        try:
            with interrupts.last_words(self._interrupted):
                yield
        except BaseException as error:
            interrupted = interrupts.signal_of(error)
            with suppress(OSError):  # a full disk has no space for this line
                if interrupted is not None or not isinstance(error, Exception):
                    self._interrupted(interrupted or error)
                else:
                    self.event("error", stage=self.current, error=type(error).__name__, text=str(error))
            raise
        self.event("run finished")

    def _interrupted(self, by: BaseException) -> None:
        self.event("interrupted", stage=self.current, signal=str(by))

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Write the start and the end of a stage, and its progress every few seconds."""
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
        """Write that an earlier call completed the stage."""
        self.event("stage done before", stage=title)
        self.inner.skipped(title)

    def round(self, row: Mapping[str, Any]) -> None:
        """Write the results of a round."""
        self.event("round", results=dict(row))
        self.inner.round(row)

    def message(self, text: str) -> None:
        """Write a message."""
        self.event("message", text=text)

    def messages(self, texts: Iterable[str]) -> None:
        """Write several messages."""
        for text in texts:
            self.message(text)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log; incomplete lines (from a killed run) are skipped."""
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
