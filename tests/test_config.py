"""Configuration: a wrong key, type, unit or value is an error with its place and the allowed values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cgal_plugin.config import Config, dump_yaml, load_yaml, parse_config
from cgal_plugin.config.external import (
    GROUPS,
    InstalledComponent,
    InstalledOracle,
    InstalledSampler,
    InstalledSelector,
    InstalledTrainer,
)
from cgal_plugin.config.quantities import parse_quantity
from cgal_plugin.config.section import kinds
from cgal_plugin.config.systems import TOP_KEYS, parse_systems
from cgal_plugin.config.template import schema, template
from cgal_plugin.errors import ConfigError
from cgal_plugin.runs.cost import plan

MINIMAL = {"system": {"sequence": "YYDPETGTWY", "temperature": 400}}


def _load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_yaml(path)


def test_template_is_valid_and_equals_the_defaults(tmp_path: Path) -> None:
    config = _load(tmp_path, template())
    assert config == parse_config({**MINIMAL, "name": "chignolin"})


def test_the_commented_keys_of_several_molecules_are_valid(tmp_path: Path) -> None:
    (tmp_path / "second.npz").touch()
    lines = template().splitlines()
    start, end = lines.index("# systems:"), next(i for i, t in enumerate(lines) if t.startswith("# share:"))
    content = yaml.safe_load("\n".join(line[2:] for line in lines[start : end + 1]))
    config = parse_systems(content, base=tmp_path)
    assert [(s.name, s.role) for s in config.systems] == [("first", "train"), ("second", "test")]
    assert set(content) <= set(TOP_KEYS)


def test_dump_and_load_round_trip(tmp_path: Path) -> None:
    config = parse_config({**MINIMAL, "selector": {"kind": "custom", "class": "a.b:C", "args": {"x": 1}}})
    assert _load(tmp_path, dump_yaml(config)) == config
    assert _load(tmp_path, dump_yaml(config)).hash == config.hash


def test_schema_names_every_top_level_key() -> None:
    assert set(json.loads(schema())["properties"]) == {*Config.model_fields, *TOP_KEYS}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("system: {sequence: AAA}\nsytem: 3", ["run.yaml:2", "sytem", "did you mean 'system'"]),
        ("system: {sequence: AAA, temperature: 400 C}", ["run.yaml:1", "system.temperature", "400 C", "K"]),
        ("system: {sequence: AAA, temperature: -1}", ["system.temperature", "-1", "equal to 1"]),
        (
            "system: {sequence: AAA}\noracle:\n  production_ps: 5 nm",
            ["run.yaml:3", "oracle.production_ps", "fs, ps"],
        ),
        ("system: {sequence: AAA}\ntraining:\n  model:\n    form: majewsky", ["run.yaml:4", "'majewski'"]),
        ("system: {sequence: AAA}\ntraining:\n  model: {cutof_upper: 9}", ["run.yaml:3", "'cutoff_upper'"]),
        (
            "system: {sequence: AAA}\nselector: {kind: rmds, n_select: 3}",
            [
                "run.yaml:2: selector: kind 'rmds' is unknown; did you mean 'rmsd'?",
                "'rmsd', 'coverage', 'random'",
            ],
        ),
        (
            "system: {sequence: AAA}\noracle: {kind: ours}",
            ["built-in kinds: 'openmm', 'custom'", "entry points cgal_plugin.oracles): "],
        ),
        ("system: {sequence: AAA}\nsimulation: {kind: ours}", ["cgal_plugin.samplers"]),
        (
            "system: {sequence: AAA}\ntraining: {kind: ours}",
            ["'torchmdnet', 'custom'", "cgal_plugin.trainers"],
        ),
        ("system: {sequence: AAA}\ntraining: {kind: 3}", ["run.yaml:2: training.kind = 3: expected text"]),
        (
            "system: {sequence: AAA}\ntraining: {kind: custom, class: a:B, epochs: 2}",
            ["epochs", "unknown key"],
        ),
        (
            "system: {sequence: AAA}\ntraining: {kind: custom, class: a:B}\nselector: {kind: committee}",
            ["needs the models of training.kind torchmdnet"],
        ),
        ("system: {sequence: AAA}\nstopping: {rounds: true}", ["stopping.rounds", "integer"]),
        ("system: {sequence: AAA}\nstopping: {rounds: 1.5}", ["stopping.rounds", "integer"]),
        ("system: {sequence: AAA}\noracle: 3", ["oracle", "section"]),
        ("system: {}", ["system", "exactly one of 'sequence' and 'structure'"]),
        ("system: {pdb: nowhere.pdb}", ["run.yaml:1", "system.structure", "nowhere.pdb", "no such file"]),
        ("system: {sequence: AAA}\nsystem: {sequence: GGG}", ["'system' is given twice", "line 2"]),
        ("system: [", ["not valid YAML"]),
        ("- 1", ["expected keys"]),
        ("system: {sequence: AAA}\nselector: {min_rmsd: 3, max_rmsd: 2}", ["selector", "not below"]),
        ("system: {sequence: AAA}\noracle: {mode: mean_force, n_starts: 1}", ["oracle", "n_starts"]),
        ("system: {sequence: AAA}\noracle: {mode: steered, restraint: 0}", ["oracle", "needs a restraint"]),
        (
            "system: {sequence: AAA}\noracle: {mode: free, release_ps: 1 ps}",
            ["oracle", "release_ps is for mode steered"],
        ),
        (
            "system: {sequence: AAA}\noracle: {mode: steered, production_ps: 5, release_ps: 5 ps}",
            ["oracle", "release_ps 5", "shorter than production_ps 5"],
        ),
        (
            "system: {sequence: AAA}\noracle: {mode: mean_force, n_starts: 2, restraint: 1}",
            ["oracle", "mean_force freezes"],
        ),
        ("system: {sequence: AAA}\nselector: {kind: coverage, min_rmsd: 0}", ["min_rmsd", "greater than 0"]),
        ("system: {sequence: AAA}\nselector: {kind: committee}", ["training.committee"]),
        ("system: {sequence: AAA}\nselector: {kind: custom, class: nonsense}", ["selector.class", "pattern"]),
        ("system: {sequence: AAA}\nsimulation: {report_interval: 9, steps: 3}", ["no frame saved"]),
        (
            "training: {priors: {terms: [pairs], method: likelihood}}\nsystem: {sequence: AAA}",
            ["priors", "force_matching"],
        ),
        (
            "system: {sequence: AAA}\ntraining: {priors: {terms: [bonds], method: force_matching}}",
            ["training.priors", "terms has none"],
        ),
        (
            "system: {sequence: AAA}\ntraining: {mode: finetune, priors: {refit: true}}",
            ["mode scratch, not finetune"],
        ),
        (
            "system: {sequence: AAA}\ntraining: {priors: {terms: [bonds], pairs_per_type: true}}",
            ["training.priors", "terms has no pairs"],
        ),
        (
            "system: {sequence: AAA}\ntraining: {mode: scratch, priors: {refit: true, terms: []}}",
            ["training.priors", "nothing to fit"],
        ),
        (
            "system: {sequence: AAA, temperature: 400}\nsimulation:\n  temperatures: [400 K, 390]",
            ["run.yaml:2: simulation: temperatures are 400, 390 K; they must ascend: 390, 400"],
        ),
        (
            "system: {sequence: AAA, temperature: 400}\nsimulation: {temperatures: [400, 400]}",
            ["must ascend, and each be given once: 400"],
        ),
        (
            "system: {sequence: AAA, temperature: 400}\nsimulation: {temperatures: [400]}",
            ["an exchange needs two or more", "leave temperatures out"],
        ),
        (
            "system: {sequence: AAA, temperature: 400}\nsimulation: {temperatures: [0, 400]}",
            ["0 is not a temperature above 0 K"],
        ),
        (
            "system: {sequence: AAA, temperature: 400}\nsimulation: {temperatures: [400, 450 C]}",
            ["simulation.temperatures[1] = '450 C'", "K"],
        ),
        (
            "system: {sequence: AAA, temperature: 400}\nsimulation: {temperatures: [300, 350]}",
            ["simulation.temperatures", "temperature 400 K is none of the temperatures 300, 350 K"],
        ),
        (
            "system: {sequence: AAA, temperature: 400}\nsimulation: {temperatures: [400, 440, 480]}",
            ["64 replicas cannot be divided into ladders of 3 temperatures", "use 63 or 66"],
        ),
        (
            "system: {sequence: AAA, temperature: 400}\n"
            "simulation: {temperatures: [400, 440], n_replicas: 6, blocks: 2}",
            ["6 replicas in 2 blocks", "use 4 or 8"],
        ),
        (
            "system: {sequence: AAA, temperature: 400}\n"
            "simulation: {temperatures: [400, 440], exchange_interval: 9, steps: 8, report_interval: 2}",
            ["exchange_interval 9 exceeds steps 8"],
        ),
        ("system: {sequence: AAA}\nsimulation: {exchange_interval: 9}", ["give temperatures too"]),
        (
            "system: {sequence: AAA, temperature: 400}\nrefinement: {steps: 90}\n"
            "training: {mode: scratch, priors: {terms: [pairs], method: force_matching}}\n"
            "simulation: {temperatures: [400, 440]}",
            ["refinement.steps 90 is less than the 100 steps between exchanges"],
        ),
        ("system: {sequence: AAA, temperature: .nan}", ["system.temperature", "finite"]),
    ],
)
def test_a_wrong_file_is_an_error_with_place_and_remedy(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        _load(tmp_path, text)
    for part in expected:
        assert part in str(error.value)


def test_a_custom_trainer_has_no_settings_of_ours() -> None:
    config = parse_config({**MINIMAL, "training": {"kind": "custom", "class": "a.b:C", "args": {"x": 1}}})
    assert parse_config(config.resolved()) == config
    with pytest.raises(ConfigError, match=r"training\.kind is 'custom'; this needs kind torchmdnet"):
        _ = config.torchmdnet
    lines = plan(config).splitlines()
    assert "  training     a.b:C" in lines


def test_the_record_of_a_run_is_read_without_the_packages_that_it_used() -> None:
    content = {**MINIMAL, "selector": {"kind": "elsewhere", "args": {"n": 3}}}
    config = parse_config(content, look_up=False)
    assert isinstance(config.selector, InstalledSelector)
    assert config.resolved()["selector"] == {"kind": "elsewhere", "args": {"n": 3}}
    with pytest.raises(ConfigError, match="kind 'elsewhere' is unknown"):
        parse_config(content)


@pytest.mark.parametrize(
    ("section", "installed"),
    [
        ("oracle", InstalledOracle),
        ("training", InstalledTrainer),
        ("simulation", InstalledSampler),
        ("selector", InstalledSelector),
    ],
)
def test_built_in_kinds_are_those_of_the_section(section: str, installed: type[InstalledComponent]) -> None:
    options = kinds(Config.model_fields[section].annotation)
    assert options.pop("installed") is installed
    assert tuple(options) == installed.built_in
    assert all(get_args(model.model_fields["kind"].annotation) == (tag,) for tag, model in options.items())
    assert GROUPS[section] in template()
    any_name = json.loads(schema())["$defs"][installed.__name__]["properties"]["kind"]
    assert any_name["not"] == {"enum": list(installed.built_in)}


def test_refitted_priors_have_no_file(tmp_path: Path) -> None:
    (tmp_path / "priors.yaml").write_text("")
    priors = {"file": str(tmp_path / "priors.yaml"), "terms": ["pairs"]}
    assert parse_config({**MINIMAL, "training": {"priors": priors}}).training.priors.terms == ("pairs",)
    with pytest.raises(ConfigError, match="remove file"):
        parse_config({**MINIMAL, "training": {"mode": "scratch", "priors": {**priors, "refit": True}}})
    matched = {"method": "force_matching", "refit": True, "terms": ["bonds", "pairs"]}
    config = parse_config({**MINIMAL, "training": {"mode": "scratch", "priors": matched}})
    assert config.training.priors.refit
    assert parse_config(config.resolved()) == config


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse_config({"system": {"sequence": "AAA", "temperature": 0}, "sed": 1, "stopping": {"rounds": -1}})
    assert len(str(error.value).splitlines()) == 3


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_yaml("nowhere.yaml")


def test_units_convert() -> None:
    assert parse_quantity("0.05 ns", "ps") == pytest.approx(50.0)
    assert parse_quantity("1.2 nm", "angstrom") == pytest.approx(12.0)
    assert parse_quantity("1e-3", "") == pytest.approx(1e-3)
    config = parse_config({**MINIMAL, "seed_data": {"picoseconds": "0.1 ns"}})
    assert config.seed_data.picoseconds == pytest.approx(100.0)


def test_relative_paths_start_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.pdb").write_text("END\n")
    path = tmp_path / "sub" / "run.yaml"
    path.write_text("system: {pdb: x.pdb}")
    assert load_yaml(path).system.structure == (tmp_path / "sub" / "x.pdb").resolve()


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_values = st.recursive(
    _scalars,
    lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=6), v, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_mutated_config_is_valid_or_a_config_error(data: st.DataObject) -> None:
    content = yaml.safe_load(template())
    section = data.draw(st.sampled_from(sorted(content)))
    target = content
    if isinstance(content[section], dict) and data.draw(st.booleans()):
        target, section = content[section], data.draw(st.sampled_from(sorted(content[section])))
    target[section] = data.draw(_values)
    try:
        config = parse_config(content)
    except ConfigError:
        return
    assert parse_config(config.resolved()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "line 1: an alias contains itself"),
        ("a: &a {b: {c: *a}}", "contains itself"),
        (
            "x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]\n" for i in range(1, 9)),
            "larger than",
        ),
    ],
)
def test_aliases_cannot_blow_up(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(tmp_path, text)


def test_aliases_are_allowed_otherwise(tmp_path: Path) -> None:
    text = "system: {sequence: AAA}\noracle: {production_ps: &x 3.0, relax_ps: *x}\n"
    assert _load(tmp_path, text).oracle.relax_ps == 3.0


# ---------------------------------------------------------------------- the user's own force field


def own_system(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write an empty top file with an include; return a configuration that names them."""
    (folder / "own.ff").mkdir(exist_ok=True)
    (folder / "own.ff" / "types.itp").write_text("; types\n")
    (folder / "x.top").write_text('#include "types.itp"\n#ifdef NEVER\n#include "absent.itp"\n#endif\n')
    (folder / "x.gro").write_text("coordinates\n")
    field = {"kind": "gromacs", "files": ["x.top"], "include": "own.ff"}
    return {"system": {"structure": "x.gro", "force_field": field | changes}}


