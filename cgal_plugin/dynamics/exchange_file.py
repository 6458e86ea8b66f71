"""The exchange file: energy and rung of each walker at every report, and which frame it stored."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import DamageError
from cgal_plugin.provenance import atomic_write
from cgal_plugin.units import kT

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXCHANGES = "exchanges.bin"
ENERGIES = "energies.npz"


def record_dtype(n_replicas: int) -> np.dtype[np.void]:
    """Return the type of a record: step, and energy (kcal/mol), rung and frame of each walker.

    ``frame`` is the number of the frame in the walker's trajectory; -1 if it stored none.
    """
    return np.dtype(
        [
            ("step", "<i8"),
            ("energy", "<f8", (n_replicas,)),
            ("rung", "<i4", (n_replicas,)),
            ("frame", "<i8", (n_replicas,)),
        ]
    )


def append_records(path: Path, records: NDArray[np.void], n_before: int, checksum: int) -> int:
    """Truncate the file to ``n_before`` records, whose CRC-32 is ``checksum``, and append ``records``.

    Returns
    -------
    int
        CRC-32 of all records.

    Raises
    ------
    DamageError
        The file is missing or has fewer records.
    """
    keep = n_before * records.dtype.itemsize
    mode = "r+b" if n_before else "w+b"
    if n_before and not path.is_file():
        raise DamageError(_remedy(path, "missing"))
    with path.open(mode) as handle:
        if handle.seek(0, os.SEEK_END) < keep:
            raise DamageError(_remedy(path, "damaged"))
        handle.truncate(keep)
        handle.seek(keep)
        handle.write(records.tobytes())
    return zlib.crc32(records.tobytes(), checksum)


def read_records(path: Path, n_replicas: int, n: int, checksum: int) -> NDArray[np.void]:
    """Read the first ``n`` records.

    Raises
    ------
    DamageError
        The file is missing or damaged.
    """
    dtype = record_dtype(n_replicas)
    if not path.is_file():
        raise DamageError(_remedy(path, "missing"))
    found = np.fromfile(path, dtype=dtype, count=n)
    if len(found) < n or zlib.crc32(found.tobytes()) != checksum:
        raise DamageError(_remedy(path, "damaged"))
    return found


def _remedy(path: Path, state: str) -> str:
    return (
        f"exchange file {str(path)!r} is {state}; delete {str(path.parent)!r} to simulate again, or use "
        "another out_dir"
    )


@dataclass(frozen=True, eq=False)
class FrameTable:
    """Rung and energy of every stored frame.

    Attributes
    ----------
    temperatures
        K, ascending.
    records
        Of :func:`record_dtype`.
    """

    temperatures: tuple[float, ...]
    records: NDArray[np.void]

    def trajectory(self, rung: int, ladder: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return walker and frame, both ``(n,)``, of the frames of a rung of a ladder, in time order."""
        k = len(self.temperatures)
        columns = slice(ladder * k, (ladder + 1) * k)
        here = (self.records["rung"][:, columns] == rung) & (self.records["frame"][:, columns] >= 0)
        row, column = np.nonzero(here)
        walker = ladder * k + column
        frame: NDArray[np.int64] = self.records["frame"][row, walker]
        return walker, frame

    def rungs(self, walker: int) -> NDArray[np.int64]:
        """Return the rung of each frame of a walker, ``(n,)``."""
        stored = self.records["frame"][:, walker] >= 0
        found: NDArray[np.int64] = self.records["rung"][stored, walker].astype(np.int64)
        return found

    @cached_property
    def mean_energies(self) -> NDArray[np.float64]:
        """Mean energy of the frames of each rung, kcal/mol; NaN for a rung without frames."""
        rung, energy = self._flat("rung"), self._flat("energy")
        k = len(self.temperatures)
        count = np.bincount(rung, minlength=k)
        total = np.bincount(rung, weights=energy, minlength=k)
        mean: NDArray[np.float64] = np.divide(total, count, out=np.full(k, np.nan), where=count > 0)
        return mean

    def _flat(self, name: str) -> NDArray[np.generic]:
        return np.asarray(self.records[name][self.records["frame"] >= 0])

    def save_energies(self, path: Path) -> None:
        """Write the energies of all frames as MBAR needs them, sorted by temperature; see the arrays' names.

        ``u_kn`` ``(temperatures, frames)`` are reduced energies U/kT, ``N_k`` the frames of each temperature,
        ``energies`` U in kcal/mol; ``ladder``, ``walker``, ``frame`` (in the walker's file) and ``step`` say
        which frame it is.
        """
        k = len(self.temperatures)
        row, walker = np.nonzero(self.records["frame"] >= 0)
        rung = self.records["rung"][row, walker]
        order = np.lexsort((row, walker // k, rung))
        row, walker, rung = row[order], walker[order], rung[order]
        energies = self.records["energy"][row, walker]
        with atomic_write(path) as handle:
            np.savez(
                handle,
                temperatures=np.array(self.temperatures),
                u_kn=energies[None] / np.array([kT(t) for t in self.temperatures])[:, None],
                N_k=np.bincount(rung, minlength=k),
                energies=energies,
                rung=rung,
                ladder=walker // k,
                walker=walker,
                frame=self.records["frame"][row, walker],
                step=self.records["step"][row],
            )


def make_record(
    step: int, energies: NDArray[np.float64], rungs: Sequence[int], frames: NDArray[np.int64]
) -> NDArray[np.void]:
    """Return one record, ``(1,)``."""
    record = np.zeros(1, dtype=record_dtype(len(energies)))
    record["step"], record["energy"], record["rung"], record["frame"] = step, energies, rungs, frames
    return record
