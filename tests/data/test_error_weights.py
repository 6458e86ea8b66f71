"""Weights of frames from the errors of their forces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cgal_plugin.data import StoredFrames
from cgal_plugin.data.error_weights import frame_weights, source_weights


def stored(**errors: Any) -> StoredFrames:
    """Frames of one bead; each source's errors, in two shards where there are several."""
    names, sources, shard, error = [], [], [], []
    for source, values in errors.items():
        for part in np.array_split(np.asarray(values, dtype=np.float32), 2):
            shard += [len(names)] * len(part)
            error += part.tolist()
            names.append(f"{source}_{len(names)}")
            sources.append(source)
    n = len(error)
    x = np.zeros((n, 1, 3), dtype=np.float32)
    return StoredFrames(
        x, x, np.array(error, dtype=np.float32), np.array(shard), np.zeros(n, dtype=np.int64),
        tuple(names), tuple(sources),
    )  # fmt: skip


def test_inverse_variance_of_the_source() -> None:
    frames = stored(seed=[9.0, 11.0, 10.0, 10.0], round_001=[1.0, 3.0], round_002=[9.5, 9.5])
    ratio = np.mean([81, 121, 100, 100]) / 5.0
    assert source_weights(frames) == {"round_001": pytest.approx(ratio, abs=0.06)}
    weights = frame_weights(frames)
    assert weights[[0, 1, 2, 3, 6, 7]].tolist() == [1.0] * 6
    assert weights[4] == weights[5] == source_weights(frames)["round_001"]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({"seed": [10.0, 10.0], "round_001": [0.1, 0.1]}, {"round_001": 100.0}),
        ({"seed": [10.0, 10.0], "round_001": [0.0, 0.0]}, {}),
        ({"seed": [10.0, 10.0], "round_001": [8.0, 8.0]}, {}),
        ({"seed": [np.nan, np.nan], "round_001": [1.0, 1.0]}, {}),
        ({"seed": [10.0, np.nan], "round_001": [np.nan, 2.0]}, {"round_001": 25.0}),
        ({"seed": [0.0, 0.0], "round_001": [0.0, 0.0]}, {}),
        ({"seed": [np.nan], "round_001": [np.nan]}, {}),
    ],
)
def test_bounds_and_unknown_errors(errors: dict[str, Any], expected: dict[str, float]) -> None:
    assert source_weights(stored(**errors)) == expected
