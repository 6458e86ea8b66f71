"""A run in which nothing is left to label, or little can be evaluated, finishes with model and report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mdtraj
import numpy as np
import pytest

from cgal_plugin.analysis import TICAModel, evaluate
from cgal_plugin.cli.progress import round_line
from cgal_plugin.cli.status_text import status_text
from cgal_plugin.components.protocols import SampledFrames
from cgal_plugin.config import Config
from cgal_plugin.driver import run
from cgal_plugin.errors import AnalysisError, NothingToSelect, SelectionError
from cgal_plugin.provenance import read_json
from cgal_plugin.refinement import target
from cgal_plugin.reporting.collect import report_run
from cgal_plugin.runs.log import read_log
from cgal_plugin.runs.status import run_status
from cgal_plugin.selector import RMSDSelector, make_selector
from tests.driver import stand_ins
from tests.driver.cheap import Log, cheap_run
from tests.priors.chains import chains

TOP = stand_ins.TOPOLOGY


def said(root: Path) -> str:
    return status_text(run_status(root))


# ------------------------------------------------------------------ convergence


class Chooses:
    """A selector of a user's own that wants nothing."""

    def __init__(self, way: str = "empty") -> None:
        self.way = way

    def fit(self, reference: Any) -> Chooses:
        return self

    def select(self, candidates: Any) -> Any:
        if self.way == "raise":
            raise NothingToSelect("the committee agrees everywhere")
        if self.way == "none":
            return None
        return SimpleNamespace(indices=np.zeros(0, dtype=self.way), distances=np.zeros(0))


@pytest.mark.parametrize("kind", ["rmsd", "coverage"])
def test_a_run_whose_frames_are_all_covered_finishes(kind: str, tmp_path: Path) -> None:
    selector = {"kind": kind, "min_rmsd": 50.0, "max_rmsd": 60.0}
    config = stand_ins.config(tmp_path, selector=selector, stopping={"rounds": 3})
    log = Log()
    result = cheap_run(tmp_path / "run", config, reporter=log)
    assert [r["round"] for r in result.rounds] == [0]
    assert result.rounds[0]["stop"].startswith("converged, nothing is left to label (no frame selected: ")
    assert "(20 frames are below, 0 above): all are covered" in result.rounds[0]["stop"]
    assert result.checkpoint.is_file()
    assert result.potential.is_file()
    assert "converged in round 0" in result.report.read_text()
    assert any("stopped after round 0: converged" in m for m in log.messages)
    assert "stopped: converged" in said(tmp_path / "run")
    assert run_status(tmp_path / "run")["state"] == "finished"
    assert run_status(tmp_path / "run")["queue"] is None
    # the same call, and one with more rounds, run nothing
    again = Log()
    cheap_run(
        tmp_path / "run",
        stand_ins.config(tmp_path, selector=selector, stopping={"rounds": 5}),
        reporter=again,
    )
    assert again.stages == ["report"]


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("way", ["int64", "float64", "raise"])
def test_a_selector_of_ones_own_ends_the_run_by_choosing_nothing(way: str, tmp_path: Path) -> None:
    result = cheap_run(tmp_path / "run", stand_ins.config(tmp_path), selector=Chooses(way))
    words = (
        "the committee agrees everywhere" if way == "raise" else "the selector Chooses chose no frame of 20"
    )
    assert words in result.rounds[0]["stop"]
    assert words in said(tmp_path / "run")


def test_a_selector_without_return_value_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="returned NoneType"):
        cheap_run(tmp_path / "run", stand_ins.config(tmp_path), selector=Chooses("none"))


@pytest.mark.usefixtures("without_figures")
def test_convergence_in_a_later_round_keeps_the_labels_before(tmp_path: Path) -> None:
    class Second(Chooses):
        calls = 0

        def select(self, candidates: Any) -> Any:
            self.calls += 1
            if self.calls > 1:
                return super().select(candidates)
            return SimpleNamespace(indices=np.arange(3), distances=np.full(3, np.nan))

    config = stand_ins.config(tmp_path, stopping={"rounds": 5})
    result = cheap_run(tmp_path / "run", config, selector=Second("int64"))
    assert [r.get("n_labelled") for r in result.rounds] == [3, None]
    assert result.rounds[1]["n_frames"] == 43


