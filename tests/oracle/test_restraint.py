"""The restraint on the beads: analytic energy and forces, its schedule, and forces saved without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from cgal_plugin.errors import OracleError
from cgal_plugin.oracle import AllAtomLibrary, AllAtomModel, LabelSettings, OpenMMOracle, labels
from cgal_plugin.oracle.backmap import Backmapper
from cgal_plugin.oracle.contexts import set_positions
from cgal_plugin.oracle.labels import free_label, steered_label
from cgal_plugin.oracle.peptide import build_peptide
from cgal_plugin.oracle.restraint import RESTRAINT_GROUP, RESTRAINT_PARAMETER, BeadRestraint
from cgal_plugin.oracle.screen import screen
from cgal_plugin.provenance import derive_seed, hash_array
from cgal_plugin.units import kT

from .conftest import TEMPERATURE

BACKBONE = {"name": "BB", "residues": {"*": {"CA": {"atoms": ["N", "CA", "C"], "weights": "mass"}}}}
STRONG = 500.0  # kcal/mol/Å²; the distance of two neighbouring beads has a force constant of about 300


def restraint_state(context: Any) -> tuple[float, np.ndarray]:
    """Energy (kcal/mol) and forces (n_atoms, 3) (kcal/mol/Å) of the restraint alone."""
    from openmm import unit

    kcal = unit.kilocalorie_per_mole
    state = context.getState(getEnergy=True, getForces=True, groups={RESTRAINT_GROUP})
    forces = state.getForces(asNumpy=True).value_in_unit(kcal / unit.angstrom)
    return state.getPotentialEnergy().value_in_unit(kcal), np.array(forces)


@pytest.mark.parametrize("mapping", ["CA", BACKBONE], ids=["one atom per bead", "three atoms per bead"])
def test_energy_and_forces_are_the_analytic_ones(mapping: Any) -> None:
    model = AllAtomModel.from_sequence("AA", mapping)
    context = model.context(300.0, system=model.make_system(bead_restraint=True))
    restraint, rng = BeadRestraint(model.mapping), np.random.default_rng(0)
    k = 7.0  # kcal/mol/Å²
    for _ in range(2):  # the second set of targets replaces the first
        positions = model.positions + rng.normal(0, 0.2, model.positions.shape)
        beads = model.mapping.map_positions(positions)
        targets = beads + rng.normal(0, 1.0, beads.shape)
        set_positions(context, positions)
        restraint.set_targets(context, targets)
        context.setParameter(RESTRAINT_PARAMETER, 0.0)
        energy, forces = restraint_state(context)
        assert energy == 0.0
        assert not forces.any()
        context.setParameter(RESTRAINT_PARAMETER, k * 418.4)
        energy, forces = restraint_state(context)
        assert energy == pytest.approx(0.5 * k * ((beads - targets) ** 2).sum(), rel=1e-4)
        expected = -k * model.mapping.matrix.T @ (beads - targets)
        np.testing.assert_allclose(forces, expected, atol=1e-3)


@pytest.mark.parametrize("dynamics", [free_label, steered_label])
def test_saved_forces_and_energies_do_not_contain_the_restraint(
    aa_oracle: OpenMMOracle, dynamics: Any
) -> None:
    """They are those of the system without restraint at the saved positions."""
    from openmm import unit

    model, start = aa_oracle.model, aa_oracle.native_positions()
    far = model.mapping.map_positions(start) * 1.1  # the beads cannot follow: the restraint stays tense
    settings = LabelSettings(
        "free" if dynamics is free_label else "steered", 0.8, 0.2, 0.04, restraint=STRONG
    )
    saved = dynamics(model, start, far, settings, TEMPERATURE, 3)
    tension = STRONG * np.abs(model.mapping.map_positions(saved.positions) - far).max(axis=(1, 2))
    assert (tension > 1.0).any()  # 20 times what the comparison resolves
    plain, kcal = model.context(TEMPERATURE, platform="Reference"), unit.kilocalorie_per_mole
    for k in range(len(saved)):
        set_positions(plain, saved.positions[k])
        state = plain.getState(getForces=True, getEnergy=True)
        reference = state.getForces(asNumpy=True).value_in_unit(kcal / unit.angstrom)
        np.testing.assert_allclose(saved.forces[k], reference, atol=0.05)
        energy = state.getPotentialEnergy().value_in_unit(kcal)
        assert saved.energies[k] == pytest.approx(energy, abs=0.02)


def test_mean_force_balances_the_restraint(aa_oracle: OpenMMOracle, chance_seed: int) -> None:
    """The restraint stretches the distance of two beads, and the saved forces resist.

    In equilibrium the mean force along d vanishes. It has three parts: the saved force, the restraint, and
    2 kT/d of the volume element. Each bead's restraint k moves by half of Δ = d − d₀ and contributes
    −kΔ/2. The error is that of 15 blocks of 2 ps; the mean exceeds six of them by chance in 3 of 10⁵ tests
    (Student's t, 14 degrees of freedom).
    """
    n_blocks, limit, strength = 15, 6.0, 100.0
    assert 2 * stats.t.sf(limit, n_blocks - 1) < 5e-5
    beads = aa_oracle.mapping.map_positions(aa_oracle.native_positions())
    far = beads.mean(axis=0) + 1.06 * (beads - beads.mean(axis=0))
    settings = LabelSettings("free", 30.0, 4.0, 0.04, restraint=strength)
    trajectory = free_label(
        aa_oracle.model, aa_oracle.native_positions(), far, settings, TEMPERATURE, chance_seed + 1
    )
    arrow = np.diff(aa_oracle.mapping.map_positions(trajectory.positions.astype(float)), axis=1)[:, 0]
    distance = np.linalg.norm(arrow, axis=1)
    force = 0.5 * np.diff(aa_oracle.force_map.map_forces(trajectory.forces.astype(float)), axis=1)[:, 0]
    saved = (force * arrow).sum(axis=1) / distance
    pull = -0.5 * strength * (distance - np.linalg.norm(far[1] - far[0]))
    total = saved + pull + 2.0 * kT(TEMPERATURE) / distance
    error = np.std([b.mean() for b in np.array_split(total, n_blocks)], ddof=1) / np.sqrt(n_blocks)
    assert abs(total.mean()) < limit * error
    assert limit * error < 0.75 * abs(pull.mean())  # the test resolves the restraint


@pytest.fixture(scope="module")
def chain() -> OpenMMOracle:
    """Four glycines with a stretched structure as library."""
    oracle = OpenMMOracle("GGGG", temperature=TEMPERATURE)
    return oracle.with_library(AllAtomLibrary(oracle.model, oracle.extended_positions()[None]))


@pytest.fixture(scope="module")
def turned(chain: OpenMMOracle) -> np.ndarray:
    """Beads (4, 3) of a turn."""
    positions = build_peptide("GGGG", phi=[-70.0] * 3, psi=[60.0] * 3).positions
    return chain.mapping.map_positions(positions).astype(np.float32)


def test_schedule_of_a_steered_label(
    chain: OpenMMOracle, turned: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each saved stage, read the restraint that OpenMM holds: a straight line, then nothing."""
    from openmm import unit

    targets, constants, energies, counts = [], [], [], []
    collect = labels.collect

    def record(context: Any, n_frames: int, *args: Any, **options: Any) -> Any:
        force = context.getSystem().getForce(context.getSystem().getNumForces() - 1)
        beads = range(chain.mapping.n_beads)
        targets.append([[10.0 * x for x in force.getParticleParameters(i)[1]] for i in beads])
        constants.append(context.getParameter(RESTRAINT_PARAMETER))
        state = context.getState(getEnergy=True, groups={RESTRAINT_GROUP})
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilocalorie_per_mole))
        counts.append(n_frames)
        return collect(context, n_frames, *args, **options)

    monkeypatch.setattr(labels, "collect", record)
    start, goal = chain.extended_positions(), turned.astype(float)
    settings = LabelSettings("steered", 1.0, 0.2, 0.04, restraint=5.0, release_ps=0.4)
    trajectory = steered_label(chain.model, start, goal, settings, TEMPERATURE, 1)
    assert counts == [1] * 15 + [10]
    assert len(trajectory) == 25
    np.testing.assert_allclose(trajectory.time_ps, 0.04 * np.arange(1, 26))
    origin = chain.mapping.map_positions(start)
    share = np.append(np.arange(1, 16) / 15, 1.0)[:, None, None]
    np.testing.assert_allclose(targets, origin + share * (goal - origin), atol=1e-5)
    np.testing.assert_allclose(constants, [5.0 * 418.4] * 15 + [0.0])
    assert min(energies[:-1]) > 0.0
    assert energies[-1] == 0.0


