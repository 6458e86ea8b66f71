"""Tables of angles, dihedrals and excluded pairs, from the bonds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import MappingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Neighbours = list[list[int]]


def sorted_pairs(table: Any, n_beads: int, name: str) -> NDArray[np.int64]:
    """Return a table of pairs ``(n, 2)`` int64, lower bead first, sorted, read-only.

    Raises
    ------
    MappingError
        A pair names a bead that does not exist, or a bead twice; the message names the table.
    """
    pairs = np.sort(np.array(table, dtype=np.int64).reshape(-1, 2), axis=1)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    if pairs.size and (pairs.min() < 0 or pairs.max() >= n_beads or (pairs[:, 0] == pairs[:, 1]).any()):
        raise MappingError(
            f"{name} {pairs.tolist()} names beads outside 0..{n_beads - 1} or bonds a bead to itself"
        )
    pairs.setflags(write=False)
    return pairs


def bonded_neighbours(n_beads: int, bond_index: NDArray[np.int64]) -> Neighbours:
    """Return the beads bonded to each bead, given the bonds ``(n_bonds, 2)``."""
    neighbours: Neighbours = [[] for _ in range(n_beads)]
    for i, j in bond_index.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return neighbours


def angle_table(neighbours: Neighbours) -> NDArray[np.int64]:
    """Return every bonded path i–j–k with i < k, ``(n_angles, 3)`` int64, sorted, read-only."""
    rows = [(i, j, k) for j, around in enumerate(neighbours) for i in around for k in around if i < k]
    return sorted_table(rows, 3)


def dihedral_table(neighbours: Neighbours) -> NDArray[np.int64]:
    """Return every bonded path i–j–k–l with i < l, ``(n_dihedrals, 4)`` int64, sorted, read-only."""
    rows = [
        (i, a, b, m)
        for a, around in enumerate(neighbours)
        for b in around
        for i in around
        for m in neighbours[b]
        if i != b and m != a and i < m
    ]
    return sorted_table(rows, 4)


def pair_table(neighbours: Neighbours, max_bonds: int, bridge_index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs at most ``max_bonds`` bonds apart, lower bead first, ``(n_pairs, 2)`` int64, sorted.

    With the bridges themselves if ``max_bonds`` is 1 or more; paths do not run through them.
    """
    pairs = set(map(tuple, bridge_index.tolist())) if max_bonds > 0 else set()
    for start in range(len(neighbours)):
        reached, frontier = {start}, {start}
        for _ in range(max_bonds):
            frontier = {n for f in frontier for n in neighbours[f]} - reached
            reached |= frontier
        pairs |= {(start, other) for other in reached if other > start}
    return sorted_table(pairs, 2)


def sorted_table(rows: Iterable[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    """Return sorted rows as a table ``(n, width)`` int64, read-only."""
    table = np.array(sorted(rows), dtype=np.int64).reshape(-1, width)
    table.setflags(write=False)
    return table
