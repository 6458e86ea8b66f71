"""All-atom start structures of backmapping, searched by the RMSD of their beads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.damage import check_archive
from cgal_plugin.errors import BackmapError
from cgal_plugin.mapping.geometry import superposed_rmsd
from cgal_plugin.mapping.residues import standard_name
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write, hash_array
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import ArrayLike, NDArray

    from cgal_plugin.oracle.system import AllAtomModel

_FORMAT = 1
# atom names of other programs
_ALIASES = {"H1": "H", "HN": "H", "OT1": "O", "OT2": "OXT", "OXT1": "O", "OXT2": "OXT"}


class AllAtomLibrary:
    """All-atom frames of one molecule with their beads. :meth:`add` appends; no frame is removed.

    Parameters
    ----------
    model
        The molecule, with the order of the solute's atoms and the mapping.
    positions
        ``(n, n_atoms, 3)`` Å, solute only; default no frames.
    """

    def __init__(self, model: AllAtomModel, positions: ArrayLike | None = None) -> None:
        self.mapping = model.mapping
        self.atom_keys = atom_keys(model.mdtraj_topology)
        self.positions: NDArray[np.float32] = np.zeros((0, self.mapping.n_atoms, 3), dtype=np.float32)
        self.beads: NDArray[np.float64] = np.zeros((0, self.mapping.n_beads, 3))
        if positions is not None:
            self.add(positions)

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        return f"AllAtomLibrary({self.mapping.topology.sequence!r}, {len(self)} frames)"

    @property
    def hash(self) -> str:
        """SHA-256 of the frames and of the atom names."""
        return hash_array(self.positions, np.array(self.atom_keys))

    def add(self, positions: ArrayLike | Any, *, unit: str = "angstrom") -> None:
        """Append frames.

        Parameters
        ----------
        positions
            ``(n, n_atoms, 3)`` in the model's atom order, in ``unit``; or an ``mdtraj.Trajectory``,
            whose atoms are matched by chain, residue and name. Its water is ignored.

        Raises
        ------
        BackmapError
            The number of atoms is wrong, atoms are missing, or coordinates are not finite.
        """
        xyz = as_angstrom(positions, unit)
        topology = getattr(positions, "topology", None)
        if topology is not None:
            xyz = xyz[:, match_atoms(topology, self.atom_keys)]
        if xyz.shape[1] != self.mapping.n_atoms:
            raise BackmapError(
                f"library frames have {xyz.shape[1]} atoms; "
                f"{self.mapping.topology.sequence} has {self.mapping.n_atoms}"
            )
        bad = np.flatnonzero(~np.isfinite(xyz).all(axis=(1, 2)))
        if len(bad):
            raise BackmapError(
                f"{len(bad)} library frames have non-finite coordinates, the first is {bad[0]}"
            )
        xyz = xyz.astype(np.float32)
        self.positions = np.concatenate([self.positions, xyz])
        self.beads = np.concatenate([self.beads, self.mapping.map_positions(xyz.astype(np.float64))])

    def nearest(self, frame: ArrayLike, n: int = 1) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the ``n`` library frames whose beads are nearest to ``frame`` ``(n_beads, 3)`` Å.

        Returns
        -------
        ``(indices (m,), RMSD (m,) Å)`` with m = min(n, frames), nearest first. RMSD after optimal
        superposition without reflection.

        Raises
        ------
        BackmapError
            The library is empty or the frame has the wrong shape.
        """
        target = np.asarray(frame, dtype=np.float64)
        if not len(self):
            raise BackmapError("the library is empty; add frames, or pass library=None")
        if target.shape != self.beads.shape[1:]:
            raise BackmapError(f"frame has shape {target.shape}; expected {self.beads.shape[1:]}")
        distance = superposed_rmsd(self.beads, target)
        order = np.argsort(distance, kind="stable")[:n]
        return order, distance[order]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` file, atomically."""
        with atomic_write(path) as handle:
            np.savez_compressed(
                handle, format=_FORMAT, positions=self.positions, atoms=np.array(self.atom_keys)
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: AllAtomModel) -> AllAtomLibrary:
        """Read a saved library of ``model``'s molecule; its mapping and atom order may differ.

        Raises
        ------
        BackmapError
            The file is missing, is not a library, or belongs to another molecule.
        """
        path = Path(path)
        if not path.is_file():
            raise BackmapError(f"library file {str(path)!r} does not exist")
        try:
            check_archive(path)
            with np.load(path, allow_pickle=False) as data:
                positions, keys = data["positions"], [str(k) for k in data["atoms"]]
        except BAD_ARCHIVE as error:
            raise BackmapError(f"{str(path)!r} is not an all-atom library: {error}") from error
        library = cls(model)
        library.add(positions[:, _order(keys, library.atom_keys, str(path))])
        return library


def atom_keys(topology: mdtraj.Topology) -> tuple[str, ...]:
    """Return a unique name for each atom of an ``mdtraj.Topology``: ``chain:residue:code:atom``."""
    keys = []
    for chain in topology.chains:
        for number, residue in enumerate(chain.residues):
            own = {a.name for a in residue.atoms}
            for atom in residue.atoms:
                alias = _ALIASES.get(atom.name, atom.name)
                name = atom.name if alias in own else alias
                keys.append(f"{chain.index}:{number}:{_code(residue.name)}:{name}")
    return tuple(keys)


def _code(residue: str) -> str:
    """Return a code that does not depend on the program that named the protonation state."""
    return standard_name(residue) or residue[:3].upper()


def match_atoms(source: mdtraj.Topology, target: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the indices in ``source`` of the atoms named in ``target`` (see :func:`atom_keys`).

    Raises
    ------
    BackmapError
        ``source`` lacks atoms of ``target``.
    """
    return _order(atom_keys(source), target, "the trajectory")


def _order(source: Sequence[str], target: tuple[str, ...], what: str) -> NDArray[np.int64]:
    index = {key: i for i, key in enumerate(source)}
    missing = [key for key in target if key not in index]
    if missing:
        raise BackmapError(
            f"{what} lacks {len(missing)} of {len(target)} atoms (chain:residue:code:atom): "
            f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
        )
    return np.array([index[key] for key in target], dtype=np.int64)
