"""Exported files in a process with torch, openmm and openmmtorch, but without cgal_plugin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgal_plugin.export import export_torchscript
from cgal_plugin.mapping import CGTopology
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL

SCRIPT = """
import json, sys
import numpy as np
import torch
import openmm
import openmmtorch

x = np.load("x.npy")
energies = {}
for name in ("32", "64"):
    force = openmmtorch.TorchForce(name + ".pt")
    force.setOutputsForces(True)
    system = openmm.System()
    for _ in x:
        system.addParticle(12.0)
    system.addForce(force)
    integrator = openmm.LangevinMiddleIntegrator(400.0, 5.0, 0.002)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True)._value.copy()
    energies[name] = state.getPotentialEnergy()._value
    integrator.step(200)
    last = context.getState(getPositions=True).getPositions(asNumpy=True)._value
    np.savez(name + ".npz", forces=forces, last=last)
loaded = [m for m in sys.modules if m.split(".")[0] in ("cgal_plugin", "torchmdnet", "warp")]
print(json.dumps({"energies": energies, "loaded": loaded}))
"""


def test_torchforce_without_cgal_plugin(
    make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("openmmtorch")
    models = {name: make(precision=int(name), embedding_dimension=64) for name in ("32", "64")}
    for name, model in models.items():
        export_torchscript(model, topology, tmp_path / f"{name}.pt", n_replicas=3)
    x = frames[:3].reshape(-1, 3)
    np.save(tmp_path / "x.npy", x / ANGSTROM_PER_NM)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["loaded"] == []

    z = torch.from_numpy(np.tile(topology.types, 3))
    batch = torch.arange(3).repeat_interleave(10)
    for name, tolerance in (("32", 1e-5), ("64", 1e-10)):
        model = models[name]
        energy, forces = model(z, torch.from_numpy(x).to(model.mean.dtype), batch)
        total, scale = float(energy.detach().double().sum()), float(energy.detach().abs().sum())
        assert abs(answer["energies"][name] / KJ_PER_KCAL - total) < tolerance * scale, name
        with np.load(tmp_path / f"{name}.npz") as found:
            gap = np.abs(found["forces"] / (KJ_PER_KCAL * ANGSTROM_PER_NM) - forces.detach().numpy())
            assert gap.max() < tolerance * float(forces.abs().max()), name
            bonds = np.linalg.norm(np.diff(found["last"].reshape(3, 10, 3), axis=1), axis=-1)
        # the prior restrains bonds to 3.8 Å with a standard deviation of 0.05 Å; the bound is 20 of them
        assert np.isfinite(bonds).all(), name
        assert (np.abs(bonds - 0.38) < 0.1).all(), name
