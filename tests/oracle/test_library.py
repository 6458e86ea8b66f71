"""The all-atom library: names, not indices; exact RMSD; files that survive."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cgal_plugin.errors import BackmapError
from cgal_plugin.mapping import CGMapping
from cgal_plugin.mapping.geometry import superpose, superposed_rmsd
from cgal_plugin.oracle.library import AllAtomLibrary, atom_keys
from cgal_plugin.oracle.system import AllAtomModel


@pytest.fixture(scope="module")
def model() -> AllAtomModel:
    return AllAtomModel.create("AGPWA")


@pytest.fixture
def frames(model) -> np.ndarray:
    rng = np.random.default_rng(2)
    return model.positions + rng.normal(0, 0.8, (12, *model.positions.shape))


def test_nearest_is_exact_and_ordered(model, frames):
    library = AllAtomLibrary(model, frames)
    target = model.mapping.map_positions(frames[7]) @ Rotation.random(random_state=1).as_matrix() + 40.0
    found, distance = library.nearest(target, 12)
    assert found[0] == 7
    # frames are stored as float32, which limits the RMSD of a frame to itself
    assert distance[0] < 1e-3
    beads = mdtraj.Trajectory(library.beads / 10, None)
    reference = 10 * mdtraj.rmsd(beads, mdtraj.Trajectory(target[None] / 10, None))
    assert found.tolist() == np.argsort(reference).tolist()
    # mdtraj computes the square in float32, as a difference of terms of about 70 Å²
    np.testing.assert_allclose(distance**2, reference[found] ** 2, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31), n=st.integers(1, 12), kind=st.sampled_from(["any", "line", "plane", "point"])
)
def test_rmsd_is_what_superposition_leaves(seed, n, kind):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 3, (2, n, 3))
    keep = {"any": 3, "plane": 2, "line": 1, "point": 0}[kind]
    a[:, keep:] = 0
    moved = superpose(a, a, b)
    expected = np.sqrt(((moved - b) ** 2).sum(axis=1).mean())
    assert superposed_rmsd(a[None], b)[0] == pytest.approx(expected, abs=1e-6)
    # rigid: distances kept, and no reflection
    np.testing.assert_allclose(
        np.linalg.norm(moved[:, None] - moved, axis=-1), np.linalg.norm(a[:, None] - a, axis=-1), atol=1e-9
    )


def test_mirror_image_is_not_the_same_conformation():
    a = np.random.default_rng(0).normal(0, 3, (8, 3))
    assert superposed_rmsd(a[None], -a)[0] > 1.0
    assert superposed_rmsd(a[None], a)[0] < 1e-6


def test_trajectory_atoms_are_matched_by_name(model, frames):
    """A trajectory with another atom order, water and other hydrogen names for the N-terminus."""
    top, order = mdtraj.Topology(), []
    water_chain_last = top.add_chain()
    for residue in model.mdtraj_topology.residues:
        made = top.add_residue(residue.name, water_chain_last)
        for atom in sorted(residue.atoms, key=lambda a: a.name):
            name = "H1" if atom.name == "H" and residue.index == 0 else atom.name
            top.add_atom(name, atom.element, made)
            order.append(atom.index)
    water = top.add_residue("HOH", top.add_chain())
    top.add_atom("O", mdtraj.element.oxygen, water)
    xyz = np.concatenate([frames[:, order], np.full((12, 1, 3), 99.0)], axis=1) / 10
    library = AllAtomLibrary(model)
    library.add(mdtraj.Trajectory(xyz.astype(np.float32), top))
    np.testing.assert_allclose(library.positions, frames, atol=1e-4)


def test_missing_atoms_are_named(model, frames):
    keep = [a.index for a in model.mdtraj_topology.atoms if a.element.symbol != "H"]
    heavy = mdtraj.Trajectory(frames / 10, model.mdtraj_topology).atom_slice(keep)
    with pytest.raises(BackmapError, match=r"lacks 3\d of \d+ atoms.*ALA:H"):
        AllAtomLibrary(model).add(heavy)


def test_saved_file_serves_another_mapping(model, frames, tmp_path):
    path = tmp_path / "deep" / "library.npz"
    library = AllAtomLibrary(model, frames)
    library.save(path)
    again = AllAtomLibrary.load(path, model)
    assert again.hash == library.hash
    other = AllAtomModel(model.topology, model.positions, CGMapping.from_topology(model.topology, "CACB"))
    assert AllAtomLibrary.load(path, other).beads.shape == (12, 9, 3)
    with np.load(path) as data:  # readable without the package
        assert data["positions"].shape == library.positions.shape
        assert data["positions"].dtype == np.float32


def test_files_that_are_none(model, tmp_path):
    with pytest.raises(BackmapError, match="does not exist"):
        AllAtomLibrary.load(tmp_path / "no.npz", model)
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"not a zip")
    with pytest.raises(BackmapError, match="not an all-atom library"):
        AllAtomLibrary.load(bad, model)
    AllAtomLibrary(AllAtomModel.create("AA")).save(bad)
    with pytest.raises(BackmapError, match="lacks"):
        AllAtomLibrary.load(bad, model)


def test_bad_frames_are_refused_and_leave_the_library_as_it_was(model, frames):
    library = AllAtomLibrary(model, frames[:2])
    bad = frames.copy()
    bad[4, 0, 0] = np.inf
    with pytest.raises(BackmapError, match="first is 4"):
        library.add(bad)
    with pytest.raises(BackmapError, match="atoms"):
        library.add(frames[:, :-1])
    assert len(library) == 2
    with pytest.raises(BackmapError, match="empty"):
        AllAtomLibrary(model).nearest(library.beads[0])
    with pytest.raises(BackmapError, match="shape"):
        library.nearest(np.zeros((3, 3)))


def test_atom_keys_are_unique(model):
    keys = atom_keys(model.mdtraj_topology)
    assert len(set(keys)) == len(keys) == model.n_solute
