"""Greedy maximum coverage, against the same greedy choice on the full matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector import CoverageSelector, max_coverage
from cgal_plugin.testing import check_selector

from .reference import all_rmsd, moved, walks


def greedy(frames: np.ndarray, n_select: int, radius: float) -> tuple[list[int], list[int]]:
    near = all_rmsd(frames, frames) <= radius
    left = np.ones(len(frames), dtype=bool)
    indices, gains = [], []
    while left.any() and len(indices) < n_select:
        count = (near & left).sum(axis=1)
        indices.append(int(np.argmax(count)))
        gains.append(int(count.max()))
        left &= ~near[indices[-1]]
    return indices, gains


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_select=st.integers(1, 30), radius=st.floats(0.3, 3.0))
def test_equals_brute_force(seed: int, n_select: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    frames = moved(walks(45, 5, rng, step=0.8), rng)
    indices, gains = max_coverage(frames, n_select, radius)
    assert (indices.tolist(), gains.tolist()) == greedy(frames, n_select, radius)


def test_chooses_among_what_is_not_covered() -> None:
    rng = np.random.default_rng(3)
    covered, common, rare = (walks(1, 6, rng, step=4.0) for _ in range(3))
    cloud = [np.repeat(x, n, axis=0) for x, n in ((covered, 50), (common, 30), (rare, 5))]
    candidates = moved(np.concatenate(cloud) + 0.05 * rng.normal(size=(85, 6, 3)), rng)
    selector = CoverageSelector(4, min_rmsd=1.0).fit(covered)
    chosen = selector.select(candidates)
    # one of the thirty, then one of the five; then all are covered
    assert [50 <= chosen.indices[0] < 80, chosen.indices[1] >= 80] == [True, True]
    assert len(chosen) == 2
    assert (chosen.distances > 1.0).all()
    few = CoverageSelector(2, min_rmsd=1.0, max_candidates=10, seed=1).fit(covered)
    again = CoverageSelector(2, min_rmsd=1.0, max_candidates=10, seed=1).fit(covered)
    np.testing.assert_array_equal(few.select(candidates).indices, again.select(candidates).indices)


def test_contract() -> None:
    path = walks(160, 6, np.random.default_rng(11), step=0.6)
    check_selector(lambda n: CoverageSelector(n, min_rmsd=0.01), path[60:], path[:60])


def test_bad_parameters() -> None:
    path = walks(10, 5, np.random.default_rng(0))
    for radius in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(SelectionError, match="radius"):
            max_coverage(path, 2, radius)
    with pytest.raises(SelectionError, match="min_rmsd is 0"):
        CoverageSelector(3, min_rmsd=0.0)
    with pytest.raises(SelectionError, match="max_candidates"):
        CoverageSelector(3, max_candidates=0)
    with pytest.raises(SelectionError, match="n_select is 0"):
        CoverageSelector(0)
    with pytest.raises(SelectionError, match=r"call fit\(reference\) first"):
        CoverageSelector(3).select(path)
