"""The estimate of a run's cost."""

from __future__ import annotations

import pytest

from cgal_plugin.config import parse_config
from cgal_plugin.runs.cost import estimate, plan

BASE = {
    "system": {"sequence": "GYG"},
    "seed_data": {"n_trajectories": 2, "picoseconds": 95, "equilibration_ps": 5},
    "oracle": {"production_ps": 9, "relax_ps": 1},
    "selector": {"n_select": 20},
}


def test_a_budget_limits_the_labels() -> None:
    free = estimate(parse_config({**BASE, "stopping": {"rounds": 4}}))
    assert (free.labels, free.oracle_ns) == (80, pytest.approx(0.2 + 0.8))
    bound = estimate(parse_config({**BASE, "stopping": {"rounds": 4, "oracle_ns": 0.5}}))
    assert (bound.labels, bound.oracle_ns) == (30, pytest.approx(0.5))
    assert bound.minutes < free.minutes


def test_a_refinement_is_in_the_plan() -> None:
    priors = {"terms": ["bonds", "repulsion", "pairs"], "method": "force_matching"}
    plain = parse_config({**BASE, "training": {"priors": priors}})
    refined = parse_config(
        {**BASE, "training": {"priors": priors}, "refinement": {"iterations": 2, "steps": 1000}}
    )
    more = estimate(refined).cg_steps - estimate(plain).cg_steps
    assert more == 3 * 1000 * refined.simulation.n_replicas
    assert "2 corrections of populations" in plan(refined)
    assert "refinement" not in plan(plain)
