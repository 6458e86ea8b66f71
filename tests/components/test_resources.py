"""What ``auto`` means in a run, where it is recorded, and what a resumed run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cgal_plugin.cli.main import app
from cgal_plugin.components import resources
from cgal_plugin.components.resources import oracle_platform, settle, with_workers
from cgal_plugin.components.seed_store import _check_settings, _platforms
from cgal_plugin.config import Config, parse_config
from cgal_plugin.config.executor import LocalExecutor
from cgal_plugin.errors import CGALError, ConfigError, StateError
from cgal_plugin.execution.resources import CoreLimits
from cgal_plugin.provenance import hash_object, write_sealed
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.log import LOG, read_log
from tests.driver import stand_ins
from tests.driver.cheap import Log, cheap_run, labels, without_figures

SYSTEM = {"sequence": "AAA", "temperature": 400}
GPU = "NVIDIA Imaginary"


def config_of(**sections: Any) -> Config:
    return parse_config({"system": SYSTEM, **sections})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, as far as the choice can see."""
    monkeypatch.setattr(resources, "gpu_name", lambda: GPU)
    monkeypatch.setattr(resources, "_has_platform", lambda name: True)
    monkeypatch.setattr(resources, "_has_backend", lambda name: True)
    monkeypatch.setattr(resources, "_check_platform", lambda *args: None)
    monkeypatch.setattr("cgal_plugin.dynamics.force.resolve_backend", lambda backend: backend)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "core_limits", lambda: CoreLimits({"affinity": 2}))
    monkeypatch.setattr(resources, "available_cores", lambda: 2)


# ---------------------------------------------------------------------- the configuration


def test_auto_is_the_default_and_stays_auto() -> None:
    found = config_of().resolved()
    assert found["executor"]["workers"] == found["executor"]["training_threads"] == "auto"
    assert found["simulation"]["platform"] == found["simulation"]["backend"] == "auto"
    assert found["oracle"]["platform"] == "auto"
    assert config_of(executor={"workers": "auto"}).hash == config_of().hash


def test_numbers_have_the_keys_and_the_hash_of_earlier_versions() -> None:
    given = config_of(
        executor={"workers": 2, "training_threads": 1},
        simulation={"platform": "Reference"},
        oracle={"platform": "CPU"},
    )
    before = given.resolved()
    executor = {"task_timeout": 3600.0, "retries": 3, "retry_wait": 1.0, "training_threads": 1}
    assert before["executor"] == {**executor, "kind": "local", "workers": 2}
    assert given.hash == hash_object(json.loads(json.dumps(before)))


@pytest.mark.parametrize(
    ("executor", "message"),
    [
        (
            {"workers": -1},
            r"executor\.workers = -1: expected a whole number of at least 0, or auto",
        ),
        ({"workers": "all"}, "found 'all'"),
        ({"workers": 1.0}, r"found 1\.0"),
        ({"workers": True}, "found True"),
        ({"workers": "2"}, "found '2'"),
        ({"workers": None}, "found None"),
        (
            {"training_threads": 0},
            r"executor\.training_threads = 0: .* whole number of at least 1, or auto",
        ),
        ({"training_threads": "Auto"}, "found 'Auto'"),
        ({"kind": "parsl", "template": "htex_local", "training_threads": 0}, "at least 1, or auto"),
    ],
)
def test_other_values_are_refused(executor: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(executor=executor)


# ---------------------------------------------------------------------- what is used


@pytest.mark.usefixtures("two_cores")
def test_a_line_says_what_is_used() -> None:
    found = settle(config_of(), 3, "CPU", {})
    assert found.text == (
        "uses 2 cores (affinity): 2 workers, 2 for training and CG dynamics, oracle.platform CPU, "
        "simulation.platform Reference, simulation.backend auto, training cpu"
    )
    assert found.notes == ()
    assert settle(config_of(executor={"workers": 0}), 3, None, {}).workers == 0


@pytest.mark.usefixtures("two_cores")
def test_more_than_there_is_is_said_and_kept() -> None:
    found = settle(config_of(executor={"workers": 8, "training_threads": 3}), 3, "CPU", {})
    assert (found.workers, found.training_threads) == (8, 3)
    assert found.notes == (
        "executor.training_threads is 3, but this process may use 2 cores (affinity): they share them",
        "executor.workers is 8, but this process may use 2 cores (affinity): they share them",
    )
    assert settle(config_of(executor={"workers": 2}), 3, "CPU", {}).notes == ()


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_used_for_work_that_is_large() -> None:
    def used(n_beads: int, **simulation: Any) -> tuple[str, str]:
        found = settle(config_of(simulation=simulation), n_beads, "CPU", {}).platforms
        return found["simulation.platform"], found["simulation.backend"]

    assert used(10, n_replicas=16) == ("Reference", "auto")
    assert used(10, n_replicas=1000) == ("Reference", "gpu")
    assert used(269, n_replicas=128) == ("Reference", "gpu")
    assert used(1000, n_replicas=4, blocks=2) == ("Reference", "auto")  # workers, of other hardware
    assert used(1000, backend="fast") == ("Reference", "fast")
    assert used(1000, platform="CPU") == ("CPU", "auto")
    assert oracle_platform(config_of(), 166) == "CPU"
    assert oracle_platform(config_of(), 30_000) == "CUDA"
    assert oracle_platform(config_of(oracle={"solvent": "tip3pfb"}), 166) == "CUDA"
    assert oracle_platform(config_of(oracle={"platform": "CPU"}), 30_000) == "CPU"


def test_parsl_labels_are_on_the_hardware_of_its_template() -> None:
    slurm = {"kind": "parsl", "template": "slurm_gpu"}
    assert oracle_platform(config_of(executor=slurm), 166) == "CUDA"
    assert oracle_platform(config_of(executor={**slurm, "template": "slurm_cpu"}), 10**6) == "CPU"


@pytest.mark.usefixtures("two_cores")
def test_few_workers_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "available_cores", lambda: 64)
    assert with_workers(LocalExecutor(), "CPU").workers == 64
    assert with_workers(LocalExecutor(), "CUDA").workers == 4
    assert with_workers(LocalExecutor(workers=9), "CUDA").workers == 9


