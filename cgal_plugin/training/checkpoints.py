"""Epoch checkpoints with verified content."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgal_plugin.provenance import atomic_path, atomic_write, hash_file, read_sealed, write_sealed


@dataclass(frozen=True)
class Epoch:
    """A finished epoch: its number (0-based), checkpoint and record."""

    number: int
    checkpoint: Path
    record: Mapping[str, Any]

    @property
    def score(self) -> float:
        """Value for the comparison of epochs; the best epoch has the lowest."""
        return float(self.record["score"])


class CheckpointFolder:
    """Folder with ``epoch_0007.ckpt`` and its record ``epoch_0007.json`` for each epoch.

    The record is written last and contains the SHA-256 of the checkpoint. A checkpoint without record, or
    with another hash, is incomplete or damaged and is ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, number: int, write: Callable[[str], Any], record: Mapping[str, Any]) -> Epoch:
        """Write the checkpoint of an epoch with ``write(file name)``, then its record."""
        checkpoint = self._checkpoint(number)
        atomic_path(checkpoint, write)
        full = {"epoch": number, **record, "sha256": hash_file(checkpoint)}
        write_sealed(checkpoint.with_suffix(".json"), full)
        return Epoch(number, checkpoint, full)

    def last(self) -> Epoch | None:
        """Return the newest epoch with an intact checkpoint, or None."""
        for number in sorted(self._numbers(), reverse=True):
            epoch = self.get(number)
            if epoch is not None:
                return epoch
        return None

    def get(self, number: int) -> Epoch | None:
        """Return an epoch, or None if its checkpoint is missing or damaged."""
        checkpoint = self._checkpoint(number)
        if not checkpoint.is_file():
            return None
        try:
            record = read_sealed(checkpoint.with_suffix(".json"))
            intact = record["sha256"] == hash_file(checkpoint)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Epoch(number, checkpoint, record) if intact else None

    def prune(self, keep: set[int]) -> None:
        """Delete all epochs except ``keep``, and temporary files of interrupted writes."""
        for number in self._numbers() - keep:
            # the record first, because a record without its checkpoint would count as damage
            self._checkpoint(number).with_suffix(".json").unlink(missing_ok=True)
            self._checkpoint(number).unlink(missing_ok=True)
        for leftover in self.path.glob(".epoch_*.tmp*"):
            leftover.unlink(missing_ok=True)

    def _checkpoint(self, number: int) -> Path:
        return self.path / f"epoch_{number:04d}.ckpt"

    def _numbers(self) -> set[int]:
        return {int(p.stem.split("_")[1]) for p in self.path.glob("epoch_*.ckpt")}


def write_metrics(path: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Write one row of losses per epoch to ``metrics.csv``."""
    names = ["epoch", *sorted({k for row in metrics for k in row} - {"epoch"})]
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(metrics)
    with atomic_write(path, "w") as handle:
        handle.write(text.getvalue())
