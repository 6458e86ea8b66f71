"""Start frames of dynamics that continues that of the iteration before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.components.frames import continued_positions
from tests.data.test_scratch import store


@pytest.mark.parametrize(("n", "each"), [(4, 1), (8, 2)])
def test_replicas_continue_from_their_trajectory_or_that_of_their_ladder(
    n: int, each: int, tmp_path: Path
) -> None:
    made = store(tmp_path / "s", "GYG", 30, 0)
    last = [np.full((5, 3, 3), float(k), dtype=np.float32) for k in range(4)]
    last[1] = last[1][:0]  # no frame
    found = continued_positions(made, last, {2 * each}, n, seed=1, spread=False)
    assert found.shape == (n, 3, 3)
    for replica, frame in enumerate(found):
        k = replica // each
        assert np.all(frame == k) == (k in (0, 3))
        if k in (1, 2):  # it has no frame, or a replica blew up
            assert (np.abs(made.positions(made.names()) - frame).max(axis=(1, 2)) < 1e-6).any()


def test_without_trajectories_they_are_frames_of_the_data(tmp_path: Path) -> None:
    made = store(tmp_path / "s", "GYG", 30, 0)
    found = continued_positions(made, [], set(), 4, seed=1, spread=True)
    assert len(np.unique(found.reshape(4, -1), axis=0)) == 4
