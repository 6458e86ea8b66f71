"""`cgal status`: right while a run works, after a kill and after the end, and it writes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.cli import main as cli
from cgal_plugin.driver import run
from cgal_plugin.errors import OracleError, StateError
from cgal_plugin.runs.log import LOG, read_log
from cgal_plugin.runs.status import run_status
from tests.driver import stand_ins


def _stamps(root: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in root.rglob("*")}


def _command(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cgal", "status", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("status")
    config = stand_ins.config(folder, name="[bold]name[/bold]")
    run(config, folder / "run", oracle=stand_ins.Fails(0.3, ("refuse",)), **stand_ins.cheap())
    return folder / "run"


def test_a_finished_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _stamps(finished)
    found = json.loads(_command(capsys, finished, "--json"))
    text = _command(capsys, finished)
    assert _stamps(finished) == before
    assert (found["state"], found["seconds_left"], found["current"]) == ("finished", 0.0, None)
    assert [sorted(r["seconds"]) for r in found["rounds"]] == [
        ["evaluate", "label", "select", "simulate", "train"],
        ["evaluate", "simulate", "train"],
    ]
    assert found["failures"]["quarantined"] == found["rounds"][0]["n_quarantined"] > 0
    assert found["failures"]["reasons"] == {"no sound structure (#)": found["failures"]["quarantined"]}
    assert found["throughput"]["labels_per_hour"] > 0
    assert "[bold]name[/bold]: finished" in text
    assert "x no sound structure" in text


def test_a_run_that_was_killed_in_the_middle_of_its_labels(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    shutil.rmtree(root / "rounds" / "round_001")
    (root / "rounds/round_000/label/manifest.json").unlink()
    left = sorted((root / "data" / "shards").glob("r000_f*"))[:4]
    for path in left:  # two labels
        path.unlink()
    log = (root / LOG).read_text().splitlines()
    cut = next(i for i, line in enumerate(log) if "round 0: label" in line)
    (root / LOG).write_text("\n".join(log[: cut + 2]) + '\n{"time": 1, "eve')
    found = run_status(root)
    assert found["state"] == "killed"
    assert found["queue"]["waiting"] == 2
    assert found["queue"]["labelled"] + found["queue"]["quarantined"] == 8
    assert found["seconds_left"] is None  # no label stage has been finished yet
    (root / LOG).unlink()
    assert run_status(root)["state"] == "finished"  # model.ckpt is there


def test_a_run_that_stopped_with_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = stand_ins.config(tmp_path)
    with pytest.raises(OracleError):
        run(config, tmp_path / "run", oracle=stand_ins.Fails(1.0), **stand_ins.cheap())
    text = _command(capsys, tmp_path / "run")
    assert ": failed, " in text
    assert "could not be labelled" in text
    assert "again to resume" in text


def test_damaged_and_missing_files(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    (root / "rounds/round_000/train/manifest.json").write_text("{")
    next((root / "rounds/round_000/label").glob("quarantined_*")).write_text("[]")
    found = run_status(root)
    assert found["rounds"][0]["damaged"] == ["train"]
    assert "damaged record" in found["failures"]["reasons"]
    (root / "config.yaml").write_text("[")
    with pytest.raises(StateError, match="damaged"):
        run_status(root)
    with pytest.raises(StateError, match="not a run directory"):
        run_status(tmp_path)


@pytest.mark.integration
def test_a_run_that_is_working(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "go.py"
    script.write_text(
        "from pathlib import Path\n"
        "from cgal_plugin.driver import run\n"
        "from cgal_plugin.runs import log\n"
        "from tests.driver import stand_ins\n"
        "log._PROGRESS_SECONDS = 0.2\n"
        "if __name__ == '__main__':\n"
        f"    folder = Path({str(tmp_path)!r})\n"
        "    selector = {'kind': 'random', 'n_select': 20, 'max_rmsd': None}\n"
        "    config = stand_ins.config(folder, selector=selector, executor={'workers': 2})\n"
        "    (folder / 'asked').mkdir()\n"
        "    oracle = stand_ins.Slow(1.0, str(folder / 'asked'))\n"
        "    run(config, folder / 'run', oracle=oracle, **stand_ins.cheap())\n"
    )
    root = tmp_path / "run"
    # the script imports tests.driver.stand_ins, which an installed package does not bring along
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, env=environment)
    try:
        deadline = time.monotonic() + 120
        found: dict[str, Any] = {}
        while not (found.get("queue") or {}).get("labelled", 0) > 3:
            assert process.poll() is None
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
            if (root / "config.yaml").exists():
                found = run_status(root)
        assert found["state"] == "running"
        assert f"pid {process.pid} on " in found["holder"]
        assert found["current"]["stage"] == "round 0: label"
        assert found["current"]["total"] == found["queue"]["selected"] == 20
        assert found["queue"]["running"] > 0
        assert 0 < found["current"]["per_hour"] < 2.1 * 3600
        text = _command(capsys, root)
        assert "now: round 0: label" in text
        assert "running (pid" in text
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Interrupted" in errors.decode()
    assert run_status(root)["state"] == "interrupted"


def test_the_log_has_a_line_for_everything(finished: Path) -> None:
    events = read_log(finished / LOG)
    assert events[0]["event"] == "run started"
    assert events[0]["versions"]["python"]
    assert events[-1]["event"] == "run finished"
    assert [e["event"] for e in events].count("round") == 2
    started = [e["stage"] for e in events if e["event"] == "stage started"]
    assert started == [e["stage"] for e in events if e["event"] == "stage finished"]
    assert {e["shard"] for e in events if e["event"] == "quarantine"} == {
        json.loads(p.read_text())["name"] for p in finished.glob("rounds/*/label/quarantined_*")
    }
