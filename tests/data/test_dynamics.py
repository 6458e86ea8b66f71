"""Free dynamics of a store: what moved freely, start by start, at one interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.data.dynamics import free_trajectories, save_intervals
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGTopology


def shard(n: int, starts: int = 1, **metadata: Any) -> LabelledFrames:
    positions = np.zeros((n, 3, 3), dtype=np.float32)
    positions[:, 0, 0] = np.arange(n)  # its number
    return LabelledFrames(
        positions=positions,
        forces=np.zeros_like(positions),
        frame_index=np.zeros(n, dtype=np.int64),
        start_index=np.arange(n) * starts // n,
        force_error=np.ones(n),
        metadata={"temperature": 400.0, "force_map_hash": "abc", **metadata},
    )


@pytest.fixture
def store(tmp_path: Path) -> DataStore:
    topology = CGTopology.from_sequence("GAG")
    return DataStore.create(tmp_path / "data", topology, temperature=400.0, force_map_hash="abc")


def numbers(trajectories: list[np.ndarray]) -> list[list[int]]:
    return [t[:, 0, 0].astype(int).tolist() for t in trajectories]


def test_what_moved_freely(store: DataStore) -> None:
    store.append("seed_000", shard(10, mode="free", restraint=0.0, save_ps=0.04), source="seed")
    store.append("two_starts", shard(8, 2, mode="free", save_ps=0.1), source="round_000")
    store.append("held", shard(8, mode="free", restraint=1.0, save_ps=0.1), source="round_000")
    store.append("frozen", shard(8, mode="mean_force", save_ps=0.1), source="round_000")
    store.append("drawn", shard(8, mode="steered", restraint=2.0, save_ps=0.1), source="round_000")
    released = shard(8, mode="steered", restraint=2.0, release_ps=0.5, save_ps=0.1)
    store.append("released", released, source="round_000")
    store.append("somebody_elses", shard(8), source="round_000")
    assert save_intervals(store) == {0.04, 0.1}
    # every fifth of the seed's, every second of the labels'
    assert sorted(numbers(free_trajectories(store, 0.2))) == [[0, 2], [0, 5], [3, 5, 7], [4, 6]]


def test_none_and_a_wrong_interval_are_named(store: DataStore) -> None:
    store.append("drawn", shard(8, mode="steered", restraint=2.0, save_ps=0.1), source="round_000")
    with pytest.raises(DataError, match="no all-atom dynamics without a bias"):
        free_trajectories(store, 0.2)
    store.append("seed_000", shard(10, mode="free", save_ps=0.3), source="seed")
    with pytest.raises(DataError, match=r"'seed_000' has a frame every 0\.3 ps, which does not divide 0\.2"):
        free_trajectories(store, 0.2)
