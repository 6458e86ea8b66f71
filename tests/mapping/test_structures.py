"""Chains of real structures: gaps and chain ends are not bonded, atoms are found wherever they stand."""

from __future__ import annotations

import warnings
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.errors import CGALWarning, DataError, MappingError
from cgal_plugin.mapping import CGMapping, CGTopology
from tests.mapping.peptides import atom, change, name, number, peptide, trajectory, without, write, write_cif

GAP = "the chain is broken between"


def bonds_of(top: CGTopology) -> list[list[int]]:
    return top.bond_index.tolist()


@pytest.mark.parametrize("suffix", ["pdb", "cif", "gro"])
def test_a_missing_residue_is_a_gap_in_files_and_trajectories(tmp_path: Path, suffix: str) -> None:
    gapped = trajectory(tmp_path, without(peptide("AKAGAK"), 4))
    path = tmp_path / f"gap.{suffix}"
    gapped.save(str(path))
    with pytest.warns(CGALWarning, match=rf"{GAP} (A:)?ALA\d and (A:)?ALA\d \(C–N \d+\.\d Å\)"):
        top = CGTopology.from_file(path)
    assert top.sequence == "AKA:AK"
    assert bonds_of(top) == [[0, 1], [1, 2], [3, 4]]
    assert top.chain_index.tolist() == [0, 0, 0, 1, 1]
    assert top.residue_index.tolist() == [0, 1, 2, 3, 4]
    with pytest.warns(CGALWarning, match=GAP):
        assert CGMapping.from_topology(gapped).topology == top
    with (
        pytest.warns(CGALWarning, match=GAP),
        pytest.raises(DataError, match=r"is for AKA:AK, not AKAAK\. The residues are the same, the chains"),
    ):
        load_trajectories(path, CGTopology.from_sequence("AKAAK"), top=None)


def test_a_gap_without_coordinates_shows_in_the_residue_numbers(tmp_path: Path) -> None:
    gapped = trajectory(tmp_path, without(peptide("AKAGAK"), 4))
    for source, build in ((gapped.topology, CGTopology.from_mdtraj), (gapped.topology.to_openmm(), None)):
        build = build or CGTopology.from_openmm
        with pytest.warns(CGALWarning, match=r"residue numbers 3 and 5"):
            assert build(source).sequence == "AKA:AK"
        # positions decide where they are given
        with pytest.warns(CGALWarning, match="C–N"):
            assert build(source, positions=gapped.xyz[0] * 10).sequence == "AKA:AK"


def test_numbers_may_jump_where_the_coordinates_show_a_bond(tmp_path: Path) -> None:
    lines = peptide("AKAGAK")
    first, second = without(lines, 4, 5, 6), without(lines, 1, 2, 3)
    jump = first + change(second, shift=96)
    top = CGTopology.from_file(write(tmp_path / "jump.pdb", jump))
    assert top.sequence == "AKAGAK"
    assert len(top.bond_index) == 5
    backwards = change(first, shift=200) + second
    assert len(CGTopology.from_file(write(tmp_path / "back.pdb", backwards)).bond_index) == 5


def test_an_inserted_residue_is_bonded(tmp_path: Path) -> None:
    lines = peptide("AKAGAK")
    # 3 ALA, 3A GLY, 4 ALA: as in antibodies
    inserted = [
        x[:22] + f"{3:>4d}A" + x[27:]
        if number(x) == 4
        else x[:22] + f"{number(x) - 1:>4d} " + x[27:]
        if number(x) > 4
        else x
        for x in lines
    ]
    top = CGTopology.from_file(write(tmp_path / "insertion.pdb", inserted))
    assert top.sequence == "AKAGAK"
    assert len(top.bond_index) == 5


@pytest.mark.parametrize("shift", [0, 4], ids=["numbered from 1", "numbered on"])
def test_two_chains_of_a_gro_file_are_two_chains(tmp_path: Path, shift: int) -> None:
    one = peptide("AKGW")
    two = change(one, move=(0.0, 12.0, 0.0), chain="B", shift=shift)
    path = tmp_path / "two.gro"
    trajectory(tmp_path, one, two).save(str(path))
    assert len(list(mdtraj.load(str(path)).topology.chains)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if shift else "error")
        top = CGTopology.from_file(path)
        mapping = CGMapping.from_topology(mdtraj.load(str(path)))
    assert top.sequence == "AKGW:AKGW"
    assert len(top.bond_index) == 6
    assert mapping.topology == top


