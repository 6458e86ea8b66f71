"""Frames that are kept back from training: none of them, and no neighbour, is in a shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.data.reserved import RESERVED, ReservingStore, Withheld, copy_withheld, divide
from cgal_plugin.data.shard_files import ShardFile
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGTopology

TOPOLOGY = CGTopology.from_sequence("GYGAG")


def store(folder: Path) -> ReservingStore:
    DataStore.create(folder, TOPOLOGY, temperature=400.0, force_map_hash="none")
    return ReservingStore(folder)


def frames(n: int, save_ps: float | None = None, block: np.ndarray | None = None) -> LabelledFrames:
    """Frame i is marked by its first coordinate."""
    xyz = np.zeros((n, 5, 3))
    xyz[:, :, 0] = np.arange(5)
    xyz[:, 0, 1] = np.arange(n)
    index = np.zeros(n, dtype=np.int64) if block is None else block
    facts = {} if save_ps is None else {"save_ps": save_ps}
    return LabelledFrames(xyz, 0 * xyz, index, 0 * index, np.zeros(n), metadata=facts)


def marks(positions: np.ndarray) -> list[int]:
    return positions[:, 0, 1].astype(int).tolist()


@pytest.mark.parametrize(
    ("n", "save_ps", "kept", "first"),
    [
        (1000, 0.1, 890, 900),  # 1 ps is 10 frames
        (1000, 0.04, 875, 900),
        (1000, 2.0, 899, 900),  # never none: neighbours are correlated
        (200, 0.02, 160, 180),  # a short trajectory: no more than is reserved
        (1000, None, 800, 900),  # unknown times
    ],
)
def test_the_end_of_a_trajectory_is_reserved_with_a_gap(
    tmp_path: Path, n: int, save_ps: float | None, kept: int, first: int
) -> None:
    assert divide(n, save_ps) == (kept, first)
    data = store(tmp_path)
    data.append("a", frames(n, save_ps), source="seed")
    assert marks(data.positions()) == list(range(kept))
    withheld = Withheld.read(data)
    assert marks(withheld.positions) == list(range(kept, n))
    assert marks(withheld.starts) == list(range(first, n))
    record = data.record("a")["facts"]
    assert (record["n_reserved"], record["n_left_out"]) == (n - first, first - kept)
    assert data.names() == ["a"]
    assert len(DataStore(tmp_path).load("a")) == kept


def test_blocks_are_kept_together_in_whatever_order_their_rows_are(tmp_path: Path) -> None:
    block = np.arange(200) % 20  # rows of 20 blocks in turn
    data = store(tmp_path)
    data.append("a", frames(200, 1.0, block), source="seed")
    starts = {int(m) % 20 for m in marks(Withheld.read(data).starts)}
    trained = {int(m) % 20 for m in marks(data.positions())}
    assert starts == {18, 19}
    assert trained == set(range(18))


def test_an_adopted_shard_is_divided_as_well(tmp_path: Path) -> None:
    data = store(tmp_path / "store")
    shard = ShardFile.write(tmp_path / "x.npz", frames(100, 0.5))
    data.adopt("a", shard, source="seed")
    assert not shard.path.exists()
    assert marks(data.positions()) == list(range(88))
    assert len(Withheld.read(data).starts) == 10


def test_single_labels_are_kept_back_as_a_whole(tmp_path: Path) -> None:
    data = store(tmp_path)
    for i in range(200):
        data.append(f"seed_{i:03d}", frames(2), source="seed")
    n = 200 - len(data.names())
    assert 5 < n < 40
    assert len(Withheld.read(data).starts) == 2 * n
    before = data.names()
    for i in range(200):  # a resumed run fills what is missing
        if f"seed_{i:03d}" not in data:
            data.append(f"seed_{i:03d}", frames(2), source="seed")
    assert data.names() == before


def test_a_store_is_never_left_empty(tmp_path: Path) -> None:
    for i in range(30):
        data = store(tmp_path / str(i))
        data.append(f"s{i}", frames(1), source="seed")
        assert data.names() == [f"s{i}"]


def test_what_a_store_has_kept_back_is_copied_and_damage_is_named(tmp_path: Path) -> None:
    data = store(tmp_path / "a")
    data.append("a", frames(100), source="seed")
    other = store(tmp_path / "b")
    assert not copy_withheld(other, tmp_path / "c")
    assert copy_withheld(data, tmp_path / "b")
    assert marks(Withheld.read(other).starts) == list(range(90, 100))
    path = tmp_path / "b" / RESERVED / "a.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz is damaged.*starts of the model test"):
        Withheld.read(other)
