"""A run gives the same labels, weights and results on one core and on several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cgal_plugin.config import parse_config
from cgal_plugin.driver import run
from cgal_plugin.execution.resources import CORES
from cgal_plugin.provenance import hash_array
from cgal_plugin.runs.log import LOG, read_log
from cgal_plugin.training import helpers
from tests.driver.cheap import labels, without_figures
from tests.driver.tiny import SMOKE


@pytest.mark.integration
def test_a_run_is_the_same_on_one_core_and_on_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {**SMOKE["training"]["model"], "embedding_dimension": 64}
    training = {**SMOKE["training"], "model": model, "epochs": 2}  # large enough for two chunks
    config = parse_config({**SMOKE, "training": training, "executor": {}})
    found: dict[str, list[Any]] = {}
    for cores in ("1", "2"):
        monkeypatch.setenv(CORES, cores)
        root = tmp_path / cores
        with without_figures():
            result = run(config, root)
        state = torch.load(result.checkpoint, weights_only=True)["state_dict"]
        weights = hash_array(*(value.numpy() for value in state.values()))
        rows = [{k: v for k, v in row.items() if k != "last_epoch"} for row in result.rounds]
        found[cores] = [labels(root), weights, rows]
        (used,) = (event for event in read_log(root / LOG) if event["event"] == "resources")
        assert used["executor.workers"] == used["executor.training_threads"] == used["cores"]
    helpers.end_idle()
    assert found["1"] == found["2"]
