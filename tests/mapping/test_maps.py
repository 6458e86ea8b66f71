"""Coordinates: atoms are found by name, weights sum to one, wrong molecules are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.errors import MappingError
from cgal_plugin.mapping import CGMapping, CGTopology

ATOMS = {
    "GLY": ["N", "H", "CA", "HA2", "HA3", "C", "O"],
    "ALA": ["N", "H", "CA", "HA", "CB", "C", "O"],
    "TYR": ["N", "H", "CA", "HA", "CB", "OH", "C", "O"],
}


def topology(residues: list[tuple[str, list[str]]]) -> mdtraj.Topology:
    top = mdtraj.Topology()
    chain = top.add_chain()
    for number, (name, atoms) in enumerate(residues):
        residue = top.add_residue(name, chain, resSeq=number + 1)
        for atom in atoms:
            top.add_atom(atom, mdtraj.element.Element.getBySymbol(atom[0]), residue)
    return top


@settings(max_examples=20, deadline=None)
@given(order=st.randoms(use_true_random=False), seed=st.integers(0, 1000))
def test_order_of_atoms_does_not_matter(order: Any, seed: int) -> None:
    names = ["TYR", "GLY", "ALA"]
    plain = topology([(n, ATOMS[n]) for n in names])
    shuffled_atoms = [order.sample(ATOMS[n], len(ATOMS[n])) for n in names]
    shuffled = topology(list(zip(names, shuffled_atoms, strict=True)))
    xyz = np.random.default_rng(seed).normal(size=(2, plain.n_atoms, 3))
    index = {(a.residue.index, a.name): a.index for a in plain.atoms}
    reordered = xyz[:, [index[a.residue.index, a.name] for a in shuffled.atoms]]
    one, two = CGMapping.from_topology(plain, "CACB"), CGMapping.from_topology(shuffled, "CACB")
    np.testing.assert_allclose(one.map_positions(xyz), two.map_positions(reordered), atol=1e-12)
    assert one.topology == two.topology == CGTopology.from_sequence("YGA", "CACB")
    assert one.atom_groups[0] == (index[0, "CA"],)


def test_mdtraj_openmm_and_trajectory_agree() -> None:
    top = topology([(n, ATOMS[n]) for n in ("ALA", "GLY", "TYR")])
    xyz = np.random.default_rng(0).normal(scale=0.02, size=(3, top.n_atoms, 3)).astype(np.float32)
    xyz += np.array([[0.15 * atom.residue.index, 0.0, 0.0] for atom in top.atoms], dtype=np.float32)
    trajectory = mdtraj.Trajectory(xyz, top)
    from_mdtraj = CGMapping.from_topology(top)
    from_openmm = CGMapping.from_topology(top.to_openmm())
    assert from_mdtraj.hash == from_openmm.hash == CGMapping.from_topology(trajectory).hash
    in_angstrom = from_mdtraj.map_positions(trajectory)
    np.testing.assert_allclose(in_angstrom, from_mdtraj.map_positions(xyz) * 10.0, rtol=1e-6)
    np.testing.assert_allclose(in_angstrom[0], from_mdtraj.map_positions(xyz[0] * 10.0), rtol=1e-6)
    assert in_angstrom.dtype == np.float32


def test_weighted_bead_is_the_weighted_mean(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(
        "name: BB\nbackbone: BB\nresidues:\n"
        "  '*': {BB: {atoms: [N, CA, C], weights: mass}}\n"
        "  GLY: {BB: {atoms: [CA, C], weights: [3, 1]}}\n"
    )
    top = topology([(n, ATOMS[n]) for n in ("ALA", "GLY")])
    mapping = CGMapping.from_topology(top, path)
    xyz = np.random.default_rng(1).normal(size=(top.n_atoms, 3))
    masses = np.array([14.007, 12.011, 12.011])
    ala = [0, 2, 5]
    expected = [
        masses @ xyz[ala] / masses.sum(),
        0.75 * xyz[7 + 2] + 0.25 * xyz[7 + 5],
    ]
    np.testing.assert_allclose(mapping.map_positions(xyz), expected, atol=1e-12)
    assert not mapping.is_slice
    assert mapping.atom_groups == ((0, 2, 5), (9, 12))


def test_caps_and_water_have_no_beads() -> None:
    residues = [("ACE", ["CH3", "C", "O"]), ("ALA", ATOMS["ALA"]), ("NME", ["N", "C"]), ("HOH", ["O"])]
    mapping = CGMapping.from_topology(topology(residues))
    assert mapping.atom_groups == ((5,),)
    assert mapping.n_atoms == 13


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(MappingError, match="UNK"):
        CGMapping.from_topology(topology([("UNK", ["CA"])]))
    with pytest.raises(MappingError, match=r"GLY2 lacks CA"):
        CGMapping.from_topology(topology([("ALA", ATOMS["ALA"]), ("GLY", ["N", "C", "O"])]))
    with pytest.raises(MappingError, match=r"same name: CA"):
        CGMapping.from_topology(topology([("GLY", ["N", "CA", "CA", "C"])]))
    duplicate = {"residues": {"GLY": {"CA": ["CA"]}}, "backbone": "BB"}
    with pytest.raises(MappingError, match="BB"):
        CGMapping.from_topology(topology([("GLY", ATOMS["GLY"])]), duplicate)
    # the bead's own name is there, but not all atoms that define it
    needs_more = {"residues": {"GLY": {"CA": ["CA", "CB"]}}}
    with pytest.raises(MappingError, match="lacks CB"):
        CGMapping.from_topology(topology([("GLY", ATOMS["GLY"])]), needs_more)
    mapping = CGMapping.from_topology(topology([("GLY", ATOMS["GLY"])]))
    with pytest.raises(MappingError, match=r"\(2, 5, 3\).*n_frames, 7, 3"):
        mapping.map_positions(np.zeros((2, 5, 3)))
    with pytest.raises(MappingError, match="sum to one"):
        CGMapping(mapping.matrix * 2.0, mapping.topology)
