"""``training.init``: a run starts from a trained model, and everything about its network is in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cgal_plugin.components.protocols import TrainRequest
from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.config import dump_yaml, load_yaml, parse_config
from cgal_plugin.data import DataStore, LabelledFrames
from cgal_plugin.driver import run
from cgal_plugin.errors import ConfigError, StateError
from cgal_plugin.mapping import CGTopology, resolve_spec
from cgal_plugin.models import from_torchmdnet_gn, import_model, save_checkpoint
from cgal_plugin.training import load_model, train
from cgal_plugin.training.prepare import read_hparams
from tests.cli.test_main import call
from tests.driver.tiny import SMOKE
from tests.models import mlcg_writer as w
from tests.models.mlcg_reference import random_state
from tests.models.test_convert import GN, graph_network
from tests.models.test_importing import ARTEFACTS, chain

SYSTEM = {"sequence": "GYGAG", "temperature": 400.0, "embedding": "mlcg-tk"}
TYPES = [6, 20, 6, 1, 6]
TOPOLOGY = CGTopology.from_sequence("GYGAG", resolve_spec("CA", "mlcg-tk"))
UPPER = 9.5


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported model of mlcg with its priors."""
    folder = tmp_path_factory.mktemp("init")
    state = {k: v.float() for k, v in random_state(upper=UPPER, types=25).items()}
    with w.stand_ins() as c:
        content = w.specialised(
            c, w.schnet(c, state, upper=UPPER), types=TYPES, frames=np.stack([chain(5), chain(5, 1)])
        )
        w.write(folder / "mlcg.pt", content)
    import_model(folder / "mlcg.pt", embedding="mlcg-tk", temperature=400.0).save(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.fixture
def store(tmp_path: Path) -> DataStore:
    return make_store(tmp_path / "data", TOPOLOGY)


def make_store(root: Path, topology: CGTopology) -> DataStore:
    found = DataStore.create(root, topology, temperature=400.0, force_map_hash="m")
    rng, index = np.random.default_rng(0), np.arange(40)
    frames = chain(5) + rng.normal(scale=0.1, size=(40, 5, 3))
    forces = rng.normal(size=frames.shape)
    found.append("s", LabelledFrames(frames, forces, index, 0 * index, np.zeros(40)), source="seed")
    return found


def trainer(init: Path, system: dict[str, Any] | None = None, **training: Any) -> TorchMDNetTrainer:
    settings = {"epochs": 1, "finetune_epochs": 1, "init": str(init), **training}
    config = {"system": SYSTEM | (system or {}), "training": settings, "executor": {"workers": 0}}
    return TorchMDNetTrainer(parse_config(config))


def ask(store: DataStore, out: Path, previous: Any = None) -> TrainRequest:
    return TrainRequest(store, ("s",), ("s",), out, previous, 1)


def embedding(path: Path) -> torch.Tensor:
    state = torch.load(path, weights_only=False)["state_dict"]
    found: torch.Tensor = state["model.representation_model.embedding.weight"]
    return found


def test_network_and_priors_are_those_of_the_file(init: Path, store: DataStore, tmp_path: Path) -> None:
    made = trainer(init, finetune_learning_rate=1e-6)
    made.check(TOPOLOGY)
    made.prepare(store, tmp_path / "priors")
    asked = ask(store, tmp_path / "out")
    keys = made.hparams(asked, True)
    assert (keys["num_rbf"], keys["cutoff_upper"], keys["lr"], keys["num_epochs"]) == (7, UPPER, 1e-6, 1)
    first = made.train(asked)
    before, after = read_hparams(init), read_hparams(first.checkpoint)
    assert after["prior_args"] == before["prior_args"]
    assert after["cgschnet"]["output_layers"] == [9, 5]
    torch.testing.assert_close(embedding(first.checkpoint), embedding(init), rtol=1e-3, atol=1e-4)
    # the next round continues with the trained model, not with the file
    trained = made.train(ask(store, tmp_path / "next", first))
    assert read_hparams(trained.checkpoint)["prior_args"] == before["prior_args"]
    model: Any = load_model(trained.checkpoint)
    assert (model.cgal_embedding, model.cgal_temperature) == ("mlcg-tk", 400.0)
    made.export(trained, TOPOLOGY, tmp_path / "p.pt", 1)
    assert not (tmp_path / "priors" / "priors.yaml").exists()


def test_scratch_starts_from_the_file_in_each_round(init: Path, store: DataStore, tmp_path: Path) -> None:
    made = trainer(init, mode="scratch", committee=2, finetune_learning_rate=1e-6)
    made.prepare(store, tmp_path / "priors")
    first = made.train(ask(store, tmp_path / "a"))
    second = made.train(ask(store, tmp_path / "b", first))
    for path in (first.checkpoint, second.checkpoint, *second.committee):
        torch.testing.assert_close(embedding(path), embedding(init), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"model": {"embedding_dimension": 128}}, "embedding_dimension is 128, but the network of .* has 12"),
        ({"model": {"form": "majewski"}}, "cgschnet.form is 'majewski'"),
        ({"model": {"cutoff_upper": 12.0}}, "cutoff_upper is 12.0"),
        ({"model": {"activation": "silu"}}, "activation is 'silu'"),
        ({"torchmdnet": {"num_layers": 4}}, "num_layers is 4"),
        ({"torchmdnet": {"max_z": 100}}, "max_z is 100, but the network of .* has 25"),
        ({"torchmdnet": {"cgschnet": {"output_layers": [9]}}}, r"cgschnet.output_layers is \[9\]"),
        ({"torchmdnet": {"model": "graph-network"}}, "model is 'graph-network'"),
    ],
)
def test_a_key_that_contradicts_the_file(init: Path, training: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(init, **training).check(TOPOLOGY)


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"temperature": 300.0}, "400.* 300|300.* 400"),
        ({"embedding": "cgal"}, "'mlcg-tk'.*'cgal'"),
        ({"sequence": "GYGAA"}, "has other bead types|is for"),
        ({"sequence": "GYGAGG"}, "is for 5 beads"),
    ],
)
def test_a_file_for_other_beads_or_another_temperature(
    init: Path, system: dict[str, Any], message: str
) -> None:
    made = trainer(init, system)
    given = made.config.system
    assert given.sequence is not None
    topology = CGTopology.from_sequence(given.sequence, resolve_spec("CA", given.embedding))
    with pytest.raises(ConfigError, match=message):
        made.check(topology)


