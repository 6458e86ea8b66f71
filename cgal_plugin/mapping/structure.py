"""Residues, atoms, bonds and coordinates of a structure, from mdtraj or OpenMM in one form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.residues import IONS, WATER
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: frames of a trajectory that decide which residues are bonded
_MAX_FRAMES = 11
#: Å; smaller unit cells are placeholders, such as the 1 × 1 × 1 of NMR models
_SMALLEST_CELL = 8.0
#: Å; atoms that are closer have placeholder coordinates
_COINCIDENT = 0.1
#: Å; a part of a residue that is listed elsewhere in the file is at most this far from the rest
_SAME_RESIDUE = 4.0
#: names of the carbonyl oxygen of a chain end in CHARMM and GROMACS
_SAME_ATOM = {"O": ("OT1", "OC1", "O1", "OXT1")}


@dataclass
class Residue:
    """One residue of a file.

    ``name`` is in capitals, ``number`` None if it is not an integer, ``chain`` the index of the chain in the
    file, and ``atoms`` gives the index of each atom name (empty for water).
    """

    name: str
    number: int | None
    chain: int
    chain_id: str
    segment: str
    atoms: dict[str, int]
    duplicates: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Name and number, such as ``ALA5``, with the id of the chain if there is one: ``A:ALA5``."""
        number = "" if self.number is None else str(self.number)
        return f"{self.chain_id}:{self.name}{number}" if self.chain_id else f"{self.name}{number}"

    def atom(self, name: str) -> int | None:
        """Return the index of an atom, by its name or that of another program; None if it is missing."""
        return next((self.atoms[n] for n in (name, *_SAME_ATOM.get(name, ())) if n in self.atoms), None)


class Coordinates:
    """Distances between atoms, with periodic images if the cell is known.

    Parameters
    ----------
    xyz
        ``(n_frames, n_atoms, 3)`` Å.
    cells
        ``(n_frames, 3, 3)`` Å, or None; cells that are too small to be real are ignored.
    """

    def __init__(self, xyz: NDArray[np.floating], cells: NDArray[np.floating] | None) -> None:
        self.xyz = np.asarray(xyz, dtype=np.float64)
        self.cells: NDArray[np.float64] | None = None
        if cells is not None and np.isfinite(cells).all():
            own = np.asarray(cells, dtype=np.float64)
            volume = np.abs(np.linalg.det(own))
            faces = np.linalg.norm(np.cross(np.roll(own, -1, axis=1), np.roll(own, -2, axis=1)), axis=2)
            if (faces > 0).all() and (volume[:, None] / faces).min() >= _SMALLEST_CELL:
                self.cells = own

    def vectors(self, i: Any, j: Any) -> NDArray[np.float64]:
        """Return the vectors from atoms ``i`` to atoms ``j``, ``(n_frames, ..., 3)`` Å, nearest images."""
        d: NDArray[np.float64] = self.xyz[:, j] - self.xyz[:, i]
        if self.cells is not None:
            shape = d.shape
            d = d.reshape(len(d), -1, 3)
            d = d - np.round(d @ np.linalg.inv(self.cells)) @ self.cells
            d = d.reshape(shape)
        return d

    def distance(self, i: int | None, j: int | None) -> float | None:
        """Return the median distance of two atoms over the frames, Å; None without usable coordinates."""
        if i is None or j is None:
            return None
        found = float(np.median(np.linalg.norm(self.vectors(i, j), axis=-1)))
        return found if np.isfinite(found) and found > _COINCIDENT else None

    def closest(self, first: list[int], second: list[int]) -> float | None:
        """Return the smallest distance between two groups of atoms in the first frame, Å."""
        a, b = np.repeat(first, len(second)), np.tile(second, len(first))
        found = float(np.linalg.norm(self.vectors(a, b)[0], axis=-1).min())
        return found if np.isfinite(found) and found > _COINCIDENT else None


