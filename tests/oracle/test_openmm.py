"""The all-atom model, its dynamics, and the force maps fitted to it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cgal_plugin.errors import MappingError, OracleError
from cgal_plugin.mapping import ForceMap
from cgal_plugin.oracle import AllAtomModel, AllAtomTrajectory, OpenMMOracle, TrajectoryTask, run_trajectory
from cgal_plugin.oracle.contexts import get_positions, potential_energy, set_positions
from cgal_plugin.oracle.forcefield import force_field
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


def test_models_survive_pickling(gyg: AllAtomModel) -> None:
    copy = pickle.loads(pickle.dumps(gyg))
    assert potential_energy(copy.context(300.0)) == potential_energy(gyg.context(300.0))
    assert copy.mapping.hash == gyg.mapping.hash


def test_gbn2_is_another_solvent(gyg: AllAtomModel) -> None:
    oracle = OpenMMOracle("AA", temperature=400.0, solvent="gbn2")
    assert len(oracle.run("auto", 0.4, seed=1, save_ps=0.04, equilibrate_ps=0.2)) == 10
    assert oracle.metadata["solvent"] == "gbn2"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["free", "mean_force"])
def test_a_water_box_gives_labels(mode: str) -> None:
    oracle = OpenMMOracle(
        "AA", temperature=300.0, solvent="tip3pfb", mode=mode, production_ps=0.8, relax_ps=0.4,
        save_ps=0.2, methods=("library",),
    )  # fmt: skip
    assert len(oracle.model.positions) > 500
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
    aa_oracle: OpenMMOracle, aa_short: AllAtomTrajectory
) -> None:
    from openmm import unit

    context = aa_oracle.model.context(400.0, platform="Reference")
    for k in (0, len(aa_short) - 1):
        set_positions(context, aa_short.positions[k])
        state = context.getState(getForces=True, getEnergy=True)
        kcal = unit.kilocalorie_per_mole
        reference = np.array(state.getForces(asNumpy=True).value_in_unit(kcal / unit.angstrom))
        np.testing.assert_allclose(aa_short.forces[k], reference, atol=0.05)
        assert aa_short.energies[k] == pytest.approx(state.getPotentialEnergy().value_in_unit(kcal), abs=0.01)


@pytest.mark.parametrize("kind", ["basic", "optimal"])
def test_mapped_forces_are_the_gradient_of_the_free_energy(
    aa_oracle: OpenMMOracle, aa_trajectory: AllAtomTrajectory, kind: str
) -> None:
    """In equilibrium ⟨(F + 2 kT/d)(d − ⟨d⟩)⟩ = −kT for the mapped force F along the distance d of two beads.

    Integration by parts of p(d) ∝ d² exp(−A(d)/kT) with F = −dA/dd; no assumption on the shape of A. The
    standard error is that of 20 blocks of 3 ps; the mean deviates by more than five of them in 8 of 10⁵
    tests (Student's t, 19 degrees of freedom).
    """
    limit, thermal = 5.0, kT(400.0)
    assert 2 * stats.t.sf(limit, 19) < 1e-4
    force_map = aa_oracle.fit_force_map([aa_trajectory], kind)
    labels = aa_oracle.with_force_map(force_map).map_trajectory(aa_trajectory)
    arrow = np.diff(labels.positions.astype(float), axis=1)[:, 0]
    d = np.linalg.norm(arrow, axis=1)
    along = 0.5 * np.einsum("ni,ni->n", np.diff(labels.forces.astype(float), axis=1)[:, 0], arrow) / d
    virial = (along + 2.0 * thermal / d) * (d - d.mean())
    error = np.std([b.mean() for b in np.array_split(virial, 20)], ddof=1) / np.sqrt(20)
    assert abs(virial.mean() + thermal) < limit * error
    assert limit * error < 0.6 * thermal  # the test resolves a wrong factor
    assert labels.metadata["temperature"] == 400.0
    assert labels.metadata["force_map_hash"] == force_map.hash
    assert set(labels.block) == {0}


def test_optimal_map_is_quieter(aa_oracle: OpenMMOracle, aa_trajectory: AllAtomTrajectory) -> None:
    """On the frames of its fit, the optimal map has the least mean square of all valid maps.

    On later frames the gain remains: it is 40 % of the rms, and the limit of 20 % is far from it.
    """
    fitted = aa_oracle.fit_force_map([aa_trajectory[:750]])
    basic = aa_oracle.fit_force_map([], "basic")

    def rms(force_map: ForceMap, rows: slice) -> float:
        return float(np.sqrt(np.mean(force_map.map_forces(aa_trajectory.forces[rows]) ** 2)))

    assert rms(fitted, slice(750)) < rms(basic, slice(750))
    assert rms(fitted, slice(750, None)) < 0.8 * rms(basic, slice(750, None))
    assert fitted.diagnostics["rms_held_out"] < fitted.diagnostics["rms_slice"]


def test_trajectory_files(aa_short: AllAtomTrajectory, tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    aa_short[:7].save(path)
    loaded = AllAtomTrajectory.load(path)
    assert loaded.temperature == 400.0
    np.testing.assert_array_equal(loaded.forces, aa_short.forces[:7])
    path.write_bytes(b"nothing")
    with pytest.raises(OracleError, match="not a saved"):
        AllAtomTrajectory.load(path)
    with pytest.raises(OracleError, match="does not exist"):
        AllAtomTrajectory.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"temperature": -1.0}, "-1.0 K"),
        ({"temperature": float("nan")}, "nan must be a finite"),
        ({"temperature": "300"}, "'300'"),
        ({"seed": "a"}, "seed = 'a'"),
        ({"relax_ps": "1 ps"}, "relax_ps"),
        ({"n_starts": 1.5}, r"n_starts = 1\.5"),
        ({"methods": ("magic",)}, r"magic.*library, cgback"),
        ({"library": [1]}, "library is list"),
        ({"sequence_or_pdb": "AA", "solvent": "vacuum"}, "'vacuum'.*obc2"),
        ({"mode": "fixed"}, "'fixed'.*free, steered, mean_force"),
        ({"production_ps": 0.0}, r"production_ps = 0\.0"),
        ({"save_ps": 0.001}, "save_ps.*4 fs"),
        ({"relax_ps": -1.0}, "relax_ps"),
        ({"n_starts": 0}, "n_starts = 0"),
        ({"save_ps": 3.0, "production_ps": 1.0}, "no frame"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(aa_oracle: OpenMMOracle, bad: dict[str, Any], match: str) -> None:
    with pytest.raises(OracleError, match=match):
        OpenMMOracle(**({"sequence_or_pdb": aa_oracle.model, "temperature": 400.0} | bad))


def test_mean_force_needs_beads_of_one_atom() -> None:
    with pytest.raises(OracleError, match=r"each bead.*one atom"):
        OpenMMOracle("AA", temperature=400.0, mapping=BACKBONE, mode="mean_force")


def test_unknown_platform_is_named(aa_oracle: OpenMMOracle) -> None:
    with pytest.raises(OracleError, match=r"'Abacus'.*Reference"):
        OpenMMOracle(aa_oracle.model, temperature=400.0, platform="Abacus").run("auto", 1.0, seed=0)


def test_force_maps_that_cannot_be_made(aa_oracle: OpenMMOracle, aa_short: AllAtomTrajectory) -> None:
    with pytest.raises(MappingError, match=r"slice.*constrained atoms differ"):
        aa_oracle.with_force_map(aa_oracle.fit_force_map([], "slice"))
    with pytest.raises(MappingError, match="at least 200 frames"):
        aa_oracle.fit_force_map([aa_short[:150]])
    with pytest.raises(OracleError, match="no all-atom trajectory"):
        aa_oracle.fit_force_map([])
    with pytest.raises(OracleError, match="'best'"):
        aa_oracle.fit_force_map([aa_short], "best")


def test_trajectories_of_another_temperature_are_refused(
    aa_oracle: OpenMMOracle, aa_short: AllAtomTrajectory
) -> None:
    hot = aa_oracle.run("auto", 0.04, seed=1, temperature=600.0, equilibrate_ps=0.0)
    with pytest.raises(OracleError, match="600 K cannot be used at 400 K"):
        aa_oracle.fit_force_map([aa_short, hot])
    with pytest.raises(OracleError, match="600 K"):
        aa_oracle.map_trajectory(hot)


@pytest.mark.parametrize(
    ("start", "options", "match"),
    [
        ("auto", {"picoseconds": "1 ps"}, r"picoseconds = '1 ps'"),
        ("unfolded", {}, r"'unfolded'.*folded, extended"),
        (np.zeros((5, 3)), {}, r"\(5, 3\).*\(23, 3\)"),
        ("auto", {"picoseconds": 0.1, "save_ps": 0.2}, "no frame"),
        (np.zeros((23, 3)), {"picoseconds": 0.4, "equilibrate_ps": 0.0}, r"blew up|failed"),
    ],
    ids=["length", "name", "shape", "no frame", "all atoms in one place"],
)
def test_bad_runs_are_named(aa_oracle: OpenMMOracle, start: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(OracleError, match=match):
        aa_oracle.run(start, **({"picoseconds": 1.0, "seed": 0} | options))


def test_a_task_without_an_oracle_is_refused() -> None:
    with pytest.raises(OracleError, match="no oracle"):
        run_trajectory(TrajectoryTask(None, "auto", 1.0, 0))
