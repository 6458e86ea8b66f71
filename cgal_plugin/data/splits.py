"""Training, validation and test sets without correlated frames between them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgal_plugin.data.split_files import read_splits, size_number, split_counts, write_splits
from cgal_plugin.errors import DataError

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
    first cut into consecutive pieces. Each molecule is split in the same proportions. Copies made by
    ``repeat`` are in the set of their frame; validation and test sets contain each frame once.

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
    write_splits(path, fraction_sides(dataset, val_fraction, test_fraction, seed))
    return Path(path)


def sized_sides(dataset: CGDataset, sizes: Mapping[str, Any], seed: int) -> dict[str, NDArray[np.int64]]:
    """Split by correlated blocks into sets of the sizes that TorchMD-Net's keys give.

    Fractions of ``val_size`` and ``test_size`` alone are approximated by whole blocks, as in
    :func:`block_splits`. With a ``train_size``, or a number of frames, all sizes are exact: the last block
    of a set is cut, and frames in no set are not used. Each set has frames of all molecules, in proportion.

    Parameters
    ----------
    dataset
        The data set to split.
    sizes
        ``train_size``, ``val_size`` and ``test_size``; see
        :func:`~cgal_plugin.data.split_files.split_counts`.
    seed
        Seed of the random assignment.

    Returns
    -------
    dict
        Indices ``idx_train``, ``idx_val``, ``idx_test`` of items, int64.

    Raises
    ------
    ConfigError
        A size is not allowed, or the sizes need more frames than there are.
    DataError
        There are too few frames for one of the sets.
    """
    given = {key: size_number(key, size) for key, size in sizes.items()}
    counts = split_counts(dataset.n_frames, given)
    val, test = given["val_size"], given["test_size"]
    if given["train_size"] is None and all(isinstance(s, float) or s == 0 for s in (val, test)):
        return fraction_sides(dataset, float(val or 0), float(test or 0), seed)
    side = np.full(dataset.n_frames, -1, dtype=np.int64)
    wanted = [counts[f"{name}_size"] for name in ("val", "test", "train")]
    molecules = _molecules(dataset)
    free = np.array([len(own) for own in molecules])
    shares = []
    for count in wanted:
        shares.append(_share(count, free))
        free = free - shares[-1]
    rng, block = np.random.default_rng(seed), dataset.block
    for own, mine in zip(molecules, np.transpose(shares).tolist(), strict=True):
        longest = max(1, min((count for count in mine if count), default=2) // 2)
        pieces = _pieces(block[own], longest)
        order = iter(rng.permutation(len(pieces)))
        left = np.zeros(0, dtype=np.int64)
        for number, count in zip((1, 2, 0), mine, strict=True):
            while count:
                if not len(left):
                    left = own[pieces[next(order)]]
                side[left[:count]] = number
                left, count = left[count:], count - min(count, len(left))
    return _items_of(dataset, side)


def _molecules(dataset: CGDataset) -> list[NDArray[np.int64]]:
    """Return the frames of each molecule."""
    order = np.argsort(dataset.molecule, kind="stable")
    counts = np.bincount(dataset.molecule, minlength=len(dataset.topologies))
    return np.split(order, np.cumsum(counts)[:-1])


def _share(count: int, free: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distribute a number of frames over molecules in proportion to their free frames."""
    exact = count * free / max(1, free.sum())
    share: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    share[np.argsort(share - exact, kind="stable")[: count - share.sum()]] += 1
    return share


def fraction_sides(
    dataset: CGDataset, val_fraction: float, test_fraction: float, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Return the sets of :func:`block_splits`; parameters and errors are the same."""
    shares = {"val": val_fraction, "test": test_fraction}
    if not all(0 <= s < 1 for s in shares.values()) or sum(shares.values()) >= 1:
        raise DataError(f"splits of {val_fraction} and {test_fraction}: each must be >= 0 and their sum < 1")
    side = np.zeros(dataset.n_frames, dtype=np.int64)
    rng = np.random.default_rng(seed)
    block, molecules = dataset.block, _molecules(dataset)
    for topology, own in zip(dataset.topologies, molecules, strict=True):
        n = len(own)
        pieces = _pieces(block[own], max(1, int(n * min((s for s in shares.values() if s), default=1) / 2)))
        order = rng.permutation(len(pieces))
        position = 0
        for number, share in enumerate(shares.values(), start=1):
            filled = 0
            while filled < share * n and position < len(order):
                chosen = pieces[order[position]]
                # skip a piece that would exceed the wanted size by more than is missing now
                if filled and filled + len(chosen) - share * n > share * n - filled:
                    break
                side[own[chosen]] = number
                filled += len(chosen)
                position += 1
        counts = np.bincount(side[own], minlength=3)
        if counts[0] == 0 or any(s > 0 and counts[k] == 0 for k, s in enumerate(shares.values(), start=1)):
            of = f" of {topology.sequence}" if len(molecules) > 1 else ""
            raise DataError(
                f"{n} frames{of} in {len(pieces)} blocks are too few for validation {val_fraction} "
                f"and test {test_fraction}"
            )
    return _items_of(dataset, side)


def _items_of(dataset: CGDataset, side: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the items of each set from the set of each frame (0, 1, 2: training, validation, test)."""
    of_item = side[dataset.items]
    first = np.arange(len(dataset.items)) < dataset.n_frames
    return {
        "idx_train": np.flatnonzero(of_item == 0),
        "idx_val": np.flatnonzero((of_item == 1) & first),
        "idx_test": np.flatnonzero((of_item == 2) & first),
    }


def _pieces(block: NDArray[np.int64], longest: int) -> list[NDArray[np.int64]]:
    """Return the frames of each block; blocks longer than ``longest`` are cut into consecutive pieces."""
    order = np.argsort(block, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(block[order])) + 1)
    return [piece for group in groups for piece in np.array_split(group, -(-len(group) // longest))]


def given_sides(dataset: CGDataset, splits: Any) -> dict[str, NDArray[np.int64]]:
    """Return the sets of a split file or mapping, as items of a data set.

    If all indices of ``idx_train`` are those of frames, the copies that ``repeat`` makes of these frames are
    added; otherwise the indices are used as they are.

    Raises
    ------
    ConfigError
        See :func:`~cgal_plugin.data.split_files.read_splits`; or a frame of the training set is in
        another set as well.
    """
    n, items = dataset.n_frames, dataset.items
    sides = read_splits(splits, len(items), n)
    if len(items) > n and sides["idx_train"].max() < n:
        copies = n + np.flatnonzero(np.isin(items[n:], sides["idx_train"]))
        sides["idx_train"] = np.concatenate([sides["idx_train"], copies])
    read_splits({key: items[index] for key, index in sides.items()}, n)
    return sides
