"""A bounded window of tasks on any ``concurrent.futures`` executor, with retries and stragglers."""

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
#: errors of the disk or the system, not of one task
_SYSTEM_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOMEM,
)
_LONGEST_WAIT = 60.0  # s, between two tries
_SHORTEST_STRAGGLER = 60.0  # s; a task younger than this is none
_ENOUGH_TIMES = 5  # finished tasks that a median is taken of
_POLL = 1.0  # s
#: s without a running task, beside workers that are there; Parsl's workers of a node can lock each other
#: up when one of them is killed between two tasks
_STALL_SECONDS = 60.0


@dataclass(frozen=True)
class Failure:
    """A task that gave no result.

    Attributes
    ----------
    kind
        ``"error"`` (it raised), ``"timeout"``, or ``"lost"`` (its worker died, again and again).
    reason
        What to tell the user.
    error
        The exception.
    log
        File with what the task wrote, where one was asked for.
    """

    kind: str
    reason: str
    error: BaseException
    log: Path | None = None


def no_event(kind: str, /, **facts: Any) -> None:
    """The default of ``event``."""


class _Window:
    """Tasks on their way, with the bookkeeping of tries and copies."""

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
        self.last_sign = time.monotonic()  # of a task that runs or is done
        self.next_look = 0.0
        self.pool = pool
        self.make = make
        self.fail = fail
        self.event = event
        self.left = n
        self.waiting = iter(range(n))
        self.delayed: list[tuple[float, int]] = []  # a heap of (when, task)
        self.running: dict[Future[Any], tuple[int, float, Call]] = {}
        self.finished: SimpleQueue[Future[Any]] = SimpleQueue()
        self.lost: dict[int, int] = {}
        self.copies: dict[int, int] = {}  # of stragglers: how many run
        self.seconds: deque[float] = deque(maxlen=101)
        self.exhausted = False

    def fill(self) -> None:
        """Submit tasks whose time has come, up to the pool's window."""
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
        """Start tasks that are far slower than the median again, on workers with nothing to do."""
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
        """Start the pool anew when it should have workers and has tasks, and has run none for long."""
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
        if patience is None or silence < patience * _STALL_SECONDS:
            return
        self.event("stall", tasks=len(self.running))
        again = sorted({index for index, _, _ in self.running.values()})
        self.running.clear()
        self.copies = {index: left for index, left in self.copies.items() if index not in again}
        self.finished = SimpleQueue()
        self.pool = self.reopen()
        self.delayed += [(now, index) for index in again]
        heapq.heapify(self.delayed)
        self.last_sign = time.monotonic()

    def next_finished(self) -> Future[Any] | None:
        """A finished task, or None after a while without one."""
        wait = _POLL
        if self.delayed and len(self.running) < self.pool.window:
            wait = min(_POLL, max(0.0, self.delayed[0][0] - time.monotonic()))
        try:
            return self.finished.get(timeout=wait)
        except Empty:
            return None

    def take(self, future: Future[Any], on_result: Callable[[int, Any], None]) -> None:
        """Hand over a result, or see to a failure."""
        self.last_sign = time.monotonic()
        index, started, call = self.running.pop(future)
        others = self.copies.get(index, 1) - 1  # copies that still run
        if index in self.copies:
            self.copies[index] = others
            if others < 0:  # a copy was faster
                return
        error = future.exception()
        if error is None:
            self.seconds.append(time.monotonic() - started)
            if index in self.copies:
                self.copies[index] = 0
            self.left -= 1
            on_result(index, future.result())
        elif isinstance(error, self.pool.useless):
            raise OracleError(f"there are no workers any more: {error}") from error
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
    """Run tasks 0 to n−1, made by ``make(index)`` when their turn comes; see :func:`map_tasks`.

    Any ``concurrent.futures`` executor will do. ``reopen`` ends the pool and starts another in its place.
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
    return str(error) if isinstance(error, CGALError) else f"{type(error).__name__}: {error}"


def check_system(error: BaseException) -> None:
    """Raise what is wrong with the machine and not with the task.

    Raises
    ------
    StateError
        ``error`` says that the disk is full or cannot be written, or that memory is out.
    """
    if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
        raise StateError(
            f"{error.filename or 'a worker'}: {error.strerror}; what is finished is kept"
        ) from error
