"""Committee members and blocks of replicas as tasks: workers and one process give the same results."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.config import parse_config
from cgal_plugin.driver import run
from cgal_plugin.errors import ConfigError
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
    config["stopping"] = {"rounds": 0}  # trains and simulates once
    return parse_config(config)


def _results(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(root.glob("rounds/*/simulate/frames.npz")):
        with np.load(path) as frames:
            found[str(path.relative_to(root))] = [frames[n].tobytes() for n in sorted(frames.files)]
    for path in sorted(root.glob("rounds/*/train/manifest.json")):
        metrics = json.loads(path.read_text())["results"]["metrics"]
        found[str(path.relative_to(root))] = [m["val_neg_dy_mse_loss"] for m in metrics]
    return found


@pytest.mark.integration
def test_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    for workers in (0, 2):
        run(_config(tmp_path, workers, 2), tmp_path / f"run{workers}", oracle=stand_ins.Fails(0.0))
    one, two = _results(tmp_path / "run0"), _results(tmp_path / "run2")
    assert one == two
    assert len(one["rounds/round_000/simulate/frames.npz"]) == 4
    root = tmp_path / "run2" / "rounds" / "round_000"
    assert sorted(p.name for p in (root / "simulate").glob("block_*")) == ["block_000", "block_001"]
    assert sorted(p.name for p in (root / "train").glob("potential*")) == ["potential.pt", "potential_x2.pt"]
    assert len(json.loads((root / "train" / "manifest.json").read_text())["results"]["committee"]) == 1


def test_replicas_have_to_divide(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_replicas 4 cannot be divided into 3 blocks"):
        _config(tmp_path, 0, 3)
