"""Figures of the test of a benchmark's models."""

from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin.components.model_forces import noise_floor
from cgal_plugin.components.model_test import FES_CELLS, tic_histogram


def test_noise_floor_leaves_out_what_changes_slowly() -> None:
    rng = np.random.default_rng(0)
    n, keep = 4000, np.exp(-0.04 / 5.0)  # an error that lives 5 ps, in frames of 0.04 ps
    series = []
    for _ in range(4):
        slow = np.zeros((n, 4, 3))
        slow[0] = rng.normal(0, 2, (4, 3))
        for k in range(1, n):
            slow[k] = keep * slow[k - 1] + np.sqrt(1 - keep**2) * rng.normal(0, 2, (4, 3))
        series.append(slow + rng.normal(0, 9, slow.shape))
    assert np.sqrt(np.mean(np.square(series))) == pytest.approx(np.hypot(9, 2), rel=0.01)
    assert noise_floor(series, 0.04) == pytest.approx(9.0, rel=0.01)
    assert noise_floor([s[:10] for s in series], 0.04) is None


def test_histogram_is_about_the_reference_and_holds_every_frame() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal([3, -2], [0.5, 4], (20_000, 2))
    counts = np.array(tic_histogram(reference, reference, None))
    assert counts.shape == (FES_CELLS, FES_CELLS)
    assert counts.sum() == pytest.approx(1e6, rel=1e-3)
    # 0.2 standard deviations a cell: the four in the middle hold erf(0.2 / √2)²
    middle = slice(FES_CELLS // 2 - 1, FES_CELLS // 2 + 1)
    assert counts[middle, middle].sum() == pytest.approx(1e6 * 0.1585**2, rel=0.15)
    far = np.array(tic_histogram(reference + 100.0, reference, None))
    assert far[-1, -1] == pytest.approx(1e6)
