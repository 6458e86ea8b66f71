"""cgal-train: a plain TorchMD-Net YAML trains, restarts and loads; two processes on the CPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from torchmdnet.models.model import load_model

import cgal_plugin
from cgal_plugin.cli.train import main
from cgal_plugin.mapping import CGTopology

from .data import make_store

# TorchMD-Net's script warns about workers, pinned memory, deprecated pytree calls
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    """Return a YAML with TorchMD-Net's keys, and write its data."""
    folder = tmp_path_factory.mktemp("yaml")
    make_store(folder / "store")
    content = {
        "model": "cgschnet",
        "cgschnet": {"form": "majewski"},
        "dataset": "CGDataset",
        "dataset_root": str(folder / "store"),
        "dataset_arg": {"sources": ["seed"]},
        "prior_model": ["CGBonds", {"CGRepulsion": {}}],
        "embedding_dimension": 16,
        "num_layers": 1,
        "num_rbf": 8,
        "cutoff_upper": 12.0,
        "derivative": True,
        "y_weight": 0.0,
        "num_epochs": 2,
        "batch_size": 16,
        "num_workers": 0,
        "save_interval": 1,
        "val_size": 0.2,
        "test_size": 0.2,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def run(monkeypatch):
    """Return a function that calls cgal-train with command-line arguments."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["cgal-train", *map(str, words)])
        with torch.random.fork_rng(devices=[]):
            main()

    return call


def checkpoints(folder):
    return {int(p.name.split("-")[0].removeprefix("epoch=")): p for p in Path(folder).glob("*.ckpt")}


def test_without_priors_and_with_weights_from_errors(conf, run, tmp_path):
    """TorchMD-Net replaces a missing prior_model by an empty list."""
    content = yaml.safe_load(conf.read_text())
    del content["prior_model"]
    content |= {"dataset_arg": {"repeat": "error"}, "num_epochs": 1}
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump(content))
    run("--conf", path, "--log-dir", tmp_path / "log")
    assert len(load_model(str(checkpoints(tmp_path / "log")[0])).prior_model or ()) == 0


def test_trains_restarts_and_loads(conf, run, tmp_path):
    run("--conf", conf, "--log-dir", tmp_path / "first")
    first = checkpoints(tmp_path / "first")
    assert set(first) == {0, 1}
    model = load_model(str(first[1]), derivative=True)
    assert type(model.representation_model).__name__ == "CGSchNet"
    assert [type(p).__name__ for p in model.prior_model] == ["CGBonds", "CGRepulsion"]
    z = torch.tensor(CGTopology.from_sequence("YYDPE").types)
    e, f = model(z, torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 4)
    assert e.shape == (1, 1)
    assert torch.isfinite(f).all()

    run("--load-model", first[1], "--num-epochs", 4, "--log-dir", tmp_path / "bare")
    assert set(checkpoints(tmp_path / "bare")) == {2, 3}
    run("--load-model", first[1], "--conf", conf, "--num-epochs", 4, "--log-dir", tmp_path / "conf")
    a, b = (torch.load(checkpoints(tmp_path / d)[3], weights_only=False) for d in ("bare", "conf"))
    assert a["global_step"] == b["global_step"] > 6
    for key, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][key]), key
    assert a["hyper_parameters"]["prior_args"] == b["hyper_parameters"]["prior_args"]
    ensemble = load_model([str(first[0]), str(first[1])], derivative=True)
    assert ensemble(z, torch.zeros(5, 3) + torch.arange(5)[:, None] * 3.0)[1].shape == (5, 3)


def test_restarts_from_a_checkpoint_of_train(conf, run, tmp_path):
    from cgal_plugin.training import train

    content = yaml.safe_load(conf.read_text())
    result = train({**content, "num_epochs": 2}, tmp_path / "ours", seed=1)
    run(
        "--load-model",
        result.last_checkpoint,
        "--num-epochs",
        3,
        "--log-dir",
        tmp_path / "on",
        "--save-interval",
        1,
    )
    assert set(checkpoints(tmp_path / "on")) == {2}


def test_command_line_arguments_without_derivative(conf, run, tmp_path):
    content = yaml.safe_load(conf.read_text())
    del content["derivative"], content["dataset_arg"]
    short = tmp_path / "short.yaml"
    short.write_text(yaml.safe_dump({**content, "num_epochs": 1}))
    # the data have forces only; TorchMD-Net's default for derivative is false
    run("--conf", short, "--dataset-arg", '{"sources": ["round_001"]}', "--log-dir", tmp_path / "log")
    saved = torch.load(checkpoints(tmp_path / "log")[0], weights_only=False)["hyper_parameters"]
    assert saved["derivative"] is True
    assert saved["dataset_arg"] == {"sources": ["round_001"]}
    assert len(numpy.load(tmp_path / "log" / "splits.npz")["idx_train"]) == 36


def test_unknown_key_is_refused_by_torchmdnet(conf, run, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(conf.read_text() + "\ncg_schnet: {}\n")
    with pytest.raises(ValueError, match="cg_schnet"):
        run("--conf", bad, "--log-dir", tmp_path / "log")


@pytest.mark.integration
def test_two_processes_on_the_cpu(conf, tmp_path):
    script = shutil.which("cgal-train") or str(Path(sys.executable).with_name("cgal-train"))
    done = subprocess.run(
        [script, "--conf", str(conf), "--ngpus", "2", "--log-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MEMBER: 2/2" in done.stderr
    assert set(checkpoints(tmp_path)) == {0, 1}
    cgal_plugin.register()  # the training ran in other processes
    load_model(str(checkpoints(tmp_path)[1]))
