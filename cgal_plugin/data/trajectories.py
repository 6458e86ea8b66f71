"""Trajectory files: npz, npy and the formats of mdtraj, all-atom or CG, read as beads in Å."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cgal_plugin.data.arrays import is_frames, is_numpy, load_numpy
from cgal_plugin.data.bond_lengths import CELL, NO_CELL, check_unit, find_broken
from cgal_plugin.data.mdtraj_files import iterate_mdtraj, load_mdtraj
from cgal_plugin.data.periodic import usable_cells, whole_molecules, whole_residues
from cgal_plugin.data.times import array_times, times_of
from cgal_plugin.errors import CGALWarning, DataError, MappingError
from cgal_plugin.mapping.molecule import say_left_out
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.provenance import atomic_write
from cgal_plugin.units import ANGSTROM_PER_NM, as_angstrom

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

#: remedy for the right residues in other chains
_OTHER_CHAINS = (
    ". The residues are the same, the chains are not. If residues are missing in the molecule, use a "
    "topology with the same gap; if it is broken across the box, write whole molecules (gmx trjconv -pbc "
    "whole)"
)
#: how to give the unit of arrays, in a message
UNIT_REMEDY = (
    "give the unit {unit} (option --units, key evaluation.reference_units, length_unit of a data set, or "
    "unit= in Python)"
)
#: for formats with a unit of their own
OWN_UNIT = "the file is not in the unit of its format: scale its coordinates"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One trajectory of a file as beads.

    Attributes
    ----------
    name
        File, and array or shard.
    positions
        ``(n, n_beads, 3)`` Å.
    rows
        ``(n,)`` int64: number of each frame in the file. Frames with impossible bonds are missing.
    n_frames
        Number of frames in the file.
    times
        ``(n_frames,)`` ps; None if the file has none.
    notes
        What was changed or left out, one line each.
    """

    name: str
    positions: NDArray[np.floating]
    rows: NDArray[np.int64]
    n_frames: int
    times: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()


def save_trajectories(path: str | os.PathLike[str], trajectories: Sequence[NDArray[np.floating]]) -> None:
    """Write trajectories as one npz, atomically.

    Parameters
    ----------
    path
        File to write.
    trajectories
        One ``(n_frames, n_beads, 3)`` array per trajectory, Å; written as float32, in order.
    """
    arrays: dict[str, Any] = {
        f"trajectory_{i:05d}": np.asarray(t, dtype=np.float32) for i, t in enumerate(trajectories)
    }
    with atomic_write(path) as handle:
        np.savez(handle, **arrays)


def load_replicas(path: str | os.PathLike[str]) -> list[NDArray[np.floating]]:
    """Read a file of :func:`save_trajectories`: one ``(n, n_beads, 3)`` array per replica, Å, n may be 0."""
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[name] for name in sorted(arrays.files)]


def load_trajectories(
    path: str | os.PathLike[str],
    topology: CGTopology | None = None,
    *,
    top: str | os.PathLike[str] | None = None,
    mapping: Any = None,
    unit: str = "angstrom",
) -> list[NDArray[np.floating]]:
    """Read the trajectories of one file as beads in Å; see :func:`read_trajectories`.

    Warns
    -----
    CGALWarning
        Molecules were broken across the periodic box and were made whole.

    Raises
    ------
    DataError
        As :func:`read_trajectories`, or a frame has an impossible bond.
    """
    found = read_trajectories(path, topology, top=top, mapping=mapping, unit=unit)
    tell(note for trajectory in found for note in trajectory.notes)
    return [trajectory.positions for trajectory in found]


