"""Check all-atom structures before a label's dynamics starts from them.

A backmapped structure of low energy can still be wrong: a D-residue, a cis peptide bond or a bond through
a ring is separated from the correct structure by a barrier that a label's dynamics does not cross. Its
forces would enter the training set as if they belonged to the peptide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import BackmapError, OracleError
from cgal_plugin.mapping.geometry import dihedral_angles
from cgal_plugin.oracle.record import StructureRecord
from cgal_plugin.oracle.stereo import StereoTables, piercing_candidates, stereo_tables

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: peptide bonds with |ω| (degrees) below this are cis or twisted
OMEGA_MIN = 150.0
#: signed volume of a stereocentre's unit vectors: ideal 0.77, planar 0, inverted −0.77
CHIRALITY_MIN = 0.25
_LISTED = 3


@dataclass(frozen=True)
class Screen:
    """Result of the checks of one structure; true in a boolean context if no error was found.

    Attributes
    ----------
    ok
        No error found.
    reasons
        One text per kind of error, with atoms and values; empty if ``ok``.
    """

    ok: bool
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.ok


def screen(positions: ArrayLike, topology: Any, *, omega_min: float = OMEGA_MIN) -> Screen | list[Screen]:
    """Check structures for wrong stereochemistry, broken bonds, clashes and pierced rings.

    Parameters
    ----------
    positions
        ``(n_atoms, 3)`` or ``(n_frames, n_atoms, 3)`` in Å, in the topology's atom order.
    topology
        ``mdtraj.Topology``, ``openmm.app.Topology``, or :class:`StereoTables`, which saves time in
        repeated calls. Atoms are found by residue and atom name.
    omega_min
        Smallest |ω| of a peptide bond, degrees. The default is for relaxed structures. In dynamics at
        400 K one frame in ten has a trans bond at 140° to 150°; use 90 for such frames.

    Returns
    -------
    One :class:`Screen` for one structure, a list for many.

    Raises
    ------
    BackmapError
        The shape does not fit the topology, or the topology has no bonds.

    Notes
    -----
    A peptide bond must be trans, unless it is cis in the molecule's own structure (``stereo_tables(topology,
    reference)``): it does not isomerise during a label, and a structure with the other isomer would represent
    another molecule. The thresholds are constants of this module and of ``stereo``.
    """
    tables = topology if isinstance(topology, StereoTables) else stereo_tables(topology)
    xyz = np.asarray(positions, dtype=np.float64)
    if xyz.ndim not in (2, 3) or xyz.shape[-2:] != (tables.n_atoms, 3):
        raise BackmapError(
            f"positions have shape {xyz.shape}; this topology needs ({tables.n_atoms}, 3) "
            f"or (n_frames, {tables.n_atoms}, 3)"
        )
    if xyz.ndim == 2:
        return _screen_one(xyz, tables, omega_min)
    return [_screen_one(frame, tables, omega_min) for frame in xyz]


def check_start(topology: Any, positions: NDArray[np.float64], record: StructureRecord) -> StructureRecord:
    """Refuse a minimised start structure with wrong stereochemistry; record its cis peptide bonds.

    ``positions`` ``(n_atoms, 3)`` Å. Returns the record with these bonds.

    Raises
    ------
    OracleError
        An inverted stereocentre, a broken bond, a clash or a pierced ring.
    """
    tables = stereo_tables(topology, positions)
    verdict = _screen_one(positions, tables, 90.0)
    if not verdict:
        raise OracleError(
            f"{'; '.join(record.facts.get('source', ('the structure',)))} is wrong after minimisation: "
            f"{'; '.join(verdict.reasons)}. The molecule must consist of L-amino acids without overlaps: "
            "correct the structure, or replace D-residues (system.replace)"
        )
    for _, c, n, _ in tables.omegas[tables.cis].tolist():
        left, right = (tables.labels[i].split("-")[0] for i in (c, n))
        record = record.with_fact("notes", f"the peptide bond {left}–{right} is cis and stays so")
    return record


def _screen_one(xyz: NDArray[np.float64], tables: StereoTables, omega_min: float) -> Screen:
    finite = np.isfinite(xyz).all(axis=1)
    if not finite.all():
        return Screen(False, (f"{int((~finite).sum())} atoms have non-finite coordinates",))
    label = tables.labels
    volume = chirality(xyz, tables)
    omega = omega_degrees(xyz, tables)
    length = np.linalg.norm(xyz[tables.bonds[:, 0]] - xyz[tables.bonds[:, 1]], axis=1)
    gap = np.linalg.norm(xyz[tables.far_pairs[:, 0]] - xyz[tables.far_pairs[:, 1]], axis=1)
    broken = (length < tables.bond_range[:, 0]) | (length > tables.bond_range[:, 1])
    reasons = [
        _describe("inverted or flat stereocentre", [
            f"{label[tables.centres[i, 0]]} (volume {volume[i]:.2f})"
            for i in np.flatnonzero(volume < CHIRALITY_MIN)
        ]),
        _describe("cis or twisted peptide bond", [
            f"{label[tables.omegas[i, 1]]}–{label[tables.omegas[i, 2]]} (ω {omega[i]:.0f}°)"
            for i in np.flatnonzero(np.where(tables.cis, 180.0 - np.abs(omega), np.abs(omega)) < omega_min)
        ]),
        _describe("broken bond", [
            f"{label[tables.bonds[i, 0]]}–{label[tables.bonds[i, 1]]} ({length[i]:.2f} Å)"
            for i in np.flatnonzero(broken)
        ]),
        _describe("clash", [
            f"{label[tables.far_pairs[i, 0]]} and {label[tables.far_pairs[i, 1]]} ({gap[i]:.2f} Å)"
            for i in np.flatnonzero(gap < tables.far_limits)
        ]),
        _describe("ring pierced by a bond", [
            f"{label[ring[0]].split('-')[0]} by {label[i]}–{label[j]}"
            for ring, i, j in pierced_rings(xyz, tables)
        ]),
    ]  # fmt: skip
    found = tuple(reason for reason in reasons if reason)
    return Screen(not found, found)


def _describe(kind: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{kind}: {', '.join(items[:_LISTED])}{more}"


def chirality(xyz: NDArray[np.float64], tables: StereoTables) -> NDArray[np.float64]:
    """Return the signed volume a·(b×c) of the unit vectors at each stereocentre, ``(n,)``; L is ≈ +0.77."""
    arms = xyz[tables.centres[:, 1:]] - xyz[tables.centres[:, :1]]
    norms = np.linalg.norm(arms, axis=-1, keepdims=True)
    arms = np.divide(arms, norms, out=np.zeros_like(arms), where=norms > 0)
    volume: NDArray[np.float64] = np.einsum("ij,ij->i", arms[:, 0], np.cross(arms[:, 1], arms[:, 2]))
    return volume


def omega_degrees(xyz: NDArray[np.float64], tables: StereoTables) -> NDArray[np.float64]:
    """Peptide torsions ω in degrees, −180 to 180, ``(n,)``; trans is ±180."""
    return np.degrees(dihedral_angles(xyz[tables.omegas]))


def pierced_rings(xyz: NDArray[np.float64], tables: StereoTables) -> list[tuple[tuple[int, ...], int, int]]:
    """Return ``(ring, i, j)`` for each bond i–j that passes through a ring.

    The ring is divided into triangles around its centroid. A bond passes through the ring if it crosses
    one of them (Möller and Trumbore, J. Graph. Tools 1997, 2, 21).
    """
    found = []
    for ring, bonds in piercing_candidates(tables):
        corners = xyz[list(ring)]
        centre = corners.mean(axis=0)
        reach = np.linalg.norm(corners - centre, axis=1).max() + 2.5
        near = bonds[np.linalg.norm(xyz[bonds].mean(axis=1) - centre, axis=1) < reach]
        if not len(near):
            continue
        start, direction = xyz[near[:, 0]], xyz[near[:, 1]] - xyz[near[:, 0]]
        hit = np.zeros(len(near), dtype=bool)
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            hit |= _crosses(start, direction, centre, a, b)
        found += [(ring, int(i), int(j)) for i, j in near[hit]]
    return found


def _crosses(
    start: NDArray[np.float64],
    direction: NDArray[np.float64],
    p: NDArray[np.float64],
    q: NDArray[np.float64],
    r: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return whether each segment ``start`` → ``start + direction``, ``(n, 3)``, crosses the triangle pqr."""
    e1, e2 = q - p, r - p
    h = np.cross(direction, e2)
    det = h @ e1
    inverse = np.divide(1.0, det, out=np.zeros_like(det), where=np.abs(det) > 1e-12)
    s = start - p
    u = np.einsum("ij,ij->i", s, h) * inverse
    w = np.cross(s, e1)
    v = np.einsum("ij,ij->i", direction, w) * inverse
    t = (w @ e2) * inverse
    hit: NDArray[np.bool_] = (inverse != 0) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1)
    return hit
