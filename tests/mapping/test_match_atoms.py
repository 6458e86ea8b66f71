"""Atoms of other programs are matched by residue and name."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping.match_atoms import bonds_of, match_atoms

Atoms = list[tuple[str, str, tuple[float, float, float]]]

ILE: Atoms = [
    ("N", "N", (0.0, 0.0, 0.0)), ("H", "H", (-0.9, 0.3, 0.0)), ("CA", "C", (1.4, 0.0, 0.0)),
    ("HA", "H", (1.8, 1.0, 0.0)), ("CB", "C", (2.0, -1.4, 0.0)), ("CD1", "C", (4.5, -1.4, 0.0)),
    ("HD11", "H", (4.9, -0.4, 0.0)), ("HD12", "H", (4.9, -1.9, 0.9)), ("HD13", "H", (4.9, -1.9, -0.9)),
    ("O", "O", (2.2, 1.0, 2.0)), ("OXT", "O", (1.2, 2.8, 1.2)),
]  # fmt: skip


def built(residues: list[tuple[str, Atoms]], bonds: bool = False) -> tuple[mdtraj.Topology, np.ndarray]:
    top, chain, xyz = mdtraj.Topology(), None, []
    chain = top.add_chain()
    for number, (name, atoms) in enumerate(residues):
        residue = top.add_residue(name, chain, resSeq=number + 1)
        for atom, element, position in atoms:
            top.add_atom(atom, mdtraj.element.get_by_symbol(element), residue)
            xyz.append(np.add(position, (0.0, 0.0, 10.0 * number)))
    array = np.array(xyz)
    if bonds:
        for i, j in bonds_of(top, array):
            top.add_bond(top.atom(i), top.atom(j))
    return top, array


def test_hydrogens_follow_their_heavy_atom_and_names_of_gromacs_are_known() -> None:
    target, _ = built([("ILE", ILE)], bonds=True)
    names = {"CD1": "CD", "HD11": "HD1", "HD12": "HD2", "HD13": "HD3", "O": "O1", "OXT": "O2", "H": "HN"}
    other = [(names.get(n, n), e, x) for n, e, x in ILE]
    water: Atoms = [("OW", "O", (0, 0, 5)), ("HW1", "H", (0.9, 0, 5)), ("HW2", "H", (0, 0.9, 5))]
    source, xyz = built([("SOL", water), ("NA", [("NA", "Na", (9, 9, 9))]), ("ILE", other[::-1])])
    index = match_atoms(source, target, xyz, what="x.gro")
    expected = [names.get(n, n) for n, _, _ in ILE]
    assert [source.atom(i).name for i in index] == expected


@pytest.mark.parametrize(
    ("residues", "match"),
    [
        ([("ILE", ILE[:-1])], "ILE1 lacks OXT"),
        ([("ILE", [a for a in ILE if a[0] != "HD12"])], "CD1 has 2 hydrogens, expected 3"),
        ([("LEU", ILE)], "residue 1 is LEU, expected ILE"),
        ([("ILE", ILE), ("ILE", ILE)], "2 residues .* expected 1"),
        ([("ILE", [*ILE, ("CX", "C", (9.0, 0.0, 0.0))])], "ILE1 has CX too"),
    ],
)
def test_what_differs_is_named(residues: list[tuple[str, Atoms]], match: str) -> None:
    target, _ = built([("ILE", ILE)], bonds=True)
    source, xyz = built(residues)
    with pytest.raises(MappingError, match=match):
        match_atoms(source, target, xyz, what="x.gro")


def test_residues_can_be_ignored() -> None:
    target, _ = built([("ILE", ILE)], bonds=True)
    source, xyz = built([("GOL", [("C1", "C", (0.0, 0.0, 0.0))]), ("ILE", ILE)])
    index = match_atoms(source, target, xyz, what="x.gro", ignore=["GOL"])
    assert index.tolist() == list(range(1, 12))
