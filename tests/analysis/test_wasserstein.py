from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cgal_plugin.analysis import W1Result, relative_reduction, w1, w1_points
from cgal_plugin.analysis.resampling import make_blocks, resampled_counts, split_halves
from cgal_plugin.analysis.transport import Quantised, exact_w1
from cgal_plugin.analysis.wasserstein import floors
from cgal_plugin.errors import AnalysisError
from cgal_plugin.provenance import hash_array
from tests.analysis.toy import ensembles

FAST = {"n_bootstrap": 20, "n_splits": 3, "bootstrap_points": 60}
NONE = {"n_bootstrap": 0, "n_splits": 0}


def gaussian(n: int, seed: int, shift=(0.0, 0.0), parts: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 2)) + np.asarray(shift) for _ in range(parts)]


# ---------------------------------------------------------------- transport itself


def test_one_dimension_is_the_quantile_formula() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=200), rng.gamma(2.0, size=200)
    w = np.ones(200)
    expected = np.abs(np.sort(x) - np.sort(y)).mean()
    assert exact_w1(x[:, None], y[:, None], w, w) == pytest.approx(expected, rel=1e-12)
    # the same numbers as points on a line in the plane go through POT
    flat = [np.stack([v, np.zeros(200)], axis=1) for v in (x, y)]
    assert exact_w1(*flat, w, w) == pytest.approx(expected, rel=1e-9)


def test_against_pot_with_weights() -> None:
    import ot

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(80, 2)), rng.normal(size=(120, 2)) + 0.7
    a, b = rng.dirichlet(np.ones(80)), rng.dirichlet(np.ones(120))
    cost = np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))
    assert exact_w1(x, y, 3 * a, b) == pytest.approx(ot.emd2(a, b, cost), rel=1e-9)


def test_point_masses() -> None:
    x, y = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 0.0]])
    assert exact_w1(x, y, np.ones(1), np.array([1.0, 0.0])) == pytest.approx(5.0)
    assert exact_w1(x, y, np.ones(1), np.array([0.25, 0.75])) == pytest.approx(1.25)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(20, 60))
def test_reduction_never_moves_w1_by_more_than_its_bound(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(150, 2)), rng.normal(size=(130, 2)) * 1.5 + 0.3
    a, b = rng.dirichlet(np.ones(150)), rng.dirichlet(np.ones(130))
    qx, qy = Quantised(x, a, k), Quantised(y, b, k)
    assert len(qx.points) <= k
    assert qx.weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(qx.weights @ qx.points, a @ x, atol=1e-12)
    change = abs(exact_w1(qx.points, qy.points, qx.weights, qy.weights) - exact_w1(x, y, a, b))
    assert change <= qx.shift + qy.shift + 1e-9


# ---------------------------------------------------------------- w1_points


def test_identical_sets_are_at_zero() -> None:
    points = gaussian(100, 0)
    assert w1_points(points, points, **NONE).value == pytest.approx(0.0, abs=1e-12)


def test_translation_is_measured_exactly() -> None:
    points = gaussian(60, 0)
    moved = [p + np.array([0.6, -0.8]) for p in points]
    result = w1_points(moved, points, scale=False, **NONE)
    assert result.value == pytest.approx(1.0, rel=1e-9)
    assert result.n_clipped == 0


def test_shifted_gaussians_and_their_interval() -> None:
    # W1 of two Gaussians with one covariance is the distance of their means
    result = w1_points(gaussian(300, 1, (2.0, 0.0)), gaussian(300, 2), scale=False, **FAST)
    assert result.value == pytest.approx(2.0, abs=0.1)
    low, high = result.interval
    assert low < 2.0 < high
    assert high - low < 0.6
    assert 0 < result.floor < 0.3
    assert result.floor_range[0] <= result.floor <= result.floor_range[1]


def test_unit_is_the_references_standard_deviation() -> None:
    reference = [p * np.array([10.0, 0.1]) + 7.0 for p in gaussian(200, 3)]
    model = [p + np.array([10.0, 0.0]) for p in reference]
    assert w1_points(model, reference, **NONE).value == pytest.approx(1.0, rel=0.03)


