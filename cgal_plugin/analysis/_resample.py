"""Blocks of correlated frames: bootstrap resamples and split halves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: with at least this many trajectories, whole trajectories are the blocks
MIN_TRAJECTORIES = 5
#: otherwise trajectories are cut into about this many blocks in all
TIME_BLOCKS = 10


@dataclass(frozen=True, eq=False)
class Blocks:
    """Which correlated block each frame belongs to.

    ``label`` ``(n_frames,)`` int in ``0..n-1``; ``kind`` is ``"trajectory"`` or ``"time"``;
    ``trajectory`` ``(n_frames,)`` the trajectory of each frame; ``active`` the blocks that have weight.
    """

    label: NDArray[np.int64]
    n: int
    kind: str
    trajectory: NDArray[np.int64]
    active: NDArray[np.int64]


def make_blocks(
    lengths: Sequence[int],
    block_frames: int | None = None,
    weights: NDArray[np.floating] | None = None,
) -> Blocks:
    """Blocks for trajectories of these lengths.

    Whole trajectories are the natural independent units. With fewer than
    :data:`MIN_TRAJECTORIES` of them a spread cannot be estimated, so each is cut into contiguous
    pieces of about equal length, :data:`TIME_BLOCKS` in all: intervals then hold only if a piece is
    longer than the correlation time. ``block_frames`` sets the length of the pieces instead. Blocks whose
    ``weights`` ``(sum(lengths),)`` are all zero are not drawn.

    Raises
    ------
    AnalysisError
        ``block_frames`` is not a positive integer.
    """
    lengths = [int(n) for n in lengths]
    if block_frames is not None and (int(block_frames) != block_frames or block_frames < 1):
        raise AnalysisError(f"block_frames is {block_frames!r}; it must be an integer of 1 or more")
    trajectory = np.repeat(np.arange(len(lengths)), lengths)
    if block_frames is None and len(lengths) >= MIN_TRAJECTORIES:
        return _blocks(trajectory, "trajectory", trajectory, weights)
    size = block_frames if block_frames is not None else max(1, round(sum(lengths) / TIME_BLOCKS))
    labels, offset = [], 0
    for length in lengths:
        pieces = max(1, round(length / size))
        labels.append(np.arange(length) * pieces // length + offset)
        offset += pieces
    return _blocks(np.concatenate(labels), "time", trajectory, weights)


def _blocks(
    label: NDArray[np.int64],
    kind: str,
    trajectory: NDArray[np.int64],
    weights: NDArray[np.floating] | None,
) -> Blocks:
    n = int(label.max()) + 1
    total = np.bincount(label, weights, minlength=n)
    return Blocks(label, n, kind, trajectory, np.flatnonzero(total > 0))


def resampled_counts(blocks: Blocks, n_resamples: int, seed: int) -> NDArray[np.int64]:
    """``(n_resamples, n_blocks)`` how often each block is drawn.

    ``k − 1`` of the ``k`` active blocks are drawn with replacement: for linear statistics this makes the
    bootstrap variance unbiased, which matters when blocks are few (Rao & Wu, JASA 83, 231, 1988).
    """
    rng = np.random.default_rng(seed)
    k = len(blocks.active)
    counts = np.zeros((n_resamples, blocks.n), dtype=np.int64)
    counts[:, blocks.active] = rng.multinomial(k - 1, np.full(k, 1.0 / k), size=n_resamples)
    return counts


def split_halves(blocks: Blocks, n_splits: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Masks ``(n_frames,)`` of one half of the frames, the other half being the rest.

    Whole trajectories go to one half or the other: frames of one trajectory in both would make the
    halves look more alike than two independent reference sets. A single trajectory is cut in the
    middle of its time. All splits are given if there are no more than ``n_splits``, else random ones.
    """
    n = int(blocks.trajectory.max()) + 1
    total = len(blocks.trajectory)
    if n == 1:
        if total > 1:
            yield np.arange(total) < total // 2
        return
    k = n // 2
    everything = list(combinations(range(n), k)) if n <= 12 else None
    if everything is not None:
        if n % 2 == 0:
            everything = [c for c in everything if 0 in c]
        if len(everything) <= n_splits:
            for chosen in everything:
                yield np.isin(blocks.trajectory, chosen)
            return
    rng = np.random.default_rng(seed)
    for _ in range(n_splits):
        yield np.isin(blocks.trajectory, rng.choice(n, size=k, replace=False))
