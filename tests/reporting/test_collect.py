"""What the report takes from a run directory: tests of models, exploration of old runs, cost, state."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.components.model_test import FES_CELLS
from cgal_plugin.config import Config
from cgal_plugin.provenance import read_sealed, write_sealed
from cgal_plugin.reporting import ReportInput, collect
from cgal_plugin.reporting.collect import report_run
from cgal_plugin.reporting.first_screen import cost_cards
from cgal_plugin.reporting.outcome import outcome
from tests.driver import stand_ins
from tests.driver.cheap import cheap_run
from tests.priors.chains import chains


@pytest.fixture
def collected() -> Iterator[list[ReportInput]]:
    """Inputs of the reports that are written; nothing is drawn, which takes most of the time."""
    found: list[ReportInput] = []

    def write(path: Path, report: ReportInput) -> Path:
        found.append(report)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "write_report", write)
        yield found


def with_reference(folder: Path, **changes: Any) -> Config:
    np.save(folder / "reference.npy", chains(300, 5))
    evaluation = {"reference": [str(folder / "reference.npy")], "lag_ps": 5.0, "reference_interval_ps": 1.0}
    return stand_ins.config(folder, evaluation=evaluation, **changes)


def reported(root: Path, collected: list[ReportInput]) -> ReportInput:
    report_run(root)
    return collected[-1]


def change(path: Path, results: dict[str, Any]) -> None:
    manifest = read_sealed(path)
    manifest["results"] |= results
    manifest.pop("seal", None)
    write_sealed(path, manifest)


def test_tests_old_runs_and_interrupted_ones(tmp_path: Path, collected: list[ReportInput]) -> None:
    root = tmp_path / "run"
    result = cheap_run(root, with_reference(tmp_path))
    found = collected[-1]
    assert found.measured == "test"
    assert found.sampled_by == "test"
    assert [r.w1.to_dict() for r in found.rounds if r.w1] == [row["w1"] for row in result.rounds]
    assert all(np.shape(r.histogram) == (FES_CELLS, FES_CELLS) for r in found.rounds)
    assert np.shape(found.reference_histogram) == (FES_CELLS, FES_CELLS)
    assert all(r.timings["test"] > 0 for r in found.rounds)
    assert {"seed", "priors", "test_starts"} <= set(found.preparation)
    assert found.seed_ns == 0.0
    assert cost_cards(found)[-1]["title"] == "Time"
    assert not found.incomplete
    assert not found.no_w1
    tests = [read_sealed(root / f"rounds/round_00{i}/test/manifest.json") for i in range(2)]

    # a test that drifts is marked with what drifts, by the amount that chance does not explain
    left = {"starts": {"w1": 0.7, "expected": 0.3}, "halves": {"w1": 0.1, "expected": 0.2}}
    change(
        root / "rounds/round_001/test/manifest.json",
        {**left, "drifts": True, "drift_text": "starts still differ: 0.70, by chance up to 0.30"},
    )
    found = reported(root, collected)
    assert found.rounds[1].drift_w1 == 0.7
    assert any("starts still differ: 0.70" in r for r in outcome(found).remarks)
    assert found.rounds[0].drift == ("" if not tests[0]["results"]["drifts"] else found.rounds[0].drift)

    # interrupted after the labels of round 0: only the model of round 0 is tested
    (root / "model.ckpt").rename(tmp_path / "model.ckpt")
    shutil.rmtree(root / "rounds/round_001/test")
    found = reported(root, collected)
    assert "round 1 of 1" in found.incomplete
    assert found.rounds[1].w1 is None
    remarks = outcome(found).remarks
    assert remarks[0].startswith("The run is not complete")
    assert any("no W1 of round 1" in r for r in remarks)

    # a version without tests: W1 of the exploration, which is no verdict
    shutil.rmtree(root / "rounds/round_000/test")
    for i in range(2):
        w1 = {name: tests[i]["results"][name] for name in ("w1", "w1_ucsc")}
        change(root / f"rounds/round_00{i}/evaluate/manifest.json", w1)
    (tmp_path / "model.ckpt").rename(root / "model.ckpt")
    found = reported(root, collected)
    assert found.measured == "exploration"
    assert found.sampled_by == "exploration"
    assert found.reference_histogram is None
    assert outcome(found).kind == "unknown"
    assert "exploration" in outcome(found).sentence
    assert any("Run `cgal run` again to test" in note for note in found.notes)


def test_exploration_and_test_are_never_mixed(tmp_path: Path, collected: list[ReportInput]) -> None:
    """An old run that was resumed, and whose first model could not be tested again."""
    root = tmp_path / "run"
    cheap_run(root, with_reference(tmp_path))
    old = read_sealed(root / "rounds/round_000/test/manifest.json")["results"]["w1"]
    shutil.rmtree(root / "rounds/round_000/test")
    change(root / "rounds/round_000/evaluate/manifest.json", {"w1": old})
    found = reported(root, collected)
    assert found.measured == "test"
    assert [r.w1 is None for r in found.rounds] == [True, False]
    assert "There is no other model to compare it with" in outcome(found).sentence


def test_without_test_or_reference_the_reason_is_named(tmp_path: Path, collected: list[ReportInput]) -> None:
    cheap_run(tmp_path / "off", with_reference(tmp_path, test=None))
    assert outcome(collected[-1]).sentence == "W1 is not known: the test of models is off (test: null)."
    cheap_run(tmp_path / "none", stand_ins.config(tmp_path))
    found = outcome(collected[-1])
    assert found.kind == "unknown"
    assert "there is no reference" in found.sentence
    assert collected[-1].before


def test_a_run_without_rounds_has_one_model(tmp_path: Path, collected: list[ReportInput]) -> None:
    cheap_run(tmp_path / "run", with_reference(tmp_path, stopping={"rounds": 0}))
    found = outcome(collected[-1])
    assert found.sentence.startswith("W1 of the only model is ")
    assert not found.remarks or "drifts" in found.remarks[0]
