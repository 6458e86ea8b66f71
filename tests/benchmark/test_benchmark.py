"""Benchmarks of arms, and reference ensembles: real and tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cgal_plugin.benchmark.config import LoadedBenchmark, load_benchmark
from cgal_plugin.benchmark.reference import build_reference
from cgal_plugin.benchmark.run import RESULTS, read_results, report_benchmark, run_benchmark
from cgal_plugin.components.seed_data import OpenMMSeeds
from cgal_plugin.config import parse_config
from cgal_plugin.data.trajectories import load_trajectories, save_trajectories
from cgal_plugin.errors import ConfigError, StateError
from cgal_plugin.oracle import OpenMMOracle
from cgal_plugin.provenance import hash_file
from tests.driver.tiny import TINY


def _reference(folder: Path, oracle: OpenMMOracle) -> None:
    """Chains between the folded and the stretched structure: something to compare with."""
    rng = np.random.default_rng(0)
    ends = oracle.mapping.map_positions(np.stack([oracle.native_positions(), oracle.extended_positions()]))
    walk = np.clip(np.cumsum(rng.normal(0, 0.08, (6, 200)), axis=1) + rng.random((6, 1)), 0, 1)
    frames = ends[0] + walk[..., None, None] * (ends[1] - ends[0])
    frames = frames + rng.normal(0, 0.25, frames.shape)
    save_trajectories(folder / "reference.npz", list(frames))
    save_trajectories(folder / "forces.npz", list(rng.normal(0, 5, frames.shape)))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    base = {k: v for k, v in TINY.items() if k not in ("name", "seed")}
    _reference(folder, OpenMMOracle(TINY["system"]["sequence"], temperature=400.0))
    base["evaluation"] = {"reference": ["reference.npz"], "lag_ps": 5}
    base["stopping"] = {"rounds": 1}
    base["executor"] = {"workers": 0}
    terms = ["bonds", "angle_series", "dihedrals", "repulsion", "pairs"]
    priors = {"terms": terms, "method": "force_matching"}
    base["training"] = TINY["training"] | {"mode": "scratch", "priors": priors}
    refinement = {"iterations": 1, "steps": 1600, "lag_ps": 0.2, "n_states": 6}
    content = {
        "name": "tiny <b>table</b>",
        "seed": 3,
        "base": base,
        "arms": {
            "static": {"seeds": 2, "changes": {"stopping": {"rounds": 0}}},
            "rmsd_refined": {"seeds": 1, "refines": "rmsd", "changes": {"refinement": refinement}},
            "rmsd": {"label": "RMSD", "seeds": 1},
        },
        "compare": ["rmsd_refined"],
        "test": {"n_replicas": 6, "steps": 400, "report_interval": 20, "n_bootstrap": 20, "force_frames": 50},
        "reference_forces": "forces.npz",
        "small": {"arms": {"static": {"seeds": 1}}, "test": {"n_replicas": 4}},
    }
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "benchmark.yaml"


@pytest.fixture(scope="module")
def finished(benchmark: Path) -> tuple[LoadedBenchmark, Path]:
    loaded = load_benchmark(benchmark, small=True)
    out = benchmark.parent / "out"
    run_benchmark(loaded, out, workers=1)
    return loaded, out


def test_arms_share_their_start_and_are_tested_alike(finished: tuple[LoadedBenchmark, Path]) -> None:
    _, out = finished
    static, rmsd, _ = read_results(out)
    assert (static["arm"], rmsd["arm"]) == ("static", "rmsd")
    first = [out / "runs" / arm / "seed_1/rounds/round_000/train" for arm in ("static", "rmsd")]
    assert len({hash_file(f / "potential.pt") for f in first}) == 1
    assert static["rounds"][0]["w1"] == rmsd["rounds"][0]["w1"]
    assert rmsd["oracle_ns"] > static["oracle_ns"] == static["seed_ns"] > 0
    for row in (static, rmsd):
        test = row["test"]
        assert test["steps"] == 4 * 400
        assert 0 < test["states_visited"] <= 1
        assert test["w1"]["floor"] is not None
        assert test["force_rmse"] > 3
        assert np.sum(test["histogram"]) == pytest.approx(1e6, rel=1e-3)
        assert len(test["w1"]["replicates"]) == 20
        for name, digest in row["models"].items():
            assert hash_file(out / "models" / row["arm"] / "seed_1" / name) == digest


def test_an_arm_that_refines_another_goes_on_from_its_runs(finished: tuple[LoadedBenchmark, Path]) -> None:
    _, out = finished
    _, rmsd, refined = read_results(out)
    assert refined["arm"] == "rmsd_refined"
    assert refined["rounds"] == rmsd["rounds"]
    assert refined["oracle_ns"] == rmsd["oracle_ns"]
    assert refined["test"]["w1"] != rmsd["test"]["w1"]
    theirs, ours = (out / "runs" / arm / "seed_1" for arm in ("rmsd", "rmsd_refined"))
    name = "rounds/round_001/train/manifest.json"
    assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert (ours / "refinement/iteration_001/manifest.json").is_file()
    assert not (theirs / "refinement").exists()


def test_what_has_a_result_is_not_run_again(finished: tuple[LoadedBenchmark, Path]) -> None:
    loaded, out = finished
    before = (out / RESULTS).read_bytes()
    first = before.splitlines(keepends=True)[0]
    (out / RESULTS).write_bytes(first + b'{"arm": "rm')
    with pytest.raises(StateError, match=r"results.jsonl:2 is damaged .* delete that line"):
        run_benchmark(loaded, out, workers=1)
    # the last line lost, as if the call had been killed before it was written
    (out / RESULTS).write_bytes(first)
    manifest = out / "runs/rmsd/seed_1/test/manifest.json"
    stamp = manifest.stat().st_mtime_ns
    messages: list[str] = []
    run_benchmark(loaded, out, workers=1, message=messages.append)
    assert messages[0].startswith("1 of 3")
    assert manifest.stat().st_mtime_ns == stamp
    ours, theirs = (json.loads(text.splitlines()[1]) for text in ((out / RESULTS).read_bytes(), before))
    assert ours["test"] == theirs["test"]


def test_report_has_the_table_and_escapes_what_it_is_given(finished: tuple[LoadedBenchmark, Path]) -> None:
    _, out = finished
    html = report_benchmark(out).read_text()
    assert "tiny &lt;b&gt;table&lt;/b&gt;" in html
    assert "<b>table</b>" not in html
    assert "one seed" in html
    summary = json.loads((out / "summary.json").read_text())
    static, rmsd, _ = (r["test"]["w1"]["value"] for r in read_results(out))
    assert {(c["first"], c["second"]) for c in summary["head_to_head"]} == {("rmsd_refined", "rmsd")}
    assert summary["arms"]["rmsd"]["reduction"]["w1"]["value"] == pytest.approx(1 - rmsd / static)
    assert (out / "figure.png").stat().st_size > 10_000
    # no path of this machine
    settings = json.loads((out / "benchmark.json").read_text())["settings"]
    assert settings["reference_forces"] == "forces.npz"


def test_another_configuration_in_the_same_folder_is_refused(
    finished: tuple[LoadedBenchmark, Path], benchmark: Path
) -> None:
    _, out = finished
    content = yaml.safe_load(benchmark.read_text())
    content["base"]["training"]["epochs"] = 77
    other = benchmark.parent / "other.yaml"
    other.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(StateError, match="another configuration for rmsd/1, rmsd_refined/1, static/1"):
        run_benchmark(load_benchmark(other), out)


def test_a_whole_seed_comes_before_the_next(benchmark: Path) -> None:
    loaded = load_benchmark(benchmark)
    assert list(loaded.jobs) == [("static", 1), ("rmsd_refined", 1), ("rmsd", 1), ("static", 2)]
    assert loaded.jobs["static", 1].seed == loaded.jobs["rmsd", 1].seed != loaded.jobs["static", 2].seed
    assert loaded.jobs["static", 1].stopping.rounds == 0
    assert loaded.jobs["rmsd", 1].stopping.rounds == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"arms": {"static": {"seeds": 2}, "rmsd": {"sed": 1}}}, ["arms.rmsd.sed", "did you mean 'seeds'"]),
        ({"baseline": "other"}, ["baseline 'other' is not among"]),
        ({"arms": {"static": {"seeds": 1}, "rmsd": {"seeds": 2}}}, ["needs as many seeds"]),
        ({"compare": ["rmds"]}, ["compare names ['rmds']"]),
        (
            {"arms": {"static": {"changes": {"trainng": {}}}}, "compare": []},
            ["arms.static", "did you mean 'training'"],
        ),
        (
            {"arms": {"static": {}, "b": {"refines": "c", "changes": {"refinement": {}}}}},
            ["refines 'c'", "one of"],
        ),
        ({"arms": {"static": {}, "b": {"refines": "static"}}}, ["arm 'b'", "refinement and nothing else"]),
        (
            {
                "arms": {
                    "static": {"seeds": 5},
                    "a": {"seeds": 1},
                    "b": {"seeds": 2, "refines": "a", "changes": {"refinement": {}}},
                }
            },
            ["more seeds than 'a'"],
        ),
        (
            {"arms": {"a": {}, "static": {"refines": "a", "changes": {"refinement": {}}}}, "compare": []},
            ["the baseline"],
        ),
        ({"reference_forces": "nowhere.npz"}, ["nowhere.npz", "does not exist"]),
        ({"base": {"system": {"sequence": "GG"}}}, ["evaluation.reference is empty"]),
        (
            {"base": {"system": {"sequence": "GG"}, "simulation": {"kind": "custom", "class": "a:B"}}},
            ["simulation.kind custom"],
        ),
        (
            {"base": {"system": {"sequence": "GG"}, "training": {"kind": "custom", "class": "a:B"}}},
            ["training.kind custom"],
        ),
    ],
)
def test_wrong_benchmarks_are_refused(benchmark: Path, change: dict[str, Any], expected: list[str]) -> None:
    content = yaml.safe_load(benchmark.read_text()) | change
    path = benchmark.parent / "wrong.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigError) as error:
        load_benchmark(path)
    for part in expected:
        assert part in str(error.value)


def test_diverse_starts_are_folded_heated_and_stretched() -> None:
    config = parse_config(
        {
            "system": {"sequence": "GYG", "temperature": 400},
            "seed_data": {
                "n_trajectories": 5,
                "start": "diverse",
                "picoseconds": 100,
                "equilibration_ps": 10,
            },
        }
    )
    seeds = OpenMMSeeds(config, OpenMMOracle("GYG", temperature=400.0))
    tasks = [seeds._task(i) for i in range(5)]
    assert [(t.start, t.heat_temperature, t.heat_ps) for t in tasks] == [
        ("folded", 400.0, 0.0),
        ("folded", 400.0, 200.0),
        ("folded", 500.0, 100.0),
        ("extended", 400.0, 0.0),
        ("folded", 400.0, 0.0),
    ]
    assert seeds.oracle_ns == pytest.approx(5 * 0.11 + 0.3)


def test_reference_is_built_once_and_says_how_far_it_has_converged(tmp_path: Path) -> None:
    config = parse_config(
        {
            "seed": 5,
            "system": {"sequence": "GYGYG", "temperature": 400},
            "seed_data": {
                "n_trajectories": 4, "picoseconds": 16, "equilibration_ps": 0.4, "save_ps": 0.2,
                "start": "mixed",
            },
            "evaluation": {"lag_ps": 0.8, "msm_lag_ps": 1.2},
            "executor": {"workers": 0},
        }
    )  # fmt: skip
    path = build_reference(config, tmp_path, interval_ps=0.4)
    positions = load_trajectories(path)
    forces = load_trajectories(tmp_path / "reference_forces.npz")
    assert [p.shape for p in positions] == [(40, 5, 3)] * 4 == [f.shape for f in forces]
    facts = json.loads((tmp_path / "reference.json").read_text())
    assert facts["interval_ps"] == pytest.approx(0.4)
    assert facts["sha256"]["reference.npz"] == hash_file(path)
    assert facts["split_halves"]["w1"]["mean"] > 0
    assert facts["reweighting"]["weighted"] == (facts["reweighting"]["connected"] >= 0.95)
    stamps = [p.stat().st_mtime_ns for p in sorted((tmp_path / "seed").iterdir())]
    build_reference(config, tmp_path, interval_ps=0.4)
    assert stamps == [p.stat().st_mtime_ns for p in sorted((tmp_path / "seed").iterdir())]