def test_weights_act_like_repeats() -> None:
    rng = np.random.default_rng(4)
    reference = [rng.normal(size=(50, 2)) for _ in range(2)]
    counts = [rng.integers(1, 4, size=50) for _ in range(2)]
    repeated = [np.repeat(r, c, axis=0) for r, c in zip(reference, counts, strict=True)]
    model = gaussian(40, 5, (0.5, 0.5), parts=2)
    weighted = w1_points(model, reference, reference_weights=counts, clip_margin=50.0, **NONE)
    plain = w1_points(model, repeated, clip_margin=50.0, **NONE)
    assert weighted.value == pytest.approx(plain.value, rel=1e-9)


def test_one_stray_frame_is_clipped_counted_and_harmless() -> None:
    reference, model = gaussian(200, 6), gaussian(200, 7, (0.5, 0.0))
    before = w1_points(model, reference, **NONE)
    stray = [m.copy() for m in model]
    stray[0][0] = 1e4
    after = w1_points(stray, reference, **NONE)
    assert after.n_clipped == before.n_clipped + 1
    assert abs(after.value - before.value) < 0.01 * before.value + 0.01


def test_floor_of_one_trajectory_is_its_two_halves() -> None:
    points = np.linspace(0, 1, 100)[:, None] * np.ones((1, 2))
    result = w1_points([points], [points], scale=False, n_bootstrap=0)
    # halves of a ramp from 0 to 1 are half a unit apart in each coordinate
    assert result.floor == pytest.approx(0.5 * np.sqrt(2) * 100 / 99, rel=1e-6)


def test_deterministic_and_seeded() -> None:
    model, reference = gaussian(80, 8, (0.4, 0)), gaussian(80, 9)
    one, two = (w1_points(model, reference, seed=3, **FAST) for _ in range(2))
    assert one == two
    assert w1_points(model, reference, seed=4, **FAST).replicates != one.replicates


def test_no_interval_or_floor_without_blocks() -> None:
    result = w1_points(np.zeros((1, 2)), gaussian(50, 0), **FAST)
    assert result.interval is None
    assert any("no interval" in n for n in result.notes)
    assert "no interval" in str(result)


def test_json_round_trip() -> None:
    result = w1_points(gaussian(50, 0), gaussian(50, 1), **FAST)
    assert W1Result.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False))) == result
    with pytest.raises(AnalysisError, match="not a saved W1"):
        W1Result.from_dict({"value": 1.0, "metric": "w1", "other": 2})


# ---------------------------------------------------------------- reductions


def test_reduction_has_interval_and_the_most_that_can_be_seen() -> None:
    reference = gaussian(150, 10)
    before = w1_points(gaussian(150, 11, (2.0, 0)), reference, **FAST)
    after = w1_points(gaussian(150, 12, (0.5, 0)), reference, **FAST)
    reduction = relative_reduction(before, after)
    assert reduction.value == pytest.approx(0.75, abs=0.1)
    assert reduction.interval[0] < 0.75 < reduction.interval[1] <= 1.0
    assert reduction.resolved
    assert reduction.floor == pytest.approx(1 - before.floor / before.value)


def test_no_reduction_is_stated_without_interval_or_floor() -> None:
    reference, model = gaussian(60, 0), gaussian(60, 1, (1, 0))
    full = w1_points(model, reference, **FAST)
    no_floor = w1_points(model, reference, n_bootstrap=20, n_splits=0, bootstrap_points=60)
    bare = w1_points(model, reference, n_bootstrap=0)
    assert relative_reduction(full, bare) is None
    assert relative_reduction(no_floor, full) is None
    assert relative_reduction(full, no_floor) is None
    assert relative_reduction(full, full).value == 0.0


# ---------------------------------------------------------------- blocks


def test_blocks_are_trajectories_or_contiguous_times() -> None:
    many = make_blocks([10] * 6)
    assert (many.kind, many.n) == ("trajectory", 6)
    few = make_blocks([100, 50])
    assert few.kind == "time"
    assert few.n == 10
    assert (np.diff(few.label) >= 0).all()
    assert few.label[99] != few.label[100]
    assert make_blocks([100], block_frames=25).n == 4
    counts = resampled_counts(few, 50, 0)
    assert (counts.sum(axis=1) == few.n - 1).all()


def test_blocks_without_weight_are_never_drawn() -> None:
    blocks = make_blocks([10] * 6, weights=np.repeat([1.0, 0, 1, 0, 1, 1], 10))
    counts = resampled_counts(blocks, 40, 0)
    assert (counts[:, [1, 3]] == 0).all()
    assert (counts.sum(axis=1) == 3).all()


