"""SIGKILL and SIGTERM during small real runs: nothing is lost, nothing is computed twice.

    pytest -m integration tests/driver/test_kills.py       # a kill in each of three stages
    CGAL_KILLS=20 pytest -m slow tests/driver/test_kills.py -s   # at random moments; default: 100 of each

And a Parsl worker and a Parsl manager, killed while a round is labelled.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cgal_plugin.data import DataStore
from cgal_plugin.runs.log import LOG, read_log
from tests.driver.processes import check_kept, finished_files, start
from tests.driver.tiny import TINY

KILLS = int(os.environ.get("CGAL_KILLS", "100"))
#: s of work before a kill, at most; more with each kill in a row that nothing was finished before
_LONGEST_DELAY = 2.5
STAGES = {"seed data", "train", "simulate", "evaluate", "select", "label"}


def _labels(root: Path) -> dict[str, str]:
    store = DataStore(root / "data")
    return {n: store.verify(n)["sha256"] for n in store.names()}


def _stage(root: Path) -> str:
    """Return the stage that the run is in."""
    events = [e for e in read_log(root / LOG) if e["event"] in ("stage started", "stage finished")]
    if not events or events[-1]["event"] == "stage finished":
        return "between stages"
    title = events[-1]["stage"]
    return title if title in STAGES else title.rpartition(" ")[2]


def _started(root: Path, process: Any, before: int) -> bool:
    """Wait until the process works on the run; return False if it ended before."""
    deadline = time.monotonic() + 240
    while sum(e["event"] == "run started" for e in read_log(root / LOG)) <= before:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return True


def _wait_for(stage: str, root: Path, process: Any) -> None:
    """Wait for the start of a short stage; give up after some seconds if the run is past it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with (root / LOG).open("rb") as handle:
            handle.seek(-min(300, os.fstat(handle.fileno()).st_size), os.SEEK_END)
            last = handle.read().decode(errors="replace").strip().rpartition("\n")[2]
        if '"stage started"' in last and stage in last:
            return
        time.sleep(0.001)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, never killed."""
    folder = tmp_path_factory.mktemp("whole")
    config, log = folder / "run.yaml", folder / "log"
    config.write_text(yaml.safe_dump(TINY))
    assert start(config, folder / "run", log).wait(timeout=600) == 0, log.read_text()
    return folder / "run"


@pytest.mark.integration
def test_runs_killed_in_different_stages_end_with_the_same_labels(whole: Path, tmp_path: Path) -> None:
    config, out, log = tmp_path / "run.yaml", tmp_path / "run", tmp_path / "log"
    config.write_text(yaml.safe_dump(TINY))
    kept: dict[Path, int] = {}
    for begun in (
        "seed/trajectory_000.npz",
        "rounds/round_000/train/model_000/*.ckpt",
        "data/shards/r000_f000[01].json",
    ):
        process = start(config, out, log)
        deadline = time.monotonic() + 240
        while not list(out.glob(begun)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.wait()
        check_kept(kept)
        kept = finished_files(out)
    assert start(config, out, log).wait(timeout=240) == 0, log.read_text()
    check_kept(kept)
    assert _labels(out) == _labels(whole)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_signals_at_random_moments(number: signal.Signals, whole: Path, tmp_path: Path) -> None:
    config, log = tmp_path / "run.yaml", tmp_path / "log"
    config.write_text(yaml.safe_dump(TINY))
    expected = _labels(whole)
    rng = random.Random(2026 + number)
    hit: collections.Counter[str] = collections.Counter()
    n_runs = 0
    while sum(hit.values()) < KILLS:
        root = tmp_path / f"run{n_runs}"
        n_runs += 1
        kept: dict[Path, int] = {}
        runs = idle = ended = 0
        while True:
            process = start(config, root, log)
            if _started(root, process, runs):
                runs += 1
                short = [stage for stage in ("evaluate", "select") if not hit[stage]]
                if short and rng.random() < 0.3:
                    _wait_for(rng.choice(short), root, process)
                else:
                    time.sleep(rng.uniform(0, _LONGEST_DELAY * (1 + idle)))
            if process.poll() is not None:
                break
            stage = _stage(root)
            process.send_signal(number)
            ended = process.wait(timeout=60)
            if number == signal.SIGTERM and ended in (0, -number):  # it arrived after the end of the run
                break
            assert ended == (-number if number == signal.SIGKILL else 128 + number), log.read_text()
            errors = log.read_text().split("Traceback")[1:]
            if (
                number == signal.SIGKILL
            ):  # Python's own, of a worker whose parent is killed while it starts it
                errors = [e for e in errors if "spawn_main" not in e]
            assert not errors, log.read_text()
            hit[stage] += 1
            check_kept(kept)
            before, kept = kept, finished_files(root)
            idle = idle + 1 if len(kept) == len(before) else 0
        assert process.returncode == 0 or process.returncode == ended == -signal.SIGTERM, log.read_text()
        assert read_log(root / LOG)[-1]["event"] == "run finished"
        check_kept(kept)
        assert _labels(root) == expected
        assert not list(root.rglob("*.tmp*")), "left by a kill"
        print(f"{number.name}: {n_runs} runs, {sum(hit.values())} kills: {dict(hit)}", flush=True)
    if KILLS >= 100:
        assert set(hit) >= STAGES, f"no kill in {STAGES - set(hit)}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("victim", ["worker", "manager"])
def test_a_parsl_worker_or_manager_is_killed_while_it_labels(victim: str, tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("parsl")
    config, log = tmp_path / "run.yaml", tmp_path / "log"
    oracle = {**TINY["oracle"], "production_ps": 10.0}
    content = {
        **TINY,
        "oracle": oracle,
        "selector": {"n_select": 6, "max_rmsd": None},
        "stopping": {"rounds": 1},
    }
    config.write_text(yaml.safe_dump(content))
    whole = tmp_path / "whole"
    assert start(config, whole, log).wait(timeout=600) == 0, log.read_text()
    parsl = {"kind": "parsl", "template": "htex_local", "workers_per_node": 2, "heartbeat_threshold": 5}
    config.write_text(yaml.safe_dump({**content, "executor": parsl}))
    root = tmp_path / "parsl"
    process = start(config, root, log)
    deadline = time.monotonic() + 600
    while not list(root.glob("data/shards/r000*.json")):  # a label is done, the others are under way
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    logs: dict[int, set[str]] = {}
    for p in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # ended meanwhile
            logs[p.pid] = {Path(f.path).name for f in p.open_files() if str(root) in f.path}
    workers = [pid for pid, names in logs.items() if any(n.startswith("worker_") for n in names)]
    managers = [pid for pid, names in logs.items() if "manager.log" in names and pid not in workers]
    os.kill((workers if victim == "worker" else managers)[0], signal.SIGKILL)
    assert process.wait(timeout=600) == 0, log.read_text()
    assert _labels(root) == _labels(whole)
    assert len([name for name in _labels(root) if name.startswith("r000")]) == 6
