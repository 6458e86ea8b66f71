"""Two processes on one folder: the second one is refused, and changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cgal_plugin.components.label_files import label_file
from cgal_plugin.components.seed_store import seed_store
from cgal_plugin.config import parse_config
from cgal_plugin.errors import StateError
from cgal_plugin.file_lock import holder, locked
from cgal_plugin.oracle import AllAtomModel
from cgal_plugin.runs.store_lock import locked_store
from cgal_plugin.training import train
from tests.training.data import make_store

SMALL: dict[str, Any] = {"num_epochs": 1, "embedding_dimension": 8, "num_layers": 1, "num_rbf": 8}


def _train(folder: Path, out: Path) -> None:
    if not (folder / "data").exists():
        make_store(folder / "data", n=40)
    keys = {"dataset": "CGDataset", "dataset_root": str(folder / "data"), "model": "cgschnet"}
    train({**keys, **SMALL}, out, seed=0)


def _label(folder: Path, out: Path) -> None:
    model = AllAtomModel.create("AGA", "CA")
    np.save(folder / "frames.npy", model.mapping.map_positions(np.array(model.positions)[None]))
    options = {"temperature": 400.0, "production_ps": 0.2, "relax_ps": 0.1, "methods": ("library",)}
    label_file(folder / "frames.npy", "AGA", out, workers=0, **options)


def _seed(folder: Path, out: Path) -> None:
    data = {"n_trajectories": 1, "picoseconds": 0.4, "equilibration_ps": 0.1, "force_map": "basic"}
    system = {"sequence": "GYG", "temperature": 400.0}
    seed_store(parse_config({"system": system, "seed_data": data, "executor": {"workers": 0}}), out)


@pytest.mark.parametrize("work", [_train, _seed, pytest.param(_label, marks=pytest.mark.integration)])
def test_a_folder_in_use_is_refused_and_free_afterwards(
    work: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        locked(out / ".lock", ""),
        pytest.raises(StateError, match=rf"in use by pid {os.getpid()} on .*wait until it has ended, or use"),
    ):
        work(tmp_path, out)
    assert [p.name for p in out.iterdir()] == [".lock"]
    work(tmp_path, out)
    assert len(list(out.iterdir())) > 2
    work(tmp_path, out)  # the lock was released


def test_labels_are_not_added_to_a_run_that_works(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    with locked(run / "run.lock", ""), pytest.raises(StateError, match=r"run directory .* in use by pid"):
        _label(tmp_path, run / "data")
    assert not list((run / "data").iterdir())
    with locked_store(run / "data"):
        assert holder(run / "run.lock") is not None


@pytest.mark.integration
def test_two_trainings_at_the_same_time(tmp_path: Path) -> None:
    """The first one ends as if it was alone."""
    make_store(tmp_path / "data", n=40)
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({**SMALL, "num_epochs": 300}))
    code = "from cgal_plugin.cli.main import main; main()"
    words = ["train", tmp_path / "data", "-o", tmp_path / "out", "--config", tmp_path / "keys.yaml"]
    command = [sys.executable, "-c", code, *map(str, words)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "training.json").exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = subprocess.run(command, capture_output=True, text=True)
    first.terminate()
    out, _ = first.communicate(timeout=60)
    assert second.returncode == 1, second.stderr
    assert f"in use by pid {first.pid} on " in second.stderr
    assert "epoch 1/300" in out
