"""The test of each round's model: fixed starts, never trained on; its W1 is that of the round."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.cli.progress import round_line
from cgal_plugin.cli.status_text import status_text
from cgal_plugin.components.model_test import STARTS
from cgal_plugin.components.protocols import SampledFrames
from cgal_plugin.components.starts import StartSet
from cgal_plugin.config import Config, parse_config
from cgal_plugin.config.model_test import ModelTest
from cgal_plugin.data import DataStore
from cgal_plugin.data.blow_up import BlowUp
from cgal_plugin.data.reserved import RESERVED, Withheld
from cgal_plugin.data.trajectories import save_trajectories
from cgal_plugin.driver import RunResult, run
from cgal_plugin.errors import DataError
from cgal_plugin.mapping import CGMapping
from cgal_plugin.oracle import AllAtomLibrary
from cgal_plugin.oracle.trajectory import AllAtomTrajectory
from cgal_plugin.provenance import read_sealed, write_sealed
from cgal_plugin.reporting import collect
from cgal_plugin.runs import layout
from cgal_plugin.runs.directory import RunDirectory
from cgal_plugin.runs.status import run_status
from tests.driver import stand_ins
from tests.driver.cheap import Log, cheap_run
from tests.driver.tiny import SMOKE
from tests.priors.chains import chains

#: bootstraps take most of the time of a cheap test
FEW = {"n_bootstrap": 0}


def with_reference(folder: Path, **changes: Any) -> Config:
    np.save(folder / "reference.npy", chains(300, 5))
    evaluation = {"reference": [str(folder / "reference.npy")], "lag_ps": 5.0, "reference_interval_ps": 1.0}
    return stand_ins.config(folder, evaluation=evaluation, **{"test": FEW, **changes})


def manifest(root: Path, *parts: str) -> dict[str, Any]:
    return read_sealed(root.joinpath(*parts, "manifest.json"))


class Starting(stand_ins.Noise):
    """A sampler that notes from where it started, by the folder of the stage."""

    def __init__(self) -> None:
        self.starts: dict[str, Any] = {}

    def sample(self, potential: Path, topology: Any, start_positions: Any, **options: Any) -> SampledFrames:
        out_dir: Path = options["out_dir"]
        self.starts[str(out_dir.relative_to(out_dir.parents[2]))] = np.asarray(start_positions)
        return super().sample(potential, topology, start_positions, **options)


# ------------------------------------------------------------------ components of one's own


@pytest.mark.usefixtures("without_figures")
def test_the_w1_of_a_round_is_that_of_its_test(tmp_path: Path) -> None:
    sampler, log = Starting(), Log()
    result = cheap_run(tmp_path / "run", with_reference(tmp_path), sampler=sampler, reporter=log)
    root = tmp_path / "run"
    directory = RunDirectory(root)
    assert [label for label, _ in layout.test_stages(directory)] == ["round 0", "round 1"]
    for row, (_, stage) in zip(result.rounds, layout.test_stages(directory), strict=True):
        found = stage.results()
        assert row["w1"] == found["w1"]
        assert "histogram" in found
        assert not {"histogram", "trajectories", "steps"} & set(row)
    evaluated = manifest(root, "rounds/round_000/evaluate")["results"]
    assert set(evaluated) == {"coverage"}
    # the same starts in each round, all kept back: no shard has them, nor did the exploration start there
    tests = [v for k, v in sampler.starts.items() if k.endswith("test/dynamics")]
    assert len(tests) == 2
    assert np.array_equal(tests[0], tests[1])
    store = DataStore(root / "data")
    reserved = Withheld.read(store).starts
    assert len(reserved) == 4
    trained = {f.tobytes() for f in store.positions()}
    for start in tests[0]:
        assert any(np.array_equal(np.float32(start), r) for r in reserved)
        assert np.float32(start).tobytes() not in trained
    assert [m for m in log.messages if "kept back as starts of the model test" in m] == [
        f"4 frames of the seed data are kept back as starts of the model test, and 4 left out because they "
        f"are correlated with them ({root / 'data' / RESERVED}): nothing is trained on them"
    ]
    assert store.record("seed_000")["facts"]["n_reserved"] == 4
    assert "round 0: test" in log.stages
    # one seed: a test of the same model gives the same numbers, and rounds can be paired
    seeds = {s.manifest()["seeds"]["test"] for _, s in layout.test_stages(directory)}
    assert len(seeds) == 1


@pytest.mark.usefixtures("without_figures")
def test_without_reference_or_with_test_null_nothing_is_tested_or_kept_back(
    tmp_path: Path,
) -> None:
    for name, config in (
        ("none", stand_ins.config(tmp_path)),
        ("off", with_reference(tmp_path, test=None)),
    ):
        result = cheap_run(tmp_path / name, config)
        assert "w1" not in result.rounds[0]
        assert not (tmp_path / name / STARTS).exists()
        assert not (tmp_path / name / "data" / RESERVED).exists()
        assert not layout.test_stages(RunDirectory(tmp_path / name))
        assert len(DataStore(tmp_path / name / "data").load("seed_000")) == 40


@pytest.mark.usefixtures("without_figures")
def test_rounds_are_tested_alike_when_the_settings_change(tmp_path: Path) -> None:
    root, log = tmp_path / "run", Log()
    cheap_run(root, with_reference(tmp_path))
    np.save(tmp_path / "other.npy", chains(300, 5, seed=5))
    evaluation = {"reference": [str(tmp_path / "other.npy")], "lag_ps": 5.0, "reference_interval_ps": 1.0}
    for changes in ({"test": {"n_bootstrap": 20}}, {"test": {"n_bootstrap": 20}, "evaluation": evaluation}):
        config = with_reference(tmp_path)
        config = stand_ins.config(tmp_path, **({"evaluation": config.evaluation.model_dump()} | changes))
        log = Log()
        cheap_run(root, config, reporter=log, accept_changes=True)
        assert [s for s in log.stages if s.endswith("test")] == ["round 0: test", "round 1: test"]
        assert any("was computed from other data than there are now (settings)" in m for m in log.messages)
    tests = [stage.manifest() for _, stage in layout.test_stages(RunDirectory(root))]
    assert tests[0]["inputs"] == tests[1]["inputs"]


def as_made_before(root: Path) -> None:
    """Change a finished run to what an earlier version left: W1 of the exploration, no test, no reserve."""
    shutil.rmtree(root / STARTS)
    for folder in sorted((root / "rounds").glob("round_*")):
        test = manifest(folder, "test")["results"]
        shutil.rmtree(folder / "test")
        path = folder / "evaluate/manifest.json"
        content = read_sealed(path)
        content["results"] |= {"w1": test["w1"] | {"value": 99.0}, "w1_ucsc": None}
        content["results"] |= {"not_evaluated": {"w1_ucsc": "singular"}}
        write_sealed(path, content)
    text = (root / "config.yaml").read_text().partition("\n")[2]
    first, _, rest = text.partition("test:\n")
    rest = "\n".join(rest.split("\n")[len(ModelTest.model_fields) :])  # the section without its keys
    assert rest.startswith("refinement")
    (root / "config.yaml").write_text(first + rest)


@pytest.mark.usefixtures("without_figures")
def test_a_run_of_an_earlier_version_is_tested_when_it_is_run_again(tmp_path: Path) -> None:
    root, config = tmp_path / "run", with_reference(tmp_path)
    cheap_run(root, config)
    as_made_before(root)
    shutil.rmtree(root / "data" / RESERVED)
    status = run_status(root)
    assert "w1" not in status["rounds"][0]  # 99 was the exploration's
    assert "W1" not in status_text(status)
    log = Log()
    result = cheap_run(root, config, reporter=log, accept_changes=True)  # its record lacks the section test
    assert [r["w1"]["value"] < 90 for r in result.rounds] == [True, True]
    assert (
        "round 0 has no test, which earlier versions did not make: it is tested now (test: null"
        in "".join(log.messages)
    )
    assert any("starts from frames of the training data" in m for m in log.messages)
    assert set(log.stages) == {"starts of the test", "round 0: test", "round 1: test", "report"}
    kinds = manifest(root, STARTS)["results"]["kinds"]
    assert list(kinds) == ["training data"]


@pytest.mark.usefixtures("without_figures")
def test_the_report_of_an_earlier_version_says_that_there_is_no_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    cheap_run(root, with_reference(tmp_path))
    reports: list[Any] = []
    monkeypatch.setattr(collect, "write_report", lambda path, report: reports.append(report))
    collect.report_run(root)
    as_made_before(root)
    collect.report_run(root)
    assert reports[0].rounds[0].w1.value < 90
    assert not any("has no test" in note for note in reports[0].notes)
    # the W1 of the exploration is shown under its own name
    assert [r.measured for r in reports] == ["test", "exploration"]
    assert any(n.startswith("Round 0 has no test: an earlier version measured") for n in reports[1].notes)


class Explodes(stand_ins.Noise):
    """A sampler whose replicas blow up at once in the test."""

    def sample(self, potential: Path, topology: Any, start_positions: Any, **options: Any) -> SampledFrames:
        if options["out_dir"].name != "dynamics":
            return super().sample(potential, topology, start_positions, **options)
        events = [BlowUp(i, 1, "bond") for i in range(4)]
        return SampledFrames([np.zeros((0, 5, 3), dtype=np.float32)] * 4, events)


@pytest.mark.usefixtures("without_figures")
def test_a_model_that_fails_its_test_does_not_end_the_run(tmp_path: Path) -> None:
    result = cheap_run(tmp_path / "run", with_reference(tmp_path), sampler=Explodes())
    assert len(result.rounds) == 2
    row = result.rounds[0]
    assert row["w1"] is None
    assert row["n_test_blow_ups"] == 4
    line = round_line(row)
    assert "every replica blew up during the equilibration of the test" in line
    assert "4 blow-ups in the test" in line


def marked(**changes: Any) -> dict[str, Any]:
    w1 = {"value": 0.62, "interval": None, "floor": 0.43}
    text = "starts still differ: 0.41, by chance up to 0.22"
    coverage = {"mean": 1.0, "q95": 2.0}
    row = {"round": 0, "n_frames": 9, "coverage": coverage, "n_blow_ups": 0, "w1": w1, "drift_text": text}
    return row | changes


def test_a_drifting_w1_is_marked_in_log_and_status(tmp_path: Path) -> None:
    assert "W1 drifts: starts still differ: 0.41, by chance up to 0.22" in round_line(marked())
    assert "drifts" not in round_line(marked(drift_text=""))
    root = tmp_path / "run"
    (root / "rounds/round_000/test").mkdir(parents=True)
    (root / "config.yaml").write_text("name: a\nrefinement: {iterations: 1}\nstopping: {rounds: 1}\n")
    (root / "run.json").write_text(json.dumps({"layout": 2}))
    for folder in ("rounds/round_000/test", "refinement/test"):
        write_sealed(root / folder / "manifest.json", {"results": marked(), "seconds": 1.0})
    text = status_text(run_status(root))
    mark = "W1 0.620 (floor 0.430; starts still differ: 0.41, by chance up to 0.22)"
    assert f"round 0: test 0:00:01 | {mark}" in text.replace(" | 9 frames", "")
    assert f"refined: {mark}" in text


class Structured(stand_ins.Springs):
    """An oracle of one's own that has start structures."""

    mapping = CGMapping(np.eye(5), stand_ins.TOPOLOGY)

    def native_positions(self) -> Any:
        return np.arange(5)[:, None] * [2.0, 2.0, 1.0]

    def extended_positions(self) -> Any:
        return np.arange(5)[:, None] * [3.8, 0.0, 0.0]