def test_covered_and_too_far_are_told_apart() -> None:
    frames, rng = chains(30, 5), np.random.default_rng(0)
    selector = RMSDSelector(3, min_rmsd=1.0, max_rmsd=2.0).fit(frames[:1])
    far = frames[:4] * 3.0
    near = frames[:1] + rng.normal(scale=0.01, size=(3, 5, 3))
    with pytest.raises(NothingToSelect, match=r"3 frames are below, 0 above\): all are covered"):
        selector.select(near)
    with pytest.raises(
        NothingToSelect, match=r"3 frames are below, 4 above\): those within max_rmsd are covered"
    ):
        selector.select(np.concatenate([near, far]))
    with pytest.raises(SelectionError, match="widen the cuts") as error:
        selector.select(far)
    assert not isinstance(error.value, NothingToSelect)
    with pytest.raises(NothingToSelect):
        make_selector("random", 3, min_rmsd=1.0).fit(frames[:1]).select(near)


# ------------------------------------------------------------------ evaluations that cannot be made


class Few:
    """A sampler that finds ``n`` frames in each replica: all equal, or different."""

    n_replicas = 1

    def __init__(self, n: int, equal: bool) -> None:
        self.n, self.equal = n, equal

    def sample(
        self, potential: Path, topology: Any, start_positions: Any, *, seed: int, **_: Any
    ) -> SampledFrames:
        noise = np.random.default_rng(seed).normal(scale=0.0 if self.equal else 0.3, size=(self.n, 5, 3))
        return SampledFrames(list((start_positions[:, None] + noise).astype(np.float32)))


def with_reference(folder: Path, **changes: Any) -> Config:
    np.save(folder / "reference.npy", chains(300, 5))
    evaluation = {"reference": [str(folder / "reference.npy")], "lag_ps": 5.0, "reference_interval_ps": 1.0}
    return stand_ins.config(folder, evaluation=evaluation, **changes)


@pytest.mark.parametrize(("n", "equal"), [(1, False), (30, True)])
def test_rounds_with_hardly_any_frames_are_recorded_and_the_run_goes_on(
    n: int, equal: bool, tmp_path: Path
) -> None:
    selector = {"kind": "random", "n_select": 1, "max_rmsd": None}
    config = with_reference(tmp_path, selector=selector)
    result = cheap_run(tmp_path / "run", config, sampler=Few(n, equal))
    assert len(result.rounds) == 2
    for row in result.rounds:
        assert row["w1_ucsc"] is None
        assert "singular" in row["not_evaluated"]["w1_ucsc"]
        assert row["w1"]["value"] > 0
        assert "w1_ucsc not computed: " in round_line(row)
    manifest = read_json(tmp_path / "run/rounds/round_000/test/manifest.json")
    assert manifest["results"]["not_evaluated"] == result.rounds[0]["not_evaluated"]
    assert "w1_ucsc not computed: " in said(tmp_path / "run")
    assert "Test of the model of round 0: w1_ucsc could not be computed: " in result.report.read_text()
    # what the log has is what a resumed run reads
    logged = [e["results"] for e in read_log(tmp_path / "run/log.jsonl") if e["event"] == "round"]
    assert logged[1]["not_evaluated"] == result.rounds[1]["not_evaluated"]


def test_an_evaluation_names_what_fails_and_keeps_the_rest() -> None:
    reference = [chains(200, 5, seed=k) for k in range(3)]
    settings: dict[str, Any] = {
        "lag_frames": 5,
        "temperature": 300.0,
        "seed": 0,
        "n_bootstrap": 0,
        "n_splits": 1,
    }
    two = [chains(2, 5)]
    with pytest.raises(AnalysisError, match=r"w1_ucsc cannot be computed: .*singular"):
        evaluate(two, reference, TOP, **settings)
    found = evaluate(two, reference, TOP, on_failure="record", **settings)
    assert set(found.failures) == {"w1_ucsc"}
    assert found.w1_ucsc is None
    assert found.to_dict()["w1"]["value"] == found.w1.value
    assert found.to_dict()["not_evaluated"] == dict(found.failures)
    assert "not_evaluated" not in evaluate(reference, reference, TOP, **settings).to_dict()


