"""The embedding of bead types travels from the data to checkpoint, priors, potential and simulation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.data import DataStore
from cgal_plugin.data.dataset import CGDataset
from cgal_plugin.dynamics import simulate
from cgal_plugin.errors import CGALWarning, DataError, DynamicsError, ExportError
from cgal_plugin.export import FastPotential, export_torchscript, load_metadata
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet, fit_priors
from cgal_plugin.priors.modules import PRIORS
from cgal_plugin.training import load_model, train
from tests.cli.test_main import call
from tests.training.data import make_store

MLCG = [20, 20, 3, 13, 4]
SMALL: dict[str, Any] = {
    "embedding_dimension": 8, "num_layers": 1, "num_rbf": 4, "num_epochs": 1,
    "prior_model": ["CGBonds", "CGAngles"],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with mlcg-tk's numbers, a checkpoint, the same without embedding, and a potential."""
    folder = tmp_path_factory.mktemp("embedding")
    store = make_store(folder / "data", n=40, embedding="mlcg-tk")
    result = train({**SMALL, "dataset_root": str(folder / "data")}, folder / "train", seed=0)
    (folder / "model.ckpt").write_bytes(result.checkpoint.read_bytes())
    content = torch.load(result.checkpoint, weights_only=True)
    assert content["cgal_plugin"]["embedding"] == content["hyper_parameters"]["embedding"] == "mlcg-tk"
    del content["cgal_plugin"]["embedding"], content["hyper_parameters"]["embedding"]
    torch.save(content, folder / "old.ckpt")
    store.topology.save(folder / "top.json")
    np.save(folder / "start.npy", store.positions()[:2])
    export_torchscript(folder / "model.ckpt", store.topology, folder / "p.pt")
    return folder


def test_the_store_keeps_it_and_the_batch_has_its_numbers(made: Path) -> None:
    assert DataStore(made / "data").topology.embedding == "mlcg-tk"
    assert CGDataset(made / "data")[0].z.tolist() == MLCG
    with pytest.raises(DataError, match=r"by embedding .mlcg-tk., .* by .cgal."):
        DataStore.create(
            made / "data", CGTopology.from_sequence("YYDPE"), temperature=400.0, force_map_hash="test"
        )


def test_priors_by_name_are_the_same_in_every_embedding(tmp_path: Path) -> None:
    ours, theirs = make_store(tmp_path / "a"), make_store(tmp_path / "b", embedding="torchmd-cg")
    energies = []
    for store in (ours, theirs):
        frames = store.positions()
        priors = fit_priors(store.topology, frames, 400.0, terms=("bonds", "angles", "repulsion"))
        priors.save(tmp_path / "p.yaml")
        assert PriorSet.load(tmp_path / "p.yaml").topology.embedding == store.topology.embedding
        z = torch.tensor(store.topology.types)
        batch = torch.zeros_like(z)
        total = torch.zeros(1, 1, dtype=torch.float64)
        for term in priors.terms:
            prior = PRIORS[term](**priors.arguments(term))
            again = PRIORS[term](**prior.get_init_args())
            assert again.embedding == store.topology.embedding
            total = again.post_reduce(total, z, torch.tensor(frames[0], dtype=torch.float64), batch)
        energies.append(float(total))
    assert energies[0] == pytest.approx(energies[1], rel=1e-12)


