"""Backend ``gpu`` from a file on Warp's CPU device (platform ``CPU``): simulate, record, restart, OpenMM."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import openmm
import pytest
import torch

import cgal_plugin
from cgal_plugin._warp import has_gpu
from cgal_plugin.dynamics import Guard, add_potential, build_system, simulate
from cgal_plugin.dynamics.gpu_engine import GPUEngine
from cgal_plugin.dynamics.gpu_force import HostCall
from cgal_plugin.dynamics.packing import PackedForce
from cgal_plugin.dynamics.settings import Settings
from cgal_plugin.errors import DynamicsError, ExportError
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.gpu import sizes
from cgal_plugin.export.gpu.potential import GPUPotential
from cgal_plugin.mapping import CGTopology
from cgal_plugin.models.build import build_model
from cgal_plugin.priors.tables import describe_molecule
from tests.dynamics.potentials import coil_start

N = 3
COMMON = {"timestep_fs": 4.0, "temperature": 300.0, "friction": 1.0, "seed": 7, "report_interval": 5}


@pytest.fixture(scope="module")
def potential(chignolin, tmp_path_factory):
    """A small network with a bond prior."""
    cgal_plugin.register()
    row = {"types": ["*"] * 2, "k": 120.0, "r0": 3.8}
    priors = [{"CGBonds": {"table": [row], "molecule": describe_molecule(chignolin, "bonds")}}]
    torch.manual_seed(0)
    model = build_model({"embedding_dimension": 32, "num_layers": 2, "num_rbf": 8, "prior_model": priors})
    path = tmp_path_factory.mktemp("gpu") / "p.pt"
    export_torchscript(model, chignolin, path, n_replicas=N)
    return path


@pytest.fixture
def run(potential, chignolin, tmp_path):
    def call(out: str = "sim", **changes: Any):
        values: dict[str, Any] = {**COMMON, "steps": 40, "backend": "gpu", "platform": "CPU"} | changes
        return simulate(potential, chignolin, coil_start(N, 10), out_dir=tmp_path / out, **values)

    return call


class Interrupted(Exception):
    pass


def stop_at(step):
    def progress(done, total):
        if done >= step:
            raise Interrupted

    return progress


def test_an_interruption_leaves_no_trace_and_the_record_names_the_device(run, tmp_path):
    whole = run("whole")
    for at in (10, 25):
        with pytest.raises(Interrupted):
            run(progress=stop_at(at), checkpoint_interval=10)
    resumed = run(backend="auto")  # a resumed simulation keeps its backend
    assert resumed.backend == "gpu"
    assert resumed.n_frames == (8,) * N
    for path, expected in zip(resumed.trajectories, whole.trajectories, strict=True):
        assert path.read_bytes() == expected.read_bytes()
    record = json.loads((tmp_path / "sim" / "simulation.json").read_text())
    assert record["inputs"]["backend"] == "gpu"
    assert record["inputs"]["platform"] == "CPU"
    assert record["device"]["id"] == "cpu"
    assert record["device"]["groups"] == 1
    assert record["device"]["warp"]
    assert record["device"]["name"] == "CPU"


def test_the_first_steps_are_those_of_openmm(run, chignolin, potential):
    """Without noise, the trajectory of the exported TorchScript file under OpenMM."""
    changes = {"temperature": 1e-12, "steps": 20, "guard": Guard.off()}
    ours = run("ours", **changes).load()
    theirs = run("theirs", backend="python", platform="Reference", **changes).load()
    assert np.abs(ours[0][-1] - ours[0][0]).max() > 0.02
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_minimisation_lowers_the_energy(chignolin, potential):
    values = {k: v for k, v in COMMON.items() if k != "report_interval"}
    settings = Settings(potential, chignolin, N, **values, backend="gpu", platform="CPU")
    engine = GPUEngine(settings)
    start = coil_start(N, 10) * 1.2
    engine.set_start(start)
    before = engine.energies()
    engine.set_start(start, minimize_steps=50)
    assert (engine.energies() < before - 1.0).all()


def test_through_openmm_forces_are_those_of_the_file(chignolin, potential):
    positions = coil_start(N, 10, seed=3).reshape(-1, 3) / 10
    found = []
    for backend in ("python", "gpu"):
        system = build_system(chignolin, N)
        add_potential(system, potential, chignolin, backend=backend, n_replicas=N, device="cpu")
        # a System with the potential can be copied: the file is read again
        system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
        )
        context.setPositions(positions)
        state = context.getState(energy=True, forces=True)
        found.append((state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value))
    (energy, forces), (e, f) = found
    assert e == pytest.approx(energy, rel=1e-5)
    assert np.abs(f - forces).max() < 1e-4 * np.abs(forces).max()


def test_the_first_call_through_openmm_keeps_the_size_of_the_list():
    """Not that of beads which are all at the origin: memory would grow with the square of the beads."""
    cgal_plugin.register()
    chain = CGTopology.from_sequence("GAVLYWDKTS" * 20)
    model = build_model({"embedding_dimension": 32, "num_layers": 1, "num_rbf": 8, "prior_model": None})
    single = GPUPotential.from_model(model, chain, device="cpu")
    force = PackedForce(single, 2)
    _, forces = HostCall(force)(coil_start(2, 200, seed=1).reshape(-1, 3))
    assert np.isfinite(forces).all()
    assert force._potential.capacity == single.capacity < 199


def test_more_replicas_than_int32_can_index_are_evaluated_in_groups(monkeypatch, chignolin, potential):
    single = GPUPotential.from_file(potential, n_replicas=1, device="cpu")
    monkeypatch.setattr(sizes, "_MOST", 10 * 2 * 32 * 3)  # three replicas of 2 blocks of 32 features
    with pytest.raises(ExportError, match="at most 1920: use fewer replicas"):
        single.with_replicas(5)
    with pytest.warns(UserWarning, match="evaluated in 2 groups"):
        force = PackedForce(single, 5)
    positions = coil_start(5, 10).reshape(-1, 3)
    energies, forces = HostCall(force)(positions)
    one = [single(x / 10) for x in positions.reshape(5, 10, 3)]
    np.testing.assert_allclose(energies * 4.184, [e for e, _ in one], rtol=1e-6)
    np.testing.assert_allclose(forces * 41.84, np.concatenate([f for _, f in one]), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("device", ["cuda:1", "gpu", "CPU"])
def test_a_device_that_openmm_cannot_have_is_refused(device, chignolin, potential):
    with pytest.raises(DynamicsError, match=rf"device is '{device}'.*CUDA_VISIBLE_DEVICES"):
        add_potential(
            build_system(chignolin, N), potential, chignolin, backend="gpu", n_replicas=N, device=device
        )


@pytest.mark.integration
def test_temperatures_are_exchanged_on_the_device(run):
    result = run(temperatures=(300.0, 330.0, 360.0), steps=20, exchange_interval=5)
    again = run("again", temperatures=(300.0, 330.0, 360.0), steps=20, exchange_interval=5)
    assert result.n_frames == (4,) * N
    for path, expected in zip(again.trajectories, result.trajectories, strict=True):
        assert path.read_bytes() == expected.read_bytes()


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_written(run, tmp_path):
    for platform in ("Reference", "CUDA"):
        with pytest.raises(DynamicsError, match=r"finds no NVIDIA GPU .*'fast' on .* another out_dir"):
            run(platform=platform)
    assert not (tmp_path / "sim").exists()


def test_another_platform_is_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(DynamicsError, match="backend 'gpu' runs on CUDA, not on platform 'OpenCL'"):
        run(platform="OpenCL")
    assert not (tmp_path / "sim").exists()


def test_a_potential_of_another_molecule_is_refused_and_any_number_of_replicas_runs(potential, run, tmp_path):
    other = CGTopology.from_sequence("YYDPETGTWA")
    arguments = {**COMMON, "steps": 5, "backend": "gpu", "platform": "CPU"}
    with pytest.raises(DynamicsError, match="was exported for types"):
        simulate(potential, other, coil_start(N, 10), out_dir=tmp_path / "other", **arguments)
    topology = CGTopology.from_sequence("YYDPETGTWY")
    result = simulate(potential, topology, coil_start(2, 10), out_dir=tmp_path / "two", **arguments)
    assert result.n_frames == (1, 1)
