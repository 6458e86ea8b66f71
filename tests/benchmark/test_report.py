"""Report of a benchmark, from the stored results of chignolin."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.benchmark.report import head_to_head
from cgal_plugin.benchmark.run import RESULTS, SETTINGS, read_results, report_benchmark
from cgal_plugin.errors import AnalysisError, StateError

STORED = Path(__file__).parents[2] / "examples/chignolin/benchmark_1"


def _numbers(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _numbers(item, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in _numbers(item, f"{path}/{i}").items()}
    return {path: value}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stored results of two arms, one of their labels with markup in it."""
    folder = tmp_path_factory.mktemp("benchmark")
    settings = json.loads((STORED / SETTINGS).read_text())
    settings["settings"]["name"] = "stored <b>table</b>"
    (folder / SETTINGS).write_text(json.dumps(settings))
    rows = [r for r in read_results(STORED) if r["arm"] in ("static", "rmsd")]
    (folder / RESULTS).write_text("".join(json.dumps(r) + "\n" for r in rows))
    report_benchmark(folder)
    return folder


def test_summary_reproduces_the_stored_one(folder: Path) -> None:
    """Statistics are resampled with fixed seeds: the numbers of an arm do not depend on the other arms."""
    ours, theirs = (json.loads((f / "summary.json").read_text()) for f in (folder, STORED))
    for arm in ("static", "rmsd"):
        found, expected = _numbers(ours["arms"][arm]), _numbers(theirs["arms"][arm])
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key


def test_page_has_the_table_and_escapes_its_input(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    assert "stored &lt;b&gt;table&lt;/b&gt;" in html
    assert "<b>table</b>" not in html
    rows = read_results(folder)
    wanted = sum(a["seeds"] for a in json.loads((folder / SETTINGS).read_text())["settings"]["arms"].values())
    assert f"{len(rows)} of {wanted}" in html
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_arms_are_compared_over_common_seeds() -> None:
    rows = [r for r in read_results(STORED) if r["arm"] in ("static", "rmsd")]
    other = [copy.deepcopy(r) | {"arm": "other"} for r in rows if r["arm"] == "rmsd" and r["seed"] <= 2]
    found = head_to_head([*rows, *other], "static", ["rmsd"])
    assert [(c["first"], c["second"], c["metric"]) for c in found] == [
        ("rmsd", "other", "w1"),
        ("rmsd", "other", "w1_ucsc"),
    ]
    assert all(c["estimate"].n_seeds == 2 and c["estimate"].value == 0.0 for c in found)
    assert {c["verdict"] for c in found} == {"not resolved"}
    (single, _) = head_to_head([*rows, other[0]], "static", ["rmsd"])
    assert single["verdict"] == "one seed: no interval"


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no benchmark results"):
        report_benchmark(tmp_path)
    shutil.copy(STORED / SETTINGS, tmp_path)
    row = next(r for r in read_results(STORED) if r["arm"] == "rmsd")
    (tmp_path / RESULTS).write_text(json.dumps(row) + "\n")
    with pytest.raises(AnalysisError, match="no result of the baseline"):
        report_benchmark(tmp_path)
    with (tmp_path / RESULTS).open("a") as handle:
        handle.write('{"arm": "rm')
    with pytest.raises(StateError, match=r"results.jsonl:2 is damaged .* delete that line"):
        read_results(tmp_path)
