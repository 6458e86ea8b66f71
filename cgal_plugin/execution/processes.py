"""A concurrent.futures executor of processes in which the death of one costs its own task only."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any

from cgal_plugin.execution.worker import end_with_parent


def _start_worker() -> None:
    # the driver decides what a signal to the whole process group means
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


class _Slot:
    """One worker process, replaced when it dies."""

    def __init__(self) -> None:
        self.pool: ProcessPoolExecutor | None = None
        self.processes: list[BaseProcess] = []

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        if self.pool is not None:
            try:
                return self.pool.submit(function, *args)
            except BrokenProcessPool:
                self.pool.shutdown(wait=False)
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker)
        before = set(multiprocessing.active_children())
        future = self.pool.submit(function, *args)
        self.processes = [p for p in multiprocessing.active_children() if p not in before]
        return future

    def close(self, kill: bool) -> None:
        if self.pool is None:
            return
        if kill:
            for process in self.processes:
                process.kill()
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool = None


class ProcessSlots(Executor):
    """``workers`` spawned processes, each with a queue of its own, so that one that dies breaks no other.

    Submit at most ``workers`` tasks at a time: a slot takes one. A task whose process dies fails with
    ``BrokenProcessPool``, and the slot's next task starts a new process.
    """

    def __init__(self, workers: int) -> None:
        self._free = [_Slot() for _ in range(workers)]
        self._slots = list(self._free)
        self._busy = 0
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``function(*args)`` in a free slot."""
        if kwargs:
            raise TypeError("ProcessSlots takes positional arguments only")
        with self._lock:
            slot = self._free.pop()
            self._busy += 1
            future = slot.submit(function, *args)
        future.add_done_callback(lambda _: self._release(slot))
        return future

    def _release(self, slot: _Slot) -> None:
        with self._lock:
            self._free.append(slot)
            self._busy -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes: idle ones as asked, busy ones by a kill (their tasks can be run again)."""
        with self._lock:
            kill = self._busy > 0
        for slot in self._slots:
            slot.close(kill)
