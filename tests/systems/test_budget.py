"""The budget of a round: shared by coverage, equally, or at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.analysis.observables import rmsd_to_structure
from cgal_plugin.components.selection import select_frames
from cgal_plugin.systems.budget import (
    Allotted,
    Wanted,
    draw,
    record,
    scale_of,
    share_by_coverage,
    share_equally,
)


def wanted(gains: list[float], scale: float = 1.0) -> Wanted:
    g = np.array(gains, dtype=np.float64)
    return Wanted(np.arange(len(g)), g, g, scale, 100)


systems = st.dictionaries(
    st.sampled_from("abcde"),
    st.tuples(
        st.lists(st.floats(0.01, 5.0), max_size=8).map(lambda x: sorted(x, reverse=True)),
        st.floats(0.2, 4.0),
    ),
    min_size=1,
)


@settings(max_examples=200, deadline=None)
@given(systems, st.integers(0, 30))
def test_sharing_by_coverage_takes_the_largest_gains(
    content: dict[str, tuple[list[float], float]], n: int
) -> None:
    found = {name: wanted(*own) for name, own in content.items()}
    taken = share_by_coverage(found, n)
    available = sum(len(w.indices) for w in found.values())
    assert sum(taken.values()) == min(n, available)
    relative = {name: w.gains / w.scale for name, w in found.items()}
    # brute force: with gains that decrease in each system, these are the n largest of all
    every = sorted((g for own in relative.values() for g in own), reverse=True)
    got = sorted((g for name, own in relative.items() for g in own[: taken[name]]), reverse=True)
    np.testing.assert_allclose(got, every[: len(got)])


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 10), min_size=1),
    st.integers(0, 40),
    st.integers(0, 9),
)
def test_equal_shares_differ_by_one_at_most(sizes: dict[str, int], n: int, first: int) -> None:
    taken = share_equally(sizes, n, first)
    assert sum(taken.values()) == min(n, sum(sizes.values()))
    assert all(taken[name] <= size for name, size in sizes.items())
    open_ones = [taken[name] for name in sizes if taken[name] < sizes[name]]
    if open_ones:
        assert max(taken.values()) - min(open_ones) <= 1


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcde"), st.sets(st.integers(0, 50), max_size=10), min_size=1),
    st.integers(0, 40),
    st.integers(0, 1000),
)
def test_draws_are_distinct_frames_of_all_systems(sets: dict[str, set[int]], n: int, seed: int) -> None:
    rows = {name: np.array(sorted(own), dtype=np.int64) for name, own in sets.items()}
    found = draw(rows, n, seed)
    assert sum(len(own) for own in found.values()) == min(n, sum(map(len, sets.values())))
    for name, own in found.items():
        assert len(set(own.tolist())) == len(own)
        assert set(own.tolist()) <= sets[name]
    again = draw(rows, n, seed)
    assert {k: v.tolist() for k, v in again.items()} == {k: v.tolist() for k, v in found.items()}


def test_gains_are_distances_to_the_data_and_to_earlier_choices() -> None:
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(20, 6, 3)) * 3
    indices = np.array([4, 9, 1, 17])
    distances = np.array([9.0, 0.1, 8.0, 7.0])
    found = Wanted.of(candidates, indices, distances, 0)
    for k, i in enumerate(indices):
        near = [float(rmsd_to_structure(candidates[i][None], candidates[j])[0]) for j in indices[:k]]
        assert found.gains[k] == pytest.approx(min([distances[k], *near]))


def test_the_scale_grows_with_the_spread() -> None:
    rng = np.random.default_rng(1)
    shape = rng.normal(size=(1, 8, 3)) * 4
    narrow, wide = (shape + rng.normal(scale=s, size=(200, 8, 3)) for s in (0.1, 1.0))
    assert scale_of(wide, 0) == pytest.approx(10 * scale_of(narrow, 0), rel=0.2)
    assert scale_of(narrow[:1], 0) == 1.0


def test_a_system_without_a_share_says_why() -> None:
    candidates = np.zeros((5, 4, 3))
    none = select_frames(Allotted([], []), candidates, lambda: candidates, lambda: np.zeros(5))
    assert len(none[0]) == 0
    assert "other systems" in str(none[2])
    got = select_frames(Allotted([3, 1], [0.5, 0.2]), candidates, lambda: candidates, lambda: np.zeros(5))
    assert (got[0].tolist(), got[1].tolist(), got[2]) == ([3, 1], [0.5, 0.2], None)


def test_the_record_says_what_each_system_got_and_why() -> None:
    found = {"a": wanted([2.0, 1.0], 2.0), "b": wanted([3.0], 10.0)}
    facts = record(found, share_by_coverage(found, 2))
    assert (facts["a"]["n"], facts["b"]["n"]) == (2, 0)
    assert facts["a"]["relative"] == [1.0, 0.5]
    assert (facts["b"]["scale"], facts["b"]["wanted"]) == (10.0, 1)
