"""Defaults: one recipe; keys that follow others never make a file invalid; keys that follow the molecule."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from cgal_plugin.benchmark.config import load_benchmark
from cgal_plugin.config import Config, dump_yaml, load_yaml, parse_config
from cgal_plugin.config.models import OpenMMOracleConfig, Simulation, Training
from cgal_plugin.config.scale import RULES
from cgal_plugin.config.section import autos, kinds
from cgal_plugin.config.selector import RMSDSelectorConfig
from cgal_plugin.config.system import SeedData
from cgal_plugin.config.template import template
from cgal_plugin.config.training import PriorConfig
from cgal_plugin.errors import ConfigError
from cgal_plugin.oracle import OpenMMOracle

SYSTEM: dict[str, Any] = {"sequence": "YYDPETGTWY", "temperature": 400}
FILES = Path(__file__).parent / "runs" / "old_configs"
EXAMPLE = Path(__file__).parents[1] / "examples" / "chignolin"


def parsed(**sections: Any) -> Config:
    return parse_config({"system": SYSTEM, **copy.deepcopy(sections)})


def priors(config: Config) -> tuple[Any, ...]:
    p = config.torchmdnet.priors
    return p.terms, p.method, p.pairs_per_type, p.refit


#: the default recipe for 10 residues, in full
RECIPE: dict[str, Any] = {
    "seed_data": {
        "n_trajectories": 2, "picoseconds": 50.0, "equilibration_ps": 5.0, "save_ps": 0.04, "start": "auto",
    },
    "oracle": {
        "mode": "steered", "restraint": 2.0, "relax_ps": 1.0, "production_ps": 34.0, "release_ps": 22.0,
        "save_ps": 0.02, "n_starts": 1,
    },
    "training": {
        "mode": "scratch", "epochs": 4, "batch_size": 256, "learning_rate": 1e-3, "weight_decay": 1.0,
        "model": {"embedding_dimension": 32, "num_layers": 1, "filter_grid": 400},
        "priors": {
            "terms": ["bonds", "angle_series", "dihedrals", "repulsion", "pairs"],
            "method": "force_matching", "pairs_per_type": True, "refit": True,
        },
    },
    "simulation": {"n_replicas": 64, "steps": 12500, "timestep_fs": 4.0, "report_interval": 100},
    "selector": {"kind": "rmsd", "n_select": 12, "min_rmsd": 0.6, "max_rmsd": 2.5, "diverse": True},
    "stopping": {"rounds": 4},
    "refinement": {"steps": 30000, "n_states": 60},
}  # fmt: skip


def differences(found: Any, wanted: Any, at: str = "") -> list[str]:
    if isinstance(wanted, dict):
        return [d for k, v in wanted.items() for d in differences(found[k], v, f"{at}.{k}")]
    return [] if found == wanted else [f"{at}: {found!r}, not {wanted!r}"]


def test_the_defaults_and_the_template_are_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(template())
    for config in (parsed(), load_yaml(tmp_path / "run.yaml"), Config(system=SYSTEM)):
        assert not differences(config.resolved(), RECIPE)
    alone = {
        "seed_data": SeedData(), "oracle": OpenMMOracleConfig(), "training": Training(),
        "simulation": Simulation(), "selector": RMSDSelectorConfig(),
    }  # fmt: skip
    assert Config(system=SYSTEM, **alone) == parsed()
    given = parsed(**{k: v for k, v in RECIPE.items() if k != "refinement"}, refinement={})
    assert given == parsed()


@pytest.mark.parametrize("name", ["benchmark", "benchmark_narrow"])
def test_the_benchmark_compares_arms_of_the_recipe(name: str) -> None:
    jobs = load_benchmark(EXAMPLE / f"{name}.yaml").jobs
    fixed = {"stopping", "refinement", *(["seed_data"] if name == "benchmark_narrow" else [])}
    wanted = copy.deepcopy({k: v for k, v in RECIPE.items() if k not in fixed})
    wanted.get("seed_data", {}).pop("start", None)
    assert not differences(jobs["rmsd", 1].resolved(), wanted)
    changed = {"static": [".stopping"], "random": [".selector"], "plain": [".seed_data", ".stopping"]}
    for arm, sections in changed.items():
        other = jobs[arm, 1].resolved()
        for key, value in jobs["rmsd", 1].resolved().items():
            assert (other[key] != value) == (f".{key}" in sections) or key in ("name", "seed"), (arm, key)
    assert jobs["rmsd_refined", 1].refinement == parsed(refinement={}).refinement
    assert {seed for arm, seed in jobs if arm == "rmsd"} == set(range(1, 9))


def test_the_oracle_of_a_script_makes_the_labels_of_a_run() -> None:
    """Settings that are not given are those of the section ``oracle`` for this molecule."""
    wanted = RECIPE["oracle"]
    settings = OpenMMOracle(SYSTEM["sequence"], temperature=400.0).settings
    assert {name: getattr(settings, name) for name in wanted} == wanted
    cases: list[dict[str, Any]] = [
        {"mode": "free"},
        {"restraint": 0.0},
        {"mode": "mean_force"},
        {"production_ps": 5.0},
    ]
    for given in cases:
        config = parsed(oracle=given).oracle
        settings = OpenMMOracle("GYGAG", temperature=400.0, **given).settings
        assert {name: getattr(settings, name) for name in wanted} == {n: getattr(config, n) for n in wanted}


def test_a_molecule_whose_residues_cannot_be_counted_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty.pdb").write_text("END\n")
    config = parse_config({"system": {"structure": str(tmp_path / "empty.pdb")}})
    value, rule, say = config.decided["oracle.production_ps"]
    assert (value, say) == (34.0, True)
    assert "as for 10 residues" in rule
    assert not config.decided["training.weight_decay"].say  # does not follow the size
    assert not parsed().decided["oracle.production_ps"].say


# ---------------------------------------------------------------------- every key alone


def other_values(annotation: Any) -> list[Any]:
    """Values of a key by its type: each choice, and numbers small and large."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is bool:
        return [True, False]
    if annotation is int:
        return [0, 1, 2, 3, 7, 50, 1000, 100_000]
    if annotation is float:
        return [0.0, 0.03, 0.5, 2.0, 6.0, 40.0, 300.0]
    if origin is None:
        return [None] if annotation is type(None) else []
    if str(origin) == "typing.Literal":
        return list(inner)
    if origin is tuple:
        return [[], *([value] for value in other_values(inner[0]))]
    return [value for each in inner for value in other_values(each)]


