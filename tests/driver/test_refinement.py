"""Refinement of a run's final model, real and tiny: it resumes, restarts when it must, and refuses."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.components.build import build_components
from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import RunResult, run
from cgal_plugin.errors import ConfigError, DynamicsError, TrainingError
from cgal_plugin.priors import PriorSet
from cgal_plugin.provenance import hash_file, read_json
from cgal_plugin.refinement.target import equilibrated
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import refined_stages, sampled_trajectories
from cgal_plugin.training import load_model
from cgal_plugin.training.replace_priors import replace_priors
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from tests.driver import stand_ins
from tests.driver.tiny import SMOKE, TINY


def content(seed: int = 3, **refinement: Any) -> dict[str, Any]:
    found = copy.deepcopy(SMOKE)
    terms = ["bonds", "angle_series", "dihedrals", "repulsion", "pairs"]
    priors = {"terms": terms, "method": "force_matching", "pairs_per_type": False, "refit": True}
    found["seed"] = seed
    found["training"] |= {"mode": "scratch", "epochs": 2, "priors": priors}
    # four ladders of two temperatures with 128 frames each: 200 are left even if two ladders blow up
    found["simulation"] |= {"report_interval": 10, "n_replicas": 8}
    found["refinement"] = {"iterations": 2, "steps": 1600, "lag_ps": 0.2, "n_states": 4, **refinement}
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(parse_config(content()), tmp_path_factory.mktemp("refined") / "run")


@pytest.fixture
def copied(finished: RunResult, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged and resumed."""
    shutil.copytree(finished.out_dir, tmp_path / "run")
    return tmp_path / "run"


def stages(folder: Path) -> list[dict[str, Any]]:
    return [s.results() for s in refined_stages(RunDirectory(folder))]


@pytest.mark.integration
def test_the_final_model_is_the_refined_one(finished: RunResult) -> None:
    root = finished.out_dir
    results = stages(root)
    assert len(results) == 3
    assert all(len(r["tempering"][0]["temperatures"]) == 2 for r in results)
    assert all(np.isfinite(r["divergence"]) for r in results)
    assert [r.get("energy_spread", 0.0) > 0 for r in results] == [True, True, False]
    # the checkpoint has the priors of the last correction, the network of the last round
    last = root / "refinement/iteration_001"
    trained = RunDirectory(root).stage("rounds/round_001/train")
    before = torch.load(trained.file(trained.results()["checkpoint"]), weights_only=True)
    after = torch.load(finished.checkpoint, weights_only=True)
    assert finished.checkpoint.read_bytes() == (last / "model.ckpt").read_bytes()
    corrected = PriorSet.load(last / "priors.yaml")
    assert after["hyper_parameters"]["prior_model"] == corrected.to_prior_model()
    assert after["cgal_plugin"]["priors_replaced"]["priors"] == corrected.hash
    assert corrected.hash != PriorSet.load(root / "rounds/round_001/train/priors.yaml").hash
    assert all(torch.equal(before["state_dict"][k], v) for k, v in after["state_dict"].items())
    assert "with corrected populations" in finished.report.read_text()


@pytest.mark.integration
def test_the_exported_potential_is_the_checkpoint(finished: RunResult) -> None:
    last = RunDirectory(finished.out_dir).stage("refinement", "iteration_002")
    frames = sampled_trajectories(last)[0][:5]
    model = load_model(finished.checkpoint)
    potential = torch.jit.load(str(finished.potential))
    types = torch.from_numpy(DataStore(finished.out_dir / "data").topology.types.copy())
    for frame in frames:
        energy, _ = model(types, torch.from_numpy(frame), torch.zeros(len(frame), dtype=torch.long))
        ours, _ = potential(torch.from_numpy(frame.astype(np.float64) / ANGSTROM_PER_NM))
        assert ours.item() / KJ_PER_KCAL == pytest.approx(energy.item(), abs=1e-3)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.integration
def test_a_lost_iteration_is_computed_again_from_the_last_complete_one(
    finished: RunResult, copied: Path
) -> None:
    for k in (1, 2):
        shutil.rmtree(copied / f"refinement/iteration_00{k}")
    first = copied / "refinement/iteration_000/manifest.json"
    # unfinished dynamics of an earlier version, without ladders
    shutil.copytree(first.parent / "tempered", copied / "refinement/iteration_001/dynamics")
    stamp = first.stat().st_mtime_ns
    again = run(parse_config(content()), copied)
    assert first.stat().st_mtime_ns == stamp
    ours, theirs = (
        PriorSet.load(root / "refinement/iteration_001/priors.yaml") for root in (copied, finished.out_dir)
    )
    assert ours.hash == theirs.hash
    assert stages(copied) == stages(finished.out_dir)
    assert again.checkpoint.is_file()


