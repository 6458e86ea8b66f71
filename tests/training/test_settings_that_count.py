"""Losses, sizes, splits and settings: each is honoured, or refused by name before anything is written."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cgal_plugin.cli.train import main
from cgal_plugin.data import CGDataset
from cgal_plugin.data.split_files import split_counts
from cgal_plugin.data.splits import given_sides, sized_sides
from cgal_plugin.errors import CGALError, ConfigError, DataError, TrainingError
from cgal_plugin.models import build_model
from cgal_plugin.models.supported import monitors
from cgal_plugin.training import load_model, resolve, train

from .data import make_store
from .test_train import HPARAMS

N = 120


@pytest.fixture(scope="module")
def hparams(tmp_path_factory):
    root = tmp_path_factory.mktemp("count") / "store"
    make_store(root, n=N)
    return {**HPARAMS, "dataset_root": str(root), "num_epochs": 1}


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize(
    ("loss", "early"),
    [("l1_loss", None), ("l1_loss", "val_total_mse_loss"), ("huber_loss", None), ("huber_loss", "default")],
)
def test_the_best_epoch_has_the_lowest_validation_loss(hparams, tmp_path, loss, early):
    keys = {**hparams, "train_loss": loss, "num_epochs": 3, "lr": 1e-2}
    if early != "default":
        keys["early_stopping_monitor"] = early
    result = train(keys, tmp_path, seed=3)
    values = [m[f"val_total_{loss}"] for m in result.metrics]
    assert values[-1] < values[0]
    assert result.checkpoint.name == f"epoch_{int(np.argmin(values)):04d}.ckpt"
    assert result.epochs_run == 3


def test_early_stopping_stops_for_another_loss(hparams, tmp_path):
    # the learning rate is too small for any progress
    keys = {**hparams, "train_loss": "l1_loss", "num_epochs": 9, "lr": 1e-12, "early_stopping_patience": 1}
    keys["lr_min"] = 1e-13
    result = train(keys, tmp_path, seed=3)
    assert result.epochs_run < 9
    again = train(keys, tmp_path, seed=3)
    assert again.epochs_run == 0
    assert again.checkpoint == result.checkpoint


def test_patience_beyond_the_last_epoch_and_one_validation_frame(hparams, tmp_path):
    keys = {**hparams, "train_loss": "huber_loss", "train_loss_arg": {"delta": 5.0}, "val_size": 1}
    result = train({**keys, "num_epochs": 2, "early_stopping_patience": 50}, tmp_path, seed=0)
    assert result.epochs_run == 2
    assert len(np.load(tmp_path / "splits.npz")["idx_val"]) == 1


def test_delta_of_the_huber_loss_reaches_the_loss(hparams, tmp_path):
    values = []
    for n, argument in enumerate(({"delta": 1.0}, '{"delta": 20.0}')):
        keys = {**hparams, "train_loss": "huber_loss", "train_loss_arg": argument}
        values.append(train(keys, tmp_path / str(n), seed=0).metrics[0]["val_total_huber_loss"])
    assert values[0] < values[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_loss": "smooth_l1"}, "train_loss is 'smooth_l1'; allowed are mse_loss, l1_loss"),
        ({"train_loss_arg": {"delta": 1.0}}, r"train_loss_arg\.delta is not an option of mse_loss"),
        ({"train_loss": "huber_loss", "train_loss_arg": {"delta": -1}}, "delta is -1"),
        ({"train_loss": "huber_loss", "train_loss_arg": [1]}, "must be a mapping"),
        ({"train_loss": "l1_loss", "train_loss_arg": {"reduction": "none"}}, "allowed are mean, sum"),
        ({"train_loss": "l1_loss", "checkpoint_monitor": "val_total_huber_loss"}, "with train_loss l1_loss"),
        ({"early_stopping_monitor": "val_loss"}, "early_stopping_monitor is 'val_loss'; allowed are"),
        ({"early_stopping_patience": -1}, "early_stopping_patience is -1"),
    ],
)
def test_losses_that_cannot_be_are_named(hparams, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        train({**hparams, **change}, tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


def test_monitors_follow_the_loss():
    assert resolve({"train_loss": "l1_loss"})["checkpoint_monitor"] == "val_total_l1_loss"
    assert resolve({})["early_stopping_monitor"] == "val_total_mse_loss"
    given = {"train_loss": "huber_loss", "checkpoint_monitor": "train_total_mse_loss"}
    assert monitors({**given, "early_stopping_monitor": None}) == {
        "checkpoint_monitor": "train_total_huber_loss",
        "early_stopping_monitor": None,
    }


def test_a_validation_loss_that_is_not_finite_is_an_error(hparams, tmp_path):
    frozen = {**hparams, "train_loss": "l1_loss", "prior_model": None}
    good = train(frozen, tmp_path, seed=0)
    content = torch.load(good.checkpoint, weights_only=False)
    for value in content["state_dict"].values():
        value.fill_(float("nan"))
    torch.save(content, tmp_path / "bad.ckpt")
    keys = {"mode": "finetune", "init_checkpoint": tmp_path / "bad.ckpt"}
    with pytest.raises(TrainingError, match=r"nan in epoch 0|not finite after epoch 0"):
        train(frozen, tmp_path / "next", seed=0, **keys)


# ------------------------------------------------------------------ sizes


def sizes(path: Path) -> tuple[int, int, int]:
    with np.load(path / "splits.npz") as split:
        sides = [split[f"idx_{s}"] for s in ("train", "val", "test")]
    assert len(np.unique(np.concatenate(sides))) == sum(map(len, sides))
    return tuple(map(len, sides))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"train_size": 0.2}, (24, 12, 0)),
        ({"train_size": 100}, (100, 12, 0)),
        ({"train_size": 7, "val_size": 3, "test_size": 11}, (7, 3, 11)),
        ({"train_size": "0.25"}, (30, 12, 0)),
        ({"train_size": 50, "val_size": None}, (50, 70, 0)),
        ({"train_size": 0.5, "test_size": None}, (60, 12, 48)),
        ({"val_size": 17}, (103, 17, 0)),
        ({"train_size": 1 / 3, "val_size": 1 / 3, "test_size": 1 / 3}, (40, 40, 40)),
    ],
)
def test_sizes_are_exact(hparams, given, wanted):
    keys = {"train_size": None, "val_size": 0.1, "test_size": 0.0, **given}
    sides = sized_sides(CGDataset(hparams["dataset_root"]), keys, 1)
    assert tuple(len(sides[f"idx_{s}"]) for s in ("train", "val", "test")) == wanted
    assert len(np.unique(np.concatenate(list(sides.values())))) == sum(wanted)


@pytest.mark.parametrize(
    ("given", "wanted"), [({"train_size": 0.2}, (24, 12, 0)), ({"train_size": 100}, (100, 12, 0))]
)
def test_a_training_uses_frames_of_that_number(hparams, tmp_path, given, wanted):
    result = train({**hparams, **given}, tmp_path, seed=1)
    assert sizes(tmp_path) == wanted
    frames = torch.load(result.checkpoint, weights_only=False)["cgal_plugin"]["frames"]
    assert frames == {"train": wanted[0], "val": wanted[1], "test": wanted[2], "unused": N - sum(wanted)}


def test_fractions_alone_still_take_whole_blocks(hparams):
    dataset = CGDataset(hparams["dataset_root"])
    split = sized_sides(dataset, {"train_size": None, "val_size": 0.1, "test_size": 0.0}, 1)
    pieces = [dataset.block[split[k]] * 10 + split[k] % 10 // 5 for k in ("idx_train", "idx_val")]
    assert not set(pieces[0]) & set(pieces[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_size": 0.95}, "need 126 frames; the data set has 120"),
        ({"train_size": 200}, "the data set has 120"),
        ({"train_size": True}, "train_size is True"),
        ({"train_size": -5}, "must not be negative"),
        ({"train_size": 20.0}, "for a number of frames write train_size: 20"),
        ({"train_size": float("nan")}, "train_size is nan"),
        ({"train_size": "many"}, "train_size is 'many'"),
        ({"train_size": 0}, "idx_train is empty"),
        ({"val_size": 0.0}, "idx_val is empty"),
        ({"val_size": 120}, "idx_train is empty"),
        ({"val_size": None}, "train_size and val_size are missing"),
        ({"train_size": [1, 2]}, "must be a fraction such as"),
    ],
)
def test_sizes_that_cannot_be_met_are_named(hparams, tmp_path, given, message):
    with pytest.raises((ConfigError, DataError), match=message):
        train({**hparams, **given}, tmp_path / "out", seed=1)
    assert not (tmp_path / "out").exists()


def test_rounded_fractions_that_fill_the_data_fit():
    assert sum(split_counts(7, {"train_size": 0.5, "val_size": 0.5, "test_size": 0.0}).values()) == 7


def test_copies_follow_the_frames_of_an_exact_size(hparams):
    dataset = CGDataset(hparams["dataset_root"], repeat={"round_001": 3})
    sides = sized_sides(dataset, {"train_size": 40, "val_size": 10, "test_size": 0}, 0)
    train_frames = dataset.items[sides["idx_train"]]
    assert len(np.unique(train_frames)) == 40
    assert not np.isin(train_frames, dataset.items[sides["idx_val"]]).any()
    assert len(train_frames) == 40 + 2 * (np.unique(train_frames) >= N // 2).sum()


# ------------------------------------------------------------------ splits


def used(path: Path) -> dict[str, list[int]]:
    with np.load(path / "splits.npz") as split:
        return {k: split[k].tolist() for k in split.files}


@pytest.mark.parametrize("form", ["mask", "uint8", "int32", "mapping", "no test"])
def test_splits_are_honoured(hparams, tmp_path, form):
    train_, val = np.arange(0, 80), np.arange(90, 100)
    arrays = {"idx_train": train_, "idx_val": val, "idx_test": np.arange(100, 120)}
    if form == "mask":
        arrays = {k: np.isin(np.arange(N), v) for k, v in arrays.items()}
    elif form == "no test":
        del arrays["idx_test"]
    elif form != "mapping":
        arrays = {k: v.astype(form) for k, v in arrays.items()}
    np.savez(tmp_path / "s.npz", **arrays)
    given = arrays if form == "mapping" else tmp_path / "s.npz"
    found = given_sides(CGDataset(hparams["dataset_root"]), given)
    assert (found["idx_train"].tolist(), found["idx_val"].tolist()) == (train_.tolist(), val.tolist())
    if form in ("mask", "mapping"):
        train({**hparams, "splits": given if form == "mapping" else str(given)}, tmp_path / "out", seed=0)
        assert used(tmp_path / "out") == {k: v.tolist() for k, v in found.items()}


def test_splits_of_frames_include_their_copies(hparams, tmp_path):
    keys = {**hparams, "dataset_arg": {"repeat": {"round_001": 2}}}
    mask = np.arange(N) < 100
    train({**keys, "splits": {"idx_train": mask, "idx_val": ~mask}}, tmp_path, seed=0)
    found = used(tmp_path)
    # frames 60 to 99 are of round 1; their copies are items 120 to 159
    assert found["idx_train"] == [*range(100), *range(120, 160)]
    assert found["idx_val"] == list(range(100, 120))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"idx_train": np.arange(50)}, "has no idx_val"),
        ({"idx_train": np.ones(50, bool), "idx_val": np.zeros(50, bool)}, "mask of length 50"),
        ({"idx_train": np.zeros(N, bool), "idx_val": np.ones(N, bool)}, "idx_train is empty"),
        (
            {"idx_train": np.arange(50), "idx_val": np.arange(40, 60)},
            "10 items are in idx_train and in idx_val",
        ),
        ({"idx_train": np.arange(50), "idx_val": np.array([200])}, "indices from 200 to 200"),
        ({"idx_train": np.array([-1, 3]), "idx_val": np.array([4])}, "indices from -1 to 3"),
        ({"idx_train": np.arange(5.0), "idx_val": np.array([7])}, "dtype float64"),
        ({"idx_train": np.arange(50)[None], "idx_val": np.array([70])}, r"shape \(1, 50\)"),
        ({"train": np.arange(50), "val": np.array([70])}, r"it has train, val"),
    ],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_splits_that_do_not_fit_are_named(hparams, tmp_path, arrays, message, as_file):
    np.savez(tmp_path / "s.npz", **arrays)
    given = str(tmp_path / "s.npz") if as_file else arrays
    with pytest.raises(ConfigError, match=message):
        train({**hparams, "splits": given}, tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


def test_a_frame_whose_copy_is_in_the_validation_is_named(hparams, tmp_path):
    keys = {**hparams, "dataset_arg": {"repeat": {"round_001": 2}}}
    splits = {"idx_train": np.arange(60), "idx_val": np.arange(100, 110)}
    assert train({**keys, "splits": splits}, tmp_path / "a", seed=0).epochs_run == 1
    splits = {"idx_train": np.array([0, 130]), "idx_val": np.array([70])}
    with pytest.raises(ConfigError, match="in idx_train and in idx_val"):
        train({**keys, "splits": splits}, tmp_path / "b", seed=0)


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"charge": True}, "charge is True; model cgschnet has no charges"),
        ({"spin": True}, "spin is True"),
        ({"max_z": 5}, "max_z is 5, but bead types .* go up to"),
        ({"max_z": 0}, "max_z is 0"),
        ({"standardize": True}, "no energies to standardize"),
        ({"y_weight": 1.0}, "y_weight is 1.0; CGDataset has forces and no energies"),
        ({"y_weight": -1.0}, "y_weight is -1"),
        ({"neg_dy_weight": 0.0}, "nothing to train on"),
        ({"neg_dy_weight": float("nan")}, "neg_dy_weight is nan"),
        ({"output_model": "DipoleMoment"}, "output_model is 'DipoleMoment'"),
        ({"atom_filter": 2}, "atom_filter is 2"),
        ({"precision": 16}, "precision is 16"),
        ({"num_heads": 4}, "num_heads is 4; it is a key of model transformer"),
        ({"vector_cutoff": True}, "key of model equivariant-transformer"),
        ({"static_shapes": True}, "key of model tensornet"),
        ({"coord_files": "x*.npy"}, "coord_files is a key of dataset Custom"),
        ({"remove_ref_energy": True}, "remove_ref_energy needs data with energies"),
        ({"derivative": False}, "derivative is false"),
        ({"cutoff_lower": 20.0}, "cutoffs are 20.0 to 12.0"),
        ({"aggr": "median"}, "aggr is 'median'"),
        ({"prior_model": ["CGBond"]}, "prior_model .*CGBond"),
        ({"prior_model": ["ZBL"]}, "prior_model .*ZBL"),
        ({"model": "graph-network"}, "remove cgschnet, or set model: cgschnet"),
        ({"ngpus": 2}, "train.. uses one device"),
        ({"test_interval": 2}, "does not use the test set"),
        ({"temperature": 300.0}, "temperature is 300 K, but .* is for 400 K|not 300.0 K"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_by_name(hparams, tmp_path, change, message):
    with pytest.raises(CGALError, match=message):
        train({**hparams, **change}, tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()
    # the corrected call is not blocked
    assert resolve(hparams)


def test_bead_types_beyond_a_models_table_are_named_at_use():
    args = {"embedding_dimension": 8, "num_layers": 1, "num_rbf": 4, "max_z": 5}
    model = build_model(args).eval()
    with pytest.raises(ConfigError, match="bead types 1 to 9 do not fit this model: max_z is 5"):
        model(torch.tensor([1, 9]), torch.zeros(2, 3))
    with pytest.raises(ConfigError, match="charge"):
        build_model({**args, "charge": True})


def test_max_z_of_exactly_the_bead_types_trains(hparams, tmp_path):
    largest = int(CGDataset(hparams["dataset_root"]).topology.types.max())
    result = train({**hparams, "max_z": largest + 1}, tmp_path, seed=0)
    assert load_model(result.checkpoint).representation_model.max_z == largest + 1


# ------------------------------------------------------------------ cgal-train


@pytest.fixture(scope="module")
def conf(hparams, tmp_path_factory):
    keys = {
        **{k: v for k, v in hparams.items() if k != "cgschnet"},
        "model": "cgschnet",
        "num_epochs": 1,
        "dataset": "CGDataset",
        "derivative": True,
        "num_workers": 0,
        "save_interval": 1,
        "val_size": 0.2,
        "test_size": 0.0,
    }

    def write(**changes):
        path = tmp_path_factory.mktemp("conf") / "train.yaml"
        path.write_text(yaml.safe_dump({**keys, **changes}))
        return path

    return write


@pytest.fixture
def cgal_train(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")

    def call(path, log):
        monkeypatch.setattr(sys, "argv", ["cgal-train", "--conf", str(path), "--log-dir", str(log)])
        with torch.random.fork_rng(devices=[]):
            main()

    return call


@pytest.mark.filterwarnings("ignore")
def test_cgal_train_with_another_loss_and_masks(conf, cgal_train, tmp_path, capsys):
    masks = {f"idx_{s}": np.arange(N) // 40 == k for k, s in enumerate(("train", "val", "test"))}
    np.savez(tmp_path / "s.npz", **masks)
    cgal_train(conf(train_loss="l1_loss", splits=str(tmp_path / "s.npz")), tmp_path / "log")
    assert "train 40, val 40, test 40" in capsys.readouterr().out
    (name,) = (tmp_path / "log").glob("*.ckpt")
    content = torch.load(name, weights_only=False)["hyper_parameters"]
    assert content["temperature"] == 400.0
    assert content["checkpoint_monitor"] == content["early_stopping_monitor"] == "val_total_l1_loss"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_z": 5}, "max_z is 5, but bead types"),
        ({"charge": True}, "charge is True"),
        ({"train_loss": "smooth"}, "train_loss is 'smooth'"),
        ({"checkpoint_monitor": "val_loss"}, "checkpoint_monitor is 'val_loss'"),
        ({"temperature": 300.0}, "is for 400 K"),
        ({"dataset_root": "nowhere"}, "nowhere"),
        ({"num_heads": 4}, "num_heads is 4"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_cgal_train_refuses_by_name(conf, cgal_train, tmp_path, capsys, changes, message):
    with pytest.raises(SystemExit) as end:
        cgal_train(conf(**changes), tmp_path / "log")
    assert end.value.code in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "log").exists()


@pytest.mark.filterwarnings("ignore")
def test_cgal_train_refuses_a_split_that_does_not_fit(conf, cgal_train, tmp_path, capsys):
    np.savez(tmp_path / "s.npz", idx_train=np.ones(7, bool), idx_val=np.array([3]), idx_test=np.array([4]))
    with pytest.raises(SystemExit):
        cgal_train(conf(splits=str(tmp_path / "s.npz")), tmp_path / "log")
    assert "idx_train is a mask of length 7; the data set has 120 items" in capsys.readouterr().err