def single_keys() -> list[tuple[dict[str, Any], str]]:
    """Configurations in which one key is given."""

    def of(model: type[BaseModel], at: tuple[str, ...], more: dict[str, Any]) -> None:
        for name, field in model.model_fields.items():
            if name in ("kind", "args", "system", "sha256", "preset", "test"):
                continue
            inner = kinds(field.annotation)
            for tag, section in inner.items():
                if tag in ("custom", "installed", "parsl"):
                    continue
                kind = {"kind": tag} if "kind" in section.model_fields else {}
                of(section, (*at, name), kind)
            for value in [] if inner else other_values(field.annotation):
                content: dict[str, Any] = {**more, name: value}
                for section_name in reversed(at):
                    content = {section_name: content}
                found.append((content, f"{'.'.join((*at, name))} {more.get('kind', '')} {value}"))

    found: list[tuple[dict[str, Any], str]] = []
    of(Config, (), {})
    return found


def errors_of_single_keys() -> dict[str, str]:
    found = {}
    for content, name in single_keys():
        try:
            parsed(**content)
        except ConfigError as error:
            found[name] = str(error)
    return found


#: single keys that were errors before there were keys that follow others; more must not become errors
ERRORS_BEFORE = frozenset((FILES / "errors.txt").read_text().splitlines())


#: errors since numbers that would fail late are refused (tests/test_limits.py)
TOO_LARGE = frozenset(
    {
        "training.model.embedding_dimension  100000",
        "training.model.num_layers  1000",
        "training.model.num_layers  100000",
        "training.model.num_rbf  100000",
        "stopping.rounds  100000",
        "executor.training_threads local 100000",
        "executor.workers local 100000",
    }
)


#: keys that were not there before
NEW_KEYS = ("refinement.rungs ", "refinement.hottest ")


