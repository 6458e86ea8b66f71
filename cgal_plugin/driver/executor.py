"""Oracle work over processes: each with one pinned thread, each result handled as it comes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from cgal_plugin.errors import OracleError

T = TypeVar("T")
R = TypeVar("R")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENMM_CPU_THREADS")
_MAX_POOL_FAILURES = 3


def _start_worker() -> None:
    # runs in the child before it imports torch or openmm, which read these once
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # a killed driver cannot stop its workers: they would go on for nothing, beside those of the next run
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def map_tasks(
    function: Callable[[T], R],
    items: Sequence[T],
    on_result: Callable[[int, R], None],
    *,
    workers: int,
) -> None:
    """Call ``function`` on every item, at most ``workers`` at once; hand each result over as it comes.

    Parameters
    ----------
    function, items
        Picklable; each item is one task.
    on_result
        Called in this process as ``on_result(index, result)``, in order of completion.
    workers
        Processes (spawned, one thread each); 0 runs everything in this process.

    Raises
    ------
    OracleError
        Worker processes were killed three times over; results handed over so far are kept.
    Exception
        What ``function`` or ``on_result`` raises, after the results that had come were handed over.
    """
    if workers == 0 or not items:
        for index, item in enumerate(items):
            on_result(index, function(item))
        return
    waiting = dict(enumerate(items))
    for _ in range(_MAX_POOL_FAILURES):
        try:
            _run_pool(function, waiting, on_result, min(workers, len(waiting)))
        except BrokenProcessPool:
            continue
        return
    raise OracleError(
        f"worker processes died {_MAX_POOL_FAILURES} times (out of memory, or killed); "
        f"{len(waiting)} of {len(items)} tasks are not done. Run the same command again to go on, "
        "with fewer executor.workers if memory is short. A script that calls run() has to do it under "
        "`if __name__ == '__main__':`, because workers import the script"
    )


def _run_pool(
    function: Callable[[T], R],
    waiting: dict[int, T],
    on_result: Callable[[int, R], None],
    workers: int,
) -> None:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        futures: dict[Future[Any], int] = {pool.submit(function, item): i for i, item in waiting.items()}
        while futures:
            finished, _ = wait(futures, return_when=FIRST_COMPLETED)
            errors = []
            for future in finished:
                index = futures.pop(future)
                error = future.exception()
                if error is not None:
                    errors.append(error)
                    continue
                on_result(index, future.result())
                del waiting[index]
            if errors:
                raise errors[0]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
