"""A pool of workers: a ``concurrent.futures`` executor with what the task window must know about it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass


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
