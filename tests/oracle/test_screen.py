"""The screen: every kind of damage is found and named, sound structures pass, names rule."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cgal_plugin.errors import BackmapError
from cgal_plugin.oracle.screen import chirality, omega_degrees, pierced_rings, screen
from cgal_plugin.oracle.stereo import stereo_tables
from cgal_plugin.oracle.system import AllAtomModel


@pytest.fixture(scope="module")
def model() -> AllAtomModel:
    """ILE and THR (two stereocentres each), GLY (none), PRO, TRP and HIS (rings)."""
    return AllAtomModel.create("AITGPWH")


@pytest.fixture(scope="module")
def tables(model):
    return stereo_tables(model.mdtraj_topology)


def index(model, residue, name):
    return next(a.index for a in model.mdtraj_topology.residue(residue).atoms if a.name == name)


def test_minimised_peptide_passes(model, tables):
    verdict = screen(model.positions, tables)
    assert verdict.ok, verdict.reasons
    assert bool(verdict)
    assert verdict.reasons == ()


def test_tables_hold_what_the_sequence_has(model, tables):
    assert len(tables.centres) == 6 + 2  # all CA but glycine's, CB of ILE and THR
    assert len(tables.omegas) == 6
    assert sorted(len(r) for r in tables.rings) == [5, 5, 5, 6]  # PRO, HIS, TRP twice
    assert {tables.labels[r[0]][:3] for r in tables.rings} == {"PRO", "HIS", "TRP"}


def test_mirror_image_fails_at_every_centre(model, tables):
    mirrored = model.positions * [-1.0, 1.0, 1.0]
    np.testing.assert_allclose(chirality(mirrored, tables), -chirality(model.positions, tables), atol=1e-12)
    verdict = screen(mirrored, tables)
    assert not verdict
    assert verdict.reasons[0].startswith("inverted or flat stereocentre")
    assert "5 more" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("residue", "centre", "swap"),
    [(0, "CA", ("HA", "CB")), (1, "CB", ("HB", "CG2")), (2, "CB", ("HB", "CG2"))],
)
def test_single_inverted_centre_is_named(model, tables, residue, centre, swap):
    """Exchanging two substituents' directions inverts one centre: CA, and CB of ILE and THR."""
    xyz = model.positions.copy()
    c, a, b = (index(model, residue, name) for name in (centre, *swap))
    va, vb = xyz[a] - xyz[c], xyz[b] - xyz[c]
    la, lb = np.linalg.norm(va), np.linalg.norm(vb)
    xyz[a], xyz[b] = xyz[c] + vb * la / lb, xyz[c] + va * lb / la
    name = str(model.mdtraj_topology.residue(residue))
    reasons = screen(xyz, tables).reasons
    assert any(r.startswith("inverted") and f"{name}-{centre}" in r for r in reasons)
    assert not any("more" in r for r in reasons if r.startswith("inverted"))


@pytest.mark.parametrize("residue", [1, 3])
def test_cis_bond_is_found_also_before_proline(model, tables, residue):
    """Turn all that follows C–N by 180°: residue 3 is followed by proline."""
    xyz = model.positions.copy()
    c, n = index(model, residue, "C"), index(model, residue + 1, "N")
    axis = (xyz[n] - xyz[c]) / np.linalg.norm(xyz[n] - xyz[c])
    after = [a.index for a in model.mdtraj_topology.atoms if a.residue.index > residue]
    xyz[after] = Rotation.from_rotvec(np.pi * axis).apply(xyz[after] - xyz[c]) + xyz[c]
    omega = omega_degrees(xyz, tables)
    assert abs(omega[residue]) < 30
    assert (np.abs(np.delete(omega, residue)) > 150).all()
    reasons = screen(xyz, tables).reasons
    assert any(
        r.startswith("cis or twisted") and f"{tables.labels[c]}–{tables.labels[n]}" in r for r in reasons
    )