def test_no_single_key_that_was_valid_is_an_error() -> None:
    found = errors_of_single_keys()
    allowed = ERRORS_BEFORE | TOO_LARGE
    new = {
        name: text for name, text in found.items() if name not in allowed and not name.startswith(NEW_KEYS)
    }
    assert not new, "\n".join(f"{name}: {text}" for name, text in new.items())
    assert len(single_keys()) > 300


# ---------------------------------------------------------------------- keys that follow others


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (("bonds", "angle_series", "dihedrals", "repulsion", "pairs"), "force_matching", True, True)),
        ({"priors": {"terms": ["bonds"]}}, (("bonds",), "likelihood", False, False)),
        ({"priors": {"terms": []}}, ((), "likelihood", False, False)),
        ({"priors": {"terms": ["bonds", "pairs"]}}, (("bonds", "pairs"), "force_matching", True, True)),
        ({"priors": {"terms": ["angle_series"]}}, (("angle_series",), "force_matching", False, True)),
        (
            {"priors": {"method": "likelihood"}},
            (("bonds", "angles", "dihedrals", "repulsion"), "likelihood", False, False),
        ),
        (
            {"priors": {"terms": ["dihedrals"], "method": "force_matching"}},
            (("dihedrals",), "force_matching", False, True),
        ),
        (
            {"mode": "finetune"},
            (("bonds", "angle_series", "dihedrals", "repulsion", "pairs"), "force_matching", True, False),
        ),
        ({"mode": "replay", "priors": {"terms": ["pairs"]}}, (("pairs",), "force_matching", True, False)),
        (
            {"mode": "finetune", "priors": PriorConfig()},
            (("bonds", "angle_series", "dihedrals", "repulsion", "pairs"), "force_matching", True, False),
        ),
        (
            {"priors": {"terms": "auto", "method": "auto", "pairs_per_type": "auto", "refit": "auto"}},
            (("bonds", "angle_series", "dihedrals", "repulsion", "pairs"), "force_matching", True, True),
        ),
    ],
)
def test_priors_follow_what_is_given(given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    config = parsed(training=given)
    assert priors(config) == expected
    assert Training(**given).priors == config.torchmdnet.priors
    assert parse_config(config.resolved()) == config


def test_a_file_of_priors_is_not_refitted(tmp_path: Path) -> None:
    (tmp_path / "priors.yaml").write_text("")
    assert not parsed(training={"priors": {"file": str(tmp_path / "priors.yaml")}}).torchmdnet.priors.refit


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode": "free"}, {"restraint": 0.0, "release_ps": 0.0, "n_starts": 1, "production_ps": 34.0}),
        ({"mode": "mean_force"}, {"restraint": 0.0, "release_ps": 0.0, "n_starts": 2, "production_ps": 5.0}),
        ({"restraint": 0}, {"mode": "free", "release_ps": 0.0}),
        ({"restraint": 1}, {"mode": "steered", "release_ps": 22.0}),
        ({"mode": "free", "restraint": 1}, {"release_ps": 0.0}),
        ({"production_ps": "17 ps"}, {"release_ps": 11.0, "mode": "steered"}),
        ({"production_ps": 0.01}, {"save_ps": 0.01, "release_ps": 0.0}),
        ({"production_ps": 0.05}, {"save_ps": 0.02, "release_ps": 0.02}),
        ({"production_ps": 0.4}, {"save_ps": 0.02, "release_ps": 0.24}),
        ({"production_ps": 50}, {"save_ps": 0.02, "release_ps": 32.34}),
        ({"production_ps": 340}, {"save_ps": 0.2, "release_ps": 220.0}),
        ({"release_ps": "0.05 ns"}, {"production_ps": pytest.approx(850 / 11)}),
        ({"release_ps": 0}, {"production_ps": 34.0, "mode": "steered"}),
        ({"mode": "auto", "production_ps": "auto", "save_ps": "auto", "restraint": "auto"}, RECIPE["oracle"]),
    ],
)
def test_the_oracle_follows_what_is_given(given: dict[str, Any], expected: dict[str, Any]) -> None:
    config = parsed(oracle=given)
    assert not differences(config.resolved()["oracle"], expected)
    assert OpenMMOracleConfig(**given) == config.oracle
    assert parse_config(config.resolved()) == config


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        ({"min_rmsd": 3}, 3, 12.5),
        ({"max_rmsd": "1 angstrom"}, 0.24, 1),
        ({"min_rmsd": 0}, 0, 2.5),
        ({"max_rmsd": None}, 0.6, None),
        ({"kind": "random"}, 0, 2.5),
        ({"kind": "coverage"}, 1, 2.5),
        ({"kind": "coverage", "min_rmsd": "auto"}, 1, 2.5),
    ],
)
def test_limits_of_the_selector_keep_apart(given: dict[str, Any], low: float, high: float | None) -> None:
    selector: Any = parsed(selector=given).selector
    assert (selector.min_rmsd, selector.max_rmsd) == (low, high)


