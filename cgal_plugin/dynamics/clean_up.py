"""Delete what a refused simulation has created."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cgal_plugin.file_lock import LOCK, locked


@contextmanager
def undone_on_failure(root: Path, what: str, created: Callable[[], list[Path]]) -> Iterator[None]:
    """Create and lock a folder; if the block raises an error, delete the files of ``created()``.

    Folders that were created for ``root`` are deleted as well if nothing is left in them, so that a corrected
    call finds nothing of the refused one.

    Raises
    ------
    StateError
        Another process has the lock.
    """
    folders = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / LOCK, what):
        try:
            yield
        except Exception:
            for path in created():
                path.unlink(missing_ok=True)
            if folders and all(path.name == LOCK for path in root.iterdir()):
                (root / LOCK).unlink(missing_ok=True)
                for folder in folders:
                    folder.rmdir()
            raise
