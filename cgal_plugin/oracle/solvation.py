"""Explicit solvent around a solute in a new conformation: new water, or the solvent of the user's box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import OracleError
from cgal_plugin.oracle.coordinates import nearest_image
from cgal_plugin.oracle.forcefield import PADDING, check_box, force_field
from cgal_plugin.oracle.solute import molecules
from cgal_plugin.oracle.structure import seeded_random
from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from openmm import app

#: Å, shortest distance of a solvent molecule that may stay: heavy atoms, and with a hydrogen
_OVERLAP, _OVERLAP_HYDROGEN = 2.4, 1.5
#: Å, smallest gap between the solute and its periodic images
_IMAGE_GAP = 8.0
#: Å, spacing of the points where a molecule may go, their distance from the old place of the solute, and the
#: smallest distance of heavy atoms there, which a minimisation can mend
_SPACING, _AROUND, _CLEARANCE = 0.8, 4.0, 1.8
#: most atoms of a molecule that is moved out of the way
_LARGEST = 12


class NoRoomError(OracleError):
    """A conformation of the solute does not fit into the given box of solvent."""


def water_box(
    topology: app.Topology, positions: NDArray[np.float64], sequence: str, seed: int
) -> tuple[app.Topology, NDArray[np.float64]]:
    """Place a solute in a neutralised box of TIP3P-FB water; return topology and positions, Å.

    Raises
    ------
    OracleError
        The box would be too large: the chain is long and stretched.
    """
    from openmm import Vec3, app, unit

    check_box(positions, PADDING, sequence)
    modeller = app.Modeller(topology, [Vec3(*p) for p in positions / ANGSTROM_PER_NM] * unit.nanometer)
    with seeded_random(seed):
        modeller.addSolvent(force_field("tip3pfb"), model="tip3p", padding=PADDING, neutralize=True)
    placed = np.array(modeller.positions.value_in_unit(unit.nanometer)) * ANGSTROM_PER_NM
    return modeller.topology, placed


def reuse_solvent(
    topology: app.Topology, positions: NDArray[np.float64], solute: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the solute of a box another conformation and keep the box with all its molecules.

    The solute is translated so that its centre stays where it was. Solvent molecules that overlap with it
    move to the space that its former conformation leaves, largest gaps first.

    Parameters
    ----------
    topology
        Of all particles, with box vectors; the solute comes first.
    positions
        ``(n_particles, 3)`` Å, of the former conformation with its solvent.
    solute
        ``(n_solute, 3)`` Å, the new conformation.

    Returns
    -------
    ``(n_particles, 3)`` Å, not minimised.

    Raises
    ------
    NoRoomError
        The solute would be near its periodic images, or overlaps with a large molecule, or there is no space
        for the molecules that must move.
    """
    from scipy.spatial import KDTree

    n = len(solute)
    box = _box(topology)
    centre = positions[:n].mean(axis=0)
    placed = solute - solute.mean(axis=0) + centre
    _check_images(placed, box)
    heavy = np.array([a.element is None or a.element.symbol != "H" for a in topology.atoms()])
    labels = molecules(topology)[n:]
    members: dict[int, list[int]] = {}
    for atom, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(atom + n)
    xyz = np.concatenate([placed, positions[n:]])
    for atoms in members.values():  # the image of each molecule that is nearest to the solute
        middle = xyz[atoms].mean(axis=0) - centre
        xyz[atoms] += nearest_image(middle, box) - middle

    near_heavy = KDTree(_images(placed[heavy[:n]], box)).query(xyz[n:], distance_upper_bound=4.0)[0]
    near_any = KDTree(_images(placed, box)).query(xyz[n:], distance_upper_bound=4.0)[0]
    overlaps = (near_any < _OVERLAP_HYDROGEN) | (heavy[n:] & (near_heavy < _OVERLAP))
    moved = [members[label] for label in dict.fromkeys(labels[overlaps].tolist())]
    if not moved:
        return xyz
    _check_small(topology, moved)

    stay = heavy.copy()
    stay[[i for atoms in moved for i in atoms]] = False
    points = _points_around(positions[:n])
    obstacles = _images(xyz[stay], box)
    low, high = points.min(axis=0) - 5.0, points.max(axis=0) + 5.0
    obstacles = obstacles[((obstacles > low) & (obstacles < high)).all(axis=1)]
    clearance = KDTree(obstacles).query(points)[0]
    for atoms in moved:
        best = int(clearance.argmax())
        if clearance[best] < _CLEARANCE:
            raise NoRoomError(
                f"there is no space for {len(moved)} solvent molecules that overlap with the new "
                "conformation; the box of system.structure is too small or too dense"
            )
        xyz[atoms] += points[best] - xyz[[i for i in atoms if heavy[i]] or atoms].mean(axis=0)
        clearance = np.minimum(clearance, np.linalg.norm(points - points[best], axis=1))
    return xyz


def _box(topology: app.Topology) -> NDArray[np.float64]:
    from openmm import unit

    vectors: Any = topology.getPeriodicBoxVectors()
    return np.array([tuple(v.value_in_unit(unit.nanometer)) for v in vectors]) * ANGSTROM_PER_NM


def _images(xyz: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coordinates with those of the 26 neighbouring cells, ``(27 n, 3)``."""
    return np.concatenate([xyz + shift for shift in _shifts(box)])


def _shifts(box: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.array([-1, 0, 1])
    cells = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    shifts: NDArray[np.float64] = cells @ box
    return shifts


def _check_images(solute: NDArray[np.float64], box: NDArray[np.float64]) -> None:
    from scipy.spatial import KDTree

    tree = KDTree(solute)
    gaps = [tree.query(solute + s)[0].min() for s in _shifts(box) if s.any()]
    if min(gaps) < _IMAGE_GAP:
        raise NoRoomError(
            f"this conformation would be {min(gaps):.1f} Å from its periodic image (limit {_IMAGE_GAP:g} Å): "
            "the box of system.structure is too small for it. Give a system in a larger box"
        )


def _check_small(topology: app.Topology, moved: list[list[int]]) -> None:
    large = [atoms for atoms in moved if len(atoms) > _LARGEST]
    if large:
        atom = next(a for a in topology.atoms() if a.index == large[0][0])
        raise NoRoomError(
            f"this conformation overlaps with {atom.residue.name}{atom.residue.id}, which has "
            f"{len(large[0])} atoms and is not moved out of the way"
        )


def _points_around(solute: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points of a grid near the former place of the solute, ``(m, 3)`` Å."""
    from scipy.spatial import KDTree

    low, high = solute.min(axis=0) - _AROUND, solute.max(axis=0) + _AROUND
    axes = [np.arange(a, b, _SPACING) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    near = KDTree(solute).query(grid, distance_upper_bound=_AROUND)[0] < _AROUND
    points: NDArray[np.float64] = grid[near]
    return points