def test_halves_keep_trajectories_whole() -> None:
    blocks = make_blocks([5, 7, 3, 9])
    for half in split_halves(blocks, 10, 0):
        for t in range(4):
            assert len(set(half[blocks.trajectory == t])) == 1
    assert len(list(split_halves(blocks, 10, 0))) == 3
    assert len(list(split_halves(make_blocks([2] * 30), 10, 0))) == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference": [np.zeros((10, 2))]}, "does not vary"),
        ({"model": [np.full((3, 2), np.nan)]}, "not finite"),
        ({"model": [np.zeros((3, 3))]}, "3 coordinates; expected 2"),
        ({"model": []}, "no points"),
        ({"reference_weights": np.ones(3)}, "one per frame"),
        ({"model_weights": -np.ones(300)}, "not negative"),
        ({"n_bootstrap": 5}, "at least 20"),
        ({"confidence": 95}, "confidence"),
        ({"block_frames": 0}, "block_frames"),
        ({"max_points": 2}, "at least 10"),
    ],
)
def test_bad_input_is_named(change: dict, words: str) -> None:
    arguments = {"model": gaussian(50, 0), "reference": gaussian(50, 1), **NONE, **change}
    with pytest.raises(AnalysisError, match=words):
        w1_points(**arguments)


# ---------------------------------------------------------------- on trajectories


def test_better_model_is_nearer(chance_seed: int) -> None:
    reference, good, stiff = ensembles(chance_seed)
    near, far = (w1(m, reference, lag_frames=5, **FAST) for m in (good, stiff))
    # over 8 seeds ln(far / near) is 1.15 ± 0.22 and ln(near / floor) −0.27 ± 0.25: P < 1e-4
    assert far.value > 1.3 * near.value
    assert near.value < 2 * near.floor
    assert relative_reduction(far, near).value == pytest.approx(1 - near.value / far.value)


def test_trajectories_of_other_beads_are_refused(reference) -> None:
    with pytest.raises(AnalysisError, match="expected 8"):
        w1([np.zeros((20, 10, 3))], reference, lag_frames=5)


@pytest.mark.slow
def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Autocorrelated Gaussians 1.5 apart: 60 trials; P(fewer than 48 hits | 90 %) < 0.3 %."""
    rng = np.random.default_rng(0)
    rho = np.exp(-0.1)

    def process(shift: float) -> list[np.ndarray]:
        out = []
        for _ in range(10):
            noise = rng.normal(size=(120, 2)) * np.sqrt(1 - rho**2)
            noise[0] /= np.sqrt(1 - rho**2)
            for i in range(1, 120):
                noise[i] += rho * noise[i - 1]
            out.append(noise + np.array([shift, 0.0]))
        return out

    hits = 0
    for seed in range(60):
        result = w1_points(
            process(1.5), process(0.0), scale=False, max_points=150, bootstrap_points=80,
            n_bootstrap=60, n_splits=0, seed=seed,
        )  # fmt: skip
        hits += result.interval[0] <= 1.5 <= result.interval[1]
    assert hits >= 48


def test_floors_are_computed_once_for_one_reference_and_again_for_another() -> None:
    rng = np.random.default_rng(5)
    blocks, weights = make_blocks([40] * 6), np.full(240, 1 / 240)
    calls = []

    def distance(half: NDArray[np.bool_]) -> float:
        calls.append(1)
        return float(half.argmax())

    points = rng.normal(size=(240, 2))
    first = floors(distance, blocks, weights, 4, 0, ("test", hash_array(points)))
    assert len(calls) == 4
    assert floors(distance, blocks, weights, 4, 0, ("test", hash_array(points))) == first
    assert len(calls) == 4
    others = [
        (blocks, weights, 4, 0, ("test", hash_array(points + 1))),
        (blocks, weights, 4, 1, ("test", hash_array(points))),
        (blocks, weights, 3, 0, ("test", hash_array(points))),
        (make_blocks([20] * 12), weights, 4, 0, ("test", hash_array(points))),
        (blocks, weights * rng.random(240), 4, 0, ("test", hash_array(points))),
    ]
    for number, other in enumerate(others, start=1):
        before = len(calls)
        floors(distance, *other)
        assert len(calls) > before, number
