"""The test of a model: its dynamics, its comparison with the reference, and errors of forces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.components.evaluator import ReferenceEvaluator
from cgal_plugin.components.model_forces import noise_floor
from cgal_plugin.components.model_test import FES_CELLS, compare, tic_histogram
from cgal_plugin.components.sampler import OpenMMSampler, dynamics_folder, refinement_sampler
from cgal_plugin.components.starts import StartSet
from cgal_plugin.config import parse_config
from cgal_plugin.config.executor import LocalExecutor
from cgal_plugin.config.ladder import check_ladders
from cgal_plugin.config.model_test import ModelTest
from cgal_plugin.config.refinement import Refinement
from cgal_plugin.config.simulation import Simulation
from cgal_plugin.mapping import CGTopology
from tests.priors.chains import chains

TOPOLOGY = CGTopology.from_sequence("GYGAG")


def test_noise_floor_leaves_out_what_changes_slowly() -> None:
    rng = np.random.default_rng(0)
    n, keep = 4000, np.exp(-0.04 / 5.0)  # an error that lives 5 ps, in frames of 0.04 ps
    series = []
    for _ in range(4):
        slow = np.zeros((n, 4, 3))
        slow[0] = rng.normal(0, 2, (4, 3))
        for k in range(1, n):
            slow[k] = keep * slow[k - 1] + np.sqrt(1 - keep**2) * rng.normal(0, 2, (4, 3))
        series.append(slow + rng.normal(0, 9, slow.shape))
    assert np.sqrt(np.mean(np.square(series))) == pytest.approx(np.hypot(9, 2), rel=0.01)
    assert noise_floor(series, 0.04) == pytest.approx(9.0, rel=0.01)
    assert noise_floor([s[:10] for s in series], 0.04) is None


def test_histogram_is_about_the_reference_and_holds_every_frame() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal([3, -2], [0.5, 4], (20_000, 2))
    counts = np.array(tic_histogram(reference, reference, None))
    assert counts.shape == (FES_CELLS, FES_CELLS)
    assert counts.sum() == pytest.approx(1e6, rel=1e-3)
    # 0.2 standard deviations a cell: the four in the middle hold erf(0.2 / √2)²
    middle = slice(FES_CELLS // 2 - 1, FES_CELLS // 2 + 1)
    assert counts[middle, middle].sum() == pytest.approx(1e6 * 0.1585**2, rel=0.15)
    far = np.array(tic_histogram(reference + 100.0, reference, None))
    assert far[-1, -1] == pytest.approx(1e6)


@pytest.mark.parametrize(
    ("changes", "platform"),
    [
        ({"temperatures": (300.0, 330.0), "exchange_interval": 50}, "CUDA"),
        ({"blocks": 2}, "Reference"),  # workers have the GPU, this process may not
        ({}, "CUDA"),
    ],
)
def test_the_dynamics_of_a_test_are_independent_replicas_here(changes: dict[str, Any], platform: str) -> None:
    settings = Simulation(n_replicas=8, steps=500, platform="CUDA", timestep_fs=3.0, **changes)
    plain = ModelTest(n_replicas=6, rungs=1, steps=900)
    sampler = OpenMMSampler(settings, LocalExecutor()).for_test(plain, 300.0)
    found = sampler.settings
    assert (found.n_replicas, found.steps, found.report_interval, found.blocks) == (6, 900, 100, 1)
    assert (found.temperatures, found.exchange_interval, found.timestep_fs) == ((), None, 3.0)
    assert (sampler.packed_replicas, found.platform) == (6, platform)
    tempered = ModelTest(n_replicas=6, rungs=3, hottest=4.0, steps=900)
    sampler = OpenMMSampler(settings, LocalExecutor()).for_test(tempered, 300.0)
    assert sampler.settings.temperatures == pytest.approx((300.0, 600.0, 1200.0))
    assert (sampler.packed_replicas, sampler.settings.exchange_interval) == (18, 50)


@pytest.mark.parametrize(
    ("simulation", "refinement", "n"),
    [
        ({}, {}, 4),
        ({}, {"rungs": 6}, 4),  # the largest number that divides 64
        ({"n_replicas": 30}, {"rungs": 6}, 6),
        ({"n_replicas": 30, "blocks": 2}, {"rungs": 6}, 5),
        ({"n_replicas": 30}, {"rungs": 10}, 6),  # 10 would leave three ladders
        ({"n_replicas": 7}, {"rungs": 6}, 1),
        ({"n_replicas": 16}, {"steps": 8000}, 2),  # 8 x 64 frames; 4 x 64 are not enough
        ({}, {"rungs": 1}, 1),
    ],
)
def test_a_refinement_is_tempered_as_far_as_its_replicas_allow(
    simulation: dict[str, Any], refinement: dict[str, Any], n: int
) -> None:
    settings = Simulation(**simulation)
    sampler = OpenMMSampler(settings, LocalExecutor()).for_refinement(Refinement(**refinement), 300.0)
    found = sampler.settings
    assert len(found.temperatures) == (n if n > 1 else 0)
    assert (found.n_replicas, found.steps) == (settings.n_replicas, refinement.get("steps", 30_000))
    if n > 1:
        asked = refinement.get("rungs", 4)
        assert found.temperatures[0] == pytest.approx(300.0)
        ratio = found.temperatures[1] / 300.0  # as in the whole ladder
        assert ratio ** (asked - 1) == pytest.approx(2.15)
        check_ladders(found.n_replicas, n, found.blocks)


def test_a_sampler_of_the_user_keeps_its_dynamics() -> None:
    class Own(OpenMMSampler):
        def with_steps(self, steps: int) -> Own:
            return Own(self.settings.model_copy(update={"steps": steps}), self.executor)

    found = refinement_sampler(Own(Simulation(), LocalExecutor()), Refinement(steps=900), 300.0)
    assert type(found) is Own
    assert (found.settings.steps, found.settings.temperatures) == (900, ())
    assert dynamics_folder(found) == "dynamics"


def test_a_refinement_keeps_the_ladder_of_the_simulation() -> None:
    settings = Simulation(temperatures=(300.0, 330.0), exchange_interval=100)
    found = OpenMMSampler(settings, LocalExecutor()).for_refinement(Refinement(steps=900), 300.0).settings
    assert (found.temperatures, found.exchange_interval, found.steps) == ((300.0, 330.0), 100, 900)


@pytest.fixture
def evaluator(tmp_path: Path) -> ReferenceEvaluator:
    np.save(tmp_path / "reference.npy", chains(300, 5))
    evaluation = {"reference": [str(tmp_path / "reference.npy")], "lag_ps": 5.0, "reference_interval_ps": 1.0}
    system = {"sequence": "GYGAG", "temperature": 400.0}
    return ReferenceEvaluator(parse_config({"system": system, "evaluation": evaluation}), TOPOLOGY)


TEST = ModelTest(n_bootstrap=0)


def compared(evaluator: ReferenceEvaluator, starts: StartSet, sampled: list[Any], n: int) -> dict[str, Any]:
    return compare(evaluator, sampled, *starts.replicas(n), starts, TEST, seed=0)


def test_replicas_that_keep_their_start_are_marked(evaluator: ReferenceEvaluator) -> None:
    ends = {"structure": chains(1, 5, seed=1), "stretched": chains(1, 5, seed=2) * 1.2}
    starts = StartSet(ends)
    rng = np.random.default_rng(0)
    start, kind = starts.replicas(12)
    assert kind.tolist() == [0, 1] * 6
    stuck = [s + rng.normal(0, 0.05, (30, 5, 3)) for s in start]
    found = compared(evaluator, starts, stuck, 12)
    assert found["drifts"]
    assert found["drift_text"].startswith("starts still differ: ")
    assert found["starts"]["groups"] == ["structure", "stretched"]
    assert found["halves"]["w1"] < found["halves"]["expected"]
    assert found["rmsd_to_folded"]["model_mean"] > 0
    free = [chains(30, 5, seed=10 + i) for i in range(12)]
    assert not compared(evaluator, starts, free, 12)["drifts"]


def test_starts_of_one_kind_are_grouped_by_where_they_are(evaluator: ReferenceEvaluator) -> None:
    starts = StartSet({"reserved": chains(12, 5, seed=3)})
    rng = np.random.default_rng(0)
    stuck = [s + rng.normal(0, 0.05, (30, 5, 3)) for s in starts.replicas(12)[0]]
    found = compared(evaluator, starts, stuck, 12)
    assert found["starts"]["groups"] == ["reserved, low TIC 1", "reserved, high TIC 1"]
    assert found["starts"]["w1"] > found["starts"]["expected"]
    assert found["rmsd_to_folded"] is None
    # one structure for all, or a sampler with trajectories of its own number: nothing to compare
    one = StartSet({"stretched": chains(1, 5, seed=3)})
    assert compared(evaluator, one, stuck, 12)["starts"]["w1"] is None
    assert compared(evaluator, starts, stuck[:7], 12)["starts"]["w1"] is None


def test_replicas_that_blew_up_are_left_out_with_their_start(evaluator: ReferenceEvaluator) -> None:
    starts = StartSet({"structure": chains(1, 5, seed=1), "stretched": chains(1, 5, seed=2) * 1.2})
    free = [chains(30, 5, seed=10 + i) for i in range(12)]
    for i in (1, 3, 5, 7, 9, 11):  # all of one start
        free[i] = free[i][:0]
    found = compared(evaluator, starts, free, 12)
    assert found["w1"]["value"] > 0
    assert found["starts"]["w1"] is None
    assert found["halves"]["w1"] is not None
    none = compared(evaluator, starts, [f[:0] for f in free], 12)
    assert none["not_evaluated"] == {"W1": "every replica blew up during the equilibration of the test"}
