"""nearest_rmsd against brute force, for regular and degenerate geometries."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.errors import SelectionError, UnitError
from cgal_plugin.selector import coverage, nearest_rmsd
from cgal_plugin.selector import rmsd as rmsd_module
from cgal_plugin.selector import search as search_module

from .reference import all_rmsd, kabsch_rmsd, mdtraj_nearest, moved, trajectory, walks

LINE = np.array([1.0, 2.0, -0.5])


def geometry(kind: str, beads: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x, y = rng.normal(size=(12, beads, 3)) * 4.0, rng.normal(size=(60, beads, 3)) * 4.0
    if kind == "mirrored":
        y = np.concatenate([x * [1.0, 1.0, -1.0], -x, y])
    elif kind == "collinear":
        x, y = x[..., :1] * LINE, y[..., :1] * LINE
    elif kind == "planar":
        x, y = x * [1.0, 1.0, 0.0], y * [1.0, 0.0, 1.0]
    elif kind == "duplicated":
        y = moved(np.concatenate([x, x, y]), rng)
    elif kind == "collinear duplicates":
        x = x[..., :1] * LINE
        y = moved(np.concatenate([x, x]), rng)
    elif kind == "planar duplicates":
        x = x * [1.0, 1.0, 0.0]
        y = moved(np.concatenate([y, x]), rng)
    elif kind == "one point":
        x = np.zeros_like(x)
    elif kind == "tiny":
        x, y = x * 1e-5, y * 1e-5
    elif kind == "large":
        x, y = x * 1e4, y * 1e4
    elif kind == "far":
        x, y = x + 1e4, y - [1e4, 0.0, 3e4]
    elif kind == "exploded":
        x[3] *= 1e12
        x[7] *= 1e25
        y[5] *= 1e20
    elif kind == "correlated":
        x, y = walks(12, beads, rng), walks(60, beads, rng)
    return x, y


KINDS = [
    "random",
    "mirrored",
    "collinear",
    "planar",
    "duplicated",
    "collinear duplicates",
    "planar duplicates",
    "one point",
    "tiny",
    "large",
    "far",
    "exploded",
    "correlated",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beads", [1, 2, 3, 10, 33])
def test_equals_brute_force(kind: str, beads: int) -> None:
    x, y = geometry(kind, beads, np.random.default_rng(KINDS.index(kind) + 100 * beads))
    distance, index = nearest_rmsd(x, y, n_threads=1)
    exact = all_rmsd(x, y)
    scale = np.maximum(1.0, exact.min(axis=1))
    assert np.abs(distance - exact.min(axis=1)).max() <= (2e-6 * scale).max()
    np.testing.assert_allclose(distance / scale, exact.min(axis=1) / scale, atol=2e-6)
    np.testing.assert_allclose(distance, exact[np.arange(len(x)), index], rtol=1e-9, atol=1e-9)
    if "duplicate" in kind:
        assert distance.max() < 1e-6


@pytest.mark.parametrize("kind", ["random", "mirrored", "planar", "correlated"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_mdtraj(kind: str, dtype: type) -> None:
    # single precision inside mdtraj.rmsd is good to 1e-4 Å for these; see the next test
    x, y = (a.astype(dtype) for a in geometry(kind, 10, np.random.default_rng(5)))
    distance, _ = nearest_rmsd(x, y)
    np.testing.assert_allclose(distance, mdtraj_nearest(x, y), atol=1e-4)


@pytest.mark.parametrize("kind", ["duplicated", "collinear"])
def test_agrees_with_mdtraj_within_the_error_of_mdtraj(kind: str) -> None:
    # mdtraj.rmsd is single precision: near zero and at double roots it is off by some 1e-3 Å,
    # shown here against the double-precision Kabsch of reference.py, which ours equals to 1e-6
    x, y = geometry(kind, 10, np.random.default_rng(6))
    distance, _ = nearest_rmsd(x, y)
    exact = all_rmsd(x, y).min(axis=1)
    theirs = mdtraj_nearest(x, y)
    assert np.abs(distance - exact).max() < 2e-6
    assert np.abs(distance - theirs).max() < np.abs(theirs - exact).max() + 2e-6
    assert np.abs(distance - theirs).max() < 0.02


def test_a_mirror_image_is_not_superposable() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 8, 3)) * 3.0
    distance, _ = nearest_rmsd(x, -x)
    assert distance[0] == pytest.approx(kabsch_rmsd(x[0], -x[0]), abs=1e-9)
    assert distance[0] > 0.1


def test_many_clusters_tiles_and_groups() -> None:
    # large enough for several clusters, groups and tiles, with candidates in and out of the reference
    rng = np.random.default_rng(3)
    y = np.concatenate([walks(2500, 6, rng) for _ in range(3)])
    near = y[::250] + rng.normal(scale=0.05, size=y[::250].shape)
    x = np.concatenate([moved(near, rng), walks(150, 6, rng)])
    distance, index = nearest_rmsd(x, y)
    np.testing.assert_array_equal(index[:30], np.arange(0, 7500, 250))
    centred_x = x - x.mean(axis=1, keepdims=True)
    centred_y = y - y.mean(axis=1, keepdims=True)
    u, s, vt = np.linalg.svd(np.einsum("xbk,ybm->xykm", centred_x[::9], centred_y))
    s[..., 2] *= np.sign(np.linalg.det(u) * np.linalg.det(vt))
    size = np.square(centred_x[::9]).sum((1, 2))[:, None] + np.square(centred_y).sum((1, 2))
    brute = np.sqrt(np.maximum(size - 2.0 * s.sum(-1), 0.0) / 6)
    np.testing.assert_allclose(distance[::9], brute.min(axis=1), atol=1e-6)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_and_blocks_do_not_change_the_result(n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    x, y = walks(400, 5, rng), walks(2600, 5, rng)
    distance, index = nearest_rmsd(x, y, n_threads=1)
    again = nearest_rmsd(x, y, n_threads=n_threads)
    np.testing.assert_array_equal(distance, again[0])
    np.testing.assert_array_equal(index, again[1])
    monkeypatch.setattr(rmsd_module, "block_frames", lambda n_beads, share=1.0: 333)
    blocked = nearest_rmsd(x, y, n_threads=n_threads)
    np.testing.assert_allclose(distance, blocked[0], atol=2e-6)
    named = [kabsch_rmsd(x[k], y[i]) for k, i in enumerate(blocked[1])]
    np.testing.assert_allclose(distance, named, atol=2e-6)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    # with blocks of 1 MB, 7 MB of reference as double precision never come into memory at once
    monkeypatch.setattr(rmsd_module, "_BLOCK_BYTES", 2**20)
    rng = np.random.default_rng(8)
    y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (30_000, 10, 3))
    y[:] = np.repeat(walks(3_000, 10, rng), 10, axis=0)
    y[20_007] += 3.0 * np.arange(10, dtype=np.float32)[:, None] ** 2
    tracemalloc.start()
    distance, index = nearest_rmsd(y[[5, 20_007]], y, n_threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert distance.max() < 1e-6
    assert index[1] == 20_007
    assert peak < 6 * 2**20


def test_trajectory_and_units() -> None:
    rng = np.random.default_rng(1)
    x, y = walks(5, 7, rng).astype(np.float32), walks(50, 7, rng).astype(np.float32)
    expected = nearest_rmsd(x, y)
    for pair in ((trajectory(x), trajectory(y)), (trajectory(x), y), (x, trajectory(y))):
        distance, index = nearest_rmsd(*pair)
        np.testing.assert_allclose(distance, expected[0], atol=1e-5)
        np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_allclose(nearest_rmsd(x / 10, y / 10, unit="nm")[0], expected[0], atol=1e-5)
    # integers and lists are numbers too, and nothing is changed in place
    kept = x.copy(), y.copy()
    assert nearest_rmsd(np.ones((1, 3, 3), dtype=int), [[[0, 0, 0]] * 3])[0] == pytest.approx(0.0)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 5, 3)), np.zeros((2, 6, 3)), "5 beads and the reference has 6"),
        (np.zeros((0, 5, 3)), np.zeros((2, 5, 3)), "candidates is empty"),
        (np.zeros((2, 5, 3)), np.zeros((0, 5, 3)), "reference is empty"),
        (np.zeros((2, 0, 3)), np.zeros((2, 0, 3)), "empty"),
        (np.zeros((5, 3)), np.zeros((2, 5, 3)), "put a single frame into a list"),
        (np.zeros((2, 5, 2)), np.zeros((2, 5, 2)), "expected"),
        (np.full((2, 5, 3), np.nan), np.zeros((2, 5, 3)), "frame 0"),
        (np.zeros((2, 5, 3)), np.full((2, 5, 3), np.inf), "reference has coordinates that are not finite"),
        (np.full((2, 5, 3), 1e80), np.zeros((2, 5, 3)), "beyond"),
        (np.zeros((2, 5, 3), dtype=complex), np.zeros((2, 5, 3)), "complex128"),
        (np.array([[["a"] * 3]]), np.zeros((2, 1, 3)), "dtype"),
    ],
)
def test_bad_input(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        nearest_rmsd(x, y)


def test_bad_options() -> None:
    x = np.zeros((1, 2, 3))
    with pytest.raises(UnitError, match="furlong"):
        nearest_rmsd(x, x, unit="furlong")


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_bad_number_of_threads(threads: Any) -> None:
    x = np.zeros((1, 2, 3))
    with pytest.raises(SelectionError, match="n_threads"):
        nearest_rmsd(x, x, n_threads=threads)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), beads=st.integers(2, 12), flat=st.integers(0, 2))
def test_metric_properties(seed: int, beads: int, flat: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.normal(size=(6, beads, 3)) * rng.choice([0.1, 1.0, 30.0])
    frames[..., 3 - flat :] = 0.0
    matrix = np.stack([nearest_rmsd(frames, b[None], n_threads=1)[0] for b in frames], axis=1)
    scale = np.abs(frames).max()
    tolerance = 1e-9 * scale
    np.testing.assert_allclose(matrix, matrix.T, atol=tolerance)
    assert np.diag(matrix).max() <= tolerance
    # triangle inequality, over every triple
    assert (matrix[:, :, None] <= matrix[:, None, :] + matrix.T[None, :, :] + tolerance).all()
    # rigid motion of either side, and the order of the frames, change nothing
    x, y = frames[:3], frames[3:]
    best = nearest_rmsd(x, y, n_threads=1)[0]
    np.testing.assert_allclose(best, matrix[:3, 3:].min(axis=1), atol=2e-6)
    order = rng.permutation(3)
    other = nearest_rmsd(moved(x, rng)[order], moved(y, rng)[rng.permutation(3)], n_threads=1)[0]
    np.testing.assert_allclose(other, best[order], atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), beads=st.integers(1, 25), spread=st.sampled_from([0.05, 0.5, 5.0]))
def test_embedding_bounds_the_rmsd(seed: int, beads: int, spread: float) -> None:
    # the inequality that pruning rests on, from both sides; a mirror image may be nearer in the embedding
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(beads, 3)) * 4.0
    frames = base + rng.normal(scale=spread, size=(8, beads, 3))
    index = search_module.Index(frames)
    side = search_module.Frames.prepare(frames, index.embedding)
    embedded = np.linalg.norm(side.features[:, None].astype(float) - side.features[None], axis=-1)
    proper = all_rmsd(frames, frames)
    either = np.minimum(proper, all_rmsd(frames, -frames))
    assert (embedded <= proper + 1e-5).all()
    if beads <= 16:
        assert (embedded >= either / np.sqrt(2.0) - 1e-5).all()


def test_coverage() -> None:
    rng = np.random.default_rng(2)
    x, y = walks(80, 6, rng), walks(200, 6, rng)
    result = coverage(x, y)
    distance, index = nearest_rmsd(x, y)
    np.testing.assert_array_equal(result["distances"], distance)
    np.testing.assert_array_equal(result["indices"], index)
    assert result["quantiles"][0.5] == pytest.approx(np.median(distance))
    assert result["quantiles"][1.0] == distance.max()
    assert result["mean"] == pytest.approx(distance.mean())
    assert (result["n_frames"], result["n_reference"]) == (80, 200)


def test_default_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert rmsd_module.usable_threads(None) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    cores = rmsd_module.usable_threads(None)
    assert cores >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert rmsd_module.usable_threads(None) == cores
    assert rmsd_module.usable_threads(3) == 3


@pytest.mark.parametrize("share", [-1.0, 2.0])
def test_dense_and_sparse_ways_agree(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # share of unpruned pairs from which on whole tiles are superposed: always, and never
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(40, 9, 3)) * 4.0, rng.normal(size=(700, 9, 3)) * 4.0
    expected = nearest_rmsd(x, y, n_threads=1)
    monkeypatch.setattr(search_module, "_DENSE", share)
    distance, index = nearest_rmsd(x, y, n_threads=1)
    np.testing.assert_allclose(distance, expected[0], atol=1e-9)
    np.testing.assert_array_equal(index, expected[1])
    assert distance[0] == pytest.approx(all_rmsd(x[:1], y).min(), abs=1e-6)
