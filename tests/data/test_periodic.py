"""Molecules that are broken across the periodic box: made whole with a unit cell, refused without one."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.data import CGDataset, DataStore, FrameFiles, LabelledFrames
from cgal_plugin.data.periodic import whole_molecules
from cgal_plugin.data.sources import read_store
from cgal_plugin.data.trajectories import load_trajectories, read_trajectories
from cgal_plugin.errors import CGALWarning, DataError, SelectionError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.selector import RandomSelector, nearest_rmsd
from cgal_plugin.selector.select_files import select_files
from tests.walks import walks

TOPOLOGY = CGTopology.from_sequence("YYDPETGTWY")
CUBE = np.eye(3) * 41.0
#: truncated octahedron
OCTAHEDRON = 41.0 * np.array(
    [[1.0, 0.0, 0.0], [1 / 3, 2 * 2**0.5 / 3, 0.0], [-1 / 3, 2**0.5 / 3, 6**0.5 / 3]]
)


def wrapped(frames: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Move every point into the unit cell, one by one."""
    fractional = frames @ np.linalg.inv(cell)
    return ((fractional - np.floor(fractional)) @ cell).astype(np.float32)


def relative(frames: np.ndarray) -> np.ndarray:
    return frames - frames[:, :1]


def trajectory(
    frames: np.ndarray, cell: np.ndarray | None, topology: CGTopology = TOPOLOGY
) -> mdtraj.Trajectory:
    made = mdtraj.Trajectory(frames / 10, topology.to_mdtraj(), time=2.0 * np.arange(len(frames)))
    if cell is not None:
        made.unitcell_vectors = np.tile(cell / 10, (len(frames), 1, 1)).astype(np.float32)
    return made


@pytest.fixture
def top(tmp_path: Path) -> Path:
    trajectory(walks(1), None).save_pdb(str(tmp_path / "top.pdb"))
    return tmp_path / "top.pdb"


@pytest.mark.filterwarnings("ignore:Warning. The 'netCDF4'")
@pytest.mark.parametrize(
    ("suffix", "cell"),
    [(s, CUBE) for s in ("xtc", "trr", "nc", "XTC", "Dcd")] + [(s, OCTAHEDRON) for s in ("xtc", "dcd", "H5")],
)
def test_a_wrapped_chain_is_made_whole(tmp_path: Path, top: Path, suffix: str, cell: np.ndarray) -> None:
    frames = walks(30, seed=4)
    broken = wrapped(frames, cell)
    assert np.linalg.norm(np.diff(broken, axis=1), axis=-1).max() > 30  # as the issue says: 39 Å
    written = tmp_path / f"t.{suffix.lower()}"
    trajectory(broken, cell).save(str(written))
    path = written.rename(tmp_path / f"u.{suffix}")
    with pytest.warns(CGALWarning, match=r"made whole across the periodic box in \d+ of 30 frames"):
        [found] = load_trajectories(path, TOPOLOGY, top=top)
    np.testing.assert_allclose(relative(found), relative(frames), atol=0.05)
    files = FrameFiles(path, TOPOLOGY, top=top)
    with pytest.warns(CGALWarning, match="made whole"):
        pieces = np.concatenate(list(files))
    np.testing.assert_array_equal(pieces, found)
    np.testing.assert_array_equal(np.concatenate(list(files)), found)  # said once: warnings are errors here


def test_a_whole_chain_is_not_touched(tmp_path: Path, top: Path) -> None:
    frames = walks(9, seed=1) - 60.0  # far outside of the cell
    trajectory(frames, CUBE).save_dcd(str(tmp_path / "t.dcd"))
    [found] = load_trajectories(tmp_path / "t.dcd", TOPOLOGY, top=top)
    assert abs(found - frames).max() < 1e-5


