"""The CG topology: beads, types and tables follow from the sequence and the map."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.residues import ONE_TO_THREE
from cgal_plugin.mapping.spec import resolve_spec

SEQUENCES = st.text(alphabet="".join(ONE_TO_THREE), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(sequence=SEQUENCES)
def test_ca_chain_has_the_tables_of_a_chain(sequence: str) -> None:
    top = CGTopology.from_sequence(sequence)
    n = len(sequence)
    assert top.sequence == sequence
    assert top.bond_index.tolist() == [[i, i + 1] for i in range(n - 1)]
    assert top.angle_index.tolist() == [[i, i + 1, i + 2] for i in range(n - 2)]
    assert top.dihedral_index.tolist() == [[i, i + 1, i + 2, i + 3] for i in range(n - 3)]
    assert len(top.exclusions(2)) == max(n - 1, 0) + max(n - 2, 0)
    assert ((top.types >= 1) & (top.types <= 20)).all()
    np.testing.assert_allclose(top.masses, 12.011)


@settings(max_examples=20, deadline=None)
@given(sequence=SEQUENCES, mapping=st.sampled_from(["CA", "CACB", "5bead"]))
def test_round_trips(sequence: str, mapping: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    top = CGTopology.from_sequence(sequence, mapping)
    assert CGTopology.from_dict(top.to_dict()) == top
    assert CGTopology.from_mdtraj(top.to_mdtraj(), mapping) == top
    path = tmp_path_factory.mktemp("top") / "x.json"
    top.save(path)
    assert CGTopology.from_file(path) == top


def test_cacb_leaves_glycine_without_cb_and_angles_meet_at_ca() -> None:
    top = CGTopology.from_sequence("AGA", "CACB")
    assert top.bead_names == ("CA", "CB", "CA", "CA", "CB")
    assert top.bond_index.tolist() == [[0, 1], [0, 2], [2, 3], [3, 4]]
    assert top.angle_index.tolist() == [[0, 2, 3], [1, 0, 2], [2, 3, 4]]
    assert top.dihedral_index.tolist() == [[0, 2, 3, 4], [1, 0, 2, 3]]


def test_user_map_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(
        "name: ca-ring\n"
        "residues:\n"
        "  '*': {CA: [CA]}\n"
        "  TYR: {CA: [CA], SC: {atoms: [CG, OH], weights: mass}, SX: {atoms: [CB], weights: [2]}}\n"
        "bonds:\n  TYR: [[CA, SX], [SX, SC]]\n"
    )
    top = CGTopology.from_sequence("AYA", path)
    assert top.type_names == ("CA_ALA", "CA_TYR", "SC_TYR", "SX_TYR", "CA_ALA")
    assert top.types.tolist()[2:4] == [41, 42]
    assert top.bond_index.tolist() == [[0, 1], [1, 3], [1, 4], [2, 3]]
    assert top.masses[2] == pytest.approx(12.011 + 15.999)


@pytest.mark.parametrize(
    ("sequence", "mapping", "message"),
    [
        ("AXB", "CA", "'X' at position 2.*'B' at position 3"),
        ("", "CA", "empty"),
        ("AAA", "CAXX", "neither built in"),
        ("AAA", {"residues": {"ALA": {"CB": ["CB"]}}}, "no backbone bead 'CA'"),
        ("AAA", {"residues": {"*": {"CA": []}}}, "no atoms"),
        ("AAA", {"residues": {"*": {"CA": ["CA"]}}, "beads": 3}, "unknown keys"),
        ("AAA", {"residues": {"*": {"CA": {"atoms": ["CA"], "weights": [-1]}}}}, "positive weight"),
        ("AAA", {"residues": {"GLY": {"CA": ["CA"]}}}, "no beads for residue ALA"),
        (
            "AAA",
            {"residues": {"*": {"CA": ["CA"]}}, "bonds": {"ALA": [["CA", "CB"]]}},
            "that it does not have",
        ),
    ],
)
def test_bad_input_is_named(sequence: str, mapping: object, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        CGTopology.from_sequence(sequence, mapping)


def test_unknown_residue_and_missing_atom_are_named() -> None:
    top = mdtraj.Topology()
    chain = top.add_chain()
    for name, atoms in (("ALA", ["N", "CA"]), ("GLY", ["N"])):
        residue = top.add_residue(name, chain)
        for atom in atoms:
            top.add_atom(atom, mdtraj.element.carbon, residue)
    with pytest.raises(MappingError, match=r"GLY\d lacks CA \(bead CA\)"):
        CGTopology.from_mdtraj(top)
    odd = top.add_residue("XYZ", chain)
    top.add_atom("CA", mdtraj.element.carbon, odd)
    with pytest.raises(MappingError, match="residue 'XYZ' is not known"):
        CGTopology.from_mdtraj(top)


# mdtraj leaves the file of a PDB that it cannot read open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="does not exist"):
        CGTopology.from_file(tmp_path / "x.pdb")
    bad = tmp_path / "bad.pdb"
    bad.write_text("this is no structure\n")
    with pytest.raises(MappingError, match=r"cannot be read|no residue"):
        CGTopology.from_file(bad)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(MappingError, match="not a saved CG topology"):
        CGTopology.from_file(tmp_path / "x.json")


def test_types_do_not_depend_on_the_sequence() -> None:
    ids = resolve_spec("CACB").embedding.ids
    assert ids["CA_ALA"] == 1
    assert ids["CA_VAL"] == 20
    assert ids["CB_ALA"] == 21
    assert CGTopology.from_sequence("W").types[0] == CGTopology.from_sequence("AAW").types[2]


def test_variants_map_to_the_standard_residue() -> None:
    assert resolve_spec("CA").beads_of("HIE") == resolve_spec("CA").beads_of("HIS")


def test_topology_is_immutable() -> None:
    top = CGTopology.from_sequence("AAA")
    with pytest.raises(ValueError, match="read-only"):
        top.types[0] = 5
