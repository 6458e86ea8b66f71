"""A reference file with another content: all rounds are compared with it again, and nothing is mixed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.config import Config
from cgal_plugin.provenance import hash_path, read_sealed, write_sealed
from cgal_plugin.reporting import collect
from tests.driver import stand_ins
from tests.driver.cheap import Log, cheap_run
from tests.driver.test_model_test import FEW
from tests.priors.chains import chains

pytestmark = pytest.mark.usefixtures("without_figures")


def configured(folder: Path, files: list[Path]) -> Config:
    evaluation = {"reference": [str(f) for f in files], "lag_ps": 5.0, "reference_interval_ps": 1.0}
    return stand_ins.config(folder, evaluation=evaluation, test=FEW)


def manifests(root: Path) -> list[dict[str, Any]]:
    return [read_sealed(p) for p in sorted(root.glob("rounds/round_*/test/manifest.json"))]


def w1(root: Path) -> list[float]:
    return [m["results"]["w1"]["value"] for m in manifests(root)]


def again(root: Path, config: Config, **options: Any) -> list[str]:
    """Run again; return the titles of the stages that were computed, and the messages."""
    log = Log()
    cheap_run(root, config, reporter=log, **options)
    return [
        *(s for s in log.stages if s.endswith("test")),
        *(m for m in log.messages if "reference has" in m),
    ]


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Config, Path]:
    file = tmp_path / "reference.npy"
    np.save(file, chains(300, 5))
    config = configured(tmp_path, [file])
    cheap_run(tmp_path / "run", config)
    return tmp_path / "run", config, file


def test_a_replaced_reference_is_compared_with_all_rounds(finished: tuple[Path, Config, Path]) -> None:
    root, config, file = finished
    before = w1(root)
    assert manifests(root)[0]["inputs"]["reference"] == [{"file": str(file), "sha256": hash_path(file)}]
    dynamics = {p: p.read_bytes() for p in root.glob("rounds/*/test/dynamics/**/*") if p.is_file()}
    assert again(root, config) == []
    np.save(file, chains(300, 5, seed=9))
    said = again(root, config)
    assert said[:2] == ["round 0: test", "round 1: test"]
    assert len(said) == 4
    assert all(a != b for a, b in zip(before, w1(root), strict=True))
    assert {p: p.read_bytes() for p in dynamics} == dynamics
    assert {m["inputs"]["reference"][0]["sha256"] for m in manifests(root)} == {hash_path(file)}
    assert again(root, config) == []
    # the same numbers as those of a run that knew no other reference
    cheap_run(root.parent / "fresh", config)
    assert w1(root) == w1(root.parent / "fresh")


def test_between_two_rounds(tmp_path: Path) -> None:
    """The reference is replaced while a run is interrupted after its first round."""
    file = tmp_path / "reference.npy"
    np.save(file, chains(300, 5))
    config = configured(tmp_path, [file])
    root = tmp_path / "run"
    cheap_run(root, config)
    for name in ("model.ckpt", "potential.pt"):
        (root / name).unlink()
    shutil.rmtree(root / "rounds/round_001")
    np.save(file, chains(300, 5, seed=9))
    assert again(root, config)[:2] == ["round 0: test", "round 1: test"]
    assert len({m["results"]["provenance"]["reference_sha256"] for m in manifests(root)}) == 1


def test_a_run_of_an_earlier_version_has_the_hash_of_its_frames(finished: tuple[Path, Config, Path]) -> None:
    root, config, file = finished
    for path in root.glob("rounds/*/test/manifest.json"):
        content = read_sealed(path)
        del content["inputs"]["reference"]
        write_sealed(path, content)
    assert again(root, config) == []
    np.save(file, chains(300, 5, seed=9))
    assert again(root, config)[:2] == ["round 0: test", "round 1: test"]


def test_another_name_and_time_are_no_other_content(finished: tuple[Path, Config, Path]) -> None:
    root, config, file = finished
    os.utime(file, (1.0, 1.0))
    assert again(root, config) == []
    shutil.copy(file, file.with_name("copy.npy"))
    assert again(root, configured(root.parent, [file.with_name("copy.npy")]), accept_changes=True) != []


def test_one_of_two_files(tmp_path: Path) -> None:
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for number, path in enumerate(files):
        np.save(path, chains(200, 5, seed=number))
    config, root = configured(tmp_path, files), tmp_path / "run"
    cheap_run(root, config)
    assert again(root, config) == []
    np.save(files[1], chains(200, 5, seed=7))
    assert again(root, config)[:2] == ["round 0: test", "round 1: test"]


def test_a_folder_has_the_hash_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x").write_text("1")
    found = [hash_path(tmp_path / "a")]
    (tmp_path / "a/.lock").write_text("")  # hidden files are no content
    assert hash_path(tmp_path / "a") == found[0]
    for change in (
        lambda: (tmp_path / "a/b/x").write_text("2"),
        lambda: (tmp_path / "a/y").write_text("2"),
        lambda: (tmp_path / "a/b/x").rename(tmp_path / "a/x"),
    ):
        change()
        found.append(hash_path(tmp_path / "a"))
    assert len(set(found)) == 4


def test_the_report_says_that_the_reference_has_changed(
    finished: tuple[Path, Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _, file = finished
    reports: list[Any] = []
    monkeypatch.setattr(collect, "write_report", lambda path, report: reports.append(report))
    collect.report_run(root)
    np.save(file, chains(300, 5, seed=9))
    collect.report_run(root)
    said = [[n for n in report.notes if "reference has changed" in n] for report in reports]
    assert said[0] == []
    assert "since the test of round 0, round 1" in said[1][0]
