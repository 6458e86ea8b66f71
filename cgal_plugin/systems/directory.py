"""The files of a run with several systems."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgal_plugin.config.systems import SystemsConfig
from cgal_plugin.errors import DamageError, StateError
from cgal_plugin.provenance import read_sealed, versions, write_sealed
from cgal_plugin.runs.directory import SYSTEMS, RunDirectory


def system_folder(root: Path, name: str) -> Path:
    """Return the folder of a system, which has the files of a run of one system."""
    return root / "systems" / name


def is_systems_run(root: Path) -> bool:
    """Return whether a folder holds a run with several systems."""
    return (root / SYSTEMS).is_file()


def read_systems(root: Path) -> dict[str, Any]:
    """Return the record of a run: ``name``, ``seed``, ``share``, ``systems`` (name, role, weight of each).

    Raises
    ------
    StateError
        The folder has none.
    DamageError
        It is damaged.
    """
    path = root / SYSTEMS
    if not path.is_file():
        raise StateError(f"{root} is not a run with several systems: it has no {SYSTEMS}")
    try:
        return read_sealed(path)
    except (OSError, ValueError) as error:
        raise DamageError(
            f"{path} is damaged ({error}); run `cgal run` again, which writes it again"
        ) from error


def known_platforms(root: Path) -> dict[str, str]:
    """Return the device that the run has trained on so far; empty for a new run."""
    if not is_systems_run(root):
        return {}
    record = _readable(root) or {}
    return dict(record.get("platforms", {}))


def check_systems(config: SystemsConfig, root: Path, *, accept_changes: bool = False) -> None:
    """Compare the systems of a run with the recorded ones.

    Raises
    ------
    StateError
        The run was started with other systems, and ``accept_changes`` is false; or the folder holds a run of
        one system.
    """
    if (root / "config.yaml").exists():
        raise StateError(f"{root} holds a run of one system: use another folder (--out)")
    before = _readable(root) if is_systems_run(root) else None
    changes = [] if before is None else _changes(before, _facts(config))
    if changes and not accept_changes:
        raise StateError(
            f"{root} was started with another configuration:\n  " + "\n  ".join(changes) + "\nUse another "
            "folder (--out), or --accept-changes to continue with the new values: labels are kept, and "
            "trainings on other data are repeated"
        )


def record_systems(
    config: SystemsConfig, root: Path, platforms: Mapping[str, str], *, accept_changes: bool = False
) -> None:
    """Record the systems of a run and the device of training.

    With ``accept_changes``, trainings that were begun with another configuration start again.
    """
    before = _readable(root) if is_systems_run(root) else None
    if accept_changes and (before is None or before.get("config_hash") != config.hash):
        RunDirectory(root).restart_unfinished()
    facts = {"config_hash": config.hash, "versions": versions(), "platforms": dict(platforms)}
    write_sealed(root / SYSTEMS, {**_facts(config), **facts})


def _facts(config: SystemsConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        "seed": config.seed,
        "share": config.share,
        "n_select": config.n_select,
        "systems": [
            {"name": s.name, "role": s.role, "weight": s.weight, "most": s.most} for s in config.systems
        ],
    }


def _readable(root: Path) -> dict[str, Any] | None:
    try:
        return read_systems(root)
    except DamageError:
        return None  # it is written again


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    found = [
        f"{key}: {before.get(key)!r} -> {now[key]!r}"
        for key in ("seed", "share", "n_select")
        if before.get(key) != now[key]
    ]
    old, new = ({s["name"]: s for s in each["systems"]} for each in (before, now))
    found += [f"system {name!r} is new" for name in new if name not in old]
    found += [f"system {name!r} is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        for key in ("role", "weight", "most"):
            if old[name].get(key) != new[name][key]:
                found.append(f"system {name!r}: {key}: {old[name].get(key)!r} -> {new[name][key]!r}")
    return found
