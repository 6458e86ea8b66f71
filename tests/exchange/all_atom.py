"""All-atom trajectories of a small peptide as files of GROMACS and others: made once per test session."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from cgal_plugin.config import Config, parse_config
from cgal_plugin.oracle import OpenMMOracle
from tests.data.trr_files import write_trr

SEQUENCE, TEMPERATURE = "AYA", 400.0
KJ_NM = 41.84


@dataclass(frozen=True, eq=False)
class Simulation:
    """Frames of a simulation: nm, kJ/mol/nm, ps."""

    topology: mdtraj.Topology
    x: Any
    f: Any
    times: Any

    def trajectory(self) -> mdtraj.Trajectory:
        return mdtraj.Trajectory(self.x, self.topology, time=self.times)

    def write(self, folder: Path) -> Path:
        """Write ``top.pdb``, ``f.trr`` with forces, ``n.trr`` without, ``x.xtc``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.trajectory()[0].save_pdb(folder / "top.pdb")
        write_trr(folder / "f.trr", self.x, f=self.f, times=self.times)
        write_trr(folder / "n.trr", self.x, times=self.times)
        self.trajectory().save_xtc(folder / "x.xtc")
        return folder


@cache
def simulated(seed: int = 1, picoseconds: float = 9.0) -> Simulation:
    """Return a simulation in OBC2, with a frame every 0.04 ps."""
    oracle = OpenMMOracle(SEQUENCE, temperature=TEMPERATURE)
    run = oracle.run("auto", picoseconds, seed=seed, save_ps=0.04, equilibrate_ps=1.0)
    x, f = (np.asarray(a, dtype=np.float32) for a in (run.positions / 10, run.forces * KJ_NM))
    return Simulation(oracle.atom_topology, x, f, run.time_ps)


def config(**sections: Any) -> Config:
    """Return a configuration for the peptide; sections are merged."""
    base: dict[str, Any] = {
        "system": {"sequence": SEQUENCE, "temperature": TEMPERATURE},
        "executor": {"workers": 0},
    }
    for key, value in sections.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    return parse_config(base)
