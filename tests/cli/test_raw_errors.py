"""Records with wrong content, control characters, merge keys, full disks: one clear error, or none at all."""

from __future__ import annotations

import errno
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cgal_plugin.cli.status_text import status_text
from cgal_plugin.config import Config, load_yaml, parse_config, yaml_files
from cgal_plugin.data import DataStore
from cgal_plugin.dynamics import load_simulation, simulate
from cgal_plugin.errors import CGALError, ConfigError, DataError, MappingError, StateError
from cgal_plugin.mapping import CGTopology, resolve_spec
from cgal_plugin.mapping.embedding import resolve_embedding
from cgal_plugin.plain_text import plain
from cgal_plugin.priors import PriorSet
from cgal_plugin.provenance import write_sealed
from cgal_plugin.runs import disk
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.disk import disk_errors
from cgal_plugin.runs.layout import shard_name, shard_round
from cgal_plugin.runs.log import LOG
from cgal_plugin.runs.status import run_status
from cgal_plugin.training import train
from tests.cli.test_main import call
from tests.dynamics.potentials import HarmonicChain, chain_start, save_potential
from tests.training.data import make_store

SYSTEM = {"sequence": "GYGAG", "temperature": 400}
SECTIONS = ("platforms", "inputs", "hparams", "versions", "topology")
SMALL = {"num_epochs": 1, "embedding_dimension": 8, "num_layers": 1, "num_rbf": 8}
#: contents of a record that are valid JSON but not what was written
WRONG: dict[str, Any] = {
    "a list": [],
    "a number": 3,
    "empty": {},
    "null values": dict.fromkeys(
        ("config_hash", "seed", "layout", "versions", "platforms", "inputs", "hparams", "topology", "status")
    ),
    "text for sections": dict.fromkeys(SECTIONS, "text"),
    "lists for sections": {key: [1] for key in SECTIONS},
}


@pytest.fixture(params=[*WRONG, "binary", "nested", "a folder"])
def harm(request: pytest.FixtureRequest) -> Any:
    """A function that spoils a JSON file."""

    def spoil(path: Path) -> None:
        if request.param == "a folder":
            path.unlink()
            path.mkdir()
        elif request.param == "binary":
            path.write_bytes(b"\xff\xfe\x00")
        elif request.param == "nested":
            path.write_text("[" * 100_000)
        else:
            path.write_text(json.dumps(WRONG[request.param]))

    return spoil


def test_a_damaged_run_json_is_made_again(harm: Any, tmp_path: Path) -> None:
    config, directory = parse_config({"system": SYSTEM}), RunDirectory(tmp_path)
    used = {"platforms": {"oracle.platform": "CPU"}}
    directory.adopt(config, resources=used)
    directory.stage("seed").run(lambda folder, progress: _output(), title="seed", inputs={}, reporter=None)
    harm(tmp_path / "run.json")
    with pytest.raises(CGALError):
        directory.facts()
    assert directory.platforms() == used["platforms"]  # as the stage recorded
    run_status(tmp_path)
    told: list[str] = []
    directory.adopt(config, event=lambda kind, **facts: told.append(facts["what"]), resources=used)
    assert len(told) == 1
    assert "run.json" in told[0]
    assert directory.facts()["config_hash"] == config.hash


def _output() -> Any:
    from cgal_plugin.runs.stage import StageOutput

    return StageOutput({})


@pytest.mark.parametrize("missing", [("run.json",), ("config.yaml",), ("run.json", "config.yaml")])
def test_a_run_without_its_records(missing: tuple[str, ...], tmp_path: Path) -> None:
    """A missing record is written again after a comparison; without both, nothing is assumed."""
    config, directory = parse_config({"system": SYSTEM}), RunDirectory(tmp_path)
    directory.adopt(config)
    directory.stage("seed").run(lambda folder, progress: _output(), title="seed", inputs={})
    (tmp_path / LOG).touch()  # as every run has
    for name in missing:
        (tmp_path / name).unlink()
    told: list[str] = []
    other = parse_config({"system": SYSTEM, "training": {"learning_rate": 0.01}})
    with pytest.raises(StateError, match="--accept-changes"):
        directory.adopt(other)
    if len(missing) == 2:
        with pytest.raises(StateError, match=r"config\.yaml is missing.*--accept-changes"):
            directory.adopt(config)
    directory.adopt(
        config,
        accept_changes=len(missing) == 2,
        event=lambda kind, **facts: told.append(facts["what"] + facts["remedy"]),
    )
    assert len(told) == 1
    assert "missing" in told[0]
    assert directory.config() == config


