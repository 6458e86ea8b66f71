"""The store: what goes in comes out, nothing is rewritten, nothing is mixed, damage is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.data import DataStore, LabelledFrames, Quarantined
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGTopology

TOPOLOGY = CGTopology.from_sequence("YYDPETGTWY")


def _frames(n: int = 5, seed: int = 0, beads: int = 10, **metadata: object) -> LabelledFrames:
    rng = np.random.default_rng(seed)
    return LabelledFrames(
        positions=rng.normal(size=(n, beads, 3)).astype(np.float32),
        forces=rng.normal(size=(n, beads, 3)).astype(np.float32),
        frame_index=np.arange(n) // 2,
        start_index=np.zeros(n, dtype=np.int64),
        force_error=np.full(n, np.nan, dtype=np.float32),
        quarantined=(Quarantined(7, "ring pierced", "library"),),
        metadata={"temperature": 400.0, "force_map_hash": "abc", **metadata},
    )


def _store(path: Path) -> DataStore:
    return DataStore.create(path, TOPOLOGY, temperature=400.0, force_map_hash="abc", config_hash="c")


def test_round_trip(tmp_path: Path) -> None:
    frames = _frames()
    _store(tmp_path).append("seed_000", frames, source="seed", round=0)
    store = DataStore(tmp_path)
    assert store.topology == TOPOLOGY
    assert store.names() == ["seed_000"]
    assert "seed_000" in store
    loaded = store.load("seed_000")
    np.testing.assert_array_equal(loaded.positions, frames.positions)
    np.testing.assert_array_equal(loaded.forces, frames.forces)
    assert loaded.quarantined == frames.quarantined
    assert store.record("seed_000")["facts"] == {"round": 0}


def test_blocks_are_numbered_over_shards(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.append("a", _frames(5), source="seed")
    store.append("b", _frames(3, seed=1), source="round_000")
    everything = store.load_all()
    assert everything.block.tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert everything.shard.tolist() == [0] * 5 + [1] * 3
    assert everything.sources == ("seed", "round_000")


def test_shards_are_never_rewritten(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.append("a", _frames(), source="seed")
    with pytest.raises(DataError, match="never rewritten"):
        store.append("a", _frames(seed=1), source="seed")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (_frames(beads=9), "9 beads"),
        (_frames(temperature=350.0), "350"),
        (_frames(force_map_hash="other"), "force maps are not mixed"),
        (_frames(0), "no frames"),
    ],
)
def test_what_does_not_belong_is_refused(tmp_path: Path, frames: LabelledFrames, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _store(tmp_path).append("a", frames, source="seed")


def test_another_store_in_the_same_place_is_refused(tmp_path: Path) -> None:
    _store(tmp_path)
    with pytest.raises(DataError, match="one temperature"):
        DataStore.create(tmp_path, TOPOLOGY, temperature=300.0, force_map_hash="abc")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="not allowed"):
        _store(tmp_path).append(name, _frames(), source="seed")


def test_damage_is_seen(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.append("a", _frames(), source="seed")
    path = tmp_path / "shards" / "a.npz"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="damaged"):
        store.load("a")
    path.unlink()
    with pytest.raises(DataError, match="gone"):
        store.load("a")


def test_unfinished_shard_is_ignored(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.append("a", _frames(), source="seed")
    (tmp_path / "shards" / "a.json").unlink()
    assert store.names() == []
    store.append("a", _frames(), source="seed")
    with pytest.raises(DataError, match=r"no store\.json"):
        DataStore(tmp_path / "nowhere")


def test_nan_and_shapes_are_refused() -> None:
    good = _frames()
    positions = good.positions.copy()
    positions[3, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"not finite.*frame 3"):
        LabelledFrames(positions, good.forces, good.frame_index, good.start_index, good.force_error)
    with pytest.raises(DataError, match="must agree"):
        LabelledFrames(good.positions, good.forces[:2], good.frame_index, good.start_index, good.force_error)


def test_concatenate_checks_beads() -> None:
    assert len(LabelledFrames.concatenate([_frames(2), _frames(3)])) == 5
    with pytest.raises(DataError, match="different numbers of beads"):
        LabelledFrames.concatenate([_frames(2), _frames(3, beads=9)])
    with pytest.raises(DataError, match="no labelled frames"):
        LabelledFrames.concatenate([])