def test_a_reference_with_a_constant_component_is_no_raw_error() -> None:
    """Its TICs cannot scale distances: recorded by name."""
    rng = np.random.default_rng(0)
    stick = np.zeros((200, 5, 3))
    stick[:, :, 0] = np.arange(5) * 3.8
    stick[:, 4, 0] += rng.normal(scale=0.1, size=200)
    settings: dict[str, Any] = {
        "lag_frames": 5,
        "temperature": 300.0,
        "seed": 0,
        "on_failure": "record",
        "n_bootstrap": 0,
    }
    with pytest.raises(AnalysisError, match="independent directions"):
        evaluate([stick[:50]], [stick], TOP, **settings)
    good = TICAModel.fit([chains(200, 5)], 5)
    constant = dataclasses.replace(good, coefficients=good.coefficients * [1.0, 0.0])
    found = evaluate([stick[:50]], [stick], TOP, tica=constant, **settings)
    assert "does not vary in coordinate 2" in found.failures["w1"]
    assert "w1_ucsc" in found.failures
    assert found.observables["bond"].w1 >= 0


# ------------------------------------------------------------------ refinement that cannot be made


@pytest.mark.usefixtures("without_figures")
def test_a_markov_model_that_does_not_converge_leaves_the_model_unrefined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of the real error; the run keeps the force-matched model and finishes."""
    from cgal_plugin.priors import fit_priors

    class Refinable(stand_ins.Untrained):
        def priors(self, train_folder: Path) -> Any:
            return fit_priors(TOP, chains(300, 5), 400.0, terms=("bonds",))

        def with_priors(self, model: Any, priors: Any, path: Path) -> Any:
            raise AssertionError("an unconverged target was used")

    class Many(Few):
        def sample(self, *a: Any, **b: Any) -> SampledFrames:
            return dataclasses.replace(super().sample(*a, **b), steps=1)

    def weak(*_: Any, **__: Any) -> Any:
        # counts that connect two halves by one transition in 1e30: Newton's method does not converge
        from cgal_plugin.analysis.markov_states import newton_reversible

        counts = np.array([[0, 1e30, 0, 1e-300], [1, 0, 1, 0], [0, 1e-300, 0, 1e30], [1e-300, 0, 1, 0.0]])
        return newton_reversible(counts)

    monkeypatch.setattr(target.Target, "build", classmethod(lambda cls, *a, **b: weak()))
    refinement = {"iterations": 2, "steps": 10, "lag_ps": 0.2, "n_states": 4}
    training = {"priors": {"terms": ["bonds", "pairs"], "method": "force_matching"}}
    config = stand_ins.config(tmp_path, refinement=refinement, training=training)
    parts = {"oracle": stand_ins.Springs(), "trainer": Refinable(), "sampler": Many(400, False)}
    log = Log()
    result = run(config, tmp_path / "run", reporter=log, **parts)
    assert any("the model is not refined: the Markov state model of 4 states" in m for m in log.messages)
    last = tmp_path / "run/rounds/round_001/train/model.ckpt"
    assert result.checkpoint.read_bytes() == last.read_bytes()
    results = read_json(tmp_path / "run/refinement/iteration_000/manifest.json")["results"]
    assert "did not converge" in results["failed"]
    again = Log()
    run(config, tmp_path / "run", reporter=again, **parts)
    assert "refinement: iteration 0" in again.skips
    assert any("not refined" in m for m in again.messages)


def test_the_report_of_a_run_that_ended_early_can_be_written_again(tmp_path: Path) -> None:
    selector = {"kind": "rmsd", "min_rmsd": 50.0, "max_rmsd": 60.0}
    result = cheap_run(tmp_path / "run", stand_ins.config(tmp_path, selector=selector))
    result.report.unlink()
    assert "converged in round 0" in report_run(tmp_path / "run").read_text()


def test_equal_frames_written_as_dcd_are_evaluated_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.cli.test_main import call

    frames = chains(200, 5)
    np.save(tmp_path / "r.npy", frames)
    mdtraj.Trajectory(np.repeat(frames[:1], 9, 0) / 10, TOP.to_mdtraj()).save_dcd(str(tmp_path / "m.dcd"))
    TOP.save(tmp_path / "top.json")
    mdtraj.Trajectory(frames[:1] / 10, TOP.to_mdtraj()).save_pdb(str(tmp_path / "top.pdb"))
    files = ("-m", tmp_path / "m.dcd", "--top", tmp_path / "top.pdb", "-r", tmp_path / "r.npy", "--lag", 5)
    code, out, err = call(capsys, "evaluate", *files, "-t", tmp_path / "top.json", "-o", tmp_path / "w.json")
    assert code == 0, err
    assert "w1_ucsc not computed: " in err
    assert out.startswith("W1 ")
    assert read_json(tmp_path / "w.json")["w1_ucsc"] is None
