"""Selection of frames from files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.data import FrameFiles
from cgal_plugin.data.trajectories import load_trajectories
from cgal_plugin.errors import DataError
from cgal_plugin.provenance import atomic_write

if TYPE_CHECKING:
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
) -> Selection:
    """Select frames of ``candidates`` and write them to ``out``.

    Parameters
    ----------
    candidates
        Files and stores; see :func:`~cgal_plugin.data.trajectories.load_trajectories`.
    reference
        Files, stores and folders; see :class:`~cgal_plugin.data.FrameFiles`. They are read shard by shard
        and may be larger than memory.
    out
        npz with ``positions`` ``(k, n_beads, 3)`` Å, ``candidate`` ``(k,)`` (index into the candidates)
        and ``distances`` ``(k,)`` Å (nearest RMSD to the reference).

    Raises
    ------
    DataError
        A file cannot be read.
    SelectionError
        No candidate can be selected.
    """
    parts = [t for path in candidates for t in load_trajectories(path, topology, top=top)]
    if not parts:
        raise DataError("no frames given")
    pool = np.concatenate(parts)
    chosen = selector.fit(FrameFiles(reference, topology, top=top)).select(pool)
    with atomic_write(out) as handle:
        np.savez(handle, positions=pool[chosen.indices], candidate=chosen.indices, distances=chosen.distances)
    return chosen