def test_keys_that_agree_and_keys_of_the_training_are_allowed(
    init: Path, store: DataStore, tmp_path: Path
) -> None:
    model = {"form": "mlcg", "num_rbf": 7, "filter_grid": 300}
    made = trainer(init, model=model, torchmdnet={"lr_patience": 9})
    made.check(TOPOLOGY)
    keys = made.hparams(ask(store, tmp_path / "out"), True)
    assert (keys["cgschnet"]["filter_grid"], keys["lr_patience"]) == (300, 9)


def test_configuration_with_a_file_can_be_written_and_read(init: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({"system": SYSTEM, "training": {"init": str(init), "model": {"num_rbf": 7}}})
    )
    loaded = load_yaml(tmp_path / "run.yaml")
    text = dump_yaml(loaded)
    written = yaml.safe_load(text)["training"]
    assert (written["model"], "priors" in written) == ({"num_rbf": 7}, False)
    (tmp_path / "again.yaml").write_text(text)
    assert load_yaml(tmp_path / "again.yaml").hash == loaded.hash
    with pytest.raises(ConfigError, match="remove priors"):
        parse_config({"system": SYSTEM, "training": {"init": str(init), "priors": {"terms": ["bonds"]}}})
    (tmp_path / "bad.yaml").write_text("system: {sequence: AAA}\ntraining: {init: nowhere.ckpt}\n")
    with pytest.raises(ConfigError, match=r"training\.init"):
        load_yaml(tmp_path / "bad.yaml")
    # without a file, everything is written as before
    plain = yaml.safe_load(dump_yaml(parse_config({"system": SYSTEM})))["training"]
    assert {"num_rbf", "form"} <= set(plain["model"])


