"""Linear maps from atoms to beads, for coordinates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.molecule import check_atoms, read_molecule
from cgal_plugin.mapping.spec import resolve_spec
from cgal_plugin.mapping.structure import n_atoms
from cgal_plugin.mapping.topology import CGTopology
from cgal_plugin.provenance import hash_array
from cgal_plugin.units import as_angstrom

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class CGMapping:
    """Linear map from the atoms of a molecule to its beads.

    Atoms are found by chain, residue and atom name, so the beads do not depend on the order of the
    atoms in a residue. Immutable; arrays are read-only.

    Attributes
    ----------
    matrix
        ``(n_beads, n_atoms)`` float64; row ``I`` holds the weights c of the atoms of bead ``I``, with
        sum one: R_I = Σ_i c_Ii r_i.
    topology
        The :class:`CGTopology` of the beads.
    left_out
        Residue name → number of residues without beads: water, ions, and caps that the map does not define.

    Raises
    ------
    MappingError
        The matrix does not fit the topology, or a row is not finite or its sum is not one.
    """

    matrix: NDArray[np.float64]
    topology: CGTopology
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.ndim != 2 or len(matrix) != self.topology.n_beads:
            raise MappingError(
                f"map matrix has shape {matrix.shape}; expected ({self.topology.n_beads}, n_atoms)"
            )
        if not np.isfinite(matrix).all() or not np.allclose(matrix.sum(axis=1), 1.0, atol=1e-10):
            raise MappingError("every row of a coordinate map must be finite and sum to one")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def from_topology(
        cls,
        topology: Any,
        mapping: Any = "CA",
        *,
        positions: ArrayLike | None = None,
        ignore: Collection[str] = (),
        bridges: Iterable[Sequence[int]] | None = None,
    ) -> CGMapping:
        """Build the map of an all-atom topology.

        Parameters
        ----------
        topology
            ``mdtraj.Topology``, ``mdtraj.Trajectory`` or ``openmm.app.Topology``. Water, ions, and caps that
            the map does not define have no beads; their columns are zero. Coordinates, if there are any,
            decide about gaps and bridges (:meth:`CGTopology.from_mdtraj`).
        mapping
            ``"CA"``, ``"CACB"``, ``"5bead"``, a YAML file, its content, or a :class:`MapSpec`.
        positions
            ``(n_atoms, 3)`` or ``(n_frames, n_atoms, 3)`` Å; default: those of a trajectory.
        ignore
            Names of further residues to leave out, such as ligands.
        bridges
            Disulfide bridges, pairs of 0-based residue indices; None: from the structure.

        Raises
        ------
        MappingError
            A residue is unknown, an atom is missing or occurs twice, or a bead occurs twice. The message
            names the residue, atom or bead.
        """
        spec = resolve_spec(mapping)
        molecule = read_molecule(topology, spec, positions=positions, ignore=ignore, bridges=bridges)
        check_atoms(molecule, spec, beads_suffice=False)
        cg = CGTopology.from_molecule(molecule, spec)
        rows = [
            ([residue.atom(a) for a in bead.atoms], bead.normalised_weights)
            for chain in molecule.chains
            for residue in chain
            for bead in spec.beads_of(residue.name)
        ]
        topology = getattr(topology, "topology", topology)
        matrix = np.zeros((len(rows), n_atoms(topology)))
        for row, (indices, weights) in zip(matrix, rows, strict=True):
            row[np.array(indices, dtype=np.int64)] = weights
        return cls(matrix, cg, molecule.left_out)

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return len(self.matrix)

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the all-atom topology."""
        return len(self.matrix[0])

    @cached_property
    def atom_groups(self) -> tuple[tuple[int, ...], ...]:
        """Atom indices of each bead, ascending."""
        return tuple(tuple(np.flatnonzero(row).tolist()) for row in self.matrix)

    @property
    def is_slice(self) -> bool:
        """True if each bead is one atom."""
        return all(len(group) == 1 for group in self.atom_groups)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the matrix and of the CG topology."""
        return hash_array(self.matrix, np.frombuffer(bytes.fromhex(self.topology.hash), dtype=np.uint8))

    def map_positions(self, xyz: ArrayLike | Any) -> NDArray[np.floating]:
        """Map coordinates to beads.

        Parameters
        ----------
        xyz
            ``(n_frames, n_atoms, 3)`` or ``(n_atoms, 3)`` in any length unit, which is also that of the
            result; or an ``mdtraj.Trajectory``, for which the result is in Å.

        Returns
        -------
        ``(n_frames, n_beads, 3)`` or ``(n_beads, 3)``; float32 for float32 input, else float64.

        Raises
        ------
        MappingError
            The number of atoms differs from that of the map.
        """
        array = as_angstrom(xyz) if hasattr(xyz, "xyz") else np.asarray(xyz)
        return apply_map(self.matrix, array, "coordinates")


def apply_map(matrix: NDArray[np.float64], array: ArrayLike, what: str) -> NDArray[np.floating]:
    """Return ``matrix @ array`` over the atom axis of ``(..., n_atoms, 3)``, summed in float64."""
    array = np.asarray(array)
    if array.ndim not in (2, 3) or array.shape[-1] != 3 or array.shape[-2] != matrix.shape[1]:
        raise MappingError(
            f"{what} have shape {array.shape}; this map takes (n_frames, {matrix.shape[1]}, 3) "
            f"or ({matrix.shape[1]}, 3)"
        )
    mapped = matrix @ array.astype(np.float64)
    return mapped.astype(np.float32) if array.dtype == np.float32 else mapped
