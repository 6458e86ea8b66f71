"""Cheaper systems of backmapping: what they keep, and what a pull returns in spite of them."""

from __future__ import annotations

import time

import numpy as np
import openmm
import pytest
from openmm import unit

from cgal_plugin.oracle.backmap import Backmapper
from cgal_plugin.oracle.contexts import get_positions, set_positions
from cgal_plugin.oracle.peptide import build_peptide
from cgal_plugin.oracle.pull import Puller
from cgal_plugin.oracle.screen import screen
from cgal_plugin.oracle.surrogate import remove_solvent, slow_hydrogens, truncate
from cgal_plugin.oracle.system import AllAtomModel


@pytest.fixture(scope="module", params=["obc2", "gbn2"])
def model(request: pytest.FixtureRequest) -> AllAtomModel:
    return AllAtomModel.create("AKDA", solvent=request.param)


def energy(model: AllAtomModel, system: openmm.System) -> float:
    context = model.context(300.0, system=system)
    set_positions(context, model.positions)
    return context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilocalorie_per_mole)


def test_a_cutoff_beyond_the_molecule_keeps_the_energy(model):
    """Within the cutoff nothing is shifted but the constant of a reaction field, which has no force."""
    whole, cut = model.make_system(), model.make_system()
    truncate(cut, 8.0)
    assert {f.getNonbondedMethod() for f in cut.getForces() if hasattr(f, "getNonbondedMethod")} == {1}
    contexts = [model.context(300.0, system=s) for s in (whole, cut)]
    forces = []
    for context in contexts:
        set_positions(context, model.positions)
        forces.append(np.array(context.getState(getForces=True).getForces(asNumpy=True)._value))
    # the shift of 1/r at a cutoff of 8 nm leaves the forces as they are
    np.testing.assert_allclose(forces[1], forces[0], rtol=0, atol=1e-3 * np.abs(forces[0]).max())


def test_a_shorter_cutoff_of_the_model_is_kept():
    system = openmm.System()
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.7)
    periodic = openmm.NonbondedForce()
    periodic.setNonbondedMethod(periodic.PME)
    for f in (force, periodic):
        system.addForce(f)
    truncate(system, 1.0)
    assert system.getForce(0).getCutoffDistance().value_in_unit(unit.nanometer) == 0.7
    assert system.getForce(1).getNonbondedMethod() == periodic.PME


def test_the_solvent_goes_and_charges_are_scaled_with_their_exceptions(model):
    system = model.make_system()
    remove_solvent(system, 0.0)
    names = [type(f).__name__ for f in system.getForces()]
    assert not {"GBSAOBCForce", "CustomGBForce"} & set(names)
    neutral = energy(model, system)
    half, full = model.make_system(), model.make_system()
    remove_solvent(half, 0.5)
    remove_solvent(full, 1.0)
    # a pair of scaled charges has a quarter of the energy, with the 1–4 exceptions
    assert energy(model, half) - neutral == pytest.approx((energy(model, full) - neutral) / 4, rel=1e-4)


def test_flexible_hydrogens_are_stable_at_four_femtoseconds(model):
    system = model.make_system(constraints=False)
    slow_hydrogens(system)
    assert min(system.getParticleMass(i)._value for i in range(system.getNumParticles())) == 12.0
    context = model.context(300.0, system=system, timestep_fs=4.0, friction=10.0, seed=1)
    context.setVelocitiesToTemperature(300.0, 1)
    context.getIntegrator().step(500)
    assert screen(get_positions(context), model.mdtraj_topology, omega_min=90.0)


def test_the_result_satisfies_the_constraints_of_the_model(model):
    """The pull itself has flexible hydrogens; energies and labels are of the constrained model."""
    frame = model.mapping.map_positions(build_peptide("AKDA", phi=[-80] * 3, psi=[120] * 3).positions)
    puller = Puller(model)
    pulled = puller.pull(model.positions, frame, 1)
    system = model.make_system()
    assert system.getNumConstraints()
    for k in range(system.getNumConstraints()):
        i, j, length = system.getConstraintParameters(k)
        found = np.linalg.norm(pulled.positions[i] - pulled.positions[j]) / 10
        assert found == pytest.approx(length.value_in_unit(unit.nanometer), abs=1e-5)
    assert pulled.energy == pytest.approx(puller.energy(pulled.positions - frame.mean(axis=0)), abs=0.05)


@pytest.mark.integration
def test_thirty_five_residues_take_five_seconds_of_one_core():
    """CPU time of this process; 1.5 s where this was written, 12 s with the solvent in every step."""
    model = AllAtomModel.from_sequence(
        "LSDEDFKAVFGMTRSAFANLPLWKQQNLKKEKGLF", phi=[-63.0] * 34, psi=[-42.0] * 34
    )
    rng = np.random.default_rng(0)
    context = model.context(450.0, seed=1, friction=5.0)
    context.setVelocitiesToTemperature(450.0, 1)
    context.getIntegrator().step(250)
    beads = model.mapping.map_positions(get_positions(context)) + rng.normal(0, 0.2, (35, 3))
    mapper = Backmapper(model, methods=["library"])
    begin = time.process_time()
    (result,) = mapper.run(beads)
    assert time.process_time() - begin < 5.0
    assert result.ok, result.reason
    assert result.rmsd_to_target < 0.5
