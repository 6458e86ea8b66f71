"""One workspace of the engine and the Python threads that take part in its calls."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.errors import ExportError
from cgal_plugin.export.engine.arrays import Model, Space
from cgal_plugin.export.engine.evaluate import evaluate
from cgal_plugin.export.engine.layout import Division, make_spaces
from cgal_plugin.export.engine.team import ANNOUNCED, CALL, announce, control_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: turns that a thread waits for the next call before it sleeps: some 0.2 ms on an idle core
_PATIENCE = 200
#: memory for pairs is reserved for this multiple of the number that was needed
_SPARE = 1.25
#: seconds in which all threads must have started
_START = 60.0


class Worker:
    """Evaluates a potential; calls from several threads wait for each other.

    Threads start with the first call and end with this object. A process that was forked later needs another
    one: see :attr:`process`.
    """

    def __init__(self, model: Model, division: Division, n_replicas: int) -> None:
        self.process = os.getpid()
        self._model, self._division = tuple(model), division
        self._lock = threading.Lock()
        self._make = partial(make_spaces, model, division)
        self._reserve(0)
        self._pool: ThreadPoolExecutor | None = None
        self._control = control_array(division.threads)
        self._woken = np.zeros(division.threads, dtype=np.int64)
        rows = n_replicas * len(model.start) // int(model.sizes[2])
        self._pos, self._forces = np.empty((rows, 3)), np.empty((rows, 3))
        self._energies = np.empty(n_replicas)

    def __call__(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return energies ``(R,)`` kJ/mol and forces ``(R·N, 3)`` kJ/mol/nm at a contiguous ``x`` in nm.

        Raises
        ------
        ExportError
            Threads cannot be started, or memory does not suffice for the pairs within the cutoff.
        """
        with self._lock:
            if self._division.threads == 1:
                # without copies, which cost as much as a tenth of a call for a few beads
                self._pos, self._forces = x, np.empty_like(x)
                self._energies = np.empty_like(self._energies)
            else:
                self._pos[:] = x
            while not self._run():
                self._grow()
            if self._division.threads == 1:
                return self._energies, self._forces
            return self._energies.copy(), self._forces.copy()

    def _reserve(self, pairs: int) -> None:
        """Make workspaces for ``pairs`` pairs per thread, at least for the usual number."""
        # the old ones are freed first, as soon as threads that wait for a call let go of them
        self.spaces: list[Space] = []
        self._spaces: list[tuple[Any, ...]] = []
        self.spaces = self._make(pairs)
        self._spaces = [tuple(space) for space in self.spaces]

    def _grow(self) -> None:
        needed = max(int(space.needed.max()) for space in self.spaces)
        self._restart()
        try:
            self._reserve(int(_SPARE * needed))
        except MemoryError as error:
            self._reserve(0)
            raise ExportError(
                f"memory does not suffice for {needed} pairs within the cutoff per thread: have the beads "
                "collapsed?"
            ) from error

    def _restart(self) -> None:
        """Let go of threads that wait for a call."""
        self._control[ANNOUNCED] = self._control[CALL]
        self._control = control_array(self._division.threads)

    def _run(self) -> bool:
        """Evaluate all replicas; return False if there is no memory for all pairs."""
        n = self._division.threads
        if n == 1:
            return self._evaluate(0, 0, self._control, self._spaces[0])
        if self._pool is None:
            self._pool = _start(n - 1)
        complete = False
        try:
            call = announce(self._control, n, self._woken)
            for k in range(int(self._woken[0])):
                thread = int(self._woken[k + 1])
                self._pool.submit(self._evaluate, thread, call, self._control, self._spaces[thread])
            enough = self._evaluate(0, call, self._control, self._spaces[0])
            complete = True
        except RuntimeError as error:
            raise ExportError(f"threads of the fast engine cannot run ({error}); use n_threads=1") from error
        finally:
            if not complete:
                self._restart()
        return enough

    def _evaluate(self, thread: int, call: int, control: NDArray[np.int64], space: tuple[Any, ...]) -> bool:
        # control and workspace are those of the call: a thread may start after the call was interrupted
        return evaluate(
            thread, self._division.threads, call, _PATIENCE, control, self._model, space, self._pos,
            self._energies, self._forces,
        )  # fmt: skip


def _start(n: int) -> ThreadPoolExecutor:
    """Return a pool of ``n`` running threads."""
    pool = ThreadPoolExecutor(n, thread_name_prefix="cgal-fast")
    all_here = threading.Barrier(n + 1)
    try:
        for _ in range(n):
            pool.submit(all_here.wait, _START)
        all_here.wait(_START)
    except (RuntimeError, threading.BrokenBarrierError) as error:
        all_here.abort()
        pool.shutdown(wait=False)
        raise ExportError(f"{n} threads cannot be started ({error}); use fewer n_threads") from error
    return pool
