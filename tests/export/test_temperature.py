"""Temperature and units travel from the data to checkpoint, potential, simulation, selection and label."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cgal_plugin.components.evaluator import ReferenceEvaluator
from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.data.temperature import common_temperature, recorded_temperature
from cgal_plugin.dynamics import add_potential, build_system, load_simulation, simulate
from cgal_plugin.errors import (
    ConfigError,
    DataError,
    DynamicsError,
    ExportError,
    SelectionError,
    TrainingError,
)
from cgal_plugin.export import FastPotential, export_torchscript, load_metadata
from cgal_plugin.export.script_file import METADATA_FILE, load_script
from cgal_plugin.priors import PriorSet, fit_priors
from cgal_plugin.provenance import read_json, write_json
from cgal_plugin.selector import CommitteeSelector
from cgal_plugin.training import load_model, train
from tests.cli.test_main import call
from tests.priors.chains import chains
from tests.training.data import make_store

SMALL = {"embedding_dimension": 8, "num_layers": 1, "num_rbf": 4, "num_epochs": 1, "prior_model": ["CGBonds"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store at 400 K, the checkpoint of a training on it, the same without temperature, and potentials."""
    folder = tmp_path_factory.mktemp("temperature")
    store = make_store(folder / "data", n=40)
    result = train({**SMALL, "dataset_root": str(folder / "data")}, folder / "train", seed=0)
    shutil.copy(result.checkpoint, folder / "model.ckpt")
    content = torch.load(result.checkpoint, weights_only=True)
    assert content["cgal_plugin"]["temperature"] == content["hyper_parameters"]["temperature"] == 400.0
    assert content["cgal_plugin"]["units"]["energy"] == "kcal/mol"
    for key in ("temperature", "units", "frames"):
        del content["cgal_plugin"][key]
    del content["hyper_parameters"]["temperature"]
    torch.save(content, folder / "old.ckpt")
    store.topology.save(folder / "top.json")
    np.save(folder / "start.npy", store.positions()[:4])
    export_torchscript(folder / "model.ckpt", store.topology, folder / "p.pt")
    export_torchscript(folder / "old.ckpt", store.topology, folder / "old.pt")
    return folder


@pytest.fixture
def topology(made: Path) -> Any:
    return DataStore(made / "data").topology


def test_an_export_has_the_temperature_of_its_checkpoint(made: Path, topology: Any, tmp_path: Path) -> None:
    assert load_metadata(made / "p.pt")["temperature"] == 400.0
    assert load_metadata(made / "old.pt")["temperature"] is None
    model = load_model(made / "model.ckpt")
    assert model.cgal_temperature == 400.0
    assert export_torchscript(model, topology, tmp_path / "m.pt")["temperature"] == 400.0
    with pytest.raises(ExportError, match="argument temperature is for 300 K, the model is for 400 K"):
        export_torchscript(model, topology, tmp_path / "n.pt", temperature=300.0)
    assert not (tmp_path / "n.pt").exists()
    FastPotential.from_model(made / "model.ckpt", topology).save(tmp_path / "f.npz")
    FastPotential.from_file(made / "p.pt").save(tmp_path / "g.npz")
    assert (
        load_metadata(tmp_path / "f.npz")["temperature"]
        == load_metadata(tmp_path / "g.npz")["temperature"]
        == 400.0
    )


