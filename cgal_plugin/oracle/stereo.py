"""Index tables of a molecule's stereocentres, peptide torsions, bonds and rings, found by atom name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import BackmapError
from cgal_plugin.mapping.geometry import dihedral_angles
from cgal_plugin.mapping.residues import IONS, WATER

if TYPE_CHECKING:
    import mdtraj
    from numpy.typing import ArrayLike, NDArray

#: allowed bond lengths, as multiples of the sum of the covalent radii
BOND_RANGE = (0.78, 1.22)
#: closest approach (Å) of atoms more than three bonds apart: both heavy, or at least one hydrogen
CLASH_HEAVY, CLASH_HYDROGEN = 2.2, 1.2
# Cordero et al., Dalton Trans. 2008, 2832 (Å)
COVALENT_RADIUS = {"H": 0.31, "C": 0.76, "N": 0.71, "O": 0.66, "S": 1.05, "P": 1.07, "Se": 1.20}
_MAX_RING = 6

# L-amino acids, (2S,3S)-isoleucine and (2S,3R)-threonine: neighbours a, b, c of the centre in the
# order in which a·(b×c) is positive
_BACKBONE_CENTRE = ("CA", ("N", "C", "CB"))
_SIDE_CHAIN_CENTRES = {"ILE": ("CB", ("CA", "CG1", "CG2")), "THR": ("CB", ("OG1", "CG2", "CA"))}


@dataclass(frozen=True, eq=False)
class StereoTables:
    """Properties of every correct structure of one molecule. Indices refer to its topology.

    Attributes
    ----------
    centres
        ``(n, 4)`` int64: centre, a, b, c of each stereocentre; a·(b×c) > 0 if correct.
    omegas
        ``(n, 4)`` int64: atoms of each peptide torsion.
    cis
        ``(n,)`` bool: peptide bonds that are cis if correct; the others are trans.
    bonds, bond_range
        ``(n, 2)`` int64, and shortest and longest allowed length, ``(n, 2)`` float64, Å.
    far_pairs, far_limits
        ``(n, 2)`` int64, atoms more than three bonds apart, and their closest approach, Å.
    rings
        Atoms of each ring of up to six atoms, in ring order.
    labels
        Name of every atom, such as ``"TYR2-CA"``.
    """

    centres: NDArray[np.int64]
    omegas: NDArray[np.int64]
    cis: NDArray[np.bool_]
    bonds: NDArray[np.int64]
    bond_range: NDArray[np.float64]
    far_pairs: NDArray[np.int64]
    far_limits: NDArray[np.float64]
    rings: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the topology."""
        return len(self.labels)


def stereo_tables(topology: Any, reference: ArrayLike | None = None) -> StereoTables:
    """Return the tables of an ``mdtraj.Topology`` or ``openmm.app.Topology``, without water and ions.

    ``reference`` ``(n_atoms, 3)`` Å is a correct structure: its cis peptide bonds are cis in every correct
    structure. Without it all are trans.

    Raises
    ------
    BackmapError
        The topology has no atoms or no bonds.
    """
    top = topology
    if not hasattr(topology, "n_atoms"):
        import mdtraj

        top = mdtraj.Topology.from_openmm(topology)
    atoms = list(top.atoms)
    pairs = {(min(a.index, b.index), max(a.index, b.index)) for a, b in top.bonds}
    bonds = _table(sorted(pairs), 2)
    if not atoms or not len(bonds):
        raise BackmapError(
            f"the topology has {len(atoms)} atoms and {len(bonds)} bonds; structures cannot be screened "
            "without bonds. Load it from a PDB file with standard residue and atom names."
        )
    neighbours: list[list[int]] = [[] for _ in atoms]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    symbols = [a.element.symbol for a in atoms]
    radii = np.array([COVALENT_RADIUS.get(s, 0.77) for s in symbols])
    sums = radii[bonds].sum(axis=1)
    hydrogen = np.array([s == "H" for s in symbols])
    solute = [a.index for a in atoms if a.residue.name.upper() not in WATER | IONS]
    far = _far_pairs(neighbours, solute)
    omegas = _omegas(top)
    cis = np.zeros(len(omegas), dtype=bool)
    if reference is not None and len(omegas):
        cis = np.abs(dihedral_angles(np.asarray(reference, dtype=np.float64)[omegas])) < np.pi / 2
    return StereoTables(
        centres=_centres(top),
        omegas=omegas,
        cis=cis,
        bonds=bonds,
        bond_range=np.stack([BOND_RANGE[0] * sums, BOND_RANGE[1] * sums], axis=1),
        far_pairs=far,
        far_limits=np.where(hydrogen[far].any(axis=1), CLASH_HYDROGEN, CLASH_HEAVY),
        rings=_rings(neighbours, bonds),
        labels=tuple(f"{a.residue.name}{a.residue.resSeq}-{a.name}" for a in atoms),
    )


def _table(rows: ArrayLike, width: int) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _centres(top: mdtraj.Topology) -> NDArray[np.int64]:
    rows = []
    for residue in top.residues:
        index = {a.name: a.index for a in residue.atoms}
        wanted = [_BACKBONE_CENTRE]
        if residue.name.upper() in _SIDE_CHAIN_CENTRES:
            wanted.append(_SIDE_CHAIN_CENTRES[residue.name.upper()])
        for centre, around in wanted:
            if centre in index and all(name in index for name in around):
                rows.append((index[centre], *(index[name] for name in around)))
    return _table(rows, 4)


def _omegas(top: mdtraj.Topology) -> NDArray[np.int64]:
    rows = []
    for first, second in top.bonds:
        for c, n in ((first, second), (second, first)):
            if (c.name, n.name) != ("C", "N") or c.residue.index == n.residue.index:
                continue
            before = {a.name: a.index for a in c.residue.atoms}
            after = {a.name: a.index for a in n.residue.atoms}
            x = before.get("CA", before.get("CH3"))
            y = after.get("CA", after.get("CH3", after.get("C")))
            if x is not None and y is not None:
                rows.append((x, c.index, n.index, y))
    return _table(sorted(rows), 4)


def _far_pairs(neighbours: list[list[int]], solute: list[int]) -> NDArray[np.int64]:
    apart = np.zeros((len(neighbours), len(neighbours)), dtype=bool)
    apart[np.ix_(solute, solute)] = True
    for start in solute:
        reached, frontier = {start}, {start}
        for _ in range(3):
            frontier = {n for f in frontier for n in neighbours[f]} - reached
            reached |= frontier
        apart[start, list(reached)] = False
    return _table(np.argwhere(np.triu(apart, 1)), 2)


def _rings(neighbours: list[list[int]], bonds: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Return the smallest ring of at most six atoms through each bond (aromatic rings, proline)."""
    found: dict[frozenset[int], tuple[int, ...]] = {}
    for start, end in bonds.tolist():
        paths: list[tuple[int, ...]] = [(start,)]
        for _ in range(_MAX_RING - 1):
            paths = [
                (*path, n)
                for path in paths
                for n in neighbours[path[-1]]
                if n not in path and not (path[-1] == start and n == end)
            ]
            closed = [path for path in paths if path[-1] == end]
            if closed:
                found.setdefault(frozenset(closed[0]), closed[0])
                break
    return tuple(sorted(found.values()))


def piercing_candidates(tables: StereoTables) -> list[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """Return each ring with the bonds that share no atom with it, ``(n, 2)`` int64."""
    pairs = []
    for ring in tables.rings:
        outside = ~np.isin(tables.bonds, ring).any(axis=1)
        pairs.append((ring, tables.bonds[outside]))
    return pairs