def test_steering_follows_the_path_to_the_frame(
    chain: OpenMMOracle, turned: np.ndarray, chance_seed: int
) -> None:
    """A strong restraint carries the beads from the known structure to the frame.

    A bead 0.8 Å from its target costs 160 kcal/mol, 200 kT: no trajectory gets there by chance.
    """
    origin = turned.mean(axis=0)
    nearest = Backmapper(chain.model, library=chain.library, methods=["library"]).nearest(turned)
    assert nearest.rmsd_to_target > 1.0
    start, goal = nearest.positions - origin, turned - origin
    settings = LabelSettings("steered", 2.0, 0.4, 0.04, restraint=STRONG)
    trajectory = steered_label(chain.model, start, goal, settings, TEMPERATURE, chance_seed + 1)
    share = np.arange(1, 51)[:, None, None] / 50
    beads = chain.mapping.map_positions(start)
    path = beads + share * (goal - beads)
    distance = np.linalg.norm(chain.mapping.map_positions(trajectory.positions) - path, axis=-1)
    assert distance.max() < 0.8


def test_a_steered_label_is_that_of_the_nearest_structure(chain: OpenMMOracle) -> None:
    """Rows, metadata and quarantine of the oracle; a frame near the stretched chain."""
    oracle = OpenMMOracle(
        chain.model, temperature=TEMPERATURE, mode="steered", production_ps=0.4, relax_ps=0.2, save_ps=0.04,
        restraint=5.0, release_ps=0.2, library=chain.library, seed=2,
    )  # fmt: skip
    frame = (1.02 * chain.mapping.map_positions(chain.extended_positions())).astype(np.float32)
    torn = frame.copy()
    torn[3] += 40.0
    rows = oracle.label(np.stack([frame, torn]))
    assert [q.frame_index for q in rows.quarantined] == [1]
    assert "bond of beads" in rows.quarantined[0].reason
    assert len(rows) == 10
    assert rows.metadata["mode"] == "steered"
    assert rows.metadata["release_ps"] == 0.2
    assert rows.metadata["ps_per_frame"] == pytest.approx(0.6)
    origin = frame.mean(axis=0, dtype=np.float64)
    nearest = Backmapper(chain.model, library=chain.library, methods=["library"]).nearest(frame)
    seed = derive_seed(2, "label", hash_array(frame), 0)
    trajectory = steered_label(
        chain.model, nearest.positions - origin, frame - origin, oracle.settings, TEMPERATURE, seed
    )
    np.testing.assert_array_equal(rows.positions, chain.mapping.map_positions(trajectory.positions))
    np.testing.assert_array_equal(rows.forces, oracle.force_map.map_forces(trajectory.forces))


