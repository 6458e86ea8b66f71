"""All-atom trajectory files: frames by number, with the forces that files have."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.arrays import is_frames, load_numpy
from cgal_plugin.data.mdtraj_files import count_atoms, count_frames, extension, iterate_mdtraj
from cgal_plugin.data.periodic import usable_cells
from cgal_plugin.data.times import dcd_interval
from cgal_plugin.data.trr import TRRFile
from cgal_plugin.errors import DataError
from cgal_plugin.units import ANGSTROM_PER_NM, FORCE_UNITS

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

_TRR = ".trr"
_TRR_UNIT = "kJ/mol/nm"
_SEVERAL_READ = 100


@dataclass(frozen=True, eq=False)
class AtomFrames:
    """Frames of all atoms of a file.

    Attributes
    ----------
    positions
        ``(n, n_atoms, 3)`` Å.
    cells
        ``(n, 3, 3)`` Å: vectors of the periodic box, one per row; None without one.
    forces
        ``(n, n_atoms, 3)`` kcal/mol/Å; None if they were not read.
    times
        ``(n,)`` ps; None if the file has none.
    """

    positions: NDArray[np.floating]
    cells: NDArray[np.float64] | None
    forces: NDArray[np.floating] | None
    times: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class AtomFile:
    """A trajectory file, and where its forces are. Create it with :func:`open_atom_file`.

    Attributes
    ----------
    path
        The trajectory.
    n_frames
        Number of frames in it.
    rows
        ``(n,)`` int64: the frames that can be used. Frames of a TRR file without positions, or without forces
        where others have them, are missing.
    force_file, force_unit
        File with the forces: None, the trajectory itself, or an array; and their unit.
    notes
        What was left out, one line each.
    """

    path: Path
    n_frames: int
    rows: NDArray[np.int64]
    force_file: Path | None = None
    force_unit: str = _TRR_UNIT
    notes: tuple[str, ...] = ()

    def read(
        self, rows: Sequence[int] | NDArray[np.integer], topology: mdtraj.Topology, *, forces: bool = True
    ) -> AtomFrames:
        """Read the frames of these numbers, ascending, with their forces if the file has them.

        Raises
        ------
        DataError
            The file cannot be read, or has changed.
        """
        index = np.asarray(rows, dtype=np.int64)
        wanted = forces and self.force_file is not None
        if extension(self.path) == _TRR:
            own = wanted and self.force_file == self.path
            trr = _trr(self.path, *_state(self.path))
            xyz, boxes, force = trr.read(index, forces=own)
            times: Any = trr.times[index]
        else:
            xyz, boxes, times = _by_mdtraj(self.path, index, topology)
            force = None
        if wanted and force is None:
            assert self.force_file is not None
            force = np.asarray(_array(self.force_file, *_state(self.force_file))[index])
        return AtomFrames(
            xyz * xyz.dtype.type(ANGSTROM_PER_NM),
            usable_cells(boxes),
            None if force is None else force * FORCE_UNITS[self.force_unit],
            _times(self.path, times, index),
        )

    def absolute(self) -> AtomFile:
        """Return the same with absolute paths."""
        path = self.path.absolute()
        forces = None if self.force_file is None else self.force_file.absolute()
        return replace(self, path=path, force_file=forces)

    def velocities(self, rows: NDArray[np.int64]) -> NDArray[np.floating] | None:
        """Return the velocities of frames, ``(n, n_atoms, 3)`` nm/ps; None unless a TRR file has them."""
        if extension(self.path) != _TRR:
            return None
        found = _trr(self.path, *_state(self.path)).velocities(rows)
        return found if len(found) else None


def open_atom_file(
    path: Path,
    topology: mdtraj.Topology,
    *,
    top_name: str,
    forces: Path | None = None,
    force_unit: str | None = None,
    use_forces: bool = True,
) -> AtomFile:
    """Check a trajectory file, and the file with its forces, against a topology.

    Parameters
    ----------
    path
        The trajectory.
    topology, top_name
        Its atoms, and where they come from, for messages.
    forces, force_unit
        ``.npy`` or ``.npz`` file ``(n_frames, n_atoms, 3)`` and its unit, one of
        :data:`~cgal_plugin.units.FORCE_UNITS`.
    use_forces
        Whether forces in the trajectory itself are used.

    Raises
    ------
    DataError
        A file is missing, damaged or empty; its atoms are not those of the topology; forces have another
        shape or no unit.
    """
    if not path.is_file():
        raise DataError(f"trajectory {str(path)!r} does not exist")
    if extension(path) == _TRR:
        found = _open_trr(path, use_forces and forces is None)
        n_atoms = _trr(path, *_state(path)).n_atoms
    else:
        n_frames = count_frames(path, topology)
        found = AtomFile(path, n_frames, np.arange(n_frames))
        n_atoms = _atoms_of(path, topology, top_name) if n_frames else topology.n_atoms
    if not len(found.rows):
        raise DataError(f"trajectory {str(path)!r} has no frames")
    if n_atoms != topology.n_atoms:
        raise DataError(
            f"{path} has {n_atoms} atoms, its topology {top_name} has {topology.n_atoms}: give the "
            "topology of exactly these atoms (GROMACS: gmx trjconv -dump 0, same group; AMBER: cpptraj "
            "outtraj or parmstrip)"
        )
    if forces is None:
        if force_unit is not None and found.force_file is not None and force_unit != _TRR_UNIT:
            raise DataError(f"force_unit {force_unit!r}: the forces of TRR files are in {_TRR_UNIT} ({path})")
        return found
    if force_unit not in FORCE_UNITS:
        said = "no unit" if force_unit is None else f"the unit {force_unit!r}, which is not known"
        raise DataError(
            f"forces {str(forces)!r} have {said}: give --force-unit, one of {', '.join(FORCE_UNITS)}"
        )
    if not forces.is_file():
        raise DataError(f"forces file {str(forces)!r} does not exist")
    shape = np.shape(_array(forces, *_state(forces)))
    if shape != (found.n_frames, n_atoms, 3):
        raise DataError(
            f"forces {str(forces)!r} have the shape {shape}; {path} needs ({found.n_frames}, {n_atoms}, 3): "
            "one force per frame and atom, in the order of its topology"
        )
    return AtomFile(path, found.n_frames, found.rows, forces, force_unit, found.notes)


def _open_trr(path: Path, use_forces: bool) -> AtomFile:
    trr = _trr(path, *_state(path))
    notes = []
    if trr.truncated:
        notes.append(f"{path}: the last frame is incomplete and is left out")
    usable = trr.has_positions
    with_forces = usable & trr.has_forces
    if use_forces and with_forces.any():
        lacking = int((~with_forces).sum())
        if lacking:
            notes.append(
                f"{path}: {lacking} of {len(trr)} frames lack positions or forces (nstxout and nstfout "
                "differ) and are left out"
            )
        return AtomFile(path, len(trr), np.flatnonzero(with_forces), path, _TRR_UNIT, tuple(notes))
    if not usable.any():
        raise DataError(f"{path} has no positions: it was written with nstxout = 0")
    if not usable.all():
        notes.append(
            f"{path}: {int((~usable).sum())} of {len(trr)} frames have no positions and are left out"
        )
    return AtomFile(path, len(trr), np.flatnonzero(usable), notes=tuple(notes))


def _atoms_of(path: Path, topology: mdtraj.Topology, top_name: str) -> int:
    """Return the number of atoms of a file; check names where the file has a topology of its own."""
    try:
        first = next(iterate_mdtraj(path, topology, 1))
    except DataError:
        number = count_atoms(path)
        if number is None or number == topology.n_atoms:
            raise
        return number
    own = first.topology
    if own.n_atoms == topology.n_atoms and own is not topology:
        for a, b in zip(own.atoms, topology.atoms, strict=True):
            if (a.name, a.residue.name) != (b.name, b.residue.name):
                raise DataError(
                    f"{path} lists other atoms than {top_name}: atom {a.index} is {a}, expected {b}"
                )
    return int(own.n_atoms)


def _by_mdtraj(
    path: Path, rows: NDArray[np.int64], topology: mdtraj.Topology
) -> tuple[NDArray[np.floating], Any, NDArray[np.float64]]:
    """Return positions (nm), boxes (nm) and times of frames; nothing before the first is kept in memory."""
    first, last = int(rows[0]), int(rows[-1])
    positions, boxes, times = [], [], []
    begin = first
    for piece in iterate_mdtraj(path, topology, _SEVERAL_READ, skip=first):
        own = rows[(rows >= begin) & (rows < begin + len(piece))] - begin
        positions.append(piece.xyz[own])
        times.append(np.asarray(piece.time, dtype=np.float64)[own])
        vectors = piece.unitcell_vectors
        boxes.append(None if vectors is None else vectors[own])
        begin += len(piece)
        if begin > last:
            break
    if begin <= last:
        raise DataError(f"{path} ends at frame {begin}; it had more frames when the import began")
    cells = None if any(b is None for b in boxes) else np.concatenate([b for b in boxes if b is not None])
    return np.concatenate(positions), cells, np.concatenate(times)


def _times(path: Path, times: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return the times of frames, ps; None if what was read are frame numbers."""
    if extension(path) == ".dcd":
        interval = dcd_interval(path)
        return None if interval is None else np.asarray(interval * (rows + 1.0), dtype=np.float64)
    if not np.isfinite(times).all() or any((times == rows + first).all() for first in (0, 1)):
        return None
    return None if len(times) > 1 and bool((times == times[0]).all()) else times


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _trr(path: Path, size: int, modified: int) -> TRRFile:
    """Return the index of a TRR file, once per process and state of the file."""
    return TRRFile(path)


@functools.lru_cache(maxsize=2)
def _array(path: Path, size: int, modified: int) -> NDArray[Any]:
    """Return the forces of a file; npy files are memory-mapped."""
    arrays = list(load_numpy(path, mapped=True, role="forces"))
    if len(arrays) != 1:
        raise DataError(f"{path} has {len(arrays)} arrays of forces; give one file per trajectory")
    name, array = arrays[0]
    if not is_frames(array):
        raise DataError(
            f"{name} has shape {array.shape} and type {array.dtype}; expected (n_frames, n_atoms, 3)"
        )
    return array
