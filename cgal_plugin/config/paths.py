"""Paths in a configuration: the keys that hold them, and how a run records them so that it can be moved."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: keys that hold a path, or a list of paths
PATH_KEYS = (
    ("system", "structure"),
    ("system", "force_field", "include"),
    ("seed_data", "store"),
    ("training", "priors", "file"),
    ("training", "init"),
    ("evaluation", "reference"),
    ("evaluation", "reference_topology"),
    ("test", "reference_forces"),
    ("executor", "config"),
)
#: keys that hold a path or the name of something built in
_NAMES_OR_PATHS = (("system", "mapping"), ("system", "embedding"), ("system", "force_field", "files"))
#: keys whose own keys are paths
_BY_PATH = ("system", "force_field", "sha256")


def relative_to(resolved: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return a resolved configuration (absolute paths) with paths relative to the folder ``root``.

    They start with ``./`` or ``../``, which names of built-in things do not.
    """
    start = root.resolve()

    def short(path: str) -> str:
        found = os.path.relpath(path, start)
        return found if found.startswith("..") else f"./{found}"

    return _mapped(resolved, short)


def paths_in(resolved: Mapping[str, Any]) -> list[str]:
    """Return all paths in a configuration of :func:`relative_to` or a resolved one, in a fixed order."""
    found: list[str] = []

    def keep(path: str) -> str:
        found.append(path)
        return path

    _mapped(resolved, keep)
    return found


def found_in(recorded: Mapping[str, Any], root: Path, before: list[str]) -> dict[str, Any]:
    """Return a configuration of :func:`relative_to` with absolute paths.

    A file is looked for relative to ``root``. If it is not there, the path is that of the time of recording:
    ``root`` may have been moved without the file.

    Parameters
    ----------
    before
        :func:`paths_in` of the resolved configuration when it was recorded; may be empty.
    """
    start = root.resolve()
    names = paths_in(recorded)
    known = dict(zip(names, before, strict=True)) if len(names) == len(before) else {}

    def find(path: str) -> str:
        here = os.path.normpath(start / path)
        return here if os.path.exists(here) else known.get(path, here)

    return _mapped(recorded, find)


def _mapped(content: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    made = copy.deepcopy(dict(content))
    for keys, names in ((PATH_KEYS, False), (_NAMES_OR_PATHS, True)):
        for *above, last in keys:
            section = _section(made, above)
            if section is not None and section.get(last) is not None:
                section[last] = _changed(section[last], change, names)
    section = _section(made, _BY_PATH)
    if section is not None:
        _section(made, _BY_PATH[:-1])[_BY_PATH[-1]] = {  # type: ignore[index]  # it exists, as sha256 does
            _changed(path, change, True): digest for path, digest in section.items()
        }
    return made


def _section(content: Any, keys: Sequence[str]) -> dict[str, Any] | None:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else None


def _changed(value: Any, change: Callable[[str], str], names: bool) -> Any:
    if isinstance(value, list | tuple):
        return [_changed(each, change, names) for each in value]
    if not isinstance(value, str) or (names and not value.startswith(("./", "../", os.sep))):
        return value
    return change(value)
