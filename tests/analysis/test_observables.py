from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.analysis import free_energy_surface, jensen_shannon, jensen_shannon_samples
from cgal_plugin.analysis import observables as obs
from cgal_plugin.analysis.distributions import grid_edges
from cgal_plugin.analysis.evaluate import _circle_w1
from cgal_plugin.errors import AnalysisError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import kT


def trajectory(frames: np.ndarray, topology: CGTopology) -> mdtraj.Trajectory:
    return mdtraj.Trajectory(frames / 10.0, topology.to_mdtraj())


def test_geometry_equals_mdtraj(reference, topology) -> None:
    frames = reference[0][:40]
    traj = trajectory(frames, topology)
    np.testing.assert_allclose(
        obs.observable(frames, topology, "bond"),
        10 * mdtraj.compute_distances(traj, topology.bond_index),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        obs.observable(frames, topology, "angle"),
        np.degrees(mdtraj.compute_angles(traj, topology.angle_index)),
        atol=0.01,
    )
    difference = obs.observable(frames, topology, "dihedral") - np.degrees(
        mdtraj.compute_dihedrals(traj, topology.dihedral_index)
    )
    assert np.abs((difference + 180) % 360 - 180).max() < 0.02
    np.testing.assert_allclose(
        obs.radius_of_gyration(frames), 10 * mdtraj.compute_rg(traj, masses=np.ones(8)), rtol=1e-5
    )
    np.testing.assert_allclose(
        obs.observable(frames, topology, "end_to_end")[:, 0],
        10 * mdtraj.compute_distances(traj, [[0, 7]])[:, 0],
        rtol=1e-5,
    )


def test_mass_weighted_radius_of_gyration() -> None:
    frames = np.array([[[0.0, 0, 0], [4.0, 0, 0]]])
    # masses 3 and 1: centre at 1, mean square (3·1 + 1·9)/4 = 3
    assert obs.radius_of_gyration(frames, np.array([3.0, 1.0]))[0] == pytest.approx(np.sqrt(3))


def test_straight_and_folded_angles_are_exact() -> None:
    frames = np.array([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]])
    np.testing.assert_allclose(obs.angles(frames, np.array([[0, 1, 2]]))[:, 0], [180.0, 0.0])


