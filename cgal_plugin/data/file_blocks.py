"""Correlated blocks of the frames of a trajectory file, from their times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: blocks of all files together, at least: validation sets are made of whole blocks
_FEWEST = 20
#: two intervals agree within this fraction; times of XTC and TRR files are in single precision
_TOLERANCE = 0.005


@dataclass(frozen=True, eq=False)
class FileBlocks:
    """How the frames of a file are divided.

    Attributes
    ----------
    block
        ``(n,)`` int64: number of the block of each frame.
    segment
        ``(n,)`` int64: number of the continuous piece of each frame; a gap in time begins a new one.
    interval_ps
        Time between the frames of a piece, ps; None if it is not known.
    notes
        What the user should know, one line each.
    """

    block: NDArray[np.int64]
    segment: NDArray[np.int64]
    interval_ps: float | None
    notes: tuple[str, ...] = ()


def file_blocks(
    times: NDArray[np.float64], rows: NDArray[np.int64], source: str, n_files: int, block_ps: float | None
) -> FileBlocks:
    """Divide the frames of one file of ``n_files`` in blocks.

    Parameters
    ----------
    times
        ``(n,)`` ps, NaN if the file has none.
    rows
        ``(n,)`` numbers of the frames in the file.
    source
        Name of the file, for notes.
    block_ps
        Length of a block, ps; None: as many blocks of equal length as give 20 in all files.
    """
    n = len(rows)
    known = bool(np.isfinite(times).all())
    axis = times if known else rows.astype(np.float64)
    steps = np.diff(axis)
    usual = float(np.median(steps)) if n > 1 else 0.0
    allowed = _TOLERANCE * abs(usual) + 2 * float(np.spacing(np.float32(np.abs(axis).max(initial=0.0))))
    gap = np.abs(steps - usual) > allowed if usual > 0 else np.ones(max(n - 1, 0), dtype=bool)
    segment = np.concatenate([[0], np.cumsum(gap)])[:n].astype(np.int64)
    notes = []
    if gap.any():
        what = f"{usual:g} ps" if known else f"{usual:g} frames"
        notes.append(
            f"{source}: the time between frames is not always {what}: {int(gap.sum()) + 1} continuous "
            "pieces, blocks end between them"
        )
    if not known and n > 1:
        notes.append(f"{source} has no times: its blocks have equal numbers of frames")
    if block_ps is not None and known and usual > 0:
        per_block = max(1, round(block_ps / usual))
        pieces = -(-n // per_block)
    else:
        pieces = min(n, -(-_FEWEST // n_files))
    even = np.arange(n) * pieces // max(n, 1)
    pairs = np.stack([segment, even], axis=1)
    block = np.concatenate([[0], np.cumsum((np.diff(pairs, axis=0) != 0).any(axis=1))])[:n].astype(np.int64)
    continuous = known and usual > 0 and float(gap.mean() if n > 1 else 1.0) < 0.5
    return FileBlocks(block, segment, round(usual, 6) if continuous else None, tuple(notes))
