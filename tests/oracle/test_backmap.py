"""Backmapping of peptides: on the frame with correct stereochemistry, or quarantined with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cgal_plugin.errors import BackmapError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.mapping.geometry import superposed_rmsd
from cgal_plugin.oracle import cgback
from cgal_plugin.oracle.backmap import Backmapper, BackmapSettings, as_model, backmap
from cgal_plugin.oracle.contexts import potential_energy, set_positions
from cgal_plugin.oracle.library import AllAtomLibrary
from cgal_plugin.oracle.peptide import build_peptide
from cgal_plugin.oracle.pull import Puller, PullSettings
from cgal_plugin.oracle.screen import screen
from cgal_plugin.oracle.system import AllAtomModel

CLN025 = "YYDPETGTWY"
HELIX = {"phi": [-60.0] * 7, "psi": [-45.0] * 7}
OTHER = {"phi": [-70, -65, -100, -70], "psi": [-40, 140, -30, 120]}


@pytest.fixture(scope="module")
def small() -> AllAtomModel:
    """Five residues, two of them with two stereocentres, and a proline."""
    return AllAtomModel.create("AIPTA")


@pytest.fixture(scope="module")
def small_frame(small) -> np.ndarray:
    """The beads of another conformation of the small peptide, (5, 3) Å."""
    return small.mapping.map_positions(build_peptide("AIPTA", **OTHER).positions)


def assert_sound(result, model, frame, rmsd=0.5):
    assert result.ok, result.reason
    assert not result.quarantined
    assert result.reason == ""
    assert result.positions.shape == (model.n_solute, 3)
    assert screen(result.positions, model.mdtraj_topology)
    beads = model.mapping.map_positions(result.positions)
    # on the frame where it is, not only after superposition
    assert np.sqrt(((beads - frame) ** 2).sum(axis=1).mean()) < rmsd
    assert result.rmsd_to_target == pytest.approx(superposed_rmsd(beads[None], frame)[0], abs=1e-9)


def test_frame_anywhere_in_space_and_energy_is_the_models(small, chance_seed):
    """The model's own beads: the restrained minimisation ends near the model's own energy.

    At 300 K the pull excites some 200 degrees of freedom by ½ kT each, 60 kcal/mol, and the minimisation
    removes it. 15 kcal/mol allow for a different minimum of the side chains and termini.
    """
    beads = small.mapping.map_positions(small.positions)
    frame = beads @ Rotation.random(random_state=3).as_matrix() + [300.0, -50.0, 20.0]
    (result,) = backmap(frame, small, methods=["library"], seed=chance_seed)
    assert_sound(result, small, frame, rmsd=0.15)
    assert result.method == "library"
    context = small.context(300.0)
    set_positions(context, result.positions - frame.mean(axis=0))
    assert result.energy == pytest.approx(potential_energy(context), abs=0.05)
    set_positions(context, small.positions)
    assert abs(result.energy - potential_energy(context)) < 15.0


def test_helix_reaches_the_stretched_chain_without_a_library(chance_seed):
    """4 Å or more away from the only structure."""
    helix = AllAtomModel.from_sequence("GAGAGAGA", **HELIX)
    stretched = build_peptide("GAGAGAGA").positions
    frame = helix.mapping.map_positions(stretched)
    assert superposed_rmsd(helix.mapping.map_positions(helix.positions)[None], frame)[0] > 4.0
    (result,) = backmap(frame, helix, methods=["library"], seed=chance_seed)
    assert_sound(result, helix, frame)


def test_noise_of_a_cg_model_is_tolerated(small, small_frame, chance_seed):
    frame = small_frame + np.random.default_rng(chance_seed).normal(0, 0.2, (5, 3))
    (result,) = backmap(frame, small, methods=["library"], seed=chance_seed)
    assert_sound(result, small, frame)


def test_result_depends_on_frame_and_seed_only(small, small_frame):
    own = small.mapping.map_positions(small.positions)
    mapper = Backmapper(small, methods=["library"], seed=4)
    together = mapper.run(np.stack([own, small_frame]))
    again = mapper.run(np.stack([small_frame, own]))
    other = Backmapper(small, methods=["library"], seed=4).run(small_frame)
    for result in (again[0], other[0]):
        np.testing.assert_array_equal(together[1].positions, result.positions)
        assert together[1].energy == result.energy
    different = backmap(small_frame, small, methods=["library"], seed=5)[0]
    assert np.abs(different.positions - together[1].positions).max() > 1e-3


def test_units_and_nearer_library_structures_are_used(small, small_frame):
    library = AllAtomLibrary(small, build_peptide("AIPTA", **OTHER).positions[None])
    mapper = Backmapper(small, library=library, methods=["library"])
    far = [distance for _, distance in mapper._library_starts(small_frame)]
    assert far[0] < 1e-3  # the library's frame first, the model's own after it
    assert len(far) == 2
    in_nm = (small_frame / 10).astype(np.float64)
    (result,) = mapper.run(in_nm, unit="nm")
    (same,) = mapper.run(in_nm * 10.0)
    np.testing.assert_array_equal(result.positions, same.positions)
    assert_sound(result, small, small_frame)


def test_beads_of_side_chains_are_targets_too(chance_seed):
    model = AllAtomModel.create("AGV", mapping="CACB")
    frame = model.mapping.map_positions(build_peptide("AGV", phi=[-80, -110], psi=[130, 150]).positions)
    assert frame.shape == (5, 3)
    (result,) = backmap(frame, model, methods=["library"], seed=chance_seed)
    assert_sound(result, model, frame, rmsd=0.2)


def distorted(frame: np.ndarray, kind: str) -> np.ndarray:
    """A frame that no structure, or hardly one, can match."""
    frame = frame.copy()
    if kind == "mirrored":
        return frame * [-1.0, 1.0, 1.0]
    if kind == "stretched":
        return frame * 1.25
    if kind == "overlapping":
        frame[3] = frame[1] + 0.1
    elif kind == "point":
        frame[:] = 0.0
    elif kind == "not finite":
        frame[2, 0] = np.nan
    else:
        frame[3:] += 30.0
    return frame


def assert_quarantined(result):
    assert result.quarantined
    assert np.isnan(result.positions).all()
    assert np.isnan(result.energy)


@pytest.mark.parametrize("kind", ["mirrored", "stretched"])
def test_distorted_frames_are_sound_or_have_a_reason(small, small_frame, kind):
    frame = distorted(small_frame, kind)
    (result,) = backmap(frame, small, methods=["library"])
    if result.ok:
        assert_sound(result, small, frame)
    else:
        assert_quarantined(result)
        assert "library start 1" in result.reason


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("overlapping", "library start 1"),
        ("point", "library start 1"),
        ("not finite", "1 of 5 beads have non-finite"),
        ("torn", "bond of beads 2 and 3"),
    ],
)
def test_impossible_frames_are_quarantined(small, small_frame, kind, match):
    """True for any pull: two CA atoms of a sound structure are 2.2 Å apart or more.

    The overlapping beads are 0.2 Å apart, which leaves at least 2 × 1 Å of deviation on five beads: an RMSD
    of 0.6 Å, above the limit of 0.5 Å.
    """
    (result,) = backmap(distorted(small_frame, kind), small, methods=["library"])
    assert_quarantined(result)
    assert match in result.reason


def test_bad_neighbours_in_the_batch_do_no_harm(small, small_frame):
    frames = np.stack([distorted(small_frame, "torn"), distorted(small_frame, "point"), small_frame])
    results = backmap(frames, small, methods=["library"], seed=1)
    assert [r.ok for r in results] == [False, False, True]
    alone = backmap(small_frame, small, methods=["library"], seed=1)[0]
    np.testing.assert_array_equal(results[2].positions, alone.positions)


def test_reasons_of_every_method_are_listed(small, small_frame):
    pytest.importorskip("cgback")
    (result,) = backmap(distorted(small_frame, "overlapping"), small)
    assert_quarantined(result)
    assert "library start 1" in result.reason
    assert "cgback: " in result.reason


def test_mirrored_start_structures_never_give_d_residues(small, small_frame):
    library = AllAtomLibrary(small, (small.positions * [1.0, -1.0, 1.0])[None])
    settings = BackmapSettings(n_starts=1)
    frame = library.beads[0]
    (result,) = backmap(frame, small, library=library, methods=["library"], settings=settings)
    if result.ok:
        assert_sound(result, small, frame)
    else:
        assert "library start 1 (0.0 Å away)" in result.reason


def test_dynamics_that_explode_are_a_reason_and_leave_the_context_usable(small, small_frame):
    # a bond of 1,000 cm⁻¹ is unstable above 11 fs and grows a hundredfold per step here
    wild = BackmapSettings(n_starts=1, pull=PullSettings(timestep_fs=80.0))
    (result,) = backmap(small_frame, small, methods=["library"], settings=wild)
    assert result.quarantined
    assert "OpenMM stopped" in result.reason or "non-finite" in result.reason
    puller = Puller(small)
    good = puller.pull(small.positions, small_frame, 1)
    start = small.positions.copy()
    start[:] = start[0]  # all atoms in one place
    for bad in (start, start * np.nan):
        try:
            pulled = puller.pull(bad, small_frame, 1)
        except BackmapError:
            continue
        assert np.isfinite(pulled.energy)
    np.testing.assert_array_equal(puller.pull(small.positions, small_frame, 1).positions, good.positions)


def test_cgback_alone(small, small_frame, chance_seed):
    torch = pytest.importorskip("torch")
    pytest.importorskip("cgback")
    mapper = Backmapper(small, methods=["cgback"], seed=chance_seed)
    state, rng = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    rough = cgback.cgback_structure(small, mapper.puller.tables, small_frame, 7)
    np.testing.assert_array_equal(rough, cgback.cgback_structure(small, mapper.puller.tables, small_frame, 7))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), rng)
    np.testing.assert_allclose(small.mapping.map_positions(rough), small_frame, atol=1e-3)
    (result,) = mapper.run(small_frame)
    assert_sound(result, small, small_frame)
    assert result.method == "cgback"


def test_cgback_not_installed(small, small_frame, monkeypatch):
    monkeypatch.setattr(cgback, "available", lambda: False)
    with pytest.raises(ImportError, match=r"cgal_plugin\[backmap\]"):
        backmap(small_frame, small, methods=["cgback"])
    collapsed = small_frame * 0.3
    assert backmap(small_frame, small)[0].ok
    (result,) = backmap(collapsed, small, settings=BackmapSettings(n_starts=1))
    assert "cgal_plugin[backmap]" in result.reason


def test_wrong_arguments(small, small_frame):
    with pytest.raises(BackmapError, match="library, cgback"):
        backmap(small_frame, small, methods=["pulchra"])
    with pytest.raises(BackmapError, match="10 beads"):
        backmap(np.zeros((2, 10, 3)), small)
    with pytest.raises(BackmapError, match="GG"):
        backmap(small_frame, small, library=AllAtomLibrary(AllAtomModel.create("GG")))
    with pytest.raises(BackmapError, match="AllAtomModel"):
        as_model(3.5)


def test_molecule_from_a_sequence_or_cg_topology():
    assert as_model("AG").sequence == "AG"
    model = as_model(CGTopology.from_sequence("AG", mapping="CACB"))
    assert model.mapping.n_beads == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thirty_diverse_frames_from_a_library_of_the_folded_basin():
    """The loop's first round: 0.5–7 Å from folded, all-atom frames of the folded basin only."""
    hairpin = AllAtomModel.create(CLN025)
    runs = []
    for temperature, start, ps in ((350.0, None, 10), (600.0, None, 120), (450.0, "stretched", 40)):
        xyz = hairpin.positions
        if start:
            xyz = hairpin.minimise(build_peptide(CLN025, phi=[-120.0] * 9, psi=[140.0] * 9).positions)
        context = hairpin.context(temperature, seed=3)
        set_positions(context, xyz)
        context.setVelocitiesToTemperature(temperature, 3)
        frames = []
        for _ in range(ps):
            context.getIntegrator().step(250)
            state = context.getState(getPositions=True)
            frames.append(np.array(state.getPositions(asNumpy=True)._value) * 10)
        runs.append(np.array(frames))
    folded = hairpin.mapping.map_positions(hairpin.positions)
    frames = hairpin.mapping.map_positions(np.concatenate(runs))
    distance = superposed_rmsd(frames, folded)
    usable = np.flatnonzero((distance > 0.5) & (distance < 7.0))
    chosen = usable[np.argsort(distance[usable])][np.linspace(0, len(usable) - 1, 30).astype(int)]
    assert np.ptp(distance[chosen]) > 3.0
    results = backmap(frames[chosen], hairpin, library=AllAtomLibrary(hairpin, runs[0]))
    assert sum(r.ok for r in results) >= 29, [r.reason for r in results if not r.ok]
    for result, frame in zip(results, frames[chosen], strict=True):
        if result.ok:
            assert_sound(result, hairpin, frame)
