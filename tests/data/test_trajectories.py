"""Trajectory files: what is read is beads in Å, and what is not fit to be is refused."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.data.trajectories import load_trajectories, save_trajectories
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGTopology
from tests.walks import walks

TOPOLOGY = CGTopology.from_sequence("YYDPETGTWY")


def _frames(n: int = 4, seed: int = 0) -> np.ndarray:
    return walks(n, seed=seed)


def test_npz_round_trip_keeps_order(tmp_path: Path) -> None:
    saved = [_frames(3, i) for i in range(12)]
    save_trajectories(tmp_path / "t.npz", saved)
    for a, b in zip(saved, load_trajectories(tmp_path / "t.npz", TOPOLOGY), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("suffix", ["pdb", "dcd", "xtc"])
def test_mdtraj_formats_are_converted_to_angstrom(tmp_path: Path, suffix: str) -> None:
    frames = _frames()
    trajectory = mdtraj.Trajectory(frames / 10, TOPOLOGY.to_mdtraj())
    trajectory[0].save_pdb(str(tmp_path / "top.pdb"))
    path = tmp_path / f"t.{suffix}"
    trajectory.save(str(path))
    (loaded,) = load_trajectories(path, TOPOLOGY, top=None if suffix == "pdb" else tmp_path / "top.pdb")
    np.testing.assert_allclose(loaded, frames, atol=0.011)


def test_what_is_not_fit_is_refused(tmp_path: Path) -> None:
    def refuse(name: str, array: np.ndarray, message: str) -> None:
        np.save(tmp_path / name, array)
        with pytest.raises(DataError, match=message):
            load_trajectories(tmp_path / name, TOPOLOGY)

    bad = _frames()
    bad[2, 0, 0] = np.nan
    refuse("nan.npy", bad, "not finite.*frame 2")
    refuse("beads.npy", _frames()[:, :9], "9 beads")
    refuse("empty.npy", _frames(0), "no frames")
    refuse("shape.npy", _frames()[0], "shape")
    with pytest.raises(DataError, match="does not exist"):
        load_trajectories(tmp_path / "nowhere.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match="cannot be read"):
        load_trajectories(tmp_path / "broken.npz")
    mdtraj.Trajectory(_frames() / 10, TOPOLOGY.to_mdtraj()).save_dcd(str(tmp_path / "t.dcd"))
    with pytest.raises(DataError, match="has no topology; give a topology file"):
        load_trajectories(tmp_path / "t.dcd", TOPOLOGY)
    straight = np.arange(10.0)[None, :, None] * np.array([0.38, 0.0, 0.0])
    mdtraj.Trajectory(straight, TOPOLOGY.to_mdtraj()).save_pdb(str(tmp_path / "t.pdb"))
    with pytest.raises(DataError, match="is for YYDPETGTWY, not AAAAAAAAAA"):
        load_trajectories(tmp_path / "t.pdb", CGTopology.from_sequence("A" * 10))


def test_a_cut_file_or_a_type_that_is_no_coordinate_is_refused(tmp_path: Path) -> None:
    save_trajectories(tmp_path / "whole.npz", [_frames()])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    with pytest.raises(DataError, match=r"cut\.npz"):
        load_trajectories(tmp_path / "cut.npz")
    np.save(tmp_path / "complex.npy", _frames().astype(complex))
    with pytest.raises(DataError, match="complex128; expected real numbers"):
        load_trajectories(tmp_path / "complex.npy")
