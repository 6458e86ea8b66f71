"""Whole runs with several systems: real all-atom MD, training, dynamics and labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.cli.status_text import systems_text
from cgal_plugin.config import parse_config
from cgal_plugin.config.systems import SystemsConfig, parse_systems
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import CGALError, ConfigError, ExportError, StateError
from cgal_plugin.export import export_potential
from cgal_plugin.mapping import CGTopology
from cgal_plugin.systems import SystemsResult, run_systems
from cgal_plugin.systems.status import systems_status
from tests.driver.cheap import Log, without_figures
from tests.driver.tiny import SMOKE
from tests.priors.chains import chains

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SHARED: dict[str, Any] = {
    key: SMOKE[key] for key in ("seed", "oracle", "simulation", "selector", "stopping", "executor")
} | {
    "name": "peptides",
    "temperature": 400.0,
    "seed_data": {"n_trajectories": 2, "picoseconds": 6.0, "equilibration_ps": 0.4, "save_ps": 0.02},
    "training": {"epochs": 2, "batch_size": 128, "model": {"embedding_dimension": 16}},
    "test": {"n_replicas": 2, "rungs": 2, "steps": 400, "n_bootstrap": 0},
}


def content(reference: Path, **changes: Any) -> dict[str, Any]:
    systems = [
        {"name": "long", "sequence": "GYGAGA"},
        {"name": "short", "sequence": "AGYA"},
        {
            "name": "held",
            "sequence": "YAGG",
            "role": "test",
            "evaluation": {"reference": [str(reference)], "reference_interval_ps": 1.0},
        },
    ]
    return {**SHARED, "systems": systems, **changes}


@pytest.fixture(scope="module", autouse=True)
def quick_reports() -> Iterator[None]:
    """Figures of the systems' own reports take most of the time."""
    with without_figures():
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "held.npz"
    np.savez(path, **{f"t{k}": chains(300, 4, seed=k).astype(np.float32) for k in range(4)})
    return path


@pytest.fixture(scope="module")
def config(reference: Path) -> SystemsConfig:
    return parse_systems(content(reference))


@pytest.fixture(scope="module")
def finished(config: SystemsConfig, tmp_path_factory: pytest.TempPathFactory) -> SystemsResult:
    return run_systems(config, tmp_path_factory.mktemp("systems") / "run")


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=False)["state_dict"]
    return state


def shards(root: Path) -> dict[str, str]:
    found = {}
    for folder in sorted((root / "systems").iterdir()):
        store = DataStore(folder / "data")
        found |= {f"{folder.name}/{n}": store.record(n)["sha256"] for n in store.names()}
    return found


def test_labels_are_shared_and_the_held_out_system_gets_none(finished: SystemsResult) -> None:
    first, last = finished.rounds
    got = {name: own.get("n_selected") for name, own in first["systems"].items()}
    assert got["held"] is None
    assert got["long"] + got["short"] == SHARED["selector"]["n_select"]
    for name, n in got.items():
        store = DataStore(finished.out_dir / "systems" / name / "data")
        assert sum(shard.startswith("r") for shard in store.names()) == (n or 0)
    for row in finished.rounds:
        assert row["systems"]["held"]["w1"]["value"] > 0
        assert "coverage" not in row["systems"]["held"]
    assert last["stop"].startswith("1 rounds done")


def test_report_and_summary_have_the_held_out_system_first(finished: SystemsResult) -> None:
    page = finished.report.read_text()
    assert page.index(">held<") < page.index("long</a>")
    summary = json.loads((finished.out_dir / "summary.json").read_text())
    assert [s["name"] for s in summary["systems"]] == ["held", "long", "short"]
    assert summary["means"]["test"]["n"] == 1
    assert sum(got["n"] for got in summary["shares"][0].values()) == SHARED["selector"]["n_select"]


def test_status_is_that_of_the_run_and_of_each_system(finished: SystemsResult, tmp_path: Path) -> None:
    found = systems_status(finished.out_dir)
    assert (found["name"], found["state"], found["holder"], found["current"]) == (
        "peptides",
        "finished",
        None,
        None,
    )
    assert len(found["trainings"]) == 2
    assert {name: own["role"] for name, own in found["systems"].items()} == {
        "long": "train",
        "short": "train",
        "held": "test",
    }
    assert [row["round"] for row in found["systems"]["long"]["rounds"]] == [0, 1]
    text = systems_text(found)
    assert text.splitlines()[0] == f"peptides: finished, {finished.out_dir}"
    assert "system held, test:\n  round 0: " in text
    # as a kill leaves it: the last system was not started
    shutil.copytree(finished.out_dir, tmp_path / "run", ignore=shutil.ignore_patterns("held", "model.ckpt"))
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(
        "".join(line for line in log.read_text().splitlines(keepends=True) if "run finished" not in line)
    )
    text = systems_text(systems_status(tmp_path / "run"))
    assert text.startswith("peptides: killed")
    assert "system held, test: not started" in text
    assert text.endswith("run the same `cgal run` command again to resume")


def test_one_model_serves_all_molecules_and_unseen_sequences(finished: SystemsResult, tmp_path: Path) -> None:
    state = weights(finished.checkpoint)
    for name in ("long", "short", "held"):
        own = weights(finished.out_dir / "systems" / name / "model.ckpt")
        assert all(torch.equal(own[k], state[k]) for k in state)
    made = export_potential(
        finished.checkpoint, CGTopology.from_sequence("AYGAGYGA"), tmp_path / "unseen.npz"
    )
    assert made["temperature"] == 400.0
    with pytest.raises(ExportError, match="trained on no CA_TRP"):
        export_potential(finished.checkpoint, CGTopology.from_sequence("AYWA"), tmp_path / "no.npz")


