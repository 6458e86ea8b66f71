"""The nearest RMSD on a GPU, tested on Warp's CPU device: equal to brute force and to the CPU search."""

from __future__ import annotations

import numpy as np
import pytest

from cgal_plugin._warp import has_gpu
from cgal_plugin.errors import SelectionError
from cgal_plugin.selector import RMSDSelector, coverage, device_search, nearest_rmsd
from cgal_plugin.selector import rmsd as rmsd_module
from cgal_plugin.selector.device_search import choose_device

from .reference import all_rmsd, moved, walks
from .test_nearest_rmsd import KINDS, geometry


@pytest.fixture
def on_device(monkeypatch):
    """Search every block on Warp's CPU device; return the list of blocks."""
    blocks = []

    def search(reference, candidates, best, device):
        found = device_search.device_search(reference, candidates, best, device)
        blocks.append((len(candidates), len(reference), found is not None))
        return found

    monkeypatch.setattr(rmsd_module, "choose_device", lambda device, pairs: "cpu")
    monkeypatch.setattr(rmsd_module, "device_search", search)
    return blocks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beads", [1, 2, 3, 10, 33])
def test_equals_brute_force(kind, beads, on_device):
    x, y = geometry(kind, beads, np.random.default_rng(KINDS.index(kind) + 100 * beads))
    distance, index = nearest_rmsd(x, y)
    assert on_device == [(len(x), len(y), True)]
    exact = all_rmsd(x, y)
    scale = np.maximum(1.0, exact.min(axis=1))
    assert (np.abs(distance - exact.min(axis=1)) / scale).max() < 2e-6
    # the same index up to ties
    assert (np.abs(exact[np.arange(len(x)), index] - exact.min(axis=1)) / scale).max() < 2e-6


def test_equals_the_search_on_the_cpu_in_blocks_and_chunks(on_device, monkeypatch):
    rng = np.random.default_rng(1)
    x, y = walks(70, 10, rng), walks(900, 10, rng)
    monkeypatch.setattr(device_search, "_THREADS", 500)  # several chunks of references
    monkeypatch.setattr(rmsd_module, "block_frames", lambda n, share=1.0: 400 if share == 1.0 else 30)
    distance, index = nearest_rmsd(x, y)
    assert [b[:2] for b in on_device] == [(n, m) for m in (400, 400, 100) for n in (30, 30, 10)]
    monkeypatch.undo()
    expected, which = nearest_rmsd(x, y, device="cpu")
    np.testing.assert_allclose(distance, expected, atol=1e-6)
    np.testing.assert_array_equal(index, which)


def test_one_more_frame_lowers_a_distance_only_where_it_is_nearer(on_device):
    rng = np.random.default_rng(2)
    x, y = walks(20, 10, rng), walks(50, 10, rng)
    selector = RMSDSelector(5).fit(y)
    selector.partial_fit(moved(x[3:4], rng))
    picked = selector.select(x)
    expected = all_rmsd(x, np.concatenate([y, x[3:4]])).min(axis=1)
    assert expected[3] < 1e-6
    np.testing.assert_allclose(picked.distances, expected[picked.indices], atol=2e-6)
    np.testing.assert_allclose(coverage(x, y)["distances"], all_rmsd(x, y).min(axis=1), atol=2e-6)
    assert all(done for _, _, done in on_device)


def test_pairs_that_rounding_leaves_undecided_are_superposed_exactly(on_device):
    """Collinear frames have double roots: their quartic is known to 1e-7 only, not to 1e-5 Å."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(8, 10, 3)) * [40.0, 0.0, 0.0]
    shift = np.zeros((8, 10, 3))
    shift[:, 0, 0] = np.linspace(1e-5, 8e-5, 8)
    y = moved(np.repeat(x, 3, axis=0) + np.concatenate([shift] * 3), rng)
    distance, index = nearest_rmsd(x, y)
    exact = all_rmsd(x, y)
    assert np.abs(distance - exact.min(axis=1)).max() < 2e-6
    assert np.abs(exact[np.arange(8), index] - exact.min(axis=1)).max() < 2e-6


def test_too_many_undecided_pairs_are_left_to_the_cpu(on_device):
    """Copies of one large collinear frame that differ by 0.002 Å: rounding leaves every pair undecided."""
    rng = np.random.default_rng(4)
    base = rng.normal(size=(10, 3)) * [40.0, 0.0, 0.0]
    x, y = (base + 0.002 * rng.normal(size=(n, 10, 3)) * [1.0, 0.0, 0.0] for n in (20, 400))
    distance, _ = nearest_rmsd(x, y)
    assert on_device == [(20, 400, False)]
    np.testing.assert_allclose(distance, all_rmsd(x, y).min(axis=1), atol=2e-6)


def test_undecided_pairs_are_counted_only_until_they_are_too_many():
    """Billions of copies of one frame would exceed the int32 of the counter."""
    rng = np.random.default_rng(4)
    search = device_search._Search(np.repeat(walks(1, 10, rng), 50, axis=0), walks(40, 10, rng), "cpu")
    wp = search.wp
    count, pairs = wp.zeros(1, dtype=wp.int32, device="cpu"), wp.empty(8, dtype=wp.vec2i, device="cpu")
    found = search.run(np.full(40, np.inf))
    assert found is None or found[0].shape == (40,)
    exact = wp.array(np.full(40, 50.0), dtype=wp.float64, device="cpu")
    index = wp.array(np.zeros(40), dtype=wp.int32, device="cpu")
    search._launch(search.kernels.undecided, [exact, index, search.chunk, 2e-7, count, pairs])
    assert count.numpy()[0] == 9


def test_a_device_that_fails_is_said_and_the_cpu_goes_on(on_device, monkeypatch):
    def fail(*args):
        raise RuntimeError("Failed to allocate 240000000 bytes on device 'cuda:0'")

    monkeypatch.setattr(device_search._Search, "run", fail)
    rng = np.random.default_rng(5)
    x, y = walks(10, 10, rng), walks(30, 10, rng)
    with pytest.warns(
        UserWarning, match=r"nearest RMSD on CPU failed \(Failed to allocate .* the CPU does it"
    ):
        distance, _ = nearest_rmsd(x, y)
    np.testing.assert_allclose(distance, all_rmsd(x, y).min(axis=1), atol=2e-6)


def test_the_rule_of_auto(monkeypatch):
    for gpu in (True, False):
        monkeypatch.setattr(device_search, "has_gpu", lambda gpu=gpu: gpu)
        many = device_search.GPU_PAIRS
        assert choose_device("auto", many) == ("cuda:0" if gpu else "")
        assert choose_device("auto", many - 1) == choose_device("cpu", many) == ""
    with pytest.raises(SelectionError, match="device is 'gpu'; use one of auto, cpu, cuda"):
        nearest_rmsd(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), device="gpu")


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_before_anything_is_read():
    for call in (nearest_rmsd, coverage):
        with pytest.raises(SelectionError, match=r"finds no NVIDIA GPU .*; use 'cpu'"):
            call("nothing", "nowhere", device="cuda")
