"""Records of frames that could not be labelled, and the limit on their number."""

from __future__ import annotations

import re
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgal_plugin.damage import set_aside
from cgal_plugin.data import Quarantined
from cgal_plugin.errors import DamageError, OracleError
from cgal_plugin.execution.window import Event, Failure, no_event
from cgal_plugin.provenance import read_sealed, write_sealed

#: smallest number of tried frames for which the failure rate is checked
ENOUGH = 10
_LONGEST_TRACE = 4000  # characters


class Quarantine:
    """A folder with one JSON record per frame that could not be labelled.

    A record holds the reasons, the kind of failure and the inputs (coordinates and their source). Kinds are
    ``oracle`` (the oracle returned the frame as :class:`~cgal_plugin.data.Quarantined`) and those of a
    failed task: ``error`` (it raised), ``timeout``, ``lost`` (its worker died).

    Parameters
    ----------
    folder
        Folder of the records, ``quarantined_NAME.json``.
    event
        Receives ``event("damage", what=..., remedy=...)`` for each damaged record.
    """

    def __init__(self, folder: Path, event: Event = no_event) -> None:
        self.folder = folder
        self.event = event
        self._known: set[str] | None = None  # so that the folder is listed only once

    def _path(self, name: str) -> Path:
        return self.folder / f"quarantined_{name}.json"

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_file()

    def __len__(self) -> int:
        return len(self._names())

    def names(self) -> list[str]:
        """Return the names of the frames in quarantine, sorted."""
        return sorted(self._names())

    def _names(self) -> set[str]:
        if self._known is None:
            found = self.folder.glob("quarantined_*.json")
            self._known = {p.stem.removeprefix("quarantined_") for p in found}
        return self._known

    def record(self, name: str) -> dict[str, Any]:
        """Read the record of a frame.

        Raises
        ------
        DamageError
            The record cannot be read.
        """
        path = self._path(name)
        try:
            record = read_sealed(path)
            if not all("reason" in failure for failure in record["failures"]):
                raise ValueError("no reason")
            return record
        except (ValueError, KeyError, TypeError) as error:
            raise DamageError(f"{path} is damaged ({error}); delete it to label the frame again") from error

    def repair(self) -> None:
        """Put damaged records aside, so that these frames are tried again."""
        for name in self.names():
            try:
                self.record(name)
            except DamageError as error:
                kept = set_aside(self._path(name), self.folder)
                self._names().discard(name)
                what = str(error).partition(";")[0]
                self.event(
                    "damage", what=what, remedy=f"it is kept in {kept}, and the frame is labelled again"
                )

    def refused(self, name: str, quarantined: Sequence[Quarantined], inputs: Mapping[str, Any]) -> None:
        """Record a frame that the oracle returned in ``quarantined``."""
        reasons = [{"reason": q.reason, "method": q.method} for q in quarantined]
        self._write(
            name, "oracle", reasons or [{"reason": "the oracle gave no reason", "method": ""}], inputs
        )

    def failed(self, name: str, failure: Failure, inputs: Mapping[str, Any]) -> None:
        """Record a frame whose labelling task failed."""
        facts: dict[str, Any] = {}
        if failure.kind == "error":
            text = "".join(traceback.format_exception(failure.error))
            facts["traceback"] = text[-_LONGEST_TRACE:]
        if failure.log is not None and failure.log.exists():
            facts["log"] = str(failure.log)
        self._write(name, failure.kind, [{"reason": failure.reason, "method": ""}], inputs, **facts)

    def _write(
        self, name: str, kind: str, failures: list[dict[str, str]], inputs: Mapping[str, Any], **facts: Any
    ) -> None:
        record = {"name": name, "kind": kind, "failures": failures, "inputs": dict(inputs), **facts}
        write_sealed(self._path(name), {**record, "time": time.time()})
        self._names().add(name)

    def release(self, *, all_kinds: bool = False) -> list[str]:
        """Delete the records of failed tasks (or all records), so that these frames are tried again."""
        self.repair()
        released = [n for n in self.names() if all_kinds or self.record(n).get("kind", "oracle") != "oracle"]
        for name in released:
            self._path(name).unlink()
            self._names().discard(name)
        return released

    def check_rate(self, n_labelled: int, limit: float, where: str) -> None:
        """Check the share of failed frames.

        Raises
        ------
        OracleError
            At least :data:`ENOUGH` frames were tried, and more than the fraction ``limit`` of them failed.
            The message has a summary of the reasons.
        """
        tried = n_labelled + len(self)
        if tried < ENOUGH or len(self) <= limit * tried:
            return
        names = self.names()
        raise OracleError(
            f"{where}: {len(names)} of {tried} frames could not be labelled ({len(names) / tried:.0%}; "
            f"oracle.max_failure_rate is {limit:.0%}).\n{self.diagnosis(names)}\n"
            f"The {n_labelled} existing labels are kept; records of the failed frames are in {self.folder}. "
            "Remove the cause or raise oracle.max_failure_rate, and run again"
        )

    def diagnosis(self, names: Sequence[str]) -> str:
        """Summarise the reasons, the most frequent first, with hints on their causes."""
        kinds: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for name in names:
            record = self.record(name)
            kinds[record.get("kind", "oracle")] += 1
            text = "; ".join(dict.fromkeys(f["reason"] for f in record["failures"]))
            shape = re.sub(r"\d+(\.\d+)?", "#", text)
            reasons[shape] += 1
            examples.setdefault(shape, text)
        lines = [f"  {count} x {examples[shape]}" for shape, count in reasons.most_common(5)]
        hints = [_HINTS[kind] for kind, _ in kinds.most_common() if kind in _HINTS]
        return "\n".join(lines + [f"  {hint}" for hint in hints[:2]])


_HINTS = {
    "oracle": "The CG model may sample unphysical structures: train longer, lower selector.max_rmsd, or use "
    "stronger priors.",
    "error": "The oracle raised an exception: see the tracebacks in the records.",
    "timeout": "Labels take longer than executor.task_timeout: raise it or lower oracle.production_ps.",
    "lost": "Workers died: too little memory (lower executor.workers), or a script that calls run() outside "
    "`if __name__ == '__main__':`.",
}
