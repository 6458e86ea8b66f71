"""Structures from sequences and PDB files: complete and deterministic; errors name the defect."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.errors import MappingError, OracleError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.geometry import dihedral_angles
from cgal_plugin.oracle import AllAtomModel
from cgal_plugin.oracle.peptide import build_peptide, is_sequence
from cgal_plugin.oracle.sampling import stretched_positions
from cgal_plugin.oracle.screen import screen
from cgal_plugin.oracle.structure import read_structure


@pytest.fixture(scope="module")
def gyg() -> AllAtomModel:
    return AllAtomModel.from_sequence("GYG")


@pytest.fixture(scope="module")
def gyg_pdb(gyg: AllAtomModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pdb") / "gyg.pdb"
    mdtraj.Trajectory(gyg.positions[None] / 10.0, gyg.mdtraj_topology).save_pdb(str(path))
    return path


def test_zwitterion_with_all_hydrogens_and_no_trace_on_python_random() -> None:
    random.seed(11)
    expected = random.Random(11).random()
    built = build_peptide("GYG")
    topology, positions = built.topology, built.positions
    assert random.random() == expected
    names = [{a.name for a in r.atoms()} for r in topology.residues()]
    assert {"H", "H2", "H3"} <= names[0]
    assert "OXT" in names[-1]
    assert "HH" in names[1]
    assert positions.shape == (topology.getNumAtoms(), 3)
    again = build_peptide(" gyg\n").positions
    np.testing.assert_array_equal(positions, again)


def test_chignolin_is_a_hairpin_of_166_atoms() -> None:
    model = AllAtomModel.from_sequence("YYDPETGTWY")
    assert model.n_solute == 166
    assert model.cg_topology == CGTopology.from_sequence("YYDPETGTWY")
    ca = model.mapping.map_positions(model.positions)
    assert np.linalg.norm(ca[0] - ca[-1]) < 7.0  # termini side by side
    assert np.linalg.norm(np.diff(ca, axis=0), axis=1) == pytest.approx(3.8, abs=0.15)
    assert screen(model.positions, model.mdtraj_topology)


def test_a_helix_is_stretched() -> None:
    model = AllAtomModel.from_sequence("GAPYAG", phi=[-60.0] * 5, psi=[-45.0] * 5)
    stretched = stretched_positions(model)
    ends = [x[-1] - x[0] for x in map(model.mapping.map_positions, (model.positions, stretched))]
    assert np.linalg.norm(ends[0]) < 11.0
    assert np.linalg.norm(ends[1]) > 14.0
    assert screen(stretched, model.mdtraj_topology)


def test_angles_are_those_asked_for() -> None:
    built = build_peptide("AAAA", phi=[-60, -70, -80], psi=[-40, -50, 120])
    topology, positions = built.topology, built.positions
    atoms = [{a.name: a.index for a in r.atoms()} for r in topology.residues()]
    phi = dihedral_angles(positions[[atoms[0]["C"], atoms[1]["N"], atoms[1]["CA"], atoms[1]["C"]]])
    psi = dihedral_angles(positions[[atoms[2]["N"], atoms[2]["CA"], atoms[2]["C"], atoms[3]["N"]]])
    assert np.degrees([phi, psi]) == pytest.approx([-60, 120], abs=0.5)


def test_pdb_gives_the_same_molecule(gyg: AllAtomModel, gyg_pdb: Path) -> None:
    model = AllAtomModel.create(gyg_pdb)
    assert model.cg_topology == gyg.cg_topology
    assert [str(a) for a in model.mdtraj_topology.atoms] == [str(a) for a in gyg.mdtraj_topology.atoms]
    heavy = [a.index for a in gyg.mdtraj_topology.atoms if a.element.symbol != "H"]
    # the second minimisation hardly moves the heavy atoms
    assert np.abs(model.positions[heavy] - gyg.positions[heavy]).max() < 0.5


def test_pdb_without_hydrogens_and_oxt_is_completed(gyg: AllAtomModel, gyg_pdb: Path, tmp_path: Path) -> None:
    lines = [
        line
        for line in gyg_pdb.read_text().splitlines()
        if not (line.startswith("ATOM") and (line[12:16].strip()[0] == "H" or line[12:16].strip() == "OXT"))
        and not line.startswith("CONECT")
    ]
    water = "HETATM  999  O   HOH B  99      20.000  20.000  20.000  1.00  0.00           O"
    path = tmp_path / "bare.pdb"
    path.write_text("\n".join([*lines[:-1], water, "END"]) + "\n")
    topology = read_structure(path).topology
    assert sorted(a.name for a in topology.atoms()) == sorted(a.name for a in gyg.mdtraj_topology.atoms)


def without(text: str, keep: str | None = None, drop: str | None = None) -> str:
    """The lines of a PDB text without one atom name, or with this one only."""
    lines = [(line, line[12:16].strip()) for line in text.splitlines()]
    return "\n".join(line for line, atom in lines if (atom == keep if keep else atom != drop))


def torn(text: str) -> str:
    """A PDB text with the third residue moved by 30 Å."""
    return "\n".join(
        line[:30] + f"{float(line[30:38]) + 30.0:8.3f}" + line[38:]
        if line.startswith("ATOM") and int(line[22:26]) == 3
        else line
        for line in text.splitlines()
        if not line.startswith("CONECT")
    )


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda text: "", "no protein"),
        (lambda text: without(text, drop="CZ"), r"TYR2 lacks CZ"),
        (lambda text: without(text, keep="CA"), r"GLY1 lacks"),
        (lambda text: text.replace("TYR", "MSE"), "MSE2"),
        (torn, r"broken.*TYR2 – GLY3"),
    ],
    ids=["empty", "one atom missing", "CA only", "non-standard residue", "broken chain"],
)
def test_wrong_pdb_files_are_named(
    gyg_pdb: Path, tmp_path: Path, damage: Callable[[str], str], match: str
) -> None:
    path = tmp_path / "x.pdb"
    path.write_text(damage(gyg_pdb.read_text()))
    with pytest.raises(OracleError, match=match):
        read_structure(path)


def test_files_that_are_not_pdb(tmp_path: Path) -> None:
    path = tmp_path / "x.pdb"
    with pytest.raises(OracleError, match="is a folder"):
        read_structure(tmp_path)
    with pytest.raises(OracleError, match="does not exist"):
        read_structure(path)
    path.write_bytes(b"\xff\xfe\x00\x81" * 20)
    with pytest.raises(OracleError, match="not a text file"):
        read_structure(path)


def test_wrong_sequences_are_named() -> None:
    with pytest.raises(MappingError, match="'B' at position 2"):
        build_peptide("ABA")
    with pytest.raises(OracleError, match="two or more"):
        build_peptide("A")
    with pytest.raises(OracleError, match="3 residues need 2 phi"):
        build_peptide("AAA", phi=[1.0], psi=[1.0])
    with pytest.raises(OracleError, match="both phi and psi"):
        build_peptide("AAA", phi=[1.0, 2.0])
    assert is_sequence("YYDPETGTWY")
    assert not is_sequence("folder/protein.pdb")
    with pytest.raises(MappingError, match="neither"):
        is_sequence("GY-G")
