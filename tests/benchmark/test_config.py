"""Benchmark files: arms are merged with the base, seeds are ordered, mistakes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cgal_plugin.benchmark.config import load_benchmark, merged
from cgal_plugin.data.trajectories import save_trajectories
from cgal_plugin.errors import ConfigError


def _content() -> dict[str, Any]:
    return {
        "name": "table",
        "seed": 3,
        "base": {
            "system": {"sequence": "GYG", "temperature": 400.0},
            "evaluation": {"reference": ["reference.npz"]},
            "training": {"priors": {"method": "force_matching", "terms": ["bonds", "pairs"]}},
            "oracle": {"production_ps": 4.0},
            "stopping": {"rounds": 1},
        },
        "arms": {
            "static": {"seeds": 2, "changes": {"stopping": {"rounds": 0}}},
            "rmsd_refined": {
                "seeds": 1,
                "refines": "rmsd",
                "changes": {"refinement": {"iterations": 1, "lag_ps": 1.0}},
            },
            "rmsd": {"label": "RMSD", "seeds": 1},
        },
        "small": {"arms": {"static": {"seeds": 1}}},
    }


def _write(folder: Path, content: dict[str, Any]) -> Path:
    save_trajectories(folder / "reference.npz", [np.zeros((4, 3, 3))])
    path = folder / "benchmark.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_the_test_of_the_file_is_that_of_every_arm(tmp_path: Path) -> None:
    content = _content() | {"test": {"n_replicas": 8}, "reference_forces": "reference.npz"}
    jobs = load_benchmark(_write(tmp_path, content)).jobs
    tests = {repr(config.test) for config in jobs.values()}
    assert len(tests) == 1
    test = jobs["static", 1].test
    assert test is not None
    assert (test.n_replicas, test.reference_forces) == (8, (tmp_path / "reference.npz").resolve())


def test_an_arm_can_start_from_a_store(tmp_path: Path) -> None:
    content = merged(_content(), {"arms": {"rmsd": {"changes": {"seed_data": {"store": "."}}}}})
    assert load_benchmark(_write(tmp_path, content)).jobs["rmsd", 1].seed_data.store == tmp_path.resolve()


def test_changes_are_merged_section_by_section() -> None:
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}
    assert merged(base, {"a": {"c": {"f": 3}}, "e": [4]}) == {"a": {"b": 1, "c": {"d": 2, "f": 3}}, "e": [4]}
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}


def test_a_whole_seed_comes_before_the_next(tmp_path: Path) -> None:
    path = _write(tmp_path, _content())
    loaded = load_benchmark(path)
    assert list(loaded.jobs) == [("static", 1), ("rmsd_refined", 1), ("rmsd", 1), ("static", 2)]
    assert loaded.jobs["static", 1].seed == loaded.jobs["rmsd", 1].seed != loaded.jobs["static", 2].seed
    assert loaded.jobs["static", 1].stopping.rounds == 0
    assert loaded.jobs["rmsd", 1].stopping.rounds == loaded.jobs["rmsd_refined", 1].stopping.rounds == 1
    assert loaded.jobs["rmsd_refined", 1].refinement.iterations == 1
    assert list(load_benchmark(path, small=True).jobs) == list(loaded.jobs)[:3]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"base": {"executor": {"workers": 7}}}, True),
        ({"base": {"oracle": {"max_failure_rate": 0.1}}}, True),
        ({"base": {"training": {"epochs": 77}}}, False),
        ({"test": {"steps": 60000}}, False),
    ],
)
def test_hashes_depend_on_what_alters_results(tmp_path: Path, change: dict[str, Any], same: bool) -> None:
    before = load_benchmark(_write(tmp_path, _content())).hashes
    after = load_benchmark(_write(tmp_path, merged(_content(), change))).hashes
    assert [before[job] == after[job] for job in before] == [same] * 4


def test_refinements_of_another_version_are_other_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_benchmark(_write(tmp_path, _content()))
    monkeypatch.setattr("cgal_plugin.benchmark.config.VERSION", 77)
    after = load_benchmark(_write(tmp_path, _content())).hashes
    refined = {job for job, config in loaded.jobs.items() if config.refinement is not None}
    assert {job for job in after if after[job] != loaded.hashes[job]} == refined
    assert ("rmsd_refined", 1) in refined
    assert len(refined) < len(after)


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
        ({"arms": {"static": {}, "b": {"refines": "static"}}}, ["arm 'b'", "section refinement only"]),
        (
            {
                "arms": {
                    "static": {"seeds": 5},
                    "a": {"seeds": 1},
                    "b": {"seeds": 2, "refines": "a", "changes": {"refinement": {}}},
                }
            },
            ["arm 'b' refines 'a' but has more seeds"],
        ),
        (
            {"arms": {"a": {}, "static": {"refines": "a", "changes": {"refinement": {}}}}, "compare": []},
            ["the baseline"],
        ),
        ({"reference_forces": "nowhere.npz"}, ["nowhere.npz", "does not exist"]),
        ({"test": {"reference_forces": "nowhere.npz"}}, ["test.reference_forces", "no such file"]),
        (
            {"reference_forces": "reference.npz", "test": {"reference_forces": "reference.npz"}},
            ["not both"],
        ),
        ({"arms": {"static": {"changes": {"test": {}}}}, "compare": []}, ["arms.static.changes", "alike"]),
        ({"base": {"system": {"sequence": "GG"}, "test": None}}, ["base: all arms are tested alike"]),
        ({"test": {"n_bootstrap": 5}}, ["test", "n_bootstrap 5 is too few"]),
        ({"test": {"steps": 100}}, ["leave 1 frames of each replica"]),
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
def test_wrong_benchmarks_are_refused(tmp_path: Path, change: dict[str, Any], expected: list[str]) -> None:
    path = _write(tmp_path, _content() | change)
    with pytest.raises(ConfigError) as error:
        load_benchmark(path)
    for part in expected:
        assert part in str(error.value)
