"""Run one task in a worker process, with a log, a time limit and one thread."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgal_plugin.errors import OracleError
from cgal_plugin.execution.affinity import take_core
from cgal_plugin.execution.resources import CORES

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENMM_CPU_THREADS")
#: first characters of faulthandler's report of a timeout
TIMEOUT_MARK = "Timeout ("
_WATCH_SECONDS = 1.0
_loaded: dict[str, Any] = {}
_watched: dict[str, int] = {}


@dataclass(frozen=True)
class Shared:
    """An object that all tasks of a call use (the oracle), pickled once to a file.

    Each task carries the file's digest; a file with another digest is not unpickled.
    """

    path: str
    sha256: str

    @classmethod
    def write(cls, obj: Any, folder: Path) -> Shared:
        """Pickle ``obj`` into ``folder``."""
        content = pickle.dumps(obj)
        digest = hashlib.sha256(content).hexdigest()
        path = folder / f"shared-{digest[:16]}.pkl"
        path.write_bytes(content)
        return cls(str(path), digest)

    def load(self) -> Any:
        """Return the object; it is unpickled once per process.

        Raises
        ------
        OracleError
            The file was changed, or a class of the object cannot be imported.
        """
        if self.sha256 not in _loaded:
            content = Path(self.path).read_bytes()
            if hashlib.sha256(content).hexdigest() != self.sha256:
                raise OracleError(
                    f"{self.path} is not the file that the driver wrote (checksum); it is not loaded"
                )
            try:
                obj = pickle.loads(content)
            except (AttributeError, ImportError) as error:
                raise OracleError(
                    f"a worker cannot import the oracle: {error}. Put its class in a module that the "
                    "workers can import (an installed package, or a folder on PYTHONPATH)"
                ) from error
            _loaded.clear()
            _loaded[self.sha256] = obj
        return _loaded[self.sha256]


@dataclass(frozen=True)
class Call:
    """One task for a worker: ``function(item)``, or ``function(shared, item)``.

    Attributes
    ----------
    log
        File for the task's stdout and stderr; deleted if empty.
    timeout
        Seconds after which the worker process is killed; None: no limit.
    cores
        Cores that the task may use.
    """

    function: Callable[..., Any]
    item: Any
    log: str
    shared: Shared | None = None
    timeout: float | None = None
    cores: int = 1


def end_with_parent() -> None:
    """End this process when its parent ends, so that it does not compete with the workers of the next run."""
    if "parent" not in _watched:
        parent = multiprocessing.parent_process()
        _watched["parent"] = os.getppid() if parent is None or parent.pid is None else parent.pid
        threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    while os.getppid() == _watched["parent"]:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def run_task(call: Call) -> Any:
    """Run a task in a worker process; an exception is also written to its log."""
    end_with_parent()  # Parsl's workers would outlive a killed manager
    for name in _THREAD_VARIABLES:  # torch and openmm read them when the first task imports them
        os.environ[name] = "1"
    os.environ[CORES] = str(call.cores)
    if call.cores == 1:
        take_core()
    with _output_to(call.log), _time_limit(call.timeout):
        try:
            if call.shared is None:
                return call.function(call.item)
            return call.function(call.shared.load(), call.item)
        except BaseException:
            traceback.print_exc()
            raise


@contextlib.contextmanager
def _output_to(path: str) -> Iterator[None]:
    """Redirect file descriptors 1 and 2, which includes the output of C++, to a file during a task."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in enumerate(saved, start=1):
            os.dup2(copy, descriptor)
            os.close(copy)
        empty = os.fstat(target).st_size == 0
        os.close(target)
        if empty:
            Path(path).unlink(missing_ok=True)


@contextlib.contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """End the process after ``seconds`` with a traceback, also inside a C++ call.

    The thread of faulthandler does this; it does not need the interpreter lock.
    """
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def timed_out(log: Path) -> bool:
    """Return whether a task's log reports that it exceeded its time limit."""
    try:
        with log.open(encoding="utf-8", errors="replace") as handle:
            return any(line.startswith(TIMEOUT_MARK) for line in handle)
    except OSError:
        return False