@pytest.mark.usefixtures("without_figures")
def test_an_oracle_with_structures_gives_both_starts_and_nothing_is_kept_back(tmp_path: Path) -> None:
    sampler, oracle = Starting(), Structured()
    cheap_run(tmp_path / "run", with_reference(tmp_path), sampler=sampler, oracle=oracle)
    start = sampler.starts["round_000/test/dynamics"]
    assert np.allclose(start[0], oracle.native_positions())
    assert np.allclose(start[1], oracle.extended_positions())
    assert np.allclose(start[2:], start[:2])
    assert not (tmp_path / "run/data" / RESERVED).exists()
    results = manifest(tmp_path / "run", "rounds/round_000/test")["results"]
    assert results["starts"]["groups"] == ["structure", "stretched"]
    assert results["start_id"] == "structure, stretched"
    assert results["rmsd_to_folded"]["w1"] > 0


@pytest.mark.usefixtures("without_figures")
def test_a_store_that_has_kept_back_frames_serves_other_runs(tmp_path: Path) -> None:
    cheap_run(tmp_path / "first", with_reference(tmp_path))
    evaluation = {"reference": [str(tmp_path / "reference.npy")], "lag_ps": 5.0, "reference_interval_ps": 1.0}
    seed_data = {"store": str(tmp_path / "first/data")}
    config = stand_ins.config(tmp_path, evaluation=evaluation, test=FEW, seed_data=seed_data)
    cheap_run(tmp_path / "second", config)
    stores = [DataStore(tmp_path / name / "data") for name in ("first", "second")]
    a, b = (Withheld.read(store).positions for store in stores)
    assert np.array_equal(a, b)
    seeds = [n for n in stores[1].names() if layout.shard_round(n) < 0]
    assert sum(stores[1].record(n)["n_frames"] for n in seeds) == len(stores[0].positions())


