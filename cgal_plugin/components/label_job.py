"""Label frames on workers. Each label becomes one shard, each failure becomes one record."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.components.tasks import LabelOutcome, LabelTask, is_picklable, write_label
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.errors import OracleError
from cgal_plugin.execution.map_tasks import ExecutorSettings, map_tasks
from cgal_plugin.execution.resources import Auto
from cgal_plugin.execution.window import Event, Failure, no_event
from cgal_plugin.runs.layout import WORK, round_name, shard_name
from cgal_plugin.runs.log import RunLog
from cgal_plugin.runs.quarantine import Quarantine

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class LabelJob:
    """Frames to be labelled into a data store.

    Attributes
    ----------
    positions
        ``(n, n_beads, 3)`` Å.
    names
        Name of each frame's shard.
    store, quarantine
        Receive the labels and the failures.
    folder
        For logs and incomplete shards; on the file system of the store.
    source, facts
        Kept in the record of each shard.
    where
        Name of this job in error messages.
    max_failure_rate
        See :meth:`Quarantine.check_rate`.
    inputs
        ``inputs(i)``: facts about frame i for a quarantine record, beside its coordinates.
    event, message
        Receive events for the log and messages for the user.
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
        self,
        oracle: Any,
        workers: int | Auto | ExecutorSettings,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Label the frames that are neither labelled nor in quarantine.

        Raises
        ------
        OracleError
            Too many frames failed, or no worker is left. Completed labels are kept.
        DataError
            A label does not fit the store (temperature, force map, beads).
        """
        self.quarantine.repair()
        todo = [i for i, n in enumerate(self.names) if n not in self.store and n not in self.quarantine]
        labelled = sum(name in self.store for name in self.names)
        failed, total = len(self.quarantine), len(self.names)
        if not is_picklable(oracle) and workers != 0:
            self.message("the oracle cannot be pickled for worker processes: frames are labelled one by one")
            workers = 0
        spool = self.folder / "spool"
        shutil.rmtree(spool, ignore_errors=True)  # left by a killed run
        spool.mkdir(parents=True)
        for i in todo:  # an existing log means that a task runs
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
        """Return the error for a job without any label."""
        names = self.quarantine.names()
        return OracleError(
            f"{self.where}: none of the {len(self.names)} selected frames could be labelled. Reasons:\n"
            f"{self.quarantine.diagnosis(names)}\nRecords with the frames are in {self.quarantine.folder}"
        )

    def results(self) -> dict[str, Any]:
        """Return JSON-ready counts, reasons of failures, and the cost of the labels (ns)."""
        labelled = [self.store.record(name) for name in self.names if name in self.store]
        failed = [(i, name) for i, name in enumerate(self.names) if name not in self.store]
        return {
            "n_selected": len(self.names),
            "n_labelled": len(labelled),
            "n_quarantined": len(failed),
            "n_new_frames": sum(r["n_frames"] for r in labelled),
            "quarantined": [
                {"frame": i, **f} for i, name in failed for f in self.quarantine.record(name)["failures"]
            ],
            "oracle_ns": sum((float(r["metadata"].get("ps_per_frame", 0.0)) / 1000 for r in labelled), 0.0),
        }


class _Tasks(Sequence[LabelTask]):
    """The tasks; each is created when it is submitted."""

    def __init__(self, positions: NDArray[np.floating], todo: Sequence[int], spool: Path) -> None:
        self.positions = positions
        self.todo = todo
        self.spool = spool

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, task: Any) -> Any:
        i = self.todo[task]
        return LabelTask(np.asarray(self.positions[i]), i, self.spool)


def round_label_job(
    index: int,
    config: Config,
    store: DataStore,
    selected: Mapping[str, NDArray[Any]],
    folder: Path,
    log: RunLog,
) -> LabelJob:
    """Return the job that labels the selection of a round.

    Parameters
    ----------
    index
        Number of the round.
    selected
        Arrays of the selection: ``positions`` ``(n, n_beads, 3)`` Å, ``candidate`` and ``replica`` ``(n,)``.
    folder
        Folder of the stage, for quarantine records.
    """

    def inputs(i: int) -> dict[str, Any]:
        origin = {key: int(selected[key][i]) for key in ("candidate", "replica")}
        facts = {"config_hash": config.hash, "seed": config.seed}
        return {"round": index, **origin, "oracle": config.resolved()["oracle"], **facts}

    return LabelJob(
        selected["positions"],
        [shard_name(index, i) for i in range(len(selected["positions"]))],
        store,
        Quarantine(folder, log.event),
        store.root.parent / WORK,
        source=round_name(index),
        where=f"round {index}",
        max_failure_rate=config.oracle.max_failure_rate,
        facts={"round": index, "config_hash": config.hash},
        inputs=inputs,
        event=log.event,
        message=log.message,
    )