def test_files_of_a_force_field_are_found_and_their_content_is_recorded(tmp_path: Path) -> None:
    config = parse_config(own_system(tmp_path), base=tmp_path)
    own = config.system.force_field
    assert own is not None
    assert own.files == (str(tmp_path / "x.top"),)
    assert {Path(name).name for name in own.sha256} == {"x.top", "types.itp", "x.gro"}
    assert config.oracle.solvent == "files"  # type: ignore[union-attr]
    again = parse_config(config.resolved())
    assert again.hash == config.hash


@pytest.mark.parametrize("name", ["x.top", "x.gro", "own.ff/types.itp"])
def test_a_changed_file_changes_the_hash_and_is_refused_on_resume(tmp_path: Path, name: str) -> None:
    from cgal_plugin.errors import StateError
    from cgal_plugin.runs.directory import RunDirectory

    content = own_system(tmp_path)
    before = parse_config(content, base=tmp_path)
    RunDirectory(tmp_path / "run").adopt(before)
    with open(tmp_path / name, "a", encoding="utf-8") as handle:
        handle.write("; changed\n")
    after = parse_config(content, base=tmp_path)
    assert after.hash != before.hash
    with pytest.raises(StateError, match=Path(name).name):
        RunDirectory(tmp_path / "run").adopt(after)
    with pytest.raises(ConfigError, match=f"{Path(name).name} has changed"):
        parse_config(before.resolved())
    assert RunDirectory(tmp_path / "run").config().hash == before.hash  # the record can still be read