def read_coordinates(structure: Any, positions: Any = None) -> Coordinates | None:
    """Return the coordinates of a ``Trajectory``, or ``positions``, with the cell that the structure has.

    Parameters
    ----------
    structure
        ``mdtraj.Trajectory``, ``mdtraj.Topology`` or ``openmm.app.Topology``.
    positions
        ``(n_atoms, 3)`` or ``(n_frames, n_atoms, 3)`` Å; default: those of the trajectory, if it is one.

    Raises
    ------
    MappingError
        There is not one position per atom.
    """
    cells = None
    if hasattr(structure, "xyz"):
        cells = structure.unitcell_vectors
        cells = None if cells is None else cells * ANGSTROM_PER_NM
        if positions is None:
            rows = _few(structure.n_frames)
            cells = None if cells is None else cells[rows]
            return Coordinates(structure.xyz[rows] * ANGSTROM_PER_NM, cells) if len(rows) else None
        structure = structure.topology
    if positions is None:
        return None
    array = np.asarray(positions, dtype=np.float64)
    array = array[None] if array.ndim == 2 else array
    n = n_atoms(structure)
    if array.ndim != 3 or array.shape[1:] != (n, 3) or len(array) == 0:
        raise MappingError(
            f"positions have shape {np.shape(positions)}; expected ({n}, 3) or (n_frames, {n}, 3), in Å"
        )
    vectors = structure.getPeriodicBoxVectors() if hasattr(structure, "getPeriodicBoxVectors") else None
    if vectors is not None:
        from openmm import unit

        cells = np.array(vectors.value_in_unit(unit.angstrom))[None]
    rows = _few(len(array))
    if cells is not None:
        cells = cells[rows] if len(cells) == len(array) else np.broadcast_to(cells[:1], (len(rows), 3, 3))
    return Coordinates(array[rows], cells)


def _few(n_frames: int) -> NDArray[np.int64]:
    """Return evenly spaced frames that are enough to judge distances."""
    return np.unique(np.linspace(0, n_frames - 1, min(n_frames, _MAX_FRAMES)).round().astype(np.int64))


def read_residues(topology: Any, coordinates: Coordinates | None = None) -> list[Residue]:
    """Return the residues of an mdtraj or OpenMM topology in the order of the file.

    Parts of one residue that are apart in the file, such as hydrogens at its end, become one residue.
    """
    residues: list[Residue] = []
    known: dict[tuple[str, int, str], list[Residue]] = {}
    for c, chain in enumerate(_items(topology, "chains")):
        chain_id = str(getattr(chain, "chain_id", None) or getattr(chain, "id", None) or "").strip()
        for raw in _items(chain, "residues"):
            residue = _residue(raw, c, chain_id)
            if residue.number is None or residue.name in WATER or residue.name in IONS:
                residues.append(residue)
                continue
            # chains without an id are told apart by their place in the file
            key = (chain_id or f"#{c}", residue.number, residue.name)
            whole = next((r for r in known.get(key, ()) if _is_part(residue, r, coordinates)), None)
            if whole is None:
                residues.append(residue)
                known.setdefault(key, []).append(residue)
            else:
                whole.atoms.update(residue.atoms)
                whole.duplicates += residue.duplicates
    return residues


def _residue(raw: Any, chain: int, chain_id: str) -> Residue:
    number = getattr(raw, "resSeq", getattr(raw, "id", None))
    try:
        number = None if number is None else int(number)
    except ValueError:
        number = None
    name = str(raw.name).strip().upper()
    # boxes have many waters, whose atoms are never used
    names = [] if name in WATER else [(str(a.name).strip(), int(a.index)) for a in _items(raw, "atoms")]
    atoms = dict(reversed(names))
    duplicates = sorted({n for n, i in names if atoms[n] != i})
    segment = str(getattr(raw, "segment_id", "") or "").strip()
    return Residue(name, number, chain, chain_id, segment, atoms, duplicates)


def _is_part(part: Residue, whole: Residue, coordinates: Coordinates | None) -> bool:
    if whole.atoms.keys() & part.atoms.keys():
        return False
    if coordinates is None:
        return True
    gap = coordinates.closest(list(part.atoms.values()), list(whole.atoms.values()))
    return gap is None or gap <= _SAME_RESIDUE


def read_bonds(topology: Any, residues: Iterable[Residue]) -> dict[int, set[int]]:
    """Return the atoms that are bonded to each atom of the residues (mdtraj or OpenMM)."""
    bonded: dict[int, set[int]] = {i: set() for residue in residues for i in residue.atoms.values()}
    for bond in _items(topology, "bonds"):
        i, j = bond[0].index, bond[1].index
        if i in bonded and j in bonded:
            bonded[i].add(j)
            bonded[j].add(i)
    return bonded


def n_atoms(topology: Any) -> int:
    """Return the number of atoms (mdtraj or OpenMM)."""
    return int(topology.n_atoms if hasattr(topology, "n_atoms") else topology.getNumAtoms())


def _items(thing: Any, name: str) -> Any:
    member = getattr(thing, name)
    return member() if callable(member) else member