@pytest.mark.parametrize("cell", [None, np.eye(3), np.eye(3) * 8.0], ids=["none", "dummy", "small"])
def test_without_a_unit_cell_it_is_refused(tmp_path: Path, top: Path, cell: np.ndarray | None) -> None:
    frames = walks(20, seed=4)
    frames[7:9, 5:] += [39.0, 0, 0]
    trajectory(frames, cell).save_xtc(str(tmp_path / "t.xtc"))
    message = (
        r"t\.xtc: 2 of 20 frames have impossible bonds \(first: frame 7, bond CA_GLU5–CA_THR6 is [34]\d.* Å "
        r"long, possible are 1\.1 to 7\.2 Å\); .*no unit cell.*trjconv"
    )
    with pytest.raises(DataError, match=message):
        load_trajectories(tmp_path / "t.xtc", TOPOLOGY, top=top)
    with pytest.raises(DataError, match=message):
        list(FrameFiles(tmp_path / "t.xtc", TOPOLOGY, top=top))
    np.save(tmp_path / "t.npy", frames)
    np.save(tmp_path / "f.npy", 0 * frames)
    with pytest.raises(DataError, match=r"t\.npy: 2 of 20 frames .*frame 7"):
        CGDataset(tmp_path, coords="t.npy", forces="f.npy", topology=TOPOLOGY)


def test_several_chains_are_near_each_other() -> None:
    topology = CGTopology(
        **{
            **{name: getattr(TOPOLOGY, name) for name in TOPOLOGY.__dataclass_fields__},
            "chain_index": np.repeat([0, 1], 5),
            "bond_index": TOPOLOGY.bond_index[TOPOLOGY.bond_index[:, 0] != 4],
        }
    )
    straight = np.zeros((3, 5, 3))
    straight[:, :, 0] = 3.8 * np.arange(5)
    frames = np.concatenate([straight, np.add(straight, [0, 6.0, 0])], axis=1) + 3.0
    cells = np.tile(CUBE, (3, 1, 1))
    torn = frames.copy()
    torn[1] = wrapped(np.add(frames, [38.0, 36.0, 0]), CUBE)[1]
    torn[2, 5:] -= 2 * CUBE[1]
    whole, moved = whole_molecules(torn.astype(np.float32), cells, topology)
    np.testing.assert_allclose(relative(whole), relative(frames), atol=1e-4)
    assert moved.tolist() == [False, True, True]
    # a contact in the file stays, although the image on the other side is a little nearer
    crystal = np.concatenate([straight, np.add(straight, [0, 8.0, 0])], axis=1)
    small = np.tile(np.diag([41.0, 15.5, 41.0]), (3, 1, 1))
    near, _ = whole_molecules(crystal.astype(np.float32), small, topology)
    np.testing.assert_allclose(near, crystal, atol=1e-5)


def test_beads_of_several_atoms_are_averaged_over_whole_residues(tmp_path: Path) -> None:
    from cgal_plugin.oracle import AllAtomModel

    centre = {"name": "COM", "backbone": "B", "residues": {"*": {"B": ["N", "CA", "C", "O"]}}}
    model = AllAtomModel.create("GYGAG", "CA")
    atoms = np.array(model.positions)[None] * np.ones((8, 1, 1)) + np.linspace(0, 41, 8)[:, None, None]
    whole = mdtraj.Trajectory(atoms / 10, model.mdtraj_topology)
    whole[0].save_pdb(str(tmp_path / "top.pdb"))
    torn = mdtraj.Trajectory(wrapped(atoms, CUBE) / 10, model.mdtraj_topology)
    torn.unitcell_vectors = np.tile(CUBE / 10, (8, 1, 1))
    torn.save_xtc(str(tmp_path / "torn.xtc"))
    whole.save_xtc(str(tmp_path / "whole.xtc"))
    topology = CGTopology.from_file(tmp_path / "top.pdb", centre)
    arguments = {"topology": topology, "top": tmp_path / "top.pdb", "mapping": centre}
    [expected] = load_trajectories(tmp_path / "whole.xtc", **arguments)
    with pytest.warns(CGALWarning, match="made whole"):
        [found] = load_trajectories(tmp_path / "torn.xtc", **arguments)
    np.testing.assert_allclose(relative(found), relative(expected), atol=0.05)


