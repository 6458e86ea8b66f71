"""train(): learns, resumes exactly, tolerates damaged files, fine-tunes, replays, names errors."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmdnet.models.model import load_model as upstream_load

from cgal_plugin.data import DataStore
from cgal_plugin.errors import ConfigError, DataError, TrainingError
from cgal_plugin.training import load_model, resolve, train, train_ensemble

from .data import make_store

HPARAMS = {
    "embedding_dimension": 16,
    "num_layers": 1,
    "num_rbf": 8,
    "batch_size": 32,
    "lr": 3e-3,
    "num_epochs": 4,
    "prior_model": ["CGBonds", "CGRepulsion"],
    "cgschnet": {"form": "mlcg", "output_layers": [8]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("train") / "store"
    make_store(root)
    return root


@pytest.fixture(scope="module")
def hparams(root):
    return {**HPARAMS, "dataset_root": str(root)}


@pytest.fixture(scope="module")
def trained(hparams, tmp_path_factory):
    """Return an uninterrupted training of four epochs."""
    out = tmp_path_factory.mktemp("whole")
    return train(hparams, out, seed=3), out


def weights(path):
    return torch.load(path, weights_only=False)["state_dict"]


def same_weights(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_learns_the_forces(tmp_path, chance_seed):
    """Without priors, the force error falls far below the root mean square of the forces."""
    store = make_store(tmp_path / "store", n=600, seed=chance_seed)
    settings = {
        **HPARAMS,
        "dataset_root": str(tmp_path / "store"),
        "prior_model": None,
        "embedding_dimension": 32,
        "num_rbf": 16,
        "batch_size": 16,
        "num_epochs": 6,
        "lr": 1e-2,
    }
    result = train(settings, tmp_path / "out", seed=chance_seed)
    rms = np.sqrt(np.mean(store.load_all().forces ** 2))
    # the ratio is 0.20 +- 0.05 over seeds: 0.5 is six standard deviations away
    assert min(m["val_force_rmse"] for m in result.metrics) < 0.5 * rms


@pytest.mark.parametrize("seed", [3, 4])
def test_an_untrained_network_adds_no_energy(hparams, root, tmp_path, seed):
    """Otherwise the seed would move the energies of states that few data determine."""
    settings = {**hparams, "cgschnet": {"form": "majewski"}, "num_epochs": 1, "lr": 1e-12, "lr_min": 1e-13}
    result = train(settings, tmp_path, seed=seed)
    pos = torch.tensor(DataStore(root).load_all().positions[::20])
    z, batch = torch.tensor(DataStore(root).topology.types).repeat(len(pos)), torch.arange(len(pos))
    model = load_model(result.checkpoint)
    priors = model.prior_model
    model.prior_model = None
    energy, forces = model(z, pos.reshape(-1, 3), batch.repeat_interleave(pos.shape[1]))
    assert priors is not None
    assert energy.abs().max() < 1e-6
    assert forces.abs().max() < 1e-6
    found = weights(result.checkpoint)
    assert found["model.representation_model.interactions.0.lin1.weight"].std() > 0.05  # drawn as before


def test_files_and_metrics(trained):
    result, out = trained
    assert result.epochs_run == 4
    assert [m["epoch"] for m in result.metrics] == [0, 1, 2, 3]
    with open(out / "metrics.csv") as handle:
        rows = list(csv.DictReader(handle))
    assert [float(r["val_total_mse_loss"]) for r in rows] == [m["val_total_mse_loss"] for m in result.metrics]
    content = torch.load(result.checkpoint, weights_only=False)
    assert content["cgal_plugin"]["seed"] == 3
    assert content["cgal_plugin"]["versions"]["torchmd-net"].startswith("3.1")
    assert (
        json.loads(result.checkpoint.with_suffix(".json").read_text())["provenance"] == content["cgal_plugin"]
    )
    assert {p.name for p in out.glob("*.ckpt")} <= {f"epoch_000{n}.ckpt" for n in (2, 3)} | {
        result.checkpoint.name
    }


def test_loads_here_and_upstream(trained, root):
    result, _ = trained
    model, other = load_model(result.checkpoint), upstream_load(str(result.checkpoint), derivative=True)
    frames = DataStore(root).load_all()
    z = torch.tensor(DataStore(root).topology.types)
    pos = torch.tensor(frames.positions[0])
    e, f = model(z, pos.clone())
    e2, f2 = other.eval()(z, pos.clone())
    assert torch.equal(e.detach(), e2.detach())
    assert torch.equal(f, f2.detach())
    # TorchMD-Net returns it in training mode, in which it uses the method of a training step
    e3, f3 = other.train()(z, pos.clone())
    torch.testing.assert_close(e3.detach(), e2.detach(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(f3.detach(), f2.detach(), rtol=1e-5, atol=1e-4)
    both = load_model([result.checkpoint, result.last_checkpoint], return_std=True)
    assert len(both(z, pos.clone())) == 4
    with pytest.raises(TrainingError, match="does not exist"):
        load_model("nothing.ckpt")


def test_resumed_equals_uninterrupted(trained, hparams, tmp_path):
    whole, _ = trained
    train({**hparams, "num_epochs": 1}, tmp_path, seed=3)
    train({**hparams, "num_epochs": 3}, tmp_path, seed=3)
    # an incomplete write and a damaged checkpoint: the previous epoch is used
    last = tmp_path / "epoch_0002.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    (tmp_path / ".epoch_0003.99.tmp.ckpt").write_bytes(b"half")
    seen = []
    result = train(
        hparams, tmp_path, seed=3, progress=lambda done, total, metrics: seen.append((done, total))
    )
    assert result.epochs_run == 2
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert same_weights(result.last_checkpoint, whole.last_checkpoint)
    assert not list(tmp_path.glob("*.tmp*"))
    keys = {"epoch", "lr", "val_total_mse_loss", "train_total_mse_loss"}
    assert [{k: m[k] for k in keys} for m in result.metrics] == [
        {k: m[k] for k in keys} for m in whole.metrics
    ]
    again = train(hparams, tmp_path, seed=3)
    assert again.epochs_run == 0
    assert again.checkpoint == result.checkpoint


def test_schedule_is_resumed(hparams, tmp_path):
    """The plateau scheduler steps after Lightning's own checkpoints; ours must contain the step."""
    # the learning rate is too small for any progress, so the scheduler lowers it after every epoch
    slow = {**hparams, "lr_patience": 0, "lr_factor": 0.5, "lr": 3e-7, "lr_min": 1e-12, "num_epochs": 4}
    whole = train(slow, tmp_path / "a", seed=1)
    for n in range(1, 5):
        parts = train({**slow, "num_epochs": n}, tmp_path / "b", seed=1)
    assert len({m["lr"] for m in whole.metrics}) > 1
    assert [m["lr"] for m in parts.metrics] == [m["lr"] for m in whole.metrics]
    assert same_weights(whole.last_checkpoint, parts.last_checkpoint)


