from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin.analysis import TICAModel, distance_features, w1_points, w1_ucsc, w1_ucsc_points
from cgal_plugin.analysis.ucsc import trimmed
from cgal_plugin.errors import AnalysisError

NONE = {"n_bootstrap": 0, "n_splits": 0}


def literal_recipe(x: np.ndarray, y: np.ndarray) -> float:
    """The recipe with scipy's KDE and POT, step by step, nothing of ours."""
    import ot
    from scipy.stats import gaussian_kde

    low, high = np.minimum(x.min(0), y.min(0)), np.maximum(x.max(0), y.max(0))
    margin = 0.1 * (high - low)
    gx, gy = np.mgrid[
        low[0] - margin[0] : high[0] + margin[0] : 25j, low[1] - margin[1] : high[1] + margin[1] : 25j
    ]
    grid = np.vstack([gx.ravel(), gy.ravel()])
    p, q = gaussian_kde(x.T)(grid), gaussian_kde(y.T)(grid)
    return float(ot.emd2(p / p.sum(), q / q.sum(), ot.dist(grid.T, grid.T, metric="euclidean")))


def test_equals_the_literal_recipe_on_points() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) * [1.0, 0.5] + [0.4, 0.0]
    y = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(100, 2)) + 3])
    assert w1_ucsc_points(x, y, **NONE).value == pytest.approx(literal_recipe(x, y), rel=1e-6)


def test_equals_the_literal_recipe_on_trajectories(reference, stiff) -> None:
    from deeptime.decomposition import TICA

    model = TICA(lagtime=5, dim=2, scaling="kinetic_map").fit_fetch([distance_features(t) for t in reference])
    start = int(40 / 10) - 1
    x = np.concatenate([model.transform(distance_features(t[start:-1])) for t in stiff])
    y = np.concatenate([model.transform(distance_features(t)) for t in reference])
    result = w1_ucsc(stiff, reference, lag_frames=5, **NONE)
    assert result.value == pytest.approx(literal_recipe(x, y), rel=1e-6)
    assert result.n_model == len(x)
    strided = w1_ucsc(stiff, reference, lag_frames=5, reference_stride=10, **NONE)
    assert strided.n_reference == 30 * 5


def test_identical_sets_are_at_zero() -> None:
    points = np.random.default_rng(1).normal(size=(100, 2))
    assert w1_ucsc_points(points, points, **NONE).value == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("cells", [2, 4])
def test_translation_by_whole_cells(cells: int) -> None:
    """Moved by k cells along x, every kernel moves by k cells, so W1 is k cell widths.

    The joint range along x is R + s for width R and shift s; 24 cells cover 1.2 of it, so
    s = k · 1.2 (R + s) / 24 gives s = 0.05 k R / (1 − 0.05 k).
    """
    rng = np.random.default_rng(2)
    # a bell whose tails carry next to nothing across the margin of the grid
    points = rng.normal(size=(2000, 2))
    width = np.ptp(points[:, 0])
    shift = 0.05 * cells * width / (1 - 0.05 * cells)
    result = w1_ucsc_points(points + np.array([shift, 0.0]), points, **NONE)
    assert result.value == pytest.approx(shift, rel=0.005)


def test_trimming_follows_the_published_code() -> None:
    frames = np.arange(100)
    assert trimmed(frames).tolist() == list(range(9, 99))
    assert trimmed(frames[:25]).tolist() == list(range(1, 24))
    # start is 0 under 20 frames: nothing is removed there, not even the last frame
    assert trimmed(frames[:19]).tolist() == list(range(19))


def test_interval_and_floor() -> None:
    rng = np.random.default_rng(3)
    reference = [rng.normal(size=(80, 2)) for _ in range(6)]
    model = [rng.normal(size=(80, 2)) + np.array([1.0, 0]) for _ in range(6)]
    result = w1_ucsc_points(model, reference, n_bootstrap=30, n_splits=3)
    assert result.interval[0] < result.value < result.interval[1]
    assert result.interval[0] < 1.0 < result.interval[1]
    assert 0 < result.floor < 0.5 * result.value
    assert result == w1_ucsc_points(model, reference, n_bootstrap=30, n_splits=3)


def test_replicate_of_the_whole_set_is_the_value() -> None:
    """Block densities add up to the whole density: shares of blocks are right."""
    from cgal_plugin.analysis.ucsc import _block_densities

    rng = np.random.default_rng(4)
    x, w = rng.normal(size=(60, 2)), rng.dirichlet(np.ones(60))
    grid = rng.normal(size=(30, 2))
    whole = _block_densities(x, w, np.zeros(60, dtype=int), 1, grid)[0]
    parts = _block_densities(x, w, np.arange(60) // 20, 3, grid)
    np.testing.assert_allclose(parts.sum(axis=0), whole, rtol=1e-10)


def test_fragile_where_w1_is_not() -> None:
    rng = np.random.default_rng(5)
    reference, model = rng.normal(size=(400, 2)), rng.normal(size=(400, 2)) + np.array([0.5, 0])
    stray = model.copy()
    stray[0] = [25.0, 25.0]
    ucsc = [w1_ucsc_points(m, reference, **NONE).value for m in (model, stray)]
    robust = [w1_points(m, reference, **NONE).value for m in (model, stray)]
    assert abs(robust[1] / robust[0] - 1) < 0.05
    assert abs(ucsc[1] / ucsc[0] - 1) > 2 * abs(robust[1] / robust[0] - 1)


def test_bad_input_is_named(reference) -> None:
    line = np.stack([np.arange(20.0), np.arange(20.0)], axis=1)
    cloud = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(AnalysisError, match="singular"):
        w1_ucsc_points(line, cloud, **NONE)
    with pytest.raises(AnalysisError, match="two coordinates"):
        w1_ucsc_points(cloud[:, :1], cloud[:, :1], **NONE)
    with pytest.raises(AnalysisError, match="vanishes"):
        w1_ucsc_points(cloud * 1e-5, np.concatenate([cloud, [[500.0, 500.0]]]), **NONE)
    with pytest.raises(AnalysisError, match="reference_stride"):
        w1_ucsc(reference, reference, reference_stride=0)
    with pytest.raises(AnalysisError, match="expected 8"):
        w1_ucsc([np.zeros((30, 4, 3))], reference, tica=TICAModel.fit(reference, 5))
