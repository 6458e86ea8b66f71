"""Run tasks on a ``concurrent.futures`` executor with a bounded window, retries and stragglers."""

from __future__ import annotations

import errno
import heapq
import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from cgal_plugin import interrupts
from cgal_plugin.errors import CGALError, OracleError, StateError
from cgal_plugin.execution.pool import Pool
from cgal_plugin.execution.worker import Call, run_task, timed_out

Event = Callable[..., None]
#: errors of the disk or the system, which are not failures of a task
_SYSTEM_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOMEM,
)
_LONGEST_WAIT = 60.0  # s, before a task is repeated
_SHORTEST_STRAGGLER = 60.0  # s; a task that has run for less is not a straggler
_ENOUGH_TIMES = 5  # smallest number of finished tasks for a median
_POLL = 1.0  # s
#: s without a running task although workers are connected; the Parsl workers of a node can deadlock when
#: one of them is killed between two tasks
_STALL_SECONDS = 60.0


@dataclass(frozen=True)
class Failure:
    """Failure of a task, such as a labelling task; see also :class:`cgal_plugin.data.Quarantined`.

    Attributes
    ----------
    kind
        ``"error"`` (it raised), ``"timeout"``, or ``"lost"`` (its worker died repeatedly).
    reason
        Text for the user.
    error
        The exception.
    log
        File with the output of the task; None for a task of this process.
    """

    kind: str
    reason: str
    error: BaseException
    log: Path | None = None


def no_event(kind: str, /, **facts: Any) -> None:
    """Ignore an event."""


