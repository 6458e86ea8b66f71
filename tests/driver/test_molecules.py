"""Whole runs with real labels: caps, bridges, protonation states and two chains are simulated as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import OracleError
from cgal_plugin.priors import PriorSet
from cgal_plugin.provenance import read_json
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.layout import sampled_trajectories
from tests.driver.tiny import SMOKE
from tests.oracle.structures import DATA, capped, kept, peptide, renamed, text

TERMS = ("bonds", "angles", "repulsion")
Made = Callable[..., dict[str, Any]]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Run one round on a molecule; return the record of what was read."""

    def start(content: str, *, terms: Sequence[str] = TERMS, **system: Any) -> dict[str, Any]:
        (tmp_path / "molecule.pdb").write_text(content)
        system = {"structure": str(tmp_path / "molecule.pdb"), "temperature": 300.0, **system}
        training = {**SMOKE["training"], "priors": {"terms": list(terms)}}
        config = {**SMOKE, "system": system, "training": training}
        finished = run(parse_config(config), tmp_path / "run")
        assert finished.rounds[0]["n_labelled"] >= 1  # of 3; the model of 3 epochs makes rough frames
        assert finished.potential.is_file()
        report = finished.report.read_text()
        record: dict[str, Any] = read_json(tmp_path / "run" / "seed" / "structure.json")
        assert "What was read" in report
        for texts in record.values():
            assert all(t.split(" ")[0] in report for t in texts)
        return record

    return start


@pytest.mark.integration
def test_a_capped_peptide_with_beads_on_its_caps(made: Made, tmp_path: Path) -> None:
    mapping = {
        "name": "caps",
        "residues": {
            "*": {"CA": ["CA"]},
            "ACE": {"CH3": ["CH3"]},
            "NME": {"C": ["C"]},
        },
    }
    # 4 ps are too few for a fit of the angles at the caps
    found = made(text(capped("GAKYAG")), terms=["bonds", "repulsion"], mapping=mapping)
    assert found["caps"] == ["start ACE, end NME"]
    store = DataStore(tmp_path / "run" / "data")
    assert store.topology.bead_names[0] == "CH3"
    assert store.topology.n_beads == 6
    assert len(store.topology.bond_index) == 5


@pytest.mark.integration
@pytest.mark.parametrize("mapping", ["CA", "CACB"])
def test_two_disulfides(made: Made, tmp_path: Path, mapping: str) -> None:
    found = made((DATA / "two_bridges.pdb").read_text(), mapping=mapping)
    assert sorted(found["bridges"]) == ["CYS2 – CYS7", "CYS3 – CYS13"]
    store = DataStore(tmp_path / "run" / "data")
    bridges = store.topology.bridge_index
    assert len(bridges) == 2
    assert "bridges" in PriorSet.load(tmp_path / "run" / "priors" / "priors.yaml").terms
    frames = store.positions()
    native = np.linalg.norm(frames[0][bridges[:, 0]] - frames[0][bridges[:, 1]], axis=-1)
    sampled = np.concatenate(
        [
            np.linalg.norm(t[:, bridges[:, 0]] - t[:, bridges[:, 1]], axis=-1)
            for t in sampled_trajectories(
                RunDirectory(tmp_path / "run").stage("rounds", "round_001", "simulate")
            )
        ]
    )
    # without bridges they drift to 16 to 30 Å; a model of 3 epochs and a few ps of data is rough
    assert (np.abs(sampled - native) < 6.0).all()


@pytest.mark.integration
def test_given_histidines_in_a_complex_of_two_chains(made: Made, tmp_path: Path) -> None:
    first = renamed(peptide("GHAHG"), {2: "HIE", 4: "HIP"})
    second = [(a, r, "B", n, (x, y + 9.0, z), e) for a, r, _, n, (x, y, z), e in peptide("GEAAG")]
    found = made(text(first + second))
    assert [t.split(" (")[0] for t in found["protonation"]] == [
        "HIE2 of chain A as HIE",
        "HIP4 of chain A as HIP",
    ]
    assert [t.split(",")[0] for t in found["chains"]] == ["A: GHAHG", "B: GEAAG"]
    topology = DataStore(tmp_path / "run" / "data").topology
    assert topology.sequence == "GHAHG:GEAAG"
    assert [4, 5] not in topology.bond_index.tolist()


def test_a_gap_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "gap.pdb"
    path.write_text(text(kept(peptide("GAKAG"), lambda name, number: number != 3)))
    config = parse_config({**SMOKE, "system": {"structure": str(path), "temperature": 300.0}})
    with pytest.raises(OracleError, match="gap"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