def test_a_second_call_loads_everything(config: SystemsConfig, finished: SystemsResult) -> None:
    log = Log()
    again = run_systems(config, finished.out_dir, reporter=log)
    assert [s for s in log.stages if s != "report"] == []
    assert again.rounds == finished.rounds


class Stop(Exception):
    """Stands for a kill at the start of a stage."""


def test_an_interrupted_run_gives_the_same_result(
    config: SystemsConfig, finished: SystemsResult, tmp_path: Path
) -> None:
    for at in ("priors", "round 0: share the labels", "round 1: train"):

        class Stopping(Log):
            def stage(self, title: str, at: str = at) -> Any:
                if title == at:
                    raise Stop
                return super().stage(title)

        with pytest.raises(Stop):
            run_systems(config, tmp_path / "run", reporter=Stopping())
    result = run_systems(config, tmp_path / "run")
    assert shards(result.out_dir) == shards(finished.out_dir)
    ours, theirs = weights(result.checkpoint), weights(finished.checkpoint)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_other_systems_need_consent_and_keep_what_was_computed(
    reference: Path, finished: SystemsResult, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished.out_dir, root)
    before = shards(root)
    more = content(reference)
    more["systems"] = [*more["systems"], {"name": "new", "sequence": "GAYG"}]
    with pytest.raises(StateError, match="system 'new' is new"):
        run_systems(parse_systems(more), root)
    log = Log()
    result = run_systems(parse_systems(more), root, accept_changes=True, reporter=log)
    after = shards(root)
    assert {k: after[k] for k in before} == before  # labels are never computed again
    assert "new, seed data" in log.stages
    assert "round 0: train" in log.stages  # the new system is trained on
    fewer = content(reference)
    fewer["systems"] = [s for s in more["systems"] if s["name"] != "short"]
    again = run_systems(parse_systems(fewer), root, accept_changes=True)
    assert set(again.potentials) == {"long", "held", "new"}
    assert shards(root) == after
    assert set(result.potentials) == {"long", "short", "held", "new"}


def test_a_system_whose_labels_all_fail_is_reported_and_others_go_on(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cgal_plugin.data import LabelledFrames, Quarantined
    from cgal_plugin.oracle import OpenMMOracle

    label = OpenMMOracle.label

    def failing(self: OpenMMOracle, frames: np.ndarray) -> LabelledFrames:
        if self.topology.sequence != "GYGAGA":
            return label(self, frames)
        none = np.zeros((0, *np.shape(frames)[1:]), dtype=np.float32)
        nothing = np.zeros(0, dtype=np.int64)
        refused = tuple(Quarantined(i, "it cannot be built") for i in range(len(frames)))
        return LabelledFrames(none, none, nothing, nothing, np.zeros(0), quarantined=refused)

    monkeypatch.setattr(OpenMMOracle, "label", failing)
    log = Log()
    oracle = {**SHARED["oracle"], "max_failure_rate": 1.0}
    config = parse_systems(content(reference, share="equal", oracle=oracle))
    result = run_systems(config, tmp_path / "run", reporter=log)
    first = result.rounds[0]["systems"]
    assert first["long"]["failed"] == "it cannot be built"
    assert first["short"]["n_labelled"] > 0
    assert sorted(first[name]["n_selected"] for name in ("long", "short")) == [1, 2]  # equal shares
    assert any("The other systems go on" in text for text in log.messages)
    again = Log()
    assert run_systems(config, tmp_path / "run", reporter=again).rounds == result.rounds
    assert [s for s in again.stages if s != "report"] == []  # failed labels are not tried again


def test_molecules_that_one_potential_cannot_serve_are_refused(reference: Path, tmp_path: Path) -> None:
    for index, changes, message in (
        (2, {"sequence": "YASG"}, "'held' has CA_SER, which no system to train on has"),
        (2, {"sequence": "AGYA"}, "'short' \\(train\\) and 'held' \\(test\\) are the same molecule"),
        (1, {"sequence": "GYGAGA"}, "'long' \\(train\\) and 'short' \\(train\\) are the same molecule"),
        (1, {"sequence": "A"}, "system 'short'"),
    ):
        wrong = content(reference)
        wrong["systems"][index] = {**wrong["systems"][index], **changes}
        with pytest.raises(ConfigError, match=message):
            run_systems(parse_systems(wrong), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_runs_of_one_and_of_several_systems_keep_apart(finished: SystemsResult, tmp_path: Path) -> None:
    single = parse_config({**SMOKE, "seed_data": {**SMOKE["seed_data"], "picoseconds": 4.0}})
    for folder in (finished.out_dir, finished.out_dir / "systems" / "long"):
        with pytest.raises(StateError, match="run with several systems"):
            run(single, folder)
    (tmp_path / "config.yaml").write_text("name: a\n")
    with pytest.raises(StateError, match="run of one system"):
        run_systems(parse_systems(content_of(finished)), tmp_path)


def content_of(result: SystemsResult) -> dict[str, Any]:
    """Return a configuration of the same systems, without the one that needs a reference."""
    return {**SHARED, "systems": [{"name": "long", "sequence": "GYGAGA"}]}


def test_a_store_of_another_mapping_is_refused(
    reference: Path, finished: SystemsResult, tmp_path: Path
) -> None:
    store = finished.out_dir / "systems" / "long" / "data"
    wrong = content(reference, mapping="CACB", stopping={"rounds": 0})
    wrong["systems"][0] |= {"seed_data": {"store": str(store)}}
    with pytest.raises(CGALError, match="CA") as error:
        run_systems(parse_systems(wrong), tmp_path / "run")
    assert str(store) in str(error.value)
    assert not (tmp_path / "run").exists()
