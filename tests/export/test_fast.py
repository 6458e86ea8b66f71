"""The fast engine against the exact float64 network, also at and beyond the cutoffs, and its files."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from cgal_plugin.dynamics import add_potential, build_system, simulate
from cgal_plugin.dynamics.fast_force import FastForce
from cgal_plugin.errors import DynamicsError, ExportError
from cgal_plugin.export import export_torchscript
from cgal_plugin.export.fast import FastPotential
from cgal_plugin.export.potential import potential_module
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet
from cgal_plugin.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from tests.export.test_torchscript import EAGER, eager

FORCE = KJ_PER_KCAL * ANGSTROM_PER_NM
MODELS = {
    **{name: keys for name, keys in EAGER.items() if not name.endswith("embedding")},
    # not a multiple of the vector length; filters narrower than features
    "odd_sizes": {"cgschnet": {"form": "mlcg", "num_filters": 24}, "embedding_dimension": 40},
    "usual": {"model": "graph-network", "embedding_dimension": 128, "num_layers": 4, "num_rbf": 18},
    "ssp": {"cgschnet": {"form": "majewski"}, "activation": "ssp"},
}


def check(fast: FastPotential, model: Any, topology: CGTopology, frames: np.ndarray) -> None:
    """Forces within 1e-5 of the largest one, energies of replicas likewise."""
    energy, forces = eager(model, topology, frames)
    x = frames.reshape(-1, 3) / ANGSTROM_PER_NM
    found = fast.with_replicas(len(frames))
    e, f = found(x)
    assert f.dtype == np.float64
    assert f.shape == x.shape
    assert np.abs(f / FORCE - forces.numpy()).max() < 1e-5 * float(forces.abs().max())
    each = found.replica_energies(x) / KJ_PER_KCAL
    assert np.abs(each - energy.numpy()).max() < 1e-5 * float(energy.abs().max())
    assert e == pytest.approx(float(energy.sum()) * KJ_PER_KCAL, abs=1e-5 * float(energy.abs().sum()) * 4.2)


@pytest.mark.parametrize("name", list(MODELS))
def test_equals_the_exact_model(name: str, make: Any, topology: CGTopology, frames: np.ndarray) -> None:
    model = make(**MODELS[name])
    fast = FastPotential.from_model(model, topology)
    assert fast.metadata["table_error"] < 1e-6
    assert fast.metadata["engine_error"] < 1e-5
    check(fast, model, topology, frames[:1])
    # more replicas than are evaluated together, and not a multiple of them
    check(fast, model, topology, frames[:11])


@pytest.mark.parametrize("name", ["majewski", "mlcg", "mlcg_lower", "graph_network_gauss"])
def test_short_long_and_edge_distances(name: str, make: Any) -> None:
    """Two and three beads, 0.3 to 20 Å, on both sides of the cutoffs; straight and coincident beads."""
    chain = CGTopology.from_sequence("GAW")
    model = make(**EAGER[name], prior_model=None)
    exact, fast = potential_module(model, chain), FastPotential.from_model(model, chain)
    lower, upper = float(exact.network.filters.filter_lower), float(exact.network.filters.upper)
    scan = [0.3, 1.0, 2.5, 3.3, 4.0, 6.0, 9.0, 11.0, 20.0]
    scan += [edge + d for edge in (lower, upper) for d in (-1e-3, -1e-7, 0.0, 1e-7, 1e-3) if edge + d > 0]
    frames = [np.array([[0, 0, 0], [r, 0, 0], [r + 4.1, 1.0 * k, 0]]) for r in scan for k in (0, 1)]
    found = np.stack([fast(x / ANGSTROM_PER_NM)[1] for x in frames])
    expected = np.stack([exact(torch.from_numpy(x / ANGSTROM_PER_NM))[1].numpy() for x in frames])
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    apart = fast(np.arange(9.0).reshape(3, 3) * 100)
    assert np.abs(apart[1]).max() == 0.0
    together, expected = fast(np.zeros((3, 3)))[1], exact(torch.zeros(3, 3, dtype=torch.float64))[1]
    assert np.abs(together - expected.numpy()).max() < 1e-5


@pytest.mark.parametrize("straight", [1.0, 0.1, 1e-3, 0.0])
def test_priors_where_they_are_degenerate(straight: float, make: Any, topology: CGTopology) -> None:
    model = make(num_layers=1)
    rng = np.random.default_rng(1)
    line = np.arange(10.0)[:, None] * np.array([3.8, 0.0, 0.0]) + straight * rng.normal(size=(10, 3))
    line[6] = line[3] + [0.05, 0.1, 0.0]  # inside the core of the repulsion
    exact = potential_module(model, topology)
    e, f = exact(torch.from_numpy(line / ANGSTROM_PER_NM))
    energy, forces = FastPotential.from_model(model, topology)(line / ANGSTROM_PER_NM)
    assert energy == pytest.approx(float(e), rel=1e-9)
    np.testing.assert_allclose(forces, f.numpy(), rtol=1e-6, atol=1e-5 * np.abs(f.numpy()).max())


def test_pair_series_alone(topology: CGTopology, frames: np.ndarray, make: Any, priors: PriorSet) -> None:
    """In float64, far below the first centre and far beyond the last; two priors on other grids."""
    pairs = priors.arguments("pairs")
    table = [{"types": ["*", "*"], "c": [0.5, -0.7, 0.2, 0.1, 0.4, -0.3]}]
    other = {**pairs, "table": table, "first": 2.0, "last": 30.0, "exclude_bonds": 4}
    model, bare = make(prior_model=[{"CGPairs": pairs}, {"CGPairs": other}]), make(prior_model=None)
    fast, network = FastPotential.from_model(model, topology), FastPotential.from_model(bare, topology)
    for x in (frames[0], 0.02 * frames[1], 3.0 * frames[2], 40.0 * frames[3], 1e4 * frames[4]):
        expected = eager(model, topology, x[None])[0] - eager(bare, topology, x[None])[0]
        force = eager(model, topology, x[None])[1] - eager(bare, topology, x[None])[1]
        (e, f), (e_0, f_0) = fast(x / ANGSTROM_PER_NM), network(x / ANGSTROM_PER_NM)
        assert (e - e_0) / KJ_PER_KCAL == pytest.approx(float(expected), rel=1e-10, abs=1e-10)
        np.testing.assert_allclose((f - f_0) / FORCE, force.numpy(), rtol=1e-9, atol=1e-9)


def test_file_from_before_series_loads(
    make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    fast = FastPotential.from_model(make(prior_model=None), topology)
    fast.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as stored:
        arrays = {name: stored[name] for name in stored.files if not name.startswith("series")}
    text = json.dumps({**json.loads(arrays["metadata"].tobytes()), "format_version": 1})
    arrays["metadata"] = np.frombuffer(text.encode(), dtype=np.uint8)
    np.savez(tmp_path / "old.npz", **arrays)
    x = frames[0] / ANGSTROM_PER_NM
    assert np.array_equal(FastPotential.load(tmp_path / "old.npz")(x)[1], fast(x)[1])


def test_error_bound_is_reached_or_an_error(make: Any, topology: CGTopology) -> None:
    model = make(cgschnet={"form": "majewski"})
    sizes = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        fast = FastPotential.from_model(model, topology, tolerance=tolerance)
        assert fast.metadata["table_error"] < tolerance
        sizes.append(fast.metadata["table_intervals"])
    assert sizes[0] < sizes[1] < sizes[2]
    with pytest.raises(ExportError, match="raise tolerance"):
        FastPotential.from_model(model, topology, tolerance=1e-14)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), 1.0])
def test_invalid_tolerance(tolerance: float, make: Any, topology: CGTopology) -> None:
    with pytest.raises(ExportError, match="tolerance"):
        FastPotential.from_model(make(), topology, tolerance=tolerance)


def test_portable_file_with_tables(
    make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    model = make(cgschnet={"form": "majewski"})
    metadata = export_torchscript(model, topology, tmp_path / "p.pt", n_replicas=3, filters="table")
    assert metadata["table_error"] < metadata["table_tolerance"] == 1e-6
    script, (energy, forces) = torch.jit.load(str(tmp_path / "p.pt")), eager(model, topology, frames[:3])
    for _ in range(3):
        e, f = script(torch.from_numpy(frames[:3].reshape(-1, 3) / ANGSTROM_PER_NM))
    assert float((f / FORCE - forces).abs().max()) < 2e-6 * float(forces.abs().max())
    assert float(e) / KJ_PER_KCAL == pytest.approx(float(energy.sum()), rel=1e-6)
    # the file also has the exact filters, from which the engine builds its own tables
    e, f = FastPotential.from_file(tmp_path / "p.pt")(frames[:3].reshape(-1, 3) / ANGSTROM_PER_NM)
    assert np.abs(f / FORCE - forces.numpy()).max() < 1e-5 * float(forces.abs().max())
    with pytest.raises(ExportError, match="neighbour embedding"):
        export_torchscript(make(neighbor_embedding=True), topology, tmp_path / "q.pt", filters="table")
    with pytest.raises(ExportError, match="'auto', 'exact' or 'table'"):
        export_torchscript(model, topology, tmp_path / "q.pt", filters="fast")


def test_large_molecule(make: Any) -> None:
    """More beads than one chunk has rows; many pairs are beyond the cutoff."""
    chain = CGTopology.from_sequence("YYDPETGTWY" * 9)
    model = make(prior_model=None, embedding_dimension=64, max_num_neighbors=90)
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.arange(5) * 5.0] * 3), -1).reshape(-1, 3)[:90]
    frames = grid + rng.normal(scale=0.4, size=(2, 90, 3))
    check(FastPotential.from_model(model, chain), model, chain, frames)


def test_replicas_do_not_see_each_other(make: Any, topology: CGTopology, frames: np.ndarray) -> None:
    fast = FastPotential.from_model(make(), topology, n_replicas=6)
    x = frames[:6] / ANGSTROM_PER_NM
    _, forces = fast(x.reshape(-1, 3))
    moved = x.copy()
    moved[1] += [3e4, -2e4, 1e4]
    moved[3, 4] = np.nan
    moved[4, 2, 1] = np.inf
    energy, after = fast(moved.reshape(-1, 3))
    after = after.reshape(6, 10, 3)
    assert np.isnan(energy)
    energies = fast.replica_energies(moved.reshape(-1, 3))
    assert np.isnan(energies).tolist() == [False, False, False, True, True, False]
    assert np.isnan(after[3:5]).all()
    unharmed = [0, 1, 2, 5]
    scale = np.abs(forces).max()
    np.testing.assert_allclose(after[unharmed], forces.reshape(6, 10, 3)[unharmed], atol=1e-5 * scale)


def test_file_round_trip_in_another_process(
    make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path
) -> None:
    fast = FastPotential.from_model(make(precision=32), topology, n_replicas=2)
    path, x = tmp_path / "fast.npz", frames[:2].reshape(-1, 3) / ANGSTROM_PER_NM
    fast.save(path)
    np.save(tmp_path / "x.npy", x)
    code = """
