"""The lock on a data store to which labels are added outside a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cgal_plugin.file_lock import locked, locked_folder
from cgal_plugin.runs.directory import LOCK


@contextmanager
def locked_store(root: Path) -> Iterator[None]:
    """Lock a data store for one process; the store of a run is locked together with the run.

    Raises
    ------
    StateError
        Another process writes to the store, or works on the run; or the folder cannot be written.
    """
    with ExitStack() as stack:
        run = root.resolve().parent
        if (run / "run.json").exists():
            stack.enter_context(locked(run / LOCK, f"run directory {run}"))
        stack.enter_context(locked_folder(root, "data store"))
        yield
