"""The 5bead map: N, CA, CB, C, O of each residue, with the bonds and dihedrals of mlcg's five-bead maps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping import CGMapping, CGTopology, resolve_spec
from cgal_plugin.mapping.embedding import EMBEDDINGS
from cgal_plugin.mapping.geometry import dihedral_angles
from cgal_plugin.mapping.residues import ONE_TO_THREE
from cgal_plugin.oracle.system import AllAtomModel

SEQUENCES = st.text(alphabet="".join(ONE_TO_THREE), min_size=1, max_size=12)
# engrailed homeodomain: 54 residues, one glycine
HOMEODOMAIN = "RPRTAFSSEQLARLKREFNENRYLTERRRQQLSSELGLNEAQIKIWFQNKRAKI"


def test_beads_bonds_and_dihedrals_worked_out_by_hand() -> None:
    top = CGTopology.from_sequence("AGP", "5bead")
    # 0 N, 1 CA, 2 CB, 3 C, 4 O of ALA; 5 N, 6 CA, 7 C, 8 O of GLY; 9 N, 10 CA, 11 CB, 12 C, 13 O of PRO
    assert top.bead_names == ("N", "CA", "CB", "C", "O", "N", "CA", "C", "O", "N", "CA", "CB", "C", "O")
    assert top.bond_index.tolist() == [
        [0, 1], [1, 2], [1, 3], [3, 4], [3, 5], [5, 6], [6, 7], [7, 8], [7, 9], [9, 10], [10, 11], [10, 12],
        [12, 13],
    ]  # fmt: skip
    kinds = [(spec.name, beads) for beads, spec in top.named_dihedrals]
    assert sorted(kinds) == [
        ("gamma_1", (0, 2, 3, 1)), ("gamma_1", (9, 11, 12, 10)),
        ("gamma_2", (1, 4, 5, 3)), ("gamma_2", (6, 8, 9, 7)),
        ("omega", (1, 3, 5, 6)), ("omega", (6, 7, 9, 10)),
        ("phi", (3, 5, 6, 7)), ("phi", (7, 9, 10, 12)),
        ("psi", (0, 1, 3, 5)), ("psi", (5, 6, 7, 9)),
    ]  # fmt: skip
    assert top.dihedral_index.tolist() == [list(beads) for beads, _ in top.named_dihedrals]
    np.testing.assert_allclose(top.masses[:5], [14.007, 12.011, 12.011, 12.011, 15.999])
    assert top.type_names[:5] == ("N_ALL", "CA_ALA", "CB_ALA", "C_ALL", "O_ALL")
    # CA and CB as in the maps CA and CACB
    assert top.types[:5].tolist() == [42, 1, 21, 41, 43]
    # four in alanine and proline, two in glycine, three at each peptide bond
    assert len(top.angle_index) == 4 + 2 + 4 + 3 + 3


@settings(max_examples=30, deadline=None)
@given(sequence=SEQUENCES)
def test_numbers_of_any_sequence(sequence: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    top = CGTopology.from_sequence(sequence, "5bead")
    n, gly = len(sequence), sequence.count("G")
    assert top.n_beads == 5 * n - gly
    assert len(top.bond_index) == 4 * n - gly + n - 1
    # of a residue 5 (glycine 2), of a peptide bond 3
    assert len(top.angle_index) == 4 * n - 2 * gly + 3 * (n - 1)
    assert len(top.dihedral_index) == 4 * (n - 1) + n - gly
    assert (top.dihedral_index[:, 0] < top.dihedral_index[:, 3]).all()
    assert top.sequence == sequence
    assert CGTopology.from_dict(top.to_dict()) == top
    again = CGTopology.from_mdtraj(top.to_mdtraj(), "5bead")
    assert again == top
    assert (again.dihedral_index == top.dihedral_index).all()
    path = tmp_path_factory.mktemp("top") / "x.json"
    top.save(path)
    assert (CGTopology.load(path).dihedral_index == top.dihedral_index).all()


def test_54_residues_give_269_beads() -> None:
    assert len(HOMEODOMAIN) == 54
    assert CGTopology.from_sequence(HOMEODOMAIN, "5bead").n_beads == 269


def test_a_gap_and_a_new_chain_end_the_dihedrals() -> None:
    whole = CGTopology.from_sequence("AAAA", "5bead")
    table = whole.to_mdtraj()
    chains = mdtraj.Topology()
    for part in (slice(0, 2), slice(2, 4)):
        chain = chains.add_chain()
        for residue in list(table.residues)[part]:
            new = chains.add_residue(residue.name, chain, resSeq=residue.resSeq)
            for atom in residue.atoms:
                chains.add_atom(atom.name, atom.element, new)
    top = CGTopology.from_mdtraj(chains, "5bead")
    assert set(top.chain_index.tolist()) == {0, 1}
    apart = top.chain_index[top.dihedral_index]
    assert (apart == apart[:, :1]).all()
    assert len(top.dihedral_index) == 2 * len(CGTopology.from_sequence("AA", "5bead").dihedral_index)


def test_bridges_end_at_cb_and_are_no_path() -> None:
    top = CGTopology.from_sequence("CAAC", "5bead", bridges=[(0, 3)])
    plain = CGTopology.from_sequence("CAAC", "5bead")
    assert [top.type_names[b] for b in top.bridge_index[0]] == ["CB_CYS", "CB_CYS"]
    assert (top.dihedral_index == plain.dihedral_index).all()
    neighbours = CGTopology.from_sequence("CC", "5bead", bridges=[(0, 1)])
    assert len(neighbours.bridge_index) == 1


@pytest.fixture(scope="module")
def peptide() -> AllAtomModel:
    return AllAtomModel.from_sequence("AGPTI", "5bead")


def test_all_atom_structures_are_mapped_by_name(peptide: AllAtomModel, tmp_path: Path) -> None:
    top = peptide.cg_topology
    assert top == CGTopology.from_sequence("AGPTI", "5bead")
    structure = peptide.mdtraj_topology
    xyz = np.asarray(peptide.positions)
    beads = peptide.mapping.map_positions(xyz)
    index = {(a.residue.index, a.name): a.index for a in structure.atoms}
    places = zip(top.residue_index.tolist(), top.bead_names, strict=True)
    np.testing.assert_allclose(beads, xyz[[index[p] for p in places]], atol=1e-12)
    mdtraj.Trajectory(xyz[None] / 10.0, structure).save_pdb(str(tmp_path / "x.pdb"))
    assert CGTopology.from_file(tmp_path / "x.pdb", "5bead") == top
    assert CGTopology.from_openmm(structure.to_openmm(), "5bead") == top
    written = mdtraj.Trajectory(beads[None] / 10.0, top.to_mdtraj())
    written.save_pdb(str(tmp_path / "beads.pdb"))
    assert CGTopology.from_file(tmp_path / "beads.pdb", "5bead") == top
    assert [a.element.symbol for a in mdtraj.load(str(tmp_path / "beads.pdb")).topology.atoms][:5] == [
        *"NCCCO"
    ]


def test_the_carbonyl_of_a_chain_end_has_other_names_in_charmm(peptide: AllAtomModel) -> None:
    structure = peptide.mdtraj_topology.copy()
    last = list(structure.residues)[-1]
    for atom in last.atoms:
        atom.name = {"O": "OT1", "OXT": "OT2"}.get(atom.name, atom.name)
    mapped = CGMapping.from_topology(structure, "5bead")
    np.testing.assert_array_equal(mapped.matrix, peptide.mapping.matrix)


def test_bond_lengths_and_chirality_of_a_real_structure(peptide: AllAtomModel) -> None:
    top = peptide.cg_topology
    beads = np.asarray(peptide.mapping.map_positions(peptide.positions))
    length = {}
    for i, j in top.bond_index:
        length.setdefault(frozenset((top.bead_names[i], top.bead_names[j])), []).append(
            np.linalg.norm(beads[i] - beads[j])
        )
    for pair, expected in (("N CA", 1.46), ("CA CB", 1.53), ("CA C", 1.53), ("C O", 1.23), ("C N", 1.33)):
        assert np.mean(length[frozenset(pair.split())]) == pytest.approx(expected, abs=0.04)
    angle = np.degrees(dihedral_angles(beads[top.dihedral_index]))
    mirror = np.degrees(dihedral_angles((beads * [1, 1, -1])[top.dihedral_index]))
    kinds = np.array([spec.name for _, spec in top.named_dihedrals])
    # an L-amino acid has γ1 of one sign, its mirror image of the other
    assert ((angle[kinds == "gamma_1"] > 25) & (angle[kinds == "gamma_1"] < 45)).all()
    np.testing.assert_allclose(mirror[kinds == "gamma_1"], -angle[kinds == "gamma_1"], atol=1e-6)
    assert (np.abs(angle[kinds == "omega"]) > 150).all()
    assert (np.abs(angle[kinds == "gamma_2"]) < 10).all()


def test_missing_backbone_atoms_are_named(peptide: AllAtomModel) -> None:
    structure = peptide.mdtraj_topology
    kept = [a.index for a in structure.atoms if not (a.residue.index == 1 and a.name == "O")]
    with pytest.raises(MappingError, match=r"GLY2 lacks O \(bead O\)"):
        CGTopology.from_mdtraj(structure.subset(kept), "5bead")
    with pytest.raises(MappingError, match=r"CA, CACB, 5bead"):
        CGTopology.from_sequence("AG", "4bead")
    for name in ("5bead", "5BEAD"):
        assert resolve_spec(name).name == "5bead"


def test_exclusions_of_mlcg_tk_are_five_nodes_apart() -> None:
    """mlcg-tk keeps pairs whose shortest path has six beads (min_pair) or more."""
    top = CGTopology.from_sequence("AGA", "5bead")
    steps = np.full((top.n_beads, top.n_beads), 99)
    for i, j in top.bond_index:
        steps[i, j] = steps[j, i] = 1
    np.fill_diagonal(steps, 0)
    for k in range(top.n_beads):
        steps = np.minimum(steps, steps[:, k : k + 1] + steps[k])
    near = {(i, j) for i in range(top.n_beads) for j in range(i) if steps[i, j] + 1 < 6}
    assert {(j, i) for i, j in top.exclusions(4).tolist()} == near


def test_numbers_of_mlcg_are_those_of_its_five_bead_map() -> None:
    """``CGEmbeddingMapFiveBead``: the residue for CB and for CA of glycine; N 21, CA 22, C 23, O 24."""
    mlcg = dict(zip("ACDEFGHIKLMNPQRSTVWY", range(1, 21), strict=True))
    numbers = EMBEDDINGS["mlcg-tk-5bead"].ids
    for letter, number in mlcg.items():
        top = CGTopology.from_sequence(letter, "5bead")
        expected = [21, 6, 23, 24] if letter == "G" else [21, 22, number, 23, 24]
        assert [numbers[name] for name in top.type_names] == expected
    top = CGTopology.from_sequence("AG", "5bead")
    with pytest.raises(MappingError, match="one number for several bead types"):
        top.with_embedding("mlcg-tk-5bead")
    with pytest.raises(MappingError, match="one number for several bead types"):
        resolve_spec("5bead", "mlcg-tk-5bead")
    table = {name: i + 1 for i, name in enumerate(top.type_names[:5])} | {"CA_GLY": 9}
    renumbered = top.with_embedding(table)
    assert renumbered.types[:5].tolist() == [1, 2, 3, 4, 5]
    assert renumbered.with_embedding("cgal") == top


def test_types_are_distinct() -> None:
    spec = resolve_spec("5bead")
    top = CGTopology.from_sequence("".join(ONE_TO_THREE), spec)
    assert len(set(top.types.tolist())) == len(set(top.type_names)) == 20 + 19 + 3
    assert all(a != b for a, b in pairwise(sorted(set(top.types.tolist()))))
