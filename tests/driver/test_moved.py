"""A run that is moved, alone or together with its files, resumes as if it had stayed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from cgal_plugin.components.seed_store import seed_store
from cgal_plugin.config import Config, load_yaml
from cgal_plugin.errors import StateError
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.log import LOG, read_log
from cgal_plugin.runs.status import run_status
from tests.driver import stand_ins
from tests.driver.cheap import cheap_run
from tests.driver.processes import check_kept, finished_files
from tests.driver.test_damage import content, damage_told

pytestmark = pytest.mark.usefixtures("without_figures")


def project(folder: Path) -> Path:
    """Make a folder with a configuration and its seed store; return the configuration."""
    folder.mkdir()
    stand_ins.made_store(folder / "store")
    values = {
        "system": {"sequence": "GYGAG", "temperature": 400.0},
        "seed_data": {"store": "store"},
        "selector": {"kind": "random", "n_select": 10, "max_rmsd": None},
        "stopping": {"rounds": 1},
        "training": {"mode": "finetune"},
        "refinement": None,
        "executor": {"workers": 0},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return folder / "run.yaml"


def resumed(config: Config, root: Path) -> None:
    """Run again, and check that nothing complete was computed again or called damaged."""
    kept, n_events = finished_files(root), len(read_log(root / LOG))
    cheap_run(root, config)
    check_kept(kept)
    assert damage_told(root, n_events) == []


@pytest.mark.parametrize("paused", [False, True])
def test_a_moved_project_resumes(paused: bool, tmp_path: Path) -> None:
    file = project(tmp_path / "here")
    cheap_run(tmp_path / "here" / "runs" / "a", load_yaml(file))
    expected = content(tmp_path / "here" / "runs" / "a")
    if paused:
        shutil.rmtree(tmp_path / "here" / "runs" / "a" / "rounds" / "round_001")
    (tmp_path / "far").mkdir()
    shutil.move(tmp_path / "here", tmp_path / "far" / "there")
    root = tmp_path / "far" / "there" / "runs" / "a"
    assert run_status(root)["name"] == "run"
    assert RunDirectory(root).config().seed_data.store == tmp_path / "far" / "there" / "store"
    config = load_yaml(tmp_path / "far" / "there" / "run.yaml")
    for _ in range(2):
        resumed(config, root)
    assert content(root) == expected
    assert str(tmp_path / "here") not in (root / "config.yaml").read_text()


def test_a_run_that_is_moved_without_its_files_resumes(tmp_path: Path) -> None:
    config = load_yaml(project(tmp_path / "here"))
    cheap_run(tmp_path / "here" / "runs" / "a", config)
    shutil.move(tmp_path / "here" / "runs" / "a", tmp_path / "b")
    for _ in range(2):
        resumed(config, tmp_path / "b")
    # also if run.json is damaged meanwhile
    (tmp_path / "b" / "run.json").unlink()
    shutil.move(tmp_path / "b", tmp_path / "c")
    cheap_run(tmp_path / "c", config)


def test_a_copied_project_does_not_use_the_files_of_the_first(tmp_path: Path) -> None:
    cheap_run(tmp_path / "here" / "runs" / "a", load_yaml(project(tmp_path / "here")))
    shutil.copytree(tmp_path / "here", tmp_path / "copy")
    root = tmp_path / "copy" / "runs" / "a"
    assert RunDirectory(root).config().seed_data.store == tmp_path / "copy" / "store"
    resumed(load_yaml(tmp_path / "copy" / "run.yaml"), root)


def test_another_file_is_still_a_change(tmp_path: Path) -> None:
    file = project(tmp_path / "here")
    cheap_run(tmp_path / "here" / "a", load_yaml(file))
    shutil.copytree(tmp_path / "here" / "store", tmp_path / "here" / "other")
    file.write_text(file.read_text().replace("store: store", "store: other"))
    with pytest.raises(StateError, match=r"seed_data\.store: '\.\./store' -> '\.\./other'"):
        cheap_run(tmp_path / "here" / "a", load_yaml(file))


def test_the_recorded_configuration_is_one_that_can_be_given(tmp_path: Path) -> None:
    """As the message about another configuration says."""
    cheap_run(tmp_path / "here" / "a", load_yaml(project(tmp_path / "here")))
    resumed(load_yaml(tmp_path / "here" / "a" / "config.yaml"), tmp_path / "here" / "a")


def test_moved_seed_data_go_on(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "map.yaml").write_text("residues: {'*': {CA: CA}}\n")
    values = {
        "system": {"sequence": "GYG", "temperature": 400.0, "mapping": "map.yaml"},
        "seed_data": {"n_trajectories": 1, "picoseconds": 0.4, "equilibration_ps": 0.1, "force_map": "basic"},
        "executor": {"workers": 0},
    }
    (tmp_path / "here" / "run.yaml").write_text(yaml.safe_dump(values))
    first = seed_store(load_yaml(tmp_path / "here" / "run.yaml"), tmp_path / "here" / "seeds")
    digest = first.digest(first.names())
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = seed_store(load_yaml(tmp_path / "there" / "run.yaml"), tmp_path / "there" / "seeds")
    assert again.digest(again.names()) == digest
