"""Times of trajectory frames: what files say, and what a configuration says."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.dcd import AKMA_PS
from cgal_plugin.errors import ConfigError, DataError
from cgal_plugin.provenance import read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: two intervals agree within this fraction; times of XTC and TRR files are in single precision
_TOLERANCE = 0.005
#: ps, where neither the files nor the user give the interval
ASSUMED_PS = 1.0
#: time step, steps per frame and first step that programs write into a DCD file without times
_NO_TIMES = ((1.0, 1), (0.0, 0), (0.0, 1), (1.0, 0))
_REMEDY = (
    "remove the key, or correct the file (mdtraj: trajectory.time = ..., save); an npz file has no times"
)


@dataclass(frozen=True)
class Interval:
    """Time between frames.

    Attributes
    ----------
    ps
        ps.
    source
        ``"files"``, ``"given"``, or ``"assumed"``.
    note
        One line for the user.
    """

    ps: float
    source: str
    note: str


def times_of(path: Path, time: Any) -> NDArray[np.float64] | None:
    """Return the times in ps of the frames of a file; None if the file has none.

    ``time`` is what mdtraj read. Frame numbers (0, 1, 2, ...) are no times: mdtraj gives them to formats
    without times, and writes them for trajectories without times. DCD files have a time step in their header.
    """
    times = np.asarray(time, dtype=np.float64).reshape(-1)
    if path.suffix.lower() == ".dcd":
        interval = dcd_interval(path)
        return None if interval is None else _even(interval, len(times))
    if len(times) < 2 or not np.isfinite(times).all() or (times == times[0]).all():
        return None
    if (times - times[0] == np.arange(len(times))).all() and times[0] in (0.0, 1.0):
        return None
    return times


def array_times(path: Path, n_frames: int) -> NDArray[np.float64] | None:
    """Return the times in ps of the frames of ``cgal reference``'s npz file, from the json file beside it."""
    record = path.with_suffix(".json")
    if not record.is_file():
        return None
    try:
        facts = read_json(record)
    except (OSError, ValueError):
        return None
    if not isinstance(facts, dict) or path.name not in (facts.get("sha256") or {}):
        return None
    interval = facts.get("interval_ps")
    if isinstance(interval, bool) or not isinstance(interval, int | float) or not interval > 0:
        return None
    return _even(float(interval), n_frames)


def dcd_interval(path: Path) -> float | None:
    """Return the time between the frames of a DCD file, ps; None if its header has no time step."""
    with path.open("rb") as handle:
        head = handle.read(48)
    order = next((o for o in "<>" if len(head) == 48 and struct.unpack(f"{o}i", head[:4])[0] == 84), None)
    if order is None or head[4:8] != b"CORD":
        return None
    steps = struct.unpack(f"{order}i", head[16:20])[0]
    step = struct.unpack(f"{order}f", head[44:48])[0]
    if (step, steps) in _NO_TIMES or steps <= 0 or not np.isfinite(step) or step <= 0:
        return None
    return float(steps * step * AKMA_PS)


def uniform_interval(times: NDArray[np.float64], source: str) -> float:
    """Return the time between frames, ps.

    Raises
    ------
    DataError
        The frames are not evenly spaced.
    """
    steps = np.diff(times)
    interval = float(np.median(steps))
    # rounding of single precision, and of the two decimals that some programs write
    allowed = abs(interval) * _TOLERANCE + 2 * np.spacing(np.float32(np.abs(times).max()))
    wrong = np.flatnonzero(np.abs(steps - interval) > allowed)
    if interval <= 0 or wrong.size:
        k = int(wrong[0]) if wrong.size else 0
        raise DataError(
            f"{source}: the frames are not evenly spaced in time: {times[k]:g} ps and {times[k + 1]:g} ps "
            f"for frames {k} and {k + 1}, but usually {interval:g} ps apart; give each evenly spaced part as "
            "a file"
        )
    return interval


def resolve_interval(
    files: Sequence[tuple[str, NDArray[np.float64] | None]], given: float | None, key: str
) -> Interval:
    """Return the time between frames, from files and from the user.

    Parameters
    ----------
    files
        Name and times (ps) of each trajectory.
    given
        ps, or None.
    key
        Name of the user's key or option.

    Raises
    ------
    DataError
        The files contradict each other or ``given``, or have uneven times.
    ConfigError
        ``given`` is not positive and finite.
    """
    if given is not None:
        _check_time(given, key)
    found = {
        name: uniform_interval(times, name) for name, times in files if times is not None and len(times) > 1
    }
    if given is not None:
        for name, interval in found.items():
            if not _agree(interval, given):
                raise DataError(
                    f"{name} has a frame every {interval:g} ps, but {key} is {given:g} ps; {_REMEDY}"
                )
        return Interval(given, "given", f"{key}: {given:g} ps")
    if not found:
        return Interval(
            ASSUMED_PS,
            "assumed",
            f"the reference files have no times: {ASSUMED_PS:g} ps between frames is assumed; give {key}",
        )
    first, interval = next(iter(found.items()))
    for name, other in found.items():
        if not _agree(other, interval):
            raise DataError(
                f"{first} has a frame every {interval:g} ps, but {name} every {other:g} ps; "
                "references must have one interval: leave out frames, or use one of the files"
            )
    without = [name for name, times in files if name not in found]
    note = f"{interval:g} ps between frames, from the times in {first}" + (
        f" and {len(found) - 1} more" if len(found) > 1 else ""
    )
    if without:
        note += f"; the same is assumed for {', '.join(without)}"
    return Interval(interval, "files", note)


def lag_in_frames(lag_ps: float, interval: Interval, key: str) -> tuple[int, tuple[str, ...]]:
    """Return a lag in frames, at least 1; and a note if the lag is shorter than the time between frames.

    ``key`` is the name of the user's key or option.

    Raises
    ------
    ConfigError
        The lag is not positive and finite.
    """
    _check_time(lag_ps, key)
    notes: tuple[str, ...] = ()
    if lag_ps < interval.ps and not _agree(lag_ps, interval.ps):
        notes = (
            f"{key} is {lag_ps:g} ps, shorter than the {interval.ps:g} ps between frames of the reference: "
            f"the lag is one frame, {interval.ps:g} ps",
        )
    return max(1, round(lag_ps / interval.ps)), notes


def _check_time(value: float, key: str) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ConfigError(f"{key} is {value} ps; it must be positive and finite")


def _even(interval: float, n: int) -> NDArray[np.float64]:
    return np.asarray(interval * np.arange(1, n + 1), dtype=np.float64)


def _agree(a: float, b: float) -> bool:
    return abs(a - b) <= _TOLERANCE * max(a, b)
