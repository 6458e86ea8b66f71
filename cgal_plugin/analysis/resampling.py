"""Bootstrap resamples and split halves of correlated frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import AnalysisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: smallest number of trajectories for which each trajectory is one block
MIN_TRAJECTORIES = 5
#: approximate total number of time blocks for fewer trajectories
TIME_BLOCKS = 10


@dataclass(frozen=True, eq=False)
class Blocks:
    """Assignment of frames to correlated blocks, the units that are resampled.

    Attributes
    ----------
    label
        ``(n_frames,)`` block of each frame, ``0`` to ``n - 1``.
    n
        Number of blocks.
    kind
        ``"trajectory"`` or ``"time"``.
    trajectory
        ``(n_frames,)`` trajectory of each frame.
    active
        Blocks with nonzero weight.
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
    """Divide trajectories of the given lengths into blocks.

    Whole trajectories are independent and make the best blocks. Fewer than :data:`MIN_TRAJECTORIES` are too
    few to estimate a spread: they are cut into contiguous time blocks of about equal length,
    :data:`TIME_BLOCKS` in total. Intervals are then valid only if a block is longer than the correlation
    time. ``block_frames`` sets the length of time blocks instead. Blocks in which all ``weights``
    ``(sum(lengths),)`` are zero are not drawn.

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
    """Draw bootstrap resamples: how often each block is drawn, ``(n_resamples, n_blocks)``.

    ``k − 1`` of the ``k`` active blocks are drawn with replacement. This makes the bootstrap variance of
    linear statistics unbiased, which matters for few blocks (Rao & Wu, JASA 83, 231, 1988).
    """
    rng = np.random.default_rng(seed)
    k = len(blocks.active)
    counts = np.zeros((n_resamples, blocks.n), dtype=np.int64)
    counts[:, blocks.active] = rng.multinomial(k - 1, np.full(k, 1.0 / k), size=n_resamples)
    return counts


def split_halves(blocks: Blocks, n_splits: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yield masks ``(n_frames,)`` that select one half of the frames.

    Trajectories are not divided: with frames of one trajectory in both, the halves would be more similar
    than two independent reference sets. Only a single trajectory is cut, in the middle of its time. If
    there are at most ``n_splits`` distinct splits, all are returned; otherwise random ones.
    """
    n = int(blocks.trajectory.max()) + 1
    total = len(blocks.trajectory)
    if n == 1:
        if total > 1:
            yield np.arange(total) < total // 2
        return
    k = n // 2
    if n <= 12:
        splits = [c for c in combinations(range(n), k) if n % 2 or 0 in c]
        if len(splits) <= n_splits:
            for chosen in splits:
                yield np.isin(blocks.trajectory, chosen)
            return
    rng = np.random.default_rng(seed)
    for _ in range(n_splits):
        yield np.isin(blocks.trajectory, rng.choice(n, size=k, replace=False))