def test_the_commands_pass_it_on(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    molecule, start = (
        ("-t", made / "top.json"),
        ("--start", made / "start.npy", "--steps", 20, "--timestep", 1),
    )
    code, _, err = call(capsys, "export", made / "model.ckpt", *molecule, "-o", tmp_path / "p.pt")
    assert (code, err) == (0, "")
    code, _, err = call(
        capsys, "simulate", "-p", tmp_path / "p.pt", *molecule, *start, "-o", tmp_path / "sim"
    )
    assert code == 0, err
    assert "temperature 400 K, as recorded in" in err
    manifest = read_json(tmp_path / "sim/simulation.json")
    assert manifest["inputs"]["temperature"] == manifest["potential_temperature"] == 400.0
    assert manifest["units"]["positions"] == "angstrom"
    assert load_simulation(tmp_path / "sim").temperature == 400.0
    # another temperature is a note, once
    other = ("-o", tmp_path / "other", "--temperature", 350)
    code, _, err = call(capsys, "simulate", "-p", tmp_path / "p.pt", *molecule, *start, *other)
    assert code == 0, err
    assert err.count("400 K") == 1
    assert "was made for 400 K, not for 350 K" in err
    # simulation to selection
    frames = ("-c", tmp_path / "sim/replica_000.dcd", "--top", tmp_path / "sim/topology.pdb")
    chosen = ("-r", made / "data", *molecule, "-n", 1, "-o", tmp_path / "s.npz")
    code, _, err = call(capsys, "select", *frames, *chosen)
    assert code == 0, err
    assert recorded_temperature(tmp_path / "s.npz") == 400.0
    frames = ("-c", tmp_path / "other/replica_000.dcd", "--top", tmp_path / "other/topology.pdb")
    code, _, err = call(capsys, "select", *frames, *chosen)
    assert code == 1
    assert "for 400 K" in err
    assert "for 350 K" in err
    # selection to label: the temperature of the selection, and no other one
    label = (
        "label",
        tmp_path / "s.npz",
        "--system",
        "YYDPE",
        "-o",
        tmp_path / "labels",
        "--temperature",
        300,
    )
    code, _, err = call(capsys, *label)
    assert code == 1
    assert "s.npz is for 400 K, --temperature is for 300 K" in err
    assert not (tmp_path / "labels").exists()


def test_a_file_without_temperature_is_said_and_it_must_be_given(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    molecule, start = (
        ("-t", made / "top.json"),
        ("--start", made / "start.npy", "--steps", 20, "--timestep", 1),
    )
    code, _, err = call(capsys, "export", made / "old.ckpt", *molecule, "-o", tmp_path / "p.pt")
    assert code == 0
    assert err.count("warning: ") == 1
    assert "does not record the temperature" in err
    command = ("simulate", "-p", tmp_path / "p.pt", *molecule, *start, "-o", tmp_path / "sim")
    code, _, err = call(capsys, *command)
    assert code == 2
    assert "give the temperature of its training data (--temperature)" in err
    assert not (tmp_path / "sim").exists()
    code, _, err = call(capsys, *command, "--temperature", 400)
    assert code == 0
    assert err.count("does not record its temperature; 400 K is used") == 1
    code, _, err = call(
        capsys, "export", made / "old.ckpt", *molecule, "-o", tmp_path / "q.pt", "--temperature", 390
    )
    assert (code, err) == (0, "")
    assert load_metadata(tmp_path / "q.pt")["temperature"] == 390.0
    np.save(tmp_path / "f.npy", np.load(made / "start.npy"))
    code, _, err = call(capsys, "label", tmp_path / "f.npy", "--system", "YYDPE", "-o", tmp_path / "labels")
    assert code == 2
    assert "does not record its temperature" in err
    assert not (tmp_path / "labels").exists()


def test_evaluate_compares_the_temperatures(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = chains(30, 5, seed=1)
    # equal frames have no density, which saves the time of w1_ucsc
    for name, kelvin in (("a", 400.0), ("b", 350.0)):
        equal = np.repeat(frames[:1], 5, axis=0)
        np.savez(tmp_path / f"{name}.npz", positions=equal, temperature=np.array(kelvin))
    np.save(tmp_path / "plain.npy", frames)
    np.save(tmp_path / "equal.npy", frames[:1])
    common = ("-t", made / "top.json", "--lag", 2, "-r", tmp_path / "plain.npy")
    code, _, err = call(capsys, "evaluate", "-m", tmp_path / "a.npz", "-m", tmp_path / "b.npz", *common)
    assert code == 1
    assert "b.npz is for 350 K, " in err
    code, _, err = call(capsys, "evaluate", "-m", tmp_path / "a.npz", "--temperature", 300, *common)
    assert code == 1
    assert "a.npz is for 400 K, --temperature is for 300 K" in err
    code, out, err = call(capsys, "evaluate", "-m", tmp_path / "a.npz", *common)
    assert code == 0, err
    assert "warning" not in err
    assert json.loads(out)["provenance"]["temperature"] == 400.0
    code, _, err = call(capsys, "evaluate", "-m", tmp_path / "equal.npy", *common)
    assert code == 0, err
    assert err.count("free energies are for 300 K: give --temperature") == 1


def test_a_reference_at_another_temperature_is_refused_before_the_run(tmp_path: Path, topology: Any) -> None:
    np.savez(tmp_path / "r.npz", positions=chains(60, 5))
    write_json(tmp_path / "reference.json", {"temperature": 350.0})
    evaluation = {"reference": [str(tmp_path / "r.npz")], "lag_ps": 2.0}
    system = {"sequence": "YYDPE", "temperature": 400.0}
    config = parse_config({"system": system, "evaluation": evaluation})
    with pytest.raises(DataError, match=r"r\.npz is for 350 K, system\.temperature is for 400 K"):
        ReferenceEvaluator(config, topology).check()


def test_simulate_warns_once_and_records(made: Path, topology: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 10, "timestep_fs": 1.0, "friction": 1.0, "report_interval": 5}
    start = np.load(made / "start.npy")[:1]
    with pytest.warns(UserWarning, match=r"p\.pt was made for 400 K, not for 350 K") as caught:
        simulate(made / "p.pt", topology, start, temperature=350.0, out_dir=tmp_path / "a", **settings)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    result = simulate(made / "p.pt", topology, start, temperature=400.0, out_dir=tmp_path / "b", **settings)
    assert result.temperature == 400.0
    old = simulate(made / "old.pt", topology, start, temperature=300.0, out_dir=tmp_path / "c", **settings)
    assert read_json(old.out_dir / "simulation.json")["potential_temperature"] is None


def test_a_potential_in_other_units_is_refused(made: Path, topology: Any, tmp_path: Path) -> None:
    module, metadata = load_script(made / "p.pt")
    metadata["units"] = {"positions": "angstrom", "energy": "kcal/mol", "forces": "kcal/mol/angstrom"}
    with (tmp_path / "u.pt").open("wb") as handle:
        handle.write(module.save_to_buffer(_extra_files={METADATA_FILE: json.dumps(metadata)}))
    with pytest.raises(DynamicsError, match=r"in units .*angstrom.*OpenMM needs"):
        add_potential(build_system(topology), tmp_path / "u.pt", topology)


def test_models_of_different_temperatures_are_no_committee(made: Path, topology: Any, tmp_path: Path) -> None:
    content = torch.load(made / "model.ckpt", weights_only=True)
    content["cgal_plugin"]["temperature"] = content["hyper_parameters"]["temperature"] = 350.0
    torch.save(content, tmp_path / "cold.ckpt")
    files = [made / "model.ckpt", tmp_path / "cold.ckpt"]
    with pytest.raises(SelectionError, match="for 350, 400 K"):
        CommitteeSelector(1, [load_model(f) for f in files], types=topology.types)
    with pytest.raises(TrainingError, match=r"cold\.ckpt is for 350 K, the ensemble is for 400 K"):
        load_model(files)
    assert load_model([made / "model.ckpt", made / "old.ckpt"]).cgal_temperature == 400.0
    keys = {**SMALL, "dataset_root": str(made / "data")}
    with pytest.raises(DataError, match=r"the data set is for 400 K, checkpoint .* is for 350 K"):
        train(keys, tmp_path / "t", seed=0, mode="finetune", init_checkpoint=tmp_path / "cold.ckpt")
    content["cgal_plugin"]["units"] = {"positions": "nm"}
    torch.save(content, tmp_path / "nm.ckpt")
    with pytest.raises(TrainingError, match=r"is in units .*nm"):
        load_model(tmp_path / "nm.ckpt")


def test_plain_files_take_the_key_temperature(made: Path, tmp_path: Path, topology: Any) -> None:
    frames = DataStore(made / "data").load_all()
    np.save(tmp_path / "x.npy", frames.positions)
    np.save(tmp_path / "f.npy", frames.forces)
    argument = {"coords": "x.npy", "forces": "f.npy", "topology": str(made / "top.json")}
    keys = {**SMALL, "dataset_root": str(tmp_path), "dataset_arg": argument}
    result = train({**keys, "temperature": 380.0}, tmp_path / "out", seed=0)
    assert load_model(result.checkpoint).cgal_temperature == 380.0
    with pytest.raises(DataError, match=r"380(\.0)? K"):
        train(
            {**keys, "dataset_arg": {**argument, "temperature": 380.0}, "temperature": 300.0},
            tmp_path / "o",
            seed=0,
        )


def test_recorded_temperatures(made: Path, tmp_path: Path) -> None:
    assert recorded_temperature(made / "data") == 400.0
    assert recorded_temperature(next((made / "data/shards").glob("*.npz"))) == 400.0
    assert recorded_temperature(made / "start.npy") is None
    assert common_temperature([made / "start.npy"], 300.0) == 300.0
    assert common_temperature([made / "start.npy", made / "data"]) == 400.0
    (tmp_path / "simulation.json").write_text("{broken")
    np.save(tmp_path / "x.npy", np.zeros((1, 5, 3)))
    assert recorded_temperature(tmp_path / "x.npy") is None


def test_priors_say_their_units(tmp_path: Path, topology: Any) -> None:
    fit_priors(topology, chains(200, 5), 400.0, terms=("bonds",)).save(tmp_path / "p.yaml")
    content = yaml.safe_load((tmp_path / "p.yaml").read_text())
    assert content["units"]["length"] == "angstrom"
    assert PriorSet.load(tmp_path / "p.yaml").temperature == 400.0
    del content["seal"]  # as in a file of an earlier release, or an edited one
    (tmp_path / "nm.yaml").write_text(yaml.safe_dump({**content, "units": {"length": "nm"}}))
    with pytest.raises(ConfigError, match="other units"):
        PriorSet.load(tmp_path / "nm.yaml")
    del content["units"]
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(content))
    assert PriorSet.load(tmp_path / "old.yaml").temperature == 400.0


# ------------------------------------------------------------------ no_grad, inference_mode


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_models_work_without_gradients(made: Path, topology: Any, tmp_path: Path, mode: Any) -> None:
    frames = np.load(made / "start.npy")
    z = torch.tensor(topology.types)
    expected = load_model(made / "model.ckpt")(z, torch.tensor(frames[0]))[1]
    with mode():
        model = load_model(made / "model.ckpt")
        pos = torch.tensor(frames[0])
        energy, forces = model(z, pos)
        assert torch.equal(forces, expected)
        assert not energy.requires_grad
        assert not pos.requires_grad
        again = load_model([made / "model.ckpt", made / "old.ckpt"])(z, pos)[1]
        assert torch.allclose(again, expected)
        members = [model, load_model(made / "old.ckpt"), lambda x: 2.0 * x]
        scores = CommitteeSelector(2, members, types=topology.types).scores(frames)
        export_torchscript(model, topology, tmp_path / "a.pt")
        export_torchscript(made / "model.ckpt", topology, tmp_path / "b.pt", dtype="float64")
        fast = FastPotential.from_model(model, topology)
        FastPotential.from_file(tmp_path / "a.pt")(frames[0] / 10)
    assert scores.shape == (4,)
    given = torch.tensor(frames[0], dtype=torch.float64) / 10
    for name in ("a.pt", "b.pt"):
        found = load_script(tmp_path / name)[0](given)[1]
        assert torch.allclose(found.double() / 41.84, expected.double(), atol=1e-3)
    assert np.allclose(fast(frames[0] / 10)[1] / 41.84, expected, atol=1e-3)
    # the model of inference mode can be used outside as well
    assert torch.equal(model(z, torch.tensor(frames[0]))[1], expected)


def test_an_exported_potential_is_not_a_checkpoint(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "export", made / "p.pt", "-t", made / "top.json", "-o", tmp_path / "x.pt")
    assert code == 1
    assert "is a TorchScript file, such as an exported potential" in err
    assert "give the checkpoint" in err
    assert "weights_only" not in err
    (tmp_path / "junk.ckpt").write_bytes(b"not a checkpoint at all")
    code, _, err = call(
        capsys, "export", tmp_path / "junk.ckpt", "-t", made / "top.json", "-o", tmp_path / "x.pt"
    )
    assert code == 1
    assert "weights_only" not in err
    assert not (tmp_path / "x.pt").exists()
