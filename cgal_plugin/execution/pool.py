"""A pool of workers: a ``concurrent.futures`` executor and its properties."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass


@dataclass(frozen=True)
class Pool:
    """An executor, the number of its workers, and its kinds of failure.

    Attributes
    ----------
    executor
        Any ``concurrent.futures`` executor.
    window
        Largest number of unfinished tasks.
    workers
        Number of workers when all have started.
    lost
        Exceptions of a task whose worker was lost; the task is repeated.
    useless
        Exceptions that mean that no more workers will start; the call ends.
    patience
        Called when no task has run for some time. Returns a factor by which the stall time is multiplied, or
        None if no workers can have started yet (all jobs are queued).
    retries, retry_wait
        Number of repetitions, and seconds before the first one (doubled each time).
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