import json, sys, numpy as np
from cgal_plugin.export.fast import FastPotential
p = FastPotential.load("fast.npz")
e, f = p(np.load("x.npy"))
np.save("f.npy", f)
loaded = [m for m in ("torch", "torchmdnet") if m in sys.modules]
print(json.dumps([e, p.metadata["types"], p.n_replicas, loaded]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    energy, forces = fast(x)
    assert json.loads(done.stdout) == [energy, topology.types.tolist(), 2, []]
    assert np.array_equal(np.load(tmp_path / "f.npy"), forces)
    with np.load(path, allow_pickle=False) as stored:
        assert "table" in stored.files
    for name, content in (("text.npz", b"no"), ("pickle.npz", pickle.dumps({}))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ExportError, match="not written by"):
            FastPotential.load(tmp_path / name)
    with pytest.raises(ExportError, match="does not exist"):
        FastPotential.load(tmp_path / "missing.npz")


def test_wrong_input(make: Any, topology: CGTopology, frames: np.ndarray) -> None:
    with pytest.raises(ExportError, match="neighbour embedding"):
        FastPotential.from_model(make(neighbor_embedding=True), topology)
    fast = FastPotential.from_model(make(num_layers=1), topology)
    with pytest.raises(ExportError, match="shape"):
        fast(frames[0, :9])
    for wrong in (0, -2, 1.5, True):
        with pytest.raises(ExportError, match="n_replicas"):
            fast.with_replicas(wrong)


def test_backend(make: Any, topology: CGTopology, frames: np.ndarray, tmp_path: Path) -> None:
    """The exported file and a saved one through OpenMM; NVE conserves energy; Langevin runs."""
    import openmm

    model = make(precision=32)
    export_torchscript(model, topology, tmp_path / "p.pt")
    FastPotential.from_file(tmp_path / "p.pt", n_replicas=2).save(tmp_path / "fast.npz")
    x = frames[:2].reshape(-1, 3) / ANGSTROM_PER_NM
    expected = FastPotential.from_model(model, topology, n_replicas=2)(x)
    for name in ("p.pt", "fast.npz"):
        system = build_system(topology, 2)
        add_potential(system, tmp_path / name, topology, backend="fast", n_replicas=2)
        integrator = openmm.VerletIntegrator(0.001)
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(x)
        state = context.getState(energy=True, forces=True)
        forces = state.getForces(asNumpy=True)._value
        np.testing.assert_allclose(forces, expected[1], atol=2e-6 * np.abs(expected[1]).max())
        assert state.getPotentialEnergy()._value == pytest.approx(expected[0], rel=1e-5)

    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    context.setVelocitiesToTemperature(300.0, 5)
    integrator.step(100)
    energies = []
    for _ in range(40):
        integrator.step(50)
        state = context.getState(energy=True)
        energies.append(state.getPotentialEnergy()._value + state.getKineticEnergy()._value)
    kinetic = 1.5 * 20 * 8.314e-3 * 300.0
    assert np.ptp(energies) < 0.02 * kinetic
    result = simulate(
        tmp_path / "p.pt", topology, frames[:3], steps=40, timestep_fs=2.0, temperature=300.0, friction=1.0,
        out_dir=tmp_path / "run", report_interval=10, backend="fast",
    )  # fmt: skip
    assert result.steps_done == 40
    assert all(np.isfinite(f).all() and len(f) == 4 for f in result.load())
    again = pickle.loads(pickle.dumps(FastForce(tmp_path / "p.pt", 2)))
    assert again.n_replicas == 2


def test_backend_refuses(make: Any, topology: CGTopology, tmp_path: Path) -> None:
    FastPotential.from_model(make(num_layers=1), topology).save(tmp_path / "fast.npz")
    system = build_system(topology, 1)
    with pytest.raises(DynamicsError, match="backend 'fast'"):
        add_potential(system, tmp_path / "fast.npz", topology, backend="python")
    other = CGTopology.from_sequence("GAG")
    tripeptide = build_system(other, 1)
    with pytest.raises(DynamicsError, match="n_beads"):
        add_potential(tripeptide, tmp_path / "fast.npz", other, backend="fast")
    export_torchscript(make(neighbor_embedding=True), topology, tmp_path / "p.pt")
    with pytest.raises(DynamicsError, match="neighbour embedding"):
        add_potential(system, tmp_path / "p.pt", topology, backend="fast")