def test_missing_files_of_a_force_field_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"force_field\.files\[?\.?0.*no\.top.*no such file"):
        parse_config(own_system(tmp_path, files=["no.top"]), base=tmp_path)
    with pytest.raises(ConfigError, match=r"force_field\.include.*nowhere"):
        parse_config(own_system(tmp_path, include="nowhere"), base=tmp_path)


def test_openmm_force_fields_are_known_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.pdb").write_text("ATOM\n")
    field = {"kind": "openmm_xml", "files": ["amber19/protein.ff19SB.xml"]}
    system = {"structure": "x.pdb", "force_field": field}
    own = parse_config({"system": system}, base=tmp_path).system.force_field
    assert own is not None
    assert own.files == ("amber19/protein.ff19SB.xml",)
    assert any(name.endswith("ff19SB.xml") for name in own.sha256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"oracle": {"solvent": "obc2"}}, "solvent obc2 cannot be used with system.force_field"),
        ({"oracle": {"solvent": "tip3pfb"}}, "leave oracle.solvent out"),
        ({"system": {"repair": True}}, "repair: not with force_field"),
        ({"system": {"ph": 5.0}}, "ph: not with force_field"),
        ({"system": {"chains": ["A"]}}, "chains: not with force_field"),
        ({"system": {"structure": None, "sequence": "GYG"}}, "force_field: for a structure only"),
        ({"system": {"structure": None}}, "exactly one of"),
        ({"force_field": {"kind": "namd"}}, "kind"),
        ({"force_field": {"kind": "amber"}}, "include is for kind gromacs"),
        ({"force_field": {"files": []}}, "files"),
        ({"force_field": {"files": ["x.top", "x.gro"]}}, "exactly one file"),
        ({"force_field": {"cutoff": "1 fs"}}, "cutoff"),
        ({"force_field": {"implicit_solvent": "obc2"}}, "implicit_solvent is for kinds amber and charmm"),
    ],
)
def test_a_force_field_that_does_not_fit(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    content = own_system(tmp_path, **change.get("force_field", {}))
    content["system"] |= change.get("system", {})
    content["system"] = {k: v for k, v in content["system"].items() if v is not None}
    content |= {"oracle": change["oracle"]} if "oracle" in change else {}
    with pytest.raises(ConfigError, match=words):
        parse_config(content, base=tmp_path)


def test_the_solvent_of_files_needs_files() -> None:
    with pytest.raises(ConfigError, match=r"solvent files needs system\.force_field"):
        parse_config({"system": {"sequence": "GYG"}, "oracle": {"solvent": "files"}})
