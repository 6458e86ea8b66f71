"""References in shards: the same results as for one array, with the memory of one shard."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.data import DataStore, FrameFiles, LabelledFrames
from cgal_plugin.errors import DataError, SelectionError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.selector import CommitteeSelector, RMSDSelector, coverage, nearest_rmsd
from cgal_plugin.selector import rmsd as rmsd_module
from cgal_plugin.selector import strategies as strategies_module

from .reference import all_rmsd, trajectory, walks


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    beads=st.integers(1, 9),
    cuts=st.lists(st.integers(1, 39), max_size=8, unique=True),
    block=st.integers(4, 50),
    kinds=st.lists(st.sampled_from(["array", "list", "trajectory", "nested"]), min_size=9, max_size=9),
)
def test_any_cut_into_shards_gives_brute_force(
    seed: int, beads: int, cuts: list[int], block: int, kinds: list[str]
) -> None:
    rng = np.random.default_rng(seed)
    x, y = walks(7, beads, rng), walks(40, beads, rng)
    make = {
        "array": lambda a: a,
        "list": lambda a: np.array(a.tolist()),
        "trajectory": trajectory,
        "nested": lambda a: [a[:1], a[1:]] if len(a) > 1 else a,
    }
    pieces = np.split(y, sorted(cuts))
    shards = [pieces[0], *(make[kind](p) for kind, p in zip(kinds, pieces[1:], strict=False))]
    exact = all_rmsd(x, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rmsd_module, "block_frames", lambda n_beads, share=1.0: block)
        for reference in (shards, tuple(shards), iter(shards)):
            distance, index = nearest_rmsd(x, reference, n_threads=1)
            # trajectories are in single precision
            np.testing.assert_allclose(distance, exact.min(axis=1), atol=2e-5)
            np.testing.assert_allclose(distance, exact[np.arange(7), index], atol=2e-5)
        selector = RMSDSelector(3, n_threads=1).fit(iter(shards[:1]))
        for shard in shards[1:]:
            selector.partial_fit(shard)
        np.testing.assert_allclose(selector.distances(x), exact.min(axis=1), atol=2e-5)
        np.testing.assert_allclose(selector.distances(x[::-1]), exact.min(axis=1)[::-1], atol=2e-5)
        assert selector.n_reference == 40


@pytest.fixture
def on_disk(tmp_path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Candidates, reference, and the reference in every form that is read from disk."""
    topology = CGTopology.from_sequence("YYDPETGTWY")
    path = walks(700, 10, np.random.default_rng(21), step=0.6).astype(np.float32)
    x, y = path[600:], path[:600]
    folder = tmp_path / "shards"
    folder.mkdir()
    store = DataStore.create(tmp_path / "store", topology, temperature=400.0, force_map_hash="m")
    for k, part in enumerate(np.split(y, [50, 51, 400])):
        np.save(folder / f"part_{k}.npy", part)
        index = np.arange(len(part))
        store.append(
            f"s{k}", LabelledFrames(part, 0 * part, index, 0 * index, np.zeros(len(part))), source="seed"
        )
    files = sorted(folder.iterdir())
    return x, y, {
        "folder": folder,
        "text": str(folder),
        "files": files,
        "maps": [np.load(f, mmap_mode="r") for f in files],
        "store": store,
        "store folder": store.root,
        "frame files": FrameFiles(files),
        "mixed": [files[0], y[50:51], DataStore(store.root), trajectory(y[51:])],
    }  # fmt: skip


def test_every_form_on_disk_is_the_same_reference(on_disk: tuple[Any, Any, dict[str, Any]]) -> None:
    x, y, forms = on_disk
    distance, index = nearest_rmsd(x, y)
    chosen = RMSDSelector(8).fit(y).select(x)
    for name, form in forms.items():
        found = nearest_rmsd(x, form)
        np.testing.assert_allclose(found[0], distance, atol=2e-6, err_msg=name)
        if name != "mixed":
            np.testing.assert_array_equal(found[1], index, err_msg=name)
        selector = RMSDSelector(8).fit(form)
        for _ in range(2):
            np.testing.assert_array_equal(selector.select(x).indices, chosen.indices, err_msg=name)
        n_frames = 50 + 1 + 600 + 549 if name == "mixed" else 600
        assert coverage(x, form)["n_reference"] == selector.n_reference == n_frames


