"""Labels: correct forces, independent of the other frames; quarantine instead of exceptions."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cgal_plugin.components.protocols import Oracle
from cgal_plugin.data import LabelledFrames
from cgal_plugin.errors import OracleError
from cgal_plugin.mapping.geometry import superposed_rmsd
from cgal_plugin.oracle import AllAtomTrajectory, LabelSettings, OpenMMOracle
from cgal_plugin.oracle.contexts import set_positions
from cgal_plugin.oracle.force_error import frame_noise, mean_and_error
from cgal_plugin.oracle.labels import free_label, frozen_label
from cgal_plugin.oracle.trajectory import DynamicsFailure
from cgal_plugin.units import kT

from .conftest import import_this_module


@pytest.fixture(scope="module")
def oracle(chance_seed: int) -> OpenMMOracle:
    return OpenMMOracle(
        "GAG", temperature=400.0, mode="free", production_ps=0.4, relax_ps=0.2, save_ps=0.04,
        methods=("library",), seed=4 + chance_seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def frames(oracle: OpenMMOracle, chance_seed: int) -> np.ndarray:
    """Two frames of dynamics, one with a bead 40 Å away, one not finite; far from the origin."""
    trajectory = oracle.run("extended", 2.0, seed=2 + chance_seed, save_ps=1.0, equilibrate_ps=0.4)
    good = oracle.mapping.map_positions(trajectory.positions)
    torn = good[:1] + np.array([[0, 0, 0], [0, 0, 0], [40, 0, 0]])
    return (np.concatenate([good, torn, good[:1] * np.nan]) + 25.0).astype(np.float32)


@pytest.fixture(scope="module")
def labels(oracle: OpenMMOracle, frames: np.ndarray) -> LabelledFrames:
    return oracle.label(frames)


def assert_same(one: LabelledFrames, two: LabelledFrames) -> None:
    np.testing.assert_array_equal(one.positions, two.positions)
    np.testing.assert_array_equal(one.forces, two.forces)
    np.testing.assert_array_equal(one.force_error, two.force_error)


def rows(labels: LabelledFrames, frame: int) -> LabelledFrames:
    keep = labels.frame_index == frame
    return replace(
        labels,
        **{
            name: getattr(labels, name)[keep]
            for name in ("positions", "forces", "frame_index", "start_index", "force_error")
        },
    )


def test_free_labels_and_quarantine(oracle: OpenMMOracle, frames: np.ndarray, labels: LabelledFrames) -> None:
    assert isinstance(oracle, Oracle)
    assert labels.frame_index.tolist() == [0] * 10 + [1] * 10
    assert [q.frame_index for q in labels.quarantined] == [2, 3]
    assert "bond of beads 1 and 2" in labels.quarantined[0].reason
    assert "not finite" in labels.quarantined[1].reason
    assert set(labels.block) == {0, 1}
    distance = np.linalg.norm(np.diff(labels.positions, axis=1), axis=2)
    assert distance == pytest.approx(3.85, abs=0.5)
    assert (labels.force_error > 1.0).all()
    wanted = {"temperature", "mode", "solvent", "force_map_hash", "save_ps", "seed", "versions"}
    assert wanted <= set(labels.metadata)
    assert labels.metadata["save_ps"] == pytest.approx(0.04)


def test_dynamics_starts_at_the_frame(oracle: OpenMMOracle, frames: np.ndarray) -> None:
    """Without relaxation the first row is 40 fs after a backmapped structure, within 0.5 Å RMSD of the frame.

    In that time a CA atom moves 0.2 Å per component (one standard deviation of the thermal velocity at
    400 K). The limit leaves six of these standard deviations.
    """
    unrelaxed = OpenMMOracle(
        oracle.model, temperature=400.0, mode="free", production_ps=0.04, relax_ps=0.0, save_ps=0.04,
        methods=("library",),
    )  # fmt: skip
    rows = unrelaxed.label(frames[:2])
    assert rows.frame_index.tolist() == [0, 1]
    for row, frame in zip(rows.positions.astype(float), frames.astype(float), strict=False):
        assert superposed_rmsd(row[None], frame)[0] < 0.5 + 6 * 0.2


def test_a_label_depends_on_its_frame_only(
    oracle: OpenMMOracle, frames: np.ndarray, labels: LabelledFrames
) -> None:
    """Alone, in another order, from float64, after a copy, in a new process: bit for bit the same."""
    backwards = oracle.label(frames[::-1].astype(np.float64))
    assert_same(rows(backwards, 2), rows(labels, 1))
    with multiprocessing.get_context("spawn").Pool(1, import_this_module) as pool:
        alone = pool.apply(oracle.label, (frames[:1],))
    assert_same(alone, rows(labels, 0))
    other = OpenMMOracle(
        oracle.model, temperature=400.0, mode="free", production_ps=0.4, relax_ps=0.2, save_ps=0.04, seed=1000
    )
    other.methods = oracle.methods
    assert np.abs(other.label(frames[:1]).forces - alone.forces).max() > 0.1


def test_starts_are_blocks_of_their_own(oracle: OpenMMOracle, frames: np.ndarray) -> None:
    twice = OpenMMOracle(
        oracle.model, temperature=400.0, mode="free", production_ps=0.2, relax_ps=0.2, save_ps=0.04,
        n_starts=2, methods=("library",),
    )  # fmt: skip
    labelled = twice.label(frames[:1])
    assert labelled.start_index.tolist() == [0] * 5 + [1] * 5
    assert set(labelled.block) == {0, 1}
    assert np.abs(labelled.forces[:5] - labelled.forces[5:]).max() > 0.1
    assert twice.cost_estimate(10)["oracle_ns"] == pytest.approx(10 * 2 * 0.4 / 1000)


def test_mean_force_labels(oracle: OpenMMOracle, frames: np.ndarray) -> None:
    averaging = OpenMMOracle(
        oracle.model, temperature=400.0, mode="mean_force", production_ps=0.4, relax_ps=0.2, save_ps=0.04,
        methods=("library",),
    )  # fmt: skip
    labelled = averaging.label(frames[:1])
    np.testing.assert_array_equal(labelled.positions, frames[:1])
    assert labelled.frame_index.tolist() == [0]
    assert np.isfinite(labelled.force_error).all()
    assert labelled.metadata["mode"] == "mean_force"
    assert labelled.metadata["n_starts"] == 2
    assert labelled.metadata["timestep_fs"] == 2.0


def test_frozen_beads_stay_at_the_frame_and_forces_belong_to_the_positions(aa_oracle: OpenMMOracle) -> None:
    """Saved forces are those of the model with flexible bonds at the saved positions."""
    from openmm import unit

    model, start = aa_oracle.model, aa_oracle.native_positions()
    target = model.mapping.map_positions(start) * 1.01
    settings = LabelSettings("mean_force", 0.4, 0.2, 0.04)
    saved = frozen_label(model, start, target, settings, 400.0, 1)
    for positions in saved.positions:
        np.testing.assert_allclose(model.mapping.map_positions(positions), target, atol=1e-5)
    flexible = model.context(400.0, system=model.make_system(constraints=False), platform="Reference")
    for k in (0, len(saved) - 1):
        set_positions(flexible, saved.positions[k])
        forces = flexible.getState(getForces=True).getForces(asNumpy=True)
        reference = forces.value_in_unit(unit.kilocalorie_per_mole / unit.angstrom)
        beads = [group[0] for group in model.mapping.atom_groups]
        np.testing.assert_allclose(saved.forces[k][beads], reference[beads], atol=0.05)


def test_mean_force_is_the_gradient_of_the_free_energy(
    aa_oracle: OpenMMOracle, aa_trajectory: AllAtomTrajectory, chance_seed: int
) -> None:
    """Two beads at distance d: p(d) of free dynamics gives the PMF, frozen beads give its slope.

    p(d) is nearly Gaussian with variance v, so the mean force along d falls by kT/v per Å. The errors of v
    (20 blocks of 3 ps) and of the two mean forces (10 blocks of 0.6 ps) are estimated; a t-distributed
    deviation exceeds six standard errors in 2 of 10⁴ tests (9 degrees of freedom). The three force maps have
    the same expectation here, as no constraint acts on a frozen bead: they differ by less than six of their
    joint standard errors.
    """
    limit = 6.0
    assert 2 * stats.t.sf(limit, 9) < 2.5e-4
    arrows = np.diff(aa_oracle.mapping.map_positions(aa_trajectory.positions), axis=1)[:, 0]
    d = np.linalg.norm(arrows, axis=1)
    squares = [np.mean((b - d.mean()) ** 2) for b in np.array_split(d, 20)]
    relative = np.std(squares, ddof=1) / np.sqrt(20) / d.var()  # error of v
    start = aa_oracle.native_positions()
    beads = aa_oracle.mapping.map_positions(start)
    arrow = (beads[1] - beads[0]) / np.linalg.norm(beads[1] - beads[0])
    settings = LabelSettings("mean_force", 6.0, 1.0, 0.04, 1)
    maps = {k: aa_oracle.fit_force_map([aa_trajectory], k) for k in ("optimal", "basic", "slice")}
    along: dict[str, list[float]] = {k: [] for k in maps}
    error: dict[str, list[float]] = {k: [] for k in maps}
    distances = (float(d.mean()) - 0.1, float(d.mean()) + 0.1)
    for i, distance in enumerate(distances):
        target = np.stack([beads[0], beads[0] + distance * arrow])
        seed = 11 + 2 * chance_seed + i
        series = frozen_label(aa_oracle.model, start, target, settings, 400.0, seed).forces
        for kind, force_map in maps.items():
            mapped = force_map.map_forces(series)
            projected = 0.5 * (mapped[:, 1] - mapped[:, 0]) @ arrow
            along[kind].append(float(projected.mean()))
            blocks = [b.mean() for b in np.array_split(projected, 10)]
            error[kind].append(float(np.std(blocks, ddof=1) / np.sqrt(10)))
            # 150 frames reduce the noise of one by a factor of 12 if they are independent
            assert mean_and_error([mapped])[1] < 0.5 * frame_noise(mapped)
    slope = (along["optimal"][1] - along["optimal"][0]) / (distances[1] - distances[0])
    expected = -kT(400.0) / d.var()
    joint = np.hypot(relative * expected, np.hypot(*error["optimal"]) / (distances[1] - distances[0]))
    assert abs(slope - expected) < limit * joint
    assert limit * joint < 0.8 * abs(expected)  # the test resolves a factor of two
    for kind in ("basic", "slice"):
        for i in (0, 1):
            both = np.hypot(error[kind][i], error["optimal"][i])
            assert abs(along[kind][i] - along["optimal"][i]) < limit * both, kind


def test_frozen_labels_may_use_the_slice_and_free_ones_not(oracle: OpenMMOracle) -> None:
    plain = oracle.fit_force_map([], "slice")
    frozen = OpenMMOracle(oracle.model, temperature=400.0, mode="mean_force", force_map=plain)
    assert frozen.force_map.hash == plain.hash
    assert len(frozen.label_constraints) < len(oracle.label_constraints)


def test_nothing_labelled_is_a_result(oracle: OpenMMOracle, frames: np.ndarray) -> None:
    labelled = oracle.label(frames[2:])
    assert len(labelled) == 0
    assert labelled.positions.shape == (0, 3, 3)
    assert [q.frame_index for q in labelled.quarantined] == [0, 1]
    assert labelled.block.shape == (0,)
    with pytest.raises(OracleError, match=r"\(3, 3\).*\(n, 3, 3\)"):
        oracle.label(frames[0])
    with pytest.raises(OracleError, match=r"\(4, 2, 3\)"):
        oracle.label(frames[:, :2])


def test_dynamics_that_blow_up_are_failures_not_crashes(oracle: OpenMMOracle) -> None:
    beads = oracle.mapping.map_positions(oracle.native_positions())
    heap = np.zeros_like(oracle.native_positions())
    with pytest.raises(DynamicsFailure):
        free_label(oracle.model, heap, beads, oracle.settings, 400.0, 1)
    settings = LabelSettings("mean_force", 0.2, 0.2, 0.04, 1)
    with pytest.raises(DynamicsFailure, match=r"Å from the frame"):
        frozen_label(oracle.model, oracle.native_positions(), beads + 5.0, settings, 400.0, 1)


def test_noise_estimates_find_the_noise() -> None:
    rng = np.random.default_rng(0)
    slow = 5.0 * np.sin(np.linspace(0, 3, 500))[:, None, None]
    series = slow + 2.0 * rng.normal(size=(500, 4, 3))
    assert frame_noise(series) == pytest.approx(2.0, rel=0.05)
    assert np.isnan(frame_noise(series[:9]))
    # starts that differ by a systematic 1.0: the spread shows it, the blocks of one start cannot
    offsets = rng.normal(size=(8, 20, 3))
    starts = [o + 0.1 * rng.normal(size=(100, 20, 3)) for o in offsets]
    mean, error = mean_and_error(starts)
    np.testing.assert_allclose(mean, offsets.mean(axis=0), atol=0.05)
    assert error == pytest.approx(1.0 / np.sqrt(8), rel=0.15)
    assert mean_and_error(starts[:1])[1] == pytest.approx(0.1 / np.sqrt(100), rel=0.4)
    assert np.isnan(mean_and_error([starts[0][:5]])[1])
