"""From the configuration to TorchMD-Net's keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.driver.protocols import TrainRequest
from cgal_plugin.driver.trainer import TorchMDNetTrainer
from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.training import load_model

TOPOLOGY = CGTopology.from_sequence("GYGAG")


def trainer(model: dict[str, Any], **torchmdnet: Any) -> TorchMDNetTrainer:
    small = {"embedding_dimension": 16, "num_layers": 1, "num_rbf": 8, **model}
    training = {"epochs": 1, "model": small, "priors": {"terms": []}, "torchmdnet": torchmdnet}
    return TorchMDNetTrainer(
        parse_config({"system": {"sequence": "GYGAG", "temperature": 400.0}, "training": training})
    )


def request(tmp_path: Path) -> TrainRequest:
    store = DataStore.create(tmp_path / "data", TOPOLOGY, temperature=400.0, force_map_hash="m")
    rng, index = np.random.default_rng(0), np.arange(40)
    frames = np.arange(5)[:, None] * [3.0, 2.0, 1.0] + rng.normal(scale=0.3, size=(40, 5, 3))
    if "s" not in store:
        forces = rng.normal(size=frames.shape)
        store.append("s", LabelledFrames(frames, forces, index, 0 * index, np.zeros(40)), source="seed")
    return TrainRequest(store, ("s",), ("s",), tmp_path / "out", None, 1)


def test_filter_grid_reaches_the_model(tmp_path: Path) -> None:
    asked = request(tmp_path)
    made = trainer({"form": "mlcg", "filter_grid": 300})
    made.check(TOPOLOGY)
    model = load_model(made.train(asked).checkpoint).representation_model
    assert (model.form, model.filter_grid) == ("mlcg", 300)
    assert trainer({}).hparams(asked, True)["cgschnet"]["filter_grid"] is None


def test_torchmdnet_keys_add_to_the_form(tmp_path: Path) -> None:
    made = trainer({"form": "mlcg"}, cgschnet={"output_layers": [8]}, weight_decay=0.1)
    made.check(TOPOLOGY)
    keys = made.hparams(request(tmp_path), True)
    assert keys["cgschnet"] == {"form": "mlcg", "filter_grid": None, "output_layers": [8]}
    assert keys["weight_decay"] == 0.1


@pytest.mark.parametrize("wrong", [{"filter_grd": 300}, {"filter_grid": 3}, 300])
def test_a_wrong_option_is_seen_at_the_start(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="cgschnet"):
        trainer({}, cgschnet=wrong).check(TOPOLOGY)
    with pytest.raises(ConfigError, match="filter_grid"):
        trainer({"filter_grid": 3})
