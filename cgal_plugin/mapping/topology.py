"""CG topology: beads, types, masses and the index tables of bonds, angles and dihedrals."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.beads import (
    bead_fields,
    bead_values,
    check_unique,
    mdtraj_topology,
    one_letter_sequence,
    saved_values,
)
from cgal_plugin.mapping.bond_graph import (
    angle_table,
    bonded_neighbours,
    dihedral_table,
    pair_table,
    sorted_pairs,
    sorted_table,
)
from cgal_plugin.mapping.bridges import check_bridges
from cgal_plugin.mapping.dihedrals import DihedralSpec, named_dihedrals
from cgal_plugin.mapping.embedding import CGAL, Embedding, recorded_embedding, resolve_embedding
from cgal_plugin.mapping.files import lists_all_bonds, load_structure, read_topology_file
from cgal_plugin.mapping.molecule import Molecule, check_atoms, read_molecule, say_left_out
from cgal_plugin.mapping.residues import sequence_to_residues
from cgal_plugin.mapping.spec import MapSpec, built_in, named_of, resolve_spec
from cgal_plugin.provenance import hash_object, write_sealed

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import ArrayLike, NDArray


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
        ``(n_beads,)`` int64, the number of each bead's type in the :attr:`embedding`.
    type_names
        One string per bead, such as ``"CA_TYR"``.
    masses
        ``(n_beads,)`` float64, amu: 1/Σ c²/m of the linear map (Noid et al. 2008). A bead of one
        atom has the mass of the atom.
    bond_index
        ``(n_bonds, 2)`` int64, lower bead first, sorted.
    mapping
        Name of the map; ``mapping_hash`` is its hash.
    bridge_index
        ``(n_bridges, 2)`` int64, lower bead first, sorted: disulfide bridges, between the beads that contain
        SG, else CB, else the backbone beads. They are not in :attr:`bond_index`: angles and dihedrals do not
        run through a bridge. A bridge between beads that are already bonded is left out.
    embedding
        Name of the numbering of :attr:`types`: ``"cgal"``, ``"mlcg-tk"``, ``"torchmd-cg"``, or of a table.

    A :class:`MappingError` is raised if there are no beads, shapes differ, bonds or masses are invalid, or a
    bead occurs twice.
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
    bridge_index: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    embedding: str = CGAL

    def __post_init__(self) -> None:
        n = len(self.bead_names)
        if n == 0:
            raise MappingError("the topology has no beads")
        for name in ("residue_index", "chain_index", "types", "masses"):
            object.__setattr__(self, name, bead_values(getattr(self, name), n, name))
        for name in ("bond_index", "bridge_index"):
            object.__setattr__(self, name, sorted_pairs(getattr(self, name), n, name))
        bonds = set(map(tuple, self.bond_index.tolist()))
        if bonds & set(map(tuple, self.bridge_index.tolist())):
            raise MappingError(f"bridge_index {self.bridge_index.tolist()} repeats bonds")
        if not (np.isfinite(self.masses).all() and (self.masses > 0).all()):
            raise MappingError(f"bead masses must be positive: {self.masses.tolist()}")
        check_unique(self.chain_index, self.residue_index, self.bead_names)

    # ------------------------------------------------------------------ construction

    @classmethod
    def from_sequence(
        cls, sequence: str, mapping: Any = "CA", *, bridges: Iterable[Sequence[int]] = ()
    ) -> CGTopology:
        """Build the topology of one chain from one-letter codes.

        Parameters
        ----------
        sequence
            One-letter codes, such as ``"YYDPETGTWY"``.
        mapping
            ``"CA"``, ``"CACB"``, ``"5bead"``, a YAML file, its content, or a :class:`MapSpec`.
        bridges
            Disulfide bridges, pairs of 0-based residue indices such as ``[(2, 9)]``.

        Raises
        ------
        MappingError
            The sequence has unknown residues, the mapping is unknown, or a bridge is not between two
            cysteines.
        """
        spec, names = resolve_spec(mapping), sequence_to_residues(sequence)
        return cls(**bead_fields([list(names)], check_bridges(bridges, names), spec))

    @classmethod
    def from_mdtraj(
        cls,
        topology: mdtraj.Topology | mdtraj.Trajectory,
        mapping: Any = "CA",
        *,
        positions: ArrayLike | None = None,
        ignore: Collection[str] = (),
        bridges: Iterable[Sequence[int]] | None = None,
    ) -> CGTopology:
        """Build the topology from the residues of an all-atom or CG structure.

        Residues that follow each other are bonded unless there is a gap or a chain end between them: C and N
        more than 2.5 Å apart (CA–CA: 5 Å) in the coordinates, or without coordinates a missing bond, the
        atoms of a chain end, a cap, or residue numbers that jump. The pieces are chains; a gap is named in a
        warning. Water, ions, and caps that the map does not define are left out.

        Parameters
        ----------
        topology
            ``mdtraj.Topology``, or ``mdtraj.Trajectory``, which has coordinates and the periodic cell.
        mapping
            ``"CA"``, ``"CACB"``, ``"5bead"``, a YAML file, its content, or a :class:`MapSpec`.
        positions
            ``(n_atoms, 3)`` or ``(n_frames, n_atoms, 3)`` Å, in place of those of a trajectory.
        ignore
            Names of further residues to leave out, such as ligands.
        bridges
            Disulfide bridges, pairs of 0-based residue indices. None: from the bonds, the sulfurs, or
            the names of the cysteines.

        Raises
        ------
        MappingError
            A residue is unknown or lacks an atom that a bead needs (the message names both), or ``positions``
            or ``bridges`` are not valid.
        """
        spec = resolve_spec(mapping)
        molecule = read_molecule(topology, spec, positions=positions, ignore=ignore, bridges=bridges)
        check_atoms(molecule, spec, beads_suffice=True)
        return cls.from_molecule(molecule, spec)

    @classmethod
    def from_openmm(
        cls,
        topology: Any,
        mapping: Any = "CA",
        *,
        positions: ArrayLike | None = None,
        ignore: Collection[str] = (),
        bridges: Iterable[Sequence[int]] | None = None,
    ) -> CGTopology:
        """Build the topology from an :class:`openmm.app.Topology`; see :meth:`from_mdtraj`."""
        return cls.from_mdtraj(topology, mapping, positions=positions, ignore=ignore, bridges=bridges)

    @classmethod
    def from_molecule(cls, molecule: Molecule, spec: MapSpec) -> CGTopology:
        """Build the topology from the residues of :func:`~cgal_plugin.mapping.molecule.read_molecule`."""
        chains = [[residue.name for residue in chain] for chain in molecule.chains]
        return cls(**bead_fields(chains, molecule.bridges, spec))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        mapping: Any = "CA",
        *,
        ignore: Collection[str] = (),
        bridges: Iterable[Sequence[int]] | None = None,
    ) -> CGTopology:
        """Read the topology from a structure file or a saved ``.json``.

        PDB, mmCIF, GRO, PSF and the other formats of mdtraj, also compressed (``.gz``); see
        :meth:`from_mdtraj`. What is left out (water, ions, caps without beads) is named in a warning.

        Raises
        ------
        MappingError
            The file is missing, cannot be read, or cannot be mapped.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            if bridges is not None:
                raise MappingError(f"{str(path)!r} is a saved topology: it contains its bridges")
            return cls.load(path)
        structure, spec = load_structure(path), resolve_spec(mapping)
        try:
            complete = lists_all_bonds(path)
            molecule = read_molecule(structure, spec, ignore=ignore, bridges=bridges, complete=complete)
            check_atoms(molecule, spec, beads_suffice=True)
        except MappingError as error:
            raise MappingError(f"structure file {str(path)!r}: {error}") from error
        say_left_out(str(path), molecule.left_out)
        return cls.from_molecule(molecule, spec)

    # ------------------------------------------------------------------ tables

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return len(self.bead_names)

    @property
    def sequence(self) -> str:
        """One-letter codes, chains joined by ``:``."""
        return one_letter_sequence(self.chain_index, self.residue_index, self.residue_names)

    @cached_property
    def _neighbours(self) -> list[list[int]]:
        return bonded_neighbours(self.n_beads, self.bond_index)

    @cached_property
    def angle_index(self) -> NDArray[np.int64]:
        """``(n_angles, 3)`` int64: every bonded path i–j–k with i < k, sorted."""
        return angle_table(self._neighbours)

    @cached_property
    def named_dihedrals(self) -> tuple[tuple[tuple[int, int, int, int], DihedralSpec], ...]:
        """Beads and kind of each dihedral, if the map names its dihedrals (5bead); else empty."""
        where = self.chain_index.tolist(), self.residue_index.tolist()
        beads = list(zip(*where, self.residue_names, self.bead_names, strict=True))
        return named_dihedrals(beads, named_of(self.mapping_hash))

    @cached_property
    def dihedral_index(self) -> NDArray[np.int64]:
        """``(n_dihedrals, 4)`` int64: every bonded path i–j–k–l with i < l, sorted, or the named ones."""
        if named_of(self.mapping_hash):
            return sorted_table((beads for beads, _ in self.named_dihedrals), 4)
        return dihedral_table(self._neighbours)

    def exclusions(self, max_bonds: int) -> NDArray[np.int64]:
        """``(n_pairs, 2)`` int64: pairs of beads at most ``max_bonds`` bonds apart, lower first, sorted.

        With the pairs of :attr:`bridge_index` if ``max_bonds`` is 1 or more; paths do not run through them.
        """
        return pair_table(self._neighbours, max_bonds, self.bridge_index)

    # ------------------------------------------------------------------ identity and files

    @cached_property
    def hash(self) -> str:
        """SHA-256 of beads, types, masses, bonds, map and embedding."""
        # that of cgal is left out, as in releases that had no other
        return hash_object({k: v for k, v in self.to_dict().items() if (k, v) != ("embedding", CGAL)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CGTopology) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        pairs = [(int(i), int(j)) for i, j in self.residue_index[self.bridge_index]]
        more = f", bridges={pairs}" if pairs else ""
        more += "" if self.embedding == CGAL else f", embedding={self.embedding!r}"
        return f"CGTopology({self.sequence!r}, mapping={self.mapping!r}, {self.n_beads} beads{more})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values that can be written as JSON."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "bridge_index"}
        values = {name: v if isinstance(v, str) else np.asarray(v).tolist() for name, v in own.items()}
        # without bridges, hash and file are those of releases that had none
        return values | ({"bridge_index": self.bridge_index.tolist()} if len(self.bridge_index) else {})

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str | None = None) -> CGTopology:
        """Build a topology from the values of :meth:`to_dict`.

        Without an embedding it is ``cgal``; if ``source``, the name of the file, is given, a warning says so.

        Raises
        ------
        MappingError
            Keys are missing or unknown.
        """
        values = saved_values(data, set(cls.__dataclass_fields__))
        return cls(**values | {"embedding": recorded_embedding(data, source)})

    def with_embedding(self, value: str | os.PathLike[str] | Mapping[str, Any] | Embedding) -> CGTopology:
        """Return this topology with bead types numbered by another embedding; see ``resolve_embedding``.

        Raises :class:`MappingError` if the embedding is not known, or has no number of its own for a type.
        """
        embedding = resolve_embedding(value).one_to_one()
        if embedding.name == self.embedding:
            return self
        if embedding.name == CGAL and (spec := built_in(self.mapping_hash)) is not None:
            embedding = spec.embedding
        return replace(self, types=np.array(embedding.numbers(self.type_names)), embedding=embedding.name)

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
        content = read_topology_file(path)
        try:
            return cls.from_dict(content, str(path))
        except (MappingError, ValueError, TypeError, AttributeError) as error:
            raise MappingError(f"topology file {str(path)!r}: {error}") from error

    def to_mdtraj(self) -> mdtraj.Topology:
        """Return an :class:`mdtraj.Topology`: one atom per bead, of its element or else a virtual site."""
        return mdtraj_topology(
            self.bead_names,
            self.residue_names,
            list(zip(self.chain_index.tolist(), self.residue_index.tolist(), strict=True)),
            [*self.bond_index.tolist(), *self.bridge_index.tolist()],
        )
