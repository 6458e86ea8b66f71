"""Training on stores of different molecules: energies and forces of batches, priors, commands."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import yaml
from torchmdnet.models.model import create_prior_models

from cgal_plugin import register
from cgal_plugin.cli.train import main
from cgal_plugin.data import CGDataset, DataStore
from cgal_plugin.errors import ConfigError, DataError, PriorFitError
from cgal_plugin.export import export_torchscript
from cgal_plugin.models import build_model
from cgal_plugin.priors import fit_priors
from cgal_plugin.training import load_model, train
from cgal_plugin.training.settings import resolve, store_keys
from tests.data.test_several import fill

TABLES = [
    {"CGBonds": {"table": [{"types": ["*", "*"], "k": 30.0, "r0": 3.8}]}},
    {"CGBridges": {"table": [{"types": ["*", "*"], "k": 2.0, "r0": 5.0}]}},
    {"CGAngles": {"table": [{"types": ["*", "*", "*"], "k": 3.0, "x0": 2.0}]}},
    {"CGDihedrals": {"table": [{"types": ["*"] * 4, "k": [0.4, 0.2], "phase": [0.3, -1.0]}]}},
    {
        "CGRepulsion": {
            "table": [
                {"types": ["*", "*"], "epsilon": 1.0, "sigma": 4.0},
                {"types": ["CA_TYR", "*"], "epsilon": 2.0, "sigma": 3.5},
            ]
        }
    },
]
SMALL = {
    "embedding_dimension": 16,
    "num_layers": 1,
    "num_rbf": 8,
    "cgschnet": {"num_filters": 16},
    "num_epochs": 1,
    "batch_size": 16,
    "val_size": 0.2,
    "prior_model": TABLES,
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    register()
    folder = tmp_path_factory.mktemp("molecules")
    for k, sequence in enumerate(("YYDPE", "ACDCEFGHC", "GAYG")):
        fill(folder / sequence, sequence, seed=k, bridges=[(1, 8)] if k == 1 else ())
    return [str(folder / s) for s in ("YYDPE", "ACDCEFGHC", "GAYG")]


def make_model(dataset):
    values = resolve({**SMALL, "derivative": True})
    priors = create_prior_models(values, dataset)
    torch.manual_seed(0)
    return build_model({**values, "prior_args": [p.get_init_args() for p in priors]}, priors).to(
        torch.float64
    )


def call(model, batch):
    extra = {k: batch[k] for k in ("bond_index", "angle_index", "dihedral_index", "bridge_index")}
    return model(batch.z, batch.pos.to(torch.float64), batch=batch.batch, extra_args=extra)


def test_a_mixed_batch_gives_the_energies_and_forces_of_its_molecules(roots):
    dataset = CGDataset(roots)
    model = make_model(dataset)
    rows = [0, 85, 41, 119, 7, 60, 60]
    energy, forces = call(model, dataset.__getitems__(rows)[0])
    at = 0
    for k, row in enumerate(rows):
        alone = CGDataset(roots[int(dataset.molecule[row])])
        single, own = call(make_model(alone), alone.__getitems__([row % 40])[0])
        torch.testing.assert_close(energy[k], single[0], rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(forces[at : at + len(own)], own, rtol=1e-10, atol=1e-10)
        at += len(own)
    assert at == len(forces)


def test_one_model_is_trained_and_exported_for_each_molecule(roots, tmp_path):
    from cgal_plugin.training.prepare import read_checkpoint

    result = train(store_keys(SMALL, roots, None), tmp_path / "t", seed=0)
    assert result.epochs_run == 1
    assert read_checkpoint(result.checkpoint)["cgal_plugin"]["temperature"] == 350.0
    model = load_model(result.checkpoint).to(torch.float64)
    for root in roots:
        dataset = CGDataset(root)
        path = tmp_path / f"{dataset.topology.sequence}.pt"
        export_torchscript(result.checkpoint, dataset.topology, path)
        batch = dataset.__getitems__([0])[0]
        energy, forces = call(model, batch)
        exported = torch.jit.load(path)(batch.pos.to(torch.float64) / 10)
        assert float(exported[0].detach()) == pytest.approx(
            4.184 * float(energy.detach()), rel=1e-4, abs=1e-3
        )
        np.testing.assert_allclose(exported[1].detach(), 41.84 * forces.detach(), rtol=1e-3, atol=0.05)
    # resumed: nothing is left to do, and the same stores in another order are another training
    assert train(store_keys(SMALL, roots, None), tmp_path / "t", seed=0).epochs_run == 0


@pytest.mark.parametrize("how", ["dataset_root", "stores"])
@pytest.mark.filterwarnings("ignore")
def test_torchmdnets_own_command_reads_the_list(roots, tmp_path, monkeypatch, how):
    folder = str(DataStore(roots[0]).root.parent)
    values = {
        **SMALL,
        "model": "cgschnet",
        "dataset": "CGDataset",
        "dataset_root": roots if how == "dataset_root" else folder,
        "dataset_arg": {"stores": ["YYDPE", "ACDCEFGHC", "GAYG"]} if how == "stores" else None,
        "derivative": True,
        "test_size": 0.0,
        "num_workers": 0,
        "save_interval": 1,
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    arguments = ["cgal-train", "--conf", str(tmp_path / "train.yaml"), "--log-dir", str(tmp_path / "log")]
    monkeypatch.setattr(sys, "argv", arguments)
    with torch.random.fork_rng(devices=[]):
        main()
    (name,) = (tmp_path / "log").glob("*.ckpt")
    hparams = torch.load(name, weights_only=False)["hyper_parameters"]
    assert hparams["temperature"] == 350.0
    assert hparams["dataset_root"] == values["dataset_root"]


def test_priors_of_several_molecules(roots, tmp_path):
    dataset = CGDataset(roots)
    with pytest.raises(PriorFitError, match=r"several molecules \(YYDPE, ACDCEFGHC, GAYG\)"):
        create_prior_models({"prior_model": ["CGBonds"], "prior_args": None}, dataset)
    one = CGDataset(roots[0])
    fitted = fit_priors(one.topology, np.tile(one.frames, (20, 1, 1)), 350.0, terms=("bonds",))
    fitted.save(tmp_path / "priors.yaml")
    with pytest.raises(ConfigError, match="ACDCEFGHC"):
        store_keys({}, roots, fitted)
    model = [{"CGBonds": {"file": str(tmp_path / "priors.yaml")}}]
    with pytest.raises(ConfigError, match="ACDCEFGHC"):
        create_prior_models({"prior_model": model, "prior_args": None}, dataset)
    row = {"types": ["CA_TYR", "*"], "k": 30.0, "r0": 3.8}
    with pytest.raises(ConfigError, match=r"no parameters for bead types \['CA_ASP', 'CA_PRO'\]"):
        create_prior_models({"prior_model": [{"CGBonds": {"table": [row]}}], "prior_args": None}, dataset)


def test_keys_that_name_other_stores(roots, tmp_path):
    checkpoint = train(store_keys(SMALL, roots[0], None), tmp_path / "one", seed=0).checkpoint
    keys = store_keys({"dataset_root": roots}, roots, None)
    assert keys["dataset_root"] == roots
    assert store_keys({}, roots[0], None)["dataset_root"] == roots[0]
    for wrong in ({"dataset_root": roots[0]}, {"dataset_arg": json.dumps({"stores": ["a"]})}):
        with pytest.raises(ConfigError, match="names other data"):
            store_keys(wrong, roots, None)
    with pytest.raises(ConfigError, match="needs newest"):
        train(store_keys(SMALL, roots, None), "unused", seed=0, mode="replay", init_checkpoint=checkpoint)


def test_other_stores_in_a_folder_of_a_training_are_refused(roots, tmp_path):
    hot = fill(tmp_path / "hot", "GGYG", temperature=400.0)
    with pytest.raises(DataError, match="400 K"):
        train(store_keys(SMALL, [*roots, hot.root], None), tmp_path / "t", seed=0)
    assert not (tmp_path / "t").exists()
