"""Statistics over arms: known means and spreads come back, intervals hold the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cgal_plugin.benchmark.statistics import difference, reduction, summarise
from cgal_plugin.errors import AnalysisError


def _result(arm: str, seed: int, value: float, rng: np.random.Generator, spread: float) -> dict[str, Any]:
    figure = {"value": value, "floor": 0.2, "interval": None}
    figure["replicates"] = (value + 0.3 + rng.normal(0, spread, 60)).tolist() if spread else []
    return {
        "arm": arm,
        "seed": seed,
        "oracle_ns": 1.0,
        "seconds": 60.0,
        "test": {
            "w1": figure,
            "w1_ucsc": figure,
            "jsd_tic": {"value": 0.1},
            "states_visited": 0.5,
            "rmsd_to_folded": {"w1": 1.0},
            "observables": {k: {"w1": 1.0} for k in ("rg", "bond", "angle", "dihedral")},
            "contact_rmsd": 0.1,
            "force_rmse": None,
            "noise_floor": None,
            "steps": 1000,
            "blow_ups": 2,
        },
    }


def _results(rng: np.random.Generator, n: int = 5, noise: float = 0.05) -> list[dict[str, Any]]:
    rows = []
    for seed in range(1, n + 1):
        start = rng.normal(0, noise)  # what arms of one seed have in common
        for arm, mean in (("static", 1.0), ("rmsd", 0.6), ("random", 0.6)):
            value = mean + start + rng.normal(0, noise)
            rows.append(_result(arm, seed, value, rng, 0.03))
    return rows


def test_reduction_is_that_of_the_means() -> None:
    rng = np.random.default_rng(0)
    rows = _results(rng)
    by = {a: [r for r in rows if r["arm"] == a] for a in ("static", "rmsd")}
    means = {a: np.mean([r["test"]["w1"]["value"] for r in by[a]]) for a in by}
    found = summarise(rows, "static")
    assert found["rmsd"].reduction["w1"].value == pytest.approx(1 - means["rmsd"] / means["static"])
    assert found["static"].reduction is None
    assert found["rmsd"].mean["w1"].value == pytest.approx(means["rmsd"])
    assert found["rmsd"].reduction["w1"].resolved
    assert found["rmsd"].others["blow_ups_per_million"] == pytest.approx(2000.0)


def test_intervals_hold_the_truth_at_about_their_confidence() -> None:
    inside = {"reduction": 0, "difference": 0}
    trials = 60
    for trial in range(trials):
        rows = _results(np.random.default_rng(100 + trial))
        by = {a: [r for r in rows if r["arm"] == a] for a in ("static", "rmsd", "random")}
        low, high = reduction(by["static"], by["rmsd"], "w1").interval
        inside["reduction"] += low <= 0.4 <= high
        low, high = difference(by["rmsd"], by["random"], "w1").interval
        inside["difference"] += low <= 0.0 <= high
    # binomial(60, 0.95): fewer than 50 has probability below 1e-3
    assert min(inside.values()) >= 50, inside


def test_few_scattered_seeds_do_not_promise_the_impossible() -> None:
    """W1 is not negative: its interval starts at 0 or above, that of a reduction ends at 1 or below."""
    rng = np.random.default_rng(2)
    values = {"static": (1.0, 1.3, 0.9), "rmsd": (0.2, 2.0, 0.1)}
    rows = [_result(arm, s, v, rng, 0.1) for arm, own in values.items() for s, v in enumerate(own, start=1)]
    found = summarise(rows, "static")["rmsd"]
    assert found.mean["w1"].interval[0] == 0.0
    low, high = found.reduction["w1"].interval
    assert low < -1.0 < found.reduction["w1"].value < high == 1.0


def test_a_single_seed_has_no_interval() -> None:
    rows = [r for r in _results(np.random.default_rng(1)) if r["seed"] == 1]
    found = summarise(rows, "static")["rmsd"]
    assert found.reduction["w1"].interval is None
    assert not found.reduction["w1"].resolved


def test_missing_baselines_are_refused() -> None:
    rows = _results(np.random.default_rng(1))
    with pytest.raises(AnalysisError, match="no result of the baseline"):
        summarise([r for r in rows if r["arm"] != "static"], "static")
    with pytest.raises(AnalysisError, match=r"seeds \[3\]"):
        summarise([r for r in rows if (r["arm"], r["seed"]) != ("static", 3)], "static")
    with pytest.raises(AnalysisError, match="paired"):
        reduction(rows[:1], rows[:2], "w1")