# ---------------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    ("recorded", "labels_on", "message"),
    [
        (
            {"simulation.backend": "gpu"},
            "CPU",
            r"backend gpu so far.*set simulation\.backend: fast",
        ),
        (
            {"simulation.platform": "None"},
            "CPU",
            r"None so far.*set simulation\.platform: Reference",
        ),
        ({"training": "cuda"}, "CPU", "was trained on a GPU so far"),
    ],
)
def test_a_resumed_run_is_not_moved_to_another_platform(
    recorded: dict[str, str], labels_on: str, message: str
) -> None:
    with pytest.raises(StateError, match=message):
        settle(config_of(), 3, labels_on, recorded)


def test_the_labels_of_a_resumed_run_are_not_moved_either() -> None:
    with pytest.raises(StateError, match=r"oracle\.platform None.*kept in a run.*--accept-changes"):
        oracle_platform(config_of(), 166, {"oracle.platform": "None"})


def test_the_remedy_works(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.adopt(config_of(), resources={"platforms": {"oracle.platform": "CUDA"}})
    changed = config_of(oracle={"platform": "CPU"})
    assert oracle_platform(changed, 166, directory.platforms()) == "CPU"
    with pytest.raises(StateError, match=r"oracle\.platform: 'CUDA' -> 'CPU'"):
        directory.adopt(changed, resources={"platforms": {"oracle.platform": "CPU"}})
    directory.adopt(changed, accept_changes=True, resources={"platforms": {"oracle.platform": "CPU"}})
    assert directory.platforms()["oracle.platform"] == "CPU"


@pytest.mark.usefixtures("gpu")
def test_a_run_that_began_on_a_cpu_stays_there() -> None:
    recorded = {"simulation.platform": "Reference", "simulation.backend": "auto", "training": "cpu"}
    assert settle(config_of(simulation={"n_replicas": 1000}), 10, "CPU", recorded).platforms == {
        **recorded,
        "oracle.platform": "CPU",
    }
    assert oracle_platform(config_of(), 30_000, {"oracle.platform": "CPU"}) == "CPU"


def test_a_run_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    explicit = config_of(
        executor={"workers": 2, "training_threads": 1},
        simulation={"platform": "Reference"},
        oracle={"platform": "CPU"},
    )
    directory.adopt(explicit)
    facts = directory.facts()
    del facts["platforms"]
    write_sealed(tmp_path / "run.json", {k: v for k, v in facts.items() if k != "sha256"})
    expected = {
        "oracle.platform": "CPU",
        "simulation.platform": "Reference",
        "simulation.backend": "auto",
    }
    assert directory.platforms() == expected
    directory.adopt(config_of())  # the defaults, which were numbers: nobody is asked
    assert directory.platforms() == expected
    directory.adopt(explicit)
    with pytest.raises(StateError, match=r"simulation\.platform: 'Reference' -> 'CPU'"):
        directory.adopt(config_of(simulation={"platform": "CPU"}))


def test_a_new_run_has_used_nothing(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path / "none").platforms() == {}
    (tmp_path / "config.yaml").write_text("{")
    assert RunDirectory(tmp_path).platforms() == {}


# ---------------------------------------------------------------------- in a run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, Log]:
    folder, log = tmp_path_factory.mktemp("run"), Log()
    config = stand_ins.config(folder, executor={"workers": "auto", "training_threads": 99})
    with without_figures():
        cheap_run(folder / "run", config, reporter=log)
    return folder / "run", config, log


def test_the_run_says_and_records_what_it_uses(run_dir: tuple[Path, Config, Log]) -> None:
    root, config, log = run_dir
    (line,) = (text for text in log.messages if text.startswith("uses "))
    assert log.messages.index(line) == 0
    assert sum("training_threads is 99" in text for text in log.messages) == 1
    (event,) = (e for e in read_log(root / LOG) if e["event"] == "resources")
    assert event["text"] == line
    assert event["executor.training_threads"] == 99
    manifest = json.loads((root / "rounds/round_000/train/manifest.json").read_text())
    assert manifest["resources"]["cores"] == event["cores"]
    assert yaml.safe_load((root / "config.yaml").read_text())["executor"]["workers"] == "auto"
    assert RunDirectory(root).config() == config


def test_labels_do_not_depend_on_the_number_of_workers(
    run_dir: tuple[Path, Config, Log], tmp_path: Path
) -> None:
    root = run_dir[0]
    for workers in (0, 3):
        config = stand_ins.config(tmp_path / f"{workers}", executor={"workers": workers})
        with without_figures():
            cheap_run(tmp_path / f"run_{workers}", config)
        assert labels(tmp_path / f"run_{workers}") == labels(root)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"simulation": {"backend": "gpu"}}, "simulation.backend is gpu, but no NVIDIA GPU"),
        ({"simulation": {"platform": "CUDA"}}, "simulation.platform: platform 'CUDA' is not available"),
        ({"oracle": {"platform": "CUDA"}}, "oracle.platform: platform 'CUDA' is not available"),
    ],
)
def test_a_missing_driver_is_an_error_of_the_configuration(
    sections: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openmm

    there = openmm.Platform.getPlatformByName
    missing = {"CUDA": "none"}
    monkeypatch.setattr(openmm.Platform, "getPlatformByName", lambda name: there(missing.get(name, name)))
    monkeypatch.setattr(resources, "gpu_name", lambda: None)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"system": SYSTEM, **sections}))
    for command in (["run", str(path), "--out", str(tmp_path / "run")], ["validate", str(path)]):
        with pytest.raises(CGALError, match=message) as error:
            CliRunner().invoke(app, command, catch_exceptions=False)
        assert isinstance(error.value, ConfigError)  # exit code 2
    assert not (tmp_path / "run").exists()


def test_the_gpu_engine_on_another_platform_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"backend gpu keeps .* but platform is OpenCL"):
        config_of(simulation={"backend": "gpu", "platform": "OpenCL"})


def test_seed_data_of_an_earlier_version_are_continued(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    explicit, auto = config_of(oracle={"platform": "CPU"}), config_of()
    _check_settings(explicit, {"oracle.platform": "CPU"}, None, path)
    before = json.loads(path.read_text())
    del before["platform"]  # as an earlier version wrote it
    assert _platforms(before) == {"oracle.platform": "CPU"}
    _check_settings(auto, {"oracle.platform": "CPU"}, before, path)
    with pytest.raises(StateError, match=r"other settings of oracle\.platform"):
        _check_settings(auto, {"oracle.platform": "CUDA"}, before, path)
    with pytest.raises(StateError, match="other settings of seed_data"):
        _check_settings(config_of(seed_data={"picoseconds": 60}), {"oracle.platform": "CPU"}, before, path)
    _check_settings(auto, {"oracle.platform": "CUDA"}, None, path)
    assert _platforms(json.loads(path.read_text())) == {"oracle.platform": "CUDA"}
    assert _platforms(None) == {}