def test_select_leaves_broken_candidates_out_by_number(tmp_path: Path) -> None:
    frames = walks(10, seed=2)
    frames[3, 4:] += [0, 0, 50.0]
    np.savez(tmp_path / "c.npz", traj_2=frames[:5], traj_10=frames[5:])
    np.save(tmp_path / "r.npy", walks(5, seed=3))
    with pytest.warns(CGALWarning, match=r"array 'traj_2': 1 of 5 frames .*\(first: frame 3.*left out"):
        chosen = select_files(
            RandomSelector(9), [tmp_path / "c.npz"], [tmp_path / "r.npy"], TOPOLOGY, tmp_path / "s.npz"
        )
    assert sorted(chosen.indices) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert np.isnan(chosen.all_distances[3])
    with np.load(tmp_path / "s.npz") as saved:
        np.testing.assert_array_equal(saved["positions"], frames[saved["candidate"]])
    np.save(tmp_path / "bad.npy", np.repeat(frames[3:4], 4, axis=0))
    with pytest.raises(DataError, match="4 of 4 frames have impossible bonds"):
        read_trajectories(tmp_path / "bad.npy", TOPOLOGY, broken="omit")


def test_frames_of_a_store_are_left_out_by_number(tmp_path: Path) -> None:
    store = DataStore.create(tmp_path / "s", TOPOLOGY, temperature=400.0, force_map_hash="m")
    for name, seed in (("a", 1), ("b", 2)):
        frames, index = walks(20, seed=seed), np.arange(20)
        if name == "b":
            frames[5, 4:] += 40.0
        store.append(name, LabelledFrames(frames, frames, index, 0 * index, np.zeros(20)), source="seed")
    with pytest.warns(CGALWarning, match=r"1 of 40 frames .*frame 5 of shard 'b', bond CA_PRO4.*left out"):
        table = read_store(tmp_path / "s", None, None)
    assert len(table.positions) == len(table.forces) == len(table.block) == len(table.source) == 39
    assert "frame 5 of shard 'b'" in table.notes[0]


@pytest.mark.parametrize(("factor", "unit"), [(0.1, "nm"), (10.0, "angstrom")])
@pytest.mark.parametrize("mapping", ["CA", "CACB", "5bead"])
def test_arrays_in_another_unit_are_refused(tmp_path: Path, factor: float, unit: str, mapping: str) -> None:
    topology = CGTopology.from_sequence("YYDPETGTWY", mapping)
    frames = np.zeros((6, topology.n_beads, 3))
    residue = topology.residue_index
    # in the 5bead map C and the next N are 1.3 Å apart
    for name, place in {"N": (-1.2, 0.8), "C": (1.3, 0.8), "O": (1.3, 2.0), "CB": (0.0, -1.53)}.items():
        frames[:, np.array(topology.bead_names) == name, :2] = place
    frames[:, :, 0] += 3.8 * residue
    np.save(tmp_path / "x.npy", factor * frames)
    np.save(tmp_path / "f.npy", frames)
    message = rf"x\.npy: bonds have (a tenth of|ten times) their usual length.*probably in .*unit {unit} "
    with pytest.raises(DataError, match=message):
        load_trajectories(tmp_path / "x.npy", topology)
    with pytest.raises(DataError, match=message):
        list(FrameFiles(tmp_path / "x.npy", topology))
    with pytest.raises(DataError, match=f"x.npy: bonds have .*give length_unit: {unit}"):
        CGDataset(tmp_path, coords="x.npy", forces="f.npy", topology=topology)
    if unit == "nm":
        [found] = load_trajectories(tmp_path / "x.npy", topology, unit="nm")
        np.testing.assert_allclose(found, frames, rtol=1e-6)
    with pytest.raises(SelectionError, match=r"probably in nm"):
        nearest_rmsd(factor * frames, frames)


def test_python_calls_refuse_another_unit(tmp_path: Path) -> None:
    from cgal_plugin.analysis import evaluate
    from cgal_plugin.dynamics import simulate

    frames = walks(40, seed=1)
    with pytest.raises(DataError, match="the model trajectories: bonds have a tenth"):
        evaluate([frames / 10], [frames], TOPOLOGY, lag_frames=2, temperature=300.0, seed=0)
    with pytest.raises(DataError, match="the start frames: bonds have a tenth"):
        simulate(
            tmp_path / "p.pt", TOPOLOGY, frames[:1] / 10, steps=10, timestep_fs=4.0, temperature=300.0,
            friction=1.0, n_replicas=1, seed=0, out_dir=tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
