"""Show a run on the terminal: a progress bar per stage and a line of results per round."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from cgal_plugin.cli.status_text import not_evaluated_text
from cgal_plugin.components.protocols import Progress as ProgressCallback
from cgal_plugin.plain_text import plain
from cgal_plugin.runs.w1_text import test_text


class _TimeLeft(ProgressColumn):
    """Show ``0:00:12 left``, or nothing while the remaining time is unknown."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text(
            "" if left is None else f"{timedelta(seconds=int(left))} left", style="progress.remaining"
        )


class RichReporter:
    """Show a run with rich; if the output is not a terminal, print one line per completed stage."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=False, highlight=False)

    @contextmanager
    def stage(self, title: str) -> Iterator[ProgressCallback]:
        """Show a bar while the stage runs, and then a line with its duration."""
        started = time.monotonic()
        if self.console.is_terminal:
            with _bar(self.console) as progress:
                task = progress.add_task(title, total=None)
                yield lambda done, total: progress.update(task, completed=done, total=total)
        else:
            yield lambda done, total: None
        self.console.print(f"{title:<24} {time.monotonic() - started:8.1f} s", markup=False)

    def skipped(self, title: str) -> None:
        """Print that an earlier call has completed the stage."""
        self.console.print(f"{title:<24}     done before", markup=False)

    def round(self, row: Mapping[str, Any]) -> None:
        """Print the results of a round as one line."""
        self.console.print(plain(round_line(row)), markup=False, style="bold", soft_wrap=True)

    def message(self, text: str) -> None:
        """Print one line."""
        self.console.print(plain(text), markup=False, soft_wrap=True)


def round_line(row: Mapping[str, Any]) -> str:
    """Format the results of a round as one line."""
    coverage = row["coverage"]
    parts = [
        f"round {row['round']}",
        f"{row['n_frames']} training frames",
        f"nearest RMSD mean {coverage['mean']:.2f} 95% {coverage['q95']:.2f} Å",
        f"{row['n_blow_ups']} blow-ups",
    ]
    if tested := test_text(row):
        parts.append(tested)
    if "n_labelled" in row:
        parts.append(
            f"{row['n_labelled']} of {row['n_selected']} labelled, {row['n_quarantined']} quarantined"
        )
    if row.get("not_evaluated"):
        parts.append(not_evaluated_text(row["not_evaluated"]))
    return " | ".join(parts)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        _TimeLeft(),
        console=console,
        transient=True,
    )
