"""From the executor section of a configuration to a ``concurrent.futures`` executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cgal_plugin.config.executor import LocalExecutor, ParslExecutor


@dataclass(frozen=True)
class Pool:
    """Somewhere to run tasks.

    Attributes
    ----------
    executor
        Any ``concurrent.futures`` executor.
    window
        Tasks that may be submitted and not done at a time.
    workers
        Workers there are when all have started.
    lost
        What a task's future raises when its worker was lost; such a task is tried again.
    useless
        What it raises when there will be no worker any more: the call ends.
    patience
        Asked when no task has been running for long: how many times the usual wait is due, or None as
        long as there need not be any worker (jobs that wait in a queue).
    retries, retry_wait
        How often, and after how many seconds (doubled each time).
    straggler_factor
        See :class:`~cgal_plugin.config.executor.ParslExecutor`.
    """

    executor: Executor
    window: int
    workers: int
    lost: tuple[type[BaseException], ...] = (BrokenProcessPool,)
    useless: tuple[type[BaseException], ...] = ()
    patience: Callable[[], float | None] = lambda: None
    retries: int = 3
    retry_wait: float = 1.0
    straggler_factor: float | None = None


@contextmanager
def open_pool(settings: LocalExecutor | ParslExecutor, folder: Path, n_tasks: int) -> Iterator[Pool]:
    """Start the workers that ``settings`` ask for; they end with the block, busy ones by a kill.

    Parameters
    ----------
    folder
        For Parsl's own logs and scripts; workers have to see it.
    n_tasks
        No more workers than this are started on this machine.

    Raises
    ------
    ConfigError
        Parsl is not installed, or its configuration cannot be used.
    """
    if isinstance(settings, ParslExecutor):
        from cgal_plugin.driver.parsl_pool import open_parsl

        with open_parsl(settings, folder) as pool:
            yield pool
        return
    from cgal_plugin.driver.processes import ProcessSlots

    workers = min(settings.workers, n_tasks)
    executor = ProcessSlots(workers)
    try:
        yield Pool(executor, workers, workers, retries=settings.retries, retry_wait=settings.retry_wait)
    finally:
        executor.shutdown()
