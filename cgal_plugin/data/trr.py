"""Read GROMACS TRR files with their forces; mdtraj reads positions only.

A frame has any of box, positions, velocities and forces, because GROMACS writes each at its own
interval (``nstxout``, ``nstvout``, ``nstfout``). Units of the file: nm, ps, kJ/mol/nm. All numbers are XDR
(big endian), in single or double precision.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cgal_plugin.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_MAGIC = 1993
#: bytes of: inputrec, energies, box, virial, pressure, topology, symbols, positions, velocities, forces
_SECTIONS = struct.Struct(">10i")
_COUNTS = struct.Struct(">3i")  # atoms, step, energies
_BOX, _VIRIAL, _PRESSURE, _X, _V, _F = 2, 3, 4, 7, 8, 9
_ORDER = (_BOX, _VIRIAL, _PRESSURE, _X, _V, _F)


@dataclass(frozen=True)
class _Frame:
    """Place of the sections of one frame: section -> first byte, for those that it has."""

    places: dict[int, int]
    n_atoms: int
    real: np.dtype[Any]
    time: float


class TRRFile:
    """Index of a TRR file: which frames have positions and forces, and where.

    Parameters
    ----------
    path
        The file. Only the headers of its frames are read.

    Attributes
    ----------
    n_atoms
        Number of atoms.
    times
        ``(n_frames,)`` ps, of all frames in the file.
    has_positions, has_forces
        ``(n_frames,)`` bool.
    truncated
        Whether the last frame is incomplete, as in a file of a simulation that was killed. It does not count.

    Raises
    ------
    DataError
        The file is not a TRR file, is damaged, has no complete frame, or its number of atoms changes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.truncated = False
        self._frames: list[_Frame] = []
        try:
            with self.path.open("rb") as handle:
                self._scan(handle, self.path.stat().st_size)
        except OSError as error:
            raise DataError(f"trajectory {str(path)!r} cannot be read: {error.strerror}") from error
        if not self._frames:
            raise DataError(f"{self.path} has no complete frame")
        self.n_atoms = self._frames[0].n_atoms
        other = next((k for k, f in enumerate(self._frames) if f.n_atoms != self.n_atoms), None)
        if other is not None:
            raise DataError(
                f"{self.path} has {self.n_atoms} atoms in its first frame and {self._frames[other].n_atoms} "
                f"in frame {other}; a trajectory has one number of atoms"
            )
        self.times: NDArray[np.float64] = np.array([f.time for f in self._frames])
        self.has_positions: NDArray[np.bool_] = np.array([_X in f.places for f in self._frames])
        self.has_forces: NDArray[np.bool_] = np.array([_F in f.places for f in self._frames])

    def __len__(self) -> int:
        return len(self._frames)

    def _scan(self, handle: BinaryIO, size: int) -> None:
        while (start := handle.tell()) < size:
            frame, end = _read_header(handle, f"{self.path}, frame {len(self._frames)}")
            if frame is None or end > size:
                self.truncated = True
                return
            self._frames.append(frame)
            assert end > start
            handle.seek(end)

    def read(
        self, rows: Sequence[int] | NDArray[np.integer], *, forces: bool = True
    ) -> tuple[NDArray[np.floating], NDArray[np.float64], NDArray[np.floating] | None]:
        """Read positions, boxes and forces of frames that have them.

        Returns
        -------
        ``(n, n_atoms, 3)`` nm, ``(n, 3, 3)`` nm (zero without a box), and ``(n, n_atoms, 3)`` kJ/mol/nm, or
        None without ``forces``. The dtype is that of the file.

        Raises
        ------
        DataError
            A frame lacks positions or forces.
        """
        chosen = [self._frames[int(row)] for row in rows]
        dtype = np.result_type(np.float32, *[f.real.newbyteorder("=") for f in chosen])
        shape = len(chosen), self.n_atoms, 3
        xyz, boxes = np.empty(shape, dtype=dtype), np.zeros((len(chosen), 3, 3))
        force = np.empty(shape, dtype=dtype) if forces else None
        with self.path.open("rb") as handle:
            for k, (row, frame) in enumerate(zip(rows, chosen, strict=True)):
                xyz[k] = self._section(handle, frame, _X, int(row), "positions")
                if force is not None:
                    force[k] = self._section(handle, frame, _F, int(row), "forces")
                if _BOX in frame.places:
                    handle.seek(frame.places[_BOX])
                    boxes[k] = np.frombuffer(handle.read(9 * frame.real.itemsize), frame.real).reshape(3, 3)
        return xyz, boxes, force

    def velocities(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.floating]:
        """Read velocities, ``(n, n_atoms, 3)`` nm/ps, of those of the frames that have them."""
        own = [int(row) for row in rows if _V in self._frames[int(row)].places]
        found = np.empty((len(own), self.n_atoms, 3))
        with self.path.open("rb") as handle:
            for k, row in enumerate(own):
                found[k] = self._section(handle, self._frames[row], _V, row, "velocities")
        return found

    def _section(self, handle: BinaryIO, frame: _Frame, section: int, row: int, what: str) -> NDArray[Any]:
        if section not in frame.places:
            raise DataError(f"{self.path} has no {what} in frame {row}")
        handle.seek(frame.places[section])
        content = handle.read(3 * self.n_atoms * frame.real.itemsize)
        return np.frombuffer(content, frame.real).reshape(self.n_atoms, 3)


def _read_header(handle: BinaryIO, what: str) -> tuple[_Frame | None, int]:
    """Return a frame and the place of the next one; no frame if the file ends within the header."""

    def take(n: int) -> bytes:
        found = handle.read(n)
        if len(found) < n:
            raise EOFError
        return found

    try:
        magic, _, length = struct.unpack(">3i", take(12))
        if magic != _MAGIC or not 0 < length < 100:
            raise DataError(f"{what}: this is not a TRR file, or it is damaged")
        take(-(-length // 4) * 4)
        sizes = _SECTIONS.unpack(take(_SECTIONS.size))
        n_atoms, _, _ = _COUNTS.unpack(take(_COUNTS.size))
        real = _precision(sizes, n_atoms, what)
        (time, _) = np.frombuffer(take(2 * real.itemsize), real)
    except EOFError:
        return None, 0
    position = handle.tell() + sum(size for k, size in enumerate(sizes) if k not in _ORDER)
    places = {}
    for section in _ORDER:
        if sizes[section]:
            places[section] = position
        position += sizes[section]
    return _Frame(places, n_atoms, real, float(time)), position


def _precision(sizes: Sequence[int], n_atoms: int, what: str) -> np.dtype[Any]:
    """Return the type of the numbers of a frame, from the sizes of its sections."""
    expected = dict.fromkeys((_BOX, _VIRIAL, _PRESSURE), 9) | dict.fromkeys((_X, _V, _F), 3 * n_atoms)
    for name in (">f4", ">f8"):
        real = np.dtype(name)
        if n_atoms > 0 and all(sizes[k] in (0, n * real.itemsize) for k, n in expected.items()):
            return real
    raise DataError(f"{what}: the sizes of its sections do not fit {n_atoms} atoms; the file is damaged")
