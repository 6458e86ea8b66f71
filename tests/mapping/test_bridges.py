"""Disulfide bridges: found in structures, kept in files, and no part of angles and dihedrals."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.errors import CGALWarning, MappingError
from cgal_plugin.mapping import CGMapping, CGTopology
from tests.mapping.peptides import change, name, near, number, peptide, trajectory, without, write, write_cif

SEQUENCE = "ACGKCWACDC"
#: residues 2 and 8 are bridged in the structure (0-based: 1 and 7)
BRIDGED = near(peptide(SEQUENCE), (8, "SG"), (2, "SG"))
SC = {
    "name": "sc",
    "residues": {
        "*": {"CA": ["CA"]},
        "CYS": {"CA": ["CA"], "SC": {"atoms": ["CB", "SG"], "weights": "mass"}},
    },
}
BB = {"name": "bb", "backbone": "BB", "residues": {"*": {"BB": ["N", "CA", "C"]}}}


@pytest.mark.parametrize(
    ("mapping", "ends"),
    [("CA", ("CA", "CA")), ("CACB", ("CB", "CB")), (SC, ("SC", "SC")), (BB, ("BB", "BB"))],
    ids=["CA", "CACB", "user map with SG", "user map without"],
)
@pytest.mark.parametrize("suffix", ["pdb", "gro", "cif"])
def test_a_bridge_of_a_structure_joins_the_nearest_beads(
    tmp_path: Path, mapping: object, ends: tuple[str, str], suffix: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "cif":
        write_cif(path, BRIDGED)
    else:
        trajectory(tmp_path, BRIDGED).save(str(path))
    top = CGTopology.from_file(path, mapping)
    assert top == CGTopology.from_sequence(SEQUENCE, mapping, bridges=[(1, 7)])
    ((i, j),) = top.bridge_index.tolist()
    assert (top.bead_names[i], top.bead_names[j]) == ends
    assert (top.residue_index[i], top.residue_index[j]) == (1, 7)
    plain = CGTopology.from_sequence(SEQUENCE, mapping)
    for table in ("bond_index", "angle_index", "dihedral_index"):
        np.testing.assert_array_equal(getattr(top, table), getattr(plain, table))
    assert [i, j] not in plain.exclusions(3).tolist()
    assert [i, j] in top.exclusions(1).tolist()
    assert len(top.exclusions(2)) == len(plain.exclusions(2)) + 1
    assert top.exclusions(0).tolist() == []


def test_a_bridge_is_found_from_bonds_and_from_names(tmp_path: Path) -> None:
    apart = trajectory(tmp_path, peptide(SEQUENCE))
    assert CGTopology.from_mdtraj(apart).bridge_index.tolist() == []
    top = apart.topology.copy()
    sulfurs = [a for a in top.atoms if a.name == "SG"]
    top.add_bond(sulfurs[0], sulfurs[2])
    assert CGTopology.from_mdtraj(top).bridge_index.tolist() == [[1, 7]]
    assert CGTopology.from_openmm(top.to_openmm(), positions=apart.xyz[0] * 10).bridge_index.tolist() == [
        [1, 7]
    ]
    assert CGMapping.from_topology(top.to_openmm()).topology.bridge_index.tolist() == [[1, 7]]
    named = apart.topology.copy()
    for residue in named.residues:
        residue.name = "CYX" if residue.index in (1, 9) else residue.name
    assert CGTopology.from_mdtraj(named).bridge_index.tolist() == [[1, 9]]
    named.residue(4).name = "CYX"
    with pytest.warns(CGALWarning, match=r"CYX2, A:CYX5, A:CYX10: named as bridged.*give bridges=\[\(i, j\)"):
        assert CGTopology.from_mdtraj(named).bridge_index.tolist() == []
    assert CGTopology.from_mdtraj(named, bridges=[(9, 4)]).bridge_index.tolist() == [[4, 9]]
    assert CGTopology.from_mdtraj(top, bridges=()).bridge_index.tolist() == []
    assert CGMapping.from_topology(top, bridges=[(1, 4)]).topology.bridge_index.tolist() == [[1, 4]]


def test_a_record_of_the_file_is_a_bridge_without_the_sulfurs(tmp_path: Path) -> None:
    ca = [x for x in peptide(SEQUENCE) if name(x) == "CA"]
    record = "SSBOND   1 CYS A    2    CYS A    8                          1555   1555  2.03"
    path = write(tmp_path / "ca.pdb", ca, head=[record])
    assert CGTopology.from_file(path).bridge_index.tolist() == [[1, 7]]
    # a bridge to another copy in the crystal is none of this molecule
    path = write(tmp_path / "crystal.pdb", ca, head=[record.replace("1555   1555", "1555   2655")])
    assert CGTopology.from_file(path).bridge_index.tolist() == []


def test_reduced_cysteines_and_metal_sites_are_no_bridges(tmp_path: Path) -> None:
    with_hydrogen = []
    for line in BRIDGED:
        with_hydrogen.append(line)
        if number(line) == 2 and name(line) == "SG":
            with_hydrogen.append(
                line[:12] + " HG " + line[16:30] + f"{float(line[30:38]) - 1.3:8.3f}" + line[38:76] + " H"
            )
    assert CGTopology.from_file(write(tmp_path / "hg.pdb", with_hydrogen)).bridge_index.tolist() == []
    metal = near(peptide(SEQUENCE), (8, "SG"), (2, "SG"), 3.6)
    assert CGTopology.from_file(write(tmp_path / "zn.pdb", metal)).bridge_index.tolist() == []


def test_bridges_between_chains_and_across_the_box(tmp_path: Path) -> None:
    one = peptide("ACK")
    two = change(one, chain="B", move=(0.0, 6.0, 0.0))
    both = [*one, *two]
    target = next(x for x in one if name(x) == "SG")
    x, y, z = (float(target[k : k + 8]) for k in (30, 38, 46))
    both = [
        f"{a[:30]}{x:8.3f}{y + 2.0:8.3f}{z:8.3f}{a[54:]}" if a[21] == "B" and name(a) == "SG" else a
        for a in both
    ]
    loaded = trajectory(tmp_path, [a for a in both if a[21] == "A"], [a for a in both if a[21] == "B"])
    top = CGTopology.from_mdtraj(loaded)
    assert top.sequence == "ACK:ACK"
    assert top.bridge_index.tolist() == [[1, 4]]
    loaded.topology._bonds = [b for b in loaded.topology.bonds if not b[0].name == b[1].name == "SG"]
    loaded.xyz[0, [a.index for a in loaded.topology.atoms if a.residue.chain.index == 1]] += (0.0, 4.0, 0.0)
    loaded.unitcell_vectors = (np.eye(3) * 4.0)[None]
    assert CGTopology.from_mdtraj(loaded).bridge_index.tolist() == [[1, 4]]


def test_neighbours_may_be_bridged(tmp_path: Path) -> None:
    assert CGTopology.from_sequence("ACCA", bridges=[(1, 2)]) == CGTopology.from_sequence("ACCA")
    top = CGTopology.from_sequence("ACCA", "CACB", bridges=[(1, 2)])
    assert top.bridge_index.tolist() == [[3, 5]]
    assert CGTopology.from_mdtraj(top.to_mdtraj(), "CACB") == top


def test_gaps_and_bridges_count_the_same_residues(tmp_path: Path) -> None:
    with pytest.warns(CGALWarning, match="broken between"):
        top = CGTopology.from_file(write(tmp_path / "x.pdb", without(BRIDGED, 5)))
    assert top.sequence == "ACGK:WACDC"
    assert top.bridge_index.tolist() == [[1, 6]]


@pytest.mark.parametrize("mapping", ["CA", "CACB", "5bead"])
def test_round_trips_with_bridges(tmp_path: Path, mapping: str) -> None:
    top = CGTopology.from_sequence(SEQUENCE, mapping, bridges=[(7, 1), (4, 9)])
    top.save(tmp_path / "x.json")
    assert CGTopology.load(tmp_path / "x.json") == top
    assert CGTopology.from_mdtraj(top.to_mdtraj(), mapping) == top
    assert len(list(top.to_mdtraj().bonds)) == len(top.bond_index) + 2
    plain = CGTopology.from_sequence(SEQUENCE, mapping)
    assert top != plain
    assert top.hash != plain.hash
    assert not top.bridge_index.flags.writeable
    assert repr(top).endswith("beads, bridges=[(1, 7), (4, 9)])")


def test_a_topology_without_bridges_has_the_hash_of_earlier_releases() -> None:
    top = CGTopology.from_sequence("YYDPETGTWY")
    assert top.hash == "8adba1ff3c9e8b7a2b83a6e02c51cb7734240f0aa5066c9828182b457baf5920"
    assert "bridge_index" not in top.to_dict()
    assert CGTopology.from_dict(top.to_dict()).bridge_index.shape == (0, 2)


@pytest.mark.parametrize(
    ("bridges", "message"),
    [
        ([(0, 1)], "residue 0 is ALA, not a cysteine; cysteines are .1, 4, 7, 9."),
        ([(1, 10)], "there is no residue 10; residues are 0 to 9"),
        ([(1, 1)], "pair of different"),
        ([(1, 4, 7)], "pair of different"),
        ([(1, 4), (4, 7)], "CYS4 has more than one disulfide bridge"),
        ([(1, 2.5)], "pair of different"),
    ],
)
def test_bridges_that_cannot_be_are_refused(bridges: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        CGTopology.from_sequence(SEQUENCE, bridges=bridges)


def test_a_cysteine_with_two_bonds_is_refused(tmp_path: Path) -> None:
    top = trajectory(tmp_path, peptide(SEQUENCE)).topology
    sulfurs = [a for a in top.atoms if a.name == "SG"]
    for a, b in pairwise(sulfurs[:3]):
        top.add_bond(a, b)
    with pytest.raises(MappingError, match="A:CYS5 has more than one disulfide bridge"):
        CGTopology.from_mdtraj(top)


def test_mdtraj_is_given_bridges_as_bonds() -> None:
    top = CGTopology.from_sequence(SEQUENCE, bridges=[(1, 7)]).to_mdtraj()
    assert isinstance(top, mdtraj.Topology)
    assert {(a.index, b.index) for a, b in top.bonds} >= {(1, 7)}
