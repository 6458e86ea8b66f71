"""The run directory: one holder, manifests that are checked, configurations that are compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cgal_plugin.config import parse_config
from cgal_plugin.errors import DamageError, StateError
from cgal_plugin.provenance import write_json
from cgal_plugin.reporting.collect import report_run
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.log import Progress
from cgal_plugin.runs.stage import MANIFEST, StageOutput
from cgal_plugin.runs.status import run_status

SYSTEM = {"sequence": "AAA", "temperature": 400}


def test_second_holder_is_refused_and_named(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    with (
        directory.locked(),
        pytest.raises(StateError, match=f"in use by pid {os.getpid()} on "),
        RunDirectory(tmp_path / "run").locked(),
    ):
        pass
    with directory.locked():
        pass


@pytest.mark.parametrize("facts", [None, {"name": "run"}, {"layout": 1}, {"layout": 3}])
def test_a_directory_of_another_layout_is_refused(tmp_path: Path, facts: dict[str, object] | None) -> None:
    config, directory = parse_config({"system": SYSTEM}), RunDirectory(tmp_path)
    directory.adopt(config)
    (tmp_path / "run.json").unlink()
    if facts is None or facts.get("layout") != 3:  # the first layout had no checksum
        config_file = tmp_path / "config.yaml"
        config_file.write_text(config_file.read_text().partition("\n")[2])
    if facts is not None:
        write_json(tmp_path / "run.json", facts)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for call in (lambda: directory.adopt(config), lambda: run_status(tmp_path), lambda: report_run(tmp_path)):
        with pytest.raises(StateError, match=r"made by another version .* start a new run in another folder"):
            call()
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StateError, match="cannot be written"),
        RunDirectory(tmp_path / "file" / "run").locked(),
    ):
        pass


def test_changed_configuration_needs_consent(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.adopt(parse_config({"system": SYSTEM}))
    changed = parse_config({"system": SYSTEM, "training": {"epochs": 7}})
    with pytest.raises(StateError, match=r"training\.epochs: 4 -> 7"):
        directory.adopt(changed)
    assert directory.config().training.epochs == 4
    directory.adopt(changed, accept_changes=True)
    assert directory.config() == changed
    assert "training.epochs" in (tmp_path / "config_changes.json").read_text()


def test_more_rounds_and_workers_need_none(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.adopt(parse_config({"system": SYSTEM}))
    directory.adopt(parse_config({"system": SYSTEM, "stopping": {"rounds": 9}, "executor": {"workers": 1}}))
    assert directory.config().stopping.rounds == 9


def test_damaged_configuration_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="not a run directory"):
        RunDirectory(tmp_path).config()
    (tmp_path / "config.yaml").write_text("system: {sequence: 3")
    with pytest.raises(StateError, match="damaged"):
        RunDirectory(tmp_path).config()


def test_stage_is_done_when_its_manifest_is_there_and_true(tmp_path: Path) -> None:
    stage = RunDirectory(tmp_path).stage("rounds", "round_000", "train")
    assert not stage.done
    output = stage.folder / "model.ckpt"
    computed = []

    def compute(folder: Path, progress: Progress) -> StageOutput:
        computed.append(folder)
        output.write_bytes(b"weights")
        return StageOutput({"loss": 1.5}, [output], {"parent": "b"})

    for _ in range(2):  # the second call loads the results
        results = stage.run(compute, title="round 0: train", inputs={"shards": ["a"]}, seeds={"train": 3})
        assert results == {"loss": 1.5}
    assert computed == [stage.folder]
    assert stage.done
    manifest = stage.manifest()
    assert manifest["inputs"] == {"shards": ["a"], "parent": "b"}
    assert manifest["seeds"] == {"train": 3}
    assert manifest["versions"]["torch"]
    output.write_bytes(b"WEIGHTS")
    with pytest.raises(DamageError, match=r"model\.ckpt is damaged; run `cgal run` again"):
        stage.manifest()
    output.unlink()
    with pytest.raises(DamageError, match="is missing; run"):
        stage.manifest()
    (stage.folder / MANIFEST).write_text("{")
    with pytest.raises(DamageError, match="damaged"):
        stage.manifest()


def test_damage_within_an_interrupted_stage_starts_it_again(tmp_path: Path) -> None:
    """The folder is kept, and the stage is computed once more, in an empty folder."""
    stage = RunDirectory(tmp_path).stage("rounds", "round_000", "simulate")
    stage.folder.mkdir(parents=True)
    (stage.folder / "checkpoint").write_text("damaged")
    seen = []

    def compute(folder: Path, progress: Progress) -> StageOutput:
        seen.append([p.name for p in folder.iterdir()])
        if seen[-1]:
            raise DamageError("checkpoint is damaged")
        return StageOutput({})

    stage.run(compute, title="round 0: simulate", inputs={})
    assert seen == [["checkpoint"], []]
    kept = tmp_path / "damaged" / "rounds" / "round_000" / "simulate.0" / "checkpoint"
    assert kept.read_text() == "damaged"
    assert stage.done


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    left = [".a.npz.x1y2.tmp", "data/.b.json.k_3.tmp", ".model.123.tmp.ckpt", ".send-xyz/shared.pkl"]
    kept = ["data/b.json", ".lock", "notes.tmp", ".hidden.tmpl"]
    for name in left + kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    RunDirectory(tmp_path).sweep()
    assert [name for name in left if (tmp_path / name).exists()] == []
    assert all((tmp_path / name).exists() for name in kept)
