from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.analysis import TICAModel, distance_features
from cgal_plugin.analysis.tica import feature_beads
from cgal_plugin.errors import AnalysisError
from cgal_plugin.mapping import CGTopology


def two_bead_process(n: int, rho: float, seed: int) -> np.ndarray:
    """Two beads whose distance is 5 Å plus an AR(1) process: TICA's eigenvalue is known."""
    rng = np.random.default_rng(seed)
    x = np.empty(n)
    x[0] = rng.normal()
    for i in range(1, n):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * rng.normal()
    frames = np.zeros((n, 2, 3))
    frames[:, 1, 0] = 5.0 + 0.5 * x
    return frames


def test_features_are_all_distances_in_nm() -> None:
    frames = np.zeros((1, 3, 3))
    frames[0, 1, 0], frames[0, 2, 1] = 3.0, 4.0
    np.testing.assert_allclose(distance_features(frames), [[0.3, 0.4, 0.5]])


def test_projection_is_deeptimes_kinetic_map(reference: list[np.ndarray]) -> None:
    from deeptime.decomposition import TICA

    ours = TICAModel.fit(reference, 5, 3)
    theirs = TICA(lagtime=5, dim=3, scaling="kinetic_map").fit_fetch(
        [distance_features(t) for t in reference]
    )
    frames = reference[0]
    np.testing.assert_allclose(
        ours.transform(frames), theirs.transform(distance_features(frames)), rtol=1e-7, atol=1e-9
    )
    np.testing.assert_allclose(ours.eigenvalues[:3], theirs.singular_values[:3])
    assert ours.dim == 3
    assert ours.provenance["n_pairs"] == sum(len(t) - 5 for t in reference)


def test_pairs_do_not_cross_trajectories() -> None:
    frames = two_bead_process(400, 0.9, 0)
    halves = TICAModel.fit([frames[:200], frames[200:]], 10, 1)
    swapped = TICAModel.fit([frames[200:], frames[:200]], 10, 1)
    np.testing.assert_allclose(halves.eigenvalues, swapped.eigenvalues)


def test_known_autocorrelation_and_timescale() -> None:
    rho, lag = 0.95, 10
    model = TICAModel.fit([two_bead_process(4000, rho, s) for s in range(5)], lag, 1)
    # 20,000 frames with a correlation time of 20: standard error about 0.03
    assert model.eigenvalues[0] == pytest.approx(rho**lag, abs=0.1)
    assert model.timescales[0] == pytest.approx(-lag / np.log(model.eigenvalues[0]))
    projected = np.concatenate(model.transform([two_bead_process(4000, rho, s) for s in range(5)]))
    assert projected.std() == pytest.approx(model.eigenvalues[0], rel=0.02)


def test_rotation_and_translation_do_not_matter(reference: list[np.ndarray]) -> None:
    model = TICAModel.fit(reference, 5, 2)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moved = reference[0] @ turn + np.array([30.0, -7.0, 1.0])
    np.testing.assert_allclose(model.transform(moved), model.transform(reference[0]), atol=1e-8)


def test_round_trip_in_a_fresh_process(tmp_path, reference: list[np.ndarray]) -> None:
    model = TICAModel.fit(reference, 5, 2)
    model.save(tmp_path / "tica.npz")
    np.save(tmp_path / "frames.npy", reference[0])
    code = (
        "import numpy as np; from cgal_plugin.analysis import TICAModel; "
        "m = TICAModel.load('tica.npz'); np.save('out.npy', m.transform(np.load('frames.npy'))); "
        "print(m.lag_frames, m.n_beads, m.provenance['rank'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["5", "8", str(len(model.eigenvalues))]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.transform(reference[0]))


def test_short_trajectories_are_left_out_and_counted(reference: list[np.ndarray]) -> None:
    model = TICAModel.fit([*reference, reference[0][:5]], 5, 2)
    assert model.provenance["n_short_trajectories"] == 1
    assert any("left out" in note for note in model.notes)
    np.testing.assert_allclose(model.eigenvalues, TICAModel.fit(reference, 5, 2).eigenvalues)


def test_empty_trajectories_stay_in_place(reference: list[np.ndarray]) -> None:
    model = TICAModel.fit(reference, 5, 2)
    shapes = [p.shape for p in model.transform([reference[0][:3], reference[0][:0]])]
    assert shapes == [(3, 2), (0, 2)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda r: ([t[:5] for t in r], 5, 2), "longer than the TICA lag"),
        (lambda r: (r, 0, 2), "lag_frames is 0"),
        (lambda r: (r, 5, 0), "dim is 0"),
        (lambda r: ([r[0], r[1][:, :7]], 5, 2), "has 7 beads; expected 8"),
        (lambda r: ([np.where(np.arange(50)[:, None, None] == 3, np.nan, r[0])], 5, 2), "frame 3"),
        (lambda r: ([np.repeat(r[0][:1], 40, axis=0)], 5, 2), "constant"),
        (lambda r: ([two_bead_process(100, 0.9, 0)], 5, 2), "only 1 independent"),
        (lambda r: ([r[0][:, :1]], 5, 1), "two beads"),
        (lambda r: ([], 5, 2), "no frames"),
        (lambda r: ([r[0][0]], 5, 2), "expected"),
    ],
)
def test_bad_input_is_named(reference: list[np.ndarray], make, words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        TICAModel.fit(*make(reference))


def test_projection_refuses_other_beads(reference: list[np.ndarray]) -> None:
    with pytest.raises(AnalysisError, match="expected 8"):
        TICAModel.fit(reference, 5, 2).transform(np.zeros((4, 9, 3)))


def test_load_refuses_what_is_not_a_model(tmp_path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3))
    (tmp_path / "y.npz").write_text("nonsense")
    for name in ("x.npz", "y.npz", "absent.npz"):
        with pytest.raises(AnalysisError):
            TICAModel.load(tmp_path / name)


def test_features_of_the_5bead_map_are_the_distances_of_ca(tmp_path: Path) -> None:
    top = CGTopology.from_sequence("AGTA", "5bead")
    beads = feature_beads(top)
    assert [top.bead_names[b] for b in beads] == ["CA"] * 4
    assert feature_beads(CGTopology.from_sequence("AGTA", "CACB")) == ()
    rng = np.random.default_rng(0)
    frames = np.cumsum(rng.normal(size=(500, top.n_beads, 3)), axis=0)
    own = TICAModel.fit([frames], 5, beads=beads)
    ca = TICAModel.fit([frames[:, list(beads)]], 5)
    assert own.n_beads == top.n_beads
    np.testing.assert_allclose(own.transform(frames), ca.transform(frames[:, list(beads)]))
    own.save(tmp_path / "tica.npz")
    again = TICAModel.load(tmp_path / "tica.npz")
    assert again.beads == beads
    np.testing.assert_array_equal(again.transform(frames), own.transform(frames))
    assert "beads" not in ca.provenance
