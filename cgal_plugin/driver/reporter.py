"""What a run tells its user while it goes on; the CLI shows it, a script may ignore it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from cgal_plugin.driver.protocols import Progress


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