def test_omega_agrees_with_mdtraj_and_threshold_is_an_argument(model, tables):
    _, reference = mdtraj.compute_omega(mdtraj.Trajectory(model.positions[None] / 10, model.mdtraj_topology))
    difference = omega_degrees(model.positions, tables) - np.degrees(reference[0])
    np.testing.assert_allclose((difference + 180) % 360 - 180, 0, atol=1e-2)  # mdtraj: float32
    least = np.abs(omega_degrees(model.positions, tables)).min()
    assert screen(model.positions, tables, omega_min=least - 0.1)
    assert not screen(model.positions, tables, omega_min=least + 0.1)


def test_bond_through_a_ring(model, tables):
    """A C–C bond put through the middle of tryptophan's six-ring, then beside it."""
    ring = next(r for r in tables.rings if len(r) == 6)
    xyz = model.positions.copy()
    corners = xyz[list(ring)]
    centre = corners.mean(axis=0)
    normal = np.linalg.svd(corners - centre)[2][2]
    i, j = index(model, 0, "CA"), index(model, 0, "CB")
    xyz[i], xyz[j] = centre + 0.77 * normal, centre - 0.77 * normal
    assert {(p[1], p[2]) for p in pierced_rings(xyz, tables)} >= {(i, j)}
    assert any("ring pierced" in r and "TRP6" in r for r in screen(xyz, tables).reasons)
    inplane = np.cross(normal, corners[0] - centre)
    xyz[[i, j]] += 3.0 * inplane / np.linalg.norm(inplane)
    assert (i, j) not in {(p[1], p[2]) for p in pierced_rings(xyz, tables)}


def test_broken_bond_clash_and_non_finite(model, tables):
    xyz = model.positions.copy()
    xyz[index(model, 6, "OXT")] += 5.0
    assert any("broken bond" in r and "OXT" in r for r in screen(xyz, tables).reasons)
    xyz = model.positions.copy()
    xyz[index(model, 0, "CB")] = xyz[index(model, 6, "CB")] + 0.5
    assert any("clash" in r and "0.87 Å" in r for r in screen(xyz, tables).reasons)
    xyz = model.positions.copy()
    xyz[3, 1] = np.nan
    assert screen(xyz, tables).reasons == ("1 atoms have non-finite coordinates",)


def test_coincident_atoms_give_a_verdict_not_a_warning(model, tables):
    verdict = screen(np.zeros_like(model.positions), tables)
    assert not verdict
    assert any("stereocentre" in r for r in verdict.reasons)


def test_order_of_atoms_does_not_matter(model):
    """The same molecule with atoms of each residue in reverse order: found by name."""
    old = model.mdtraj_topology
    new, order, made = mdtraj.Topology(), [], {}
    chain = new.add_chain()
    for residue in old.residues:
        r = new.add_residue(residue.name, chain)
        for atom in reversed(list(residue.atoms)):
            made[atom.index] = new.add_atom(atom.name, atom.element, r)
            order.append(atom.index)
    for a, b in old.bonds:
        new.add_bond(made[a.index], made[b.index])
    assert screen(model.positions[order], new)
    assert not screen(model.positions[order] * [1.0, 1.0, -1.0], new)


def test_many_frames_give_a_list_and_openmm_topologies_work(model):
    frames = np.stack([model.positions, -model.positions])
    assert [v.ok for v in screen(frames, model.topology)] == [True, False]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(-100, 100))
def test_rigid_motion_changes_nothing(model, tables, seed, shift):
    moved = model.positions @ Rotation.random(random_state=seed).as_matrix() + shift
    np.testing.assert_allclose(chirality(moved, tables), chirality(model.positions, tables), atol=1e-8)
    assert screen(moved, tables)


def test_wrong_shape_and_topology_without_bonds(model, tables):
    with pytest.raises(BackmapError, match=r"shape \(3, 3\)"):
        screen(np.zeros((3, 3)), tables)
    bare = mdtraj.Topology()
    residue = bare.add_residue("ALA", bare.add_chain())
    bare.add_atom("CA", mdtraj.element.carbon, residue)
    with pytest.raises(BackmapError, match="0 bonds"):
        screen(np.zeros((1, 3)), bare)
