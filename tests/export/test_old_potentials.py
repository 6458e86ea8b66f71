"""Potentials exported by earlier versions: they load, and all engines give the forces of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest
import torch

from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.dynamics import add_potential, build_system
from cgal_plugin.export import export_torchscript, load_metadata
from cgal_plugin.export.fast import FastPotential, fast_available
from cgal_plugin.mapping import CGTopology

EXAMPLE = Path(__file__).parents[2] / "examples" / "chignolin"
FILES = sorted(EXAMPLE.glob("benchmark_1/models/*/seed_1/potential.pt"))
#: relative to the largest force component: float32 in files that were scripted by different versions
BOUND = 1e-5

#: these files were written before embeddings had names
pytestmark = pytest.mark.filterwarnings("ignore:.*does not record the embedding")


@pytest.fixture(scope="module")
def positions() -> np.ndarray:
    """Return folded and extended frames, ``(4, 10, 3)`` nm."""
    return np.concatenate(load_trajectories(EXAMPLE / "reference.npz"))[::5000].astype(np.float64) / 10


def test_there_are_old_potentials() -> None:
    assert [path.parts[-3] for path in FILES] == ["rmsd", "rmsd_release_refined", "static"]


@pytest.mark.parametrize("path", FILES, ids=[path.parts[-3] for path in FILES])
def test_all_engines_give_the_forces_of_the_file(path: Path, positions: np.ndarray, tmp_path: Path) -> None:
    metadata = load_metadata(path)
    topology = CGTopology.from_dict(metadata["topology"])
    assert metadata["n_replicas"] == 1
    # the code in the file is that of the version that wrote it
    file = torch.jit.load(str(path))
    expected = [tuple(x.numpy() for x in file(torch.from_numpy(frame))) for frame in positions]

    def compare(found: list[tuple[float, np.ndarray]]) -> None:
        for (energy, forces), (file_energy, file_forces) in zip(found, expected, strict=True):
            assert float(energy) == pytest.approx(float(file_energy), rel=BOUND)
            assert np.abs(forces - file_forces).max() < BOUND * np.abs(file_forces).max()

    # the checkpoint beside the file, exported by this version
    export_torchscript(path.parent / "model.ckpt", topology, tmp_path / "new.pt")
    new = torch.jit.load(str(tmp_path / "new.pt"))
    compare([tuple(x.numpy() for x in new(torch.from_numpy(frame))) for frame in positions])
    if fast_available():
        fast = FastPotential.from_file(path)
        compare([fast(frame) for frame in positions])
    system = build_system(topology)
    add_potential(system, path, topology, backend="python")
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    found = []
    for frame in positions:
        context.setPositions(frame)
        state = context.getState(energy=True, forces=True)
        found.append((state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value.copy()))
    compare(found)
