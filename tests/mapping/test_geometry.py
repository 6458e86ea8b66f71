"""Superposition and dihedral angles against scipy and mdtraj."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cgal_plugin.mapping.geometry import dihedral_angles, optimal_rotation, superpose, superposed_rmsd


def test_rotation_is_the_best_proper_one() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, 7, 3))
    y[0] = -x[0]  # the best match would be a reflection
    found = optimal_rotation(np.einsum("nki,nkj->nij", x, y))
    np.testing.assert_allclose(np.linalg.det(found), 1.0, atol=1e-12)
    for a, b, rotation in zip(x, y, found, strict=True):
        expected, distance = Rotation.align_vectors(b, a)
        np.testing.assert_allclose(np.linalg.norm(a @ rotation - b), distance, atol=1e-9)
        np.testing.assert_allclose(rotation, expected.as_matrix().T, atol=1e-7)


def test_superpose_undoes_a_rigid_motion() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(12, 3))
    rotation = Rotation.random(random_state=rng).as_matrix()
    target = points @ rotation + 50.0
    np.testing.assert_allclose(superpose(points, points[:5], target[:5]), target, atol=1e-9)


def test_rmsd_is_that_of_the_superposed_frames() -> None:
    rng = np.random.default_rng(2)
    frames, target = rng.normal(size=(30, 6, 3)), rng.normal(size=(6, 3))
    frames[0] = target * [1.0, 1.0, -1.0]
    frames[1] = target @ Rotation.random(random_state=rng).as_matrix() + 3.0
    residuals = [superpose(f, f, target) - target for f in frames]
    expected = np.sqrt(np.square(residuals).sum(axis=2).mean(axis=1))
    np.testing.assert_allclose(superposed_rmsd(frames, target), expected, atol=1e-6)
    assert superposed_rmsd(frames, target)[0] > 0.1


def test_dihedral_angles_equal_mdtraj() -> None:
    xyz = np.random.default_rng(3).normal(size=(50, 4, 3)).astype(np.float32)
    theirs = mdtraj.compute_dihedrals(mdtraj.Trajectory(xyz, None), [[0, 1, 2, 3]])[:, 0]
    difference = dihedral_angles(xyz) - theirs
    np.testing.assert_allclose(np.sin(difference / 2.0), 0.0, atol=1e-5)
    assert dihedral_angles(xyz.reshape(5, 10, 4, 3)).shape == (5, 10)


@pytest.mark.parametrize(("angle", "degrees"), [(0.0, 0.0), (90.0, 90.0), (-60.0, -60.0), (180.0, 180.0)])
def test_sign_of_a_dihedral(angle: float, degrees: float) -> None:
    # looking along the middle bond, a positive angle turns the last point clockwise (IUPAC)
    phi = np.radians(angle)
    points = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.5], [np.cos(phi), np.sin(phi), 1.5]]
    assert np.degrees(dihedral_angles(points)) == pytest.approx(degrees, abs=1e-9)


def test_an_undefined_dihedral_is_zero() -> None:
    assert dihedral_angles(np.zeros((2, 4, 3))).tolist() == [0.0, 0.0]
    line = np.arange(4.0)[:, None] * np.array([1.0, 0.0, 0.0])
    assert dihedral_angles(line) == 0.0
