"""``config.yaml`` of a run: the resolved configuration with a checksum, and with paths that allow a move."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from cgal_plugin.config import Config, parse_config
from cgal_plugin.config.paths import found_in, paths_in, relative_to
from cgal_plugin.provenance import atomic_write

_CHECKSUM = "# SHA-256 of the lines below: "
_PATHS = "# Paths are relative to this folder, if there is such a file; they were: "


def write_config(path: Path, config: Config) -> None:
    """Write a configuration, with paths relative to the folder of ``path``, and the absolute ones beside."""
    resolved = config.resolved()
    text = yaml.safe_dump(relative_to(resolved, path.parent), sort_keys=False, allow_unicode=True)
    if absolute := paths_in(resolved):
        text = f"{_PATHS}{json.dumps(absolute)}\n{text}"
    with atomic_write(path, "w") as handle:
        handle.write(f"{_CHECKSUM}{_digest(text)}\n{text}")


def parse_recorded(content: dict[str, Any], path: Path) -> Config:
    """Return the configuration with the content of the file ``path``; its files need not exist.

    Raises
    ------
    ConfigError
        Keys or values are wrong.
    """
    found = found_in(content, path.parent, _former_paths(path))
    return parse_config(found, base=path.parent, source=str(path), look_up=False)


def _former_paths(path: Path) -> list[str]:
    for line in path.read_text(encoding="utf-8").splitlines()[:2]:
        if line.startswith(_PATHS):
            return list(json.loads(line.removeprefix(_PATHS)))
    return []


def is_intact(path: Path) -> bool | None:
    """Return whether the file matches its checksum; None if it has none."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    first, _, rest = text.partition("\n")
    return first.removeprefix(_CHECKSUM) == _digest(rest) if first.startswith(_CHECKSUM) else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
