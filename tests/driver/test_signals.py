"""SIGTERM, SIGINT and SIGUSR1 end a run within seconds, in each of its stages."""

from __future__ import annotations

import copy
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cgal_plugin.runs.log import LOG, read_log
from tests.driver.processes import start
from tests.driver.tiny import TINY

pytestmark = pytest.mark.integration

LONG = 10**6


def _config(**changes: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(TINY)
    for section, values in changes.items():
        config[section] = {**config[section], **values}
    return config


def _parsl() -> dict[str, Any]:
    config = _config(simulation={"steps": 20}, oracle={"production_ps": 5000.0})
    return {**config, "executor": {"kind": "parsl", "template": "htex_local", "workers_per_node": 2}}


def _busy(out: Path, stage: str) -> bool:
    """Return whether the work of a stage has begun: an epoch, a checkpoint, a task."""
    signs = {
        "seed data": lambda: list(out.glob("work/tasks/*.log")),
        "train": lambda: list(out.glob("rounds/round_000/train/model_000/epoch_*.json")),
        "simulate": lambda: (out / "rounds/round_000/simulate/checkpoint.npz").exists(),
        "label": lambda: list(out.glob("work/tasks/r000*.log")),
    }
    return bool(signs[stage]())


@pytest.mark.parametrize(
    ("stage", "number", "config"),
    [
        ("seed data", signal.SIGINT, _config(seed_data={"picoseconds": 5000.0})),
        ("train", signal.SIGTERM, _config(training={"epochs": LONG})),
        ("simulate", signal.SIGUSR1, _config(simulation={"steps": LONG * 100, "report_interval": 100})),
        ("label", signal.SIGTERM, _config(simulation={"steps": 20}, oracle={"production_ps": 5000.0})),
        ("label", signal.SIGINT, _parsl()),
    ],
    ids=["seed", "train", "simulate", "label", "label-parsl"],
)
def test_a_signal_ends_a_run_in_seconds(
    stage: str, number: signal.Signals, config: dict[str, Any], tmp_path: Path
) -> None:
    if config["executor"].get("kind") == "parsl":
        pytest.importorskip("parsl")
    path, out, log = tmp_path / "run.yaml", tmp_path / "run", tmp_path / "log"
    path.write_text(yaml.safe_dump(config))
    process = start(path, out, log)
    deadline = time.monotonic() + 200
    while not _busy(out, stage):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    time.sleep(0.5)
    sent = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert time.monotonic() - sent < 30
    text = log.read_text()
    assert f"ended by {number.name}" in text
    assert f"cgal run {path} --out {out}" in text
    assert "Traceback" not in text
    assert read_log(out / LOG)[-1]["event"] == "interrupted"
    assert stage in read_log(out / LOG)[-1]["stage"]
    # no process is left behind
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode()
        except OSError:
            continue
        assert str(tmp_path) not in command or entry.name == str(os.getpid()), command
