"""Data sets of several stores: batches of different molecules, splits, copies, and what does not belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.loader import DataLoader

from cgal_plugin.data import CGDataset, DataStore, LabelledFrames, block_splits
from cgal_plugin.data.loader import batch_loader
from cgal_plugin.data.several import store_names
from cgal_plugin.data.splits import sized_sides
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGTopology


def fill(
    root, sequence, *, n=40, mapping="CA", temperature=350.0, force_map="", seed=0, bridges=(), error=None
):
    """Write a store of frames near a zigzag chain, in blocks of ten, with sources ``seed`` and ``more``."""
    topology = CGTopology.from_sequence(sequence, mapping, bridges=bridges)
    rng = np.random.default_rng(seed)
    place = np.zeros((topology.n_beads, 3))
    ca = topology.residue_index
    place[:, 0], place[:, 1] = 3.3 * ca, 1.8 * (ca % 2)
    place[np.array(topology.bead_names) == "CB", 2] = 1.5
    digest = force_map or f"map-{sequence}"
    store = DataStore.create(root, topology, temperature=temperature, force_map_hash=digest)
    for k, source in enumerate(("seed", "more")):
        store.append(
            f"shard_{k}",
            LabelledFrames(
                positions=place + rng.normal(size=(n // 2, topology.n_beads, 3)) * 0.2,
                forces=rng.normal(size=(n // 2, topology.n_beads, 3)),
                frame_index=np.arange(n // 2) // 10,
                start_index=np.zeros(n // 2, dtype=np.int64),
                force_error=np.full(n // 2, np.nan if error is None else error[k]),
            ),
            source=source,
            round=k,
        )
    return store


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    fill(folder / "five", "YYDPE", n=60)
    fill(folder / "nine", "ACDCEFGHC", n=40, bridges=[(1, 8)], seed=1)
    fill(folder / "cacb", "GAY", n=20, mapping="CACB", seed=2)
    return [folder / name for name in ("five", "nine", "cacb")]


def test_items_are_the_frames_of_each_store(roots):
    dataset = CGDataset(roots)
    assert dataset.n_frames == len(dataset) == 120
    assert [t.sequence for t in dataset.topologies] == ["YYDPE", "ACDCEFGHC", "GAY"]
    assert dataset.topology is None
    first = 0
    for number, root in enumerate(roots):
        store = DataStore(root)
        frames = store.load_all()
        for k in (0, len(frames) - 1):
            item = dataset[first + k]
            np.testing.assert_array_equal(item.pos, frames.positions[k])
            np.testing.assert_array_equal(item.neg_dy, frames.forces[k])
            np.testing.assert_array_equal(item.z, store.topology.types)
            for name in ("bond_index", "angle_index", "dihedral_index", "bridge_index"):
                np.testing.assert_array_equal(item[name].T, getattr(store.topology, name))
        np.testing.assert_array_equal(dataset.tables[number].positions, frames.positions)
        assert (dataset.molecule[first : first + len(frames)] == number).all()
        first += len(frames)
    assert len(np.unique(dataset.block)) == 12
    assert dataset.temperature == 350.0


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, 119), min_size=1, max_size=12))
def test_mixed_batches_are_those_of_pyg(roots, rows):
    (ours,) = CGDataset(roots).__getitems__(rows)
    (theirs,) = DataLoader(CGDataset(roots, prebatch=False), batch_size=len(rows), sampler=rows)
    assert set(ours.keys()) == set(theirs.keys()) - {"ptr"}
    for key in list(ours.keys()):
        assert ours[key].dtype == theirs[key].dtype
        assert torch.equal(ours[key], theirs[key]), key


def test_the_loader_passes_mixed_batches_on(roots):
    dataset = CGDataset(roots)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0)).tolist()
    for a, b in zip(
        batch_loader(dataset, batch_size=32, sampler=order),
        DataLoader(CGDataset(roots, prebatch=False), batch_size=32, sampler=order),
        strict=True,
    ):
        for key in list(a.keys()):
            assert torch.equal(a[key], b[key]), key


def test_changing_a_mixed_batch_does_not_change_the_data(roots):
    dataset = CGDataset(roots)
    rows = [3, 70, 119]
    (first,) = dataset.__getitems__(rows)
    kept = {key: first[key].clone() for key in list(first.keys())}
    for key in kept:
        first[key].zero_()
    (again,) = dataset.__getitems__(rows)
    for key, values in kept.items():
        assert torch.equal(again[key], values), key


def test_two_stores_of_one_molecule_are_one_molecule(tmp_path):
    for k in range(2):
        fill(tmp_path / f"run_{k}" / "data", "YYDPE", n=20, seed=k)
    dataset = CGDataset([tmp_path / "run_0" / "data", tmp_path / "run_1" / "data"])
    assert dataset.topology == CGTopology.from_sequence("YYDPE")
    assert dataset.frames.shape == (40, 5, 3)
    stored = [DataStore(tmp_path / f"run_{k}" / "data").load_all() for k in range(2)]
    np.testing.assert_array_equal(dataset.frames, np.concatenate([s.positions for s in stored]))
    np.testing.assert_array_equal(dataset.forces, np.concatenate([s.forces for s in stored]))
    assert len(np.unique(dataset.block)) == 4
    assert dataset.tables[1].sources == ("run_1/data/more", "run_1/data/seed")
    assert len(CGDataset(tmp_path, stores=["run_0/data", "run_1/data"])) == 40


def test_copies_by_source_of_all_or_of_one_store(roots):
    every = np.bincount(CGDataset(roots, repeat={"more": 3}).items, minlength=120)
    assert (every == np.concatenate([np.repeat([1, 3], n // 2) for n in (60, 40, 20)])).all()
    one = np.bincount(CGDataset(roots, repeat={"nine/seed": 2}).items, minlength=120)
    assert np.flatnonzero(one == 2).tolist() == list(range(60, 80))
    with pytest.raises(DataError, match="sources are five/more, five/seed, nine/more"):
        CGDataset(roots, repeat={"ten/seed": 2})


def test_error_weights_are_relative_to_the_noisiest_source_of_a_store(tmp_path):
    fill(tmp_path / "a", "YYDPE", error=(10.0, 2.0))
    fill(tmp_path / "b", "GYDPE", error=(3.0, 3.0))
    dataset = CGDataset([tmp_path / "a", tmp_path / "b"], repeat="error")
    assert dataset.weights == {"a/more": 25.0}
    assert np.bincount(dataset.items).tolist() == [1] * 20 + [25] * 20 + [1] * 40


@settings(max_examples=20, deadline=None)
@given(val=st.floats(0.1, 0.4), test=st.sampled_from([0.0, 0.2]), seed=st.integers(0, 9))
def test_splits_take_each_molecule_in_proportion(roots, tmp_path_factory, val, test, seed):
    dataset = CGDataset(roots, repeat={"more": 2})
    path = tmp_path_factory.mktemp("s") / "s.npz"
    with np.load(block_splits(dataset, path, val_fraction=val, test_fraction=test, seed=seed)) as split:
        sides = [set(dataset.items[split[k]].tolist()) for k in ("idx_train", "idx_val", "idx_test")]
    assert sum(map(len, sides)) == 120
    assert set.union(*sides) == set(range(120))
    for number in range(3):
        own = set(np.flatnonzero(dataset.molecule == number).tolist())
        for side, share in zip(sides[1:], (val, test), strict=True):
            assert abs(len(side & own) / len(own) - share) <= 0.16, "pieces of a tenth or less"
            assert bool(side & own) == (share > 0)


@settings(max_examples=40, deadline=None)
@given(
    val=st.integers(1, 50),
    test=st.integers(0, 30),
    train=st.none() | st.integers(1, 39),
    seed=st.integers(0, 3),
)
def test_exact_sizes_are_exact_and_shared(roots, val, test, train, seed):
    dataset = CGDataset(roots)
    sides = sized_sides(dataset, {"train_size": train, "val_size": val, "test_size": test}, seed)
    counts = [len(sides[f"idx_{name}"]) for name in ("train", "val", "test")]
    assert counts == [train if train is not None else 120 - val - test, val, test]
    every = np.concatenate(list(sides.values()))
    assert len(np.unique(every)) == len(every)
    for number, size in enumerate((60, 40, 20)):
        found = np.sum(dataset.molecule[sides["idx_val"]] == number)
        assert abs(found - val * size / 120) <= 1


def test_the_fingerprint_is_that_of_all_stores(roots):
    one = CGDataset(roots).fingerprint
    assert one == CGDataset(roots).fingerprint
    assert one != CGDataset(roots[:2]).fingerprint
    assert CGDataset(roots[:1]).fingerprint == CGDataset(roots[0]).fingerprint


def test_names_of_stores_are_the_shortest_that_differ(tmp_path):
    folders = [tmp_path / "a" / "data", tmp_path / "b" / "data", tmp_path / "b" / "more"]
    assert store_names(folders) == ["a/data", "b/data", "b/more"]
    assert store_names(folders[1:]) == ["data", "more"]


def test_what_cannot_be_mixed_is_refused(roots, tmp_path):
    fill(tmp_path / "hot", "YYDPE", temperature=400.0)
    with pytest.raises(DataError, match=r"hot is for 400 K, .*five is for 350 K"):
        CGDataset([roots[0], tmp_path / "hot"])
    fill(tmp_path / "other", "YYDPE", force_map="another")
    with pytest.raises(DataError, match=r"for one molecule, .*YYDPE.*force maps are not mixed"):
        CGDataset([*roots, tmp_path / "other"])
    for message, arguments in {
        "is given twice": {"root": [roots[0], roots[1], roots[0].parent / "nine" / ".." / "five"]},
        "list of data stores is empty": {"root": []},
        "both list data stores": {"root": roots, "stores": ["five"]},
        "must be a list of data stores": {"root": roots[0].parent, "stores": "five"},
        "is not a data store": {"root": [roots[0], tmp_path]},
        "select from one data store": {"root": roots, "sources": ["seed"]},
        "not 300": {"root": roots, "temperature": 300.0},
        "for one molecule: give one folder": {"root": roots, "coords": "a.npy", "forces": "b.npy"},
    }.items():
        with pytest.raises(DataError, match=message):
            CGDataset(**arguments)
    with pytest.raises(DataError, match="3 molecules of different shapes"):
        _ = CGDataset(roots).frames


@pytest.mark.parametrize("root", [None, 5, ["a", None], [["a"]]])
def test_roots_that_are_no_paths(root):
    with pytest.raises(DataError, match="must be a data store or a list"):
        CGDataset(root)
