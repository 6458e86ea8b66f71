"""A frame that is no structure does not spoil a fit; honest distributions are not cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cgal_plugin.errors import CGALWarning, PriorFitError
from cgal_plugin.mapping import CGTopology
from cgal_plugin.priors import PriorSet, fit_priors
from cgal_plugin.priors.outliers import reject_outliers
from tests.priors.chains import chains

TOPOLOGY = CGTopology.from_sequence("YYDPETGTWY")
FRAMES = chains(830, 10, seed=3)


def constant(priors: PriorSet) -> float:
    row = next(r for r in priors.table() if r["term"] == "bonds" and r["types"] == ["*", "*"])
    return float(row["parameters"]["k"])


def test_one_wrapped_frame_does_not_change_the_bond_constant(tmp_path: Path) -> None:
    wrapped = FRAMES.copy()
    wrapped[400, 6:] += [39.0, 0, 0]
    expected = fit_priors(TOPOLOGY, np.delete(FRAMES, 400, axis=0), 400.0)
    with pytest.warns(CGALWarning, match=r"1 of 830 frames left out .*CA_THR6–CA_GLY7 .* in frame 400"):
        priors = fit_priors(TOPOLOGY, wrapped, 400.0)
    assert constant(priors) == pytest.approx(constant(expected), rel=1e-12)
    assert priors.hash == expected.hash
    assert priors.n_frames == 829
    assert priors.rejected[0]["frames"] == [400]
    priors.save(tmp_path / "p.yaml")
    loaded = PriorSet.load(tmp_path / "p.yaml")
    assert json.dumps(loaded.rejected) == json.dumps(priors.rejected)
    assert loaded.hash == priors.hash


@pytest.mark.parametrize("change", ["overlap", "stretched", "origin", "two"])
def test_other_frames_that_are_no_structures(change: str) -> None:
    frames = FRAMES[:300].copy()
    rows = [17]
    if change == "overlap":
        frames[17, 5] = frames[17, 4]
    elif change == "stretched":  # possible, but far away from all others
        frames[17, 5:] += 1.7 * (frames[17, 5] - frames[17, 4]) / 3.8
    elif change == "origin":
        frames[17] = 0.0
    else:
        frames[[17, 200], 5:] += 30.0
        rows = [17, 200]
    keep, records = reject_outliers(TOPOLOGY, frames)
    if change == "stretched":
        assert keep.all()  # within half of the median: this may be a real structure
        frames[17, 5:] += 1.0 * (frames[17, 5] - frames[17, 4]) / 3.8
        keep, records = reject_outliers(TOPOLOGY, frames)
    assert np.flatnonzero(~keep).tolist() == rows
    assert records[0]["n"] == len(rows)


def test_honest_distributions_are_not_cut(chance_seed: int) -> None:
    rng = np.random.default_rng(chance_seed)
    topology = CGTopology.from_sequence("AAAAAA")

    def frames(length: np.ndarray) -> np.ndarray:
        steps = rng.normal(size=(*length.shape, 3))
        steps *= (length / np.linalg.norm(steps, axis=-1))[..., None]
        return np.concatenate([np.zeros((len(length), 1, 3)), np.cumsum(steps, axis=1)], axis=1)

    broad = rng.normal(3.8, 0.45, size=(5000, 5))
    cis = np.where(rng.random((5000, 5)) < 0.02, 2.93, 3.8) + rng.normal(scale=0.03, size=(5000, 5))
    for length in (np.clip(broad, 1.5, 7.0), cis):
        keep, records = reject_outliers(topology, frames(length))
        assert keep.all(), records
    bead = {"name": "user", "backbone": "B", "residues": {"*": {"B": ["N", "CA", "C", "O"]}}}
    flexible = np.where(rng.random((5000, 5)) < 0.03, 6.5, 2.5) + rng.normal(scale=0.05, size=(5000, 5))
    keep, records = reject_outliers(CGTopology.from_sequence("AAAAAA", bead), frames(flexible))
    assert keep.all(), records


def test_a_frame_with_an_extreme_force_is_left_out() -> None:
    frames = FRAMES[:400]
    forces = np.random.default_rng(0).normal(scale=8.0, size=frames.shape)
    forces[33] *= 100
    keep, records = reject_outliers(TOPOLOGY, frames, forces)
    assert np.flatnonzero(~keep).tolist() == [33]
    assert "force" in records[0]["reason"]


def test_many_outliers_and_other_units_are_errors() -> None:
    frames = FRAMES[:200].copy()
    frames[:30, 5:] += 30.0
    with pytest.raises(PriorFitError, match=r"30 of 200 frames are outliers: bond CA_GLU5.*Make mol"):
        fit_priors(TOPOLOGY, frames, 400.0)
    with pytest.raises(PriorFitError, match=r"a tenth of their usual length.*give unit='nm'"):
        fit_priors(TOPOLOGY, FRAMES[:200] / 10, 400.0)
    with pytest.raises(PriorFitError, match="ten times their usual length"):
        fit_priors(TOPOLOGY, FRAMES[:200], 400.0, unit="nm")
