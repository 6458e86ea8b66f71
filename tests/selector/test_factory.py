"""Selectors by name, and selection with known distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector import (
    CommitteeSelector,
    CoverageSelector,
    RandomSelector,
    RMSDSelector,
    make_selector,
    nearest_rmsd,
)
from cgal_plugin.selector.factory import KINDS
from cgal_plugin.selector.strategies import BaseSelector

from .reference import walks

CLASSES = {
    "rmsd": RMSDSelector,
    "coverage": CoverageSelector,
    "random": RandomSelector,
    "committee": CommitteeSelector,
}


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray]:
    path = walks(120, 6, np.random.default_rng(11), step=0.6)
    return path[60:], path[:60]


def make(kind: str, **options: Any) -> BaseSelector:
    members = [np.sin, np.cos] if kind == "committee" else None
    return make_selector(kind, 7, min_rmsd=0.2, seed=3, members=members, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_selector_of_a_kind(kind: str) -> None:
    selector = make(kind, max_rmsd=9.0)
    assert type(selector) is CLASSES[kind]
    cuts = selector.n_select, selector.min_rmsd, selector.max_rmsd, selector.seed
    assert cuts == (7, 0.2, 9.0, 3)


@pytest.mark.parametrize("diverse", [True, False])
@pytest.mark.parametrize("kind", ["rmsd", "committee"])
def test_diverse_is_passed_on(kind: str, diverse: bool) -> None:
    assert vars(make(kind, diverse=diverse))["diverse"] is diverse


def test_unknown_kinds_and_missing_members() -> None:
    with pytest.raises(SelectionError, match="'rsmd' is not known; use one of rmsd, coverage, random, comm"):
        make_selector("rsmd", 3)
    with pytest.raises(SelectionError, match="needs members"):
        make_selector("committee", 3)


@pytest.mark.parametrize("diverse", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_select_with_known_distances_equals_select(
    kind: str, diverse: bool, sets: tuple[np.ndarray, np.ndarray]
) -> None:
    candidates, reference = sets
    selector = make(kind, diverse=diverse).fit(reference)
    expected = selector.select(candidates)
    distances = nearest_rmsd(candidates, reference)[0]
    for known in (distances, selector.distances(candidates)):
        found = make(kind, diverse=diverse).select_with(candidates, known)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.distances, expected.distances)
        np.testing.assert_array_equal(found.all_distances, expected.all_distances)
        np.testing.assert_array_equal(np.array(found.scores), np.array(expected.scores))


def test_select_with_without_a_reference(sets: tuple[np.ndarray, np.ndarray]) -> None:
    selector = RandomSelector(5, seed=1)
    unknown = np.full(60, np.nan)
    found = selector.select_with(sets[0], unknown)
    np.testing.assert_array_equal(found.indices, selector.select(sets[0]).indices)


def test_select_with_checks_candidates_and_distances(sets: tuple[np.ndarray, np.ndarray]) -> None:
    candidates, reference = sets
    known = nearest_rmsd(candidates, reference)[0]
    kept = known.copy()
    selector = RMSDSelector(3).fit(reference)
    with pytest.raises(SelectionError, match="NaN or negative"):
        RMSDSelector(3).select_with(candidates, np.full(60, np.nan))
    with pytest.raises(SelectionError, match=r"shape \(59,\); expected \(60,\)"):
        selector.select_with(candidates, known[1:])
    with pytest.raises(SelectionError, match="4 beads"):
        selector.select_with(candidates[:, :4], known)
    broken = candidates.copy()
    broken[17, 2, 1] = np.nan
    with pytest.raises(SelectionError, match="frame 17"):
        selector.select_with(broken, known)
    for value in (np.nan, -1.0):
        with pytest.raises(SelectionError, match="NaN or negative"):
            selector.select_with(candidates, np.where(np.arange(60) == 4, value, known))
    with pytest.raises(SelectionError, match="no frame selected"):
        RMSDSelector(3, min_rmsd=90.0).fit(reference).select_with(candidates, known)
    assert selector.select_with(candidates, known).all_distances is not known
    np.testing.assert_array_equal(known, kept)
