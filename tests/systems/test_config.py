"""Configurations with several systems: what is shared, and clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.config.systems import has_systems, load_systems, parse_systems
from cgal_plugin.errors import ConfigError

BASE: dict[str, Any] = {
    "name": "peptides",
    "seed": 3,
    "temperature": "400 K",
    "systems": [{"name": "a", "sequence": "AAAAA"}, {"name": "b", "sequence": "GSGSGTGSGSGT"}],
}


def changed(index: int, **keys: Any) -> dict[str, Any]:
    systems = [dict(s) for s in BASE["systems"]]
    systems[index] |= keys
    return {**BASE, "systems": systems}


def test_systems_share_the_sections_at_the_top() -> None:
    found = parse_systems({**BASE, "training": {"epochs": 7}, "mapping": "CACB"})
    assert [s.name for s in found.systems] == ["a", "b"]
    for s in found.systems:
        assert s.config.system.temperature == 400.0
        assert s.config.system.mapping == "CACB"
        assert s.config.torchmdnet.epochs == 7
        assert s.config.refinement is None
        assert s.config.name == f"peptides: {s.name}"
    a, b = (s.config for s in found.systems)
    assert a.seed != b.seed  # independent random streams
    assert found.name == "peptides"
    assert found.hash == parse_systems({**BASE, "training": {"epochs": 7}, "mapping": "CACB"}).hash
    assert found.hash != parse_systems(BASE).hash


def test_a_system_can_have_values_of_its_own() -> None:
    top = {"selector": {"n_select": 20, "min_rmsd": "0.5 A"}, "simulation": {"n_replicas": 16}}
    found = parse_systems(
        {**changed(1, simulation={"n_replicas": 4}, selector={"max_rmsd": "3 A"}, weight=2), **top}
    )
    a, b = found.systems
    assert (a.config.simulation.n_replicas, b.config.simulation.n_replicas) == (16, 4)  # type: ignore[union-attr]
    assert b.config.selector.max_rmsd == 3.0  # type: ignore[union-attr]
    assert b.config.selector.min_rmsd == 0.5  # type: ignore[union-attr]
    assert (a.weight, b.weight) == (1.0, 2.0)
    assert found.n_select == 20
    assert [s.most for s in found.systems] == [None, None]
    assert parse_systems(changed(0, selector={"n_select": 2})).systems[0].most == 2


def test_labels_per_round_are_the_sum_of_those_of_the_systems() -> None:
    found = parse_systems(BASE)
    assert found.n_select == sum(s.config.selector.n_select for s in found.systems)  # type: ignore[union-attr]


def test_test_systems_come_last(tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", a=np.zeros((4, 5, 3)))
    content = changed(0, role="test", evaluation={"reference": [str(tmp_path / "ref.npz")]})
    found = parse_systems(content)
    assert [(s.name, s.role) for s in found.systems] == [("b", "train"), ("a", "test")]
    assert found.main is found.systems[0].config
    assert found.n_select == found.systems[0].config.selector.n_select  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(1, name="a"), "'a' is given twice"),
        (changed(1, name="../x"), "letters, digits"),
        (changed(1, role="held"), "role = 'held'.*allowed are train, test"),
        (changed(1, role="test"), "no evaluation.reference"),
        (changed(1, temperature="300 K"), "temperature of 'b'.*at the top"),
        (changed(1, mapping="CACB"), "mapping of 'b'"),
        (changed(1, weight=0), "weight = 0"),
        (changed(1, squence="AAA"), "squence.*did you mean 'sequence'"),
        (changed(1, training={"epochs": 3}), "unknown key of an entry"),
        (changed(1, weight=2, role="test"), "nothing is trained"),
        ({**BASE, "evaluation": {"reference": ["a.npz"]}}, "belongs to one molecule"),
        ({**BASE, "seed_data": {"store": "a"}}, "belongs to one molecule"),
        ({**BASE, "evaluation": 5}, "expected a section"),
        ({**BASE, "test": 5}, "test"),
        ({**BASE, "temprature": "300 K"}, "temprature.*did you mean 'temperature'"),
        (changed(1, selector=5), "expected a section"),
        ({**BASE, "system": {"sequence": "AAA"}}, "system = .*did you mean 'systems'"),
        ({**BASE, "share": "fair"}, "allowed are coverage, equal, random"),
        ({**BASE, "refinement": {"iterations": 2}}, "refinement.*serves several"),
        ({**BASE, "systems": []}, "a list with one mapping"),
        ({**BASE, "systems": {"a": {}}}, "a list with one mapping"),
        ({**BASE, "trainin": {}}, "trainin.*did you mean 'training'"),
        ({**BASE, "selector": {"kind": "custom", "class": "a:B"}}, "a"),
    ],
)
def test_wrong_content_is_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_systems(content)


def test_all_systems_for_tests_only_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", a=np.zeros((4, 5, 3)))
    test = {"role": "test", "evaluation": {"reference": [str(tmp_path / "ref.npz")]}}
    with pytest.raises(ConfigError, match="nothing to train on"):
        parse_systems({**BASE, "systems": [s | test for s in BASE["systems"]]})


def test_errors_name_the_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "temperature: 400 K\nsystems:\n  - {name: a, sequence: AAAA}\n  - {name: a, sequence: GGGG}\n"
    )
    assert has_systems(path)
    with pytest.raises(ConfigError, match=r"run.yaml:4"):
        load_systems(path)
    path.write_text(
        "temperature: 400 K\nsystems:\n  - {name: a, sequence: AAAA}\n"
        "  - name: b\n    sequence: GGGG\n    simulation: {n_replicas: -1}\ntraining: {epochs: 0}\n"
    )
    with pytest.raises(ConfigError, match=r"run.yaml:7: training.epochs.*\(system 'a'\)"):
        load_systems(path)
    path.write_text(path.read_text().replace("epochs: 0", "epochs: 1"))
    with pytest.raises(ConfigError, match=r"run.yaml:6: simulation.n_replicas.*\(system 'b'\)"):
        load_systems(path)