def test_units_of_files(tmp_path: Path, on_disk: tuple[Any, Any, dict[str, Any]]) -> None:
    x, y, forms = on_disk
    np.save(tmp_path / "nm.npy", y / 10)
    expected = nearest_rmsd(x, y)[0]
    for reference in (tmp_path / "nm.npy", np.load(tmp_path / "nm.npy", mmap_mode="r"), forms["store"]):
        np.testing.assert_allclose(nearest_rmsd(x / 10, reference, unit="nm")[0], expected, atol=1e-4)
        selector = CommitteeSelector(3, [np.sin, np.cos], unit="nm").fit(reference)
        np.testing.assert_allclose(selector.distances(x / 10), expected, atol=1e-4)


def test_wrong_shards(tmp_path: Path, on_disk: tuple[Any, Any, dict[str, Any]]) -> None:
    x, y, forms = on_disk
    with pytest.raises(SelectionError, match="sets of 10 and of 9 beads"):
        nearest_rmsd(x, [y, y[:, :9]])
    with pytest.raises(SelectionError, match="10 beads and the reference has 9"):
        nearest_rmsd(x, [y[:, :9], y[:, :9]])
    broken = y.copy()
    broken[3, 4, 1] = np.nan
    with pytest.raises(SelectionError, match=r"reference has coordinates that are not finite.*frame 603"):
        nearest_rmsd(x, [y, broken])
    for empty in ([], (), iter([]), [y[:0]]):
        with pytest.raises(SelectionError, match=r"reference (is empty|has shape)"):
            RMSDSelector(2).fit(empty)
    with pytest.raises(SelectionError, match=r"reference has shape .*expected"):
        nearest_rmsd(x, [y, y[0]])
    with pytest.raises(DataError, match="does not exist"):
        nearest_rmsd(x, tmp_path / "nowhere.npy")
    # a file that changed after fit is not taken for the one that was checked
    selector = RMSDSelector(2).fit(forms["folder"])
    np.save(forms["files"][1], y[:7])
    with pytest.raises(SelectionError, match="606 frames, 600 when it was added"):
        selector.select(x)


@pytest.mark.parametrize("name", ["folder", "store"])
def test_memory_is_that_of_a_shard(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory does not grow with the number of shards: 15 more of them hold 2.7 MB of coordinates."""
    monkeypatch.setattr(rmsd_module, "_BLOCK_BYTES", 2**20)
    monkeypatch.setattr(strategies_module, "_CHECKED", 1024)
    rng = np.random.default_rng(5)
    x = walks(50, 10, rng).astype(np.float32)
    y = np.repeat(walks(50, 10, rng).astype(np.float32), 30, axis=0)
    topology = CGTopology.from_sequence("YYDPETGTWY")
    store = DataStore.create(tmp_path / "store", topology, temperature=400.0, force_map_hash="m")
    index = np.arange(len(y))
    files = [tmp_path / f"{k:02d}.npy" for k in range(20)]
    for k, path in enumerate(files):
        part = y + np.float32(0.01 * k) * np.sin(np.arange(30, dtype=np.float32)).reshape(10, 3)
        np.save(path, part)
        if name == "store":
            store.append(path.stem, LabelledFrames(part, part, index, index, 0.0 * index), source="seed")

    def select(n: int) -> tuple[int, list[int]]:
        frames = FrameFiles(store, shards=store.names()[:n]) if name == "store" else FrameFiles(files[:n])
        tracemalloc.start()
        chosen = RMSDSelector(5, n_threads=1).fit(frames).select(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, chosen.indices.tolist()

    select(2)  # what is imported or cached at the first call does not count
    few, many = select(5), select(20)
    assert many[0] - few[0] < 2**19
    whole = RMSDSelector(5).fit([np.load(p, mmap_mode="r") for p in files]).select(x)
    assert many[1] == whole.indices.tolist()