def killed_after_dynamics(folder: Path) -> None:
    """Leave what a kill leaves between the end of an iteration's simulation and that of the iteration."""
    for path in folder.iterdir():
        if path.name != "tempered":
            path.unlink()


@pytest.mark.usefixtures("without_figures")
@pytest.mark.integration
def test_a_complete_simulation_is_loaded(finished: RunResult, copied: Path) -> None:
    shutil.rmtree(copied / "refinement/iteration_002")
    killed_after_dynamics(copied / "refinement/iteration_001")
    dynamics = copied / "refinement/iteration_001/tempered"
    # by a file of a finished stage: exports in two processes need not have the same bytes
    potential = next((copied / "refinement/iteration_000").glob("potential*.pt"))
    ran = read_json(dynamics / "simulation.json")["inputs"]["potential_sha256"]
    assert ran == hash_file(potential)
    assert potential.name in RunDirectory(copied).stage("refinement", "iteration_000").manifest()["outputs"]
    simulated = dynamics / "walker_000.dcd"
    stamp = simulated.stat().st_mtime_ns
    run(parse_config(content()), copied)
    assert simulated.stat().st_mtime_ns == stamp
    assert stages(copied) == stages(finished.out_dir)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.integration
def test_a_simulation_with_other_settings_is_moved_aside(copied: Path) -> None:
    for k in (1, 2):
        shutil.rmtree(copied / f"refinement/iteration_00{k}")
    killed_after_dynamics(copied / "refinement/iteration_000")
    run(parse_config(content(iterations=1, steps=1800)), copied, accept_changes=True)
    assert (copied / "refinement/.iteration_000.0/tempered").is_dir()
    n_replicas = content()["simulation"]["n_replicas"]
    assert [s["steps"] for s in stages(copied)] == [1800 * n_replicas] * 2


@pytest.mark.usefixtures("without_figures")
@pytest.mark.integration
def test_other_settings_start_the_refinement_again(finished: RunResult, copied: Path) -> None:
    run(parse_config(content(iterations=1, ridge=0.5)), copied, accept_changes=True)
    assert len(stages(copied)) == 2
    assert (copied / ".refinement.0/iteration_002").is_dir()
    # of the same frames a stronger ridge makes a smaller correction
    assert stages(copied)[0]["energy_spread"] < stages(finished.out_dir)[0]["energy_spread"]


def test_too_few_sampled_frames_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"save only \d+ frames .* 200 are needed: raise refinement\.steps"):
        build_components(parse_config(content(steps=200)))
    # of replicas that blew up
    with pytest.raises(DynamicsError, match=r"gave 80 frames .* 200 are needed.*raise refinement\.steps"):
        equilibrated([np.zeros((100, 5, 3))], 0)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.integration
def test_a_run_is_refined_for_every_seed(chance_seed: int, tmp_path: Path) -> None:
    """However trajectories and fits turn out: the states may be few, and badly connected."""
    result = run(parse_config(content(chance_seed, iterations=1)), tmp_path / "run")
    found = stages(result.out_dir)
    assert len(found) == 2
    for each in found:
        assert np.isfinite(each["divergence"])
        assert np.isclose(sum(each["target"]), 1.0)
        assert np.isclose(sum(each["model"]), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"training": {"priors": {"terms": ["bonds", "angles", "repulsion"]}}},
            "pair energies fitted to forces",
        ),
        (
            {"oracle": {**TINY["oracle"], "mode": "steered", "restraint": 2.0, "release_ps": 0}},
            "these labels have 0",
        ),
        ({"refinement": {"lag_ps": 3.0}}, "more than lag_ps = 3"),
    ],
    ids=["priors", "steered", "lag"],
)
def test_a_configuration_that_cannot_be_refined_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(content() | change)


def test_a_trainer_that_cannot_replace_priors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"methods priors and with_priors, which .*Untrained lacks"):
        run(parse_config(content()), tmp_path / "other", trainer=stand_ins.Untrained())


@pytest.mark.integration
def test_priors_of_other_terms_cannot_replace_those_of_a_model(finished: RunResult, tmp_path: Path) -> None:
    fitted = PriorSet.load(finished.out_dir / "priors/priors.yaml")
    bonds = copy.copy(fitted)
    object.__setattr__(bonds, "terms", ("bonds",))
    with pytest.raises(TrainingError, match="cannot be replaced by CGBonds"):
        replace_priors(finished.checkpoint, bonds, tmp_path / "model.ckpt")
