"""The temperature that files record: a potential of mean force belongs to one temperature."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cgal_plugin.errors import CGALError, ConfigError, DataError
from cgal_plugin.provenance import BAD_ARCHIVE, read_json

#: file beside frames of one temperature
TEMPERATURE_RECORD = "temperature.json"
#: files that describe the data beside them, and where the temperature (K) is in them
_RECORDS: Mapping[str, tuple[str, ...]] = {
    "simulation.json": ("inputs", "temperature"),
    "store.json": ("temperature",),
    "reference.json": ("temperature",),
    TEMPERATURE_RECORD: ("temperature",),
}
_TOLERANCE = 1e-6


def recorded_temperature(path: str | os.PathLike[str]) -> float | None:
    """Return the temperature (K) at which the frames of a file or folder were made; None if not recorded.

    It is recorded in simulation folders, data stores, reference folders, and selections of frames.

    Raises
    ------
    DataError
        The frames are of walkers of parallel tempering, at several temperatures.
    """
    path = Path(path)
    if path.suffix == ".npz" and path.is_file():
        found = _in_archive(path)
        if found is not None:
            return found
    folders = [path] if path.is_dir() else [path.parent]
    if path.parent.name == "shards":
        folders.append(path.parent.parent)
    for folder in folders:
        for name, keys in _RECORDS.items():
            found = _in_json(folder / name, keys)
            if name == "simulation.json" and _in_json(folder / name, ("inputs", "exchange_interval")):
                raise DataError(
                    f"{os.fspath(path)} has walkers of parallel tempering, whose frames are at several "
                    f"temperatures: use the files of one temperature in {folder / 'temperatures'}, which "
                    "`cgal simulate` writes (in Python: SimulationResult.save_temperatures)"
                )
            if found is not None:
                return found
    return None


def common_temperature(
    paths: Sequence[str | os.PathLike[str]], given: float | None = None, *, what: str = "--temperature"
) -> float | None:
    """Return the temperature (K) of several files; None if none records it and it is not given.

    Parameters
    ----------
    paths
        Files and folders; those without a recorded temperature are accepted.
    given
        Temperature that the user gave, K.
    what
        Name of ``given`` in messages.

    Raises
    ------
    DataError
        Two of the temperatures differ.
    ConfigError
        The one given is not positive and finite.
    """
    if given is not None and not (math.isfinite(given) and given > 0):
        raise ConfigError(f"{what} is {given} K; it must be positive and finite")
    known, where = given, what
    for path in paths:
        found = recorded_temperature(path)
        known = same_temperature(known, found, where, os.fspath(path))
        if found is not None and where == what and given is None:
            where = os.fspath(path)
    return known


def same_temperature(
    known: float | None,
    given: float | None,
    where: str,
    given_where: str = "temperature",
    error: type[CGALError] = DataError,
) -> float | None:
    """Return the temperature (K) that is known, or else the one given; None if neither is.

    Raises
    ------
    CGALError
        Both are known and differ; ``error`` is the class.
    """
    if known is not None and given is not None and abs(known - given) > _TOLERANCE:
        raise error(
            f"{given_where} is for {given:g} K, {where} is for {known:g} K: a potential of mean force "
            "belongs to one temperature, and temperatures are not mixed"
        )
    return given if known is None else known


def _in_json(path: Path, keys: Sequence[str]) -> float | None:
    if not path.is_file():
        return None
    try:
        value: Any = read_json(path)
    except (OSError, ValueError):  # readers of this file report the damage
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _in_archive(path: Path) -> float | None:
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            if "positions" not in arrays.files or "temperature" not in arrays.files:
                return None
            return float(arrays["temperature"])
    except BAD_ARCHIVE:
        return None
