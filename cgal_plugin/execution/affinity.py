"""A core of its own for each worker.

OpenMM's CPU platform hands every force evaluation to another thread, also when it is given one thread.
On a machine with idle cores the two threads end up on different ones and wake each other all the time,
which costs more than a third of the speed; on one core the hand-over costs nothing.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

_held: list[int] = []


def take_core(folder: Path | None = None) -> int | None:
    """Keep this process, for the rest of its life, on a core that no other worker has.

    Workers of all runs of a user on a machine agree by locks on files, one a core. When there are more
    workers than cores, those that find none free are left to the operating system.

    Parameters
    ----------
    folder
        For the lock files; default: one in the system's folder for temporary files.

    Returns
    -------
    int or None
        The core; None where there is none free, or no choice.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2 or _held:
        return None
    if folder is None:
        folder = Path(tempfile.gettempdir()) / f"cgal-cores-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            return None  # somebody else's: nothing to rely on
        for core in allowed:
            handle = os.open(folder / str(core), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            os.sched_setaffinity(0, {core})
            _held.append(handle)  # the lock goes with the process
            return core
    except OSError:
        return None
    return None
