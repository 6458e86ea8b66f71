"""OpenMM-ML, as installed: its entry point gives the exported potential, alone and in mixed systems."""

from __future__ import annotations

import runpy
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import openmm.app
import pytest

openmmml = pytest.importorskip("openmmml")

from cgal_plugin.dynamics import add_potential, build_system  # noqa: E402
from cgal_plugin.dynamics.openmmml import CGSchNetPotentialFactory  # noqa: E402
from cgal_plugin.errors import DynamicsError  # noqa: E402
from cgal_plugin.export import FastPotential  # noqa: E402
from cgal_plugin.mapping import CGTopology  # noqa: E402
from tests.torchforce import REASON  # noqa: E402

MAKE = Path(__file__).parents[2] / "examples" / "openmm_script" / "make_potential.py"
SEQUENCE = "YYDPETGTWY"
N = len(SEQUENCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A potential for one molecule as TorchScript and in the fast engine, and a start structure."""
    made = tmp_path_factory.mktemp("openmmml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(MAKE), str(made)])
        runpy.run_path(str(MAKE), run_name="__main__")
    FastPotential.from_file(made / "potential.pt").save(made / "fast.npz")
    return made


@pytest.fixture(scope="module")
def start(folder: Path) -> np.ndarray:
    """(N, 3) nm."""
    return np.array(openmm.app.PDBFile(str(folder / "start.pdb")).getPositions(asNumpy=True)._value)


def evaluate(system: openmm.System, positions: np.ndarray, **parameters: float) -> tuple[float, np.ndarray]:
    """Energy, kJ/mol, and forces, kJ/mol/nm."""
    engine = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), engine)
    context.setPositions(positions)
    for name, value in parameters.items():
        context.setParameter(name, value)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


@pytest.fixture(scope="module")
def exact(folder: Path, start: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces by ``add_potential``."""
    topology = CGTopology.from_sequence(SEQUENCE)
    system = build_system(topology, 1)
    add_potential(system, folder / "potential.pt", topology, backend="python")
    return evaluate(system, start)


CARBON = openmm.app.element.carbon


def chain(
    sequence: str, topology: openmm.app.Topology | None = None, element: Any = None
) -> openmm.app.Topology:
    """Beads, one residue each, by default without an element; added to a topology if given."""
    names = CGTopology.from_sequence(sequence).residue_names
    topology = openmm.app.Topology() if topology is None else topology
    added = topology.addChain()
    for name in names:
        topology.addAtom("CA", element, topology.addResidue(name, added))
    return topology


def potential(folder: Path, name: str = "potential.pt") -> Any:
    return openmmml.MLPotential("cgschnet", modelPath=str(folder / name))


def test_the_entry_point_is_the_factory():
    (found,) = entry_points(group="openmmml.potentials", name="cgschnet")
    assert found.load() is CGSchNetPotentialFactory


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("potential.pt", {}),
        ("potential.pt", {"backend": "python"}),
        ("potential.pt", {"backend": "fast"}),
        ("fast.npz", {}),
        ("fast.npz", {"backend": "fast"}),
    ],
)
def test_energies_and_forces_are_those_of_the_exported_potential(folder, start, exact, name, options):
    system = potential(folder, name).createSystem(chain(SEQUENCE), **options)
    masses = [system.getParticleMass(i)._value for i in range(N)]
    assert masses == CGTopology.from_sequence(SEQUENCE).masses.tolist()
    assert any(isinstance(f, openmm.CMMotionRemover) for f in system.getForces())
    energy, forces = evaluate(system, start)
    assert energy == pytest.approx(exact[0], rel=1e-5)
    np.testing.assert_allclose(forces, exact[1], rtol=0, atol=1e-5 * np.abs(exact[1]).max())


