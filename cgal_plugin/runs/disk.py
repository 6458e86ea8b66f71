"""Convert disk errors to one message with a remedy."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        place = _full_place(error, root)
        # torch's archive writer raises RuntimeError for any cause; without space, tempfile finds no folder
        full = number in _FULL or (place is not None and (number is None or _no_temporary(error)))
        if not full and number not in _DENIED:
            raise
        what = f"{place or root}: the disk is full" if full else f"{root}: {error}"
        another = "" if place in (None, root) else ", or set TMPDIR to a folder with space"
        raise StateError(
            f"{what}. Completed work was kept; free space{another}, or give permission to write, and run the "
            "same command again to resume"
        ) from error


def _full_place(error: BaseException, root: Path) -> Path | None:
    """Return the folder of the full disk: that of the file, the run, or the temporary folder."""
    named = getattr(error, "filename", None)
    if isinstance(named, str | bytes):
        place = Path(os.fsdecode(named)).parent
        return root if place.resolve().is_relative_to(root.resolve()) else place
    for place in (root, *_temporary_folders()):
        with suppress(OSError):
            if shutil.disk_usage(place).free < _NO_SPACE:
                return place
    return None


def _temporary_folders() -> list[Path]:
    # not tempfile.gettempdir(), which writes, and chooses another folder if the first one is full
    given = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    return [Path(name) for name in (*given, tempfile.tempdir or "/tmp")]


def _no_temporary(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error)
