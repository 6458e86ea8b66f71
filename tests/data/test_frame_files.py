"""Frames read piece by piece: the same frames in the same order as loading everything."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import pytest

from cgal_plugin.data import DataStore, FrameFiles, LabelledFrames
from cgal_plugin.data import frame_files as module
from cgal_plugin.data.trajectories import save_trajectories
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGTopology
from tests.walks import walks

TOPOLOGY = CGTopology.from_sequence("YYDPETGTWY")


def frames_of(n: int, seed: int) -> np.ndarray:
    return walks(n, seed=seed)


def labelled(frames: np.ndarray) -> LabelledFrames:
    index = np.arange(len(frames))
    return LabelledFrames(frames, 0 * frames, index, 0 * index, np.zeros(len(frames)))


@pytest.fixture
def store(tmp_path: Path) -> DataStore:
    made = DataStore.create(tmp_path / "store", TOPOLOGY, temperature=400.0, force_map_hash="m")
    for seed, name in ((1, "b"), (2, "a"), (3, "c")):
        made.append(name, labelled(frames_of(seed + 3, seed)), source="seed")
    return made


def test_every_kind_in_the_order_given(
    store: DataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE", 4)
    trajectory = mdtraj.Trajectory(frames_of(7, 4) / 10, TOPOLOGY.to_mdtraj())
    trajectory.save_dcd(str(tmp_path / "t.dcd"))
    trajectory[0].save_pdb(str(tmp_path / "top.pdb"))
    save_trajectories(tmp_path / "two.npz", [frames_of(3, 5), frames_of(9, 6)])
    folder = tmp_path / "shards"
    folder.mkdir()
    np.save(folder / "s1.npy", frames_of(6, 8))
    np.save(folder / "s0.npy", frames_of(5, 7))
    (folder / "notes.txt").write_text("not a shard")
    files = FrameFiles(
        [store.root, tmp_path / "t.dcd", tmp_path / "two.npz", folder], TOPOLOGY, top=tmp_path / "top.pdb"
    )
    in_stores = [frames_of(5, 2), frames_of(4, 1), frames_of(6, 3)]
    rest = [frames_of(7, 4), frames_of(3, 5), frames_of(9, 6), frames_of(5, 7), frames_of(6, 8)]
    expected = np.concatenate(in_stores + rest)
    for _ in range(2):
        pieces = list(files)
        np.testing.assert_allclose(np.concatenate(pieces), expected, atol=1e-5)
        # a store's shard is read whole, files in pieces
        assert max(map(len, pieces)) == 6
        assert sorted({len(p) for p in pieces[3:]}) == [1, 2, 3, 4]


def test_units(store: DataStore, tmp_path: Path) -> None:
    np.save(tmp_path / "nm.npy", frames_of(4, 1) / 10)
    for source in (tmp_path / "nm.npy", store):
        found = np.concatenate(list(FrameFiles(source, unit="nm")))
        wanted = frames_of(4, 1)
        assert np.abs(found[:, None] - wanted).max((2, 3)).min(0).max() < 1e-5


def test_shards_that_come_later_are_not_read(store: DataStore) -> None:
    files = FrameFiles(store)
    store.append("d", labelled(frames_of(50, 9)), source="round_001")
    assert sum(map(len, files)) == 15
    assert sum(map(len, FrameFiles(store))) == 65


def test_chosen_shards_of_a_store(store: DataStore) -> None:
    found = np.concatenate(list(FrameFiles(store, shards=["c", "b"])))
    np.testing.assert_array_equal(found, np.concatenate([frames_of(6, 3), frames_of(4, 1)]))
    with pytest.raises(DataError, match="no shard 'z'"):
        list(FrameFiles(store, shards=["z"]))


def test_what_is_not_fit_is_refused(store: DataStore, tmp_path: Path) -> None:
    def refuse(source: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            list(FrameFiles(source, TOPOLOGY))

    refuse(tmp_path / "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "not a data store and has no")
    DataStore.create(tmp_path / "new", TOPOLOGY, temperature=400.0, force_map_hash="m")
    refuse(tmp_path / "new", "no frames yet")
    bad = frames_of(9, 1)
    bad[7, 3] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    refuse(tmp_path / "nan.npy", r"nan\.npy.*not finite.*frame 7")
    np.save(tmp_path / "beads.npy", frames_of(4, 1)[:, :9])
    refuse(tmp_path / "beads.npy", "9 beads")
    np.save(tmp_path / "none.npy", frames_of(0, 1))
    refuse(tmp_path / "none.npy", "no frames")
    np.save(tmp_path / "flat.npy", np.zeros(4))
    refuse(tmp_path / "flat.npy", r"shape \(4,\)")
    np.save(tmp_path / "text.npy", np.array([[["a"]]]))
    refuse(tmp_path / "text.npy", "expected real numbers")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "nan.npy").read_bytes()[:200])
    refuse(tmp_path / "cut.npy", "cannot be read")
    mdtraj.Trajectory(frames_of(3, 1) / 10, TOPOLOGY.to_mdtraj()).save_dcd(str(tmp_path / "t.dcd"))
    refuse(tmp_path / "t.dcd", "has no topology; give a topology file")
    shard = store.root / "shards" / "b.npz"
    content = bytearray(shard.read_bytes())
    content[400] ^= 1
    shard.write_bytes(bytes(content))
    refuse(store.root, "damaged")
    with pytest.raises(DataError, match="no frames given"):
        FrameFiles([])
