"""The file in a process that has torch, openmm and openmmtorch, and nothing of ours."""

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

path, positions, out = sys.argv[1:]
x = np.load(positions)
force = openmmtorch.TorchForce(path)
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
first = state.getForces(asNumpy=True)._value.copy()
integrator.step(200)
last = context.getState(getPositions=True).getPositions(asNumpy=True)._value
loaded = [m for m in sys.modules if m.split(".")[0] in ("cgal_plugin", "torchmdnet", "warp")]
np.savez(out, forces=first, last=last)
print(json.dumps({"energy": state.getPotentialEnergy()._value, "loaded": loaded}))
"""


@pytest.mark.parametrize("precision", [32, 64])
def test_torchforce_without_us(
    precision: int, make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("openmmtorch")
    model = make(precision=precision, embedding_dimension=64)
    export_torchscript(model, topology, tmp_path / "potential.pt", n_replicas=3)
    x = frames[:3].reshape(-1, 3)
    np.save(tmp_path / "x.npy", x / ANGSTROM_PER_NM)
    (tmp_path / "run.py").write_text(SCRIPT)
    arguments = [sys.executable, "run.py", "potential.pt", "x.npy", "out.npz"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["loaded"] == []

    z = torch.from_numpy(np.tile(topology.types, 3))
    batch = torch.arange(3).repeat_interleave(10)
    energy, forces = model(z, torch.from_numpy(x).to(model.mean.dtype), batch)
    tolerance = 1e-5 if precision == 32 else 1e-10
    total, scale = float(energy.detach().double().sum()), float(energy.detach().abs().sum())
    assert abs(answer["energy"] / KJ_PER_KCAL - total) < tolerance * scale
    with np.load(tmp_path / "out.npz") as found:
        gap = np.abs(found["forces"] / (KJ_PER_KCAL * ANGSTROM_PER_NM) - forces.detach().numpy())
        assert gap.max() < tolerance * float(forces.abs().max())
        bonds = np.linalg.norm(np.diff(found["last"].reshape(3, 10, 3), axis=1), axis=-1)
    assert np.isfinite(bonds).all()
    assert (np.abs(bonds - 0.38) < 0.1).all()
