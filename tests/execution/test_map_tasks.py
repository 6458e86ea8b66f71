"""Tasks on processes: every result is passed on, and a killed worker costs only time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cgal_plugin.components.tasks import is_picklable
from cgal_plugin.config.executor import LocalExecutor
from cgal_plugin.errors import OracleError, StateError
from cgal_plugin.execution.map_tasks import map_tasks
from cgal_plugin.execution.pool import Pool
from cgal_plugin.execution.window import Failure, run_tasks
from cgal_plugin.execution.worker import Call, Shared
from tests.execution import work


@pytest.mark.parametrize("workers", [0, 2])
def test_every_result_comes_with_its_index(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    results: dict[int, int] = {}

    def keep(index: int, result: tuple[int, str]) -> None:
        results[index] = result[0]
        assert result[1] == "1"

    map_tasks(work.square, [3, 1, 2], keep, workers=workers)
    assert results == {0: 9, 1: 1, 2: 4}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_each_worker_has_a_core_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where they agree on it, apart from other runs
    allowed, found = os.sched_getaffinity(0), {}
    n = len(allowed) + 1
    map_tasks(work.cores, [3.0] * n, found.__setitem__, workers=n)
    alone = [min(cores) for cores in found.values() if len(cores) == 1]
    assert sorted(alone) == sorted(allowed)
    assert [cores for cores in found.values() if len(cores) > 1] == [allowed]  # one more than there are
    assert os.sched_getaffinity(0) == allowed
    # the cores are free again
    map_tasks(work.cores, [0.0], found.__setitem__, workers=1)
    assert len(found[0]) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_what_all_tasks_share_is_sent_once(workers: int, tmp_path: Path) -> None:
    results: dict[int, int] = {}
    map_tasks(work.add, [1, 2], results.__setitem__, workers=workers, shared=40, folder=tmp_path)
    assert results == {0: 41, 1: 42}
    assert [p.name for p in tmp_path.iterdir()] == ([] if workers == 0 else ["tasks"])


def test_what_is_sent_is_not_loaded_when_its_bytes_changed(tmp_path: Path) -> None:
    shared = Shared.write({"a": 1}, tmp_path)
    assert shared.load() == {"a": 1}
    other = Shared.write({"a": 2}, tmp_path)
    Path(other.path).write_bytes(Path(shared.path).read_bytes())
    with pytest.raises(OracleError, match="not the file that the driver wrote"):
        other.load()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_stops_after_what_was_done_was_handed_over(workers: int) -> None:
    results: dict[int, int] = {}
    with pytest.raises(ValueError, match="three"):
        map_tasks(work.fail_on_three, [1, 3], results.__setitem__, workers=workers)
    assert results == {0: 1}


@pytest.mark.parametrize("workers", [0, 1])
def test_failures_are_handed_over_where_asked_for(workers: int, tmp_path: Path) -> None:
    results: dict[int, int] = {}
    failures: dict[int, Failure] = {}
    map_tasks(
        work.fail_on_three,
        [1, 3, 5],
        results.__setitem__,
        workers=workers,
        on_failure=failures.__setitem__,
        folder=tmp_path,
        names=["a", "b", "c"],
    )
    assert results == {0: 1, 2: 5}
    assert (failures[1].kind, failures[1].reason) == ("error", "ValueError: three")
    if workers:
        assert failures[1].log == tmp_path / "tasks" / "b.log"
        assert "fail_on_three" in failures[1].log.read_text()
        assert [p.name for p in (tmp_path / "tasks").iterdir()] == ["b.log"]  # silent tasks leave none


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    results: dict[int, int] = {}
    events: list[tuple[str, Any]] = []
    map_tasks(
        work.die_once,
        [(x, str(tmp_path / "died")) for x in range(4)],
        results.__setitem__,
        workers=LocalExecutor(workers=2, retry_wait=0.1),
        event=lambda kind, **facts: events.append((kind, facts["task"])),
    )
    assert results == {0: 0, 1: 1, 2: 2, 3: 3}
    assert events == [("worker lost", 2)]


def test_workers_that_always_die_are_given_up() -> None:
    settings = LocalExecutor(workers=1, retries=1, retry_wait=0)
    with pytest.raises(OracleError, match="its worker process died 2 times"):
        map_tasks(work.die, [1], lambda i, r: None, workers=settings)


def test_a_task_over_its_time_is_ended_and_not_tried_again(tmp_path: Path) -> None:
    results: dict[int, int] = {}
    failures: dict[int, Failure] = {}
    map_tasks(
        work.sleep_on_two,
        [1, 2, 3],
        results.__setitem__,
        workers=LocalExecutor(workers=1, task_timeout="2 s"),
        on_failure=failures.__setitem__,
        folder=tmp_path,
    )
    assert results == {0: 1, 2: 3}
    assert failures[1].kind == "timeout"
    assert "longer than 2 s" in failures[1].reason
    log = (tmp_path / "tasks" / "1.log").read_text()
    assert "task 2 says hello" in log
    assert "sleep_on_two" in log  # where it was


def test_a_full_disk_is_not_taken_for_a_failed_task() -> None:
    def full(x: int) -> None:
        raise OSError(28, "No space left on device", "/run/x.npz")

    with pytest.raises(StateError, match=r"/run/x\.npz: No space left on device"):
        map_tasks(full, [1, 2], lambda i, r: None, workers=0, on_failure=lambda i, f: None)


def test_unpicklable_objects_are_known() -> None:
    made = work.Unpicklable()
    try:
        assert not is_picklable(made)
        assert is_picklable(work.square)
    finally:
        made.handle.close()


# ---------------------------------------------------------------------- any concurrent.futures executor


class Recorder:
    """An executor that runs nothing until told, and knows how much was submitted."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.most = 0

    def submit(self, function: Any, call: Call) -> Any:
        from concurrent.futures import Future

        future: Any = Future()
        self.waiting.append((future, function, call))
        self.most = max(self.most, len(self.waiting))
        if len(self.waiting) > 2:
            self.finish()
        return future

    def finish(self) -> None:
        for future, _, call in self.waiting:
            future.set_result(call.item)
        self.waiting = []