# ---------------------------------------------------------------------- training.json, store.json


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a training, ``out``."""
    folder = tmp_path_factory.mktemp("trained")
    make_store(folder / "data", n=40)
    train(_keys(folder), folder / "out", seed=0)
    return folder


def _keys(folder: Path) -> dict[str, Any]:
    data = {"dataset": "CGDataset", "dataset_root": str(folder / "data")}
    return {"model": "cgschnet", **data, **SMALL}


def test_a_damaged_training_json_is_named(harm: Any, trained: Path, tmp_path: Path) -> None:
    keys = _keys(trained)
    shutil.copytree(trained / "out", tmp_path / "out")
    harm(tmp_path / "out" / "training.json")
    with pytest.raises(CGALError) as error:
        train(keys, tmp_path / "out", seed=0)
    text = str(error.value)
    if "delete" in text:  # the remedy
        shutil.rmtree(text.split("delete ")[1].split(" to train")[0])
        train(keys, tmp_path / "out", seed=0)
    else:
        assert "training with other settings" in text
        assert "use another folder" in text


@pytest.mark.parametrize("change", ["no seal", "temperature", "temperature without seal", "list", "binary"])
def test_an_edited_store_json_is_refused(change: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "data", n=40)
    path = store.root / "store.json"
    content = json.loads(path.read_text())
    if "temperature" in change:
        content["temperature"] = 300.0
    if "seal" in change:
        del content["seal"]
    if change == "binary":
        path.write_bytes(b"\xff\x00")
    else:
        path.write_text(json.dumps([] if change == "list" else content))
    with pytest.raises(DataError, match=r"store\.json is damaged.*Repeat the command that wrote this store"):
        DataStore(store.root)
    # the remedy: the command that wrote it
    told: list[str] = []
    facts = {"temperature": 400.0, "force_map_hash": "test"}
    again = DataStore.create(
        store.root, store.topology, **facts, on_damage=lambda kind, **facts: told.append(facts["what"])
    )
    assert again.temperature == 400.0
    assert again.names() == store.names()
    assert len(told) == 1


def test_long_runs_keep_seed_shards_and_labels_apart() -> None:
    for number, frame in [(0, 0), (999, 9999), (1000, 3), (12345, 123456)]:
        assert shard_round(shard_name(number, frame)) == number
    for name in ("seed_000", "r12_f0001", "r000f0001", "r000_f0001x", "rna_folded", "r000_f"):
        assert shard_round(name) == -1


# ---------------------------------------------------------------------- YAML


def test_merge_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "system: &s {sequence: GYGAG, temperature: 400}\n"
        "oracle: &o\n  production_ps: 2\n"
        "training:\n  model: &m {embedding_dimension: 16, num_layers: 1}\n"
        "seed: 3\n"
    )
    plain_config = load_yaml(path)
    path.write_text(
        "system:\n  <<: {sequence: GYGAG, temperature: 300}\n  temperature: 400\n"
        "oracle:\n  <<: [{production_ps: 2}, {production_ps: 9}]\n"
        "training:\n  model: {<<: {num_layers: 1}, embedding_dimension: 16}\n"
        "seed: 3\n"
    )
    assert load_yaml(path) == plain_config


def test_merge_keys_through_aliases_count_no_key_twice(tmp_path: Path) -> None:
    """A mapping that is merged, and that merges itself."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "system: {sequence: GYGAG, temperature: 400}\n"
        "seed_data: &a {picoseconds: 100}\n"
        "training:\n  torchmdnet:\n    cgschnet: &b {<<: &c {form: majewski}}\n    num_workers: 0\n"
        "stopping: {rounds: 1}\n"
    )
    load_yaml(path)
    (tmp_path / "map.yaml").write_text(
        "name: x\nbase: &base {CA: CA}\nresidues:\n  '*': &all {<<: *base}\n  GLY: {<<: *all}\n"
    )
    with pytest.raises(MappingError, match="unknown keys"):
        resolve_spec(tmp_path / "map.yaml")
    (tmp_path / "map.yaml").write_text("residues:\n  '*': &all {CA: CA}\n  GLY: {<<: *all}\n")
    assert resolve_spec(tmp_path / "map.yaml").residues["GLY"][0].name == "CA"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system: {<<: 3, sequence: AAA}", "line 1: << takes a section"),
        ("system: {sequence: AAA, sequence: GGG}", "line 1: key 'sequence' is given twice"),
        ("system:\n  <<: {sequence: AAA, sequence: GGG}", "line 2: key 'sequence' is given twice"),
        ("system:\n  <<: {sequenze: AAA}", r"run.yaml:2: system.sequenze = 'AAA': unknown key"),
        ("a: &a {<<: *a}", "alias"),
        ("system: {sequence: 2020-13-45}", "not valid YAML"),
    ],
)
def test_wrong_merges_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_yaml(tmp_path / "run.yaml")
    assert "run.yaml" in str(error.value)


