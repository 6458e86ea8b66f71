"""Reference ensembles: diverse starts, built once, with their convergence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cgal_plugin.benchmark.reference import build_reference
from cgal_plugin.components.seed_data import OpenMMSeeds
from cgal_plugin.config import parse_config
from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.oracle import OpenMMOracle
from cgal_plugin.provenance import hash_file
from tests.oracle.structures import peptide, text


def a_structure(folder: Path, sequence: str) -> str:
    """A structure file, so that there is a fold to start from."""
    path = folder / "x.pdb"
    path.write_text(text(peptide(sequence)))
    return str(path)


def test_diverse_starts_are_folded_heated_and_stretched(tmp_path: Path) -> None:
    path = a_structure(tmp_path, "GYG")
    config = parse_config(
        {
            "system": {"structure": path, "temperature": 400},
            "seed_data": {
                "n_trajectories": 5,
                "start": "diverse",
                "picoseconds": 100,
                "equilibration_ps": 10,
            },
        }
    )
    seeds = OpenMMSeeds(config, OpenMMOracle(path, temperature=400.0))
    tasks = [seeds._task(i) for i in range(5)]
    assert [(t.start, t.heat_temperature, t.heat_ps) for t in tasks] == [
        ("folded", 400.0, 0.0),
        ("folded", 400.0, 200.0),
        ("folded", 500.0, 100.0),
        ("extended", 400.0, 0.0),
        ("folded", 400.0, 0.0),
    ]
    assert seeds.oracle_ns == pytest.approx(5 * 0.11 + 0.3)


def test_reference_is_built_once_and_says_how_far_it_has_converged(tmp_path: Path) -> None:
    config = parse_config(
        {
            "seed": 5,
            "system": {"structure": a_structure(tmp_path, "GYGA"), "temperature": 400},
            "seed_data": {
                "n_trajectories": 4, "picoseconds": 4, "equilibration_ps": 0.2, "save_ps": 0.1,
                "start": "mixed", "force_map": "basic",
            },
            "evaluation": {"lag_ps": 0.4, "msm_lag_ps": 0.4},
            "executor": {"workers": 0},
        }
    )  # fmt: skip
    path = build_reference(config, tmp_path, interval_ps=0.2)
    positions = load_trajectories(path)
    forces = load_trajectories(tmp_path / "reference_forces.npz")
    assert [p.shape for p in positions] == [(20, 4, 3)] * 4 == [f.shape for f in forces]
    facts = json.loads((tmp_path / "reference.json").read_text())
    assert facts["interval_ps"] == pytest.approx(0.2)
    assert facts["sha256"]["reference.npz"] == hash_file(path)
    assert facts["split_halves"]["w1"]["mean"] > 0
    assert facts["reweighting"]["weighted"] == (facts["reweighting"]["connected"] >= 0.95)
    stamps = [p.stat().st_mtime_ns for p in sorted((tmp_path / "seed").iterdir())]
    build_reference(config, tmp_path, interval_ps=0.2)
    assert stamps == [p.stat().st_mtime_ns for p in sorted((tmp_path / "seed").iterdir())]
