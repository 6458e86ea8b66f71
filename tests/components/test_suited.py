"""Defaults that a molecule, its seed data or given components cannot have are left out, and this is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cgal_plugin.components.suited import suited
from cgal_plugin.components.trainer import TorchMDNetTrainer
from cgal_plugin.config import Config, parse_config
from cgal_plugin.config.residues import count_residues
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import PriorFitError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.log import LOG, read_log
from tests.cli.test_validate import cgal
from tests.driver import stand_ins
from tests.driver.cheap import Log, without_figures
from tests.oracle.structures import peptide, text

ALL = ("bonds", "angle_series", "dihedrals", "repulsion", "pairs")


def made(sequence: str, mapping: str = "CA", **sections: Any) -> tuple[Config, CGTopology]:
    config = parse_config({"system": {"sequence": sequence, "mapping": mapping}, **sections})
    topology = CGTopology.from_sequence(sequence, mapping)
    return suited(config, topology, {}), topology


@pytest.mark.parametrize(
    ("sequence", "mapping", "terms", "method", "refit"),
    [
        ("GYGAGAY", "CA", ALL, "force_matching", True),
        ("GYGA", "CA", ("bonds", "angle_series", "dihedrals", "repulsion", "pairs"), "force_matching", True),
        ("GYG", "CA", ("bonds", "angle_series"), "force_matching", True),
        ("GY", "CA", ("bonds",), "likelihood", False),
        ("AYAAY", "CACB", ALL, "force_matching", True),
        ("GYGAGAY", "5bead", ("bonds", "angles", "dihedrals", "repulsion"), "likelihood", False),
    ],
)
def test_terms_are_those_of_the_molecule(
    sequence: str, mapping: str, terms: tuple[str, ...], method: str, refit: bool
) -> None:
    config, topology = made(sequence, mapping)
    priors = config.torchmdnet.priors
    if sequence == "GYGA":  # whether four beads have a pair depends on what is excluded
        assert set(priors.terms) >= {"bonds", "angle_series", "dihedrals"}
    else:
        assert priors.terms == terms
    assert (priors.method, priors.refit) == (method, refit)
    assert (config.refinement is None) == ("pairs" not in priors.terms)
    TorchMDNetTrainer(config).check(topology)  # what is left can be trained
    said = {key for key, decision in config.decided.items() if decision.say}
    assert ("training.priors.terms" in said) == (priors.terms != ALL)
    # the record of the run holds what was decided, and is read as it is
    again = parse_config(config.resolved())
    assert again == config
    assert suited(again, topology, {}) == config


def test_terms_that_are_given_are_checked() -> None:
    config, topology = made("GYG", training={"priors": {"terms": ["bonds", "dihedrals"]}})
    assert config.torchmdnet.priors.terms == ("bonds", "dihedrals")
    with pytest.raises(PriorFitError, match="no dihedrals"):
        TorchMDNetTrainer(config).check(topology)


@pytest.mark.parametrize("given", [{"refit": False}, {"pairs_per_type": False}, {"method": "likelihood"}])
def test_what_is_given_beside_default_terms_is_kept(given: dict[str, Any]) -> None:
    config, _ = made("GYG", training={"priors": given})
    (key, value), priors = next(iter(given.items())), config.torchmdnet.priors
    assert getattr(priors, key) == value


def test_few_frames_have_priors_from_distributions() -> None:
    seeds = {"picoseconds": 2, "n_trajectories": 2, "force_map": "basic"}
    config, _ = made("GYGAGAY", seed_data=seeds)
    assert config.torchmdnet.priors.method == "likelihood"
    assert "100 frames" in config.decided["training.priors.method"].rule


def test_a_store_decides_about_priors_and_refinement(tmp_path: Path) -> None:
    store = stand_ins.made_store(tmp_path / "few")
    config, _ = made("GYGAG", seed_data={"store": str(store)})
    assert config.torchmdnet.priors.method == "likelihood"
    root = stand_ins.made_store(tmp_path / "many")
    many = DataStore(root)
    rng = np.random.default_rng(1)
    frames = np.arange(5)[:, None] * [3.0, 2.0, 1.0] + rng.normal(scale=0.3, size=(300, 5, 3))
    many.append("t", stand_ins.spring_label(frames), source="seed")
    config, _ = made("GYGAG", seed_data={"store": str(root)}, stopping={"rounds": 0})
    assert config.torchmdnet.priors.terms == ALL
    assert "no unbiased dynamics" in config.decided["refinement"].rule


def test_given_components_leave_refinement_out_and_a_run_says_it(tmp_path: Path) -> None:
    content = stand_ins.config(tmp_path).resolved()
    del content["refinement"]
    del content["training"]["priors"]
    config, log = parse_config(content), Log()
    assert config.refinement is not None
    with without_figures():
        run(config, tmp_path / "run", reporter=log, oracle=stand_ins.Springs(), **stand_ins.cheap())
    said = [m for m in log.messages if m.startswith("refinement: off")]
    assert len(said) == 1
    assert "Untrained cannot change priors" in said[0]
    recorded = RunDirectory(tmp_path / "run").config()
    assert recorded.refinement is None
    (event,) = (e for e in read_log(tmp_path / "run" / LOG) if e["event"] == "decided")
    assert event["keys"]["refinement"]["value"] == "off"
    with without_figures():  # the same file, and the record itself, resume the run
        for again in (config, recorded):
            run(again, tmp_path / "run", oracle=stand_ins.Springs(), **stand_ins.cheap())
    assert not (tmp_path / "run" / "config_changes.json").exists()


# ---------------------------------------------------------------------- the size of a structure


MMCIF = """data_x
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_comp_id
_atom_site.auth_asym_id
_atom_site.auth_seq_id
_atom_site.pdbx_PDB_model_num
ATOM 1 N N ALA A 1 1
ATOM 2 C CA ALA A 1 1
ATOM 3 C CA GLY A 2 1
ATOM 4 C CA GLY B 2 1
HETATM 5 CA CA CA B 9 1
ATOM 6 C CA ALA A 1 2
#
"""
GRO = """two residues and an ion
    4
    1ALA      N    1   0.000   0.000   0.000
    1ALA     CA    2   0.100   0.000   0.000
    2GLY     CA    3   0.200   0.000   0.000
    3CA      CA    4   0.900   0.000   0.000
   1.0 1.0 1.0