def _bomb(first: str = "x: &a0 [CA, CA, CA, CA, CA, CA, CA, CA, CA]\n") -> str:
    lines = [f"x{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)]
    return first + "".join(lines) + "residues: *a29\n"


@pytest.mark.parametrize("kind", ["mapping", "embedding", "configuration", "priors", "training keys"])
def test_an_alias_bomb_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(_bomb())
    started = time.monotonic()
    if kind == "training keys":
        make_store(tmp_path / "data", n=40)
        code, _, err = call(capsys, "train", tmp_path / "data", "-o", tmp_path / "out", "--config", path)
        assert code == 2
        assert "aliases make it larger" in err
    else:
        read: Any = {
            "mapping": resolve_spec,
            "embedding": resolve_embedding,
            "configuration": load_yaml,
            "priors": PriorSet.load,
        }[kind]
        with pytest.raises((ConfigError, MappingError), match="aliases make it larger"):
            read(path)
    assert time.monotonic() - started < 10


def test_a_large_file_without_aliases_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_files, "_MAX_NODES", 100)
    (tmp_path / "large.yaml").write_text("\n".join(f"k{i}: 1" for i in range(1000)))
    assert len(yaml_files.read_yaml(tmp_path / "large.yaml", fast=True)[0]) == 1000
    (tmp_path / "large.yaml").write_text("a: &a [1, 2, 3]\nb: [" + "*a, " * 40 + "]\n")
    with pytest.raises(ConfigError, match="aliases"):
        yaml_files.read_yaml(tmp_path / "large.yaml")


# ---------------------------------------------------------------------- terminal


@pytest.mark.parametrize(
    "name", ["\x1b[2Jrun", "a\x07b", "a\x9b31mb", "two\nlines", "right\u202eleft", "a\rb"]
)
def test_names_with_control_characters_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="control characters"):
        parse_config({"system": SYSTEM, "name": name})


def test_names_of_all_languages_are_fine() -> None:
    for name in ("Å-Lauf ü", "折り畳み", "[bold]run[/bold]", "a <b>&"):
        assert parse_config({"system": SYSTEM, "name": name}).name == name
        assert plain(name) == name


