"""The estimate of a run's cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.config import parse_config
from cgal_plugin.data.trajectories import save_trajectories
from cgal_plugin.mapping import CGTopology
from cgal_plugin.runs.cost import estimate, plan
from cgal_plugin.runs.rates import Molecule, Rates

BASE: dict[str, Any] = {
    "system": {"sequence": "GYG"},
    "seed_data": {"n_trajectories": 2, "picoseconds": 95, "equilibration_ps": 5},
    "oracle": {"production_ps": 9, "relax_ps": 1},
    "selector": {"n_select": 20},
    "refinement": None,
    "stopping": {"rounds": 2},
}


def test_a_budget_limits_the_labels() -> None:
    free = estimate(parse_config({**BASE, "stopping": {"rounds": 4}}))
    assert (free.labels, free.oracle_ns) == (80, pytest.approx(0.2 + 0.8))
    bound = estimate(parse_config({**BASE, "stopping": {"rounds": 4, "oracle_ns": 0.5}}))
    assert (bound.labels, bound.oracle_ns) == (30, pytest.approx(0.5))
    assert bound.minutes < free.minutes


def test_parallel_tempering_is_in_the_plan_and_costs_what_its_replicas_cost() -> None:
    temperature = parse_config(BASE).system.temperature
    simulation = {"n_replicas": 12, "steps": 1000}
    plain = parse_config({**BASE, "simulation": simulation})
    ladder = [temperature, temperature + 50, temperature + 110]
    tempered = parse_config({**BASE, "simulation": {**simulation, "temperatures": ladder}})
    text = f"4 ladder(s) of 3 temperatures from {ladder[0]:g} to {ladder[-1]:g} K"
    assert text in plan(tempered)
    assert "tempering" not in plan(plain)
    assert estimate(tempered).cg_steps == estimate(plain).cg_steps


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


SEQUENCE = "YYDPETGTWYKLAVSENQRGFHIMKDEALVTSYGQNKWLRIEAHFSDVKPTMLEQAGNYR"

#: a run that consists of all-atom MD
MD = {
    **BASE,
    "training": {"mode": "finetune", "epochs": 1, "finetune_epochs": 1},
    "simulation": {"steps": 100, "n_replicas": 16},
}

#: seconds of one thread for 1 ps of MD at 4 fs, measured with tests/benchmarks/bench_rates.py
MEASURED = [
    ("obc2", 10, "folded", 0.32),
    ("obc2", 20, "extended", 1.08),
    ("obc2", 35, "extended", 2.87),
    ("obc2", 60, "extended", 10.0),
    ("gbn2", 10, "folded", 2.1),
    ("gbn2", 20, "extended", 6.6),
    ("tip3pfb", 10, "folded", 3.9),
    ("tip3pfb", 20, "extended", 63.0),
]


def test_the_tests_of_the_models_are_in_the_plan(tmp_path: Path) -> None:
    save_trajectories(tmp_path / "reference.npz", [np.zeros((4, 10, 3))])
    evaluation = {"reference": [str(tmp_path / "reference.npz")]}
    test = {"n_replicas": 10, "steps": 1000}
    given = {**BASE, "stopping": {"rounds": 2}, "refinement": None, "evaluation": evaluation}
    tested, untested = (parse_config({**given, "test": t}) for t in (test, None))
    assert estimate(tested).cg_steps - estimate(untested).cg_steps == 10 * 4 * 1000 * 3
    assert estimate(tested).minutes > estimate(untested).minutes
    assert "from fixed starts, 10 replicas x 4 temperatures x 1000 steps" in plan(tested)
    assert "test         none: test is null" in plan(untested)
    assert "test         none: evaluation.reference is empty" in plan(parse_config(BASE))


@pytest.mark.parametrize(("solvent", "n", "shape", "seconds"), MEASURED)
def test_md_is_estimated_within_a_factor_of_two(solvent: str, n: int, shape: str, seconds: float) -> None:
    molecule = Molecule.of(CGTopology.from_sequence(SEQUENCE[:n]))
    found = Rates(molecule, solvent).md_seconds(1.0, [shape])
    assert seconds / 1.6 < found < 1.6 * seconds


@pytest.mark.parametrize(("n", "n_atoms"), [(10, 166), (20, 321), (35, 558), (60, 975)])
def test_atoms_are_counted_without_building_the_molecule(n: int, n_atoms: int) -> None:
    """As OpenMM builds them."""
    for mapping in ("CA", "CACB"):
        assert Molecule.of(CGTopology.from_sequence(SEQUENCE[:n], mapping)).n_atoms == n_atoms
    assert Molecule.of(CGTopology.from_sequence(SEQUENCE[:n])).n_residues == n


def test_the_box_of_a_stretched_chain_is_larger() -> None:
    topology = CGTopology.from_sequence(SEQUENCE[:20])
    molecule = Molecule.of(topology)
    assert molecule.box_atoms("folded") < molecule.box_atoms("coil") < molecule.box_atoms("extended")
    measured = Molecule.of(CGTopology.from_sequence(SEQUENCE[:10])).box_atoms("folded")
    assert measured == pytest.approx(3498, rel=0.15)


@pytest.mark.parametrize("solvent", ["obc2", "gbn2", "tip3pfb"])
def test_the_estimate_knows_atoms_and_solvent(solvent: str) -> None:
    def minutes(n: int, **oracle: object) -> float:
        changes = {"system": {"sequence": SEQUENCE[:n]}, "oracle": {**BASE["oracle"], **oracle}}
        return estimate(parse_config({**MD, **changes})).minutes

    assert minutes(35, solvent=solvent) > 2.5 * minutes(10, solvent=solvent)
    assert minutes(35, solvent=solvent, platform="CUDA") < minutes(35, solvent=solvent) / 2
    if solvent != "obc2":
        assert minutes(10, solvent=solvent) > 2 * minutes(10)


def test_a_mean_force_has_half_the_time_step() -> None:
    free = {"production_ps": 50, "save_ps": 5, "relax_ps": 1, "n_starts": 2}
    system = {"sequence": SEQUENCE[:35]}
    costs = [
        estimate(parse_config({**MD, "system": system, "oracle": {**free, "mode": mode}}))
        for mode in ("free", "mean_force")
    ]
    assert 1.5 < costs[1].minutes / costs[0].minutes < 2.0


def test_workers_help_only_as_far_as_there_are_tasks() -> None:
    few = {**MD, "selector": {"n_select": 2}, "seed_data": {**BASE["seed_data"], "n_trajectories": 2}}
    found = [
        estimate(parse_config({**few, "system": {"sequence": SEQUENCE[:35]}, "executor": {"workers": n}}))
        for n in (1, 2, 64)
    ]
    assert found[0].minutes > 1.4 * found[1].minutes
    assert found[1].minutes == found[2].minutes


def test_heating_is_part_of_diverse_seeds() -> None:
    seeds = {**BASE["seed_data"], "n_trajectories": 4}
    plain, diverse = (
        estimate(parse_config({**BASE, "seed_data": {**seeds, "start": start}}))
        for start in ("extended", "diverse")
    )
    assert diverse.oracle_ns - plain.oracle_ns == pytest.approx(0.3)


def test_what_is_not_known_is_said() -> None:
    custom = {"kind": "custom", "class": "mine:Mine"}
    text = plan(parse_config({**BASE, "selector": custom}))
    assert "mine:Mine, as many frames per round as it returns" in text
    assert "labels of unknown number (not in the cost)" in text
    assert "?" not in text
    assert estimate(parse_config({**BASE, "selector": custom})).labels is None
    given = {**custom, "args": {"n_select": 7}}
    assert estimate(parse_config({**BASE, "selector": given, "stopping": {"rounds": 3}})).labels == 21
    text = plan(parse_config({**BASE, "simulation": custom}))
    assert "without simulation, whose cost is not known" in text


def test_the_plan_names_the_molecule() -> None:
    config = parse_config({**BASE, "system": {"sequence": SEQUENCE[:35]}, "oracle": {"solvent": "gbn2"}})
    assert "for 35 residues, 558 atoms, gbn2 on CPU" in plan(config)
    assert " h with " in plan(config)
