"""A concurrent.futures executor of processes; if a process dies, only its own task is lost.

``ProcessPoolExecutor`` and loky fail all pending tasks when one process dies. Therefore each process has its
own pool.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from cgal_plugin.execution.worker import end_with_parent


def _start_worker() -> None:
    # the driver handles a signal to the process group
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def importable_main() -> bool:
    """Return whether worker processes can import the main script: not from standard input or a prompt."""
    main = sys.modules.get("__main__")
    name = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is not None or (name is not None and os.path.isfile(name))


@contextmanager
def _without_missing_main() -> Iterator[None]:
    """Hide the name of a main script that is no file, such as ``<stdin>``.

    A spawned process would try to run it, and die; without the name, it starts without the script. Classes of
    the script are then missing in the process, which :class:`~cgal_plugin.execution.worker.Shared` reports.
    """
    main = sys.modules.get("__main__")
    name = getattr(main, "__file__", None)
    if main is None or name is None or importable_main():
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = name


class _Slot:
    """One worker process, which is replaced when it dies."""

    def __init__(self) -> None:
        self.pool: ProcessPoolExecutor | None = None
        self.processes: list[BaseProcess] = []

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        if self.pool is not None:
            try:
                with _without_missing_main():
                    return self.pool.submit(function, *args)
            except BrokenProcessPool:
                self.pool.shutdown(wait=False)
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker)
        before = set(multiprocessing.active_children())
        with _without_missing_main():
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
    """``workers`` spawned processes, each with its own queue.

    At most ``workers`` tasks may be unfinished at a time, one per slot. A task whose process dies fails
    with ``BrokenProcessPool``; the next task of the slot starts a new process.
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
        """End the processes; if a task is unfinished, kill them."""
        with self._lock:
            kill = self._busy > 0
        for slot in self._slots:
            slot.close(kill)