def test_is_lightnings_own_uninterrupted_fit(hparams, trained, tmp_path):
    """Epochs that start from checkpoints give the result of one fit over all epochs."""
    from cgal_plugin.data import CGDataset
    from cgal_plugin.training.lightning import SeededDataModule, make_trainer, quiet
    from cgal_plugin.training.prepare import Prepared
    from cgal_plugin.training.run import _module

    whole, _ = trained
    values = dict(torch.load(whole.checkpoint, weights_only=False)["hyper_parameters"])
    values["log_dir"] = str(tmp_path)
    dataset = CGDataset(values["dataset_root"])

    class Reloading(SeededDataModule):
        def train_dataloader(self):
            self.epoch = self.trainer.current_epoch
            return super().train_dataloader()

    module = _module(Prepared(values, dataset, ""), tmp_path, 3, None, None)
    with quiet():
        trainer = make_trainer(values, tmp_path, 4, {})
        trainer.reload_dataloaders_every_n_epochs = 1
        trainer.fit(module, Reloading(values, dataset, 3))
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in weights(whole.last_checkpoint).items())


def test_silent(hparams, tmp_path, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train({**hparams, "num_epochs": 1}, tmp_path, seed=0)
    assert capfd.readouterr() == ("", "")
    assert caught == []


def test_other_settings_in_the_same_folder_are_refused(trained, hparams):
    _, out = trained
    with pytest.raises(TrainingError, match=r"lr: 0\.003 -> 0\.001"):
        train({**hparams, "lr": 1e-3}, out, seed=3)
    with pytest.raises(TrainingError, match="seed: 3 -> 4"):
        train(hparams, out, seed=4)


def test_finetune_keeps_weights_and_priors(trained, hparams, root, tmp_path):
    result, _ = trained
    tuned = train(
        {**hparams, "num_epochs": 1, "lr": 1e-9},
        tmp_path / "a",
        seed=9,
        init_checkpoint=result.checkpoint,
        mode="finetune",
    )
    for key, value in weights(result.checkpoint).items():
        torch.testing.assert_close(weights(tuned.checkpoint)[key], value, rtol=1e-4, atol=1e-6)
    old, new = (
        torch.load(p, weights_only=False)["hyper_parameters"]["prior_args"]
        for p in (result.checkpoint, tuned.checkpoint)
    )
    assert old == new
    with pytest.raises(ConfigError, match="num_layers is 2, but the network of"):
        train(
            {**hparams, "num_layers": 2},
            tmp_path / "b",
            seed=9,
            init_checkpoint=result.checkpoint,
            mode="finetune",
        )
    fewer = {**hparams, "prior_model": ["CGBonds"]}
    with pytest.raises(TrainingError, match="prior"):
        train(fewer, tmp_path / "c", seed=9, init_checkpoint=result.checkpoint, mode="finetune")
    with pytest.raises(ConfigError, match="scratch"):
        train(hparams, tmp_path / "d", seed=9, init_checkpoint=result.checkpoint)
    with pytest.raises(ConfigError, match="scratch, finetune, replay"):
        train(hparams, tmp_path / "d", seed=9, mode="again")


def test_replay_repeats_the_newest_round(trained, hparams, tmp_path):
    result, _ = trained
    tuned = train(
        {**hparams, "num_epochs": 1},
        tmp_path,
        seed=9,
        init_checkpoint=result.checkpoint,
        mode="replay",
        replay_weight=3.0,
    )
    used = torch.load(tuned.checkpoint, weights_only=False)["hyper_parameters"]["dataset_arg"]
    assert used == {"repeat": {"round_001": 3.0}}
    with np.load(tmp_path / "splits.npz") as split:
        assert len(split["idx_train"]) + len(split["idx_val"]) > 200


def test_divergence_keeps_the_good_epochs(hparams, tmp_path):
    good = train({**hparams, "num_epochs": 2}, tmp_path, seed=3)
    content = torch.load(good.last_checkpoint, weights_only=False)
    content["optimizer_states"][0]["param_groups"][0]["lr"] = 1e30
    from cgal_plugin.training.checkpoints import CheckpointFolder

    record = CheckpointFolder(tmp_path).get(1).record
    CheckpointFolder(tmp_path).save(
        1, lambda name: torch.save(content, name), {k: v for k, v in record.items() if k != "sha256"}
    )
    with pytest.raises(TrainingError, match=r"epoch 2.*gradient_clipping|Lower lr"):
        train(hparams, tmp_path, seed=3)
    assert CheckpointFolder(tmp_path).last().number == 1


def test_ensemble_members_differ(hparams, tmp_path):
    ticks = []
    results = train_ensemble(
        {**hparams, "num_epochs": 1}, tmp_path, n_models=2, seed=5, progress=lambda *t: ticks.append(t[:2])
    )
    assert ticks == [(1, 2), (2, 2)]
    assert not same_weights(results[0].checkpoint, results[1].checkpoint)
    with pytest.raises(ConfigError, match="at least 1"):
        train_ensemble(hparams, tmp_path, n_models=0, seed=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeding_dimension": 8}, "did you mean 'embedding_dimension'"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"num_epochs": 2.5}, "an integer"),
        ({"derivative": "False"}, "true or false"),
        ({"derivative": False}, "derivative: true"),
        ({"model": "schnet"}, "allowed are .*cgschnet"),
        ({"load_model": "x.ckpt"}, "init_checkpoint"),
        ({"batch_size": 0}, "at least 1"),
        ({"lr": -1.0}, "above 0"),
        ({"cgschnet": {"forms": 1}}, "did you mean 'form'"),
        ({"splits": "none.npz"}, "does not exist"),
        ({"dataset_arg": "seed"}, "dataset_arg is 'seed'; it must be a mapping"),
        ({"dataset_arg": ["seed"]}, "such as {sources"),
    ],
)
def test_bad_settings_are_named(hparams, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        train({**hparams, **change}, tmp_path, seed=0)


def test_bad_data_is_named(hparams, tmp_path):
    with pytest.raises(DataError, match=r"store\.json"):
        train({**hparams, "dataset_root": str(tmp_path)}, tmp_path / "out", seed=0)


def test_yaml_text_numbers_are_converted():
    assert resolve({"lr": "1e-4", "num_epochs": "7"})["lr"] == 1e-4


def test_graph_network_trains_too(hparams, tmp_path):
    result = train(
        {**{k: v for k, v in hparams.items() if k != "cgschnet"}, "model": "graph-network", "num_epochs": 1},
        tmp_path,
        seed=0,
    )
    assert type(load_model(result.checkpoint).representation_model).__name__ == "TorchMD_GN"


@pytest.mark.integration
def test_killed_training_resumes(hparams, root, tmp_path):
    """After repeated SIGKILL, the result equals that of an uninterrupted training."""
    settings = {**hparams, "num_epochs": 4}
    code = f"from cgal_plugin.training import train; train({settings!r}, {str(tmp_path / 'cut')!r}, seed=2)"
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", code])
        before = len(list(Path(tmp_path / "cut").glob("*.json")))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            if len(list(Path(tmp_path / "cut").glob("*.json"))) != before:
                time.sleep(0.3)
                process.kill()
        process.wait()
        if process.returncode == 0:
            break
    cut = train(settings, tmp_path / "cut", seed=2)
    whole = train(settings, tmp_path / "whole", seed=2)
    assert same_weights(cut.last_checkpoint, whole.last_checkpoint)


def test_tensorboard_is_torchmdnets_own_switch(hparams, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train({**hparams, "num_epochs": 2, "tensorboard_use": True}, tmp_path / "out", seed=0)
    scalars = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    assert "val_neg_dy_mse_loss" in scalars.Tags()["scalars"]
    with pytest.raises(ConfigError, match="wandb_use works with cgal-train"):
        train({**hparams, "wandb_use": True}, tmp_path / "other", seed=0)