def test_forces_of_another_reference_are_refused_before_anything_is_spent(tmp_path: Path) -> None:
    np.save(tmp_path / "forces.npy", np.zeros((299, 5, 3)))
    config = with_reference(tmp_path, test={**FEW, "reference_forces": str(tmp_path / "forces.npy")})
    with pytest.raises(
        DataError, match=r"test.reference_forces: .*\(299, 5, 3\); the reference has \(300, 5"
    ):
        cheap_run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ real


def real(folder: Path) -> Config:
    save_trajectories(folder / "reference.npz", [chains(150, 5, seed=k) for k in range(3)])
    evaluation = {"reference": [str(folder / "reference.npz")], "reference_interval_ps": 1, "lag_ps": 5}
    test = {"n_replicas": 8, "steps": 2000, "report_interval": 50, "n_bootstrap": 20}
    seed_data = {**SMOKE["seed_data"], "picoseconds": 6.0}
    return parse_config({**SMOKE, "seed_data": seed_data, "evaluation": evaluation, "test": test})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("tested")
    return run(real(folder), folder / "run")


@pytest.mark.integration
def test_a_real_run_is_tested_from_stretched_and_reserved_starts(finished: RunResult) -> None:
    root = finished.out_dir
    results = [stage.results() for _, stage in layout.test_stages(RunDirectory(root))]
    assert [r["w1"] for r in results] == [row["w1"] for row in finished.rounds]
    assert results[0]["starts"]["groups"] == ["stretched", "reserved"]
    assert results[0]["starts"]["expected"] is None or results[0]["halves"]["expected"] is not None
    assert results[0]["start_id"] == results[1]["start_id"]
    assert results[0]["rmsd_to_folded"] is None
    assert results[0]["steps"] == 8 * 4 * 2000
    assert not list((root / "rounds/round_000/test").glob("*.pt"))  # one portable file for all replicas
    starts = StartSet.load(root / STARTS / "starts.npz")
    store = DataStore(root / "data")
    assert len(starts.frames["reserved"]) == 60
    # whole trajectories were run, and their ends are neither in the shards nor in the oracle's library
    whole = AllAtomTrajectory.load(root / "seed/trajectory_000.npz")
    kept = len(store.load("seed_000"))
    assert len(whole) == 300
    assert kept == 240
    assert "W1" in finished.report.read_text()
    withheld = Withheld.read(store).positions
    from cgal_plugin.components.build import build_components
    from cgal_plugin.selector import nearest_rmsd

    parts = build_components(RunDirectory(root).config())
    parts.seed_source.prepare(root / "seed")
    assert len(AllAtomLibrary.load(root / "seed/library.npz", parts.seed_source.oracle.model)) == 12  # type: ignore[attr-defined]
    parts.connect(store)
    library = parts.oracle.library  # type: ignore[union-attr]
    assert len(library) == 10
    assert nearest_rmsd(library.beads, withheld)[0].min() > 0.05


class Stops(Log):
    """A reporter that stops the run within the first test."""

    def stage(self, title: str) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def stopping() -> Any:
            def progress(done: int, total: int) -> None:
                if title == "round 0: test" and done > 0.4 * total:
                    raise KeyboardInterrupt

            yield progress

        return stopping()


@pytest.mark.integration
@pytest.mark.usefixtures("without_figures")
def test_an_interrupted_test_is_resumed_with_the_same_result(finished: RunResult, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished.out_dir, root)
    for number in (0, 1):
        shutil.rmtree(root / f"rounds/round_00{number}/test")
    config = RunDirectory(root).config()
    with pytest.raises(KeyboardInterrupt):
        run(config, root, reporter=Stops())
    dynamics = root / "rounds/round_000/test/dynamics"
    assert dynamics.is_dir()
    assert not (dynamics.parent / "manifest.json").exists()
    used = (dynamics.parent / "potential.npz").stat().st_mtime_ns
    again = run(config, root)
    assert (dynamics.parent / "potential.npz").stat().st_mtime_ns == used
    assert [r["w1"] for r in again.rounds] == [r["w1"] for r in finished.rounds]
    assert [r["starts"] for r in again.rounds] == [r["starts"] for r in finished.rounds]