def test_chains_and_side_chains_have_their_own_ends() -> None:
    top = CGTopology.from_sequence("AGA", mapping="CACB")
    assert [n for n in top.bead_names] == ["CA", "CB", "CA", "CA", "CB"]
    frames = np.arange(15.0).reshape(1, 5, 3)
    expected = np.linalg.norm(frames[0, 0] - frames[0, 3])
    np.testing.assert_allclose(obs.end_to_end(frames, top), [[expected]])


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10_000), st.sampled_from(["random", "mirror", "planar", "line", "same"]))
def test_rmsd_equals_mdtraj(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    structure = rng.normal(size=(8, 3)) * 4
    frames = rng.normal(size=(6, 8, 3)) * 4
    if kind == "mirror":
        frames = np.repeat(structure[None] * [1, 1, -1], 6, axis=0)
    elif kind == "planar":
        frames[..., 2] = 0
    elif kind == "line":
        frames[..., 1:] = 0
    elif kind == "same":
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turn *= np.sign(np.linalg.det(turn))
        frames = np.repeat((structure @ turn + 5)[None], 6, axis=0)
    top = CGTopology.from_sequence("AAAAAAAA")
    expected = 10 * mdtraj.rmsd(trajectory(frames, top), trajectory(structure[None], top))
    # mdtraj works in float32: its error near zero is about the square root of that precision
    np.testing.assert_allclose(obs.rmsd_to_structure(frames, structure), expected, atol=1e-2)
    if kind == "mirror":
        assert expected.min() > 0.1


def test_contact_map_and_weights() -> None:
    frames = np.zeros((2, 3, 3))
    frames[:, 1, 0], frames[0, 2, 0], frames[1, 2, 0] = 4.0, 8.0, 9.0
    plain = obs.contact_map(frames, cutoff=8.0)
    assert plain[0, 2] == 0.5
    assert (np.diag(plain) == 1).all()
    assert obs.contact_map(frames, cutoff=8.0, weights=np.array([3.0, 1.0]))[0, 2] == 0.75


def test_unknown_observable_and_wrong_beads(topology) -> None:
    with pytest.raises(AnalysisError, match="choose from"):
        obs.observable(np.zeros((1, 8, 3)), topology, "colour")
    with pytest.raises(AnalysisError, match="do not match"):
        obs.observable(np.zeros((1, 9, 3)), topology, "bond")
    with pytest.raises(AnalysisError, match="structure"):
        obs.rmsd_to_structure(np.zeros((1, 9, 3)), np.zeros((8, 3)))


# ---------------------------------------------------------------- distributions


def test_jensen_shannon_closed_forms() -> None:
    assert jensen_shannon([1, 2, 3], [2, 4, 6]) == pytest.approx(0.0, abs=1e-12)
    assert jensen_shannon([1, 0], [0, 5]) == pytest.approx(1.0)
    # p = (1, 0), q = (1/2, 1/2): ½[log2(1/¾)] + ½[½ log2(½/¾) + ½ log2(½/¼)]
    expected = 0.5 * np.log2(4 / 3) + 0.5 * (0.5 * np.log2(2 / 3) + 0.5)
    assert jensen_shannon([1, 0], [1, 1]) == pytest.approx(expected)
    with pytest.raises(AnalysisError, match="empty"):
        jensen_shannon([0, 0], [1, 1])
    with pytest.raises(AnalysisError, match="shapes"):
        jensen_shannon([1], [1, 1])


def test_jensen_shannon_of_samples_ignores_one_stray_value() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=4000), rng.normal(size=4000)
    plain = jensen_shannon_samples(x, y)
    stray = x.copy()
    stray[0] = 1e6
    assert plain < 0.02
    assert jensen_shannon_samples(stray, y) == pytest.approx(plain, abs=1e-3)
    assert jensen_shannon_samples(x + 20, y) == pytest.approx(1.0)


def test_circular_distance() -> None:
    one, w = np.array([179.0]), np.ones(1)
    assert _circle_w1(one, np.array([-179.0]), w, w) == pytest.approx(2.0, abs=0.5)
    assert _circle_w1(one, one, w, w) == 0.0
    assert _circle_w1(one, np.array([0.0]), w, w) == pytest.approx(179.0, abs=0.5)


def test_free_energy_of_a_gaussian_is_harmonic() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400_000, 2))
    edges = np.linspace(-2, 2, 17)
    surface = free_energy_surface(points, (edges, edges), 300.0)
    centre = 0.5 * (edges[1:] + edges[:-1])
    x, y = np.meshgrid(centre, centre, indexing="ij")
    expected = 0.5 * kT(300.0) * (x**2 + y**2)
    difference = surface.energy - (expected - expected.min())
    assert np.abs(difference - difference.mean()).max() < 0.15 * kT(300.0)
    assert surface.energy.min() == 0.0
    assert surface.outside == pytest.approx(1 - 0.9545**2, abs=0.01)


def test_free_energy_weights_and_unvisited_cells() -> None:
    points = np.array([[0.5, 0.5], [1.5, 0.5]])
    edges = (np.array([0.0, 1, 2]), np.array([0.0, 1, 2]))
    energy = free_energy_surface(points, edges, 300.0, weights=np.array([np.e, 1.0])).energy
    assert energy[1, 0] == pytest.approx(kT(300.0))
    assert np.isnan(energy[:, 1]).all()
    with pytest.raises(AnalysisError, match="positive"):
        free_energy_surface(points, edges, 0.0)
    with pytest.raises(AnalysisError, match="inside the grid"):
        free_energy_surface(points + 50, edges, 300.0)


def test_grid_edges_follow_the_bulk() -> None:
    points = np.random.default_rng(0).normal(size=(5000, 2))
    points[0] = 1e5
    edges = grid_edges(points)
    assert max(e[-1] for e in edges) < 6
