"""Committee members and blocks of replicas as tasks: workers and one process give the same results."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import ConfigError
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import sampled_trajectories
from tests.driver import stand_ins
from tests.driver.tiny import TINY


def _config(folder: Path, workers: int, blocks: int) -> Any:
    config = copy.deepcopy(TINY)
    config |= {
        "seed_data": {"store": str(stand_ins.made_store(folder / "store"))},
        "executor": {"workers": workers},
    }
    config["training"] |= {"committee": 2, "epochs": 1, "priors": {"terms": ["bonds"]}}
    config["simulation"] |= {"blocks": blocks, "steps": 40}
    config["selector"] = {"kind": "committee", "n_select": 2, "max_rmsd": None}
    config["stopping"] = {"rounds": 1}
    return parse_config(config)


def _results(root: Path) -> dict[str, Any]:
    directory, found = RunDirectory(root), {}
    for folder in directory.round_folders():
        stage = directory.stage("rounds", folder.name, "simulate")
        found[f"{folder.name} frames"] = [frames.tobytes() for frames in sampled_trajectories(stage)]
        metrics = directory.stage("rounds", folder.name, "train").results()["metrics"]
        found[f"{folder.name} losses"] = [m["val_neg_dy_mse_loss"] for m in metrics]
    store = DataStore(root / "data")
    return found | {name: store.record(name)["sha256"] for name in store.names()}


@pytest.mark.integration
def test_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    for workers in (0, 2):
        result = run(_config(tmp_path, workers, 2), tmp_path / f"run{workers}", oracle=stand_ins.Fails(0.0))
        assert result.rounds[0]["n_labelled"] == 2
    one, two = _results(tmp_path / "run0"), _results(tmp_path / "run2")
    assert one == two
    assert len(one["round_000 frames"]) == 4
    assert {"r000_f0000", "r000_f0001"} <= set(one)
    root = tmp_path / "run2" / "rounds" / "round_000"
    assert sorted(p.name for p in (root / "simulate").glob("block_*")) == ["block_000", "block_001"]
    assert sorted(p.name for p in (root / "train").glob("potential*")) == ["potential.pt", "potential_x2.pt"]
    assert len(json.loads((root / "train" / "manifest.json").read_text())["results"]["committee"]) == 1


def test_replicas_have_to_divide(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_replicas 4 cannot be divided into 3 blocks"):
        _config(tmp_path, 0, 3)
