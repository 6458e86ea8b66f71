"""Refinement of a run's final model: real and tiny; it resumes, starts anew when it must, and is refused."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import RunResult, run
from cgal_plugin.errors import ConfigError, DynamicsError, TrainingError
from cgal_plugin.priors import PriorSet
from cgal_plugin.provenance import hash_file, read_json
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import refined_stages
from cgal_plugin.training import load_model
from cgal_plugin.training.replace_priors import replace_priors
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from tests.driver.tiny import TINY


def content(**refinement: Any) -> dict[str, Any]:
    found = copy.deepcopy(TINY)
    terms = ["bonds", "angle_series", "dihedrals", "repulsion", "pairs"]
    priors = {"terms": terms, "method": "force_matching", "refit": True}
    found["training"] |= {"mode": "scratch", "priors": priors}
    found["simulation"]["steps"] = 400
    found["stopping"] = {"rounds": 1}
    found["executor"] = {"workers": 0}
    found["refinement"] = {"iterations": 2, "steps": 1600, "lag_ps": 0.2, "n_states": 6, **refinement}
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(parse_config(content()), tmp_path_factory.mktemp("refined") / "run")


def stages(folder: Path) -> list[dict[str, Any]]:
    return [s.results() for s in refined_stages(RunDirectory(folder))]


def test_the_final_model_is_the_refined_one(finished: RunResult) -> None:
    root = finished.out_dir
    results = stages(root)
    assert len(results) == 3
    assert all(np.isfinite(r["divergence"]) for r in results)
    assert [r.get("energy_spread", 0.0) > 0 for r in results] == [True, True, False]
    # the checkpoint has the priors of the last correction, the network of the last round
    last = root / "refinement/iteration_001"
    before = torch.load(root / "rounds/round_001/train/model_000/epoch_0002.ckpt", weights_only=True)
    after = torch.load(finished.checkpoint, weights_only=True)
    assert finished.checkpoint.read_bytes() == (last / "model.ckpt").read_bytes()
    corrected = PriorSet.load(last / "priors.yaml")
    assert after["hyper_parameters"]["prior_model"] == corrected.to_prior_model()
    assert after["cgal_plugin"]["priors_replaced"]["priors"] == corrected.hash
    assert corrected.hash != PriorSet.load(root / "rounds/round_001/train/priors.yaml").hash
    assert all(torch.equal(before["state_dict"][k], v) for k, v in after["state_dict"].items())
    assert "populations refined" in finished.report.read_text()


def test_the_exported_potential_is_the_checkpoint(finished: RunResult) -> None:
    frames = np.load(finished.out_dir / "refinement/iteration_002/frames.npz")["trajectory_00000"][:5]
    model = load_model(finished.checkpoint)
    potential = torch.jit.load(str(finished.potential))
    types = torch.from_numpy(DataStore(finished.out_dir / "data").topology.types.copy())
    for frame in frames:
        energy, _ = model(types, torch.from_numpy(frame), torch.zeros(len(frame), dtype=torch.long))
        ours, _ = potential(torch.from_numpy(frame.astype(np.float64) / ANGSTROM_PER_NM))
        assert ours.item() / KJ_PER_KCAL == pytest.approx(energy.item(), abs=1e-3)


def test_nothing_finished_is_done_again_and_a_lost_iteration_comes_back(
    finished: RunResult, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished.out_dir, root)
    shutil.rmtree(root / "refinement/iteration_001")
    shutil.rmtree(root / "refinement/iteration_002")
    first = root / "refinement/iteration_000/manifest.json"
    stamp = first.stat().st_mtime_ns
    again = run(parse_config(content()), root)
    assert first.stat().st_mtime_ns == stamp
    ours, theirs = (
        PriorSet.load(r / "refinement/iteration_001/priors.yaml") for r in (root, finished.out_dir)
    )
    assert ours.hash == theirs.hash
    assert stages(root) == stages(finished.out_dir)
    assert again.checkpoint.is_file()


def killed_after_dynamics(folder: Path) -> None:
    """What a kill leaves between the end of an iteration's simulation and that of the iteration."""
    for path in folder.iterdir():
        if path.name != "dynamics":
            path.unlink()


def test_a_simulation_that_was_begun_is_gone_on_with(finished: RunResult, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished.out_dir, root)
    shutil.rmtree(root / "refinement/iteration_002")
    killed_after_dynamics(root / "refinement/iteration_001")
    dynamics = root / "refinement/iteration_001/dynamics"
    # by a file of a finished stage: exports in two processes need not have the same bytes
    potential = next((root / "refinement/iteration_000").glob("potential*.pt"))
    ran = read_json(dynamics / "simulation.json")["inputs"]["potential_sha256"]
    assert ran == hash_file(potential)
    assert potential.name in RunDirectory(root).stage("refinement", "iteration_000").manifest()["outputs"]
    simulated = dynamics / "replica_000.dcd"
    stamp = simulated.stat().st_mtime_ns
    run(parse_config(content()), root)
    assert simulated.stat().st_mtime_ns == stamp
    assert stages(root) == stages(finished.out_dir)


def test_a_simulation_begun_with_other_settings_is_put_aside(finished: RunResult, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished.out_dir, root)
    for k in (1, 2):
        shutil.rmtree(root / f"refinement/iteration_00{k}")
    killed_after_dynamics(root / "refinement/iteration_000")
    run(parse_config(content(iterations=1, steps=2000)), root, accept_changes=True)
    assert (root / "refinement/.iteration_000.0/dynamics").is_dir()
    n_replicas = content()["simulation"]["n_replicas"]
    assert [s["steps"] for s in stages(root)] == [2000 * n_replicas] * 2


def test_other_settings_start_it_anew(finished: RunResult, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished.out_dir, root)
    run(parse_config(content(iterations=1, ridge=0.5)), root, accept_changes=True)
    assert len(stages(root)) == 2
    assert (root / ".refinement.0/iteration_002").is_dir()
    assert stages(root)[0]["energy_spread"] < stages(finished.out_dir)[0]["energy_spread"]


def test_what_cannot_be_refined_is_refused(finished: RunResult, tmp_path: Path) -> None:
    for change, expected in (
        (
            {"training": {"priors": {"terms": ["bonds", "angles", "repulsion"]}}},
            "pair energies fitted to forces",
        ),
        ({"oracle": {**TINY["oracle"], "mode": "steered", "restraint": 2.0}}, "move freely .* for 0"),
        ({"refinement": {"lag_ps": 3.0}}, "move freely for longer than its lag_ps 3"),
    ):
        with pytest.raises(ConfigError, match=expected):
            parse_config(content() | change)

    class Trainer:
        def prepare(self) -> None: ...
        def train(self) -> None: ...
        def export(self) -> None: ...

    root = tmp_path / "run"
    shutil.copytree(finished.out_dir, root)
    with pytest.raises(DynamicsError, match=r"gave \d+ frames .* 200 are needed.*raise refinement\.steps"):
        run(parse_config(content(steps=400)), root, accept_changes=True)

    with pytest.raises(ConfigError, match=r"methods priors and with_priors, which .*Trainer lacks"):
        run(parse_config(content()), tmp_path / "other", trainer=Trainer())
    likelihood = PriorSet.load(finished.out_dir / "priors/priors.yaml")
    bonds = copy.copy(likelihood)
    object.__setattr__(bonds, "terms", ("bonds",))
    with pytest.raises(TrainingError, match="cannot be replaced by CGBonds"):
        replace_priors(finished.checkpoint, bonds, tmp_path / "model.ckpt")