def read_trajectories(
    path: str | os.PathLike[str],
    topology: CGTopology | None = None,
    *,
    top: str | os.PathLike[str] | None = None,
    mapping: Any = None,
    unit: str = "angstrom",
    broken: Literal["refuse", "omit", "keep"] = "refuse",
) -> list[Trajectory]:
    """Read the trajectories of one file as beads in Å, with times and notes.

    Molecules that are broken across the periodic box are made whole if the file has a unit cell.

    Parameters
    ----------
    path
        ``.npz`` (one trajectory per array; arrays named as forces are not read, see
        :func:`~cgal_plugin.data.arrays.load_numpy`), ``.npy`` (one trajectory), the folder of a data store
        (one trajectory per shard), or a format of mdtraj. Extensions may be in upper case.
    topology
        Expected beads; None accepts any, and bonds are not checked.
    top
        Topology file for formats without one (DCD, XTC).
    mapping
        Map of all-atom frames to beads; default: the map of ``topology``, or CA.
    unit
        Length unit of ``.npy`` and ``.npz`` files, ``"angstrom"`` or ``"nm"``; other formats have their own.
    broken
        What to do with frames that have an impossible bond: ``"refuse"`` them with an error, ``"omit"`` them,
        or ``"keep"`` them. The last two are said in the notes, and refuse more than half of the frames.

    Raises
    ------
    DataError
        The file is missing, empty or cannot be read, has frames that are not finite, has other beads than
        ``topology``, bonds of impossible length, or bonds that are a tenth or ten times of what they should
        be.
    UnitError
        The unit is unknown.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"trajectory {str(path)!r} does not exist")
    found = []
    for name, frames, times, notes, remedy in _pieces(path, topology, top, mapping, unit):
        if not frames.size:
            continue
        check_frames(frames, name, topology)
        rows = np.arange(len(frames))
        if topology is not None:
            check_unit(frames, topology, name, remedy=UNIT_REMEDY if is_numpy(path) else OWN_UNIT)
            bad = find_broken(frames, topology)
            if bad is not None:
                if broken == "refuse" or 2 * len(bad.rows) > len(frames):
                    raise bad.error(name, remedy)
                if broken == "omit":
                    rows = np.delete(rows, bad.rows)
                notes = (
                    *notes,
                    f"{name}: {bad.text()}" + ("; they are left out" if broken == "omit" else ""),
                )
        found.append(Trajectory(name, frames[rows], rows, len(frames), times, notes))
    if not found:
        raise DataError(f"trajectory {str(path)!r} has no frames")
    return found


_Piece = tuple[str, "NDArray[Any]", "NDArray[np.float64] | None", tuple[str, ...], str]


def _pieces(
    path: Path, topology: CGTopology | None, top: str | os.PathLike[str] | None, mapping: Any, unit: str
) -> Iterator[_Piece]:
    """Yield name, frames (not checked), times, notes, and the remedy for broken frames."""
    if path.is_dir():
        from cgal_plugin.data.store import DataStore

        for shard, labelled in DataStore(path):
            yield f"shard {shard!r} of {path}", labelled.positions, None, (), NO_CELL
    elif is_numpy(path):
        for name, array in load_numpy(path):
            frames = as_angstrom(array, unit) if is_frames(array) else array
            yield name, frames, array_times(path, len(array)) if array.ndim else None, (), NO_CELL
    else:
        loaded = load_mdtraj(path, top)
        frames, moved = to_beads(loaded, topology, mapping, source=str(path))
        notes = made_whole(str(path), int(moved.sum()), len(frames))
        remedy = NO_CELL if usable_cells(loaded.unitcell_vectors) is None else CELL
        yield str(path), frames, times_of(path, loaded.time), notes, remedy


def made_whole(source: str, n_moved: int, n_frames: int) -> tuple[str, ...]:
    """Return the note for the user, if molecules were made whole."""
    if not n_moved:
        return ()
    return (f"{source}: molecules were made whole across the periodic box in {n_moved} of {n_frames} frames",)


def tell(notes: Any) -> None:
    """Warn of each note."""
    for note in notes:
        warnings.warn(note, CGALWarning, stacklevel=3)


def check_frames(frames: NDArray[Any], source: str, topology: CGTopology | None, first: int = 0) -> None:
    """Check that frames are an ``(n, n_beads, 3)`` array of finite numbers with the beads of ``topology``.

    Raises
    ------
    DataError
        The shape, the number of beads or a value is wrong. The message names ``source`` and the frame,
        counted from ``first``.
    """
    if not is_frames(frames):
        raise DataError(
            f"{source} has an array of shape {frames.shape} and type {frames.dtype}; "
            "expected real numbers (n_frames, n_beads, 3)"
        )
    if topology is not None and frames.shape[1] != topology.n_beads:
        raise DataError(f"{source} has {frames.shape[1]} beads; {topology!r} has {topology.n_beads}")
    if not np.isfinite(frames).all():
        bad = first + int(np.flatnonzero(~np.isfinite(frames).all(axis=(1, 2)))[0])
        raise DataError(f"{source} has coordinates that are not finite (first in frame {bad})")


def iter_mdtraj(
    path: Path, topology: CGTopology | None, top: str | os.PathLike[str] | None, chunk: int
) -> Iterator[tuple[NDArray[np.floating], int, str]]:
    """Yield the frames of a file in a format of mdtraj as beads in Å, at most ``chunk`` at a time.

    With each piece: the number of its frames that were made whole, and the remedy for broken frames.

    Raises
    ------
    DataError
        See :func:`read_trajectories`.
    """
    for piece in iterate_mdtraj(path, top, chunk):
        frames, moved = to_beads(piece, topology, source=str(path))
        yield frames, int(moved.sum()), NO_CELL if usable_cells(piece.unitcell_vectors) is None else CELL


def to_beads(
    trajectory: mdtraj.Trajectory,
    topology: CGTopology | None = None,
    mapping: Any = None,
    *,
    source: str = "",
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return the frames of an ``mdtraj.Trajectory`` as whole molecules of beads, ``(n, n_beads, 3)`` Å.

    A trajectory of the beads of ``topology`` (by name and residue) is used directly; another one is mapped.
    The second result is ``(n,)`` bool: whether the molecule was broken across the periodic box.

    Raises
    ------
    DataError
        The trajectory cannot be mapped, or its beads differ from ``topology``.
    """
    from cgal_plugin.mapping.maps import CGMapping

    cells = usable_cells(trajectory.unitcell_vectors)
    moved = np.zeros(len(trajectory), dtype=bool)
    if topology is not None:
        atoms = [(a.name, a.residue.name, a.residue.index) for a in trajectory.topology.atoms]
        beads = zip(topology.bead_names, topology.residue_names, topology.residue_index.tolist(), strict=True)
        if atoms == list(beads):
            xyz: NDArray[np.floating] = trajectory.xyz * ANGSTROM_PER_NM
            return (xyz, moved) if cells is None else whole_molecules(xyz, cells, topology)
    chosen = mapping if mapping is not None else "CA" if topology is None else topology.mapping
    try:
        cg = CGMapping.from_topology(trajectory, chosen)
    except MappingError as error:
        raise DataError(f"{source or 'trajectory'} cannot be mapped to beads: {error}") from error
    say_left_out(source or "trajectory", cg.left_out)
    if topology is not None and cg.topology.sequence != topology.sequence:
        found, wanted = cg.topology.sequence, topology.sequence
        same = found.replace(":", "") == wanted.replace(":", "")
        raise DataError(f"{source or 'trajectory'} is for {found}, not {wanted}{_OTHER_CHAINS * same}")
    if cells is None:
        return cg.map_positions(trajectory), moved
    if cg.is_slice:
        mapped = cg.map_positions(trajectory)
    else:
        atoms_whole, moved = whole_residues(trajectory, cg, cells)
        mapped = cg.map_positions(atoms_whole)
    whole, also = whole_molecules(mapped, cells, topology or cg.topology)
    return whole, moved | also
