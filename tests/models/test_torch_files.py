"""Checkpoints of unknown origin are read without running code, or refused."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.errors import CGALError, TrainingError
from cgal_plugin.export import export_torchscript
from cgal_plugin.mapping import CGTopology
from cgal_plugin.models.convert import from_mlcg, from_torchmdnet_gn
from cgal_plugin.models.torch_files import check_torch, read_torch
from cgal_plugin.training import load_model, train


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    path = tmp_path / "evil.ckpt"
    weights = {"model.x": torch.zeros(3)}
    torch.save({"state_dict": weights, "hyper_parameters": {"model": Evil(tmp_path / "ran")}}, path)
    return path


OPENERS: dict[str, Callable[[Path], Any]] = {
    "load_model": load_model,
    "ensemble": lambda path: load_model([path]),
    "export": lambda path: export_torchscript(path, CGTopology.from_sequence("GYG"), path.parent / "x.pt"),
    "graph_network": from_torchmdnet_gn,
    "mlcg": from_mlcg,
    "train": lambda path: train({}, path.parent / "out", seed=0, init_checkpoint=path, mode="finetune"),
}


@pytest.fixture(params=list(OPENERS))
def opener(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    return OPENERS[request.param]


def test_files_that_would_run_code_are_refused(evil: Path, opener: Callable[[Path], Any]) -> None:
    with pytest.raises(CGALError, match=r"would import posix\.system.*--trust"):
        opener(evil)
    assert not (evil.parent / "ran").exists()
    assert not (evil.parent / "out" / "training.json").exists()


def test_a_plain_pickle_is_refused(tmp_path: Path, opener: Callable[[Path], Any]) -> None:
    path = tmp_path / "plain.ckpt"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(CGALError, match=r"plain\.ckpt"):
        opener(path)
    assert not (tmp_path / "ran").exists()


def test_trust_is_explicit(evil: Path) -> None:
    assert read_torch(evil, trust=True)["state_dict"]["model.x"].tolist() == [0.0, 0.0, 0.0]
    assert (evil.parent / "ran").exists()


def test_usual_content_of_checkpoints_needs_no_trust(tmp_path: Path) -> None:
    content = {
        "weights": torch.ones(2),
        "namespace": argparse.Namespace(lr=0.1),
        "array": np.arange(3),
        "scalar": np.float64(2.5),
        "list": [1, "a", None, (True,)],
    }
    torch.save(content, tmp_path / "x.pt")
    found = read_torch(tmp_path / "x.pt")
    assert found["namespace"].lr == 0.1
    assert found["array"].tolist() == [0, 1, 2]
    assert found["scalar"] == 2.5
    assert found["list"] == content["list"]


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 and no more", bytes(1000)])
def test_other_files_are_named(content: bytes, tmp_path: Path, opener: Callable[[Path], Any]) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CGALError, match=r"x\.ckpt"):
        opener(tmp_path / "x.ckpt")


@pytest.mark.parametrize("name", ["../out.ckpt", "/tmp/out.ckpt", "a/../../out.ckpt", "..\\out.ckpt"])
def test_an_archive_cannot_write_outside(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ensemble.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(TrainingError, match="points outside the archive"):
        load_model(tmp_path / "ensemble.zip")


def test_an_archive_of_checkpoints_is_checked_one_by_one(evil: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ensemble.zip", "w") as archive:
        archive.write(evil, "a/evil.ckpt")
    with pytest.raises(CGALError, match=r"ensemble\.zip:a/evil\.ckpt .*would import"):
        check_torch(tmp_path / "ensemble.zip")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(CGALError, match=r"broken\.zip cannot be read"):
        check_torch(tmp_path / "broken.zip")
