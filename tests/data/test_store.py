"""The store: round trips, shards are never rewritten or mixed, damage is detected."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.data import DataStore, LabelledFrames, Quarantined, shard_files
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.provenance import hash_file, write_sealed

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
    with pytest.raises(DataError, match="does not exist"):
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


def test_positions_alone(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for seed, name in enumerate("abc"):
        store.append(name, _frames(5 + seed, seed=seed), source="seed")
    np.testing.assert_array_equal(store.positions(), store.load_all().positions)
    np.testing.assert_array_equal(store.positions(["c", "a"]), store.load_all(["c", "a"]).positions)
    with pytest.raises(DataError, match="no frames yet"):
        store.positions([])


def test_a_record_of_other_frames_is_refused(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.append("a", _frames(5), source="seed")
    path = tmp_path / "shards" / "a.json"
    record = store.record("a") | {"n_frames": 4}
    write_sealed(path, record)
    for read in (store.load_all, store.positions):
        with pytest.raises(DataError, match=r"shape \(5, 10, 3\); its record says \(4, 10, 3\)"):
            read()


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_blocks_are_numbered_in_the_order_of_frame_and_start(order: str) -> None:
    rng = np.random.default_rng(0)
    frame, start = rng.integers(0, 6, size=(2, 80))
    rows = np.lexsort((start, frame)) if order == "sorted" else np.arange(80)
    frame, start = frame[rows], start[rows]
    zeros = np.zeros((80, 1, 3))
    pairs = sorted(set(zip(frame.tolist(), start.tolist(), strict=True)))
    expected = [pairs.index(pair) for pair in zip(frame.tolist(), start.tolist(), strict=True)]
    assert LabelledFrames(zeros, zeros, frame, start, np.zeros(80)).block.tolist() == expected


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that are hashed from now on; files count as settled at once."""
    seen: list[Path] = []

    def counted(path: Path) -> str:
        seen.append(path)
        return hash_file(path)

    monkeypatch.setattr(shard_files, "hash_file", counted)
    monkeypatch.setattr(shard_files, "_SETTLED", 0)
    return seen


def test_shards_are_hashed_once_per_process(tmp_path: Path, hashed: list[Path]) -> None:
    store = _store(tmp_path)
    store.append("a", _frames(), source="seed")
    store.append("b", _frames(seed=1), source="seed")
    hashed.clear()
    time.sleep(0.02)  # longer than a tick of the file system's clock
    for _ in range(3):
        store.load("a")
        store.load_all()
        DataStore(tmp_path).verify("b")
    assert sorted(p.name for p in hashed) == ["a.npz", "b.npz"]


@pytest.mark.parametrize("change", ["replaced", "modified", "modified, time restored", "other record"])
def test_a_changed_shard_is_hashed_again(tmp_path: Path, hashed: list[Path], change: str) -> None:
    store = _store(tmp_path)
    store.append("a", _frames(), source="seed")
    time.sleep(0.02)
    store.load("a")
    path = tmp_path / "shards" / "a.npz"
    state = path.stat()
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    if change == "replaced":
        path.with_suffix(".new").write_bytes(raw)
        os.replace(path.with_suffix(".new"), path)
    elif change == "other record":
        write_sealed(path.with_suffix(".json"), store.record("a") | {"sha256": "0" * 64})
    else:
        path.write_bytes(raw)
    if change == "modified, time restored":
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(DataError, match="damaged"):
        store.verify("a")


def test_a_file_that_changed_just_now_is_hashed_again(
    tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "_SETTLED", 3600 * 10**9)
    store = _store(tmp_path)
    store.append("a", _frames(), source="seed")
    hashed.clear()
    store.verify("a")
    store.verify("a")
    assert len(hashed) == 2
