"""Frames to labels over workers: each label a shard of its own, each failure a record."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.components.tasks import LabelOutcome, LabelTask, is_picklable, write_label
from cgal_plugin.data import DataStore
from cgal_plugin.errors import OracleError
from cgal_plugin.execution.map_tasks import ExecutorSettings, map_tasks
from cgal_plugin.execution.window import Event, Failure, no_event
from cgal_plugin.runs.quarantine import Quarantine

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class LabelJob:
    """Frames that are to be labelled into a store.

    Attributes
    ----------
    positions
        ``(n, n_beads, 3)`` Å.
    names
        The shard of each frame.
    store, quarantine
        Where labels and failures go.
    source, facts
        Kept in each shard's record.
    inputs
        ``inputs(i)``: what a quarantine record says of frame i beside its coordinates.
    max_failure_rate
        See :meth:`Quarantine.check_rate`.
    where
        What error messages call this.
    folder
        For logs and shards on their way; on the store's file system.
    """

    positions: NDArray[np.floating]
    names: Sequence[str]
    store: DataStore
    quarantine: Quarantine
    folder: Path
    source: str
    where: str
    max_failure_rate: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[[int], dict[str, Any]] = lambda i: {}
    event: Event = no_event
    message: Callable[[str], None] = lambda text: None

    def run(
        self, oracle: Any, workers: int | ExecutorSettings, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Label the frames that are neither labelled nor in quarantine.

        Raises
        ------
        OracleError
            Too many failed, or there are no workers any more; labels so far are kept.
        DataError
            A label does not belong into the store (temperature, force map, beads).
        """
        todo = [i for i, n in enumerate(self.names) if n not in self.store and n not in self.quarantine]
        labelled = sum(name in self.store for name in self.names)
        failed, total = len(self.quarantine), len(self.names)
        if not is_picklable(oracle) and workers != 0:
            self.message("the oracle cannot be sent to other processes: labelling one by one")
            workers = 0
        spool = self.folder / "spool"
        shutil.rmtree(spool, ignore_errors=True)  # of a run that was killed
        spool.mkdir(parents=True)
        for i in todo:  # a log says that a task runs
            (self.folder / "tasks" / f"{self.names[i]}.log").unlink(missing_ok=True)

        def tell() -> None:
            if progress is not None:
                progress(labelled + failed, total)

        def keep(task: int, outcome: LabelOutcome) -> None:
            nonlocal labelled, failed
            name = self.names[todo[task]]
            if outcome.shard is not None:
                self.store.adopt(name, outcome.shard, source=self.source, **self.facts)
                labelled += 1
            else:
                failed += 1
                self.quarantine.refused(name, outcome.quarantined, self._inputs(todo[task]))
                self._quarantined(name, "oracle", labelled)
            tell()

        def fail(task: int, failure: Failure) -> None:
            nonlocal failed
            name = self.names[todo[task]]
            failed += 1
            self.quarantine.failed(name, failure, self._inputs(todo[task]))
            self._quarantined(name, failure.kind, labelled)
            tell()

        tell()
        self.quarantine.check_rate(labelled, self.max_failure_rate, self.where)
        map_tasks(
            write_label,
            _Tasks(self.positions, todo, spool),
            keep,
            workers=workers,
            shared=oracle,
            on_failure=fail,
            folder=self.folder,
            names=[self.names[i] for i in todo],
            event=self.event,
        )
        shutil.rmtree(spool)

    def _inputs(self, i: int) -> dict[str, Any]:
        positions = np.asarray(self.positions[i], dtype=np.float64)
        return {"frame": i, "positions_angstrom": positions.tolist(), **self.inputs(i)}

    def _quarantined(self, name: str, kind: str, labelled: int) -> None:
        reasons = [f["reason"] for f in self.quarantine.record(name)["failures"]]
        self.event("quarantine", shard=name, failure=kind, reasons=reasons)
        self.quarantine.check_rate(labelled, self.max_failure_rate, self.where)

    def none_labelled(self) -> OracleError:
        """The error for a job without a single label."""
        names = self.quarantine.names()
        return OracleError(
            f"{self.where}: none of the {len(self.names)} selected frames could be labelled. Reasons:\n"
            f"{self.quarantine.diagnosis(names)}\nRecords with the frames are in {self.quarantine.folder}"
        )


class _Tasks(Sequence[LabelTask]):
    """The tasks, made when their turn comes."""

    def __init__(self, positions: NDArray[np.floating], todo: Sequence[int], spool: Path) -> None:
        self.positions = positions
        self.todo = todo
        self.spool = spool

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, task: Any) -> Any:
        i = self.todo[task]
        return LabelTask(np.asarray(self.positions[i]), i, self.spool)