def test_a_prior_in_float32_regains_its_digits_in_float64(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a")
    priors = fit_priors(store.topology, store.positions(), 400.0, terms=("bonds", "angles", "repulsion"))
    for term in priors.terms:
        exact = PRIORS[term](**priors.arguments(term)).double()
        again = PRIORS[term](**priors.arguments(term)).float().double()
        for name in exact.columns:
            assert torch.equal(getattr(exact, name), getattr(again, name))
        rounded = PRIORS[term](**priors.arguments(term)).float()
        assert getattr(rounded, exact.columns[0]).dtype == torch.float32


def test_a_model_is_not_exported_for_other_numbers(made: Path, tmp_path: Path) -> None:
    assert load_model(made / "model.ckpt").cgal_embedding == "mlcg-tk"
    assert load_metadata(made / "p.pt")["embedding"] == "mlcg-tk"
    ours = CGTopology.from_sequence("YYDPE")
    for export in (
        lambda: export_torchscript(made / "model.ckpt", ours, tmp_path / "q.pt"),
        lambda: FastPotential.from_model(made / "model.ckpt", ours),
    ):
        with pytest.raises(ExportError, match=r"the model numbers .*'mlcg-tk'.*'cgal'.*with_embedding"):
            export()
    assert not (tmp_path / "q.pt").exists()


def test_a_potential_is_not_simulated_with_other_numbers(made: Path, tmp_path: Path) -> None:
    start = np.load(made / "start.npy")
    with pytest.raises(DynamicsError, match=r"'mlcg-tk'.*'cgal'"):
        simulate(
            made / "p.pt", CGTopology.from_sequence("YYDPE"), start[:1],
            steps=2, timestep_fs=1.0, temperature=400.0, friction=1.0, n_replicas=1, seed=0, out_dir=tmp_path,
        )  # fmt: skip


def test_a_checkpoint_without_it_is_cgal_with_one_warning(made: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert load_model(made / "old.ckpt").cgal_embedding == "cgal"
    assert [w.category for w in said if "embedding" in str(w.message)] == [CGALWarning]


def test_fine_tuning_needs_the_same_numbers(made: Path, tmp_path: Path) -> None:
    make_store(tmp_path / "data", n=40)
    keys = {**SMALL, "dataset_root": str(tmp_path / "data")}
    with pytest.raises(DataError, match=r"checkpoint .* numbers .*'mlcg-tk', data set .* by 'cgal'"):
        train(keys, tmp_path / "t", init_checkpoint=made / "model.ckpt", mode="finetune", seed=0)
    with pytest.raises(DataError, match=r"by embedding 'cgal', the option by 'mlcg-tk'"):
        train({**keys, "embedding": "mlcg-tk"}, tmp_path / "u", seed=0)


def test_the_commands_take_it_from_the_model_or_refuse(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ("export", made / "model.ckpt", "-o", tmp_path / "p.pt", "-t")
    code, _, err = call(capsys, *export, "YYDPE", "--embedding", "torchmd-cg")
    assert code != 0
    assert "'mlcg-tk'" in err
    assert "'torchmd-cg'" in err
    CGTopology.from_sequence("YYDPE").save(tmp_path / "ours.json")
    code, _, err = call(capsys, *export, tmp_path / "ours.json")
    assert code != 0
    assert "--embedding" in err
    code, _, err = call(capsys, *export, made / "top.json", "--embedding", "cgal")
    assert code != 0
    for molecule in ("YYDPE", made / "top.json"):
        code, _, err = call(capsys, *export, molecule)
        assert code == 0, err
        assert load_metadata(tmp_path / "p.pt")["types"] == MLCG
    code, _, err = call(
        capsys, "simulate", "-p", tmp_path / "p.pt", "-t", "YYDPE", "--start", made / "start.npy",
        "--steps", 10, "--timestep", 1, "-o", tmp_path / "sim",
    )  # fmt: skip
    assert code == 0, err


def test_a_table_must_be_given_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"TYR": 5, "ASP": 1, "PRO": 2, "GLU": 3}
    make_store(tmp_path / "data", n=40, embedding=table)
    train({**SMALL, "dataset_root": str(tmp_path / "data")}, tmp_path / "train", seed=0)
    checkpoint = next((tmp_path / "train").glob("epoch*.ckpt"))
    export = ("export", checkpoint, "-o", tmp_path / "p.pt", "-t", "YYDPE")
    code, _, err = call(capsys, *export)
    assert code != 0
    assert "give the table with --embedding" in err
    (tmp_path / "table.yaml").write_text("{TYR: 5, ASP: 1, PRO: 2, GLU: 3}")
    code, _, err = call(capsys, *export, "--embedding", tmp_path / "table.yaml")
    assert code == 0, err
    assert load_metadata(tmp_path / "p.pt")["types"] == [5, 5, 1, 2, 3]


def test_plain_files_take_an_embedding(made: Path, tmp_path: Path) -> None:
    frames = DataStore(made / "data").load_all()
    np.save(tmp_path / "coords.npy", frames.positions)
    np.save(tmp_path / "forces.npy", frames.forces)
    CGTopology.from_sequence("YYDPE").save(tmp_path / "t.json")
    files = {"coords": "coords.npy", "forces": "forces.npy", "topology": "t.json", "temperature": 400.0}
    assert CGDataset(tmp_path, **files, embedding="mlcg-tk")[0].z.tolist() == MLCG
    keys = {**SMALL, "dataset": "CGDataset", "dataset_root": str(tmp_path), "embedding": "mlcg-tk"}
    keys["dataset_arg"] = {**files, "embedding": "mlcg-tk"}
    result = train(keys, tmp_path / "train", seed=0)
    assert load_model(result.checkpoint).cgal_embedding == "mlcg-tk"
