"""The seed data of a configuration in a data store, outside a run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgal_plugin.components.build import build_components
from cgal_plugin.components.resources import ORACLE
from cgal_plugin.components.seed_data import filled_store
from cgal_plugin.config import Config
from cgal_plugin.config.paths import found_in, relative_to
from cgal_plugin.data import DataStore
from cgal_plugin.errors import CGALWarning, DamageError, StateError
from cgal_plugin.provenance import read_sealed, write_sealed
from cgal_plugin.runs.store_lock import locked_store

_SECTIONS = ("seed", "system", "seed_data", "oracle")


def seed_store(config: Config, out_dir: str | os.PathLike[str]) -> DataStore:
    """Create a data store with the seed data of a configuration, outside a run. A second call resumes.

    Raises
    ------
    CGALError
        The molecule or the settings are wrong, the dynamics failed, or another process writes to the folder.
    """
    out = Path(out_dir)
    folder = out / "seed"
    path = folder / "settings.json"
    # before the folder is written to: what is refused leaves no trace
    components = build_components(config, platforms=_platforms(_settings(path)))
    with locked_store(out):
        folder.mkdir(exist_ok=True)
        _check_settings(config, components.resources.platforms, _settings(path), path)
        components.seed_source.prepare(folder)
        return filled_store(config, out, components.seed_source, on_damage=_warn)


def _warn(kind: str, /, *, what: str, remedy: str) -> None:
    warnings.warn(f"{what}; {remedy}", CGALWarning, stacklevel=2)


def _settings(path: Path) -> dict[str, Any] | None:
    """Return the recorded settings of the seed data; None if there are none yet.

    Raises
    ------
    DamageError
        The file is damaged.
    """
    if not path.exists():
        return None
    try:
        found = read_sealed(path)
        for key in _SECTIONS:
            if key != "seed" and not isinstance(found[key], dict):
                raise TypeError(f"{key} is not a section")
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(
            f"{path} is damaged ({error}). If the seed data in {path.parent.parent} were made with exactly "
            f"this configuration, delete {path} and repeat the command; otherwise use another folder"
        ) from error


def _platforms(before: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the platform of the trajectories so far; an earlier version recorded it as a setting."""
    if before is None:
        return {}
    found = before.get("platform") or before.get("oracle", {}).get("platform", "auto")
    return {} if found == "auto" else {ORACLE: found}


def _check_settings(
    config: Config, platforms: Mapping[str, str], before: Mapping[str, Any] | None, path: Path
) -> None:
    """Record the settings of the seed data, or compare them with the recorded ones.

    Raises
    ------
    StateError
        The folder was made with other settings.
    """
    # relative to the folder, because it may be moved together with the files that the settings name
    start = path.parent.parent
    now = {key: relative_to(config.resolved(), start)[key] for key in _SECTIONS}
    if before is None:
        write_sealed(path, {**now, "platform": platforms.get(ORACLE)})
        return
    before = relative_to(found_in(before, start, []), start)
    changed = [key for key, value in now.items() if _bare(before.get(key)) != _bare(value)]
    if _platforms(before).get(ORACLE, platforms.get(ORACLE)) != platforms.get(ORACLE):
        changed.append(ORACLE)
    if changed:
        raise StateError(
            f"{path.parent.parent} holds seed data with other settings of {', '.join(changed)} (see {path}). "
            "Use the same settings, or another folder"
        )


def _bare(section: Any) -> Any:
    """Return a section without its platform, which may be ``auto``."""
    return {k: v for k, v in section.items() if k != "platform"} if isinstance(section, dict) else section
