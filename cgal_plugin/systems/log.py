"""Messages of a run with several systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cgal_plugin.runs.log import Progress, RunLog
from cgal_plugin.runs.w1_text import test_text


class SystemReporter:
    """A reporter that puts the name of a system before its titles."""

    def __init__(self, inner: RunLog, name: str) -> None:
        self.inner, self.name = inner, name

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Report a stage of the system."""
        with self.inner.stage(f"{self.name}, {title}") as progress:
            yield progress

    def skipped(self, title: str) -> None:
        """Report a stage that an earlier call completed."""
        self.inner.skipped(f"{self.name}, {title}")

    def round(self, row: Mapping[str, Any]) -> None:
        """Do nothing: the results of a round are those of all systems."""

    def message(self, text: str) -> None:
        """Show a message about the system."""
        self.inner.message(f"{self.name}: {text}")


def round_lines(row: Mapping[str, Any]) -> list[str]:
    """Return the results of a round as text, one line per system."""
    lines = []
    for name, own in row["systems"].items():
        parts = [test_text(own)] if own.get("w1") else []
        if own["role"] == "train":
            parts.append(f"nearest RMSD {own['coverage']['mean']:.2f} Å")
            if "n_labelled" in own:
                parts.append(f"{own['n_labelled']} of {own['n_selected']} labelled")
        lines.append(f"round {row['round']}, {name} ({own['role']}): {' | '.join(parts) or 'no reference'}")
    return lines
