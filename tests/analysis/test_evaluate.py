from __future__ import annotations

import json

import numpy as np
import pytest

from cgal_plugin.analysis import W1Result, evaluate
from cgal_plugin.errors import AnalysisError
from tests.analysis.toy import ensembles

SETTINGS = {"lag_frames": 5, "temperature": 400.0, "seed": 0, "n_bootstrap": 20, "n_splits": 3}


@pytest.fixture(scope="module")
def results(chance_seed: int, topology):
    reference, *models = ensembles(chance_seed)
    return [evaluate(m, reference, topology, **SETTINGS) for m in models]


def test_the_better_model_is_closer_to_the_reference(results) -> None:
    """Over 8 seeds the logarithms of these ratios are 4 standard deviations or more above 0: P < 1e-4."""
    near, far = results
    assert near.w1.value < far.w1.value
    assert near.w1_ucsc.value < far.w1_ucsc.value
    assert near.jsd_tic.value < far.jsd_tic.value
    assert near.contact_rmsd < far.contact_rmsd
    for name in ("bond", "angle", "dihedral"):
        assert near.observables[name].w1 < far.observables[name].w1, name
    for name in ("bond", "angle", "dihedral", "rg", "end_to_end"):
        assert near.observables[name].floor > 0, name


def test_json_ready(results) -> None:
    data = json.loads(json.dumps(results[0].to_dict(), allow_nan=False))
    assert W1Result.from_dict(data["w1"]) == results[0].w1
    assert len(data["fes"]["model"]) == 50
    assert "fes" not in results[0].to_dict(surfaces=False)
    assert data["provenance"]["seed"] == 0


def test_surfaces_share_a_grid(results) -> None:
    one = results[0]
    np.testing.assert_array_equal(one.fes_model.x_edges, one.fes_reference.x_edges)
    assert np.nanmin(one.fes_model.energy) == np.nanmin(one.fes_reference.energy) == 0.0


def test_weighted_reference(reference, good, topology) -> None:
    """All weight on one trajectory is the same as a reference of that trajectory, for the observables."""
    weights = [np.full(len(t), 1.0 if i == 0 else 0.0) for i, t in enumerate(reference)]
    weighted = evaluate(good, reference, topology, reference_weights=weights, **SETTINGS)
    alone = evaluate(good, reference[:1], topology, **SETTINGS)
    for name, distance in weighted.observables.items():
        assert distance.w1 == pytest.approx(alone.observables[name].w1, abs=1e-9), name
    assert weighted.provenance["reference_weighted"]


def test_bad_input(reference, good, topology) -> None:
    with pytest.raises(AnalysisError, match="expected 8"):
        evaluate([np.zeros((9, 4, 3))], reference, topology, **SETTINGS)
    with pytest.raises(AnalysisError, match="model has no frames"):
        evaluate([], reference, topology, **SETTINGS)
    broken = [good[0].copy()]
    broken[0][4, 2, 1] = np.inf
    with pytest.raises(AnalysisError, match="model trajectory 0: 1 of 40 frames are not finite"):
        evaluate(broken, reference, topology, **SETTINGS)
    with pytest.raises(AnalysisError, match="weights have lengths"):
        evaluate(good, reference, topology, reference_weights=[np.ones(3)] * 30, **SETTINGS)
