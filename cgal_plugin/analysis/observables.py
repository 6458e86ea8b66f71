"""Structural observables of CG frames (Å), in Å or degrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import AnalysisError
from cgal_plugin.mapping.geometry import dihedral_angles, superposed_rmsd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping.topology import CGTopology

#: names accepted by :func:`observable`, with their units
OBSERVABLES = {"bond": "Å", "angle": "degrees", "dihedral": "degrees", "rg": "Å", "end_to_end": "Å"}
#: periodic observables, with their range
PERIODIC = {"dihedral": (-180.0, 180.0)}


def bond_lengths(frames: NDArray[np.floating], bond_index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``(n, n_bonds)`` Å for frames ``(n, n_beads, 3)`` Å and pairs ``(n_bonds, 2)``."""
    frames = np.asarray(frames, dtype=np.float64)
    return np.asarray(np.linalg.norm(frames[:, bond_index[:, 0]] - frames[:, bond_index[:, 1]], axis=-1))


def angles(frames: NDArray[np.floating], angle_index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``(n, n_angles)`` degrees in [0, 180] for frames ``(n, n_beads, 3)`` and ``(n_angles, 3)``."""
    frames = np.asarray(frames, dtype=np.float64)
    i, j, k = angle_index.T
    a, b = frames[:, i] - frames[:, j], frames[:, k] - frames[:, j]
    # atan2 is accurate near 0 and 180 degrees, arccos is not
    return np.asarray(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(axis=-1))))


def dihedrals(frames: NDArray[np.floating], dihedral_index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``(n, n_dihedrals)`` degrees in (−180, 180], IUPAC sign, for quadruples ``(n_dihedrals, 4)``."""
    frames = np.asarray(frames, dtype=np.float64)
    return np.degrees(dihedral_angles(frames[:, dihedral_index]))


def radius_of_gyration(
    frames: NDArray[np.floating], masses: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Return ``(n,)`` Å for ``(n, n_beads, 3)`` Å; mass-weighted if ``masses`` ``(n_beads,)`` are given."""
    frames = np.asarray(frames, dtype=np.float64)
    weights = np.ones(frames.shape[1]) if masses is None else np.asarray(masses, dtype=np.float64)
    weights = weights / weights.sum()
    centre = np.einsum("b,nbx->nx", weights, frames)
    return np.asarray(np.sqrt(np.einsum("b,nbx->n", weights, (frames - centre[:, None]) ** 2)))


def end_to_end(frames: NDArray[np.floating], topology: CGTopology) -> NDArray[np.float64]:
    """Return ``(n, n_chains)`` Å between the first beads of the first and last residue of each chain."""
    frames = np.asarray(frames, dtype=np.float64)
    ends = []
    for chain in np.unique(topology.chain_index):
        beads = np.flatnonzero(topology.chain_index == chain)
        residues = topology.residue_index[beads]
        last = beads[residues == residues.max()][0]
        ends.append((beads[residues == residues.min()][0], last))
    first, last = np.array(ends).T
    return np.asarray(np.linalg.norm(frames[:, first] - frames[:, last], axis=-1))


def observable(frames: NDArray[np.floating], topology: CGTopology, name: str) -> NDArray[np.float64]:
    """Compute ``(n, k)`` values of the observable ``name`` (a key of :data:`OBSERVABLES`); k may be 0.

    Raises
    ------
    AnalysisError
        The name is unknown, or the bead count differs from the topology.
    """
    frames = np.asarray(frames)
    if frames.ndim != 3 or frames.shape[1:] != (topology.n_beads, 3):
        raise AnalysisError(
            f"frames of shape {frames.shape} do not match {topology!r}; expected (n, beads, 3)"
        )
    if name == "bond":
        return bond_lengths(frames, topology.bond_index)
    if name == "angle":
        return angles(frames, topology.angle_index)
    if name == "dihedral":
        return dihedrals(frames, topology.dihedral_index)
    if name == "rg":
        return radius_of_gyration(frames, topology.masses)[:, None]
    if name == "end_to_end":
        return end_to_end(frames, topology)
    raise AnalysisError(f"observable {name!r} is unknown; choose from {sorted(OBSERVABLES)}")


def contact_map(
    frames: NDArray[np.floating],
    *,
    cutoff: float = 8.0,
    weights: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Compute the probability that two beads are within ``cutoff`` Å, ``(n_beads, n_beads)``, diagonal 1.

    ``frames`` are ``(n, n_beads, 3)`` Å; ``weights`` ``(n,)``, one per frame, are normalised.
    """
    frames = np.asarray(frames, dtype=np.float64)
    weights = np.full(len(frames), 1.0) if weights is None else np.asarray(weights, dtype=np.float64)
    out = np.zeros((frames.shape[1], frames.shape[1]))
    for start in range(0, len(frames), 4096):
        part = frames[start : start + 4096]
        close = np.linalg.norm(part[:, :, None] - part[:, None], axis=-1) <= cutoff
        out += np.einsum("n,nij->ij", weights[start : start + 4096], close)
    return np.asarray(out / weights.sum())


def rmsd_to_structure(frames: NDArray[np.floating], structure: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the RMSD after optimal superposition (rotation only, no reflection), ``(n,)`` Å.

    Parameters
    ----------
    frames
        ``(n, n_beads, 3)`` Å.
    structure
        ``(n_beads, 3)`` Å.

    Raises
    ------
    AnalysisError
        Bead counts differ.
    """
    x, y = np.asarray(frames, dtype=np.float64), np.asarray(structure, dtype=np.float64)
    if x.ndim != 3 or y.shape != x.shape[1:]:
        raise AnalysisError(
            f"frames have shape {x.shape}, the structure {y.shape}; expected (n, n_beads, 3) and (n_beads, 3)"
        )
    return superposed_rmsd(x, y)