"""
PRMTOP = """%FLAG ATOM_NAME
%FORMAT(20a4)
N   CA  CB  CA  CA
%FLAG RESIDUE_LABEL
%FORMAT(20a4)
ALA GLY CA
"""


@pytest.mark.parametrize(
    ("system", "n"),
    [
        ({"sequence": "GYGAG"}, 5),
        ({"sequence": ""}, None),
        ({"sequence": 3}, None),
        ({}, None),
        (None, None),
        ({"structure": "a.pdb"}, 10),
        ({"pdb": "a.pdb"}, 10),
        ({"structure": "a.pdb", "chains": ["B"]}, 5),
        ({"structure": "a.pdb", "chains": "B"}, 5),
        ({"structure": "a.pdb", "ignore": ["LYS"]}, 8),
        ({"structure": "a.pdb", "model": 7}, None),
        ({"structure": "a.cif"}, 3),
        ({"structure": "a.cif", "model": 2}, 1),
        ({"structure": "a.gro"}, 2),
        ({"structure": "x.rst7", "force_field": {"kind": "amber", "files": "a.prmtop"}}, 2),
        ({"structure": "nowhere.pdb"}, None),
        ({"structure": "."}, None),
        ({"structure": "a.xyz"}, None),
        ({"structure": "~nobody-here/a.pdb"}, None),
    ],
)
def test_residues_are_counted_without_a_check(system: Any, n: int | None, tmp_path: Path) -> None:
    chains = [*peptide("GAKAG"), *peptide("GAKAG", chain="B", shift=30.0)]
    (tmp_path / "a.pdb").write_text(text(chains))
    (tmp_path / "a.cif").write_text(MMCIF)
    (tmp_path / "a.gro").write_text(GRO)
    (tmp_path / "a.prmtop").write_text(PRMTOP)
    (tmp_path / "a.xyz").write_text("")
    assert count_residues(system, tmp_path) == n


def test_validate_says_what_was_decided_and_by_which_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pdb").write_text(text(peptide("GYG")))
    (tmp_path / "run.yaml").write_text("system: {structure: a.pdb, temperature: 400 K}\n")
    assert cgal(monkeypatch, "validate", str(tmp_path / "run.yaml")) == 0
    out, err = capfd.readouterr()
    assert "  oracle.production_ps: 34 ps (3.4 ps per residue, from 34 to 340)\n" in err
    assert "  selector.min_rmsd: 0.33 Å (0.6 Å * (residues / 10)^0.5, from 0.3 to 3)\n" in err
    assert "  training.priors.terms: [bonds, angle_series] (those that the molecule has)\n" in err
    assert "  refinement: off (" in err
    printed = yaml.safe_load(out)
    assert printed["training"]["priors"]["terms"] == ["bonds", "angle_series"]
    assert printed["refinement"] is None
