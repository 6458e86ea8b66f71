"""The same numbers from every backend, and clear refusals."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import openmm
import pytest
import torch

from cgal_plugin.dynamics import BACKENDS, add_potential, build_system, resolve_backend
from cgal_plugin.errors import DynamicsError
from tests.dynamics.potentials import HarmonicChain, chain_start, save_potential
from tests.torchforce import DEFAULT, TORCHFORCE, needs_torchforce

R, B = 3, 10


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    metadata = {"n_beads": B, "n_replicas": R}
    return save_potential(HarmonicChain(R, B), tmp_path_factory.mktemp("potential") / "p.pt", metadata)


def bent(seed=0):
    """(R, B, 3) nm."""
    return (chain_start(R, B) + np.random.default_rng(seed).normal(scale=0.8, size=(R, B, 3))) / 10


def evaluate(system, positions):
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(positions.reshape(-1, 3))
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value.copy()


def build(topology, potential, backend):
    system = build_system(topology, R)
    add_potential(system, potential, topology, backend=backend, n_replicas=R)
    return system


@pytest.mark.parametrize("backend", [TORCHFORCE, *(name for name in BACKENDS[1:] if name != "cpu")])
def test_every_backend_gives_the_potential_itself(chignolin, potential, backend):
    if backend == "pythontorch":
        openmmtorch = pytest.importorskip("openmmtorch")
        if not hasattr(openmmtorch, "PythonTorchForce"):
            with pytest.raises(DynamicsError, match=r"'pythontorch' needs .* use 'torchforce' or 'python'"):
                resolve_backend(backend)
            return
    if backend == "fast":
        # it works from the parameters of a CGSchNet, tests/export/test_fast.py; this file has none
        pytest.importorskip("numba")
        with pytest.raises(DynamicsError, match="contains no CGSchNet"):
            build(chignolin, potential, backend)
        return
    if backend == "gpu":
        # as for the fast engine; its forces are tested in test_gpu_backend.py
        with pytest.raises(DynamicsError, match="contains no CGSchNet"):
            add_potential(
                build_system(chignolin, R), potential, chignolin, backend=backend, n_replicas=R, device="cpu"
            )
        return
    positions = bent()
    energy, forces = evaluate(build(chignolin, potential, backend), positions)
    expected_energy, expected = HarmonicChain(R, B)(torch.from_numpy(positions.reshape(-1, 3)))
    assert energy == pytest.approx(float(expected_energy), rel=1e-14)
    np.testing.assert_allclose(forces, expected.numpy(), rtol=1e-13, atol=1e-10)


@needs_torchforce
def test_cuda_graphs_of_torchforce_are_refused(chignolin, potential):
    force = add_potential(
        build_system(chignolin, R), potential, chignolin, backend="torchforce", n_replicas=R
    )
    with pytest.raises(DynamicsError, match=r"useCUDAGraphs of TorchForce gives wrong .* use backend 'gpu'"):
        force.setProperty("useCUDAGraphs", "true")
    # anything else reaches the plugin, whose CPU build knows no properties
    with pytest.raises(Exception, match="Unknown property 'unknown'"):
        force.setProperty("unknown", "true")


@needs_torchforce
def test_auto_takes_torchforce_where_it_works(chignolin, potential):
    assert resolve_backend("auto") == "torchforce"
    force = add_potential(build_system(chignolin, R), potential, chignolin, n_replicas=R)
    assert type(force).__name__ == "TorchForce"
    assert force.getOutputsForces()


def test_without_openmm_torch_auto_falls_back_and_torchforce_says_what_to_install():
    code = """
import sys
sys.modules["openmmtorch"] = None  # what an import finds where it is not installed
from cgal_plugin.dynamics import resolve_backend
from cgal_plugin.errors import DynamicsError
print(resolve_backend("auto"))
for backend in ("torchforce", "pythontorch"):
    try:
        resolve_backend(backend)
    except DynamicsError as error:
        print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    lines = out.splitlines()
    assert lines[0] == "python"
    assert len(lines) == 3
    assert all('pip install "cgal_plugin[openmm-torch]"' in line for line in lines[1:])


def test_replicas_do_not_feel_each_other_and_packed_equals_single(chignolin, potential, tmp_path):
    single = save_potential(HarmonicChain(1, B), tmp_path / "one.pt")
    positions = bent(1)
    _, packed = evaluate(build(chignolin, potential, DEFAULT), positions)
    for replica in range(R):
        system = build_system(chignolin, 1)
        add_potential(system, single, chignolin)
        _, alone = evaluate(system, positions[replica])
        np.testing.assert_allclose(packed[replica * B : (replica + 1) * B], alone, rtol=1e-13, atol=1e-10)
    moved = positions.copy()
    moved[1] = np.nan
    _, after = evaluate(build(chignolin, potential, DEFAULT), moved)
    assert np.array_equal(after[:B], packed[:B])
    assert np.array_equal(after[2 * B :], packed[2 * B :])


def test_a_system_with_the_python_backend_survives_serialisation(chignolin, potential):
    system = build(chignolin, potential, "python")
    copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    first, second = evaluate(system, bent(2)), evaluate(copy, bent(2))
    assert first[0] == second[0]
    assert np.array_equal(first[1], second[1])


def test_systems_have_bead_masses_and_nothing_that_couples_replicas(chignolin):
    system = build_system(chignolin, 2)
    masses = [system.getParticleMass(i)._value for i in range(system.getNumParticles())]
    assert masses == chignolin.masses.tolist() * 2
    assert system.getNumForces() == 0
    with pytest.raises(DynamicsError, match="n_replicas is 0"):
        build_system(chignolin, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_replicas": 2}, "exported for n_replicas 2, not 3"),
        ({"n_beads": 9}, "exported for n_beads 9, not 10"),
        ({"types": [1] * 10, "embedding": "cgal"}, "exported for types"),
    ],
)
def test_a_potential_of_something_else_is_refused(chignolin, tmp_path, change, message):
    path = save_potential(HarmonicChain(R, B), tmp_path / "p.pt", {"n_beads": B, "n_replicas": R} | change)
    with pytest.raises(DynamicsError, match=message):
        add_potential(build_system(chignolin, R), path, chignolin, n_replicas=R)


def test_wrong_files_systems_and_backends_are_refused(chignolin, potential, tmp_path):
    system = build_system(chignolin, R)
    with pytest.raises(DynamicsError, match=r"does not exist; make it with `cgal export`"):
        add_potential(system, tmp_path / "none.pt", chignolin, n_replicas=R)
    (tmp_path / "text.pt").write_text("not a potential")
    with pytest.raises(DynamicsError, match="not a TorchScript file"):
        add_potential(system, tmp_path / "text.pt", chignolin, n_replicas=R)
    with pytest.raises(DynamicsError, match=r"System has 20 particles; 3 replica\(s\) of 10 beads need 30"):
        add_potential(build_system(chignolin, 2), potential, chignolin, n_replicas=R)
    with pytest.raises(DynamicsError, match=r"unknown backend 'cuda'; use 'auto' or one of torchforce"):
        add_potential(system, potential, chignolin, backend="cuda", n_replicas=R)
