"""Dynamics of a potential of the public export; also the two scripts of the example."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest

from cgal_plugin.dynamics import add_potential, build_system, simulate
from cgal_plugin.errors import DynamicsError
from cgal_plugin.mapping import CGTopology
from tests.dynamics.test_restart import Interrupted, stop_at
from tests.torchforce import DEFAULT, TORCHFORCE, needs_torchforce

EXAMPLE = Path(__file__).parents[2] / "examples" / "openmm_script"
R = 3


def has_platform(name):
    there = (openmm.Platform.getPlatform(i) for i in range(openmm.Platform.getNumPlatforms()))
    return name in {platform.getName() for platform in there}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folder with potential.pt for three replicas and start.pdb, made by the script of the example."""
    folder = tmp_path_factory.mktemp("exported")
    script = str(EXAMPLE / "make_potential.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, str(folder), "--replicas", str(R)])
        runpy.run_path(script, run_name="__main__")
    return folder


@pytest.fixture(scope="module")
def topology(exported):
    return CGTopology.from_file(exported / "start.pdb")


@pytest.fixture(scope="module")
def positions(exported):
    """(R, beads, 3) nm, three different frames."""
    start = mdtraj.load(str(exported / "start.pdb")).xyz.astype(np.float64)
    return start + np.random.default_rng(0).normal(scale=0.02, size=(R, start.shape[1], 3))


def evaluate(exported, topology, positions, backend=DEFAULT, platform="Reference"):
    system = build_system(topology, R)
    add_potential(system, exported / "potential.pt", topology, backend=backend, n_replicas=R)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform)
    )
    context.setPositions(positions.reshape(-1, 3))
    state = context.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True)._value.reshape(positions.shape)
    return state.getPotentialEnergy()._value, forces.copy()


@needs_torchforce
def test_backends_agree(exported, topology, positions):
    energy, forces = evaluate(exported, topology, positions)
    other_energy, other = evaluate(exported, topology, positions, "python")
    assert np.abs(forces).max() > 10
    assert energy == pytest.approx(other_energy, rel=1e-6)
    np.testing.assert_allclose(forces, other, rtol=1e-5, atol=1e-5 * np.abs(forces).max())


@pytest.mark.skipif(not has_platform("CUDA"), reason="needs a GPU")
@pytest.mark.parametrize("backend", [TORCHFORCE, "python"])
def test_a_gpu_agrees_and_runs_the_dynamics(exported, topology, positions, backend, tmp_path):
    energy, forces = evaluate(exported, topology, positions)
    there, on_gpu = evaluate(exported, topology, positions, backend, "CUDA")
    assert energy == pytest.approx(there, rel=1e-5)
    np.testing.assert_allclose(on_gpu, forces, atol=1e-4 * np.abs(forces).max())
    result = simulate(
        exported / "potential.pt", topology, positions * 10.0, steps=200, timestep_fs=2.0, temperature=300.0,
        friction=1.0, out_dir=tmp_path / "run", backend=backend, platform="CUDA",
    )  # fmt: skip
    assert result.n_frames == (2,) * R
    assert not result.events


def test_replicas_far_from_the_origin_and_beside_an_exploded_one_keep_their_forces(
    exported, topology, positions
):
    _, forces = evaluate(exported, topology, positions)
    scale = np.abs(forces).max()
    moved = positions.copy()
    moved[0] += [3e4, -1e4, 2e4]
    moved[2, 5] = np.nan
    _, after = evaluate(exported, topology, moved)
    np.testing.assert_allclose(after[:2], forces[:2], atol=1e-5 * scale)
    assert not np.isfinite(after[2]).all()
    # no net force and no net torque on a replica at any place
    assert np.abs(after[:2].sum(axis=1)).max() < 1e-4 * scale
    assert np.abs(np.cross(positions[:2], after[:2]).sum(axis=1)).max() < 1e-4 * scale


def test_restart_is_exact(exported, topology, positions, tmp_path):
    potential, start = exported / "potential.pt", positions * 10
    arguments = {
        "steps": 200,
        "timestep_fs": 4.0,
        "temperature": 300.0,
        "friction": 1.0,
        "report_interval": 20,
        "checkpoint_interval": 60,
    }
    full = simulate(potential, topology, start, out_dir=tmp_path / "full", **arguments)
    with pytest.raises(Interrupted):
        simulate(potential, topology, start, out_dir=tmp_path / "cut", progress=stop_at(140), **arguments)
    cut = simulate(potential, topology, start, out_dir=tmp_path / "cut", **arguments)
    assert cut.events == full.events == ()
    for path, expected in zip(cut.trajectories, full.trajectories, strict=True):
        assert path.read_bytes() == expected.read_bytes()


def test_another_number_of_replicas_or_molecule_is_refused(exported, topology, positions, tmp_path):
    arguments = {"steps": 10, "timestep_fs": 4.0, "temperature": 300.0, "friction": 1.0, "out_dir": tmp_path}
    with pytest.raises(DynamicsError, match=r"exported for n_replicas 3, not 2; export it again"):
        simulate(exported / "potential.pt", topology, positions[:2] * 10, **arguments)
    other = CGTopology.from_sequence("YYDPETGTWF")
    with pytest.raises(DynamicsError, match=r"exported for (types|topology_hash)"):
        simulate(exported / "potential.pt", other, positions * 10, **arguments)


@needs_torchforce
def test_the_example_runs_with_nothing_of_ours_imported(exported, tmp_path):
    script, dcd = str(EXAMPLE / "run.py"), str(tmp_path / "out.dcd")
    arguments = [
        script,
        str(exported / "potential.pt"),
        str(exported / "start.pdb"),
        "--steps",
        "100",
        "--dcd",
        dcd,
    ]
    code = (
        f"import runpy, sys; sys.argv = {arguments!r}; runpy.run_path({script!r}, run_name='__main__'); "
        "print([m for m in sys.modules if m.startswith(('cgal', 'torchmdnet', 'mdtraj'))])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    assert "final potential energy of 3 replica(s)" in lines[-2]
    energies = [float(line.split(",")[1]) for line in lines if line[:1].isdigit()]
    assert len(energies) == 10
    assert np.isfinite(energies).all()


def test_openmm_ml_finds_the_potential(exported, topology, positions):
    openmmml = pytest.importorskip("openmmml")
    structure = openmm.app.PDBFile(str(exported / "start.pdb"))
    packed = openmm.app.Modeller(structure.topology, structure.positions)
    for _ in range(R - 1):
        packed.add(structure.topology, structure.positions)
    for atom in packed.topology.atoms():
        atom.element = None  # OpenMM-ML gives such beads no mass
    potential = openmmml.MLPotential("cgschnet", modelPath=str(exported / "potential.pt"))
    system = potential.createSystem(packed.topology, removeCMMotion=False)
    masses = [system.getParticleMass(i)._value for i in range(system.getNumParticles())]
    assert masses == topology.masses.tolist() * R
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(positions.reshape(-1, 3))
    energy = context.getState(energy=True).getPotentialEnergy()._value
    assert energy == pytest.approx(evaluate(exported, topology, positions)[0], rel=1e-6)
    with pytest.raises(DynamicsError, match=r"3 replica\(s\) of 10 beads, not for 10"):
        potential.createSystem(structure.topology)
    with pytest.raises(DynamicsError, match="needs modelPath"):
        openmmml.MLPotential("cgschnet")