def test_a_run_keeps_the_file_it_started_from(init: Path, store: DataStore, tmp_path: Path) -> None:
    own = tmp_path / "own.ckpt"
    own.write_bytes(init.read_bytes())
    trainer(own).prepare(store, tmp_path / "priors")
    trainer(own).prepare(store, tmp_path / "priors")
    own.write_bytes(init.read_bytes() + b" ")
    with pytest.raises((StateError, ConfigError), match=r"not the file that this run started from|damaged"):
        trainer(own).prepare(store, tmp_path / "priors")


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "no.ckpt").write_text("no")
    with pytest.raises(ConfigError, match=r"training\.init: .*no\.ckpt"):
        trainer(tmp_path / "no.ckpt").check(TOPOLOGY)


def test_graph_network_without_priors(store: DataStore, tmp_path: Path) -> None:
    model = from_torchmdnet_gn(graph_network().state_dict(), GN)
    save_checkpoint(model, tmp_path / "gn.ckpt", embedding="mlcg-tk", temperature=400.0)
    made = trainer(tmp_path / "gn.ckpt")
    made.check(TOPOLOGY)
    made.prepare(store, tmp_path / "priors")
    trained = made.train(ask(store, tmp_path / "out"))
    after = read_hparams(trained.checkpoint)
    assert not after["prior_model"]
    assert (after["precision"], after["num_rbf"]) == (64, 11)


def test_train_and_its_command_complete_their_keys(
    init: Path, store: DataStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"dataset_root": str(store.root), "num_epochs": 1}
    result = train(keys, tmp_path / "a", seed=0, init_checkpoint=init, mode="finetune")
    assert read_hparams(result.checkpoint)["prior_args"] == read_hparams(init)["prior_args"]
    (tmp_path / "keys.yaml").write_text("num_epochs: 1\n")
    command = ["train", store.root, "-o", tmp_path / "b", "--init", init, "--config", tmp_path / "keys.yaml"]
    code, out, err = call(capsys, *command)
    assert code == 0, err
    assert "epoch_0000.ckpt" in out
    (tmp_path / "keys.yaml").write_text("num_epochs: 1\nnum_layers: 7\n")
    code, _, err = call(capsys, *command[:3], tmp_path / "c", *command[4:])
    assert (code, "num_layers is 7, but the network of" in err) == (2, True)


@pytest.mark.integration
@pytest.mark.skipif(not ARTEFACTS.is_dir(), reason="the public files are not here")
def test_public_chignolin_model_is_fine_tuned_by_a_run(tmp_path: Path) -> None:
    path = ARTEFACTS / "schnet_cln_ca_specialized_model_and_config.pt"
    import_model(path, embedding="mlcg-tk", temperature=350.0).save(tmp_path / "model.ckpt")
    system = {"sequence": "YYDPETGTWY", "temperature": 350.0, "embedding": "mlcg-tk"}
    training = {"epochs": 1, "finetune_epochs": 1, "init": str(tmp_path / "model.ckpt")}
    seed_data = {**SMOKE["seed_data"], "picoseconds": 2.0}
    simulation = {**SMOKE["simulation"], "n_replicas": 2, "steps": 100}
    config = {**SMOKE, "system": system, "training": training, "seed_data": seed_data}
    config |= {"simulation": simulation, "selector": {"n_select": 1, "max_rmsd": None}}
    result = run(parse_config(config), tmp_path / "run")
    assert result.potential.is_file()
    checkpoint = next((tmp_path / "run" / "rounds" / "round_000" / "train").rglob("epoch_*.ckpt"))
    assert read_hparams(checkpoint)["prior_args"] == read_hparams(tmp_path / "model.ckpt")["prior_args"]
