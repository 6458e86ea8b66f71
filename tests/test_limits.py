"""Numbers that would fail late, or never end, are refused before anything is spent."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cgal_plugin.cli.main import main
from cgal_plugin.components.sizes import check_memory, check_sizes, memory_needs
from cgal_plugin.config import parse_config
from cgal_plugin.config.quantities import not_finite
from cgal_plugin.errors import ConfigError
from cgal_plugin.mapping import CGTopology

NAN, INF = float("nan"), float("inf")
BASE: dict[str, Any] = {"system": {"sequence": "GYGAG"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"training": {"weight_decay": NAN}}, "training.weight_decay"),
    ({"training": {"weight_decay": None, "torchmdnet": {"weight_decay": NAN}}}, "torchmdnet.weight_decay"),
    ({"training": {"torchmdnet": {"lr_factor": INF}}}, "torchmdnet.lr_factor"),
    ({"training": {"torchmdnet": {"cgschnet": {"a": [1.0, NAN]}}}}, r"torchmdnet.cgschnet.a.1 is not"),
    ({"training": {"model": {"embedding_dimension": 10**9}}}, "embedding_dimension"),
    ({"training": {"model": {"num_layers": 10**9}}}, "num_layers"),
    ({"training": {"model": {"num_rbf": 10**9}}}, "num_rbf"),
    ({"training": {"model": {"filter_grid": 10**9}}}, "filter_grid"),
    ({"training": {"model": {"cutoff_upper": 1e9}}}, "cutoff_upper"),
    ({"training": {"batch_size": 0}}, "batch_size"),
    ({"training": {"batch_size": 10**12}}, "batch_size"),
    ({"training": {"epochs": 10**12}}, "epochs"),
    ({"training": {"committee": 10**9}}, "committee"),
    ({"training": {"learning_rate": 1e-300}}, "learning_rate"),
    ({"training": {"mode": "replay", "replay_weight": 1e30}}, "replay_weight"),
    ({"training": {"validation_fraction": 0.999999}}, "validation_fraction"),
    ({"refinement": {"iterations": 10**9}}, "iterations"),
    ({"refinement": {"n_states": 10**9}}, "n_states"),
    ({"refinement": {"ridge": 1e300}}, "ridge"),
    ({"simulation": {"n_replicas": 10**9}}, "n_replicas"),
    ({"simulation": {"steps": 10**15}}, "simulation.steps"),
    ({"simulation": {"timestep_fs": 1e-30}}, "timestep_fs"),
    ({"simulation": {"friction": 1e300}}, "friction"),
    ({"system": {"sequence": "GYGAG", "temperature": 1e-9}}, "temperature"),
    ({"selector": {"n_select": 10**12}}, "n_select"),
    ({"selector": {"min_rmsd": 1e12}}, "min_rmsd"),
    ({"stopping": {"rounds": 10**12}}, "rounds"),
    ({"test": {"n_replicas": 10**9}}, "n_replicas"),
    ({"test": {"n_bootstrap": 10**12}}, "n_bootstrap"),
    ({"evaluation": {"lag_ps": 1e12}}, "lag_ps"),
    ({"oracle": {"production_ps": 1e15}}, "production_ps"),
    ({"oracle": {"restraint": 1e300}}, "restraint"),
    ({"seed_data": {"n_trajectories": 10**9}}, "n_trajectories"),
    ({"executor": {"workers": 10**9}}, "workers"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED, ids=[str(c)[:60] for c, _ in REFUSED])
def test_the_configuration_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({**BASE, **content})


FEW: list[tuple[dict[str, Any], str]] = [
    ({"refinement": {"steps": 10}}, r"64 replicas save only 0 frames.*raise refinement.steps to"),
    ({"refinement": {"steps": 300}}, r"raise refinement.steps to 500"),
    ({"refinement": {"steps": 20_000}, "simulation": {"n_replicas": 1}}, "save only 160 frames"),
]


@pytest.mark.parametrize(("content", "message"), FEW)
def test_too_few_frames_for_a_refinement(content: dict[str, Any], message: str) -> None:
    topology = CGTopology.from_sequence("GYGAG")
    config = parse_config({**BASE, **content})
    with pytest.raises(ConfigError, match=message):
        check_sizes(config, topology)
    check_sizes(config, topology, own_sampler=True)  # how many frames it saves is not known


def test_the_remedy_is_enough() -> None:
    topology = CGTopology.from_sequence("GYGAG")
    for replicas, interval in ((1, 100), (3, 7), (64, 100), (150, 50)):
        simulation = {"n_replicas": replicas, "report_interval": interval}
        with pytest.raises(ConfigError) as error:
            check_sizes(
                parse_config({**BASE, "simulation": simulation, "refinement": {"steps": interval}}), topology
            )
        found = re.search(r"raise refinement.steps to (\d+)", str(error.value))
        assert found
        remedied = {"simulation": simulation, "refinement": {"steps": int(found[1])}}
        check_sizes(parse_config({**BASE, **remedied}), topology)


def test_usual_and_large_numbers_are_not_refused() -> None:
    """Several times more than anything that was ever run."""
    content = {
        "seed": 10**30,
        "training": {"epochs": 2000, "batch_size": 65_536, "model": {"embedding_dimension": 1024}},
        "simulation": {"n_replicas": 4096, "steps": 10**9},
        "refinement": {"steps": 400},
        "evaluation": {"lag_ps": 1e5},
        "seed_data": {"picoseconds": 1e8, "save_ps": 100},
        "stopping": {"rounds": 300},
    }
    parse_config({**BASE, **content})


def test_not_finite_names_the_first_key() -> None:
    assert not_finite({"a": {"b": [1, {"c": NAN}]}, "d": INF}) == "a.b.1.c"
    assert not_finite({"a": 1.0, "b": ["nan", None, True, 10**400]}) is None


# -------------------------------------------------------------------------------------- memory


LARGE: list[tuple[dict[str, Any], str]] = [
    ({"training": {"model": {"embedding_dimension": 8192, "num_layers": 64}}}, "embedding_dimension 8,192"),
    ({"simulation": {"n_replicas": 10**6, "steps": 10**9}}, "n_replicas 1,000,000, steps 1,000,000,000"),
    ({"seed_data": {"n_trajectories": 10**6, "picoseconds": 1e6}}, "n_trajectories 1,000,000"),
]


@pytest.mark.parametrize(("content", "message"), LARGE)
def test_what_does_not_fit_in_memory_is_refused(content: dict[str, Any], message: str) -> None:
    topology = CGTopology.from_sequence("GYGAG")
    config = parse_config({**BASE, **content})
    with pytest.raises(ConfigError, match=rf"{message}.*need about [\d,]+ GB.*has 64 GB: lower"):
        check_memory(config, topology, available=64 * 10**9)


def test_the_estimate_of_the_network_is_that_of_the_network() -> None:
    from cgal_plugin.components.trainer import TorchMDNetTrainer
    from cgal_plugin.models.supported import try_model
    from cgal_plugin.training.settings import resolve

    topology = CGTopology.from_sequence("GYGAG")
    settings = {"embedding_dimension": 256, "num_layers": 3, "num_rbf": 32, "filter_grid": None}
    config = parse_config({**BASE, "training": {"model": settings}})
    trainer = TorchMDNetTrainer(config, "CPU")
    model = try_model(resolve(trainer._network()), topology)
    there = 16 * sum(p.numel() for p in model.parameters())
    needed = next(iter(memory_needs(config, topology)))[1]
    pairs = 24 * 256 * 3 * 5 * 4
    assert there < 1.3 * (needed - pairs)
    assert needed - pairs < 1.3 * there


def test_the_defaults_need_little(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = CGTopology.from_sequence("YYDPETGTWY")
    config = parse_config({"system": {"sequence": "YYDPETGTWY"}})
    assert sum(needed for _, needed in memory_needs(config, topology)) < 1e8
    check_memory(config, topology)
    monkeypatch.setattr("cgal_plugin.components.sizes._physical", lambda: None)
    check_memory(parse_config({**BASE, **LARGE[1][0]}), topology)  # what is not known is not checked


# ------------------------------------------------------------------------------------- commands


def check_refused(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the command in ``sys.argv`` and check that it ends with this message as a wrong input."""
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": {"weight_decay": None, "torchmdnet": {"weight_decay": NAN}}}, "weight_decay"),
        ({"refinement": {"steps": 10}}, "raise refinement.steps"),
        ({"training": {"model": {"embedding_dimension": 10**9}}}, "embedding_dimension"),
        ({"seed_data": {"n_trajectories": 10**6, "picoseconds": 1e9}}, "GB of memory"),
    ],
)
def test_the_commands_refuse_before_anything_is_written(
    command: str,
    content: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**BASE, **content}))
    monkeypatch.chdir(tmp_path)
    options = ["--out", "out"] if command == "run" else []
    monkeypatch.setattr(sys, "argv", ["cgal", command, "run.yaml", *options])
    check_refused(message, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate -m x.npy -r x.npy --topology GYGAG --lag-ps inf", "--lag-ps is inf"),
        ("evaluate -m x.npy -r x.npy --topology GYGAG --interval-ps inf", "--interval-ps is inf"),
        ("evaluate -m x.npy -r x.npy --topology GYGAG --temperature inf", "--temperature is inf"),
        ("evaluate -m x.npy -r x.npy --topology GYGAG --lag-ps nan", "--lag-ps"),
    ],
)
def test_options_that_are_not_finite(
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.priors.chains import chains

    np.save(tmp_path / "x.npy", chains(60, 5))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cgal", *arguments.split()])
    check_refused(message, capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
