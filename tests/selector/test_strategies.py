"""What the selectors choose, against a greedy search over the full matrix."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.errors import SelectionError
from cgal_plugin.selector import RandomSelector, RMSDSelector, Selection, k_centre, nearest_rmsd
from cgal_plugin.selector import strategies as strategies_module
from cgal_plugin.selector.rmsd import update_nearest
from cgal_plugin.testing import check_selector

from .reference import all_rmsd, moved, trajectory, walks


def greedy(
    candidates: np.ndarray, reference: np.ndarray, n_select: int, low: float, high: float, diverse: bool
) -> list[int]:
    """Greedy k-centre with all the matrices that the real one avoids."""
    nearest = all_rmsd(candidates, reference).min(axis=1)
    left = np.where((nearest >= low) & (nearest <= high), nearest, -np.inf)
    among = all_rmsd(candidates, candidates)
    chosen: list[int] = []
    for _ in range(min(n_select, int(np.isfinite(left).sum()))):
        pick = int(np.argmax(left))
        chosen.append(pick)
        if diverse:
            left = np.minimum(left, among[pick])
        left[pick] = -np.inf
    return chosen


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    path = walks(160, 6, rng, step=0.6)
    return path[60:], path[:60]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    diverse=st.booleans(),
    n_select=st.integers(1, 12),
    low=st.floats(0.0, 1.0),
    width=st.floats(0.5, 5.0),
)
def test_equals_brute_force(seed: int, diverse: bool, n_select: int, low: float, width: float) -> None:
    rng = np.random.default_rng(seed)
    path = walks(40, 5, rng, step=0.8)
    candidates, reference = moved(path[15:], rng), moved(path[:15], rng)
    expected = greedy(candidates, reference, n_select, low, low + width, diverse)
    selector = RMSDSelector(n_select, min_rmsd=low, max_rmsd=low + width, diverse=diverse).fit(reference)
    if not expected:
        with pytest.raises(SelectionError, match="no frame selected"):
            selector.select(candidates)
        return
    selection = selector.select(candidates)
    assert selection.indices.tolist() == expected
    nearest = all_rmsd(candidates[expected], reference).min(axis=1)
    np.testing.assert_allclose(selection.distances, nearest, atol=2e-6)
    np.testing.assert_array_equal(selection.distances, selection.all_distances[selection.indices])


def test_large_k_centre_equals_plain_greedy() -> None:
    # enough frames for the pruning by the embedding to matter
    rng = np.random.default_rng(12)
    frames = walks(3000, 8, rng, step=0.5)
    indices, radius = k_centre(frames, 12)
    left, expected, reach = np.full(len(frames), np.inf), [], []
    for _ in range(12):
        pick = int(np.argmax(left))
        expected.append(pick)
        reach.append(left[pick])
        left = np.minimum(left, nearest_rmsd(frames, frames[pick : pick + 1])[0])
    assert indices.tolist() == expected
    np.testing.assert_allclose(radius[1:], reach[1:], atol=1e-6)
    assert np.isinf(radius[0])
    assert (np.diff(radius[1:]) <= 1e-9).all()


def test_duplicates_come_last() -> None:
    rng = np.random.default_rng(13)
    frames = walks(10, 6, rng, step=1.0)
    doubled = np.concatenate([frames, moved(frames, rng)])
    indices, radius = k_centre(doubled, 20)
    assert set((indices[:10] % 10).tolist()) == set(range(10))
    assert radius[10:].max() < 1e-6
    assert sorted(indices.tolist()) == list(range(20))


def test_diversity_spreads_the_batch(sets: tuple[np.ndarray, np.ndarray]) -> None:
    candidates, reference = sets
    spread = RMSDSelector(8).fit(reference).select(candidates)
    plain = RMSDSelector(8, diverse=False).fit(reference).select(candidates)
    assert spread.indices[0] == plain.indices[0] == np.argmax(spread.all_distances)
    assert (np.diff(plain.distances) <= 0.0).all()

    def closest(chosen: np.ndarray) -> float:
        matrix = all_rmsd(candidates[chosen], candidates[chosen])
        return float(matrix[~np.eye(8, dtype=bool)].min())

    assert closest(spread.indices) > closest(plain.indices)
    after = nearest_rmsd(candidates, np.concatenate([reference, candidates[spread.indices]]))[0]
    other = nearest_rmsd(candidates, np.concatenate([reference, candidates[plain.indices]]))[0]
    assert after.max() <= other.max()


def test_cuts_and_short_supply(sets: tuple[np.ndarray, np.ndarray]) -> None:
    candidates, reference = sets
    nearest = nearest_rmsd(candidates, reference)[0]
    low, high = np.quantile(nearest, [0.9, 0.97])
    for selector in (
        RMSDSelector(50, min_rmsd=low, max_rmsd=high),
        RMSDSelector(50, min_rmsd=low, max_rmsd=high, diverse=False),
        RandomSelector(50, min_rmsd=low, max_rmsd=high),
    ):
        selection = selector.fit(reference).select(candidates)
        within = np.flatnonzero((nearest >= low) & (nearest <= high))
        assert sorted(selection.indices.tolist()) == within.tolist()
    with pytest.raises(SelectionError, match=r"min_rmsd=90.*\(100 frames are below, 0 above\)"):
        RMSDSelector(3, min_rmsd=90.0).fit(reference).select(candidates)
    exploded = candidates.copy()
    exploded[:5] *= 1e6
    assert not set(range(5)) & set(RMSDSelector(90, max_rmsd=50.0).fit(reference).select(exploded).indices)


def test_partial_fit_compares_new_frames_only(
    sets: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, reference = sets
    compared: list[int] = []

    def counted(*arguments):
        compared.append(update_nearest(*arguments))
        return compared[-1]

    monkeypatch.setattr(strategies_module, "update_nearest", counted)
    selector = RMSDSelector(4).fit(reference)
    first = selector.select(candidates)
    second = selector.partial_fit(candidates[first.indices]).select(candidates)
    assert compared == [60, 4]
    assert selector.n_reference == 64
    whole = RMSDSelector(4).fit(np.concatenate([reference, candidates[first.indices]])).select(candidates)
    np.testing.assert_array_equal(second.indices, whole.indices)
    np.testing.assert_allclose(second.all_distances, whole.all_distances, atol=2e-6)
    assert not set(first.indices) & set(second.indices)
    # other candidates, or the same array with other content: nothing is served from before
    changed = candidates.copy()
    changed[0] *= 1.5
    np.testing.assert_allclose(
        selector.select(changed).all_distances,
        nearest_rmsd(changed, np.concatenate([reference, candidates[first.indices]]))[0],
        atol=2e-6,
    )


def test_random_is_seeded_and_unbiased(sets: tuple[np.ndarray, np.ndarray]) -> None:
    candidates, reference = sets
    first = RandomSelector(20, seed=3).select(candidates)
    np.testing.assert_array_equal(first.indices, RandomSelector(20, seed=3).select(candidates).indices)
    assert first.indices.tolist() != RandomSelector(20, seed=4).select(candidates).indices.tolist()
    assert len(set(first.indices.tolist())) == 20
    assert np.isnan(first.distances).all()
    assert np.isfinite(RandomSelector(20).fit(reference).select(candidates).distances).all()
    counts = np.zeros(len(candidates))
    for seed in range(400):
        counts[RandomSelector(20, seed=seed).select(candidates).indices] += 1
    # 400 draws at p = 0.2: mean 80, sd 8; six sigma for each of 100 frames: false alarm 2e-7
    assert np.abs(counts - 80).max() < 48


def test_estimator_manners(sets: tuple[np.ndarray, np.ndarray]) -> None:
    candidates, reference = sets
    selector = RMSDSelector(7, min_rmsd=0.1, max_rmsd=9.0, diverse=False, seed=5)
    assert (selector.n_select, selector.min_rmsd, selector.max_rmsd) == (7, 0.1, 9.0)
    assert (selector.diverse, selector.seed) == (False, 5)
    assert "RMSDSelector(n_select=7, min_rmsd=0.1" in repr(selector)
    assert selector.fit(reference) is selector
    assert selector.partial_fit(candidates[:1]) is selector
    selection = selector.select(candidates)
    assert isinstance(selection, Selection)
    assert len(selection) == 7
    assert selection.indices.dtype == np.int64
    with pytest.raises(dataclasses.FrozenInstanceError):
        selection.indices = np.arange(3)


def test_trajectories_and_units(sets: tuple[np.ndarray, np.ndarray]) -> None:
    candidates, reference = (a.astype(np.float32) for a in sets)
    expected = RMSDSelector(6).fit(reference).select(candidates)
    other = RMSDSelector(6).fit(trajectory(reference)).select(trajectory(candidates))
    np.testing.assert_array_equal(expected.indices, other.indices)
    in_nm = RMSDSelector(6, unit="nm", max_rmsd=50.0).fit(reference / 10).select(candidates / 10)
    np.testing.assert_array_equal(expected.indices, in_nm.indices)
    np.testing.assert_allclose(in_nm.distances, expected.distances, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_select": 0}, "n_select is 0"),
        ({"n_select": 2.5}, "n_select is 2.5"),
        ({"n_select": True}, "n_select is True"),
        ({"n_select": 3, "min_rmsd": -1.0}, "min_rmsd"),
        ({"n_select": 3, "min_rmsd": 2.0, "max_rmsd": 1.0}, "max_rmsd"),
        ({"n_select": 3, "min_rmsd": float("nan")}, "nan"),
    ],
)
def test_bad_parameters(options: dict, message: str) -> None:
    for kind in (RMSDSelector, RandomSelector):
        with pytest.raises(SelectionError, match=message):
            kind(**options)


def test_bad_frames(sets: tuple[np.ndarray, np.ndarray]) -> None:
    candidates, reference = sets
    with pytest.raises(SelectionError, match=r"call fit\(reference\) first"):
        RMSDSelector(3).select(candidates)
    with pytest.raises(SelectionError, match=r"call fit\(reference\) first"):
        RandomSelector(3, max_rmsd=5.0).select(candidates)
    broken = candidates.copy()
    broken[17, 2, 1] = np.nan
    for selector in (RMSDSelector(3).fit(reference), RandomSelector(3)):
        with pytest.raises(SelectionError, match="frame 17"):
            selector.select(broken)
    with pytest.raises(SelectionError, match="frame 17"):
        RMSDSelector(3).fit(broken)
    with pytest.raises(SelectionError, match="4 beads"):
        RMSDSelector(3).fit(reference).partial_fit(reference[:, :4])
    with pytest.raises(SelectionError, match="4 beads"):
        RMSDSelector(3).fit(reference).select(candidates[:, :4])
    with pytest.raises(SelectionError, match="one per frame"):
        k_centre(candidates, 3, distances=np.zeros(4))


def test_contract(sets: tuple[np.ndarray, np.ndarray]) -> None:
    check_selector(lambda n: RMSDSelector(n), *sets)
    check_selector(lambda n: RMSDSelector(n, diverse=False), *sets)
    check_selector(lambda n: RandomSelector(n, seed=1), *sets)


def test_contract_check_can_fail(sets: tuple[np.ndarray, np.ndarray]) -> None:
    class Repeats(RMSDSelector):
        def _choose(self, candidates, eligible, distances):
            return np.zeros(self.n_select, dtype=np.int64), None

    class Unseeded(RandomSelector):
        def _choose(self, candidates, eligible, distances):
            return np.random.default_rng().permutation(eligible)[: self.n_select], None

    class Writes(RMSDSelector):
        def select(self, candidates):
            candidates += 1.0
            return super().select(candidates)

    for kind, message in ((Repeats, "distinct"), (Unseeded, "same candidates"), (Writes, "changed")):
        with pytest.raises(AssertionError, match=message):
            check_selector(lambda n, kind=kind: kind(n), sets[0].copy(), sets[1].copy())