def test_the_terminal_obeys_no_code_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A status reads the configuration of a foreign run without a check of its keys."""
    RunDirectory(tmp_path).adopt(parse_config({"system": SYSTEM, "name": "NAME"}))
    path = tmp_path / "config.yaml"
    text = path.read_text().partition("\n")[2].replace("name: NAME", 'name: "\\e]0;title\\a\\e[2J"')
    path.write_text(text)
    shown = status_text(run_status(tmp_path))
    assert "\x1b" not in shown
    assert "\\x1b]0;title\\x07\\x1b[2J" in shown
    strange = tmp_path / "\x1b[31mred.yaml"
    code, out, err = call(capsys, "validate", strange)
    assert code == 2
    assert "\x1b" not in out + err
    (tmp_path / "x.yaml").write_text('system: {sequence: AAA}\n? "\\e[2J"\n: 1\n')
    code, out, err = call(capsys, "validate", tmp_path / "x.yaml")
    assert code == 2
    assert "\x1b" not in out + err


# ---------------------------------------------------------------------- full disks, killed tasks, --trust


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, temporary = tmp_path / "run", tmp_path / "tmp"
    root.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    real = shutil.disk_usage

    def usage(path: Any) -> Any:
        found = real(path)
        return found._replace(free=0) if Path(path).is_relative_to(temporary) else found

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    errors = [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOSPC, "No space left on device", str(temporary / "x")),
        RuntimeError("PytorchStreamWriter failed writing file data/0"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
    ]
    for error in errors:
        with (
            pytest.raises(StateError, match=rf"^{temporary}: the disk is full.*set TMPDIR"),
            disk_errors(root),
        ):
            raise error
    with pytest.raises(StateError, match=rf"^{root}: the disk is full") as caught, disk_errors(root):
        raise OSError(errno.ENOSPC, "No space left on device", str(root / "x"))
    assert "TMPDIR" not in str(caught.value)
    with pytest.raises(FileNotFoundError), disk_errors(root):
        open(root / "nothing").close()


def test_killed_tasks_are_not_running(tmp_path: Path) -> None:
    """A kill leaves the logs of the tasks that ran."""
    config: Config = parse_config({"system": SYSTEM})
    RunDirectory(tmp_path).adopt(config)
    rounds = tmp_path / "rounds" / "round_000"
    for stage, results in (("train", {}), ("simulate", {}), ("evaluate", {}), ("select", {"n_selected": 5})):
        write_sealed(rounds / stage / "manifest.json", {"results": results, "seconds": 1.0})
    (tmp_path / "work" / "tasks").mkdir(parents=True)
    for frame in range(2):
        (tmp_path / "work" / "tasks" / f"{shard_name(0, frame)}.log").write_text("")
    queue = run_status(tmp_path)["queue"]
    assert queue == {"selected": 5, "labelled": 0, "quarantined": 0, "running": 0, "waiting": 5}
    with RunDirectory(tmp_path).locked():
        queue = run_status(tmp_path)["queue"]
    assert (queue["running"], queue["waiting"]) == (2, 3)


class Strange:
    """A setting of another program."""


@pytest.mark.filterwarnings("default::cgal_plugin.errors.CGALWarning")
def test_the_remedy_for_an_untrusted_checkpoint_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "data", n=40)
    (tmp_path / "keys.yaml").write_text("num_epochs: 1\n")
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(SMALL))
    code, out, err = call(capsys, "train", tmp_path / "data", "-o", tmp_path / "a", "--config", small)
    assert code == 0, err
    content = torch.load(out.splitlines()[-1], weights_only=False)
    content["hyper_parameters"]["strange"] = Strange()
    torch.save(content, tmp_path / "strange.ckpt")
    words = ["train", tmp_path / "data", "-o", tmp_path / "b", "--config", tmp_path / "keys.yaml"]
    words += ["--init", tmp_path / "strange.ckpt"]
    code, _, err = call(capsys, *words)
    assert code == 1
    assert "`cgal train` and `cgal export` have --trust" in err
    assert not (tmp_path / "b").exists()
    code, _, err = call(capsys, *words, "--trust")
    assert code == 0, err
    assert "settings strange are left out" in err
    assert call(capsys, *words, "--trust")[0] == 0  # it is resumed


# ---------------------------------------------------------------------- simulation.json


def test_a_damaged_simulation_json_is_named_and_its_remedy_works(harm: Any, tmp_path: Path) -> None:
    topology = CGTopology.from_sequence("GYGAG")
    potential = save_potential(HarmonicChain(1, 5), tmp_path / "p.pt")
    start = chain_start(1, 5)

    def go() -> Any:
        return simulate(
            potential, topology, start, steps=20, report_interval=10, temperature=400.0, timestep_fs=1.0,
            friction=1.0, seed=0, out_dir=tmp_path / "s", backend="python",
        )  # fmt: skip

    first = go()
    harm(tmp_path / "s" / "simulation.json")
    for action in (go, lambda: load_simulation(tmp_path / "s")):
        with pytest.raises(StateError, match=r"simulation") as error:
            action()
        assert re.search("use another out_dir|simulate again|holds no simulation", str(error.value))
    shutil.rmtree(tmp_path / "s")
    assert np.array_equal(go().trajectories[0], first.trajectories[0])
