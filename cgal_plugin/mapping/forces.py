"""Linear maps from atomic forces to bead forces: slice, basic and statistically optimal.

A linear force map M gives unbiased samples of the mean force of the beads R = C r when (Noid et al.
2008, J. Chem. Phys. 128, 244114; Ciccotti et al. 2005, ChemPhysChem 6, 1809)

* it is consistent with the coordinate map: M Cᵀ = 1, and
* it is orthogonal to the distance constraints of the all-atom dynamics: M_Ii = M_Ij for every bead
  I and every constrained pair (i, j), because forces reported by an MD engine lack the constraint
  forces, which act along r_i − r_j.

All maps that satisfy both have the same expectation; only their noise differs. The optimal map
(Krämer et al. 2023, J. Phys. Chem. Lett. 14, 3970) minimises the mean squared mapped force.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.damage import check_archive
from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.maps import CGMapping, apply_map
from cgal_plugin.provenance import BAD_ARCHIVE, atomic_write, canonical_json, hash_object

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

KINDS = ("slice", "basic", "optimal")
#: smallest number of frames: with fewer, the optimal map is worse than the basic one
MIN_FRAMES = 200
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class ForceMap:
    """A linear force map.

    Attributes
    ----------
    kind
        ``"slice"``, ``"basic"`` or ``"optimal"``.
    matrix
        ``(n_beads, n_atoms)`` float64, read-only.
    mapping_hash
        :attr:`CGMapping.hash` of the coordinate map.
    diagnostics
        JSON-ready record of the construction.

    Raises
    ------
    MappingError
        The matrix is not finite or does not have two axes.
    """

    kind: str
    matrix: NDArray[np.float64]
    mapping_hash: str
    diagnostics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.ndim != 2 or not np.isfinite(matrix).all():
            raise MappingError(f"force map of shape {matrix.shape} is not a finite (n_beads, n_atoms) matrix")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the matrix and of the mapping."""
        return hash_object({"matrix": self.matrix, "mapping": self.mapping_hash})

    def map_forces(self, forces: ArrayLike) -> NDArray[np.floating]:
        """Map atomic forces to bead forces, in the same unit.

        ``(n_frames, n_atoms, 3)`` → ``(n_frames, n_beads, 3)``, or one frame without the first axis.

        Raises
        ------
        MappingError
            The number of atoms differs from that of the map.
        """
        return apply_map(self.matrix, forces, "forces")

    def check(self, mapping: CGMapping, constraints: ArrayLike = ()) -> None:
        """Verify consistency with ``mapping`` and orthogonality to ``constraints`` ``(n, 2)``.

        Raises
        ------
        MappingError
            The map is for another mapping, or one of the two conditions is violated.
        """
        if self.mapping_hash != mapping.hash or self.matrix.shape != mapping.matrix.shape:
            raise MappingError(
                f"the {self.kind} force map is for mapping {self.mapping_hash[:12]}, "
                f"not for {mapping.topology!r} ({mapping.hash[:12]})"
            )
        error = float(np.abs(self.matrix @ mapping.matrix.T - np.eye(mapping.n_beads)).max())
        if error > _TOLERANCE:
            raise MappingError(f"the {self.kind} force map is not consistent with its mapping: {error:.1e}")
        violation = constraint_violation(self.matrix, constraints)
        if violation > _TOLERANCE:
            raise MappingError(
                f"the {self.kind} force map does not give the mean force with these constraints: "
                f"coefficients of constrained atoms differ by {violation:.2g}; use 'basic' or 'optimal'"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map as ``.npz``, without pickle."""
        text = canonical_json(
            {"kind": self.kind, "mapping_hash": self.mapping_hash, "diagnostics": dict(self.diagnostics)}
        )
        with atomic_write(path) as handle:
            np.savez(handle, matrix=self.matrix, facts=np.array(text), hash=np.array(self.hash))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ForceMap:
        """Read a map written by :meth:`save`.

        Raises
        ------
        MappingError
            The file is missing, is not a force map, or is damaged.
        """
        if not Path(path).is_file():
            raise MappingError(f"force map file {str(path)!r} does not exist")
        try:
            check_archive(path)
            with np.load(path, allow_pickle=False) as data:
                facts, matrix, stored = json.loads(str(data["facts"])), data["matrix"], str(data["hash"])
            found = cls(facts["kind"], matrix, facts["mapping_hash"], facts["diagnostics"])
        except BAD_ARCHIVE as error:
            raise MappingError(f"{str(path)!r} is not a saved force map: {error}") from error
        if found.hash != stored:
            raise MappingError(f"force map {str(path)!r} is damaged: its hash differs from the saved one")
        return found


def constraint_violation(matrix: NDArray[np.float64], constraints: ArrayLike) -> float:
    """Return the largest difference of coefficients between constrained atoms; 0 for a valid force map."""
    pairs = _pairs(constraints, matrix.shape[1])
    return float(np.abs(matrix[:, pairs[:, 0]] - matrix[:, pairs[:, 1]]).max(initial=0.0))


def slice_force_map(mapping: CGMapping) -> ForceMap:
    """Return the map that sums the forces on the atoms of each bead.

    Valid only if no constraint links an atom of a bead to an atom outside it: for dynamics without
    constraints, or with the atoms of the beads frozen.

    Raises
    ------
    MappingError
        Beads share atoms, so that the sum is not consistent with the coordinate map.
    """
    return _indicator_map("slice", mapping, [set(group) for group in mapping.atom_groups], {})


def basic_force_map(mapping: CGMapping, constraints: ArrayLike = ()) -> ForceMap:
    """Return the map that sums, for each bead, the forces on its atoms and all atoms constrained to them.

    Parameters
    ----------
    constraints
        ``(n, 2)`` pairs of atoms with constrained distance.

    Raises
    ------
    MappingError
        A constraint links two beads, or beads share atoms.
    """
    labels = _constraint_groups(constraints, mapping.n_atoms)
    groups = [set(np.flatnonzero(np.isin(labels, labels[list(g)])).tolist()) for g in mapping.atom_groups]
    return _indicator_map("basic", mapping, groups, {"n_constraints": len(_pairs(constraints, len(labels)))})


def optimal_force_map(
    mapping: CGMapping, forces: ArrayLike, constraints: ArrayLike = (), *, regularisation: float = 1e-4
) -> ForceMap:
    """Return the valid linear map with the smallest mean squared force (Krämer et al. 2023, eq. 8).

    For each bead, minimise aᵀ(G + λ)a, where G is the atomic force covariance summed over x, y and z,
    subject to the consistency and constraint conditions. All beads share one KKT matrix. Every valid
    map has the same mean, so that the smallest mean square is the smallest noise.

    Parameters
    ----------
    forces
        ``(n_frames, n_atoms, 3)``, any unit, from the ensemble to be labelled.
    constraints
        ``(n, 2)`` pairs of atoms with constrained distance.
    regularisation
        λ in units of the mean diagonal of G.

    Raises
    ------
    MappingError
        Fewer than 200 frames, non-finite forces, a wrong number of atoms, or constraints that link
        beads so that no valid map exists.
    """
    forces = np.asarray(forces, dtype=np.float64)
    if forces.ndim != 3 or forces.shape[1:] != (mapping.n_atoms, 3):
        raise MappingError(f"forces have shape {forces.shape}; expected (n_frames, {mapping.n_atoms}, 3)")
    if len(forces) < MIN_FRAMES:
        raise MappingError(
            f"the optimal force map needs at least {MIN_FRAMES} frames, got {len(forces)}: "
            "run longer seed trajectories, save more often, or use the basic map"
        )
    if not np.isfinite(forces).all():
        raise MappingError("forces for the optimal force map are not finite")
    labels = _constraint_groups(constraints, mapping.n_atoms)
    half = len(forces) // 2
    trial = _solve_kkt(mapping, forces[:half], labels, regularisation)
    matrix = _solve_kkt(mapping, forces, labels, regularisation)
    diagnostics: dict[str, Any] = {
        "n_frames": len(forces),
        "n_constraints": len(_pairs(constraints, mapping.n_atoms)),
        "regularisation": regularisation,
        "rms": _rms(matrix @ forces),
        "rms_held_out": _rms(trial @ forces[half:]),
        "rms_slice": _rms((mapping.matrix > 0) @ forces),
    }
    found = ForceMap("optimal", matrix, mapping.hash, diagnostics)
    found.check(mapping, constraints)
    return found


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _solve_kkt(
    mapping: CGMapping, forces: NDArray[np.float64], labels: NDArray[np.int64], regularisation: float
) -> NDArray[np.float64]:
    n_groups, n_beads = int(labels.max()) + 1, mapping.n_beads
    share = np.zeros((mapping.n_atoms, n_groups))
    share[np.arange(mapping.n_atoms), labels] = 1.0
    grouped = (share.T @ forces).transpose(1, 0, 2).reshape(n_groups, -1)
    gram = grouped @ grouped.T / len(forces)
    gram += regularisation * (np.trace(gram) / n_groups) * np.diag(share.sum(axis=0))
    consistency = mapping.matrix @ share
    if np.linalg.matrix_rank(consistency) < n_beads:
        raise MappingError("constraints link beads so that no force map can separate them")
    kkt = np.block([[gram, consistency.T], [consistency, np.zeros((n_beads, n_beads))]])
    target = np.vstack([np.zeros((n_groups, n_beads)), np.eye(n_beads)])
    solution = np.linalg.solve(kkt, target)[:n_groups].T
    # remove the rounding error of the solution: the conditions must hold to machine precision
    solution += (np.eye(n_beads) - solution @ consistency.T) @ np.linalg.pinv(consistency).T
    return solution @ share.T


def _indicator_map(
    kind: str, mapping: CGMapping, groups: list[set[int]], diagnostics: dict[str, Any]
) -> ForceMap:
    matrix = np.zeros(mapping.matrix.shape)
    for row, group in zip(matrix, groups, strict=True):
        row[sorted(group)] = 1.0
    overlap = np.abs(matrix @ mapping.matrix.T - np.eye(mapping.n_beads))
    if overlap.max() > _TOLERANCE:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        names = [
            f"{mapping.topology.type_names[k]} of residue {mapping.topology.residue_index[k] + 1}"
            for k in (i, j)
        ]
        raise MappingError(
            f"no {kind} force map: beads {names[0]} and {names[1]} share atoms or are linked by constraints; "
            "constrain bonds to hydrogen only, not those between heavy atoms"
        )
    return ForceMap(kind, matrix, mapping.hash, diagnostics)


def _pairs(constraints: ArrayLike, n_atoms: int) -> NDArray[np.int64]:
    pairs = np.asarray(constraints, dtype=np.int64).reshape(-1, 2)
    if pairs.size and (pairs.min() < 0 or pairs.max() >= n_atoms):
        raise MappingError(f"constraints refer to atoms outside 0..{n_atoms - 1}")
    return pairs


def _constraint_groups(constraints: ArrayLike, n_atoms: int) -> NDArray[np.int64]:
    """Return the 0-based number of the constraint-connected group of each atom, ``(n_atoms,)`` int64."""
    parent = list(range(n_atoms))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in _pairs(constraints, n_atoms).tolist():
        parent[root(i)] = root(j)
    return np.unique([root(i) for i in range(n_atoms)], return_inverse=True)[1].reshape(-1).astype(np.int64)
