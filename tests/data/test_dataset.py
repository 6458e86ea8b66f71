"""CGDataset: items, batches, copies, splits, plain files, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Subset
from torch_geometric.loader import DataLoader

from cgal_plugin.data import CGDataset, DataStore, block_splits
from cgal_plugin.data.loader import batch_loader
from cgal_plugin.errors import CGALWarning, DataError, MappingError
from cgal_plugin.mapping import CGTopology
from tests.training.data import make_store


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "store"
    make_store(root)
    return root


def test_items_are_the_stored_frames(root):
    dataset = CGDataset(root)
    stored = DataStore(root).load_all()
    assert len(dataset) == dataset.n_frames == 120
    item = dataset[70]
    assert item.pos.dtype == torch.float32
    np.testing.assert_array_equal(item.pos, stored.positions[70])
    np.testing.assert_array_equal(item.neg_dy, stored.forces[70])
    np.testing.assert_array_equal(item.z, dataset.topology.types)
    np.testing.assert_array_equal(item.bond_index.T, dataset.topology.bond_index)
    assert item.angle_index.shape == (3, 3)
    assert item.dihedral_index.shape == (4, 2)
    assert dataset.temperature == 400.0
    np.testing.assert_array_equal(dataset.frames, stored.positions)


def test_whole_batches_have_what_pyg_would_make(root):
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:50]
    ours, theirs = (
        list(DataLoader(Subset(CGDataset(root, prebatch=p), order), batch_size=20)) for p in (True, False)
    )
    assert [b.pos.shape[0] for b in ours] == [100, 100, 50]
    for a, b in zip(ours, theirs, strict=True):
        assert set(a.keys()) == set(b.keys()) - {"ptr"}
        for key in list(a.keys()):
            assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("part", ["all", "tensor", "list"])
@pytest.mark.parametrize("prebatch", [True, False])
def test_the_loader_gives_the_batches_of_pyg(root, part, prebatch):
    dataset = CGDataset(root, prebatch=prebatch)
    rows = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:50]
    items = dataset if part == "all" else Subset(dataset, rows if part == "tensor" else rows.tolist())
    sampler = torch.randperm(len(items), generator=torch.Generator().manual_seed(1)).tolist()
    ours, theirs = (
        list(loader(items, batch_size=20, sampler=sampler)) for loader in (batch_loader, DataLoader)
    )
    assert len(ours) == len(theirs) == (6 if part == "all" else 3)
    for a, b in zip(ours, theirs, strict=True):
        assert set(a.keys()) == set(b.keys())
        for key in a.keys():  # noqa: SIM118 (a batch iterates over pairs)
            assert torch.equal(a[key], b[key]), key


def test_changing_a_batch_does_not_change_the_data(root):
    dataset = CGDataset(root)
    before = dataset[3].pos.clone()
    dataset[3].pos.zero_()
    first = dataset.__getitems__([3, 4])[0]
    kept = {key: first[key].clone() for key in list(first.keys())}
    for key in kept:
        first[key].zero_()
    assert torch.equal(dataset[3].pos, before)
    again = dataset.__getitems__([3, 4])[0]
    for key, values in kept.items():
        assert torch.equal(again[key], values), key


def test_choice_and_copies(root):
    assert len(CGDataset(root, sources=["seed"])) == 60
    assert len(CGDataset(root, shards=["label_001"])) == 60
    dataset = CGDataset(root, repeat={"round_001": 2.5})
    assert dataset.n_frames == 120
    counts = np.bincount(dataset.items, minlength=120)
    assert counts[:60].tolist() == [1] * 60
    assert sorted(counts[60:].tolist()) == [2] * 30 + [3] * 30
    with pytest.raises(DataError, match="no shards"):
        CGDataset(root, shards=["label_009"])
    with pytest.raises(DataError, match=r"sources \['round_001', 'seed'\]"):
        CGDataset(root, sources=["round_2"])
    with pytest.raises(DataError, match="at least 1"):
        CGDataset(root, repeat={"seed": 0.5})
    with pytest.raises(DataError, match="'errors' is not known"):
        CGDataset(root, repeat="errors")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no frames from 'round_7'"):
        CGDataset(root, repeat={"round_7": 2})


@settings(max_examples=15, deadline=None)
@given(val=st.floats(0.05, 0.4), test=st.sampled_from([0.0, 0.1, 0.3]), seed=st.integers(0, 9))
def test_splits_share_no_block(root, tmp_path_factory, val, test, seed):
    dataset = CGDataset(root, repeat={"round_001": 3})
    path = block_splits(
        dataset, tmp_path_factory.mktemp("s") / "s.npz", val_fraction=val, test_fraction=test, seed=seed
    )
    with np.load(path) as split:
        sides = {k: dataset.items[split[k]] for k in ("idx_train", "idx_val", "idx_test")}
    frames = [set(s.tolist()) for s in sides.values()]
    assert set.union(*frames) == set(range(120))
    assert sum(map(len, frames)) == 120
    assert len(sides["idx_val"]) == len(frames[1]), "validation sees no copies"
    assert abs(len(frames[1]) / 120 - val) <= 0.06
    assert abs(len(frames[2]) / 120 - test) <= 0.06
    if min(v for v in (val, test) if v) >= 0.2:
        blocks = [{int(b) for b in dataset.block[list(f)]} for f in frames]
        assert not blocks[0] & blocks[1]
        assert not blocks[0] & blocks[2]


def test_splits_that_cannot_be_made(root, tmp_path):
    dataset = CGDataset(root)
    with pytest.raises(DataError, match="sum < 1"):
        block_splits(dataset, tmp_path / "s.npz", val_fraction=0.7, test_fraction=0.4)
    make_store(tmp_path / "one", n=1, rounds=1)
    with pytest.raises(DataError, match="too few"):
        block_splits(CGDataset(tmp_path / "one"), tmp_path / "s.npz")


def test_plain_files(root, tmp_path):
    frames = DataStore(root).load_all()
    store = DataStore(root)
    store.topology.save(tmp_path / "top.json")
    for k, part in enumerate((slice(0, 50), slice(50, 120))):
        np.save(tmp_path / f"xyz_{k}.npy", frames.positions[part] / 10)
        np.save(tmp_path / f"force_{k}.npy", frames.forces[part] * 41.84)
    arguments = {
        "coords": "xyz_*.npy",
        "forces": "force_*.npy",
        "topology": "top.json",
        "length_unit": "nm",
        "force_unit": "kJ/mol/nm",
        "temperature": 400,
    }
    dataset = CGDataset(tmp_path, **arguments)
    assert dataset.topology == store.topology
    np.testing.assert_allclose(dataset.frames, frames.positions, rtol=1e-5)
    np.testing.assert_allclose(dataset.forces, frames.forces, rtol=1e-5)
    assert dataset.tables[0].sources == ("xyz_0.npy", "xyz_1.npy")
    assert len(np.unique(dataset.block)) == 40
    wrong = {
        "no file matches": {"forces": "none_*.npy"},
        "belong in pairs": {"forces": "force_0.npy"},
        "force_unit": {"force_unit": "kT/angstrom"},
        "need a topology": {"topology": None},
        "give coords and forces": {"forces": None},
        "shards and sources": {"shards": ["a"]},
    }
    for message, change in wrong.items():
        with pytest.raises(DataError, match=message):
            CGDataset(tmp_path, **{**arguments, **change})
    with pytest.raises(MappingError, match="does not exist"):
        CGDataset(tmp_path, **{**arguments, "topology": "no.json"})


def test_doubtful_forces_of_plain_files_are_said(root, tmp_path):
    frames, topology = DataStore(root).load_all(), DataStore(root).topology
    np.save(tmp_path / "xyz.npy", frames.positions)
    np.save(tmp_path / "big_forces.npy", frames.forces * 41.84)
    np.save(tmp_path / "deltaforces.npy", frames.forces)
    np.savez(tmp_path / "both.npz", coords=frames.positions, delta_forces=frames.forces)
    np.savez(tmp_path / "torchmd.npz", pos=frames.positions, neg_dy=frames.forces)
    for coords, forces, message in (
        ("xyz.npy", "big_forces.npy", r"probably in kJ/mol/nm.*give force_unit"),
        ("xyz.npy", "deltaforces.npy", r"deltaforces\.npy: delta forces are forces minus those of priors"),
        ("both.npz", "both.npz", r"delta forces are forces minus"),
    ):
        with pytest.warns(CGALWarning, match=message):
            dataset = CGDataset(tmp_path, coords=coords, forces=forces, topology=topology)
        assert dataset.n_frames == 120
    plain = CGDataset(tmp_path, coords="torchmd.npz", forces="torchmd.npz", topology=topology)
    np.testing.assert_array_equal(plain.forces, frames.forces)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 5, 3), np.nan), "not finite"),
        (np.zeros((4, 6, 3)), "they must agree"),
        (np.zeros((5, 5, 3)), "they must agree"),
        (np.zeros((4, 15)), r"expected \(n_frames, n_beads, 3\)"),
        (None, "cannot be read"),
    ],
)
def test_damaged_plain_files(root, tmp_path, array, message):
    np.save(tmp_path / "xyz.npy", np.zeros((4, 5, 3)))
    if array is None:
        (tmp_path / "force.npy").write_bytes(b"not an array")
    else:
        np.save(tmp_path / "force.npy", array)
    topology = DataStore(root).topology
    with pytest.raises(DataError, match=message):
        CGDataset(tmp_path, coords="xyz.npy", forces="force.npy", topology=topology)


def test_plain_files_of_another_molecule(root, tmp_path):
    np.save(tmp_path / "six.npy", np.zeros((4, 6, 3)))
    with pytest.raises(DataError, match="has 6 beads"):
        CGDataset(tmp_path, coords="six.npy", forces="six.npy", topology=DataStore(root).topology)


def test_damaged_and_missing_stores(root, tmp_path):
    with pytest.raises(DataError, match=r"store\.json"):
        CGDataset(tmp_path)
    with pytest.raises(DataError, match="not 350"):
        CGDataset(root, temperature=350)
    make_store(tmp_path / "s")
    with open(tmp_path / "s" / "shards" / "label_000.npz", "r+b") as handle:
        handle.seek(100)
        handle.write(b"xxxx")
    with pytest.raises(DataError, match="damaged"):
        CGDataset(tmp_path / "s")


def test_nm_need_the_unit_of_the_forces_too(tmp_path: Path) -> None:
    """Programs that write nm write kJ/mol/nm: the default would make the forces 41.84 times too large."""
    frames = np.zeros((6, 3, 3))
    frames[:, :, 0] = 0.38 * np.arange(3)
    np.save(tmp_path / "x.npy", frames)
    np.save(tmp_path / "f.npy", frames)
    topology = CGTopology.from_sequence("GYG")
    with pytest.raises(DataError, match=r"length_unit nm needs force_unit too.*kJ/mol/nm"):
        CGDataset(tmp_path, coords="x.npy", forces="f.npy", topology=topology, length_unit="nm")
