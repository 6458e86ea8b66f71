"""Frames of walkers sorted by temperature, in memory and as DCD files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.data.dcd import append_dcd, create_dcd
from cgal_plugin.data.temperature import TEMPERATURE_RECORD
from cgal_plugin.provenance import atomic_path, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cgal_plugin.dynamics.exchange_file import FrameTable

#: folder of the files by temperature
TEMPERATURES = "temperatures"


def by_ladder(
    table: FrameTable, walkers: Sequence[NDArray[np.float32]], rung: int
) -> list[NDArray[np.float32]]:
    """Return the frames at a rung, ``(n, beads, 3)`` Å for each ladder, in time order.

    ``walkers`` are the frames of each walker, ``(n, beads, 3)`` Å.
    """
    found = []
    for ladder in range(len(walkers) // len(table.temperatures)):
        walker, frame = table.trajectory(rung, ladder)
        frames = np.empty((len(walker), *walkers[0].shape[1:]), dtype=np.float32)
        for w in np.unique(walker):
            frames[walker == w] = walkers[w][frame[walker == w]]
        found.append(frames)
    return found


def save_by_temperature(
    table: FrameTable,
    walkers: Sequence[NDArray[np.float32]],
    root: Path,
    rungs: Sequence[int],
    timing: tuple[int, float],
) -> list[tuple[Path, ...]]:
    """Write ``temperatures/T/ladder_*.dcd`` below ``root`` for each rung; return the files of each.

    ``timing`` is the number of steps between frames and the time step in ps. A file next to them records the
    temperature.
    """
    interval, timestep_ps = timing
    written = []
    for rung in rungs:
        temperature = table.temperatures[rung]
        folder = root / TEMPERATURES / f"{temperature:.10g}K"
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for ladder, frames in enumerate(by_ladder(table, walkers, rung)):
            path = folder / f"ladder_{ladder:03d}.dcd"

            def write(name: str, frames: NDArray[np.float32] = frames) -> None:
                create_dcd(name, frames.shape[1], interval=interval, timestep_ps=timestep_ps)
                append_dcd(name, frames, n_before=0, interval=interval, timestep_ps=timestep_ps)

            atomic_path(path, write)
            files.append(path)
        write_json(folder / TEMPERATURE_RECORD, {"temperature": temperature})
        written.append(tuple(files))
    return written
