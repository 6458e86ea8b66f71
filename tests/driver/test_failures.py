"""Frames that cannot be labelled: each gets a record, and too many of them stop the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgal_plugin.data import DataStore
from cgal_plugin.driver import run
from cgal_plugin.errors import ConfigError, OracleError
from cgal_plugin.runs.log import LOG, read_log
from tests.driver import stand_ins

KINDS = {"refuse": "oracle", "raise": "error", "hang": "timeout", "die": "lost"}


def _records(out: Path) -> dict[tuple[int, int], dict[str, Any]]:
    found = {}
    for path in out.glob("rounds/*/label/quarantined_*.json"):
        record = json.loads(path.read_text())
        found[record["inputs"]["round"], record["inputs"]["frame"]] = record
    return found


def _check(out: Path, oracle: stand_ins.Fails) -> dict[str, int]:
    """Every selected frame is labelled or has the right record; how many records there are of each kind."""
    store = DataStore(out / "data")
    records, counts = _records(out), dict.fromkeys(KINDS.values(), 0)
    for folder in sorted(out.glob("rounds/round_*")):
        if not (folder / "label" / "manifest.json").exists():
            continue
        results = json.loads((folder / "label" / "manifest.json").read_text())["results"]
        number = int(folder.name[-3:])
        with np.load(folder / "select" / "selected.npz") as selected:
            frames = selected["positions"]
        failed = 0
        for i, frame in enumerate(frames):
            way = oracle.way(frame)
            if way == "label":
                assert f"r{number:03d}_f{i:04d}" in store
                assert (number, i) not in records
                continue
            failed += 1
            record = records[number, i]
            counts[record["kind"]] += 1
            assert record["kind"] == KINDS[way]
            np.testing.assert_array_equal(record["inputs"]["positions_angstrom"], frame)
            [failure] = record["failures"]
            if way in ("refuse", "raise"):
                assert f"{stand_ins.share(frame):.3f}" in failure["reason"]
            if way == "raise":
                assert "stand_ins.py" in record["traceback"]
        assert (results["n_labelled"], results["n_quarantined"]) == (len(frames) - failed, failed)
        assert len(results["quarantined"]) == failed
    return counts


def test_ten_rounds_with_a_fifth_of_the_labels_failing(tmp_path: Path) -> None:
    oracle = stand_ins.Fails(0.2)
    config = stand_ins.config(tmp_path, stopping={"rounds": 10})
    result = run(config, tmp_path / "run", oracle=oracle, **stand_ins.cheap())
    assert len(result.rounds) == 11
    counts = _check(tmp_path / "run", oracle)
    assert 8 < sum(counts.values()) < 35
    assert counts["oracle"] > 0
    assert counts["error"] > 0
    told = [e for e in read_log(tmp_path / "run" / LOG) if e["event"] == "quarantine"]
    assert len(told) == sum(counts.values())
    html = result.report.read_text()
    assert "no sound structure" in html
    assert "a bug that shows at" in html


@pytest.mark.integration
@pytest.mark.usefixtures("without_figures")
def test_tasks_that_hang_or_kill_their_worker_end_in_quarantine(tmp_path: Path) -> None:
    oracle = stand_ins.Fails(0.4, ("refuse", "raise", "hang", "die"))
    executor = {"workers": 2, "task_timeout": "5 s", "retries": 1, "retry_wait": 0}
    selector = {"kind": "random", "n_select": 12, "max_rmsd": None}
    tolerant = {"max_failure_rate": 1.0}
    config = stand_ins.config(tmp_path, seed=9, selector=selector, executor=executor, oracle=tolerant)
    run(config, tmp_path / "run", oracle=oracle, **stand_ins.cheap())
    assert all(_check(tmp_path / "run", oracle).values()), "pick a seed that has all kinds"


@pytest.mark.usefixtures("without_figures")
def test_too_many_failures_stop_the_round_with_a_diagnosis_and_can_be_mended(tmp_path: Path) -> None:
    config = stand_ins.config(tmp_path, selector={"kind": "random", "n_select": 20, "max_rmsd": None})
    broken = stand_ins.Fails(0.9, ("raise",))
    with pytest.raises(
        OracleError, match=r"(?s)frames could not be labelled .*50%.*a bug.*tracebacks"
    ) as error:
        run(config, tmp_path / "run", oracle=broken, **stand_ins.cheap())
    kept = DataStore(tmp_path / "run" / "data").names()
    assert str(len(kept) - 1) in str(error.value)  # one is the seed
    assert 5 < len(_records(tmp_path / "run")) < 20
    # the bug is mended: what raised is tried again, what was labelled is not
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "data" / "shards").iterdir()}
    run(config, tmp_path / "run", oracle=stand_ins.Fails(0.0), **stand_ins.cheap())
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    assert not _records(tmp_path / "run")


@pytest.mark.usefixtures("without_figures")
def test_frames_that_the_oracle_refused_stay_refused_and_the_limit_can_be_raised(tmp_path: Path) -> None:
    oracle = stand_ins.Fails(0.8, ("refuse",))
    selector = {"kind": "random", "n_select": 14, "max_rmsd": None}
    config = stand_ins.config(tmp_path, selector=selector)
    for _ in range(2):
        with pytest.raises(OracleError, match=r"(?s)could not be labelled.*lower selector\.max_rmsd"):
            run(config, tmp_path / "run", oracle=oracle, **stand_ins.cheap())
    before = set(_records(tmp_path / "run"))
    tolerant = stand_ins.config(tmp_path, selector=selector, oracle={"max_failure_rate": 1.0})
    run(tolerant, tmp_path / "run", oracle=oracle, **stand_ins.cheap())
    assert before <= set(_records(tmp_path / "run"))
    _check(tmp_path / "run", oracle)


@pytest.mark.parametrize("limit", [0, 1.5, "half"])
def test_a_limit_that_is_not_a_fraction_is_refused(limit: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"oracle\.max_failure_rate"):
        stand_ins.config(tmp_path, oracle={"max_failure_rate": limit})


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    from cgal_plugin.errors import DamageError
    from cgal_plugin.runs.quarantine import Quarantine

    (tmp_path / "quarantined_x.json").write_text("{")
    with pytest.raises(DamageError, match=r"quarantined_x\.json is damaged"):
        Quarantine(tmp_path).record("x")
    told: list[str] = []
    quarantine = Quarantine(tmp_path, lambda kind, **facts: told.append(facts["what"]))
    assert quarantine.release() == []
    assert quarantine.names() == []
    assert len(told) == 1
    assert "quarantined_x.json is damaged" in told[0]
    assert (tmp_path / "damaged" / "quarantined_x.json.0").read_text() == "{"


def test_the_report_escapes_the_messages_of_an_oracle(tmp_path: Path) -> None:
    nasty = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"

    class Rude:
        def label(self, frames: Any) -> Any:
            raise ValueError(nasty)

    class OnceRude(Rude):
        def label(self, frames: Any) -> Any:
            return (
                stand_ins.spring_label(frames) if stand_ins.share(frames[0]) > 0.3 else super().label(frames)
            )

    config = stand_ins.config(tmp_path, name=nasty[:90])
    result = run(config, tmp_path / "run", oracle=OnceRude(), **stand_ins.cheap())
    html = result.report.read_text()
    assert result.rounds[0]["n_quarantined"] > 0
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror" in html
