"""State of a run with several systems, read from its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cgal_plugin.provenance import read_sealed
from cgal_plugin.runs.stage import MANIFEST
from cgal_plugin.runs.status import run_state, run_status
from cgal_plugin.systems.directory import read_systems, system_folder

#: what the status of a system takes from that of a run of one system; the rest is that of the whole run
_OWN = ("rounds", "queue", "throughput", "failures")


def systems_status(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the state of a run with several systems as JSON-ready values; nothing is written.

    Returns
    -------
    dict
        ``name``, ``run_dir``; ``state``, ``holder``, ``last_sign``, ``last_error``, ``stopped`` and
        ``current`` as in :func:`cgal_plugin.runs.status.run_status`; ``trainings`` (seconds of each complete
        shared training); ``systems``: name to ``role``, and to ``rounds``, ``queue``, ``throughput`` and
        ``failures`` as there, None if the system was not started.

    Raises
    ------
    StateError
        The folder holds no run with several systems.
    DamageError
        The record of the run, or the configuration of a system, is damaged.
    """
    root = Path(run_dir)
    record = read_systems(root)
    systems = {}
    for each in record["systems"]:
        folder = system_folder(root, each["name"])
        started = (folder / "config.yaml").is_file()
        own = run_status(folder) if started else {}
        systems[each["name"]] = {"role": each["role"], **{key: own.get(key) for key in _OWN}}
    return {
        "name": record["name"],
        "run_dir": str(root),
        **run_state(root),
        "trainings": _trainings(root),
        "systems": systems,
    }


def _trainings(root: Path) -> list[float]:
    seconds = []
    for path in sorted((root / "rounds").glob(f"round_*/train/{MANIFEST}")):
        try:
            seconds.append(float(read_sealed(path)["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            break  # damaged: it is repeated
    return seconds