def test_rare_frames_make_longer_seed_trajectories() -> None:
    assert parsed(seed_data={"save_ps": 1}).seed_data.picoseconds == 100
    assert parsed(seed_data={"save_ps": 1, "force_map": "basic"}).seed_data.picoseconds == 50
    with pytest.raises(ConfigError, match="200 frames or more"):
        parsed(seed_data={"save_ps": 20})


def test_weight_decay_is_given_once() -> None:
    assert parsed().torchmdnet.weight_decay == 1.0
    other = parsed(training={"torchmdnet": {"weight_decay": 0.5}})
    assert (other.torchmdnet.weight_decay, other.torchmdnet.torchmdnet) == (None, {"weight_decay": 0.5})
    assert parse_config(other.resolved()) == other
    with pytest.raises(ConfigError, match=r"remove torchmdnet\.weight_decay"):
        parsed(training={"weight_decay": 1, "torchmdnet": {"weight_decay": 1}})
    with pytest.raises(ConfigError, match="weight_decay"):
        parsed(training={"weight_decay": -1})


@pytest.mark.parametrize("mode", ["scratch", "finetune", "replay"])
def test_an_initial_model_keeps_its_weights_and_priors(mode: str, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_text("")
    config = parse_config({"system": SYSTEM, "training": {"init": "model.ckpt", "mode": mode}}, base=tmp_path)
    assert (config.torchmdnet.weight_decay, config.torchmdnet.mode) == (0.0, mode)
    assert "training.init" in config.decided["refinement"].rule
    assert not {"priors", *RECIPE["training"]["model"]} & set(config.resolved()["training"]["model"])
    assert parse_config(config.resolved()) == config


def test_another_model_has_no_filter_grid() -> None:
    assert parsed(training={"torchmdnet": {"model": "graph-network"}}).torchmdnet.model.filter_grid is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, None),
        ({"refinement": "auto"}, None),
        ({"oracle": {"mode": "free"}}, None),
        ({"training": {"mode": "finetune"}}, None),
        ({"stopping": {"rounds": 0}}, None),
        ({"training": {"priors": {"terms": ["bonds"]}}}, "pair energies fitted to forces"),
        ({"training": {"priors": {"method": "likelihood"}}}, "pair energies fitted to forces"),
        ({"training": {"kind": "custom", "class": "a:B"}}, "training.kind custom"),
        ({"simulation": {"kind": "custom", "class": "a:B"}}, "simulation.kind custom"),
        ({"oracle": {"kind": "custom", "class": "a:B"}}, "oracle.kind custom"),
        ({"oracle": {"mode": "mean_force"}}, "these labels have 0.0 ps"),
        ({"oracle": {"release_ps": 3}}, "these labels have 3.0 ps"),
        ({"oracle": {"mode": "free", "restraint": 1}}, "these labels have 0.0 ps"),
        ({"seed_data": {"picoseconds": 4}, "stopping": {"rounds": 0}}, "no round"),
        ({"seed_data": {"save_ps": 0.123}, "oracle": {"save_ps": 0.1}}, "common frames only every 12.3 ps"),
        ({"simulation": {"n_replicas": 1, "report_interval": 1000}}, "1 replicas save only 24 frames"),
        (
            {"simulation": {"temperatures": [400, 450], "exchange_interval": 12000, "steps": 50000}},
            None,
        ),
    ],
)
def test_refinement_is_on_where_it_is_possible(given: dict[str, Any], reason: str | None) -> None:
    config = parsed(**given)
    assert (config.refinement is None) == (reason is not None)
    if reason is not None:
        assert config.decided["refinement"].value == "off"
        assert reason in config.decided["refinement"].rule
    if reason is not None and ("fitted" in reason or "labels have" in reason):
        with pytest.raises(ConfigError, match="refinement"):
            parsed(**given, refinement={})
    assert parse_config(config.resolved(), look_up=False) == config
    assert parsed(**{**given, "refinement": None}).refinement is None


