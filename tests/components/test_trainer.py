"""From the configuration to TorchMD-Net's keys."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.components.protocols import TrainRequest
from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.config import parse_config
from cgal_plugin.data import CGDataset, DataStore, LabelledFrames
from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet
from cgal_plugin.training import load_model
from cgal_plugin.training.prepare import prepare, read_hparams
from cgal_plugin.training.settings import resolve
from tests.priors.chains import chains

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
    assert trainer({}).hparams(asked, True)["cgschnet"]["filter_grid"] == 400


def test_torchmdnet_keys_add_to_the_form(tmp_path: Path) -> None:
    made = trainer({"form": "mlcg"}, cgschnet={"output_layers": [8]}, weight_decay=0.1)
    made.check(TOPOLOGY)
    keys = made.hparams(request(tmp_path), True)
    assert keys["cgschnet"] == {"form": "mlcg", "filter_grid": 400, "output_layers": [8]}
    assert keys["weight_decay"] == 0.1


def test_priors_fitted_anew_each_round(tmp_path: Path) -> None:
    """The seed's for the seed's data; later ones from all data, written, used, and not fitted twice."""
    store = DataStore.create(tmp_path / "data", TOPOLOGY, temperature=400.0, force_map_hash="m")
    rng = np.random.default_rng(0)
    for name, source in (("s", "seed"), ("a", "label")):
        frames, index = chains(300, 5, seed=len(store.names())), np.arange(300)
        forces = rng.normal(size=frames.shape)
        store.append(name, LabelledFrames(frames, forces, index, 0 * index, np.zeros(300)), source=source)
    terms = ["bonds", "angles", "dihedrals", "repulsion", "pairs"]
    priors = {"terms": terms, "method": "force_matching", "refit": True, "pairs_per_type": True}
    small = {"embedding_dimension": 16, "num_layers": 1, "num_rbf": 8}
    training = {"mode": "scratch", "epochs": 1, "model": small, "priors": priors}
    system = {"sequence": "GYGAG", "temperature": 400.0}
    made = TorchMDNetTrainer(parse_config({"system": system, "training": training}))
    made.check(TOPOLOGY)
    (tmp_path / "priors").mkdir()
    made.prepare(store, tmp_path / "priors")
    seed = PriorSet.load(tmp_path / "priors" / "priors.yaml")
    assert (seed.n_frames, seed.terms) == (300, tuple(terms))

    first = made.train(TrainRequest(store, ("s",), ("s",), tmp_path / "first", None, 1))
    assert PriorSet.load(tmp_path / "first" / "priors.yaml").hash == seed.hash
    asked = TrainRequest(store, ("s", "a"), ("a",), tmp_path / "second", first, 1)
    second = made.train(asked)
    later = PriorSet.load(tmp_path / "second" / "priors.yaml")
    assert later.n_frames == 600
    # a row for each pair of types that beads more than two bonds apart have
    rows = {"".join(sorted(t[3:6] for t in r["types"])) for r in later.rows if r["term"] == "pairs"}
    assert rows == {"GLYGLY", "ALAGLY", "GLYTYR"}
    assert later.hash != seed.hash
    stamp = (tmp_path / "second" / "priors.yaml").stat().st_mtime_ns
    assert made.hparams(asked, True)["prior_model"] == later.to_prior_model()
    assert (tmp_path / "second" / "priors.yaml").stat().st_mtime_ns == stamp
    for result, expected in ((first, seed), (second, later)):
        found = load_model(result.checkpoint).prior_model
        assert [p.get_init_args() for p in found] == [expected.arguments(t) for t in terms]
    made.export(second, TOPOLOGY, tmp_path / "p.pt", 2)
    # what was kept for another temperature is not used
    dataclasses.replace(later, temperature=300.0).save(tmp_path / "second" / "priors.yaml")
    with pytest.raises(ConfigError, match=r"are for .* at 300"):
        made.hparams(asked, True)


def test_exact_forces_count_for_more(tmp_path: Path) -> None:
    """Frames of an averaged force are worth many single ones, in the loss and beside replay_weight."""
    asked = request(tmp_path)
    index = np.arange(40)
    for name, error in (("s", 10.0), ("m", 2.0)):
        frames = asked.store.load("s")
        labels = dataclasses.replace(frames, frame_index=index, force_error=np.full(40, error))
        source = "seed" if name == "s" else "round_001"
        asked.store.append(f"{name}2", labels, source=source)
    both = dataclasses.replace(asked, shards=("s2", "m2"), new_shards=("m2",))
    made = trainer({}, val_size=0.25)
    assert made.hparams(both, True)["dataset_arg"] == {"shards": ["s2", "m2"], "repeat": {"round_001": 25.0}}
    assert made.hparams(dataclasses.replace(asked, shards=("s2",)), True)["dataset_arg"] == {"shards": ["s2"]}
    first = made.train(both)
    with np.load(first.checkpoint.parent / "splits.npz") as split:
        assert len(split["idx_val"]) == 20
        assert len(split["idx_train"]) > 25 * 20
    config = made.config.model_copy(
        update={"training": made.config.training.model_copy(update={"mode": "replay", "replay_weight": 2.0})}
    )
    again = dataclasses.replace(both, out_dir=tmp_path / "again", previous=first)
    used = TorchMDNetTrainer(config).train(again).checkpoint
    assert read_hparams(used)["dataset_arg"]["repeat"] == {"round_001": 50.0}
    # the same from the errors in the store, for those who train without a run
    root, shards = both.store.root, list(both.shards)
    dataset = CGDataset(root, shards=shards, repeat="error")
    assert len(dataset) == len(CGDataset(root, shards=shards, repeat={"round_001": 25.0})) == 40 + 25 * 40
    assert len(CGDataset(root, shards=["s2"], repeat="error")) == 40
    options = {"shards": shards, "repeat": "error"}
    keys = resolve({"dataset_root": str(root), "dataset_arg": json.dumps(options)})
    prepared = prepare(keys, tmp_path, None, 2.0, ["round_001"], 0)
    assert prepared.hparams["dataset_arg"]["repeat"] == {"round_001": 50.0}


@pytest.mark.parametrize("wrong", [{"filter_grd": 300}, {"filter_grid": 3}, 300])
def test_a_wrong_option_is_seen_at_the_start(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="cgschnet"):
        trainer({}, cgschnet=wrong).check(TOPOLOGY)
    with pytest.raises(ConfigError, match="filter_grid"):
        trainer({"filter_grid": 3})
