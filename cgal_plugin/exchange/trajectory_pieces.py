"""Pieces of an import of all-atom trajectories: what workers get, and the files that they write."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.damage import check_archive
from cgal_plugin.data.atom_files import AtomFile
from cgal_plugin.data.periodic import whole_by_bonds
from cgal_plugin.errors import DataError
from cgal_plugin.oracle.recompute import FrameForces
from cgal_plugin.oracle.trajectory import MAX_FORCE
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

    from cgal_plugin.mapping import CGMapping

#: frames of a piece, and atoms of a piece (memory)
_MOST_FRAMES, _MOST_ATOMS = 250, 4_000_000


@dataclass(frozen=True, eq=False)
class SoluteFrames:
    """Frames of the solute.

    Attributes
    ----------
    positions, forces
        ``(n, n_solute, 3)`` float32 Å and kcal/mol/Å, in the order of the mapping; molecules are whole.
    times
        ``(n,)`` ps; NaN without times.
    rows
        ``(n,)`` int64: numbers of the frames in their file.
    n_left_out
        Number of frames whose positions or forces were not finite or impossibly large.
    """

    positions: NDArray[np.float32]
    forces: NDArray[np.float32]
    times: NDArray[np.float64]
    rows: NDArray[np.int64]
    n_left_out: int = 0

    def save(self, path: Path) -> None:
        """Write ``.npz``, atomically."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        with atomic_write(path, sync=False) as handle:
            np.savez(handle, **arrays)

    @classmethod
    def load(cls, path: Path) -> SoluteFrames:
        """Read a file of :meth:`save`.

        Raises
        ------
        DataError
            It is missing or damaged.
        """
        try:
            check_archive(path)
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in cls.__dataclass_fields__}
        except BAD_ARCHIVE as error:
            raise DataError(f"{path} cannot be read: {error}; run the import again") from error
        return cls(**arrays | {"n_left_out": int(arrays["n_left_out"])})


@dataclass(frozen=True, eq=False)
class ImportPlan:
    """What is imported, and how forces are made. Picklable.

    Attributes
    ----------
    files
        The trajectories.
    topology
        Their atoms.
    solute
        ``(n_solute,)`` int64: atom of the files for each atom of the mapping.
    bonds
        Bonds of the solute, pairs of atoms of the mapping.
    mapping
        Beads.
    recompute
        Computes forces; None if no configuration is given.
    recomputed
        Whether the forces of each file are computed.
    """

    files: tuple[AtomFile, ...]
    topology: mdtraj.Topology
    solute: NDArray[np.int64]
    bonds: tuple[tuple[int, int], ...]
    mapping: CGMapping
    recompute: FrameForces | None
    recomputed: tuple[bool, ...]
    hydrogens: frozenset[int] = field(default_factory=frozenset)

    @cached_property
    def hydrogen_bonds(self) -> NDArray[np.int64]:
        """``(n, 2)`` bonds to hydrogen."""
        pairs = [pair for pair in self.bonds if self.hydrogens & set(pair)]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    def absolute(self) -> ImportPlan:
        """Return the plan with absolute paths, for workers with another working directory."""
        return replace(self, files=tuple(file.absolute() for file in self.files))

    def read(self, file: int, rows: NDArray[np.int64], *, compute: bool | None = None) -> SoluteFrames:
        """Read frames of a file with their forces; frames that cannot be used are left out.

        ``compute``: whether to compute the forces; default: as planned.
        """
        source = self.files[file]
        compute = self.recomputed[file] if compute is None else compute
        frames = source.read(rows, self.topology, forces=not compute)
        xyz: NDArray[np.floating] = frames.positions[:, self.solute]
        if frames.cells is not None:
            xyz, _ = whole_by_bonds(xyz, frames.cells, self.bonds)
        if compute:
            assert self.recompute is not None
            forces: NDArray[np.floating] = self.recompute(frames.positions, frames.cells)[0]
        elif frames.forces is None:
            forces = np.full_like(xyz, np.nan)
        else:
            forces = frames.forces[:, self.solute]
        with np.errstate(invalid="ignore"):
            good = np.isfinite(xyz).all(axis=(1, 2)) & (np.abs(forces).max(axis=(1, 2)) < MAX_FORCE)
        times = np.full(len(rows), np.nan) if frames.times is None else frames.times
        return SoluteFrames(
            xyz[good].astype(np.float32),
            forces[good].astype(np.float32),
            np.asarray(times, dtype=np.float64)[good],
            np.asarray(rows)[good],
            int((~good).sum()),
        )


@dataclass(frozen=True, eq=False)
class Piece:
    """Some frames of a file, and the file for them."""

    file: int
    rows: NDArray[np.int64]
    path: Path


def pieces_of(plan: ImportPlan, stride: int, folder: Path) -> list[Piece]:
    """Divide the frames of all files; a killed import loses at most the pieces in work."""
    size = max(1, min(_MOST_FRAMES, _MOST_ATOMS // plan.topology.n_atoms))
    found = []
    for k, file in enumerate(plan.files):
        rows = file.rows[::stride]
        for number, lo in enumerate(range(0, len(rows), size)):
            found.append(Piece(k, rows[lo : lo + size], folder / f"{k:04d}_{number:06d}.npz"))
    return found


def import_piece(plan: ImportPlan, piece: Piece) -> int:
    """Write the solute frames of a piece; return the number of frames read."""
    plan.read(piece.file, piece.rows).save(piece.path)
    return len(piece.rows)