def test_chain_ends_are_found_without_coordinates() -> None:
    def chain(first: list[str], last: list[str], numbers: list[int]) -> mdtraj.Topology:
        top = mdtraj.Topology()
        c = top.add_chain()
        for k, n in enumerate(numbers):
            r = top.add_residue("ALA", c, resSeq=n)
            for a in ["N", *(first if k == 2 else []), "CA", "C", "O", *(last if k == 1 else [])]:
                top.add_atom(a, mdtraj.element.carbon, r)
        return top

    whole = [1, 2, 3, 4]
    assert CGTopology.from_mdtraj(chain([], [], whole)).sequence == "AAAA"
    for ends in (
        ([], ["OXT"]),
        (["H1", "H2", "H3"], []),
        (["H2", "H3"], []),
        ([], ["OT1", "OT2"]),
        (["HT1", "HT2"], []),
    ):
        assert CGTopology.from_mdtraj(chain(*ends, whole)).sequence == "AA:AA"
    assert CGTopology.from_mdtraj(chain([], [], [1, 2, 1, 2])).sequence == "AA:AA"
    with pytest.warns(CGALWarning, match="residue numbers 2 and 5"):
        assert CGTopology.from_mdtraj(chain([], [], [1, 2, 5, 6])).sequence == "AA:AA"


def test_caps_between_two_chains_end_them(tmp_path: Path) -> None:
    top = mdtraj.Topology()
    c = top.add_chain()
    for k, residue in enumerate(("ACE", "ALA", "NME", "ACE", "GLY", "NME")):
        r = top.add_residue(residue, c, resSeq=k + 1)
        for a in {"ACE": ["CH3", "C", "O"], "NME": ["N", "C"]}.get(residue, ["N", "CA", "C", "O"]):
            top.add_atom(a, mdtraj.element.carbon, r)
    assert CGTopology.from_mdtraj(top).sequence == "A:G"
    assert len(CGTopology.from_mdtraj(top).bond_index) == 0


def test_a_molecule_across_the_periodic_box_is_whole(tmp_path: Path) -> None:
    whole = trajectory(tmp_path, peptide("AKAGAKW"))
    xyz = whole.xyz - whole.xyz.min(axis=1, keepdims=True)
    for vectors in (np.diag([1.3, 1.2, 1.1]), np.array([[1.3, 0, 0], [0.4, 1.2, 0], [-0.3, 0.5, 1.1]])):
        cell = vectors.astype(np.float32)[None]
        fraction = xyz @ np.linalg.inv(cell[0])
        wrapped = mdtraj.Trajectory((fraction % 1.0) @ cell[0], whole.topology)
        wrapped.unitcell_vectors = cell
        assert (
            np.linalg.norm(np.diff(wrapped.xyz[0, whole.topology.select("name CA")], axis=0), axis=1).max()
            > 0.6
        )
        path = tmp_path / "wrapped.pdb"
        wrapped.save(str(path))
        assert CGTopology.from_file(path).sequence == "AKAGAKW"
        assert CGMapping.from_topology(wrapped).topology.sequence == "AKAGAKW"
        wrapped.save(str(tmp_path / "wrapped.gro"))
        assert CGTopology.from_file(tmp_path / "wrapped.gro").sequence == "AKAGAKW"


def test_a_placeholder_cell_hides_no_gap(tmp_path: Path) -> None:
    cell = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1"
    path = write(tmp_path / "nmr.pdb", without(peptide("AKAGAK"), 4), head=[cell])
    with pytest.warns(CGALWarning, match=GAP):
        assert CGTopology.from_file(path).sequence == "AKA:AK"


def test_a_ca_file_with_a_gap_and_two_chains(tmp_path: Path) -> None:
    ca = [x for x in peptide("AKAGAKWW") if name(x) == "CA"]
    with pytest.warns(CGALWarning, match=r"ALA3 and A:ALA5 \(CA–CA \d\.\d Å\)"):
        assert CGTopology.from_file(write(tmp_path / "ca.pdb", without(ca, 4))).sequence == "AKA:AKWW"
    # two chains of one id, the second starts 3.9 Å from the end of the first
    last = np.array([float(ca[-1][k : k + 8]) for k in (30, 38, 46)])
    first = np.array([float(ca[0][k : k + 8]) for k in (30, 38, 46)])
    second = change(ca, move=last - first + np.array([0.0, 3.9, 0.0]))
    assert CGTopology.from_file(write(tmp_path / "dimer.pdb", ca + second)).sequence == "AKAGAKWW:AKAGAKWW"