def test_release_changes_nothing_before_it(chain: OpenMMOracle, turned: np.ndarray) -> None:
    """The frames before the release are those of the shorter label, bit for bit."""
    held, released = (
        steered_label(chain.model, chain.extended_positions(), turned, settings, TEMPERATURE, 2)
        for settings in (
            LabelSettings("steered", 0.8, 0.2, 0.04, restraint=5.0),
            LabelSettings("steered", 1.2, 0.2, 0.04, restraint=5.0, release_ps=0.4),
        )
    )
    assert (len(held), len(released)) == (20, 30)
    np.testing.assert_array_equal(released.positions[:20], held.positions)
    np.testing.assert_array_equal(released.forces[:20], held.forces)


def test_released_beads_leave_a_strained_frame(aa_oracle: OpenMMOracle, chance_seed: int) -> None:
    """A bond of beads is stretched by 15 %; after the release it returns to its own length d₀.

    With force constants 250 (restraint) and 300 kcal/mol/Å² (bond) the restrained mean is 0.26 Å above d₀,
    the released one is d₀, and d varies by σ = 0.05 Å. The limit between them is 0.13 Å from both: 6 standard
    errors of a mean over 8 ps even if only 5 of its frames were independent (2 in 10⁹ tests).
    """
    beads = aa_oracle.mapping.map_positions(aa_oracle.native_positions())
    natural = float(np.linalg.norm(beads[1] - beads[0]))
    settings = LabelSettings("steered", 12.0, 0.4, 0.04, restraint=STRONG, release_ps=8.0)
    trajectory = steered_label(
        aa_oracle.model, aa_oracle.native_positions(), beads * 1.15, settings, TEMPERATURE, chance_seed + 1
    )
    assert screen(trajectory.positions[-1], aa_oracle.atom_topology, omega_min=90.0)
    distance = np.linalg.norm(np.diff(aa_oracle.mapping.map_positions(trajectory.positions), axis=1), axis=2)
    assert distance[90:100].mean() > natural + 0.13  # the last tenth of the way
    assert distance[100:].mean() < natural + 0.13


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"restraint": 1.0, "release_ps": 1.0}, "only mode steered releases"),
        ({"mode": "steered", "restraint": 1.0, "release_ps": 5.0}, r"release_ps = 5\.0 leaves no steered"),
        ({"mode": "steered", "restraint": 1.0, "release_ps": -1.0}, r"release_ps = -1\.0 must not be neg"),
        ({"mode": "steered"}, "mode steered needs a restraint"),
        ({"mode": "mean_force", "restraint": 1.0}, "freezes the beads"),
        ({"restraint": -1.0}, "restraint = -1"),
    ],
)  # fmt: skip
def test_bad_settings(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(OracleError, match=match):
        LabelSettings(**settings)
