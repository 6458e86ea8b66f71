"""Runs of components that cost nothing, without figures: for tests of what happens around them.

Not part of ``stand_ins``, which workers import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import RunResult, run
from cgal_plugin.reporting import collect
from tests.driver import stand_ins


def cheap_run(root: Path, config: Config, **changes: Any) -> RunResult:
    """Run with components of no cost; ``changes`` replaces them, or is passed on to ``run``."""
    components = {"oracle": stand_ins.Springs(), **stand_ins.cheap()}
    return run(config, root, **(components | changes))


@contextmanager
def without_figures() -> Iterator[None]:
    """Collect the records of the report, but draw nothing: figures take most of the time of a cheap run."""

    def write(path: Path, report: Any) -> Path:
        path.write_text(f"{len(report.rounds)} rounds, without figures")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "write_report", write)
        yield


def labels(root: Path) -> dict[str, str]:
    """Checksum of every shard of a run's data store."""
    store = DataStore(root / "data")
    return {n: store.record(n)["sha256"] for n in store.names()}


class Log:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.skips: list[str] = []
        self.rows: list[Any] = []
        self.messages: list[str] = []

    def stage(self, title: str) -> Any:
        self.stages.append(title)
        return nullcontext(lambda done, total: None)

    def skipped(self, title: str) -> None:
        self.skips.append(title)

    def round(self, row: Any) -> None:
        self.rows.append(row)

    def message(self, text: str) -> None:
        self.messages.append(text)
