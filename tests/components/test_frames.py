"""Start frames of dynamics that continues that of the iteration before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.components.frames import continued_positions
from tests.data.test_scratch import store

#: the third of four replicas blew up; a hot replica of the last of four ladders, which goes on
PLAIN: dict[str, Any] = {"events": [{"replica": 2}]}
LADDERS: dict[str, Any] = {"events": [{"replica": 7}], "tempering": [{}]}


@pytest.mark.parametrize(("n", "results", "going_on"), [(4, PLAIN, (0, 3)), (8, LADDERS, (0, 3))])
def test_replicas_continue_from_their_trajectory_or_that_of_their_ladder(
    n: int, results: dict[str, Any], going_on: tuple[int, ...], tmp_path: Path
) -> None:
    made = store(tmp_path / "s", "GYG", 30, 0)
    last = [np.full((5, 3, 3), float(k), dtype=np.float32) for k in range(4)]
    last[1] = last[1][:0]  # no frame
    if n == 8:
        last[2] = last[2][:3]  # the replica at the temperature of the system blew up
    found = continued_positions(made, last, results, n, seed=1, spread=False)
    assert found.shape == (n, 3, 3)
    for replica, frame in enumerate(found):
        k = replica // (n // 4)
        assert np.all(frame == k) == (k in going_on)
        if k not in going_on:
            assert (np.abs(made.positions(made.names()) - frame).max(axis=(1, 2)) < 1e-6).any()


def test_fewer_trajectories_than_replicas_are_no_ladders(tmp_path: Path) -> None:
    """A sampler of the user may join its trajectories."""
    made = store(tmp_path / "s", "GYG", 30, 0)
    last = [np.full((5, 3, 3), 7.0, dtype=np.float32)]
    found = continued_positions(made, last, {"events": []}, 4, seed=1, spread=False)
    assert [bool(np.all(frame == 7.0)) for frame in found] == [True, False, False, False]


def test_without_trajectories_they_are_frames_of_the_data(tmp_path: Path) -> None:
    made = store(tmp_path / "s", "GYG", 30, 0)
    found = continued_positions(made, [], {}, 4, seed=1, spread=True)
    assert len(np.unique(found.reshape(4, -1), axis=0)) == 4
