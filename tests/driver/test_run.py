"""The whole loop, real and tiny: it ends with a model and a report, and a second call runs nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.cli.status_text import status_text
from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.data.dcd import read_dcd
from cgal_plugin.data.temperature import recorded_temperature
from cgal_plugin.driver import RunResult, run
from cgal_plugin.errors import StateError
from cgal_plugin.priors import PriorSet
from cgal_plugin.runs.layout import shard_round
from cgal_plugin.runs.status import run_status
from cgal_plugin.selector import nearest_rmsd
from cgal_plugin.training import load_model
from tests.driver import stand_ins
from tests.driver.cheap import Log, labels
from tests.driver.tiny import SMOKE, TINY


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


@pytest.fixture(scope="module")
def finished(log: Log, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(parse_config(SMOKE), tmp_path_factory.mktemp("loop") / "run", reporter=log)


def test_the_loop_ends_with_model_potential_and_report(finished: RunResult, log: Log) -> None:
    assert [r["round"] for r in finished.rounds] == [0, 1]
    assert [r["stop"] is None for r in finished.rounds] == [True, False]
    assert [r.get("n_labelled", 0) + r.get("n_quarantined", 0) for r in finished.rounds] == [3, 0]
    frames = [r["n_frames"] for r in finished.rounds]
    assert frames == [400, 400 + finished.rounds[0]["n_new_frames"]]
    assert log.rows == list(finished.rounds)
    html = finished.report.read_text()
    assert "tiny &lt;b&gt;run&lt;/b&gt;" in html
    assert "<b>run</b>" not in html
    load_model(finished.checkpoint)
    assert finished.potential.is_file()


def test_every_stage_has_a_manifest_with_inputs_and_versions(finished: RunResult) -> None:
    manifests = sorted(finished.out_dir.rglob("manifest.json"))
    assert len(manifests) == 2 + 5 + 3
    for path in manifests:
        manifest = json.loads(path.read_text())
        assert manifest["inputs_hash"]
        assert manifest["versions"]["openmm"]


def test_the_backend_of_the_dynamics_is_recorded(finished: RunResult) -> None:
    from cgal_plugin.export.fast import fast_available

    for path in finished.out_dir.glob("rounds/*/simulate/manifest.json"):
        backend = json.loads(path.read_text())["results"]["backend"]
        assert backend == json.loads((path.parent / "simulation.json").read_text())["inputs"]["backend"]
        assert (backend == "cpu") == fast_available()


def test_labels_start_near_the_frames_that_were_selected(finished: RunResult) -> None:
    store = DataStore(finished.out_dir / "data")
    with np.load(finished.out_dir / "rounds/round_000/select/selected.npz") as selected:
        targets = selected["positions"]
    names = [n for n in store.names() if shard_round(n) == 0]
    assert names
    for name in names:
        target = targets[int(name[-4:])]
        assert nearest_rmsd(store.load(name).positions[:1], target[None])[0][0] < 2.0


def test_the_same_call_again_runs_nothing(finished: RunResult, without_figures: None, tmp_path: Path) -> None:
    before, log = labels(finished.out_dir), Log()
    report = finished.report.read_bytes()
    again = run(parse_config(SMOKE), finished.out_dir, reporter=log)
    finished.report.write_bytes(report)
    assert log.stages == ["report"]
    assert again.rounds == finished.rounds
    assert labels(finished.out_dir) == before


def test_changed_settings_are_refused(finished: RunResult) -> None:
    config = copy.deepcopy(SMOKE)
    config["training"]["epochs"] = 4
    with pytest.raises(StateError, match=r"training\.epochs: 3 -> 4"):
        run(parse_config(config), finished.out_dir)


def test_priors_are_fitted_to_forces_in_each_round(
    finished: RunResult, without_figures: None, tmp_path: Path
) -> None:
    terms = ["bonds", "angles", "dihedrals", "repulsion", "pairs"]
    priors = {"terms": terms, "method": "force_matching", "refit": True}
    changes = {
        "seed_data": {"store": str(finished.out_dir / "data")},
        "training": {**TINY["training"], "mode": "scratch", "priors": priors},
        "selector": {"kind": "random", "n_select": 2},
    }
    config = parse_config({**SMOKE, **changes})
    components = {"oracle": stand_ins.Springs(), "sampler": stand_ins.Noise()}
    result = run(config, tmp_path / "run", **components)
    folders = [result.out_dir / "priors", *sorted(result.out_dir.glob("rounds/round_*/train"))]
    fits = [PriorSet.load(folder / "priors.yaml") for folder in folders]
    assert [f.n_frames for f in fits] == [fits[0].n_frames, fits[0].n_frames, fits[0].n_frames + 2]
    assert fits[0].hash == fits[1].hash != fits[2].hash
    model = load_model(result.checkpoint)
    assert [p.get_init_args() for p in model.prior_model] == [fits[2].arguments(t) for t in terms]
    again = run(config, tmp_path / "run", **components)
    assert again.rounds == result.rounds


def test_a_budget_below_one_label_stops_the_run_before_a_label(
    finished: RunResult, without_figures: None, tmp_path: Path
) -> None:
    changes = {
        "seed_data": {"store": str(finished.out_dir / "data")},
        "stopping": {"rounds": 5, "oracle_ns": 1e-5},
    }
    result = run(parse_config({**SMOKE, **changes}), tmp_path / "run", **stand_ins.cheap())
    assert len(result.rounds) == 1
    assert "budget" in result.rounds[0]["stop"]
    assert not [n for n in DataStore(tmp_path / "run/data").names() if shard_round(n) >= 0]


@pytest.mark.parametrize("blocks", [pytest.param(1, marks=pytest.mark.integration), 2])
def test_parallel_tempering_gives_the_frames_of_the_systems_temperature(
    finished: RunResult, tmp_path: Path, blocks: int
) -> None:
    simulation = {
        **TINY["simulation"],
        "n_replicas": 12,
        "blocks": blocks,
        "temperatures": [380.0, 400.0, 430.0],
        "exchange_interval": 10,
    }
    changes = {
        "seed_data": {"store": str(finished.out_dir / "data")},
        "simulation": simulation,
        "stopping": {"rounds": 0},
    }
    result = run(parse_config({**SMOKE, **changes}), tmp_path / "run", oracle=stand_ins.Springs())
    manifest = json.loads((result.out_dir / "rounds/round_000/simulate/manifest.json").read_text())
    found = manifest["results"]
    assert found["steps"] == 12 * 200
    assert len(found["tempering"]) == blocks
    assert sum(r["n_ladders"] for r in found["tempering"]) == 4
    assert len(found["trajectories"]) == 4
    assert all("temperatures/400K/ladder_" in name for name in found["trajectories"])
    folder = result.out_dir / "rounds/round_000/simulate"
    for name in found["trajectories"]:
        assert recorded_temperature(folder / name) == 400.0
        assert len(read_dcd(folder / name)) == 10
    status = run_status(result.out_dir)
    assert "exchanges accepted" in status_text(status)
    assert "Round 0, parallel tempering: exchanges accepted" in result.report.read_text()
    assert run(parse_config({**SMOKE, **changes}), tmp_path / "run", oracle=stand_ins.Springs()).rounds
