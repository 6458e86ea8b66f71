"""Map a function over tasks on worker processes, with a bounded number of tasks in flight."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from cgal_plugin.config.executor import LocalExecutor, ParslExecutor
from cgal_plugin.errors import OracleError
from cgal_plugin.execution.pool import Pool
from cgal_plugin.execution.resources import resolve_threads
from cgal_plugin.execution.window import Event, Failure, check_system, no_event, reason_of, run_tasks
from cgal_plugin.execution.worker import Call, Shared

ExecutorSettings = LocalExecutor | ParslExecutor


def map_tasks(
    function: Callable[..., Any],
    items: Sequence[Any],
    on_result: Callable[[int, Any], None],
    *,
    workers: int | Literal["auto"] | ExecutorSettings,
    shared: Any = None,
    on_failure: Callable[[int, Failure], None] | None = None,
    limited: bool = True,
    folder: Path | None = None,
    names: Sequence[str] | None = None,
    event: Event = no_event,
    cores: int = 1,
) -> None:
    """Call ``function(item)``, or ``function(shared, item)``, for each item; results come in any order.

    Tasks are submitted as workers become free, so that neither tasks nor results accumulate. A task whose
    worker was lost is repeated; a task that exceeds the time limit is not.

    Parameters
    ----------
    function, items, shared
        Picklable, unless ``workers`` is 0; each item is one task. ``shared`` is sent once per worker.
    on_result
        Called in this process as ``on_result(index, result)``.
    workers
        The executor section of a configuration, or a number of processes on this machine; ``"auto"``: one
        per core that this process may use; 0 runs all tasks in this process, without time limit.
    on_failure
        Called as ``on_failure(index, failure)`` for a failed task; an exception in it ends the call.
        Without ``on_failure``, the first failure ends the call.
    limited
        Whether the time limit of ``workers`` applies.
    folder
        For logs (``folder/tasks``) and the pickled ``shared``; workers must have access. Default: a
        temporary folder.
    names
        File name of each task's log; default: its index.
    event
        Called as ``event(kind, **facts)`` for each problem that was handled.
    cores
        Cores that each task may use. With 1, a worker process is pinned to its core.

    Raises
    ------
    OracleError
        ``function``, ``shared`` or an item is defined in a main script that workers cannot import.
        A task lost its worker more than ``retries`` times (without ``on_failure``), or no workers are left.
        Earlier results were passed to ``on_result``.
    StateError
        The disk is full, or a folder cannot be written.
    Exception
        Without ``on_failure``: the exception of ``function``, after earlier results were passed to
        ``on_result``.
    """
    settings = LocalExecutor(workers=workers) if isinstance(workers, int | str) else workers
    fail = on_failure or _raise
    if not items:
        return
    if settings.workers == 0:
        call = function if shared is None else functools.partial(function, shared)
        _in_this_process(call, items, on_result, fail)
        return
    if isinstance(settings, LocalExecutor):
        _check_importable(function, shared, items[0])
    with _work_folder(folder) as work:
        sent = None if shared is None else Shared.write(shared, work)
        logs = (folder or work) / "tasks"
        logs.mkdir(exist_ok=True)

        def make(index: int) -> Call:
            log = logs / f"{index if names is None else names[index]}.log"
            limit = settings.task_timeout if limited else None
            return Call(function, items[index], str(log), sent, limit, cores)

        with ExitStack() as stack:

            def start() -> Pool:
                stack.close()
                return stack.enter_context(open_pool(settings, folder or work, len(items)))

            run_tasks(start(), len(items), make, on_result, fail, event, start)


def _check_importable(*things: Any) -> None:
    """Check that workers can import what they are sent, before any of them starts."""
    from cgal_plugin.execution.processes import importable_main

    for thing in things:
        named = thing if hasattr(thing, "__qualname__") else type(thing)
        if getattr(named, "__module__", None) == "__main__" and not importable_main():
            raise OracleError(
                f"{named.__qualname__} is defined in a script that worker processes cannot import (read from "
                "standard input, or typed at a prompt or in a notebook): save it as a file and import it, or "
                "use executor.workers: 0"
            )


def _raise(index: int, failure: Failure) -> None:
    if failure.kind == "error":
        raise failure.error
    raise OracleError(
        f"{failure.reason}. Run the same command again to resume, with fewer executor.workers if memory is "
        "short. A script must call run() under `if __name__ == '__main__':`, because workers import it"
    ) from failure.error


def _in_this_process(
    call: Callable[[Any], Any],
    items: Sequence[Any],
    on_result: Callable[[int, Any], None],
    fail: Callable[[int, Failure], None],
) -> None:
    for index, item in enumerate(items):
        try:
            result = call(item)
        except Exception as error:  # noqa: BLE001  an external oracle may raise any exception
            check_system(error)
            fail(index, Failure("error", reason_of(error), error))
        else:
            on_result(index, result)


@contextmanager
def open_pool(settings: LocalExecutor | ParslExecutor, folder: Path, n_tasks: int) -> Iterator[Pool]:
    """Start the workers of ``settings``; at the end of the block they end, and busy ones are killed.

    Parameters
    ----------
    folder
        For Parsl's logs and scripts; workers must have access.
    n_tasks
        Upper limit on the number of local processes.

    Raises
    ------
    ConfigError
        Parsl is not installed, or its configuration cannot be used.
    """
    if isinstance(settings, ParslExecutor):
        from cgal_plugin.execution.parsl import open_parsl

        with open_parsl(settings, folder) as pool:
            yield pool
        return
    from cgal_plugin.execution.processes import ProcessSlots

    workers = min(resolve_threads(settings.workers, n_tasks), n_tasks)
    executor = ProcessSlots(workers)
    try:
        yield Pool(executor, workers, workers, retries=settings.retries, retry_wait=settings.retry_wait)
    finally:
        executor.shutdown()


@contextmanager
def _work_folder(folder: Path | None) -> Iterator[Path]:
    """Make a folder for data that is sent to workers, and delete it afterwards."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".send-", dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
