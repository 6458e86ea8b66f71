"""CG topology: beads, types, masses and the index tables of bonds, angles and dihedrals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.bond_graph import angle_table, bonded_neighbours, dihedral_table, pair_table
from cgal_plugin.mapping.residues import THREE_TO_ONE, canonical_residue, sequence_to_residues
from cgal_plugin.mapping.spec import MapSpec, resolve_spec
from cgal_plugin.mapping.structure import residue_chains
from cgal_plugin.provenance import hash_object, read_json, unsealed, write_sealed

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class CGTopology:
    """Beads of a molecule and their bonds. Immutable; arrays are read-only.

    Attributes
    ----------
    bead_names, residue_names
        One string per bead; residue names are three-letter codes.
    residue_index, chain_index
        ``(n_beads,)`` int64, 0-based.
    types
        ``(n_beads,)`` int64, the embedding index of each bead (:attr:`MapSpec.type_ids`).
    type_names
        One string per bead, such as ``"CA_TYR"``.
    masses
        ``(n_beads,)`` float64, amu: 1/Σ c²/m of the linear map (Noid et al. 2008). A bead of one
        atom has the mass of the atom.
    bond_index
        ``(n_bonds, 2)`` int64, lower bead first, sorted.
    mapping
        Name of the map; ``mapping_hash`` is its hash.

    Raises
    ------
    MappingError
        There are no beads, shapes differ, bonds or masses are invalid, or a bead occurs twice.
    """

    bead_names: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_index: NDArray[np.int64]
    chain_index: NDArray[np.int64]
    types: NDArray[np.int64]
    type_names: tuple[str, ...]
    masses: NDArray[np.float64]
    bond_index: NDArray[np.int64]
    mapping: str
    mapping_hash: str

    def __post_init__(self) -> None:
        n = len(self.bead_names)
        if n == 0:
            raise MappingError("the topology has no beads")
        for name, dtype in (
            ("residue_index", np.int64),
            ("chain_index", np.int64),
            ("types", np.int64),
            ("masses", np.float64),
        ):
            array = np.array(getattr(self, name), dtype=dtype)
            if array.shape != (n,):
                raise MappingError(f"{name} has shape {array.shape}; expected ({n},), one value per bead")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        bonds = np.sort(np.array(self.bond_index, dtype=np.int64).reshape(-1, 2), axis=1)
        bonds = bonds[np.lexsort((bonds[:, 1], bonds[:, 0]))]
        if bonds.size and (bonds.min() < 0 or bonds.max() >= n or (bonds[:, 0] == bonds[:, 1]).any()):
            raise MappingError(
                f"bond_index {bonds.tolist()} names beads outside 0..{n - 1} or bonds a bead to itself"
            )
        bonds.setflags(write=False)
        object.__setattr__(self, "bond_index", bonds)
        if not (np.isfinite(self.masses).all() and (self.masses > 0).all()):
            raise MappingError(f"bead masses must be positive: {self.masses.tolist()}")
        keys = list(zip(self.chain_index.tolist(), self.residue_index.tolist(), self.bead_names, strict=True))
        duplicates = sorted({f"{k[2]} of residue {k[1] + 1}" for k in keys if keys.count(k) > 1})
        if duplicates:
            raise MappingError(f"duplicate beads: {', '.join(duplicates)}")

    # ------------------------------------------------------------------ construction

    @classmethod
    def from_sequence(cls, sequence: str, mapping: Any = "CA") -> CGTopology:
        """Build the topology of one chain from one-letter codes.

        Parameters
        ----------
        sequence
            One-letter codes, such as ``"YYDPETGTWY"``.
        mapping
            ``"CA"``, ``"CACB"``, a YAML file, its content, or a :class:`MapSpec`.

        Raises
        ------
        MappingError
            The sequence has unknown residues, or the mapping is unknown.
        """
        residues = sequence_to_residues(sequence)
        return _build([residues], resolve_spec(mapping))

    @classmethod
    def from_mdtraj(cls, topology: mdtraj.Topology, mapping: Any = "CA") -> CGTopology:
        """Build the topology from the residues of an all-atom or CG :class:`mdtraj.Topology`.

        Caps, water and ions are left out.

        Raises
        ------
        MappingError
            A residue is unknown or lacks an atom that a bead needs; the message names both.
        """
        spec = resolve_spec(mapping)
        return _build(residue_chains(topology, spec), spec)

    @classmethod
    def from_openmm(cls, topology: Any, mapping: Any = "CA") -> CGTopology:
        """Build the topology from an :class:`openmm.app.Topology`; see :meth:`from_mdtraj`."""
        import mdtraj

        return cls.from_mdtraj(mdtraj.Topology.from_openmm(topology), mapping)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], mapping: Any = "CA") -> CGTopology:
        """Read the topology from a structure file that mdtraj supports (PDB, GRO, ...) or a saved ``.json``.

        Raises
        ------
        MappingError
            The file is missing, cannot be read, or cannot be mapped.
        """
        path = Path(path)
        if not path.is_file():
            raise MappingError(f"structure file {str(path)!r} does not exist")
        if path.suffix.lower() == ".json":
            return cls.load(path)
        import mdtraj

        try:
            topology = mdtraj.load_topology(str(path))
        except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise MappingError(f"structure file {str(path)!r} cannot be read: {error}") from error
        return cls.from_mdtraj(topology, mapping)

    # ------------------------------------------------------------------ tables

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return len(self.bead_names)

    @property
    def sequence(self) -> str:
        """One-letter codes, chains joined by ``:``."""
        chains: dict[int, dict[int, str]] = {}
        for chain, residue, name in zip(
            self.chain_index.tolist(), self.residue_index.tolist(), self.residue_names, strict=True
        ):
            chains.setdefault(chain, {})[residue] = name
        return ":".join("".join(THREE_TO_ONE.get(n, "X") for n in r.values()) for r in chains.values())

    @cached_property
    def _neighbours(self) -> list[list[int]]:
        return bonded_neighbours(self.n_beads, self.bond_index)

    @cached_property
    def angle_index(self) -> NDArray[np.int64]:
        """``(n_angles, 3)`` int64: every bonded path i–j–k with i < k, sorted."""
        return angle_table(self._neighbours)

    @cached_property
    def dihedral_index(self) -> NDArray[np.int64]:
        """``(n_dihedrals, 4)`` int64: every bonded path i–j–k–l with i < l, sorted."""
        return dihedral_table(self._neighbours)

    def exclusions(self, max_bonds: int) -> NDArray[np.int64]:
        """``(n_pairs, 2)`` int64: pairs of beads at most ``max_bonds`` bonds apart, lower first, sorted."""
        return pair_table(self._neighbours, max_bonds)

    # ------------------------------------------------------------------ identity and files

    @cached_property
    def hash(self) -> str:
        """SHA-256 of beads, types, masses, bonds and map."""
        return hash_object(self.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CGTopology) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"CGTopology({self.sequence!r}, mapping={self.mapping!r}, {self.n_beads} beads)"

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values that can be written as JSON."""
        return {
            "bead_names": list(self.bead_names),
            "residue_names": list(self.residue_names),
            "residue_index": self.residue_index.tolist(),
            "chain_index": self.chain_index.tolist(),
            "types": self.types.tolist(),
            "type_names": list(self.type_names),
            "masses": self.masses.tolist(),
            "bond_index": self.bond_index.tolist(),
            "mapping": self.mapping,
            "mapping_hash": self.mapping_hash,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CGTopology:
        """Build a topology from the values of :meth:`to_dict`.

        Raises
        ------
        MappingError
            Keys are missing or unknown.
        """
        wanted = set(cls.__dataclass_fields__)
        if not isinstance(data, dict) or set(data) != wanted:
            found = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise MappingError(f"not a saved CG topology: expected keys {sorted(wanted)}, found {found}")
        tuples = ("bead_names", "residue_names", "type_names")
        values: dict[str, Any] = {k: tuple(v) if k in tuples else v for k, v in data.items()}
        return cls(**values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the topology as JSON, with a checksum in the key ``seal``."""
        write_sealed(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CGTopology:
        """Read a topology written by :meth:`save`; a file without checksum is accepted.

        Raises
        ------
        MappingError
            The file is missing, damaged, or is not a saved topology.
        """
        if not Path(path).is_file():
            raise MappingError(f"topology file {str(path)!r} does not exist")
        try:
            data = read_json(path)
        except ValueError as error:
            raise MappingError(f"topology file {str(path)!r} is not JSON: {error}") from error
        try:
            content = unsealed(data)
        except ValueError as error:
            raise MappingError(
                f"topology file {str(path)!r} is damaged or was edited: {error}. If you edited it on "
                'purpose, delete its line "seal"; otherwise make it again'
            ) from error
        try:
            return cls.from_dict(content)
        except (MappingError, ValueError, TypeError, AttributeError) as error:
            raise MappingError(f"topology file {str(path)!r}: {error}") from error

    def to_mdtraj(self) -> mdtraj.Topology:
        """Return an :class:`mdtraj.Topology` with one atom per bead, bonds, residues and chains.

        CA and CB beads are carbons, other beads virtual sites.
        """
        import mdtraj

        top = mdtraj.Topology()
        chains: dict[int, Any] = {}
        residues: dict[tuple[int, int], Any] = {}
        atoms = []
        for i, name in enumerate(self.bead_names):
            c, r = int(self.chain_index[i]), int(self.residue_index[i])
            if c not in chains:
                chains[c] = top.add_chain()
            if (c, r) not in residues:
                residues[c, r] = top.add_residue(self.residue_names[i], chains[c], resSeq=r + 1)
            element = mdtraj.element.carbon if name in ("CA", "CB") else mdtraj.element.virtual
            atoms.append(top.add_atom(name, element, residues[c, r]))
        for i, j in self.bond_index.tolist():
            top.add_bond(atoms[i], atoms[j])
        return top


def _build(chains: Sequence[Sequence[str]], spec: MapSpec) -> CGTopology:
    names: list[str] = []
    residue_names: list[str] = []
    residue_index: list[int] = []
    chain_index: list[int] = []
    masses: list[float] = []
    bonds: list[tuple[int, int]] = []
    r = 0
    for c, residues in enumerate(chains):
        previous = None
        for residue in residues:
            key = residue.strip().upper()
            canonical = key if key in spec.residues else canonical_residue(residue)
            index = {}
            for bead in spec.beads_of(residue):
                index[bead.name] = len(names)
                names.append(bead.name)
                residue_names.append(canonical)
                residue_index.append(r)
                chain_index.append(c)
                masses.append(bead.mass)
            bonds += [(index[a], index[b]) for a, b in spec.bonds_of(residue)]
            if previous is not None:
                bonds.append((previous, index[spec.backbone]))
            previous = index[spec.backbone]
            r += 1
    type_names = tuple(f"{n}_{res}" for n, res in zip(names, residue_names, strict=True))
    return CGTopology(
        bead_names=tuple(names),
        residue_names=tuple(residue_names),
        residue_index=np.array(residue_index),
        chain_index=np.array(chain_index),
        types=np.array([spec.type_ids[t] for t in type_names]),
        type_names=type_names,
        masses=np.array(masses),
        bond_index=np.array(bonds, dtype=np.int64).reshape(-1, 2),
        mapping=spec.name,
        mapping_hash=spec.hash,
    )