def test_frames_decide_together(tmp_path: Path) -> None:
    """One distorted frame does not break a chain, also if it is the first one."""
    whole = trajectory(tmp_path, peptide("AKAGAK"))
    xyz = np.repeat(whole.xyz, 5, axis=0)
    xyz[0, 20:] += 3.0
    frames = mdtraj.Trajectory(xyz, whole.topology)
    frames.save(str(tmp_path / "five.xtc"))
    assert CGMapping.from_topology(frames).topology.sequence == "AKAGAK"
    (loaded,) = load_trajectories(tmp_path / "five.xtc", top=tmp_path / "peptide.pdb")
    assert loaded.shape == (5, 6, 3)


def test_positions_that_are_none_are_not_used(tmp_path: Path) -> None:
    """A topology with all atoms at the origin is read by its residue numbers."""
    whole = trajectory(tmp_path, peptide("AKAGAK"))
    empty = mdtraj.Trajectory(np.zeros_like(whole.xyz), whole.topology)
    assert CGMapping.from_topology(empty).topology.sequence == "AKAGAK"
    with pytest.raises(MappingError, match=r"positions have shape \(3, 3\)"):
        CGTopology.from_mdtraj(whole.topology, positions=np.zeros((3, 3)))


def test_a_ring_is_named(tmp_path: Path) -> None:
    lines = peptide("AKAGAK")
    lines = [x for x in lines if not (number(x) == 1 and name(x) == "N")]
    c = next(x for x in lines if number(x) == 6 and name(x) == "C")
    x, y, z = (float(c[k : k + 8]) for k in (30, 38, 46))
    ring = [atom(1, "N", "ALA", 1, (x + 1.33, y, z)), *lines]
    with pytest.warns(CGALWarning, match="the ring is open"):
        assert CGTopology.from_file(write(tmp_path / "ring.pdb", ring)).sequence == "AKAGAK"


@pytest.mark.parametrize("ter", [False, True])
@pytest.mark.parametrize("suffix", ["pdb", "gro", "cif"])
def test_atoms_at_the_end_of_the_file_belong_to_their_residue(tmp_path: Path, suffix: str, ter: bool) -> None:
    lines = peptide("AKWY")
    # as some programs list hydrogens: here the side chains come last
    backbone = [x for x in lines if name(x) in ("N", "CA", "C", "O")]
    rest = [x for x in lines if x not in backbone]
    loaded = trajectory(tmp_path, backbone, rest) if ter else trajectory(tmp_path, backbone + rest)
    assert loaded.topology.n_residues == 8
    path = tmp_path / f"end.{suffix}"
    if suffix == "cif":  # mdtraj would number the parts anew
        write_cif(path, backbone + rest)
    else:
        loaded.save(str(path))
    plain = trajectory(tmp_path, lines)
    for mapping in ("CA", "CACB"):
        expected = CGMapping.from_topology(plain, mapping)
        found = CGMapping.from_topology(loaded, mapping)
        assert found.topology == expected.topology == CGTopology.from_file(path, mapping)
        np.testing.assert_allclose(found.map_positions(loaded), expected.map_positions(plain), atol=1e-4)
        assert (
            CGMapping.from_topology(loaded.topology.to_openmm(), mapping).matrix.tolist()
            == found.matrix.tolist()
        )


def test_parts_of_a_residue_find_the_right_copy(tmp_path: Path) -> None:
    """Two copies of a molecule without chain ids, each with its side chains after the other atoms."""
    lines = peptide("AKWY")
    backbone = [x for x in lines if name(x) in ("N", "CA", "C", "O")]
    rest = [x for x in lines if x not in backbone]
    far = (0.0, 40.0, 0.0)
    mixed = backbone + change(backbone, move=far) + change(rest, move=far) + rest
    path = tmp_path / "copies.gro"
    trajectory(tmp_path, mixed).save(str(path))
    top = CGTopology.from_file(path, "CACB")
    assert top.sequence == "AKWY:AKWY"
    (beads,) = load_trajectories(path, mapping="CACB")
    lengths = np.linalg.norm(beads[0][top.bond_index[:, 0]] - beads[0][top.bond_index[:, 1]], axis=1)
    assert lengths.max() < 4.0