class _Window:
    """Unfinished tasks, their retries and their copies."""

    def __init__(
        self,
        pool: Pool,
        n: int,
        make: Callable[[int], Call],
        fail: Callable[[int, Failure], None],
        event: Event,
        reopen: Callable[[], Pool] | None,
    ) -> None:
        self.reopen = reopen
        self.last_sign = time.monotonic()  # time at which a task last ran or ended
        self.next_look = 0.0
        self.restarts = 0  # restarts of the pool since the last finished task
        self.pool = pool
        self.make = make
        self.fail = fail
        self.event = event
        self.left = n
        self.waiting = iter(range(n))
        self.delayed: list[tuple[float, int]] = []  # heap of (time, task)
        self.running: dict[Future[Any], tuple[int, float, Call]] = {}
        self.finished: SimpleQueue[Future[Any]] = SimpleQueue()
        self.lost: dict[int, int] = {}
        self.copies: dict[int, int] = {}  # number of running copies of stragglers
        self.seconds: deque[float] = deque(maxlen=101)
        self.exhausted = False

    def fill(self) -> None:
        """Submit tasks that are due, up to the pool's window."""
        while len(self.running) < self.pool.window:
            if self.delayed and self.delayed[0][0] <= time.monotonic():
                index: int | None = heapq.heappop(self.delayed)[1]
            else:
                index = next(self.waiting, None)
            if index is None:
                self.exhausted = True
                return
            self.submit(index)

    def submit(self, index: int) -> None:
        call = self.make(index)
        future = self.pool.executor.submit(run_task, call)
        self.running[future] = (index, time.monotonic(), call)
        future.add_done_callback(self.finished.put)

    def copy_stragglers(self, factor: float) -> None:
        """Submit a second copy of tasks that are far slower than the median, on idle workers."""
        idle = self.pool.workers - len(self.running)
        if not self.exhausted or self.delayed or idle < 1 or len(self.seconds) < _ENOUGH_TIMES:
            return
        now, limit = time.monotonic(), max(_SHORTEST_STRAGGLER, factor * statistics.median(self.seconds))
        late = [(i, now - start) for i, start, _ in self.running.values() if now - start > limit]
        for index, age in [pair for pair in late if pair[0] not in self.copies][:idle]:
            self.event("straggler", task=index, seconds=age)
            self.copies[index] = 2
            self.submit(index)

    def mend_stall(self) -> None:
        """Restart the pool if it has workers and tasks but has run no task for a long time."""
        now = time.monotonic()
        silence = now - self.last_sign
        if self.reopen is None or silence < _STALL_SECONDS or now < self.next_look:
            return
        self.next_look = now + _STALL_SECONDS / 4
        if any(Path(call.log).exists() for _, _, call in self.running.values()):
            self.last_sign = now
            return
        patience = self.pool.patience()
        if patience is None:
            self.last_sign = now
        # double the time after each restart: on a slow machine, workers need long for their first task
        if patience is None or silence < patience * _STALL_SECONDS * 2**self.restarts:
            return
        self.event("stall", tasks=len(self.running))
        again = sorted({index for index, _, _ in self.running.values()})
        self.running.clear()
        self.copies = {index: left for index, left in self.copies.items() if index not in again}
        self.finished = SimpleQueue()
        self.pool = self.reopen()
        self.restarts += 1
        self.delayed += [(now, index) for index in again]
        heapq.heapify(self.delayed)
        self.last_sign = time.monotonic()

    def next_finished(self) -> Future[Any] | None:
        """Return a finished task, or None if none finishes in time."""
        wait = _POLL
        if self.delayed and len(self.running) < self.pool.window:
            wait = min(_POLL, max(0.0, self.delayed[0][0] - time.monotonic()))
        try:
            return self.finished.get(timeout=wait)
        except Empty:
            return None

    def take(self, future: Future[Any], on_result: Callable[[int, Any], None]) -> None:
        """Pass on the result of a finished task, or handle its failure."""
        self.last_sign = time.monotonic()
        self.restarts = 0
        index, started, call = self.running.pop(future)
        others = self.copies.get(index, 1) - 1  # copies that are still running
        if index in self.copies:
            self.copies[index] = others
            if others < 0:  # another copy finished first
                return
        error = future.exception()
        if error is None:
            self.seconds.append(time.monotonic() - started)
            if index in self.copies:
                self.copies[index] = 0
            self.left -= 1
            on_result(index, future.result())
        elif isinstance(error, self.pool.useless):
            raise OracleError(f"no workers are left: {error}") from error
        elif others < 1:
            self._failed(index, call, error)

    def _failed(self, index: int, call: Call, error: BaseException) -> None:
        lost, tries = isinstance(error, self.pool.lost), self.lost.get(index, 0)
        late = lost and timed_out(Path(call.log))
        if lost and not late and tries < self.pool.retries:
            wait = min(self.pool.retry_wait * 2**tries, _LONGEST_WAIT)
            self.event("worker lost", task=index, attempt=tries + 1, retry_after=wait, error=str(error))
            self.lost[index] = tries + 1
            self.copies.pop(index, None)
            heapq.heappush(self.delayed, (time.monotonic() + wait, index))
            return
        if late:
            kind, reason = "timeout", f"it took longer than {call.timeout:g} s (executor.task_timeout)"
        elif lost:
            kind, reason = "lost", f"its worker process died {tries + 1} times (out of memory, or killed)"
        else:
            check_system(error)
            kind, reason = "error", reason_of(error)
        self.left -= 1
        self.fail(index, Failure(kind, reason, error, Path(call.log)))


def run_tasks(
    pool: Pool,
    n: int,
    make: Callable[[int], Call],
    on_result: Callable[[int, Any], None],
    fail: Callable[[int, Failure], None],
    event: Event = no_event,
    reopen: Callable[[], Pool] | None = None,
) -> None:
    """Run tasks 0 to n−1, which ``make(index)`` creates when they are due; see :func:`map_tasks`.

    ``reopen`` closes the pool and returns a new one.
    """
    window = _Window(pool, n, make, fail, event, reopen)
    while window.left:
        interrupts.check()
        window.fill()
        if pool.straggler_factor is not None:
            window.copy_stragglers(pool.straggler_factor)
        future = window.next_finished()
        if future is None:
            window.mend_stall()
        else:
            window.take(future, on_result)


def reason_of(error: BaseException) -> str:
    """Format an exception of a task for the user."""
    return str(error) if isinstance(error, CGALError) else f"{type(error).__name__}: {error}"


def check_system(error: BaseException) -> None:
    """Raise if ``error`` is a problem of the machine, not of the task.

    Raises
    ------
    StateError
        The disk is full or cannot be written, or there is no memory.
    """
    if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
        raise StateError(
            f"{error.filename or 'a worker'}: {error.strerror}; completed work is kept"
        ) from error
