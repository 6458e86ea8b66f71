"""A whole run with five beads a residue: priors, training, every engine, labels and the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.priors import PriorSet
from cgal_plugin.provenance import read_json
from tests.driver.tiny import SMOKE


def settings(folder: Path) -> dict[str, Any]:
    training = {**SMOKE["training"], "priors": {}, "epochs": 5}
    return {
        **SMOKE,
        "system": {"sequence": "YDPETG", "temperature": 400.0, "mapping": "5bead"},
        "seed_data": {**SMOKE["seed_data"], "picoseconds": 12.0, "save_ps": 0.04},
        "training": training,
        "simulation": {"n_replicas": 4, "steps": 500, "timestep_fs": 2.0, "report_interval": 50},
    }


@pytest.mark.integration
def test_a_run_with_five_beads(tmp_path: Path) -> None:
    finished = run(parse_config(settings(tmp_path)), tmp_path / "run")
    record = finished.rounds[0]
    assert record["n_labelled"] >= 2
    store = DataStore(tmp_path / "run" / "data")
    topology = store.topology
    assert topology.mapping == "5bead"
    assert topology.n_beads == 29
    priors = PriorSet.load(tmp_path / "run" / "priors" / "priors.yaml")
    assert priors.terms == ("bonds", "angles", "dihedrals", "repulsion")
    lengths = {tuple(r["types"]): r["parameters"]["r0"] for r in priors.rows if r["term"] == "bonds"}
    assert lengths["C_*", "O_*"] == pytest.approx(1.23, abs=0.02)
    manifest = read_json(tmp_path / "run" / "seed" / "manifest.json")
    assert manifest is not None
