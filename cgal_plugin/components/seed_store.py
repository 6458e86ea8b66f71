"""The seed data of a configuration in a data store, outside a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgal_plugin.components.build import build_components
from cgal_plugin.components.resources import ORACLE
from cgal_plugin.components.seed_data import filled_store
from cgal_plugin.config import Config
from cgal_plugin.data import DataStore
from cgal_plugin.errors import StateError
from cgal_plugin.provenance import read_json, write_json


def seed_store(config: Config, out_dir: str | os.PathLike[str]) -> DataStore:
    """Create a data store with the seed data of a configuration, outside a run. A second call resumes.

    Raises
    ------
    CGALError
        The molecule or the settings are wrong, or the dynamics failed.
    """
    out = Path(out_dir)
    folder = out / "seed"
    path = folder / "settings.json"
    before = read_json(path) if path.exists() else None
    components = build_components(config, platforms=_platforms(before))
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(config, components.resources.platforms, before, path)
    components.seed_source.prepare(folder)
    return filled_store(config, out, components.seed_source)


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
    resolved = config.resolved()
    now = {key: resolved[key] for key in ("seed", "system", "seed_data", "oracle")}
    if before is None:
        write_json(path, {**now, "platform": platforms.get(ORACLE)})
        return
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