def test_no_more_tasks_are_made_than_the_window_holds() -> None:
    executor = Recorder()
    pool = Pool(executor, 3, 3)  # type: ignore[arg-type]
    made: list[int] = []
    results: dict[int, int] = {}

    def make(index: int) -> Call:
        made.append(index)
        assert len(made) - len(results) <= 3
        return Call(work.square, index, "x.log")

    run_tasks(pool, 99, make, results.__setitem__, lambda i, f: None)
    assert results == {i: i for i in range(99)}
    assert executor.most == 3


def test_a_straggler_gets_a_copy_and_the_first_of_both_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future

    from cgal_plugin.execution import window

    monkeypatch.setattr(window, "_SHORTEST_STRAGGLER", 0.2)
    monkeypatch.setattr(window, "_POLL", 0.05)
    submitted: list[int] = []

    class Stuck:
        def submit(self, function: Any, call: Call) -> Any:
            future: Any = Future()
            stuck = call.item == 3 and 3 not in submitted
            submitted.append(call.item)
            if not stuck:
                future.set_result(call.item)
            return future

    results: dict[int, int] = {}
    events: list[str] = []
    pool = Pool(Stuck(), 4, 2, straggler_factor=2.0)  # type: ignore[arg-type]
    run_tasks(
        pool,
        8,
        lambda i: Call(work.square, i, "x.log"),
        results.__setitem__,
        lambda i, f: None,
        lambda kind, **facts: events.append(kind),
    )
    assert results == {i: i for i in range(8)}
    assert submitted.count(3) == 2
    assert events == ["straggler"]


# ---------------------------------------------------------------------- processes and their driver


def _wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _gone(pid: str) -> bool:
    status = Path("/proc") / pid / "status"
    return not status.exists() or "zombie" in status.read_text()


@pytest.mark.integration
def test_workers_end_with_a_killed_driver(tmp_path: Path) -> None:
    module = tmp_path / "sleeper.py"
    module.write_text(
        "from cgal_plugin.execution.map_tasks import map_tasks\n"
        "from tests.execution.work import note_pids\n"
        "if __name__ == '__main__':\n"
        f"    map_tasks(note_pids, [(0, 60, {str(tmp_path)!r})], print, workers=1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    driver = subprocess.Popen([sys.executable, str(module)], env=environment)
    _wait_for(lambda: list(tmp_path.glob("0-*")))
    driver.kill()
    driver.wait()
    worker = next(tmp_path.glob("0-*")).name.split("-")[1]
    _wait_for(lambda: _gone(worker))


def test_workers_end_at_once_with_an_error_of_the_driver(tmp_path: Path) -> None:
    def keep(index: int, result: int) -> None:
        raise RuntimeError("no")

    started = time.monotonic()
    with pytest.raises(RuntimeError, match="no"):
        map_tasks(work.note_pids, [(0, 60, str(tmp_path)), (1, 0, str(tmp_path))], keep, workers=2)
    assert time.monotonic() - started < 50
    for path in tmp_path.glob("*-*-*"):
        assert _gone(path.name.split("-")[1])
