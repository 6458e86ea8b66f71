"""The all-atom model, its dynamics, and the force maps fitted to it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.errors import MappingError, OracleError
from cgal_plugin.mapping import ForceMap
from cgal_plugin.oracle import AllAtomModel, AllAtomTrajectory, OpenMMOracle, TrajectoryTask, run_trajectory
from cgal_plugin.oracle.contexts import get_positions, potential_energy
from cgal_plugin.oracle.forcefield import force_field
from cgal_plugin.oracle.restraint import RESTRAINT_PARAMETER, BeadRestraint
from cgal_plugin.units import kT

BACKBONE = {"name": "BB", "residues": {"*": {"CA": {"atoms": ["N", "CA", "C"], "weights": "mass"}}}}


@pytest.fixture(scope="module")
def gyg() -> AllAtomModel:
    return AllAtomModel.from_sequence("GYG")


def forces_of(context: Any) -> np.ndarray:
    return np.asarray(context.getState(getForces=True).getForces(asNumpy=True)._value)


def test_native_obc_is_the_force_fields_own_obc(gyg: AllAtomModel) -> None:
    from openmm import CustomGBForce, GBSAOBCForce, app

    theirs = force_field("obc2").createSystem(
        gyg.topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds, hydrogenMass=3.0
    )
    ours = gyg.make_system()
    assert any(isinstance(f, CustomGBForce) for f in theirs.getForces())
    assert any(isinstance(f, GBSAOBCForce) for f in ours.getForces())
    assert not any(isinstance(f, CustomGBForce) for f in ours.getForces())
    one, two = (gyg.context(300.0, system=s, platform="Reference") for s in (ours, theirs))
    assert potential_energy(one) == pytest.approx(potential_energy(two), rel=1e-6)
    scale = np.abs(forces_of(two)).max()
    np.testing.assert_allclose(forces_of(one), forces_of(two), atol=1e-5 * scale)


def test_frozen_beads_stay_and_the_energy_function_is_the_same(gyg: AllAtomModel) -> None:
    from openmm import CMMotionRemover

    atoms = [group[0] for group in gyg.mapping.atom_groups]
    system = gyg.make_system(frozen=atoms)
    assert not any(isinstance(f, CMMotionRemover) for f in system.getForces())
    touched = {i for k in range(system.getNumConstraints()) for i in system.getConstraintParameters(k)[:2]}
    assert not touched & set(atoms)
    assert 0 < system.getNumConstraints() < gyg.make_system().getNumConstraints()
    context = gyg.context(400.0, system=system, timestep_fs=2.0, seed=3)
    assert potential_energy(context) == pytest.approx(potential_energy(gyg.context(400.0)), abs=1e-2)
    context.setVelocitiesToTemperature(400.0, 3)
    context.getIntegrator().step(300)
    moved = np.abs(get_positions(context) - gyg.positions)
    assert moved[atoms].max() < 1e-5
    assert moved.max() > 0.3


@pytest.mark.parametrize("mapping", ["CA", BACKBONE])
def test_bead_restraint_holds_beads_of_one_or_several_atoms(mapping: Any) -> None:
    model = AllAtomModel.from_sequence("AA", mapping)
    context = model.context(300.0, system=model.make_system(bead_restraint=True), seed=2)
    target = model.mapping.map_positions(model.positions) + 0.3
    BeadRestraint(model.mapping).set_targets(context, target)
    context.setParameter(RESTRAINT_PARAMETER, 50_000.0)
    context.getIntegrator().step(1500)
    assert np.abs(model.mapping.map_positions(get_positions(context)) - target).max() < 0.3


def test_models_survive_pickling(gyg: AllAtomModel) -> None:
    copy = pickle.loads(pickle.dumps(gyg))
    assert potential_energy(copy.context(300.0)) == potential_energy(gyg.context(300.0))
    assert copy.mapping.hash == gyg.mapping.hash


def test_gbn2_is_another_solvent(gyg: AllAtomModel) -> None:
    oracle = OpenMMOracle("AA", temperature=400.0, solvent="gbn2")
    assert len(oracle.run("folded", 0.4, seed=1, equilibrate_ps=0.2)) == 10
    assert oracle.metadata["solvent"] == "gbn2"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["free", "mean_force"])
def test_a_water_box_gives_labels(mode: str) -> None:
    oracle = OpenMMOracle(
        "AA", temperature=300.0, solvent="tip3pfb", mode=mode, production_ps=0.8, relax_ps=0.4,
        save_ps=0.2, methods=("library",),
    )  # fmt: skip
    assert oracle.model.n_particles > 500
    assert oracle.model.n_solute == 23
    frame = oracle.mapping.map_positions(oracle.native_positions())
    labels = oracle.label(frame[None])
    assert not labels.quarantined
    assert len(labels) == (4 if mode == "free" else 1)
    distance = np.linalg.norm(labels.positions[:, 1] - labels.positions[:, 0], axis=1)
    assert distance == pytest.approx(3.85, abs=0.35)


def test_runs_repeat_bit_for_bit_and_seeds_differ(aa_oracle: OpenMMOracle) -> None:
    seen: list[tuple[int, int]] = []
    one = aa_oracle.run(
        "extended", 0.4, seed=5, equilibrate_ps=0.2, progress=lambda i, n: seen.append((i, n))
    )
    task = TrajectoryTask(aa_oracle, "extended", 0.4, 5, equilibrate_ps=0.2)
    two = run_trajectory(pickle.loads(pickle.dumps(task)))
    np.testing.assert_array_equal(one.positions, two.positions)
    np.testing.assert_array_equal(one.forces, two.forces)
    three = aa_oracle.run("extended", 0.4, seed=6, equilibrate_ps=0.2)
    assert np.abs(one.positions - three.positions).max() > 0.1
    assert seen == [(i, 10) for i in range(1, 11)]
    np.testing.assert_allclose(one.time_ps, 0.04 * np.arange(1, 11))


def test_forces_and_energies_belong_to_the_positions(
    aa_oracle: OpenMMOracle, aa_trajectory: AllAtomTrajectory
) -> None:
    from openmm import Vec3, unit

    context = aa_oracle.model.context(400.0, platform="Reference")
    for k in (0, len(aa_trajectory) - 1):
        xyz = aa_trajectory.positions[k].astype(float) / 10.0
        context.setPositions([Vec3(*p) for p in xyz])
        state = context.getState(getForces=True, getEnergy=True)
        kcal = unit.kilocalorie_per_mole
        reference = np.array(state.getForces(asNumpy=True).value_in_unit(kcal / unit.angstrom))
        np.testing.assert_allclose(aa_trajectory.forces[k], reference, atol=0.05)
        assert aa_trajectory.energies[k] == pytest.approx(
            state.getPotentialEnergy().value_in_unit(kcal), abs=0.01
        )


@pytest.mark.parametrize("kind", ["basic", "optimal"])
def test_mapped_forces_are_the_gradient_of_the_free_energy(
    aa_oracle: OpenMMOracle, aa_trajectory: AllAtomTrajectory, kind: str
) -> None:
    """The distance d of the two beads is nearly harmonic, p(d) ∝ d² exp(−½ k (d−d₀)²/kT).

    So the mapped force along d must fall with slope −kT/var(d). The variance is known within 6 %
    (some 600 independent frames), the slope within 4 %: 20 % is beyond three standard errors.
    """
    force_map = aa_oracle.fit_force_map([aa_trajectory], kind)
    labels = aa_oracle.with_force_map(force_map).map_trajectory(aa_trajectory)
    arrow = labels.positions[:, 1] - labels.positions[:, 0]
    d = np.linalg.norm(arrow, axis=1)
    along = 0.5 * np.einsum("ni,ni->n", labels.forces[:, 1] - labels.forces[:, 0], arrow / d[:, None])
    slope = np.polyfit(d, along, 1)[0]
    assert slope == pytest.approx(-kT(400.0) / d.var(), rel=0.2)
    assert labels.metadata["temperature"] == 400.0
    assert labels.metadata["force_map_hash"] == force_map.hash
    assert set(labels.block) == {0}


def test_optimal_map_is_quieter(aa_oracle: OpenMMOracle, aa_trajectory: AllAtomTrajectory) -> None:
    fitted = aa_oracle.fit_force_map([aa_trajectory[:750]])
    later = aa_trajectory[750:].forces

    def rms(force_map: ForceMap) -> float:
        return float(np.sqrt(np.mean(force_map.map_forces(later) ** 2)))

    basic = aa_oracle.fit_force_map([], "basic")
    assert rms(fitted) < 0.8 * rms(basic)
    assert fitted.diagnostics["rms_held_out"] < fitted.diagnostics["rms_slice"]


def test_trajectory_files(aa_trajectory: AllAtomTrajectory, tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    aa_trajectory[:7].save(path)
    loaded = AllAtomTrajectory.load(path)
    assert loaded.temperature == 400.0
    np.testing.assert_array_equal(loaded.forces, aa_trajectory.forces[:7])
    path.write_bytes(b"nothing")
    with pytest.raises(OracleError, match="not a saved"):
        AllAtomTrajectory.load(path)
    with pytest.raises(OracleError, match="does not exist"):
        AllAtomTrajectory.load(tmp_path / "none.npz")


def test_wrong_arguments_are_named(aa_oracle: OpenMMOracle, aa_trajectory: AllAtomTrajectory) -> None:
    for bad, match in (
        ({"temperature": -1.0}, "-1.0 K"),
        ({"temperature": float("nan")}, "nan must be a finite"),
        ({"temperature": "300"}, "'300'"),
        ({"seed": "a"}, "seed = 'a'"),
        ({"relax_ps": "1 ps"}, "relax_ps"),
        ({"n_starts": 1.5}, r"n_starts = 1\.5"),
        ({"methods": ("magic",)}, r"magic.*library, cgback"),
        ({"library": [1]}, "library is list"),
        ({"solvent": "vacuum"}, "'vacuum'.*obc2"),
        ({"mode": "fixed"}, "'fixed'.*free, steered, mean_force"),
        ({"production_ps": 0.0}, r"production_ps = 0\.0"),
        ({"save_ps": 0.001}, "save_ps.*4 fs"),
        ({"relax_ps": -1.0}, "relax_ps"),
        ({"n_starts": 0}, "n_starts = 0"),
        ({"save_ps": 3.0, "production_ps": 1.0}, "no frame"),
    ):
        with pytest.raises(OracleError, match=match):
            OpenMMOracle(**({"sequence_or_pdb": "AA", "temperature": 400.0} | bad))
    with pytest.raises(OracleError, match=r"'Abacus'.*Reference"):
        OpenMMOracle(aa_oracle.model, temperature=400.0, platform="Abacus").run("folded", 1.0, seed=0)
    with pytest.raises(OracleError, match=r"picoseconds = '1 ps'"):
        aa_oracle.run("folded", "1 ps", seed=0)  # type: ignore[arg-type]
    with pytest.raises(OracleError, match=r"each bead.*one atom"):
        OpenMMOracle("AA", temperature=400.0, mapping=BACKBONE, mode="mean_force")
    with pytest.raises(MappingError, match=r"slice.*constrained atoms differ"):
        aa_oracle.with_force_map(aa_oracle.fit_force_map([], "slice"))
    with pytest.raises(MappingError, match="at least 200 frames"):
        aa_oracle.fit_force_map([aa_trajectory[:150]])
    with pytest.raises(OracleError, match="no all-atom trajectory"):
        aa_oracle.fit_force_map([])
    with pytest.raises(OracleError, match="'best'"):
        aa_oracle.fit_force_map([aa_trajectory], "best")
    hot = aa_oracle.run("folded", 0.4, seed=1, temperature=600.0, equilibrate_ps=0.0)
    with pytest.raises(OracleError, match="600 K cannot be used at 400 K"):
        aa_oracle.fit_force_map([aa_trajectory, hot])
    with pytest.raises(OracleError, match="600 K"):
        aa_oracle.map_trajectory(hot)
    with pytest.raises(OracleError, match=r"'unfolded'.*folded, extended"):
        aa_oracle.run("unfolded", 1.0, seed=0)
    with pytest.raises(OracleError, match=r"\(5, 3\).*\(23, 3\)"):
        aa_oracle.run(np.zeros((5, 3)), 1.0, seed=0)
    with pytest.raises(OracleError, match="no frame"):
        aa_oracle.run("folded", 0.1, seed=0, save_ps=0.2)
    with pytest.raises(OracleError, match=r"exploded|failed"):
        aa_oracle.run(np.zeros((23, 3)), 0.4, seed=0, equilibrate_ps=0.0)
