"""A whole benchmark, real in every part: arms share their start, a second call resumes, results are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cgal_plugin.benchmark.config import LoadedBenchmark, load_benchmark
from cgal_plugin.benchmark.run import (
    RESULTS,
    _other_starts,
    read_results,
    report_benchmark,
    run_benchmark,
)
from cgal_plugin.data.trajectories import save_trajectories
from cgal_plugin.errors import StateError
from cgal_plugin.oracle import OpenMMOracle
from cgal_plugin.provenance import hash_file
from tests.driver.tiny import TINY

pytestmark = pytest.mark.integration


def _reference(folder: Path, oracle: OpenMMOracle) -> None:
    """Write random walks between the folded and the extended structure."""
    rng = np.random.default_rng(0)
    ends = oracle.mapping.map_positions(np.stack([oracle.native_positions(), oracle.extended_positions()]))
    walk = np.clip(np.cumsum(rng.normal(0, 0.08, (6, 60)), axis=1) + rng.random((6, 1)), 0, 1)
    frames = ends[0] + walk[..., None, None] * (ends[1] - ends[0])
    frames = frames + rng.normal(0, 0.25, frames.shape)
    save_trajectories(folder / "reference.npz", list(frames))
    save_trajectories(folder / "forces.npz", list(rng.normal(0, 5, frames.shape)))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    base = {k: v for k, v in TINY.items() if k not in ("name", "seed")}
    _reference(folder, OpenMMOracle(TINY["system"]["sequence"], temperature=400.0))
    base["evaluation"] = {"reference": ["reference.npz"], "reference_interval_ps": 1, "lag_ps": 5}
    base["stopping"] = {"rounds": 1}
    base["executor"] = {"workers": 0}
    base["selector"] = TINY["selector"] | {"n_select": 2}
    terms = ["bonds", "angle_series", "dihedrals", "repulsion", "pairs"]
    priors = {"terms": terms, "method": "force_matching"}
    base["training"] = TINY["training"] | {"epochs": 1, "mode": "scratch", "priors": priors}
    refinement = {"iterations": 1, "steps": 1600, "lag_ps": 0.2, "n_states": 6}
    content = {
        "name": "tiny table",
        "seed": 3,
        "base": base,
        "arms": {
            "static": {"seeds": 1, "changes": {"stopping": {"rounds": 0}}},
            "refined": {"seeds": 1, "refines": "static", "changes": {"refinement": refinement}},
            "rmsd": {"label": "RMSD", "seeds": 1},
        },
        "compare": ["refined"],
        "test": {"n_replicas": 4, "steps": 400, "report_interval": 20, "n_bootstrap": 20, "force_frames": 50},
        "reference_forces": "forces.npz",
    }
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "benchmark.yaml"


@pytest.fixture(scope="module")
def finished(benchmark: Path) -> tuple[LoadedBenchmark, Path]:
    loaded = load_benchmark(benchmark)
    out = benchmark.parent / "out"
    messages: list[str] = []
    run_benchmark(loaded, out, workers=0, message=messages.append)
    assert [r["arm"] for r in read_results(out)] == ["static", "rmsd", "refined"], messages
    return loaded, out


def test_arms_share_their_start_and_are_tested_alike(finished: tuple[LoadedBenchmark, Path]) -> None:
    _, out = finished
    static, rmsd, _ = read_results(out)
    first = [out / "runs" / arm / "seed_1/rounds/round_000/train" for arm in ("static", "rmsd")]
    assert len({hash_file(f / "potential.pt") for f in first}) == 1
    assert static["rounds"][0]["w1"] == rmsd["rounds"][0]["w1"]
    # the test of the final model is that of the last round, and the arms start alike
    assert rmsd["rounds"][-1]["w1"]["value"] == rmsd["test"]["w1"]["value"]
    assert static["test"]["start_id"] == rmsd["test"]["start_id"]
    assert not (out / "runs/rmsd/seed_1/test").exists()
    assert rmsd["oracle_ns"] > static["oracle_ns"] == static["seed_ns"] > 0
    for row in (static, rmsd):
        test = row["test"]
        assert test["steps"] == 4 * 4 * 400
        assert 0 <= test["states_visited"] <= 1
        assert test["w1"]["floor"] is not None
        # the reference forces are noise of standard deviation 5, independent of the model's
        assert test["force_rmse"] > 3
        assert np.sum(test["histogram"]) == pytest.approx(1e6, rel=1e-3)
        assert len(test["w1"]["replicates"]) == 20
        for name, digest in row["models"].items():
            assert hash_file(out / "models" / row["arm"] / "seed_1" / name) == digest


def test_an_arm_that_refines_another_starts_from_its_runs(finished: tuple[LoadedBenchmark, Path]) -> None:
    _, out = finished
    static, _, refined = read_results(out)
    assert refined["rounds"] == static["rounds"]
    assert refined["oracle_ns"] == static["oracle_ns"]
    assert refined["test"]["w1"] != static["test"]["w1"]
    theirs, ours = (out / "runs" / arm / "seed_1" for arm in ("static", "refined"))
    name = "rounds/round_000/train/manifest.json"
    assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert (ours / "refinement/iteration_001/manifest.json").is_file()
    tested = json.loads((ours / "refinement/test/manifest.json").read_text())["results"]
    assert tested["w1"] == refined["test"]["w1"]
    assert not (theirs / "refinement").exists()


def test_an_arm_with_a_result_is_not_run_again(finished: tuple[LoadedBenchmark, Path]) -> None:
    loaded, out = finished
    before = (out / RESULTS).read_bytes()
    static, rmsd, refined = before.splitlines(keepends=True)
    # the second line is lost, as if the process had been killed before it was written
    (out / RESULTS).write_bytes(static + refined)
    manifest = out / "runs/rmsd/seed_1/rounds/round_001/test/manifest.json"
    stamp = manifest.stat().st_mtime_ns
    messages: list[str] = []
    run_benchmark(loaded, out, workers=1, message=messages.append)
    assert messages[0].startswith("2 of 3")
    assert manifest.stat().st_mtime_ns == stamp
    again = (out / RESULTS).read_bytes().splitlines()
    assert again[:2] == [static.strip(), refined.strip()]
    assert json.loads(again[2])["test"] == json.loads(rmsd)["test"]
    (out / RESULTS).write_bytes(before)


def test_report_and_settings(finished: tuple[LoadedBenchmark, Path]) -> None:
    _, out = finished
    assert "one seed" in report_benchmark(out).read_text()
    summary = json.loads((out / "summary.json").read_text())
    static, rmsd, _ = (r["test"]["w1"]["value"] for r in read_results(out))
    assert {(c["first"], c["second"]) for c in summary["head_to_head"]} == {("refined", "rmsd")}
    assert summary["arms"]["rmsd"]["reduction"]["w1"]["value"] == pytest.approx(1 - rmsd / static)
    # no path of this machine
    settings = json.loads((out / "benchmark.json").read_text())["settings"]
    assert settings["reference_forces"] == "forces.npz"


def test_results_of_an_earlier_test_are_read_but_never_mixed_with_new_ones(
    finished: tuple[LoadedBenchmark, Path], tmp_path: Path
) -> None:
    loaded, out = finished
    shutil.copytree(out, tmp_path / "out", ignore=shutil.ignore_patterns("runs"))
    rows = read_results(out)
    old = [{k: v for k, v in row.items() if k != "test_version"} for row in rows]
    for row in old:
        for key in ("starts", "halves", "drifts", "drift_text", "start_id"):
            row["test"].pop(key)

    def write(results: list[dict[str, Any]]) -> None:
        (tmp_path / "out" / RESULTS).write_text("".join(json.dumps(r) + "\n" for r in results))

    write(old)
    html = report_benchmark(tmp_path / "out").read_text()
    assert "W1 of each round&#39;s exploration" in html or "W1 of each round's exploration" in html
    with pytest.raises(StateError, match=r"3 results of an earlier version of the test.*another folder"):
        run_benchmark(loaded, tmp_path / "out")
    write([*old[:2], read_results(out)[2]])
    with pytest.raises(StateError, match=r"mixes results of different tests \(test_version 1, 2\)"):
        report_benchmark(tmp_path / "out")


def test_an_arm_with_other_starts_than_the_baseline_has_no_result(
    finished: tuple[LoadedBenchmark, Path],
) -> None:
    rows = read_results(finished[1])
    assert rows[0]["arm"] == "static"
    other = {**rows[1], "test": {**rows[1]["test"], "start_id": "stretched, reserved, abc"}}
    assert _other_starts(rows[1], "static", rows) is None
    assert "tested from other starts (stretched, reserved, abc)" in str(_other_starts(other, "static", rows))


def test_another_configuration_in_the_same_folder_is_refused(
    finished: tuple[LoadedBenchmark, Path], benchmark: Path
) -> None:
    _, out = finished
    content = yaml.safe_load(benchmark.read_text())
    content["base"]["training"]["epochs"] = 77
    other = benchmark.parent / "other.yaml"
    other.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(StateError, match="another configuration for refined/1, rmsd/1, static/1"):
        run_benchmark(load_benchmark(other), out)
