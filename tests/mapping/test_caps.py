"""Caps: without beads in the built-in maps, with beads if a user's map lists them."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.errors import CGALWarning, MappingError
from cgal_plugin.mapping import CGMapping, CGTopology
from tests.mapping.peptides import atom, change, peptide, write

CAPPED_MAP = {
    "name": "caps",
    "residues": {
        "*": {"CA": ["CA"]},
        "ACE": {"CH3": ["CH3"]},
        "NME": {"C": {"atoms": ["N", "C"], "weights": "mass"}},
    },
}


def capped(tmp_path: Path, cap: str = "NME", methyl: str = "C") -> Path:
    """ACE-ALA-LYS-GLY-NME: the end groups of a longer chain."""
    lines = change(peptide("GAKGG"), rename={1: "ACE", 5: cap})
    out = []
    for line in lines:
        number, name = int(line[22:26]), line[12:16].strip()
        if number == 1 and name in ("N",):
            continue
        if number == 5 and name in ("C", "O"):
            continue
        if number == 1 and name == "CA":
            line = line[:12] + " CH3" + line[16:]
        if number == 5 and name == "CA":
            line = f"{line[:12]} {methyl:<3s}{line[16:]}"
        out.append(line)
    return write(tmp_path / "capped.pdb", out)


def test_caps_without_beads_are_left_out_and_named(tmp_path: Path) -> None:
    path = capped(tmp_path)
    with pytest.warns(CGALWarning, match="left out of the CG topology: 1 ACE, 1 NME"):
        top = CGTopology.from_file(path)
    assert top == CGTopology.from_sequence("AKG")
    assert CGMapping.from_topology(mdtraj.load(str(path))).n_beads == 3


@pytest.mark.parametrize("cap", ["NME", "NMA"])
def test_caps_with_beads_are_bonded_to_their_neighbours(tmp_path: Path, cap: str) -> None:
    path = capped(tmp_path, cap)
    top = CGTopology.from_file(path, CAPPED_MAP)
    assert top.bead_names == ("CH3", "CA", "CA", "CA", "C")
    assert top.residue_names == ("ACE", "ALA", "LYS", "GLY", "NME")
    assert top.bond_index.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert len(top.chain_index) == 5
    assert set(top.chain_index.tolist()) == {0}
    # numbers of own beads start at 41
    assert top.types.tolist() == [41, 1, 12, 8, 42]
    loaded = mdtraj.load(str(path))
    mapping = CGMapping.from_topology(loaded, CAPPED_MAP)
    assert mapping.topology == top == CGTopology.from_openmm(loaded.topology.to_openmm(), CAPPED_MAP)
    beads = mapping.map_positions(loaded)[0]
    at = {(a.residue.name, a.name): loaded.xyz[0, a.index] * 10 for a in loaded.topology.atoms}
    np.testing.assert_allclose(beads[0], at["ACE", "CH3"], atol=1e-4)
    n, c = at["NME", "N"], at["NME", "C"]
    np.testing.assert_allclose(beads[4], (14.007 * n + 12.011 * c) / 26.018, atol=1e-3)


def test_the_bead_next_to_the_chain_is_the_link(tmp_path: Path) -> None:
    residues = {
        "*": {"CA": ["CA"]},
        "ACE": {"CH3": ["CH3"], "CO": ["C", "O"]},
        "NME": {"NH": ["N"], "ME": ["C"]},
    }
    top = CGTopology.from_file(capped(tmp_path), {"name": "two", "residues": residues})
    assert top.bead_names == ("CH3", "CO", "CA", "CA", "CA", "NH", "ME")
    assert top.bond_index.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]
    # a bead of the name of the backbone bead is the link wherever it stands
    residues["NME"] = {"ME": ["C"], "CA": ["N"]}
    top = CGTopology.from_file(capped(tmp_path), {"name": "two", "residues": residues})
    assert top.bead_names[-3:] == ("CA", "ME", "CA")
    assert top.bond_index.tolist()[-2:] == [[4, 6], [5, 6]]


def test_one_listed_cap_does_not_bring_the_other(tmp_path: Path) -> None:
    only = {"name": "ace", "residues": {"*": {"CA": ["CA"]}, "ACE": {"CH3": ["CH3"]}}}
    with pytest.warns(CGALWarning, match=r"left out of the CG topology: 1 NME$"):
        top = CGTopology.from_file(capped(tmp_path), only)
    assert top.residue_names == ("ACE", "ALA", "LYS", "GLY")


def test_a_cap_far_away_is_not_bonded(tmp_path: Path) -> None:
    text = capped(tmp_path).read_text().splitlines()
    moved = [x[:30] + f"{float(x[30:38]) + 30:8.3f}" + x[38:] if " NME " in x else x for x in text]
    path = tmp_path / "far.pdb"
    path.write_text("\n".join(moved))
    with pytest.warns(CGALWarning, match=r"broken between A:GLY4 and A:NME5 \(C–N"):
        top = CGTopology.from_file(path, CAPPED_MAP)
    assert top.bond_index.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert top.chain_index.tolist() == [0, 0, 0, 0, 1]


def test_a_cap_that_lacks_the_atoms_of_its_bead_is_named(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"NME5 lacks C \(bead C\)"):
        CGMapping.from_topology(mdtraj.load(str(capped(tmp_path, methyl="CX"))), CAPPED_MAP)


def test_a_mapping_file_with_caps_and_other_caps(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("name: caps\nresidues:\n  '*': {CA: [CA]}\n  FOR: {C: [C]}\n  NH2: {N: [N]}\n")
    lines = peptide("AK")
    c = (-2.0, 0.0, 0.0)
    formyl = [atom(90, "C", "FOR", 0, c), atom(91, "O", "FOR", 0, (-2.6, 1.0, 0.0))]
    n = next(x for x in lines if x[12:16].strip() == "N")
    shift = np.array([float(n[k : k + 8]) for k in (30, 38, 46)]) - np.array(c) - np.array([1.33, 0.0, 0.0])
    lines = change(lines, move=-shift)
    last = next(x for x in lines if int(x[22:26]) == 2 and x[12:16].strip() == "C")
    x, y, z = (float(last[k : k + 8]) for k in (30, 38, 46))
    amide = [atom(92, "N", "NH2", 3, (x, y + 1.3, z))]
    top = CGTopology.from_file(write(tmp_path / "x.pdb", formyl + lines + amide), path)
    assert top.bead_names == ("C", "CA", "CA", "N")
    assert top.bond_index.tolist() == [[0, 1], [1, 2], [2, 3]]
    with pytest.raises(MappingError, match="no backbone bead 'CA'"):
        CGTopology.from_sequence("A", {"name": "x", "residues": {"*": {"CA": ["CA"]}, "XYZ": {"B": ["C1"]}}})
