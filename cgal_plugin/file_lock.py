"""Locks on files. The operating system releases a lock when its process ends, also if it is killed.

The lock file stays on disk; it has no effect unless a process holds the lock.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cgal_plugin.errors import StateError

#: lock file of :func:`locked_folder`
LOCK = ".lock"
_POLL_SECONDS = 0.05
_UNKNOWN = "another process"


@contextmanager
def locked(path: Path, what: str, *, patience: float = 1.0) -> Iterator[None]:
    """Hold the lock on ``path`` during the block.

    Parameters
    ----------
    path
        Lock file. It is created if needed, and holds the process id and host of the last holder.
    what
        Name of the locked object, for the error message.
    patience
        Seconds to wait for the lock, because :func:`holder` takes it for a moment.

    Raises
    ------
    StateError
        Another process holds the lock, or the file system has no locks.
    OSError
        The lock file cannot be opened for writing.
    """
    descriptor = _open(path)
    try:
        deadline = time.monotonic() + patience
        while not _try(descriptor, path):
            if time.monotonic() > deadline:
                raise StateError(
                    f"{what} is in use by {_read(descriptor)}: wait until it has ended, or use another folder"
                )
            time.sleep(_POLL_SECONDS)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_folder(root: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder, which is created if needed; see :func:`locked`.

    Raises
    ------
    StateError
        Another process holds the lock, the file system has no locks, or the folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(root / LOCK, f"{what} {str(root)!r}"))
        except OSError as error:
            raise StateError(f"{what} {str(root)!r} cannot be written: {error}") from error
        yield


def hold(path: Path) -> int | None:
    """Try to lock ``path`` until this process ends.

    Returns
    -------
    int or None
        The open descriptor, which must not be closed; None if another process holds the lock.

    Raises
    ------
    StateError, OSError
        As :func:`locked`.
    """
    descriptor = _open(path)
    try:
        if _try(descriptor, path):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def holder(path: Path) -> str | None:
    """Return the process that holds the lock on ``path``, or None. Nothing is written.

    This needs a shared lock, which filelock does not offer. With a shared lock, two simultaneous readers do
    not appear as holders to each other. NFS refuses an exclusive lock on a file that is open for reading.
    """
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor)
    except OSError:  # this file system has no locks, hence no holder
        return None
    finally:
        os.close(descriptor)
    return None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _try(descriptor: int, path: Path) -> bool:
    import filelock

    try:
        # not filelock.FileLock: without flock it falls back to a marker file that outlives a killed process
        return filelock.lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        raise StateError(
            f"{path} cannot be locked: its file system has no locks (flock: {error.strerror}). "
            "Use a folder on another file system"
        ) from error


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or _UNKNOWN
