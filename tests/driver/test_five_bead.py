"""A whole run with five beads a residue: priors, training, engines, labels, and sound structures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.analysis import evaluate
from cgal_plugin.config import parse_config
from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.dynamics import load_simulation, simulate
from cgal_plugin.export.fast import FastPotential
from cgal_plugin.mapping.geometry import dihedral_angles
from cgal_plugin.priors import PriorSet
from tests.driver.tiny import SMOKE

SETTINGS: dict[str, Any] = {
    **SMOKE,
    "system": {"sequence": "YDPETG", "temperature": 400.0, "mapping": "5bead"},
    "seed_data": {**SMOKE["seed_data"], "picoseconds": 12.0, "save_ps": 0.04},
    "training": {**SMOKE["training"], "priors": {}, "epochs": 5},
    "simulation": {"n_replicas": 4, "steps": 500, "timestep_fs": 4.0, "report_interval": 25},
}


@pytest.mark.integration
def test_a_run_with_five_beads(tmp_path: Path) -> None:
    finished = run(parse_config(SETTINGS), tmp_path / "run")
    assert finished.rounds[0]["n_labelled"] >= 2  # of 3
    store = DataStore(tmp_path / "run" / "data")
    topology = store.topology
    assert (topology.mapping, topology.n_beads) == ("5bead", 29)
    priors = PriorSet.load(tmp_path / "run" / "priors" / "priors.yaml")
    assert priors.terms == ("bonds", "angles", "dihedrals", "repulsion")
    # force constants of Amber's bonds, ½ k r²: C–N 980, C=O 1140, CA–C 634, CA–CB 620, CA–N 674
    bonds = {tuple(r["types"]): r["parameters"] for r in priors.rows if r["term"] == "bonds"}
    for types, r0, k in (
        (("C_*", "N_*"), 1.34, 980),
        (("C_*", "O_*"), 1.24, 1140),
        (("CA_*", "C_*"), 1.54, 634),
        (("CA_*", "CB_*"), 1.54, 620),
        (("CA_*", "N_*"), 1.47, 674),
    ):
        assert bonds[types]["r0"] == pytest.approx(r0, abs=0.02)
        assert bonds[types]["k"] == pytest.approx(k, rel=0.2)

    # dynamics at the default time step neither explode nor leave the L-amino acids
    sampled = load_simulation(tmp_path / "run" / "rounds" / "round_001" / "simulate")
    assert not sampled.events
    frames = np.concatenate(sampled.load())
    kinds = np.array([spec.name for _, spec in topology.named_dihedrals])
    gamma = topology.dihedral_index[kinds == "gamma_1"]
    for positions in (frames, store.positions()):
        assert (dihedral_angles(positions[:, gamma]) > 0).all()

    # every engine computes the forces of one potential
    module = torch.jit.load(str(finished.potential))
    fast = FastPotential.from_file(finished.potential)
    for frame in frames[:3].astype(np.float64):
        energy, forces = module(torch.from_numpy(frame / 10.0).to(torch.float64))
        own, own_forces = fast(frame / 10.0)
        assert own == pytest.approx(float(energy), abs=1e-3 * max(1.0, abs(float(energy))))
        assert np.abs(own_forces - forces.numpy()).max() < 1e-3 * np.abs(own_forces).max()
    options = {"steps": 20, "timestep_fs": 2.0, "temperature": 400.0, "friction": 1.0, "report_interval": 10}
    for backend in ("python", "fast"):
        made = simulate(
            finished.potential, topology, frames[:1], n_replicas=1, seed=1, backend=backend,
            out_dir=tmp_path / backend, **options,
        )  # fmt: skip
        assert not made.events

    result = evaluate(
        list(sampled.load()), [store.positions()[:300]], topology, lag_frames=5, temperature=400.0, seed=0,
        n_bootstrap=5, n_splits=2, on_failure="record",
    )  # fmt: skip
    assert result.tica.beads == tuple(np.flatnonzero(np.array(topology.bead_names) == "CA"))
    assert result.tica.coefficients.shape[0] == 6 * 5 // 2
    # bonds, angles and dihedrals of the model are those of the data; distributions of 80 frames are rough
    assert result.observables["bond"].w1 < 0.02