def mixed_parts(start: np.ndarray) -> tuple[openmm.app.Topology, openmm.System, np.ndarray]:
    """Conventional charged particles, two before the molecule and one after it, and its beads among them."""
    topology = openmm.app.Topology()
    outside = topology.addChain()
    topology.addAtom("X", CARBON, topology.addResidue("LIG", outside))
    topology.addAtom("X", CARBON, topology.addResidue("LIG", outside))
    chain(SEQUENCE, topology, CARBON)
    topology.addAtom("X", CARBON, topology.addResidue("LIG", topology.addChain()))
    system, nonbonded = openmm.System(), openmm.NonbondedForce()
    for i in range(N + 3):
        system.addParticle(50.0)
        nonbonded.addParticle(0.1 * (-1) ** i, 0.4, 0.5)
    system.addForce(nonbonded)
    rng = np.random.default_rng(0)
    far = start.mean(axis=0) + 2.0 + rng.normal(scale=0.6, size=(3, 3))
    return topology, system, np.concatenate([far[:2], start, far[2:]])


@pytest.mark.parametrize("backend", ["auto", "python", "fast"])
def test_a_mixed_system_has_the_potential_inside_and_the_force_field_outside(folder, start, exact, backend):
    topology, system, positions = mixed_parts(start)
    inside = list(range(2, N + 2))
    made = potential(folder).createMixedSystem(topology, system, inside, backend=backend)
    energy, forces = evaluate(made, positions)
    # the conventional terms without those among the beads
    nonbonded = system.getForce(0)
    for k, i in enumerate(inside):
        for j in inside[:k]:
            nonbonded.addException(i, j, 0.0, 1.0, 0.0)
    other, other_forces = evaluate(system, positions)
    other_forces[2 : N + 2] += exact[1]
    assert energy == pytest.approx(exact[0] + other, rel=1e-5)
    np.testing.assert_allclose(forces, other_forces, rtol=0, atol=1e-5 * np.abs(exact[1]).max())
    assert made.getParticleMass(2)._value == 50.0


def test_interpolation_between_force_field_and_potential(folder, start, exact):
    topology, system, positions = mixed_parts(start)
    made = potential(folder).createMixedSystem(topology, system, range(2, N + 2), interpolate=True)
    full = potential(folder).createMixedSystem(topology, system, range(2, N + 2))
    conventional = evaluate(system, positions)[0]
    ends = [evaluate(made, positions, lambda_interpolate=x)[0] for x in (0.0, 0.5, 1.0)]
    assert ends[0] == pytest.approx(conventional, rel=1e-6)
    assert ends[2] == pytest.approx(evaluate(full, positions)[0], rel=1e-6)
    assert ends[1] == pytest.approx((ends[0] + ends[2]) / 2, rel=1e-6)


def test_other_molecules_and_wrong_options_are_refused(folder, start):
    found = potential(folder)
    with pytest.raises(DynamicsError, match="bead 9 is of residue PHE in the topology, and of TYR"):
        found.createSystem(chain("YYDPETGTWF"))
    with pytest.raises(DynamicsError, match=r"1 replica\(s\) of 10 beads, not for 9"):
        found.createSystem(chain(SEQUENCE[:9]))
    topology, system, _ = mixed_parts(start)
    with pytest.raises(DynamicsError, match="bead 1 is of residue ASP in the topology, and of TYR"):
        found.createMixedSystem(topology, system, range(3, N + 3))
    missing = "needs openmm-torch|crashes with torch"
    message = missing if REASON else r"acts on all particles of a System; use backend 'python'"
    with pytest.raises(DynamicsError, match=message):
        found.createMixedSystem(topology, system, range(2, N + 2), backend="torchforce")
    with pytest.raises(DynamicsError, match=r"FastPotential\.save; use backend 'fast'"):
        potential(folder, "fast.npz").createSystem(chain(SEQUENCE), backend="python")
    with pytest.raises(DynamicsError, match="unknown backend"):
        found.createSystem(chain(SEQUENCE), backend="cuda")
    with pytest.raises(DynamicsError, match=r"no arguments \['model'\]"):
        openmmml.MLPotential("cgschnet", modelPath=str(folder / "potential.pt"), model="x")
