"""Pin each worker to its own core.

OpenMM's CPU platform computes forces in a second thread, even when it is limited to one thread. On a
machine with idle cores the two threads run on different cores and wake each other at every step, which
costs more than a third of the speed. On one core this costs nothing.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cgal_plugin.errors import StateError
from cgal_plugin.file_lock import hold

#: descriptors of the locks that this process holds
_held: list[int] = []


def take_core(folder: Path | None = None) -> int | None:
    """Pin this process to a core that no other worker uses, until the process ends.

    The workers of all runs of one user on a machine share one lock file per core. If there are more
    workers than cores, the workers without a core are not pinned.

    Parameters
    ----------
    folder
        Folder of the lock files; default: one in the system's folder for temporary files.

    Returns
    -------
    int or None
        The core; None if no core is free, there is only one, or the lock files cannot be used.
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
            return None  # another user could hold the locks
        for core in allowed:
            held = hold(folder / str(core))
            if held is not None:
                os.sched_setaffinity(0, {core})
                _held.append(held)
                return core
    except (OSError, StateError):
        return None
    return None
