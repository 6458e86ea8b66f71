"""Frames of several stores are on disk, and give the batches that they give in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from cgal_plugin.data import CGDataset, DataStore, LabelledFrames
from cgal_plugin.data.scratch import ScratchFile
from cgal_plugin.mapping import CGTopology
from tests.priors.chains import chains


def store(root: Path, sequence: str, n: int, seed: int) -> DataStore:
    made = DataStore.create(
        root, CGTopology.from_sequence(sequence), temperature=400.0, force_map_hash=f"map {sequence}"
    )
    rng = np.random.default_rng(seed)
    base = chains(50, len(sequence), seed=seed)
    x = (base[rng.integers(0, 50, n)] + rng.normal(scale=0.01, size=(n, len(sequence), 3))).astype(np.float32)
    numbers = np.zeros(n, dtype=np.int64)
    frames = LabelledFrames(
        x, rng.normal(size=x.shape).astype(np.float32), numbers, numbers, np.full(n, np.nan)
    )
    made.append("seed_000", frames, source="seed")
    return made


def test_a_scratch_file_returns_what_was_written(tmp_path: Path) -> None:
    file = ScratchFile(tmp_path, np.float64)
    parts = [np.random.default_rng(k).normal(size=(k, 2, 3)) for k in (3, 0, 5)]
    rows = [file.append(part) for part in parts]
    array = file.array()
    assert array.shape == (16, 3)
    for part, own in zip(parts, rows, strict=True):
        np.testing.assert_array_equal(array[own].reshape(part.shape), part)
    assert list(tmp_path.iterdir()) == []  # it has no name
    assert ScratchFile(None).array().shape == (0, 3)


def test_batches_of_several_stores_are_those_of_each(tmp_path: Path) -> None:
    stores = [store(tmp_path / s, s, 20 + k, k) for k, s in enumerate(("AGAG", "GGSAA", "SA"))]
    both = CGDataset([s.root for s in stores])
    assert isinstance(both.tables[1].positions, np.memmap)
    first = 0
    for own in stores:
        single = CGDataset(own.root)
        n = single.n_frames
        a = both.__getitems__(range(first, first + n))[0]
        b = single.__getitems__(range(n))[0]
        for key in ("z", "pos", "neg_dy", "batch", "bond_index", "angle_index", "dihedral_index"):
            assert torch.equal(a[key], b[key])
        first += n
    parts = [torch.full((len(both._flat.positions), 3), 0.5, dtype=torch.float64)]
    both.keep_prior_forces(parts)
    assert both.__getitems__([30])[0].prior_forces.dtype == torch.float64


@pytest.mark.parametrize("n_stores", [2, 6])
def test_memory_does_not_grow_with_the_number_of_stores(n_stores: int, tmp_path: Path) -> None:
    roots = [store(tmp_path / f"s{k}", "AGAGAGAG", 20_000, k).root for k in range(n_stores)]
    one = sum((root / "shards" / "seed_000.npz").stat().st_size for root in roots[:1])
    CGDataset(roots[0])  # what is imported late
    tracemalloc.start()
    dataset = CGDataset(roots)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dataset.n_frames == n_stores * 20_000
    # arrays of numbers per frame are held; positions and forces of one store at most
    assert held < n_stores * 20_000 * 64
    assert peak - held < 12 * one
