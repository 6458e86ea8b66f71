"""Training, validation and test sets without correlated frames between them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgal_plugin.errors import DataError
from cgal_plugin.provenance import atomic_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cgal_plugin.data.dataset import CGDataset


def block_splits(
    dataset: CGDataset,
    path: str | os.PathLike[str],
    *,
    val_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> Path:
    """Split by correlated blocks and write the ``.npz`` file for TorchMD-Net's key ``splits``.

    Neighbouring frames of a trajectory are nearly identical, so that a random split would test on
    training data. Here each block is in one set; a block longer than half of the smallest set is
    first cut into consecutive pieces. Copies made by ``repeat`` are in the set of their frame;
    validation and test sets contain each frame once.

    Parameters
    ----------
    dataset
        The data set to split.
    path
        File to write.
    val_fraction, test_fraction
        Fractions of the frames; each at least 0, their sum below 1.
    seed
        Seed of the random assignment.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    DataError
        A fraction is out of range, or there are too few frames for one of the sets.
    """
    shares = {"val": val_fraction, "test": test_fraction}
    if not all(0 <= s < 1 for s in shares.values()) or sum(shares.values()) >= 1:
        raise DataError(f"splits of {val_fraction} and {test_fraction}: each must be >= 0 and their sum < 1")
    n = dataset.n_frames
    pieces = _pieces(
        dataset.table.block, max(1, int(n * min((s for s in shares.values() if s), default=1) / 2))
    )
    order = np.random.default_rng(seed).permutation(len(pieces))
    side = np.zeros(n, dtype=np.int64)
    position = 0
    for number, share in enumerate(shares.values(), start=1):
        filled = 0
        while filled < share * n and position < len(order):
            chosen = pieces[order[position]]
            # skip a piece that would exceed the wanted size by more than is missing now
            if filled and filled + len(chosen) - share * n > share * n - filled:
                break
            side[chosen] = number
            filled += len(chosen)
            position += 1
    counts = np.bincount(side, minlength=3)
    if counts[0] == 0 or any(s > 0 and counts[k] == 0 for k, s in enumerate(shares.values(), start=1)):
        raise DataError(
            f"{n} frames in {len(pieces)} blocks are too few for validation {val_fraction} "
            f"and test {test_fraction}"
        )
    of_item = side[dataset.items]
    first = np.arange(len(dataset.items)) < n
    with atomic_write(path) as handle:
        np.savez(
            handle,
            idx_train=np.flatnonzero(of_item == 0),
            idx_val=np.flatnonzero((of_item == 1) & first),
            idx_test=np.flatnonzero((of_item == 2) & first),
        )
    return Path(path)


def _pieces(block: NDArray[np.int64], longest: int) -> list[NDArray[np.int64]]:
    """Return the frames of each block; blocks longer than ``longest`` are cut into consecutive pieces."""
    order = np.argsort(block, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(block[order])) + 1)
    return [piece for group in groups for piece in np.array_split(group, -(-len(group) // longest))]
