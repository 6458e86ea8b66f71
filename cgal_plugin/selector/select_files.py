"""Selection of frames from files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data import FrameFiles
from cgal_plugin.data.temperature import common_temperature
from cgal_plugin.data.trajectories import read_trajectories, tell
from cgal_plugin.errors import DataError
from cgal_plugin.provenance import atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.mapping import CGTopology
    from cgal_plugin.selector.strategies import BaseSelector, Selection


def select_files(
    selector: BaseSelector,
    candidates: Sequence[str | os.PathLike[str]],
    reference: Sequence[str | os.PathLike[str]],
    topology: CGTopology,
    out: str | os.PathLike[str],
    *,
    top: str | os.PathLike[str] | None = None,
    unit: str = "angstrom",
) -> Selection:
    """Select frames of ``candidates`` and write them to ``out``.

    Candidates with an impossible bond (a molecule broken across the periodic box) are left out; a warning
    names them.

    Parameters
    ----------
    candidates
        Files and stores; see :func:`~cgal_plugin.data.trajectories.read_trajectories`.
    reference
        Files, stores and folders; see :class:`~cgal_plugin.data.FrameFiles`. They are read shard by shard
        and may be larger than memory.
    out
        npz with ``positions`` ``(k, n_beads, 3)`` Å, ``candidate`` ``(k,)`` (index into all frames of the
        candidates, those that are left out included) and ``distances`` ``(k,)`` Å (nearest RMSD to the
        reference); ``temperature`` (K) if the files record it.
    unit
        Length unit of ``.npy`` and ``.npz`` files, ``"angstrom"`` or ``"nm"``.

    Returns
    -------
    Selection
        With the same indices as ``candidate``.

    Raises
    ------
    DataError
        A file cannot be read, files are for different temperatures, more than half of its candidates have
        impossible bonds, or a reference frame has.
    SelectionError
        No candidate can be selected.
    """
    parts = [
        trajectory
        for path in candidates
        for trajectory in read_trajectories(path, topology, top=top, unit=unit, broken="omit")
    ]
    if not parts:
        raise DataError("no frames given")
    temperature = common_temperature([*candidates, *reference])
    facts: dict[str, Any] = {} if temperature is None else {"temperature": np.array(temperature)}
    tell(note for part in parts for note in part.notes)
    pool = np.concatenate([part.positions for part in parts])
    first = np.cumsum([0, *(part.n_frames for part in parts)])
    rows = np.concatenate([lo + part.rows for lo, part in zip(first, parts, strict=False)])
    found = selector.fit(FrameFiles(reference, topology, top=top, unit=unit)).select(pool)
    positions, chosen = pool[found.indices], _renumbered(found, rows, int(first[-1]))
    with atomic_write(out) as handle:
        np.savez(handle, positions=positions, candidate=chosen.indices, distances=chosen.distances, **facts)
    return chosen


def _renumbered(found: Selection, rows: NDArray[np.int64], n: int) -> Selection:
    """Return a selection among ``rows`` as one among all ``n`` candidates."""

    def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.full(n, np.nan)
        out[rows] = values
        return out

    return replace(
        found,
        indices=rows[found.indices],
        all_distances=spread(found.all_distances),
        scores=None if found.scores is None else spread(found.scores),
    )
