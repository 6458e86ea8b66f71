"""Tasks over processes: every result is handed over, a killed worker costs nothing but time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cgal_plugin.driver.executor import map_tasks
from cgal_plugin.errors import OracleError


def _square(x: int) -> tuple[int, str]:
    return x * x, os.environ["OMP_NUM_THREADS"]


def _fail_on_three(x: int) -> int:
    if x == 3:
        raise OracleError("three")
    return x


def _die_once(task: tuple[int, str]) -> int:
    x, marker = task
    if x == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def _die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("workers", [0, 2])
def test_every_result_comes_with_its_index(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    results: dict[int, int] = {}

    def keep(index: int, result: tuple[int, str]) -> None:
        results[index] = result[0]
        assert result[1] == "1"

    map_tasks(_square, [3, 1, 2], keep, workers=workers)
    assert results == {0: 9, 1: 1, 2: 4}


def test_an_error_stops_after_what_was_done_was_handed_over() -> None:
    results: dict[int, int] = {}
    with pytest.raises(OracleError, match="three"):
        map_tasks(_fail_on_three, [1, 3], results.__setitem__, workers=1)
    assert results == {0: 1}


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    results: dict[int, int] = {}
    tasks = [(x, str(tmp_path / "died")) for x in range(4)]
    map_tasks(_die_once, tasks, results.__setitem__, workers=1)
    assert results == {0: 0, 1: 1, 2: 2, 3: 3}


def test_workers_that_always_die_are_given_up() -> None:
    with pytest.raises(OracleError, match="worker processes died"):
        map_tasks(_die, [1], lambda i, r: None, workers=1)


def test_workers_end_with_a_killed_driver(tmp_path: Path) -> None:
    module = tmp_path / "sleeper.py"
    module.write_text(
        "import os, sys, time, pathlib\n"
        "from cgal_plugin.driver.executor import map_tasks\n"
        "def work(path):\n"
        "    pathlib.Path(path).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        f"    map_tasks(work, [{str(tmp_path / 'pid')!r}], print, workers=1)\n"
    )
    driver = subprocess.Popen([sys.executable, str(module)])
    pid_file = tmp_path / "pid"
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    worker = Path("/proc") / pid_file.read_text()
    while worker.exists() and "zombie" not in (worker / "status").read_text():
        assert time.monotonic() < deadline, "the worker outlived its driver"
        time.sleep(0.05)
