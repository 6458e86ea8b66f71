"""Make molecules whole that are broken across the periodic box."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.units import ANGSTROM_PER_NM

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import NDArray

    from cgal_plugin.mapping.maps import CGMapping
    from cgal_plugin.mapping.topology import CGTopology

    Float = NDArray[np.float64]
    #: (parent, child) in an order in which every parent comes first
    Tree = Sequence[tuple[int, int]]

#: smallest distance between opposite faces, Å; a smaller cell is not that of a simulation (NMR structures
#: have cells of 1 Å), and a bond could be longer than half of it
SMALLEST_CELL = 10.0
#: beads of two chains that are closer than this (Å) are in contact
_CONTACT = 10.0


def usable_cells(vectors: NDArray[np.floating] | None) -> Float | None:
    """Return the cell vectors of mdtraj (nm) in Å, ``(n, 3, 3)``.

    None if a frame has no unit cell, or one that is too small to be that of a simulation.
    """
    if vectors is None or len(vectors) == 0:
        return None
    cells = np.asarray(vectors, dtype=np.float64) * ANGSTROM_PER_NM
    if not np.isfinite(cells).all() or (np.abs(np.linalg.det(cells)) < SMALLEST_CELL**3 / 10).any():
        return None
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cells), axis=1)
    return None if (heights < SMALLEST_CELL).any() else cells


def whole_molecules(
    frames: NDArray[np.floating], cells: Float, topology: CGTopology
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Move beads by vectors of the unit cell, so that bonds are whole and chains are near each other.

    A chain that touches the chains before it (10 Å) stays. Another one is moved to the image that has most
    contacts with them; without contacts, to the nearest one.

    Parameters
    ----------
    frames
        ``(n, n_beads, 3)`` Å.
    cells
        ``(n, 3, 3)`` Å: vectors of the unit cell of each frame, one per row. Bonds are shorter than half of
        it.

    Returns
    -------
    The frames, of the same dtype; and ``(n,)`` bool: whether a bead of the frame was moved.
    """
    bonds = [*topology.bond_index.tolist(), *np.asarray(getattr(topology, "bridge_index", [])).tolist()]
    return whole_by_bonds(frames, cells, bonds)


def whole_by_bonds(
    frames: NDArray[np.floating], cells: Float, bonds: Iterable[Sequence[int]], *, gather: bool = True
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Make molecules of points whole, which ``bonds`` link; see :func:`whole_molecules`.

    Without ``gather``, molecules stay where their first point is.
    """
    tree, pieces = spanning_tree(frames.shape[1], bonds)
    shifts = _tree_shifts(frames, cells, tree)
    for number, piece in enumerate(pieces[1:] if gather else [], start=1):
        before = [bead for earlier in pieces[:number] for bead in earlier]
        shifts[:, piece] += _chain_shift(frames, cells, shifts, before, piece)[:, None]
    return _moved(frames, cells, shifts)


def whole_residues(
    trajectory: mdtraj.Trajectory, mapping: CGMapping, cells: Float
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return the atoms of a trajectory in Å with each residue whole, so that its beads can be averaged.

    Atoms follow the bonds of the residue; an atom without bonds is moved near the first atom of the residue.
    Atoms without a bead stay. The second result is as in :func:`whole_molecules`.
    """
    xyz = trajectory.xyz * ANGSTROM_PER_NM
    used: Any = mapping.matrix.any(axis=0)
    tree: list[tuple[int, int]] = []
    neighbours: dict[int, list[int]] = {}
    for a, b in trajectory.topology.bonds:
        if a.residue is b.residue:
            neighbours.setdefault(a.index, []).append(b.index)
            neighbours.setdefault(b.index, []).append(a.index)
    for residue in trajectory.topology.residues:
        atoms = [a.index for a in residue.atoms]
        if not used[atoms].any():
            continue
        first = next((a.index for a in residue.atoms if a.name == "CA"), atoms[0])
        branch = _grow(first, neighbours)
        reached = {first, *(child for _, child in branch)}
        tree += branch + [(first, a) for a in atoms if a not in reached]
    return _moved(xyz, cells, _tree_shifts(xyz, cells, tree))


def spanning_tree(n: int, bonds: Iterable[Sequence[int]]) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Return the bonds of a spanning tree, parents first, and the beads of each connected piece."""
    neighbours: dict[int, list[int]] = {}
    for i, j in bonds:
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    tree: list[tuple[int, int]] = []
    pieces: list[list[int]] = []
    reached: set[int] = set()
    for start in range(n):
        if start in reached:
            continue
        branch = _grow(start, neighbours)
        pieces.append([start, *(child for _, child in branch)])
        reached.update(pieces[-1])
        tree += branch
    return tree, pieces


def _grow(start: int, neighbours: dict[int, list[int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    reached, queue = {start}, deque([start])
    while queue:
        parent = queue.popleft()
        for child in neighbours.get(parent, ()):
            if child not in reached:
                reached.add(child)
                queue.append(child)
                found.append((parent, child))
    return found


def _tree_shifts(frames: NDArray[np.floating], cells: Float, tree: Tree) -> Float:
    """Return ``(n, n_points, 3)``: the multiples of the cell vectors that make each bond the shortest."""
    inverse = np.linalg.inv(cells)
    shifts = np.zeros(frames.shape)
    fractional = np.einsum("npi,nij->npj", frames.astype(np.float64), inverse)
    for parent, child in tree:
        bond = fractional[:, child] - fractional[:, parent]
        # exact for bonds shorter than half the distance between opposite faces
        shifts[:, child] = shifts[:, parent] - np.rint(bond)
    return shifts


def _chain_shift(
    frames: NDArray[np.floating], cells: Float, shifts: Float, before: list[int], piece: list[int]
) -> Float:
    """Return ``(n, 3)``: the multiples of the cell vectors that move a chain near the chains before it."""
    found = np.zeros((len(frames), 3))
    inverse = np.linalg.inv(cells)
    for i, frame in enumerate(frames):
        placed = frame.astype(np.float64) + shifts[i] @ cells[i]
        apart = placed[piece][:, None] - placed[before]
        nearest: Any = np.rint(apart @ inverse[i])
        distance = np.linalg.norm(apart - nearest @ cells[i], axis=-1)
        near = distance < _CONTACT
        if not near.any():
            found[i] = -nearest.reshape(-1, 3)[distance.argmin()]
            continue
        images, votes = np.unique(nearest[near], axis=0, return_counts=True)
        direct = np.count_nonzero(np.linalg.norm(apart, axis=-1) < _CONTACT)
        if 2 * direct >= votes.max():  # in contact as it is, as in a complex taken from a crystal
            continue
        # in a tie, stay
        order = np.lexsort((np.abs(images).sum(axis=1), -votes))
        found[i] = -images[order[0]]
    return found


def _moved(
    frames: NDArray[np.floating], cells: Float, shifts: Float
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    moved: NDArray[np.bool_] = np.any(shifts != 0, axis=(1, 2))
    if not moved.any():
        return frames, moved
    out = np.array(frames)
    out[moved] += np.einsum("npi,nij->npj", shifts[moved], cells[moved]).astype(out.dtype)
    return out, moved
