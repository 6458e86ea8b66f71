"""Convert disk errors to one message with a remedy."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cgal_plugin.errors import StateError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_SPACE = 1 << 20  # bytes


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn the errors of a full or write-protected disk into a message with a remedy.

    Raises
    ------
    StateError
        The disk of ``root`` is full or cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        # torch's archive writer raises RuntimeError for any cause
        full = number in _FULL or (number is None and shutil.disk_usage(root).free < _NO_SPACE)
        if not full and number not in _DENIED:
            raise
        raise StateError(
            f"{root}: {'the disk is full' if full else error}. Completed work was kept; free space, or give "
            "permission to write, and run the same command again to resume"
        ) from error
