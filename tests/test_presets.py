"""Presets: named values that a configuration starts from, and that its own keys change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cgal_plugin.config import Config, load_yaml, parse_config
from cgal_plugin.config.preset import load_preset, names
from cgal_plugin.config.template import template
from cgal_plugin.errors import ConfigError
from tests.cli.test_main import call
from tests.test_defaults import SYSTEM

#: the recipe of the paper, written out
PAPER: dict[str, Any] = {
    "oracle": {
        "mode": "free", "relax_ps": 5, "production_ps": 45, "save_ps": 0.1, "restraint": 0, "release_ps": 0,
        "n_starts": 1,
    },
    "training": {
        "mode": "finetune", "epochs": 30, "finetune_epochs": 15, "batch_size": 128, "weight_decay": 0,
        "model": {"embedding_dimension": 128, "num_layers": 4, "filter_grid": None},
        "priors": {
            "terms": ["bonds", "angles", "dihedrals", "repulsion"], "method": "likelihood",
            "pairs_per_type": False, "refit": False,
        },
    },
    "selector": {"kind": "rmsd", "n_select": 16, "min_rmsd": 0, "max_rmsd": 8, "diverse": False},
    "refinement": None,
}  # fmt: skip


def plain(config: Config) -> dict[str, Any]:
    return {key: value for key, value in config.resolved().items() if key not in ("preset", "name")}


def test_a_preset_is_the_same_as_its_values_written_out(tmp_path: Path) -> None:
    config = parse_config({"system": SYSTEM, "preset": "paper"})
    assert plain(config) == plain(parse_config({"system": SYSTEM, **PAPER}))
    assert config.resolved()["preset"] == "paper"
    assert parse_config(config.resolved()) == config
    (tmp_path / "run.yaml").write_text(template("paper"))
    written = load_yaml(tmp_path / "run.yaml")
    assert (plain(written), written.preset) == (plain(config), "paper")


@pytest.mark.parametrize(
    "own",
    [
        {"oracle": {"mode": "steered"}},
        {"oracle": {"production_ps": "auto"}},
        {"training": {"mode": "scratch"}},
        {"training": {"priors": {"method": "force_matching"}}},
        {"training": {"priors": {"terms": ["bonds", "pairs"]}}, "refinement": {}},
        {"training": {"torchmdnet": {"weight_decay": 0.1}}},
        {"training": {"kind": "custom", "class": "a:B"}},
        {"selector": {"kind": "random"}},
        {"selector": {"kind": "custom", "class": "a:B"}},
        {"oracle": {"kind": "custom", "class": "a:B"}},
        {"refinement": "auto"},
        {"preset": None},
    ],
)
def test_the_keys_of_the_file_win(own: dict[str, Any]) -> None:
    config = parse_config({"system": SYSTEM, "preset": "paper", **own})

    def check(given: dict[str, Any], found: Any) -> None:
        for key, value in given.items():
            if isinstance(value, dict):
                check(value, found[key])
            elif value != "auto":
                assert found[key] == value

    check(own, config.resolved())
    assert parse_config(config.resolved()) == config


def test_an_initial_model_has_its_own_network_and_priors(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_text("")
    config = parse_config(
        {"system": SYSTEM, "preset": "paper", "training": {"init": "model.ckpt"}}, base=tmp_path
    )
    assert config.torchmdnet.mode == "finetune"
    assert "priors" not in config.resolved()["training"]
    assert parse_config(config.resolved()) == config


@pytest.mark.parametrize(("name", "text"), [("papers", "presets are paper"), (3, "preset"), ({}, "preset")])
def test_an_unknown_preset_is_an_error_with_the_list(name: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_config({"system": SYSTEM, "preset": name})


def test_the_command_writes_a_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "template", "--preset", "paper")
    assert (code, yaml.safe_load(out)["preset"]) == (0, "paper")
    code, _, err = call(capsys, "template", "--preset", "mine", "-o", tmp_path / "x.yaml")
    assert code == 2
    assert "presets are paper" in err
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize("name", names())
def test_every_preset_is_a_configuration(name: str) -> None:
    assert parse_config({"system": SYSTEM, **load_preset(name)})