# ---------------------------------------------------------------------- the size of the molecule


def test_keys_with_a_rule_follow_the_number_of_residues() -> None:
    small, large = (
        parse_config({"system": {"sequence": "GYG"}}),
        parse_config({"system": {"sequence": "A" * 40}}),
    )
    found = {name: value_of(large, name) for name in RULES}
    assert found == {
        "seed_data.picoseconds": 200.0,
        "oracle.production_ps": 136.0,
        "simulation.steps": 50_000,
        "selector.n_select": 24,
        "selector.min_rmsd": 1.2,
        "selector.max_rmsd": 5.0,
        "stopping.rounds": 6,
        "refinement.steps": 120_000,
        "refinement.n_states": 120,
        "refinement.rungs": 8,
        "test.rungs": 8,
        "test.steps": 120_000,
    }
    assert value_of(large, "oracle.release_ps") == 88.0
    assert value_of(small, "selector.min_rmsd") == 0.33
    lengths = (
        "seed_data.picoseconds",
        "oracle.production_ps",
        "simulation.steps",
        "refinement.steps",
        "test.steps",
    )
    assert all(value_of(small, name) == RULES[name](10) for name in lengths)
    assert all(RULES[name](100_000) == rule.most for name, rule in RULES.items())
    for name in RULES:  # the configuration says how
        assert large.decided[name][:2] == (found[name], RULES[name].text)
    assert parse_config(large.resolved()) == large
    assert not parse_config(large.resolved()).decided


def value_of(config: Config, name: str) -> Any:
    section, key = name.split(".")
    return config.resolved()[section][key]


@pytest.mark.parametrize("key", sorted(RULES))
def test_auto_is_as_if_the_key_was_left_out(key: str) -> None:
    section, name = key.split(".")
    config = parse_config({"system": {"sequence": "A" * 40}, section: {name: "auto"}})
    assert config == parse_config({"system": {"sequence": "A" * 40}})
    assert config.decided[key].rule == RULES[key].text
    with pytest.raises(ConfigError, match=f"{section}.{name}"):
        parse_config({"system": {"sequence": "A" * 40}, section: {name: "automatic"}})


def test_auto_is_for_keys_that_have_a_rule() -> None:
    with pytest.raises(ConfigError, match=r"training\.epochs"):
        parsed(training={"epochs": "auto"})


def test_a_given_number_wins_for_any_size() -> None:
    config = parse_config({"system": {"sequence": "A" * 40}, "simulation": {"steps": 700}})
    assert value_of(config, "simulation.steps") == 700
    assert "simulation.steps" not in config.decided
    long = parse_config({"system": {"sequence": "A" * 40}, "oracle": {"production_ps": 34}})
    assert value_of(long, "oracle.release_ps") == 22.0


def test_schema_and_template_know_auto() -> None:
    from cgal_plugin.config.template import schema

    definitions = yaml.safe_load(schema())["$defs"]
    for model in (SeedData, OpenMMOracleConfig, Simulation, RMSDSelectorConfig, Training, PriorConfig):
        for key in autos(model):
            options = definitions[model.__name__]["properties"][key]["anyOf"]
            assert {"const": "auto", "type": "string"} in options, (model, key)
    lines = template().splitlines()
    for name, rule in RULES.items():
        assert any(f" {name.split('.')[1]}: auto" in line and rule.text in line for line in lines), name


# ---------------------------------------------------------------------- older versions


@pytest.mark.parametrize("name", ["default", "quick", "own_data", "benchmark"])
def test_the_record_of_an_older_version_has_the_same_values(name: str) -> None:
    content = yaml.safe_load((FILES / f"{name}.yaml").read_text())
    config = parse_config(content, look_up=False)
    assert not differences(config.resolved(), content)
    assert config.torchmdnet.weight_decay in (None, 0.0)
    again = yaml.safe_load(dump_yaml(config))
    assert parse_config(again, look_up=False) == config
    assert not parse_config(again, look_up=False).decided
